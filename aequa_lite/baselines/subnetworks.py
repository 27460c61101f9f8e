"""Sub-networks of chosen units: which entries they hold, how they are trained and averaged, and small networks of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from .._check import checked, refusal
from ..federate import slimmable
from ..local import full_only
from ..method import Outcome, Problem, Train
from ..slimmable import slim, template
from ..types import Build, ServerState, State, Update
from .common import ROUNDS, SENT, outcome

__all__ = ["compact"]

Masks = Mapping[str, Tensor]  # for each tensor bool, which entries a participant holds
Units = Sequence[Tensor]  # for each layer from the first (units,) bool, which are kept
Measure = Callable[[ServerState, State, Sequence[Update]], State]  # (before, new theta, updates) -> to be remembered


def chain(build: Build) -> dict[str, int]:
    """Units of each layer of a chain of linear and convolutional layers, by name; other networks are refused."""
    net = template(build, 1.0)
    found = [name for name, layer in net.named_children() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    known = {f"{name}.{part}" for name in found for part in ("weight", "bias")}
    if not isinstance(net, nn.Sequential) or set(net.state_dict()) != known or len(found) < 2:
        raise refusal("build", "a chain of linear and convolutional layers, such as MLP or LeNet", type(net).__name__)
    return {name: len(net.get_submodule(name).weight) for name in found}


def masks(theta: State, names: Sequence[str], kept: Units) -> dict[str, Tensor]:
    """Which entries of every tensor a network of the kept units holds; of layers beyond `kept`, all units."""
    found, columns = {}, None
    for place, name in enumerate(names):
        weight, bias = theta[f"{name}.weight"], theta[f"{name}.bias"]
        rows = kept[place] if place < len(kept) else torch.ones_like(bias, dtype=torch.bool)
        block = rows.view(-1, *[1] * (weight.ndim - 1)).expand_as(weight)
        if columns is not None:
            each = weight.shape[1] // len(columns)  # after flattening, a filter is several inputs
            block = block & columns.repeat_interleave(each).view(1, -1, *[1] * (weight.ndim - 2))
        found |= {f"{name}.weight": block, f"{name}.bias": rows}
        columns = rows
    return found


def masked(theta: State, mask: Masks) -> dict[str, Tensor]:
    """The network in which all entries outside the mask are zero."""
    return {k: t * mask[k] for k, t in theta.items()}


def average(theta: State, updates: Sequence[Update], masks_of: Mapping[int, Masks]) -> dict[str, Tensor]:
    """The average of every entry over those who hold it; entries that nobody holds keep their value."""
    after = {}
    for k, t in theta.items():
        push, mass = torch.zeros_like(t), torch.zeros_like(t)
        for u in updates:
            push += u.weight * masks_of[u.participant][k] * (u.state[k] - t)
            mass += u.weight * masks_of[u.participant][k]
        after[k] = t + push / mass.clamp_min(1e-30)
    return after


@checked
def compact(build: Build, theta: State, kept: Units) -> nn.Module:
    """Return an ordinary network of the kept units; its outputs are those of the full one with the other units zeroed.

    Args:
        build: Constructor of a chain of linear and convolutional layers.
        theta: Tensors of the full network.
        kept: For each hidden layer, and for the output layer or not, (units,) bool. An output that is not kept is zero.

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
    layers = chain(build)
    sizes, last = list(layers.values()), list(layers)[-1]
    if [len(each) for each in kept] not in (sizes, sizes[:-1]):
        raise refusal("kept", f"one bool for each unit of the layers, {sizes}", [len(each) for each in kept])
    net, mask = slim(build, theta, 1.0), masks(theta, list(layers), kept)
    for name in layers:
        layer, weight = net.get_submodule(name), mask[f"{name}.weight"]
        rows = mask[f"{name}.bias"] | (name == last)
        columns = weight.flatten(2).any(2).any(0) if weight.ndim > 2 else weight.any(0)
        for part in ("weight", "bias"):
            zeroed = (theta[f"{name}.{part}"] * mask[f"{name}.{part}"])[rows]
            setattr(layer, part, nn.Parameter(zeroed[:, columns] if part == "weight" else zeroed))
        attributes = (
            ("out_features", "in_features") if isinstance(layer, nn.Linear) else ("out_channels", "in_channels")
        )
        for attribute, count in zip(attributes, layer.weight.shape, strict=False):
            setattr(layer, attribute, count)
    return net


def train_subnetworks(
    problem: Problem, units: Callable[[ServerState, int], Units], measure: Measure, train: Train, method: str
) -> Outcome:
    """Train and reward with sub-networks: `units` says which units a participant has, `measure` what is remembered."""
    build, n = problem.build, len(problem.shards)
    names = list(chain(build))
    strategy = replace(
        slimmable(build, full_only),
        broadcast=partial(_broadcast, names=names, units=units),
        aggregate=partial(_aggregate, names=names, units=units, measure=measure),
        sent=_sent,
    )
    last = train(problem, strategy, weights=np.full(n, 1 / n))
    return outcome(problem, [compact(build, last.theta, units(last.state, i)) for i in range(n)], last, method)


def _broadcast(
    state: ServerState, participant: int, width: float, *, names: Sequence[str], units: Callable[..., Units]
) -> dict[str, Tensor]:
    """A participant's sub-network as a full one; local training leaves the other hidden units at zero."""
    return masked(state.theta, masks(state.theta, names, units(state, participant)))


def _aggregate(
    state: ServerState,
    updates: Sequence[Update],
    *,
    names: Sequence[str],
    units: Callable[..., Units],
    measure: Measure,
) -> ServerState:
    """The average over those who hold an entry, and what is measured of it."""
    masks_of = {u.participant: masks(state.theta, names, units(state, u.participant)) for u in updates}
    theta = average(state.theta, updates, masks_of)
    entries = sum(int(mask.sum()) for each in masks_of.values() for mask in each.values())
    known = {ROUNDS: torch.tensor(int(state.memory.get(ROUNDS, 0)) + 1), SENT: torch.tensor(2 * entries)}
    return ServerState(theta, {**state.memory, **known, **measure(state, theta, updates)})


def _sent(state: ServerState, updates: Sequence[Update]) -> int:
    """Held entries, down and up."""
    return int(state.memory[SENT])
