r"""The search behind the allocation: one number tau, tried everywhere that matters.

For any objective of the gains' mean and spread that rises with the spread, an optimal plan gives every participant the
attainable accuracy nearest to $B_i + \tau$ for one $\tau$. So the plan changes only where $B_i + \tau$ crosses the middle
between two neighbouring levels: $n(K-1)$ *events*. At an event both neighbours are equally near, so
$Q = \mathrm{mean}(g - \tau)^2$ does not change, and the variance $Q - (\bar g - \tau)^2$ is concave in $\bar g$ among the plans
that differ in ties only. Hence the best of them moves all tied participants or none: equal contributions earn equal
widths at no loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["SearchProblem", "bounded_search", "exact_search"]


Objective = Callable[[Any, Any], Any]


GAP = 1e-6  # the certified gap of the bounded search


CELLS = 4096  # cells of tau that are looked at together


@dataclass(frozen=True, eq=False)
class SearchProblem:
    """Contributions (n,), attainable accuracies (K,) rising, and the lowest level that each may get, (n,)."""

    contribution: np.ndarray
    levels: np.ndarray
    floor: np.ndarray

    @property
    def middles(self) -> np.ndarray:
        """The accuracies at which two neighbouring levels are equally near, (K - 1,)."""
        return (self.levels[1:] + self.levels[:-1]) / 2

    def nearest(self, tau: float) -> np.ndarray:
        """The level nearest to contribution + tau that each may get, (n,); a tie goes to the lower one."""
        return np.maximum(np.searchsorted(self.middles, self.contribution + tau), self.floor)

    def spread(self, chosen: np.ndarray) -> float:
        """The standard deviation of the gains of a plan."""
        gains = self.levels[chosen] - self.contribution
        return _spread(float(np.std(gains)))

    def value(self, chosen: np.ndarray, objective: Objective) -> float:
        """The objective of a plan, from its gains."""
        return float(objective(float(np.mean(self.levels[chosen] - self.contribution)), self.spread(chosen)))


def _spread(value: Any) -> Any:
    """A spread below what sixteen digits can tell from zero is zero."""
    return np.where(np.asarray(value) < 1e-12, 0.0, value)[()]


def exact_search(problem: SearchProblem, objective: Objective) -> tuple[np.ndarray, float, float]:
    """Try the plan between every two distinct events; return the best levels, its tau, and its value."""
    b, levels, floor = problem.contribution, problem.levels, problem.floor
    who, step = np.nonzero(
        np.arange(len(levels) - 1) >= floor[:, None]
    )  # each allowed step up, participant by participant
    event = problem.middles[step] - b[who]  # (events,) the tau at which it is taken
    order = np.argsort(event, kind="stable")
    event, who, step = event[order], who[order], step[order]
    start = levels[floor] - b  # gains of the plan before any event
    centre = float(np.median(start)) if len(event) == 0 else float(event[len(event) // 2])
    low, high = levels[step] - b[who] - centre, levels[step + 1] - b[who] - centre
    mean = np.append(0.0, np.cumsum(high - low)) / len(b) + np.mean(start)
    square = np.append(0.0, np.cumsum(high**2 - low**2)) / len(b) + np.mean((start - centre) ** 2)
    spread = _spread(np.sqrt(np.maximum(square - (mean - centre) ** 2, 0.0)))
    settled = (
        np.append(np.diff(event) > 1e-13, True) if len(event) else np.zeros(0, dtype=bool)
    )  # after all that are tied
    value = np.where(np.append(True, settled), objective(mean, spread), np.inf)
    best = _best(problem, objective, value, event)
    tau = _tau(event, best)
    chosen = floor + np.bincount(who[:best], minlength=len(b))
    return chosen, tau, problem.value(chosen, objective)


def _best(problem: SearchProblem, objective: Objective, value: np.ndarray, event: np.ndarray) -> int:
    """How many events the best plan has seen: the near-best are computed again from their gains, ties go to more gain."""
    least = value.min()
    if not np.isfinite(least):
        return int(value.argmin())
    close = np.flatnonzero(value <= least + 1e-7)
    if len(close) > 64:  # rounding in long cumulative sums stays far below this many neighbours' differences
        close = close[np.argsort(value[close], kind="stable")[:64]]
    again = [(round(problem.value(problem.nearest(_tau(event, int(k))), objective), 15), -int(k)) for k in close]
    return -min(again)[1]


def _tau(event: np.ndarray, seen: int) -> float:
    """A tau between the last event that was seen and the next."""
    if len(event) == 0:
        return 0.0
    if seen == 0:
        return float(event[0]) - 1e-9
    if seen == len(event):
        return float(event[-1]) + 1e-9
    return float(event[seen - 1] + event[seen]) / 2


@dataclass(frozen=True, eq=False)
class _Sorted:
    """Participants of one floor order: distinct contributions rising, and running counts, sums and squares before each."""

    values: np.ndarray  # (D,) distinct contributions
    count: np.ndarray  # (D + 1,)
    total: np.ndarray  # (D + 1,)
    square: np.ndarray  # (D + 1,)
    most: np.ndarray  # (K - 1,) how many distinct contributions may be at or below each level, by the floor

    @classmethod
    def of(cls, contribution: np.ndarray, floor: np.ndarray, levels: int) -> _Sorted:
        """Sort once, so that every tau costs one binary search for each level."""
        values, first, counts = np.unique(contribution, return_index=True, return_counts=True)
        sums = [np.append(0.0, np.cumsum(counts * values**power)) for power in (0, 1, 2)]
        return cls(values, *sums, np.searchsorted(floor[first], np.arange(levels - 1), side="right"))


def _groups(problem: SearchProblem) -> list[_Sorted]:
    """The participants in groups in which the floor rises with the contribution: one, unless standalone is another order."""
    b, floor, size = problem.contribution, problem.floor, len(problem.levels)
    order = np.lexsort((floor, b)) if floor.any() else slice(None)
    tied = np.diff(b[order]) == 0 if floor.any() else np.zeros(0, dtype=bool)
    rising = np.diff(floor[order]) if floor.any() else np.zeros(0)
    if (rising >= 0).all() and not (rising[tied] != 0).any():
        return [_Sorted.of(b, floor, size)]
    return [_Sorted.of(b[floor == f], floor[floor == f], size) for f in np.unique(floor)]


@dataclass(frozen=True, eq=False)
class _Plans:
    """What the plans at many taus (T,) look like: mean gain, mean squared distance to tau, and events seen so far."""

    tau: np.ndarray
    mean: np.ndarray
    distance: np.ndarray
    seen: np.ndarray

    def at(self, index: Any) -> _Plans:
        """The plans at these positions."""
        return _Plans(self.tau[index], self.mean[index], self.distance[index], self.seen[index])

    def value(self, objective: Objective) -> np.ndarray:
        """The objective of each plan."""
        return objective(self.mean, np.sqrt(np.maximum(self.distance - (self.mean - self.tau) ** 2, 0.0)))


def _plans_at(problem: SearchProblem, groups: list[_Sorted], tau: np.ndarray) -> _Plans:
    """The plans at many taus: a binary search for each tau and level, whatever the number of participants."""
    n, levels = len(problem.contribution), problem.levels
    mean, distance, seen = np.zeros(len(tau)), np.zeros(len(tau)), np.zeros(len(tau), dtype=np.int64)
    shift = levels[None, :] - tau[:, None]  # (T, K)
    for group in groups:
        upto = np.searchsorted(group.values, problem.middles[None, :] - tau[:, None], side="right")  # (T, K - 1)
        upto = np.minimum(upto, group.most)
        edge = np.pad(upto, ((0, 0), (1, 1)), constant_values=(0, 0))
        edge[:, -1] = len(group.values)
        count, total, square = (np.diff(sums[edge], axis=1) for sums in (group.count, group.total, group.square))
        mean += ((levels * count).sum(1) - group.total[-1]) / n
        distance += (shift**2 * count - 2 * shift * total + square).sum(1) / n
        seen -= upto.sum(1)
    return _Plans(tau, mean, np.maximum(distance, 0.0), seen)


def _below(left: _Plans, right: _Plans, objective: Objective) -> np.ndarray:
    r"""No plan between two taus is below this, (cells,).

    The mean gain rises with tau, so it lies between its ends; $dQ/d\tau = -2(\bar g - \tau)$ bounds $Q$ from both ends;
    the variance is $Q - (\bar g - \tau)^2$, and a square is largest at an end.
    """
    width = right.tau - left.tau
    fall, rise = np.maximum(right.mean - left.tau, 0), np.maximum(right.tau - left.mean, 0)
    least = np.maximum(left.distance - 2 * width * fall, right.distance - 2 * width * rise)
    far = np.maximum(
        np.maximum(np.abs(left.mean - left.tau), np.abs(left.mean - right.tau)),
        np.maximum(np.abs(right.mean - left.tau), np.abs(right.mean - right.tau)),
    )
    return objective(right.mean, np.sqrt(np.maximum(least - far**2 - 1e-13, 0.0)))


def bounded_search(
    problem: SearchProblem, objective: Objective, most: int = 200_000
) -> tuple[np.ndarray, float, float]:
    """Branch and bound over tau; return the best levels, its tau, and a value that no plan is below.

    Cells of tau are halved until none can hold a plan better than the best by more than 1e-6. A cell with at most one
    event holds the two plans at its ends and no other. ``most``: cells to look at before giving up with a larger gap.
    """
    groups = _groups(problem)
    b, middles = problem.contribution, problem.middles
    if len(middles) == 0:
        return problem.nearest(0.0), 0.0, problem.value(problem.nearest(0.0), objective)
    edges = np.linspace(middles[0] - b.max() - 1e-6, middles[-1] - b.min() + 1e-6, 257)
    state = _plans_at(problem, groups, edges)
    left, right = state.at(slice(None, -1)), state.at(slice(1, None))
    best, tau = _least(state, objective)
    bound, looked = np.inf, len(edges)
    while len(left.tau):
        low = _below(left, right, objective)
        closed = (right.seen - left.seen <= 1) | (right.tau - left.tau < 1e-13)
        alive = ~closed & (low < best - GAP)
        bound = min(bound, np.min(low, where=~alive & ~closed, initial=np.inf))
        if looked > most:
            bound = min(bound, np.min(low, where=alive, initial=np.inf))
            break
        left, right = left.at(alive), right.at(alive)
        middle = _chunked(problem, groups, (left.tau + right.tau) / 2)
        looked += len(middle.tau)
        value, at = _least(middle, objective) if len(middle.tau) else (np.inf, tau)
        best, tau = (value, at) if value < best else (best, tau)
        left, right = _joined(left, middle), _joined(middle, right)
    chosen = problem.nearest(tau)
    return chosen, tau, min(float(bound), problem.value(chosen, objective))


def _least(state: _Plans, objective: Objective) -> tuple[float, float]:
    """The smallest value among these plans, and its tau; among equals the larger tau."""
    value = state.value(objective)
    k = len(value) - 1 - int(value[::-1].argmin())
    return float(value[k]), float(state.tau[k])


def _chunked(problem: SearchProblem, groups: list[_Sorted], tau: np.ndarray) -> _Plans:
    """The plans at very many taus, in pieces that fit into memory."""
    pieces = [_plans_at(problem, groups, tau[i : i + CELLS]) for i in range(0, max(len(tau), 1), CELLS)]
    return pieces[0] if len(pieces) == 1 else _joined(*pieces)


def _joined(*states: _Plans) -> _Plans:
    """Several states in one row."""
    return _Plans(*(np.concatenate([getattr(s, f) for s in states]) for f in ("tau", "mean", "distance", "seen")))
