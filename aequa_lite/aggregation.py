"""How the server combines updates: server optimizers and robust aggregation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ._check import Count, Decay, Index, Level, NotNegative, Positive, checked, number, refusal
from ._validation import change_norm, oversized
from .config import stream
from .evaluation import accuracy
from .federate import Aggregator, Reweight, ServerOptimizer
from .slimmable import Pairs, aggregate, coverage, prefix, slim
from .types import Build, Samples, ServerState, State, Update, floating

__all__ = [
    "coordinate_median", "dp_epsilon", "dp_gaussian", "fedadam", "fedavg", "fedavgm", "norm_clipping",
    "norm_screening", "trimmed_mean", "validation_weights",
]  # fmt: skip

LEAST_ACCURACY = 1e-3  # of an update, so that every weight is above zero


@checked
def fedavg(state: ServerState, aggregated: State) -> ServerState:
    r"""Take the aggregate as it is: $\theta \leftarrow \mathrm{aggregate}(\theta)$.

    Args:
        state: The server's state before the round.
        aggregated: Tensors of the aggregate, by name.

    Returns:
        The next state; the memory stays.

    Raises:
        ValueError: The aggregate has other tensors than the global model.

    Example:
        >>> import torch
        >>> fedavg(ServerState({"w": torch.zeros(1)}), {"w": torch.ones(1)}).theta
        {'w': tensor([1.])}

    References:
        FedAvg (McMahan et al. 2017).
    """
    theta, memory, _ = _begin(state, aggregated)
    return ServerState(theta, memory)


@checked
def fedavgm(beta: Decay = 0.9, lr: Positive = 1.0) -> ServerOptimizer:
    r"""Follow the aggregate with momentum.

    $m \leftarrow \beta m + (\mathrm{aggregate}(\theta) - \theta)$, then $\theta \leftarrow \theta + \eta m$.

    Args:
        beta: Momentum, in [0, 1).
        lr: Server learning rate $\eta$.

    Returns:
        A server optimizer that remembers `momentum/NAME` for each tensor.

    Raises:
        ValueError: `beta` is outside [0, 1), or `lr` is not above 0.

    Example:
        >>> import torch
        >>> step = fedavgm(0.5)
        >>> state = step(ServerState({"w": torch.zeros(1)}), {"w": torch.ones(1)})
        >>> step(state, {"w": torch.full((1,), 2.0)}).theta["w"].item()
        2.5

    References:
        FedAvgM (Hsu et al. 2019).
    """
    return partial(_follow_with_momentum, beta=beta, lr=lr)


@checked
def fedadam(lr: Positive = 0.01, beta: Decay = 0.9, beta2: Decay = 0.99, epsilon: Positive = 1e-3) -> ServerOptimizer:
    r"""Follow the aggregate with a step size of its own for each entry.

    With $d = \mathrm{aggregate}(\theta) - \theta$: $m \leftarrow \beta m + (1-\beta) d$,
    $v \leftarrow \beta_2 v + (1-\beta_2) d^2$, $\theta \leftarrow \theta + \eta\, m / (\sqrt v + \epsilon)$.

    Args:
        lr: Server learning rate $\eta$.
        beta: Decay of $m$, in [0, 1).
        beta2: Decay of $v$, in [0, 1).
        epsilon: Added to the root, above 0.

    Returns:
        A server optimizer that remembers `momentum/NAME` and `square/NAME` for each tensor.

    Raises:
        ValueError: A decay is outside [0, 1), or `lr` or `epsilon` is not above 0.

    Example:
        >>> import torch
        >>> state = fedadam(lr=0.1)(ServerState({"w": torch.zeros(1)}), {"w": torch.ones(1)})
        >>> round(state.theta["w"].item(), 3), sorted(state.memory)
        (0.099, ['momentum/w', 'square/w'])

    References:
        FedAdam (Reddi et al. 2021), without bias correction, as published.
    """
    return partial(_follow_with_adam, lr=lr, beta=beta, beta2=beta2, epsilon=epsilon)


@checked
def _follow_with_momentum(state: ServerState, aggregated: State, *, beta: float, lr: float) -> ServerState:
    """The step of FedAvgM."""
    theta, memory, changes = _begin(state, aggregated)
    for name, change in changes.items():
        momentum = memory.get(f"momentum/{name}", 0.0) * beta + change
        theta[name] = state.theta[name] + lr * momentum
        memory[f"momentum/{name}"] = momentum
    return ServerState(theta, memory)


@checked
def _follow_with_adam(
    state: ServerState, aggregated: State, *, lr: float, beta: float, beta2: float, epsilon: float
) -> ServerState:
    """The step of FedAdam."""
    theta, memory, changes = _begin(state, aggregated)
    for name, change in changes.items():
        momentum = beta * memory.get(f"momentum/{name}", 0.0) + (1 - beta) * change
        square = beta2 * memory.get(f"square/{name}", 0.0) + (1 - beta2) * change.square()
        theta[name] = state.theta[name] + lr * momentum / (square.sqrt() + epsilon)
        memory |= {f"momentum/{name}": momentum, f"square/{name}": square}
    return ServerState(theta, memory)


def _begin(state: ServerState, aggregated: State) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Copies of the aggregate and of the memory, and the change of each floating-point tensor.

    An aggregate of other tensors than the global model's is refused.
    """
    if set(aggregated) != set(state.theta):
        raise refusal("aggregated", f"the model's {len(state.theta)} tensors by name", sorted(aggregated))
    theta = {k: t.to(state.theta[k].device) for k, t in aggregated.items()}
    changes = {k: t - state.theta[k] for k, t in floating(theta).items()}
    return theta, dict(state.memory), changes


