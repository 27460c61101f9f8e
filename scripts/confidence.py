"""Measure how often slices exceed what is earned, with and without certification: results/training_time/confidence.csv.

usage: python scripts/confidence.py [SEEDS]

Ten participants, an MLP, 40 rounds of 15 steps on the embedded Fashion-MNIST, two partitions, seeds 0, 1, ... (default:
three), an allowance of 0.02, and `training_time` without and with 95% confidence. Everything is measured on the test
split, which no decision sees: for each participant and round, the accuracy of the slice that was sent minus what is
earned minus the allowance. Earned is computed from the contributions that the schedule is given.

Columns: `sent`, slices wider than the least width, after the first round (nobody can hold less than the least width, and
the first network is untrained: `excess_least` is the largest excess there); `above`, how many have a positive excess;
`certain`, how many still do at 95% confidence over all slices of the run, given the test split's own error; `excess`, the
largest; `margin`, the largest margin that `held_margin` states at 95% for the slices sent (0 with certification);
`beyond`, how many exceed their own margin; `excess_own`, the largest excess where earned is computed from the models' own
test accuracies; `contribution_error`, the largest difference between these and the contributions.
Rows are written as they finish; a run that has its row is not repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.method import assess, slimmable_rewards
from aequa_lite.report import device_name, versions
from aequa_lite.theory import held_margin
from aequa_lite.training_time import GRID, upper_bounds

TABLE = Path(__file__).resolve().parents[1] / "results" / "training_time" / "confidence.csv"
CONFIG = aq.Config(participants=10, rounds=40, local_steps=15)
PARTITIONS, CONFIDENCES, ALLOWANCE, STATED = ("class_imbalance", "dirichlet(0.5)"), (None, 0.95), 0.02, 0.95
TESTS = 2 * len(GRID) * CONFIG.rounds

Floats = NDArray[np.float64]


def excess(paired: Floats, plain: Floats, contribution: Floats) -> Floats:
    """By how much phi(w) exceeds earned plus allowance, (K, n), from phi(w) - phi(1) and phi(w)."""
    behind = contribution.max() - contribution
    over = np.minimum(paired[:, None] + behind, plain[:, None] - contribution)
    return np.maximum(paired[:, None], over) - ALLOWANCE


class Watch:
    """Train as `aequa` does and measure each slice that is sent, on the test split."""

    def __init__(self, problem: aq.Problem, certified: bool) -> None:
        self.problem, self.certified = problem, certified
        self.own = aq.accuracy(problem.alone, problem.data.test)
        self.found: list[tuple[Floats, ...]] = []  # (n,) each: excess, certain excess, margin, excess of the own
        self.widths: list[tuple[float, ...]] = []

    def train(self, problem: aq.Problem, strategy: aq.Strategy, **options: object) -> aq.Round:
        """Train to the end; the argument `train` of an algorithm."""
        config = problem.config
        rounds = aq.federate(problem.build, problem.shards, config, strategy=strategy, progress=False, **options)
        for last in rounds:
            self.widths.append(last.widths)
            self.found.append(self.measured(last))
        return last

    def measured(self, last: aq.Round) -> tuple[Floats, ...]:
        """The measures of one round, each (n,)."""
        problem, theta, b = self.problem, last.before.theta, self.problem.contribution
        on = partial(aq.accuracy_curve, problem.build, theta, grid=sorted({1.0, *last.widths}))
        test, place = on(problem.data.test), np.searchsorted(sorted({1.0, *last.widths}), last.widths)
        wrong = aq.Curve(test.widths, 1 - test.accuracy, test.samples, ~test.correct)
        behind, errors = upper_bounds(wrong, STATED, TESTS)
        plain = test.accuracy
        each = [excess(plain - plain[-1], plain, b), excess(-behind, 1 - errors, b)]
        each.append(excess(plain - plain[-1], plain, self.own))
        picked = [found[place, np.arange(len(b))] for found in each]
        return picked[0], picked[1], self.margins(last), picked[2]

    def margins(self, last: aq.Round) -> Floats:
        """What the theory states for the width of each participant; of the first, untrained network nothing."""
        if self.certified or last.index == 0:
            return np.zeros(len(last.widths))
        problem = self.problem
        grid = [w for w in GRID if w >= problem.config.min_width - 1e-9]
        curve = aq.accuracy_curve(problem.build, last.before.theta, problem.validation, grid=grid)
        margins = held_margin(curve, problem.contribution, STATED, TESTS)
        return margins[np.searchsorted(curve.widths, np.array(last.widths) - 1e-9)]


def run(problem: aq.Problem, confidence: float | None) -> dict[str, object]:
    """Return the measures of one run."""
    watch = Watch(problem, confidence is not None)
    schedule = aq.training_time(ALLOWANCE, confidence=confidence)
    outcome = slimmable_rewards(problem, schedule=schedule, train=watch.train)
    test = problem.data.test
    over, certain, margin, own = (np.array(each) for each in zip(*watch.found, strict=True))
    full = float(aq.accuracy([aq.slim(problem.build, outcome.last.theta, 1.0)], test)[0])
    counted = np.array(watch.widths) > problem.config.min_width + 1e-9  # nobody can hold less
    counted[0] = False  # untrained
    least = float(over[~counted].max())
    over, certain, margin, own = (each[counted] for each in (over, certain, margin, own))
    return {
        "full": full, "pearson": aq.pearson(watch.own, aq.accuracy(outcome.models, test)),
        "width_held": float(np.mean(watch.widths)), "sent": over.size, "above": int((over > 0).sum()),
        "certain": int((certain > 0).sum()), "excess": float(over.max()), "margin": float(margin.max()),
        "excess_least": least, "beyond": int((over > np.maximum(margin, 0)).sum()), "excess_own": float(own.max()),
        "contribution_error": float(np.abs(watch.own - problem.contribution).max()),
    }  # fmt: skip


def origin(problem: aq.Problem) -> dict[str, object]:
    """Versions, device and date."""
    found = {f"version_{name}": each for name, each in versions().items()}
    return {**found, "device": device_name(problem.validation.y.device), "date": date.today().isoformat()}


def rows() -> list[dict[str, object]]:
    """The rows written so far."""
    return pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []


def missing(seeds: int) -> Iterator[tuple[str, int, list[float | None]]]:
    """Yield partition, seed and the confidences without a row."""
    done = {(r["partition"], r["seed"], None if np.isnan(r["confidence"]) else r["confidence"]) for r in rows()}
    for seed in range(seeds):
        for partition in PARTITIONS:
            left = [each for each in CONFIDENCES if (partition, seed, each) not in done]
            if left:
                yield partition, seed, left


def main() -> None:
    """Measure all runs that are missing."""
    data = aq.load("fashion-mini", device="cpu")
    for partition, seed, left in tqdm(list(missing(int(sys.argv[1]) if len(sys.argv) > 1 else 3))):
        config = replace(CONFIG, seed=seed)
        shards = aq.registry.lookup("partition", partition)(data.train, config)
        problem = assess(aq.for_dataset(aq.MLP, data), shards, config, data, progress=False)
        for confidence in left:
            head = {"data": "fashion-mini", "partition": partition, "seed": seed, "confidence": confidence}
            row = {**head, "allowance": ALLOWANCE, **run(problem, confidence), **origin(problem)}
            with atomic_write(TABLE) as half:
                pd.DataFrame([*rows(), row]).to_csv(half, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
