r"""Rewards while training: who has earned more holds a wider sub-network.

After every round the server measures the accuracy-width curve $\phi_t$ on
its validation samples. Participant $i$ has earned
$a_i(t) = \min(\phi_t(1),\ B_i + \max(0, \phi_t(1) - \max_j B_j))$ and
receives the widest sub-network whose fitted accuracy is at most
$a_i(t) + \epsilon$. The *allowance* $\epsilon$ trades leak for training.
The widest below a threshold is a choice among noisy measurements; with a
`confidence`, a width is sent only if its accuracy is certified to be low
enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from scipy.stats import beta

from ._check import (
    Fraction,
    Level,
    Share,
    accuracies,
    checked,
    number,
    one_each,
    refusal,
)
from .allocation.exact import Plan, Rule, plan_of
from .config import Config
from .evaluation import Curve, accuracy, accuracy_curve, reward_curve
from .federate import Policy
from .slimmable import slim
from .types import Build, Round, Samples

__all__ = [
    "HeldModels", "Schedule", "certified", "earned_accuracy",
    "held_models", "lost", "settle", "training_time", "upper_bounds",
    "widest_within",
]  # fmt: skip

# (build, validation samples, contributions) -> policy
Schedule = Callable[[Build, Samples, NDArray[np.float64]], Policy]

# finest where the curve is steep: a coarser grid rounds down by more
GRID = (
    *(k / 200 for k in range(4, 20)),
    *(k / 100 for k in range(10, 30)),
    *(k / 40 for k in range(12, 41)),
)

# stakes that `upper_bounds` mixes: large ones for few discordant samples
STAKES = np.geomspace(0.03, 0.97, 12)


@checked
def training_time(
    allowance: Share = 0.02,
    grid: Sequence[Fraction] = GRID,
    confidence: Level | None = None,
    tolerance: Share | None = None,
    allocation: Rule | None = None,
) -> Schedule:
    r"""Reward while training: send the widest sub-network that is earned.

    In the first rounds the network is worse than what anybody reaches
    alone: everyone trains all of it and nothing is given away. Later the
    weaker hold less. Whoever sent no valid update is sent nothing better
    than its model trained alone, and whoever was absent nothing wider than
    before. `aequa` settles at the end: nobody's reward is wider than what
    it holds.

    Args:
        allowance: $\epsilon$, accuracy above what is earned, in [0, 1].
        grid: Widths at which the curve is measured and that are sent.
        confidence: In (0, 1), such as 0.95: send only widths that are
            `certified`, at this confidence over all rounds together if the
            samples were fresh in every round (they are not: Proposition 13
            of the book). None: whatever the fitted curve says.
        tolerance: Updates that `lost` a larger share are not paid either.
        allocation: What is earned: the accuracies that this function of
            (contribution, curve) would give now, and at least what each
            reaches alone. None: `earned_accuracy`, the same gain for all.
            Give `aequa` the same one, for its plan in the end.

    Returns:
        A schedule for `aequa(schedule=...)`.

    Raises:
        ValueError: A number is outside its range, or a confidence is asked
            for with an allocation, for which nothing is certified.

    Example:
        >>> training_time(0.03).keywords["allowance"]
        0.03

    References:
        Our choice, in place of Aequa's Algorithm 2. What is guaranteed:
        Propositions 12 to 14 of the page of proofs.
    """
    if confidence is not None and allocation is not None:
        raise refusal("confidence", "None with an `allocation`", confidence)
    # called with network, samples and contributions, it binds them too
    return partial(
        partial,
        _policy,
        allowance=allowance,
        grid=tuple(sorted({*grid, 1.0})),
        confidence=confidence,
        tolerance=tolerance,
        allocation=allocation,
    )


def _policy(
    build: Build,
    validation: Samples,
    contribution: NDArray[np.float64],
    config: Config,
    last: Round | None,
    *,
    allowance: float,
    grid: Sequence[float],
    confidence: float | None,
    tolerance: float | None,
    allocation: Rule | None,
) -> tuple[float, ...]:
    """Widths of the next round; everyone full before the first."""
    b = accuracies("contribution", contribution)
    one_each("contribution", b, config.participants)
    if last is None:  # an untrained network is worth nothing
        return (1.0,) * config.participants
    if last.index + 1 < config.rounds:
        tried = [w for w in grid if w >= config.min_width - 1e-9]
        curve = accuracy_curve(build, last.theta, validation, grid=tried)
        candidates = len(tried)
    else:  # for the settlement: what rewards are chosen from
        curve = reward_curve(build, last.theta, validation, config)
        candidates = config.grid * max(1, config.fractions)
    target = _earned(curve, b, allocation) + allowance
    # whose update does not show what it contributes
    refuted = np.zeros(len(b), dtype=bool)
    here = np.flatnonzero(last.widths)  # in the order of the updates
    refuted[here] = [u.participant in last.left_out for u in last.updates]
    if tolerance is not None:
        refuted |= lost(build, last, validation, b) > tolerance
    cap = (1 - (tolerance or 0)) * b
    target = np.where(refuted, np.minimum(target, cap), target)
    # who was absent receives nothing wider than was decided before
    absent = np.equal(last.widths, 0) & np.greater(last.next_widths, 0)
    most = np.where(absent, last.next_widths, 1.0)
    if confidence is None:
        chosen = np.minimum(widest_within(curve, target), most)
    else:
        tests = 2 * candidates * config.rounds
        within = certified(curve, b, allowance, confidence, tests)  # (n, K)
        within &= curve.fitted <= target[:, None] + 1e-12
        within &= curve.widths <= most[:, None] + 1e-9
        within[:, 0] = True  # nobody can hold less
        chosen = np.where(within, curve.widths, 0.0).max(1)
    return tuple(chosen.tolist())


def _earned(
    curve: Curve, contribution: NDArray[np.float64], allocation: Rule | None
) -> NDArray[np.float64]:
    """What each has earned of this network, (n,)."""
    if allocation is None:
        return earned_accuracy(curve, contribution)
    try:
        paid = allocation(contribution, curve).predicted_accuracy
    except ValueError:  # undefined while nobody can gain
        return earned_accuracy(curve, contribution)
    # what one has alone gives nothing away
    return np.maximum(paid, np.minimum(curve.full, contribution))


def lost(
    build: Build, last: Round, samples: Samples, contribution: ArrayLike
) -> NDArray[np.float64]:
    r"""Return the share of its accuracy that each update lost, (n,).

    $1 - \phi_i / \min(\phi(1), B_i)$: $\phi_i$ is the accuracy of what
    came back, $\phi(1)$ that of the full network before the round, $B_i$
    that of the model trained alone. Honest updates usually lose little,
    wrong labels most of it; where many of the others have wrong labels,
    honest updates may lose much too. What was sent does not enter, so
    whoever is sent less because of a bad update is not excused by that.

    Returns:
        (n,) shares, negative for a gain; 0 for who sent no valid update.

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> rounds = aq.federate(aq.MLP, shards, config, progress=False)
        >>> lost(aq.MLP, *rounds, data.validation, [0.1, 0.1]).shape
        (2,)
    """
    b = accuracies("contribution", contribution)
    found = np.zeros(len(b))
    (full,) = accuracy([slim(build, last.before.theta, 1.0)], samples)
    for i, u in zip(np.flatnonzero(last.widths), last.updates, strict=True):
        if u.participant not in last.left_out:
            (came,) = accuracy([slim(build, u.state, u.width)], samples)
            found[i] = 1 - came / max(min(full, b[i]), 1e-9)
    return found


def earned_accuracy(
    curve: Curve, contribution: ArrayLike
) -> NDArray[np.float64]:
    r"""Return what each participant has earned of this network, (n,).

    $a_i = \min(\phi(1),\ B_i + \max(0, \phi(1) - \max_j B_j))$: the common
    gain that the best contributor can have, and what it has alone while the
    network is worse than that.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
        >>> earned_accuracy(curve, [0.4, 0.7]).round(3).tolist()
        [0.5, 0.8]
    """
    b = accuracies("contribution", contribution)
    common = max(0.0, curve.full - float(b.max()))
    return np.minimum(curve.full, b + common)


def widest_within(curve: Curve, target: ArrayLike) -> NDArray[np.float64]:
    """Return the widest width whose fitted accuracy is at most the target.

    The least width where there is none. The widest, not the smallest that
    is worth as much: units that are not trained yet are worth nothing, and
    stay so if nobody receives them.

    Returns:
        (n,) widths of the curve.

    Example:
        >>> curve = Curve((0.1, 0.5, 0.8, 1.0), (0.3, 0.6, 0.6, 0.8), 1000)
        >>> widest_within(curve, [0.2, 0.65, 0.9]).tolist()
        [0.1, 0.8, 1.0]
    """
    limit = np.asarray(target, dtype=float) + 1e-12
    place = np.searchsorted(curve.fitted, limit, side="right") - 1
    return curve.widths[np.maximum(place, 0)]


def upper_bounds(
    curve: Curve, confidence: float, tests: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Bound the accuracy at each width from above, with confidence.

    One bound is on $\phi(w) - \phi(1)$. A validation sample has $y = 1$ if
    only the full width is right on it, $y = 0$ if only width $w$ is, and
    $y = 1/2$ else, so that $\phi(w) - \phi(1) = 1 - 2\mu$ with
    $\mu = \mathbb E y$. The least $\mu$ is kept for which the mean over a
    few stakes $\lambda$ of $\prod_j (1 + \lambda(y_j/\mu - 1))$ is at most
    tests / (1 - confidence). The other is the exact binomial bound on
    $\phi(w)$. Each holds at level (1 - confidence) / tests, for any number
    of samples, if the network does not depend on them.

    Args:
        curve: As measured: it knows which samples were correct.
        confidence: In (0, 1), of all tests together.
        tests: How many bounds shall hold at once.

    Returns:
        (K,) bounds on $\phi(w) - \phi(1)$, and (K,) on $\phi(w)$.

    Raises:
        ValueError: A number is outside its range, or the curve does not
            know which samples were correct.

    Example:
        >>> right = np.arange(1000) < np.array([[600], [800]])
        >>> curve = Curve((0.5, 1.0), right.mean(1), 1000, right)
        >>> [each.round(3).tolist() for each in upper_bounds(curve, 0.95)]
        [[-0.165, 0.0], [0.626, 0.821]]

    References:
        Betting on a bounded mean (Waudby-Smith and Ramdas 2023), with the
        stakes mixed; Clopper and Pearson (1934).
    """
    number("confidence", confidence, 0, 1, above=True, below=True)
    number("tests", tests, 1, whole=True)
    if curve.correct is None:
        raise refusal("curve", "measured, with its correct samples", curve)
    level, right, n = (1 - confidence) / tests, curve.correct, curve.samples
    ones = (right[-1] & ~right).sum(1)
    zeros = (right & ~right[-1]).sum(1)
    low, high = np.zeros(len(right)), (1 + (ones - zeros) / n) / 2
    for _ in range(40):
        mean = (low + high) / 2
        refuted = _capital(ones, zeros, n, mean) > -np.log(level)
        low = np.where(refuted, mean, low)
        high = np.where(refuted, high, mean)
    paired = np.append(1 - 2 * low[:-1], 0.0)  # the full width is itself
    hits = right.sum(1)
    plain = beta.ppf(1 - level, hits + 1, np.maximum(n - hits, 1e-9))
    return paired, np.where(hits < n, plain, 1.0)


