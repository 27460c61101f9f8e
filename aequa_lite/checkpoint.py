"""A killed run goes on: its state in one file, bound to what it trains."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._check import refusal
from ._io import explaining, parse_json, tuples
from ._validation import checked_update, save_tensors, tensors_at
from .types import Round, ServerState, Shard, State

__all__ = ["describe", "digest", "load_checkpoint", "save_checkpoint"]

FORMAT = "aequa-lite checkpoint 3"
APART = "state", "updates", "before", "identity"
PLAIN = [f.name for f in fields(Round) if f.name not in APART]


def describe(value: Any, name: str = "") -> Any:
    """Describe a value so that two runs can be told apart, as plain JSON.

    Functions and classes are described by import path, `functools.partial`
    and dataclasses by path and arguments, tensors and arrays by hash.

    Args:
        name: A name that you vouch for, used for what cannot be imported
            (a lambda, a function defined in a notebook).

    Raises:
        ValueError: Something cannot be described and there is no `name`.

    Example:
        >>> describe(partial(sorted, reverse=True))["keywords"]
        {'reverse': True}
    """
    text = json.dumps(value, default=partial(_plain, name=name))
    return json.loads(text, parse_constant=str)  # JSON has no infinity


def _plain(value: Any, name: str) -> Any:
    """What JSON does not know, in terms of what it knows."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Tensor, np.ndarray)):
        return {"sha256": digest([value])}
    if isinstance(value, (torch.dtype, torch.device, Path)):
        return str(value)
    if isinstance(value, partial):
        return {"function": value.func, "args": value.args,
                "keywords": value.keywords}  # fmt: skip
    if hasattr(value, "__identity__"):
        return value.__identity__()
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in fields(value)}
        return {"type": _path(type(value), name), **own}
    return _path(value, name)


def _path(value: Any, name: str) -> str:
    """Import path of a function or class; `name` where it has none."""
    module = getattr(value, "__module__", None)
    path = f"{module}:{getattr(value, '__qualname__', '')}"
    if module != "__main__":
        with suppress(ImportError, AttributeError, ValueError):
            if resolve_name(path) is value:
                return path
    if name:
        return f"named:{name}"
    raise refusal(
        "checkpoint", "used with functions that can be imported", value,
        "define it in a module, or vouch for it by name=",
    )  # fmt: skip


def digest(values: Sequence[Any]) -> str:
    """SHA-256 over type, shape and bytes of tensors or arrays.

    Example:
        >>> digest([torch.zeros(2)]) == digest([torch.zeros(2)])
        True
    """
    total = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            value = value.detach().cpu().contiguous()
            if value.dtype == torch.bfloat16:  # numpy has none
                total.update(b"bfloat16")
                value = value.view(torch.int16)
            value = value.numpy()
        array = np.ascontiguousarray(value)
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(array.data if array.size else b"")
    return total.hexdigest()


def shards_digest(shards: Sequence[Shard]) -> str:
    """SHA-256 over all shards: the data and the partition in one."""
    parts: list[Any] = []
    for shard in shards:
        x = [] if shard.samples.x is None else [shard.samples.x]
        parts += [np.int64(shard.participant), *x, shard.samples.y]
    return digest(parts)


def run_identity(
    parts: Mapping[str, Any], shards: Sequence[Shard], name: str
) -> dict[str, Any]:
    """Describe what is trained: these parts, on these shards."""
    return describe(parts, name) | {"shards": shards_digest(shards)}


def save_checkpoint(path: Path, last: Round) -> None:
    """Write a round's outcome, whole or not at all.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> state = ServerState({"w": torch.ones(2)})
        >>> save_checkpoint(path, Round(4, state, (1.0,), 0.1, 8))
        >>> load_checkpoint(path, {}, state.theta).index
        4
    """
    tensors = {f"theta/{k}": t for k, t in last.state.theta.items()}
    tensors |= {f"memory/{k}": t for k, t in last.state.memory.items()}
    about = {name: getattr(last, name) for name in PLAIN}
    identity = json.dumps(last.identity)
    words = {"round": json.dumps(about), "identity": identity}
    words |= {"format": FORMAT, "sha256": _checksum(tensors, words)}
    save_tensors(path, tensors, words)


def _checksum(tensors: State, words: Mapping[str, str]) -> str:
    """SHA-256 over all that a checkpoint says."""
    names = sorted(tensors)
    text = json.dumps([names, words["round"], words["identity"]])
    plain = np.frombuffer(text.encode(), np.uint8)
    return digest([plain, *(tensors[name] for name in names)])


def load_checkpoint(
    path: Path, identity: Mapping[str, Any], network: State
) -> Round | None:
    """Read a checkpoint of this very run; None if there is none.

    Args:
        network: Any state of the network's names, shapes and types.

    Raises:
        ValueError: The file is damaged, of another version, or of a run
            with another identity; the sentence names the first difference.
        OSError: It cannot be read.

    Example:
        >>> load_checkpoint(Path("nowhere.safetensors"), {}, {}) is None
        True
    """
    if not path.exists():
        return None
    what = f"checkpoint {path} cannot be used"
    remedy = "delete it to start afresh"
    with explaining(what, KeyError, ValueError, remedy=remedy):
        tensors, words = tensors_at(path)
        if words.get("format") != FORMAT:
            raise ValueError("it is of another version or no checkpoint")
        if _checksum(tensors, words) != words.get("sha256"):
            raise ValueError("its checksum does not fit its contents")
        about, saved = (parse_json(words[k]) for k in ("round", "identity"))
    if difference := _difference(saved, identity):
        raise ValueError(
            f"checkpoint {path} was made with {difference}; "
            "use the same run or another file"
        )
    return _restored(tensors, about, network, identity)


def _difference(saved: Any, now: Any, name: str = "") -> str:
    """The first difference of two identities, with both values."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*saved, *now]):
            inner = f"{name}.{key}" if name else str(key)
            pair = saved.get(key, "nothing"), now.get(key, "nothing")
            if found := _difference(*pair, inner):
                return found
        return ""
    if saved == now:
        return ""
    return f"{name} = {saved!r:.100}, this run has {now!r:.100}"


def _restored(
    tensors: State, about: Mapping[str, Any], network: State,
    identity: Mapping[str, Any],
) -> Round:  # fmt: skip
    """The saved round, its tensors in the network's order."""

    def part(head: str) -> dict[str, Tensor]:
        return {
            k.removeprefix(head): t
            for k, t in tensors.items()
            if k.startswith(head)
        }

    theta, memory = checked_update(part("theta/"), network), part("memory/")
    place = next(iter(network.values())).device
    kinds = {t.dtype for t in network.values()}  # MPS has no float64
    memory = {
        k: t.to(place) if t.dtype in kinds else t for k, t in memory.items()
    }
    state = ServerState(theta, memory)
    return Round(state=state, identity=identity, **tuples(about))
