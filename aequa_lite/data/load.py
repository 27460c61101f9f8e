"""Data sets as tensors on one device: uint8 until the moment of use, checked before anything is built on them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..rng import stream
from ..types import Dataset, Samples
from .readers import NAMES, NEEDS_NOTHING, Arrays, embedded, folder_of_data, leaf, npz, torchvision_set
from .text import frequent, tsv

__all__ = ["load"]


TOKENS = {2: ("int64",)}  # dtypes allowed by the number of axes, for text and for all else


PIXELS = {2: ("uint8", "float32"), 3: ("uint8",), 4: ("uint8",)}


def load(
    name: str | Path,
    *,
    root: str | Path | None = None,
    device: Any = None,
    seed: int = 0,
    validation: int | None = None,
) -> Dataset:
    """Load a data set as training, validation and test samples on one device.

    ``name``: "fashion-mini" (embedded, needs nothing), "fashion", "mnist", "cifar10", "cifar100", "svhn" (through
    torchvision, from ``root``, else AEQUA_DATA, else ~/.cache/aequa-lite; a file such as cifar10.npz there comes first,
    and its name says so), the path of an .npz file with x_train,
    y_train, x_test, y_test (images (n, h, w), (n, c, h, w) or (n, h, w, c) uint8; tables (n, d) uint8 or float32),
    of a LEAF FEMNIST folder, or of a folder with SST-2's train.tsv, test.tsv and, if it is there, dev.tsv. x becomes
    (n, c, h, w), (n, d) or, for text, (n, 56) int64 token ids whose words are ``data.words`` (at most 20,000, each at
    least twice in the training split); y int64. ``validation``: how many training samples
    are set aside by ``seed``, as class-balanced as can be, where the set brings no validation split; by default a
    sixth of n, at most max(5,000, n / 20), never more than 10,000, and never more than half of a class.

    Raises:
        FileNotFoundError: a file is missing, or cannot be downloaded.
        ValueError: an unknown name, a damaged file, wrong shapes or labels, an impossible device or validation.

    Example:
        >>> data = load("fashion-mini", device="cpu")
        >>> data.sizes, tuple(data.test.x.shape), data.labels[9]
        ({'train': 6000, 'validation': 2000, 'test': 4000}, (4000, 1, 28, 28), 'Ankle boot')

    Source: the sets' own publications; the way of setting aside is ours.
    """
    place, _ = _device(device), stream(seed)  # a bad device or seed is refused before any file is read
    name = _found(name, root)
    arrays = checked_arrays(_read(name, root))
    if validation is not None and arrays.validation is not None:
        raise ValueError(f"validation is {validation!r}, but {name} brings its own validation split; leave it out")
    digest = _digest(arrays)
    arrays = arrays if arrays.validation is not None else _set_aside(arrays, validation, seed)
    arrays = frequent(arrays) if arrays.words else arrays  # only now: the validation split adds no word
    groups = {"train": arrays.groups}
    splits = {k: _samples(*pair, arrays.classes, groups.get(k), place) for k, pair in arrays.splits.items()}
    return Dataset(name=Path(name).name, sha256=digest, labels=arrays.labels, words=arrays.words, **splits)


def _found(name: str | Path, root: str | Path | None) -> str | Path:
    """The .npz file that stands for a known set in the folder of data, where there is one; else the name itself."""
    own = folder_of_data(root) / f"{name}.npz"
    return own if name in NAMES and own.is_file() else name


def _read(name: str | Path, root: str | Path | None) -> Arrays:
    """Find the reader that a name belongs to."""
    if name == "fashion-mini":
        return embedded()
    if name in NAMES:
        return torchvision_set(str(name), root)
    path = Path(name).expanduser()
    if path.suffix == ".npz":
        return npz(path)
    if path.is_dir():
        return tsv(path) if any(path.glob("*.tsv")) else leaf(path)
    known = ["fashion-mini", *NAMES]
    near = get_close_matches(str(name).lower(), known, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"name is {str(name)!r}; the nearest known one is {near!r}, allowed are {', '.join(known)}, the path of an "
        f".npz file or of a folder as LEAF or SST-2 has it ({NEEDS_NOTHING})"
    )


def _device(device: Any) -> torch.device:
    """The device that was asked for, or the GPU where there is one; refused where torch cannot use it."""
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
        torch.empty(0, device=place)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(
            f"device is {device!r}, which torch cannot use here; allowed are 'cpu' and, with a GPU, 'cuda' or "
            "'cuda:0': leave it out to take the best there is"
        ) from error
    return place


def checked_arrays(arrays: Arrays) -> Arrays:
    """Refuse wrong shapes, types and labels; bring images to (n, c, h, w)."""
    shape = arrays.train[0].shape[1:]
    for split, (x, y) in arrays.splits.items():
        _check_inputs(f"x_{split}", x, shape, TOKENS if arrays.words else PIXELS)
        if y.dtype.kind not in "iu" or y.shape != (len(x),):
            raise ValueError(
                f"y_{split} is {y.dtype} of shape {y.shape}; allowed are whole numbers of shape ({len(x)},)"
            )
    classes = arrays.classes or _count(arrays.train[1])
    for split, (_, y) in arrays.splits.items():
        if y.min() < 0 or y.max() >= classes:
            raise ValueError(f"y_{split} holds labels {y.min()} to {y.max()}; allowed are 0 to {classes - 1}")
    images = {split: (channels_first(x), y.astype(np.int64)) for split, (x, y) in arrays.splits.items()}
    return replace(arrays, classes=classes, **images)


def _check_inputs(name: str, x: np.ndarray, shape: tuple[int, ...], kinds: dict[int, tuple[str, ...]]) -> None:
    """Refuse inputs that are neither pixels nor tokens, empty, or unlike the training inputs."""
    allowed = kinds.get(x.ndim, ("uint8",))
    if str(x.dtype) not in allowed:
        remedy = "; pixels from 0 to 1 become uint8 by np.rint(255 * x).astype('uint8')" if x.dtype.kind == "f" else ""
        raise ValueError(f"{name} is {x.dtype} with {x.ndim} axes; allowed is {' or '.join(allowed)}{remedy}")
    if x.ndim not in kinds or not x.size or x.shape[1:] != shape:
        raise ValueError(
            f"{name} has shape {x.shape}; allowed is (n, h, w), (n, c, h, w), (n, h, w, c) or (n, d), none of them 0, "
            "and but for n the same in all splits"
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError(f"{name} holds numbers that are not finite; allowed are finite ones only")


def _count(y: np.ndarray) -> int:
    """The number of classes of labels that must be 0, 1, ... without a gap."""
    found = np.unique(y)
    if len(found) < 2 or not np.array_equal(found, np.arange(len(found))):
        raise ValueError(
            f"y_train holds {len(found)} labels from {found[0]} to {found[-1]}; allowed are at least two, 0, 1, 2, ... "
            "without a gap: renumber them by np.unique(y, return_inverse=True)"
        )
    return len(found)


def channels_first(x: np.ndarray) -> np.ndarray:
    """Images as (n, c, h, w); channels are last where the last axis is 1, 3 or 4 and the second is longer."""
    if x.ndim == 3:
        return x[:, None]
    last = x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] > x.shape[3]
    return x.transpose(0, 3, 1, 2) if last else x


def _digest(arrays: Arrays) -> str:
    """SHA-256 of all arrays as they were read: the same data, the same hash, whatever is set aside."""
    total = hashlib.sha256("\n".join(arrays.words).encode())
    for split, pair in arrays.splits.items():
        for part in (*pair, *([arrays.groups] if split == "train" and arrays.groups is not None else [])):
            total.update(f"{split} {part.dtype} {part.shape}".encode())
            total.update(np.ascontiguousarray(part).data)
    return total.hexdigest()


def _set_aside(arrays: Arrays, size: int | None, seed: int) -> Arrays:
    """Move a class-balanced part of the training split to a validation split."""
    (x, y), sizes = arrays.train, np.bincount(arrays.train[1], minlength=arrays.classes)
    most = int((sizes // 2).sum())  # at least half of every class stays for training
    wanted = min(len(y) // 6, 10_000, max(5_000, len(y) // 20), most) if size is None else size
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= most:
        raise ValueError(
            f"validation is {size!r}; of these {len(y):,} training samples it can set aside a whole number from 1 to "
            f"{most:,} (at most half of each class)"
        )
    rng = stream(seed, "data", "validation")
    orders = [rng.permutation(np.flatnonzero(y == c)) for c in range(arrays.classes)]
    chosen = np.zeros(len(y), dtype=bool)
    for order, count in zip(orders, _level(sizes // 2, wanted), strict=True):
        chosen[order[:count]] = True
    groups = None if arrays.groups is None else arrays.groups[~chosen]
    return replace(arrays, train=(x[~chosen], y[~chosen]), validation=(x[chosen], y[chosen]), groups=groups)


def _level(caps: np.ndarray, total: int) -> np.ndarray:
    """As equal counts as can be with this total, none above its cap; earlier classes take what does not divide."""
    counts = np.zeros_like(caps)
    while (left := total - counts.sum()) > 0:
        open_ = np.flatnonzero(counts < caps)
        each = max(left // len(open_), 1)
        chosen = open_[:left]
        counts[chosen] += np.minimum(each, caps[chosen] - counts[chosen])
    return counts


def _samples(x: np.ndarray, y: np.ndarray, classes: int, groups: np.ndarray | None, place: torch.device) -> Samples:
    """One split as tensors on the device."""
    owners = None if groups is None else torch.from_numpy(np.ascontiguousarray(groups)).to(place)
    tensors = (torch.from_numpy(np.ascontiguousarray(part)).to(place) for part in (x, y))
    return Samples(*tensors, classes, owners)
