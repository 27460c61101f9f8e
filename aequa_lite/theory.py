r"""What is proved about training together, as functions, and federations of linear models whose constants are known.

The proofs are on the book's page of proofs. A round starts from the aggregated model; participant $i$, with aggregation weight
$\omega_i$, takes $E$ steps of size $\eta$. Squares are weighted by $1/A_e$ where not everybody holds entry $e$, with $A_e$ the
aggregation weight of those who do.

A federation of linear models records the path of a run of the training loop, which trains with cross-entropy. The logits
$(-\log(e^q - 1),\ 0)$ have the cross-entropy $q > 0$ for class 0, so that least squares runs through the same code as image
classification.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import beta
from torch import Tensor, nn

from ._check import Accuracies, Count, Decay, Fraction, NotNegative, Positive, checked, number, one_each, refusal
from .config import Config, stream
from .evaluation import Curve
from .federate import ServerOptimizer, Strategy, federate, slimmable
from .local import WidthSampler, loss_shares
from .networks.base import n_units
from .training_time import upper_bounds
from .types import Build, Round, Samples, Shard, State, Update

__all__ = ["Bound", "Changes", "Distribution", "GemanMcClure", "LeastSquares", "LinearFederation", "Logistic", "Moments",
           "TwoLayers", "bias_bound", "changing_widths", "distribution_of", "drift", "gap_bound", "held_margin",
           "momentum_bound", "recorded_steps", "regression", "sampled_from", "stationarity_bound"]  # fmt: skip

Array = NDArray[np.float64]
Distribution = Sequence[tuple[tuple[float, ...], float]]  # the sets of widths that a step may train, with probabilities
Distributions = Callable[[float], Distribution]  # one for each widest width
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
    if convex and lr * smoothness > 2:
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
    s, v = _per_step((rounds, steps), noise, scatter, heterogeneity, lr, smoothness, convex, dissimilarity)
    start = 2 * (gap + change) / (lr * rounds * steps)
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
    s, v = _per_step((rounds, steps), noise, scatter, heterogeneity, lr, smoothness, convex, dissimilarity)
    number("curvature", curvature, 0, smoothness * ROUNDING, above=True)
    found = [float(gap)]
    for added in (0.5 * lr**2 * smoothness * s + 0.5 * lr * v).ravel():
        found.append((1 - lr * curvature) * found[-1] + float(added))
    return np.array(found[::steps])


@checked
def momentum_bound(
    gap: NotNegative, lr: Positive, smoothness: Positive, momentum: Decay, *, noise: ArrayLike,
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
    rest = 1 - momentum
    number("lr", lr, 0, rest * ROUNDING / smoothness, above=True)
    s, g2 = _shaped("noise", noise, (rounds, steps)), _shaped("second_moment", second_moment, (rounds, steps))
    k = np.arange(steps)
    c = (1 - momentum ** (steps - k)) / rest
    whole, earlier = rounds * c.sum(), np.cumsum(g2, 1) - g2
    return Bound(
        start=float(2 * gap / (lr * whole)),
        noise=float(lr * smoothness * (s @ c**2).sum() / whole),
        drift=float((2 * smoothness * lr / rest) ** 2 * (earlier @ (c * k)).sum() / whole),
    )


@checked
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
    given = {"shares": shares, "weights": weights, "spreads": spreads}
    pi, a, zeta = (_shaped(name, value, np.shape(value)) for name, value in given.items())
    if pi.ndim != 2 or pi.shape != a.shape + zeta.shape:
        raise refusal("shares", f"of shape {a.shape + zeta.shape}, as weights and spreads", pi.shape)
    if abs(a.sum() - 1) > 1e-9:
        raise refusal("weights", "numbers that sum to one", weights)
    return float(np.sqrt(a @ (pi - a @ pi) ** 2) @ zeta)


@checked
def held_margin(curve: Curve, contribution: Accuracies, confidence: float, tests: int = 1) -> Array:
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
    paired, plain = upper_bounds(curve, confidence, tests)
    relative = curve.full - curve.fitted + paired
    return relative if curve.full >= np.max(contribution) else np.maximum(relative, plain - curve.fitted)


def _per_step(
    shape: tuple[int, int], noise: ArrayLike, scatter: ArrayLike, heterogeneity: ArrayLike, lr: float, smoothness: float,
    convex: bool, dissimilarity: ArrayLike | None,
) -> tuple[Array, Array]:  # fmt: skip
    """The noise of every step, and its drift times the squared dissimilarity, (rounds, steps); refused for long steps."""
    number("lr", lr, 0, ROUNDING / smoothness, above=True)
    s2, z2 = _shaped("scatter", scatter, shape), _shaped("heterogeneity", heterogeneity, shape)
    delta = _shaped("dissimilarity", smoothness if dissimilarity is None else dissimilarity, shape)
    return _shaped("noise", noise, shape), delta**2 * drift(lr, smoothness, s2, z2, shape[1], convex=convex)


def _shaped(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Finite numbers from 0, broadcast to this shape."""
    try:
        found = np.broadcast_to(np.asarray(value, dtype=float), shape)
    except ValueError:
        raise refusal(name, f"a number or an array of shape {shape}", value) from None
    if not (np.isfinite(found) & (found >= 0)).all():
        raise refusal(name, "finite numbers from 0", value)
    return found


