"""The data sets that torchvision knows: read where they are, downloaded by torchvision where they are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .sources import NEEDS_NOTHING, Arrays, reading

__all__ = ["NAMES", "folder_of_data", "torchvision_set"]

# Our name -> torchvision's class; a table of names, since importing torchvision takes seconds that not everyone owes.
NAMES = {"fashion": "FashionMNIST", "mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN"}


def folder_of_data(root: str | Path | None = None) -> Path:
    """Return the folder of the data sets: the argument, else AEQUA_DATA, else ~/.cache/aequa-lite.

    Example:
        >>> folder_of_data("data").name
        'data'
    """
    return Path(root or os.environ.get("AEQUA_DATA") or Path.home() / ".cache" / "aequa-lite").expanduser()


def torchvision_set(name: str, root: str | Path | None = None) -> Arrays:
    """Read a data set through torchvision; download it, with a progress bar, only where files are missing.

    Pickled files (CIFAR) are opened by torchvision only after their MD5 was compared with the published one; the
    other formats hold no code.

    Raises:
        FileNotFoundError: files are missing and cannot be downloaded.
        ValueError: the files are there, but damaged.

    Example:
        >>> torchvision_set("mnist", "/dev/null/x")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: mnist is not complete in /dev/null/x and could not be downloaded ...

    Source: torchvision's own readers and addresses.
    """
    from torchvision import datasets  # late: see NAMES

    kind, folder = getattr(datasets, NAMES[name]), folder_of_data(root)
    if not all(file.exists() for file in _files(kind, folder)):
        _download(name, kind, folder)
    with reading(f"{name} in {folder}"):
        train, test = (_open(kind, folder, split) for split in ("train", "test"))
        names = getattr(train, "classes", "0123456789")
        return Arrays(_pair(train), _pair(test), labels=tuple(names), classes=len(names))


def _files(kind: Any, folder: Path) -> list[Path]:
    """The files without which a data set has to be downloaded."""
    if hasattr(kind, "split_list"):  # SVHN
        return [folder / kind.split_list[split][1] for split in ("train", "test")]
    if hasattr(kind, "base_folder"):  # CIFAR
        names = [name for name, _ in (*kind.train_list, *kind.test_list)]
        return [folder / kind.base_folder / name for name in (*names, kind.meta["filename"])]
    return [folder / kind.__name__ / "raw" / name.removesuffix(".gz") for name, _ in kind.resources]


def _open(kind: Any, folder: Path, split: str, download: bool = False) -> Any:
    """One split as torchvision's own object."""
    which = {"split": split} if hasattr(kind, "split_list") else {"train": split == "train"}
    return kind(str(folder), download=download, **which)


def _download(name: str, kind: Any, folder: Path) -> None:
    """Let torchvision download; say what to do where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            _open(kind, folder, split, download=True)
    except Exception as error:  # no network, no such page, no place to write, a broken download
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{name} is not complete in {folder} and could not be downloaded ({reason}); "
            f"put its files there, or name the folder in root or AEQUA_DATA ({NEEDS_NOTHING})"
        ) from error


def _pair(split: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels as arrays, whatever the reader calls them."""
    return np.asarray(split.data), np.asarray(split.labels if hasattr(split, "labels") else split.targets)
