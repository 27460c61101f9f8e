"""Cells of a table become standardised numbers and one-hot categories."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._check import checked, refusal
from .._io import short_repr

__all__ = ["Column", "Encoder", "cell", "fit_column", "in_order"]

MISSING = frozenset({"", "?", "na", "n/a", "nan"})
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
        return whole[1]  # pandas makes 4.0 of a category "4" and writes it so
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


def fault(what: str, must: str, got: object, remedy: str = "") -> ValueError:
    """Return the error that says what must hold and what was found."""
    tail = f"; {remedy}" if remedy else ""
    return ValueError(f"{what} must {must}, got {got}{tail}")


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
        texts = (self.name, self.fill, *self.categories)
        fits = all(isinstance(each, str) for each in texts)
        fits = fits and math.isfinite(self.mean) and 0 < self.sd < math.inf
        number = as_number(self.fill) if fits else None
        if self.fill not in self.categories and number is None:
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
            z = (values - self.mean) / self.sd
            block = np.clip(z, -MOST_SDS, MOST_SDS)[:, None]
        if self.indicator:
            absent = np.array([not each for each in cells], bool)
            block = np.hstack([block, absent[:, None]])
        return block.astype(np.float32)


def numbers(name: str, cells: Sequence[str], lines: Sequence[int] = ()) -> NDArray[np.float64]:
    """Return the numbers of a column, (rows,); refuse what is none."""
    found = [as_number(each) for each in cells]
    if None in found:
        i = found.index(None)
        raise fault(
            f"column {short_repr(name)}",
            "hold finite numbers",
            short_repr(cells[i]) + (f" in line {lines[i]}" if lines else ""),
            "if it holds categories, name it in `categorical`",
        )
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
        what = f"column {short_repr(name)}"
        raise fault(what, "have a training value", "none", "name it in `drop`")
    indicator = len(present) < len(cells)
    numeric = sum(as_number(each) is not None for each in present)
    if categorical or 2 * numeric < len(present):
        return _fit_categories(name, present, len(cells), indicator)
    here = [line for line, each in zip(lines, cells) if each]
    fill = repr(float(np.median(numbers(name, present, here))))
    # Mean and sd are those of the column as it is used: gaps filled.
    values = numbers(name, [each or fill for each in cells])
    sd = float(values.std()) if np.ptp(values) else 0.0
    mean = float(values.mean())
    return Column(name, fill, mean=mean, sd=sd or 1.0, indicator=indicator)


def _fit_categories(name: str, present: Sequence[str], rows: int, indicator: bool) -> Column:
    """Return the encoding of a column of categories."""
    counts, categories = Counter(present), in_order(present)
    # More categories than half of the rows identify rows, as a name does.
    most = min(MOST_CATEGORIES, rows // 2)
    if len(categories) > most:
        raise fault(
            f"column {short_repr(name)}",
            f"have at most {most} categories in {rows} training rows",
            len(categories),
            "name it in `drop`",
        )
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
        for each in records:
            lacking = [c.name for c in self.columns if c.name not in each]
            if lacking:
                allowed = f"mappings that have {lacking[0]!r}"
                remedy = "None stands for a missing value"
                raise refusal("records", allowed, each, remedy)
        names = [column.name for column in self.columns]
        return torch.from_numpy(self.encode({k: [cell(each[k]) for each in records] for k in names}))

    def encode(self, cells: Mapping[str, Sequence[str]], lines: Sequence[int] = ()) -> NDArray[np.float32]:
        """Return the features of a table's cells, (rows, features)."""
        blocks = [each.encode(cells[each.name], lines) for each in self.columns]
        return np.hstack(blocks)

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
            allowed = "what `Encoder.to_dict` returned"
            raise refusal("values", allowed, values) from error
        return cls(tuple(found))
