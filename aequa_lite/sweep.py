"""Many papermill runs into one tidy table: resumable, and a failed run stays a row with its reason.

usage: python -m aequa_lite.sweep sweeps/NAME.yml [--shard I/N]

The file says which notebook is run, which parameters are fixed, and which are varied: every case at every combination of
the grid is a run::

    notebook: notebooks/reproduce.ipynb
    fixed: {participants: 10}
    cases: {plain: {draw: full_only}, slimmable: {}}
    grid: {data: [fashion], seed: [0, 1, 2]}

Each run leaves its executed notebook and ``report.json`` under ``runs/NAME/``; finished runs are not repeated, failed ones
are. The table goes to ``results/NAME/runs.csv``, means and spreads over the seeds to ``results/NAME/summary.csv``.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import papermill
import yaml
from tqdm import tqdm

from .curve import Curve, range_report
from .files import whole
from .records import Report

__all__ = ["Run", "Sweep", "gather", "read_sweep", "run_sweep"]

MEANT = (
    "pearson",
    "pearson_ceiling",
    "mcg",
    "cgs",
    "min_gain",
    "alone_best",
    "full",
    "half",
    "quarter",
    "largest_step",
)


@dataclass(frozen=True)
class Run:
    """Hold one run of a sweep: what tells it apart from the others, and all its parameters."""

    label: dict[str, Any]
    parameters: dict[str, Any]

    def folder(self, root: Path) -> Path:
        """Where it lies: readable by its label, unique by its parameters."""
        digest = hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode()).hexdigest()[:8]
        words = (re.sub(r"[^\w.,()=]", "", str(value)) for value in self.label.values())
        return root / f"{'-'.join(words)}-{digest}"


@dataclass(frozen=True)
class Sweep:
    """Hold a sweep: its name, its notebook, what is fixed, the cases to compare, and the grid that each is run on.

    Example:
        >>> len(Sweep("mini", Path("notebooks/reproduce.ipynb"), {}, {"": {}}, {"seed": [0, 1], "data": ["mnist"]}).runs())
        2
    """

    name: str
    notebook: Path
    fixed: Mapping[str, Any]
    cases: Mapping[str, Mapping[str, Any]]
    grid: Mapping[str, list[Any]]

    def runs(self) -> list[Run]:
        """Every case at each combination of the grid, over what is fixed; the grid's last parameter varies first."""
        found = []
        for values in itertools.product(*self.grid.values()):
            at = dict(zip(self.grid, values))
            for case, changed in self.cases.items():
                label = {"case": case, **at} if len(self.cases) > 1 else at
                found.append(Run(label, {**self.fixed, **at, **changed}))
        return found


def read_sweep(path: Path | str) -> Sweep:
    """Read a sweep file and refuse what its notebook does not know.

    Raises:
        ValueError: a key is missing or unknown, or a parameter is none of the notebook's; the nearest name is given.

    Example:
        >>> read_sweep("nowhere.yml")
        Traceback (most recent call last):
        ValueError: sweep nowhere.yml cannot be read: [Errno 2] No such file or directory: 'nowhere.yml'
    """
    path = Path(path)
    try:
        found = yaml.safe_load(path.read_text())
        if unknown := set(found) - {"notebook", "fixed", "cases", "grid"}:
            raise ValueError(f"unknown key {min(unknown)!r}; allowed are notebook, fixed, cases, grid")
        cases = {str(name): dict(case or {}) for name, case in dict(found.get("cases") or {"": {}}).items()}
        sweep = Sweep(path.stem, Path(found["notebook"]), dict(found.get("fixed") or {}), cases, dict(found["grid"]))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"sweep {path} cannot be read: {error}") from error
    known = papermill.inspect_notebook(str(sweep.notebook))
    for name in itertools.chain(sweep.fixed, sweep.grid, *sweep.cases.values()):
        if name not in known or name == "out":
            near = get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise ValueError(
                f"sweep {path} sets {name!r}; allowed are the notebook's parameters, the nearest is {near}"
            )
    for name, values in sweep.grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"sweep {path} has grid {name!r} = {values!r}; allowed is a list of values")
    return sweep


