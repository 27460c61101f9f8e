"""Files become arrays: the embedded set, .npz files, LEAF's folders, SST-2's sentences, torchvision's sets."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._check import Count, checked, one_of
from .._io import error_text, fault, printable, read_limited, regular_file, short_repr

REMEDY = "'fashion-mini' is embedded and needs no file"
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FEMNIST = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
EMBEDDED = Path(__file__).parent / "embedded" / "fashion-mini.npz"
SHA256 = "e4b7310970a56a49fb51063ab362adaca0d8f48dd2a94edc1caf5d67e5c4ae7e"
MOST_ARRAY_BYTES = 1 << 32  # of all arrays of an .npz file; the largest known set, CIFAR-10, has 0.2 GB
MOST_EXPANSION = 100  # of a compressed file beyond the first 64 MiB; images expand 4 times
MOST_LEAF_BYTES = 1 << 29  # of one file; LEAF's own have a third of it

# Our name -> torchvision's class. A table of names, since importing torchvision takes seconds.
NAMES = {"fashion": "FashionMNIST", "mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN"}

Array = NDArray[Any]
Pair = tuple[Array, Array]


@checked
@dataclass(frozen=True)
class Arrays:
    """Hold what a reader found, before shapes and labels are checked.

    Args:
        train: x and y of the training split.
        test: x and y of the test split.
        validation: x and y of the validation split, if there is one.
        groups: For a split by name, (samples,) code of each sample's natural owner.
        labels: Name of each class.
        classes: Number of classes; 0 if the labels tell it.
        words: For text, the word of each token id.
        participants: Name of each natural owner, by its code.
        encoder: For a table, the Encoder that turns records into features.
        sha256: Of what was read, if the splits depend on a seed.

    Example:
        >>> images, y = np.zeros((2, 4, 4)), np.arange(2)
        >>> list(Arrays(train=(images, y), test=(images, y)).splits)
        ['train', 'test']
    """

    train: Pair
    test: Pair
    validation: Pair | None = None
    groups: Mapping[str, Array] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    classes: int = 0
    words: tuple[str, ...] = ()
    participants: tuple[str, ...] = ()
    encoder: Callable[..., Tensor] | None = None
    sha256: str = ""

    @property
    def splits(self) -> dict[str, Pair]:
        """x and y of each split that exists, by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: pair for name, pair in found.items() if pair is not None}


