"""What travels: tensors as safetensors bytes, a few plain numbers beside them; whatever arrives is checked before use."""

from __future__ import annotations

import math
from typing import Any

from flwr.app import Array, ArrayRecord
from safetensors.torch import save
from torch import Tensor

from .._validation import parse_update
from ..slimmable import Build, State, template

__all__ = ["packed", "unpacked"]


KIND = "safetensors"


def packed(state: State) -> ArrayRecord:
    """Pack a state as one array of safetensors bytes; nothing is pickled, and Flower sends it in chunks.

    Example:
        >>> import torch
        >>> len(packed({"w": torch.ones(2)})["state"].data) < 200
        True
    """
    return sealed(save({name: t.detach().cpu().contiguous() for name, t in state.items()}))


def sealed(content: bytes) -> ArrayRecord:
    """Return bytes as the one array of a record."""
    return ArrayRecord({"state": Array("uint8", (len(content),), KIND, content)})


def opened(record: Any, most: float = math.inf) -> bytes:
    """Return the bytes of a record that should hold one array of them, of at most so many.

    Raises:
        ValueError: it holds anything else.
    """
    if not isinstance(record, ArrayRecord) or list(record) != ["state"] or record["state"].stype != KIND:
        raise ValueError("what arrived is not one array of safetensors bytes")
    content = record["state"].data
    if not isinstance(content, bytes) or len(content) > most:
        raise ValueError(f"what arrived has {len(content)} bytes; allowed are {most}")
    return content


def unpacked(record: Any, build: Build, width: float, device: Any = "cpu") -> dict[str, Tensor]:
    """Return the state that arrived, once it is certain to be a finite slice of this width.

    Raises:
        ValueError: it is too large, damaged, or not a slice of this width; the sentence says what is wrong.

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> sorted(unpacked(packed(aq.slice_of(aq.MLP, theta, 0.5)), aq.MLP, 0.5))[0]
        '2.bias'
    """
    arrived = parse_update(opened(record), template(build, width).state_dict())
    return {name: t.to(device) for name, t in arrived.items()}
