"""What a false claim pays, what a coalition would reach without the others, and plans that no coalition blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from heapq import heappop, heappush
from itertools import combinations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from scipy.stats import beta

from .._check import Accuracies, Count, Index, Level, Share, accuracies, checked, flag, number, one_each, refusal
from ..evaluation import Curve
from ..rng import stream
from ..shapley import CachedGame
from ._search import SearchProblem
from .exact import Certificate, Plan, Rule, allocate, check_inputs, default_objective, plan_of, proved, solve

REPORTS = np.linspace(0, 1, 101)


COARSE = np.linspace(0, 1, 21)  # reports of each member of a group


JOINT_REPORTS = 200_000  # joint reports up to which every one is tried


@checked
def best_response(
    contribution: Accuracies, curve: Curve, participant: Index, rule: Rule = allocate, reports: Accuracies | None = None
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
    contribution: Accuracies,
    curve: Curve,
    rule: Rule = allocate,
    *,
    measured: bool = False,
    together: Count = 1,
    reports: Accuracies | None = None,
) -> NDArray[np.float64]:
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
        ValueError: There are fewer participants than a group has, or more than 200,000 joint reports of all groups.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.7, 0.8), samples=100)
        >>> misreport_gains([0.4, 0.5, 0.7], curve).round(2).tolist()
        [0.3, 0.2, 0.0]
        >>> misreport_gains([0.4, 0.5, 0.7], curve, measured=True, together=2).round(2).tolist()
        [0.2, 0.2, 0.2]

    References:
        Best responses, and group strategy-proofness, by brute force. Our choice.
    """
    b, flagged = check_inputs(contribution, curve), flag("measured", measured)
    number("together", together, 1, len(b), whole=True)
    tries = REPORTS if together == 1 else COARSE
    tries = tries if reports is None else accuracies("reports", reports)
    options = [tries[tries <= own] if flagged else tries for own in b]
    if together == 1:
        return np.array([best_response(b, curve, i, rule, np.append(each, b[i]))[1] for i, each in enumerate(options)])
    groups = list(combinations(range(len(b)), together))
    if (count := sum(math.prod(len(options[i]) + 1 for i in each) for each in groups)) > JOINT_REPORTS:
        raise refusal("together", f"such that all groups have at most {JOINT_REPORTS:,} joint reports", f"{count:,}")
    return np.array([_joint_gain(b, curve, each, rule, [options[i] for i in each]) for each in groups])


def _joint_gain(
    b: NDArray[np.float64], curve: Curve, members: tuple[int, ...], rule: Rule, options: Sequence[NDArray[np.float64]]
) -> float:
    """What the best joint report of these members adds to their accuracies in sum; none of them loses by it."""
    who, best = list(members), 0.0
    honest = rule(b, curve).predicted_accuracy[who]
    for joint in product(*(np.append(each, own) for each, own in zip(options, b[who]))):
        reported = b.copy()
        reported[who] = joint
        try:
            more = rule(reported, curve).predicted_accuracy[who] - honest
        except ValueError:  # the rule is undefined for this report
            continue
        if more.min() > -1e-12:
            best = max(best, float(more.sum()))
    return best if best > 1e-12 else 0.0


Coalition = tuple[int, ...]
Game = Callable[[Coalition], Curve | ArrayLike]


FEWEST = 4  # trained coalitions: three coefficients, and one that is left out


START = (0.1, 0.2, 0.5)  # a, b, c, where the fit begins


def rewards_of(game: Game, members: Coalition) -> NDArray[np.float64]:
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
    if not callable(value):
        raise refusal("value", "a function of a frozenset of participants", value)
    cached = value if isinstance(value, CachedGame) else CachedGame(value)
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
        pooled, covered = _features([members], self.counts)
        return [float(_accuracy(np.array(self.coefficients), pooled, covered)[0])] * len(members)

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
    pooled, covered = _features(list(known), table)
    value, every = np.array(list(known.values())), np.arange(len(known))
    apart = [every != i for i in every]
    left_out = [_accuracy(_fitted(pooled[k], covered[k], value[k]), pooled[~k], covered[~k])[0] for k in apart]
    means = [value[k].mean() for k in apart]
    error, error_of_mean = (float(np.sqrt(np.mean((value - found) ** 2))) for found in (left_out, means))
    a, b, c = _fitted(pooled, covered, value).tolist()
    return PredictedGame(known, table, (a, b, c), error, error_of_mean)


def _features(
    coalitions: Collection[Coalition], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each coalition's share of all samples and of all classes."""
    held = np.array([counts[list(members)].sum(0) for members in coalitions])
    classes = counts.sum(0) > 0
    return held.sum(1) / counts.sum(), (held[:, classes] > 0).mean(1)


def _accuracy(
    coefficients: NDArray[np.float64], pooled: NDArray[np.float64], covered: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The stated model."""
    a, b, c = coefficients
    return np.clip(covered * (1 - a - b * pooled**-c), 0, 1)


def _fitted(
    pooled: NDArray[np.float64], covered: NDArray[np.float64], value: NDArray[np.float64]
) -> NDArray[np.float64]:
    """a, b and c by least squares."""
    found = least_squares(lambda x: _accuracy(x, pooled, covered) - value, START, bounds=([0, 0, 0], [1, 1, 2]))
    return found.x


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
