"""One factor at a time: the same trained network and the same target accuracies, realised in different ways.

A way is a function ``(knob, participant) -> Dose``; knob 1 hands out the whole network, and less of it less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..evaluation import correct
from ..rng import stream
from ..slimmable import Build, State, prefix, slim, template
from ..types import Round, Samples
from .sparsify import largest, sparse_numbers

__all__ = ["PartialModel", "by_noise", "by_pruning", "by_subset", "by_width", "by_zeroing", "pooled", "realize"]


@dataclass(frozen=True, eq=False)
class PartialModel:
    """Hold what one participant would receive: the full network's tensors, of them what is ``held``, and its width.

    ``state``: entries that are not held stand at what everybody knows; ``held``: a bool tensor for each tensor;
    ``numbers``: how many numbers must be sent; ``knob``: where the way's knob stood.

    Example:
        >>> import aequa_lite as aq
        >>> dose = aq.baselines.by_width(aq.MLP, aq.init_params(aq.MLP, 0))(0.5, 0)
        >>> dose.numbers == aq.n_parameters(dose.model(aq.MLP))
        True
    """

    state: State
    held: Mapping[str, Tensor]
    numbers: int
    knob: float
    width: float = 1.0

    def model(self, build: Build) -> nn.Module:
        """The network that goes home."""
        return slim(build, self.state, self.width)


Mechanism = Callable[[float, int], PartialModel]


def by_width(build: Build, theta: State) -> Mechanism:
    """Slim the network: the knob is the width, every dense number that is left is sent.

    Example:
        >>> import aequa_lite as aq
        >>> by_width(aq.MLP, aq.init_params(aq.MLP, 0))(0.25, 0).model(aq.MLP)[2].out_features
        50

    Source: this package's own way.
    """

    def dose(knob: float, participant: int) -> PartialModel:
        width = max(knob, 1e-6)  # the least network has one unit in each layer
        held = {name: torch.zeros_like(t, dtype=torch.bool) for name, t in theta.items()}
        for name, t in template(build, width).state_dict().items():
            held[name][prefix(t.shape)] = True
        state = {name: t * held[name] for name, t in theta.items()}
        return PartialModel(state, held, sum(int(m.sum()) for m in held.values()), knob, width)

    return dose


def _largest_of(full: State, known: State) -> Mechanism:
    """Keep, tensor by tensor, the entries that differ most from what everybody knows: the knob is their share."""
    apart = {name: (t - known[name]).flatten() for name, t in full.items()}
    orders = {name: t.abs().argsort(descending=True, stable=True) for name, t in apart.items()}

    def dose(knob: float, participant: int) -> PartialModel:
        state, held, numbers = {}, {}, 0
        for name, order in orders.items():
            count = math.ceil(knob * len(order) - 1e-9)
            ones = torch.ones_like(apart[name])
            held[name] = largest(ones, count, order).bool().view_as(full[name])
            state[name] = torch.where(held[name], full[name], known[name])
            numbers += sparse_numbers(count, len(order))
        return PartialModel(state, held, numbers, knob)

    return dose


def by_zeroing(theta: State, start: State) -> Mechanism:
    r"""Zero the small entries of what was learnt: $\theta_0 + \mathrm{top}_q(\theta - \theta_0)$, tensor by tensor.

    Example:
        >>> way = by_zeroing({"w": torch.tensor([3.0, 1.0])}, {"w": torch.tensor([0.0, 0.5])})
        >>> way(0.5, 0).state["w"].tolist()
        [3.0, 0.5]

    Source: CGSV's download (Xu et al. 2021), of all rounds at once; that everybody knows the initial network is ours.
    """
    return _largest_of(theta, start)


def by_pruning(theta: State) -> Mechanism:
    r"""Zero the small weights themselves: $\mathrm{top}_q(\theta)$, tensor by tensor.

    Example:
        >>> by_pruning({"w": torch.tensor([3.0, -4.0, 1.0])})(0.34, 0).state["w"].tolist()
        [3.0, -4.0, 0.0]

    Source: pruning by magnitude (Han et al. 2015), without training afterwards.
    """
    return _largest_of(theta, {name: torch.zeros_like(t) for name, t in theta.items()})


def by_noise(theta: State, seed: int, most: float = 4.0) -> Mechanism:
    r"""Add noise of each participant's own: $\theta + (1 - q)\,m\,\mathrm{sd}(\theta_k)\,z_i$ in tensor $k$, with $m$ = ``most``.

    Example:
        >>> way = by_noise({"w": torch.tensor([3.0, -4.0])}, seed=0)
        >>> way(1.0, 0).state["w"].tolist(), bool((way(0.5, 0).state["w"] == way(0.5, 1).state["w"]).any())
        ([3.0, -4.0], False)

    Source: ours; noise as a way to lower a model's worth is folklore.
    """

    def dose(knob: float, participant: int) -> PartialModel:
        rng = stream(seed, "noise", participant)
        state = {}
        for name, t in theta.items():
            z = torch.as_tensor(rng.standard_normal(tuple(t.shape)), dtype=t.dtype, device=t.device)
            state[name] = t + (1 - knob) * most * t.std(correction=0) * z
        held = {name: torch.ones_like(t, dtype=torch.bool) for name, t in theta.items()}
        return PartialModel(state, held, sum(t.numel() for t in theta.values()), knob)

    return dose


def by_subset(rounds: Iterable[Round], start: State, seed: int, levels: int = 21) -> Mechanism:
    r"""Hand out some of the updates of all rounds: one's own, and each of the others' with the knob's probability.

    $\theta_i(q) = \theta_0 + \sum_t \sum_{j \in S_{it}} a_j \Delta_{jt} / \sum_{j \in S_{it}} a_j$ with $S_{it}$ drawn for each
    participant and round, growing with $q$; with all updates it is the trained network, if the server averaged. The
    knob moves in ``levels`` steps. ``rounds`` are consumed one by one.

    Raises:
        ValueError: ``levels`` is below 2.

    Example:
        >>> import aequa_lite as aq
        >>> config, start = aq.Config(participants=2, rounds=2, local_steps=1), aq.init_params(aq.MLP, 0)
        >>> rounds = list(aq.federate(aq.MLP, aq.data.homogeneous(aq.load("fashion-mini").train, config), config, progress=False))
        >>> whole = by_subset(rounds, start, seed=0, levels=3)(1.0, 0).state
        >>> all(torch.allclose(whole[k], rounds[-1].theta[k], atol=1e-6) for k in whole)
        True

    Source: IAFL's subsets (Wu et al. 2024), replayed over the updates of one training instead of trained with.
    """
    if levels < 2:
        raise ValueError(f"levels is {levels!r}; allowed is a whole number from 2")
    shares, before, total, count = np.linspace(0, 1, levels), start, None, 0
    for rnd in rounds:
        kept = [u for u in rnd.updates if u.participant not in rnd.left_out]
        moved = torch.stack([torch.cat([(u.state[k] - t).flatten() for k, t in before.items()]) for u in kept])
        count = len(rnd.widths)
        drawn = stream(seed, "subset", rnd.index).random((count, 1, len(kept)))
        inside = drawn <= shares[None, :, None]  # (participants, levels, updates)
        for place, u in enumerate(kept):
            inside[u.participant, :, place] = True
        weight = inside * np.array([u.weight for u in kept])
        weight /= np.maximum(weight.sum(-1, keepdims=True), 1e-30)
        step = torch.as_tensor(weight.reshape(-1, len(kept)), dtype=moved.dtype, device=moved.device) @ moved
        total, before = step if total is None else total.add_(step), rnd.theta
    sizes = [t.numel() for t in start.values()]

    def dose(knob: float, participant: int) -> PartialModel:
        level = round(knob * (levels - 1))
        pieces = total.view(count, levels, -1)[participant, level].split(sizes)
        state = {k: t + piece.view_as(t) for (k, t), piece in zip(start.items(), pieces, strict=True)}
        return PartialModel(
            state, {k: torch.ones_like(t, dtype=torch.bool) for k, t in start.items()}, sum(sizes), knob
        )

    return dose


def realize(
    way: Mechanism, build: Build, targets: Sequence[float], validation: Samples, steps: int = 10
) -> list[PartialModel]:
    """Turn each participant's knob down as far as its target accuracy on the validation split allows.

    The knob is halved in between ``steps`` times, so that the accuracy stays at or above the target on the upper side;
    where not even the whole network reaches it, the whole network is handed out. The same rule for every way.

    Raises:
        ValueError: ``steps`` is below 1.

    Example:
        >>> import aequa_lite as aq
        >>> few, theta = aq.load("fashion-mini").validation.take(slice(0, 100)), aq.init_params(aq.MLP, 0)
        >>> [dose.knob for dose in realize(aq.baselines.by_width(aq.MLP, theta), aq.MLP, [1.0], few)]
        [1.0]

    Source: ours.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps!r}; allowed is a whole number from 1")

    def reached(knob: float, i: int) -> float:
        return float(correct(way(knob, i).model(build).eval(), validation).mean())

    found = []
    for i, target in enumerate(targets):
        low, high = 0.0, 1.0
        for _ in range(steps if reached(1.0, i) >= target else 0):
            middle = (low + high) / 2
            low, high = (low, middle) if reached(middle, i) >= target else (middle, high)
        found.append(way(high, i))
    return found


def pooled(build: Build, doses: Sequence[PartialModel]) -> nn.Module:
    """Return what a coalition can make of its doses: every entry averaged over those who hold it, at the widest width.

    Example:
        >>> import aequa_lite as aq
        >>> way, x = aq.baselines.by_width(aq.MLP, aq.init_params(aq.MLP, 0)), torch.rand(4, 1, 28, 28)
        >>> wide, narrow = way(0.5, 0), way(0.2, 1)
        >>> bool((pooled(aq.MLP, [wide, narrow])(x) == wide.model(aq.MLP)(x)).all())
        True

    Source: ours; of nested slices a coalition holds no more than its widest one.
    """
    state = {}
    for name, known in doses[0].state.items():
        count = sum(dose.held[name].to(known.dtype) for dose in doses)
        total = sum(torch.where(dose.held[name], dose.state[name], 0.0) for dose in doses)
        state[name] = torch.where(count > 0, total / count.clamp_min(1), known)
    return slim(build, state, max(dose.width for dose in doses))
