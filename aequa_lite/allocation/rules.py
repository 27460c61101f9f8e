"""Other rules than the exact one: some under a budget, and one for a curve on which every accuracy is attainable."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import dual_annealing, minimize_scalar

from .._check import Accuracies, Count, Fraction, NotNegative, Share, checked, number, refusal
from ..config import stream
from ..evaluation import Curve
from ._search import SearchProblem, tau_path
from .exact import Objective, Plan, allocate, checked_objective, plan_of, proved, spread_only


@checked
def proportional(contribution: Accuracies, curve: Curve) -> Plan:
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
    b = np.array(contribution, dtype=float)
    target = curve.full * b / max(float(b.max()), 1e-12)
    return plan_of(SearchProblem(target, curve.levels).nearest(0.0), curve, b)


@checked
def thresholded(contribution: Accuracies, curve: Curve, least: Share) -> Plan:
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
    b = np.array(contribution, dtype=float)
    above = b >= least
    if not above.any():
        raise refusal("least", f"a number that some contribution reaches (the best: {b.max():g})", least)
    chosen = np.zeros(len(b), dtype=int)
    chosen[above] = np.searchsorted(curve.level_widths, allocate(b[above], curve).widths)
    return plan_of(chosen, curve, b)


@checked
def capped(contribution: Accuracies, curve: Curve, allowance: Share = 0.0) -> Plan:
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
    b = np.array(contribution, dtype=float)
    below = np.searchsorted(curve.levels, b + allowance + 1e-12, side="right")  # how many levels are within the cap
    return plan_of(np.maximum(below - 1, 0), curve, b)


@checked
def generous(contribution: Accuracies, curve: Curve, spread: NotNegative) -> Plan:
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
    b, most = np.array(contribution, dtype=float), spread + 1e-12
    problem = SearchProblem(b, curve.levels)
    path = tau_path(problem)
    for k in np.flatnonzero(path.distinct & (path.variance - path.error <= most**2))[::-1]:  # the mean gain falls
        chosen = problem.nearest(path.tau[k])
        if problem.spread(chosen) <= most:
            return plan_of(chosen, curve, b, tau=float(path.tau[k]))
    smallest = allocate(b, curve).certificate.best_spread
    raise refusal("spread", f"a number from {smallest:.6f}, the smallest on this curve", spread)


@checked
def anneal(
    contribution: Accuracies, curve: Curve, *, objective: Objective | None = None, seed: int = 0, steps: Count = 200
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
    b, top = np.array(contribution, dtype=float), len(curve.levels) - 1
    objective, problem = checked_objective(objective, len(b)), SearchProblem(b, curve.levels)

    def rounded(x: NDArray[np.float64]) -> NDArray[np.intp]:
        return np.clip(np.rint(x), 0, top).astype(int)

    found = dual_annealing(
        lambda x: problem.value(rounded(x), objective),
        [(-0.49, top + 0.49)] * len(b),
        maxiter=steps,
        rng=stream(seed, "anneal"),
        no_local_search=True,
    )
    return proved(plan_of(rounded(found.x), curve, b), value=float(found.fun))


Cost = Callable[[float], float]


class _Budgeted:
    """Distinct contributions (G,), participants with each (G,), the group of each (n,), the cost of each level (K,)."""

    def __init__(self, contribution: ArrayLike, curve: Curve, cost: Cost, budget: float) -> None:
        self.contribution, self.curve = np.array(contribution, dtype=float), curve
        self.values, self.group, self.size = np.unique(self.contribution, return_inverse=True, return_counts=True)
        self.costs = np.array([number("cost", cost(float(w)), 0) for w in curve.level_widths], dtype=float)
        self.budget = budget + 1e-12  # up to rounding
        if not (np.diff(self.costs) >= 0).all():
            raise refusal("cost", "a function that never falls as the width grows", self.costs)
        if self.budget < (least := len(self.contribution) * self.costs[0]):
            raise refusal("budget", f"at least {least:g}, the least width for all {len(self.contribution)}", budget)

    def total_cost(self, chosen: NDArray[np.intp]) -> float:
        """The cost of a plan, which gives each group a level (G,)."""
        return float(self.size @ self.costs[chosen])

    def plan(self, chosen: NDArray[np.intp]) -> Plan:
        """The plan that gives each group this level."""
        return plan_of(chosen[self.group], self.curve, self.contribution)


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


def _maximised(worth: NDArray[np.float64], problem: _Budgeted) -> Plan:
    """Maximise the sum of worth (G, K) over all participants within the budget.

    With a Lagrange multiplier on the cost the budget goes, and dynamic programming finds the best rising levels. The
    multiplier is bisected until their cost fits; what is left is spent on the best steps that still fit. By duality the
    multiplier also bounds every plan, so the gap is known.
    """
    worth, costs = (each * problem.size[:, None] for each in (worth, problem.costs))  # (G, K)

    def at(multiplier: float) -> NDArray[np.intp]:
        return _best_rising_levels(worth - multiplier * costs)

    def too_costly(multiplier: float) -> bool:
        return problem.total_cost(at(multiplier)) > problem.budget

    low, high = 0.0, 1.0 if too_costly(0.0) else 0.0
    while too_costly(high) and high < 1e15:
        high *= 2
    for _ in range(60 if high else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if too_costly(middle) else (low, middle)
    rows, chosen = np.arange(len(worth)), at(high)
    bound = float((worth - high * costs)[rows, chosen].sum() + high * problem.budget)
    chosen = _spend_remaining(chosen, worth, costs, problem)
    return proved(problem.plan(chosen), value=-float(worth[rows, chosen].sum()), bound=-bound)


def _spend_remaining(
    chosen: NDArray[np.intp], worth: NDArray[np.float64], costs: NDArray[np.float64], problem: _Budgeted
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


@checked
def nash(contribution: Accuracies, curve: Curve, *, cost: Cost, budget: NotNegative) -> Plan:
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
    problem = _Budgeted(contribution, curve, cost, budget)
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
def lp_welfare(contribution: Accuracies, curve: Curve, *, p: Fraction, cost: Cost, budget: NotNegative) -> Plan:
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
    problem = _Budgeted(contribution, curve, cost, budget)
    return _maximised(np.maximum(curve.levels - problem.values[:, None], 0.0) ** p, problem)


@checked
def leximin(contribution: Accuracies, curve: Curve, *, cost: Cost, budget: NotNegative) -> Plan:
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
    problem = _Budgeted(contribution, curve, cost, budget)
    chosen = np.zeros(len(problem.values), dtype=int)
    cap = np.full(len(chosen), len(curve.levels) - 1)
    while (chosen < cap).any():
        gains = np.where(chosen < cap, curve.levels[chosen] - problem.values, np.inf)
        g = int(np.flatnonzero(gains <= gains.min() + 1e-12)[-1])  # among equals the higher contribution first
        while g + 1 < len(chosen) and chosen[g + 1] == chosen[g]:
            g += 1  # nobody passes the next higher contribution
        step = chosen + (np.arange(len(chosen)) == g)
        if problem.total_cost(step) <= problem.budget:
            chosen = step
        else:
            cap[: g + 1] = np.minimum(cap[: g + 1], chosen[g])
    return problem.plan(chosen)


@checked
def water_filling(
    contribution: Accuracies, least: Share, full: Share, objective: Objective | None = None
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
    number("full", full, least, 1)
    b = np.array(contribution, dtype=float)
    objective = checked_objective(objective, len(b))

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
    contribution: Accuracies, least: Share, full: Share, objective: Objective | None = None
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


def smallest_spread(contribution: Accuracies, least: Share, full: Share) -> float:
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
    if equal_gains_possible(contribution, least, full):
        return 0.0
    return float((water_filling(contribution, least, full, spread_only()) - contribution).std())


@checked
def equal_gains_possible(contribution: Accuracies, least: Share, full: Share) -> bool:
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
    number("full", full, least, 1)
    return bool(full - least >= np.ptp(contribution) - 1e-12)


@checked
def critical_weight(contribution: Accuracies) -> float:
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
    b = np.array(contribution, dtype=float)
    top = int((b >= b.max() - 1e-12).sum())
    return float("inf") if top == len(b) else float(np.sqrt(top / (len(b) - top)))
