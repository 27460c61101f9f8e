"""Measures of fairness on plain arrays: does the reward follow the contribution, and who loses?"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

from .rng import stream

__all__ = [
    "bounded_fairness",
    "cgs",
    "fisher_interval",
    "gini",
    "holm",
    "jain",
    "mcg",
    "measure",
    "paired_gains",
    "pearson",
    "pearson_noise_interval",
    "spearman",
    "worse_off",
]


def _pair(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two finite vectors of the same length."""
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise ValueError(f"a and b have shapes {first.shape} and {second.shape}; allowed are two vectors of one length")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a or b holds a number that is not finite; allowed are finite numbers")
    return first, second


def pearson(a: Any, b: Any) -> float | None:
    r"""Return Pearson's correlation, or None where one side has no variance.

    $\rho = \mathrm{cov}(a, b) / (\mathrm{sd}(a)\,\mathrm{sd}(b))$.

    Example:
        >>> pearson([1, 2, 3], [2, 4, 6.0]), pearson([1, 1, 1], [1, 2, 3])
        (1.0, None)

    Source: the paper's main fairness figure, between accuracy without and with collaboration (seen).
    """
    a, b = _pair(a, b)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    if scale <= 1e-15 * len(a):
        return None
    return float(np.clip((a @ b) / scale, -1, 1))


def fisher_interval(r: float | None, n: int, level: float = 0.95) -> tuple[float, float] | None:
    r"""Return the interval of a correlation over participants, $\tanh(\mathrm{artanh}\,r \pm z/\sqrt{n-3})$; None for n < 4.

    Example:
        >>> [round(end, 3) for end in fisher_interval(0.98, 10)]
        [0.915, 0.995]

    Source: Fisher 1915; it speaks of other participants, not of measurement noise.
    """
    if r is None or n < 4:
        return None
    middle, half = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)), scipy.stats.norm.ppf(0.5 + level / 2) / np.sqrt(n - 3)
    return float(np.tanh(middle - half)), float(np.tanh(middle + half))


def spearman(a: Any, b: Any) -> float | None:
    """Return the correlation of the ranks (ties share their mean rank), or None where one side has no variance.

    Example:
        >>> spearman([1, 2, 3], [1, 10, 100])
        1.0
    """
    a, b = _pair(a, b)
    return pearson(scipy.stats.rankdata(a), scipy.stats.rankdata(b))


def mcg(gains: Any) -> float:
    r"""Return the mean collaboration gain, $\bar G = \frac1n \sum_i G_i$.

    Example:
        >>> mcg([0.1, 0.3])
        0.2

    Source: CYCle (the formula from memory).
    """
    return float(np.mean(gains))


def cgs(gains: Any) -> float:
    r"""Return the spread of the gains, $\sqrt{\frac1n \sum_i (G_i - \bar G)^2}$.

    Example:
        >>> round(cgs([0.1, 0.3]), 12)
        0.1

    Source: CYCle (the formula from memory).
    """
    return float(np.std(gains))


def gini(values: Any) -> float:
    r"""Return the Gini coefficient of non-negative values, $\sum_{i,j}|v_i - v_j| / (2n^2\bar v)$: 0 when all are equal.

    Raises:
        ValueError: a value is negative, or all are zero.

    Example:
        >>> gini([1, 1, 1]), gini([0, 0, 3])
        (0.0, 0.6666666666666666)
    """
    v = np.sort(np.asarray(values, dtype=float))
    if not len(v) or v[0] < 0 or v.sum() <= 0:
        raise ValueError(f"values is {v.tolist()!r}; allowed are numbers from 0 of which one is above it")
    n = len(v)
    return float((2 * np.arange(1, n + 1) - n - 1) @ v / (n * v.sum()))


def jain(values: Any) -> float:
    r"""Return Jain's index, $(\sum v)^2 / (n \sum v^2)$: 1 when all are equal, 1/n when one holds everything.

    Raises:
        ValueError: all values are zero.

    Example:
        >>> jain([1, 1]), jain([0, 5])
        (1.0, 0.5)
    """
    v = np.asarray(values, dtype=float)
    if not (v**2).sum() > 0:
        raise ValueError(f"values is {v.tolist()!r}; allowed are numbers of which one is not 0")
    return float(v.sum() ** 2 / (len(v) * (v**2).sum()))


