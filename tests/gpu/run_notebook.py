"""Run a notebook's cells as on a machine with a GPU: run_notebook.py NOTEBOOK [NAME=VALUE ...].

The values replace the notebook's parameters; MOST=N is no parameter but the most rounds that any `Config` asks for, and
twice the most local steps. A real GPU is used where one is, else the pretend one. It ends with the number of cells that
fail there and do not fail on the CPU in the same way, and prints how many do.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
import warnings
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"
import torch
from IPython.core.interactiveshell import InteractiveShell
from pretend_cuda import pretend_cuda

import aequa_lite  # before the device is there


def cells(path: Path, values: dict[str, str]) -> list[str]:
    """The sources of a notebook's code cells, with the parameters' new values after the old ones."""
    found = []
    for cell in json.loads(path.read_text())["cells"]:
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] != "code" or "nbval-skip" in tags:
            continue
        found.append("".join(cell["source"]))
        found += ["\n".join(f"{k} = {v}" for k, v in values.items())] if "parameters" in tags and values else []
    return found


def failed(path: Path, values: dict[str, str]) -> dict[int, tuple[Exception, str]]:
    """Run every cell; return the numbers of those that failed, each with its error and what to print of it."""
    shell, found = InteractiveShell.instance(), {}
    shell.reset()
    for number, source in enumerate(cells(path, values)):
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            done = shell.run_cell(source, store_history=True)
        if error := done.error_before_exec or done.error_in_exec:
            lines = "".join(traceback.format_exception(error)).splitlines()[-14:]
            found[number] = error, "\n".join([f"cell {number} of {path.name}:", source, *lines])
    return found


def alike(there: Exception, here: Exception) -> bool:
    """Whether two errors are one failure: an assertion at the same place, which so few rounds break, or the same words."""
    if not (isinstance(there, AssertionError) and isinstance(here, AssertionError)):
        return (type(there), str(there)) == (type(here), str(here))
    places = [traceback.extract_tb(each.__traceback__)[-1] for each in (there, here)]
    return len({(place.name, place.lineno) for place in places}) == 1


def limit(most: int) -> None:
    """From here on no configuration asks for more rounds, whatever a cell says."""
    check = aequa_lite.Config.__post_init__

    def cut(config: aequa_lite.Config) -> None:
        check(config)
        object.__setattr__(config, "rounds", min(config.rounds, most))
        object.__setattr__(config, "local_steps", min(config.local_steps, 2 * most))

    aequa_lite.Config.__post_init__ = cut


def main(path: Path, values: dict[str, str]) -> int:
    """How many cells fail on the GPU and not in the same way on the CPU."""
    os.chdir(path.parent)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    limit(int(values.pop("MOST", 1_000)))
    with nullcontext() if torch.cuda.is_available() else pretend_cuda():
        found = failed(path, values)
    if found:
        os.environ["AEQUA_DEVICE"] = "cpu"
        here = failed(path, values)
        both = {k for k in found.keys() & here.keys() if alike(found[k][0], here[k][0])}
        found = {k: each for k, each in found.items() if k not in both}
        print(f"{path.name}: cells that fail on the CPU in the same way, left out: {len(both)}")
    print(*(text for _, text in found.values()), sep="\n\n")
    return len(found)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        given = dict(each.split("=", 1) for each in sys.argv[2:])
        sys.exit(main(Path(sys.argv[1]).resolve(), {k: v.replace("OUT", folder) for k, v in given.items()}))
