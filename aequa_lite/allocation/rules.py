"""Other defensible ways to turn contributions into widths, behind the same call as ``allocate``: rule(contribution, curve)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import dual_annealing

from ..evaluation import Curve
from ..rng import stream
from ._search import SearchProblem, exact_search
from .exact import Objective, Plan, allocate, checked_accuracies, plan_of, spread_minus_gain

__all__ = ["anneal", "capped", "generous", "proportional", "thresholded"]


def _nearest(levels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The level nearest to each wanted accuracy, (n,)."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, wanted)


def proportional(contribution: Any, curve: Curve) -> Plan:
    r"""Give accuracies in proportion to contributions: nearest to $u B_i / \max B$.

    The best contributor gets the full network. Whoever brought half as much gets half the accuracy, also when that is less
    than it has alone; the scale of the contributions does not matter, their zero does.

    Example:
        >>> proportional([0.4, 0.8], Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)).widths.tolist()
        [0.1, 1.0]

    Source: the usual proportional rule.
    """
    b = checked_accuracies(contribution)
    wanted = curve.full * b / max(float(b.max()), 1e-12)
    return plan_of(_nearest(curve.levels, wanted), curve, b)


def thresholded(contribution: Any, curve: Curve, least: float) -> Plan:
    """Give the least width to whoever contributed less than ``least``, and allocate among the others.

    Raises:
        ValueError: nobody reaches the threshold.

    Example:
        >>> thresholded([0.1, 0.5, 0.7], Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=100), 0.2).widths.tolist()
        [0.1, 0.5, 1.0]

    Source: CFFL isolates participants below a threshold; here they keep the least width.
    """
    b = checked_accuracies(contribution)
    serious = b >= least
    if not serious.any():
        raise ValueError(
            f"least is {least!r}; allowed is a number that some contribution reaches (the best: {b.max():g})"
        )
    chosen = np.zeros(len(b), dtype=int)
    chosen[serious] = np.searchsorted(curve.level_widths, allocate(b[serious], curve).widths)
    return plan_of(chosen, curve, b)


def capped(contribution: Any, curve: Curve, allowance: float = 0.0) -> Plan:
    r"""Give the highest attainable accuracy that is not above contribution plus allowance.

    $a_i = \max\{a : a \le B_i + \delta\}$, and the least width where there is none. With $\delta = 0$ nobody gains.

    Example:
        >>> capped([0.4, 0.7], Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=100), 0.05).predicted_accuracy.tolist()
        [0.3, 0.6]

    Source: a cap by contribution, as in FedRAC's choice of width.
    """
    b = checked_accuracies(contribution)
    chosen = np.maximum(np.searchsorted(curve.levels, b + allowance + 1e-12, side="right") - 1, 0)
    return plan_of(chosen, curve, b)


def generous(contribution: Any, curve: Curve, spread: float) -> Plan:
    r"""Give the largest mean gain among the plans of one $\tau$ whose gains spread by no more than ``spread``.

    Equal gains up to what cannot be measured: with ``spread`` at the noise of a gain, no gain is given up for an equality
    that is a coincidence of the validation samples.

    Raises:
        ValueError: no plan's gains are that equal.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.71, 0.8), samples=1000)
        >>> allocate([0.5, 0.6], curve).predicted_accuracy.tolist()
        [0.71, 0.8]
        >>> generous([0.5, 0.6], curve, spread=0.06).predicted_accuracy.tolist()
        [0.8, 0.8]

    Source: ours.
    """
    b = checked_accuracies(contribution)
    problem = SearchProblem(b, curve.levels, np.zeros(len(b), dtype=int))
    chosen, tau, value = exact_search(problem, lambda mean, found: np.where(found <= spread + 1e-12, -mean, np.inf))
    if not np.isfinite(value):
        least = allocate(b, curve).certificate.best_spread
        raise ValueError(f"spread is {spread!r}; allowed is a number from {least:.6f}, the smallest on this curve")
    return plan_of(chosen, curve, b, tau=tau)


def anneal(
    contribution: Any, curve: Curve, *, objective: Objective | None = None, seed: int = 0, steps: int = 200
) -> Plan:
    """Search the same attainable accuracies by simulated annealing: a check that never beats ``allocate``.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.5, 0.7, 0.9), samples=100)
        >>> anneal([0.45, 0.65, 0.85], curve).widths.tolist() == allocate([0.45, 0.65, 0.85], curve).widths.tolist()
        True

    Source: the paper solves its Eq. 3 by annealing (from memory); the schedule is scipy's.
    """
    b = checked_accuracies(contribution)
    objective = objective or spread_minus_gain(0.5 / np.sqrt(max(len(b) - 1, 1)))
    problem, top = SearchProblem(b, curve.levels, np.zeros(len(b), dtype=int)), len(curve.levels) - 1

    def level(x: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(x), 0, top).astype(int)

    found = dual_annealing(
        lambda x: problem.value(level(x), objective),
        [(-0.49, top + 0.49)] * len(b),
        maxiter=steps,
        rng=stream(seed, "anneal"),
        no_local_search=True,
    )
    return plan_of(level(found.x), curve, b, value=found.fun)
