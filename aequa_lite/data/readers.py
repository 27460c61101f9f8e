"""Files become arrays: the embedded data set, any .npz file, and LEAF's own JSON folder. Nothing here unpickles."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from .._io import error_text, read_limited, regular_file, short_repr

__all__ = ["Arrays", "NAMES", "embedded", "folder_of_data", "leaf", "npz", "torchvision_set"]


NEEDS_NOTHING = "'fashion-mini' is embedded and needs no file"


FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


FEMNIST = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


EMBEDDED = Path(__file__).parent / "embedded" / "fashion-mini.npz"


SHA256 = "e4b7310970a56a49fb51063ab362adaca0d8f48dd2a94edc1caf5d67e5c4ae7e"


Pair = tuple[np.ndarray, np.ndarray]


MOST_ARRAY_BYTES = 1 << 32  # of all arrays of an .npz file; the largest known set, CIFAR-10, has 0.2 GB


MOST_SWOLLEN = (
    100  # so many times its own size a compressed file may become, beyond the first 64 MiB; pictures become 4
)


MOST_LEAF_BYTES = 1 << 29  # of one file; LEAF's own have a third of it


@dataclass(frozen=True)
class Arrays:
    """Hold what a reader found, before any check of shapes and labels.

    Each split is (x, y); ``groups``: (training samples,) the owner of each; ``classes`` = 0 where labels tell it;
    ``words``: for text, the word of each token id.

    Example:
        >>> Arrays(train=(np.zeros((2, 4, 4)), np.arange(2)), test=(np.zeros((1, 4, 4)), np.arange(1))).classes
        0
    """

    train: Pair
    test: Pair
    validation: Pair | None = None
    groups: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    classes: int = 0
    words: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, Pair]:
        """The splits that are there, by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: pair for name, pair in found.items() if pair is not None}


