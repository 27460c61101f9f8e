"""Partitions in which participants differ in how much they hold; the mix of classes is random for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .records import Recipe, Samples, Shard
from .rng import stream
from .shards import apportion, check, check_number, cut, redraw, shards_of

__all__ = ["by_size", "imbalanced", "power_law", "quantity_dirichlet"]


def by_size(train: Samples, recipe: Recipe, sizes: Sequence[int]) -> list[Shard]:
    """Give each participant exactly the number of samples that is asked for.

    ``sizes``: (participants,) samples. Samples beyond their sum are left unused.

    Raises:
        ValueError: not one size for each participant, a size below 1, or more samples than there are.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> [len(shard) for shard in by_size(train, Recipe(participants=3), (40, 120, 400))]
        [40, 120, 400]

    Source: ours.
    """
    check(train, recipe)
    if len(sizes) != recipe.participants:
        raise ValueError(f"sizes holds {len(sizes)}; allowed is one for each of the {recipe.participants} participants")
    for i, size in enumerate(sizes):
        check_number(f"sizes[{i}]", size, 1, len(train), whole=True)
    if sum(sizes) > len(train):
        raise ValueError(f"sizes sum to {sum(sizes)}; allowed is up to {len(train)}, as many as train holds")
    order = stream(recipe.seed, "partition", "by_size").permutation(len(train))
    return shards_of(train, cut(order, sizes))


def imbalanced(train: Samples, recipe: Recipe, share: float, holders: int) -> list[Shard]:
    """Give a share of all samples to each of a few participants; the others share equally what is left.

    share (0.4, 2) with 10 participants: two, drawn by the seed, hold 40% each, the other eight 2.5% each. Sizes are
    rounded to whole samples; nothing is lost.

    Raises:
        ValueError: as many holders as participants, or shares that leave nothing for the others.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> sorted(len(shard) for shard in imbalanced(train, Recipe(participants=4), share=0.4, holders=2))
        [600, 600, 2400, 2400]

    Source: "imbalanced (x, y)" of ShapFed.
    """
    check(train, recipe)
    n, total = recipe.participants, len(train)
    if n < 2:
        raise ValueError(f"participants is {n}; allowed are at least 2, so that others are left beside the holders")
    check_number("holders", holders, 1, n - 1, whole=True)
    check_number("share", share, 1 / total, 1)
    left = (total - holders * share * total) / (n - holders)  # samples for each of the others
    if left < 1 - 1e-9:
        raise ValueError(
            f"share is {share!r} for each of {holders} holders, leaving {max(left, 0):.3g} samples for each other one; "
            f"allowed is up to {(1 - (n - holders) / total) / holders:.6g}"
        )
    draws = stream(recipe.seed, "partition", "imbalanced")
    weights = np.full(n, left)
    weights[draws.permutation(n)[:holders]] = share * total
    return shards_of(train, cut(draws.permutation(total), apportion(weights, total)))


def quantity_dirichlet(train: Samples, recipe: Recipe, alpha: float, least: int = 10) -> list[Shard]:
    """Draw the participants' shares of the samples from one Dirichlet(alpha) distribution.

    The smaller alpha, the more uneven. Shares are redrawn until everyone holds at least ``least``; nothing is lost.

    Raises:
        ValueError: alpha out of range, or no draw gave everyone enough.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> sum(len(shard) for shard in quantity_dirichlet(train, Recipe(participants=4), alpha=0.5))
        6000

    Source: quantity skew of NIID-Bench.
    """
    check_number("alpha", alpha, 1e-3, 1e6)
    check_number("least", least, 1, len(train), whole=True)
    check(train, recipe, least)
    concentration = np.full(recipe.participants, float(alpha))

    def draw(draws: np.random.Generator) -> np.ndarray:
        return apportion(draws.dirichlet(concentration), len(train))

    sizes = redraw(draw, least, recipe, "quantity_dirichlet")
    order = stream(recipe.seed, "partition", "quantity_dirichlet").permutation(len(train))
    return shards_of(train, cut(order, sizes))


def power_law(train: Samples, recipe: Recipe, shape: float = 1.65911332899) -> list[Shard]:
    """Give participants sizes that grow evenly between two quantiles of a power-function distribution.

    size_i is proportional to the i-th of n evenly spaced numbers from q(0.01) to q(0.99), q(p) = p ** (1 / shape):
    participant 0 holds the least, the last one the most. The smaller the shape, the more uneven. Nothing is lost.

    Raises:
        ValueError: a shape out of range, or one so small that the first participant would hold nothing.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> [len(shard) for shard in power_law(train, Recipe(participants=5))]
        [142, 671, 1200, 1729, 2258]

    Source: the power-law split of CGSV, with its shape.
    """
    check(train, recipe)
    check_number("shape", shape, 1e-3, 1e6)
    low, high = np.array([0.01, 0.99]) ** (1 / shape)
    weights = np.linspace(low, high, recipe.participants) if recipe.participants > 1 else np.ones(1)
    sizes = apportion(weights, len(train))
    if sizes[0] < 1:
        raise ValueError(
            f"shape is {shape!r}, which leaves nothing for participant 0 of {recipe.participants} among {len(train)} "
            "samples; raise the shape or lower the number of participants"
        )
    order = stream(recipe.seed, "partition", "power_law").permutation(len(train))
    return shards_of(train, cut(order, sizes))
