r"""What is proved about training together, as functions; the proofs are on the book's page of proofs.

A round starts from the aggregated model; participant $i$, with aggregation weight $\omega_i$, takes $E$ steps of size $\eta$.
Squares are weighted by $1/A_e$ where not everybody holds entry $e$, with $A_e$ the aggregation weight of those who do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._check import Count, NotNegative, Positive, accuracies, checked, flag, number, refusal
from ..evaluation import Curve
from ..training_time import upper_bounds

Array = NDArray[np.float64]
ROUNDING = 1 + 1e-9  # by which a limit may be exceeded


@checked
@dataclass(frozen=True)
class Bound:
    """Hold the three parts of a bound, in the unit of a squared gradient.

    Args:
        start: What is left of the initial gap.
        noise: What the random draws add.
        drift: What it adds that participants move apart in a round.

    Example:
        >>> Bound(start=0.5, noise=0.25, drift=0.0).total
        0.75
    """

    start: float
    noise: float
    drift: float

    @property
    def total(self) -> float:
        """The bound: the sum of its parts."""
        return self.start + self.noise + self.drift


@checked
def drift(
    lr: Positive,
    smoothness: Positive,
    scatter: ArrayLike,
    heterogeneity: ArrayLike,
    steps: Count,
    *,
    convex: bool = False,
) -> Array:
    r"""Bound how far the participants are apart before each step of a round.

    $V_0 = 0$ and $V_{k+1} = \big(c\sqrt{V_k} + \eta\zeta_k\big)^2 + \eta^2 s_k^2$ bound $\mathbb E\sum_i \omega_i
    \|\theta_{i,k} - \bar\theta_k\|^2$, with $c = 1 + \eta L$, or 1 if the losses are convex.

    Args:
        lr: Step size $\eta$.
        smoothness: $L$, the largest curvature of a participant's loss.
        scatter: $s_k^2$, the part of the gradients' variance that averaging removes; a number or (..., steps).
        heterogeneity: $\zeta_k^2$, the spread of the participants' gradients; a number or (..., steps).
        steps: $E$, local steps of a round.
        convex: Whether every loss is convex.

    Returns:
        (..., steps) bounds on the mean squared distance.

    Raises:
        ValueError: A number is outside its range, or an array does not have `steps` columns.

    Example:
        >>> drift(0.1, 1.0, 4.0, 1.0, steps=3).round(4).tolist()
        [0.0, 0.05, 0.1597]

    References:
        Ours: Lemma 4 of the page of proofs.
    """
    if flag("convex", convex) and lr * smoothness > 2:
        raise refusal("lr", f"at most 2 / smoothness = {2 / smoothness:g} where losses are convex", lr)
    shape = (*np.broadcast_shapes(np.shape(scatter)[:-1], np.shape(heterogeneity)[:-1]), steps)
    s2, zeta = _shaped("scatter", scatter, shape), np.sqrt(_shaped("heterogeneity", heterogeneity, shape))
    growth = 1.0 if convex else 1 + lr * smoothness
    found = np.zeros(shape)
    for k in range(steps - 1):
        moved = growth * np.sqrt(found[..., k]) + lr * zeta[..., k]
        found[..., k + 1] = moved**2 + lr**2 * s2[..., k]
    return found


@checked
def stationarity_bound(
    gap: NotNegative, lr: Positive, smoothness: Positive, *, noise: ArrayLike, scatter: ArrayLike, heterogeneity: ArrayLike,
    rounds: Count, steps: Count, dissimilarity: ArrayLike | None = None, convex: bool = False, change: float = 0.0,
) -> Bound:  # fmt: skip
    r"""Bound the mean squared gradient of the width-averaged objective over all local steps.

    $\frac1{RE}\sum_t \mathbb E\|\nabla F(\bar\theta_t)\|^2 \le \frac{2(\Delta + \Gamma)}{\eta RE} + \frac{\eta L}{RE}\sum_t
    S_t + \frac{\delta^2}{RE}\sum_t V_t$ for $\eta L \le 1$, with $V_t$ from `drift`. With one step there is no drift: plain SGD.

    Args:
        gap: $\Delta = F(\theta_0) - F^\star$.
        lr: Step size $\eta$, at most $1 / L$.
        smoothness: $L$.
        noise: $S_t$, the variance of the aggregated gradient; a number or (rounds, steps).
        scatter: $s_t^2$ of `drift`; a number or (rounds, steps).
        heterogeneity: $\zeta_t^2$ of `drift`; a number or (rounds, steps).
        rounds: $R$.
        steps: $E$, local steps of a round.
        dissimilarity: $\delta$, how differently the participants' losses are curved; a number or (rounds, 1) (default: $L$).
        convex: Whether every loss is convex.
        change: $\Gamma$ of `changing_widths`; 0 if the widths stay and the server takes the average.

    Returns:
        The bound, in three parts.

    Raises:
        ValueError: $\eta L > 1$, or a number is outside its range.

    Example:
        >>> stationarity_bound(1.0, 0.5, 1.0, noise=0.1, scatter=0.1, heterogeneity=1.0, rounds=40, steps=1)
        Bound(start=0.1, noise=0.05, drift=0.0)

    References:
        Ours: Theorems 1 and 3 of the page of proofs, in the form of the known rates of local SGD.
    """
    _check(gap, lr, smoothness, rounds, steps)
    s, v = _per_step((rounds, steps), noise, scatter, heterogeneity, lr, smoothness, convex, dissimilarity)
    start = 2 * (gap + number("change", change)) / (lr * rounds * steps)
    return Bound(start=start, noise=float(lr * smoothness * s.mean()), drift=float(v.mean()))


@checked
def gap_bound(
    gap: NotNegative, lr: Positive, smoothness: Positive, curvature: float, *, noise: ArrayLike, scatter: ArrayLike,
    heterogeneity: ArrayLike, rounds: Count, steps: Count, dissimilarity: ArrayLike | None = None, convex: bool = False,
) -> Array:  # fmt: skip
    r"""Bound the gap between the objective and its minimum after each round, where the objective is curved.

    $\Delta_{t+1} \le (1 - \eta\mu)\Delta_t + \tfrac12\eta^2 L S_t + \tfrac12\eta\delta^2 V_t$ if $\|\nabla F\|^2 \ge
    2\mu (F - F^\star)$.

    Args:
        gap: $\Delta_0$.
        lr: Step size $\eta$, at most $1 / L$.
        smoothness: $L$.
        curvature: $\mu$, in (0, $L$].
        noise: $S_t$ of `stationarity_bound`; a number or (rounds, steps).
        scatter: $s_t^2$ of `drift`; a number or (rounds, steps).
        heterogeneity: $\zeta_t^2$ of `drift`; a number or (rounds, steps).
        rounds: $R$.
        steps: $E$, local steps of a round.
        dissimilarity: $\delta$; a number or (rounds, 1) (default: $L$).
        convex: Whether every loss is convex.

    Returns:
        (rounds + 1,) bounds, from the start.

    Raises:
        ValueError: $\eta L > 1$, or a number is outside its range.

    Example:
        >>> gap_bound(1.0, 0.5, 1.0, 1.0, noise=0.0, scatter=0.0, heterogeneity=0.0, rounds=2, steps=1).tolist()
        [1.0, 0.5, 0.25]

    References:
        Ours: Theorem 2 of the page of proofs.
    """
    _check(gap, lr, smoothness, rounds, steps)
    number("curvature", curvature, 0, smoothness * ROUNDING, above=True)
    s, v = _per_step((rounds, steps), noise, scatter, heterogeneity, lr, smoothness, convex, dissimilarity)
    added = 0.5 * lr**2 * smoothness * s + 0.5 * lr * v
    found = [float(gap)]
    for each in added:
        left = found[-1]
        for more in each:
            left = (1 - lr * curvature) * left + float(more)
        found.append(left)
    return np.array(found)


@checked
def momentum_bound(
    gap: NotNegative, lr: Positive, smoothness: Positive, momentum: float, *, noise: ArrayLike,
    second_moment: ArrayLike, rounds: Count, steps: Count,
) -> Bound:  # fmt: skip
    r"""Bound the mean squared gradient where every participant trains with momentum.

    $\frac1{RC}\sum_{r,k} c_k\,\mathbb E\|\nabla F(\psi_{r,k})\|^2 \le \frac{2\Delta}{\eta RC} + \frac{\eta L}{RC}\sum_{r,k}
    c_k^2 S_{r,k} + \frac{4L^2\eta^2}{(1-\beta)^2 RC}\sum_{r,k} c_k\,k\sum_{j<k} G_{r,j}^2$ with $c_k =
    \frac{1 - \beta^{E-k}}{1-\beta}$ and $C = \sum_k c_k$, for $\eta L \le 1 - \beta$.

    Args:
        gap: $\Delta = F(\theta_0) - F^\star$.
        lr: Step size $\eta$, at most $(1 - \beta) / L$.
        smoothness: $L$.
        momentum: $\beta$, in [0, 1); it starts from zero in every round.
        noise: $S_{r,k}$ of `stationarity_bound`; a number or (rounds, steps).
        second_moment: $G_{r,k}^2$, the participants' mean squared gradient; a number or (rounds, steps).
        rounds: $R$.
        steps: $E$, local steps of a round.

    Returns:
        The bound, in three parts.

    Raises:
        ValueError: $\eta L > 1 - \beta$, or a number is outside its range.

    Example:
        >>> momentum_bound(1.0, 0.25, 1.0, 0.5, noise=0.0, second_moment=0.0, rounds=8, steps=1)
        Bound(start=1.0, noise=0.0, drift=0.0)

    References:
        Ours: Theorem 4 of the page of proofs.
    """
    rest = 1 - number("momentum", momentum, 0, 1, below=True)
    _check(gap, lr, smoothness, rounds, steps, rest)
    s, g2 = _shaped("noise", noise, (rounds, steps)), _shaped("second_moment", second_moment, (rounds, steps))
    k = np.arange(steps)
    c = (1 - momentum ** (steps - k)) / rest
    whole, earlier = rounds * c.sum(), np.cumsum(g2, 1) - g2
    return Bound(
        start=float(2 * gap / (lr * whole)),
        noise=float(lr * smoothness * (s @ c**2).sum() / whole),
        drift=float((2 * smoothness * lr / rest) ** 2 * (earlier @ (c * k)).sum() / whole),
    )


def bias_bound(shares: ArrayLike, weights: ArrayLike, spreads: ArrayLike) -> float:
    r"""Bound the bias of the gradient that comes from widths that differ between participants.

    $\|\nabla F(\theta) - \nabla F_{\bar\pi}(\theta)\| \le \sum_v \mathrm{sd}_a(\pi_i(v))\,\zeta_v(\theta)$, with
    $F_{\bar\pi}$ the objective in which everybody trains the mean distribution of widths. It is zero if all train the same
    widths, and if all have the same data.

    Args:
        shares: (participants, widths) loss weight $\pi_i(v)$ of each width at each participant.
        weights: (participants,) aggregation weights $\omega_i$, which sum to one.
        spreads: (widths,) $\zeta_v$, the standard deviation of the participants' gradients at that width.

    Returns:
        The bound on the norm of the bias.

    Raises:
        ValueError: An entry is negative or not finite, the weights do not sum to one, or shapes do not fit.

    Example:
        >>> round(bias_bound([[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5], [0.2, 0.4]), 3)
        0.3

    References:
        Ours: Proposition 5 of the page of proofs.
    """
    pi, a, zeta = _shaped("shares", shares), _shaped("weights", weights), _shaped("spreads", spreads)
    if not pi.size or pi.ndim != 2 or pi.shape != a.shape + zeta.shape:
        raise refusal("shares", f"of shape {a.shape + zeta.shape}, as weights and spreads", pi.shape)
    if abs(a.sum() - 1) > 1e-9:
        raise refusal("weights", "numbers that sum to one", weights)
    return float(np.sqrt(a @ (pi - a @ pi) ** 2) @ zeta)


@checked
def held_margin(curve: Curve, contribution: ArrayLike, confidence: float, tests: int = 1) -> Array:
    r"""Bound by how much a width sent without certification can exceed earned plus allowance.

    With the fit $\tilde\phi$ and the `upper_bounds` $D(w)$ on $\phi(w) - \phi(1)$ and $U(w)$ on $\phi(w)$, the excess is at most
    $\tilde\phi(1) - \tilde\phi(w) + D(w)$ where $\tilde\phi(1) \ge \max_j B_j$, and at most the larger of this and
    $U(w) - \tilde\phi(w)$ before that.

    Args:
        curve: As measured after a round; it knows which samples were correct.
        contribution: (n,) contributions $B$ that rewards are computed from.
        confidence: In (0, 1), of all tests together.
        tests: How many bounds shall hold at once: two for each width and round.

    Returns:
        (K,) margins, one for each width of the curve.

    Raises:
        ValueError: A number is outside its range, or the curve does not know which samples were correct.

    Example:
        >>> right = np.arange(1000) < np.array([[600], [800]])
        >>> curve = Curve((0.5, 1.0), right.mean(1), 1000, right)
        >>> held_margin(curve, [0.5, 0.7], 0.95).round(3).tolist()
        [0.035, 0.0]

    References:
        Ours: Proposition 13 of the page of proofs.
    """
    b = accuracies("contribution", contribution)
    paired, plain = upper_bounds(curve, confidence, tests)
    relative = curve.full - curve.fitted + paired
    return relative if curve.full >= b.max() else np.maximum(relative, plain - curve.fitted)


def _per_step(
    shape: tuple[int, int], noise: ArrayLike, scatter: ArrayLike, heterogeneity: ArrayLike, lr: float, smoothness: float,
    convex: bool, dissimilarity: ArrayLike | None,
) -> tuple[Array, Array]:  # fmt: skip
    """The noise of every step, and its drift times the squared dissimilarity, (rounds, steps)."""
    s2, z2 = _shaped("scatter", scatter, shape), _shaped("heterogeneity", heterogeneity, shape)
    delta = _shaped("dissimilarity", smoothness if dissimilarity is None else dissimilarity, shape)
    return _shaped("noise", noise, shape), delta**2 * drift(lr, smoothness, s2, z2, shape[1], convex=convex)


def _shaped(name: str, value: ArrayLike, shape: tuple[int, ...] | None = None) -> Array:
    """Finite numbers from 0, broadcast to this shape."""
    try:
        found = np.array(value, dtype=float)
        found = found if shape is None else np.broadcast_to(found, shape)
    except (TypeError, ValueError):
        allowed = "an array of numbers" if shape is None else f"a number or an array of shape {shape}"
        raise refusal(name, allowed, value) from None
    if not (np.isfinite(found) & (found >= 0)).all():
        raise refusal(name, "finite numbers from 0", value)
    return found


def _check(gap: float, lr: float, smoothness: float, rounds: int, steps: int, rest: float = 1.0) -> None:
    """Refuse step sizes and counts about which nothing is proved; momentum divides the step size by `rest`."""
    number("lr", lr, 0, rest * ROUNDING / smoothness, above=True)