def _capital(
    ones: NDArray[np.int64],
    zeros: NDArray[np.int64],
    samples: int,
    mean: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Log of the mean capital of all stakes against this mean, (K,)."""
    stakes = STAKES[:, None]
    odds = 1 / np.maximum(mean, 1e-12) - 1
    half = stakes * (odds - 1) / 2  # y = 1/2: y / mean - 1
    log = ones * np.log1p(stakes * odds) + zeros * np.log1p(-stakes)
    log = log + (samples - ones - zeros) * np.log1p(half)
    return logsumexp(log, axis=0) - np.log(len(STAKES))


def certified(
    curve: Curve,
    contribution: ArrayLike,
    allowance: float,
    confidence: float,
    tests: int = 1,
) -> NDArray[np.bool_]:
    r"""Return which widths are certainly within what each has earned.

    With $a_i = \min(\phi(1), \max(B_i, \phi(1) - \max_j B_j + B_i))$,
    width $w$ is within $a_i + \epsilon$ if $\phi(w) - \phi(1) \le \epsilon
    - (\max_j B_j - B_i)$, or else if $\phi(w) \le B_i + \epsilon$ and
    $\phi(w) - \phi(1) \le \epsilon$. It is certified if the
    `upper_bounds` say so.

    Returns:
        (n, K) bool; a higher contribution is certified at least as much.

    Example:
        >>> right = np.arange(1000) < np.array([[600], [700], [800]])
        >>> curve = Curve((0.2, 0.5, 1.0), right.mean(1), 1000, right)
        >>> found = certified(curve, [0.5, 0.6, 0.7], 0.02, 0.95)
        >>> found.astype(int).tolist()
        [[0, 0, 0], [1, 0, 0], [1, 1, 1]]

    References:
        Ours: Proposition 13 of the page of proofs.
    """
    b = accuracies("contribution", contribution)[:, None]
    number("allowance", allowance, 0, 1)
    paired, plain = upper_bounds(curve, confidence, tests)
    near = paired <= allowance - (b.max() - b) + 1e-12
    alone = (plain <= b + allowance) & (paired <= allowance)
    return near | alone


def settle(
    plan: Plan,
    held: ArrayLike,
    curve: Curve,
    contribution: NDArray[np.float64],
) -> Plan:
    """Limit a plan to the widths that the schedule would send next.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
        >>> from aequa_lite import allocate
        >>> plan = allocate([0.4, 0.6], curve)
        >>> settle(plan, [0.5, 0.5], curve, [0.4, 0.6]).widths.tolist()
        [0.5, 0.5]
    """
    limit = np.asarray(held, dtype=float) + 1e-9
    place = np.searchsorted(curve.level_widths, limit, side="right") - 1
    chosen = np.searchsorted(curve.level_widths, plan.widths - 1e-9)
    chosen = np.minimum(chosen, np.maximum(place, 0))
    b = accuracies("contribution", contribution)
    return plan_of(chosen, curve, b, tau=plan.tau)


@dataclass(frozen=True, eq=False)
class HeldModels:
    """Hold how good the slices were that participants received in a round.

    Args:
        widths: (n,) widths received.
        accuracy: (n,) of what was received, NaN for who was absent.
        full: Accuracy of the whole network.

    Example:
        >>> HeldModels((0.5, 1.0), np.array([0.5, 0.7]), 0.7).full
        0.7
    """

    widths: tuple[float, ...]
    accuracy: NDArray[np.float64]
    full: float


def held_models(
    build: Build, rounds: Iterable[Round], samples: Samples
) -> Iterator[HeldModels]:
    """Measure, round after round, what participants have received.

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> rounds = aq.federate(aq.MLP, shards, config, progress=False)
        >>> [h.widths for h in held_models(aq.MLP, rounds, data.test)]
        [(1.0, 1.0)]
    """
    for last in rounds:
        sizes = sorted({1.0, *last.widths} - {0.0})
        nets = [slim(build, last.before.theta, w) for w in sizes]
        found = dict(zip(sizes, accuracy(nets, samples).tolist()))
        each = np.array([found.get(w, np.nan) for w in last.widths])
        yield HeldModels(last.widths, each, found[1.0])
