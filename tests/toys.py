"""The smallest networks and tasks on which a method's formula can be worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

import aequa_lite as aq


def square(width: float = 1.0) -> nn.Module:
    """Two inputs, two classes, four numbers."""
    return nn.Sequential(nn.Linear(2, 2, bias=False))


def samples(count: int) -> aq.Samples:
    return aq.Samples(torch.zeros(count, 2), torch.zeros(count, dtype=torch.int64), classes=2)


def task(sizes: Sequence[int], contribution: Sequence[float] | None = None, build=square, **fields) -> aq.Problem:
    shards = [aq.Shard(i, samples(count), np.arange(count)) for i, count in enumerate(sizes)]
    brought = np.ones(len(sizes)) if contribution is None else np.array(contribution)
    return aq.Problem(build, shards, aq.Config(participants=len(sizes), **fields), samples(4), brought)


def start() -> dict[str, torch.Tensor]:
    return {"0.weight": torch.zeros(2, 2)}


def moved(state, changes: Sequence[Sequence[float]], weights: Sequence[float] | None = None) -> list[aq.Update]:
    """An update for each change of the four numbers, from what the participant holds (or the shared network)."""
    counts = [1.0] * len(changes) if weights is None else weights
    held = [state.get(f"0.weight of participant {i}", state["0.weight"]) for i in range(len(changes))]
    return [
        aq.Update(i, 1.0, {"0.weight": w + torch.tensor(c).view(2, 2)}, float(a), 0.0)
        for i, (w, c, a) in enumerate(zip(held, changes, counts, strict=True))
    ]


def held(state, participant: int) -> list[float]:
    return [round(v, 6) for v in state[f"0.weight of participant {participant}"].flatten().tolist()]
