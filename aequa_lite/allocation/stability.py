"""What a false claim pays, what a coalition would reach without the others, and plans that no coalition blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from heapq import heappop, heappush
from itertools import combinations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from scipy.stats import beta

from .._check import Accuracies, Count, Index, Level, Share, accuracies, checked, number, one_each, refusal
from ..config import stream
from ..contribution import CachedGame
from ..evaluation import Curve
from ._search import SearchProblem
from .exact import Certificate, Plan, Rule, allocate, best_above, default_objective, plan_of, proved

Array = NDArray[np.float64]

JOINT_REPORTS = 200_000  # joint reports of all groups up to which every one is tried


@checked
def misreport_gains(
    contribution: Accuracies,
    curve: Curve,
    rule: Rule = allocate,
    *,
    measured: bool = False,
    together: Count = 1,
    reports: Accuracies | None = None,
) -> Array:
    r"""Return what the best false report adds to the accuracy of each participant, or of each group that reports together.

    All others are truthful. A group $S$ chooses the joint report $r_S$ that adds most in sum, and no member may lose by
    it: $\max_{r_S} \sum_{i \in S} a_i(r_S) - a_i(B_S)$ with $a_i(r_S) \ge a_i(B_S)$ for all $i \in S$.

    Args:
        contribution: (n,) true contributions, accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        rule: Allocation rule of contributions and curve.
        measured: Whether contributions are measured, so that they can only be lowered.
        together: Participants of a group. Every joint report is tried.
        reports: Possible reports in [0, 1], beside the true one (default: 0.00, 0.01, ..., 1.00, and of a group 0.00,
            0.05, ..., 1.00). A report for which the rule is undefined earns nothing.

    Returns:
        One accuracy for each group, in the order of `itertools.combinations(range(n), together)`: (n,) for groups of one.

    Raises:
        ValueError: There are fewer participants than a group has, or more than 200,000 reports of all groups.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.7, 0.8), samples=100)
        >>> misreport_gains([0.4, 0.5, 0.7], curve).round(2).tolist()
        [0.3, 0.2, 0.0]
        >>> misreport_gains([0.4, 0.5, 0.7], curve, measured=True, together=2).round(2).tolist()
        [0.2, 0.2, 0.2]

    References:
        Best responses, and group strategy-proofness, by brute force. Our choice.
    """
    b = np.array(contribution, dtype=float)
    number("together", together, 1, len(b), whole=True)
    tries = np.linspace(0, 1, 101 if together == 1 else 21) if reports is None else np.array(reports, dtype=float)
    options = [np.append(tries[tries <= own] if measured else tries, own) for own in b]
    groups = list(combinations(range(len(b)), together))
    if (count := sum(math.prod(len(options[i]) for i in each) for each in groups)) > JOINT_REPORTS:
        raise refusal("together", f"such that all groups have at most {JOINT_REPORTS:,} joint reports", f"{count:,}")
    honest = rule(b, curve).predicted_accuracy
    return np.array([_joint_gain(list(each), b, curve, rule, honest, options) for each in groups])


def _joint_gain(
    members: list[int], b: Array, curve: Curve, rule: Rule, honest: Array, options: Sequence[Array]
) -> float:
    """What the best joint report of these members adds to their accuracies in sum; none of them loses by it."""
    best = 0.0
    for joint in product(*(options[i] for i in members)):
        reported = b.copy()
        reported[members] = joint
        try:
            more = (rule(reported, curve).predicted_accuracy - honest)[members]
        except ValueError:  # the rule is undefined for this report
            continue
        if more.min() > -1e-12:
            best = max(best, float(more.sum()))
    return best if best > 1e-12 else 0.0


Coalition = tuple[int, ...]
Game = Callable[[Coalition], Curve | ArrayLike]

FEWEST = 4  # trained coalitions: three coefficients, and one that is left out
START = (0.1, 0.2, 0.5)  # a, b, c, where the fit begins


def rewards_of(game: Game, members: Coalition) -> Array:
    """What each member of a coalition would receive, (members,)."""
    reward = game(members)
    reward = [reward.full] * len(members) if isinstance(reward, Curve) else accuracies("game", reward)
    return np.array(one_each("game", reward, len(members), "members"))


@checked
def trained_game(value: Callable[[frozenset[int]], float]) -> Game:
    r"""Make a game with copies: each member of a coalition may keep its full network, so all receive $v(S)$.

    Args:
        value: $v$, of a frozenset of participants, as `aequa_lite.contribution.retraining_game` returns. Each coalition
            is asked once.

    Returns:
        A game for `blocking_coalitions`, `stable` and `marginal_value`.

    Raises:
        ValueError: `value` is no function.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> value = aq.contribution.retraining_game(aq.MLP, shards, config, data.validation, progress=False)
        >>> game = trained_game(value)
        >>> game((0, 1)) == [value({0, 1})] * 2
        True
    """
    cached = CachedGame(value)
    return lambda members: [cached(members)] * len(members)


@dataclass(frozen=True, eq=False)
class PredictedGame:
    """Hold the accuracies of trained coalitions and predict those of the others: a game with copies.

    Args:
        trained: Accuracies of the coalitions that were trained.
        counts: (n, classes) each participant's samples of each class.
        coefficients: a, b and c of `predicted_game`.
        error: Root mean square error on the trained coalitions, each predicted from the others.
        error_of_mean: The same where the mean of the others is predicted.

    Example:
        >>> game = PredictedGame({(0,): 0.5}, np.array([[100], [300]]), (0.1, 0.2, 0.5), 0.01, 0.05)
        >>> game((0,)), game((0, 1))
        ([0.5], [0.7, 0.7])
    """

    trained: Mapping[Coalition, float]
    counts: NDArray[np.int64]
    coefficients: tuple[float, float, float]
    error: float
    error_of_mean: float

    def __call__(self, members: Coalition) -> list[float]:
        members = tuple(sorted(members))
        if members in self.trained:
            return [self.trained[members]] * len(members)
        return [float(_predicted(self.coefficients, _features([members], self.counts))[0])] * len(members)

    @property
    def statement(self) -> str:
        """How far predictions are off, in one sentence."""
        return (
            f"coalitions that were left out were predicted with a root mean square error of {self.error:.3f}, "
            f"and of {self.error_of_mean:.3f} by the mean of the others"
        )


@checked
def predicted_game(trained: Mapping[Collection[int], Share], counts: ArrayLike) -> PredictedGame:
    r"""Predict a coalition's accuracy from its pooled samples and the classes that it holds.

    A network does not predict a class that it has not seen, and on the others its error falls as a power of the samples:

    $$v(S) = k(S)\, \big( 1 - a - b\, (n(S) / n(N))^{-c} \big)$$

    with $n(S)$ the pooled samples, $k(S)$ the share of the classes that somebody in $S$ holds, and $a, b \in [0, 1]$,
    $c \in [0, 2]$ by least squares. Predictions are clipped to [0, 1].

    Args:
        trained: Accuracies of at least 4 coalitions, such as `CachedGame.values`; the empty one is left out.
        counts: (n, classes) each participant's samples of each class, such as `aequa_lite.data.class_counts`.

    Returns:
        A game that returns the trained accuracy where there is one and else the predicted one.

    Raises:
        ValueError: Fewer than 4 coalitions were trained, one is not among the participants, or counts are not whole
            numbers from 0 of which each participant has some.

    Example:
        >>> counts = np.array([[100, 0], [100, 100], [0, 800]])
        >>> trained = {(0,): 0.3, (1,): 0.64, (2,): 0.38, (0, 1): 0.68, (0, 2): 0.78, (1, 2): 0.79}
        >>> game = predicted_game(trained, counts)
        >>> game((0, 1)), game.error < game.error_of_mean
        ([0.68, 0.68], True)

    References:
        The power law of learning curves (Hestness et al. 2017); the factor for classes is our choice.
    """
    table = np.asarray(counts)
    if table.ndim != 2 or table.dtype.kind not in "iu" or not (table >= 0).all() or not table.sum(1).all():
        raise refusal("counts", "whole numbers of shape (n, classes), at least one sample each", counts)
    known = {tuple(sorted(members)): float(value) for members, value in trained.items() if len(members)}
    if len(known) < FEWEST or not set().union(*known) <= set(range(len(table))):
        allowed = f"accuracies of at least {FEWEST} coalitions of participants 0 to {len(table) - 1}"
        raise refusal("trained", allowed, list(known))
    features, value = _features(list(known), table), np.array(list(known.values()))
    others = ~np.eye(len(known), dtype=bool)  # a row for each coalition that is left out
    left_out = [_predicted(_fitted(features[:, k], value[k]), features[:, ~k])[0] for k in others]
    means = [value[k].mean() for k in others]
    error, error_of_mean = (float(np.sqrt(np.mean((value - found) ** 2))) for found in (left_out, means))
    return PredictedGame(known, table, _fitted(features, value), error, error_of_mean)


def _features(coalitions: Collection[Coalition], counts: NDArray[np.int64]) -> Array:
    """Each coalition's share of all samples and of all classes, (2, coalitions)."""
    held = np.array([counts[list(members)].sum(0) for members in coalitions])
    return np.array([held.sum(1) / counts.sum(), (held[:, counts.sum(0) > 0] > 0).mean(1)])


