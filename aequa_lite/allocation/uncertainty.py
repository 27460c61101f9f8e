"""What measurement noise leaves of a reward, of Pearson, of CGS; and a plan tested on samples that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from .._check import Accuracies, Count, Level, checked, refusal, right_or_wrong
from ..config import stream
from ..evaluation import Curve
from ..metrics import cgs, holm, interval, pearson, redrawn
from .exact import Plan, allocate


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


@checked
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
    if curve.correct is None or curve.samples < 2:
        raise refusal("curve", "a Curve that knows which of at least two samples were right (accuracy_curve)", curve)
    alone = right_or_wrong("alone_correct", alone_correct, curve.samples)
    first, second = np.split(stream(seed, "confirmation").permutation(curve.samples), [curve.samples // 2])
    return _part(curve, alone, np.sort(first)), _part(curve, alone, np.sort(second))


def _part(curve: Curve, alone: NDArray[np.bool_], samples: NDArray[np.intp]) -> ValidationPart:
    """What these samples measure."""
    right = np.asarray(curve.correct)[:, samples]
    return ValidationPart(Curve(curve.widths, right.mean(1), len(samples), right), alone[:, samples])


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
            miss = f"predictions miss by at most {np.abs(apart).max():.3f}, which chance explains"
            return f"the plan is confirmed on fresh samples: {miss}"
        sides = [f"{abs(apart[i]):.3f} {'below' if apart[i] < 0 else 'above'}" for i in self.broken]
        misses = [f"participant {i} is {side} its prediction" for i, side in zip(self.broken, sides)]
        return f"the plan is not confirmed on fresh samples: {', '.join(misses)}"


def measured_at(name: str, curve: Curve, widths: NDArray[np.float64]) -> NDArray[np.intp]:
    """Where the curve was measured at these widths, (n,)."""
    at = np.minimum(np.searchsorted(curve.widths, widths - 1e-12), len(curve.widths) - 1)
    if not np.allclose(curve.widths[at], widths, atol=1e-9):
        raise refusal(name, "a Curve measured at every width of the plan", curve.widths)
    return at


@checked
def confirm(plan: Plan, curve: Curve, fresh: Curve, *, plans: Count = 1, level: Level = 0.05) -> Confirmation:
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
    own, at = measured_at("curve", curve, plan.widths), measured_at("fresh", fresh, plan.widths)
    predicted, measured = plan.predicted_accuracy, fresh.accuracy[at]
    error = np.sqrt(curve.standard_error[own] ** 2 + fresh.standard_error[at] ** 2)
    _, first, back = np.unique(at, return_index=True, return_inverse=True)  # one test for each width, not participant
    p = 2 * scipy.stats.norm.sf(np.abs(measured - predicted)[first] / error[first])
    broken = np.isin(back, holm(p, level / plans))
    return Confirmation(predicted, measured, error, tuple(np.flatnonzero(broken).tolist()))


@checked
def noise_ceiling(
    alone_correct: ArrayLike, width_correct: ArrayLike, widths: ArrayLike, *, validation_samples: Count,
    test_samples: Count, draws: Count = 200, seed: int = 0, ideal: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Simulate the fairness that sampling noise allows for this network and these participants.

    The given samples stand for the whole population. Each draw takes a validation split from it, on which contributions
    and curve are measured and widths allocated; then a test split, on which the rewards are measured. All accuracies of a
    draw are measured on the same samples, so noise that the models share is shared here too. The ceiling of the network's
    own curve forgives a bad curve, one with steps or one that starts too high. The *ideal* ceiling does not.

    Args:
        alone_correct: (n, S) bool, which of S samples each participant's own model gets right.
        width_correct: (K, S) bool, the same for the shared network at each width.
        widths: (K,) rising in (0, 1].
        validation_samples: Size of the validation split.
        test_samples: Size of the test split.
        draws: Number of simulated runs, from 1.
        seed: Seed of the draws.
        ideal: Put a perfect curve in place of the network's: 100 equal steps from the lowest of all given accuracies to
            that of the full width. Each level gets right, of the samples of the full width, those that most widths do.

    Returns:
        `pearson_ceiling`, the mean over the runs or None where no run has variance, and the middle 95% of both measures,
        `pearson_ceiling_interval` and `cgs_ceiling_interval`.

    Raises:
        ValueError: An array is not bool, or the arrays are not on the same samples.

    Example:
        >>> base = np.arange(1000) / 1000
        >>> alone, wide = (np.array(accuracies)[:, None] > base for accuracies in ([0.4, 0.6], [0.5, 0.6, 0.7]))
        >>> sizes = {"validation_samples": 1000, "test_samples": 1000}
        >>> noise_ceiling(alone, wide, (0.1, 0.5, 1.0), draws=20, **sizes)["pearson_ceiling"]
        1.0

    References:
        The noise ceiling of a correlation. Our choice.
    """
    right = right_or_wrong("width_correct", width_correct)
    curve = Curve(widths, right.mean(1), right.shape[1], right)
    alone = right_or_wrong("alone_correct", alone_correct, curve.samples)
    curve = _perfect(curve, alone) if ideal else curve
    both, n, rng = np.vstack([alone, curve.correct]), len(alone), stream(seed, "ceiling")
    validation, test = (
        (redrawn(rng, both, size, draws) / size).astype(float) for size in (validation_samples, test_samples)
    )
    correlations, spreads = [], []
    for measured, tested in zip(np.clip(validation, 0, 1), test, strict=True):
        plan = allocate(measured[:n], Curve(curve.widths, measured[n:], validation_samples))
        rewards = tested[n:][np.searchsorted(curve.widths, plan.widths)]
        correlations.append(pearson(tested[:n], rewards))
        spreads.append(cgs(rewards - tested[:n]))
    known = [r for r in correlations if r is not None]
    return {
        "pearson_ceiling": round(float(np.mean(known)), 6) if known else None,
        "pearson_ceiling_interval": interval(known),
        "cgs_ceiling_interval": interval(spreads),
    }


