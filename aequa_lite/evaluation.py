"""Accuracy by width with its uncertainty; the monotone fit; from an accuracy to the smallest width that reaches it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

__all__ = ["Curve", "range_report"]


@dataclass(frozen=True, eq=False)
class Curve:
    r"""Hold the shared network's accuracy at each width, measured on ``samples`` samples.

    ``widths`` (K,) rising in (0, 1]; ``accuracy`` (K,) in [0, 1]; ``hits`` (K, samples) bool, where it is known which
    samples were right; ``fading``: the grid between whose multiples units fade in (:func:`faded`), if they do.
    The standard error is $\sqrt{\tilde a(1-\tilde a)/n}$ with $\tilde a = (na + 1)/(n + 2)$, which
    stays above zero at $a = 0$ and $a = 1$.

    Raises:
        ValueError: widths do not rise within (0, 1], accuracies leave [0, 1], lengths differ, or there are no samples.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
        >>> curve.width_at(0.55), curve.levels.tolist()
        (0.5, [0.3, 0.6, 0.8])

    Source: isotonic regression (Barlow et al. 1972), weighted by precision; its use here is ours.
    """

    widths: Any
    accuracy: Any
    samples: int
    hits: Any = None
    fading: int | None = None

    def __post_init__(self) -> None:
        for name in ("widths", "accuracy"):
            values = np.array(getattr(self, name), dtype=float)
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        _check(self)

    @property
    def standard_error(self) -> np.ndarray:
        """The standard error of each accuracy, (K,)."""
        a = (self.samples * self.accuracy + 1) / (self.samples + 2)
        return np.sqrt(a * (1 - a) / self.samples)

    @cached_property
    def _blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """The monotone fit (K,) and where its blocks begin (levels + 1,); blocks of equal height are one."""
        if (np.diff(self.accuracy) > 0).all():
            return self.accuracy, np.arange(len(self.accuracy) + 1)
        fitted = isotonic_regression(self.accuracy, weights=self.standard_error**-2.0).x
        fitted = np.maximum.accumulate(np.clip(fitted, 0, 1))
        starts = np.flatnonzero(np.diff(fitted, prepend=-1.0) > 1e-12)
        return fitted, np.append(starts, len(fitted))

    @property
    def fitted(self) -> np.ndarray:
        """The monotone fit (K,), an isotonic regression weighted by precision."""
        return self._blocks[0]

    @property
    def levels(self) -> np.ndarray:
        """The attainable accuracies in rising order, one for each block of the fit."""
        return self.fitted[self._blocks[1][:-1]]

    @property
    def level_widths(self) -> np.ndarray:
        """The smallest width that attains each level."""
        return self.widths[self._blocks[1][:-1]]

    @property
    def least(self) -> float:
        """The lowest attainable accuracy."""
        return float(self.levels[0])

    @property
    def full(self) -> float:
        """The highest attainable accuracy."""
        return float(self.levels[-1])

    def width_at(self, accuracy: float) -> float:
        """Return the smallest width whose fitted accuracy reaches this one.

        Raises:
            ValueError: not even the full width reaches it.
        """
        if not accuracy <= self.full:
            raise ValueError(f"accuracy is {accuracy!r}; allowed is a number up to the full width's {self.full:.4f}")
        return float(self.level_widths[np.searchsorted(self.levels, accuracy - 1e-12)])


def _check(curve: Curve) -> None:
    """Refuse what is not a curve."""
    w, a = curve.widths, curve.accuracy
    if w.ndim != 1 or len(w) == 0 or not ((w > 0) & (w <= 1)).all() or not (np.diff(w) > 0).all():
        raise ValueError(f"widths is {w.tolist()!r}; allowed are rising numbers in (0, 1]")
    if a.shape != w.shape or not ((a >= 0) & (a <= 1)).all():
        raise ValueError(f"accuracy is {a.tolist()!r}; allowed are {len(w)} numbers in [0, 1], one for each width")
    if isinstance(curve.samples, bool) or int(curve.samples) != curve.samples or curve.samples < 1:
        raise ValueError(f"samples is {curve.samples!r}; allowed is a whole number from 1")
    if curve.hits is not None and np.shape(curve.hits) != (len(w), curve.samples):
        raise ValueError(f"hits has shape {np.shape(curve.hits)}; allowed is {(len(w), curve.samples)}")


def range_report(curve: Curve, contribution: Any) -> dict[str, Any]:
    r"""Say whether the curve is a good currency for these contributions: its top, its range, its small change.

    With the largest common gain $\tau = u - \max B$, rewards lie between $\min B + \tau$ and $u$. Returns ``top``
    ($\tau$ itself), ``bottom`` (how far the least width lies below the lowest reward), ``covers`` (it does),
    ``largest_step`` between neighbouring levels where rewards lie, ``noise`` (two standard errors of the curve there, at
    least one point), ``least_width`` (the widest ``min_width`` that would still cover), and ``advice`` in one sentence.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
        >>> range_report(curve, [0.4, 0.9])["advice"]
        'the full width is below the best participant alone: train longer together, or weight the merge'

    Source: ours.
    """
    b = np.asarray(contribution, dtype=float)
    levels, tau = curve.levels, curve.full - float(b.max())
    lowest = float(b.min()) + tau
    first = max(int(np.searchsorted(levels, lowest + 1e-12, side="right")) - 1, 0)  # the level at or below it
    near = curve.accuracy >= levels[first] - 1e-12
    steps = np.diff(levels[first:])
    found = {
        "top": tau,
        "bottom": lowest - curve.least,
        "covers": bool(lowest >= curve.least - 1e-12),
        "largest_step": float(steps.max()) if len(steps) else 0.0,
        "noise": max(0.01, 2 * float(np.median(curve.standard_error[near]))),
        "least_width": float(curve.level_widths[first]),
    }
    return {**found, "advice": _advice(found, float(curve.widths[0]))}


def _advice(found: dict[str, Any], least: float) -> str:
    """The first thing to change, in one sentence."""
    if found["top"] < 0:
        return "the full width is below the best participant alone: train longer together, or weight the merge"
    if not found["covers"]:
        return "the least width is too good for the weakest participant: lower min_width"
    if found["largest_step"] > found["noise"]:
        return "neighbouring attainable accuracies are far apart: let units fade in (reward_curve), or use more units"
    if found["least_width"] > 2 * least:
        return f"the curve reaches further down than any reward: min_width may be raised to {found['least_width']:g}"
    return "the curve covers the contributions with small change"