@contextmanager
def reading(what: str | Path) -> Iterator[None]:
    """Turn every error while a file is read into one sentence with a remedy."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what} is missing; check the path ({REMEDY})") from error
    except Exception as error:  # whatever it is, the file is damaged or of another kind
        reason = f"{type(error).__name__}: {error_text(error)}"
        raise ValueError(f"{what} cannot be read ({reason}); replace it by an intact one ({REMEDY})") from error


def require(holds: object, what: str, must: str, got: object, remedy: str = "") -> None:
    """Refuse data of which something does not hold."""
    if not holds:
        raise fault(what, must, got, remedy)


def intact(path: Path, sha256: str) -> bytes:
    """Return the bytes of a file of this package, after their SHA-256 was checked."""
    with reading(path):
        content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{path} is damaged (its SHA-256 is {found}, not {sha256}); install aequa-lite again")
    return content


def embedded() -> Arrays:
    """Read the embedded fashion-mini.

    Raises:
        FileNotFoundError: The package was installed without its data.
        ValueError: The file is damaged: its SHA-256 is checked.

    Example:
        >>> embedded().train[0].shape
        (6000, 28, 28)

    References:
        Fashion-MNIST (MIT, Zalando SE); `scripts/make_fashion_mini.py` draws the subset.
    """
    intact(EMBEDDED, SHA256)
    return replace(npz(EMBEDDED), labels=FASHION)


@checked
def npz(path: str | Path) -> Arrays:
    """Read x_train, y_train, x_test and y_test of an .npz file.

    If they exist, x_validation and y_validation are read too, and `participant`,
    (training samples,): the natural owner of each, a whole number or a name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds pickled objects, or lacks an array.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.npz"
        >>> x, y = np.eye(2), np.arange(2)
        >>> np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y, participant=["a", "b"])
        >>> npz(path).participants
        ('a', 'b')
    """
    known = [f"{kind}_{split}" for split in ("train", "test", "validation") for kind in "xy"]
    # The file is opened here, not by numpy, which leaves a damaged one open.
    with reading(path), open_npz(path) as file, np.load(file, allow_pickle=False) as content:
        found = {name: content[name] for name in (*known, "participant") if name in content.files}
    needed = known if found.keys() & known[4:] else known[:4]
    missing = ", ".join(name for name in needed if name not in found)
    require(not missing, path, f"hold {', '.join(needed)}", f"none of {missing}", REMEDY)
    pairs = [(found[x], found[y]) for x, y in zip(needed[::2], needed[1::2], strict=True)]
    if "participant" not in found:
        return Arrays(*pairs)
    owner, samples = found["participant"], found["y_train"].size
    right = owner.dtype.kind in "iuU" and owner.shape == (samples,)
    must = f"hold a whole number or a name for each of {samples} training samples"
    require(right, f"`participant` of {path}", must, f"{owner.dtype} of shape {owner.shape}")
    names, codes = np.unique(owner, return_inverse=True)
    return Arrays(*pairs, groups={"train": codes}, participants=tuple(map(str, names.tolist())))


@contextmanager
def open_npz(path: str | Path) -> Iterator[IO[bytes]]:
    """Open an .npz file whose arrays fit into memory; a few bytes can announce terabytes.

    Raises:
        ValueError: It is no archive, no regular file, or its arrays are too large.
    """
    with regular_file(path).open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            size, total = file.seek(0, io.SEEK_END), sum(each.file_size for each in archive.infolist())
        if total > min(MOST_ARRAY_BYTES, (1 << 26) + MOST_EXPANSION * size):
            raise ValueError(f"its {size} bytes announce arrays of {total}, which is more than is allowed")
        file.seek(0)
        yield file


@checked
def leaf(folder: str | Path) -> Arrays:
    """Read FEMNIST as LEAF writes it: train/*.json and test/*.json, grouped by writer.

    Pixels keep LEAF's scale and polarity, round(255 x) with 255 = white paper; x is
    (samples, 28, 28). The code of a writer is its place among the writers of the training
    files, in the files' order.

    Raises:
        FileNotFoundError: There is no train/*.json or no test/*.json.
        ValueError: A file is damaged, or a pixel or label is out of range.

    Example:
        >>> leaf("no/such/folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: no/such/folder holds no train/*.json; ...

    References:
        LEAF (Caldas et al. 2018), its JSON format and its 62 classes.
    """
    x, y, codes, writers = _leaf_split(Path(folder), "train")
    x_test, y_test, *_ = _leaf_split(Path(folder), "test")
    groups = {"train": codes}
    return Arrays((x, y), (x_test, y_test), None, groups, FEMNIST, len(FEMNIST), participants=writers)


def _leaf_split(folder: Path, split: str) -> tuple[Array, Array, Array, tuple[str, ...]]:
    """All samples of one split, writer after writer; the writers' codes and names."""
    files = sorted((folder / split).glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no {split}/*.json; LEAF writes train/ and test/ ({REMEDY})")
    codes: dict[str, int] = {}
    parts = [part for file in files for part in _writers(file, codes)]
    require(parts, f"{folder}/{split}", "hold a writer", "none", "make the folder again with LEAF")
    x, y, owner = (np.concatenate(column) for column in zip(*parts, strict=True))
    return x.reshape(-1, 28, 28), y, owner, tuple(map(str, codes))


def _writers(file: Path, codes: dict[str, int]) -> Iterator[tuple[Array, Array, Array]]:
    """The samples of each writer of one file; a new writer gets the next code."""
    with reading(file):
        content = json.loads(read_limited(file, MOST_LEAF_BYTES))
        sizes = dict(zip(content["users"], content["num_samples"], strict=True))
        by_writer = dict(content["user_data"])
    for writer, size in sizes.items():
        what = f"writer {printable(str(writer))[:80]} in {file}"
        with reading(what):
            x = np.asarray(by_writer[writer]["x"], dtype=np.float64)  # (size, 784)
            y = np.asarray(by_writer[writer]["y"])
        right = y.dtype.kind in "iu" and x.shape == (size, 784) and y.shape == (size,)
        right = right and ((x >= 0) & (x <= 1)).all() and ((y >= 0) & (y < len(FEMNIST))).all()
        must = f"hold {short_repr(size)} rows of 784 pixels in [0, 1] and as many whole labels from 0 to 61"
        require(right, what, must, f"x {x.shape} and y {y.shape}", "make the folder again with LEAF")
        code = codes.setdefault(writer, len(codes))
        yield np.rint(255 * x).astype(np.uint8), y.astype(np.int64), np.full(len(y), code)


@checked
def data_folder(root: str | Path | None = None) -> Path:
    """Return the folder of the data sets: `root`, else AEQUA_DATA, else ~/.cache/aequa-lite.

    Example:
        >>> data_folder("data").name
        'data'
    """
    named = root or os.environ.get("AEQUA_DATA") or "~/.cache/aequa-lite"
    return Path(os.path.expanduser(named))  # also where no home is known


@checked
def torchvision_set(name: str, root: str | Path | None = None) -> Arrays:
    """Read a data set through torchvision, and download it only where files are missing.

    torchvision opens pickled files (CIFAR) only after it compared their MD5 with the
    published one; the other formats hold no code.

    Args:
        name: One of `NAMES`.
        root: The folder of the data sets; see :func:`data_folder`.

    Raises:
        FileNotFoundError: Files are missing and cannot be downloaded.
        ValueError: The files exist but are damaged.

    Example:
        >>> torchvision_set("mnist", "/dev/null/x")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: mnist is not complete in /dev/null/x and could not be downloaded ...

    References:
        torchvision's own readers and addresses.
    """
    from torchvision import datasets  # late: see NAMES

    one_of("name", name, NAMES)
    kind, folder, svhn = getattr(datasets, NAMES[name]), data_folder(root), name == "svhn"
    splits = [{"split": "train"}, {"split": "test"}] if svhn else [{"train": True}, {"train": False}]

    def opened(download: bool) -> list[Any]:
        """Both splits as torchvision's own objects."""
        return [kind(str(folder), download=download, **split) for split in splits]

    if not all(file.exists() for file in _set_files(kind, folder)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            opened(download=True)
        except Exception as error:  # no network, no such page, no place to write, a broken download
            raise FileNotFoundError(
                f"{name} is not complete in {folder} and could not be downloaded ({error_text(error)}); "
                f"put its files there, or name the folder in root or AEQUA_DATA ({REMEDY})"
            ) from error
    with reading(f"{name} in {folder}"):
        found = opened(download=False)
        train, test = ((np.asarray(each.data), np.asarray(each.labels if svhn else each.targets)) for each in found)
        labels = tuple("0123456789" if svhn else found[0].classes)
        return Arrays(train, test, labels=labels, classes=len(labels))


def _set_files(kind: Any, folder: Path) -> list[Path]:
    """The files without which a data set has to be downloaded."""
    if hasattr(kind, "split_list"):  # SVHN
        return [folder / kind.split_list[split][1] for split in ("train", "test")]
    if hasattr(kind, "base_folder"):  # CIFAR
        names = [name for name, _ in (*kind.train_list, *kind.test_list)]
        return [folder / kind.base_folder / name for name in (*names, kind.meta["filename"])]
    return [folder / kind.__name__ / "raw" / name.removesuffix(".gz") for name, _ in kind.resources]


LENGTH = 56  # tokens a sentence; SST-2's longest has 53
MOST_WORDS = 20_000
LEAST_COUNT = 2  # nothing is learnt of a word that the training split has once only
MOST_TSV_BYTES, MOST_LINES = 1 << 26, 1_000_000  # of one file: a line of 4 bytes becomes a row of 448
PADDING, UNKNOWN = 0, 1
RESERVED = ("<padding>", "<unknown>")
TSV_FILES = {"train": "train.tsv", "test": "test.tsv", "validation": "dev.tsv"}


@checked
def tokens(sentences: Iterable[str], words: Sequence[str], length: Count = LENGTH) -> Tensor:
    """Turn sentences into what a network for text reads.

    A word is what stands between blanks, in lower case. A reward that was trained on
    text reads `tokens(["A fine film"], dataset.words)`.

    Args:
        sentences: A list of sentences.
        words: The data set's words; the position is the id. 0 is padding, 1 any word
            that is not among them.
        length: Tokens of each sentence; further words are cut off.

    Returns:
        (sentences, length) int64 token ids.

    Raises:
        ValueError: `sentences` is one string, or `length` is not a whole number from 1.

    Example:
        >>> words = ("<padding>", "<unknown>", "film", "fine")
        >>> tokens(["a FINE film"], words, length=5).tolist()
        [[1, 3, 2, 0, 0]]

    References:
        Our choice; SST-2's sentences are already separated by blanks.
    """
    places = {word: place for place, word in enumerate(words) if place > UNKNOWN}
    rows = [[places.get(word, UNKNOWN) for word in each.lower().split()[:length]] for each in sentences]
    return torch.tensor([row + [PADDING] * (length - len(row)) for row in rows], dtype=torch.int64).view(-1, length)


@checked
def tsv(folder: str | Path) -> Arrays:
    """Read SST-2's train.tsv, test.tsv and, if it exists, dev.tsv.

    Each line has a sentence, a tab and a label, 0 or 1; a heading `sentence<tab>label` is
    skipped. Every word of every file gets an id; :func:`frequent` selects those that are
    kept, once the training split is known.

    Raises:
        FileNotFoundError: train.tsv or test.tsv is missing.
        ValueError: A line is something else; the sentence names file and line.

    Example:
        >>> tsv("no/such/folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: no/such/folder/train.tsv is missing; ...

    References:
        The Stanford Sentiment Treebank (Socher et al. 2013) with two classes.
    """
    files = {split: Path(folder) / name for split, name in TSV_FILES.items()}
    found = {split: _tsv_lines(file) for split, file in files.items() if split != "validation" or file.exists()}
    distinct = sorted({word for sentences, _ in found.values() for word in " ".join(sentences).lower().split()})
    words = (*RESERVED, *(word for word in distinct if word not in RESERVED))
    pairs = {split: (tokens(sentences, words).numpy(), y) for split, (sentences, y) in found.items()}
    return Arrays(**pairs, labels=("negative", "positive"), classes=2, words=words)


def _tsv_lines(file: Path) -> tuple[list[str], NDArray[np.int64]]:
    """The sentences and the labels of one file."""
    with reading(file):
        text = read_limited(file, MOST_TSV_BYTES).decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
        lines = text.split("\n")
        require(len(lines) <= MOST_LINES, "it", f"have at most {MOST_LINES} lines", len(lines))
    start = 1 if len(lines) > 1 and lines[0] == "sentence\tlabel" else 0
    rows = [line.split("\t") for line in lines[start:]]
    for line, row in enumerate(rows, start=start + 1):
        right = len(row) == 2 and row[0].split() and row[1] in ("0", "1")
        must = "be a sentence, a tab and a label, 0 or 1"
        require(right, f"line {line} of {file}", must, short_repr("\t".join(row)), REMEDY)
    return [sentence for sentence, _ in rows], np.array([int(label) for _, label in rows])


@checked
def frequent(arrays: Arrays) -> Arrays:
    """Keep the 20,000 most frequent words that the training split has at least twice.

    The most frequent word gets the id 2, the next one 3, and so on, equally frequent
    ones in alphabetical order; all other words get 1. Validation and test words decide
    nothing.

    Example:
        >>> x, y = np.array([[2, 3, 4, 4], [3, 4, 0, 0]]), np.array([0, 1])
        >>> words = ("<padding>", "<unknown>", "a", "bad", "film")
        >>> kept = frequent(Arrays((x, y), (x[:1], y[:1]), words=words))
        >>> kept.words[2:], kept.test[0].tolist()
        (('film', 'bad'), [[1, 3, 2, 2]])

    References:
        Our choice.
    """
    counts = np.bincount(arrays.train[0].ravel(), minlength=len(arrays.words))
    counts[: len(RESERVED)] = 0
    order = np.argsort(-counts, kind="stable")[:MOST_WORDS]
    kept = order[counts[order] >= LEAST_COUNT]
    place = np.full(len(arrays.words), UNKNOWN)
    place[PADDING], place[kept] = PADDING, len(RESERVED) + np.arange(len(kept))
    pairs = {split: (place[x], y) for split, (x, y) in arrays.splits.items()}
    return replace(arrays, words=(*RESERVED, *(arrays.words[i] for i in kept)), **pairs)
