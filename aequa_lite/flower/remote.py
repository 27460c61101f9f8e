"""The local part of a round, done where the data are: one slice to each participant, one answer from each that is in time."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from .._io import error_text
from .._validation import checked_metadata, oversized
from ..config import Config
from ..slimmable import Build, State
from ..types import Shard, Update
from .participants import ParticipantRegistry, TooFewError
from .settings import Settings
from .wire import packed, unpacked

__all__ = ["RemoteTraining"]


LOSS = {"loss": (0.0, 1e6)}  # what a participant says beside its tensors: a cross entropy is not negative


@dataclass(frozen=True)
class RemoteTraining:
    """Train all participants of a round over the post: the ``together`` of a :class:`~aequa_lite.Strategy`.

    Whoever does not answer before the deadline, or answers with what is no finite slice of its width or with a change that is
    larger than ``settings.outsized`` times the round's median, has no finite loss, so the loop leaves it out of the merge and
    names it. ``rng`` stay unused: each participant draws from the same seed and names. Every round becomes a row of the
    ledger.

    Raises:
        TooFewError: fewer answers than the quorum.
    """

    post: ParticipantRegistry
    settings: Settings
    build: Build

    def __call__(
        self,
        sent: Sequence[State],
        shards: Sequence[Shard],
        given: Sequence[float],
        config: Config,
        rng: Any,
        *,
        first: int,
        weights: Sequence[float],
    ) -> list[Update]:
        """Send, wait, and check what came back."""
        index, began = first // config.local_steps, time.monotonic()
        rows = {shard.participant: {"width": float(width)} for shard, width in zip(shards, given, strict=True)}
        letters = self._letters(index, shards, sent, rows)
        answers = self.post.exchange("train.round", letters, self.settings.deadline, str(index))
        updates = self._screened(sent, [
            self._update(shard.participant, state, float(weight), answers.pop(shard.participant, None), rows)
            for shard, state, weight in zip(shards, sent, weights, strict=True)
        ])  # fmt: skip
        here = [u.participant for u in updates if math.isfinite(u.loss)]
        row = {"round": index, "seconds": round(time.monotonic() - began, 3), "memory_mb": memory(), "answered": here}
        self.post.ledger.note({**row, "participants": {str(number): each for number, each in rows.items()}})
        if len(here) < min(self.settings.quorum, len(shards)):
            raise TooFewError(
                f"round {index}: {len(here)} of {len(shards)} participants answered within {self.settings.deadline:g} "
                f"seconds, the quorum is {self.settings.quorum}; start the same run again once they are back: it goes on "
                f"from round {index}"
            )
        return updates

    def _letters(
        self, index: int, shards: Sequence[Shard], sent: Sequence[State], rows: dict[int, dict[str, Any]]
    ) -> Iterator[tuple[int, RecordDict]]:
        """One letter after the other, so that only one is packed at a time."""
        for shard, state in zip(shards, sent, strict=True):
            row, slice_ = rows[shard.participant], packed(state)
            row["down"] = len(slice_["state"].data)
            asked = {"round": index, "width": row["width"], "classes": shard.samples.classes}
            yield shard.participant, RecordDict({"slice": slice_, "asked": ConfigRecord(asked)})

    def _update(
        self, number: int, sent: State, weight: float, content: RecordDict | None, rows: dict[int, dict[str, Any]]
    ) -> Update:
        """One answer, once it is certain to be what it should be; whatever else it is counts as none: nothing changed."""
        row, state, loss = rows[number], sent, math.nan
        try:
            if content is not None:
                row["up"] = len(content["slice"]["state"].data)
                state = unpacked(content["slice"], self.build, row["width"], self.settings.device)
                loss = float(checked_metadata(dict(content["said"]), LOSS)["loss"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            print(f"participant {number}: its answer is refused: {error_text(error)}", flush=True)
        return Update(number, row["width"], state, weight, loss)

    def _screened(self, sent: Sequence[State], updates: list[Update]) -> list[Update]:
        """The answers, without a finite loss where a change is larger than so many times the round's median."""
        times, here = self.settings.outsized, [i for i, u in enumerate(updates) if math.isfinite(u.loss)]
        if not times or not here:
            return updates
        widest = max(sent, key=lambda state: sum(t.numel() for t in state.values()))  # all were cut from one network
        large = oversized([updates[i].state for i in here], widest, times)
        for i in (i for i, out in zip(here, large, strict=True) if out):
            print(f"participant {updates[i].participant}: its answer is refused: its change is more than {times:g} times "
                  "the round's median", flush=True)  # fmt: skip
            updates[i] = replace(updates[i], loss=math.nan)
        return updates


def memory() -> float:
    """The most memory that this process has held, in MB."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
