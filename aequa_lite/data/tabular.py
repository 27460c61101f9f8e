"""A CSV file becomes features, labels and natural participants; the training rows alone decide the encoding."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._check import Positive, checked, listed, one_of, refusal
from .._io import error_text, fault, printable, read_limited, short_repr
from ..config import stream
from .readers import Arrays, reading

MISSING = frozenset({"", "?", "na", "n/a", "nan", "<na>", "nat"})
TRUTH = ("true", "false")  # written True by Python, TRUE by spreadsheets
COMMA = re.compile(r"-?\d+,\d+")
WHOLE = re.compile(r"(-?\d+)\.0+")  # a whole number as pandas writes it
MOST_CATEGORIES = 1_000  # of one column: each becomes a feature
MOST_NUMBER = 1e30  # larger ones overflow float32 when standardised
MOST_SDS = 1e6  # a number further from the mean is clipped: the same reason


def cell(value: object) -> str:
    """Return a value as the text of a cell, "" where it is missing.

    Example:
        >>> [cell(each) for each in (4, 4.0, "4.0", 0.5, " yes ", "?", None)]
        ['4', '4', '4', '0.5', 'yes', '', '']
    """
    if isinstance(value, (float, np.floating)) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    if whole := WHOLE.fullmatch(text):
        return whole[1] if whole[1] != "-0" else "0"  # pandas makes 4.0 of a category "4" and writes it so
    text = text.lower() if text.lower() in TRUTH else text
    return "" if text.lower() in MISSING else text


def as_number(text: str) -> float | None:
    """Return the number that a cell holds, None where it holds none."""
    try:
        value = float(text)
    except ValueError:
        return None
    # Python reads "1_0" as 10; in a table it is an identifier.
    return value if abs(value) <= MOST_NUMBER and "_" not in text else None


def in_order(values: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct values: numbers by size, then the others.

    Example:
        >>> in_order(["10", "b", "9", "a", "9"])
        ('9', '10', 'a', 'b')
    """

    def key(value: str) -> tuple[bool, float, str]:
        number = as_number(value)
        return number is None, number or 0.0, value

    return tuple(sorted(set(values), key=key))


