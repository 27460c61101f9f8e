"""Repeat the chapter on the allocation over several seeds and write the table under results/allocation/.

usage: python scripts/allocation_seeds.py [SEEDS]

Runs notebooks/05_post_training_allocation.ipynb through papermill once for each seed 0, 1, ..., reads what it has found, and
writes results/allocation/rules.csv (a row for each seed and rule) and summary.json (noise, claims, optimism; with config,
versions, device and date). Seeds that are finished are not run again.
"""

from __future__ import annotations

import json
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
from tqdm import tqdm

from aequa_lite._io import atomic_write

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK, RESULTS = ROOT / "notebooks" / "05_post_training_allocation.ipynb", ROOT / "results" / "allocation"
CONFIG = {"rounds": 60, "local_steps": 15}


def run(seed: int) -> dict:
    """Run the chapter with this seed, unless it has been run."""
    out = ROOT / "runs" / "allocation-seeds" / str(seed)
    if not (out / "allocation.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(
            str(NOTEBOOK), str(out / "executed.ipynb"), {"seed": seed, "out": str(out), **CONFIG}, progress_bar=False
        )
    return json.loads((out / "allocation.json").read_text())


def rows(seed: int, found: dict) -> list[dict[str, object]]:
    """One row for each rule: its gains in points, Pearson between contribution and prediction, the sum of widths."""
    table = []
    for rule, (*gains, r, widths) in found["gains"].items():
        points = np.array(gains)
        row = {"seed": seed, "rule": rule, "pearson": None if r == "none" else r, "widths": widths}
        row |= {"mcg": round(points.mean(), 2), "cgs": round(points.std(), 2)}
        table.append(row | {f"gain_{i}": gain for i, gain in enumerate(gains)})
    return table


def spread(values: list[float]) -> dict[str, float]:
    """Mean, least and most over the seeds."""
    return {"mean": round(float(np.mean(values)), 4), "least": round(min(values), 4), "most": round(max(values), 4)}


def summary(found: dict[int, dict]) -> dict[str, object]:
    """The figures that may be quoted."""
    runs = list(found.values())
    return {
        "seeds": sorted(found),
        "optimism": {name: spread([each["optimism"][name] for each in runs]) for name in runs[0]["optimism"]},
        "broken_of_40": {name: [each["broken"][name] for each in runs] for name in runs[0]["broken"]},
        "claims_believed": {
            k: spread([float(np.mean(each["believed"][k])) for each in runs]) for k in runs[0]["believed"]
        },
        "claims_measured_most": {k: spread([max(each["measured"][k]) for each in runs]) for k in runs[0]["measured"]},
        "largest_step": spread([each["largest_step"] for each in runs]),
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
        "versions": {
            "python": platform.python_version(),
            **{n: version(n) for n in ("aequa-lite", "torch", "numpy", "scipy")},
        },
        "device": f"cpu ({platform.machine()})",
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
