"""What the baselines share: own networks in the server's memory, updates as changes of which the largest are sent, rewards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ..federate import Strategy, slimmable
from ..local import full_only
from ..method import Outcome, Problem, Train
from ..slimmable import slim
from ..types import Round, ServerState, State, Update, floating

Array = NDArray[np.float64]
ROUNDS, SENT, STANDING = "rounds", "sent", "standing"  # keys of a server's memory


def reward_own(
    problem: Problem, strategy: Strategy, train: Train, method: str, weights: ArrayLike | None = None,
    reward: Callable[[ServerState, int], nn.Module] | None = None,
) -> Outcome:  # fmt: skip
    """Train (weights: by size) and reward everybody with its own network, or the global model where it has none."""
    last = train(problem, strategy, weights=problem.by_size if weights is None else weights)
    reward = reward or (lambda state, i: slim(problem.build, own_network(state, i), 1.0))
    models = [reward(last.state, i) for i in range(len(problem.shards))]
    return Outcome(problem, models, last, method=method, seconds=time.perf_counter() - problem.started)


def counted(state: ServerState, updates: Sequence[Update]) -> int:
    """The numbers that a round has sent, as its aggregation has counted them."""
    return int(state.memory[SENT])


def own_network(state: ServerState, participant: int, width: float = 1.0) -> dict[str, Tensor]:
    """A participant's own network; the first or else the global model where the server remembers none."""
    first = {k: state.memory.get(f"first/{k}", t) for k, t in state.theta.items()}
    return {k: state.memory.get(f"participant/{participant}/{k}", t) for k, t in first.items()}


def personal(
    problem: Problem, aggregate: Callable[..., ServerState], sent: Callable[..., int] | None = counted,
    broadcast: Callable[..., State] = own_network,
) -> Strategy:  # fmt: skip
    """The strategy of a method that trains full networks, sent to each participant its own unless told otherwise."""
    whole = slimmable(problem.build, full_only)
    return replace(whole, broadcast=broadcast, aggregate=aggregate, sent=sent)


def memory_of(state: ServerState) -> dict[str, Tensor]:
    """The memory with the first model in it: what a participant has whose updates were all refused."""
    return {**{f"first/{k}": t for k, t in state.theta.items()}, **state.memory}


def remember(memory: State, networks: Mapping[int, State]) -> dict[str, Tensor]:
    """The memory with own networks of some participants, or with some tensors of them."""
    return {**memory, **{f"participant/{i}/{k}": t for i, own in networks.items() for k, t in own.items()}}


def own_changes(
    state: ServerState, updates: Sequence[Update], start: Callable[..., State] = own_network
) -> list[Update]:
    """The updates as changes of what each participant started from; of floating-point tensors."""
    pairs = [(u, start(state, u.participant, 1.0)) for u in updates]
    return [replace(u, state={k: t - begun[k] for k, t in floating(u.state).items()}) for u, begun in pairs]


def as_round(theta: State, changes: Sequence[Update]) -> tuple[dict[str, Tensor], Round]:
    """Zeros, and a round of updates that start there: arguments of a score of `contribution`."""
    zero = {k: torch.zeros_like(t) for k, t in floating(theta).items()}
    return zero, Round(0, ServerState(zero), (), 0.0, 0, updates=tuple(changes))


def remembered(state: ServerState, key: str, default: Tensor) -> Tensor:
    """A tensor of the memory, on the CPU."""
    return state.memory.get(key, default).cpu()


def sparse_numbers(kept: int, entries: int) -> int:
    """Count the numbers that travel when some entries of a tensor are sent: values and positions.

    Positions travel as one index for each value or as one bit for each entry, 32 to a number, whichever is less. A full
    tensor needs none.

    Example:
        >>> sparse_numbers(10, 1000), sparse_numbers(500, 1000), sparse_numbers(1000, 1000)
        (20, 532, 1000)
    """
    return kept if kept in (0, entries) else kept + min(kept, math.ceil(entries / 32))


def size_of(theta: State) -> int:
    """Numbers in a network."""
    return sum(t.numel() for t in theta.values())


def descending(flat: Tensor) -> Tensor:
    """Positions by falling magnitude; among equals the first comes first."""
    return flat.abs().argsort(descending=True, stable=True)


def only(flat: Tensor, positions: Tensor) -> Tensor:
    """A vector with its entries at these positions, and zeros elsewhere.

    Example:
        >>> flat = torch.tensor([1.0, -3.0, 2.0])
        >>> only(flat, descending(flat)[:2]).tolist()
        [0.0, -3.0, 2.0]
    """
    return torch.zeros_like(flat).index_copy(0, positions, flat[positions])


def unflatten(flat: Tensor, shapes: State) -> dict[str, Tensor]:
    """A vector as tensors of these shapes."""
    pieces = flat.split([t.numel() for t in shapes.values()])
    return {k: piece.view_as(t) for (k, t), piece in zip(shapes.items(), pieces, strict=True)}


def add(network: State, change: State, scale: float = 1.0) -> dict[str, Tensor]:
    """A network after a change of some of its tensors (copies)."""
    return {k: t + scale * change[k] if k in change else t.clone() for k, t in network.items()}


def weighted_sum(changes: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum of changes."""
    pairs = list(zip(changes, weights, strict=True))
    return {k: torch.stack([float(w) * change[k] for change, w in pairs]).sum(0) for k in changes[0]}
