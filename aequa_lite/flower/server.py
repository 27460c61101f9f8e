"""The server's side: the one loop of this package, whose local part is done by the participants, wherever they are."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp
from safetensors import SafetensorError

from .._io import atomic_write
from ..aggregation.server_optimizers import networks_own
from ..allocation.exact import allocate
from ..checkpoint import load_checkpoint
from ..config import Config
from ..data.load import load
from ..evaluation import accuracy, model_at, reward_curve
from ..federate import Policy, aggregation_weights, federate, full_width, slimmable
from ..registry import aggregation, network, server_optimizer, width_sampler
from ..report import Report, report
from ..rewards.files import save_rewards
from ..slimmable import Build, State, slim
from ..types import Dataset, Round, Samples, Shard
from .participants import ParticipantRegistry, roster
from .remote import RemoteTraining
from .settings import WELL, Settings, policy, read_config
from .state import RunState, writable
from .wire import sealed

__all__ = ["app", "run_over"]


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the configuration says; how it ended stands in ``outcome.json``, where that can still be written."""
    settings, config = read_config(context.run_config)
    try:
        run_over(grid, settings, config)
    except Exception as error:
        _say(f"{type(error).__name__}: {error}", settings)
        raise
    _say(WELL, settings)


def _say(outcome: str, settings: Settings) -> None:
    """Leave word of how the run ended; a server that is killed leaves none."""
    print(outcome, flush=True)
    with atomic_write(Path(settings.folder) / "outcome.json") as half:
        half.write_text(json.dumps({"outcome": outcome}) + "\n")


def run_over(grid: Grid, settings: Settings, config: Config) -> Report:
    """Train together with whoever is at the other end of the grid, hand out the rewards, and return the report.

    Goes on from the folder's last checkpoint where there is one. Everything is done by the functions of the in-process
    loop: who receives which width, the merge, the contribution, the curve and the allocation here, where the validation
    samples are; local training and the networks trained alone at the participants, where their samples are.

    Raises:
        OSError: the folder cannot be written to.
        TooFewError: a participant has never introduced itself, or a round has fewer answers than the quorum.
        ValueError: the folder belongs to another recipe, or the settings name what does not exist.
    """
    started = time.monotonic()
    folder = writable(settings.folder)
    build, data = network(settings.network), load(settings.data, device=settings.device)
    ledger = RunState(folder, config)
    keys = roster(settings.keys, config.participants) if settings.keys else None
    post = ParticipantRegistry(grid, ledger, build, data.classes, keys)
    post.gather(settings.patience)
    alone = [slim(build, ledger.alone(i, build), 1.0).to(settings.device) for i in range(config.participants)]
    contribution = accuracy(alone, data.validation)
    theta, widths = _trained(post, settings, config, build, data, contribution)
    curve = reward_curve(build, theta, data.validation, config)
    if widths is None:
        plan, fraction_grid = allocate(contribution, curve), curve.fraction_grid
        widths = plan.widths.tolist()
        models = [model_at(build, theta, curve, w) for w in widths]
    else:  # earned during training: whole widths
        plan, fraction_grid, models = None, None, [slim(build, theta, w) for w in widths]
    seconds, sent = time.monotonic() - started, sum(row.get("numbers", 0) for row in ledger.rounds)
    late = [i for row in ledger.rounds for i in row.get("left_out", [])]
    found = report(models, alone, plan, curve, data, config, contribution=contribution, method=f"flower, {settings.policy}",
                   seconds=seconds, parameters_sent=sent, left_out=late)  # fmt: skip
    found = replace(found, widths=tuple(round(w, 6) for w in widths))
    found.save(folder)
    _hand_out(
        post,
        save_rewards(folder / "rewards", build, models, widths, config, fraction_grid=fraction_grid),
        settings.deadline,
    )
    return found


