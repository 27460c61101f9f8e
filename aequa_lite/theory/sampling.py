"""Width samplers with a listed distribution, and local steps recorded one by one: what the theorems assume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from .._check import checked, number, refusal
from ..config import Config
from ..federate import Strategy
from ..local import WidthSampler
from ..types import Shard, State, Update

__all__ = ["Distribution", "distribution_of", "recorded_steps", "sampled_from"]

Distribution = Sequence[tuple[tuple[float, ...], float]]  # the sets of widths that a step may train, with probabilities


def sampled_from(distribution: Callable[[float], Distribution]) -> WidthSampler:
    """Make the width sampler of a finite distribution.

    Args:
        distribution: Widest width -> the sets of widths that a step may train, with their probabilities.

    Returns:
        A width sampler. It refuses a distribution whose probabilities do not sum to one.

    Raises:
        ValueError: `distribution` is not callable.

    Example:
        >>> sampler = sampled_from(lambda widest: [((widest,), 0.5), ((0.25 * widest,), 0.5)])
        >>> sampler(np.random.default_rng(0), 1.0, Config())
        (0.25,)
    """
    if not callable(distribution):
        raise refusal("distribution", "a function of the widest width", distribution)
    return partial(_sample, distribution)


def _sample(
    distribution: Callable[[float], Distribution], rng: np.random.Generator, widest: float, config: Config
) -> tuple[float, ...]:
    """One set of widths."""
    sets, cumulative = _listed(distribution, widest)
    return sets[min(int(np.searchsorted(cumulative, rng.random(), side="right")), len(sets) - 1)]


@lru_cache(maxsize=256)
def _listed(
    distribution: Callable[[float], Distribution], widest: float
) -> tuple[list[tuple[float, ...]], NDArray[np.float64]]:
    """The sets of widths, and their cumulative probabilities."""
    pairs = list(distribution(widest))
    sets, probabilities = [tuple(widths) for widths, _ in pairs], np.array([p for _, p in pairs], dtype=float)
    if not all(sets) or not (probabilities >= 0).all() or not abs(probabilities.sum() - 1) < 1e-9:
        raise refusal("distribution", "sets of widths with probabilities that sum to 1", pairs)
    return sets, np.cumsum(probabilities)


@checked
def distribution_of(width_sampler: WidthSampler, config: Config, widest: float = 1.0) -> Distribution:
    r"""Return the exact distribution of a width sampler that draws one random width, over the grid of widths.

    $P(w) = I(w) - I(w - 1 / \mathrm{grid})$ with $I$ the distribution function of the config's Beta variable, stretched over
    [`min_width`, `widest`].

    Args:
        width_sampler: `full_only`, `one_random`, `full_and_random` or `sandwich`.
        config: Its grid, its least width and its Beta distribution.
        widest: Width that the participant received.

    Returns:
        The sets of widths that a step may train, with their probabilities.

    Raises:
        ValueError: `width_sampler` is not callable, `config.widths_per_step` is not 1, or `widest` is outside (0, 1].

    Example:
        >>> import aequa_lite as aq
        >>> pairs = distribution_of(aq.sandwich, Config(min_width=0.99))
        >>> [(widths, round(probability, 3)) for widths, probability in pairs]
        [((1.0, 0.99, 0.995), 0.125), ((1.0, 0.99, 1.0), 0.875)]
    """
    if not callable(width_sampler):
        raise refusal("width_sampler", "a function, such as one_random", width_sampler)
    if config.widths_per_step != 1:
        raise refusal("widths_per_step", "1, for which the distribution is listed", config.widths_per_step)
    low = min(config.min_width, number("widest", widest, 0, 1, above=True))
    if widest == low:
        return [(tuple(width_sampler(_FixedBeta(0.0), widest, config)), 1.0)]
    ends = np.clip((np.arange(config.grid + 1) / config.grid - low) / (widest - low), 0, 1)
    below = beta.cdf(ends, config.width_alpha, config.width_beta)
    return [
        (tuple(width_sampler(_FixedBeta((ends[i] + ends[i + 1]) / 2), widest, config)), float(below[i + 1] - below[i]))
        for i in range(config.grid)
        if below[i + 1] > below[i]
    ]


class _FixedBeta(np.random.Generator):
    """A generator whose Beta variable has a fixed value."""

    def __init__(self, value: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.value = value

    def beta(self, a: float, b: float, count: int) -> NDArray[np.float64]:  # type: ignore[override]
        return np.full(count, self.value)


@checked
def recorded_steps(strategy: Strategy, path: dict[tuple[int, int], State]) -> Strategy:
    """Take the local steps one by one, each with a freshly drawn batch, and record where each began.

    Without momentum this differs from the strategy only in the batches: within a round the loop shuffles the shard, while
    the theorems assume independent batches.

    Args:
        strategy: How participants train.
        path: Receives the slice at the start of each step, by (step, participant).

    Returns:
        The strategy that records. It refuses a config with momentum or a proximal term, which single steps would forget.

    Raises:
        ValueError: `strategy` is no Strategy, or `path` no dictionary.

    Example:
        >>> import aequa_lite as aq
        >>> path, config = {}, aq.Config(participants=2, rounds=1, local_steps=3, momentum=0.0)
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> strategy = recorded_steps(aq.slimmable(aq.MLP), path)
        >>> len(list(aq.federate(aq.MLP, shards, config, strategy=strategy, progress=False))), sorted(path)[:3]
        (1, [(0, 0), (0, 1), (1, 0)])
    """
    if not isinstance(strategy, Strategy):
        raise refusal("strategy", "a Strategy, such as slimmable(build)", strategy)
    if not isinstance(path, dict):
        raise refusal("path", "a dictionary to write to", path)
    return replace(strategy, local=partial(_recorded, strategy.local, path), vectorized=None)


def _recorded(
    train: Callable[..., Update], path: dict[tuple[int, int], State], state: State, shard: Shard, width: float,
    config: Config, rng: np.random.Generator, *, first: int = 0, weight: float = 1.0,
) -> Update:  # fmt: skip
    """The local steps of one round, one by one."""
    if config.momentum or config.proximal:
        raise refusal("config", "without momentum and proximal term, as single steps have no memory", config)
    loss = 0.0
    for step in range(first, first + config.local_steps):
        path[step, shard.participant] = state
        update = train(state, shard, width, config, rng, first=step, steps=1, weight=weight)
        state, loss = update.state, loss + update.loss
    return replace(update, loss=loss / config.local_steps)
