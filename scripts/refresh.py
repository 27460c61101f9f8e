"""Run notebooks from top to bottom and store their outputs.

usage: python scripts/refresh.py [NOTEBOOK ...]     (default: all of notebooks/)

Progress bars and other words on stderr, timings and versions are dropped, so that a second refresh changes nothing but
what a run changes. A notebook is written whole or not at all. How long each took, and where, goes into
results/run_times/notebooks.csv; `python scripts/results.py` shows it in the book.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import torch
from nbclient import NotebookClient

from aequa_lite._io import atomic_write
from aequa_lite.report import versions

ROOT = Path(__file__).resolve().parents[1]
TIMES = ROOT / "results" / "run_times" / "notebooks.csv"


def refresh(path: Path) -> None:
    """Execute one notebook in its folder and replace it."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    notebook.metadata.get("language_info", {}).pop("version", None)
    with atomic_write(path) as half:
        nbformat.write(notebook, half)


def record(path: Path, seconds: float) -> None:
    """Put a notebook's time of execution into the table of run times, in place of an older one."""
    row = {
        "notebook": path.stem,
        "seconds": round(seconds, 1),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    row |= {
        "torch": torch.__version__,
        "aequa-lite": versions()["aequa-lite"],
        "date": datetime.date.today().isoformat(),
    }
    known = pd.read_csv(TIMES) if TIMES.exists() else pd.DataFrame(columns=list(row))
    table = (
        pd.concat([known[known["notebook"] != path.stem], pd.DataFrame([row])]) if len(known) else pd.DataFrame([row])
    )
    with atomic_write(TIMES) as half:
        table.sort_values("notebook").to_csv(half, index=False)


def main() -> None:
    """Refresh the notebooks that were named, or all."""
    chosen = [Path(name).resolve() for name in sys.argv[1:]] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in chosen:
        print(f"{path.name} ...", end=" ", flush=True)
        started = time.perf_counter()
        refresh(path)
        seconds = time.perf_counter() - started
        record(path, seconds)
        print(f"{seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
