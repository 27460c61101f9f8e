"""A plan is held against samples that it has not seen.

Whoever compares many plans on the same validation samples and keeps the best has chosen the luck of those samples too. So
the samples are split once: *calibration* for contributions, curve and any number of plans; *confirmation* for the one that
is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from ..evaluation import Curve
from ..metrics import holm
from ..rng import stream
from .exact import Plan

__all__ = ["Confirmation", "Half", "confirm", "split"]


@dataclass(frozen=True, eq=False)
class Half:
    """Hold the curve and the contributions (n,), as one half of the samples tells them; ``alone_correct`` (n, samples / 2).

    Example:
        >>> Half(Curve((0.5, 1.0), (0.5, 0.7), samples=10), np.zeros((3, 10), dtype=bool)).contribution.tolist()
        [0.0, 0.0, 0.0]
    """

    curve: Curve
    alone_correct: np.ndarray

    @property
    def contribution(self) -> np.ndarray:
        """What each participant reaches alone on these samples, (n,)."""
        return self.alone_correct.mean(1)


def split(curve: Curve, alone_correct: Any, seed: int = 0) -> tuple[Half, Half]:
    """Split the validation samples once into a calibration half and a confirmation half.

    ``alone_correct``: (n, samples) bool, on the curve's own samples.

    Raises:
        ValueError: the curve does not know its hits, or ``alone_correct`` are not on the same samples.

    Example:
        >>> correct = np.arange(400).reshape(2, 200) % 3 > 0
        >>> first, second = split(Curve((0.5, 1.0), correct.mean(1), 200, correct), correct)
        >>> first.curve.samples, second.contribution.shape
        (100, (2,))

    Source: ours; the usual hold-out.
    """
    if curve.correct is None:
        raise ValueError("curve has no hits; allowed is one that knows which samples were right (accuracy_curve)")
    own = np.asarray(alone_correct)
    if own.ndim != 2 or own.shape[1] != curve.samples or own.dtype != bool or curve.samples < 2:
        raise ValueError(
            f"alone_correct has shape {own.shape}; allowed are bool rows of the curve's {curve.samples} samples"
        )
    order = stream(seed, "confirmation").permutation(curve.samples)
    halves = np.sort(order[: curve.samples // 2]), np.sort(order[curve.samples // 2 :])
    first, second = (
        Half(Curve(curve.widths, curve.correct[:, half].mean(1), len(half), curve.correct[:, half]), own[:, half])
        for half in halves
    )
    return first, second


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Say whether predicted accuracies hold on fresh samples: ``predicted``, ``found``, ``error`` (n,), who is ``broken``.

    Example:
        >>> Confirmation(np.array([0.5]), np.array([0.4]), np.array([0.01]), (0,)).statement
        'the plan does not hold on fresh samples: participant 0 is 0.100 below its prediction'
    """

    predicted: np.ndarray
    found: np.ndarray
    error: np.ndarray
    broken: tuple[int, ...]

    @property
    def held(self) -> bool:
        """Whether no prediction misses by more than chance explains."""
        return not self.broken

    @property
    def statement(self) -> str:
        """The outcome in one sentence."""
        if self.held:
            most = float(np.abs(self.found - self.predicted).max())
            return f"the plan holds on fresh samples: no prediction misses by more than chance explains (at most {most:.3f})"
        apart = self.found - self.predicted
        said = (
            f"{i} is {abs(apart[i]):.3f} {'below' if apart[i] < 0 else 'above'} its prediction" for i in self.broken
        )
        return f"the plan does not hold on fresh samples: participant {', participant '.join(said)}"


def confirm(plan: Plan, measured: Curve, fresh: Curve, *, plans: int = 1, level: float = 0.05) -> Confirmation:
    r"""Hold a plan's predicted accuracies against fresh samples.

    For each width that was handed out, $z = (\hat a' - \hat a) / \sqrt{\mathrm{se}^2 + \mathrm{se}'^2}$ with $\hat a$
    predicted from ``measured`` and $\hat a'$ found on ``fresh``; two-sided, Holm-corrected over the widths. ``plans``: how
    many plans are confirmed on these fresh samples in all; the level is divided by it.

    Raises:
        ValueError: a rewarded width is not on the fresh curve.

    Example:
        >>> import aequa_lite as aq
        >>> curve = Curve((0.2, 0.5, 1.0), (0.5, 0.7, 0.9), samples=1000)
        >>> plan = aq.allocate([0.45, 0.65, 0.85], curve)
        >>> confirm(plan, curve, Curve((0.2, 0.5, 1.0), (0.51, 0.69, 0.8), samples=1000)).broken
        (2,)

    Source: ours; the two-sample z-test with Holm's correction.
    """
    if plans < 1:
        raise ValueError(f"plans is {plans!r}; allowed is a whole number from 1")
    at = np.searchsorted(fresh.widths, plan.widths - 1e-12)
    if (at >= len(fresh.widths)).any() or not np.allclose(fresh.widths[at], plan.widths, atol=1e-9):
        raise ValueError(
            "fresh lacks a width of the plan; allowed is a curve that was measured at every rewarded width"
        )
    predicted, found = plan.predicted_accuracy, fresh.accuracy[at]
    own = measured.standard_error[np.searchsorted(measured.widths, plan.widths - 1e-12)]
    error = np.sqrt(own**2 + fresh.standard_error[at] ** 2)
    _, first, back = np.unique(at, return_index=True, return_inverse=True)  # one test for each width, not participant
    p = 2 * scipy.stats.norm.sf(np.abs(found - predicted)[first] / error[first])
    broken = np.isin(back, holm(p, level / plans))
    return Confirmation(predicted, found, error, tuple(np.flatnonzero(broken).tolist()))
