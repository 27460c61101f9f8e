"""Repeat the quickstart over ten seeds and write its tables to results/quickstart/.

usage: python scripts/quickstart_seeds.py [SEEDS]

Runs notebooks/01_quickstart.ipynb with papermill once for each seed 0, 1, ..., and reads the reports. It writes seeds.csv
(a row for each seed and participant) and summary.json, with the share of 95% intervals of predicted minus tested accuracy
that contain zero. Seeds that have a report are not run again; an assert of the notebook that fails is printed.
"""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK, RESULTS = ROOT / "notebooks" / "01_quickstart.ipynb", ROOT / "results" / "quickstart"
PARTITION = "by_size(50, 200, 750, 2000, 3000)"


def run(seed: int) -> aq.Report:
    """Run the notebook with this seed, unless there is a report."""
    out = ROOT / "runs" / "quickstart-seeds" / str(seed)
    if not (out / "report.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        parameters = {"seed": seed, "out": str(out)}
        try:
            papermill.execute_notebook(str(NOTEBOOK), str(out / "executed.ipynb"), parameters, progress_bar=False)
        except papermill.PapermillExecutionError as error:
            if not (out / "report.json").exists():
                raise
            print(f"seed {seed}: {error.ename} {error.evalue} in\n{error.source}")  # the seed counts all the same
    return aq.Report.load(out)


def rows(seed: int, found: aq.Report) -> pd.DataFrame:
    """One row for each participant: predicted and tested accuracy, and the standard error of their difference."""
    predicted, tested = np.array(found.predicted_accuracy), np.array(found.test_accuracy)
    variance = predicted * (1 - predicted)
    sizes = found.data["sizes"]
    error = np.sqrt(variance / sizes["validation"] + variance / sizes["test"])
    return pd.DataFrame(
        {
            "seed": seed,
            "participant": range(len(tested)),
            "contribution": found.contribution,
            "width": found.widths,
            "parameters": found.parameters,
            "predicted": predicted,
            "test": tested,
            "standalone": found.standalone,
            "gain": (tested - found.standalone).round(6),
            "error_of_difference": error.round(6),
            "covered": np.abs(predicted - tested) <= 1.96 * error,
            "worse_off": [i in found.fairness["worse_off"] for i in range(len(tested))],
            "pearson": found.fairness["pearson"],
            "pearson_ceiling": found.fairness["pearson_ceiling"],
            "mcg": found.fairness["mcg"],
            "cgs": found.fairness["cgs"],
            "seconds": found.seconds,
        }
    )


def summary(table: pd.DataFrame, last: aq.Report) -> dict[str, object]:
    """Means and extremes over the seeds, with configuration, versions, device and date."""
    by_seed = table.groupby("seed").first()
    return {
        "seeds": sorted(int(s) for s in by_seed.index),
        "coverage": round(float(table["covered"].mean()), 3),
        "intervals": len(table),
        "pearson": {"mean": by_seed["pearson"].mean(), "least": by_seed["pearson"].min()},
        "cgs": {"mean": by_seed["cgs"].mean(), "most": by_seed["cgs"].max()},
        "mcg": {"mean": by_seed["mcg"].mean(), "least": by_seed["mcg"].min()},
        "smallest_gain": {"mean": table.groupby("seed")["gain"].min().mean(), "least": table["gain"].min()},
        "worse_off": int(table["worse_off"].sum()),
        "seconds": {"median": by_seed["seconds"].median(), "most": by_seed["seconds"].max()},
        "config": {**last.config, "seed": "see seeds"},
        "partition": PARTITION,
        "versions": dict(last.versions),
        "device": last.device,
        "date": date.today().isoformat(),
    }


def main() -> None:
    """Run all seeds and write the tables."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
    reports = {seed: run(seed) for seed in tqdm(seeds, desc="seeds")}
    table = pd.concat([rows(seed, found) for seed, found in reports.items()], ignore_index=True)
    with atomic_write(RESULTS / "seeds.csv") as half:
        table.to_csv(half, index=False)
    with atomic_write(RESULTS / "summary.json") as half:
        half.write_text(json.dumps(summary(table, reports[seeds[-1]]), indent=1) + "\n")
    print((RESULTS / "summary.json").read_text())


if __name__ == "__main__":
    main()
