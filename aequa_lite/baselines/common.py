"""What the baselines share: own networks in the server's memory, updates as changes of which the largest are sent, rewards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from .._check import number, refusal
from ..federate import Strategy, slimmable
from ..local import full_only
from ..method import Outcome, Problem, Train
from ..slimmable import slim
from ..types import Round, ServerState, State, Update

Aggregate = Callable[[ServerState, Sequence[Update]], ServerState]
Sent = Callable[[ServerState, Sequence[Update]], int]  # numbers that a round has sent
Broadcast = Callable[[ServerState, int, float], State]
ROUNDS, SENT, STANDING = "rounds", "sent", "standing"  # keys of a server's memory


def reward_own(
    problem: Problem, strategy: Strategy, train: Train, method: str, weights: ArrayLike | None = None
) -> Outcome:
    """Train (weights: by size) and reward everybody with its own network, or the global model where it has none."""
    last = train(problem, strategy, weights=problem.by_size if weights is None else weights)
    models = [slim(problem.build, own_network(last.state, i), 1.0) for i in range(len(problem.shards))]
    return outcome(problem, models, last, method)


def personal(
    problem: Problem, aggregate: Aggregate, sent: Sent | None = None, broadcast: Broadcast | None = None
) -> Strategy:
    """The strategy of a method that trains full networks, sent to each participant its own unless told otherwise."""
    whole = slimmable(problem.build, full_only)
    return replace(whole, broadcast=broadcast or send_own, aggregate=aggregate, sent=sent)


def outcome(problem: Problem, models: Sequence[nn.Module], last: Round, method: str) -> Outcome:
    """The outcome of a method without widths."""
    return Outcome(problem, models, last, method=method, seconds=time.perf_counter() - problem.started)


def own_network(state: ServerState, participant: int) -> dict[str, Tensor]:
    """A participant's own network; the first or else the global model where the server remembers none."""
    first = {k: state.memory.get(f"first/{k}", t) for k, t in state.theta.items()}
    return {k: state.memory.get(f"participant/{participant}/{k}", t) for k, t in first.items()}


def first_network(state: ServerState) -> dict[str, Tensor]:
    """The first model as entries of the memory: what a participant has whose updates were all refused."""
    kept = {k: t for k, t in state.memory.items() if k.startswith("first/")}
    return kept or {f"first/{k}": t for k, t in state.theta.items()}


def remember_network(participant: int, network: State) -> dict[str, Tensor]:
    """A participant's own network, or some of its tensors, as entries of the memory."""
    return {f"participant/{participant}/{k}": t for k, t in network.items()}


def send_own(state: ServerState, participant: int, width: float) -> dict[str, Tensor]:
    """Broadcast of the algorithms that send each participant its own network."""
    return own_network(state, participant)


def own_changes(state: ServerState, updates: Sequence[Update]) -> list[Update]:
    """The updates as changes of each participant's own network."""
    return as_changes({u.participant: own_network(state, u.participant) for u in updates}, updates)


def as_changes(starts: Mapping[int, State], updates: Sequence[Update]) -> list[Update]:
    """The updates as changes of what each participant started from."""
    return [replace(u, state=_change(starts[u.participant], u.state)) for u in updates]


def _change(start: State, end: State) -> dict[str, Tensor]:
    """The change of each floating-point tensor."""
    return {k: t - start[k] for k, t in end.items() if t.is_floating_point()}


def as_round(theta: State, changes: Sequence[Update]) -> tuple[dict[str, Tensor], Round]:
    """Zeros, and a round of updates that start there: arguments of a score of `contribution`."""
    zero = {k: torch.zeros_like(t) for k, t in theta.items() if t.is_floating_point()}
    return zero, Round(0, ServerState(zero), (), 0.0, 0, updates=tuple(changes))


def remembered(state: ServerState, key: str, default: Tensor) -> Tensor:
    """A tensor of the memory, on the CPU."""
    return state.memory.get(key, default).cpu()