def _perfect(curve: Curve, alone: NDArray[np.bool_]) -> Curve:
    """A curve of 100 equal steps from the lowest accuracy to that of the full width, on the same samples."""
    full, samples = curve.correct[-1], curve.samples
    lowest = int(min(alone.sum(1).min(), curve.correct.sum(1).min()))
    levels = np.unique(np.linspace(lowest, full.sum(), 101).round().astype(int))  # in samples that are right
    easiest = np.argsort(-(full * (1 + curve.correct.sum(0))), kind="stable")
    right = np.zeros((len(levels), samples), dtype=bool)
    for row, level in zip(right, levels, strict=True):
        row[easiest[:level]] = True
    return Curve(np.linspace(0, 1, len(levels) + 1)[1:], levels / samples, samples, right)


@dataclass(frozen=True)
class RewardIntervals:
    """Hold the 95% intervals that measurement noise leaves.

    Args:
        rewards: For each participant, of the true accuracy of its reward.
        widths: For each participant, of the width that another measurement would have given.
        pearson: Between true contributions and true accuracies of the rewards; None where they have no variance.
        cgs: Of the true gains.

    Example:
        >>> RewardIntervals(((0.5, 0.6),), ((0.1, 0.2),), (0.9, 1.0), (0.0, 0.02)).pearson
        (0.9, 1.0)
    """

    rewards: tuple[tuple[float, float], ...]
    widths: tuple[tuple[float, float], ...]
    pearson: tuple[float, float] | None
    cgs: tuple[float, float]


@checked
def reward_intervals(
    contribution: Accuracies, curve: Curve, *, alone_correct: ArrayLike | None = None,
    rule: Callable[[ArrayLike, Curve], Plan] = allocate, draws: Count = 500, seed: int = 0,
) -> RewardIntervals:  # fmt: skip
    r"""Carry the noise of contributions and curve through the allocation, by a bootstrap.

    What was measured stands for the truth. It is measured again on as many samples, widths are allocated from that, and
    each reward has the true accuracy of its width. How far predictions miss in these worlds is how far ours may miss:
    $A_i \in [\hat a_i - q_{0.975}, \hat a_i - q_{0.025}]$ with $q$ the quantiles of predicted minus true accuracy. So the
    interval also includes the optimism of a width that was chosen because it looked good.

    Args:
        contribution: (n,) accuracies in [0, 1].
        curve: The measured curve.
        alone_correct: (n, samples) bool, on the curve's own samples. With it and `curve.correct` the samples are drawn
            again, and noise that all models share stays shared; otherwise contributions and widths are drawn
            independently, which overstates the noise of differences.
        rule: Allocation rule of contributions and curve.
        draws: Number of bootstrap draws, from 1.
        seed: Seed of the draws.

    Raises:
        ValueError: `alone_correct` does not fit the contributions or the curve's samples.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.5, 0.7, 0.9), samples=2000)
        >>> found = reward_intervals([0.45, 0.65, 0.85], curve, draws=99)
        >>> [(round(low, 2), round(high, 2)) for low, high in found.rewards]
        [(0.47, 0.52), (0.68, 0.72), (0.89, 0.91)]

    References:
        The bootstrap (Efron 1979). Our choice.
    """
    b = np.array(contribution, dtype=float)
    paired = alone_correct is not None and curve.correct is not None
    if alone_correct is not None and len(right_or_wrong("alone_correct", alone_correct, curve.samples)) != len(b):
        raise refusal("alone_correct", f"one row for each of the {len(b)} participants", np.shape(alone_correct))
    truth = curve.accuracy if paired else curve.fitted
    rng, samples = stream(seed, "reward intervals"), curve.samples
    if paired:
        again = redrawn(rng, np.vstack([alone_correct, curve.correct]), samples, draws).astype(float)
    else:
        again = rng.binomial(samples, np.append(b, truth), size=(draws, len(b) + len(truth)))
    plan, found = rule(b, curve), []
    for measured in np.clip(again / samples, 0, 1):
        drawn = rule(measured[: len(b)], Curve(curve.widths, measured[len(b) :], samples))
        rewards = truth[np.searchsorted(curve.widths, drawn.widths)]
        found.append((drawn.predicted_accuracy - rewards, drawn.widths, rewards))
    miss, widths, rewards = (np.stack(each) for each in zip(*found, strict=True))  # (draws, n) each
    known = [r for r in (pearson(b, row) for row in rewards) if r is not None]
    ends = [(a - high, a - low) for a, (low, high) in zip(plan.predicted_accuracy, map(interval, miss.T))]
    return RewardIntervals(
        tuple((round(max(float(low), 0.0), 6), round(min(float(high), 1.0), 6)) for low, high in ends),
        tuple(interval(column) for column in widths.T),
        interval(known),
        interval([cgs(row - b) for row in rewards]),
    )


