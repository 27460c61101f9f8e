r"""Search for the plan with the smallest objective of the mean gain and the spread of gains.

For the objectives of `exact.py` an optimal plan gives every participant the attainable accuracy nearest to $B_i + \tau$,
among those that it may receive, for one $\tau$ (Proposition 10 of the book). So the plan changes only where $B_i + \tau$
crosses the midpoint between two neighbouring levels: $n(K-1)$ *events*. At an event both neighbours are equally near, so
$Q = \mathrm{mean}(g - \tau)^2$ does not change and the variance is $Q - (\bar g - \tau)^2$: each of these objectives is
then concave in $\bar g$ (or, for the ratio, at its minimum concave after Dinkelbach's step), and the best of the tied plans
moves all tied participants or none. Equal contributions therefore receive equal widths at no loss.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Objective = Callable[[Any, Any], Any]


GAP = 1e-6  # the certified gap of the bounded search


PLANS = 200_000  # plans up to which every one is tried


CHUNK = 4096  # values of tau that are evaluated together


ENTRIES = 1 << 22  # rewards of plans that are evaluated together


@dataclass(frozen=True, eq=False)
class SearchProblem:
    """Contributions (n,), attainable accuracies (K,) rising, and the lowest level that each may receive, (n,)."""

    contribution: NDArray[np.float64]
    levels: NDArray[np.float64]
    floor: NDArray[np.intp]

    @property
    def midpoints(self) -> NDArray[np.float64]:
        """The accuracies at which two neighbouring levels are equally near, (K - 1,)."""
        return (self.levels[1:] + self.levels[:-1]) / 2

    def nearest(self, tau: Any) -> NDArray[np.intp]:
        """The level nearest to contribution + tau that each may receive, (..., n); a tie goes to the lower one."""
        return np.maximum(np.searchsorted(self.midpoints, self.contribution + tau), self.floor)

    def spread(self, chosen: NDArray[np.intp]) -> Any:
        """The standard deviation of the gains of plans (..., n); zero where rounding hides the difference."""
        return _without_rounding(np.std(self.levels[chosen] - self.contribution, axis=-1))

    def value(self, chosen: NDArray[np.intp], objective: Objective) -> Any:
        """The objective of plans (..., n)."""
        return _defined(objective(np.mean(self.levels[chosen] - self.contribution, axis=-1), self.spread(chosen)))


def _without_rounding(spread: Any) -> Any:
    """Set a spread to zero that sixteen digits cannot tell from it."""
    return np.where(np.asarray(spread) < 1e-12, 0.0, spread)[()]


def _defined(value: Any) -> Any:
    """Set the objective of a plan for which it is undefined to infinity."""
    return np.where(np.isnan(value), np.inf, value)[()]


@dataclass(frozen=True, eq=False)
class TauPath:
    """The plans met while tau rises: number k follows the first k of E events; `distinct` where the next is at another tau.

    `mean` and `variance` of the gains are running sums, which rounding puts off by at most `error`. All fields (E + 1,).
    """

    tau: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    distinct: NDArray[np.bool_]
    error: float

    def bounds(self, objective: Objective) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values between which each plan's objective lies, if it falls in the mean and rises in the spread."""
        small, large = (np.sqrt(np.maximum(self.variance + sign * self.error, 0.0)) for sign in (-1, 1))
        ends = _defined(objective(self.mean + self.error, small)), _defined(objective(self.mean - self.error, large))
        return np.minimum(*ends), np.maximum(*ends)


