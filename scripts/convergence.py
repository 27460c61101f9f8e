"""Run the chapter on convergence over more seeds and write its tables under results/convergence/.

usage: python scripts/convergence.py [SEEDS] [SCALE]

Runs notebooks/04_convergence.ipynb through papermill with seeds 0, 1, ... (default: five) at a scale (default: 1). Writes
bounds.csv (measured gradient and bound by loss, width sampler and widths received), changing.csv (the same where widths
change), slopes.csv (predicted and fitted slopes with 95% intervals over the seeds) and cases.csv (nesting and its limits, each
assumption broken), each row with versions, device and date.
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
NOTEBOOK, RESULTS = ROOT / "notebooks" / "04_convergence.ipynb", ROOT / "results" / "convergence"


def main() -> None:
    """Run the chapter; add versions, device and date to its tables."""
    seeds, scale = (int(text) for text in (*sys.argv[1:], *("5", "1")[len(sys.argv) - 1 :]))
    out = ROOT / "runs" / "convergence-seeds"
    out.mkdir(parents=True, exist_ok=True)
    parameters = {"seeds": seeds, "scale": scale, "out": str(out)}
    papermill.execute_notebook(str(NOTEBOOK), str(out / "executed.ipynb"), parameters, progress_bar=False)
    stamp = {
        "seeds": seeds,
        "scale": scale,
        "device": f"cpu ({platform.machine()})",
        "python": platform.python_version(),
    }
    stamp |= {name: version(name) for name in ("torch", "numpy", "scipy", "aequa-lite")}
    for name in ("bounds", "changing", "slopes", "cases"):
        table = pd.read_csv(out / f"{name}.csv").assign(**stamp, date=date.today().isoformat())
        with atomic_write(RESULTS / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    print(f"tables in {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
