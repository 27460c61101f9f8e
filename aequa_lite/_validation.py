"""Checks at the trust boundary: tensors, bytes and metadata from elsewhere are checked before they are used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from ._check import Range, number, refusal
from ._io import explaining, parse_json, regular_file, short_repr, write_whole
from .types import State, Update, floating

# What the reader of safetensors raises besides its own error: a type that torch does not have, a shape whose size does
# not fit into a number or into memory.
DAMAGE = (SafetensorError, KeyError, ValueError, RuntimeError, OverflowError, MemoryError)


HEADER = 1 << 16  # bytes for names and shapes before the numbers; the largest network here needs a tenth of it


def checked_update(received: Mapping[str, Any], expected: State) -> dict[str, Tensor]:
    """Return a received update in the order of the network's names, if it fits what was sent.

    Args:
        received: Tensors or arrays by name; arrays become tensors, on the device of what was sent.
        expected: What the participant was sent, or any state of its width's shapes and types.

    Raises:
        ValueError: A name is missing or unknown, or a tensor has another shape or type, or a number that is not finite.

    Example:
        >>> sent = {"w": torch.zeros(2)}
        >>> checked_update({"w": np.ones(2, np.float32)}, sent)["w"].tolist()
        [1.0, 1.0]
        >>> checked_update({"w": torch.tensor([1.0, float("nan")])}, sent)
        Traceback (most recent call last):
        ValueError: tensor 'w' holds a number that is not finite

    References:
        Our choice.
    """
    if not isinstance(received, Mapping):
        raise refusal("received", "tensors by name", received)
    if odd := sorted(map(str, set(received) ^ set(expected))):
        kind = "missing" if odd[0] in expected else "none of the network's"
        raise ValueError(f"tensor {short_repr(odd[0])} is {kind}; the network has {len(expected)} tensors")
    return {name: _fitting(name, received[name], like) for name, like in expected.items()}


def _fitting(name: str, value: Any, like: Tensor) -> Tensor:
    """One tensor of the right kind; shape and type are checked before any of its numbers is read."""
    if type(value) is np.ndarray and str(value.dtype) == str(like.dtype).removeprefix("torch."):
        value = torch.from_numpy(np.require(value, requirements="CW")) if value.shape == tuple(like.shape) else value
    right = _dense(value)
    if not right or tuple(value.shape) != tuple(like.shape) or value.dtype != like.dtype:
        found = f"{value.dtype} of shape {tuple(value.shape)}" if hasattr(value, "shape") else short_repr(value)
        raise ValueError(f"tensor {name!r} must be {like.dtype} of shape {tuple(like.shape)}, got {found}")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ValueError(f"tensor {name!r} holds a number that is not finite")
    return value.detach() if like.device.type == "meta" else value.detach().to(like.device)


def parse_update(content: bytes, expected: State) -> dict[str, Tensor]:
    """Return the tensors of a safetensors message; its size is checked before it is parsed.

    Args:
        content: The message.
        expected: As in `checked_update`.

    Raises:
        ValueError: It has more bytes than such an update can have, is damaged, or is refused by `checked_update`.

    Example:
        >>> parse_update(safetensors_bytes({"w": torch.ones(2)}), {"w": torch.zeros(2)})["w"].tolist()
        [1.0, 1.0]
        >>> parse_update(bytes(1 << 20), {"w": torch.zeros(2)})
        Traceback (most recent call last):
        ValueError: the message must have at most 65544 bytes, got 1048576

    References:
        Our choice.
    """
    most = HEADER + sum(t.numel() * t.element_size() for t in expected.values())
    if len(content) > most:
        raise ValueError(f"the message must have at most {most} bytes, got {len(content)}")
    return checked_update(tensors_of(content)[0], expected)


def tensors_of(content: bytes, source: str = "this") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of safetensors bytes and the metadata of their header.

    Raises:
        ValueError: They are damaged; the sentence names their source.
    """
    with explaining(f"{source} is not an intact safetensors file", *DAMAGE):
        tensors = {name: t.clone() for name, t in parse_tensors(content).items()}  # aligned as torch's own
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__", {})


