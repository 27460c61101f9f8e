"""Run notebooks from top to bottom and store their outputs.

usage: python scripts/refresh.py [NOTEBOOK ...]     (default: all of notebooks/)

Progress bars and other words on stderr, timings and versions are dropped, so that a second refresh changes nothing but
what a run changes. A notebook is written whole or not at all. How long each took, the most memory that its kernel and the
processes which it starts held at a time (resident, looked at every half second), and where, goes into
results/run_times/notebooks.csv; `python scripts/results.py` shows it in the book.
"""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import torch
from nbclient import NotebookClient

from aequa_lite._io import atomic_write
from aequa_lite.report import versions

ROOT = Path(__file__).resolve().parents[1]
TIMES = ROOT / "results" / "run_times" / "notebooks.csv"


class Memory:
    """Within the block: the most bytes that the processes started by this one hold at a time."""

    most = 0

    def __enter__(self) -> Memory:
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(0.5):
            held = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it has just ended
                    held += process.memory_info().rss
            self.most = max(self.most, held)


def refresh(path: Path) -> int:
    """Execute one notebook in its folder and replace it; return the most bytes that it held."""
    notebook = nbformat.read(path, as_version=4)
    with Memory() as memory:
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
    return memory.most


def record(path: Path, seconds: float, memory: int) -> None:
    """Put a notebook's time of execution and its memory into the table of run times, in place of older ones."""
    row = {
        "notebook": path.stem,
        "seconds": round(seconds, 1),
        "gigabytes": round(memory / 1e9, 2),
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
        memory = refresh(path)
        seconds = time.perf_counter() - started
        record(path, seconds, memory)
        print(f"{seconds:.0f} s, {memory / 1e9:.1f} GB", flush=True)


if __name__ == "__main__":
    main()