@checked
@dataclass(frozen=True)
class Column:
    r"""Describe how one column becomes features.

    A number $v$ becomes $(v - \mathrm{mean}) / \mathrm{sd}$. A category
    becomes one feature for each of `categories`, 1 for its own; one that is
    not among them is 0 everywhere.

    Args:
        name: Name of the column.
        fill: Stands for a missing value: the training median, or the most
            frequent training category.
        categories: Training categories; empty for a column of numbers.
        mean: Mean of the training rows, missing values filled.
        sd: Their standard deviation; 1 where all are equal.
        indicator: Whether a feature says that the value was missing.

    Raises:
        ValueError: A field has the wrong type, or `sd` is not above 0.

    Example:
        >>> Column("age", "54", mean=54.0, sd=9.0).encode(["63", ""])
        array([[1.],
               [0.]], dtype=float32)
        >>> Column("pain", "a", ("a", "b"), indicator=True).features
        ('pain=a', 'pain=b', 'pain missing')
    """

    name: str
    fill: str
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    sd: float = 1.0
    indicator: bool = False

    def __post_init__(self) -> None:
        fits = all(isinstance(each, str) for each in (self.name, self.fill, *self.categories))
        fits = fits and math.isfinite(self.mean) and 0 < self.sd < math.inf
        if not fits or (self.fill not in self.categories and as_number(self.fill) is None):
            raise ValueError(f"{short_repr(self)} is no encoded column")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of its features."""
        own = tuple(f"{self.name}={each}" for each in self.categories)
        absent = (f"{self.name} missing",) if self.indicator else ()
        return (own or (self.name,)) + absent

    def encode(self, cells: Sequence[str], lines: Sequence[int] = ()) -> NDArray[np.float32]:
        """Return the features of these cells.

        Args:
            cells: (rows,) text, "" where a value is missing.
            lines: (rows,) line of each cell in its file, for the errors.

        Returns:
            (rows, features) float32.

        Raises:
            ValueError: A cell of a column of numbers holds none.
        """
        filled = [each or self.fill for each in cells]
        if self.categories:
            code = {each: i for i, each in enumerate(self.categories)}
            codes = np.array([code.get(each, -1) for each in filled], int)
            block = codes[:, None] == np.arange(len(code))
        else:
            values = numbers(self.name, filled, lines)
            block = np.clip((values - self.mean) / self.sd, -MOST_SDS, MOST_SDS)[:, None]
        if self.indicator:
            block = np.hstack([block, np.array([not each for each in cells], bool)[:, None]])
        return block.astype(np.float32)


def numbers(name: str, cells: Sequence[str], lines: Sequence[int] = ()) -> NDArray[np.float64]:
    """Return the numbers of a column, (rows,); refuse what is none."""
    found = [as_number(each) for each in cells]
    if None in found:
        i = found.index(None)
        got = short_repr(cells[i]) + (f" in line {lines[i]}" if lines else "")
        remedy = "if it holds categories, name it in `categorical`"
        raise fault(f"column {short_repr(name)}", "hold finite numbers", got, remedy)
    return np.array(found, dtype=np.float64)


def fit_column(name: str, cells: Sequence[str], categorical: bool = False, lines: Sequence[int] = ()) -> Column:
    """Learn from the training rows how a column becomes features.

    It is a column of numbers where at least half of its cells are numbers
    and `categorical` does not say otherwise.

    Args:
        name: Name of the column.
        cells: (training rows,) text, "" where a value is missing.
        categorical: Whether numbers are names of categories.
        lines: (training rows,) line of each cell in its file.

    Raises:
        ValueError: No row has a value, a column of numbers holds something
            else, or there are too many categories.

    Example:
        >>> column = fit_column("age", ["50", "", "60"])
        >>> column.fill, column.mean, column.indicator
        ('55.0', 55.0, True)
    """
    present = [each for each in cells if each]
    if not present:
        raise fault(f"column {short_repr(name)}", "have a training value", "none", "name it in `drop`")
    indicator = len(present) < len(cells)
    numeric = sum(as_number(each) is not None for each in present)
    if not categorical and 2 * sum(bool(COMMA.fullmatch(each)) for each in present) >= len(present):
        raise fault(f"column {short_repr(name)}", "have a point as decimal mark", short_repr(present[0]))
    if categorical or 2 * numeric < len(present):
        return _fit_categories(name, present, len(cells), indicator)
    here = [line for line, each in zip(lines, cells) if each]
    fill = repr(float(np.median(numbers(name, present, here))))
    # Mean and sd are those of the column as it is used: gaps filled.
    values = numbers(name, [each or fill for each in cells])
    sd = float(values.std()) if np.ptp(values) else 0.0
    return Column(name, fill, mean=float(values.mean()), sd=sd or 1.0, indicator=indicator)


def _fit_categories(name: str, present: Sequence[str], rows: int, indicator: bool) -> Column:
    """Return the encoding of a column of categories."""
    counts, categories = Counter(present), in_order(present)
    # More categories than half of the rows identify rows, as a name does.
    most = min(MOST_CATEGORIES, rows // 2)
    if len(categories) > most:
        must = f"have at most {most} categories in {rows} training rows"
        raise fault(f"column {short_repr(name)}", must, len(categories), "name it in `drop`")
    fill = max(categories, key=counts.__getitem__)  # of equals, the first
    return Column(name, fill, categories, indicator=indicator)


@checked
@dataclass(frozen=True)
class Encoder:
    """Turn records, such as new patients, into features.

    A data set keeps it as `dataset.encoder`: a reward is applied to new
    records by `net(dataset.encoder(records))`.

    Args:
        columns: How each column is encoded, in the order of the features.

    Example:
        >>> encoder = Encoder((fit_column("age", ["50", "60"]),))
        >>> encoder([{"age": 65}, {"age": None}])
        tensor([[2.],
                [0.]])
    """

    columns: tuple[Column, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of all features, in the order of the network's inputs."""
        return tuple(name for each in self.columns for name in each.features)

    def __call__(self, records: Sequence[Mapping[str, object]]) -> Tensor:
        """Encode records.

        Args:
            records: A value for each column by name, None where it is
                missing; further names are ignored.

        Returns:
            (records, features) float32.

        Raises:
            ValueError: A record lacks a column, or has text for a number.
        """
        if not isinstance(records, Sequence) or not all(isinstance(each, Mapping) for each in records):
            raise refusal("records", "a sequence of mappings, one for each record", records)
        for each in records:
            if lacking := [c.name for c in self.columns if c.name not in each]:
                allowed = f"mappings that have {lacking[0]!r}"
                raise refusal("records", allowed, each, "None stands for a missing value")
        return torch.from_numpy(self.encode({c.name: [cell(each[c.name]) for each in records] for c in self.columns}))

    def encode(self, cells: Mapping[str, Sequence[str]], lines: Sequence[int] = ()) -> NDArray[np.float32]:
        """Return the features of a table's cells, (rows, features)."""
        return np.hstack([each.encode(cells[each.name], lines) for each in self.columns])

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for a JSON file.

        Example:
            >>> encoder = Encoder((fit_column("age", ["50", "60"]),))
            >>> Encoder.from_dict(encoder.to_dict()) == encoder
            True
        """
        return {"columns": [asdict(each) for each in self.columns]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Encoder:
        """Read what `to_dict` returned.

        Raises:
            ValueError: It is something else.
        """
        try:
            found = [Column(**{**each, "categories": tuple(each["categories"])}) for each in values["columns"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise refusal("values", "what `Encoder.to_dict` returned", values) from error
        return cls(tuple(found))


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
    fractions: Sequence[Positive] = FRACTIONS,
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
    if len(fractions) != 3 or abs(sum(fractions) - 1) >= 1e-6:
        raise refusal("fractions", "3 numbers above 0 that sum to 1", fractions)
    features = _features(table, label, participant, drop)
    chosen = [one_of("categorical", each, features, "the columns ") for each in categorical]
    y, labels = _codes(table, label)
    _check_labels(table, y, labels)
    owner, names = np.zeros_like(y), ()
    if participant is not None:
        owner, names = _codes(table, participant)
        _check_participants(table, y, owner, names, allow_single_class)
    split = _split(y, owner, fractions, seed)
    _check_splits(y, labels, split)
    encoder = _fitted(table, features, chosen, split == 0)
    x = encoder.encode(table.cells, table.lines)
    rows = {name: split == k for k, name in enumerate(SPLITS)}
    digest = hashlib.sha256(f"{table.sha256} {(label, participant, features, sorted(chosen))}".encode())
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
        raise fault(name, "be in UTF-8", error_text(error), "save it again as 'CSV UTF-8'") from error
    header = re.sub(r'"[^"]*"', "", text.partition("\n")[0])  # a quoted name may hold any of them
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = _checked_header(next(reader, []), name)
        # A blank line is no row; the line of a row is that of its end.
        found = ((reader.line_num, row) for row in reader if row)
        rows = _checked_rows(found, len(columns), name)
    except csv.Error as error:
        raise fault(f"line {reader.line_num} of {name}", "be CSV", error_text(error)) from error
    cells = {k: [row[i] for _, row in rows] for i, k in enumerate(columns)}
    return Table(name, cells, [line for line, _ in rows], hashlib.sha256(content).hexdigest())


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
            raise fault(f"the columns of {where}", "have one name each", f"{short_repr(name)} twice")
    return names


def _checked_rows(rows: Iterable[tuple[int, list[str]]], width: int, where: str) -> list[tuple[int, list[str]]]:
    """Return the line and the cells of each row, or refuse it."""
    found: list[tuple[int, list[str]]] = []
    for line, row in rows:
        if len(row) != width:
            raise fault(f"line {line} of {where}", f"have {width} fields", len(row))
        if len(found) == MOST_ROWS:
            raise fault(where, f"have at most {MOST_ROWS:,} rows", "more")
        found.append((line, [cell(each) for each in row]))
    return found


def _features(table: Table, label: str | None, participant: str | None, drop: Collection[str]) -> list[str]:
    """Return the columns that have no other role."""
    names = list(table.cells)
    names.remove(one_of("label", label, names, "the columns "))
    if participant is not None:
        names.remove(one_of("participant", participant, names, "the columns "))
    left_out = [one_of("drop", each, names, "the columns ") for each in drop]
    features = [each for each in names if each not in left_out]
    if not features:
        raise fault(table.name, "have a column besides `label`, `participant` and `drop`", listed(table.cells))
    return features


def _codes(table: Table, name: str) -> tuple[Codes, tuple[str, ...]]:
    """Return the code of each row's value, and the ordered values."""
    cells = table.cells[name]
    if "" in cells:
        what = f"line {table.lines[cells.index('')]} of {table.name}"
        raise fault(what, f"have a value in column {short_repr(name)}", "none", "remove the line or fill it in")
    values = in_order(cells)
    code = {each: i for i, each in enumerate(values)}
    return np.array([code[each] for each in cells], dtype=np.int64), values


