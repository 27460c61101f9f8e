"""What noise allows: how near to 1 a faultless allocation's Pearson can come on so many samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from .allocate import allocate
from .curve import Curve
from .fairness import cgs, pearson
from .rng import stream

__all__ = ["Ceiling", "Intervals", "ceiling", "reward_intervals", "samples_needed"]


@dataclass(frozen=True)
class Ceiling:
    """Hold the mean and the 95% interval of Pearson and of CGS over simulated runs without any fault but noise.

    Example:
        >>> Ceiling(0.99, (0.97, 1.0), 0.01, (0.005, 0.015)).pearson
        0.99
    """

    pearson: float | None
    pearson_interval: tuple[float, float] | None
    cgs: float
    cgs_interval: tuple[float, float]


def ceiling(
    alone_hits: Any,
    width_hits: Any,
    widths: Any,
    *,
    validation_samples: int,
    test_samples: int,
    draws: int = 200,
    seed: int = 0,
) -> Ceiling:
    """Simulate the fairness that sampling noise allows on this very network and these very participants.

    The samples at hand are taken for the whole population. In each draw a validation split is drawn from it, on which
    contributions and curve are measured and widths allocated; then a test split, on which rewards are judged. All
    accuracies of a draw are measured on the same samples, so shared noise is shared here too.
    ``alone_hits`` (participants, S) and ``width_hits`` (widths, S): bool, who got which of the S samples right.

    Example:
        >>> base = np.arange(1000) / 1000
        >>> alone, wide = (np.array([[a] for a in accuracies]) > base for accuracies in ((0.4, 0.6), (0.5, 0.6, 0.7)))
        >>> found = ceiling(alone, wide, (0.1, 0.5, 1.0), validation_samples=1000, test_samples=1000, draws=20)
        >>> found.pearson
        1.0

    Source: ours; the noise ceiling of a correlation.
    """
    both = np.vstack([np.asarray(alone_hits), np.asarray(width_hits)]).astype(np.float32)  # (n + K, S)
    n, population = len(alone_hits), both.shape[1]
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
    return Ceiling(
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
class Intervals:
    """Hold 95% intervals that measurement noise leaves: of each reward's true accuracy, of Pearson and of CGS.

    Example:
        >>> Intervals(((0.5, 0.6),), (0.9, 1.0), (0.0, 0.02)).pearson
        (0.9, 1.0)
    """

    rewards: tuple[tuple[float, float], ...]
    pearson: tuple[float, float] | None
    cgs: tuple[float, float]


def reward_intervals(contribution: Any, curve: Curve, *, draws: int = 500, seed: int = 0) -> Intervals:
    """Carry the noise of contributions and curve through the allocation, by a parametric bootstrap.

    The measured contributions and the monotone fit are taken for the truth; both are measured again on as many
    samples, widths are allocated from what was measured, and paid out at the true accuracy of the width.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.5, 0.7, 0.9), samples=2000)
        >>> reward_intervals([0.45, 0.65, 0.85], curve, draws=50).rewards
        ((0.5, 0.5), (0.7, 0.7), (0.9, 0.9))

    Source: ours; the bootstrap (Efron 1979).
    """
    b, n = np.asarray(contribution, dtype=float), curve.samples
    draw = stream(seed, "reward intervals")
    paid = np.empty((draws, len(b)))
    for k in range(draws):
        again = Curve(curve.widths, draw.binomial(n, curve.fitted) / n, n)
        plan = allocate(draw.binomial(n, b) / n, again)
        paid[k] = curve.fitted[np.searchsorted(curve.widths, plan.widths)]
    known = [r for r in (pearson(b, row) for row in paid) if r is not None]
    return Intervals(
        tuple(_interval(column) for column in paid.T),
        _interval(known) if known else None,
        _interval([cgs(row - b) for row in paid]),
    )


def samples_needed(gap: float, accuracy: float, power: float = 0.8, level: float = 0.05) -> int:
    r"""Return how many validation samples tell two rewards apart whose accuracies differ by ``gap``.

    $n = 2a(1-a)\,(z_{1-\alpha/2} + z_{1-\beta})^2 / \mathrm{gap}^2$ for independent measurements; measured on the same
    samples, as here, fewer may do.

    Raises:
        ValueError: ``gap`` is not above 0, or ``accuracy`` is outside [0, 1].

    Example:
        >>> samples_needed(0.02, 0.8)
        6280

    Source: the two-sample test of proportions.
    """
    if not (0 < gap <= 1 and 0 <= accuracy <= 1 and 0 < power < 1 and 0 < level < 1):
        raise ValueError(
            f"gap and accuracy are {gap!r} and {accuracy!r}; allowed are 0 < gap <= 1 and 0 <= accuracy <= 1"
        )
    z = stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)
    return int(np.ceil(2 * accuracy * (1 - accuracy) * z**2 / gap**2))
