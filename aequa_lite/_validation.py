"""What crosses a trust boundary is checked before it is used: an answer's tensors, their bytes, what is said beside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as tensors_from
from torch import Tensor

from ._io import error_text, regular_file, short_repr

__all__ = ["change_norm", "checked_metadata", "checked_update", "oversized", "parse_update"]


State = Mapping[str, Tensor]


# What the reader of safetensors raises besides its own error: a type that torch does not have, a shape whose size does
# not fit into a number or into memory.
DAMAGE = (SafetensorError, KeyError, ValueError, RuntimeError, OverflowError, MemoryError)


HEADER = 1 << 16  # bytes for names and shapes before the numbers; the largest network here needs a tenth of it


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
        raise ValueError(f"received is {short_repr(received)}; allowed are tensors by name")
    if odd := sorted(map(str, set(received) ^ set(expected))):
        kind = "missing" if odd[0] in expected else "none of the network's"
        raise ValueError(f"tensor {short_repr(odd[0])} is {kind}; allowed are the {len(expected)} names that were sent")
    fits = {name: _fitting(name, received[name], like) for name, like in expected.items()}
    if limit < math.inf and (size := change_norm(fits, expected)) > limit:
        raise ValueError(f"the change has norm {size:.3g}; allowed is at most {limit:.3g}")
    return fits


def _fitting(name: str, value: Any, like: Tensor) -> Tensor:
    """One tensor, if it is what it should be; its shape and type are looked at before any of its numbers."""
    if type(value) is np.ndarray and str(value.dtype) == str(like.dtype).removeprefix("torch."):
        value = torch.from_numpy(np.require(value, requirements="CW")) if value.shape == tuple(like.shape) else value
    right = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
    if not right or tuple(value.shape) != tuple(like.shape) or value.dtype != like.dtype:
        found = f"{value.dtype} of shape {tuple(value.shape)}" if hasattr(value, "shape") else short_repr(value)
        raise ValueError(f"tensor {name!r} is {found}; allowed is {like.dtype} of shape {tuple(like.shape)}")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ValueError(f"tensor {name!r} holds a number that is not finite")
    return value.detach()


def parse_update(content: bytes, expected: State, *, limit: float = math.inf) -> dict[str, Tensor]:
    """Return the tensors of a safetensors message: its size is checked before it is parsed, its tensors as by ``checked_update``.

    Raises:
        ValueError: it has more bytes than such an answer can have, is damaged, or is no answer to what was sent.

    Example:
        >>> from safetensors.torch import save
        >>> parse_update(save({"w": torch.ones(2)}), {"w": torch.zeros(2)})["w"].tolist()
        [1.0, 1.0]
        >>> parse_update(bytes(1 << 20), {"w": torch.zeros(2)})
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
    except DAMAGE as error:
        raise ValueError(f"the bytes are no intact safetensors file ({short_repr(str(error))})") from error


