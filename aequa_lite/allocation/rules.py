"""Other rules that turn contributions into widths, called like `allocate`: rule(contribution, curve)."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import dual_annealing

from .._check import number, refusal
from ..evaluation import Curve
from ..rng import stream
from ._search import SearchProblem, tau_path
from .exact import Objective, Plan, allocate, check_objective, checked, default_objective, plan_of

__all__ = ["anneal", "capped", "generous", "proportional", "thresholded"]


def proportional(contribution: ArrayLike, curve: Curve) -> Plan:
    r"""Give accuracies in proportion to contributions: the attainable one nearest to $u B_i / \max_j B_j$.

    The best contributor receives the full network. Half the contribution earns half the accuracy, also where that is
    below the stand-alone accuracy. A common scale of the contributions does not matter; a common shift does.

    Args:
        contribution: (n,) accuracies in [0, 1].
        curve: Attainable accuracies; $u$ is the highest.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> proportional([0.4, 0.8], curve).widths.tolist()
        [0.1, 1.0]

    References:
        The usual proportional rule.
    """
    b = checked(contribution, curve)
    target = curve.full * b / max(float(b.max()), 1e-12)
    return plan_of(np.searchsorted((curve.levels[1:] + curve.levels[:-1]) / 2, target), curve, b)


def thresholded(contribution: ArrayLike, curve: Curve, least: float) -> Plan:
    """Give the least width to whoever contributes less than `least`, and allocate among the others.

    Args:
        contribution: (n,) accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        least: The threshold, in [0, 1].

    Raises:
        ValueError: Nobody reaches the threshold.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=100)
        >>> thresholded([0.1, 0.5, 0.7], curve, least=0.2).widths.tolist()
        [0.1, 0.5, 1.0]

    References:
        CFFL (Lyu et al. 2020) isolates participants below a threshold; that they keep the least width is our choice.
    """
    b = checked(contribution, curve)
    above = b >= number("least", least, 0, 1)
    if not above.any():
        raise refusal("least", f"a number that some contribution reaches (the best: {b.max():g})", least)
    chosen = np.zeros(len(b), dtype=int)
    chosen[above] = np.searchsorted(curve.level_widths, allocate(b[above], curve).widths)
    return plan_of(chosen, curve, b)


def capped(contribution: ArrayLike, curve: Curve, allowance: float = 0.0) -> Plan:
    r"""Give the highest attainable accuracy that is not above the contribution plus an allowance.

    $a_i = \max\{a : a \le B_i + \delta\}$, and the least width where there is none. With $\delta = 0$ nobody gains.

    Args:
        contribution: (n,) accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        allowance: $\delta$, in [0, 1].

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=100)
        >>> capped([0.4, 0.7], curve, allowance=0.05).predicted_accuracy.tolist()
        [0.3, 0.6]

    References:
        A cap by contribution, as FedRAC chooses sub-models.
    """
    b = checked(contribution, curve)
    cap = b + number("allowance", allowance, 0, 1) + 1e-12
    return plan_of(np.maximum(np.searchsorted(curve.levels, cap, side="right") - 1, 0), curve, b)


def generous(contribution: ArrayLike, curve: Curve, spread: float) -> Plan:
    r"""Give the largest mean gain among the plans of one $\tau$ whose gains spread by at most `spread`.

    With `spread` at the noise of a gain, no gain is given up for an equality that is a coincidence of the validation
    samples.

    Args:
        contribution: (n,) accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        spread: The largest CGS, from 0.

    Raises:
        ValueError: No plan's gains are that equal.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.71, 0.8), samples=1000)
        >>> allocate([0.5, 0.6], curve).predicted_accuracy.tolist()
        [0.71, 0.8]
        >>> generous([0.5, 0.6], curve, spread=0.06).predicted_accuracy.tolist()
        [0.8, 0.8]

    References:
        Our choice.
    """
    b, most = checked(contribution, curve), number("spread", spread, 0) + 1e-12
    problem = SearchProblem(b, curve.levels, np.zeros(len(b), dtype=int))
    path = tau_path(problem)
    for k in np.flatnonzero(path.distinct & (path.variance - path.error <= most**2))[::-1]:  # the mean gain falls
        chosen = problem.nearest(path.tau[k])
        if problem.spread(chosen) <= most:
            return plan_of(chosen, curve, b, tau=float(path.tau[k]))
    smallest = allocate(b, curve).certificate.best_spread
    raise refusal("spread", f"a number from {smallest:.6f}, the smallest on this curve", spread)


def anneal(
    contribution: ArrayLike, curve: Curve, *, objective: Objective | None = None, seed: int = 0, steps: int = 200
) -> Plan:
    """Search the attainable accuracies by simulated annealing: a check, which never beats `allocate`.

    Args:
        contribution: (n,) accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        objective: As for `allocate`.
        seed: Seed of the annealing.
        steps: Iterations, from 1.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.5, 0.7, 0.9), samples=100)
        >>> anneal([0.45, 0.65, 0.85], curve).widths.tolist()
        [0.1, 0.5, 1.0]

    References:
        The paper anneals its Eq. 3 (from memory); the schedule is scipy's.
    """
    b = checked(contribution, curve)
    objective = default_objective(len(b)) if objective is None else objective
    check_objective(objective)
    problem, top = SearchProblem(b, curve.levels, np.zeros(len(b), dtype=int)), len(curve.levels) - 1
    found = dual_annealing(
        partial(_value_at, problem=problem, objective=objective),
        [(-0.49, top + 0.49)] * len(b),
        maxiter=number("steps", steps, 1, whole=True),
        rng=stream(seed, "anneal"),
        no_local_search=True,
    )
    return plan_of(_rounded(found.x, top), curve, b, value=found.fun)


def _rounded(x: NDArray[np.float64], top: int) -> NDArray[np.intp]:
    """The positions of levels nearest to real numbers."""
    return np.clip(np.rint(x), 0, top).astype(int)


def _value_at(x: NDArray[np.float64], problem: SearchProblem, objective: Objective) -> float:
    """The objective at the levels nearest to x."""
    return problem.value(_rounded(x, len(problem.levels) - 1), objective)
