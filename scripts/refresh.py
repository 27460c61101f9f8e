"""Run notebooks from top to bottom and store their outputs.

usage: python scripts/refresh.py [NOTEBOOK ...]     (default: all of notebooks/)

Progress bars and other words on stderr, timings and versions are dropped, so that a second refresh changes nothing but
what a run changes. A notebook is written whole or not at all.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from aequa_lite._io import atomic_write

ROOT = Path(__file__).resolve().parents[1]


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


def main() -> None:
    """Refresh the notebooks that were named, or all."""
    chosen = [Path(name).resolve() for name in sys.argv[1:]] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in chosen:
        print(f"{path.name} ...", end=" ", flush=True)
        started = time.perf_counter()
        refresh(path)
        print(f"{time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
