"""A CSV file becomes features, labels and natural participants."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._check import checked, flag, refusal
from .._io import error_text, printable, read_limited, short_repr
from ..rng import stream
from .encoding import Column, Encoder, cell, fault, fit_column, in_order
from .readers import Arrays, reading

__all__ = ["Table", "csv_table", "read_csv"]

MOST_CSV_BYTES = 1 << 26
MOST_ROWS, MOST_COLUMNS, MOST_NAME = 1_000_000, 1_000, 100
MOST_VALUES = 1 << 28  # rows x features: 1 GiB of float32
LEAST_ROWS, LEAST_OF_LABEL, LEAST_OF_PARTICIPANT = 20, 5, 5
FRACTIONS = (0.6, 0.2, 0.2)
SPLITS = ("train", "validation", "test")

Codes = NDArray[np.int64]


@checked
@dataclass(frozen=True)
class Table:
    """Hold the cells of a table as text.

    Args:
        name: Name of its file, for the errors.
        cells: (rows,) text of each column by name, "" where missing.
        lines: (rows,) line of each row in the file.
        sha256: SHA-256 of the file.

    Example:
        >>> table = Table("two.csv", {"age": ["63", ""]}, [2, 3], "")
        >>> table.cells["age"]
        ['63', '']
    """

    name: str
    cells: Mapping[str, Sequence[str]]
    lines: Sequence[int]
    sha256: str


@checked
def csv_table(
    source: str | Path | Table,
    label: str | None = None,
    participant: str | None = None,
    *,
    categorical: Collection[str] = (),
    drop: Collection[str] = (),
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    allow_single_class: bool = False,
) -> Arrays:
    """Read a CSV file as training, validation and test arrays.

    The first line names the columns. Commas, semicolons or tabs separate them. An empty
    cell, `?`, `NA`, `N/A` and `nan` are missing values.

    Numbers are standardised and categories one-hot. A missing value becomes the median or
    the most frequent category, and a further feature marks it. All of this is learnt from
    the training rows, of all participants together, and kept in `encoder`; participants
    on several machines would have to agree on these statistics before they train. Rows
    are split at random, in proportion within each pair of label and participant; at least
    one row of each pair is a training row.

    Args:
        source: A file in UTF-8, or a Table.
        label: Column to predict; its values in order become 0, 1, ...
        participant: Column that names the natural participant of each row; it is no
            feature.
        categorical: Columns whose numbers are names of categories.
        drop: Columns to leave out, such as identifiers.
        fractions: Shares of training, validation and test rows.
        seed: Decides which rows go where.
        allow_single_class: Whether a participant may have one label only.

    Returns:
        x (rows, features) float32 and y (rows,) int64 of each split, and the code of each
        row's participant.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or too large, a column is unknown or cannot be
            used, or there are too few rows.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "patients.csv"
        >>> rows = ["50,a,0", "60,b,0", "70,a,1", "80,b,1"] * 10
        >>> _ = path.write_text("\\n".join(["age,ward,ill", *rows]))
        >>> csv_table(path, label="ill", participant="ward").participants
        ('a', 'b')

    References:
        Our choice.
    """
    table = source if isinstance(source, Table) else read_csv(source)
    flag("allow_single_class", allow_single_class)
    features = _features(table, label, participant, drop)
    chosen = _columns("categorical", categorical, features)
    y, labels = _codes(table, label)
    _check_labels(table, y, labels)
    owner, names = np.zeros_like(y), ()
    if participant is not None:
        owner, names = _codes(table, participant)
        _check_participants(table, y, owner, names, allow_single_class)
    split = _split(y, owner, _checked_fractions(fractions), seed)
    _check_splits(y, labels, split)
    encoder = _fitted(table, features, chosen, split == 0)
    x = encoder.encode(table.cells, table.lines)
    rows = {name: split == k for k, name in enumerate(SPLITS)}
    roles = (label, participant, features, sorted(chosen))
    digest = hashlib.sha256(f"{table.sha256} {roles}".encode())
    return Arrays(
        **{name: (x[where], y[where]) for name, where in rows.items()},
        groups={k: owner[where] for k, where in rows.items() if names},
        labels=labels,
        classes=len(labels),
        participants=names,
        encoder=encoder,
        sha256=digest.hexdigest(),
    )


def read_csv(path: str | Path) -> Table:
    """Read the cells of a CSV file."""
    path = Path(path).expanduser()
    with reading(path):
        content = read_limited(path, MOST_CSV_BYTES)
    name = printable(path.name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = "save it again as 'CSV UTF-8'"
        raise fault(name, "be in UTF-8", error_text(error), remedy) from error
    separator = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = _checked_header(next(reader, []), name)
        # A blank line is no row; the line of a row is that of its end.
        found = ((reader.line_num, row) for row in reader if row)
        rows = _checked_rows(found, len(columns), name)
    except csv.Error as error:
        what = f"line {reader.line_num} of {name}"
        raise fault(what, "be CSV", error_text(error)) from error
    return Table(
        name,
        {k: [row[i] for _, row in rows] for i, k in enumerate(columns)},
        [line for line, _ in rows],
        hashlib.sha256(content).hexdigest(),
    )


def _checked_header(header: Sequence[str], where: str) -> list[str]:
    """Return the names of the columns, or refuse them."""
    names = [each.strip() for each in header]
    if not 1 <= len(names) <= MOST_COLUMNS:
        raise fault(where, f"have 1 to {MOST_COLUMNS} columns", len(names))
    for i, name in enumerate(names, start=1):
        if not 1 <= len(name) <= MOST_NAME:
            must = f"have a name of 1 to {MOST_NAME} characters in the first line"
            raise fault(f"column {i} of {where}", must, short_repr(name))
        if name in names[: i - 1]:
            must, got = "have one name each", f"{short_repr(name)} twice"
            raise fault(f"the columns of {where}", must, got)
    return names


def _checked_rows(rows: Iterable[tuple[int, list[str]]], width: int, where: str) -> list[tuple[int, list[str]]]:
    """Return the line and the cells of each row, or refuse it."""
    found: list[tuple[int, list[str]]] = []
    for line, row in rows:
        if len(row) != width:
            what = f"line {line} of {where}"
            raise fault(what, f"have {width} fields", len(row))
        if len(found) == MOST_ROWS:
            raise fault(where, f"have at most {MOST_ROWS:,} rows", "more")
        found.append((line, [cell(each) for each in row]))
    return found


def _listed(names: Collection[str]) -> str:
    """Return the first names, for a sentence."""
    shown = ", ".join(printable(each) for each in list(names)[:10])
    more = f", ... ({len(names)} in all)" if len(names) > 10 else ""
    return shown + more


def _checked_column(argument: str, value: object, names: Collection[str]) -> str:
    """Return the column that an argument names, or say which there are."""
    if isinstance(value, str) and value in names:
        return value
    text = value[:MOST_NAME] if isinstance(value, str) else ""
    near = get_close_matches(text, list(names), n=1, cutoff=0.0)
    remedy = f"the nearest is {short_repr(near[0])}" if near and text else ""
    allowed = f"one of the columns {_listed(names)}"
    raise refusal(argument, allowed, value, remedy)


def _columns(argument: str, values: object, names: Collection[str]) -> list[str]:
    """Return the columns that an argument lists; one name is no list."""
    if isinstance(values, str) or not isinstance(values, Collection):
        raise refusal(argument, "a list of columns", values)
    return [_checked_column(argument, each, names) for each in values]


def _features(table: Table, label: str | None, participant: str | None, drop: Collection[str]) -> list[str]:
    """Return the columns that have no other role."""
    names = list(table.cells)
    names.remove(_checked_column("label", label, names))
    if participant is not None:
        names.remove(_checked_column("participant", participant, names))
    left_out = _columns("drop", drop, names)
    features = [each for each in names if each not in left_out]
    if not features:
        must = "have a column besides `label`, `participant` and `drop`"
        raise fault(table.name, must, _listed(table.cells))
    return features


def _codes(table: Table, name: str) -> tuple[Codes, tuple[str, ...]]:
    """Return the code of each row's value, and the ordered values."""
    cells = table.cells[name]
    if "" in cells:
        raise fault(
            f"line {table.lines[cells.index('')]} of {table.name}",
            f"have a value in column {short_repr(name)}",
            "none",
            "remove the line or fill it in",
        )
    values = in_order(cells)
    code = {each: i for i, each in enumerate(values)}
    return np.array([code[each] for each in cells], dtype=np.int64), values


