"""What noise allows: how near to 1 a faultless allocation's Pearson can come on so many samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .allocate import allocate
from .curve import Curve
from .fairness import cgs, pearson
from .rng import stream

__all__ = ["Ceiling", "ceiling"]


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
