r"""Search for the plan with the smallest objective of the mean gain and the spread of gains.

For the objectives of `exact.py` an optimal plan gives every participant the attainable accuracy nearest to $B_i + \tau$,
among those that it may receive, for one $\tau$ (Proposition 10 of the book). So the plan changes only where $B_i + \tau$
crosses the midpoint between two neighbouring levels: $n(K-1)$ *events*. At an event both neighbours are equally near, so
$Q = \mathrm{mean}(g - \tau)^2$ does not change and the variance is $Q - (\bar g - \tau)^2$: each of these objectives is
then concave in $\bar g$ (or, for the ratio, at its minimum concave after Dinkelbach's step), and the best of the tied plans
moves all tied participants or none. Equal contributions therefore receive equal widths at no loss, and count once in the
search: contributions measured on m samples take at most m + 1 values, however many participants there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, combinations_with_replacement, islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

# (mean gain, spread of gains) -> what is minimised; arrays or numbers
Objective = Callable[[Any, Any], Any]

PLANS = 200_000  # plans up to which every one is tried
ENTRIES = 1 << 22  # rewards of plans that are evaluated together


@dataclass(frozen=True, eq=False)
class SearchProblem:
    """Contributions (n,), attainable accuracies (K,) rising, and the lowest level that each may receive, (n,) or one."""

    contribution: NDArray[np.float64]
    levels: NDArray[np.float64]
    floor: NDArray[np.intp] | int = 0

    @property
    def midpoints(self) -> NDArray[np.float64]:
        """The accuracies at which two neighbouring levels are equally near, (K - 1,)."""
        return (self.levels[1:] + self.levels[:-1]) / 2

    @property
    def kinds(self) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """Contribution, floor and number of the participants of each kind, which are equal; and the kind of each, (n,)."""
        pairs = self.contribution + 1j * self.floor
        found, kind, count = np.unique(pairs, return_inverse=True, return_counts=True)
        return found.real, found.imag.astype(np.intp), count, kind

    def nearest(self, tau: Any) -> NDArray[np.intp]:
        """The level nearest to contribution + tau that each may receive, (..., n); a tie goes to the lower one."""
        return np.maximum(np.searchsorted(self.midpoints, self.contribution + tau), self.floor)

    def spread(self, chosen: NDArray[np.intp]) -> Any:
        """The standard deviation of the gains of plans (..., n); zero where rounding hides the difference."""
        found = np.std(self.levels[chosen] - self.contribution, axis=-1)
        return np.where(found < 1e-12, 0.0, found)[()]

    def value(self, chosen: NDArray[np.intp], objective: Objective) -> Any:
        """The objective of plans (..., n)."""
        return _defined(objective(np.mean(self.levels[chosen] - self.contribution, axis=-1), self.spread(chosen)))


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
    levels, n = problem.levels, len(problem.contribution)
    b, floor, count, _ = problem.kinds  # equal participants move together
    # each allowed step up, kind by kind, and the tau at which it is taken
    who, step = np.nonzero(np.arange(len(levels) - 1) >= floor[:, None])
    event = problem.midpoints[step] - b[who]
    order = np.argsort(event, kind="stable")
    event, who, step = event[order], who[order], step[order]
    start = levels[floor] - b  # gains of the plan before any event
    centre = float(np.median(start)) if len(event) == 0 else float(event[len(event) // 2])
    low, high = levels[step] - b[who] - centre, levels[step + 1] - b[who] - centre
    steps = (count[who] * each for each in (high - low, high**2 - low**2))
    rise, squares = (np.cumsum(each, dtype=np.longdouble).astype(float) for each in steps)
    mean = np.append(0.0, rise) / n + np.average(start, weights=count)
    square = np.append(0.0, squares) / n + np.average((start - centre) ** 2, weights=count)
    distinct = np.append(np.diff(event, prepend=-np.inf) > 1e-13, True)
    error = 8 * float((len(event) + n) * np.finfo(np.longdouble).eps + 8 * np.finfo(float).eps)
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
    parts = np.array_split(path.tau[close][:, None], 1 + len(close) * len(problem.contribution) // ENTRIES)
    value = np.concatenate([problem.value(problem.nearest(tau), objective) for tau in parts])
    equal = value <= value.min() + 1e-14 * max(1.0, abs(value.min()))  # up to rounding
    tau = float(path.tau[close[np.flatnonzero(equal)[-1]]])
    chosen = problem.nearest(tau)
    return chosen, tau, min(bound, float(problem.value(chosen, objective)))


def few_plans(problem: SearchProblem) -> bool:
    """Say whether all plans can be tried: those that differ by an exchange of equal participants are one."""
    _, floors, counts, _ = problem.kinds
    return math.prod(math.comb(len(problem.levels) - f + n - 1, n) for f, n in zip(floors, counts)) <= PLANS


def enumerate_plans(problem: SearchProblem, objective: Objective) -> tuple[NDArray[np.intp], float]:
    """Try every plan; return the best levels and the value; of equal ones, the largest mean gain."""
    _, floors, counts, kind = problem.kinds
    options = [combinations_with_replacement(range(f, len(problem.levels)), n) for f, n in zip(floors, counts)]
    order = np.argsort(kind, kind="stable")  # equal participants are neighbours
    plans, best = product(*options), (np.inf, np.inf, np.zeros(0, dtype=np.intp))
    size = max(1, ENTRIES // len(order))
    while chunk := list(islice(plans, size)):
        chosen = np.empty((len(chunk), len(order)), dtype=np.intp)
        chosen[:, order] = [list(chain(*plan)) for plan in chunk]
        value = np.round(problem.value(chosen, objective), 15)
        mean = problem.levels[chosen].mean(-1)
        k = np.lexsort((-mean, value))[0]
        best = min(best, (float(value[k]), -float(mean[k]), chosen[k]), key=lambda found: found[:2])
    return best[2], float(problem.value(best[2], objective))
