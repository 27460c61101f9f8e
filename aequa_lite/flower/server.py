"""The server: one algorithm of the library, whose local steps are messages to participants wherever they are."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from .._check import number, refusal
from .._io import check_folder, error_text, write_whole
from .._validation import checked_metadata
from ..config import Config
from ..data.load import load
from ..federate import Strategy, federate
from ..local import Offsets, local_sgd
from ..method import Algorithm, Outcome, Problem, assess
from ..networks.base import for_dataset
from ..registry import algorithm, network, word_of
from ..report import Report
from ..rewards import VOCABULARY, save_rewards
from ..slimmable import n_parameters, slim
from ..types import Build, Dataset, Round, Samples, Shard, State, Update
from .machine import roster
from .participants import ParticipantRegistry, RunState, TooFewError
from .wire import COMPLETED, Settings, packed, packed_bytes, packed_offsets, read_config, unpacked

LOSS = {"loss": (0.0, 1e6)}  # what a participant states beside its tensors: a cross entropy is not negative


def sampler_name(build: Build, strategy: Strategy) -> str:
    """Return the name of the width sampler of a strategy that participants can train.

    Raises:
        ValueError: Its local step is not `partial(local_sgd, build, width_sampler=...)` with a width sampler of the
            package.

    Example:
        >>> import aequa_lite as aq
        >>> sampler_name(aq.MLP, aq.slimmable(aq.MLP, aq.full_only))
        'full_only'
    """
    local: Any = strategy.local
    plain = isinstance(local, partial) and local.func is local_sgd and local.args == (build,)
    if not plain or set(local.keywords) != {"width_sampler"}:
        allowed = "one whose participants train by `local_sgd` with a width sampler of the package"
        raise refusal("algorithm", allowed, local, "run it in one process")
    return word_of("width_sampler", local.keywords["width_sampler"])


@dataclass(frozen=True)
class RemoteTraining:
    """Train all participants of a round over Flower, as `Strategy.vectorized`.

    A participant that is late, or whose reply is no slice of its width, gets an update without tensors and with the
    loss NaN, which the loop leaves out and names. Every round becomes a row of the run's state.

    Args:
        registry: Of the participants.
        settings: Of the run.
        strategy: What runs in one process; only its width sampler and a round's offsets travel.
        sampler: Name of the width sampler.

    Raises:
        TooFewError: There are fewer updates than the quorum.
    """

    registry: ParticipantRegistry
    settings: Settings
    strategy: Strategy
    sampler: str

    def __identity__(self) -> Any:
        """Describe what is trained, which does not depend on the transport."""
        return self.strategy.vectorized or self.strategy.local

    def __call__(
        self, sent: Sequence[State], shards: Sequence[Shard], widths: Sequence[float], config: Config,
        rngs: Sequence[Any], *, first: int, weights: Sequence[float], offsets: Sequence[Offsets] = (),
    ) -> list[Update]:  # fmt: skip
        """Send slices and return updates; `rngs` are unused, each participant makes its own from the same seed."""
        index, began = first // config.local_steps, time.monotonic()
        rows = {s.participant: {"width": float(width)} for s, width in zip(shards, widths, strict=True)}
        messages = self._messages(index, sent, shards, rows, offsets or [()] * len(shards))
        replies = self.registry.exchange("train.round", messages, self.settings.deadline, str(index))
        updates = [
            self._update(shard.participant, float(weight), replies.pop(shard.participant, None), rows)
            for shard, weight in zip(shards, weights, strict=True)
        ]
        here = [u.participant for u in updates if math.isfinite(u.loss)]
        row = {"round": index, "seconds": round(time.monotonic() - began, 3), "memory_mb": memory(), "replied": here}
        self.registry.state.note({**row, "participants": {str(number): each for number, each in rows.items()}})
        if len(here) < min(self.settings.quorum, len(shards)):
            raise TooFewError(
                f"round {index}: {len(here)} of {len(shards)} participants replied within {self.settings.deadline:g} "
                f"seconds, the quorum is {self.settings.quorum}; start the same run again once they are back: it goes on "
                f"from round {index}"
            )
        return updates

    def _messages(
        self, index: int, sent: Sequence[State], shards: Sequence[Shard], rows: dict[int, dict[str, Any]],
        offsets: Sequence[Offsets],
    ) -> Iterator[tuple[int, RecordDict]]:  # fmt: skip
        """One message after another, so that only one is packed at a time."""
        for shard, state, own in zip(shards, sent, offsets, strict=True):
            row, slice_ = rows[shard.participant], packed(state)
            row["down"] = len(slice_["state"].data)
            asked = {"round": index, "width": row["width"], "width_sampler": self.sampler}
            asked |= packed_offsets(own, row["width"])
            yield shard.participant, RecordDict({"slice": slice_, "asked": ConfigRecord(self.registry.asked | asked)})

    def _update(
        self, number: int, weight: float, content: RecordDict | None, rows: dict[int, dict[str, Any]]
    ) -> Update:
        """The update of a reply; without tensors and with the loss NaN where the reply is missing or damaged."""
        row, state, loss = rows[number], {}, math.nan
        try:
            if content is not None:
                row["up"] = len(content["slice"]["state"].data)
                state = unpacked(content["slice"], self.registry.build, row["width"], self.settings.device)
                loss = float(checked_metadata(dict(content["stated"]), LOSS)["loss"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            print(f"participant {number}: its update is refused: {error_text(error)}", flush=True)
        return Update(number, row["width"], state, weight, loss)


def remote_train(
    problem: Problem, strategy: Strategy, *, registry: ParticipantRegistry, settings: Settings, **options: Any
) -> Round:
    """Train together over Flower to the end and return the last round: a `Train` function.

    Goes on from the checkpoint in the run's folder, if there is one.

    Args:
        registry: Of the participants.
        settings: Of the run.
        options: Of `federate`.

    Raises:
        OSError: The folder cannot be written to; the last checkpoint is whole.
        TooFewError: A round has fewer updates than the quorum.
        ValueError: Participants cannot train this strategy, or the checkpoint is of another run.
    """
    remote = RemoteTraining(registry, settings, strategy, sampler_name(problem.build, strategy))
    path = Path(settings.folder) / "state.safetensors"
    rounds = federate(
        problem.build, problem.shards, problem.config, strategy=replace(strategy, vectorized=remote), vectorized=True,
        checkpoint=path, progress=False, **options,
    )  # fmt: skip
    for last in rounds:  # a config has at least one
        for row in registry.state.rounds[-1:]:
            row |= {"loss": last.loss, "numbers": last.parameters_sent, "left_out": list(last.left_out)}
        registry.state.save()
        print(f"round {last.index}: loss {last.loss:.4f}, left out {list(last.left_out)}", flush=True)
    return last


def memory() -> float:
    """The most memory that this process has held, in MB."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the configuration asks for, and leave `outcome.json` where it can be written."""
    folder = Path(str(context.run_config.get("folder", Settings.folder)))
    try:
        run_over(grid, *read_config(context.run_config))
    except Exception as error:
        known = isinstance(error, (OSError, ValueError, TooFewError))  # their sentences need no name of a class
        _conclude(folder, str(error) if known else f"{type(error).__name__}: {error}")
        raise
    _conclude(folder, COMPLETED)


