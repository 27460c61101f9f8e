r"""Solve the allocation where every accuracy between that of the least and of the full width is attainable.

For the objectives of `exact.py` the optimum is $a_i = \mathrm{clip}(B_i + \tau, \ell, u)$ for one $\tau$.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from .._check import accuracies, number
from .exact import Objective, check_objective, default_objective, spread_only


def _checked(contribution: ArrayLike, least: float, full: float) -> NDArray[np.float64]:
    """The contributions, (n,), once the range is one."""
    number("full", full, number("least", least, 0, 1), 1)
    return accuracies("contribution", contribution)


def water_filling(
    contribution: ArrayLike, least: float, full: float, objective: Objective | None = None
) -> NDArray[np.float64]:
    r"""Return the best rewards when every accuracy in $[\ell, u]$ is attainable.

    $a_i = \mathrm{clip}(B_i + \tau, \ell, u)$: everybody who is at no bound gains the same.

    Args:
        contribution: (n,) $B_i$, accuracies in [0, 1].
        least: $\ell$, accuracy of the least width.
        full: $u$, accuracy of the full width.
        objective: As for `allocate`. Between two values of $\tau$ at which somebody meets a bound, one local minimum is
            searched: enough for the objectives of `exact.py`, which have no other.

    Returns:
        (n,) accuracies.

    Example:
        >>> water_filling([0.4, 0.6], 0.3, 0.9).round(3).tolist()
        [0.7, 0.9]

    References:
        Derived from the first-order conditions (Proposition 7 of the book); water-filling.
    """
    b = _checked(contribution, least, full)
    objective = default_objective(len(b)) if objective is None else objective
    check_objective(objective)

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
    contribution: ArrayLike, least: float, full: float, objective: Objective | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    r"""Return who receives the least and who the full accuracy in the best rewards.

    At $\ell$ the gain is at least $\tau$, at $u$ at most; everybody else gains exactly $\tau$.

    Args:
        contribution: (n,) accuracies in [0, 1].
        least: $\ell$, accuracy of the least width.
        full: $u$, accuracy of the full width.
        objective: As for `water_filling`.

    Returns:
        Participants at $\ell$, and participants at $u$.

    Example:
        >>> at_bounds([0.2, 0.5, 0.8], 0.4, 0.8)
        ((0,), (2,))

    References:
        Derived here.
    """
    rewards = water_filling(contribution, least, full, objective)
    low, high = rewards <= least + 1e-12, rewards >= full - 1e-12
    return tuple(np.flatnonzero(low).tolist()), tuple(np.flatnonzero(high).tolist())


def smallest_spread(contribution: ArrayLike, least: float, full: float) -> float:
    r"""Return the smallest CGS that a curve from $\ell$ to $u$ allows; 0 iff it spans the contributions' range.

    Args:
        contribution: (n,) accuracies in [0, 1].
        least: $\ell$, accuracy of the least width.
        full: $u$, accuracy of the full width.

    Example:
        >>> round(smallest_spread([0.3, 0.7], 0.4, 0.6), 3), smallest_spread([0.3, 0.7], 0.4, 0.8)
        (0.1, 0.0)

    References:
        Derived here.
    """
    b = _checked(contribution, least, full)
    if equal_gains_possible(b, least, full):
        return 0.0
    return float((water_filling(b, least, full, spread_only()) - b).std())


def equal_gains_possible(contribution: ArrayLike, least: float, full: float) -> bool:
    r"""Say whether everybody can gain the same: $u - \ell \ge \max B - \min B$.

    The common gain is then at most $u - \max B$: a loss for all where the full width is below the best participant.

    Args:
        contribution: (n,) accuracies in [0, 1].
        least: $\ell$, accuracy of the least width.
        full: $u$, accuracy of the full width.

    Example:
        >>> equal_gains_possible([0.3, 0.7], 0.4, 0.8), equal_gains_possible([0.3, 0.7], 0.5, 0.8)
        (True, False)

    References:
        Derived here (Proposition 8 of the book).
    """
    b = _checked(contribution, least, full)
    return bool(full - least >= np.ptp(b) - 1e-12)


def critical_weight(contribution: ArrayLike) -> float:
    r"""Return the largest weight at which reading A stays with equal gains: $\sqrt{m/(n-m)}$, $m$ tied at the top.

    Beyond it the best contributors' gain is given up for more mean gain. Infinite where all are tied.

    Args:
        contribution: (n,) accuracies in [0, 1].

    Example:
        >>> round(critical_weight([0.2, 0.4, 0.6, 0.8, 0.9]), 3), critical_weight([0.5, 0.5])
        (0.5, inf)

    References:
        Derived here (Proposition 9 of the book).
    """
    b = accuracies("contribution", contribution)
    top = int((b >= b.max() - 1e-12).sum())
    return float("inf") if top == len(b) else float(np.sqrt(top / (len(b) - top)))
