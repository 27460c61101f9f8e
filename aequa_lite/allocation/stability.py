"""Which coalitions would leave, and plans that none of them blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from heapq import heappop, heappush
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from .._check import Count, Level, checked, one_each, refusal
from ..config import stream
from ..evaluation import Curve
from ._search import SearchProblem
from .exact import Certificate, Plan, check_inputs, default_objective, plan_of, proved, solve
from .games import Coalition, Game, rewards_of

Blocking = tuple[tuple[Coalition, float], ...]


PARTICIPANTS = 12  # participants up to which all coalitions are asked


PASSES = 20  # times at most that fresh coalitions are drawn for one plan


@dataclass(frozen=True)
class Stability:
    r"""Say how many coalitions were asked, how many block, and what is known of the others.

    Args:
        epsilon: A coalition counts as blocking if each member would be better off by more than this accuracy.
        asked: Coalitions that were drawn, or all of them.
        blocking: How many of these block.
        share: Bound on the probability that a random coalition blocks: its size is uniform from 1 to n, and its members
            are uniform. 0 where all were asked and none blocks.
        confidence: With which the bound holds. 1 where all were asked.

    Example:
        >>> Stability(0.0, asked=100, blocking=0, share=0.0295, confidence=0.95).statement
        'with confidence 0.95 a random coalition blocks by more than 0.000 with probability at most 0.029 (0 of 100 did)'
    """

    epsilon: float
    asked: int
    blocking: int
    share: float
    confidence: float

    @property
    def statement(self) -> str:
        """Who would leave, in one sentence."""
        if self.confidence == 1:
            return f"{self.blocking} of all {self.asked} coalitions block by more than {self.epsilon:.3f}"
        return (
            f"with confidence {self.confidence:g} a random coalition blocks by more than {self.epsilon:.3f} "
            f"with probability at most {self.share:.3f} ({self.blocking} of {self.asked} did)"
        )


@dataclass(frozen=True, eq=False)
class StablePlan(Plan):
    """Hold a plan and what is known of the coalitions that would leave it.

    Args:
        stability: Its `epsilon` is that of the least core.

    Example:
        >>> curve = Curve((0.5, 1.0), (0.5, 0.7), samples=100)
        >>> plan = stable([0.4, 0.6], curve, game=lambda members: [0.4 if members == (0,) else 0.72] * len(members))
        >>> round(plan.stability.epsilon, 6)
        0.02
        >>> plan.stability.statement
        '0 of all 3 coalitions block by more than 0.020'
    """

    certificate: Certificate  # inherited; named here for tools that resolve the types of all fields
    stability: Stability


def _rewards(game: Game, n: int, name: str, remedy: str) -> dict[Coalition, NDArray[np.float64]]:
    """What each member of each coalition would receive, (members,)."""
    if n > PARTICIPANTS:
        raise refusal(name, f"of at most {PARTICIPANTS} participants, since all coalitions are asked", n, remedy)
    return {each: rewards_of(game, each) for size in range(1, n + 1) for each in combinations(range(n), size)}


def _margin(reward: NDArray[np.float64], members: Coalition, received: NDArray[np.float64]) -> float:
    """By how much every member would be better off without the others."""
    return float((reward - received[list(members)]).min())


def _drawn(n: int, samples: int, rng: np.random.Generator) -> list[Coalition]:
    """Coalitions by the law of `Stability`."""
    sizes = rng.integers(1, n + 1, samples)
    return [tuple(sorted(rng.choice(n, size, replace=False).tolist())) for size in sizes]


def _upper_bound(hits: int, samples: int, confidence: float) -> float:
    """Clopper and Pearson's upper bound on a probability; 1 - (1 - confidence)^(1/samples) where there is no hit."""
    return 1.0 if hits == samples else float(beta.ppf(confidence, hits + 1, samples - hits))


