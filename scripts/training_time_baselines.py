"""Measure what baselines that reward while training send too much: results/training_time/baselines.csv.

usage: python scripts/training_time_baselines.py [SEEDS]

The cells of `scripts/training_time.py` (same shards, models trained alone and seeds; default: seed 0), and CGSV, CFFL and
IAFL, all of which send everybody a model of its own in every round. A participant keeps what it receives: its accuracy on
the test split minus what is earned is the leak. These methods have no widths, so the best model that was sent in a round
stands for the full network, *now*, and the best reward for it *in the end*. Rows are written as they finish; what has its
row is kept.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm
from training_time import Cell, cells, origin

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.method import train

TABLE = Path(__file__).resolve().parents[1] / "results" / "training_time" / "baselines.csv"
METHODS = ("cgsv(0.5)", "cffl", "iafl")


def measured(shared: Cell, method: str) -> dict[str, object]:
    """Train one method and measure what everybody received, and its rewards, on test."""
    problem, own, kept = shared.problem, shared.own.mean(1), []
    everybody = set(range(len(own)))
    watch = partial(aq.attacks.honest_but_curious, who=everybody, kept=kept, received=True)
    started = time.process_time()
    outcome = aq.attacks.with_attack(aq.registry.algorithm(method), watch)(
        problem, train=partial(train, progress=False)
    )
    seconds = time.process_time() - started
    correct, test = shared.correct(outcome.models), problem.data.test
    worth = np.array([aq.accuracy([aq.slim(problem.build, u.state, u.width)], test)[0] for u in kept])
    worth, rewards = worth.reshape(-1, len(own)), correct.mean(1)  # (rounds, n), (n,)
    best = worth.max(1, keepdims=True)
    now = np.minimum(best, own + np.maximum(0, best - own.max()))
    final = own + max(0.0, rewards.max() - own.max())
    found = aq.metrics.measure(shared.own, correct, problem.config.seed)
    return {
        "best": rewards.max(), "overpaid_now": (worth - now).max(), "overpaid_final": (worth - final).max(),
        **{name: found[name] for name in ("pearson", "mcg", "cgs", "min_gain")},
        "pearson_best_held": aq.pearson(own, np.vstack([worth, rewards]).max(0)), "seconds": seconds,
    }  # fmt: skip


def rows() -> list[dict[str, object]]:
    """The rows written so far."""
    return pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []


def main() -> None:
    """Measure what is missing."""
    for cell in tqdm(list(cells(int(sys.argv[1]) if len(sys.argv) > 1 else 1)), desc="cells"):
        done = {row["method"] for row in rows() if (row["data"], row["partition"], row["seed"]) == cell}
        missing = [method for method in METHODS if method not in done]
        shared = Cell(*cell) if missing else None
        for method in missing:
            row = {**shared.head, "method": method, **measured(shared, method), **origin(shared.problem)}
            with atomic_write(TABLE) as half:
                pd.DataFrame([*rows(), row]).to_csv(half, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
