"""Measure whether rewards follow contributions, and who is worse off."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from ._check import (
    Count,
    Level,
    Share,
    checked,
    one_each,
    right_or_wrong,
    vector,
)
from .config import stream

__all__ = [
    "cgs", "holm", "mcg", "measure", "non_inferior", "paired_gains",
    "pearson", "pearson_noise_interval", "spearman", "worse_off",
]  # fmt: skip


def _pair(
    a: ArrayLike, b: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two finite vectors of one length."""
    first, second = vector("a", a), vector("b", b)
    return first, one_each("b", second, len(first), "numbers of `a`")


def pearson(a: ArrayLike, b: ArrayLike) -> float | None:
    r"""Return Pearson's correlation.

    $$\rho = \mathrm{cov}(a, b) / (\mathrm{sd}(a)\,\mathrm{sd}(b))$$

    Args:
        a: (n,) finite numbers.
        b: (n,) finite numbers.

    Returns:
        A number in [-1, 1], or None where one side has no variance.

    Raises:
        ValueError: Lengths differ, or a number is not finite.

    Example:
        >>> pearson([1, 2, 3], [2, 4, 6.0]), pearson([1, 1, 1], [1, 2, 3])
        (1.0, None)

    References:
        The paper's measure of fairness, between stand-alone and rewarded
        accuracy.
    """
    a, b = _pair(a, b)
    rounding = 1e-15 * len(a) * np.abs(a).max() * np.abs(b).max()
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    if scale <= rounding:
        return None
    return float(np.clip((a @ b) / scale, -1, 1))


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Return the correlation of the ranks; ties share their mean rank.

    Args:
        a: (n,) finite numbers.
        b: (n,) finite numbers.

    Returns:
        A number in [-1, 1], or None where one side has no variance.

    Raises:
        ValueError: Lengths differ, or a number is not finite.

    Example:
        >>> spearman([1, 2, 3], [1, 10, 100])
        1.0
    """
    a, b = _pair(a, b)
    return pearson(scipy.stats.rankdata(a), scipy.stats.rankdata(b))


@checked
def mcg(gains: ArrayLike) -> float:
    r"""Return the mean collaboration gain, $\bar G = \frac1n \sum_i G_i$.

    Args:
        gains: (n,) finite numbers.

    Example:
        >>> mcg([0.1, 0.3])
        0.2

    References:
        CYCle (the formula from memory).
    """
    return float(np.mean(vector("gains", gains)))


@checked
def cgs(gains: ArrayLike) -> float:
    r"""Return the spread of the gains.

    $$\sqrt{\tfrac1n \sum_i (G_i - \bar G)^2}$$

    Args:
        gains: (n,) finite numbers.

    Example:
        >>> round(cgs([0.1, 0.3]), 12)
        0.1

    References:
        CYCle (the formula from memory).
    """
    return float(np.std(vector("gains", gains)))


def _correct(
    alone: ArrayLike, reward: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which samples are right with the own and with the rewarded model."""
    a = right_or_wrong("alone_correct", alone)
    b = right_or_wrong("reward_correct", reward, a.shape[1])
    return a, one_each("reward_correct", b, len(a))