def bounded_fairness(gains: Any) -> float:
    """Return the largest difference between two gains; an allocation is fair within a bound if this is below it.

    Example:
        >>> bounded_fairness([0.25, 0.5, 0.0])
        0.5

    Source: our definition.
    """
    return float(np.ptp(np.asarray(gains, dtype=float)))


def _hits(own: Any, paid: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two correctness matrices, (participants, samples), of one shape."""
    a, b = np.asarray(own), np.asarray(paid)
    if a.shape != b.shape or a.ndim != 2 or a.size == 0 or a.dtype != bool or b.dtype != bool:
        raise ValueError(
            f"hits have shapes {a.shape} and {b.shape}; allowed are two bool arrays (participants, samples)"
        )
    return a, b


def paired_gains(own: Any, paid: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return each gain and its standard error, paired on the samples: both (participants,).

    ``own``, ``paid``: (participants, samples) bool, whether the own and the rewarded network got the sample right.

    Example:
        >>> gain, error = paired_gains(np.array([[True, False]]), np.array([[True, True]]))
        >>> float(gain[0]), round(float(error[0]), 3)
        (0.5, 0.354)
    """
    own, paid = _hits(own, paid)
    apart = paid.astype(np.int8) - own.astype(np.int8)
    return apart.mean(1), apart.std(1) / np.sqrt(own.shape[1])


def holm(p: Any, level: float = 0.05) -> tuple[int, ...]:
    """Return which of several p-values stay significant together: the smallest against level/n, the next against level/(n-1), ...

    Example:
        >>> holm([0.04, 0.001, 0.03]), holm([0.04, 0.02])
        ((1,), (0, 1))

    Source: Holm 1979.
    """
    p, found = np.asarray(p, dtype=float), []
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        if p[i] > level / (len(p) - rank):
            break
        found.append(int(i))
    return tuple(sorted(found))


def worse_off(own: Any, paid: Any, level: float = 0.05) -> tuple[int, ...]:
    """Return who gains significantly less than nothing: a paired z-test on the samples, two-sided, Holm-corrected.

    Example:
        >>> own = np.ones((2, 400), dtype=bool)
        >>> paid = own.copy()
        >>> paid[1, :40] = False
        >>> worse_off(own, paid)
        (1,)

    Source: Holm 1979 for the correction; the definition of worse off is ours.
    """
    gain, error = paired_gains(own, paid)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error > 0, gain / np.maximum(error, 1e-300), np.where(gain < 0, -np.inf, np.inf))
    return holm(np.where(gain < 0, 2 * scipy.stats.norm.cdf(z), 1.0), level)


def pearson_noise_interval(own: Any, paid: Any, seed: int = 0, draws: int = 1000) -> tuple[float, float] | None:
    """Return the 95% interval of Pearson over test samples: the samples drawn again, the participants kept.

    Example:
        >>> correct = np.arange(300).reshape(3, 100) % np.array([[2], [3], [5]]) == 0
        >>> pearson_noise_interval(correct, correct)
        (1.0, 1.0)

    Source: the paired bootstrap (Efron 1979).
    """
    own, paid = _hits(own, paid)
    samples = own.shape[1]
    counts = stream(seed, "pearson noise").multinomial(samples, np.full(samples, 1 / samples), size=draws)
    both = counts.astype(np.float32) @ np.vstack([own, paid]).T.astype(np.float32) / samples  # (draws, 2n)
    found = [pearson(*np.split(row.astype(float), 2)) for row in both]
    known = [r for r in found if r is not None]
    if len(known) < draws / 2:
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return round(float(low), 6), round(float(high), 6)


def measure(own: Any, paid: Any, seed: int = 0) -> dict[str, Any]:
    """Return every measure of a report's ``fairness`` that follows from who got which test sample right.

    Example:
        >>> own = np.zeros((4, 50), dtype=bool)
        >>> own[np.arange(4), np.arange(4)] = own[2:, 10] = True
        >>> measure(own, own)["mcg"], measure(own, own)["better_off"]
        (0.0, 0.0)
    """
    own, paid = _hits(own, paid)
    before, after = own.mean(1), paid.mean(1)
    gains = after - before
    r = pearson(before, after)
    return {
        "pearson": r,
        "pearson_interval": fisher_interval(r, len(before)),
        "pearson_noise_interval": pearson_noise_interval(own, paid, seed),
        "spearman": spearman(before, after),
        "mcg": mcg(gains),
        "cgs": cgs(gains),
        "min_gain": float(gains.min()),
        "better_off": float((gains > 0).mean()),
        "worse_off": worse_off(own, paid),
    }
