"""What noise allows: how near to 1 a faultless allocation's Pearson can come on so many samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from ..evaluation import Curve
from ..metrics import cgs, pearson
from ..rng import stream
from .exact import Plan, allocate

__all__ = ["NoiseCeiling", "RewardIntervals", "noise_ceiling", "reward_intervals", "samples_for", "samples_needed"]


@dataclass(frozen=True)
class NoiseCeiling:
    """Hold the mean and the 95% interval of Pearson and of CGS over simulated runs without any fault but noise.

    Example:
        >>> NoiseCeiling(0.99, (0.97, 1.0), 0.01, (0.005, 0.015)).pearson
        0.99
    """

    pearson: float | None
    pearson_interval: tuple[float, float] | None
    cgs: float
    cgs_interval: tuple[float, float]


def noise_ceiling(
    alone_correct: Any,
    width_hits: Any,
    widths: Any,
    *,
    validation_samples: int,
    test_samples: int,
    draws: int = 200,
    seed: int = 0,
) -> NoiseCeiling:
    """Simulate the fairness that sampling noise allows on this very network and these very participants.

    The samples at hand are taken for the whole population. In each draw a validation split is drawn from it, on which
    contributions and curve are measured and widths allocated; then a test split, on which rewards are judged. All
    accuracies of a draw are measured on the same samples, so shared noise is shared here too.
    ``alone_correct`` (participants, S) and ``width_hits`` (widths, S): bool, who got which of the S samples right.

    Example:
        >>> base = np.arange(1000) / 1000
        >>> alone, wide = (np.array([[a] for a in accuracies]) > base for accuracies in ((0.4, 0.6), (0.5, 0.6, 0.7)))
        >>> found = noise_ceiling(alone, wide, (0.1, 0.5, 1.0), validation_samples=1000, test_samples=1000, draws=20)
        >>> found.pearson
        1.0

    Source: ours; the noise ceiling of a correlation.
    """
    both = np.vstack([np.asarray(alone_correct), np.asarray(width_hits)]).astype(np.float32)  # (n + K, S)
    n, population = len(alone_correct), both.shape[1]
    draw = stream(seed, "ceiling")
    even = np.full(population, 1 / population)
    seen = draw.multinomial(validation_samples, even, size=draws).astype(np.float32) @ both.T / validation_samples
    judged = draw.multinomial(test_samples, even, size=draws).astype(np.float32) @ both.T / test_samples
    correlations, spreads = [], []
    for measured, tested in zip(seen.astype(float), judged.astype(float), strict=True):
        curve = Curve(widths, np.clip(measured[n:], 0, 1), validation_samples)
        plan = allocate(np.clip(measured[:n], 0, 1), curve)
        paid = tested[n:][np.searchsorted(curve.widths, plan.widths)]
        correlations.append(pearson(tested[:n], paid))
        spreads.append(cgs(paid - tested[:n]))
    known = [r for r in correlations if r is not None]
    return NoiseCeiling(
        round(float(np.mean(known)), 6) if known else None,
        _interval(known) if known else None,
        round(float(np.mean(spreads)), 6),
        _interval(spreads),
    )


def _interval(values: Any) -> tuple[float, float]:
    """The middle 95% of simulated values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return round(float(low), 6), round(float(high), 6)


@dataclass(frozen=True)
class RewardIntervals:
    """Hold 95% intervals that measurement noise leaves.

    ``rewards``: of each reward's true accuracy; ``widths``: of the width that another measurement would have paid;
    ``pearson`` and ``cgs``: of their true values, between true contributions and the true accuracies paid out.

    Example:
        >>> RewardIntervals(((0.5, 0.6),), ((0.1, 0.2),), (0.9, 1.0), (0.0, 0.02)).pearson
        (0.9, 1.0)
    """

    rewards: tuple[tuple[float, float], ...]
    widths: tuple[tuple[float, float], ...]
    pearson: tuple[float, float] | None
    cgs: tuple[float, float]


