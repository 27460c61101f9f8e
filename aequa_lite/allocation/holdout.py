"""Confirm a plan on samples that it was not chosen on.

Whoever compares many plans on the same validation samples and keeps the best has also chosen the noise of those samples.
So the samples are split once: *calibration* for contributions, curve and any number of plans, *confirmation* for the plan
that is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from .._check import number, refusal
from ..evaluation import Curve
from ..metrics import holm
from ..rng import stream
from .exact import Plan

__all__ = ["Confirmation", "ValidationPart", "confirm", "split_validation"]


@dataclass(frozen=True, eq=False)
class ValidationPart:
    """Hold the curve and the contributions as one part of the validation samples measures them.

    Args:
        curve: Curve measured on these samples.
        alone_correct: (n, samples) bool, which samples each participant's own model gets right.

    Example:
        >>> curve = Curve((0.5, 1.0), (0.5, 0.7), samples=10)
        >>> ValidationPart(curve, np.zeros((3, 10), dtype=bool)).contribution.tolist()
        [0.0, 0.0, 0.0]
    """

    curve: Curve
    alone_correct: NDArray[np.bool_]

    @property
    def contribution(self) -> NDArray[np.float64]:
        """Stand-alone accuracy of each participant on these samples, (n,)."""
        return self.alone_correct.mean(1)


def checked_correct(name: str, correct: ArrayLike, samples: int) -> NDArray[np.bool_]:
    """Rows of True and False on these many samples, (n, samples)."""
    found = np.asarray(correct)
    if found.ndim != 2 or not len(found) or found.shape[1] != samples or found.dtype != bool:
        came = f"{found.dtype} of shape {found.shape}"
        raise ValueError(f"`{name}` must be bool of shape (participants, {samples}), the curve's samples, got {came}")
    return found


def split_validation(curve: Curve, alone_correct: ArrayLike, seed: int = 0) -> tuple[ValidationPart, ValidationPart]:
    """Split the validation samples once into two halves: for calibration and for confirmation.

    Args:
        curve: A curve that knows which samples were right.
        alone_correct: (n, samples) bool, on the curve's own samples.
        seed: Seed of the split.

    Returns:
        The calibration half and the confirmation half.

    Raises:
        ValueError: The curve does not know which samples were right, or `alone_correct` is not on the same samples.

    Example:
        >>> correct = np.arange(400).reshape(2, 200) % 3 > 0
        >>> curve = Curve((0.5, 1.0), correct.mean(1), 200, correct)
        >>> calibration, confirmation = split_validation(curve, correct)
        >>> calibration.curve.samples, confirmation.contribution.shape
        (100, (2,))

    References:
        The usual hold-out.
    """
    if not isinstance(curve, Curve) or curve.correct is None or curve.samples < 2:
        raise refusal("curve", "a Curve that knows which of at least two samples were right (accuracy_curve)", curve)
    alone = checked_correct("alone_correct", alone_correct, curve.samples)
    order = stream(seed, "confirmation").permutation(curve.samples)
    parts = []
    for half in (order[: curve.samples // 2], order[curve.samples // 2 :]):
        half, right = np.sort(half), np.asarray(curve.correct)[:, np.sort(half)]
        parts.append(ValidationPart(Curve(curve.widths, right.mean(1), len(half), right), alone[:, half]))
    return parts[0], parts[1]


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Say whether predicted accuracies agree with those on fresh samples.

    Args:
        predicted: (n,) accuracies that the plan predicts.
        measured: (n,) accuracies on fresh samples.
        standard_error: (n,) of their difference.
        broken: Participants whose prediction misses by more than chance explains.

    Example:
        >>> Confirmation(np.array([0.5]), np.array([0.4]), np.array([0.01]), (0,)).statement
        'the plan is not confirmed on fresh samples: participant 0 is 0.100 below its prediction'
    """

    predicted: NDArray[np.float64]
    measured: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    broken: tuple[int, ...]

    @property
    def confirmed(self) -> bool:
        """Whether no prediction misses by more than chance explains."""
        return not self.broken

    @property
    def statement(self) -> str:
        """The outcome in one sentence."""
        apart = self.measured - self.predicted
        if self.confirmed:
            most = float(np.abs(apart).max())
            return (
                f"the plan is confirmed on fresh samples: predictions miss by at most {most:.3f}, which chance explains"
            )
        misses = (
            f"participant {i} is {abs(apart[i]):.3f} {'below' if apart[i] < 0 else 'above'} its prediction"
            for i in self.broken
        )
        return f"the plan is not confirmed on fresh samples: {', '.join(misses)}"


def measured_at(name: str, curve: Curve, widths: NDArray[np.float64]) -> NDArray[np.intp]:
    """Where the curve was measured at these widths, (n,)."""
    if not isinstance(curve, Curve):
        raise refusal(name, "a Curve", curve)
    at = np.minimum(np.searchsorted(curve.widths, widths - 1e-12), len(curve.widths) - 1)
    if not np.allclose(curve.widths[at], widths, atol=1e-9):
        raise refusal(name, "a Curve measured at every width of the plan", curve.widths)
    return at


def confirm(plan: Plan, curve: Curve, fresh: Curve, *, plans: int = 1, level: float = 0.05) -> Confirmation:
    r"""Test a plan's predicted accuracies on fresh samples.

    For each width of the plan, $z = (\hat a' - \hat a) / \sqrt{\mathrm{se}^2 + \mathrm{se}'^2}$ with $\hat a$ predicted
    and $\hat a'$ measured on fresh samples; two-sided, Holm-corrected over the widths.

    Args:
        plan: The plan that is kept.
        curve: The curve that it was allocated on.
        fresh: A curve of the same model on other samples.
        plans: How many plans are tested on these fresh samples in all; the level is divided by it.
        level: Probability of a false alarm, in (0, 1).

    Raises:
        ValueError: A curve was not measured at a width of the plan.

    Example:
        >>> import aequa_lite as aq
        >>> curve = Curve((0.2, 0.5, 1.0), (0.5, 0.7, 0.9), samples=1000)
        >>> plan = aq.allocate([0.45, 0.65, 0.85], curve)
        >>> confirm(plan, curve, Curve((0.2, 0.5, 1.0), (0.51, 0.69, 0.8), samples=1000)).broken
        (2,)

    References:
        The two-sample z-test with the correction of Holm 1979. Our choice.
    """
    if not isinstance(plan, Plan):
        raise refusal("plan", "a Plan", plan)
    number("plans", plans, 1, whole=True)
    number("level", level, 0, 1, above=True, below=True)
    own, at = measured_at("curve", curve, plan.widths), measured_at("fresh", fresh, plan.widths)
    predicted, measured = plan.predicted_accuracy, fresh.accuracy[at]
    error = np.sqrt(curve.standard_error[own] ** 2 + fresh.standard_error[at] ** 2)
    _, first, back = np.unique(at, return_index=True, return_inverse=True)  # one test for each width, not participant
    p = 2 * scipy.stats.norm.sf(np.abs(measured - predicted)[first] / error[first])
    broken = np.isin(back, holm(p, level / plans))
    return Confirmation(predicted, measured, error, tuple(np.flatnonzero(broken).tolist()))
