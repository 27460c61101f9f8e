"""A run that was killed goes on: the shared network after a round, in one file that is written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ._io import atomic_write, error_text, parse_json, short_repr
from ._validation import checked_update, tensors_at
from .config import Config
from .types import WidthAssignment

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a safetensors file, whole or not at all."""
    with atomic_write(path) as half:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, half, metadata=dict(metadata))


def save_checkpoint(
    path: Path, theta: Mapping[str, Tensor], index: int, config: Config, given: WidthAssignment | None = None
) -> None:
    """Write the state after round ``index``, and what the policy has ``given`` for the next, so that the run can go on.

    Example:
        >>> import tempfile, torch
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_checkpoint(folder / "theta.safetensors", {"w": torch.ones(2)}, 4, Config())
        >>> load_checkpoint(folder / "theta.safetensors", Config())[1]
        4
    """
    ahead = (
        {} if given is None else {"given": json.dumps(asdict(given))}
    )  # the shortest digits that are the same number
    save_tensors(path, theta, {"round": str(index), "recipe": json.dumps(config.to_dict(), sort_keys=True), **ahead})


def load_checkpoint(path: Path, config: Config) -> tuple[dict[str, Tensor], int] | None:
    """Read the state and the index of its round; None where there is no checkpoint.

    Raises:
        ValueError: the file is damaged, or belongs to another recipe (the sentence names the first field that differs).
        OSError: it cannot be read.

    Example:
        >>> load_checkpoint(Path("nowhere.safetensors"), Config()) is None
        True
    """
    if not path.exists():
        return None
    try:
        tensors, words = tensors_at(path)
        saved, index = Config.from_dict(parse_json(words["recipe"])), int(words["round"])
        if not 0 <= index < saved.rounds:
            raise ValueError(f"its round is {index}; allowed is 0 to {saved.rounds - 1}")
    except (KeyError, ValueError) as error:
        raise ValueError(f"checkpoint {path} is damaged ({error_text(error)}); delete it to start afresh") from error
    for name, value in config.to_dict().items():
        if getattr(saved, name) != value:
            raise ValueError(
                f"checkpoint {path} was made with {name} = {getattr(saved, name)!r}, this recipe has {value!r}; "
                "use the same recipe or another file"
            )
    return tensors, index


def fitted(found: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state that was read, in the order of the network's names, if it is one of this network.

    What the server remembers beside it has " of " in its name; the memory of a tensor has that tensor's shape.

    Raises:
        ValueError: a tensor is missing, none of the network's, of another shape or type, or not finite.
    """
    memory = {name: t for name, t in found.items() if " of " in name}
    for name, t in memory.items():
        like = network.get(name.split(" of ", 1)[1], t)
        if t.shape != like.shape or not bool(torch.isfinite(t).all()):
            raise ValueError(f"tensor {short_repr(name)} has another shape than what it remembers, or is not finite")
    return {**checked_update({name: t for name, t in found.items() if name not in memory}, network), **memory}


def load_given(path: Path, participants: int) -> WidthAssignment | None:
    """What a checkpoint's policy has decided for the round after it; None where the file or the decision is missing.

    Raises:
        ValueError: the file is damaged, or does not hold a width from 0 to 1 for each participant.
    """
    if not path.exists():
        return None
    try:
        found = parse_json(tensors_at(path)[1].get("given", "null"))
        if found is None:
            return None
        widths, scores = (tuple(map(float, found[name])) for name in ("widths", "scores"))
        if len(widths) != participants or len(scores) not in (0, participants) or not all(0 <= w <= 1 for w in widths):
            raise ValueError(f"it holds no width from 0 to 1 for each of {participants} participants")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"checkpoint {path} is damaged ({error_text(error)}); delete it to start afresh") from error
    return WidthAssignment(widths, scores)
