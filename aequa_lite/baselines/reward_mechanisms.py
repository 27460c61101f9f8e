"""The same trained network and the same target accuracies, realized in different ways.

A mechanism is a function `(amount, participant) -> PartialModel`: amount 1 is the whole network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from .._check import Count, Index, NotNegative, accuracies, checked, number, refusal
from ..config import stream
from ..contribution import flatten
from ..evaluation import correct
from ..slimmable import prefix, slim, template
from ..types import Build, Round, Samples, State
from .common import descending, only, size_of, sparse_numbers, unflatten

LEAST_WIDTH = 1e-6  # one unit in each layer


@checked
@dataclass(frozen=True, eq=False)
class PartialModel:
    """Hold what one participant would receive.

    Args:
        state: Tensors of the full network; entries outside the mask are what everybody knows.
        mask: For each tensor bool, which entries are received.
        numbers: Numbers that must be sent.
        amount: The mechanism's argument, in [0, 1].
        width: Of the network, in (0, 1].

    Example:
        >>> import aequa_lite as aq
        >>> half = by_width(aq.MLP, aq.init_params(aq.MLP, 0, "cpu"))(0.5, 0)
        >>> half.numbers == aq.n_parameters(half.model(aq.MLP))
        True
    """

    state: State
    mask: Mapping[str, Tensor]
    numbers: int
    amount: float
    width: float = 1.0

    def model(self, build: Build) -> nn.Module:
        """Return the network that the participant can build."""
        return slim(build, self.state, self.width)


Mechanism = Callable[[float, int], PartialModel]


@checked
def by_width(build: Build, theta: State) -> Mechanism:
    """Slim the network: the amount is the width.

    Args:
        build: Constructor of the network.
        theta: Tensors of the full network.

    Raises:
        ValueError: `theta` holds no tensors.

    Example:
        >>> import aequa_lite as aq
        >>> by_width(aq.MLP, aq.init_params(aq.MLP, 0, "cpu"))(0.25, 0).model(aq.MLP)[2].out_features
        50

    References:
        The mechanism of this package.
    """
    return partial(_slimmed, build, theta)


def _slimmed(build: Build, theta: State, amount: float, participant: int) -> PartialModel:
    """The leading block of every tensor."""
    width = max(number("amount", amount, 0, 1), LEAST_WIDTH)
    mask = {k: torch.zeros_like(t, dtype=torch.bool) for k, t in theta.items()}
    for k, t in template(build, width).state_dict().items():
        mask[k][prefix(t.shape)] = True
    state = {k: t * mask[k] for k, t in theta.items()}
    return PartialModel(state, mask, sum(int(m.sum()) for m in mask.values()), amount, width)


@checked
def by_zeroing(theta: State, start: State) -> Mechanism:
    r"""Zero the small changes: $\theta_0 + \mathrm{top}_q(\theta - \theta_0)$, tensor by tensor, with $q$ the amount.

    Args:
        theta: Tensors of the trained network.
        start: Tensors of the initial network $\theta_0$.

    Raises:
        ValueError: They do not hold the same tensors.

    Example:
        >>> mechanism = by_zeroing({"w": torch.tensor([3.0, 1.0])}, {"w": torch.tensor([0.0, 0.5])})
        >>> mechanism(0.5, 0).state["w"].tolist()
        [3.0, 0.5]

    References:
        The download of CGSV (Xu et al. 2021), of all rounds at once; that everybody knows $\theta_0$ is our choice.
    """
    if set(start) != set(theta):
        raise refusal("start", f"the same {len(theta)} tensors as theta", start)
    return partial(_sparse, theta, {k: t.to(theta[k].device) for k, t in start.items()})


@checked
def by_pruning(theta: State) -> Mechanism:
    r"""Zero the small weights: $\mathrm{top}_q(\theta)$, tensor by tensor, with $q$ the amount.

    Args:
        theta: Tensors of the trained network.

    Raises:
        ValueError: `theta` holds no tensors.

    Example:
        >>> by_pruning({"w": torch.tensor([3.0, -4.0, 1.0])})(0.34, 0).state["w"].tolist()
        [3.0, -4.0, 0.0]

    References:
        Magnitude pruning (Han et al. 2015), without training afterwards.
    """
    return partial(_sparse, theta, {k: torch.zeros_like(t) for k, t in theta.items()})


def _sparse(theta: State, known: State, amount: float, participant: int) -> PartialModel:
    """Tensor by tensor, the entries that differ most from what everybody knows."""
    number("amount", amount, 0, 1)
    state, mask, numbers = {}, {}, 0
    for k, t in theta.items():
        count = math.ceil(amount * t.numel() - 1e-9)
        order = descending((t - known[k]).flatten())
        mask[k] = only(torch.ones(t.numel(), device=t.device), order[:count]).bool().view_as(t)
        state[k] = torch.where(mask[k], t, known[k])
        numbers += sparse_numbers(count, t.numel())
    return PartialModel(state, mask, numbers, amount)


@checked
def by_noise(theta: State, seed: Index, most: NotNegative = 4.0) -> Mechanism:
    r"""Add noise of each participant's own: $\theta_k + (1 - q)\,m\,\mathrm{sd}(\theta_k)\,z_{ik}$ with $q$ the amount.

    Args:
        theta: Tensors of the trained network.
        seed: Of the noise $z$.
        most: $m$, standard deviations of noise at amount 0.

    Raises:
        ValueError: `theta` holds no tensors, or `most` is negative.

    Example:
        >>> mechanism = by_noise({"w": torch.tensor([3.0, -4.0])}, seed=0)
        >>> mechanism(1.0, 0).state["w"].tolist(), bool((mechanism(0.5, 0).state["w"] == mechanism(0.5, 1).state["w"]).any())
        ([3.0, -4.0], False)

    References:
        Our choice.
    """
    return partial(_noisy, theta, seed, most)


def _noisy(theta: State, seed: int, most: float, amount: float, participant: int) -> PartialModel:
    """The whole network, with noise in proportion to each tensor's standard deviation."""
    number("amount", amount, 0, 1)
    rng, state = stream(seed, "noise", participant), {}
    for k, t in theta.items():
        z = torch.as_tensor(rng.standard_normal(tuple(t.shape)), dtype=t.dtype, device=t.device)
        state[k] = t + (1 - amount) * most * t.std(correction=0) * z
    return _whole(state, amount)


