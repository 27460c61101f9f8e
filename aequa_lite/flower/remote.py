"""Training by the participants: the library's loop with messages in place of local steps in this process."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, RecordDict
from safetensors import SafetensorError

from .._check import refusal
from .._io import error_text
from .._validation import checked_metadata
from ..config import Config
from ..federate import Strategy, federate
from ..local import local_sgd
from ..method import Problem
from ..registry import word_of
from ..types import Build, Round, Shard, State, Update
from .participants import ParticipantRegistry, TooFewError
from .wire import Settings, packed, unpacked

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
        strategy: What runs in one process; only its width sampler travels.
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
        self,
        sent: Sequence[State],
        shards: Sequence[Shard],
        widths: Sequence[float],
        config: Config,
        rngs: Sequence[Any],
        *,
        first: int,
        weights: Sequence[float],
    ) -> list[Update]:
        """Send slices and return updates; `rngs` are unused, each participant makes its own from the same seed."""
        index, began = first // config.local_steps, time.monotonic()
        rows = {s.participant: {"width": float(width)} for s, width in zip(shards, widths, strict=True)}
        messages = self._messages(index, sent, shards, rows)
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
        self, index: int, sent: Sequence[State], shards: Sequence[Shard], rows: dict[int, dict[str, Any]]
    ) -> Iterator[tuple[int, RecordDict]]:
        """One message after another, so that only one is packed at a time."""
        for shard, state in zip(shards, sent, strict=True):
            row, slice_ = rows[shard.participant], packed(state)
            row["down"] = len(slice_["state"].data)
            asked = {**self.registry.asked, "round": index, "width": row["width"], "width_sampler": self.sampler}
            yield shard.participant, RecordDict({"slice": slice_, "asked": ConfigRecord(asked)})

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
        OSError: The folder cannot be written to.
        TooFewError: A round has fewer updates than the quorum.
        ValueError: Participants cannot train this strategy, or the checkpoint is of another run.
    """
    remote = RemoteTraining(registry, settings, strategy, sampler_name(problem.build, strategy))
    path = Path(settings.folder) / "state.safetensors"
    rounds, last = federate(
        problem.build, problem.shards, problem.config, strategy=replace(strategy, vectorized=remote), vectorized=True,
        checkpoint=path, progress=False, **options,
    ), None  # fmt: skip
    try:
        for last in rounds:
            for row in registry.state.rounds[-1:]:
                row |= {"loss": last.loss, "numbers": last.parameters_sent, "left_out": list(last.left_out)}
            registry.state.save()
            print(f"round {last.index}: loss {last.loss:.4f}, left out {list(last.left_out)}", flush=True)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"folder {path.parent} cannot be written to ({error}); the last checkpoint is whole: make room, and start the "
            "same run again"
        ) from error
    assert last is not None  # a config has at least one round
    return last


def memory() -> float:
    """The most memory that this process has held, in MB."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
