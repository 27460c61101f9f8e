"""The smallest networks and problems, on which a method's formula can be worked by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

import aequa_lite as aq
from aequa_lite.baselines.common import own_network
from aequa_lite.method import train

quiet = partial(train, progress=False)


def square(width: float = 1.0) -> nn.Module:
    """Two inputs, two classes, four numbers."""
    return nn.Sequential(nn.Linear(2, 2, bias=False))


def samples(count: int) -> aq.Samples:
    return aq.Samples(torch.zeros(count, 2), torch.zeros(count, dtype=torch.int64), classes=2)


def problem(sizes: Sequence[int], contribution: Sequence[float] | None = None, build=square, **fields) -> aq.Problem:
    shards = [aq.Shard(i, samples(count), np.arange(count)) for i, count in enumerate(sizes)]
    found = np.ones(len(sizes)) if contribution is None else np.array(contribution)
    data = aq.Dataset("zeros", samples(4), samples(4), samples(4), "0" * 64)
    config = aq.Config(participants=len(sizes), **fields)
    return aq.Problem(build, shards, config, data, [build(1.0) for _ in sizes], found)


def start() -> aq.ServerState:
    return aq.ServerState({"0.weight": torch.zeros(2, 2)})


def moved(
    state: aq.ServerState, changes: Sequence[Sequence[float]], weights: Sequence[float] | None = None
) -> list[aq.Update]:
    """An update for each change of the four numbers, from the participant's own network (or the global model)."""
    weights = [1.0] * len(changes) if weights is None else weights
    return [
        aq.Update(i, 1.0, {"0.weight": own_network(state, i)["0.weight"] + torch.tensor(c).view(2, 2)}, float(a), 0.0)
        for i, (c, a) in enumerate(zip(changes, weights, strict=True))
    ]


def four(state: aq.ServerState, participant: int | None = None) -> list[float]:
    """The four numbers of a participant's own network, or of the global model."""
    network = state.theta if participant is None else own_network(state, participant)
    return [round(v, 6) for v in network["0.weight"].flatten().tolist()]


class _CaughtError(Exception):
    """Carries what an algorithm asks to be trained."""


def asked(algorithm: Callable[..., aq.Outcome], of: aq.Problem) -> tuple[aq.Strategy, dict]:
    """The strategy that an algorithm trains, and the options; nothing is trained."""

    def catch(problem: aq.Problem, strategy: aq.Strategy, **options) -> aq.Round:
        raise _CaughtError(strategy, options)

    try:
        algorithm(of, train=catch)
    except _CaughtError as caught:
        return caught.args
    raise AssertionError("an algorithm trains exactly once")


def strategy_of(algorithm: Callable[..., aq.Outcome], of: aq.Problem) -> aq.Strategy:
    return asked(algorithm, of)[0]


def rounds_of(algorithm: Callable[..., aq.Outcome], of: aq.Problem, **options) -> list[aq.Round]:
    """All rounds that an algorithm trains."""
    strategy, own = asked(algorithm, of)
    options = {"strategy": strategy, "progress": False, **own, **options}
    return list(aq.federate(of.build, of.shards, of.config, **options))


def same(a, b, **close) -> bool:
    """Whether two networks are equal, to the bit or as closely as is said."""
    return set(a) == set(b) and all(torch.allclose(a[k], b[k], **(close or {"rtol": 0, "atol": 0})) for k in a)
