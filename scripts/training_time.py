"""Compare rewards while training with rewards after it and write results/training_time/allowances.csv.

usage: python scripts/training_time.py [SEEDS]

Ten participants, an MLP, 40 rounds of 15 steps, Fashion-MNIST and CIFAR-10 (from the folder AEQUA_DATA), six partitions,
seeds 0, 1, ... (default: three). All runs of a cell share shards, models trained alone and contributions: `aequa` after
training, and `training_time` at half, once and twice the allowance min(0.02, sd(B) / 4). Rows are written as they finish;
a run that has its row is not repeated. Accuracies are of the test split, `seconds` of CPU time without measuring.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.method import assess, slimmable_rewards
from aequa_lite.report import device_name, versions
from aequa_lite.training_time import HeldModels, held_models

TABLE = Path(__file__).resolve().parents[1] / "results" / "training_time" / "allowances.csv"
CONFIG = aq.Config(participants=10, rounds=40, local_steps=15)
DATA = ("fashion", "cifar10")
PARTITIONS = (
    *("class_imbalance", "power_law", "dirichlet(0.3)", "dirichlet(0.5)"),
    *("imbalanced(0.4, 2)", "label_skew(3)"),
)
FACTORS = (None, 1.0, 0.5, 2.0)  # of the allowance; None: after training
DRAWS = 1000  # of the test samples, with replacement

Correct = NDArray[np.bool_]  # (participants, test samples)


def cells(seeds: int) -> Iterator[tuple[str, str, int]]:
    """Yield data, partition and seed: all of seed 0 first."""
    for seed in range(seeds):
        for data in DATA:
            yield from ((data, partition, seed) for partition in PARTITIONS)


@dataclass
class Recorder:
    """Train as `aequa` does and keep what participants held in each round."""

    seconds: float = 0.0  # spent on measuring
    held: list[HeldModels] = field(default_factory=list)

    def train(self, problem: aq.Problem, strategy: aq.Strategy, **options: object) -> aq.Round:
        """Train to the end; the argument `train` of an algorithm."""
        rounds = aq.federate(
            problem.build, problem.shards, problem.config, strategy=strategy, progress=False, **options
        )
        for last in rounds:
            started = time.process_time()
            self.held += held_models(problem.build, [last], problem.data.test)
            self.seconds += time.process_time() - started
        return last


def overpaid(own: NDArray[np.float64], held: list[HeldModels], full: float) -> tuple[float, float]:
    """Return by how much held models exceed what is earned in the end, and what is earned in their round, at most."""
    accuracy, now = np.stack([each.accuracy for each in held]), np.array([each.full for each in held])
    final = own + max(0.0, full - own.max())
    earned = np.minimum(now[:, None], own + np.maximum(0, now - own.max())[:, None])
    return float((accuracy - final).max()), float((accuracy - earned).max())


def pearson_lost(own: Correct, after: Correct, reward: Correct, seed: int) -> tuple[float, float]:
    """Return the 95% interval of Pearson after training minus this one, paired on test samples drawn again."""
    samples = own.shape[1]
    times = aq.stream(seed, "pearson lost").multinomial(samples, np.full(samples, 1 / samples), size=DRAWS)
    both = np.vstack([own, after, reward]).T.astype(np.float32)
    drawn = np.split(times.astype(np.float32) @ both / samples, 3, axis=1)
    pairs = [(aq.pearson(a, b), aq.pearson(a, c)) for a, b, c in zip(*drawn, strict=True)]
    lost = [post - this for post, this in pairs if post is not None and this is not None]
    low, high = np.quantile(lost or [np.nan], [0.025, 0.975])
    return float(low), float(high)


class Cell:
    """One data set, partition and seed: what all of its runs share."""

    def __init__(self, data: str, partition: str, seed: int) -> None:
        self.head = {"data": data, "partition": partition, "seed": seed}
        config = replace(CONFIG, seed=seed)
        samples = aq.load(data, device="cpu", seed=seed)
        shards = aq.registry.lookup("partition", partition)(samples.train, config)
        build = aq.for_dataset(aq.MLP, samples)
        self.problem = assess(build, shards, config, samples, progress=False)
        self.own = np.stack([aq.correct(net, samples.test) for net in self.problem.alone])
        self.spread = float(self.problem.contribution.std())
        self.after: Correct | None = None  # the rewards after training

    def run(self, factor: float | None) -> dict[str, object]:
        """Return the row of one allowance; of rewards after training without one."""
        allowance = None if factor is None else factor * min(0.02, self.spread / 4)
        schedule = None if allowance is None else aq.training_time(allowance)
        recorder, started = Recorder(), time.process_time()
        outcome = slimmable_rewards(self.problem, schedule=schedule, train=recorder.train)
        seconds = time.process_time() - started - recorder.seconds
        method = "aequa" if schedule is None else "training_time"
        row = {**self.head, "method": method, "factor": factor, "allowance": allowance}
        return {**row, **self.measured(outcome, recorder.held), "seconds": seconds, **origin(self.problem)}

    def measured(self, outcome: aq.Outcome, held: list[HeldModels]) -> dict[str, object]:
        """Return every measure of a run."""
        problem, own = self.problem, self.own.mean(1)
        test, ceiling = problem.data.test, aq.report(outcome).fairness
        full = float(aq.accuracy([aq.slim(problem.build, outcome.last.theta, 1.0)], test)[0])
        rewards = self.correct(outcome.models)
        best = np.max([*(each.accuracy for each in held), rewards.mean(1)], axis=0)
        final, now = overpaid(own, held, full)
        error = float(np.sqrt((own * (1 - own)).mean() / len(test)))
        return {
            "full": full, "alone_best": float(own.max()), "alone_sd": float(own.std()),
            "informative": bool(own.std() >= 3 * error),
            "contribution_sd": self.spread, "tau": outcome.plan.tau,
            **self.fairness(rewards),
            "pearson_ceiling_low": first(ceiling["pearson_ceiling_interval"]),
            "cgs_ceiling_high": first(ceiling["cgs_ceiling_interval"][::-1]),
            "overpaid_final": final, "overpaid_now": now,
            "pearson_best_held": aq.pearson(own, best),
            "width_held": float(np.mean([each.widths for each in held])),
            "width_reward": float(np.mean(outcome.plan.widths)),
            "parameters_sent": outcome.last.total_sent,
            "refused": len(outcome.last.total_left_out),
        }  # fmt: skip

    def correct(self, models: Sequence[nn.Module]) -> Correct:
        """Return which test samples each model gets right."""
        return np.stack([aq.correct(net.eval(), self.problem.data.test) for net in models])

    def fairness(self, rewards: Correct) -> dict[str, object]:
        """Return the measures of fairness, and the interval of what Pearson loses against rewards after training."""
        self.after = rewards if self.after is None else self.after  # the first run is the one after training
        found = aq.metrics.measure(self.own, rewards, self.problem.config.seed)
        low, high = pearson_lost(self.own, self.after, rewards, self.problem.config.seed)
        measures = {name: found[name] for name in ("pearson", "mcg", "cgs", "min_gain")}
        lost = {"pearson_lost_low": low, "pearson_lost_high": high}
        return {**measures, "worse_off": len(found["worse_off"]), **lost}


def first(interval: tuple[float, ...] | None) -> float | None:
    """The first number of an interval that may be missing."""
    return interval[0] if interval else None


def origin(problem: aq.Problem) -> dict[str, object]:
    """Versions, device and date."""
    found = {f"version_{name}": each for name, each in versions().items()}
    device = device_name(problem.validation.y.device)
    return {**found, "device": device, "date": date.today().isoformat()}


def rows() -> list[dict[str, object]]:
    """The rows written so far."""
    return pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []


def key(row: dict[str, object]) -> tuple[object, ...]:
    """What identifies a row."""
    factor = row["factor"]
    after = factor is None or np.isnan(factor)
    return row["data"], row["partition"], row["seed"], None if after else factor


def measure(cell: tuple[str, str, int]) -> None:
    """Add the rows that a cell lacks."""
    done = {key(row) for row in rows()}
    if all((*cell, factor) in done for factor in FACTORS):
        return
    shared = Cell(*cell)
    for factor in FACTORS:
        if factor is not None and (*cell, factor) in done:
            continue
        row = shared.run(factor)
        if (*cell, factor) not in done:
            with atomic_write(TABLE) as half:
                pd.DataFrame([*rows(), row]).to_csv(half, index=False, float_format="%.6g")


def main() -> None:
    """Measure all cells that are missing."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    for cell in tqdm(list(cells(seeds)), desc="cells"):
        measure(cell)


if __name__ == "__main__":
    main()
