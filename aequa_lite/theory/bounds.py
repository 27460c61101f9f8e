r"""What is proved about training together, as functions; the proofs stand in the book's page of proofs.

One round starts from the merged network; participant $i$, with merge weight $a_i$, takes $E$ steps of size $\eta$.
Where not everybody holds every entry, squares are weighted by $1/A_e$, with $A_e$ the merge weight of those who hold
entry $e$.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Bound", "bias_bound", "drift", "gap_bound", "stationarity_bound"]


@dataclass(frozen=True)
class Bound:
    """Hold the three parts of a bound: what the start leaves, what the draws add, what moving apart adds.

    Example:
        >>> Bound(start=0.5, noise=0.25, drift=0.0).total
        0.75
    """

    start: float
    noise: float
    drift: float

    @property
    def total(self) -> float:
        """The bound itself, the sum of its parts."""
        return self.start + self.noise + self.drift


def drift(
    lr: float, smooth: float, scatter: Any, heterogeneity: Any, steps: int, *, convex: bool = False
) -> np.ndarray:
    r"""Bound how far the participants are apart before each step of a round, (..., steps).

    $V_0 = 0$ and $V_{k+1} = \big(c\sqrt{V_k} + \eta\zeta_k\big)^2 + \eta^2 s_k^2$ bound $\mathbb E\sum_i a_i
    \|\theta_{i,k} - \bar\theta_k\|^2$; $c = 1 + \eta L$, or 1 if the losses are ``convex``. ``scatter``: $s_k^2$, the
    part of the draws' variance that averaging removes; ``heterogeneity``: $\zeta_k^2$, the spread of the
    participants' gradients. Numbers, or arrays (..., steps).

    Raises:
        ValueError: ``lr`` or ``smooth`` is not above 0, or ``steps`` is not a whole number from 1.

    Example:
        >>> drift(0.1, 1.0, 4.0, 1.0, steps=3).round(4).tolist()
        [0.0, 0.05, 0.1597]

    Source: ours (lemma 4 of the page of proofs).
    """
    _step(lr, smooth, steps)
    spread, apart = np.broadcast_arrays(np.asarray(scatter, dtype=float), np.asarray(heterogeneity, dtype=float))
    shape, stretch = np.broadcast_shapes(spread.shape, (steps,)), 1.0 if convex else 1 + lr * smooth
    spread, apart = np.broadcast_to(spread, shape), np.sqrt(np.broadcast_to(apart, shape))
    found = np.zeros(shape)
    for k in range(steps - 1):
        moved = stretch * np.sqrt(found[..., k]) + lr * apart[..., k]
        found[..., k + 1] = moved**2 + lr**2 * spread[..., k]
    return found


def stationarity_bound(
    gap: float,
    lr: float,
    smooth: float,
    *,
    noise: Any,
    scatter: Any,
    heterogeneity: Any,
    rounds: int,
    steps: int,
    unlike: float | None = None,
    convex: bool = False,
) -> Bound:
    r"""Bound the mean squared gradient of the width-averaged objective over all local steps.

    $\frac1{RE}\sum_t \mathbb E\|\nabla F(\bar\theta_t)\|^2 \le \frac{2\Delta}{\eta RE} + \frac{\eta L}{RE}\sum_t S_t
    + \frac{\delta^2}{RE}\sum_t V_t$ for $\eta L \le 1$, with $\Delta$ = ``gap`` = $F(\theta_0) - F^\star$, $S_t$ =
    ``noise``, $V_t$ from :func:`~aequa_lite.theory.drift`, and $\delta$ = ``unlike`` (default: $L$), how differently the participants'
    losses are curved. Numbers, or arrays (rounds, steps) of expectations along the trajectory. With one step there is
    no drift: plain SGD.

    Raises:
        ValueError: $\eta L > 1$, or a number is out of its range.

    Example:
        >>> stationarity_bound(1.0, 0.5, 1.0, noise=0.1, scatter=0.1, heterogeneity=1.0, rounds=40, steps=1)
        Bound(start=0.1, noise=0.05, drift=0.0)

    Source: ours (theorem 1 of the page of proofs); its form is that of local SGD's known rates.
    """
    _step(lr, smooth, steps, most=1.0)
    apart = drift(lr, smooth, *_shaped((rounds, steps), scatter, heterogeneity), steps, convex=convex)
    (merged,) = _shaped((rounds, steps), noise)
    return Bound(
        start=2 * gap / (lr * rounds * steps),
        noise=float(lr * smooth * merged.mean()),
        drift=float((smooth if unlike is None else unlike) ** 2 * apart.mean()),
    )


def gap_bound(
    gap: float,
    lr: float,
    smooth: float,
    curvature: float,
    *,
    noise: Any,
    scatter: Any,
    heterogeneity: Any,
    rounds: int,
    steps: int,
    unlike: float | None = None,
    convex: bool = False,
) -> np.ndarray:
    r"""Bound how far the objective is above its minimum after each round, (rounds + 1,), where it is curved everywhere.

    $\Delta_{t+1} \le (1 - \eta\mu)\Delta_t + \tfrac12\eta^2 L S_t + \tfrac12\eta\delta^2 V_t$ if $\|\nabla F\|^2 \ge
    2\mu (F - F^\star)$; ``curvature`` is $\mu$, the rest as in :func:`~aequa_lite.theory.stationarity_bound`.

    Raises:
        ValueError: $\eta L > 1$, ``curvature`` is not in (0, ``smooth``], or a number is out of its range.

    Example:
        >>> gap_bound(1.0, 0.5, 1.0, 1.0, noise=0.0, scatter=0.0, heterogeneity=0.0, rounds=2, steps=1).tolist()
        [1.0, 0.5, 0.25]

    Source: ours (theorem 2 of the page of proofs).
    """
    _step(lr, smooth, steps, most=1.0)
    if not 0 < curvature <= smooth * (1 + 1e-9):
        raise ValueError(f"curvature is {curvature!r}; allowed is a number above 0, at most smooth ({smooth:g})")
    apart = drift(lr, smooth, *_shaped((rounds, steps), scatter, heterogeneity), steps, convex=convex)
    (merged,) = _shaped((rounds, steps), noise)
    added = 0.5 * lr**2 * smooth * merged + 0.5 * lr * (smooth if unlike is None else unlike) ** 2 * apart
    found = [float(gap)]
    for each in added:
        left = found[-1]
        for more in each:
            left = (1 - lr * curvature) * left + float(more)
        found.append(left)
    return np.array(found)


def bias_bound(shares: Any, weights: Any, apart: Any) -> float:
    r"""Bound how much widths that differ between participants turn the gradient, beyond the mean law of widths.

    $\|\nabla F(\theta) - \nabla F_{\bar\pi}(\theta)\| \le \sum_v \mathrm{sd}_a(\pi_i(v))\,\zeta_v(\theta)$: zero
    where all train the same widths, and where all have the same data. ``shares``: (participants, widths), how much
    each width counts for each, $\pi_i(v)$; ``weights``: (participants,) $a_i$; ``apart``: (widths,) $\zeta_v$, the
    root of the weighted spread of the gradients at that width.

    Example:
        >>> bias_bound([[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5], [0.2, 0.4]).round(3).item()
        0.3

    Source: ours (proposition 5 of the page of proofs), by Cauchy and Schwarz.
    """
    law, a = np.asarray(shares, dtype=float), np.asarray(weights, dtype=float)
    spread = np.sqrt(a @ (law - a @ law) ** 2)  # (widths,)
    return spread @ np.asarray(apart, dtype=float)


def _shaped(shape: tuple[int, int], *values: Any) -> list[np.ndarray]:
    """Numbers or arrays as arrays of this shape."""
    return [np.broadcast_to(np.asarray(each, dtype=float), shape) for each in values]


def _step(lr: float, smooth: float, steps: int, most: float = np.inf) -> None:
    """Refuse step sizes and counts about which nothing is proved."""
    for name, value in {"lr": lr, "smooth": smooth}.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name} is {value!r}; allowed is a finite number above 0")
    if lr * smooth > most * (1 + 1e-9):
        raise ValueError(
            f"lr is {lr!r}; allowed is at most 1 / smooth = {most / smooth:g}, beyond it nothing is proved"
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; allowed is a whole number from 1")