@contextmanager
def reading(what: str | Path) -> Iterator[None]:
    """Turn whatever a reader chokes on into one sentence with the remedy."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what} is missing; check the path ({NEEDS_NOTHING})") from error
    except (
        Exception
    ) as error:  # to the one who asked, all of it means the same: the file is damaged or not of this kind
        raise ValueError(
            f"{what} cannot be read ({type(error).__name__}: {error_text(error)}); replace it by an intact one ({NEEDS_NOTHING})"
        ) from error


def embedded() -> Arrays:
    """Read the embedded fashion-mini after its SHA-256 was checked.

    Raises:
        FileNotFoundError: the package was installed without its data.
        ValueError: the file is damaged.

    Example:
        >>> embedded().train[0].shape
        (6000, 28, 28)

    Source: Fashion-MNIST (MIT, Zalando SE); the draw is ours, its script is ``scripts/make_fashion_mini.py``.
    """
    with reading(EMBEDDED):
        content = EMBEDDED.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(f"{EMBEDDED} is damaged (its SHA-256 is {found}, not {SHA256}); install aequa-lite again")
    return _npz_pairs(EMBEDDED, partial(io.BytesIO, content), FASHION)


def npz(path: str | Path) -> Arrays:
    """Read x_train, y_train, x_test, y_test and, where they are there, x_validation, y_validation.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds pickled objects, or lacks one of the arrays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.npz"
        >>> np.savez(path, x_train=np.eye(2), y_train=np.arange(2), x_test=np.eye(2), y_test=np.arange(2))
        >>> npz(path).validation is None
        True
    """
    return _npz_pairs(Path(path), partial(unswollen, path))


def unswollen(path: str | Path) -> IO[bytes]:
    """Open an .npz file, once it is certain that its arrays do not burst the memory: a few bytes can promise terabytes.

    Raises:
        ValueError: it is no archive, no ordinary file, or its arrays are too large.
    """
    file = regular_file(path).open("rb")
    try:
        with zipfile.ZipFile(file) as archive:
            size, promised = file.seek(0, io.SEEK_END), sum(each.file_size for each in archive.infolist())
        if promised > min(MOST_ARRAY_BYTES, (1 << 26) + MOST_SWOLLEN * size):
            raise ValueError(f"its {size} bytes promise arrays of {promised}, which is more than is believed")
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _npz_pairs(path: Path, opened: Callable[[], IO[bytes]], labels: tuple[str, ...] = ()) -> Arrays:
    """Read the arrays of an .npz file; a name that is missing is named."""
    # The file is opened here, not by numpy, which leaves a damaged one open.
    with reading(path), opened() as file, np.load(file, allow_pickle=False) as content:
        known = [f"{kind}_{split}" for split in ("train", "test", "validation") for kind in "xy"]
        found = {name: content[name] for name in known if name in content.files}
    needed = known if found.keys() & known[4:] else known[:4]
    if missing := [name for name in needed if name not in found]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; needed are {', '.join(needed)} ({NEEDS_NOTHING})")
    pairs = [(found[x], found[y]) for x, y in zip(needed[::2], needed[1::2], strict=True)]
    return Arrays(*pairs, labels=labels)


def leaf(folder: str | Path) -> Arrays:
    """Read FEMNIST from the folder that LEAF writes: train/*.json and test/*.json, grouped by writer.

    Pixels keep LEAF's scale and polarity, round(255 x) with 255 = white paper; x is (samples, 28, 28). ``groups`` is
    the place of each training sample's writer among the writers of the training files, in the files' order.

    Raises:
        FileNotFoundError: there is no train/*.json or no test/*.json.
        ValueError: a file is damaged, or a pixel or label is out of range.

    Example:
        >>> leaf("no/such/folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: no/such/folder holds no train/*.json; ...

    Source: LEAF (Caldas et al.), its JSON format and its 62 classes.
    """
    x, y, writers = _leaf_split(Path(folder), "train")
    x_test, y_test, _ = _leaf_split(Path(folder), "test")
    return Arrays((x, y), (x_test, y_test), groups=writers, labels=FEMNIST, classes=len(FEMNIST))


def _leaf_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All samples of one split, writer after writer."""
    files = sorted((folder / split).glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no {split}/*.json; LEAF writes train/ and test/ ({NEEDS_NOTHING})")
    numbers: dict[str, int] = {}
    parts = [part for file in files for part in _writers(file, numbers)]
    if not parts:
        raise ValueError(f"{folder}/{split} holds no writer; make the folder again with LEAF ({NEEDS_NOTHING})")
    x, y, writers = (np.concatenate(column) for column in zip(*parts, strict=True))
    return x.reshape(-1, 28, 28), y, writers


def _writers(file: Path, numbers: dict[str, int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The samples of each writer of one file; ``numbers`` gives every writer its number at first sight."""
    with reading(file):
        content = json.loads(read_limited(file, MOST_LEAF_BYTES))
        sizes = dict(zip(content["users"], content["num_samples"], strict=True))
        theirs = dict(content["user_data"])
    for writer, size in sizes.items():
        name = writer if isinstance(writer, str) and writer.isprintable() and len(writer) < 80 else short_repr(writer)
        with reading(f"writer {name} in {file}"):
            x = np.asarray(theirs[writer]["x"], dtype=np.float64)  # (size, 784)
            y = np.asarray(theirs[writer]["y"])
        whole = type(size) is int and y.dtype.kind in "iu" and x.shape == (size, 784) and y.shape == (size,)
        if not (whole and ((x >= 0) & (x <= 1)).all() and ((y >= 0) & (y < len(FEMNIST))).all()):
            raise ValueError(
                f"writer {name} in {file} does not hold {short_repr(size)} rows of 784 pixels in [0, 1] and as many whole labels "
                f"from 0 to 61; make the folder again with LEAF ({NEEDS_NOTHING})"
            )
        number = numbers.setdefault(writer, len(numbers))
        yield np.rint(255 * x).astype(np.uint8), y.astype(np.int64), np.full(size, number)


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
    if not all(file.exists() for file in _set_files(kind, folder)):
        _download(name, kind, folder)
    with reading(f"{name} in {folder}"):
        train, test = (_open_split(kind, folder, split) for split in ("train", "test"))
        names = getattr(train, "classes", "0123456789")
        return Arrays(_image_pair(train), _image_pair(test), labels=tuple(names), classes=len(names))


def _set_files(kind: Any, folder: Path) -> list[Path]:
    """The files without which a data set has to be downloaded."""
    if hasattr(kind, "split_list"):  # SVHN
        return [folder / kind.split_list[split][1] for split in ("train", "test")]
    if hasattr(kind, "base_folder"):  # CIFAR
        names = [name for name, _ in (*kind.train_list, *kind.test_list)]
        return [folder / kind.base_folder / name for name in (*names, kind.meta["filename"])]
    return [folder / kind.__name__ / "raw" / name.removesuffix(".gz") for name, _ in kind.resources]


def _open_split(kind: Any, folder: Path, split: str, download: bool = False) -> Any:
    """One split as torchvision's own object."""
    which = {"split": split} if hasattr(kind, "split_list") else {"train": split == "train"}
    return kind(str(folder), download=download, **which)


def _download(name: str, kind: Any, folder: Path) -> None:
    """Let torchvision download; say what to do where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            _open_split(kind, folder, split, download=True)
    except Exception as error:  # no network, no such page, no place to write, a broken download
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{name} is not complete in {folder} and could not be downloaded ({reason}); "
            f"put its files there, or name the folder in root or AEQUA_DATA ({NEEDS_NOTHING})"
        ) from error


def _image_pair(split: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels as arrays, whatever the reader calls them."""
    return np.asarray(split.data), np.asarray(split.labels if hasattr(split, "labels") else split.targets)