def tau_path(problem: SearchProblem) -> TauPath:
    """Follow the plan from the smallest tau to the largest."""
    b, levels, floor = problem.contribution, problem.levels, problem.floor
    # each allowed step up, participant by participant, and the tau at which it is taken
    who, step = np.nonzero(np.arange(len(levels) - 1) >= floor[:, None])
    event = problem.midpoints[step] - b[who]
    order = np.argsort(event, kind="stable")
    event, who, step = event[order], who[order], step[order]
    start = levels[floor] - b  # gains of the plan before any event
    centre = float(np.median(start)) if len(event) == 0 else float(event[len(event) // 2])
    low, high = levels[step] - b[who] - centre, levels[step + 1] - b[who] - centre
    rise, squares = (np.cumsum(x, dtype=np.longdouble).astype(float) for x in (high - low, high**2 - low**2))
    mean = np.append(0.0, rise) / len(b) + np.mean(start)
    square = np.append(0.0, squares) / len(b) + np.mean((start - centre) ** 2)
    distinct = np.append(np.diff(event, prepend=-np.inf) > 1e-13, True)
    error = 8 * float((len(event) + len(b)) * np.finfo(np.longdouble).eps + 8 * np.finfo(float).eps)
    between = (event[:-1] + event[1:]) / 2
    tau = np.concatenate([event[:1] - 1e-9, between, event[-1:] + 1e-9]) if len(event) else np.zeros(1)
    return TauPath(tau, mean, np.maximum(square - (mean - centre) ** 2, 0.0), distinct, error)


def exact_search(problem: SearchProblem, objective: Objective) -> tuple[NDArray[np.intp], float, float]:
    """Try the plan between every two distinct events; return the best levels, its tau, and a value that none is below.

    The plans that rounding cannot tell from the best are evaluated again from their gains; of equal ones, the larger gain.
    """
    path = tau_path(problem)
    low, high = path.bounds(objective)
    close = np.flatnonzero(path.distinct & (low <= high[path.distinct].min()))
    most, bound = max(64, 4 * ENTRIES // len(problem.contribution)), np.inf
    if len(close) > most:  # only where nearly all contributions are equal up to rounding
        order = np.argsort(low[close], kind="stable")
        bound, close = float(low[close[order[most]]]), np.sort(close[order[:most]])
    value = np.concatenate(
        [problem.value(problem.nearest(tau), objective) for tau in _columns(path.tau[close], problem)]
    )
    rounded = np.round(value, 15)
    tau = float(path.tau[close[np.flatnonzero(rounded == rounded.min())[-1]]])
    chosen = problem.nearest(tau)
    return chosen, tau, min(bound, float(problem.value(chosen, objective)))


def _columns(tau: NDArray[np.float64], problem: SearchProblem) -> Iterator[NDArray[np.float64]]:
    """Split many taus into columns (T, 1) whose plans fit into memory."""
    size = max(1, ENTRIES // len(problem.contribution))
    return (tau[i : i + size, None] for i in range(0, len(tau), size))


def _kinds(problem: SearchProblem) -> tuple[NDArray[np.intp], list[tuple[int, int]]]:
    """An order in which participants of equal contribution and floor are neighbours, and floor and number of each kind."""
    rows = np.stack([problem.contribution, problem.floor])
    kinds, kind, count = np.unique(rows, axis=1, return_inverse=True, return_counts=True)
    return np.argsort(kind.ravel(), kind="stable"), [(int(f), int(n)) for f, n in zip(kinds[1], count)]


def few_plans(problem: SearchProblem) -> bool:
    """Say whether all plans can be tried: those that differ by an exchange of equal participants are one."""
    count = 1
    for floor, size in _kinds(problem)[1]:
        count *= math.comb(len(problem.levels) - floor + size - 1, size)
        if count > PLANS:
            return False
    return True


def enumerate_plans(problem: SearchProblem, objective: Objective) -> tuple[NDArray[np.intp], float]:
    """Try every plan; return the best levels and the value; of equal ones, the largest mean gain."""
    order, kinds = _kinds(problem)
    options = [itertools.combinations_with_replacement(range(f, len(problem.levels)), n) for f, n in kinds]
    plans, best = itertools.product(*options), (np.inf, np.inf, np.zeros(0, dtype=np.intp))
    size = max(1, ENTRIES // len(order))
    while chunk := list(itertools.islice(plans, size)):
        chosen = np.empty((len(chunk), len(order)), dtype=np.intp)
        chosen[:, order] = [list(itertools.chain(*plan)) for plan in chunk]
        value = np.round(problem.value(chosen, objective), 15)
        mean = problem.levels[chosen].mean(-1)
        k = np.lexsort((-mean, value))[0]
        best = min(best, (float(value[k]), -float(mean[k]), chosen[k]), key=lambda found: found[:2])
    return best[2], float(problem.value(best[2], objective))


@dataclass(frozen=True, eq=False)
class _Group:
    """Participants whose floor rises with the contribution: running counts, sums and squares of their contributions."""

    values: NDArray[np.float64]  # (D,) distinct contributions, rising
    count: NDArray[np.float64]  # (D + 1,) participants before each
    total: NDArray[np.float64]  # (D + 1,)
    square: NDArray[np.float64]  # (D + 1,)
    most: NDArray[np.intp]  # (K - 1,) how many distinct contributions may be at or below each level, by the floor

    @classmethod
    def of(cls, contribution: NDArray[np.float64], floor: NDArray[np.intp], levels: int) -> _Group:
        """Sort once, so that every tau costs one binary search for each level."""
        values, first, counts = np.unique(contribution, return_index=True, return_counts=True)
        sums = [np.append(0.0, np.cumsum(counts * values**power)) for power in (0, 1, 2)]
        return cls(values, *sums, np.searchsorted(floor[first], np.arange(levels - 1), side="right"))


def _groups(problem: SearchProblem) -> list[_Group]:
    """Split the participants: one group, unless stand-alone accuracies have another order than contributions."""
    b, floor, size = problem.contribution, problem.floor, len(problem.levels)
    order = np.lexsort((floor, b)) if floor.any() else slice(None)
    tied = np.diff(b[order]) == 0 if floor.any() else np.zeros(0, dtype=bool)
    rising = np.diff(floor[order]) if floor.any() else np.zeros(0)
    if (rising >= 0).all() and not (rising[tied] != 0).any():
        return [_Group.of(b, floor, size)]
    return [_Group.of(b[floor == f], floor[floor == f], size) for f in np.unique(floor)]


# The plans at many taus, (4, T): mean gain, mean squared distance of the gains to tau, and events so far.
Plans = NDArray[np.float64]
TAU, MEAN, DISTANCE, EVENTS = range(4)


def _plans_at(problem: SearchProblem, groups: list[_Group], tau: NDArray[np.float64]) -> Plans:
    """The plans at many taus: a binary search for each tau and level, whatever the number of participants."""
    n, levels = len(problem.contribution), problem.levels
    mean, distance, events = np.zeros((3, len(tau)))
    shift = levels[None, :] - tau[:, None]  # (T, K)
    for group in groups:
        upto = np.searchsorted(group.values, problem.midpoints[None, :] - tau[:, None], side="right")  # (T, K - 1)
        upto = np.minimum(upto, group.most)
        edge = np.pad(upto, ((0, 0), (1, 1)), constant_values=(0, 0))
        edge[:, -1] = len(group.values)
        count, total, square = (np.diff(sums[edge], axis=1) for sums in (group.count, group.total, group.square))
        mean += ((levels * count).sum(1) - group.total[-1]) / n
        distance += (shift**2 * count - 2 * shift * total + square).sum(1) / n
        events -= upto.sum(1)
    return np.stack([tau, mean, np.maximum(distance, 0.0), events])


def _bound(left: Plans, right: Plans, objective: Objective) -> NDArray[np.float64]:
    r"""Return a value that no plan between two taus is below, (cells,).

    The mean gain rises with tau, so it lies between its ends; $dQ/d\tau = -2(\bar g - \tau)$ bounds $Q$ from both ends;
    the variance is $Q - (\bar g - \tau)^2$, and a square is largest at an end.
    """
    width = right[TAU] - left[TAU]
    fall, rise = np.maximum(right[MEAN] - left[TAU], 0), np.maximum(right[TAU] - left[MEAN], 0)
    least = np.maximum(left[DISTANCE] - 2 * width * fall, right[DISTANCE] - 2 * width * rise)
    means, taus = np.stack([left[MEAN], right[MEAN]]), np.stack([left[TAU], right[TAU]])
    far = np.abs(means[:, None] - taus).max((0, 1))
    return _defined(objective(right[MEAN], np.sqrt(np.maximum(least - far**2 - 1e-13, 0.0))))


def bounded_search(
    problem: SearchProblem, objective: Objective, most: int = 200_000
) -> tuple[NDArray[np.intp], float, float]:
    """Branch and bound over tau; return the best levels, its tau, and a value that no plan is below.

    Cells of tau are halved until none can contain a plan better than the best by more than 1e-6. A cell with at most one
    event contains the plans at its two ends and no other. After `most` cells the search stops with a larger gap.
    """
    groups = _groups(problem)
    b, midpoints = problem.contribution, problem.midpoints
    if len(midpoints) == 0:
        return problem.nearest(0.0), 0.0, float(problem.value(problem.nearest(0.0), objective))
    edges = np.linspace(midpoints[0] - b.max() - 1e-6, midpoints[-1] - b.min() + 1e-6, 257)
    state = _plans_at(problem, groups, edges)
    left, right = state[:, :-1], state[:, 1:]
    best, tau = _smallest(state, objective)
    bound, looked = np.inf, len(edges)
    while left.size:
        low = _bound(left, right, objective)
        closed = (right[EVENTS] - left[EVENTS] <= 1) | (right[TAU] - left[TAU] < 1e-13)
        alive = ~closed & (low < best - GAP)
        bound = min(bound, np.min(low, where=~alive & ~closed, initial=np.inf))
        if looked > most:
            bound = min(bound, np.min(low, where=alive, initial=np.inf))
            break
        left, right = left[:, alive], right[:, alive]
        middle = _chunked(problem, groups, (left[TAU] + right[TAU]) / 2)
        looked += middle.shape[1]
        value, at = _smallest(middle, objective) if middle.size else (np.inf, tau)
        best, tau = (value, at) if value < best else (best, tau)
        left, right = np.hstack([left, middle]), np.hstack([middle, right])
    chosen = problem.nearest(tau)
    return chosen, tau, min(float(bound), float(problem.value(chosen, objective)))


def _smallest(plans: Plans, objective: Objective) -> tuple[float, float]:
    """The smallest value among these plans, and its tau; among equals the larger tau."""
    variance = np.maximum(plans[DISTANCE] - (plans[MEAN] - plans[TAU]) ** 2, 0.0)
    value = _defined(objective(plans[MEAN], np.sqrt(variance)))
    k = len(value) - 1 - int(value[::-1].argmin())
    return float(value[k]), float(plans[TAU, k])


def _chunked(problem: SearchProblem, groups: list[_Group], tau: NDArray[np.float64]) -> Plans:
    """The plans at very many taus, in pieces that fit into memory."""
    return np.hstack([_plans_at(problem, groups, tau[i : i + CHUNK]) for i in range(0, max(len(tau), 1), CHUNK)])
