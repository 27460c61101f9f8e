"""A run that was killed goes on: the shared network after a round, in one file that is written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import whole
from .records import Given, Recipe

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a safetensors file, whole or not at all."""
    with whole(path) as half:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, half, metadata=dict(metadata))


def save_checkpoint(
    path: Path, theta: Mapping[str, Tensor], index: int, recipe: Recipe, given: Given | None = None
) -> None:
    """Write the state after round ``index``, and what the policy has ``given`` for the next, so that the run can go on.

    Example:
        >>> import tempfile, torch
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_checkpoint(folder / "theta.safetensors", {"w": torch.ones(2)}, 4, Recipe())
        >>> load_checkpoint(folder / "theta.safetensors", Recipe())[1]
        4
    """
    ahead = (
        {} if given is None else {"given": json.dumps(asdict(given))}
    )  # the shortest digits that are the same number
    save_tensors(path, theta, {"round": str(index), "recipe": json.dumps(recipe.to_dict(), sort_keys=True), **ahead})


def load_checkpoint(path: Path, recipe: Recipe) -> tuple[dict[str, Tensor], int] | None:
    """Read the state and the index of its round; None where there is no checkpoint.

    Raises:
        ValueError: the file is damaged, or belongs to another recipe (the sentence names the first field that differs).

    Example:
        >>> load_checkpoint(Path("nowhere.safetensors"), Recipe()) is None
        True
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        saved, index = json.loads(metadata["recipe"]), int(metadata["round"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {path} is damaged ({error}); delete it to start afresh") from error
    for name, value in recipe.to_dict().items():
        if saved.get(name) != value:
            raise ValueError(
                f"checkpoint {path} was made with {name} = {saved.get(name)!r}, this recipe has {value!r}; "
                "use the same recipe or another file"
            )
    return tensors, index


def load_given(path: Path) -> Given | None:
    """What a checkpoint's policy has decided for the round after it; None where the file or the decision is missing."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        found = json.loads(file.metadata().get("given", "null"))
    return found and Given(tuple(found["widths"]), tuple(found["scores"]))