def _conclude(folder: Path, outcome: str) -> None:
    """Write how the run ended; a server that is killed writes nothing."""
    print(outcome, flush=True)
    write_whole(folder / "outcome.json", json.dumps({"outcome": outcome}) + "\n")


@dataclass(frozen=True)
class RemoteShard(Shard):
    """Hold what the server knows of a participant's data: its number of samples, and of each class if it was asked.

    Example:
        >>> len(remote_shards([{"samples": 40}, {"samples": 70}], "cpu", classes=10)[1])
        70
    """

    def __len__(self) -> int:
        return len(self.indices)


def remote_shards(known: Sequence[Mapping[str, Any]], device: str, classes: int) -> list[Shard]:
    """Shards with the stated numbers of samples and labels, without samples."""
    shards: list[Shard] = []
    for i, each in enumerate(known):
        counts = torch.tensor(each.get("labels", ()), dtype=torch.int64)
        y = torch.arange(len(counts)).repeat_interleave(counts).to(device)
        shards.append(RemoteShard(i, Samples(None, y, classes), range(each["samples"])))
    return shards


def prepare(settings: Settings, config: Config) -> tuple[Dataset, Build, Algorithm, bool]:
    """Load the data, fit the network to them and find the algorithm; refuse what does not fit before anybody trains.

    Returns:
        Data set, network, algorithm, and whether participants must state their label counts.

    Raises:
        FileNotFoundError: The data are missing.
        ValueError: The quorum is above the number of participants, the network does not read the data, or participants
            cannot train this algorithm.

    Example:
        >>> prepare(Settings(), Config()).count(None)
        0
    """
    n = config.participants
    number("quorum", settings.quorum, 1, n, whole=True)
    data = load(settings.data, device=settings.device, seed=config.seed)
    build, chosen = for_dataset(network(settings.network), data), algorithm(settings.algorithm)
    shards = remote_shards([{"samples": 1}] * n, settings.device, data.classes)
    trial = Problem(build, shards, config, data, [build(1.0).to(settings.device)] * n, np.full(n, 0.5))
    try:
        chosen(trial, train=_trial)
    except _TrainableError as found:  # the algorithm ends where its training would begin
        return data, build, chosen, found.counted
    return data, build, chosen, False


