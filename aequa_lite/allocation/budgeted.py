"""Rules of welfare: the best that a scarce resource can buy, for the product, the sum of powers, or the least of the gains.

Models can be copied at no cost: without a scarce resource, every rule that likes gains hands out the full network. So these
rules name theirs: a budget on the sum of a cost over all participants (widths, parameters or bytes). All keep two axioms,
also where a budget leaves something over that only one of two equals could have: *equal contributions earn equal widths,
and more never earns less*. So equals rise together or not at all, and what is left over stays left over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation import Curve
from .exact import Plan, checked_accuracies, plan_of

__all__ = ["leximin", "lp_welfare", "nash"]


Cost = Callable[[float], float]


@dataclass(frozen=True, eq=False)
class _Market:
    """Distinct contributions rising (G,), how many participants bring each (G,), who is where (n,), what a level costs (K,)."""

    values: np.ndarray
    size: np.ndarray
    group: np.ndarray
    costs: np.ndarray
    budget: float

    def price_of(self, chosen: np.ndarray) -> float:
        """What a plan costs in all."""
        return float(self.size @ self.costs[chosen])


def _market(contribution: Any, curve: Curve, cost: Cost, budget: float) -> _Market:
    """Contributions and costs; refused where not even the least width for all fits the budget."""
    values, group, size = np.unique(checked_accuracies(contribution), return_inverse=True, return_counts=True)
    costs = np.array([float(cost(float(w))) for w in curve.level_widths])
    if not (np.diff(costs) >= 0).all() or not costs[0] >= 0:
        raise ValueError("cost does not rise with width; allowed is a cost from 0 that does")
    if not len(group) * costs[0] <= budget:
        raise ValueError(
            f"budget is {budget:g}; allowed is at least {len(group) * costs[0]:g}, the least width for all {len(group)}"
        )
    return _Market(values, size, group, costs, budget)


def _staircase(score: np.ndarray) -> np.ndarray:
    """The levels (G,), never falling from one group to the next, whose scores (G, K) have the largest sum."""
    reach, came = np.zeros(score.shape[1]), np.empty(score.shape, dtype=int)
    for g, row in enumerate(score):
        total = row + reach  # the best up to this group if it takes level k
        reach = np.maximum.accumulate(total)  # ... or any level up to k
        better = total > np.append(-np.inf, reach[:-1])
        came[g] = np.maximum.accumulate(np.where(better, np.arange(len(total)), 0))
    chosen, k = np.empty(len(score), dtype=int), score.shape[1] - 1
    for g in range(len(score) - 1, -1, -1):
        chosen[g] = k = came[g, k]
    return chosen


def _welfare(worth: np.ndarray, shop: _Market) -> tuple[np.ndarray, float, float]:
    """Maximise the sum of worth (G, K) within the budget; return levels, value, and a bound that no such plan exceeds.

    A price on the cost decouples the groups, up to their order; the price is bisected until the budget fits, and what is
    left is spent on the best steps that still fit. The price also bounds every plan (Lagrangian duality), so the gap is known.
    """
    worth, low, high = worth * shop.size[:, None], 0.0, 1.0
    costs = shop.costs * shop.size[:, None]  # (G, K)

    def at(price: float) -> np.ndarray:
        return _staircase(worth - price * costs)

    if shop.price_of(at(0.0)) <= shop.budget:
        high = 0.0
    while shop.price_of(at(high)) > shop.budget and high < 1e15:
        high *= 2
    for _ in range(60 if high else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if shop.price_of(at(middle)) > shop.budget else (low, middle)
    rows, chosen = np.arange(len(worth)), at(high)
    bound = float((worth - high * costs)[rows, chosen].sum() + high * shop.budget)
    chosen = _spend_rest(chosen, worth, costs, shop)
    return chosen, float(worth[rows, chosen].sum()), bound


def _spend_rest(chosen: np.ndarray, worth: np.ndarray, costs: np.ndarray, shop: _Market) -> np.ndarray:
    """Spend what is left: lift a group, and every group above it that would fall behind, as long as a lift fits and pays."""
    chosen, rows = chosen.copy(), np.arange(len(worth))[:, None]
    while True:
        lifted = np.maximum(chosen[:, None], np.arange(worth.shape[1]))  # (G, K)
        here = (rows[:, 0], chosen)
        gain = (worth[rows, lifted] - worth[here][:, None])[::-1].cumsum(0)  # row 0: the top group alone
        extra = (costs[rows, lifted] - costs[here][:, None])[::-1].cumsum(0)
        allowed = (gain > 1e-13) & (extra <= shop.budget - shop.price_of(chosen) + 1e-12)
        if not allowed.any():
            return chosen
        rate = np.where(allowed, gain / np.maximum(extra, 1e-12), -np.inf)
        top, k = np.unravel_index(int(rate.argmax()), rate.shape)
        first = len(worth) - 1 - top
        chosen[first:] = np.maximum(chosen[first:], k)


def nash(contribution: Any, curve: Curve, *, cost: Cost, budget: float) -> Plan:
    r"""Maximise the product of the gains, $\sum_i \log G_i$, within a budget on $\sum_i \mathrm{cost}(w_i)$.

    The certificate's value and bound are of $-\sum \log G_i$, over plans that give equals the same and more for more.

    Raises:
        ValueError: somebody cannot gain at all, so that the product is undefined; or the budget is too small.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> nash([0.4, 0.6], curve, cost=lambda w: w, budget=2.0).widths.tolist()
        [1.0, 1.0]

    Source: Nash 1950; with a large budget everybody gets the full network.
    """
    shop = _market(contribution, curve, cost, budget)
    gains = curve.levels - shop.values[:, None]  # (G, K)
    least = (gains > 1e-12).argmax(1)  # the lowest level with a gain
    if not (gains[:, -1] > 1e-12).all() or shop.price_of(least) > budget:
        raise ValueError("nash is undefined here: within the budget somebody gains nothing; allow a larger budget")
    worth = np.where(gains > 1e-12, np.log(np.maximum(gains, 1e-12)), -np.inf)
    worth[~np.isfinite(worth)] = worth[np.isfinite(worth)].min() - 1e6
    chosen, value, bound = _welfare(worth, shop)
    return plan_of(chosen[shop.group], curve, checked_accuracies(contribution), value=-value, bound=-bound)


def lp_welfare(contribution: Any, curve: Curve, *, p: float, cost: Cost, budget: float) -> Plan:
    r"""Maximise $\sum_i \max(G_i, 0)^p$ within a budget on $\sum_i \mathrm{cost}(w_i)$, $0 < p \le 1$.

    At $p = 1$ every step up is worth the same to everybody, so only the order decides: the best contributor comes first.

    Raises:
        ValueError: ``p`` is outside (0, 1], or the budget is too small.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> lp_welfare([0.4, 0.6], curve, p=1.0, cost=lambda w: w, budget=1.5).widths.tolist()
        [0.5, 1.0]

    Source: a reviewer of the paper named lp norms as an alternative (seen).
    """
    if not 0 < p <= 1:
        raise ValueError(f"p is {p!r}; allowed is a number in (0, 1]")
    shop = _market(contribution, curve, cost, budget)
    worth = np.maximum(curve.levels - shop.values[:, None], 0.0) ** p
    chosen, value, bound = _welfare(worth, shop)
    return plan_of(chosen[shop.group], curve, checked_accuracies(contribution), value=-value, bound=-bound)


def leximin(contribution: Any, curve: Curve, *, cost: Cost, budget: float) -> Plan:
    """Raise the smallest gain as far as a budget allows, then the next: progressive filling.

    Equals rise together. Once a step does not fit, nobody below may pass the one who missed it.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> leximin([0.4, 0.6], curve, cost=lambda w: w, budget=1.1).widths.tolist()
        [0.5, 0.5]

    Source: Rawls 1971, in its lexicographic form; with a large budget everybody gets the full network.
    """
    shop = _market(contribution, curve, cost, budget)
    chosen = np.zeros(len(shop.values), dtype=int)
    cap = np.full(len(chosen), len(curve.levels) - 1)
    while (chosen < cap).any():
        gains = np.where(chosen < cap, curve.levels[chosen] - shop.values, np.inf)
        g = int(np.flatnonzero(gains <= gains.min() + 1e-12)[-1])  # among equals the higher contribution first
        while g + 1 < len(chosen) and chosen[g + 1] == chosen[g]:
            g += 1  # nobody passes the next higher contribution
        step = chosen + (np.arange(len(chosen)) == g)
        if shop.price_of(step) <= budget + 1e-12:
            chosen = step
        else:
            cap[: g + 1] = np.minimum(cap[: g + 1], chosen[g])
    return plan_of(chosen[shop.group], curve, checked_accuracies(contribution))
