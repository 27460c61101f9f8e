"""What a false claim pays, alone or together, and which coalitions would leave."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._check import accuracies, checked, flag, number, one_each, refusal
from ..evaluation import Curve
from ._search import SearchProblem
from .exact import Plan, allocate, check_inputs, default_objective, plan_of, proved, solve

Rule = Callable[[ArrayLike, Curve], Plan]


REPORTS = np.linspace(0, 1, 101)


@checked
def best_response(
    contribution: ArrayLike, curve: Curve, participant: int, rule: Rule = allocate, reports: ArrayLike | None = None
) -> tuple[float, float]:
    """Return the report that earns a participant most while all others are truthful, and what it adds.

    Args:
        contribution: (n,) true contributions, accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        participant: Whose report, from 0.
        rule: Allocation rule of contributions and curve.
        reports: Possible reports in [0, 1] (default: 0.00, 0.01, ..., 1.00). A report for which the rule is undefined
            earns nothing.

    Returns:
        The report, of equals the one nearest to the truth, and the accuracy that it adds.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.7, 0.8), samples=100)
        >>> best_response([0.4, 0.5, 0.7], curve, 0)[1] > 0
        True

    References:
        The best response of game theory, by brute force. Our choice.
    """
    b = check_inputs(contribution, curve)
    number("participant", participant, 0, len(b) - 1, whole=True)
    tries = REPORTS if reports is None else accuracies("reports", reports)

    def earned(report: float) -> float:
        reported = b.copy()
        reported[participant] = report
        return float(rule(reported, curve).predicted_accuracy[participant])

    def attempt(report: float) -> float:
        try:
            return earned(report)
        except ValueError:  # the rule is undefined for this report
            return -np.inf

    honest = earned(float(b[participant]))
    rewards = np.array([attempt(float(r)) for r in tries])
    if rewards.max() <= honest + 1e-12:
        return float(b[participant]), 0.0
    best = np.flatnonzero(rewards >= rewards.max() - 1e-12)
    nearest = best[np.abs(tries[best] - b[participant]).argmin()]
    return float(tries[nearest]), float(rewards[nearest] - honest)


@checked
def misreport_gains(
    contribution: ArrayLike, curve: Curve, rule: Rule = allocate, *, measured: bool = False
) -> NDArray[np.float64]:
    """Return what the best response adds to each participant's accuracy while all others are truthful.

    Args:
        contribution: (n,) true contributions, accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        rule: Allocation rule of contributions and curve.
        measured: Whether contributions are measured, so that they can only be lowered.

    Returns:
        (n,) accuracies.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.7, 0.8), samples=100)
        >>> misreport_gains([0.4, 0.5, 0.7], curve).round(2).tolist()
        [0.3, 0.2, 0.0]

    References:
        Our choice.
    """
    b, flagged = check_inputs(contribution, curve), flag("measured", measured)
    reports = [REPORTS[own >= REPORTS] if flagged else REPORTS for own in b]
    return np.array([best_response(b, curve, i, rule, each)[1] for i, each in enumerate(reports)])


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
