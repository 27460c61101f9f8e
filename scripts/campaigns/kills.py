"""Kill runs at random moments: who goes on must end in the bits of the run that was never killed.

usage: python scripts/campaigns/kills.py [PART ...] [--seed N] [--share S] [--no-table]
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import torch
from common import FAILED, Row, few, main

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.checkpoint import digest
from aequa_lite.experiments.sweep import gather, read_sweep, run_sweep
from aequa_lite.method import assess, train
from aequa_lite.registry import algorithm

FEDERATE = (  # an algorithm and the kills it gets: everything that keeps state on the server
    ("aequa", 24), ("aequa(server='fedavgm(0.5)')", 20), ("aequa(server='fedadam(0.01)')", 20),
    ("aequa(schedule='training_time(0.02)')", 20), ("aequa(aggregate='coordinate_median')", 12),
    ("cffl", 14), ("cgsv", 14),
    ("iafl", 14), ("lg_fedavg", 14), ("shapfed", 14), ("fedsac(every=3)", 14), ("fedrac", 14), ("vectorized", 14),
)  # fmt: skip
SWEEPS, FLEETS = 8, 8
LIMIT = 600  # seconds for a run that nobody kills
NOTEBOOK = """
import aequa_lite as aq
data = aq.load("fashion-mini", device="cpu")
shards = aq.data.by_size(data.train, aq.Config(participants=2), (40, 80))
config = aq.Config(participants=2, rounds=8, local_steps=2, batch=16, grid=20, seed=seed)
aq.aequa(aq.for_dataset(aq.MLP, data, hidden=16), shards, config, data, progress=False).save(out)
"""


def child(work: Callable[[], object], show_errors: bool = False) -> int:
    """Do the work in a process of its own, and return its number; print its errors if asked."""
    if number := os.fork():
        return number
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            if not show_errors:
                os.dup2(nowhere.fileno(), 2)
        os.setsid()
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def ended(number: int, after: float | None = None) -> str:
    """Wait for a process, or kill it and all that it started after so many seconds: `done`, `killed`, `error` or no end."""
    until = time.monotonic() + (after if after is not None else LIMIT)
    while time.monotonic() < until:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return "done" if status == 0 else "error"
        time.sleep(0.0005)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return "killed" if after is not None else f"no end within {LIMIT} seconds"


def federated(word: str, problem: aq.Problem, folder: Path) -> None:
    """Train an algorithm with a checkpoint in the folder, and write what it ended with."""
    options = {"checkpoint": folder / "state.safetensors", "progress": False, "vectorized": word == "vectorized"}
    outcome = algorithm("aequa" if word == "vectorized" else word)(problem, train=partial(train, **options))
    last = outcome.last
    memory = dict(sorted(last.state.memory.items()))  # a file has an order of its own
    tensors = [*last.state.theta.values(), *memory.values()]
    tensors += [t for net in outcome.models for t in net.state_dict().values()]
    about = [last.index, last.widths, last.loss, last.total_sent, last.left_out]
    with atomic_write(folder / "result.json") as half:
        half.write_text(json.dumps([digest(tensors), list(memory), *about]))


def federations(rng: np.random.Generator, share: float, words: Sequence[tuple[str, int]] = FEDERATE) -> Iterator[Row]:
    """Kills of `federate`, anywhere between its first and its last line."""
    data, config = few(), aq.Config(participants=3, rounds=12, local_steps=2, batch=16, grid=20, fractions=4)
    shards = aq.data.homogeneous(data.train, config)
    problem = assess(aq.for_dataset(aq.MLP, data, hidden=16), shards, config, data, progress=False)
    for word, kills in words:
        run = partial(federated, word, problem)
        yield from killed(
            f"federate: {word}", run, lambda folder: (folder / "result.json").read_text(), kills * share, rng
        )


def killed(
    what: str, run: Callable[[Path], object], result: Callable[[Path], str], kills: float, rng: np.random.Generator
) -> Iterator[Row]:
    """Kill a run so many times, one in three twice; each time let it go on to its end and compare."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        how = ended(child(partial(run, Path(folder)), show_errors=True))
        assert how == "done", f"{what}: {how}"
        seconds, whole = time.monotonic() - began, result(Path(folder))
    left = max(1, round(kills))
    while left > 0:
        with tempfile.TemporaryDirectory() as folder:
            struck = 0
            for _ in range(min(left, 1 + (rng.random() < 1 / 3))):
                struck += ended(child(partial(run, Path(folder))), seconds * rng.random()) == "killed"
            how = ended(child(partial(run, Path(folder))))
            equal = how == "done" and result(Path(folder)) == whole
            stray = [each.name for each in Path(folder).rglob(".*-????????*") if each.is_file()]
            wrong = how if how != "done" else stray or "other bits"
            outcome = "ended in the same bits" if equal and not stray else f"{FAILED}{wrong}"
            left -= struck
            yield from ({"what": what, "outcome": outcome} for _ in range(struck))


