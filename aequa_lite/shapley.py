"""What a participant is worth in a game: any function that gives every coalition a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import comb, fsum, isfinite
from typing import Any

import numpy as np
from tqdm import tqdm

from ._parallel import workers
from .rng import stream

__all__ = ["CachedGame", "Estimate", "Game", "leave_one_out", "sampled_shapley", "shapley"]


Game = Callable[[frozenset[int]], float]  # a coalition of participants -> what it is worth


MOST = 12  # participants up to which every coalition is asked for: 2 ** 12 are 4,096


LEAST_PAIRS = 8  # of orders; with fewer, a standard error means nothing


class CachedGame:
    """Ask a game once for each coalition and remember the answer; ``len`` is how many coalitions were asked for.

    Example:
        >>> game = CachedGame(lambda coalition: len(coalition) ** 2)
        >>> game({0, 1}), game({1, 0}), len(game)
        (4.0, 4.0, 1)
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self.worth: dict[frozenset[int], float] = {}

    def __call__(self, coalition: Any) -> float:
        coalition = frozenset(coalition)
        if coalition not in self.worth:
            self.worth[coalition] = float(self.game(coalition))
        return self.worth[coalition]

    def __len__(self) -> int:
        return len(self.worth)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Hold sampled Shapley values: ``value`` and ``standard_error`` (n,), and what they cost.

    ``orders``: in how many orders the participants came; ``evaluations``: how often the game was asked.

    Example:
        >>> sampled_shapley(len, 3, budget=50).value.tolist()
        [1.0, 1.0, 1.0]
    """

    value: np.ndarray
    standard_error: np.ndarray
    orders: int
    evaluations: int


def shapley(game: Game, participants: int, *, count: int | None = 1, progress: bool = False) -> np.ndarray:
    r"""Return everybody's Shapley value, (participants,): what it adds on average, whoever came before.

    $\varphi_i = \sum_{S \not\ni i} \frac{|S|!\,(n-|S|-1)!}{n!}\,\bigl(v(S \cup \{i\}) - v(S)\bigr)$ for the game $v$, which is
    asked once for each of the $2^n$ coalitions. The values sum to $v(N) - v(\emptyset)$. ``count``: worker threads that ask.

    Raises:
        ValueError: ``participants`` is not a whole number from 1 to 12, or the game's answer is not finite.

    Example:
        >>> gloves = lambda coalition: min(len(coalition & {0}), len(coalition & {1, 2}))  # one left, two right
        >>> shapley(gloves, 3).round(3).tolist()
        [0.667, 0.167, 0.167]

    Source: Shapley 1953.
    """
    n = _counted(participants, 1)
    if n > MOST:
        raise ValueError(
            f"participants is {n}; allowed is a whole number from 1 to {MOST}, since the exact value asks for all "
            f"2 ** {n} coalitions; use sampled_shapley"
        )
    coalitions = [frozenset(some) for size in range(n + 1) for some in combinations(range(n), size)]
    with workers(count) as spread:
        answers = spread(partial(_asked, game), coalitions)
        worth = dict(zip(coalitions, tqdm(answers, total=2**n, desc="coalitions", disable=not progress)))
    share = [1 / (n * comb(n - 1, size)) for size in range(n)]  # of a coalition of that size
    return np.array(
        [fsum(share[len(S)] * (worth[S | {i}] - worth[S]) for S in coalitions if i not in S) for i in range(n)]
    )


def leave_one_out(game: Game, participants: int) -> np.ndarray:
    r"""Return what is lost when one participant leaves, (participants,): $v(N) - v(N \setminus \{i\})$.

    Raises:
        ValueError: ``participants`` is not a whole number from 1, or the game's answer is not finite.

    Example:
        >>> gloves = lambda coalition: min(len(coalition & {0}), len(coalition & {1, 2}))
        >>> leave_one_out(gloves, 3).tolist()
        [1.0, 0.0, 0.0]

    Source: the usual last marginal; two copies of the same data are worth nothing by it.
    """
    everyone = frozenset(range(_counted(participants, 1)))
    full = _asked(game, everyone)
    return np.array([full - _asked(game, everyone - {i}) for i in sorted(everyone)])


def sampled_shapley(
    game: Game, participants: int, *, budget: int, error: float | None = None, tolerance: float = 0.0, seed: int = 0
) -> Estimate:
    r"""Estimate the Shapley values from random orders, each followed by its reverse.

    $\hat\varphi_i$ is the mean over pairs of what participant $i$ adds to those before it; its standard error is that of the
    pairs' mean. Stops when the game would be asked more often than ``budget``, or, after eight pairs, when no standard
    error is above ``error``. An order is cut short where its coalition is worth everybody's value to within
    ``tolerance`` (0: never): those after it are taken to add nothing, which is a bias of up to ``tolerance`` each in a game
    that never falls. Where most is added by whoever comes first, as in accuracy, few orders say little.

    Raises:
        ValueError: fewer than two participants, a budget too small for eight pairs, or an answer that is not finite.

    Example:
        >>> gloves = lambda coalition: min(len(coalition & {0}), len(coalition & {1, 2}))
        >>> found = sampled_shapley(gloves, 3, budget=400)
        >>> bool((abs(found.value - [2 / 3, 1 / 6, 1 / 6]) < 3 * found.standard_error).all()), found.orders
        (True, 198)

    Source: permutation sampling with truncation (Ghorbani and Zou 2019); the reversed orders are antithetic variates.
    """
    n = _counted(participants, 2)
    pair = 2 * (n - 1)  # the ends of an order are nobody and everybody, which are asked for once
    if budget < (least := 2 + LEAST_PAIRS * pair):
        raise ValueError(
            f"budget is {budget!r}; allowed is a number from {least}, {LEAST_PAIRS} pairs of orders of {n}"
        )
    draws = stream(seed, "orders")
    ends = _asked(game, frozenset()), _asked(game, frozenset(range(n)))
    found: list[np.ndarray] = []
    asked = 2
    while asked + pair <= budget and not _precise(found, error):
        order = draws.permutation(n).tolist()
        walks = [_walk(game, each, ends, tolerance) for each in (order, order[::-1])]
        found.append((walks[0][0] + walks[1][0]) / 2)
        asked += walks[0][1] + walks[1][1]
        if len(found) >= budget:  # truncation can make orders free
            break
    return Estimate(np.mean(found, axis=0), _error(found), 2 * len(found), asked)


def _counted(participants: int, least: int) -> int:
    """A number of participants."""
    if isinstance(participants, bool) or not isinstance(participants, (int, np.integer)) or participants < least:
        raise ValueError(f"participants is {participants!r}; allowed is a whole number from {least}")
    return int(participants)


def _asked(game: Game, coalition: frozenset[int]) -> float:
    """What a coalition is worth, a finite number."""
    value = float(game(coalition))
    if not isfinite(value):
        raise ValueError(f"game gives {value} for the coalition {sorted(coalition)}; allowed is a finite number")
    return value


def _walk(game: Game, order: list[int], ends: tuple[float, float], tolerance: float) -> tuple[np.ndarray, int]:
    """What each participant adds in this order, (n,), and how often the game was asked."""
    added, asked, (before, everybody) = np.zeros(len(order)), 0, ends
    for size, i in enumerate(order[:-1], start=1):
        if abs(everybody - before) < tolerance:
            return added, asked
        after, asked = _asked(game, frozenset(order[:size])), asked + 1
        added[i], before = after - before, after
    added[order[-1]] = everybody - before
    return added, asked


def _error(found: list[np.ndarray]) -> np.ndarray:
    """The standard error of the mean of the pairs, (n,)."""
    return np.std(found, axis=0, ddof=1) / np.sqrt(len(found))


def _precise(found: list[np.ndarray], error: float | None) -> bool:
    """Whether enough pairs agree closely enough."""
    return error is not None and len(found) >= LEAST_PAIRS and bool((_error(found) <= error).all())
