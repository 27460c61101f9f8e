"""Which coalitions would leave, and the best plan that none of them blocks."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._check import accuracies, checked, one_each, refusal
from ..evaluation import Curve
from ._search import SearchProblem
from .exact import Plan, check_inputs, default_objective, plan_of, proved, solve

Coalition = tuple[int, ...]
Game = Callable[[Coalition], Curve | ArrayLike]


PARTICIPANTS = 12  # participants up to which all coalitions are asked


def _rewards(game: Game, n: int, name: str) -> dict[Coalition, NDArray[np.float64]]:
    """What each member of each coalition would receive, (members,)."""
    if n > PARTICIPANTS:
        raise refusal(name, f"of at most {PARTICIPANTS} participants, since all coalitions are asked", n)
    found = {}
    for members in (each for size in range(1, n + 1) for each in combinations(range(n), size)):
        reward = game(members)
        reward = [reward.full] * len(members) if isinstance(reward, Curve) else accuracies("game", reward)
        found[members] = np.array(one_each("game", reward, len(members), "members"))
    return found


def _margin(rewards: dict[Coalition, NDArray[np.float64]], members: Coalition, received: NDArray[np.float64]) -> float:
    """By how much every member would be better off without the others."""
    return float((rewards[members] - received[list(members)]).min())


@checked
def blocking_coalitions(plan: Plan, game: Game) -> tuple[tuple[Coalition, float], ...]:
    r"""Return the coalitions of which every member would be better off without the others.

    A coalition $S$ in which each member $i$ would receive $v_i(S)$ blocks a plan $a$ by $\min_{i \in S} v_i(S) - a_i$,
    if that is above 0. A plan is in the core if no coalition blocks it.

    Args:
        plan: A plan for at most 12 participants.
        game: A coalition's curve or its members' accuracies, for each coalition.

    Returns:
        Coalitions and by how much they block, the strongest first.

    Raises:
        ValueError: There are more than 12 participants, or the game returns no accuracies.

    Example:
        >>> from aequa_lite.allocation import allocate
        >>> plan = allocate([0.4, 0.5, 0.8], Curve((0.1, 0.3, 0.6, 1.0), (0.4, 0.5, 0.6, 0.8), samples=100))
        >>> plan.predicted_accuracy.tolist()
        [0.4, 0.5, 0.8]
        >>> def game(members):
        ...     return [0.62 if members == (0, 1) else 0.4] * len(members)
        >>> blocking_coalitions(plan, game)
        (((0, 1), 0.12),)

    References:
        The core of a game without transfers (Scarf 1967); its use here is our choice.
    """
    rewards = _rewards(game, len(plan.widths), "plan")
    margins = [(each, round(_margin(rewards, each, plan.predicted_accuracy), 12)) for each in rewards]
    return tuple(sorted((found for found in margins if found[1] > 0), key=lambda found: -found[1]))


@checked
def stable(contribution: ArrayLike, curve: Curve, *, game: Game) -> Plan:
    r"""Allocate by the default objective among the plans that no coalition blocks.

    Only plans in which equal contributions earn equal widths and more never earns less are considered. Of each coalition
    $S$ some member must receive $a_i \ge v_i(S) - \epsilon$, and so must everybody who contributes as much: branch and
    bound over that member, with the exact allocation above these floors as the bound. $\epsilon = \max(0, \max_S
    \min_{i \in S} v_i(S) - u)$ is 0 unless a coalition trains a better full network than the federation's ($u$): the
    core is then empty, and this is the least core.

    Args:
        contribution: (n,) accuracies in [0, 1], at most 12.
        curve: Attainable accuracies of the federation.
        game: A coalition's curve or its members' accuracies, for each coalition.

    Returns:
        A plan whose certificate states value and bound among the plans considered.

    Raises:
        ValueError: There are more than 12 participants, or the game returns no accuracies.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.4, 0.5, 0.6, 0.8), samples=100)
        >>> def game(members):
        ...     return [(0.4, 0.58, 0.8)[max(members)]] * len(members)
        >>> stable([0.4, 0.5, 0.8], curve, game=game).predicted_accuracy.tolist()
        [0.5, 0.6, 0.8]

    References:
        Least core (Maschler et al. 1979), here without transfers. Our choice.
    """
    b, levels = check_inputs(contribution, curve), curve.levels
    rewards, objective = _rewards(game, len(b), "contribution"), default_objective(len(b))
    slack = max(0.0, max(float(reward.min()) for reward in rewards.values()) - curve.full) + 1e-12
    queue: list[tuple[float, tuple[int, ...], NDArray[np.intp], float | None]] = []
    seen: set[tuple[int, ...]] = set()

    def push(floor: NDArray[np.intp]) -> None:
        if tuple(floor) not in seen:
            seen.add(tuple(floor))
            chosen, tau, bound = solve(SearchProblem(b, levels, floor), objective)
            heappush(queue, (bound, tuple(floor), chosen, tau))

    push(np.zeros(len(b), dtype=np.intp))
    while True:
        bound, floor, chosen, tau = heappop(queue)
        blocking = max(rewards, key=lambda members: _margin(rewards, members, levels[chosen]))
        if _margin(rewards, blocking, levels[chosen]) <= slack:
            return proved(plan_of(chosen, curve, b, tau=tau), bound, bound)
        for i, reward in zip(blocking, rewards[blocking]):
            level = np.searchsorted(levels, reward - slack)
            if level < len(levels):
                push(np.where(b >= b[i], np.maximum(floor, level), floor))
