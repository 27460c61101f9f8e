"""Draws of widths whose law is listed, and local steps taken one by one: what theorems about draws need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import scipy
from torch import Tensor

from ..config import Config
from ..federate import Strategy
from ..local import WidthSampler
from ..types import Shard, Update

__all__ = ["distribution_of", "recorded_steps", "sampled_from"]


Distribution = Sequence[
    tuple[tuple[float, ...], float]
]  # each set of widths that a step may train, and its probability


def sampled_from(law: Callable[[float], Distribution]) -> WidthSampler:
    """Make the draw of a finite law: ``law(widest)`` -> the sets of widths a step may train, with probabilities.

    Example:
        >>> draw = sampled_from(lambda widest: [((widest,), 0.5), ((0.25 * widest,), 0.5)])
        >>> draw(np.random.default_rng(0), 1.0, Config())
        (0.25,)
    """

    @cache
    def listed(widest: float) -> tuple[list[tuple[float, ...]], np.ndarray]:
        sets, chances = zip(*law(widest), strict=True)
        return list(sets), np.cumsum(chances)

    def draw(rng: np.random.Generator, widest: float, config: Config) -> tuple[float, ...]:
        sets, up_to = listed(widest)
        return sets[min(int(np.searchsorted(up_to, rng.random(), side="right")), len(sets) - 1)]

    return draw


def distribution_of(draw: WidthSampler, config: Config, widest: float = 1.0) -> Distribution:
    r"""Return the exact law of a draw that takes one random width, by the cells of the grid of widths.

    $P(w) = I(w) - I(w - 1 / \mathrm{grid})$ with $I$ the distribution of the recipe's Beta variable, stretched over the range.

    Raises:
        ValueError: the recipe trains more than one random width in a step.

    Example:
        >>> import aequa_lite as aq
        >>> law = distribution_of(aq.sandwich, Config(min_width=0.99))
        >>> [(widths, round(chance, 3)) for widths, chance in law]
        [((1.0, 0.99, 0.995), 0.125), ((1.0, 0.99, 1.0), 0.875)]
    """
    if config.widths_per_step != 1:
        raise ValueError(f"widths_per_step is {config.widths_per_step}; allowed is 1, for which the law is listed")
    low = min(config.min_width, widest)
    ends = np.arange(config.grid + 1) / config.grid
    if widest == low:
        return [(tuple(draw(_Told(0.0), widest, config)), 1.0)]
    share = np.clip((ends - low) / (widest - low), 0, 1)
    below = scipy.stats.beta.cdf(share, config.width_alpha, config.width_beta)
    cells = [i for i in range(config.grid) if below[i + 1] > below[i]]
    told = [(share[i] + share[i + 1]) / 2 for i in cells]
    return [(tuple(draw(_Told(t), widest, config)), float(below[i + 1] - below[i])) for i, t in zip(cells, told)]


class _Told:
    """A generator that draws what it is told."""

    def __init__(self, value: float) -> None:
        self.value = value

    def beta(self, a: float, b: float, count: int) -> np.ndarray:
        return np.full(count, self.value)


def recorded_steps(strategy: Strategy, path: dict[tuple[int, int], Mapping[str, Tensor]]) -> Strategy:
    """Take the local steps one by one: every batch is drawn afresh, and ``path[step, participant]`` is where a step began.

    Without momentum this is the same training, but for the batches: within a round the loop shuffles, and theorems
    ask for independent draws.

    Raises:
        ValueError: at the first round, if the recipe has momentum or a proximal pull, which single steps would forget.

    Example:
        >>> import aequa_lite as aq
        >>> path, config = {}, aq.Config(participants=2, rounds=1, local_steps=3, momentum=0.0)
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> _ = list(aq.federate(aq.MLP, shards, config, strategy=recorded_steps(aq.slimmable(aq.MLP), path), progress=False))
        >>> sorted(path)
        [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    """

    def local(
        state: Mapping[str, Tensor], shard: Shard, width: float, config: Config, rng: np.random.Generator, *,
        first: int = 0, weight: float = 1.0,
    ) -> Update:  # fmt: skip
        if config.momentum or config.proximal:
            raise ValueError("recipe has momentum or proximal set; allowed are single steps without memory")
        losses = 0.0
        for step in range(first, first + config.local_steps):
            path[step, shard.participant] = state
            update = strategy.local(state, shard, width, config, rng, first=step, steps=1, weight=weight)
            state, losses = update.state, losses + update.loss
        return replace(update, loss=losses / config.local_steps)

    return replace(strategy, local=local, together=None)
