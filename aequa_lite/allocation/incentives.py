"""What a false claim pays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._check import accuracies, checked, flag, number
from ..evaluation import Curve
from .exact import Plan, allocate, check_inputs

Rule = Callable[[ArrayLike, Curve], Plan]


REPORTS = np.linspace(0, 1, 101)


@checked
def best_response(
    contribution: ArrayLike, curve: Curve, participant: int, rule: Rule = allocate, reports: ArrayLike | None = None
) -> tuple[float, float]:
    """Return the report that earns a participant most while all others are truthful, and what it adds.

    Args:
        contribution: (n,) true contributions, accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        participant: Whose report, from 0.
        rule: Allocation rule of contributions and curve.
        reports: Possible reports in [0, 1] (default: 0.00, 0.01, ..., 1.00). A report for which the rule is undefined
            earns nothing.

    Returns:
        The report, of equals the one nearest to the truth, and the accuracy that it adds.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.7, 0.8), samples=100)
        >>> best_response([0.4, 0.5, 0.7], curve, 0)[1] > 0
        True

    References:
        The best response of game theory, by brute force. Our choice.
    """
    b = check_inputs(contribution, curve)
    number("participant", participant, 0, len(b) - 1, whole=True)
    tries = REPORTS if reports is None else accuracies("reports", reports)

    def earned(report: float) -> float:
        reported = b.copy()
        reported[participant] = report
        return float(rule(reported, curve).predicted_accuracy[participant])

    def attempt(report: float) -> float:
        try:
            return earned(report)
        except ValueError:  # the rule is undefined for this report
            return -np.inf

    honest = earned(float(b[participant]))
    rewards = np.array([attempt(float(r)) for r in tries])
    if rewards.max() <= honest + 1e-12:
        return float(b[participant]), 0.0
    best = np.flatnonzero(rewards >= rewards.max() - 1e-12)
    nearest = best[np.abs(tries[best] - b[participant]).argmin()]
    return float(tries[nearest]), float(rewards[nearest] - honest)


@checked
def misreport_gains(
    contribution: ArrayLike, curve: Curve, rule: Rule = allocate, *, measured: bool = False
) -> NDArray[np.float64]:
    """Return what the best response adds to each participant's accuracy while all others are truthful.

    Args:
        contribution: (n,) true contributions, accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        rule: Allocation rule of contributions and curve.
        measured: Whether contributions are measured, so that they can only be lowered.

    Returns:
        (n,) accuracies.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.7, 0.8), samples=100)
        >>> misreport_gains([0.4, 0.5, 0.7], curve).round(2).tolist()
        [0.3, 0.2, 0.0]

    References:
        Our choice.
    """
    b, flagged = check_inputs(contribution, curve), flag("measured", measured)
    reports = [REPORTS[own >= REPORTS] if flagged else REPORTS for own in b]
    return np.array([best_response(b, curve, i, rule, each)[1] for i, each in enumerate(reports)])