def tensors_at(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and the words that stand beside them.

    Raises:
        ValueError: the file is damaged, or no ordinary file.
        OSError: it cannot be read.
    """
    with regular_file(path).open("rb"):  # one that is missing or may not be read is named by the operating system
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (*DAMAGE, TypeError) as error:
            raise ValueError(f"{path} is no intact safetensors file ({error_text(error)})") from error


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
        raise ValueError(f"what was said is about {short_repr(names)}; allowed is {', '.join(allowed)}")
    for name, (low, high) in allowed.items():
        value, whole = received[name], isinstance(low, int) and isinstance(high, int)
        right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not right or not low <= value <= high:  # NaN is in no range
            kind = "a whole number" if whole else "a finite number"
            raise ValueError(f"{name} is {short_repr(value)}; allowed is {kind} from {low} to {high}")
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


def oversized(states: Sequence[State], sent: State, times: float = 4.0) -> list[bool]:
    r"""Say of each answer of a round whether its change is larger than ``times`` the round's median.

    Slices of different widths hold different numbers of entries $|\theta_i|$, so what is compared is the root mean square
    $\lVert v_i - \theta_i \rVert / \sqrt{|\theta_i|}$. A median of zero (most have sent back what they received) leaves
    nobody out.

    Raises:
        ValueError: ``times`` is not a finite number from 1.

    Example:
        >>> answers = [{"w": torch.full((2,), size)} for size in (1.0, 1.1, -0.9, 50.0)]
        >>> oversized(answers, {"w": torch.zeros(2)})
        [False, False, False, True]

    Source: ours; the norm against the median as in norm bounding (Sun et al. 2019), but left out instead of clipped.
    """
    if not 1 <= times < math.inf:
        raise ValueError(f"times is {times!r}; allowed is a finite number from 1")
    entries = [sum(v.numel() for v in state.values() if v.is_floating_point()) for state in states]
    sizes = np.array([change_norm(state, sent) / math.sqrt(max(1, count)) for state, count in zip(states, entries)])
    middle = float(np.median(sizes)) if len(sizes) else 0.0
    return [middle > 0 and size > times * middle for size in sizes.tolist()]


def numbers(value: Any, count: int, low: float = -math.inf, high: float = math.inf, whole: bool = False) -> bool:
    """Whether a value is a list of so many finite numbers of this range."""
    kinds = (int,) if whole else (int, float)
    return (
        isinstance(value, (list, tuple))
        and len(value) == count
        and all(type(v) in kinds and low <= v <= high and abs(v) < 1e300 for v in value)
    )


def checked_report(found: Any) -> dict[str, Any]:
    """Return what a report's file holds, if every piece of it is of the kind that those who print it rely on.

    Raises:
        ValueError: a piece is missing or of another kind; the sentence names it.
    """
    if not isinstance(found, dict):
        raise ValueError(f"it is {short_repr(found)}; allowed are a report's fields by name")
    n = len(found["standalone"]) if isinstance(found.get("standalone"), list) else 0
    many = {name: numbers(found.get(name), n, 0, 1) for name in ("standalone", "test_accuracy")}
    many |= {"contribution": numbers(found.get("contribution"), n)}
    many |= {"parameters": numbers(found.get("parameters"), n, 0, whole=True)}
    free = {"widths": (0, 1), "predicted_accuracy": ()}
    many |= {name: found.get(name, 0) is None or numbers(found.get(name), n, *ends) for name, ends in free.items()}
    one = {name: numbers([found.get(name)], 1, 0, whole=name != "seconds") for name in ("seconds", "parameters_sent")}
    text = {name: isinstance(found.get(name), str) for name in ("partition", "method", "device")}
    told = found.get("warnings", [])
    text |= {"warnings": isinstance(told, list) and all(isinstance(each, str) for each in told)}
    kept = {name: isinstance(found.get(name), dict) for name in ("recipe", "versions")}
    deep = {"data": _data(found.get("data")), "fairness": _fairness(found.get("fairness"), n)}
    deep |= {"curve": found.get("curve", 0) is None or _curve(found.get("curve"))}
    for name, right in {**many, **one, **text, **kept, **deep}.items():
        if not right or not n:
            raise ValueError(
                f"its {name} is {short_repr(found.get(name))}, which a report of {n} participants cannot hold"
            )
    return found


def _data(value: Any) -> bool:
    """Whether this is what a report says of its data."""
    sizes = value.get("sizes") if isinstance(value, dict) else None
    splits = [sizes.get(name) for name in ("train", "validation", "test")] if isinstance(sizes, dict) else []
    return numbers(splits, 3, 1, whole=True) and all(isinstance(value.get(name), str) for name in ("name", "sha256"))


def _fairness(value: Any, n: int) -> bool:
    """Whether these are the measures that a report is printed from."""
    if not isinstance(value, dict):
        return False
    free = [value.get(name, "") for name in ("pearson", "pearson_ceiling")]
    # an interval that does not exist is None; only the ceilings' may be missing
    ends = [value.get(f"{name}_interval", "") for name in ("pearson", "pearson_noise")]
    ends += [value.get(f"{name}_ceiling_interval") for name in ("pearson", "cgs")]
    worse = value.get("worse_off")
    return (
        numbers([value.get(name) for name in ("mcg", "cgs", "min_gain")], 3)
        and all(each is None or numbers([each], 1) for each in free)
        and all(each is None or numbers(each, 2) for each in ends)
        and isinstance(worse, list)
        and numbers(worse, len(worse), 0, n - 1, whole=True)
    )


def _curve(value: Any) -> bool:
    """Whether this is a curve as a report keeps it."""
    if not isinstance(value, dict) or not isinstance(value.get("widths"), list) or not value["widths"]:
        return False
    count, test = len(value["widths"]), value.get("test", "")
    return all(numbers(value.get(name), count, 0, 1) for name in ("widths", "validation")) and (
        test is None or numbers(test, count, 0, 1)
    )
