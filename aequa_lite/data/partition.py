"""What all partitions are made of: checks, whole sizes, and lists of places that become shards."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ..config import Config
from ..rng import stream
from ..types import Samples, Shard

__all__ = [
    "by_size",
    "class_counts",
    "class_imbalance",
    "dirichlet",
    "homogeneous",
    "imbalanced",
    "label_skew",
    "natural",
    "power_law",
    "quantity_dirichlet",
    "class_counts",
]


TRIES = 1_000  # redraws before a request is called impossible


def class_counts(shards: Sequence[Shard]) -> np.ndarray:
    """Count the samples of each class that each participant holds.

    Returns a (participants, classes) array of whole numbers.

    Example:
        >>> y = torch.tensor([0, 2, 2])
        >>> class_counts([Shard(0, Samples(y[:, None], y, classes=3), indices=np.arange(3))])
        array([[1, 0, 2]])
    """
    return np.stack([np.bincount(shard_labels(each.samples), minlength=each.samples.classes) for each in shards])


def shard_labels(samples: Samples) -> np.ndarray:
    """The labels as an array."""
    return torch.as_tensor(samples.y).cpu().numpy()


def check(train: Samples, config: Config, each: int = 1) -> np.ndarray:
    """Refuse what has too few samples for the participants; return the labels."""
    if not isinstance(train, Samples):
        raise ValueError(f"train is a {type(train).__name__}; allowed is a Samples, such as data.train")
    if config.participants * each > len(train):
        raise ValueError(
            f"participants is {config.participants} with at least {each} samples each, but train holds {len(train)}; "
            f"allowed are up to {len(train) // each} participants"
        )
    return shard_labels(train)


def check_number(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    """Refuse a number of the wrong type or outside its closed range."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; allowed is a {'whole ' * whole}number from {low:g} to {high:g}")


