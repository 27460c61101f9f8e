"""Time the allocation, which is exact whatever the number of participants.

usage: OMP_NUM_THREADS=1 python benchmarks/allocate.py [OUT.csv]

Correctness first: each plan is checked for its certificate, its order and its accuracies; small ones are compared with the
plainest correct version, which is timed in the same run. A row for each size: the median of three runs.
"""

from __future__ import annotations

import platform
import sys
import time
from datetime import date

import numpy as np
import pandas as pd

import aequa_lite as aq
from aequa_lite._io import atomic_write

SIZES = ((10, 200), (100, 200), (1_000, 200), (5_000, 200), (10_000, 200), (100_000, 200), (1_000_000, 200))


def federation(n: int, levels: int) -> tuple[np.ndarray, aq.Curve]:
    """Contributions around 0.6, as 10,000 validation samples measure them, and an uneven rising curve."""
    rng = aq.stream(0, "benchmark", n, levels)
    b = rng.normal(0.6, 0.1, n).clip(0, 1).round(4)
    return b, aq.Curve(np.linspace(0.005, 1, levels), np.sort(rng.uniform(0.3, 0.85, levels)), 10_000)


def check(b: np.ndarray, curve: aq.Curve, plan: aq.Plan) -> None:
    """Assert what every plan must satisfy."""
    order = np.argsort(b, kind="stable")
    assert (np.diff(plan.widths[order]) >= 0).all()
    assert set(np.unique(plan.predicted_accuracy)) <= set(curve.levels)
    assert plan.certificate.exact


def plainly(b: np.ndarray, curve: aq.Curve) -> float:
    """The plainest correct version: the nearest accuracies for every tau at which the plan changes, in a Python loop."""
    levels, weight = curve.levels, 0.5 / np.sqrt(len(b) - 1)
    midpoints = (levels[1:] + levels[:-1]) / 2
    taus = np.unique((midpoints[:, None] - b[None, :]).ravel())
    best = np.inf
    for tau in [taus[0] - 1, *((taus[1:] + taus[:-1]) / 2), taus[-1] + 1]:
        gains = levels[np.searchsorted(midpoints, b + tau)] - b
        best = min(best, gains.std() - weight * gains.mean())
    return best


def main() -> None:
    """Measure every size and print the table."""
    rows = []
    for n, levels in SIZES:
        b, curve = federation(n, levels)
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            plan = aq.allocate(b, curve)
            seconds.append(time.perf_counter() - started)
        check(b, curve, plan)
        row = {"participants": n, "different": len(set(b)), "accuracies": levels, "exact": plan.certificate.exact}
        row["seconds"] = float(np.median(seconds))
        if n <= 100:
            started = time.perf_counter()
            assert abs(plainly(b, curve) - plan.certificate.value) < 1e-9
            row["times faster than a plain loop"] = round((time.perf_counter() - started) / row["seconds"], 1)
        rows.append(row)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    print(f"numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}, {date.today()}")
    if len(sys.argv) > 1:
        with atomic_write(sys.argv[1]) as path:
            table.assign(numpy=np.__version__, machine=platform.machine(), date=date.today()).to_csv(path, index=False)


if __name__ == "__main__":
    main()