def without_time(report: dict[str, object]) -> dict[str, object]:
    """A report without its run time, and without the checksum of all with the run time."""
    return {name: value for name, value in report.items() if name not in ("seconds", "sha256")}


def swept(path: Path, folder: Path) -> None:
    """Run a sweep of two runs and gather its table."""
    sweep = read_sweep(path)
    run_sweep(sweep, root=folder / "runs", workers=1)
    gather(sweep, root=folder / "runs", results=folder / "results")


def swept_result(folder: Path) -> str:
    """The reports and rewards of a sweep, without their times."""
    found = []
    for report in sorted(folder.glob("runs/*/*/report.json")):
        found.append(without_time(json.loads(report.read_text())))
    rewards = [each.read_bytes() for each in sorted(folder.glob("runs/*/*/rewards/*.safetensors"))]
    statuses = (folder / "results" / "small" / "runs.csv").read_text().count(",done,")
    return json.dumps([found, digest([np.frombuffer(each, np.uint8) for each in rewards]), len(rewards), statuses])


def sweeps(rng: np.random.Generator, share: float) -> Iterator[Row]:
    """Kills of a sweep: between its runs, in them, in their writes and in its table."""
    with tempfile.TemporaryDirectory() as folder:
        first = nbformat.v4.new_code_cell("seed: int = 0\nout: str = ''", metadata={"tags": ["parameters"]})
        book = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(NOTEBOOK)])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, f"{folder}/small.ipynb")
        path = Path(folder) / "small.yml"
        path.write_text(json.dumps({"notebook": f"{folder}/small.ipynb", "grid": {"seed": [0, 1]}}))
        yield from killed("sweep", partial(swept, path), swept_result, SWEEPS * share, rng)


def fleet(folder: Path) -> None:
    """Run a fleet of two participants."""
    config = ["--participants", "2", "--rounds", "6", "--local-steps", "2", "--batch", "16"]
    command = [sys.executable, "-m", "aequa_lite", "fleet", "--folder", str(folder), *config]
    os.execve(sys.executable, command, dict(os.environ))


def fleet_result(folder: Path) -> str:
    """The report without its time, and the bytes of every reward."""
    report = json.loads((folder / "server" / "report.json").read_text())
    rewards = [each.read_bytes() for each in sorted(folder.glob("nodes/*/rewards/*.safetensors"))]
    return json.dumps([without_time(report), digest([np.frombuffer(each, np.uint8) for each in rewards]), len(rewards)])


def fleets(rng: np.random.Generator, share: float) -> Iterator[Row]:
    """Kills of a fleet: the server and all participants at once."""
    yield from killed("fleet over Flower", fleet, fleet_result, FLEETS * share, rng)


PARTS = {"kills": federations, "kills_of_sweeps": sweeps, "kills_of_fleets": fleets}

if __name__ == "__main__":
    torch.set_num_threads(1)  # a forked process would wait for threads that only its parent has
    main(PARTS, seed=20262)