def _whole(state: State, amount: float) -> PartialModel:
    """All entries of a network."""
    mask = {k: torch.ones_like(t, dtype=torch.bool) for k, t in state.items()}
    return PartialModel(state, mask, size_of(state), amount)


@checked
def by_subset(rounds: Iterable[Round], start: State, seed: int, levels: int = 21) -> Mechanism:
    r"""Send some of the updates of all rounds: one's own, and each of the others' with probability $q$, the amount.

    $\theta_i(q) = \theta_0 + \sum_t \sum_{j \in S_{it}} a_j \Delta_{jt} / \sum_{j \in S_{it}} a_j$ with $S_{it}$ drawn for
    each participant and round, growing with $q$. With all updates it is the trained network, if the server averaged.

    Args:
        rounds: All rounds of a training, consumed one by one.
        start: Tensors of the initial network $\theta_0$.
        seed: Of the subsets.
        levels: Number of amounts that are told apart, from 2.

    Raises:
        ValueError: `levels` is below 2, `start` holds no tensors, or there are no rounds.

    Example:
        >>> import aequa_lite as aq
        >>> config, start = aq.Config(2, 2, 1), aq.init_params(aq.MLP, 0, "cpu")
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> rounds = list(aq.federate(aq.MLP, shards, config, progress=False))
        >>> whole = by_subset(rounds, start, seed=0, levels=3)(1.0, 0).state
        >>> all(torch.allclose(whole[k], rounds[-1].theta[k], atol=1e-6) for k in whole)
        True

    References:
        The subsets of IAFL (Wu et al. 2024), replayed over the updates of one training instead of trained with.
    """
    number("levels", levels, 2, whole=True)
    total = sum(_subset_steps(rnd, seed, levels) for rnd in rounds)
    if not isinstance(total, Tensor):
        raise refusal("rounds", "at least one Round", rounds)
    return partial(_subset, {k: t.to(total.device) for k, t in start.items()}, total, levels)


