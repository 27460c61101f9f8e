"""Values of a game: Shapley, exact and sampled, and leave-one-out.

A game is any function that gives every coalition of participants a number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import combinations
from math import comb, fsum, isfinite

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ._check import Count, Index, checked, number, refusal
from .config import stream

Game = Callable[[frozenset[int]], float]  # a coalition -> its value
MAX_EXACT = 12  # participants; the exact value evaluates 2 ** n coalitions
TOGETHER = 64  # coalitions that are evaluated side by side
MIN_PAIRS = 8  # pairs of orders; fewer give no useful standard error


@checked
class CachedGame:
    """Evaluate a game once for each coalition and keep the value.

    `values` maps coalitions to values; `len` counts them.

    Args:
        game: Function of a coalition (a frozenset of participants).
        many: Function of at most 64 coalitions that finds their values at
            once; `prepare` calls it (default: none is found beforehand).

    Raises:
        ValueError: `game` or `many` is not callable.

    Example:
        >>> game = CachedGame(lambda coalition: len(coalition) ** 2)
        >>> game({0, 1}), game({1, 0}), len(game)
        (4.0, 4.0, 1)
    """

    def __init__(
        self,
        game: Game,
        many: Callable[[list[frozenset[int]]], list[float]] | None = None,
    ) -> None:
        self.game, self.many = game, many
        self.values: dict[frozenset[int], float] = {}

    def __call__(self, coalition: Collection[int]) -> float:
        members = frozenset(coalition)
        if members not in self.values:
            self.values[members] = float(self.game(members))
        return self.values[members]

    def prepare(self, coalitions: Collection[frozenset[int]]) -> None:
        """Evaluate these together, if the game can."""
        if self.many is None:
            return
        every = dict.fromkeys(coalitions)  # each once, in order
        new = [each for each in every if each not in self.values]
        for first in range(0, len(new), TOGETHER):
            some = new[first : first + TOGETHER]
            self.values |= dict(zip(some, self.many(some), strict=True))

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Hold sampled Shapley values and what they cost.

    Args:
        value: (n,) estimates.
        standard_error: (n,) their standard errors.
        orders: Number of orders of the participants.
        evaluations: Number of evaluations of the game.

    Example:
        >>> sampled_shapley(len, 3, budget=50).value.tolist()
        [1.0, 1.0, 1.0]
    """

    value: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    orders: int
    evaluations: int


@checked
def shapley(
    game: Game, participants: Count, *, progress: bool = False
) -> NDArray[np.float64]:
    r"""Return the exact Shapley value of each participant.

    $\varphi_i = \sum_{S \not\ni i} \frac{|S|!\,(n-|S|-1)!}{n!}
    \bigl(v(S \cup \{i\}) - v(S)\bigr)$ for the game $v$: what participant
    $i$ adds, averaged over the orders in which all may join. The values sum
    to $v(N) - v(\emptyset)$.

    Args:
        game: $v$, evaluated once for each of the $2^n$ coalitions.
        participants: $n$, at most 12.

    Returns:
        (n,) values, in the game's unit.

    Raises:
        ValueError: `participants` is not a whole number in [1, 12], or a
            value of the game is not finite.

    Example:
        >>> def gloves(S):  # one left, two right
        ...     return min(len(S & {0}), len(S & {1, 2}))
        >>> shapley(gloves, 3).round(3).tolist()
        [0.667, 0.167, 0.167]

    References:
        Shapley (1953).
    """
    n = participants
    if n > MAX_EXACT:
        allowed = f"a whole number in [1, {MAX_EXACT}]"
        raise refusal("participants", allowed, n, "use sampled_shapley")
    subsets = [
        frozenset(some)
        for size in range(n + 1)
        for some in combinations(range(n), size)
    ]
    if isinstance(game, CachedGame):
        game.prepare(subsets)
    bar = tqdm(subsets, "coalitions", disable=not progress)
    v = {S: _value(game, S) for S in bar}
    weight = [1 / (n * comb(n - 1, size)) for size in range(n)]

    def value(i: int) -> float:
        without = (S for S in subsets if i not in S)
        return fsum(weight[len(S)] * (v[S | {i}] - v[S]) for S in without)

    return np.array([value(i) for i in range(n)])


@checked
def leave_one_out(game: Game, participants: Count) -> NDArray[np.float64]:
    r"""Return the loss of value when one participant leaves.

    $v(N) - v(N \setminus \{i\})$. Two copies of the same data have value 0.

    Returns:
        (n,) values, in the game's unit.

    Raises:
        ValueError: `participants` is not a whole number from 1, or a value
            of the game is not finite.

    Example:
        >>> def gloves(S):  # one left, two right
        ...     return min(len(S & {0}), len(S & {1, 2}))
        >>> leave_one_out(gloves, 3).tolist()
        [1.0, 0.0, 0.0]

    References:
        Ghorbani and Zou (2019), as a baseline of theirs.
    """
    everyone = frozenset(range(participants))
    if isinstance(game, CachedGame):
        game.prepare([everyone, *(everyone - {i} for i in everyone)])
    total = _value(game, everyone)
    less = [_value(game, everyone - {i}) for i in sorted(everyone)]
    return total - np.array(less)


@checked
def sampled_shapley(
    game: Game, participants: Count, *, budget: Count, seed: Index = 0
) -> Estimate:
    r"""Estimate Shapley values from random orders and their reverses.

    $\hat\varphi_i$ is the mean over pairs of orders of what participant $i$
    adds to those before it; the standard error is that of the pairs' mean.

    Args:
        budget: Largest number of evaluations; at least eight pairs.
        seed: Of the orders.

    Raises:
        ValueError: There are fewer than two participants, the budget is
            less than eight pairs of orders, or a value is not finite.

    Example:
        >>> def gloves(S):  # one left, two right
        ...     return min(len(S & {0}), len(S & {1, 2}))
        >>> found = sampled_shapley(gloves, 3, budget=400)
        >>> error = abs(found.value - [2 / 3, 1 / 6, 1 / 6])
        >>> bool((error < 3 * found.standard_error).all()), found.orders
        (True, 198)

    References:
        Permutation sampling (Ghorbani and Zou 2019), without truncation;
        the reversed orders are antithetic variates.
    """
    n = number("participants", participants, 2, whole=True)
    cost = 2 * (n - 1)  # evaluations of a pair of orders
    number("budget", budget, 2 + MIN_PAIRS * cost, whole=True)
    rng, orders = stream(seed, "orders"), []
    for _ in range((budget - 2) // cost):
        order = rng.permutation(n).tolist()
        orders += [order, order[::-1]]
    if isinstance(game, CachedGame):
        game.prepare(
            [frozenset(o[:k]) for o in orders for k in range(n + 1)]
        )
    ends = _value(game, frozenset()), _value(game, frozenset(range(n)))
    added = np.empty((len(orders), n))
    for row, order in zip(added, orders, strict=True):
        inner = [_value(game, frozenset(order[:k])) for k in range(1, n)]
        row[order] = np.diff([ends[0], *inner, ends[1]])
    pairs = added.reshape(-1, 2, n).mean(1)
    error = np.std(pairs, axis=0, ddof=1) / np.sqrt(len(pairs))
    used = 2 + len(pairs) * cost
    return Estimate(pairs.mean(0), error, len(orders), used)


def _value(game: Game, coalition: frozenset[int]) -> float:
    """The value of a coalition, a finite number."""
    value = float(game(coalition))
    if not isfinite(value):
        of = f"game's value of the coalition {sorted(coalition)}"
        raise refusal(of, "a finite number", value)
    return value
