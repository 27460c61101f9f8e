"""How a data set becomes shards: by writer, alike for all, or with classes spread unevenly; quantity and noise beside.

All partitions are disjoint, give every participant at least one sample, and follow from ``recipe.seed`` alone.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import torch

from .quality import feature_noise, label_noise
from .quantity import by_size, imbalanced, power_law, quantity_dirichlet
from .records import Recipe, Samples, Shard
from .rng import stream
from .shards import by_class, check, check_number, cut, redraw, shards_of, table

__all__ = [
    "by_size",
    "class_imbalance",
    "dirichlet",
    "feature_noise",
    "homogeneous",
    "imbalanced",
    "label_noise",
    "label_skew",
    "natural",
    "power_law",
    "quantity_dirichlet",
    "table",
]


def natural(train: Samples, recipe: Recipe) -> list[Shard]:
    """Give each participant the samples of one natural owner, such as a writer.

    With fewer participants than owners, the first of a seeded order take part (more participants add owners to those
    already there) and the other owners' samples are left unused.

    Raises:
        ValueError: the data set knows no owners, or fewer than there are participants.

    Example:
        >>> y = torch.tensor([0, 1, 0, 1])
        >>> train = Samples(y[:, None], y, classes=2, groups=torch.tensor([7, 7, 9, 9]))
        >>> sorted(shard.indices.tolist() for shard in natural(train, Recipe(participants=2)))
        [[0, 1], [2, 3]]

    Source: FEMNIST's partition in LEAF.
    """
    check(train, recipe)
    if train.groups is None:
        raise ValueError(
            "train has no groups; allowed are data sets with natural owners, such as a LEAF FEMNIST folder"
        )
    owners, owner = np.unique(torch.as_tensor(train.groups).cpu().numpy(), return_inverse=True)
    if recipe.participants > len(owners):
        raise ValueError(
            f"participants is {recipe.participants}; allowed are up to {len(owners)}, as many as own samples"
        )
    order = np.argsort(owner, kind="stable")
    places = np.split(order, np.cumsum(np.bincount(owner))[:-1])
    chosen = stream(recipe.seed, "partition", "natural").permutation(len(owners))[: recipe.participants]
    return shards_of(train, [places[i] for i in chosen])


def homogeneous(train: Samples, recipe: Recipe) -> list[Shard]:
    """Give all participants the same number of samples of each class.

    What does not divide goes round: sizes, and counts within a class, differ by at most one. Nothing is lost.

    Raises:
        ValueError: more participants than samples.

    Example:
        >>> import aequa_lite as aq
        >>> shards = homogeneous(aq.load("fashion-mini", device="cpu").train, Recipe(participants=4))
        >>> table(shards)[:, 0].tolist()
        [150, 150, 150, 150]

    Source: the homogeneous partition of Aequa: equally many points per class for each participant.
    """
    y = check(train, recipe)
    order = np.concatenate(by_class(y, train.classes, stream(recipe.seed, "partition", "homogeneous")))
    return shards_of(train, [order[i :: recipe.participants] for i in range(recipe.participants)])


def dirichlet(train: Samples, recipe: Recipe, alpha: float, least: int = 10) -> list[Shard]:
    """Spread each class over the participants by shares drawn from Dirichlet(alpha).

    Class k: p_k ~ Dirichlet(alpha, ..., alpha), participant i holds p_ki of its samples. The smaller alpha, the more
    uneven. All shares are redrawn until everyone holds at least ``least`` samples; nothing is lost.

    Raises:
        ValueError: alpha out of range, or no draw gave everyone enough.

    Example:
        >>> import aequa_lite as aq
        >>> shards = dirichlet(aq.load("fashion-mini", device="cpu").train, Recipe(participants=4), alpha=0.5)
        >>> table(shards).sum(axis=0).tolist() == [600] * 10
        True

    Source: the heterogeneous partition of Aequa: per-class Dirichlet(alpha); the redraw is NIID-Bench's.
    """
    check_number("alpha", alpha, 1e-3, 1e6)
    check_number("least", least, 1, len(train), whole=True)
    y, n = check(train, recipe, least), recipe.participants
    sizes = np.bincount(y, minlength=train.classes)[:, None]
    concentration = np.full(n, float(alpha))

    def draw(draws: np.random.Generator) -> np.ndarray:
        ends = np.rint(np.cumsum(draws.dirichlet(concentration, size=train.classes), axis=1)[:, :-1] * sizes)
        return np.diff(np.hstack([0 * sizes, np.minimum(ends, sizes).astype(int), sizes]), axis=1).T

    counts = redraw(draw, least, recipe, "dirichlet")  # (participants, classes)
    return _deal(train, recipe, "dirichlet", y, counts)


def label_skew(train: Samples, recipe: Recipe, classes_each: int) -> list[Shard]:
    """Give each participant samples of a fixed number of classes only.

    The classes, in a seeded order, are first dealt round, so that each has a holder where there are enough hands;
    then everyone is filled up at random. A class is split equally among its holders; one without holders is unused.

    Raises:
        ValueError: more classes each than there are, or a class with fewer samples than holders.

    Example:
        >>> import aequa_lite as aq
        >>> shards = label_skew(aq.load("fashion-mini", device="cpu").train, Recipe(participants=5), classes_each=2)
        >>> (table(shards) > 0).sum(axis=1).tolist()
        [2, 2, 2, 2, 2]

    Source: #C = k of NIID-Bench; where there are fewer participants than classes, the dealing round is ours.
    """
    y, n = check(train, recipe), recipe.participants
    present = np.unique(y)
    check_number("classes_each", classes_each, 1, len(present), whole=True)
    draws = stream(recipe.seed, "partition", "label_skew")
    classes = draws.permutation(present)
    held = np.zeros((n, train.classes), dtype=bool)
    deals = np.arange(min(max(n, len(classes)), n * classes_each))
    held[deals % n, classes[deals % len(classes)]] = True
    for row in held:
        others = draws.permutation([c for c in classes if not row[c]])
        row[others[: classes_each - row.sum()].astype(int)] = True
    sizes, holders = np.bincount(y, minlength=train.classes), held.sum(axis=0)
    if (short := np.flatnonzero(sizes < holders)).size:
        c = short[0]
        raise ValueError(
            f"class {c} has {sizes[c]} samples for {holders[c]} holders; lower classes_each or participants"
        )
    rank = np.cumsum(held, axis=0) - 1  # a participant's place among the holders of a class
    each, rest = np.divmod(sizes, np.maximum(holders, 1))
    counts = held * (each + (rank < rest))
    return _deal(train, recipe, "label_skew", y, counts)


def class_imbalance(train: Samples, recipe: Recipe, samples_each: int | None = None) -> list[Shard]:
    """Give participant i of n (from 1) the first ceil(i C / n) of C classes, and everyone equally many samples.

    The classes' order is drawn by the seed; with n = C, participants hold 1, 2, ..., C classes. Within a shard the
    classes are equally frequent to within one. ``samples_each``: by default the most that the data allow. The rest
    of the samples is left unused.

    Raises:
        ValueError: a class has too few samples for this, or ``samples_each`` is less than the number of classes.

    Example:
        >>> import aequa_lite as aq
        >>> shards = class_imbalance(aq.load("fashion-mini", device="cpu").train, Recipe(participants=10))
        >>> (table(shards) > 0).sum(axis=1).tolist(), len(shards[0])
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 206)

    Source: class imbalance of CGSV (agents hold 1 to 10 classes); n other than C, and the seeded order, are ours.
    """
    y, n, total = check(train, recipe), recipe.participants, train.classes
    classes = stream(recipe.seed, "partition", "class_imbalance").permutation(total)
    sizes = np.bincount(y, minlength=total)
    held = -(-np.arange(1, n + 1)[:, None] * total // n)  # (n, 1) classes of each
    place = np.argsort(classes)[None, :]  # (1, classes) a class's place in the order

    def needed(each: int) -> np.ndarray:
        return (place < held) * (each // held + (place >= held - each % held))

    def short(each: int) -> bool:
        return bool((needed(each).sum(axis=0) > sizes).any())

    most = (
        total - 1 + bisect_left(range(total, len(y) // n + 1), True, key=short)
    )  # what is short stays short with more
    if most < total:
        few = f"train holds {len(y)} samples, {sizes.min()} of its rarest class"
        raise ValueError(f"{few}: too few for {n} participants with {total} samples each; use fewer participants")
    each = most if samples_each is None else samples_each
    check_number("samples_each", each, total, most, whole=True)
    return _deal(train, recipe, "class_imbalance", y, needed(each))


def _deal(train: Samples, recipe: Recipe, name: str, y: np.ndarray, counts: np.ndarray) -> list[Shard]:
    """Shards with these counts, (participants, classes), drawn from each class in random order."""
    pools = by_class(y, train.classes, stream(recipe.seed, "partition", name, "deal"))
    pieces = [cut(pool, column) for pool, column in zip(pools, counts.T, strict=True)]
    return shards_of(train, [np.concatenate(mine) for mine in zip(*pieces, strict=True)])