def _check_labels(table: Table, y: Codes, labels: Sequence[str]) -> None:
    """Refuse a table with too few labels, or too few rows of one."""
    if len(y) < LEAST_ROWS:
        raise fault(table.name, f"have at least {LEAST_ROWS} rows", len(y))
    if len(labels) < 2:
        got = short_repr(labels[0])
        raise fault(table.name, "have at least 2 labels", f"only {got}")
    _check_sizes("label", table, y, labels, LEAST_OF_LABEL)


def _check_sizes(kind: str, table: Table, codes: Codes, names: Sequence[str], least: int) -> None:
    """Refuse a label or a participant with too few rows."""
    counts = np.bincount(codes)
    if counts.min() < least:
        name = short_repr(names[counts.argmin()])
        what = f"{kind} {name} of {table.name}"
        raise fault(what, f"have at least {least} rows", counts.min())


def _check_participants(table: Table, y: Codes, owner: Codes, names: Sequence[str], allow: bool) -> None:
    """Refuse a participant with too few rows, or with one label."""
    _check_sizes("participant", table, owner, names, LEAST_OF_PARTICIPANT)
    pairs = np.unique(np.stack([owner, y]), axis=1)
    kinds = np.bincount(pairs[0])  # labels of each participant
    if kinds.min() < 2 and not allow:
        name = short_repr(names[kinds.argmin()])
        raise fault(
            f"participant {name} of {table.name}",
            "have rows of at least 2 labels",
            1,
            "trained alone it predicts a constant; allow_single_class=True keeps it",
        )


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Return the shares of training, validation and test rows."""
    try:
        train, validation, test = (float(each) for each in fractions)
    except (TypeError, ValueError, OverflowError):
        train = validation = test = 0.0
    found = train, validation, test
    if not min(found) > 0 or not abs(sum(found) - 1) < 1e-6:
        allowed = "3 numbers above 0 that sum to 1"
        raise refusal("fractions", allowed, fractions)
    return found


def _split(y: Codes, owner: Codes, fractions: tuple[float, float, float], seed: int) -> Codes:
    """Return the split of each row: 0 train, 1 validation, 2 test."""
    _, validation, test = fractions
    rows = np.stack([y, owner])
    pair = np.unique(rows, axis=1, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(pair)
    aside = np.minimum(_shares(sizes, validation + test), sizes - 1)
    tests = _shares(aside, test / (validation + test))
    order = stream(seed, "data", "table").permutation(len(y))
    order = order[np.argsort(pair[order], kind="stable")]
    rank = np.empty_like(y)  # of a row among those of its pair
    rank[order] = np.arange(len(y)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return (rank < aside[pair]).astype(np.int64) + (rank < tests[pair])


def _shares(sizes: Codes, share: float) -> Codes:
    """Return the share of each size in whole rows.

    Their running sum is rounded, not each of them, so that many small sizes
    have together what is due to them.
    """
    ends = np.floor(np.cumsum(sizes) * share + 0.5 + 1e-9)
    return np.diff(ends, prepend=0).astype(np.int64)


def _check_splits(y: Codes, labels: Sequence[str], split: Codes) -> None:
    """Refuse a split that lacks a label."""
    for k, name in enumerate(SPLITS):
        counts = np.bincount(y[split == k], minlength=len(labels))
        if not counts.min():
            few = counts.argmin()
            raise fault(
                f"label {short_repr(labels[few])}",
                f"have a {name} row",
                f"none of {(y == few).sum()}",
                "use more rows of each participant, or other `fractions`",
            )


def _fitted(table: Table, features: Sequence[str], categorical: Collection[str], train: NDArray[np.bool_]) -> Encoder:
    """Return the encoder that is learnt from the training rows."""
    rows = np.flatnonzero(train).tolist()
    lines = [table.lines[i] for i in rows]

    def fitted(name: str) -> Column:
        cells = [table.cells[name][i] for i in rows]
        return fit_column(name, cells, name in categorical, lines)

    encoder = Encoder(tuple(fitted(name) for name in features))
    values = len(train) * len(encoder.features)
    if values > MOST_VALUES:
        must = f"become at most {MOST_VALUES:,} values"
        raise fault(table.name, must, f"{values:,}", "name columns in `drop`")
    return encoder
