"""Changes of a network as vectors, of which the largest entries are sent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._check import number, refusal
from ..types import State, Update

__all__ = ["largest", "sparse_numbers"]


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
