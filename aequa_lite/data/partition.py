"""Partitions: who holds which training samples, and with which labels. All are drawn from the config's seed alone."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .._check import Count, Share, checked, number, one_each, refusal
from .._io import fault
from ..config import Config, stream
from ..types import Samples, Shard

Whole = NDArray[np.int64]

MOST_DRAWS = 1_000  # before a partition is called impossible
MOST_SAMPLES_EACH = 1_000_000  # where samples are drawn with replacement
ALPHA = (1e-3, 1e6)
POWER = 1.65911332899  # CGSV's


@checked
def class_counts(shards: Sequence[Shard]) -> Whole:
    """Count the samples of each class that each participant holds.

    Returns:
        (participants, classes) whole numbers.

    Raises:
        ValueError: There is no shard.

    Example:
        >>> y = torch.tensor([0, 2, 2])
        >>> class_counts([Shard(0, Samples(y[:, None], y, classes=3), [0, 1, 2])])
        array([[1, 0, 2]])
    """
    held = [each.samples for each in shards]
    return np.stack([np.bincount(each.y.cpu().numpy(), minlength=each.classes) for each in held])


def _checked(train: Samples, config: Config, each: int = 1) -> Whole:
    """Refuse what has too few samples for the participants; return the labels."""
    if not isinstance(train, Samples):
        raise refusal("train", "Samples, such as `dataset.train`", train)
    if not isinstance(config, Config):
        raise refusal("config", "a Config", config)
    if config.participants * each > len(train):
        allowed = f"at most {len(train) // each}, since `train` holds {len(train)} samples and each needs {each}"
        raise refusal("participants", allowed, config.participants)
    return train.y.cpu().numpy()


def _by_class(y: Whole, classes: int, rng: np.random.Generator) -> list[Whole]:
    """The positions of each class, in random order."""
    order = rng.permutation(len(y))
    grouped = order[np.argsort(y[order], kind="stable")]
    return np.split(grouped, np.cumsum(np.bincount(y, minlength=classes))[:-1])


def _cut(order: Whole, sizes: ArrayLike) -> list[Whole]:
    """Consecutive pieces of these sizes; the rest is dropped."""
    ends = np.cumsum(sizes, dtype=int)
    return np.split(order[: ends[-1]], ends[:-1])


def apportion(weights: ArrayLike, total: int) -> Whole:
    """Whole sizes in proportion to the weights that sum to the total, by largest remainders."""
    exact = np.asarray(weights, dtype=float) / math.fsum(weights) * total
    sizes = np.floor(exact).astype(int)
    first = np.argsort(sizes - exact, kind="stable")  # the largest remainders
    sizes[first[: total - sizes.sum()]] += 1
    return sizes


def _shards(train: Samples, positions: Iterable[Whole]) -> list[Shard]:
    """One shard for each list of positions, its samples in ascending order of position."""
    ordered = [np.sort(np.asarray(each, dtype=np.int64)) for each in positions]
    if empty := [i for i, each in enumerate(ordered) if not len(each)]:
        remedy = "use fewer participants or another partition"
        raise fault("each participant", "hold a sample", f"none for participant {empty[0]}", remedy)
    return [Shard(i, train.take(torch.from_numpy(each).to(train.y.device)), each) for i, each in enumerate(ordered)]


def _of_sizes(train: Samples, config: Config, name: str, sizes: ArrayLike) -> list[Shard]:
    """Shards of these sizes, drawn from all samples alike."""
    return _shards(train, _cut(stream(config.seed, "partition", name).permutation(len(train)), sizes))


def _of_counts(train: Samples, config: Config, name: str, y: Whole, counts: Whole) -> list[Shard]:
    """Shards with these counts, (participants, classes), drawn from each class in random order."""
    pools = _by_class(y, train.classes, stream(config.seed, "partition", name, "deal"))
    pieces = [_cut(pool, column) for pool, column in zip(pools, counts.T, strict=True)]
    return _shards(train, [np.concatenate(mine) for mine in zip(*pieces, strict=True)])


@checked
def by_size(train: Samples, config: Config, sizes: Sequence[Count]) -> list[Shard]:
    """Give each participant exactly the number of samples that is asked for.

    Args:
        train: Training samples.
        config: Participants and seed.
        sizes: (participants,) samples; those beyond their sum are left unused.

    Returns:
        One shard for each participant.

    Raises:
        ValueError: Not one size from 1 for each participant, or more samples than
            there are.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> shards = by_size(train, Config(participants=3), sizes=(40, 120, 400))
        >>> [len(shard) for shard in shards]
        [40, 120, 400]

    References:
        Our choice.
    """
    _checked(train, config)
    one_each("sizes", sizes, config.participants)
    sizes = [int(each) for each in sizes]  # numpy's small integers overflow
    if sum(sizes) > len(train):
        raise refusal("sizes", f"at most {len(train)} in total, as many as `train` holds", sum(sizes))
    return _of_sizes(train, config, "by_size", sizes)


def imbalanced(train: Samples, config: Config, share: float, holders: int) -> list[Shard]:
    """Give a share of all samples to each of a few participants, the rest to the others.

    With `share` 0.4, `holders` 2 and 10 participants, two, drawn by the seed, hold 40 %
    each and the other eight 2.5 % each. Every sample is used.

    Args:
        train: Training samples.
        config: Participants and seed.
        share: Share of all samples for each holder.
        holders: Number of participants who hold that share.

    Returns:
        One shard for each participant.

    Raises:
        ValueError: As many holders as participants, or too few samples for the others.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> shards = imbalanced(train, Config(participants=4), share=0.4, holders=2)
        >>> sorted(len(shard) for shard in shards)
        [600, 600, 2400, 2400]

    References:
        "Imbalanced (x, y)" of ShapFed.
    """
    _checked(train, config)
    n, total = config.participants, len(train)
    if n < 2:
        raise refusal("participants", "at least 2 for an imbalanced partition", n)
    number("holders", holders, 1, n - 1, whole=True)
    number("share", share, 1 / total, 1)
    left = (total - holders * share * total) / (n - holders)  # samples for each of the others
    if left < 1 - 1e-9:
        most = (1 - (n - holders) / total) / holders
        raise refusal("share", f"at most {most:.6g} for each of {holders} holders, so that all others hold one", share)
    rng = stream(config.seed, "partition", "imbalanced")
    weights = np.full(n, left)
    weights[rng.permutation(n)[:holders]] = share * total
    return _shards(train, _cut(rng.permutation(total), apportion(weights, total)))


def power_law(train: Samples, config: Config) -> list[Shard]:
    r"""Give participants sizes that grow evenly between two quantiles of a power law.

    Size $i$ is proportional to the $i$-th of $n$ evenly spaced numbers from $q(0.01)$ to
    $q(0.99)$ with $q(p) = p^{1/1.659}$: participant 0 holds the least, the last one the
    most. Every sample is used.

    Args:
        train: Training samples.
        config: Participants and seed.

    Returns:
        One shard for each participant.

    Raises:
        ValueError: There are so few samples that someone holds nothing.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> [len(shard) for shard in power_law(train, Config(participants=5))]
        [142, 671, 1200, 1729, 2258]

    References:
        The power-law split of CGSV (Xu et al. 2021), with its shape.
    """
    _checked(train, config)
    weights = np.linspace(*np.array([0.01, 0.99]) ** (1 / POWER), config.participants)
    return _of_sizes(train, config, "power_law", apportion(weights, len(train)))


def natural(train: Samples, config: Config) -> list[Shard]:
    """Give each participant the samples of one natural owner, such as a hospital.

    With as many participants as owners, they stand in the order of `groups`. With fewer,
    the first of a seeded order take part (more participants add owners to those already
    there), and the other owners' samples are left unused.

    Args:
        train: Training samples with `groups`.
        config: Participants and seed.

    Returns:
        One shard for each participant.

    Raises:
        ValueError: The samples have no owners, or fewer than there are participants.

    Example:
        >>> y = torch.tensor([0, 1, 0, 1])
        >>> train = Samples(y[:, None], y, classes=2, groups=torch.tensor([7, 7, 9, 9]))
        >>> [shard.indices.tolist() for shard in natural(train, Config(participants=2))]
        [[0, 1], [2, 3]]

    References:
        FEMNIST's partition in LEAF (Caldas et al. 2018).
    """
    _checked(train, config)
    if train.groups is None:
        raise refusal("train", "samples with natural owners (`groups`), such as those of a LEAF folder", "none")
    owners, owner = np.unique(train.groups.cpu().numpy(), return_inverse=True)
    if config.participants > len(owners):
        raise refusal("participants", f"at most {len(owners)}, the number of natural owners", config.participants)
    positions = _cut(np.argsort(owner, kind="stable"), np.bincount(owner))
    chosen = stream(config.seed, "partition", "natural").permutation(len(owners))[: config.participants]
    chosen = np.sort(chosen) if len(chosen) == len(owners) else chosen
    return _shards(train, [positions[i] for i in chosen])


def homogeneous(train: Samples, config: Config) -> list[Shard]:
    """Give all participants the same number of samples of each class.

    Sizes, and counts within a class, differ by at most one. Every sample is used.

    Args:
        train: Training samples.
        config: Participants and seed.

    Returns:
        One shard for each participant.

    Raises:
        ValueError: There are more participants than samples.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> class_counts(homogeneous(train, Config(participants=4)))[:, 0].tolist()
        [150, 150, 150, 150]

    References:
        The homogeneous partition of Aequa: equally many points of each class.
    """
    y = _checked(train, config)
    order = np.concatenate(_by_class(y, train.classes, stream(config.seed, "partition", "homogeneous")))
    return _shards(train, [order[i :: config.participants] for i in range(config.participants)])


def dirichlet(train: Samples, config: Config, alpha: float, least: int = 10) -> list[Shard]:
    r"""Spread each class over the participants by shares drawn from Dirichlet(alpha).

    For each class $k$, $p_k \sim \mathrm{Dirichlet}(\alpha, \ldots, \alpha)$ and
    participant $i$ holds the share $p_{ki}$ of its samples. Shares are redrawn until
    everyone holds at least `least` samples. Every sample is used.

    Args:
        train: Training samples.
        config: Participants and seed.
        alpha: Concentration; the smaller, the more uneven.
        least: Samples that each holds at least.

    Returns:
        One shard for each participant.

    Raises:
        ValueError: A number is out of range, or no draw gave everyone enough.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> shards = dirichlet(train, Config(participants=4), alpha=0.5)
        >>> class_counts(shards).sum(axis=0).tolist() == [600] * 10
        True

    References:
        The heterogeneous partition of Aequa; the redraw is NIID-Bench's (Li et al. 2022).
    """
    y = _checked(train, config, number("least", least, 1, whole=True))
    concentration = np.full(config.participants, float(number("alpha", alpha, *ALPHA)))
    sizes = np.bincount(y, minlength=train.classes)[:, None]
    for attempt in range(MOST_DRAWS):
        rng = stream(config.seed, "partition", "dirichlet", attempt)
        ends = np.rint(np.cumsum(rng.dirichlet(concentration, size=train.classes), axis=1)[:, :-1] * sizes)
        counts = np.diff(np.hstack([0 * sizes, np.minimum(ends, sizes).astype(int), sizes]), axis=1).T
        if counts.sum(axis=1).min() >= least:
            return _of_counts(train, config, "dirichlet", y, counts)
    must = f"give each of {config.participants} participants at least {least} samples"
    remedy = "raise `alpha`, or lower `least` or the number of participants"
    raise fault("`dirichlet`", must, f"fewer in all {MOST_DRAWS} draws", remedy)


def fedrac_dirichlet(train: Samples, config: Config, alpha: float, samples_each: int | None = None) -> list[Shard]:
    r"""Draw each participant's mix of classes from Dirichlet(alpha p), with equal sizes.

    For each participant $i$, $q_i \sim \mathrm{Dirichlet}(\alpha p)$ with $p$ uniform
    over the $C$ classes, so each of them has the concentration $\alpha / C$; its samples
    are drawn from $q_i$ one by one, in turns of random order. A class that has run out is
    left out of everybody's $q_i$. :func:`dirichlet` draws per class instead, and its
    sizes differ.

    Args:
        train: Training samples.
        config: Participants and seed.
        alpha: Concentration over all classes; the smaller, the more uneven.
        samples_each: Samples of each participant; by default as many as there are.

    Returns:
        One shard for each participant.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> shards = fedrac_dirichlet(train, Config(participants=10), alpha=3)
        >>> {len(shard) for shard in shards}
        {600}

    References:
        "DIR" of FedRAC's released code, after Hsu et al. 2019; the turns are our choice.
        Deviation: there $p$ is the share of each class, mixes are replaced until their
        mean is close to $p$, and a class is then divided in proportion to the mixes, so
        sizes are only about equal.
    """
    y, n, classes = _checked(train, config), config.participants, train.classes
    most = len(y) // n
    each = most if samples_each is None else number("samples_each", samples_each, 1, most, whole=True)
    rng = stream(config.seed, "partition", "fedrac_dirichlet")
    # A class of probability 0 is drawn only when all others have run out.
    mix = rng.dirichlet(np.full(classes, number("alpha", alpha, *ALPHA) / classes), size=n) + 1e-12
    left, counts = np.bincount(y, minlength=classes), np.zeros((n, classes), dtype=np.int64)
    for i, u in zip(rng.permutation(np.repeat(np.arange(n), each)), rng.random(n * each)):
        ends = np.cumsum(mix[i] * (left > 0))
        k = np.searchsorted(ends, u * ends[-1], side="right")
        counts[i, k] += 1
        left[k] -= 1
    return _of_counts(train, config, "fedrac_dirichlet", y, counts)


def label_skew(train: Samples, config: Config, classes_each: int) -> list[Shard]:
    """Give each participant samples of a fixed number of classes only.

    The classes, in a seeded order, are first dealt in turn, so that each has a holder if
    there are enough participants; then each is filled up at random. A class is split
    equally among its holders; a class without holders is unused.

    Args:
        train: Training samples.
        config: Participants and seed.
        classes_each: Number of classes that each participant holds.

    Returns:
        One shard for each participant.

    Raises:
        ValueError: `classes_each` is out of range, or a class has fewer samples than
            holders.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> shards = label_skew(train, Config(participants=5), classes_each=2)
        >>> (class_counts(shards) > 0).sum(axis=1).tolist()
        [2, 2, 2, 2, 2]

    References:
        "#C = k" of NIID-Bench (Li et al. 2022); dealing in turn, where there are fewer
        participants than classes, is our choice.
    """
    y, n = _checked(train, config), config.participants
    present = np.unique(y)
    number("classes_each", classes_each, 1, len(present), whole=True)
    rng = stream(config.seed, "partition", "label_skew")
    classes = rng.permutation(present)
    holds = np.zeros((n, train.classes), dtype=bool)
    turns = np.arange(min(max(n, len(classes)), n * classes_each))
    holds[turns % n, classes[turns % len(classes)]] = True
    for row in holds:
        others = rng.permutation([c for c in classes if not row[c]])
        row[others[: classes_each - row.sum()].astype(int)] = True
    sizes, holders = np.bincount(y, minlength=train.classes), holds.sum(axis=0)
    if (short := np.flatnonzero(sizes < holders)).size:
        c = short[0]
        must = f"have a sample for each of its {holders[c]} holders"
        raise fault(f"class {c}", must, sizes[c], "lower `classes_each` or `participants`")
    rank = np.cumsum(holds, axis=0) - 1  # a participant's place among the holders of a class
    each, rest = np.divmod(sizes, np.maximum(holders, 1))
    return _of_counts(train, config, "label_skew", y, holds * (each + (rank < rest)))


@checked
def class_imbalance(
    train: Samples, config: Config, samples_each: int | None = None, replace: bool = False
) -> list[Shard]:
    r"""Give participant $i$ of $n$ the first $\lceil i C / n \rceil$ of $C$ classes.

    The order of the classes is drawn by the seed; with $n = C$, participants hold 1, 2,
    ..., $C$ classes. All hold equally many samples, equally many of each of their classes
    (to within one); the rest of the samples is left unused.

    Args:
        train: Training samples.
        config: Participants and seed.
        samples_each: Samples of each participant, at least the number of classes; by
            default the most that the data allow.
        replace: Whether samples are drawn with replacement, so that shards overlap,
            samples repeat, and `samples_each` may exceed what there is.

    Returns:
        One shard for each participant.

    Raises:
        ValueError: `samples_each` is out of range, or a class has too few samples.

    Example:
        >>> import aequa_lite as aq
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> shards = class_imbalance(train, Config(participants=10))
        >>> (class_counts(shards) > 0).sum(axis=1).tolist(), len(shards[0])
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 206)

    References:
        Class imbalance of CGSV (Xu et al. 2021), where agents hold 1 to 10 classes;
        FedRAC draws 2,000 with replacement. Other n, and the seeded order, are our choice.
    """
    y, n, total = _checked(train, config), config.participants, train.classes
    classes = stream(config.seed, "partition", "class_imbalance").permutation(total)
    sizes = np.bincount(y, minlength=total)
    owned = -(-np.arange(1, n + 1)[:, None] * total // n)  # (n, 1) number of classes of each participant
    place = np.argsort(classes)[None, :]  # (1, classes) a class's place in the order

    def needed(each: int) -> Whole:
        return (place < owned) * (each // owned + (place >= owned - each % owned))

    def short(each: int) -> bool:
        return bool((needed(each).sum(axis=0) > sizes).any())

    if replace:
        each = number("samples_each", samples_each, total, MOST_SAMPLES_EACH, whole=True)
        return _with_replacement(train, config, y, needed(each))
    # What is short stays short with more samples each.
    most = total - 1 + bisect_left(range(total, len(y) // n + 1), True, key=short)
    if most < total:
        must, got = f"have {total} samples for each of {n} participants", f"{len(y)}, {sizes.min()} of its rarest class"
        raise fault("`train`", must, got, "use fewer participants")
    each = most if samples_each is None else number("samples_each", samples_each, total, most, whole=True)
    return _of_counts(train, config, "class_imbalance", y, needed(each))


def _with_replacement(train: Samples, config: Config, y: Whole, counts: Whole) -> list[Shard]:
    """Shards with these counts, (participants, classes), each sample drawn from all of its class."""
    rng = stream(config.seed, "partition", "class_imbalance", "replace")
    pools = _by_class(y, train.classes, rng)
    if empty := [c for c, pool in enumerate(pools) if not len(pool)]:
        raise fault("each class", "have a sample", f"none of class {empty[0]}")
    drawn = [[rng.choice(pool, size) for pool, size in zip(pools, row, strict=True)] for row in counts]
    return _shards(train, map(np.concatenate, drawn))


@checked
def label_noise(shards: Sequence[Shard], config: Config, rates: Sequence[Share]) -> list[Shard]:
    """Flip a share of each participant's labels to another class.

    Args:
        shards: One shard for each participant; they stay as they are.
        config: Participants and seed.
        rates: (participants,) in [0, 1]: round(rate * samples) labels become one of the
            other classes, each equally likely.

    Returns:
        The shards with flipped labels.

    Raises:
        ValueError: Not one rate in [0, 1] for each shard.

    Example:
        >>> import aequa_lite as aq
        >>> config, train = Config(participants=2), aq.load("fashion-mini", device="cpu").train
        >>> clean = aq.data.homogeneous(train, config)
        >>> noisy = label_noise(clean, config, (0.0, 0.5))
        >>> [int((a.samples.y != b.samples.y).sum()) for a, b in zip(clean, noisy)]
        [0, 1500]

    References:
        Our choice.
    """
    one_each("shards", shards, config.participants)
    one_each("rates", rates, config.participants)
    noisy = []
    for shard, rate in zip(shards, rates, strict=True):
        rng, clean = stream(config.seed, "partition", "label_noise", shard.participant), shard.samples
        y = clean.y.cpu().numpy().copy()
        chosen = rng.permutation(len(y))[: round(rate * len(y))]
        y[chosen] = (y[chosen] + rng.integers(1, clean.classes, size=len(chosen))) % clean.classes
        noisy.append(replace(shard, samples=replace(clean, y=torch.from_numpy(y).to(clean.y.device))))
    return noisy
