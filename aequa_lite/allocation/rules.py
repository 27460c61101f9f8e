"""Other rules than the exact one: some under a budget, and one for a curve on which every accuracy is attainable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import dual_annealing, minimize_scalar

from .._check import Accuracies, Fraction, Share, accuracies, checked, number, refusal
from ..evaluation import Curve
from ..rng import stream
from ._search import SearchProblem, tau_path
from .exact import (
    Objective,
    Plan,
    allocate,
    check_inputs,
    check_objective,
    default_objective,
    plan_of,
    proved,
    spread_only,
)


def proportional(contribution: ArrayLike, curve: Curve) -> Plan:
    r"""Give accuracies in proportion to contributions: the attainable one nearest to $u B_i / \max_j B_j$.

    The best contributor receives the full network, unless all contributions are 0. Half the contribution earns half the
    accuracy, also where that is below the stand-alone accuracy. A common scale of the contributions does not matter; a
    common shift does.

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
    b = check_inputs(contribution, curve)
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
    b = check_inputs(contribution, curve)
    above = b >= number("least", least, 0, 1)
    if not above.any():
        raise refusal("least", f"a number that some contribution reaches (the best: {b.max():g})", least)
    chosen = np.zeros(len(b), dtype=int)
    chosen[above] = np.searchsorted(curve.level_widths, allocate(b[above], curve).widths)
    return plan_of(chosen, curve, b)


def capped(contribution: ArrayLike, curve: Curve, allowance: Share = 0.0) -> Plan:
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
    b = check_inputs(contribution, curve)
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
    b, most = check_inputs(contribution, curve), number("spread", spread, 0) + 1e-12
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
    b = check_inputs(contribution, curve)
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
    return proved(plan_of(_rounded(found.x, top), curve, b), found.fun)


def _rounded(x: NDArray[np.float64], top: int) -> NDArray[np.intp]:
    """The positions of levels nearest to real numbers."""
    return np.clip(np.rint(x), 0, top).astype(int)


def _value_at(x: NDArray[np.float64], problem: SearchProblem, objective: Objective) -> float:
    """The objective at the levels nearest to x."""
    return problem.value(_rounded(x, len(problem.levels) - 1), objective)


Cost = Callable[[float], float]


@dataclass(frozen=True, eq=False)
class _Problem:
    """Distinct contributions (G,), participants with each (G,), the group of each (n,), the cost of each level (K,)."""

    contribution: NDArray[np.float64]
    curve: Curve
    values: NDArray[np.float64]
    size: NDArray[np.intp]
    group: NDArray[np.intp]
    costs: NDArray[np.float64]
    budget: float

    def total_cost(self, chosen: NDArray[np.intp]) -> float:
        """The cost of a plan, which gives each group a level (G,)."""
        return float(self.size @ self.costs[chosen])

    def plan(self, chosen: NDArray[np.intp], value: float = np.nan, bound: float = np.nan) -> Plan:
        """The plan that gives each group this level; value and bound are of what is minimised."""
        return proved(plan_of(chosen[self.group], self.curve, self.contribution), value, bound)


def _problem(contribution: ArrayLike, curve: Curve, cost: Cost, budget: float) -> _Problem:
    """Contributions and costs; refused where not even the least width for all fits the budget."""
    b = check_inputs(contribution, curve)
    if not callable(cost):
        raise refusal("cost", "a function of the width", cost)
    values, group, size = np.unique(b, return_inverse=True, return_counts=True)
    costs = np.array([number("cost", cost(float(w)), 0) for w in curve.level_widths], dtype=float)
    if not (np.diff(costs) >= 0).all():
        raise refusal("cost", "a function that never falls as the width grows", costs)
    limit = number("budget", budget, 0) + 1e-12  # up to rounding
    if limit < len(b) * costs[0]:
        raise refusal("budget", f"at least {len(b) * costs[0]:g}, the least width for all {len(b)}", budget)
    return _Problem(b, curve, values, size, group, costs, limit)


def _best_rising_levels(score: NDArray[np.float64]) -> NDArray[np.intp]:
    """The levels (G,), never falling from one group to the next, whose scores (G, K) have the largest sum.

    Dynamic programming: `reach` is the best sum up to a group that uses levels up to k, `last` its level for that group.
    """
    reach, last = np.zeros(score.shape[1]), np.empty(score.shape, dtype=int)
    for g, row in enumerate(score):
        total = row + reach
        reach = np.maximum.accumulate(total)
        better = total > np.append(-np.inf, reach[:-1])
        last[g] = np.maximum.accumulate(np.where(better, np.arange(len(total)), 0))
    chosen, k = np.empty(len(score), dtype=int), score.shape[1] - 1
    for g in range(len(score) - 1, -1, -1):
        chosen[g] = k = last[g, k]
    return chosen