@checked
def validation_weights(build: Build, validation: Samples, power: NotNegative = 1.0) -> Reweight:
    r"""Weight each update by its own validation accuracy: $\omega_i \propto \mathrm{acc}_i^{\,p}$.

    Args:
        build: Constructor of the network.
        validation: Samples of the server.
        power: $p$; 0 weights all alike.

    Returns:
        A function of the round's updates; it returns their weights, which sum to one.

    Raises:
        ValueError: There are no samples, or `power` is negative or not finite.

    Example:
        >>> import aequa_lite as aq
        >>> reweight = validation_weights(aq.MLP, aq.load("fashion-mini").validation, power=2.0)
        >>> update = aq.Update(0, 1.0, aq.init_params(aq.MLP, seed=0), weight=1.0, loss=2.3)
        >>> reweight([update, update]) == [0.5, 0.5]
        True

    References:
        Our choice: contribution-weighted aggregation as in ShapFed-WA, with accuracy as the contribution.
    """
    return partial(_by_accuracy, build, validation, power)


@checked
def _by_accuracy(build: Build, validation: Samples, power: float, updates: Sequence[Update]) -> list[float]:
    """Weights in proportion to a power of the validation accuracy."""
    found = accuracy([slim(build, u.state, u.width) for u in updates], validation)
    least = np.maximum(found, LEAST_ACCURACY)
    mass = np.maximum((least / least.max()) ** power, 1e-30)
    return (mass / mass.sum()).tolist()


@checked
def norm_clipping(norm: Positive | None = None) -> Aggregator:
    r"""Aggregate changes shortened to at most `norm`: $\Delta_i \leftarrow \Delta_i \min(1, C / \lVert \Delta_i \rVert)$.

    Args:
        norm: $C$, above 0; None takes the median norm of the round.

    Returns:
        An aggregation rule.

    Raises:
        ValueError: `norm` is not above 0.

    Example:
        >>> theta, long = {"w": torch.zeros(2)}, {"w": torch.tensor([30.0, 40.0])}
        >>> norm_clipping(5.0)(theta, [(long, 1.0), (theta, 1.0)])["w"].tolist()
        [1.5, 2.0]

    References:
        Norm bounding (Sun et al. 2019); over nested slices our choice.
    """
    return partial(_clip, norm=norm)


@checked
def _clip(theta: State, updates: Pairs, *, norm: float | None) -> dict[str, Tensor]:
    """The aggregate of the clipped changes."""
    pairs = _listed(theta, updates)
    limit = float(np.median([change_norm(state, theta) for state, _ in pairs])) if norm is None else norm
    return aggregate(theta, [(_shortened(state, theta, limit), weight) for state, weight in pairs])


def _shortened(state: State, theta: State, norm: float) -> State:
    """A slice whose change is at most this long; the slice itself if it already is."""
    length = change_norm(state, theta)
    if length <= norm:
        return state
    blocks = {k: theta[k][prefix(v.shape)] for k, v in floating(state).items()}
    return {**state, **{k: t + (norm / length) * (state[k] - t) for k, t in blocks.items()}}


