"""What crosses a trust boundary is checked before it is used: an answer's tensors, their bytes, what is said beside."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from torch import Tensor

__all__ = ["change_norm", "checked_metadata", "checked_update", "opened_update", "outsized"]

State = Mapping[str, Tensor]
HEADER = 1 << 16  # bytes for names and shapes before the numbers; the largest network here needs a tenth of it


def shown(value: Any, most: int = 80) -> str:
    """A value as it may stand in a sentence: short, on one line, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # a whole number of thousands of digits; a list that holds itself
        return f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def bounded(path: Path | str, most: int) -> bytes:
    """The bytes of a file, of which no more than so many are ever read.

    Raises:
        ValueError: it has more; or it is no ordinary file (a folder, a pipe, a device).
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no ordinary file")
    with path.open("rb") as file:
        content = file.read(most + 1)  # the size that a file system states is not believed
    if len(content) > most:
        raise ValueError(f"{path} has more than {most} bytes, which is the most that is read")
    return content


def plain_json(content: bytes | str) -> Any:
    """Read JSON of which only plain, finite values come out.

    Raises:
        ValueError: it is damaged, nested beyond reason, or holds NaN or Infinity.
    """

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number that is allowed here")

    try:
        return json.loads(content, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested beyond reason") from error


def checked_update(received: Mapping[str, Any], expected: State, *, limit: float = math.inf) -> dict[str, Tensor]:
    r"""Return what was received, in the order of the network's own names, if it is an answer to what was sent.

    ``expected``: what that participant was sent, or any state of its shapes and types (those of *its* width); ``limit``:
    the largest norm of the change $\lVert v_i - \theta_i \rVert$ that is taken. Arrays become tensors.

    Raises:
        ValueError: a name is missing or too many; a tensor has another shape or type or a number that is not finite; the
            change is larger than ``limit``.

    Example:
        >>> sent = {"w": torch.zeros(2)}
        >>> checked_update({"w": np.ones(2, np.float32)}, sent, limit=2.0)["w"].tolist()
        [1.0, 1.0]
        >>> checked_update({"w": torch.tensor([1.0, float("nan")])}, sent)
        Traceback (most recent call last):
        ValueError: tensor 'w' holds a number that is not finite

    Source: ours.
    """
    if not isinstance(received, Mapping):
        raise ValueError(f"received is {shown(received)}; allowed are tensors by name")
    if odd := sorted(map(str, set(received) ^ set(expected))):
        kind = "missing" if odd[0] in expected else "none of the network's"
        raise ValueError(f"tensor {shown(odd[0])} is {kind}; allowed are the {len(expected)} names that were sent")
    fits = {name: _fitting(name, received[name], like) for name, like in expected.items()}
    if limit < math.inf and (size := change_norm(fits, expected)) > limit:
        raise ValueError(f"the change has norm {size:.3g}; allowed is at most {limit:.3g}")
    return fits


def _fitting(name: str, value: Any, like: Tensor) -> Tensor:
    """One tensor, if it is what it should be; its shape and type are looked at before any of its numbers."""
    if type(value) is np.ndarray and value.dtype.kind in "fiub" and value.dtype.isnative:
        value = torch.from_numpy(np.require(value, requirements="W")) if value.shape == tuple(like.shape) else value
    right = isinstance(value, Tensor) and not value.is_sparse and tuple(value.shape) == tuple(like.shape)
    if not right or value.dtype != like.dtype:
        found = f"{value.dtype} of shape {tuple(value.shape)}" if hasattr(value, "shape") else shown(value)
        raise ValueError(f"tensor {name!r} is {found}; allowed is {like.dtype} of shape {tuple(like.shape)}")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ValueError(f"tensor {name!r} holds a number that is not finite")
    return value.detach()


def opened_update(content: bytes, expected: State, *, limit: float = math.inf) -> dict[str, Tensor]:
    """Return the tensors of a safetensors message: its size is checked before it is parsed, its tensors as by ``checked_update``.

    Raises:
        ValueError: it has more bytes than such an answer can have, is damaged, or is no answer to what was sent.

    Example:
        >>> from safetensors.torch import save
        >>> opened_update(save({"w": torch.ones(2)}), {"w": torch.zeros(2)})["w"].tolist()
        [1.0, 1.0]
        >>> opened_update(bytes(1 << 20), {"w": torch.zeros(2)})
        Traceback (most recent call last):
        ValueError: the message has 1048576 bytes; allowed are at most 65544

    Source: ours.
    """
    most = HEADER + sum(t.numel() * t.element_size() for t in expected.values())
    if len(content) > most:
        raise ValueError(f"the message has {len(content)} bytes; allowed are at most {most}")
    return checked_update(tensors_of(content), expected, limit=limit)


def tensors_of(content: bytes) -> dict[str, Tensor]:
    """The tensors of safetensors bytes.

    Raises:
        ValueError: they are damaged.
    """
    try:
        return tensors_from(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError, OverflowError) as error:
        # besides its own error: a type that torch does not have, a shape whose size does not fit into a number
        raise ValueError(f"the bytes are no intact safetensors file ({shown(str(error))})") from error


def checked_metadata(received: Mapping[str, Any], allowed: Mapping[str, tuple[float, float]]) -> dict[str, int | float]:
    """Return the numbers that a participant says beside its tensors, if they are those that were asked for.

    ``allowed``: the closed range of each by name; where both ends are whole numbers, so must be the value.

    Raises:
        ValueError: a name is missing or too many, or a value is no finite number in its range.

    Example:
        >>> checked_metadata({"participant": 2, "loss": 0.7}, {"participant": (0, 4), "loss": (0.0, 1e6)})
        {'participant': 2, 'loss': 0.7}
        >>> checked_metadata({"samples": True}, {"samples": (1, 1_000_000)})
        Traceback (most recent call last):
        ValueError: samples is True; allowed is a whole number from 1 to 1000000

    Source: ours.
    """
    if not isinstance(received, Mapping) or set(received) != set(allowed):
        names = sorted(map(str, received)) if isinstance(received, Mapping) else received
        raise ValueError(f"what was said is about {shown(names)}; allowed is {', '.join(allowed)}")
    for name, (low, high) in allowed.items():
        value, whole = received[name], isinstance(low, int) and isinstance(high, int)
        right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not right or not low <= value <= high:  # NaN is in no range
            kind = "a whole number" if whole else "a finite number"
            raise ValueError(f"{name} is {shown(value)}; allowed is {kind} from {low} to {high}")
    return {name: received[name] for name in allowed}


def change_norm(state: State, sent: State) -> float:
    r"""Return the norm of an answer's change, $\lVert v_i - \theta_i \rVert$, over all entries that its slice holds.

    ``sent``: what was sent, or any wider state of which it was a slice. Whole numbers, such as a counter of batches, are no
    change of a quantity and do not count.

    Example:
        >>> change_norm({"w": torch.tensor([3.0, 4.0])}, {"w": torch.zeros(5)})
        5.0
    """
    floating = ((k, v) for k, v in state.items() if v.is_floating_point())
    squares = [(v - sent[k][tuple(map(slice, v.shape))]).double().square().sum() for k, v in floating]
    return float(sum(squares, torch.zeros((), dtype=torch.float64)).sqrt())


def outsized(states: Sequence[State], sent: State, times: float = 4.0) -> list[bool]:
    r"""Say of each answer of a round whether its change is larger than ``times`` the round's median.

    Slices of different widths hold different numbers of entries $|\theta_i|$, so what is compared is the root mean square
    $\lVert v_i - \theta_i \rVert / \sqrt{|\theta_i|}$. A median of zero (most have sent back what they received) leaves
    nobody out.

    Raises:
        ValueError: ``times`` is not a finite number from 1.

    Example:
        >>> answers = [{"w": torch.full((2,), size)} for size in (1.0, 1.1, -0.9, 50.0)]
        >>> outsized(answers, {"w": torch.zeros(2)})
        [False, False, False, True]

    Source: ours; the norm against the median as in norm bounding (Sun et al. 2019), but left out instead of clipped.
    """
    if not 1 <= times < math.inf:
        raise ValueError(f"times is {times!r}; allowed is a finite number from 1")
    entries = [sum(v.numel() for v in state.values() if v.is_floating_point()) for state in states]
    sizes = np.array([change_norm(state, sent) / math.sqrt(max(1, count)) for state, count in zip(states, entries)])
    middle = float(np.median(sizes)) if len(sizes) else 0.0
    return [middle > 0 and size > times * middle for size in sizes.tolist()]
