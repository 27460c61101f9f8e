"""Draws of widths whose law is listed, and local steps taken one by one: what theorems about draws need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import scipy
from torch import Tensor

from .federate import Scheme
from .local import Draw
from .records import Recipe, Shard, Update

__all__ = ["drawn_from", "law_of", "stepwise"]

Law = Sequence[tuple[tuple[float, ...], float]]  # each set of widths that a step may train, and its probability


def drawn_from(law: Callable[[float], Law]) -> Draw:
    """Make the draw of a finite law: ``law(widest)`` -> the sets of widths a step may train, with probabilities.

    Example:
        >>> draw = drawn_from(lambda widest: [((widest,), 0.5), ((0.25 * widest,), 0.5)])
        >>> draw(np.random.default_rng(0), 1.0, Recipe())
        (0.25,)
    """

    @cache
    def listed(widest: float) -> tuple[list[tuple[float, ...]], np.ndarray]:
        sets, chances = zip(*law(widest), strict=True)
        return list(sets), np.cumsum(chances)

    def draw(draws: np.random.Generator, widest: float, recipe: Recipe) -> tuple[float, ...]:
        sets, up_to = listed(widest)
        return sets[min(int(np.searchsorted(up_to, draws.random(), side="right")), len(sets) - 1)]

    return draw


def law_of(draw: Draw, recipe: Recipe, widest: float = 1.0) -> Law:
    r"""Return the exact law of a draw that takes one random width, by the cells of the grid of widths.

    $P(w) = I(w) - I(w - 1 / \mathrm{grid})$ with $I$ the distribution of the recipe's Beta variable, stretched over the range.

    Raises:
        ValueError: the recipe trains more than one random width in a step.

    Example:
        >>> import aequa_lite as aq
        >>> law = law_of(aq.sandwich, Recipe(min_width=0.99))
        >>> [(widths, round(chance, 3)) for widths, chance in law]
        [((1.0, 0.99, 0.995), 0.125), ((1.0, 0.99, 1.0), 0.875)]
    """
    if recipe.widths_per_step != 1:
        raise ValueError(f"widths_per_step is {recipe.widths_per_step}; allowed is 1, for which the law is listed")
    low = min(recipe.min_width, widest)
    ends = np.arange(recipe.grid + 1) / recipe.grid
    if widest == low:
        return [(tuple(draw(_Told(0.0), widest, recipe)), 1.0)]
    share = np.clip((ends - low) / (widest - low), 0, 1)
    below = scipy.stats.beta.cdf(share, recipe.width_alpha, recipe.width_beta)
    cells = [i for i in range(recipe.grid) if below[i + 1] > below[i]]
    told = [(share[i] + share[i + 1]) / 2 for i in cells]
    return [(tuple(draw(_Told(t), widest, recipe)), float(below[i + 1] - below[i])) for i, t in zip(cells, told)]


class _Told:
    """A generator that draws what it is told."""

    def __init__(self, value: float) -> None:
        self.value = value

    def beta(self, a: float, b: float, count: int) -> np.ndarray:
        return np.full(count, self.value)


def stepwise(scheme: Scheme, path: dict[tuple[int, int], Mapping[str, Tensor]]) -> Scheme:
    """Take the local steps one by one: every batch is drawn afresh, and ``path[step, participant]`` is where a step began.

    Without momentum this is the same training, but for the batches: within a round the loop shuffles, and theorems
    ask for independent draws.

    Raises:
        ValueError: at the first round, if the recipe has momentum or a proximal pull, which single steps would forget.

    Example:
        >>> import aequa_lite as aq
        >>> path, recipe = {}, aq.Recipe(participants=2, rounds=1, local_steps=3, momentum=0.0)
        >>> shards = aq.homogeneous(aq.load("fashion-mini").train, recipe)
        >>> _ = list(aq.federate(aq.MLP, shards, recipe, scheme=stepwise(aq.slimmable(aq.MLP), path), progress=False))
        >>> sorted(path)
        [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    """

    def local(
        state: Mapping[str, Tensor], shard: Shard, width: float, recipe: Recipe, draws: np.random.Generator, *,
        first: int = 0, weight: float = 1.0,
    ) -> Update:  # fmt: skip
        if recipe.momentum or recipe.proximal:
            raise ValueError("recipe has momentum or proximal set; allowed are single steps without memory")
        losses = 0.0
        for step in range(first, first + recipe.local_steps):
            path[step, shard.participant] = state
            update = scheme.local(state, shard, width, recipe, draws, first=step, steps=1, weight=weight)
            state, losses = update.state, losses + update.loss
        return replace(update, loss=losses / recipe.local_steps)

    return replace(scheme, local=local, together=None)