@checked
def sampled_from(distribution: Distributions) -> WidthSampler:
    """Make the width sampler of a finite distribution.

    Args:
        distribution: Widest width -> the sets of widths that a step may train, with their probabilities.

    Returns:
        A width sampler. It refuses a distribution whose probabilities do not sum to one.

    Raises:
        ValueError: `distribution` is not callable.

    Example:
        >>> sampler = sampled_from(lambda widest: [((widest,), 0.5), ((0.25 * widest,), 0.5)])
        >>> sampler(np.random.default_rng(0), 1.0, Config())
        (0.25,)
    """
    return partial(_sample, distribution)


def _sample(distribution: Distributions, rng: np.random.Generator, widest: float, config: Config) -> tuple[float, ...]:
    """One set of widths."""
    sets, cumulative = _listed(distribution, widest)
    return sets[min(int(np.searchsorted(cumulative, rng.random(), side="right")), len(sets) - 1)]


@lru_cache(maxsize=256)
def _listed(distribution: Distributions, widest: float) -> tuple[list[tuple[float, ...]], Array]:
    """The sets of widths, and their cumulative probabilities."""
    pairs = list(distribution(widest))
    sets, probabilities = [tuple(widths) for widths, _ in pairs], np.array([p for _, p in pairs], dtype=float)
    if not all(sets) or not (probabilities >= 0).all() or not abs(probabilities.sum() - 1) < 1e-9:
        raise refusal("distribution", "sets of widths with probabilities that sum to 1", pairs)
    return sets, np.cumsum(probabilities)


@checked
def distribution_of(width_sampler: WidthSampler, config: Config, widest: Fraction = 1.0) -> Distribution:
    r"""Return the exact distribution of a width sampler that draws one random width, over the grid of widths.

    $P(w) = I(w) - I(w - 1 / \mathrm{grid})$ with $I$ the distribution function of the config's Beta variable, stretched over
    [`min_width`, `widest`].

    Args:
        width_sampler: `full_only`, `one_random`, `full_and_random` or `sandwich`.
        config: Its grid, its least width and its Beta distribution.
        widest: Width that the participant received.

    Returns:
        The sets of widths that a step may train, with their probabilities.

    Raises:
        ValueError: `width_sampler` is not callable, `config.widths_per_step` is not 1, or `widest` is outside (0, 1].

    Example:
        >>> import aequa_lite as aq
        >>> pairs = distribution_of(aq.sandwich, Config(min_width=0.99))
        >>> [(widths, round(probability, 3)) for widths, probability in pairs]
        [((1.0, 0.99, 0.995), 0.125), ((1.0, 0.99, 1.0), 0.875)]
    """
    if config.widths_per_step != 1:
        raise refusal("widths_per_step", "1, for which the distribution is listed", config.widths_per_step)
    low = min(config.min_width, widest)
    if widest == low:
        return [(tuple(width_sampler(_FixedBeta(0.0), widest, config)), 1.0)]
    ends = np.clip((np.arange(config.grid + 1) / config.grid - low) / (widest - low), 0, 1)
    mass = np.diff(beta.cdf(ends, config.width_alpha, config.width_beta))
    drawn = (tuple(width_sampler(_FixedBeta(share), widest, config)) for share in (ends[:-1] + ends[1:]) / 2)
    return [(widths, float(p)) for widths, p in zip(drawn, mass) if p > 0]