def _trained(
    post: ParticipantRegistry,
    settings: Settings,
    config: Config,
    build: Build,
    data: Dataset,
    contribution: Sequence[float],
) -> tuple[State, Sequence[float] | None]:
    """The shared network after the last round; and what everybody earned, where that was settled during training."""
    ledger, path = post.ledger, Path(settings.folder) / "theta.safetensors"
    found = load_checkpoint(path, config)
    state: State = found[0] if found else {}
    policy = policy(settings.policy, build, data.validation)
    shards = _absent(ledger, data, settings.device)
    step, aggregate = server_optimizer(settings.server), aggregation(settings.aggregate)
    strategy = slimmable(
        build,
        width_sampler(settings.width_sampler),
        server=step,
        aggregate=aggregate,
        logit_adjustment=settings.logit_adjustment,
    )
    strategy = replace(strategy, together=RemoteTraining(post, settings, build))
    rounds = federate(
        build, shards, config, policy=policy, strategy=strategy, vectorized=True,
        weights=aggregation_weights(shards, config, contribution), checkpoint=path, progress=False,
    )  # fmt: skip
    last = None
    for last in _saved(rounds, path):
        state = last.theta
        row = ledger.rounds[-1]
        silent = [u for u in last.updates if "up" not in row["participants"][str(u.participant)]]
        numbers = last.parameters_sent - sum(t.numel() for u in silent for t in u.state.values())
        row |= {"loss": last.loss, "numbers": numbers, "left_out": list(last.left_out)}
        ledger.save()
        print(f"round {last.index}: loss {last.loss:.4f}, left out {list(last.left_out)}", flush=True)
    if policy is full_width:
        return networks_own(state), None
    return networks_own(state), _earned(policy, ledger, config, last)


def _saved(rounds: Iterator[Round], path: Path) -> Iterator[Round]:
    """The rounds; a file that cannot be written ends them with one sentence, and the last checkpoint stays whole."""
    try:
        yield from rounds
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"folder {path.parent} cannot be written to ({error}); the last checkpoint is whole: make room, and start "
            "the same run again"
        ) from error


def _earned(policy: Policy, ledger: RunState, config: Config, last: Round | None) -> tuple[float, ...]:
    """What everybody has earned by the last round, as the policy says it; noted, for a run that is started again."""
    if last is not None:
        given = policy(config, last)
        ledger.earned = tuple(float(w) for w in getattr(given, "widths", given))
        ledger.save()
    if not ledger.earned:  # killed between the last checkpoint and this note
        held = ledger.rounds[-1]["participants"]
        ledger.earned = tuple(float(held[str(i)]["width"]) for i in range(config.participants))
    return ledger.earned


def _absent(ledger: RunState, data: Dataset, device: str) -> list[Shard]:
    """What the server knows of the participants' shards: whose they are and how many samples they hold, nothing else."""
    empty = torch.zeros((), dtype=torch.int64, device=device)
    sizes = [int(ledger.participants[i]["samples"]) for i in range(ledger.config.participants)]
    return [Shard(i, Samples(None, empty.expand(size), data.classes), range(size)) for i, size in enumerate(sizes)]


def _hand_out(post: ParticipantRegistry, paths: Sequence[Path], deadline: float) -> None:
    """Send each participant its reward, and only its own; whoever is away finds it when the same run is started again."""

    def letters() -> Iterator[tuple[int, RecordDict]]:
        for number, path in enumerate(paths):
            asked = ConfigRecord({"manifest": path.with_suffix(".json").read_text()})
            yield number, RecordDict({"reward": sealed(path.read_bytes()), "asked": asked})

    kept = post.exchange("query.reward", letters(), deadline, "reward")
    if away := [number for number in range(len(paths)) if number not in kept]:
        print(
            f"participants {away} did not fetch their reward; start the same run again once they are back", flush=True
        )
    post.ledger.participants |= {n: {**post.ledger.participants[n], "rewarded": True} for n in kept}
    post.ledger.save()
