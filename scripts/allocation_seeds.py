"""Repeat the chapter on the allocation over several seeds and write the table under results/allocation/.

usage: python scripts/allocation_seeds.py [SEEDS]

Runs notebooks/06_post_training_allocation.ipynb through papermill once for each seed 0, 1, ... (default: three), reads its
results, and writes results/allocation/rules.csv (a row for each seed and rule) and summary.json (noise, false reports,
optimism, fractional rewards, coalitions; with config, versions, device and date). Finished seeds are not run again.
"""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import torch
from tqdm import tqdm

from aequa_lite._io import atomic_write
from aequa_lite.report import device_name, versions

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK, RESULTS = ROOT / "notebooks" / "06_post_training_allocation.ipynb", ROOT / "results" / "allocation"
CONFIG = {"rounds": 60, "local_steps": 15}


def run(seed: int) -> dict:
    """Run the chapter with this seed, unless it is finished, and return its results."""
    out = ROOT / "runs" / "allocation-seeds" / str(seed)
    if not (out / "allocation.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(
            str(NOTEBOOK), str(out / "executed.ipynb"), {"seed": seed, "out": str(out), **CONFIG}, progress_bar=False
        )
    return json.loads((out / "allocation.json").read_text())


def rows(seed: int, found: dict) -> list[dict[str, object]]:
    """One row for each rule: its gains in points, Pearson between contribution and predicted accuracy, the sum of widths."""
    table = []
    for rule, (*gains, r, widths) in found["gains"].items():
        points = np.array(gains)
        row = {"seed": seed, "rule": rule, "pearson": None if r == "none" else r, "widths": widths}
        row |= {"mcg": round(points.mean(), 2), "cgs": round(points.std(), 2)}
        table.append(row | {f"gain_{i}": gain for i, gain in enumerate(gains)})
    return table


def spread(values: list[float]) -> dict[str, float]:
    """Mean, smallest and largest value over the seeds."""
    return {"mean": round(float(np.mean(values)), 4), "least": round(min(values), 4), "most": round(max(values), 4)}


def summary(found: dict[int, dict]) -> dict[str, object]:
    """What the pages quote."""
    runs = list(found.values())
    return {
        "seeds": sorted(found),
        "optimism": {name: spread([each["optimism"][name] for each in runs]) for name in runs[0]["optimism"]},
        "not_confirmed_of_40": {
            name: [each["not_confirmed"][name] for each in runs] for name in runs[0]["not_confirmed"]
        },
        "false_reports": {
            k: spread([float(np.mean(each["reported"][k])) for each in runs]) for k in runs[0]["reported"]
        },
        "false_reports_measured_most": {
            k: spread([max(each["measured"][k]) for each in runs]) for k in runs[0]["measured"]
        },
        "largest_step": spread([each["largest_step"] for each in runs]),
        "undone_most": spread([max(each["undone"]) for each in runs]),
        "blocking_coalitions_of_15": [each["blocking"] for each in runs],
        "mean_gain": {k: spread([float(np.mean(each["stable"][k])) for each in runs]) for k in runs[0]["stable"]},
        "pearson_intervals": [each["pearson_interval"] for each in runs],
        "cgs_intervals": [each["cgs_interval"] for each in runs],
        "samples_needed": [each["samples_needed"] for each in runs],
        "exact_against_annealed": [each["value"] for each in runs],
        "config": {
            **CONFIG,
            "participants": 5,
            "sizes": [50, 200, 750, 2000, 3000],
            "network": "MLP",
            "data": "fashion-mini",
        },
        "versions": versions(),
        "device": device_name(torch.device("cpu")),
        "date": date.today().isoformat(),
    }


def main() -> None:
    """Run all seeds and write the tables."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    found = {seed: run(seed) for seed in tqdm(seeds, desc="seeds")}
    table = pd.DataFrame([row for seed, each in found.items() for row in rows(seed, each)])
    with atomic_write(RESULTS / "rules.csv") as path:
        table.to_csv(path, index=False)
    with atomic_write(RESULTS / "summary.json") as path:
        path.write_text(json.dumps(summary(found), indent=1) + "\n")
    print(table.groupby("rule", sort=False)[["mcg", "cgs", "pearson", "widths"]].mean().round(3))


if __name__ == "__main__":
    main()
