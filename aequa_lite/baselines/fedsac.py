"""FedSAC: sub-networks of the units that a reputation buys, the least important first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .._check import number, refusal
from ..federate import slimmable
from ..local import full_only
from ..method import Outcome, Problem, Train, train
from ..slimmable import slim, template
from ..types import Build, Samples, ServerState, State, Update
from .common import ROUNDS, SENT, outcome

__all__ = ["compact", "fedsac", "importance"]

IMPORTANCE = "importance"  # key of the memory: (units of all hidden layers,), layer by layer

Masks = Mapping[str, Tensor]  # for each tensor bool, which entries a participant holds
Units = Sequence[Tensor]  # for each hidden layer (units,) bool, which are kept


def chain(build: Build) -> list[str]:
    """Names of the layers of a chain of linear and convolutional layers; other networks are refused."""
    net = template(build, 1.0)
    found = [name for name, layer in net.named_children() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    known = {f"{name}.{part}" for name in found for part in ("weight", "bias")}
    if not isinstance(net, nn.Sequential) or set(net.state_dict()) != known or len(found) < 2:
        raise refusal("build", "a chain of linear and convolutional layers, such as MLP or LeNet", type(net).__name__)
    return found


def sizes_of(build: Build) -> list[int]:
    """Units of each hidden layer of a chain."""
    return [len(template(build, 1.0).get_submodule(name).weight) for name in chain(build)[:-1]]


def importance(build: Build, theta: State, samples: Samples) -> NDArray[np.float64]:
    r"""Measure by how much the loss rises when a hidden unit is zeroed.

    $s_j = F(\theta \text{ without unit } j) - F(\theta)$ for the units (or filters) of all hidden layers in their order.

    Args:
        build: Constructor of a chain of linear and convolutional layers.
        theta: Tensors of the full network.
        samples: Samples on which $F$ is measured.

    Returns:
        (units,) differences of the mean cross-entropy.

    Raises:
        ValueError: The network is no chain of linear and convolutional layers, or there are no samples.

    Example:
        >>> import aequa_lite as aq
        >>> some = aq.load("fashion-mini").validation.take(slice(0, 50))
        >>> importance(aq.MLP, aq.init_params(aq.MLP, 0), some).shape
        (400,)

    References:
        FedSAC (Wang et al. 2024), neuron importance; the split is our choice.
    """
    names = chain(build)
    if not isinstance(samples, Samples) or not len(samples):
        raise refusal("samples", "Samples, at least one", samples)
    net = slim(build, theta, 1.0).eval()
    layers = list(net.children())
    places = [place for place, (name, _) in enumerate(net.named_children()) if name in names]
    found, features, before = [], samples.x, 0
    with torch.inference_mode():
        loss = float(cross_entropy(net(samples.x), samples.y))
        for name, place in zip(names, places[1:], strict=False):
            features = nn.Sequential(*layers[before:place])(features)  # what the next layer reads
            before, rest = place, nn.Sequential(*layers[place:])
            columns = features.shape[1] // len(theta[f"{name}.weight"])  # after flattening, of each filter
            found += [_loss_without(rest, features, unit, columns, samples.y) - loss
                      for unit in range(len(theta[f"{name}.weight"]))]  # fmt: skip
    return np.array(found)


def _loss_without(rest: nn.Module, features: Tensor, unit: int, columns: int, y: Tensor) -> float:
    """The loss of the layers that follow when one unit is zeroed."""
    zeroed = features.clone()
    zeroed[:, unit * columns : (unit + 1) * columns] = 0
    return float(cross_entropy(rest(zeroed), y))


def selected(score: NDArray[np.float64], sizes: Sequence[int], reputation: float) -> list[NDArray[np.bool_]]:
    """Units of each hidden layer that a reputation in (0, 100] buys, the least important first.

    Units are taken while their importance sums to no more than the reputation; all together weigh 100. The least
    important unit of each layer is always among them.
    """
    weight = np.maximum(score, 0)
    weight = 100 * weight / weight.sum() if weight.sum() > 0 else np.zeros_like(weight)
    order = np.argsort(score, kind="stable")
    kept = np.zeros(len(score), dtype=bool)
    kept[order] = np.cumsum(weight[order]) <= reputation + 1e-9
    cuts = np.cumsum(sizes)[:-1]
    layers = np.split(kept, cuts)
    for some, scores in zip(layers, np.split(score, cuts), strict=True):
        some[np.argmin(scores)] = True
    return layers


def masks(theta: State, names: Sequence[str], kept: Units) -> dict[str, Tensor]:
    """Which entries of every tensor a network of the kept units holds."""
    found: dict[str, Tensor] = {}
    for place, name in enumerate(names):
        weight = theta[f"{name}.weight"]
        rows = kept[place] if place < len(kept) else torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        columns = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
        if place:
            columns = kept[place - 1].repeat_interleave(weight.shape[1] // len(kept[place - 1]))
        block = rows[:, None] & columns[None, :]
        found[f"{name}.weight"] = block.view(*block.shape, *[1] * (weight.ndim - 2)).expand_as(weight)
        found[f"{name}.bias"] = rows
    return found


def compact(build: Build, theta: State, kept: Units) -> nn.Module:
    """Return an ordinary network of the kept units; its outputs are those of the full one with all other units zeroed.

    Args:
        build: Constructor of a chain of linear and convolutional layers.
        theta: Tensors of the full network.
        kept: For each hidden layer (units,) bool.

    Raises:
        ValueError: The network is no chain of linear and convolutional layers, or `kept` does not fit it.

    Example:
        >>> import aequa_lite as aq
        >>> few = [torch.arange(200) < 50, torch.arange(200) >= 180]
        >>> aq.n_parameters(compact(aq.MLP, aq.init_params(aq.MLP, 0), few))
        40480

    References:
        Our choice.
    """
    names, sizes = chain(build), sizes_of(build)
    if [len(each) for each in kept] != sizes:
        raise refusal("kept", f"one bool for each unit of the hidden layers, {sizes}", [len(each) for each in kept])
    net, held = slim(build, theta, 1.0), masks(theta, names, kept)
    for name in names:
        layer, weight = net.get_submodule(name), held[f"{name}.weight"]
        rows, columns = held[f"{name}.bias"], weight.flatten(2)[:, :, 0].any(0) if weight.ndim > 2 else weight.any(0)
        layer.weight = nn.Parameter(theta[f"{name}.weight"][rows][:, columns].clone())
        layer.bias = nn.Parameter(theta[f"{name}.bias"][rows].clone())
        attributes = (
            ("out_features", "in_features") if isinstance(layer, nn.Linear) else ("out_channels", "in_channels")
        )
        for attribute, count in zip(attributes, layer.weight.shape, strict=False):
            setattr(layer, attribute, count)
    return net


def masked(theta: State, mask: Masks) -> dict[str, Tensor]:
    """The network in which all entries outside the mask are zero."""
    return {k: t * mask[k] for k, t in theta.items()}


def average(theta: State, updates: Sequence[Update], held: Mapping[int, Masks]) -> dict[str, Tensor]:
    """The average of every entry over those who hold it; entries that nobody holds keep their value."""
    after = {}
    for k, t in theta.items():
        push, mass = torch.zeros_like(t), torch.zeros_like(t)
        for u in updates:
            push += u.weight * held[u.participant][k] * (u.state[k] - t)
            mass += u.weight * held[u.participant][k]
        after[k] = t + push / mass.clamp_min(1e-30)
    return after


def fedsac(
    problem: Problem, *, beta: float = 80.0, every: int = 10, samples: int = 1000, train: Train = train
) -> Outcome:
    number("beta", beta, 0)
    number("every", every, 1, whole=True)
    number("samples", samples, 1, whole=True)
    build = problem.build
    reputation = 100 * np.exp(beta * (problem.contribution - problem.contribution.max()))
    units = partial(_units, sizes=sizes_of(build), reputation=reputation)
    some = problem.validation.take(slice(0, samples))
    strategy = replace(
        slimmable(build, full_only),
        broadcast=partial(_broadcast, names=chain(build), units=units),
        aggregate=partial(_aggregate, build=build, samples=some, every=every, units=units),
        sent=_sent,
    )
    equal = np.ones(len(problem.shards)) / len(problem.shards)
    last = train(problem, strategy, weights=equal)
    models = [compact(build, last.theta, units(last.state, i)) for i in range(len(equal))]
    return outcome(problem, models, last, "fedsac")


def _units(
    state: ServerState, participant: int, *, sizes: Sequence[int], reputation: NDArray[np.float64]
) -> list[Tensor]:
    """The units that a participant's reputation buys; before they are measured, all."""
    score = np.zeros(sum(sizes))
    if IMPORTANCE in state.memory:
        score = state.memory[IMPORTANCE].cpu().numpy()
    device = next(iter(state.theta.values())).device
    found = selected(score, sizes, float(reputation[participant]))
    return [torch.as_tensor(kept, device=device) for kept in found]


def _broadcast(
    state: ServerState, participant: int, width: float, *, names: Sequence[str], units: partial[list[Tensor]]
) -> dict[str, Tensor]:
    """The network of a participant's units; the others are zero, and local training leaves them at zero."""
    return masked(state.theta, masks(state.theta, names, units(state, participant)))


def _aggregate(
    state: ServerState,
    updates: Sequence[Update],
    *,
    build: Build,
    samples: Samples,
    every: int,
    units: partial[list[Tensor]],
) -> ServerState:
    """One round of FedSAC."""
    index, names = int(state.memory.get(ROUNDS, 0)), chain(build)
    held = {u.participant: masks(state.theta, names, units(state, u.participant)) for u in updates}
    theta = average(state.theta, updates, held)
    memory = {**state.memory, ROUNDS: torch.tensor(index + 1)}
    if index % every == 0:
        memory[IMPORTANCE] = torch.tensor(importance(build, theta, samples))
    entries = sum(int(mask.sum()) for each in held.values() for mask in each.values())
    return ServerState(theta, memory | {SENT: torch.tensor(2 * entries)})


def _sent(state: ServerState, updates: Sequence[Update]) -> int:
    """Kept entries, down and up."""
    return int(state.memory[SENT])