@checked
def samples_for(plan: Plan, curve: Curve) -> int | None:
    r"""Return how many validation samples tell all different rewards of a plan apart.

    Two rewards whose accuracies differ by $g$ around $a$ need $n = 2a(1-a)\,(z_{0.975} + z_{0.8})^2 / g^2$ independent
    samples: the difference is then seen with probability 0.8, and a false alarm has probability 0.05. Measured on the same
    samples, only those matter on which exactly one of the two is right: with their share $d$,
    $n = (d - g^2)\,(z_{0.975} + z_{0.8})^2 / g^2$. The two nearest rewards decide. Where the curve knows which samples were
    right, the paired test is meant.

    Args:
        plan: A plan on this curve.
        curve: The measured curve.

    Returns:
        A number of samples, or None where all rewards are the same.

    Raises:
        ValueError: The plan gives a width at which the curve was not measured.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.5, 0.7, 0.9), samples=2000)
        >>> samples_for(allocate([0.45, 0.65, 0.85], curve), curve)
        95

    References:
        The two-sample test of proportions; McNemar 1947 for the paired one.
    """
    rewards, first = np.unique(plan.predicted_accuracy, return_index=True)
    at, gap, mean = measured_at("curve", curve, plan.widths[first]), np.diff(rewards), (rewards[1:] + rewards[:-1]) / 2
    variance = 2 * mean * (1 - mean)
    if curve.correct is not None:
        right = curve.correct[at]
        variance = np.maximum((right[1:] != right[:-1]).mean(1), gap) - gap**2
    z = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)
    needed = np.maximum(1, np.ceil(variance * z**2 / gap**2))
    return int(needed.max()) if len(needed) else None


@checked
def curve_diagnostics(curve: Curve, contribution: Accuracies) -> dict[str, Any]:
    r"""Say whether a curve can reward these contributions.

    With the largest common gain $\tau = u - \max B$, rewards lie between
    $\min B + \tau$ and $u$.

    Returns:
        `top`: $\tau$. `bottom`: how far the least width lies below the
        lowest reward. `covers`: it does. `largest_step`: between levels
        where rewards lie. `noise`: two standard errors, at least a point.
        `least_width`: a `min_width` that covers; none that is much larger does. `advice`: one
        sentence.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
        >>> curve_diagnostics(curve, [0.4, 0.5])["covers"]
        True

    References:
        Our choice.
    """
    b, levels = np.array(contribution, dtype=float), curve.levels
    tau = curve.full - float(b.max())
    lowest = float(b.min()) + tau
    # the level at or below the lowest reward
    first = max(int(np.searchsorted(levels, lowest + 1e-12, side="right")) - 1, 0)
    near = curve.accuracy >= levels[first] - 1e-12
    found = {
        "top": tau,
        "bottom": lowest - curve.least,
        "covers": bool(lowest >= curve.least - 1e-12),
        "largest_step": float(np.diff(levels[first:]).max(initial=0.0)),
        "noise": max(0.01, 2 * float(np.median(curve.standard_error[near]))),
        "least_width": float(curve.level_widths[first]),
    }
    return {**found, "advice": _advice(found, float(curve.widths[0]))}


def _advice(found: dict[str, Any], least: float) -> str:
    """The first thing to change, in one sentence."""
    if found["top"] < 0:
        remedy = "train longer together, or weight the aggregate by contribution"
        return f"the full width is below the best participant alone: {remedy}"
    if not found["covers"]:
        return "the least width is too good for the weakest participant: lower min_width"
    if found["largest_step"] > found["noise"]:
        return "neighbouring attainable accuracies are far apart: use fractional widths (reward_curve) or more units"
    if found["least_width"] > 2 * least:
        return f"the curve reaches further down than any reward: min_width may be raised to {found['least_width']:g}"
    return "the curve covers the contributions in small steps"
