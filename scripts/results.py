"""Fill the tables of the book's page of results from the rows under results/.

usage: python scripts/results.py [--check]     (--check: only say whether the page is up to date)
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from aequa_lite.files import whole

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "results.md"
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", flags=re.S)


def rows_of(name: str) -> pd.DataFrame:
    """The finished rows of a sweep."""
    table = pd.read_csv(ROOT / "results" / name / "runs.csv")
    return table[table["status"] == "done"]


def spread(values: pd.Series, digits: int = 3) -> str:
    """Mean and standard deviation over the seeds, or the one value there is."""
    known = values.dropna()
    if known.empty:
        return "-"
    deviation = f"\u00a0±\u00a0{known.std():.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{deviation}"


def judged(runs: pd.DataFrame) -> str:
    """In how many of the informative runs Pearson and CGS lie within what noise allows."""
    error = np.sqrt(runs["alone_best"] * (1 - runs["alone_best"]) / 10_000)  # both test splits hold 10,000 samples
    told = runs[runs["alone_sd"] >= 3 * error]
    if told.empty:
        return "uninformative"
    inside = (told["pearson"] >= told["pearson_ceiling_low"]) & (told["cgs"] <= told["cgs_ceiling_high"])
    return f"{int(inside.sum())} of {len(told)}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def fairness(name: str, by: list[str]) -> str:
    """Our runs beside plain FedAvg's, a line for each cell of the grid."""
    table = rows_of(name)
    ours, plain = table[table["case"] == "ours"], table[table["case"] == "plain FedAvg"]
    rows = []
    for key, runs in ours.groupby(by, sort=False):
        same = (plain[by] == pd.Series(dict(zip(by, key)))).all(axis=1)
        columns = [spread(runs["alone_best"]), spread(runs["full"]), spread(plain[same]["full"])]
        columns += [spread(runs["pearson"]), judged(runs), spread(runs["cgs"]), spread(runs["mcg"])]
        rows.append([*key, *columns, spread(runs["min_gain"]), str(int(runs["worse_off"].sum()))])
    head = [*by, "best alone", "full width", "FedAvg", "Pearson", "within noise", "CGS", "mean gain", "smallest gain"]
    return markdown([*head, "worse off"], rows)


def ways(name: str) -> str:
    """The finalists beside our way and plain FedAvg, on the same cells of the sweep that holds those."""
    table = rows_of(name)
    known = rows_of("post_training")
    table = pd.concat([known[known["partition"] == "dirichlet(0.5)"], table])
    rows = []
    for (data, case), runs in table.groupby(["data", "case"], sort=False):
        columns = [spread(runs[each]) for each in ("full", "quarter", "pearson", "cgs", "min_gain", "mean_width")]
        rows.append([data, case, *columns])
    return markdown(["data", "way", "full width", "a quarter", "Pearson", "CGS", "smallest gain", "mean width"], rows)


def stamp(name: str) -> str:
    """Seeds, versions, device and date of a sweep's rows."""
    table = rows_of(name)
    said = [f"seeds {', '.join(map(str, sorted(table['seed'].unique())))}"]
    for column in ("version_aequa-lite", "version_torch", "version_numpy", "version_python", "device", "date"):
        values = ", ".join(sorted(map(str, table[column].unique())))
        said.append(f"{column.removeprefix('version_')} {values}" if column.startswith("version") else values)
    return f"\n{len(table)} runs; {'; '.join(said)}.\n"


TABLES = {
    "nine_partitions": lambda name: fairness(name, ["partition"]),
    "post_training": lambda name: fairness(name, ["data", "partition"]),
    "finalists": ways,
}


def page() -> str:
    """The page with its tables filled from the rows."""
    return MARK.sub(lambda m: m[1] + "\n" + TABLES[m[2]](m[2]) + stamp(m[2]) + "\n" + m[3], PAGE.read_text())


def main() -> None:
    """Write the page, or check it."""
    filled = page()
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text() == filled else f"{PAGE.name} is out of date; run python scripts/results.py")
    with whole(PAGE) as half:
        half.write_text(filled)


if __name__ == "__main__":
    main()