def _check_labels(table: Table, y: Codes, labels: Sequence[str]) -> None:
    """Refuse a table with too few labels, or too few rows of one."""
    if len(y) < LEAST_ROWS:
        raise fault(table.name, f"have at least {LEAST_ROWS} rows", len(y))
    if len(labels) < 2:
        raise fault(table.name, "have at least 2 labels", f"only {short_repr(labels[0])}")
    _check_sizes("label", table, y, labels, LEAST_OF_LABEL)


def _check_sizes(kind: str, table: Table, codes: Codes, names: Sequence[str], least: int) -> None:
    """Refuse a label or a participant with too few rows."""
    counts = np.bincount(codes)
    if counts.min() < least:
        what = f"{kind} {short_repr(names[counts.argmin()])} of {table.name}"
        raise fault(what, f"have at least {least} rows", counts.min())


def _check_participants(table: Table, y: Codes, owner: Codes, names: Sequence[str], allow: bool) -> None:
    """Refuse a participant with too few rows, or with one label."""
    _check_sizes("participant", table, owner, names, LEAST_OF_PARTICIPANT)
    pairs = np.unique(np.stack([owner, y]), axis=1)
    kinds = np.bincount(pairs[0])  # labels of each participant
    if kinds.min() < 2 and not allow:
        what = f"participant {short_repr(names[kinds.argmin()])} of {table.name}"
        remedy = "trained alone it predicts a constant; allow_single_class=True keeps it"
        raise fault(what, "have rows of at least 2 labels", 1, remedy)


def _split(y: Codes, owner: Codes, fractions: Sequence[float], seed: int) -> Codes:
    """Return the split of each row: 0 train, 1 validation, 2 test."""
    _, validation, test = fractions
    pair = np.unique(np.stack([y, owner]), axis=1, return_inverse=True)[1].reshape(-1)
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
            few, remedy = counts.argmin(), "use more rows of each participant, or other `fractions`"
            raise fault(f"label {short_repr(labels[few])}", f"have a {name} row", f"none of {(y == few).sum()}", remedy)


def _fitted(table: Table, features: Sequence[str], categorical: Collection[str], train: NDArray[np.bool_]) -> Encoder:
    """Return the encoder that is learnt from the training rows."""
    rows = np.flatnonzero(train).tolist()
    lines = [table.lines[i] for i in rows]
    cells = {name: [table.cells[name][i] for i in rows] for name in features}
    encoder = Encoder(tuple(fit_column(name, cells[name], name in categorical, lines) for name in features))
    values = len(train) * len(encoder.features)
    if values > MOST_VALUES:
        raise fault(table.name, f"become at most {MOST_VALUES:,} values", f"{values:,}", "name columns in `drop`")
    return encoder