def sparse_numbers(kept: int, entries: int) -> int:
    """Count the numbers that travel when some entries of a tensor are sent: values and positions.

    Positions travel as one index for each value or as one bit for each entry, 32 to a number, whichever is less. A full
    tensor needs none.

    Args:
        kept: Entries that are sent, at most `entries`.
        entries: Entries of the tensor.

    Raises:
        ValueError: One of them is not a whole number from 0, or `kept` is above `entries`.

    Example:
        >>> sparse_numbers(10, 1000), sparse_numbers(500, 1000), sparse_numbers(1000, 1000)
        (20, 532, 1000)

    References:
        Our choice.
    """
    number("entries", entries, 0, whole=True)
    number("kept", kept, 0, entries, whole=True)
    return kept if kept in (0, entries) else kept + min(kept, math.ceil(entries / 32))


def largest(flat: Tensor, count: int, order: Tensor | None = None) -> Tensor:
    """Set all but the largest entries by magnitude to zero; among equals the first stays.

    Args:
        flat: (entries,) floating-point numbers.
        count: Entries that stay.
        order: Positions by falling magnitude, if they are known.

    Raises:
        ValueError: `flat` is not a vector, or `count` is not a whole number from 0.

    Example:
        >>> largest(torch.tensor([1.0, -3.0, 2.0]), 2).tolist()
        [0.0, -3.0, 2.0]

    References:
        Our choice.
    """
    if not isinstance(flat, Tensor) or flat.ndim != 1:
        raise refusal("flat", "a tensor of one dimension", flat)
    number("count", count, 0, whole=True)
    chosen = (descending(flat) if order is None else order)[:count]
    return torch.zeros_like(flat).index_copy(0, chosen, flat[chosen])


def size_of(theta: State) -> int:
    """Numbers in a network."""
    return sum(t.numel() for t in theta.values())


def descending(flat: Tensor) -> Tensor:
    """Positions by falling magnitude; among equals the first comes first."""
    return flat.abs().argsort(descending=True, stable=True)


def flatten(change: State) -> Tensor:
    """All tensors of a change as one vector."""
    return torch.cat([t.flatten() for t in change.values()])


def unflatten(flat: Tensor, shapes: State) -> dict[str, Tensor]:
    """A vector as tensors of these shapes."""
    pieces = flat.split([t.numel() for t in shapes.values()])
    return {k: piece.view_as(t) for (k, t), piece in zip(shapes.items(), pieces, strict=True)}


def add(network: State, change: State, scale: float = 1.0) -> dict[str, Tensor]:
    """A network after a change of some of its tensors (copies)."""
    return {k: t + scale * change[k] if k in change else t.clone() for k, t in network.items()}


def weighted_sum(changes: Sequence[Update], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum of changes."""
    return {
        k: torch.stack([float(w) * u.state[k] for u, w in zip(changes, weights, strict=True)]).sum(0)
        for k in changes[0].state
    }


def with_norm(change: State, norm: float) -> dict[str, Tensor]:
    """A change scaled to this Euclidean norm."""
    scale = norm / (float(torch.linalg.vector_norm(flatten(change))) + 1e-7)
    return {k: scale * t for k, t in change.items()}


def sparse_shares(change: State, shares: Sequence[float]) -> tuple[list[dict[str, Tensor]], int]:
    """For each share that much of every tensor, largest entries first, never all; and how many numbers travel in all.

    As in CGSV's code, at least one entry of a tensor of several is left out, also at share 1.
    """
    flats = {k: t.flatten() for k, t in change.items()}
    orders = {k: descending(flat) for k, flat in flats.items()}
    parts, sent = [], 0
    for share in shares:
        most = {k: max(len(flat) - 1, 1) for k, flat in flats.items()}
        count = {k: min(math.ceil(share * len(flat) - 1e-9), most[k]) for k, flat in flats.items()}
        parts.append({k: largest(flats[k], count[k], orders[k]).view_as(t) for k, t in change.items()})
        sent += sum(sparse_numbers(count[k], len(flat)) for k, flat in flats.items())
    return parts, sent
