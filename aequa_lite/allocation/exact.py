"""Allocate: contributions and a curve become one width for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._check import (
    Accuracies,
    Count,
    NotNegative,
    checked,
    one_each,
    refusal,
)
from ..evaluation import Curve
from ._search import (
    Objective,
    SearchProblem,
    enumerate_plans,
    exact_search,
    few_plans,
)


@dataclass(frozen=True)
class Certificate:
    """Say how good a plan is, and what stands in its way.

    Args:
        at_least: Who receives the lowest attainable accuracy.
        at_full: Who receives the highest attainable accuracy.
        spread: Predicted CGS.
        covers: Whether the curve spans the contributions' range.
        top_reaches: Whether the full width is no worse than the best
            participant's stand-alone accuracy.
        worse_off: Whose predicted accuracy is below its stand-alone
            accuracy.
        shortfall: By how much at most.
        value: Objective of the plan.
        bound: No plan considered is below it; -inf if nothing is proved.
        best_spread: The smallest CGS on this curve, of individually
            rational plans where they are asked for.

    Example:
        >>> curve = Curve((0.5, 1.0), (0.5, 0.7), samples=100)
        >>> allocate([0.4, 0.6], curve).certificate.at_full
        (1,)
    """

    at_least: tuple[int, ...]
    at_full: tuple[int, ...]
    spread: float
    covers: bool
    top_reaches: bool
    worse_off: tuple[int, ...]
    shortfall: float
    value: float = math.nan
    bound: float = math.nan
    best_spread: float = math.nan

    @property
    def exact(self) -> bool:
        """Whether value and bound agree, so that no plan is better."""
        return self.value == self.bound

    @property
    def statement(self) -> str:
        """Who falls below its stand-alone accuracy, in one sentence."""
        if not self.worse_off:
            return (
                "nobody is predicted to fall below its stand-alone accuracy"
            )
        many = len(self.worse_off) > 1
        who = ", ".join(map(str, self.worse_off))
        why = "not even the full width reaches the best participant alone"
        if self.top_reaches:
            why = "another plan prevents it: individually_rational=True"
        return (
            f"participant{'s' * many} {who} {'are' if many else 'is'} "
            f"predicted up to {self.shortfall:.3f} below stand-alone "
            f"accuracy; {why}"
        )


@dataclass(frozen=True, eq=False)
class Plan:
    r"""Hold one width for each participant.

    Args:
        widths: (n,) in (0, 1].
        predicted_accuracy: (n,) accuracy of each width on the curve.
        tau: The common gain $\tau$, if the plan has one.
        certificate: How good the plan is.

    Example:
        >>> curve = Curve((0.5, 1.0), (0.5, 0.7), samples=100)
        >>> allocate([0.4, 0.6], curve).widths.tolist()
        [0.5, 1.0]
    """

    widths: NDArray[np.float64]
    predicted_accuracy: NDArray[np.float64]
    tau: float | None
    certificate: Certificate


# (contributions, curve) -> plan
Rule = Callable[[NDArray[np.float64], Curve], Plan]


@checked
def spread_minus_gain(weight: NotNegative) -> Objective:
    r"""Return reading A: minimise $\mathrm{CGS} - \lambda\,\mathrm{MCG}$.

    Args:
        weight: $\lambda$, from 0.

    Raises:
        ValueError: `weight` is negative or not a finite number.

    Example:
        >>> spread_minus_gain(0.5)(0.25, 0.125)
        0.0

    References:
        A reading of the paper's Eq. 3, known in words only. Our choice.
    """
    return partial(_linear, weight=weight)


def spread_only() -> Objective:
    """Return the pure spread: minimise CGS, whatever the mean gain.

    Example:
        >>> spread_only()(0.1, 0.5)
        0.5
    """
    return partial(_linear, weight=0.0)


def spread_per_gain() -> Objective:
    r"""Return reading B: minimise $\mathrm{CGS} / \mathrm{MCG}$.

    It is infinite where the mean gain is not above 0.

    Example:
        >>> ratio = spread_per_gain()
        >>> float(ratio(0.5, 0.25)), float(ratio(-0.1, 0.2))
        (0.5, inf)

    References:
        A reading of Eq. 3; degenerate where equal gains are attainable.
    """
    return partial(_ratio)


@checked
def gain_minus_variance(weight: NotNegative) -> Objective:
    r"""Return reading C: maximise $\mathrm{MCG} - \lambda \mathrm{Var}(G)$.

    Its negative is minimised.

    Args:
        weight: $\lambda$, from 0.

    Raises:
        ValueError: `weight` is negative or not a finite number.

    Example:
        >>> gain_minus_variance(2.0)(0.5, 0.5)
        0.0

    References:
        A reading of Eq. 3.
    """
    return partial(_quadratic, weight=weight)


@checked
def default_objective(participants: Count) -> Objective:
    r"""Return reading A with $\lambda = 1 / (2 \sqrt{n - 1})$.

    This is half the weight at which equal gains stop being optimal.

    Args:
        participants: n, from 1.

    Example:
        >>> default_objective(5)(1.0, 0.5)
        0.25

    References:
        Our choice.
    """
    return spread_minus_gain(0.5 / math.sqrt(max(participants - 1, 1)))


def _linear(mean: Any, spread: Any, weight: float) -> Any:
    """Reading A."""
    return spread - weight * mean


def _ratio(mean: Any, spread: Any) -> Any:
    """Reading B; a mean gain that is only rounding is none."""
    gains = np.asarray(mean) > 1e-12
    return np.where(gains, spread / np.where(gains, mean, 1.0), np.inf)


def _quadratic(mean: Any, spread: Any, weight: float) -> Any:
    """Reading C, negated."""
    return weight * spread**2 - mean


# For these the best plan lies on the path of one tau (Proposition 10 in
# book/proofs.md). Let A_i be the levels that participant i may receive.
# A: s = min over r > 0 and c of (mean((g - c)^2) / r + r) / 2. With r and
#    c held, each participant minimises (g_i - c)^2 / (2 r) - weight g_i
#    over A_i by itself: the level nearest to B_i + c + weight r.
# B: let v be the smallest ratio. Then s - v m is 0 at the optimum and
#    nowhere below 0, so the optimum minimises A with weight v (Dinkelbach).
# C: s^2 = min over c of mean((g - c)^2); then as A.
ONE_TAU = (_linear, _ratio, _quadratic)


def checked_objective(
    objective: Objective | None, participants: int
) -> Objective:
    """The default, or one that never falls as the spread grows."""
    if objective is None:
        return default_objective(participants)
    allowed = "a function of arrays that never falls as the spread grows"
    mean = np.repeat((-0.5, -0.1, 0.1, 0.5), 11)
    spread = np.tile(np.linspace(0.0, 0.5, 11), 4)
    try:
        rows = np.array(objective(mean, spread), float).reshape(4, 11)
    except (TypeError, ValueError) as error:
        raise refusal("objective", allowed, error) from error
    if not (rows[:, 1:] >= rows[:, :-1] - 1e-12).all():
        raise refusal("objective", allowed, objective)
    return objective


def solve(
    problem: SearchProblem, objective: Objective
) -> tuple[NDArray[np.intp], float | None, float]:
    """The best levels found, their tau, and what no plan is below."""
    if getattr(objective, "func", objective) in ONE_TAU:
        return exact_search(problem, objective)
    if few_plans(problem):
        chosen, value = enumerate_plans(problem, objective)
        return chosen, None, value
    chosen, tau, _ = exact_search(problem, objective)
    return chosen, tau, -np.inf


@checked
def allocate(
    contribution: Accuracies,
    curve: Curve,
    *,
    objective: Objective | None = None,
    individually_rational: bool = False,
    standalone: Accuracies | None = None,
) -> Plan:
    r"""Give every participant a width that matches its contribution.

    Over gains $G_i = a_i - B_i$ with attainable accuracies $a_i$:

    $$\min_a\ \mathrm{CGS}(a) - \lambda\,\mathrm{MCG}(a).$$

    At the optimum each $a_i$ is the attainable accuracy nearest to
    $B_i + \tau$ for one $\tau$. Equal contributions earn equal widths and
    more never earns less, unless `individually_rational` lifts somebody to
    a `standalone` accuracy of another order. (Under an objective of your
    own, equal contributions may earn unequal widths.)

    Args:
        contribution: (n,) $B_i$, accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        objective: What is minimised (default: `default_objective`). The
            plan is exact for `spread_minus_gain`, `spread_only`,
            `spread_per_gain` and `gain_minus_variance`. Another function
            of mean and spread is exact up to 200,000 plans; beyond, the
            best plan of one $\tau$ is returned and nothing is proved.
            Equal contributions count once in the search; its memory is
            about 200 bytes x different contributions x levels.
        individually_rational: Give nobody less than its stand-alone
            accuracy where the curve reaches it; the certificate says who
            falls short.
        standalone: (n,) stand-alone accuracies (default: `contribution`).

    Returns:
        The plan and its certificate.

    Raises:
        ValueError: Contributions are no accuracies, or the objective is
            undefined for every plan or falls as the spread grows.

    Example:
        >>> curve = Curve((0.2, 0.5, 1.0), (0.5, 0.7, 0.9), samples=1000)
        >>> allocate([0.45, 0.65, 0.85], curve).widths.tolist()
        [0.2, 0.5, 1.0]

    References:
        Post-training allocation of Aequa (Sec. 4.2, Eq. 3). The reading,
        its weight and the exact solution are ours; the paper anneals.
    """
    b, levels = np.array(contribution, dtype=float), curve.levels
    own = np.array(b if standalone is None else standalone, dtype=float)
    one_each("standalone", own, len(b))
    objective = checked_objective(objective, len(b))
    floor = np.zeros(len(b), dtype=np.intp)
    if individually_rational:
        reached = np.searchsorted(levels, own - 1e-12)
        floor = np.minimum(reached, len(levels) - 1)
    plan = best_above(floor, b, curve, objective, own)
    if not np.isfinite(plan.certificate.value):
        allowed = "finite for some plan on this curve"
        remedy = "a ratio needs a mean gain above 0"
        raise refusal("objective", allowed, plan.certificate.value, remedy)
    problem = SearchProblem(b, levels, floor)
    best = float(problem.spread(solve(problem, spread_only())[0]))
    return proved(plan, best_spread=best)


def best_above(
    floor: NDArray[np.intp], b: NDArray[np.float64], curve: Curve,
    objective: Objective, standalone: NDArray[np.float64] | None = None,
) -> Plan:  # fmt: skip
    """The best plan found that gives nobody a level below its floor."""
    problem = SearchProblem(b, curve.levels, floor)
    chosen, tau, bound = solve(problem, objective)
    value = float(problem.value(chosen, objective))
    plan = plan_of(chosen, curve, b, standalone, tau=tau)
    return proved(plan, value=value, bound=float(min(bound, value)))


def proved(plan: Plan, **found: float) -> Plan:
    """The plan, with more in its certificate."""
    return replace(plan, certificate=replace(plan.certificate, **found))


@checked
def plan_of(
    chosen: ArrayLike, curve: Curve, contribution: Accuracies,
    standalone: Accuracies | None = None, *, tau: float | None = None,
) -> Plan:  # fmt: skip
    r"""Return the plan that gives each participant this level of the curve.

    Args:
        chosen: (n,) positions in `curve.levels`.
        curve: Attainable accuracies and their widths.
        contribution: (n,) accuracies in [0, 1].
        standalone: (n,) stand-alone accuracies (default: `contribution`).
        tau: The common gain $\tau$, if there is one.

    Raises:
        ValueError: A position is not on the curve, or lengths differ.

    Example:
        >>> curve = Curve((0.5, 1.0), (0.5, 0.7), samples=100)
        >>> plan_of([0, 1], curve, [0.4, 0.6]).widths.tolist()
        [0.5, 1.0]
    """
    b, levels = np.array(contribution, dtype=float), curve.levels
    own = np.array(b if standalone is None else standalone, dtype=float)
    one_each("standalone", own, len(b))
    level = one_each("chosen", np.asarray(chosen), len(b))
    whole = level.dtype.kind == "i"
    if not whole or level.min() < 0 or level.max() >= len(levels):
        allowed = f"positions of the curve's {len(levels)} levels"
        raise refusal("chosen", allowed, chosen)
    accuracy = levels[level]
    below = own - accuracy
    short = below > 1e-12
    certificate = Certificate(
        at_least=tuple(np.flatnonzero(level == 0).tolist()),
        at_full=tuple(np.flatnonzero(level == len(levels) - 1).tolist()),
        spread=float(np.std(accuracy - b)),
        covers=bool(curve.full - curve.least >= np.ptp(b) - 1e-12),
        top_reaches=bool(curve.full >= own.max() - 1e-12),
        worse_off=tuple(np.flatnonzero(short).tolist()),
        shortfall=float(below[short].max(initial=0.0)),
    )
    return Plan(curve.level_widths[level], accuracy, tau, certificate)
