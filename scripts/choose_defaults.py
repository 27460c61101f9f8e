"""Choose the training defaults by validation accuracy and fairness, and print the table that supports the choice.

usage: python scripts/choose_defaults.py results/defaults/runs.csv [--data ...] [--seeds ...] [--root DIR] [--table]

One constant at a time is changed around CENTRE, the defaults of version 0.2, with fractional rewards; CANDIDATES change
several. The test split is never used: one half of the
validation split measures contributions, curve and allocation, and chooses the learning rate of each data set; the other
half gives every number of the table. Rows are appended as they finish, and rows that are in OUT.csv are not computed again.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite.types import Build, State

CENTRE = {"loss_power": 3.0, "contribution_power": 1.0, "width_alpha": 3.0, "width_beta": 1.0, "widths_per_step": 1}
FACTORS = {"loss_power": (1.0, 2.0, 3.0), "contribution_power": (0.0, 1.0, 2.0), "width_alpha": (1.0, 3.0, 5.0)}
CANDIDATES = (  # chosen from the first cells, then confirmed on every cell
    {"loss_power": 2.0, "contribution_power": 2.0},
    {"loss_power": 1.0, "contribution_power": 2.0},
)
LEARNING_RATES = (0.02, 0.06, 0.1)
PILOT = ("dirichlet(0.5)", 100)  # where the learning rate of a data set is chosen
KEY = ["data", "partition", "seed", "lr", *CENTRE]
MEASURES = [
    "gain_over_best", "gain_over_fedavg", "pearson", "mcg", "cgs", "min_gain", "worse_off", "mean_width_accuracy",
    "largest_step", "mean_width",
]  # fmt: skip


def configurations() -> list[dict]:
    """The centre, then every configuration that differs from it in one constant, then the candidates."""
    changed = [CENTRE | {name: value} for name, values in FACTORS.items() for value in values]
    return [CENTRE, *(each for each in changed if each != CENTRE), *(CENTRE | each for each in CANDIDATES)]


def final_theta(build: Build, shards: list[aq.Shard], config: aq.Config, **options: object) -> State:
    """The global model's parameters after the last round."""
    rounds = aq.federate(build, shards, config, progress=False, **options)
    return deque(rounds, maxlen=1).pop().theta


class Cell:
    """One data set, partition, seed and learning rate, with the models that all configurations share."""

    def __init__(self, data: str, partition: str, seed: int, lr: float, root: str | None) -> None:
        dataset = load(data, root)
        self.config = aq.Config(participants=10, rounds=60, local_steps=15, batch=64, lr=lr, seed=seed, fractions=64)
        self.build = aq.for_dataset(aq.MLP, dataset)
        self.shards = aq.registry.lookup("partition", partition)(dataset.train, self.config)
        order = aq.stream(seed, "choose defaults", "validation halves").permutation(len(dataset.validation))
        self.first, self.second = (dataset.validation.take(torch.from_numpy(h)) for h in np.array_split(order, 2))
        alone = aq.standalone(self.build, self.shards, self.config, progress=False)
        self.contribution, self.alone = (aq.accuracy(alone, half) for half in (self.first, self.second))
        self.alone_correct = correct(alone, self.second)
        fedavg = final_theta(self.build, self.shards, self.config, strategy=aq.slimmable(self.build, aq.full_only))
        self.fedavg = float(aq.accuracy([aq.slim(self.build, fedavg, 1.0)], self.second)[0])

    def measure(self, constants: dict) -> dict:
        """Train one configuration, allocate on the first half, and measure on the second."""
        config, build = replace(self.config, **constants), self.build
        weights = aq.aggregation_weights(self.shards, config, self.contribution)
        theta = final_theta(build, self.shards, config, weights=weights)
        curve = aq.reward_curve(build, theta, self.first, config)
        plan = aq.allocate(self.contribution, curve, individually_rational=True)
        rewards = [aq.model_at(build, theta, curve, width) for width in plan.widths]
        fairness = aq.metrics.measure(self.alone_correct, correct(rewards, self.second))
        by_width = aq.accuracy_curve(build, theta, self.second, least=config.min_width)
        full, best = float(by_width.accuracy[-1]), float(self.alone.max())
        diagnostics = aq.curve_diagnostics(curve, self.contribution)
        return {
            "full_first_half": float(curve.accuracy[-1]),
            "full": full,
            "fedavg": self.fedavg,
            "best_alone": best,
            "mean_alone": float(self.alone.mean()),
            "gain_over_best": full - best,
            "gain_over_fedavg": full - self.fedavg,
            **{name: fairness[name] for name in ("pearson", "mcg", "cgs", "min_gain")},
            "worse_off": len(fairness["worse_off"]),
            "mean_width_accuracy": float(by_width.accuracy.mean()),
            "largest_step": diagnostics["largest_step"],
            "covers": diagnostics["covers"],
            "mean_width": float(plan.widths.mean()),
        }


