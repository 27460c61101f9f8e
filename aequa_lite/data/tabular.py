"""A CSV file becomes features, labels and natural participants; the training rows alone decide the encoding."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._check import Positive, checked, listed, one_of, refusal
from .._io import error_text, fault, printable, read_limited, short_repr
from ..config import stream
from .readers import Arrays, reading, require

MISSING = frozenset({"", "?", "na", "n/a", "nan", "<na>", "nat"})
TRUTH = ("true", "false")  # written True by Python, TRUE by spreadsheets
COMMA = re.compile(r"-?\d+(,\d+)+(\.\d+)?")  # decimal, or between thousands
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


def _numbers(cells: Sequence[str]) -> NDArray[np.float64]:
    """Return the numbers of some cells, NaN where one holds none."""
    return np.array([as_number(each) for each in cells], dtype=np.float64)


def in_order(values: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct values: numbers by size, then the others.

    Example:
        >>> in_order(["10", "b", "9", "a", "9"])
        ('9', '10', 'a', 'b')
    """
    return tuple(sorted(set(values), key=lambda each: (as_number(each) is None, as_number(each) or 0.0, each)))


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
    sd: Positive = 1.0
    indicator: bool = False

    def __post_init__(self) -> None:
        if self.fill not in self.categories and as_number(self.fill) is None:
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
            values = _numbers(filled)
            if np.isnan(values).any():
                i = int(np.isnan(values).argmax())
                got = short_repr(filled[i]) + (f" in line {lines[i]}" if lines else "")
                remedy = "if it holds categories, name it in `categorical`"
                if COMMA.fullmatch(filled[i]):
                    remedy = "write them as 1234.5, without commas"
                raise fault(f"column {short_repr(self.name)}", "hold finite numbers", got, remedy)
            block = np.clip((values - self.mean) / self.sd, -MOST_SDS, MOST_SDS)[:, None]
        if self.indicator:
            block = np.hstack([block, np.array([not each for each in cells], bool)[:, None]])
        return block.astype(np.float32)


