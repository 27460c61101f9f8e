"""What travels: tensors as safetensors bytes, a few plain numbers beside them; whatever arrives is checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import Array, ArrayRecord
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..slim import Build, State, template

__all__ = ["checked_update", "expected", "packed", "unpacked"]

KIND = "safetensors"
HEADER = 1 << 16  # room for the names and shapes before the numbers; the largest network here needs a tenth of it


def expected(build: Build, width: float) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return the shape and the type of every tensor that a network of this width has.

    Example:
        >>> import aequa_lite as aq
        >>> expected(aq.MLP, 0.5)["2.bias"]
        ((100,), torch.float32)
    """
    return {name: (tuple(t.shape), t.dtype) for name, t in template(build, width).state_dict().items()}


def packed(state: State) -> ArrayRecord:
    """Pack a state as one array of safetensors bytes; nothing is pickled, and Flower sends it in chunks.

    Example:
        >>> len(packed({"w": torch.ones(2)})["state"].data) < 200
        True
    """
    return sealed(save({name: t.detach().cpu().contiguous() for name, t in state.items()}))


def sealed(content: bytes) -> ArrayRecord:
    """Return bytes as the one array of a record."""
    return ArrayRecord({"state": Array("uint8", (len(content),), KIND, content)})


def opened(record: Any, most: int) -> bytes:
    """Return the bytes of a record that should hold one array of at most so many.

    Raises:
        ValueError: it holds anything else.
    """
    if not isinstance(record, ArrayRecord) or list(record) != ["state"] or record["state"].stype != KIND:
        raise ValueError("what arrived is not one array of safetensors bytes")
    content = record["state"].data
    if len(content) > most:
        raise ValueError(f"what arrived has {len(content)} bytes; allowed are {most}")
    return content


def unpacked(record: Any, build: Build, width: float, device: Any = "cpu") -> dict[str, Tensor]:
    """Return the state that arrived, once it is certain to be a finite slice of this width.

    Raises:
        ValueError: it is too large, damaged, or not a slice of this width; the sentence says what is wrong.

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.initial(aq.MLP, seed=0)
        >>> sorted(unpacked(packed(aq.slice_of(aq.MLP, theta, 0.5)), aq.MLP, 0.5))[0]
        '2.bias'
    """
    wanted = expected(build, width)
    numbers = sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in wanted.values())
    content = opened(record, numbers + HEADER)
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"what arrived is damaged: {error}") from error
    return {name: t.to(device) for name, t in checked_update(tensors, wanted).items()}


def checked_update(received: Mapping[str, Tensor], shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> State:
    """Return what was received, in the order of the network's own names, if names, shapes, types and numbers are right.

    Raises:
        ValueError: a name is missing or too many, a shape or type is another, or a number is not finite.

    Example:
        >>> checked_update({"w": torch.ones(2)}, {"w": ((2,), torch.float32)})["w"].tolist()
        [1.0, 1.0]
    """
    if odd := sorted(set(received) ^ set(shapes)):
        raise ValueError(f"tensor {odd[0]!r} is {'missing' if odd[0] in shapes else 'not one of the network'}")
    for name, (shape, dtype) in shapes.items():
        t = received[name]
        if tuple(t.shape) != shape or t.dtype != dtype:
            raise ValueError(f"tensor {name!r} is {t.dtype} of shape {tuple(t.shape)}; allowed is {dtype} of {shape}")
        if t.is_floating_point() and not bool(torch.isfinite(t).all()):
            raise ValueError(f"tensor {name!r} holds a number that is not finite")
    return {name: received[name] for name in shapes}
