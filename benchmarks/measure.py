"""How the benchmarks measure: rivals in turn within one run, a fresh process for memory, one tidy table each."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from aequa_lite._io import atomic_write

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "results" / "speed"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
TOLERANCE = (
    1e-3  # of weights around 0.1: thirty steps with other orders of summing, and max pooling that flips at a tie
)


def wait(device: str) -> None:
    """Let a GPU finish before the clock is read."""
    if device == "cuda":
        torch.cuda.synchronize()


def in_turn(
    rivals: Mapping[str, Callable[[], Any]], repeats: int, device: str = "cpu"
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run the rivals A B A B ...; each one's seconds, (repeats,), and what it returned in an uncounted first turn."""
    found = {name: rival() for name, rival in rivals.items()}
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, rival in rivals.items():
            wait(device)
            started = time.perf_counter()
            rival()
            wait(device)
            seconds[name].append(time.perf_counter() - started)
    return seconds, found


def compared(seconds: Mapping[str, Sequence[float]], ours: str) -> list[dict[str, Any]]:
    """A row for each rival: its seconds, and how many times ours they are, by the minima and turn by turn."""
    return [
        {
            "way": name,
            "seconds_min": round(min(taken), 4),
            "seconds_median": round(float(np.median(taken)), 4),
            "times_ours_min": round(min(taken) / min(seconds[ours]), 3),
            "times_ours_median": round(float(np.median(np.divide(taken, seconds[ours]))), 3),
            "repeats": len(taken),
        }
        for name, taken in seconds.items()
    ]


def apart(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    """The largest difference between two networks."""
    return max(float((p - q).abs().max()) for p, q in zip(a, b, strict=True))


def agree(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    """The same, refused above the tolerance: whoever does other work is not timed."""
    found = apart(a, b)
    assert found < TOLERANCE, f"the networks differ by {found:g}; allowed is {TOLERANCE:g}"
    return found


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent of a power law through the points: 1 is proportional."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def peak_mb() -> float:
    """The most memory that this process has held so far, in MB.

    Linux's own count is asked first: the one of ``getrusage`` begins with what the process that started this one held.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def held_mb() -> float:
    """The memory that this process holds now, in MB; where the system does not tell, the most it has held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    except OSError:
        return peak_mb()


def alone(script: str, *arguments: Any) -> dict[str, Any]:
    """Run a script of this folder in a fresh process, and read the JSON of its last line."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *(str(each) for each in arguments)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{script} {arguments} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def where(device: str) -> dict[str, Any]:
    """What a row depends on besides the code: machine, versions, day."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu ({platform.machine()}, {_processor()})"
    versions = {each: version(each) for each in ("torch", "numpy", "aequa-lite")}
    return {"device": name, "cores": CORES, "python": platform.python_version(), **versions, "date": str(date.today())}


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def measured(name: str, here: Mapping[str, Any], folder: Path = TABLES) -> bool:
    """Whether this machine, with these versions, already has its rows."""
    path = folder / f"{name}.csv"
    if not path.exists():
        return False
    table, keys = pd.read_csv(path, dtype=str), [key for key in here if key != "date"]
    return bool((table[keys] == pd.Series({key: str(here[key]) for key in keys})).all(axis=1).any())


def store(name: str, rows: Sequence[Mapping[str, Any]], here: Mapping[str, Any], folder: Path = TABLES) -> pd.DataFrame:
    """Put this machine's rows into the table, in place of its older ones; other machines keep theirs."""
    path = folder / f"{name}.csv"
    table = pd.DataFrame([{**row, **here} for row in rows])
    if path.exists():
        old = pd.read_csv(path)
        others = old[(old["device"] != here["device"]) | (old["cores"] != here["cores"])]
        table = pd.concat([others, table], ignore_index=True) if len(others) else table
    with atomic_write(path) as half:
        table.to_csv(half, index=False)
    return table
