"""Sentences become token ids: one way of splitting, and the words of the training split alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._io import read_limited, short_repr
from .readers import NEEDS_NOTHING, Arrays, reading

__all__ = ["frequent", "tokens", "tsv"]


LENGTH = 56  # tokens a sentence; SST-2's longest has 53


MOST_WORDS = 20_000


MOST_TSV_BYTES, MOST_LINES = 1 << 26, 1_000_000  # of one file: a line of four bytes becomes a row of 448


LEAST_COUNT = 2  # a word that the training split has once only is learnt from nothing


PADDING, UNKNOWN = 0, 1


RESERVED = ("<padding>", "<unknown>")


SPLITS = {"train": "train", "test": "test", "validation": "dev"}  # ours -> the name of the file


def tokens(sentences: Iterable[str], words: Sequence[str], length: int = LENGTH) -> Tensor:
    """Turn sentences into what a network for text reads: token ids, (sentences, length) int64.

    A word is what stands between blanks, in lower case. ``words``: the data set's (``data.words``), where the place is
    the id; 0 pads, 1 stands for every word that is not among them; words beyond ``length`` are cut off. A reward that
    was trained on text is used with the same words: ``net(tokens(["A fine film"], data.words))``.

    Raises:
        ValueError: ``sentences`` is one string, or ``length`` is not a whole number from 1.

    Example:
        >>> tokens(["a FINE film"], ("<padding>", "<unknown>", "film", "fine"), length=5).tolist()
        [[1, 3, 2, 0, 0]]

    Source: ours; SST-2 comes already separated by blanks.
    """
    if isinstance(sentences, str):
        raise ValueError(f"sentences is {sentences!r}; allowed is a list of sentences, even of one")
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"length is {length!r}; allowed is a whole number from 1")
    places = {word: place for place, word in enumerate(words) if place > UNKNOWN}
    rows = [[places.get(word, UNKNOWN) for word in _split(each)[:length]] for each in sentences]
    return torch.tensor([row + [PADDING] * (length - len(row)) for row in rows], dtype=torch.int64).view(-1, length)


def _split(sentence: str) -> list[str]:
    """The words of a sentence."""
    return sentence.lower().split()


def tsv(folder: str | Path) -> Arrays:
    """Read train.tsv, test.tsv and, where it is there, dev.tsv, as SST-2 has them: a sentence, a tab, a label 0 or 1.

    A heading ``sentence<tab>label`` is passed over. Every word of every file has an id; which ones are kept is for
    ``frequent`` to say, once it is known what the training split is.

    Raises:
        FileNotFoundError: train.tsv or test.tsv is missing.
        ValueError: a line is not a sentence, a tab and 0 or 1; the sentence names the file and the line.

    Example:
        >>> tsv("no/such/folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: no/such/folder/train.tsv is missing; ...

    Source: the Stanford Sentiment Treebank (Socher et al. 2013) with two classes.
    """
    files = {split: Path(folder) / f"{name}.tsv" for split, name in SPLITS.items()}
    found = {s: _lines(file) for s, file in files.items() if s != "validation" or file.exists()}
    every = sorted({word for sentences, _ in found.values() for each in sentences for word in _split(each)})
    words = (*RESERVED, *(word for word in every if word not in RESERVED))
    pairs = {split: (tokens(sentences, words).numpy(), y) for split, (sentences, y) in found.items()}
    return Arrays(**pairs, labels=("negative", "positive"), classes=2, words=words)


def _lines(file: Path) -> tuple[list[str], np.ndarray]:
    """The sentences and the labels of one file."""
    with reading(file):
        rows = [line.split("\t") for line in read_limited(file, MOST_TSV_BYTES).decode("utf-8").splitlines()]
        if len(rows) > MOST_LINES:
            raise ValueError(f"it has {len(rows)} lines; allowed are {MOST_LINES}")
    start = 1 if rows and rows[0] == ["sentence", "label"] else 0
    for number, row in enumerate(rows[start:], start=start + 1):
        if len(row) != 2 or not _split(row[0]) or row[1] not in ("0", "1"):
            raise ValueError(
                f"line {number} of {file} is {short_repr(chr(9).join(row))}; allowed is a sentence, a tab and its label, "
                f"0 or 1 ({NEEDS_NOTHING})"
            )
    if len(rows) == start:
        raise ValueError(f"{file} holds no sentence; allowed is at least one ({NEEDS_NOTHING})")
    return [row[0] for row in rows[start:]], np.array([int(row[1]) for row in rows[start:]])


def frequent(arrays: Arrays) -> Arrays:
    """Keep the words that the training split has at least twice, the 20,000 most frequent at most; 1 for all others.

    The most frequent word gets 2, the next one 3, and so on; words that are equally frequent stand in the alphabet's
    order. Validation and test words decide nothing.

    Example:
        >>> x, y = np.array([[2, 3, 4, 4], [3, 4, 0, 0]]), np.array([0, 1])
        >>> kept = frequent(Arrays((x, y), (x[:1], y[:1]), words=("<padding>", "<unknown>", "a", "bad", "film")))
        >>> kept.words[2:], kept.test[0].tolist()
        (('film', 'bad'), [[1, 3, 2, 2]])

    Source: our choice.
    """
    counts = np.bincount(arrays.train[0].ravel(), minlength=len(arrays.words))
    counts[: len(RESERVED)] = 0
    order = np.argsort(-counts, kind="stable")[:MOST_WORDS]
    kept = order[counts[order] >= LEAST_COUNT]
    place = np.full(len(arrays.words), UNKNOWN)
    place[PADDING], place[kept] = PADDING, len(RESERVED) + np.arange(len(kept))
    pairs = {split: (place[x], y) for split, (x, y) in arrays.splits.items()}
    return replace(arrays, words=(*RESERVED, *(arrays.words[i] for i in kept)), **pairs)
