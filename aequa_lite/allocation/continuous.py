r"""What the mathematics says when every accuracy between the least and the full width is attainable.

The optimum of any objective of mean and spread is $a_i = \mathrm{clip}(B_i + \tau, \ell, u)$ for one $\tau$; the rest follows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from .exact import Objective, checked_accuracies, spread_minus_gain, spread_only

__all__ = ["at_bounds", "critical_weight", "equal_gains_possible", "smallest_spread", "water_filling"]


def _range(least: float, full: float) -> None:
    """Refuse ends of a range that are none."""
    if not 0 <= least <= full <= 1:
        raise ValueError(f"least and full are {least!r} and {full!r}; allowed are 0 <= least <= full <= 1")


def water_filling(contribution: Any, least: float, full: float, objective: Objective | None = None) -> np.ndarray:
    r"""Return the best rewards when every accuracy in $[\ell, u]$ is attainable, (n,).

    $a_i = \mathrm{clip}(B_i + \tau, \ell, u)$: everybody who is at no bound gains the same. ``objective``: of mean and spread
    (default: reading A with $\lambda = 1/(2\sqrt{n-1})$).

    Raises:
        ValueError: contributions are no accuracies, or the range is none.

    Example:
        >>> water_filling([0.4, 0.6], 0.3, 0.9).round(3).tolist()
        [0.7, 0.9]

    Source: derived here from the first-order conditions; water-filling.
    """
    b = checked_accuracies(contribution)
    _range(least, full)
    objective = objective or spread_minus_gain(0.5 / np.sqrt(max(len(b) - 1, 1)))

    def value(tau: float) -> float:
        gains = np.clip(b + tau, least, full) - b
        return float(objective(gains.mean(), gains.std()))

    kinks = np.unique(np.concatenate([least - b, full - b]))  # between two of these the objective is smooth
    tries = list(kinks)
    for low, high in zip(kinks[:-1], kinks[1:]):
        tries.append(minimize_scalar(value, bounds=(low, high), method="bounded", options={"xatol": 1e-10}).x)
    values = np.array([value(tau) for tau in tries])
    best = max(tau for tau, v in zip(tries, values) if v <= values.min() + 1e-12)  # among equals the larger gain
    return np.clip(b + best, least, full)


def at_bounds(
    contribution: Any, least: float, full: float, objective: Objective | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    r"""Say who is at which bound of the best rewards: whom $\ell$ overpays, and whom $u$ stops.

    At $\ell$ the gain is at least $\tau$, at $u$ at most; everybody else gains exactly $\tau$.

    Example:
        >>> at_bounds([0.2, 0.5, 0.8], 0.4, 0.8)
        ((0,), (2,))

    Source: derived here.
    """
    paid = water_filling(contribution, least, full, objective)
    return tuple(np.flatnonzero(paid <= least).tolist()), tuple(np.flatnonzero(paid >= full).tolist())


def smallest_spread(contribution: Any, least: float, full: float) -> float:
    r"""Return the smallest CGS that a curve from $\ell$ to $u$ allows; zero iff it spans the contributions' range.

    Example:
        >>> round(smallest_spread([0.3, 0.7], 0.4, 0.6), 3), smallest_spread([0.3, 0.7], 0.4, 0.8)
        (0.1, 0.0)

    Source: derived here.
    """
    b = checked_accuracies(contribution)
    if equal_gains_possible(b, least, full):
        return 0.0
    return float((water_filling(b, least, full, spread_only()) - b).std())


def equal_gains_possible(contribution: Any, least: float, full: float) -> bool:
    r"""Say whether everybody can gain the same: $u - \ell \ge \max B - \min B$.

    The common gain is then at most $u - \max B$: a loss for all where the full width is below the best participant.

    Example:
        >>> equal_gains_possible([0.3, 0.7], 0.4, 0.8), equal_gains_possible([0.3, 0.7], 0.5, 0.8)
        (True, False)

    Source: derived here.
    """
    b = checked_accuracies(contribution)
    _range(least, full)
    return bool(full - least >= np.ptp(b) - 1e-12)


def critical_weight(contribution: Any) -> float:
    r"""Return the largest weight at which reading A stays with equal gains: $\sqrt{m/(n-m)}$, $m$ tied at the top.

    Beyond it the best contributors' gain is given up for more mean gain. Infinite where all are tied.

    Example:
        >>> round(critical_weight([0.2, 0.4, 0.6, 0.8, 0.9]), 3), critical_weight([0.5, 0.5])
        (0.5, inf)

    Source: derived here; our default is half of it for a single best participant.
    """
    b = checked_accuracies(contribution)
    top = int((b >= b.max() - 1e-12).sum())
    return float("inf") if top == len(b) else float(np.sqrt(top / (len(b) - top)))