load = lru_cache(maxsize=1)(lambda data, root: aq.load(data, root=root, device="cpu"))
cell = lru_cache(maxsize=len(LEARNING_RATES))(Cell)


def correct(nets: list[torch.nn.Module], samples: aq.Samples) -> np.ndarray:
    """Whether each network classifies each sample correctly, (networks, samples)."""
    return np.stack([aq.correct(net.eval(), samples) for net in nets])


class Rows:
    """The rows of a CSV file, each computed once."""

    def __init__(self, path: Path, root: str | None) -> None:
        self.path, self.root = path, root
        self.known = {}
        if path.exists():
            self.known = {tuple(row[k] for k in KEY): row for row in pd.read_csv(path).to_dict("records")}

    def get(self, data: str, partition: str, seed: int, lr: float, constants: dict) -> dict:
        """Return the row of this configuration; compute and append it where it is missing."""
        key = (data, partition, seed, lr, *constants.values())
        if key not in self.known:
            found = cell(data, partition, seed, lr, self.root)
            started = time.perf_counter()
            row = dict(zip(KEY, key, strict=True)) | {k: _rounded(v) for k, v in found.measure(constants).items()}
            seconds = round(time.perf_counter() - started, 1)
            row |= {"seconds": seconds, "torch": torch.__version__, "date": date.today().isoformat()}
            new = not self.path.exists()
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, row)
                if new:
                    writer.writeheader()
                writer.writerow(row)
            self.known[key] = row
        return self.known[key]

    def learning_rate(self, data: str) -> float:
        """The learning rate with the most accurate full width at the centre, on the first half."""
        return max(LEARNING_RATES, key=lambda lr: self.get(data, *PILOT, lr, CENTRE)["full_first_half"])


def _rounded(value: object) -> object:
    return round(value, 5) if isinstance(value, float) else value


def having(rows: pd.DataFrame, values: dict) -> pd.Series:
    """Which rows hold these values."""
    return (rows[list(values)] == pd.Series(values)).all(axis=1)


def tables(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """For each factor, in points: the centre, and the paired difference of each value, "mean ± sd (cells above 0)"."""
    pilots = rows[having(rows, dict(zip(("partition", "seed"), PILOT)) | CENTRE)]
    best = pilots.loc[pilots.groupby("data").full_first_half.idxmax()].set_index("data").lr
    rows = rows[rows.lr == rows.data.map(best)].set_index(["data", "partition", "seed"])
    centre = rows[having(rows, CENTRE)]
    changes = {name: [{name: value} for value in values] for name, values in FACTORS.items()}
    for factor, values in (changes | {"candidates": CANDIDATES}).items():
        table = {}
        for change in values:
            here = rows[having(rows, CENTRE | change)]
            apart = 100 * (here[MEASURES] - centre.loc[here.index, MEASURES]).astype(float)
            name = f"{', '.join(f'{k}={v:g}' for k, v in change.items())} ({len(here)} cells)"
            if CENTRE | change == CENTRE:
                table[name] = [f"{100 * each:.2f}" for each in here[MEASURES].mean()]
            elif len(here):
                above = (apart > 0).sum()
                table[name] = [f"{apart[m].mean():+.2f} ± {apart[m].std():.2f} ({above[m]})" for m in MEASURES]
        yield factor, pd.DataFrame(table, index=MEASURES)


def main() -> None:
    """Compute the missing rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="CSV file of rows; continued where it exists")
    parser.add_argument("--data", nargs="+", default=["fashion-mini", "cifar10", "fashion"])
    parser.add_argument("--partitions", nargs="+", default=["dirichlet(0.5)", "class_imbalance"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101])
    parser.add_argument("--root", help="folder of the data sets (default: AEQUA_DATA)")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    options = parser.parse_args()
    if not options.table:
        torch.set_num_threads(1)
        rows = Rows(options.out, options.root)
        todo = list(product(options.seeds, options.partitions, options.data, configurations()))
        bar = tqdm(todo, desc="configurations", mininterval=30)
        for seed, partition, data, constants in bar:
            lr = rows.learning_rate(data)
            bar.set_postfix_str(f"{data} {partition} seed {seed}")
            rows.get(data, partition, seed, lr, constants)
    for factor, table in tables(pd.read_csv(options.out)):
        print(f"\n{factor}\n{table.to_string()}")


if __name__ == "__main__":
    main()