class _FixedBeta(np.random.Generator):
    """A generator whose Beta variable has a fixed value."""

    def __init__(self, value: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.value = value

    def beta(self, a: float, b: float, count: int) -> NDArray[np.float64]:  # type: ignore[override]
        return np.full(count, self.value)


@checked
def recorded_steps(strategy: Strategy, path: dict[tuple[int, int], State]) -> Strategy:
    """Take the local steps one by one, each with a freshly drawn batch, and record where each began.

    Without momentum this differs from the strategy only in the batches: within a round the loop shuffles the shard, while
    the theorems assume independent batches.

    Args:
        strategy: How participants train.
        path: Receives the slice at the start of each step, by (step, participant).

    Returns:
        The strategy that records. It refuses a config with momentum or a proximal term, which single steps would forget.

    Raises:
        ValueError: `strategy` is no Strategy, or `path` no dictionary.

    Example:
        >>> import aequa_lite as aq
        >>> path, config = {}, aq.Config(participants=2, rounds=1, local_steps=3, momentum=0.0)
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> strategy = recorded_steps(aq.slimmable(aq.MLP), path)
        >>> len(list(aq.federate(aq.MLP, shards, config, strategy=strategy, progress=False))), sorted(path)[:3]
        (1, [(0, 0), (0, 1), (1, 0)])
    """
    return replace(strategy, local=partial(_recorded, strategy.local, path), vectorized=None)


def _recorded(
    train: Callable[..., Update], path: dict[tuple[int, int], State], state: State, shard: Shard, width: float,
    config: Config, rng: np.random.Generator, *, first: int = 0, weight: float = 1.0,
) -> Update:  # fmt: skip
    """The local steps of one round, one by one."""
    if config.momentum or config.proximal:
        raise refusal("config", "without momentum and proximal term, as single steps have no memory", config)
    loss = 0.0
    for step in range(first, first + config.local_steps):
        path[step, shard.participant] = state
        update = train(state, shard, width, config, rng, first=step, steps=1, weight=weight)
        state, loss = update.state, loss + update.loss
    return replace(update, loss=loss / config.local_steps)


LEAST_LOSS = 0.1  # added to a squared error, so that its logarithm exists


@checked
class LinearModel(nn.Module):
    """A linear score of the leading features; the width is the share of features that are used."""

    max_second_derivative: float  # of the loss by the score, in absolute value
    least_loss = 0.0  # a lower bound
    convex = True

    def __init__(self, width: float = 1.0, *, features: Count, start: ArrayLike | None = None) -> None:
        super().__init__()
        used = n_units(width, features)
        first = np.zeros(features) if start is None else np.array(start, dtype=float)
        if first.shape != (features,) or not np.isfinite(first).all():
            raise refusal("start", f"{features} finite numbers", start)
        self.weight = nn.Parameter(torch.tensor(first[:used]))

    def score(self, x: Tensor) -> Tensor:
        """The score of each sample, (samples,)."""
        return x[:, : len(self.weight)] @ self.weight


class LeastSquares(LinearModel):
    r"""Fit targets by least squares: cross-entropy is $\tfrac12(\theta^\top x - y)^2 + 0.1$.

    It takes `x` of shape (samples, features + 1) in float64 with the target as the last column; every label is 0.

    Args:
        width: Share of the features, in (0, 1].
        features: Number of features.
        start: (features,) initial parameters (default: 0).

    Raises:
        ValueError: `features` is not a whole number from 1, or `start` is not as many finite numbers.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)  # features 1 and 2, target 3
        >>> logits = LeastSquares(features=2)(x)
        >>> round(nn.functional.cross_entropy(logits, torch.tensor([0])).item(), 9)
        4.6

    References:
        Our choice.
    """

    max_second_derivative = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (samples, 2), whose cross-entropy for class 0 is the loss."""
        return logits_of(self.loss(self.score(x), x[:, -1]))

    @staticmethod
    def loss(score: Any, y: Any) -> Any:
        """Return the loss of each score."""
        return 0.5 * (score - y) ** 2 + LEAST_LOSS

    @staticmethod
    def derivative(score: Array, y: Array) -> Array:
        """Return the derivative of the loss by the score."""
        return score - y


class GemanMcClure(LeastSquares):
    r"""Fit targets by a loss that is not convex: $\tfrac12 r^2 / (1 + r^2) + 0.1$ with the residual $r = \theta^\top x - y$.

    Its second derivative by the score is $(1 - 3r^2) / (1 + r^2)^3$, from $-\tfrac14$ at $r^2 = 1$ to 1 at $r = 0$.

    Args:
        width: Share of the features, in (0, 1].
        features: Number of features.
        start: (features,) initial parameters (default: 0).

    Raises:
        ValueError: `features` is not a whole number from 1, or `start` is not as many finite numbers.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)  # features 1 and 2, target 3
        >>> logits = GemanMcClure(features=2)(x)
        >>> round(nn.functional.cross_entropy(logits, torch.tensor([0])).item(), 9)
        0.55

    References:
        Geman and McClure (1987), whose loss is robust to outliers.
    """

    least_loss = LEAST_LOSS
    convex = False

    @staticmethod
    def loss(score: Any, y: Any) -> Any:
        """Return the loss of each score."""
        squared = (score - y) ** 2
        return 0.5 * squared / (1 + squared) + LEAST_LOSS

    @staticmethod
    def derivative(score: Array, y: Array) -> Array:
        """Return the derivative of the loss by the score."""
        return (score - y) / (1 + (score - y) ** 2) ** 2


class Logistic(LinearModel):
    r"""Classify by logistic regression without a bias: cross-entropy is $\log(1 + e^z) - yz$ with $z = \theta^\top x$.

    It takes `x` of shape (samples, features + 1) in float64 and ignores the last column; the label is $y \in \{0, 1\}$.

    Args:
        width: Share of the features, in (0, 1].
        features: Number of features.
        start: (features,) initial parameters (default: 0).

    Raises:
        ValueError: `features` is not a whole number from 1, or `start` is not as many finite numbers.

    Example:
        >>> Logistic(features=2)(torch.zeros(1, 3, dtype=torch.float64)).tolist()
        [[0.0, 0.0]]
    """

    max_second_derivative = 0.25

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (samples, 2)."""
        score = self.score(x)
        return torch.stack([torch.zeros_like(score), score], 1)

    @staticmethod
    def loss(score: Array, y: Array) -> Array:
        """Return the loss of each score."""
        return np.logaddexp(0, score) - y * score

    @staticmethod
    def derivative(score: Array, y: Array) -> Array:
        """Return the derivative of the loss by the score."""
        return expit(score) - y