def _predicted(coefficients: Sequence[float], features: Array) -> Array:
    """The stated model, (coalitions,)."""
    (a, b, c), (pooled, covered) = coefficients, features
    return np.clip(covered * (1 - a - b * pooled**-c), 0, 1)


def _fitted(features: Array, value: Array) -> tuple[float, float, float]:
    """a, b and c by least squares."""
    found = least_squares(lambda x: _predicted(x, features) - value, START, bounds=([0, 0, 0], [1, 1, 2]))
    a, b, c = found.x.tolist()
    return a, b, c


Blocking = tuple[tuple[Coalition, float], ...]
Rewards = dict[Coalition, Array]  # of the members of each coalition
Best = Callable[[NDArray[np.intp]], Plan]  # the lowest levels that are allowed, (n,) -> the best plan above them

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
        >>> Stability(0.0, asked=100, blocking=0, share=0.0295, confidence=0.95).share
        0.0295
    """

    epsilon: float
    asked: int
    blocking: int
    share: float
    confidence: float


@dataclass(frozen=True, eq=False)
class StablePlan(Plan):
    """Hold a plan and what is known of the coalitions that would leave it.

    Args:
        stability: Its `epsilon` is that of the least core.

    Example:
        >>> curve = Curve((0.5, 1.0), (0.5, 0.7), samples=100)
        >>> plan = stable([0.4, 0.6], curve, game=lambda members: [0.4 if members == (0,) else 0.72] * len(members))
        >>> round(plan.stability.epsilon, 6), plan.stability.asked, plan.stability.blocking
        (0.02, 3, 0)
    """

    certificate: Certificate  # inherited; named here for tools that resolve the types of all fields
    stability: Stability


def _rewards(game: Game, n: int, name: str, remedy: str) -> Rewards:
    """What each member of each coalition would receive, (members,)."""
    if n > PARTICIPANTS:
        raise refusal(name, f"of at most {PARTICIPANTS} participants, since all coalitions are asked", n, remedy)
    return {each: rewards_of(game, each) for size in range(1, n + 1) for each in combinations(range(n), size)}


def _margin(reward: Array, members: Coalition, received: Array) -> float:
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


def _blocking(rewards: Rewards, received: Array) -> Blocking:
    """Coalitions that block and by how much, the strongest first."""
    margins = [(members, round(_margin(reward, members, received), 12)) for members, reward in rewards.items()]
    return tuple(sorted((found for found in margins if found[1] > 0), key=lambda found: -found[1]))


@checked
def sampled_blocking(
    plan: Plan, game: Game, *, samples: Count, confidence: Level = 0.95, seed: Index = 0
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
    blocking = dict(found)
    hits = sum(members in blocking for members in drawn)
    return found, Stability(0.0, samples, hits, _upper_bound(hits, samples, confidence), confidence)


@checked
def stable(
    contribution: Accuracies,
    curve: Curve,
    *,
    game: Game,
    nearest_to: Plan | None = None,
    samples: Count | None = None,
    confidence: Level = 0.95,
    seed: Index = 0,
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
    b = np.array(contribution, dtype=float)
    if nearest_to is None:
        best = partial(best_above, b=b, curve=curve, objective=default_objective(len(b)))
    else:
        best = partial(_nearest_above, b=b, curve=curve, target=_fair_target(nearest_to, b))
    if samples is None:
        rewards = _rewards(game, len(b), "contribution", "with `samples=m` only m of them are asked at a time")
        plan, epsilon = _satisfied(b, curve, rewards, best)
        return StablePlan(**vars(plan), stability=Stability(epsilon, len(rewards), 0, 0.0, 1.0))
    draw = partial(_drawn, len(b), samples, stream(seed, "coalitions"))
    plan, stability = _satisfied_by_draws(b, curve, game, best, draw, confidence)
    return StablePlan(**vars(plan), stability=stability)


def _fair_target(plan: Plan, b: Array) -> Array:
    """The accuracies of a plan in which equal contributions earn equal ones and more never earns less, (n,)."""
    target = one_each("nearest_to", plan.predicted_accuracy, len(b))
    order = np.lexsort((target, b))
    rise, same = np.diff(target[order]), np.diff(b[order]) == 0
    if (rise < 0).any() or rise[same].any():
        allowed = "a plan in which equal contributions earn equal accuracies and more never earns less"
        raise refusal("nearest_to", allowed, target)
    return target


def _nearest_above(floor: NDArray[np.intp], b: Array, curve: Curve, target: Array) -> Plan:
    """The plan nearest to a target that gives nobody a level below its floor; what is minimised is the distance."""
    plan = plan_of(SearchProblem(target, curve.levels, floor).nearest(0.0), curve, b)
    distance = float(np.abs(plan.predicted_accuracy - target).sum())
    return proved(plan, value=distance, bound=distance)


def _satisfied(b: Array, curve: Curve, rewards: Rewards, best: Best) -> tuple[Plan, float]:
    """The best plan that none of these coalitions blocks by more than epsilon, and epsilon."""
    epsilon = max(0.0, max(float(reward.min()) for reward in rewards.values()) - curve.full)
    slack = epsilon + 1e-12
    queue: list[tuple[float, tuple[int, ...], Plan]] = []
    seen: set[tuple[int, ...]] = set()

    def push(floor: NDArray[np.intp]) -> None:
        if (key := tuple(floor)) not in seen:
            seen.add(key)
            plan = best(floor)
            heappush(queue, (plan.certificate.bound, key, plan))

    push(np.zeros(len(b), dtype=np.intp))
    while True:
        _, floor, plan = heappop(queue)
        margins = {each: _margin(reward, each, plan.predicted_accuracy) for each, reward in rewards.items()}
        blocking = max(rewards, key=margins.__getitem__)
        if margins[blocking] <= slack:
            return plan, epsilon
        for i, reward in zip(blocking, rewards[blocking]):
            level = np.searchsorted(curve.levels, reward - slack)
            if level < len(curve.levels):
                push(np.where(b >= b[i], np.maximum(floor, level), floor))


def _satisfied_by_draws(
    b: Array, curve: Curve, game: Game, best: Best, draw: Callable[[], list[Coalition]], confidence: float
) -> tuple[Plan, Stability]:
    """The best plan that no coalition blocks that was met, and what the last fresh draws say of the others."""
    reward = cache(partial(rewards_of, game))
    singles, everybody = [(i,) for i in range(len(b))], tuple(range(len(b)))
    known = {each: reward(each) for each in (*singles, everybody)}
    for k in range(1, PASSES + 1):
        plan, epsilon = _satisfied(b, curve, known, best)
        drawn = draw()
        hits = [each for each in drawn if _margin(reward(each), each, plan.predicted_accuracy) > epsilon + 1e-9]
        share = _upper_bound(len(hits), len(drawn), 1 - (1 - confidence) / (k * (k + 1)))
        if not hits:
            break
        known |= {each: reward(each) for each in hits}
    return plan, Stability(epsilon, len(drawn), len(hits), share, confidence)


@checked
def marginal_value(contribution: Accuracies, curve: Curve, *, game: Game) -> Plan:
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
    b, levels = np.array(contribution, dtype=float), curve.levels
    everybody = tuple(range(len(b)))
    others = [tuple(j for j in everybody if j != i) for i in everybody]
    total = float(rewards_of(game, everybody).max())
    marginal = np.array([max(0.0, total - rewards_of(game, each).max()) if each else total for each in others])
    marginal = marginal if marginal.any() else np.ones(len(b))
    room, paid = curve.full - b, (marginal > 0) & (b < curve.full)
    scale = (room[paid] / marginal[paid]).min() if paid.any() else 0.0
    own = np.minimum(np.searchsorted(levels, b - 1e-12), len(levels) - 1)
    return plan_of(SearchProblem(b + scale * marginal, levels, own).nearest(0.0), curve, b)
