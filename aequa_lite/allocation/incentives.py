"""Does it pay to claim another contribution than one's own? The best reply, by brute force.

If more contribution never earns less, a higher claim never earns less either. So where the claim is believed, only a rule
that ignores it withstands; where it is *measured* and can only be lowered, every such rule comes close to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..evaluation import Curve
from .exact import Plan, allocate, checked_accuracies

__all__ = ["best_response", "misreport_gains"]


Rule = Callable[[Any, Curve], Plan]


CLAIMS = np.linspace(0, 1, 101)


def best_response(
    contribution: Any, curve: Curve, participant: int, rule: Rule = allocate, reports: Any = None
) -> tuple[float, float]:
    """Return the report that earns a participant most while all others tell the truth, and what it adds in accuracy.

    ``reports``: what it may claim (default: 0.00, 0.01, ..., 1.00); among equals the one nearest to the truth. A claim for
    which the rule is undefined earns nothing.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.7, 0.8), samples=100)
        >>> best_response([0.4, 0.5, 0.7], curve, 0)[1] > 0
        True

    Source: ours; the best reply of game theory, by brute force.
    """
    b = checked_accuracies(contribution)
    if not 0 <= participant < len(b):
        raise ValueError(f"participant is {participant!r}; allowed is a number from 0 to {len(b) - 1}")

    def earned(report: float) -> float:
        said = b.copy()
        said[participant] = report
        return float(rule(said, curve).predicted_accuracy[participant])

    def attempt(report: float) -> float:
        try:
            return earned(report)
        except ValueError:  # the rule is undefined for this claim: nothing is paid
            return -np.inf

    honest = earned(float(b[participant]))
    tries = CLAIMS if reports is None else np.asarray(reports, dtype=float)
    paid = np.array([attempt(float(r)) for r in tries])
    best = np.flatnonzero(paid >= paid.max(initial=-np.inf) - 1e-12)
    if not len(best) or paid[best[0]] <= honest + 1e-12:
        return float(b[participant]), 0.0
    nearest = best[np.abs(tries[best] - b[participant]).argmin()]
    return float(tries[nearest]), float(paid[nearest] - honest)


def misreport_gains(contribution: Any, curve: Curve, rule: Rule = allocate, *, measured: bool = False) -> np.ndarray:
    """Return what the best reply adds to each participant's accuracy while all others tell the truth, (n,).

    ``measured``: a contribution is measured by others and can only be lowered, so claims above the truth are not possible.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.7, 0.8), samples=100)
        >>> misreport_gains([0.4, 0.5, 0.7], curve).round(2).tolist()
        [0.3, 0.2, 0.0]

    Source: ours.
    """
    b = checked_accuracies(contribution)
    return np.array(
        [best_response(b, curve, i, rule, CLAIMS[own >= CLAIMS] if measured else None)[1] for i, own in enumerate(b)]
    )
