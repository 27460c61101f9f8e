"""Other defensible ways to turn contributions into widths, behind the same call as ``allocate``.

Models can be copied at no cost: without a scarce resource, every rule that likes gains hands out the full network. So the
rules of welfare here name theirs: a budget on the sum of a cost over all participants (widths, parameters or bytes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import dual_annealing

from .allocate import Objective, Plan, allocate, checked, plan_of, spread_minus_gain
from .curve import Curve
from .rng import stream
from .search import Problem

__all__ = ["anneal", "best_reply", "capped", "leximin", "lp_welfare", "nash", "proportional", "thresholded"]

Rule = Callable[[Any, Curve], Plan]
Cost = Callable[[float], float]


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
    b = checked(contribution)
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
    b = checked(contribution)
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
    b = checked(contribution)
    chosen = np.maximum(np.searchsorted(curve.levels, b + allowance + 1e-12, side="right") - 1, 0)
    return plan_of(chosen, curve, b)


def _costs(curve: Curve, cost: Cost, budget: float, n: int) -> np.ndarray:
    """What each level costs, (levels,); refused where not even the least width for all fits the budget."""
    costs = np.array([float(cost(float(w))) for w in curve.level_widths])
    if not (np.diff(costs) >= 0).all() or costs[0] < 0:
        raise ValueError("cost does not rise with width; allowed is a cost from 0 that does")
    if n * costs[0] > budget:
        raise ValueError(f"budget is {budget:g}; allowed is at least {n * costs[0]:g}, the least width for all {n}")
    return costs


def _welfare(worth: np.ndarray, costs: np.ndarray, budget: float) -> tuple[np.ndarray, float, float]:
    """Maximise the sum of worth (n, levels) within the budget; return levels, value, and a bound that none exceeds.

    A price on the cost decouples the participants; the price is bisected until the budget fits, what is left is spent on
    the best steps that still fit. The price also bounds every plan (Lagrangian duality), so the gap is known.
    """
    n, low, high = len(worth), 0.0, 1.0
    rows = np.arange(n)

    def at(price: float) -> np.ndarray:
        return (worth - price * costs).argmax(1)

    while costs[at(high)].sum() > budget and high < 1e15:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if costs[at(middle)].sum() > budget else (low, middle)
    fits_free = costs[at(0.0)].sum() <= budget
    chosen = at(0.0) if fits_free else at(high)
    price = 0.0 if fits_free else high
    bound = float((worth - price * costs).max(1).sum() + price * budget)
    while True:  # spend what is left
        gain = worth - worth[rows, chosen][:, None]
        extra = costs[None, :] - costs[chosen][:, None]
        allowed = (gain > 1e-15) & (extra <= budget - costs[chosen].sum() + 1e-12)
        if not allowed.any():
            return chosen, float(worth[rows, chosen].sum()), bound
        rate = np.where(allowed, gain / np.maximum(extra, 1e-12), -np.inf)
        i, k = np.unravel_index(int(rate.argmax()), rate.shape)
        chosen[i] = k


def nash(contribution: Any, curve: Curve, *, cost: Cost, budget: float) -> Plan:
    r"""Maximise the product of the gains, $\sum_i \log G_i$, within a budget on $\sum_i \mathrm{cost}(w_i)$.

    The certificate's value and bound are of $-\sum \log G_i$.

    Raises:
        ValueError: somebody cannot gain at all, so that the product is undefined; or the budget is too small.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> nash([0.4, 0.6], curve, cost=lambda w: w, budget=2.0).widths.tolist()
        [1.0, 1.0]

    Source: Nash 1950; with a large budget everybody gets the full network.
    """
    b = checked(contribution)
    costs = _costs(curve, cost, budget, len(b))
    gains = curve.levels[None, :] - b[:, None]  # (n, levels)
    worth = np.where(gains > 0, np.log(np.maximum(gains, 1e-300)), -1e6)
    chosen, value, bound = _welfare(worth, costs, budget)
    if value < -1e5:
        raise ValueError("nash is undefined here: within the budget somebody gains nothing; allow a larger budget")
    return plan_of(chosen, curve, b, value=-value, bound=-bound)


def lp_welfare(contribution: Any, curve: Curve, *, p: float, cost: Cost, budget: float) -> Plan:
    r"""Maximise $\sum_i \max(G_i, 0)^p$ within a budget on $\sum_i \mathrm{cost}(w_i)$, $0 < p \le 1$.

    Raises:
        ValueError: ``p`` is outside (0, 1], or the budget is too small.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> lp_welfare([0.4, 0.6], curve, p=1.0, cost=lambda w: w, budget=1.5).widths.tolist()
        [1.0, 0.5]

    Source: a reviewer of the paper named lp norms as an alternative (seen).
    """
    if not 0 < p <= 1:
        raise ValueError(f"p is {p!r}; allowed is a number in (0, 1]")
    b = checked(contribution)
    costs = _costs(curve, cost, budget, len(b))
    worth = np.maximum(curve.levels[None, :] - b[:, None], 0.0) ** p
    chosen, value, bound = _welfare(worth, costs, budget)
    return plan_of(chosen, curve, b, value=-value, bound=-bound)


def leximin(contribution: Any, curve: Curve, *, cost: Cost, budget: float) -> Plan:
    """Raise the smallest gain as far as a budget allows, then the next: progressive filling.

    The smallest gain is the largest possible; among the others ties are broken by the cheaper step.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> leximin([0.4, 0.6], curve, cost=lambda w: w, budget=1.1).widths.tolist()
        [0.5, 0.5]

    Source: Rawls 1971, in its lexicographic form; with a large budget everybody gets the full network.
    """
    b = checked(contribution)
    costs = _costs(curve, cost, budget, len(b))
    chosen, open_to = np.zeros(len(b), dtype=int), np.full(len(b), len(curve.levels) > 1)
    while open_to.any():
        gains = np.where(open_to, curve.levels[chosen] - b, np.inf)
        lowest = np.flatnonzero(gains <= gains.min() + 1e-12)
        step = costs[chosen[lowest] + 1] - costs[chosen[lowest]]
        i = lowest[int(step.argmin())]
        if costs[chosen].sum() + step.min() > budget + 1e-12:
            open_to[i] = False
            continue
        chosen[i] += 1
        open_to[i] = chosen[i] + 1 < len(curve.levels)
    return plan_of(chosen, curve, b)


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
    b = checked(contribution)
    objective = objective or spread_minus_gain(0.5 / np.sqrt(max(len(b) - 1, 1)))
    problem, top = Problem(b, curve.levels, np.zeros(len(b), dtype=int)), len(curve.levels) - 1

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


def best_reply(
    contribution: Any, curve: Curve, participant: int, rule: Rule = allocate, reports: Any = None
) -> tuple[float, float]:
    """Return the report that earns a participant most while all others tell the truth, and what it adds in accuracy.

    ``reports``: what it may claim (default: 0.00, 0.01, ..., 1.00); among equals the one nearest to the truth.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.7, 0.8), samples=100)
        >>> best_reply([0.4, 0.5, 0.7], curve, 0)[1] > 0
        True

    Source: ours; the best reply of game theory, by brute force.
    """
    b = checked(contribution)
    if not 0 <= participant < len(b):
        raise ValueError(f"participant is {participant!r}; allowed is a number from 0 to {len(b) - 1}")

    def earned(report: float) -> float:
        said = b.copy()
        said[participant] = report
        return float(rule(said, curve).predicted_accuracy[participant])

    honest = earned(float(b[participant]))
    tries = np.linspace(0, 1, 101) if reports is None else np.asarray(reports, dtype=float)
    paid = np.array([earned(float(r)) for r in tries])
    best = np.flatnonzero(paid >= paid.max() - 1e-12)
    nearest = best[np.abs(tries[best] - b[participant]).argmin()]
    if paid[nearest] <= honest + 1e-12:
        return float(b[participant]), 0.0
    return float(tries[nearest]), float(paid[nearest] - honest)