@checked
def blocking_coalitions(plan: Plan, game: Game) -> Blocking:
    r"""Return the coalitions of which every member would be better off without the others.

    A coalition $S$ in which each member $i$ would receive $v_i(S)$ blocks a plan $a$ by $\min_{i \in S} v_i(S) - a_i$,
    if that is above 0. A plan is in the core if no coalition blocks it.

    Args:
        plan: A plan for at most 12 participants; `sampled_blocking` takes more.
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
    rewards = _rewards(game, len(plan.widths), "plan", "`sampled_blocking` draws some of them")
    return _blocking(rewards, plan.predicted_accuracy)


def _blocking(rewards: dict[Coalition, NDArray[np.float64]], received: NDArray[np.float64]) -> Blocking:
    """Coalitions that block and by how much, the strongest first."""
    margins = [(members, round(_margin(reward, members, received), 12)) for members, reward in rewards.items()]
    return tuple(sorted((found for found in margins if found[1] > 0), key=lambda found: -found[1]))


@checked
def sampled_blocking(
    plan: Plan, game: Game, *, samples: Count, confidence: Level = 0.95, seed: int = 0
) -> tuple[Blocking, Stability]:
    r"""Draw coalitions, return those that block a plan, and bound the probability that another one does.

    A coalition's size is uniform from 1 to n, and its members are uniform. If $x$ of $m$ draws block, the probability
    $p$ that a draw blocks is bounded by Clopper and Pearson: with probability at least the confidence $1 - \alpha$,
    $p$ is at most the $(1 - \alpha)$-quantile of $\mathrm{Beta}(x + 1, m - x)$. At $x = 0$ this is
    $1 - \alpha^{1/m} \le \ln(1/\alpha) / m$. The plan must not depend on the draws.

    Args:
        plan: A plan for any number of participants.
        game: A coalition's curve or its members' accuracies. Each coalition is asked once.
        samples: $m$, coalitions to draw.
        confidence: $1 - \alpha$, in (0, 1).
        seed: Of the draws.

    Returns:
        The coalitions that block and by how much, the strongest first; and the bound.

    Raises:
        ValueError: A number is outside its range, or the game returns no accuracies.

    Example:
        >>> from aequa_lite.allocation import allocate
        >>> plan = allocate([0.5] * 30, Curve((0.5, 1.0), (0.6, 0.7), samples=100))
        >>> def game(members):
        ...     return [0.75 if len(members) == 29 else 0.7] * len(members)
        >>> found, bound = sampled_blocking(plan, game, samples=200)
        >>> {len(members) for members, by in found}, bound.share > 1 / 30
        ({29}, True)

    References:
        Clopper and Pearson (1934); the law of the draws is our choice.
    """
    drawn = _drawn(len(plan.widths), samples, stream(seed, "coalitions"))
    rewards = {members: rewards_of(game, members) for members in dict.fromkeys(drawn)}
    found = _blocking(rewards, plan.predicted_accuracy)
    hits = sum(map({members for members, _ in found}.__contains__, drawn))
    return found, Stability(0.0, samples, hits, _upper_bound(hits, samples, confidence), confidence)


@checked
def stable(
    contribution: ArrayLike,
    curve: Curve,
    *,
    game: Game,
    nearest_to: Plan | None = None,
    samples: Count | None = None,
    confidence: Level = 0.95,
    seed: int = 0,
) -> StablePlan:
    r"""Allocate among the plans that no coalition blocks: the best by the default objective, or the nearest to a plan.

    Only plans in which equal contributions earn equal widths and more never earns less are considered. Of each coalition
    $S$ some member must receive $a_i \ge v_i(S) - \epsilon$, and so must everybody who contributes as much: branch and
    bound over that member, with the best allocation above these floors as the bound. $\epsilon = \max(0, \max_S
    \min_{i \in S} v_i(S) - u)$ is 0 unless a coalition trains a better full network than the federation's ($u$): the
    core is then empty, and this is the least core.

    What is minimised is `default_objective` or, with `nearest_to` a plan $p$, the distance $\sum_i |a_i - p_i|$.

    With `samples`, not all coalitions are asked, but singles, everybody, and draws as in `sampled_blocking`. A plan is
    held against $m$ fresh draws; those that block it are added to the ones that it must satisfy, until none of $m$ fresh
    draws blocks (at most 20 passes). Pass $k$ has the confidence $1 - \alpha / (k (k + 1))$, so the bound of the last
    pass holds with probability at least $1 - \alpha$. $\epsilon$ is then that of the coalitions that were asked.

    Args:
        contribution: (n,) accuracies in [0, 1]; at most 12 without `samples`.
        curve: Attainable accuracies of the federation.
        game: A coalition's curve or its members' accuracies, for each coalition. Each coalition is asked once.
        nearest_to: A plan in which equal contributions earn equal accuracies and more never earns less.
        samples: $m$, coalitions that each pass draws (default: all are asked).
        confidence: $1 - \alpha$ of the statement on coalitions that were not asked, in (0, 1).
        seed: Of the draws.

    Returns:
        A plan with its `stability`, which states $\epsilon$, and a certificate, which states value and bound of what is
        minimised among the plans considered.

    Raises:
        ValueError: There are more than 12 participants and no `samples`, the game returns no accuracies, or
            `nearest_to` is no such plan.

    Example:
        >>> from aequa_lite.allocation import allocate
        >>> b, curve = [0.4, 0.5, 0.8], Curve((0.1, 0.3, 0.6, 1.0), (0.4, 0.5, 0.6, 0.8), samples=100)
        >>> def game(members):
        ...     return [(0.4, 0.58, 0.8)[max(members)]] * len(members)
        >>> stable(b, curve, game=game).predicted_accuracy.tolist()
        [0.5, 0.6, 0.8]
        >>> near = stable(b, curve, game=game, nearest_to=allocate(b, curve))
        >>> near.predicted_accuracy.tolist(), round(near.certificate.value, 6), near.stability.epsilon
        ([0.4, 0.6, 0.8], 0.1, 0.0)

    References:
        Least core (Maschler et al. 1979), here without transfers. Our choice.
    """
    b, rng = check_inputs(contribution, curve), stream(seed, "coalitions")
    relaxed = _by_objective(b, curve) if nearest_to is None else _by_distance(b, curve, nearest_to)
    if samples is None:
        remedy = "with `samples=m` only m of them are asked at a time"
        rewards = _rewards(game, len(b), "contribution", remedy)
        plan, epsilon = _satisfied(b, curve, rewards, relaxed)
        return _with(plan, Stability(epsilon, len(rewards), 0, 0.0, 1.0))
    draw = partial(_drawn, len(b), samples, rng)
    return _with(*_satisfied_by_draws(b, curve, partial(rewards_of, game), relaxed, draw, confidence))


# floors -> levels, their tau, a value that none above the floors is below, and their own
Relaxed = Callable[[NDArray[np.intp]], tuple[NDArray[np.intp], float | None, float, float]]


def _by_objective(b: NDArray[np.float64], curve: Curve) -> Relaxed:
    """The best levels above the floors by the default objective."""
    objective = default_objective(len(b))

    def relaxed(floor: NDArray[np.intp]) -> tuple[NDArray[np.intp], float | None, float, float]:
        problem = SearchProblem(b, curve.levels, floor)
        chosen, tau, bound = solve(problem, objective)
        value = float(problem.value(chosen, objective))
        return chosen, tau, min(bound, value), value

    return relaxed


def _by_distance(b: NDArray[np.float64], curve: Curve, plan: Plan) -> Relaxed:
    """The levels above the floors that are nearest to a plan; their value is the distance."""
    target, levels = one_each("nearest_to", plan.predicted_accuracy, len(b)), curve.levels
    order = np.lexsort((target, b))
    rise, same = np.diff(target[order]), np.diff(b[order]) == 0
    if (rise < 0).any() or rise[same].any():
        allowed = "a plan in which equal contributions earn equal accuracies and more never earns less"
        raise refusal("nearest_to", allowed, target)
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, target)

    def relaxed(floor: NDArray[np.intp]) -> tuple[NDArray[np.intp], None, float, float]:
        chosen = np.maximum(nearest, floor)
        distance = float(np.abs(levels[chosen] - target).sum())
        return chosen, None, distance, distance

    return relaxed


def _satisfied(
    b: NDArray[np.float64], curve: Curve, rewards: dict[Coalition, NDArray[np.float64]], relaxed: Relaxed
) -> tuple[Plan, float]:
    """The best plan that none of these coalitions blocks by more than epsilon, and epsilon."""
    levels = curve.levels
    epsilon = max(0.0, max(float(reward.min()) for reward in rewards.values()) - curve.full)
    slack = epsilon + 1e-12
    queue: list[tuple[float, tuple[int, ...], NDArray[np.intp], float | None, float]] = []
    seen: set[tuple[int, ...]] = set()

    def push(floor: NDArray[np.intp]) -> None:
        if tuple(floor) not in seen:
            seen.add(tuple(floor))
            chosen, tau, bound, value = relaxed(floor)
            heappush(queue, (bound, tuple(floor), chosen, tau, value))

    push(np.zeros(len(b), dtype=np.intp))
    while True:
        bound, floor, chosen, tau, value = heappop(queue)
        blocking = max(rewards, key=lambda members: _margin(rewards[members], members, levels[chosen]))
        if _margin(rewards[blocking], blocking, levels[chosen]) <= slack:
            return proved(plan_of(chosen, curve, b, tau=tau), value, bound), epsilon
        for i, reward in zip(blocking, rewards[blocking]):
            level = np.searchsorted(levels, reward - slack)
            if level < len(levels):
                push(np.where(b >= b[i], np.maximum(floor, level), floor))


def _satisfied_by_draws(
    b: NDArray[np.float64],
    curve: Curve,
    reward: Callable[[Coalition], NDArray[np.float64]],
    relaxed: Relaxed,
    draw: Callable[[], list[Coalition]],
    confidence: float,
) -> tuple[Plan, Stability]:
    """The best plan that no coalition blocks that was met, and what the last fresh draws say of the others."""
    everybody = tuple(range(len(b)))
    known = {each: reward(each) for each in (*((i,) for i in everybody), everybody)}
    asked = dict(known)
    for k in range(1, PASSES + 1):
        plan, epsilon = _satisfied(b, curve, known, relaxed)
        drawn = draw()
        asked |= {each: reward(each) for each in dict.fromkeys(drawn) if each not in asked}
        hits = [each for each in drawn if _margin(asked[each], each, plan.predicted_accuracy) > epsilon + 1e-9]
        share = _upper_bound(len(hits), len(drawn), 1 - (1 - confidence) / (k * (k + 1)))
        if not hits:
            break
        known |= {each: asked[each] for each in hits}
    return plan, Stability(epsilon, len(drawn), len(hits), share, confidence)


def _with(plan: Plan, stability: Stability) -> StablePlan:
    """The plan, with what is known of its stability."""
    return StablePlan(*(getattr(plan, each.name) for each in fields(plan)), stability)


@checked
def marginal_value(contribution: ArrayLike, curve: Curve, *, game: Game) -> Plan:
    r"""Give gains in proportion to marginal values: the attainable accuracy nearest to $B_i + s\,m_i$.

    $m_i = \max(0, v(N) - v(N \setminus \{i\}))$ is what the others would miss without $i$, with $v(S)$ the best accuracy
    among the members of $S$ and $v(\emptyset) = 0$; if all $m_i$ are 0, they count as equal. $s$ is the largest number
    at which nobody with $m_i > 0$ and $B_i < u$ would receive more than $u$. Nobody receives less than its contribution
    where the curve reaches it: the next level up is given then. So this is individually rational, and equal marginal
    values give equal gains.

    It is the gain and not the accuracy that is in proportion: whoever holds the same data as another has no marginal
    value, and still has its own $B_i$. More contribution may earn less where it is redundant, and a plan may be blocked.

    Args:
        contribution: (n,) $B_i$, accuracies in [0, 1].
        curve: Attainable accuracies; $u$ is the highest.
        game: A coalition's curve or its members' accuracies; asked for everybody and for everybody but one.

    Raises:
        ValueError: The game returns no accuracies.

    Example:
        >>> curve = Curve((0.1, 0.4, 0.7, 1.0), (0.4, 0.5, 0.7, 0.8), samples=100)
        >>> def game(members):
        ...     return [0.8 if len(members) == 3 else 0.7 if 2 in members else 0.5] * len(members)
        >>> marginal_value([0.4, 0.4, 0.5], curve, game=game).predicted_accuracy.tolist()
        [0.5, 0.5, 0.8]

    References:
        The marginal product of economics, as in Vickrey-Clarke-Groves payments. Our choice.
    """
    b, levels, everybody = check_inputs(contribution, curve), curve.levels, tuple(range(np.size(contribution)))
    others = [tuple(j for j in everybody if j != i) for i in everybody]
    total = float(rewards_of(game, everybody).max())
    marginal = np.array([max(0.0, total - rewards_of(game, each).max()) if each else total for each in others])
    marginal = marginal if marginal.any() else np.ones(len(b))
    room, paid = curve.full - b, (marginal > 0) & (b < curve.full)
    scale = (room[paid] / marginal[paid]).min() if paid.any() else 0.0
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, b + scale * marginal)
    own = np.searchsorted(levels, b - 1e-12)
    return plan_of(np.minimum(np.maximum(nearest, own), len(levels) - 1), curve, b)