def _maximised(worth: NDArray[np.float64], problem: _Problem) -> Plan:
    """Maximise the sum of worth (G, K) over all participants within the budget.

    With a Lagrange multiplier on the cost the budget goes, and dynamic programming finds the best rising levels. The
    multiplier is bisected until their cost fits; what is left is spent on the best steps that still fit. By duality the
    multiplier also bounds every plan, so the gap is known.
    """
    worth, low, high = worth * problem.size[:, None], 0.0, 1.0
    costs = problem.costs * problem.size[:, None]  # (G, K)

    def at(multiplier: float) -> NDArray[np.intp]:
        return _best_rising_levels(worth - multiplier * costs)

    def too_costly(multiplier: float) -> bool:
        return problem.total_cost(at(multiplier)) > problem.budget

    if not too_costly(0.0):
        high = 0.0
    while too_costly(high) and high < 1e15:
        high *= 2
    for _ in range(60 if high else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if too_costly(middle) else (low, middle)
    rows, chosen = np.arange(len(worth)), at(high)
    bound = float((worth - high * costs)[rows, chosen].sum() + high * problem.budget)
    chosen = _spend_remaining(chosen, worth, costs, problem)
    return problem.plan(chosen, -float(worth[rows, chosen].sum()), -bound)


def _spend_remaining(
    chosen: NDArray[np.intp], worth: NDArray[np.float64], costs: NDArray[np.float64], problem: _Problem
) -> NDArray[np.intp]:
    """Lift a group, and every group above it that would fall behind, as long as a lift fits and adds worth."""
    chosen, rows = chosen.copy(), np.arange(len(worth))[:, None]
    while True:
        lifted = np.maximum(chosen[:, None], np.arange(worth.shape[1]))  # (G, K)
        here = (rows[:, 0], chosen)
        gain = (worth[rows, lifted] - worth[here][:, None])[::-1].cumsum(0)  # row 0: the top group alone
        extra = (costs[rows, lifted] - costs[here][:, None])[::-1].cumsum(0)
        allowed = (gain > 1e-13) & (extra <= problem.budget - problem.total_cost(chosen) + 1e-12)
        if not allowed.any():
            return chosen
        rate = np.where(allowed, gain / np.maximum(extra, 1e-12), -np.inf)
        top, k = np.unravel_index(int(rate.argmax()), rate.shape)
        first = len(worth) - 1 - top
        chosen[first:] = np.maximum(chosen[first:], k)


def nash(contribution: ArrayLike, curve: Curve, *, cost: Cost, budget: float) -> Plan:
    r"""Maximise the product of the gains, $\sum_i \log G_i$, within a budget on $\sum_i \mathrm{cost}(w_i)$.

    Args:
        contribution: (n,) accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        cost: Cost of a width, from 0, never falling.
        budget: The largest sum of costs.

    Returns:
        A plan whose certificate states value and bound of $-\sum_i \log G_i$, over plans that keep both axioms.

    Raises:
        ValueError: The budget is too small for the least width for all, or for a gain of everybody.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> nash([0.4, 0.6], curve, cost=lambda width: width, budget=2.0).widths.tolist()
        [1.0, 1.0]

    References:
        Nash 1950. The budget, the axioms and the algorithm are our choice.
    """
    problem = _problem(contribution, curve, cost, budget)
    gains = curve.levels - problem.values[:, None]  # (G, K)
    positive = gains > 1e-12
    if not positive[:, -1].all():
        raise refusal("contribution", f"below the full width's {curve.full:g}, so that everybody gains", contribution)
    if (needed := problem.total_cost(positive.argmax(1))) > problem.budget:
        raise refusal("budget", f"at least {needed:g}, at which everybody gains", budget)
    worth = np.where(positive, np.log(np.maximum(gains, 1e-12)), -np.inf)
    worth[~positive] = worth[positive].min() - 1e6
    return _maximised(worth, problem)


@checked
def lp_welfare(contribution: Accuracies, curve: Curve, *, p: Fraction, cost: Cost, budget: float) -> Plan:
    r"""Maximise $\sum_i \max(G_i, 0)^p$ within a budget on $\sum_i \mathrm{cost}(w_i)$.

    At $p = 1$ every step up is worth the same to everybody, so only the order decides: the best contributor comes first.

    Args:
        contribution: (n,) accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        p: Power in (0, 1].
        cost: Cost of a width, from 0, never falling.
        budget: The largest sum of costs.

    Returns:
        A plan whose certificate states value and bound of the negative sum, over plans that keep both axioms.

    Raises:
        ValueError: `p` is outside (0, 1], or the budget is too small.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> lp_welfare([0.4, 0.6], curve, p=1.0, cost=lambda width: width, budget=1.5).widths.tolist()
        [0.5, 1.0]

    References:
        A reviewer of the paper named lp norms as an alternative; the rest is our choice.
    """
    problem = _problem(contribution, curve, cost, budget)
    return _maximised(np.maximum(curve.levels - problem.values[:, None], 0.0) ** p, problem)


def leximin(contribution: ArrayLike, curve: Curve, *, cost: Cost, budget: float) -> Plan:
    """Raise the smallest gain as far as a budget allows, then the next: progressive filling.

    Equal participants rise together. Once a step does not fit, nobody below may pass the one who missed it. Where unequal
    participants have equal gains, the higher contribution is tried first, which need not be the best order.

    Args:
        contribution: (n,) accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        cost: Cost of a width, from 0, never falling.
        budget: The largest sum of costs.

    Raises:
        ValueError: The budget is too small.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> leximin([0.4, 0.6], curve, cost=lambda width: width, budget=1.1).widths.tolist()
        [0.5, 0.5]

    References:
        Rawls 1971, in its lexicographic form.
    """
    problem = _problem(contribution, curve, cost, budget)
    chosen = np.zeros(len(problem.values), dtype=int)
    cap = np.full(len(chosen), len(curve.levels) - 1)
    while (chosen < cap).any():
        gains = np.where(chosen < cap, curve.levels[chosen] - problem.values, np.inf)
        g = int(np.flatnonzero(gains <= gains.min() + 1e-12)[-1])  # among equals the higher contribution first
        while g + 1 < len(chosen) and chosen[g + 1] == chosen[g]:
            g += 1  # nobody passes the next higher contribution
        step = chosen + (np.arange(len(chosen)) == g)
        if problem.total_cost(step) <= budget + 1e-12:
            chosen = step
        else:
            cap[: g + 1] = np.minimum(cap[: g + 1], chosen[g])
    return problem.plan(chosen)


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
