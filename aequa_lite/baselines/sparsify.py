"""Pay with a part of what all have learnt: the largest entries of the common update (CFFL, CGSV), or some updates (IAFL)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..slimmable import State
from ..types import Update

__all__ = ["sparse_numbers"]


DOWN = "downloads of the server"  # numbers sent to participants in the round that was merged last


def sparse_numbers(held: int, entries: int) -> int:
    """Count the numbers that travel when ``held`` of ``entries`` entries do: the values, and where they belong.

    Positions are sent as one index for each value or as one bit for each entry, 32 to a number, whichever is less; a
    full tensor needs none.

    Example:
        >>> sparse_numbers(10, 1000), sparse_numbers(500, 1000), sparse_numbers(1000, 1000)
        (20, 532, 1000)

    Source: ours.
    """
    return held if held in (0, entries) else held + min(held, math.ceil(entries / 32))


def largest(flat: Tensor, count: int, order: Tensor | None = None) -> Tensor:
    """A vector with all but its ``count`` largest entries by magnitude set to zero; ``order``: where they lie."""
    chosen = (flat.abs().argsort(descending=True, stable=True) if order is None else order)[:count]
    return torch.zeros_like(flat).index_copy(0, chosen, flat[chosen])


def _flat(change: Mapping[str, Tensor]) -> Tensor:
    """All tensors of a change as one vector."""
    return torch.cat([t.flatten() for t in change.values()])


def _like(flat: Tensor, shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One vector as tensors of these shapes."""
    pieces = flat.split([t.numel() for t in shapes.values()])
    return {name: piece.view_as(t) for (name, t), piece in zip(shapes.items(), pieces, strict=True)}


def _plus(network: State, change: Mapping[str, Tensor], share: float = 1.0) -> dict[str, Tensor]:
    """A network after a change of its tensors."""
    return {name: t + share * change[name] if name in change else t.clone() for name, t in network.items()}


def _sum(updates: Sequence[Update], counts: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum of changes."""
    return {
        name: torch.stack([float(c) * u.state[name] for u, c in zip(updates, counts, strict=True)]).sum(0)
        for name in updates[0].state
    }


def _scaled(change: Mapping[str, Tensor], length: float) -> dict[str, Tensor]:
    """A change brought to this length."""
    scale = length / (float(torch.linalg.vector_norm(_flat(change))) + 1e-7)
    return {name: scale * t for name, t in change.items()}


def _doses(common: Mapping[str, Tensor], shares: Sequence[float]) -> tuple[list[dict[str, Tensor]], Tensor]:
    """For each share that much of every tensor, largest first; and how many numbers travel in all."""
    flats = {name: t.flatten() for name, t in common.items()}
    orders = {name: flat.abs().argsort(descending=True, stable=True) for name, flat in flats.items()}
    given, sent = [], 0
    for share in shares:
        count = {name: math.ceil(min(share, 1.0) * len(flat) - 1e-9) for name, flat in flats.items()}
        given.append({k: largest(flats[k], count[k], orders[k]).view_as(t) for k, t in common.items()})
        sent += sum(sparse_numbers(count[name], len(flat)) for name, flat in flats.items())
    return given, torch.tensor(sent)