def reward_intervals(
    contribution: Any,
    curve: Curve,
    *,
    alone_correct: Any = None,
    rule: Callable[[Any, Curve], Plan] = allocate,
    draws: int = 500,
    seed: int = 0,
) -> RewardIntervals:
    r"""Carry the noise of contributions and curve through the allocation, by a bootstrap.

    What was measured is taken for the truth; it is measured again on as many samples, widths are allocated from that, and
    paid out at the true accuracy of the width. How far predictions miss in these worlds is how far ours may miss:
    $A_i \in [\hat a_i - q_{0.975}, \hat a_i - q_{0.025}]$ with $q$ the quantiles of predicted minus paid. So the interval
    also holds the optimism of a width that was chosen because it looked good. ``alone_correct`` (n, samples) bool, on the
    curve's own samples: with it and ``curve.hits`` the samples are drawn again, and noise that all share stays shared;
    else contributions and widths are drawn independently, which overstates the noise of differences.

    Raises:
        ValueError: ``alone_correct`` does not fit the contributions or the curve's samples.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.5, 0.7, 0.9), samples=2000)
        >>> [(round(low, 2), round(high, 2)) for low, high in reward_intervals([0.45, 0.65, 0.85], curve, draws=99).rewards]
        [(0.47, 0.52), (0.68, 0.72), (0.89, 0.91)]

    Source: ours; the bootstrap (Efron 1979).
    """
    b = np.asarray(contribution, dtype=float)
    paired = alone_correct is not None and curve.correct is not None
    if alone_correct is not None and np.shape(alone_correct) != (len(b), curve.samples):
        raise ValueError(f"alone_correct has shape {np.shape(alone_correct)}; allowed is {(len(b), curve.samples)}")
    truth = curve.accuracy if paired else curve.fitted
    draw = stream(seed, "reward intervals")
    again = _again(
        draw, np.vstack([alone_correct, curve.correct]) if paired else np.append(b, truth), curve.samples, draws
    )
    plan, found = rule(b, curve), []
    for measured in again:
        drawn = rule(measured[: len(b)], Curve(curve.widths, measured[len(b) :], curve.samples))
        paid = truth[np.searchsorted(curve.widths, drawn.widths)]
        found.append((drawn.predicted_accuracy - paid, drawn.widths, paid))
    miss, widths, paid = (np.stack(each) for each in zip(*found, strict=True))  # (draws, n) each
    known = [r for r in (pearson(b, row) for row in paid) if r is not None]
    ends = [(a - high, a - low) for a, (low, high) in zip(plan.predicted_accuracy, map(_interval, miss.T))]
    return RewardIntervals(
        tuple((round(max(float(low), 0.0), 6), round(min(float(high), 1.0), 6)) for low, high in ends),
        tuple(_interval(column) for column in widths.T),
        _interval(known) if known else None,
        _interval([cgs(row - b) for row in paid]),
    )


def _again(draw: np.random.Generator, truth: np.ndarray, samples: int, draws: int) -> np.ndarray:
    """Accuracies measured again: from hits (rows, samples) by drawing samples, from accuracies (rows,) by the binomial."""
    if truth.ndim == 1:
        return draw.binomial(samples, truth, size=(draws, len(truth))) / samples
    counts = draw.multinomial(samples, np.full(samples, 1 / samples), size=draws).astype(np.float32)
    return np.clip((counts @ truth.T.astype(np.float32)).astype(float) / samples, 0, 1)


def samples_needed(
    gap: float, accuracy: float, power: float = 0.8, level: float = 0.05, disagreement: float | None = None
) -> int:
    r"""Return how many validation samples tell two rewards apart whose accuracies differ by ``gap``.

    $n = 2a(1-a)\,(z_{1-\alpha/2} + z_{1-\beta})^2 / \mathrm{gap}^2$ for independent measurements. Measured on the same
    samples, only those count on which exactly one of the two is right: with their share ``disagreement`` $d$,
    $n = (d - \mathrm{gap}^2)\,(z_{1-\alpha/2} + z_{1-\beta})^2 / \mathrm{gap}^2$.

    Raises:
        ValueError: ``gap`` is not above 0, ``accuracy`` is outside [0, 1], or ``disagreement`` outside [gap, 1].

    Example:
        >>> samples_needed(0.02, 0.8), samples_needed(0.02, 0.8, disagreement=0.1)
        (6280, 1955)

    Source: the two-sample test of proportions; McNemar 1947 for the paired one.
    """
    if not (0 < gap <= 1 and 0 <= accuracy <= 1 and 0 < power < 1 and 0 < level < 1):
        raise ValueError(
            f"gap and accuracy are {gap!r} and {accuracy!r}; allowed are 0 < gap <= 1 and 0 <= accuracy <= 1"
        )
    if disagreement is not None and not gap <= disagreement <= 1:
        raise ValueError(f"disagreement is {disagreement!r}; allowed is a number from gap = {gap:g} to 1")
    z = scipy.stats.norm.ppf(1 - level / 2) + scipy.stats.norm.ppf(power)
    variance = 2 * accuracy * (1 - accuracy) if disagreement is None else disagreement - gap**2
    return int(np.ceil(variance * z**2 / gap**2))


def samples_for(plan: Plan, curve: Curve) -> int | None:
    """Return how many validation samples tell all different rewards of a plan apart; None where all are the same.

    The two nearest rewards decide. Where the curve knows its hits, the paired test is meant.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.5, 0.7, 0.9), samples=2000)
        >>> samples_for(allocate([0.45, 0.65, 0.85], curve), curve)
        95

    Source: ours.
    """
    paid, first = np.unique(plan.predicted_accuracy, return_index=True)
    widths = np.searchsorted(curve.widths, plan.widths[first])
    needed = []
    for (low, high), (i, j) in zip(zip(paid[:-1], paid[1:]), zip(widths[:-1], widths[1:])):
        d = (
            None
            if curve.correct is None
            else max(float((curve.correct[i] != curve.correct[j]).mean()), float(high - low))
        )
        needed.append(samples_needed(float(high - low), float(low + high) / 2, disagreement=d))
    return max(needed, default=None)