def norm_screening(times: float = 4.0) -> Aggregator:
    """Aggregate the updates whose change is at most `times` the round's median; leave out the others.

    Changes are compared per entry, so that slices of different widths compare.

    Args:
        times: At least 1.

    Returns:
        An aggregation rule.

    Raises:
        ValueError: `times` is not a finite number from 1.

    Example:
        >>> theta = {"w": torch.zeros(1)}
        >>> norm_screening()(theta, [({"w": torch.full((1,), size)}, 1.0) for size in (1.0, 2.0, 99.0)])["w"].item()
        1.5

    References:
        Our choice.
    """
    number("times", times, 1)
    return partial(_screen, times=times)


@checked
def _screen(theta: State, updates: Pairs, *, times: float) -> dict[str, Tensor]:
    """The aggregate of the updates of usual size."""
    pairs = _listed(theta, updates)
    large = oversized([state for state, _ in pairs], theta, times)
    return aggregate(theta, [pair for pair, out in zip(pairs, large, strict=True) if not out])


def trimmed_mean(share: float = 0.2) -> Aggregator:
    r"""Average each entry over those who hold it, without its largest and smallest values.

    Of $h$ holders, the $\lfloor \mathrm{share} \cdot h \rfloor$ largest and as many of the smallest values are dropped,
    and the others are averaged by weight. 0 is `aggregate`; towards a half it becomes the median.

    Args:
        share: Share that is dropped at each end, in [0, 0.5).

    Returns:
        An aggregation rule.

    Raises:
        ValueError: `share` is outside [0, 0.5).

    Example:
        >>> updates = [({"w": torch.tensor([value])}, 1.0) for value in (1.0, 2.0, 3.0, 99.0)]
        >>> trimmed_mean(0.25)({"w": torch.zeros(1)}, updates)["w"].item()
        2.5

    References:
        The trimmed mean (Yin et al. 2018), over those who hold an entry.
    """
    number("share", share, 0, 0.5, below=True)
    return partial(_ranked, share=share)


def coordinate_median(theta: State, updates: Pairs) -> dict[str, Tensor]:
    """Take for each entry the median of the values of those who hold it; of two middle ones, their weighted mean.

    With one or two holders it is `aggregate`. Otherwise weights do not matter.

    Args:
        theta: Global model before the round.
        updates: Pairs of a slice and its weight.

    Returns:
        The aggregated model.

    Raises:
        ValueError: There are no updates, or a weight is not above 0.

    Example:
        >>> updates = [({"w": torch.tensor([value])}, 1.0) for value in (1.0, 2.0, 99.0)]
        >>> coordinate_median({"w": torch.zeros(1)}, updates)["w"].item()
        2.0

    References:
        The coordinate-wise median (Yin et al. 2018), over those who hold an entry.
    """
    return _ranked(theta, updates, share=0.5)


