"""Run the chapter on convergence over more seeds and write its tables under results/convergence/.

usage: python scripts/convergence.py [SEEDS] [SCALE]

Runs notebooks/03_convergence.ipynb through papermill, seeds 0, 1, ... (default: five), scale 1 by default, and writes
bounds.csv (measured gradient and bound for each loss, draw and way of receiving), slopes.csv (predicted and fitted slopes
with their 95% intervals over the seeds) and cases.csv (nesting, what it does not cover, each assumption broken); with
versions, device, date.
"""

from __future__ import annotations

import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import papermill

from aequa_lite._io import atomic_write

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK, RESULTS = ROOT / "notebooks" / "03_convergence.ipynb", ROOT / "results" / "convergence"


def main() -> None:
    """Run the chapter and stamp what it has found."""
    seeds, scale = (int(given) for given in (*sys.argv[1:], *("5", "1")[len(sys.argv) - 1 :]))
    out = ROOT / "runs" / "convergence-seeds"
    out.mkdir(parents=True, exist_ok=True)
    given = {"seeds": seeds, "scale": scale, "out": str(out)}
    papermill.execute_notebook(str(NOTEBOOK), str(out / "executed.ipynb"), given, progress_bar=False)
    stamp = {
        "seeds": seeds,
        "scale": scale,
        "device": f"cpu ({platform.machine()})",
        "python": platform.python_version(),
    }
    stamp |= {name: version(name) for name in ("torch", "numpy", "scipy", "aequa-lite")}
    for name in ("bounds", "slopes", "cases"):
        table = pd.read_csv(out / f"{name}.csv").assign(**stamp, date=date.today().isoformat())
        with atomic_write(RESULTS / f"{name}.csv") as half:
            table.to_csv(half, index=False, float_format="%.6g")
    print(f"tables in {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