def _subset_steps(rnd: Round, seed: int, levels: int) -> Tensor:
    """What one round adds, (participants x levels, entries)."""
    valid = [u for u in rnd.updates if u.participant not in rnd.left_out]
    device = next(iter(valid[0].state.values())).device
    before = {k: t.to(device) for k, t in rnd.before.theta.items()}
    changes = torch.stack([flatten({k: u.state[k] - t for k, t in before.items()}) for u in valid])
    draws = stream(seed, "subset", rnd.index).random((len(rnd.widths), 1, len(valid)))
    inside = draws <= np.linspace(0, 1, levels)[None, :, None]  # (participants, levels, updates)
    for place, u in enumerate(valid):
        inside[u.participant, :, place] = True
    weights = inside * np.array([u.weight for u in valid])
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
    rows = torch.as_tensor(weights.reshape(-1, len(valid)), dtype=changes.dtype, device=changes.device)
    return rows @ changes


def _subset(start: State, total: Tensor, levels: int, amount: float, participant: int) -> PartialModel:
    """The initial network after the updates of a participant's subsets."""
    level = round(number("amount", amount, 0, 1) * (levels - 1))
    change = unflatten(total[participant * levels + level], start)
    return _whole({k: t + change[k] for k, t in start.items()}, amount)


@checked
def realize(
    mechanism: Mechanism, build: Build, targets: ArrayLike, validation: Samples, steps: Count = 10
) -> list[PartialModel]:
    """Reduce each participant's amount as far as its target accuracy on validation allows.

    The interval is halved `steps` times, and its upper end reaches the target. If not even the whole network reaches it,
    the participant receives the whole network.

    Args:
        mechanism: A function (amount, participant) -> partial model.
        build: Constructor of the network.
        targets: (n,) accuracies in [0, 1].
        validation: Samples that measure the accuracy.
        steps: Halvings, from 1.

    Returns:
        One partial model for each participant.

    Raises:
        ValueError: A target is no accuracy, there are no samples, or `steps` is below 1.

    Example:
        >>> import aequa_lite as aq
        >>> few, theta = aq.load("fashion-mini").validation.take(slice(0, 100)), aq.init_params(aq.MLP, 0, "cpu")
        >>> [each.amount for each in realize(by_width(aq.MLP, theta), aq.MLP, [1.0], few)]
        [1.0]

    References:
        Our choice.
    """

    def reaches(model: PartialModel, target: float) -> bool:
        return float(correct(model.model(build).eval(), validation).mean()) >= target

    found = []
    for i, target in enumerate(accuracies("targets", targets)):
        low, best = 0.0, mechanism(1.0, i)
        for _ in range(steps if reaches(best, target) else 0):
            middle = mechanism((low + best.amount) / 2, i)
            if reaches(middle, target):
                best = middle
            else:
                low = middle.amount
        found.append(best)
    return found


@checked
def pooled(build: Build, models: Sequence[PartialModel]) -> nn.Module:
    """Return the network that a coalition can build: every entry averaged over those who hold it, at the widest width.

    Args:
        build: Constructor of the network.
        models: Partial models of the coalition, at least one.

    Raises:
        ValueError: There is no partial model.

    Example:
        >>> import aequa_lite as aq
        >>> mechanism, x = by_width(aq.MLP, aq.init_params(aq.MLP, 0, "cpu")), torch.rand(4, 1, 28, 28)
        >>> wide, narrow = mechanism(0.5, 0), mechanism(0.2, 1)
        >>> bool((pooled(aq.MLP, [wide, narrow])(x) == wide.model(aq.MLP)(x)).all())
        True

    References:
        Our choice. Of nested slices a coalition holds no more than its widest one.
    """
    if not models:
        raise refusal("models", "at least one PartialModel", models)
    state = {}
    for k, known in models[0].state.items():
        count = sum(each.mask[k].to(known.dtype) for each in models)
        total = sum(torch.where(each.mask[k], each.state[k], 0.0) for each in models)
        state[k] = torch.where(count > 0, total / count.clamp_min(1), known)
    return slim(build, state, max(each.width for each in models))
