"""Published figures compared with the tables of our runs: matched, trend only, not matched or not tried."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from aequa_lite._check import checked, one_of
from aequa_lite._io import error_text, short_repr
from aequa_lite.experiments.sweep import plain_yaml

WINS = "share of cells in which the best reward is the highest"
NEEDED = {"claim", "source", "mark", "measure", "rows", "tolerance", "why", "sweeps"}


FREE = {"value", "values", "by", "trend"}


@checked
@dataclass(frozen=True)
class Claim:
    """Hold one published figure, its source, and the tolerance within which it is matched.

    Args:
        measure: A column of the table, or "a - b" of two.
        rows: Column -> allowed value or values.
        trend: What must hold of our mean otherwise: `above` a number, or `above column` another column's mean.

    Example:
        >>> Claim("CFFL, Pearson", "its README", "seen", 0.986, "pearson", {"method": "cffl"}, 0.05, "one run").value
        0.986
    """

    claim: str
    source: str
    mark: str
    value: float
    measure: str
    rows: Mapping[str, Any]
    tolerance: float
    why: str
    trend: Mapping[str, Any] = field(default_factory=dict)
    sweeps: Mapping[str, str] = field(default_factory=dict)


@checked
@dataclass(frozen=True)
class Verdict:
    """Hold the comparison of a claim with our runs: verdict, mean and standard deviation, seeds and devices.

    Example:
        >>> Verdict("not tried").runs
        0
    """

    word: str
    mean: float | None = None
    spread: float | None = None
    runs: int = 0
    seeds: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()


def published(path: Path | str) -> dict[str, list[Claim]]:
    """Read the file of published figures: subject -> claims, one for each of its `values`.

    Raises:
        ValueError: A claim lacks a key or has one too many.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "published.yml"
        >>> text = "{claim: c, source: s, mark: seen, measure: m, rows: {}, tolerance: 1, why: w, sweeps: {}, "
        >>> _ = file.write_text("a: [" + text + "by: case, values: {P5: 1, P9: 2}}]")
        >>> [(each.claim, each.rows) for each in published(file)["a"]]
        [('c, P5', {'case': 'P5'}), ('c, P9', {'case': 'P9'})]
    """
    try:
        subjects = plain_yaml(path)[0].items()
        return {subject: [claim for entry in entries for claim in _claims(entry)] for subject, entries in subjects}
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is no file of published figures: {error_text(error)}") from error


def _claims(entry: Mapping[str, Any]) -> Iterator[Claim]:
    """The claims of one entry."""
    if NEEDED - set(entry) or set(entry) - NEEDED - FREE or ("value" in entry) == ("values" in entry):
        wrong = sorted(NEEDED - set(entry)) or sorted(set(entry) - NEEDED - FREE) or ["value"]
        raise ValueError(f"claim {short_repr(entry.get('claim'))} lacks or has in excess: {', '.join(wrong)}")
    plain = {name: value for name, value in entry.items() if name not in ("value", "values", "by")}
    for name, value in entry.get("values", {"": entry.get("value")}).items():
        rows = {**entry["rows"], **({entry["by"]: name} if name else {})}
        claim, figures = str(entry["claim"]) + (f", {name}" if name else ""), (value, entry["tolerance"])
        number, tolerance = map(float, figures)
        yield Claim(**{**plain, "claim": claim, "rows": rows, "value": number, "tolerance": tolerance})


def rows_for(table: pd.DataFrame, wanted: Mapping[str, Any]) -> pd.DataFrame:
    """The finished rows in which every column has one of the wanted values; none where a column is missing."""
    chosen = table[table["status"] == "done"]
    for name, value in wanted.items():
        words = {
            str(each) for each in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value])
        }
        chosen = chosen[chosen[name].astype(str).isin(words)] if name in chosen else chosen[:0]
    return chosen


def values_of(rows: pd.DataFrame, measure: str) -> pd.Series:
    """A column's numbers, or the differences of two."""
    names = measure.split(" - ")
    if not set(names) <= set(rows):
        return pd.Series(dtype=float)
    first, *rest = (pd.to_numeric(rows[name], errors="coerce") for name in names)
    return (first - rest[0] if rest else first).dropna()


@checked
def wins(table: pd.DataFrame, method: str, measure: str = "reward_best") -> tuple[int, int]:
    """Return in how many cells a method's mean over the seeds is the highest, and the number of cells.

    A cell is a combination of all columns before `method` except the seed; cells with a single method are left out.

    Example:
        >>> runs = {"data": ["a", "a"], "seed": 0, "method": ["aequa", "fedavg"], "status": "done", "reward_best": [0.8, 0.7]}
        >>> wins(pd.DataFrame(runs), "aequa")
        (1, 1)
    """
    done = table[table["status"] == "done"]
    one_of("measure", measure, list(map(str, table)))
    cell = [name for name in list(table)[: list(table).index("method")] if name != "seed"]
    means = done.groupby([*cell, "method"], sort=False)[measure].mean().unstack("method")
    means = means[means.notna().sum(axis=1) > 1]
    if method not in means:
        return 0, len(means)
    return int((means[method] >= means.max(axis=1)).sum()), int(means[method].notna().sum())


@checked
def check_claim(claim: Claim, table: pd.DataFrame | None) -> Verdict:
    r"""Compare a claim with a table of runs: $|\bar x - v| \le$ tolerance is matched, else the trend, else not.

    Example:
        >>> claim = Claim("", "", "seen", 0.98, "pearson", {"method": "aequa"}, 0.02, "", trend={"above": 0.9})
        >>> runs = pd.DataFrame({"status": "done", "seed": [0, 1], "method": "aequa", "pearson": [0.93, 0.95], "device": "cpu"})
        >>> check_claim(claim, runs).word, check_claim(claim, runs[:0]).word
        ('trend only', 'not tried')
    """
    if table is None or not len(rows := rows_for(table, claim.rows)):
        return Verdict("not tried")
    if claim.measure == WINS:
        won, cells = wins(table, str(claim.rows["method"]))
        values = pd.Series([won / cells] if cells else [], dtype=float)
    else:
        values = values_of(rows, claim.measure)
        rows = rows.loc[values.index]
    if values.empty:
        return Verdict("not tried")
    mean = float(values.mean())
    near = abs(mean - claim.value) <= claim.tolerance + 1e-12
    word = "matched" if near else "trend only" if _trend(claim, mean, rows) else "not matched"
    spread = float(values.std()) if len(values) > 1 else None
    seeds = tuple(sorted({int(seed) for seed in rows["seed"]})) if "seed" in rows else ()
    return Verdict(word, mean, spread, len(rows), seeds, tuple(sorted(set(rows["device"]))))


def _trend(claim: Claim, mean: float, rows: pd.DataFrame) -> bool:
    """Whether the trend holds that the claim names; without one, none does."""
    bounds = [float(claim.trend["above"])] if "above" in claim.trend else []
    if "above column" in claim.trend:
        bounds.append(float(values_of(rows, claim.trend["above column"]).mean()))
    return bool(bounds) and all(math.isfinite(bound) and mean > bound for bound in bounds)