@dataclass
class _TrainableError(Exception):
    """Participants can train this strategy; whether with logit adjustment."""

    counted: bool


def _trial(problem: Problem, strategy: Strategy, **options: Any) -> Round:
    """Check a strategy in place of training."""
    sampler_name(problem.build, strategy)
    raise _TrainableError(problem.config.logit_adjustment > 0)


def run_over(grid: Grid, settings: Settings, config: Config) -> Report:
    """Run an algorithm with the participants at the other end of the grid, send rewards and return the report.

    Goes on from the folder's last checkpoint, if there is one. Local steps and models trained alone are the
    participants' work; everything else happens here.

    Raises:
        OSError: The folder cannot be written to.
        TooFewError: A participant has never introduced itself, or a round has fewer updates than the quorum.
        ValueError: The folder belongs to another run, or settings, config and data do not fit together.
    """
    started = time.perf_counter()
    folder, device = Path(settings.folder), settings.device
    check_folder("folder", folder)
    keys = roster(settings.keys, config.participants) if settings.keys else None
    data, build, chosen, counted = prepare(settings, config)
    about = {"network": settings.network, "algorithm": settings.algorithm, "data": data.sha256}
    state = RunState(folder, config, about)
    asked = {"classes": data.classes, "words": len(data.words), "features": data.validation.x[0].numel()}
    asked["labels"] = int(counted)
    registry = ParticipantRegistry(grid, state, build, asked, keys, settings.allow_replacement)
    registry.gather(settings.patience)
    everyone = range(config.participants)
    shards = remote_shards([state.participants[i] for i in everyone], device, data.classes)
    alone = [slim(build, state.alone(i, build), 1.0).to(device) for i in everyone]
    problem = replace(assess(build, shards, config, data, alone=alone), started=started)
    outcome = chosen(problem, train=partial(remote_train, registry=registry, settings=settings))
    outcome = replace(outcome, partition=settings.partition)
    outcome.save(folder)
    _send_rewards(registry, _reward_files(outcome, folder / "rewards"), settings.deadline)
    return outcome.report


def _reward_files(outcome: Outcome, folder: Path) -> list[Path]:
    """The files of the rewards; none where they are no networks of the constructor, as FedSAC's."""
    problem, models = outcome.problem, outcome.models
    if outcome.plan is None:
        full = n_parameters(problem.build(1.0))
        if any(n_parameters(model) != full for model in models):
            print(f"the rewards of {outcome.method} cannot be sent: no networks of the constructor", flush=True)
            return []
        identity = {"trained": dict(outcome.last.identity), "rewarded": dict(outcome.rewarding)}
        save_rewards(folder, problem.build, models, [1.0] * len(models), problem.config, identity=identity,
                     vocabulary=problem.data.words)  # fmt: skip
    return [folder / f"participant-{i:02d}.safetensors" for i in range(len(models))]


def _send_rewards(registry: ParticipantRegistry, paths: Sequence[Path], deadline: float) -> None:
    """Send each participant its reward; whoever is away receives it when the same run is started again."""

    def messages() -> Iterator[tuple[int, RecordDict]]:
        for i, path in enumerate(paths):
            content: dict[str, Any] = {"reward": packed_bytes(path.read_bytes())}
            if (words := path.with_name(VOCABULARY)).exists():
                content["vocabulary"] = packed_bytes(words.read_bytes())
            asked = ConfigRecord({**registry.asked, "manifest": path.with_suffix(".json").read_text()})
            yield i, RecordDict({**content, "asked": asked})

    stored = registry.exchange("query.reward", messages(), deadline, "reward")
    if away := [i for i in range(len(paths)) if i not in stored]:
        registry.note(f"participants {away} did not fetch their reward; start the same run again once they are back")
