"""Sentences become token ids; the training split alone decides the words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._check import checked, number, refusal
from .._io import read_limited, short_repr
from .readers import EMBEDDED_REMEDY, Arrays, reading

LENGTH = 56  # tokens a sentence; SST-2's longest has 53
MOST_WORDS = 20_000
LEAST_COUNT = 2  # nothing is learnt of a word that the training split has once only
MOST_TSV_BYTES, MOST_LINES = 1 << 26, 1_000_000  # of one file: a line of 4 bytes becomes a row of 448
PADDING, UNKNOWN = 0, 1
RESERVED = ("<padding>", "<unknown>")
FILES = {"train": "train.tsv", "test": "test.tsv", "validation": "dev.tsv"}


@checked
def tokens(sentences: Iterable[str], words: Sequence[str], length: int = LENGTH) -> Tensor:
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
    if isinstance(sentences, str):
        raise refusal("sentences", "a list of sentences", sentences)
    number("length", length, 1, whole=True)
    places = {word: place for place, word in enumerate(words) if place > UNKNOWN}
    rows = [[places.get(word, UNKNOWN) for word in _split(each)[:length]] for each in sentences]
    return torch.tensor([row + [PADDING] * (length - len(row)) for row in rows], dtype=torch.int64).view(-1, length)


def _split(sentence: str) -> list[str]:
    """The words of a sentence."""
    return sentence.lower().split()


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
    files = {split: Path(folder) / name for split, name in FILES.items()}
    found = {split: _lines(file) for split, file in files.items() if split != "validation" or file.exists()}
    distinct = sorted({word for sentences, _ in found.values() for each in sentences for word in _split(each)})
    words = (*RESERVED, *(word for word in distinct if word not in RESERVED))
    pairs = {split: (tokens(sentences, words).numpy(), y) for split, (sentences, y) in found.items()}
    return Arrays(**pairs, labels=("negative", "positive"), classes=2, words=words)


def _lines(file: Path) -> tuple[list[str], NDArray[np.int64]]:
    """The sentences and the labels of one file."""
    with reading(file):
        rows = [line.split("\t") for line in read_limited(file, MOST_TSV_BYTES).decode("utf-8").splitlines()]
        if len(rows) > MOST_LINES:
            raise ValueError(f"it has {len(rows)} lines; allowed are {MOST_LINES}")
    start = 1 if rows and rows[0] == ["sentence", "label"] else 0
    for line, row in enumerate(rows[start:], start=start + 1):
        if len(row) != 2 or not _split(row[0]) or row[1] not in ("0", "1"):
            allowed = "a sentence, a tab and a label, 0 or 1"
            came = short_repr("\t".join(row))
            raise ValueError(f"line {line} of {file} must be {allowed}, got {came}; {EMBEDDED_REMEDY}")
    if len(rows) == start:
        raise ValueError(f"{file} must hold a sentence, got none; {EMBEDDED_REMEDY}")
    return [row[0] for row in rows[start:]], np.array([int(row[1]) for row in rows[start:]])


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
