"""After training: contributions and a curve become one width for each participant, exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation import Curve
from ._search import SearchProblem, bounded_search, exact_search

__all__ = [
    "Certificate",
    "Plan",
    "allocate",
    "gain_minus_variance",
    "plan_of",
    "spread_minus_gain",
    "spread_only",
    "spread_per_gain",
]


Objective = Callable[[Any, Any], Any]  # (mean gain, spread of gains) -> what is minimised


EXACT = 1_000_000  # participants x attainable accuracies up to which every candidate is tried


@dataclass(frozen=True)
class Certificate:
    """Say how good a plan is and what stands in its way.

    ``value``: the objective of the plan; ``bound``: no plan is below it; ``exact``: the two agree. ``at_least``,
    ``at_full``: who holds the lowest and the highest attainable accuracy. ``spread``: the predicted CGS, ``best_spread``:
    the smallest one on this curve. ``covers``: the curve spans the contributions' range; ``top_reaches``: its full width
    is no worse than the best participant alone. ``worse_off``: whose predicted accuracy is below what it reached alone;
    ``shortfall``: by how much at the most.

    Example:
        >>> import aequa_lite as aq
        >>> aq.allocate([0.4, 0.6], aq.Curve((0.5, 1.0), (0.5, 0.7), samples=100)).certificate.at_full
        (1,)
    """

    value: float
    bound: float
    exact: bool
    at_least: tuple[int, ...]
    at_full: tuple[int, ...]
    spread: float
    best_spread: float
    covers: bool
    top_reaches: bool
    worse_off: tuple[int, ...]
    shortfall: float

    @property
    def gap(self) -> float:
        """How far above the optimum the plan can be at the most."""
        return self.value - self.bound

    @property
    def statement(self) -> str:
        """One sentence on who falls below what it reached alone, by how much, and whether another plan could prevent it."""
        if not self.worse_off:
            return "nobody is predicted to fall below what it reached alone"
        many = len(self.worse_off) > 1
        who = f"participant{'s' * many} {', '.join(map(str, self.worse_off))} {'are' if many else 'is'}"
        why = "another plan can prevent it: individually_rational=True"
        if not self.top_reaches:
            why = "not even the full width reaches the best participant alone"
        return f"{who} predicted up to {self.shortfall:.3f} below what was reached alone; {why}"


@dataclass(frozen=True, eq=False)
class Plan:
    """Hold one width for each participant: ``widths`` and ``predicted_accuracy`` (n,), the common gain ``tau``.

    Example:
        >>> import aequa_lite as aq
        >>> aq.allocate([0.4, 0.6], aq.Curve((0.5, 1.0), (0.5, 0.7), samples=100)).widths.tolist()
        [0.5, 1.0]
    """

    widths: np.ndarray
    predicted_accuracy: np.ndarray
    tau: float | None
    certificate: Certificate


def spread_minus_gain(weight: float) -> Objective:
    r"""Return reading A of the paper's problem: minimise $\mathrm{CGS} - \lambda\,\mathrm{MCG}$.

    Raises:
        ValueError: ``weight`` is negative or not finite.

    Example:
        >>> spread_minus_gain(0.5)(0.25, 0.125)
        0.0

    Source: a reading of Eq. 3, which is known in words only; the weight is ours.
    """
    if not 0 <= weight < np.inf:
        raise ValueError(f"weight is {weight!r}; allowed is a finite number from 0")
    return lambda mean, spread: spread - weight * mean


def spread_only() -> Objective:
    """Return the pure spread: minimise CGS, whatever the mean gain.

    Example:
        >>> spread_only()(0.1, 0.5)
        0.5
    """
    return lambda mean, spread: spread


def spread_per_gain() -> Objective:
    r"""Return reading B: minimise $\mathrm{CGS} / \mathrm{MCG}$; infinite where the mean gain is not above zero.

    Example:
        >>> float(spread_per_gain()(0.5, 0.25)), float(spread_per_gain()(-0.1, 0.2))
        (0.5, inf)

    Source: a reading of Eq. 3; degenerate wherever equal gains are attainable.
    """

    def ratio(mean: Any, spread: Any) -> Any:
        gains = np.asarray(mean) > 1e-12  # a mean gain that rounding made is none
        return np.where(gains, spread / np.where(gains, mean, 1.0), np.inf)

    return ratio


def gain_minus_variance(weight: float) -> Objective:
    r"""Return reading C: maximise $\mathrm{MCG} - \lambda\,\mathrm{Var}(G)$ (its negative is minimised).

    Raises:
        ValueError: ``weight`` is negative or not finite.

    Example:
        >>> gain_minus_variance(2.0)(0.5, 0.5)
        0.0

    Source: a reading of Eq. 3.
    """
    if not 0 <= weight < np.inf:
        raise ValueError(f"weight is {weight!r}; allowed is a finite number from 0")
    return lambda mean, spread: weight * spread**2 - mean


def checked_accuracies(contribution: Any, name: str = "contribution") -> np.ndarray:
    """One accuracy in [0, 1] for each participant, (n,)."""
    b = np.array(contribution, dtype=float)
    if b.ndim != 1 or len(b) == 0 or not ((b >= 0) & (b <= 1)).all():
        some = np.round(b.ravel()[:5], 6).tolist()
        raise ValueError(
            f"{name} has shape {b.shape} and begins {some}; allowed is one number in [0, 1] for each participant"
        )
    return b


def _rises(objective: Objective) -> bool:
    """Whether more spread is never better, tried at some means: else the optimum need not be near one tau."""
    spread = np.linspace(0.0, 0.5, 11)
    values = [objective(np.full(11, mean), spread) for mean in (-0.5, -0.1, 0.1, 0.5)]
    return all((row[1:] >= row[:-1] - 1e-12).all() for row in values)


def allocate(
    contribution: Any,
    curve: Curve,
    *,
    objective: Objective | None = None,
    individually_rational: bool = False,
    standalone: Any = None,
) -> Plan:
    r"""Give every participant the width whose accuracy is commensurate with its contribution.

    Over gains $G_i = a_i - B_i$ with attainable accuracies $a_i$, minimise $\mathrm{CGS} - \lambda\,\mathrm{MCG}$ (or another
    ``objective`` of mean and spread). At the optimum each $a_i$ is the attainable accuracy nearest to $B_i + \tau$ for
    one $\tau$, so only $\tau$ is searched: exactly up to a million participants x accuracies, else with a certified gap
    below 1e-6. ``contribution`` (n,) on the accuracy scale; ``individually_rational``: nobody below ``standalone`` (default: the
    contribution) where the curve reaches it; what it cannot reach is in the certificate. Equal contributions earn equal
    widths, more never earns less (unless ``individually_rational`` lifts somebody to a ``standalone`` of another order).

    Raises:
        ValueError: contributions are no accuracies, or the objective is undefined on every plan or falls with the spread.

    Example:
        >>> import aequa_lite as aq
        >>> curve = aq.Curve((0.2, 0.5, 1.0), (0.5, 0.7, 0.9), samples=10_000)
        >>> aq.allocate([0.45, 0.65, 0.85], curve).widths.tolist()
        [0.2, 0.5, 1.0]

    Source: reading A with $\lambda = 1/(2\sqrt{n-1})$ and the exact solution are ours; the paper anneals (from memory).
    """
    b = checked_accuracies(contribution)
    own = b if standalone is None else checked_accuracies(standalone, "standalone")
    if own.shape != b.shape:
        raise ValueError(f"standalone has {len(own)} entries; allowed is one for each of the {len(b)} participants")
    if objective is None:
        objective = spread_minus_gain(0.5 / np.sqrt(max(len(b) - 1, 1)))
    elif not _rises(objective):
        raise ValueError("objective falls as the spread of gains grows; allowed is one that never does")
    levels = curve.levels
    floor = (
        np.minimum(np.searchsorted(levels, own - 1e-12), len(levels) - 1)
        if individually_rational
        else np.zeros(len(b), dtype=int)
    )
    problem = SearchProblem(b, levels, floor)
    exact = len(b) * max(len(levels) - 1, 1) <= EXACT
    chosen, tau, bound = (exact_search if exact else bounded_search)(problem, objective)
    value = problem.value(chosen, objective)
    if not np.isfinite(value):
        raise ValueError(
            "objective is undefined here: no plan on this curve has a mean gain above 0; use spread_minus_gain"
        )
    best = problem.spread((exact_search if exact else bounded_search)(problem, spread_only())[0])
    return plan_of(
        chosen, curve, b, own, tau=tau, value=value, bound=value if exact else min(bound, value), best_spread=best
    )


def plan_of(
    chosen: np.ndarray,
    curve: Curve,
    contribution: np.ndarray,
    standalone: np.ndarray | None = None,
    *,
    tau: float | None = None,
    value: float = float("nan"),
    bound: float = float("nan"),
    best_spread: float = float("nan"),
) -> Plan:
    """Return the plan that gives each participant this level of the curve, with its certificate."""
    levels, own = curve.levels, contribution if standalone is None else standalone
    accuracy = levels[chosen]
    below = own - accuracy
    certificate = Certificate(
        value=float(value),
        bound=float(bound),
        exact=bool(value == bound),
        at_least=tuple(np.flatnonzero(chosen == 0).tolist()),
        at_full=tuple(np.flatnonzero(chosen == len(levels) - 1).tolist()),
        spread=float(np.std(accuracy - contribution)),
        best_spread=float(best_spread),
        covers=bool(curve.full - curve.least >= np.ptp(contribution) - 1e-12),
        top_reaches=bool(curve.full >= own.max() - 1e-12),
        worse_off=tuple(np.flatnonzero(below > 1e-12).tolist()),
        shortfall=float(max(below.max(), 0.0)) if (below > 1e-12).any() else 0.0,
    )
    return Plan(curve.level_widths[chosen], accuracy, tau, certificate)