def _dropped(holders: Tensor, share: float) -> Tensor:
    """How many values to drop at each end, so that one or two stay at least."""
    some = (share * holders + 1e-4).long()  # the product has seven digits: 0.42 of 150 is 62.999996
    return some.minimum((holders - 1) // 2).clamp_min(0)


@checked
def _ranked(theta: State, updates: Pairs, *, share: float) -> dict[str, Tensor]:
    """Average each entry over its middle values, without a share of its holders at each end."""
    pairs = sorted(_listed(theta, updates), key=lambda pair: pair[1])  # among equal values the lighter ones are first
    after = dict(theta)
    for name, t in floating(theta).items():
        if holders := [(state[name], weight) for state, weight in pairs if name in state]:
            after[name] = t + _middle_change(t, holders, share)
    return after


def _middle_change(t: Tensor, holders: list[tuple[Tensor, float]], share: float) -> Tensor:
    """The weighted mean of the middle changes of each entry of one tensor."""
    changes = t.new_full((len(holders), *t.shape), math.inf)  # infinite where the entry is not in the slice
    for change, (value, _) in zip(changes, holders, strict=True):
        block = prefix(value.shape)
        change[block] = value - t[block]
    changes, who = changes.sort(dim=0, stable=True)
    mass = t.new_tensor([weight for _, weight in holders])[who]
    count = torch.isfinite(changes).sum(0)
    rank = torch.arange(len(holders), device=t.device).view(-1, *[1] * t.ndim)
    ends = _dropped(count, share)
    kept = (rank >= ends) & (rank < count - ends)
    total = torch.where(kept, mass * changes, 0).sum(0)
    return total / torch.where(kept, mass, 0).sum(0).clamp_min(1e-30)


@checked
def dp_gaussian(norm: Positive, noise: NotNegative, seed: Index | None = None) -> Aggregator:
    r"""Clip each change to `norm` and add Gaussian noise, for differential privacy of participants.

    $\theta_e \leftarrow \theta_e + \bigl(\sum_{i \ni e} \omega_i \bar\Delta_{i,e} + \sigma C \omega_{\max}\, z_e\bigr)
    / \sum_{i \ni e} \omega_i$ with $\bar\Delta_i$ the change clipped to $C$ = `norm`, $\sigma$ = `noise` and
    $z_e \sim N(0, 1)$. Replacing one update by no change moves the sum by at most $C \omega_{\max}$, so each round is one
    Gaussian mechanism; `dp_epsilon` computes the privacy loss. Who takes part, and at which width and weight, is public.
    This holds with `Config(norm_limit=0)` and no tolerance of a schedule only: both leave out updates by what they hold.
    Entries that nobody holds keep their value.
    No noise and a large norm are `aggregate`.

    Args:
        norm: $C$, above 0.
        noise: $\sigma$, from 0.
        seed: Makes the noise a function of the seed and the model, for runs that are repeated. None takes the operating
            system's randomness, which a privacy guarantee needs.

    Returns:
        An aggregation rule.

    Raises:
        ValueError: `norm` is not above 0, or `noise` is negative.

    Example:
        >>> theta, updates = {"w": torch.zeros(1)}, [({"w": torch.ones(1)}, 1.0)]
        >>> dp_gaussian(0.5, noise=0.0)(theta, updates)["w"].item()
        0.5

    References:
        DP-FedAvg (McMahan et al. 2018); the denominators over nested slices are our choice.
    """
    return partial(_noisy, norm=norm, noise=noise, seed=seed)


@checked
def _noisy(theta: State, updates: Pairs, *, norm: float, noise: float, seed: int | None) -> dict[str, Tensor]:
    """The aggregate of the clipped changes, with noise."""
    pairs = _listed(theta, updates)
    after = _clip(theta, pairs, norm=norm)
    rng = np.random.default_rng() if seed is None else stream(seed, "privacy", *_fingerprint(theta))
    scale = noise * norm * max(weight for _, weight in pairs)
    for name, mass in coverage(floating(theta), [(floating(state), weight) for state, weight in pairs]).items():
        z = torch.as_tensor(rng.standard_normal(tuple(mass.shape)), dtype=mass.dtype, device=mass.device)
        after[name] = after[name] + torch.where(mass > 0, scale * z / mass.clamp_min(1e-30), 0)
    return after


def _fingerprint(theta: State) -> list[str]:
    """A hash of each tensor, so that every round has noise of its own, also in a run that is resumed."""
    arrays = (theta[name].detach().cpu().contiguous().numpy() for name in sorted(theta))
    return [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]


@checked
def dp_epsilon(noise: Positive, rounds: Count, delta: Level = 1e-5) -> float:
    r"""Return the privacy loss $\varepsilon$ of $(\varepsilon, \delta)$-differential privacy after some rounds.

    What is protected is a participant: its update in every round, against being replaced by no change. No amplification
    is claimed for rounds in which it did not take part.

    Args:
        noise: $\sigma$ of `dp_gaussian`, above 0.
        rounds: Number of rounds.
        delta: $\delta$, in (0, 1).

    Returns:
        $\varepsilon$.

    Raises:
        ValueError: `noise` is not above 0, `rounds` is not a whole number from 1, or `delta` is outside (0, 1).
        ImportError: opacus is not installed (`pip install "aequa-lite[privacy]"`).

    Example:
        >>> dp_epsilon(0.0, 20)
        Traceback (most recent call last):
        ValueError: `noise` must be a number above 0, got 0.0

    References:
        Rényi accounting (Mironov 2017) by opacus.
    """
    try:
        from opacus.accountants import RDPAccountant  # late: it takes seconds to import
    except ImportError as error:
        raise ImportError('dp_epsilon needs opacus: pip install "aequa-lite[privacy]"') from error
    accountant = RDPAccountant()
    accountant.history = [(noise, 1.0, rounds)]
    return float(accountant.get_epsilon(delta))


def _listed(theta: State, updates: Pairs) -> list[tuple[State, float]]:
    """The pairs as a list, on theta's device, if there are any and their weights are above zero."""
    device = next(iter(theta.values())).device
    pairs = [({k: t.to(device) for k, t in state.items()}, weight) for state, weight in updates]
    if not pairs:
        raise refusal("updates", "at least one slice with its weight", pairs)
    for _, weight in pairs:
        number("weight", weight, 0, above=True)
    return pairs