@checked
def paired_gains(
    alone_correct: ArrayLike, reward_correct: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each gain and its standard error, paired on the samples.

    Args:
        alone_correct: (n, samples) bool, which samples the participant's
            own model gets right.
        reward_correct: (n, samples) bool, the same for its reward.

    Returns:
        Gains (n,) and standard errors (n,).

    Raises:
        ValueError: An array is not bool, or the shapes differ.

    Example:
        >>> alone, reward = np.array([[True, False]]), np.ones((1, 2), bool)
        >>> gain, error = paired_gains(alone, reward)
        >>> float(gain[0]), round(float(error[0]), 3)
        (0.5, 0.354)
    """
    alone, reward = _correct(alone_correct, reward_correct)
    apart = reward.astype(np.int8) - alone.astype(np.int8)
    return apart.mean(1), apart.std(1) / np.sqrt(alone.shape[1])


@checked
def holm(p: ArrayLike, level: Level = 0.05) -> tuple[int, ...]:
    """Return which of several p-values are significant together.

    The smallest is compared with level / n, the next with level / (n - 1),
    and so on until one is above.

    Args:
        p: (n,) p-values in [0, 1].
        level: Probability of any false alarm, in (0, 1).

    Returns:
        Positions of the significant ones, rising.

    Raises:
        ValueError: A p-value is outside [0, 1].

    Example:
        >>> holm([0.04, 0.001, 0.03]), holm([0.04, 0.02])
        ((1,), (0, 1))

    References:
        Holm 1979.
    """
    values, found = vector("p", p, 0, 1), []
    for rank, i in enumerate(np.argsort(values, kind="stable")):
        if values[i] > level / (len(values) - rank):
            break
        found.append(int(i))
    return tuple(sorted(found))


def worse_off(
    alone_correct: ArrayLike, reward_correct: ArrayLike, level: float = 0.05
) -> tuple[int, ...]:
    """Return whose gain is significantly below 0.

    A paired z-test on the samples, two-sided, Holm-corrected.

    Args:
        alone_correct: (n, samples) bool, which samples the participant's
            own model gets right.
        reward_correct: (n, samples) bool, the same for its reward.
        level: Probability of any false alarm, in (0, 1).

    Raises:
        ValueError: An array is not bool, or the shapes differ.

    Example:
        >>> alone = np.ones((2, 400), dtype=bool)
        >>> reward = alone.copy()
        >>> reward[1, :40] = False
        >>> worse_off(alone, reward)
        (1,)

    References:
        Holm 1979 for the correction; the definition is our choice.
    """
    gain, error = paired_gains(alone_correct, reward_correct)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = gain / error  # where no sample differs, it is not used
    p = np.where(gain < 0, 2 * scipy.stats.norm.cdf(z), 1.0)
    return holm(p, level)


@checked
def non_inferior(
    alone_correct: ArrayLike, reward_correct: ArrayLike,
    margin: Share = 0.01, level: Level = 0.05,
) -> tuple[int, ...]:  # fmt: skip
    r"""Return whose reward is shown to lose at most `margin`.

    $$G_i - z_{1-\alpha}\,\mathrm{se}(G_i) \ge -\mathrm{margin}$$

    with the gain $G_i$ and its standard error paired on the samples, and
    half a sample added to each of the four ways in which two models can be
    right or wrong, so that few samples show nothing. Who is not
    `worse_off` may be so for want of samples; this shows it. Each
    participant is tested at the level by itself, one-sided.

    Args:
        alone_correct: (n, samples) bool, which samples the participant's
            own model gets right.
        reward_correct: (n, samples) bool, the same for its reward.
        margin: The loss of accuracy that does not count, in [0, 1].
        level: Probability $\alpha$ of a false claim, in (0, 1).

    Returns:
        Positions of these participants, rising.

    Raises:
        ValueError: An array is not bool, the shapes differ, or `margin` or
            `level` is outside its range.

    Example:
        >>> alone = np.ones((2, 400), dtype=bool)
        >>> reward = alone.copy()
        >>> reward[1, :4] = False
        >>> non_inferior(alone, reward), non_inferior(alone, reward, 0.02)
        ((0,), (0, 1))

    References:
        The test of non-inferiority (Piaggio et al. 2012), with the interval
        of Agresti and Min (2005); the margin is our choice.
    """
    alone, reward = _correct(alone_correct, reward_correct)
    won, lost = (reward & ~alone).sum(1), (alone & ~reward).sum(1)
    n = alone.shape[1] + 2
    gain = (won - lost) / n
    error = np.sqrt(won + lost + 1 - n * gain**2) / n
    lowest = gain - scipy.stats.norm.ppf(1 - level) * error
    return tuple(map(int, np.flatnonzero(lowest >= -margin)))


@checked
def pearson_noise_interval(
    alone_correct: ArrayLike, reward_correct: ArrayLike, seed: int = 0,
    draws: Count = 1000,
) -> tuple[float, float] | None:  # fmt: skip
    """Return the 95% interval of Pearson over test samples.

    The samples are drawn again with replacement, the participants kept.

    Args:
        alone_correct: (n, samples) bool, which samples the participant's
            own model gets right.
        reward_correct: (n, samples) bool, the same for its reward.
        seed: Seed of the draws.
        draws: Number of draws, from 1.

    Returns:
        Both ends, or None where half of the draws have no variance.

    Raises:
        ValueError: An array is not bool, or the shapes differ.

    Example:
        >>> thirds = np.arange(300).reshape(3, 100) % [[2], [3], [5]] == 0
        >>> pearson_noise_interval(thirds, thirds)
        (1.0, 1.0)

    References:
        The paired bootstrap (Efron 1979).
    """
    alone, reward = _correct(alone_correct, reward_correct)
    n, rng = alone.shape[1], stream(seed, "pearson noise")
    drawn = redrawn(rng, np.vstack([alone, reward]), n, draws) / n
    found = [pearson(*np.split(row.astype(float), 2)) for row in drawn]
    known = [r for r in found if r is not None]
    return interval(known) if len(known) >= draws / 2 else None


def redrawn(
    rng: np.random.Generator, right: NDArray[np.bool_], size: int,
    draws: int,
) -> NDArray[np.float32]:  # fmt: skip
    """How often each row is right when so many samples are drawn again.

    Returns:
        (draws, rows) counts.
    """
    even = np.full(right.shape[1], 1 / right.shape[1])
    times = rng.multinomial(size, even, size=draws).astype(np.float32)
    return times @ right.T.astype(np.float32)


def interval(values: Any) -> Any:
    """The middle 95% of some values, (low, high); None of no values."""
    if len(values) == 0:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return round(float(low), 6), round(float(high), 6)


@checked
def measure(
    alone_correct: ArrayLike, reward_correct: ArrayLike, seed: int = 0
) -> dict[str, Any]:
    """Return every measure of fairness that follows from who is right.

    Args:
        alone_correct: (n, samples) bool, which test samples the
            participant's own model gets right.
        reward_correct: (n, samples) bool, the same for its reward.
        seed: Seed of the bootstrap.

    Returns:
        Measures by name; `pearson_interval` is over participants (None for
        fewer than 4), `pearson_noise_interval` over test samples.

    Raises:
        ValueError: An array is not bool, or the shapes differ.

    Example:
        >>> alone = np.eye(4, 50, dtype=bool)
        >>> alone[2:, 10] = True
        >>> found = measure(alone, alone)
        >>> found["mcg"], found["better_off"]
        (0.0, 0.0)

    References:
        Fisher 1915 for the interval over participants.
    """
    alone, reward = _correct(alone_correct, reward_correct)
    before, after = alone.mean(1), reward.mean(1)
    gains = after - before
    r = pearson(before, after)
    interval = None
    if r is not None and len(before) > 3:
        fisher = scipy.stats.pearsonr(before, after).confidence_interval()
        interval = (float(fisher.low), float(fisher.high))
    noise = pearson_noise_interval(alone, reward, seed)
    return {
        "pearson": r,
        "pearson_interval": interval,
        "pearson_noise_interval": noise,
        "spearman": spearman(before, after),
        "mcg": mcg(gains),
        "cgs": cgs(gains),
        "min_gain": float(gains.min()),
        "better_off": float((gains > 0).mean()),
        "worse_off": worse_off(alone, reward),
        "non_inferior": non_inferior(alone, reward),
    }
