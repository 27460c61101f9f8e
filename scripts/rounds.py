"""Compare the final round with the best one and with the mean of the last five. Writes results/rounds/runs.csv.

usage: python scripts/rounds.py [METHOD ...] [--seed 0] [--every 5]

Fashion-MNIST (folder AEQUA_DATA), Dirichlet(0.5), ten participants, an MLP, 100 rounds of 15 steps at a rate of 0.12,
as in sweeps/baselines_tuned.yml. After every fifth round (`--every`) and the last one, each method's rewards are formed
from what it has then, and measured on test. For Pearson and for the best reward, three figures: of the final round, the
largest over these rounds, and the mean of the last five of them. The largest is chosen on test, so it is no estimate of
what a participant receives. Where all rewards but one are equal, Pearson does not depend on what they are. Rows are
written as they finish; what has its row is kept.
"""

from __future__ import annotations

import argparse
import time
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.method import Algorithm, assess
from aequa_lite.report import device_name, versions

TABLE = Path(__file__).resolve().parents[1] / "results" / "rounds" / "runs.csv"
METHODS = ("cgsv(0.5)", "cffl", "cffl(released=True)", "iafl", "shapfed", "fedsac(5.0)", "fedrac(20.0)", "aequa")
LAST = 5  # measured rounds whose mean is taken


def rewards_by_round(algorithm: Algorithm, problem: aq.Problem, every: int = 1) -> NDArray[np.float64]:
    """Test accuracies of the rewards that a method would give after every so many rounds, (measured rounds, n)."""
    found = []

    def train(problem: aq.Problem, strategy: aq.Strategy, **options: object) -> aq.Round:
        for last in aq.federate(
            problem.build, problem.shards, problem.config, strategy=strategy, progress=False, **options
        ):
            if (last.index + 1) % every == 0 or last.index + 1 == problem.config.rounds:
                models = algorithm(problem, train=lambda *_, now=last, **__: now).models  # as if it had just ended
                found.append(aq.accuracy(models, problem.data.test))
        return last

    algorithm(problem, train=train)
    return np.array(found)


def three(values: NDArray[np.float64], name: str) -> dict[str, float]:
    """A measure in the final round, the largest, and the mean of the last rounds; NaN where a round has none."""
    best = np.nanmax(values) if np.isfinite(values).any() else np.nan
    return {f"{name}_final": values[-1], f"{name}_best_round": best, f"{name}_last_mean": values[-LAST:].mean()}


def figures(rewards: NDArray[np.float64], alone: NDArray[np.float64]) -> dict[str, float]:
    """The three figures of Pearson and of the best reward."""
    found = [aq.pearson(alone, each) for each in rewards]
    pearson = np.array([np.nan if each is None else each for each in found], dtype=float)
    return {**three(pearson, "pearson"), **three(rewards.max(axis=1), "reward"), "measured_rounds": len(rewards)}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []
    done = {(row["method"], row["seed"], row["every"]) for row in rows}
    data, config = aq.load("fashion", device="cpu"), aq.Config(10, 100, 15, lr=0.12, seed=given.seed)
    build = aq.for_dataset(aq.MLP, data)
    problem = assess(build, aq.data.dirichlet(data.train, config, 0.5), config, data, progress=False)
    alone = aq.accuracy(problem.alone, data.test)
    for method in tqdm([word for word in given.methods if (word, given.seed, given.every) not in done]):
        started = time.process_time()
        measured = figures(rewards_by_round(aq.registry.algorithm(method), problem, given.every), alone)
        row = {"data": "fashion", "partition": "dirichlet(0.5)", "seed": given.seed, "method": method}
        row |= {"every": given.every, **measured, "seconds": time.process_time() - started}
        row |= {f"version_{name}": each for name, each in versions().items()}
        rows.append(row | {"device": device_name(torch.device("cpu")), "date": date.today().isoformat()})
        with atomic_write(TABLE) as half:
            pd.DataFrame(rows).to_csv(half, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