@checked
class TwoLayers(nn.Module):
    r"""Fit targets by two linear layers with slimmable hidden units: cross-entropy is $\tfrac12\|W_2 W_1 x - y\|^2 + 0.1$.

    It takes `x` of shape (samples, features + outputs) in float64 with the targets as the last columns; every label is 0.

    Args:
        width: Share of the hidden units, in (0, 1].
        features: Number of features.
        outputs: Number of targets.
        hidden: Number of hidden units at full width.

    Raises:
        ValueError: A number is not a whole number from 1.

    Example:
        >>> TwoLayers(0.5, features=3, outputs=2, hidden=4).first.shape
        torch.Size([2, 3])

    References:
        FjORD (Horvath et al. 2021), whose theorem is about this network.
    """

    def __init__(self, width: float = 1.0, *, features: Count, outputs: Count, hidden: Count) -> None:
        super().__init__()
        used = n_units(width, hidden)
        self.first = nn.Parameter(0.3 * torch.randn(used, features, dtype=torch.float64))
        self.second = nn.Parameter(0.3 * torch.randn(outputs, used, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (samples, 2), whose cross-entropy for class 0 is the loss."""
        features = self.first.shape[1]
        residual = x[:, :features] @ self.first.T @ self.second.T - x[:, features:]
        return logits_of(0.5 * residual.square().sum(1) + LEAST_LOSS)


def logits_of(loss: Tensor) -> Tensor:
    """Logits, (samples, 2), whose cross-entropy for class 0 is this loss, (samples,), above 0."""
    return torch.stack([-(loss + torch.log(-torch.expm1(-loss))), torch.zeros_like(loss)], 1)


# what a config must have for the theorems; a norm limit of 0 leaves no update out
PLAIN_SGD = {"momentum": 0.0, "lr_final": 1.0, "participation": 1.0, "weight_decay": 0.0, "distill": 0.0,
             "proximal": 0.0, "logit_adjustment": 0.0}  # fmt: skip


class Moments(NamedTuple):
    """Hold the quantities in the bounds, at one local step or as arrays over several.

    Args:
        squared_gradient: Squared norm of the objective's gradient.
        noise: Variance of the aggregated gradient.
        scatter: Variance that aggregation removes.
        heterogeneity: Weighted squared distance of the participants' gradients from their average.

    Example:
        >>> Moments(1.0, 0.5, 0.5, 0.0).noise
        0.5
    """

    squared_gradient: ArrayLike
    noise: ArrayLike
    scatter: ArrayLike
    heterogeneity: ArrayLike


class _Group(NamedTuple):
    """The participants that receive one width, and what a local step of theirs may train."""

    members: NDArray[np.int64]
    masks: NDArray[np.bool_]  # (masks, features)
    shares: Array  # (sets, masks) loss weight of each mask in each set of widths
    probabilities: Array  # (sets,)
    mean_shares: Array  # (masks,) expected loss weight of each mask


@checked
@dataclass(frozen=True, eq=False)
class LinearFederation:
    r"""Hold the data of participants with linear models, and compute the constants of the theorems.

    Args:
        model: `LeastSquares`, `GemanMcClure` or `Logistic`.
        x: (participants, samples, features) features.
        y: (participants, samples) targets, or labels 0 and 1.
        config: Without momentum, and with a constant learning rate.
        distribution: Widest width -> the sets of widths that a step may train, with their probabilities.
        widths: (participants,) width that each receives (default: 1).
        weights: (participants,) aggregation weights (default: equal).
        start: (features,) initial parameters (default: 0).

    Raises:
        ValueError: The config is not one that the theorems cover, or shapes do not fit.

    Example:
        >>> plain = Config(participants=1, momentum=0.0, lr_final=1.0, batch=2)
        >>> full = lambda widest: [((1.0,), 1.0)]
        >>> federation = LinearFederation(LeastSquares, np.eye(2)[None], np.ones((1, 2)), plain, full)
        >>> federation.smoothness, federation.minimizer.round(6).tolist()
        (0.5, [1.0, 1.0])
    """

    model: type[LinearModel]
    x: Array
    y: NDArray[np.generic]
    config: Config
    distribution: Distributions
    widths: Sequence[float] | None = None
    weights: ArrayLike | None = None
    start: ArrayLike | None = None

    def __post_init__(self) -> None:
        for name, value in PLAIN_SGD.items():
            if getattr(self.config, name) != value:
                raise refusal(name, f"{value:g}, as the theorems are about plain SGD", getattr(self.config, name))
        if not isinstance(self.model, type) or not issubclass(self.model, LinearModel):
            raise refusal("model", "LeastSquares, GemanMcClure or Logistic", self.model)
        n, shapes = self.config.participants, (np.shape(self.x), np.shape(self.y))
        if len(shapes[0]) != 3 or shapes[0][0] != n or shapes[1] != shapes[0][:2] or not np.size(self.x):
            raise refusal("x and y", f"of shapes ({n}, samples, features) and ({n}, samples)", shapes)
        if not np.isfinite(self.x).all() or not np.isfinite(self.y).all():
            raise refusal("x and y", "finite numbers", "others")
        for name, high in {"widths": 1, "weights": np.inf}.items():
            values = getattr(self, name)
            for value in () if values is None else one_each(name, values, n):
                number(name, value, 0, high, above=True)

    @cached_property
    def received(self) -> tuple[float, ...]:
        """The width that each participant receives."""
        return (1.0,) * len(self.x) if self.widths is None else tuple(self.widths)

    @cached_property
    def a(self) -> Array:
        """The aggregation weights, (participants,), which sum to one."""
        raw = np.ones(len(self.x)) if self.weights is None else np.asarray(self.weights, dtype=float)
        return raw / raw.sum()

    @cached_property
    def holds(self) -> NDArray[np.bool_]:
        """Which entries each participant holds, (participants, features)."""
        d = self.x.shape[2]
        return np.arange(d) < np.array([n_units(w, d) for w in self.received])[:, None]

    @cached_property
    def coverage(self) -> Array:
        """The weight of those who hold each entry, (features,); an entry that nobody holds never moves."""
        return np.maximum(self.a @ self.holds, 1e-300)

    @cached_property
    def _groups(self) -> list[_Group]:
        """The participants by the width that they receive."""
        d, found = self.x.shape[2], []
        for widest in sorted(set(self.received)):
            sets, probabilities = zip(*self.distribution(widest), strict=True)
            ordered = [sorted(widths, reverse=True) for widths in sets]
            units = [[n_units(w, d) for w in widths] for widths in ordered]
            sizes = np.unique(np.concatenate(units))
            shares = np.zeros((len(sets), len(sizes)))
            for row, widths, each in zip(shares, ordered, units, strict=True):
                np.add.at(row, np.searchsorted(sizes, each), loss_shares(widths, self.config))
            members, p = np.flatnonzero(np.array(self.received) == widest), np.array(probabilities)
            found.append(_Group(members, np.arange(d) < sizes[:, None], shares, p, p @ shares))
        return found

    @cached_property
    def _hessians(self) -> Array:
        """What bounds the second derivative of each participant's loss, (participants, features, features)."""
        found = self.model.max_second_derivative * np.einsum("isd,ise->ide", self.x, self.x) / self.x.shape[1]
        for group in self._groups:
            found[group.members] *= np.einsum("m,md,me->de", group.mean_shares, group.masks, group.masks)
        return found

    @cached_property
    def smoothness(self) -> float:
        r"""$L$: the largest curvature of a participant's width-averaged loss."""
        return float(np.linalg.eigvalsh(self._hessians)[:, -1].max())

    @cached_property
    def curvature(self) -> float:
        r"""$\mu$: the least curvature of the objective, in the norm weighted by coverage; 0 unless `LeastSquares`."""
        held = np.flatnonzero(self.holds.any(0))
        root = np.sqrt(self.coverage)[held]
        total = np.einsum("i,ide->de", self.a, self._hessians)[np.ix_(held, held)] / np.outer(root, root)
        return float(np.linalg.eigvalsh(total)[0]) if self.model is LeastSquares else 0.0

    @cached_property
    def dissimilarity(self) -> float:
        r"""$\delta \le L$: what it does to the gradient that participants move apart; $L$ unless `LeastSquares`."""
        if self.model is not LeastSquares:
            return self.smoothness
        n, d = self.holds.shape
        root = np.sqrt(self.a)
        apart = np.eye(n * d).reshape(n, d, n, d)  # x_i -> x_i less the holders' average, in units of sqrt(a_i) x_i
        both = self.holds[:, :, None] * self.holds.T[None]  # (participants, features, participants)
        for e in range(d):
            apart[:, e, :, e] -= np.outer(root, root) * both[:, e] / self.coverage[e]
        total = np.einsum("i,ide,iejf->djf", root, self._hessians, apart) / np.sqrt(self.coverage)[:, None, None]
        return float(np.linalg.norm(total.reshape(d, n * d), 2))

    def objective(self, theta: Array) -> float:
        r"""Return $F(\theta) = \sum_i \omega_i\,\mathbb E_{W \sim q_i}\sum_{v \in W} s_v f_i(M_v\theta)$."""
        total = 0.0
        for group in self._groups:
            score = (group.masks * theta) @ self.x[group.members].transpose(0, 2, 1)  # (members, masks, samples)
            loss = self.model.loss(score, self.y[group.members][:, None]).mean(2)
            total += float(self.a[group.members] @ loss @ group.mean_shares)
        return total

    def gradient(self, theta: Array) -> Array:
        """Return the gradient of the objective, (features,)."""
        return self.a @ self.gradients(np.broadcast_to(theta, self.holds.shape) * 1.0)

    def gradients(self, points: Array) -> Array:
        """Return the gradient of each participant's width-averaged loss at its own point, (participants, features)."""
        found = np.zeros_like(points)
        for group in self._groups:
            x = self.x[group.members]
            each = self._derivatives(points, group) @ x * group.masks / x.shape[1]  # (members, masks, features)
            found[group.members] = np.einsum("m,imd->id", group.mean_shares, each)
        return found

    def _derivatives(self, points: Array, group: _Group) -> Array:
        """The loss's derivative by the score, each member at its own point, (members, masks, samples)."""
        score = (group.masks * points[group.members][:, None]) @ self.x[group.members].transpose(0, 2, 1)
        return self.model.derivative(score, self.y[group.members][:, None])

    @cached_property
    def minimizer(self) -> Array:
        """Where the objective is least, (features,); refused for a loss that is not convex."""
        if not self.model.convex:
            raise refusal("model", "convex, or its minimum is not known", self.model)
        options = {"gtol": 1e-11, "maxiter": 10_000}
        zero = np.zeros(self.x.shape[2])
        return minimize(self.objective, zero, jac=self.gradient, method="BFGS", options=options).x

    @cached_property
    def lower_bound(self) -> float:
        r"""$F^\star$: the least value of the objective, or the least loss where the objective is not convex."""
        return self.objective(self.minimizer) if self.model.convex else self.model.least_loss

    def gap(self, theta: Array) -> float:
        r"""Return $F(\theta) - F^\star$, at least 0."""
        return max(self.objective(theta) - self.lower_bound, 0.0)

    def average(self, states: Array) -> Array:
        """Aggregate the participants' states, (..., participants, features) -> (..., features)."""
        return np.einsum("i,id,...id->...d", self.a, self.holds, states) / self.coverage

    def moments(self, states: Array) -> Moments:
        """Return the moments when participant i is at `states[i]`, (participants, features)."""
        variance = self.variances(states)
        each = self.gradients(np.broadcast_to(self.average(states), states.shape) * 1.0)
        mean, a = self.a @ each / self.coverage, self.a[:, None]
        return Moments(
            squared_gradient=float((self.coverage * mean**2).sum()),
            noise=float((a**2 * variance / self.coverage).sum()),
            scatter=float((a * (1 - a / self.coverage) * self.holds * variance).sum()),
            heterogeneity=float(self.a @ ((each - self.holds * mean) ** 2).sum(1)),
        )

    def variances(self, points: Array) -> Array:
        """Return the variance of each stochastic gradient over widths and batches, (participants, features)."""
        found, n = np.zeros_like(points), self.x.shape[1]
        batch = min(self.config.batch, n)
        for group in self._groups:
            members, masks, shares, p, _ = group
            slope, x = self._derivatives(points, group), self.x[members]
            mean = np.einsum("wm,imd->iwd", shares, slope @ x * masks / n)
            found[members] = np.einsum("w,iwd->id", p, (mean - np.einsum("w,iwd->id", p, mean)[:, None]) ** 2)
            if batch < n:
                each = np.einsum("wm,ims,md->iwsd", shares, slope, masks * 1.0, optimize=True) * x[:, None]
                factor = (n - batch) / (batch * (n - 1))  # drawn without replacement
                found[members] += factor * np.einsum("w,iwd->id", p, each.var(2))
        return found

    @cached_property
    def build(self) -> Build:
        """The constructor of the network."""
        return partial(self.model, features=self.x.shape[2], start=self.start)

    @cached_property
    def shards(self) -> list[Shard]:
        """The data for the training loop."""
        labels = np.zeros_like(self.y) if issubclass(self.model, LeastSquares) else self.y
        inputs = torch.from_numpy(np.concatenate([self.x, self.y[..., None]], 2).astype(float))
        indices = np.arange(self.y.shape[1])
        each = (Samples(x, torch.from_numpy(y.astype(int)), 2) for x, y in zip(inputs, labels, strict=True))
        return [Shard(i, samples, indices) for i, samples in enumerate(each)]

    def run(self, seed: int = 0) -> Array:
        """Train once and return where every local step began, and the end: (rounds * steps + 1, participants, features)."""
        path, rounds = self._trained(seed, [self.received])
        return np.concatenate([path, [self.holds * rounds[-1].theta["weight"].numpy()]])

    def _trained(
        self, seed: int, schedule: list[tuple[float, ...]], server: ServerOptimizer | None = None
    ) -> tuple[Array, list[Round]]:
        """Where every local step began, (rounds * steps, participants, features), and the rounds."""
        path: dict[tuple[int, int], State] = {}
        config = replace(self.config, seed=seed, norm_limit=0.0)
        strategy = recorded_steps(slimmable(self.build, sampled_from(self.distribution), server=server), path)
        policy = partial(_scheduled, schedule=schedule)
        rounds = list(federate(self.build, self.shards, config, strategy=strategy, policy=policy, weights=self.a,
                               workers=1, vectorized=False, progress=False))  # fmt: skip
        found = np.zeros((config.rounds * config.local_steps, *self.holds.shape))
        for (step, i), state in path.items():
            found[step, i] = self._padded(state)
        return found, rounds

    def _padded(self, state: State) -> Array:
        """The weights of a slice, zero at the features that it does not use."""
        weight = state["weight"].numpy()
        return np.pad(weight, (0, self.holds.shape[1] - len(weight)))

    def moments_along(self, path: Array) -> Moments:
        """Return the moments along a run, each (rounds, steps)."""
        return self._by_step([self.moments(states) for states in path[:-1]])

    def _by_step(self, moments: list[Moments]) -> Moments:
        """The moments of every step of a run, each (rounds, steps)."""
        return Moments(*np.array(moments).T.reshape(4, self.config.rounds, self.config.local_steps))


class Changes(NamedTuple):
    r"""Hold what the theorem about widths that change needs to know of one run.

    Args:
        moments: Of the round's own objective, each (rounds, steps).
        gap: The first round's objective at the start, less a lower bound of the objectives of all rounds.
        change: $\Gamma$, what the changes of widths and the server add to the objective.
        smoothness: $L$, the largest of all rounds.
        dissimilarity: (rounds, 1) $\delta_r$ of each round.

    Example:
        >>> Changes(Moments(1.0, 0.5, 0.5, 0.0), 2.0, 0.25, 1.0, 0.0).change
        0.25
    """

    moments: Moments
    gap: float
    change: float
    smoothness: float
    dissimilarity: ArrayLike


@checked
def changing_widths(
    federation: LinearFederation, schedule: Sequence[Sequence[float]], seed: int = 0, *,
    server: ServerOptimizer | None = None,
) -> Changes:  # fmt: skip
    r"""Train once with other received widths in every round, and return what the theorem about them needs.

    $\Gamma = \sum_{r=0}^{R-2} F^{r+1}(\theta_{r+1}) - F^r(\bar\theta_{r,E})$, with $F^r$ the objective of the widths of round
    $r$, $\theta_{r+1}$ what the server makes of the round and $\bar\theta_{r,E}$ the average over holders.

    Args:
        federation: Its own widths are not used.
        schedule: (rounds, participants) width that each one receives.
        seed: Of the training.
        server: What is made of the aggregate (default: taken as it is).

    Raises:
        ValueError: The schedule has not one row for each round, or a row has not one width for each participant.

    Example:
        >>> plain = Config(participants=2, rounds=2, local_steps=1, lr=0.1, momentum=0.0, lr_final=1.0)
        >>> federation = regression(plain, lambda widest: [((widest,), 1.0)])
        >>> changing_widths(federation, [(1.0, 0.5), (1.0, 0.5)]).change  # they stay
        0.0

    References:
        Ours: Theorem 3 of the page of proofs.
    """
    config = federation.config
    rows = one_each("schedule", [tuple(row) for row in schedule], config.rounds, "rounds")
    known = {row: replace(federation, widths=row) for row in dict.fromkeys(rows)}
    each = [known[row] for row in rows]
    path, rounds = federation._trained(seed, rows, server)
    moments = [each[t // config.local_steps].moments(states) for t, states in enumerate(path)]
    change = 0.0
    for now, after, rnd in zip(each[:-1], each[1:], rounds[:-1], strict=True):
        mean = now.average(np.array([now._padded(update.state) for update in rnd.updates]))  # over holders
        change += after.objective(rnd.theta["weight"].numpy()) - now.objective(mean)
    lowest = min(one.lower_bound for one in known.values())
    return Changes(
        moments=federation._by_step(moments),
        gap=each[0].objective(each[0].average(path[0])) - lowest,
        change=change,
        smoothness=max(one.smoothness for one in known.values()),
        dissimilarity=np.array([[one.dissimilarity] for one in each]),
    )


def _scheduled(config: Config, last: Round | None, schedule: list[tuple[float, ...]]) -> tuple[float, ...]:
    """The widths of the next round; after the last one they stay."""
    return schedule[0 if last is None else min(last.index + 1, len(schedule) - 1)]


@checked
def regression(
    config: Config, distribution: Distributions, *, model: type[LinearModel] = LeastSquares,
    features: Count = 8, samples: int = 16, correlation: Decay = 0.1, heterogeneity: NotNegative = 1.0,
    scales: Sequence[float] | None = None, widths: Sequence[float] | None = None,
) -> LinearFederation:  # fmt: skip
    r"""Make a federation of linear models from the config's seed, with a chosen heterogeneity.

    The features of participant $i$ have exactly the second moments $h_i((1-c) I + c\,\mathbf 1\mathbf 1^\top)$. Its targets
    follow $\theta_i = \theta + b z_i$ with standard normal $\theta$ and $z_i$. For `Logistic` the label says whether the
    target is above 0.

    Args:
        config: Without momentum, and with a constant learning rate.
        distribution: Widest width -> the sets of widths that a step may train, with their probabilities.
        model: `LeastSquares`, `GemanMcClure` or `Logistic`.
        features: Number of features.
        samples: Samples of each participant, at least as many as features.
        correlation: $c$ in [0, 1).
        heterogeneity: $b$, from 0.
        scales: (participants,) $h_i$, above 0 (default: 1).
        widths: (participants,) width that each receives (default: 1).

    Raises:
        ValueError: As `LinearFederation`, or a number is outside its range.

    Example:
        >>> plain = Config(participants=2, momentum=0.0, lr_final=1.0)
        >>> full = lambda widest: [((1.0,), 1.0)]
        >>> round(regression(plain, full, features=2, correlation=0.5).smoothness, 6)
        1.5
    """
    number("samples", samples, features, whole=True)
    n = config.participants
    h = [number("scales", s, 0, above=True) for s in one_each("scales", [1.0] * n if scales is None else scales, n)]
    rng = stream(config.seed, "regression")
    second = (1 - correlation) * np.eye(features) + correlation
    normals = rng.normal(size=(n, samples, features))
    x = np.stack([np.linalg.qr(z)[0] @ np.linalg.cholesky(samples * s * second).T for z, s in zip(normals, h)])
    theta = rng.normal(size=features) + heterogeneity * rng.normal(size=(n, features))
    y = np.einsum("isd,id->is", x, theta) + 0.1 * rng.normal(size=x.shape[:2])
    return LinearFederation(model, x, (y > 0).astype(int) if model is Logistic else y, config, distribution, widths)