def run_one(notebook: Path, parameters: Mapping[str, Any], folder: Path) -> None:
    """Run the notebook once; a failure leaves its reason in the folder instead of a report."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failed.txt").unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook), str(folder / "run.ipynb"), {**parameters, "out": str(folder)}, progress_bar=False
        )
    except Exception as error:  # whatever it was, the sweep goes on and the row says it
        with whole(folder / "failed.txt") as half:
            half.write_text(f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}\n")


def run_sweep(sweep: Sweep, root: Path = Path("runs"), shard: tuple[int, int] = (0, 1)) -> None:
    """Run what has not been finished yet, one after another, with a bar over the runs.

    ``shard``: (i, n) takes every n-th run from the i-th on, so that n machines can share a sweep.
    """
    for run in tqdm(sweep.runs()[shard[0] :: shard[1]], desc=sweep.name):
        folder = run.folder(root / sweep.name)
        if not (folder / "report.json").exists():
            run_one(sweep.notebook, run.parameters, folder)


def row_of(run: Run, folder: Path) -> dict[str, Any]:
    """One run as a row: what tells it apart, and what came of it."""
    if not (folder / "report.json").exists():
        failed = folder / "failed.txt"
        return {**run.label, "status": failed.read_text().strip() if failed.exists() else "not run yet"}
    found = Report.load(folder)
    fair, alone, paid = found.fairness, np.array(found.standalone), np.array(found.test_accuracy)
    low, high = fair.get("pearson_ceiling_interval") or (None, None)
    return {
        **run.label,
        "status": "done",
        **{name: fair[name] for name in ("pearson", "pearson_ceiling")},
        "pearson_ceiling_low": low,
        "pearson_ceiling_high": high,
        **{name: fair[name] for name in ("mcg", "cgs")},
        "cgs_ceiling_high": (fair.get("cgs_ceiling_interval") or (None, None))[1],
        "min_gain": fair["min_gain"],
        "worse_off": len(fair["worse_off"]),
        "alone_best": alone.max(),
        "alone_worst": alone.min(),
        "alone_sd": alone.std(),
        "reward_best": paid.max(),
        **_currency(found),
        "mean_width": None if found.widths is None else float(np.mean(found.widths)),
        "parameters_sent": found.parameters_sent,
        "seconds": found.seconds,
        "device": found.device,
        **{f"version_{name}": v for name, v in found.versions.items()},
        "date": date.fromtimestamp((folder / "report.json").stat().st_mtime).isoformat(),
    }


def _currency(found: Report) -> dict[str, float]:
    """How good the shared network's curve is: its ends, a quarter and half of it, its small change, its departures."""
    if not found.curve:
        return {}
    curve = Curve(found.curve["widths"], found.curve["validation"], found.data["sizes"]["validation"])
    judged = range_report(curve, found.contribution)
    test = np.array(found.curve["test"] or found.curve["validation"])
    return {
        "full": test[-1],
        "half": float(np.interp(0.5, curve.widths, test)),
        "quarter": float(np.interp(0.25, curve.widths, test)),
        "least": test[0],
        "largest_step": judged["largest_step"],
        "noise": judged["noise"],
        "not_monotone": float(np.abs(curve.fitted - curve.accuracy).max()),
    }


def gather(sweep: Sweep, root: Path = Path("runs"), results: Path = Path("results")) -> pd.DataFrame:
    """Write the table of all runs and its summary over the seeds; return the table."""
    table = pd.DataFrame([row_of(run, run.folder(root / sweep.name)) for run in sweep.runs()])
    with whole(results / sweep.name / "runs.csv") as half:
        table.to_csv(half, index=False, float_format="%.6g")
    done = table[table["status"] == "done"]
    if len(done):
        by = [name for name in sweep.runs()[0].label if name != "seed"]
        numbers = [name for name in MEANT if name in done]
        summary = (
            done.groupby(by, sort=False)[numbers].agg(["mean", "std", "count"]) if by else done[numbers].describe()
        )
        with whole(results / sweep.name / "summary.csv") as half:
            summary.to_csv(half, float_format="%.5g")
    return table


def main() -> None:
    """Run a sweep file and print its table."""
    parser = argparse.ArgumentParser(prog="python -m aequa_lite.sweep", description="Run a sweep and gather its table.")
    parser.add_argument("file", help="sweeps/NAME.yml")
    parser.add_argument("--shard", default="1/1", help="I/N: take the I-th of N shares of the runs")
    parser.add_argument("--gather", action="store_true", help="only gather the table of what has been run")
    asked = parser.parse_args()
    try:
        part, parts = (int(piece) for piece in asked.shard.split("/"))
        sweep = read_sweep(asked.file)
    except ValueError as error:
        parser.error(str(error))
    if not asked.gather:
        run_sweep(sweep, shard=(part - 1, parts))
    table = gather(sweep)
    shown = [
        *sweep.runs()[0].label,
        "status",
        "pearson",
        "pearson_ceiling",
        "cgs",
        "min_gain",
        "worse_off",
        "alone_best",
        "full",
    ]
    print(table[[name for name in shown if name in table]].to_string(index=False))


if __name__ == "__main__":
    main()
