"""Data sets as tensors on one device, checked before anything is built on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import registry
from .._check import Count, checked, nearest, one_of, refusal
from .._parallel import default_device, usable_device  # noqa: F401  (default_device is public here)
from ..config import stream
from ..types import Dataset, Samples
from . import readers
from .readers import Array, Arrays, require
from .tabular import csv_table

SHAPES = "shape (n, h, w), (n, c, h, w), (n, h, w, c) or (n, d), none of them 0, and but for n the same in all splits"
TOKENS = {2: ("int64",)}  # number of axes -> types, for text
PIXELS = {2: ("uint8", "float32"), 3: ("uint8",), 4: ("uint8",)}  # for images and tables


@checked
def load(
    name: str | Path,
    *,
    root: str | Path | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    validation: Count | None = None,
    **options: Any,
) -> Dataset:
    """Load a data set as training, validation and test samples on one device.

    Args:
        name: "fashion-mini" or "hospitals" (embedded); "fashion", "mnist", "cifar10",
            "cifar100" or "svhn" (through torchvision; a file such as cifar10.npz in the
            folder of data sets comes first); or the path of a .csv file, of an .npz file
            with x_train, y_train, x_test and y_test (images (n, h, w), (n, c, h, w) or
            (n, h, w, c) uint8, tables (n, d) uint8 or float32), of a LEAF FEMNIST folder,
            or of a folder with SST-2's train.tsv, test.tsv and, if it exists, dev.tsv.
        root: The folder of data sets; else AEQUA_DATA, else ~/.cache/aequa-lite.
        device: Where the tensors lie; by default :func:`~aequa_lite.data.default_device`.
        seed: Decides which samples are set aside for validation, and for a table which
            rows belong to which split.
        validation: How many are set aside, as class-balanced as can be, if the data set
            has no validation split; by default a sixth of n, at most max(5,000, n / 20),
            10,000 and half of each class. Give data of unequal classes a split of their
            own if the validation samples shall have them as often as the test samples.
        options: For a .csv file, `label`, `participant` and the other arguments of
            :func:`~aequa_lite.data.csv_table`; for "hospitals", `whole` and `fractions`.

    Returns:
        x as (n, c, h, w), (n, d) or, for text, (n, 56) int64 token ids of
        `dataset.words`; y as (n,) int64.

    Raises:
        FileNotFoundError: A file is missing, or cannot be downloaded.
        ValueError: The name or an option is unknown, a file is damaged, shapes or labels
            do not fit, or the device cannot be used.

    Example:
        >>> dataset = load("fashion-mini", device="cpu")
        >>> dataset.sizes, tuple(dataset.test.x.shape)
        ({'train': 6000, 'validation': 2000, 'test': 4000}, (4000, 1, 28, 28))

    References:
        The data sets' own publications; how samples are set aside is our choice.
    """
    place, _ = usable_device(device), stream(seed)  # a bad device or seed is refused before any file is read
    name, own = str(name), readers.data_folder(root) / f"{name}.npz"
    name = str(own) if name in readers.NAMES and own.is_file() else name
    arrays = checked_arrays(_read(name, root, seed, options))
    if validation is not None and arrays.validation is not None:
        raise refusal("validation", f"left out, since {name} has its own validation split", validation)
    digest = arrays.sha256 or _digest(arrays)
    arrays = arrays if arrays.validation is not None else _set_aside(arrays, validation, seed)
    arrays = readers.frequent(arrays) if arrays.words else arrays  # only now: the validation split adds no word
    splits = {k: _samples(*pair, arrays.classes, arrays.groups.get(k), place) for k, pair in arrays.splits.items()}
    names = {k: getattr(arrays, k) for k in ("labels", "words", "participants", "encoder")}
    return Dataset(name=Path(name).name, sha256=digest, **names, **splits)


def _read(name: str, root: str | Path | None, seed: int, options: Mapping[str, Any]) -> Arrays:
    """Read a data set; an option that its reader does not have is refused."""
    reader = _reader(name, root)
    known = [each for each in signature(reader).parameters if each != "seed"]
    seeded = {"seed": seed} if "seed" in signature(reader).parameters else {}
    for option in options:
        if not known:
            raise refusal(f"options of {name!r}", "left out", option)
        one_of(f"options of {name!r}", option, known)
    return reader(**options, **seeded)


def _reader(name: str, root: str | Path | None) -> Callable[..., Arrays]:
    """Return the reader that a name belongs to."""
    path, known = Path(name).expanduser(), [*registry.TABLES["data"], *readers.NAMES]
    if name in registry.TABLES["data"]:
        return registry.lookup("data", name)
    if name in readers.NAMES:
        return partial(readers.torchvision_set, name, root)
    if path.suffix.lower() in (".npz", ".csv"):
        return partial(readers.npz if path.suffix.lower() == ".npz" else csv_table, path)
    if path.is_dir():
        return partial(readers.tsv if any(path.glob("*.tsv")) else readers.leaf, path)
    allowed = f"one of {', '.join(known)}, or the path of a .csv or .npz file or of a folder as LEAF or SST-2 has it"
    near = nearest(name.lower(), known)
    raise refusal("name", allowed, name, f"the nearest is {near!r} ({readers.REMEDY})")


def checked_arrays(arrays: Arrays) -> Arrays:
    """Refuse wrong shapes, types and labels; return images as (n, c, h, w)."""
    first, kinds = arrays.train[0], TOKENS if arrays.words else PIXELS
    for split, (x, y) in arrays.splits.items():
        what = f"`x_{split}`"
        require(x.dtype == first.dtype, what, f"be {first.dtype} as `x_train` is", x.dtype)
        allowed = kinds.get(x.ndim, ("uint8",))
        remedy = "pixels from 0 to 1 become uint8 by np.rint(255 * x).astype('uint8')" if x.dtype.kind == "f" else ""
        require(str(x.dtype) in allowed, what, f"be {' or '.join(allowed)}", f"{x.dtype} with {x.ndim} axes", remedy)
        require(x.ndim in kinds and x.size and x.shape[1:] == first.shape[1:], what, f"have {SHAPES}", x.shape)
        require(x.dtype.kind != "f" or np.isfinite(x).all(), what, "hold finite numbers", "NaN or infinity")
        right, got = y.dtype.kind in "iu" and y.shape == (len(x),), f"{y.dtype} of shape {y.shape}"
        require(right, f"`y_{split}`", f"be whole numbers of shape ({len(x)},)", got)
    classes = arrays.classes or _count_classes(arrays.train[1])
    for split, (_, y) in arrays.splits.items():
        right, got = y.min() >= 0 and y.max() < classes, f"{y.min()} to {y.max()}"
        require(right, f"`y_{split}`", f"hold labels from 0 to {classes - 1}", got)
    pairs = {split: (_channels_first(x), y.astype(np.int64)) for split, (x, y) in arrays.splits.items()}
    return replace(arrays, classes=classes, **pairs)


def _count_classes(y: Array) -> int:
    """The number of classes of labels that must be 0, 1, ... without a gap."""
    found = np.unique(y)
    right, got = np.array_equal(found, np.arange(max(2, len(found)))), f"{len(found)} from {found[0]} to {found[-1]}"
    remedy = "renumber them by np.unique(y, return_inverse=True)"
    require(right, "`y_train`", "hold two or more labels 0, 1, 2, ... without a gap", got, remedy)
    return len(found)


def _channels_first(x: Array) -> Array:
    """Images as (n, c, h, w); channels are last if the last axis is 1, 3 or 4 and the second is longer."""
    if x.ndim == 3:
        return x[:, None]
    last = x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] > x.shape[3]
    return x.transpose(0, 3, 1, 2) if last else x


def _digest(arrays: Arrays) -> str:
    """SHA-256 of all arrays as they were read, whatever is set aside."""
    total = hashlib.sha256("\n".join(arrays.words).encode())
    for split, pair in arrays.splits.items():
        for part in (*pair, *([arrays.groups[split]] if split in arrays.groups else [])):
            total.update(f"{split} {part.dtype} {part.shape}".encode())
            total.update(np.ascontiguousarray(part).data)
    return total.hexdigest()


def _set_aside(arrays: Arrays, size: int | None, seed: int) -> Arrays:
    """Move a class-balanced part of the training split to a validation split."""
    (x, y), sizes = arrays.train, np.bincount(arrays.train[1], minlength=arrays.classes)
    most = int((sizes // 2).sum())  # at least half of every class stays for training
    if not most:
        raise refusal("validation", "in the data, since no class has two training samples", "none")
    usual = min(max(len(y) // 6, 1), 10_000, max(5_000, len(y) // 20), most)
    wanted = usual if size is None else size
    if wanted > most:
        raise refusal("validation", f"a whole number in [1, {most}] (at most half of each class)", size)
    rng = stream(seed, "data", "validation")
    orders = [rng.permutation(np.flatnonzero(y == c)) for c in range(arrays.classes)]
    chosen = np.zeros(len(y), dtype=bool)
    for order, count in zip(orders, _level(sizes // 2, wanted), strict=True):
        chosen[order[:count]] = True
    owner = arrays.groups.get("train")
    groups = {} if owner is None else {"train": owner[~chosen], "validation": owner[chosen]}
    return replace(arrays, train=(x[~chosen], y[~chosen]), validation=(x[chosen], y[chosen]), groups=groups)


def _level(caps: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """As equal counts as can be with this total, none above its cap; earlier classes take what does not divide."""
    _, owner = np.nonzero(np.arange(caps.max())[:, None] < caps)  # one for each in turn
    return np.bincount(owner[:total], minlength=len(caps))


def _samples(x: Array, y: Array, classes: int, groups: Array | None, place: torch.device) -> Samples:
    """One split as tensors on the device."""
    parts = (x, y) if groups is None else (x, y, groups)
    x, y, *owners = (torch.from_numpy(np.ascontiguousarray(each)).to(place) for each in parts)
    return Samples(x, y, classes, *owners)
