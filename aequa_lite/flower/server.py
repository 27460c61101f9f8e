"""The server: one algorithm of the library, with participants that train wherever they are."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from .._check import number
from .._io import atomic_write
from ..config import Config
from ..data.load import load
from ..federate import Strategy
from ..method import Algorithm, Outcome, Problem, assess
from ..networks.base import for_dataset
from ..registry import algorithm, network
from ..report import Report
from ..rewards import VOCABULARY, save_rewards
from ..slimmable import n_parameters, slim
from ..types import Build, Dataset, Round, Samples, Shard
from .participants import ParticipantRegistry, RunState, roster, writable
from .remote import remote_train, sampler_name
from .wire import COMPLETED, Settings, packed_bytes, read_config

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the configuration asks for, and leave `outcome.json` where it can be written."""
    folder = Path(str(context.run_config.get("folder", Settings.folder)))
    try:
        run_over(grid, *read_config(context.run_config))
    except Exception as error:
        _conclude(folder, f"{type(error).__name__}: {error}")
        raise
    _conclude(folder, COMPLETED)


def _conclude(folder: Path, outcome: str) -> None:
    """Write how the run ended; a server that is killed writes nothing."""
    print(outcome, flush=True)
    with atomic_write(folder / "outcome.json") as half:
        half.write_text(json.dumps({"outcome": outcome}) + "\n")


@dataclass(frozen=True)
class AbsentShard(Shard):
    """Hold what the server knows of a participant's data: its number of samples.

    Example:
        >>> len(absent_shards([40, 70], "cpu", classes=10)[1])
        70
    """

    def __len__(self) -> int:
        return len(self.indices)


def absent_shards(sizes: Sequence[int], device: str, classes: int) -> list[Shard]:
    """Shards of these sizes without samples."""
    none = Samples(None, torch.empty(0, dtype=torch.int64, device=device), classes)
    return [AbsentShard(i, none, range(size)) for i, size in enumerate(sizes)]


def prepare(settings: Settings, config: Config) -> tuple[Dataset, Build, Algorithm]:
    """Load the data, fit the network to them and find the algorithm; refuse what does not fit before anybody trains.

    Returns:
        Data set, network and algorithm.

    Raises:
        FileNotFoundError: The data are missing.
        ValueError: The quorum is above the number of participants, the network does not read the data, or participants
            cannot train this algorithm.

    Example:
        >>> prepare(Settings(), Config()).count(None)
        0
    """
    number("quorum", settings.quorum, 1, config.participants, whole=True)
    data = load(settings.data, device=settings.device)
    build, chosen = for_dataset(network(settings.network), data), algorithm(settings.algorithm)
    n = config.participants
    shards = absent_shards([1] * n, settings.device, data.classes)
    trial = Problem(build, shards, config, data, [build(1.0).to(settings.device)] * n, np.full(n, 0.5))
    with suppress(_TrainableError):  # the algorithm ends where its training would begin
        chosen(trial, train=_trial)
    return data, build, chosen


class _TrainableError(Exception):
    """Participants can train this strategy."""


def _trial(problem: Problem, strategy: Strategy, **options: Any) -> Round:
    """Check a strategy in place of training."""
    sampler_name(problem.build, strategy)
    raise _TrainableError


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
    folder, keys = writable(settings.folder), None
    if settings.keys:
        keys = roster(settings.keys, config.participants)
    data, build, chosen = prepare(settings, config)
    state = RunState(folder, config, {"network": settings.network, "data": data.sha256})
    asked = {"classes": data.classes, "words": len(data.words)}
    registry = ParticipantRegistry(grid, state, build, asked, keys, settings.allow_replacement)
    registry.gather(settings.patience)
    everyone, device = range(config.participants), settings.device
    shards = absent_shards([int(state.participants[i]["samples"]) for i in everyone], device, data.classes)
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
            print(
                f"the rewards of {outcome.method} cannot be sent: they are no networks of the constructor", flush=True
            )
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
        print(
            f"participants {away} did not fetch their reward; start the same run again once they are back", flush=True
        )
    state = registry.state
    state.participants |= {i: {**state.participants[i], "rewarded": True} for i in stored}
    state.save()
