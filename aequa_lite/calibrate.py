"""From a score's own scale to the scale of accuracies, explicitly and without changing its order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

__all__ = ["affine_calibration", "isotonic_calibration"]


def _scores(scores: Any) -> np.ndarray:
    """One finite number for each participant, (n,)."""
    s = np.array(scores, dtype=float)
    if s.ndim != 1 or len(s) == 0 or not np.isfinite(s).all():
        raise ValueError(f"scores is {s.tolist()!r}; allowed is one finite number for each participant")
    return s


def affine_calibration(scores: Any, low: float, high: float) -> np.ndarray:
    r"""Stretch scores over the accuracies from ``low`` to ``high``: order and proportions of differences are kept.

    $B_i = \mathrm{low} + (\mathrm{high} - \mathrm{low})\,\frac{s_i - \min s}{\max s - \min s}$. The lowest score becomes ``low``,
    the highest ``high``, such as the accuracy alone of the weakest and the best participant; where all scores are equal,
    all become the middle. Scale and zero of the scores do not matter.

    Raises:
        ValueError: a score is not finite, or not 0 <= low <= high <= 1.

    Example:
        >>> affine_calibration([-1.0, 0.0, 3.0], low=0.5, high=0.75).tolist()
        [0.5, 0.5625, 0.75]

    Source: ours.
    """
    s = _scores(scores)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"low is {low!r} and high {high!r}; allowed are accuracies with 0 <= low <= high <= 1")
    range_ = s.max() - s.min()
    share = (s - s.min()) / range_ if range_ > 0 else np.full(len(s), 0.5)
    return low + (high - low) * share


def isotonic_calibration(scores: Any, known: Mapping[int, float]) -> np.ndarray:
    r"""Map scores onto the accuracies of those participants whose accuracy alone is known.

    The known accuracies, made to rise with the score by isotonic regression (equal scores share their mean), joined by
    straight lines and constant beyond the ends: a higher score never becomes a lower accuracy, and nobody leaves the
    range of what is known. ``known``: participant -> accuracy alone.

    Raises:
        ValueError: a score is not finite, nothing is known, or a known participant or accuracy does not exist.

    Example:
        >>> isotonic_calibration([0.1, 0.2, 0.3, 0.9], known={0: 0.5, 2: 0.75}).tolist()
        [0.5, 0.625, 0.75, 0.75]

    Source: isotonic regression (Barlow et al. 1972); its use here is ours.
    """
    s = _scores(scores)
    if not known or not all(i in range(len(s)) and 0 <= a <= 1 for i, a in known.items()):
        raise ValueError(
            f"known is {dict(known)!r}; allowed are accuracies in [0, 1] of at least one of the {len(s)} participants"
        )
    at, where, how_many = np.unique(s[list(known)], return_inverse=True, return_counts=True)
    mean = np.bincount(where, weights=list(known.values())) / how_many
    rising = isotonic_regression(mean, weights=how_many).x
    return np.interp(s, at, np.maximum.accumulate(rising))