def tensors_at(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and the metadata of its header.

    Raises:
        ValueError: The file is damaged, or not a regular file.
        OSError: It cannot be read.
    """
    return tensors_of(regular_file(path).read_bytes(), str(path))


def save_tensors(path: Path | str, tensors: State, metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata as a safetensors file, whole or not at all.

    Raises:
        OSError: It cannot be written; the sentence names the path.
    """
    content = safetensors_bytes({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, dict(metadata))
    write_whole(path, content)  # safetensors' own writer hides what the operating system says


def checked_metadata(received: Mapping[str, Any], allowed: Mapping[str, tuple[float, float]]) -> dict[str, int | float]:
    """Return the numbers that a participant sends beside its tensors, if they are those that were asked for.

    Args:
        received: Numbers by name.
        allowed: The closed range of each by name; where both ends are whole numbers, the value must be one.

    Raises:
        ValueError: A name is missing or unknown, or a value is not a finite number in its range.

    Example:
        >>> checked_metadata({"participant": 2, "loss": 0.7}, {"participant": (0, 4), "loss": (0.0, 1e6)})
        {'participant': 2, 'loss': 0.7}
        >>> checked_metadata({"samples": True}, {"samples": (1, 1_000_000)})
        Traceback (most recent call last):
        ValueError: `samples` must be a whole number in [1, 1000000], got True

    References:
        Our choice.
    """
    if not isinstance(received, Mapping) or set(received) != set(allowed):
        names = sorted(map(str, received)) if isinstance(received, Mapping) else received
        raise refusal("metadata", f"numbers named {', '.join(allowed)}", names)
    return {
        name: number(name, received[name], low, high, whole=isinstance(low, int) and isinstance(high, int))
        for name, (low, high) in allowed.items()
    }


def change_norm(state: State, sent: State) -> float:
    r"""Return the norm of an update's change, $\lVert v_i - \theta_i \rVert$, over the entries of its slice.

    Integer tensors, such as a counter of batches, are left out.

    Args:
        state: The update.
        sent: What was sent, or any wider state of which it was a slice.

    Example:
        >>> change_norm({"w": torch.tensor([3.0, 4.0])}, {"w": torch.zeros(5)})
        5.0
    """
    changes = (v.to(sent[k].device) - sent[k][tuple(map(slice, v.shape))] for k, v in floating(state).items())
    squares = [change.cpu().double().square().sum() for change in changes]
    return float(sum(squares, torch.zeros((), dtype=torch.float64)).sqrt())


def oversized(states: Sequence[State], sent: State, times: float = 4.0) -> list[bool]:
    r"""Return for each update of a round whether its change is larger than `times` the round's median.

    Slices of different widths have different numbers of entries $|\theta_i|$, so the root mean square
    $\lVert v_i - \theta_i \rVert / \sqrt{|\theta_i|}$ is compared. If the median is zero, no update is oversized.

    Args:
        states: Updates of the round.
        sent: The global model they started from.
        times: Allowed multiple of the median, at least 1.

    Raises:
        ValueError: `times` is not a finite number from 1.

    Example:
        >>> updates = [{"w": torch.full((2,), size)} for size in (1.0, 1.1, -0.9, 50.0)]
        >>> oversized(updates, {"w": torch.zeros(2)})
        [False, False, False, True]

    References:
        Norm bounding (Sun et al. 2019), but updates are left out instead of clipped: our choice.
    """
    number("times", times, 1)
    entries = [sum(v.numel() for v in floating(state).values()) for state in states]
    sizes = np.array([change_norm(state, sent) / math.sqrt(max(1, count)) for state, count in zip(states, entries)])
    middle = float(np.median(sizes)) if len(sizes) else 0.0
    return [middle > 0 and size > times * middle for size in sizes.tolist()]


def readable_update(update: Any, participant: int, width: float, device: torch.device) -> Update:
    """Return an update on the server's device; in place of another's, or of no update at all, one without tensors.

    Here updates enter a round: all that follows may take it that they are on one device.
    """
    right = isinstance(update, Update) and update.participant == participant and isinstance(update.state, Mapping)
    right = right and all(map(_dense, update.state.values()))
    if right and all(map(_scalar, (update.width, update.weight, update.loss))):
        if all(t.device == device for t in update.state.values()):
            return update
        return replace(update, state={k: t.to(device) for k, t in update.state.items()})
    return Update(participant, width, {}, 1.0, math.nan)


def refusals(
    updates: Sequence[Update], sent: Mapping[int, State], widths: Sequence[float], limit: float
) -> dict[int, str]:
    """Say which updates of a round cannot be aggregated, and why.

    Args:
        updates: One for each participant of `sent`, in its order.
        sent: What each was sent.
        widths: (n,) width of each.
        limit: Largest change, in multiples of the usual one; 0: none. Usual is the round's median; of one or two updates
            it is the slice's own norm.

    Returns:
        Reasons by position of the participant.
    """
    why: dict[int, str] = {}
    squares: dict[int, Tensor] = {}  # of the change, and of the slice itself
    for (i, slice_), update in zip(sent.items(), updates, strict=True):
        if reason := _misfit(update, slice_, widths[i]):
            why[i] = reason
            continue
        own = floating(slice_)
        change = torch._foreach_sub([update.state[k] for k in own], list(own.values()))
        squares[i] = torch.stack([_square(change), _square(list(own.values()))])
    if not squares:
        return why
    entries = [sum(t.numel() for t in sent[i].values()) for i in squares]
    found = np.sqrt(torch.stack(list(squares.values())).tolist())  # the one host wait
    size, own_size = found.T / np.sqrt(entries)  # per entry, as slices differ in size
    finite = np.isfinite(size)
    usual = np.full_like(size, np.median(size[finite])) if finite.sum() > 2 else own_size
    for i, each, most in zip(squares, size, limit * usual):
        if not math.isfinite(each):
            why[i] = "it is not finite"
        elif 0 < most < each:
            why[i] = "its change is far larger than usual"
    return why


def _scalar(value: object) -> bool:
    """Whether this is one number, perhaps still on the device."""
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)


def _dense(t: object) -> bool:
    """Whether this is a tensor that holds its numbers, densely."""
    return isinstance(t, Tensor) and t.layout == torch.strided and t.device.type != "meta"


def _misfit(update: Update, sent: State, width: float) -> str:
    """Why an update does not fit what was sent; empty where it does."""
    if update.width != width:
        return "it is of another width"
    if not (0 < update.weight < math.inf):
        return "its weight is not a finite number above 0"
    if not math.isfinite(update.loss):
        return "its loss is not finite"
    mine, theirs = ({k: (t.shape, t.dtype) for k, t in each.items()} for each in (update.state, sent))
    return "" if mine == theirs else "its tensors are not those of its slice"


def _square(tensors: Sequence[Tensor]) -> Tensor:
    """Squared norm of all tensors together, (), on the device."""
    return torch.stack(torch._foreach_norm(tensors)).square().sum()


def counts(value: Any, many: int) -> bool:
    """Whether a value is a list of so many whole numbers from 0."""
    return isinstance(value, (list, tuple)) and len(value) == many and all(Range(0).holds(v, whole=True) for v in value)
