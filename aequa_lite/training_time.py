r"""Rewards while training: nobody holds a better model than it has earned.

After every round the server measures the accuracy-width curve $\phi_t$ on
its validation samples. Participant $i$ has earned
$a_i(t) = \min(\phi_t(1),\ B_i + \max(0, \phi_t(1) - \max_j B_j))$ and
receives the widest sub-network whose fitted accuracy is at most
$a_i(t) + \epsilon$. The *allowance* $\epsilon$ trades leak for training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._check import accuracies, checked, number, one_each
from .allocation.exact import Plan, plan_of
from .config import Config
from .evaluation import Curve, accuracy, accuracy_curve, reward_curve
from .federate import Policy
from .slimmable import slim
from .types import Build, Round, Samples

__all__ = [
    "HeldModels", "Schedule", "earned_accuracy", "held_models",
    "settle", "training_time", "widest_within",
]  # fmt: skip

# (build, validation samples, contributions) -> policy
Schedule = Callable[[Build, Samples, NDArray[np.float64]], Policy]

# coarse: the curve is measured after every round
GRID = (
    *(0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.12, 0.15, 0.18, 0.21),
    *(k / 20 for k in range(5, 21)),
)


@checked
def training_time(
    allowance: float = 0.02, grid: Sequence[float] = GRID
) -> Schedule:
    r"""Reward while training: send the widest sub-network that is earned.

    In the first rounds the network is worse than what anybody reaches
    alone: everyone trains all of it and nothing is given away. Later the
    weaker hold less. `aequa` settles at the end: nobody's reward is wider
    than what it holds.

    Args:
        allowance: $\epsilon$, accuracy above what is earned, in [0, 1].
        grid: Widths at which the curve is measured and that are sent.

    Returns:
        A schedule for `aequa(schedule=...)`.

    Raises:
        ValueError: `allowance` or a width is outside its range.

    Example:
        >>> training_time(0.03).keywords["allowance"]
        0.03

    References:
        Our choice, in place of Aequa's Algorithm 2.
    """
    number("allowance", allowance, 0, 1)
    for width in grid:
        number("grid", width, 0, 1, above=True)
    chosen = tuple(sorted({*grid, 1.0}))
    return partial(_schedule, allowance=float(allowance), grid=chosen)


def _schedule(
    build: Build,
    validation: Samples,
    contribution: NDArray[np.float64],
    *,
    allowance: float,
    grid: tuple[float, ...],
) -> Policy:
    return partial(
        _policy,
        build=build,
        validation=validation,
        contribution=accuracies("contribution", contribution),
        allowance=allowance,
        grid=grid,
    )


def _policy(
    config: Config,
    last: Round | None,
    *,
    build: Build,
    validation: Samples,
    contribution: NDArray[np.float64],
    allowance: float,
    grid: tuple[float, ...],
) -> tuple[float, ...]:
    """Widths of the next round; everyone full before the first."""
    one_each("contribution", contribution, config.participants)
    if last is None:  # an untrained network is worth nothing
        return (1.0,) * config.participants
    if last.index + 1 < config.rounds:
        tried = [w for w in grid if w >= config.min_width - 1e-9]
        curve = accuracy_curve(build, last.theta, validation, grid=tried)
    else:  # for the settlement: what rewards are chosen from
        curve = reward_curve(build, last.theta, validation, config)
    target = earned_accuracy(curve, contribution) + allowance
    return tuple(widest_within(curve, target).tolist())


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


def settle(
    plan: Plan,
    held: ArrayLike,
    curve: Curve,
    contribution: NDArray[np.float64],
) -> Plan:
    """Limit a plan to the widths that participants hold already.

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
        parameters_sent: Numbers sent and received in the round.

    Example:
        >>> HeldModels(0, (0.5, 1.0), np.array([0.5, 0.7]), 0.7, 8).full
        0.7
    """

    index: int
    widths: tuple[float, ...]
    accuracy: NDArray[np.float64]
    full: float
    parameters_sent: int


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
        found = dict(zip(sizes, accuracy(nets, samples), strict=True))
        each = np.array([found.get(w, np.nan) for w in last.widths])
        full, sent = float(found[1.0]), last.parameters_sent
        yield HeldModels(last.index, last.widths, each, full, sent)
