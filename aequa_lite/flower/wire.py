"""Tensors as safetensors bytes in Flower's records; limits and contents are checked on arrival."""

from __future__ import annotations

import math
from typing import Any

import torch
from flwr.app import Array, ArrayRecord
from safetensors.torch import save
from torch import Tensor

from .._validation import parse_update
from ..slimmable import template
from ..types import Build, State

__all__ = ["packed", "packed_bytes", "unpacked", "unpacked_bytes"]


KIND = "safetensors"


def packed(state: State) -> ArrayRecord:
    """Pack a state as one array of safetensors bytes, which Flower sends in chunks.

    Example:
        >>> len(packed({"w": torch.ones(2)})["state"].data) < 200
        True
    """
    return packed_bytes(save({name: t.detach().cpu().contiguous() for name, t in state.items()}))


def packed_bytes(content: bytes) -> ArrayRecord:
    """Pack bytes as the one array of a record.

    Example:
        >>> packed_bytes(b"abc")["state"].shape
        (3,)
    """
    return ArrayRecord({"state": Array("uint8", (len(content),), KIND, content)})


def unpacked_bytes(record: Any, most: float = math.inf) -> bytes:
    """Return the bytes of a record that holds one array of at most `most` bytes.

    Raises:
        ValueError: It holds anything else.

    Example:
        >>> unpacked_bytes(packed_bytes(b"abc"), most=3)
        b'abc'
    """
    if not isinstance(record, ArrayRecord) or list(record) != ["state"] or record["state"].stype != KIND:
        raise ValueError("the record must hold one array of safetensors bytes")
    content = record["state"].data
    if not isinstance(content, bytes) or len(content) > most:
        raise ValueError(f"the record must hold at most {most} bytes, got {len(content)}")
    return content


def unpacked(record: Any, build: Build, width: float, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Return the state of a record, if it is a finite slice of this width.

    Raises:
        ValueError: It is too large, damaged, or no slice of this width.

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> sorted(unpacked(packed(aq.slice_of(aq.MLP, theta, 0.5)), aq.MLP, 0.5))[0]
        '2.bias'
    """
    state = parse_update(unpacked_bytes(record), template(build, width).state_dict())
    return {name: t.to(device) for name, t in state.items()}