def by_class(y: np.ndarray, classes: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The places of each class, in random order."""
    order = rng.permutation(len(y))
    sorted_ = order[np.argsort(y[order], kind="stable")]
    return np.split(sorted_, np.cumsum(np.bincount(y, minlength=classes))[:-1])


def cut(order: np.ndarray, sizes: Iterable[int]) -> list[np.ndarray]:
    """Consecutive pieces of these sizes; what is left over is dropped."""
    ends = np.cumsum(list(sizes), dtype=int)
    return np.split(order[: ends[-1]], ends[:-1])


def apportion(weights: Any, total: int) -> np.ndarray:
    """Whole sizes in proportion to the weights that sum to the total, by largest remainders."""
    exact = np.asarray(weights, dtype=float) / math.fsum(weights) * total
    sizes = np.floor(exact).astype(int)
    first = np.argsort(sizes - exact, kind="stable")  # the largest remainders
    sizes[first[: total - sizes.sum()]] += 1
    return sizes


def redraw(draw: Callable[[np.random.Generator], np.ndarray], least: int, config: Config, name: str) -> np.ndarray:
    """The first of seeded draws of counts, (participants, ...), in which everyone holds ``least``."""
    for attempt in range(TRIES):
        counts = draw(stream(config.seed, "partition", name, attempt))
        if counts.reshape(len(counts), -1).sum(axis=1).min() >= least:
            return counts
    raise ValueError(
        f"{name} gave {config.participants} participants at least {least} samples each in none of {TRIES} draws; "
        "raise alpha, or lower least or the number of participants"
    )


def shards_of(train: Samples, places: Iterable[np.ndarray]) -> list[Shard]:
    """One shard for each list of places, its samples in ascending order of place."""
    device = torch.as_tensor(train.y).device
    ordered = [np.sort(np.asarray(each, dtype=np.int64)) for each in places]
    if empty := [i for i, each in enumerate(ordered) if not len(each)]:
        raise ValueError(f"participant {empty[0]} would hold no sample; use fewer participants or another partition")
    return [Shard(i, train.take(torch.from_numpy(each).to(device)), each) for i, each in enumerate(ordered)]


def by_size(train: Samples, config: Config, sizes: Sequence[int]) -> list[Shard]:
    """Give each participant exactly the number of samples that is asked for.

    ``sizes``: (participants,) samples. Samples beyond their sum are left unused.

    Raises:
        ValueError: not one size for each participant, a size below 1, or more samples than there are.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> [len(shard) for shard in by_size(train, Config(participants=3), (40, 120, 400))]
        [40, 120, 400]

    Source: ours.
    """
    check(train, config)
    if len(sizes) != config.participants:
        raise ValueError(f"sizes holds {len(sizes)}; allowed is one for each of the {config.participants} participants")
    for i, size in enumerate(sizes):
        check_number(f"sizes[{i}]", size, 1, len(train), whole=True)
    if sum(sizes) > len(train):
        raise ValueError(f"sizes sum to {sum(sizes)}; allowed is up to {len(train)}, as many as train holds")
    order = stream(config.seed, "partition", "by_size").permutation(len(train))
    return shards_of(train, cut(order, sizes))


def imbalanced(train: Samples, config: Config, share: float, holders: int) -> list[Shard]:
    """Give a share of all samples to each of a few participants; the others share equally what is left.

    share (0.4, 2) with 10 participants: two, drawn by the seed, hold 40% each, the other eight 2.5% each. Sizes are
    rounded to whole samples; nothing is lost.

    Raises:
        ValueError: as many holders as participants, or shares that leave nothing for the others.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> sorted(len(shard) for shard in imbalanced(train, Config(participants=4), share=0.4, holders=2))
        [600, 600, 2400, 2400]

    Source: "imbalanced (x, y)" of ShapFed.
    """
    check(train, config)
    n, total = config.participants, len(train)
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
    rng = stream(config.seed, "partition", "imbalanced")
    weights = np.full(n, left)
    weights[rng.permutation(n)[:holders]] = share * total
    return shards_of(train, cut(rng.permutation(total), apportion(weights, total)))


def quantity_dirichlet(train: Samples, config: Config, alpha: float, least: int = 10) -> list[Shard]:
    """Draw the participants' shares of the samples from one Dirichlet(alpha) distribution.

    The smaller alpha, the more uneven. Shares are redrawn until everyone holds at least ``least``; nothing is lost.

    Raises:
        ValueError: alpha out of range, or no draw gave everyone enough.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> sum(len(shard) for shard in quantity_dirichlet(train, Config(participants=4), alpha=0.5))
        6000

    Source: quantity skew of NIID-Bench.
    """
    check_number("alpha", alpha, 1e-3, 1e6)
    check_number("least", least, 1, len(train), whole=True)
    check(train, config, least)
    concentration = np.full(config.participants, float(alpha))

    def draw(rng: np.random.Generator) -> np.ndarray:
        return apportion(rng.dirichlet(concentration), len(train))

    sizes = redraw(draw, least, config, "quantity_dirichlet")
    order = stream(config.seed, "partition", "quantity_dirichlet").permutation(len(train))
    return shards_of(train, cut(order, sizes))


def power_law(train: Samples, config: Config, shape: float = 1.65911332899) -> list[Shard]:
    """Give participants sizes that grow evenly between two quantiles of a power-function distribution.

    size_i is proportional to the i-th of n evenly spaced numbers from q(0.01) to q(0.99), q(p) = p ** (1 / shape):
    participant 0 holds the least, the last one the most. The smaller the shape, the more uneven. Nothing is lost.

    Raises:
        ValueError: a shape out of range, or one so small that the first participant would hold nothing.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> [len(shard) for shard in power_law(train, Config(participants=5))]
        [142, 671, 1200, 1729, 2258]

    Source: the power-law split of CGSV, with its shape.
    """
    check(train, config)
    check_number("shape", shape, 1e-3, 1e6)
    low, high = np.array([0.01, 0.99]) ** (1 / shape)
    weights = np.linspace(low, high, config.participants) if config.participants > 1 else np.ones(1)
    sizes = apportion(weights, len(train))
    if sizes[0] < 1:
        raise ValueError(
            f"shape is {shape!r}, which leaves nothing for participant 0 of {config.participants} among {len(train)} "
            "samples; raise the shape or lower the number of participants"
        )
    order = stream(config.seed, "partition", "power_law").permutation(len(train))
    return shards_of(train, cut(order, sizes))


def natural(train: Samples, config: Config) -> list[Shard]:
    """Give each participant the samples of one natural owner, such as a writer.

    With fewer participants than owners, the first of a seeded order take part (more participants add owners to those
    already there) and the other owners' samples are left unused.

    Raises:
        ValueError: the data set knows no owners, or fewer than there are participants.

    Example:
        >>> y = torch.tensor([0, 1, 0, 1])
        >>> train = Samples(y[:, None], y, classes=2, groups=torch.tensor([7, 7, 9, 9]))
        >>> sorted(shard.indices.tolist() for shard in natural(train, Config(participants=2)))
        [[0, 1], [2, 3]]

    Source: FEMNIST's partition in LEAF.
    """
    check(train, config)
    if train.groups is None:
        raise ValueError(
            "train has no groups; allowed are data sets with natural owners, such as a LEAF FEMNIST folder"
        )
    owners, owner = np.unique(torch.as_tensor(train.groups).cpu().numpy(), return_inverse=True)
    if config.participants > len(owners):
        raise ValueError(
            f"participants is {config.participants}; allowed are up to {len(owners)}, as many as own samples"
        )
    order = np.argsort(owner, kind="stable")
    places = np.split(order, np.cumsum(np.bincount(owner))[:-1])
    chosen = stream(config.seed, "partition", "natural").permutation(len(owners))[: config.participants]
    return shards_of(train, [places[i] for i in chosen])


def homogeneous(train: Samples, config: Config) -> list[Shard]:
    """Give all participants the same number of samples of each class.

    What does not divide goes round: sizes, and counts within a class, differ by at most one. Nothing is lost.

    Raises:
        ValueError: more participants than samples.

    Example:
        >>> import aequa_lite as aq
        >>> shards = homogeneous(aq.load("fashion-mini", device="cpu").train, Config(participants=4))
        >>> class_counts(shards)[:, 0].tolist()
        [150, 150, 150, 150]

    Source: the homogeneous partition of Aequa: equally many points per class for each participant.
    """
    y = check(train, config)
    order = np.concatenate(by_class(y, train.classes, stream(config.seed, "partition", "homogeneous")))
    return shards_of(train, [order[i :: config.participants] for i in range(config.participants)])


def dirichlet(train: Samples, config: Config, alpha: float, least: int = 10) -> list[Shard]:
    """Spread each class over the participants by shares drawn from Dirichlet(alpha).

    Class k: p_k ~ Dirichlet(alpha, ..., alpha), participant i holds p_ki of its samples. The smaller alpha, the more
    uneven. All shares are redrawn until everyone holds at least ``least`` samples; nothing is lost.

    Raises:
        ValueError: alpha out of range, or no draw gave everyone enough.

    Example:
        >>> import aequa_lite as aq
        >>> shards = dirichlet(aq.load("fashion-mini", device="cpu").train, Config(participants=4), alpha=0.5)
        >>> class_counts(shards).sum(axis=0).tolist() == [600] * 10
        True

    Source: the heterogeneous partition of Aequa: per-class Dirichlet(alpha); the redraw is NIID-Bench's.
    """
    check_number("alpha", alpha, 1e-3, 1e6)
    check_number("least", least, 1, len(train), whole=True)
    y, n = check(train, config, least), config.participants
    sizes = np.bincount(y, minlength=train.classes)[:, None]
    concentration = np.full(n, float(alpha))

    def draw(rng: np.random.Generator) -> np.ndarray:
        ends = np.rint(np.cumsum(rng.dirichlet(concentration, size=train.classes), axis=1)[:, :-1] * sizes)
        return np.diff(np.hstack([0 * sizes, np.minimum(ends, sizes).astype(int), sizes]), axis=1).T

    counts = redraw(draw, least, config, "dirichlet")  # (participants, classes)
    return _deal(train, config, "dirichlet", y, counts)


def label_skew(train: Samples, config: Config, classes_each: int) -> list[Shard]:
    """Give each participant samples of a fixed number of classes only.

    The classes, in a seeded order, are first dealt round, so that each has a holder where there are enough hands;
    then everyone is filled up at random. A class is split equally among its holders; one without holders is unused.

    Raises:
        ValueError: more classes each than there are, or a class with fewer samples than holders.

    Example:
        >>> import aequa_lite as aq
        >>> shards = label_skew(aq.load("fashion-mini", device="cpu").train, Config(participants=5), classes_each=2)
        >>> (class_counts(shards) > 0).sum(axis=1).tolist()
        [2, 2, 2, 2, 2]

    Source: #C = k of NIID-Bench; where there are fewer participants than classes, the dealing round is ours.
    """
    y, n = check(train, config), config.participants
    present = np.unique(y)
    check_number("classes_each", classes_each, 1, len(present), whole=True)
    rng = stream(config.seed, "partition", "label_skew")
    classes = rng.permutation(present)
    held = np.zeros((n, train.classes), dtype=bool)
    deals = np.arange(min(max(n, len(classes)), n * classes_each))
    held[deals % n, classes[deals % len(classes)]] = True
    for row in held:
        others = rng.permutation([c for c in classes if not row[c]])
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
    return _deal(train, config, "label_skew", y, counts)


def class_imbalance(train: Samples, config: Config, samples_each: int | None = None) -> list[Shard]:
    """Give participant i of n (from 1) the first ceil(i C / n) of C classes, and everyone equally many samples.

    The classes' order is drawn by the seed; with n = C, participants hold 1, 2, ..., C classes. Within a shard the
    classes are equally frequent to within one. ``samples_each``: by default the most that the data allow. The rest
    of the samples is left unused.

    Raises:
        ValueError: a class has too few samples for this, or ``samples_each`` is less than the number of classes.

    Example:
        >>> import aequa_lite as aq
        >>> shards = class_imbalance(aq.load("fashion-mini", device="cpu").train, Config(participants=10))
        >>> (class_counts(shards) > 0).sum(axis=1).tolist(), len(shards[0])
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 206)

    Source: class imbalance of CGSV (agents hold 1 to 10 classes); n other than C, and the seeded order, are ours.
    """
    y, n, total = check(train, config), config.participants, train.classes
    classes = stream(config.seed, "partition", "class_imbalance").permutation(total)
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
    return _deal(train, config, "class_imbalance", y, needed(each))


def _deal(train: Samples, config: Config, name: str, y: np.ndarray, counts: np.ndarray) -> list[Shard]:
    """Shards with these counts, (participants, classes), drawn from each class in random order."""
    pools = by_class(y, train.classes, stream(config.seed, "partition", name, "deal"))
    pieces = [cut(pool, column) for pool, column in zip(pools, counts.T, strict=True)]
    return shards_of(train, [np.concatenate(mine) for mine in zip(*pieces, strict=True)])
