"""Many papermill runs into one tidy table: resumable, and a failed run stays a row with its reason.

usage: python -m aequa_lite.sweep sweeps/NAME.yml [--shard I/N]

The file says which notebook is run, which parameters are fixed, and which are varied (every combination is a run)::

    notebook: notebooks/reproduce.ipynb
    fixed: {participants: 10}
    grid: {data: [fashion], seed: [0, 1, 2]}

Each run leaves its executed notebook and ``report.json`` under ``runs/NAME/``; finished runs are not repeated, failed ones
are. The table goes to ``results/NAME/runs.csv``, means and spreads over the seeds to ``results/NAME/summary.csv``.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
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

from .files import whole
from .records import Report

__all__ = ["Sweep", "gather", "read_sweep", "run_sweep"]


@dataclass(frozen=True)
class Sweep:
    """Hold a sweep: its name, its notebook, what is fixed and what is varied.

    Example:
        >>> len(Sweep("mini", Path("notebooks/reproduce.ipynb"), {}, {"seed": [0, 1], "data": ["mnist"]}).runs())
        2
    """

    name: str
    notebook: Path
    fixed: Mapping[str, Any]
    grid: Mapping[str, list[Any]]

    def runs(self) -> list[dict[str, Any]]:
        """The parameters of every run: each combination of the grid, over what is fixed."""
        return [{**self.fixed, **dict(zip(self.grid, each))} for each in itertools.product(*self.grid.values())]


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
        sweep = Sweep(path.stem, Path(found["notebook"]), dict(found.get("fixed") or {}), dict(found["grid"]))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"sweep {path} cannot be read: {error}") from error
    known = papermill.inspect_notebook(str(sweep.notebook))
    for name in [*sweep.fixed, *sweep.grid]:
        if name not in known or name == "out":
            near = get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise ValueError(
                f"sweep {path} sets {name!r}; allowed are the notebook's parameters, the nearest is {near}"
            )
    for name, values in sweep.grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"sweep {path} has grid {name!r} = {values!r}; allowed is a list of values")
    return sweep


def folder_of(sweep: Sweep, parameters: Mapping[str, Any], root: Path) -> Path:
    """Where a run lies: readable by what is varied, unique by all its parameters."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]
    varied = "-".join(str(parameters[name]).replace("/", "_").replace(" ", "") for name in sweep.grid)
    return root / sweep.name / f"{varied}-{digest}"


def run_one(sweep: Sweep, parameters: Mapping[str, Any], folder: Path) -> None:
    """Run the notebook once; a failure leaves its reason in the folder instead of a report."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failed.txt").unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            str(sweep.notebook), str(folder / "run.ipynb"), {**parameters, "out": str(folder)}, progress_bar=False
        )
    except Exception as error:  # whatever it was, the sweep goes on and the row says it
        with whole(folder / "failed.txt") as half:
            half.write_text(f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}\n")


def run_sweep(sweep: Sweep, root: Path = Path("runs"), shard: tuple[int, int] = (0, 1)) -> None:
    """Run what has not been finished yet, one after another, with a bar over the runs.

    ``shard``: (i, n) takes every n-th run from the i-th on, so that n machines can share a sweep.
    """
    for parameters in tqdm(sweep.runs()[shard[0] :: shard[1]], desc=sweep.name):
        folder = folder_of(sweep, parameters, root)
        if not (folder / "report.json").exists():
            run_one(sweep, parameters, folder)


def row_of(sweep: Sweep, parameters: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One run as a row: what was varied, and what came of it."""
    row = {name: parameters[name] for name in sweep.grid}
    if not (folder / "report.json").exists():
        failed = folder / "failed.txt"
        return {**row, "status": failed.read_text().strip() if failed.exists() else "not run yet"}
    found, fair = Report.load(folder), Report.load(folder).fairness
    ceiling = fair.get("pearson_ceiling_interval") or (None, None)
    alone, paid = np.array(found.standalone), np.array(found.test_accuracy)
    return {
        **row,
        "status": "done",
        "method": found.method,
        "pearson": fair["pearson"],
        "pearson_ceiling": fair["pearson_ceiling"],
        "ceiling_low": ceiling[0],
        "ceiling_high": ceiling[1],
        "mcg": fair["mcg"],
        "cgs": fair["cgs"],
        "cgs_ceiling_high": (fair.get("cgs_ceiling_interval") or (None, None))[1],
        "min_gain": fair["min_gain"],
        "worse_off": len(fair["worse_off"]),
        "alone_best": alone.max(),
        "alone_worst": alone.min(),
        "alone_sd": alone.std(),
        "full": found.curve["test"][-1] if found.curve and found.curve["test"] else paid.max(),
        "reward_best": paid.max(),
        "seconds": found.seconds,
        "device": found.device,
        **{f"version_{name}": v for name, v in found.versions.items()},
    }


def gather(sweep: Sweep, root: Path = Path("runs"), results: Path = Path("results")) -> pd.DataFrame:
    """Write the table of all runs and its summary over the seeds; return the table."""
    runs = sweep.runs()
    table = pd.DataFrame([row_of(sweep, p, folder_of(sweep, p, root)) for p in runs]).assign(
        date=date.today().isoformat()
    )
    with whole(results / sweep.name / "runs.csv") as half:
        table.to_csv(half, index=False, float_format="%.6g")
    done = table[table["status"] == "done"]
    if len(done):
        by = [name for name in sweep.grid if name != "seed"]
        numbers = [
            c for c in ("pearson", "pearson_ceiling", "mcg", "cgs", "min_gain", "alone_best", "full") if c in done
        ]
        summary = done.groupby(by)[numbers].agg(["mean", "std", "count"]) if by else done[numbers].agg(["mean", "std"])
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
    shown = [*sweep.grid, "status", "pearson", "pearson_ceiling", "cgs", "min_gain", "worse_off", "alone_best", "full"]
    print(table[[name for name in shown if name in table]].to_string(index=False))


if __name__ == "__main__":
    main()
