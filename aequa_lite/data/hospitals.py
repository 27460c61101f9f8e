"""The embedded heart disease tables of four hospitals."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from .._check import checked
from .readers import Arrays, intact
from .tabular import FRACTIONS, Table, as_number, cell, csv_table

HOSPITALS = Path(__file__).parent / "embedded" / "hospitals"
FILES = {  # hospital -> its file and the file's SHA-256
    "Budapest": ("processed.hungarian.data", "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796"),
    "Cleveland": ("processed.cleveland.data", "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8"),
    "Long Beach": ("processed.va.data", "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f"),
    "Switzerland": ("processed.switzerland.data", "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314"),
}
COLUMNS = (
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach"),
    *("exang", "oldpeak", "slope", "ca", "thal", "num"),
)
MOSTLY_MISSING = ("slope", "ca", "thal")  # outside Cleveland
CATEGORICAL = ("cp", "restecg", "slope", "thal")
NEVER_ZERO = ("trestbps", "chol")  # in a living patient


@checked
def hospitals(whole: bool = False, *, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> Arrays:
    """Read the embedded UCI heart disease tables.

    By default these are the 740 patients that FLamby keeps: the columns
    slope, ca and thal are left out, then the patients who lack a value
    (Budapest 261, Cleveland 303, Long Beach 130, Switzerland 46). `whole`
    keeps all 920 (294, 303, 200, 123) and all columns, fills in missing
    values, and takes a cholesterol or blood pressure of 0 as missing. The
    features are those of :func:`~aequa_lite.data.csv_table`.

    Switzerland records a cholesterol of 0 for everyone, so by default this
    column tells the hospital. Of its 46 patients 45 are ill (of all 123,
    115): on them a constant prediction is nearly always right, while on all
    patients its model is the worst of the four. Which test set is meant
    decides who contributed.

    Args:
        whole: Whether to keep patients who lack a value.
        fractions: Shares of training, validation and test patients.
        seed: Decides which patients go where.

    Returns:
        x (patients, 15) float32, or about 31 features with `whole` (one
        more for each column in which a training patient lacks a value);
        y 0 (no disease) or 1 (disease: an artery is narrowed by more than
        half); the hospitals as participants 0 to 3 in the order above.

    Raises:
        FileNotFoundError: The package was installed without its data.
        ValueError: A file is damaged, or `fractions` do not sum to 1.

    Example:
        >>> arrays = hospitals()
        >>> arrays.participants
        ('Budapest', 'Cleveland', 'Long Beach', 'Switzerland')
        >>> [len(y) for _, y in arrays.splits.values()]
        [445, 147, 148]

    References:
        A. Janosi, W. Steinbrunn, M. Pfisterer and R. Detrano, Heart
        Disease, UCI Machine Learning Repository, 1988,
        doi:10.24432/C52P4X, CC BY 4.0. The choice of patients is FLamby's
        (Ogier du Terrail et al. 2022), which holds out 34 % of each
        hospital and drops one category of each column; the encoding and
        the splits are our choice.
    """
    dropped = () if whole else MOSTLY_MISSING
    rows = [row for name in FILES for row in _patients(name)]
    rows = [row for row in rows if whole or all(value for k, value in row.items() if k not in dropped)]
    cells = {name: [row[name] for row in rows] for name in rows[0]}
    for name in NEVER_ZERO if whole else ():
        cells[name] = ["" if value == "0" else value for value in cells[name]]
    digest = f"{[sha256 for _, sha256 in FILES.values()]} {whole}"
    table = Table("hospitals", cells, range(1, len(rows) + 1), digest)
    coded = [each for each in CATEGORICAL if each not in dropped]
    arrays = csv_table(table, "num", "hospital", categorical=coded, drop=dropped, fractions=fractions, seed=seed)
    return replace(arrays, labels=("no disease", "disease"))


def _patients(hospital: str) -> Iterator[dict[str, str]]:
    """Return the values of each patient of a hospital by column."""
    file, sha256 = FILES[hospital]
    for row in csv.reader(intact(HOSPITALS / file, sha256).decode("ascii").split()):
        # Cleveland writes 1.0 and Budapest 1 for the same category.
        found = dict(zip(COLUMNS, (cell(as_number(each)) for each in row), strict=True))
        # Budapest does not tell the stages 1 to 4 apart.
        yield {**found, "num": "0" if found["num"] == "0" else "1", "hospital": hospital}