def fit_column(name: str, cells: Sequence[str], categorical: bool = False) -> Column:
    """Learn from the training rows how a column becomes features.

    It is a column of numbers where at least half of its cells are numbers
    and `categorical` does not say otherwise.

    Args:
        name: Name of the column.
        cells: (training rows,) text, "" where a value is missing.
        categorical: Whether numbers are names of categories.

    Raises:
        ValueError: No row has a value, numbers have commas, or there are too
            many categories.

    Example:
        >>> column = fit_column("age", ["50", "", "60"])
        >>> column.fill, column.mean, column.indicator
        ('55.0', 55.0, True)
    """
    column, present = f"column {short_repr(name)}", [each for each in cells if each]
    require(present, column, "have a training value", "none", "name it in `drop`")
    indicator, values = len(present) < len(cells), _numbers(cells)
    known = np.isfinite(values)
    if categorical or 2 * known.sum() < len(present):
        commas = 0 if categorical else sum(bool(COMMA.fullmatch(each)) for each in present)
        require(2 * commas < len(present), column, "hold numbers as 1234.5, without commas", short_repr(present[0]))
        counts, categories = Counter(present), in_order(present)
        # More categories than half of the rows identify rows, as a name does.
        most = min(MOST_CATEGORIES, len(cells) // 2)
        must = f"have at most {most} categories in {len(cells)} training rows"
        require(len(categories) <= most, column, must, len(categories), "name it in `drop`")
        fill = max(categories, key=counts.__getitem__)  # of equals, the first
        return Column(name, fill, categories, indicator=indicator)
    fill = float(np.median(values[known]))
    values[~known] = fill  # mean and sd are those of the column as it is used
    sd = float(values.std()) if np.ptp(values) else 0.0
    return Column(name, repr(fill), mean=float(values.mean()), sd=sd or 1.0, indicator=indicator)


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
        names = [each.name for each in self.columns]
        for record in records:
            if lacking := [name for name in names if name not in record]:
                raise refusal(
                    "records", f"mappings that have {lacking[0]!r}", record, "None stands for a missing value"
                )
        return torch.from_numpy(self.encode({name: [cell(record[name]) for record in records] for name in names}))

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
LEAST_ROWS, LEAST_OF_EACH = 20, 5  # of each label and of each participant
FRACTIONS = (0.6, 0.2, 0.2)
SPLITS = ("train", "validation", "test")

Codes = NDArray[np.int64]


class Table(NamedTuple):
    """Hold the cells of a table as text.

    Attributes:
        name: Name of its file, for the errors.
        cells: (rows,) text of each column by name, "" where missing.
        lines: (rows,) line of each row in the file.
        sha256: SHA-256 of the file.
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
    require(len(table.lines) >= LEAST_ROWS, table.name, f"have at least {LEAST_ROWS} rows", len(table.lines))
    y, labels = _codes(table, "label", label)
    require(len(labels) > 1, table.name, "have at least 2 labels", f"only {short_repr(labels[0])}")
    owner, names = np.zeros_like(y), ()
    if participant is not None:
        owner, names = _codes(table, "participant", participant)
        if not allow_single_class:
            _check_participants(table, y, owner, names)
    split = _split(y, owner, fractions, seed)
    _check_splits(y, labels, split)
    encoder = _fitted(table, features, chosen, split == 0)
    x = encoder.encode(table.cells, table.lines)
    splits = {name: (x[split == k], y[split == k]) for k, name in enumerate(SPLITS)}
    groups = {name: owner[split == k] for k, name in enumerate(SPLITS) if names}
    digest = hashlib.sha256(f"{table.sha256} {(label, participant, features, sorted(chosen))}".encode()).hexdigest()
    return Arrays(
        **splits, groups=groups, labels=labels, classes=len(labels), participants=names, encoder=encoder, sha256=digest
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
    lines, rows = [], []
    try:
        columns = _checked_header(next(reader, []), name)
        for row in filter(None, reader):  # a blank line is no row
            line = f"line {reader.line_num} of {name}"  # where the row ends
            require(len(row) == len(columns), line, f"have {len(columns)} fields", len(row))
            require(len(rows) < MOST_ROWS, name, f"have at most {MOST_ROWS:,} rows", "more")
            lines.append(reader.line_num)
            rows.append([cell(each) for each in row])
    except csv.Error as error:
        raise fault(f"line {reader.line_num} of {name}", "be CSV", error_text(error)) from error
    cells = {column: [row[i] for row in rows] for i, column in enumerate(columns)}
    return Table(name, cells, lines, hashlib.sha256(content).hexdigest())


def _checked_header(header: Sequence[str], where: str) -> list[str]:
    """Return the names of the columns, or refuse them."""
    names = [each.strip() for each in header]
    require(1 <= len(names) <= MOST_COLUMNS, where, f"have 1 to {MOST_COLUMNS} columns", len(names))
    for i, name in enumerate(names, start=1):
        must = f"have a name of 1 to {MOST_NAME} characters in the first line"
        require(1 <= len(name) <= MOST_NAME, f"column {i} of {where}", must, short_repr(name))
        got = f"{short_repr(name)} twice"
        require(name not in names[: i - 1], f"the columns of {where}", "have one name each", got)
    return names


def _features(table: Table, label: str | None, participant: str | None, drop: Collection[str]) -> list[str]:
    """Return the columns that have no other role."""
    names = list(table.cells)
    names.remove(one_of("label", label, names, "the columns "))
    if participant is not None:
        names.remove(one_of("participant", participant, names, "the columns "))
    left_out = [one_of("drop", each, names, "the columns ") for each in drop]
    features = [each for each in names if each not in left_out]
    must = "have a column besides `label`, `participant` and `drop`"
    require(features, table.name, must, listed(table.cells))
    return features


def _codes(table: Table, kind: str, name: str) -> tuple[Codes, tuple[str, ...]]:
    """Return the code of each row's label or participant, and their ordered names; refuse one with too few rows."""
    cells = table.cells[name]
    if "" in cells:
        what = f"line {table.lines[cells.index('')]} of {table.name}"
        raise fault(what, f"have a value in column {short_repr(name)}", "none", "remove the line or fill it in")
    values = in_order(cells)
    code = {each: i for i, each in enumerate(values)}
    codes = np.array([code[each] for each in cells], dtype=np.int64)
    counts = np.bincount(codes)
    what = f"{kind} {short_repr(values[counts.argmin()])} of {table.name}"
    require(counts.min() >= LEAST_OF_EACH, what, f"have at least {LEAST_OF_EACH} rows", counts.min())
    return codes, values


def _check_participants(table: Table, y: Codes, owner: Codes, names: Sequence[str]) -> None:
    """Refuse a participant with one label."""
    pairs = np.unique(np.stack([owner, y]), axis=1)
    kinds = np.bincount(pairs[0])  # labels of each participant
    what = f"participant {short_repr(names[kinds.argmin()])} of {table.name}"
    remedy = "trained alone it predicts a constant; allow_single_class=True keeps it"
    require(kinds.min() > 1, what, "have rows of at least 2 labels", 1, remedy)


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
        few, remedy = counts.argmin(), "use more rows of each participant, or other `fractions`"
        what, got = f"label {short_repr(labels[few])}", f"none of {(y == few).sum()}"
        require(counts.min(), what, f"have a {name} row", got, remedy)


def _fitted(table: Table, features: Sequence[str], categorical: Collection[str], train: NDArray[np.bool_]) -> Encoder:
    """Return the encoder that is learnt from the training rows."""
    rows = np.flatnonzero(train).tolist()
    cells = {name: [table.cells[name][i] for i in rows] for name in features}
    encoder = Encoder(tuple(fit_column(name, cells[name], name in categorical) for name in features))
    values = len(train) * len(encoder.features)
    must = f"become at most {MOST_VALUES:,} values"
    require(values <= MOST_VALUES, table.name, must, f"{values:,}", "name columns in `drop`")
    return encoder
