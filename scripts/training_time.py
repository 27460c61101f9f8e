"""Pay while training and after it, round by round; two tables under results/training_time/.

usage: python scripts/training_time.py [SEEDS] [--gather]     (--gather: only the tables, of what has been measured)

Ten participants, an MLP, Fashion-MNIST (the folder AEQUA_DATA), 40 rounds of 15 steps; five partitions; seeds 0, 1, ...
(default: three). In each run all methods share the shards, the models trained alone and the contributions. Writes
by_round.csv (what participants hold after every third round, judged on the test split), ends.csv (what they take home) and
by_round.json (recipe, versions, device, date). A run that is done is not repeated; a few minutes each on one core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.report import device_in_words, versions_of_run

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DONE = ROOT / "results" / "training_time", ROOT / "runs" / "training_time_by_round"
RECIPE = aq.Config(
    participants=10, rounds=40, local_steps=15, contribution_power=2.0, fractions=0
)  # as sweeps/training_time.yml has it
PARTITIONS = ("power_law", "class_imbalance", "dirichlet(0.5)", "imbalanced(0.4, 2)", "label_skew(3)")
WORDS = ("aequa", "aequa(balance=1.0)", "earned", "earned(balance=0.0)", "earned('alignment')")
EVERY = 3  # rounds from one look to the next
TABLES = ("by_round", "ends")
TOLD = ("pearson", "mcg", "cgs", "min_gain")


class World:
    """One partition and seed: what all methods share."""

    def __init__(self, partition: str, seed: int) -> None:
        self.head = {"partition": partition, "seed": seed}
        self.data, self.config = aq.load("fashion", device="cpu", seed=seed), replace(RECIPE, seed=seed)
        self.build = aq.for_dataset(aq.MLP, self.data)
        self.shards = aq.registry.partition(partition)(self.data.train, self.config)
        self.alone = aq.standalone(self.build, self.shards, self.config, progress=False)
        self.contribution, self.own = (aq.accuracy(self.alone, s) for s in (self.data.validation, self.data.test))

    def looked_at(self, rounds: Iterator[aq.Round], sent: list[int]) -> Iterator[dict[str, object]]:
        """What everybody holds before every third round; the last round stays at ``self.last``."""
        for rnd in rounds:
            sent.append(rnd.parameters_sent)
            self.last = rnd
            if rnd.index and rnd.index % EVERY == 0:
                (held,) = aq.training_time.held_models(self.build, [rnd], self.data.test)
                yield self.row(rnd.index, held.accuracy, held.full, np.array(rnd.widths))

    def row(self, after: int, held: np.ndarray, full: float, widths: np.ndarray) -> dict[str, object]:
        """A line of the table; without a Pearson where all hold the same."""
        return {"round": after, "pearson": aq.pearson(self.own, held), "full": full, "held_mean": float(held.mean()),
                "narrowest": float(widths.min()), "mean_width": float(widths.mean())}  # fmt: skip

    def run(self, word: str) -> tuple[list[dict[str, object]], dict[str, object]]:
        """A method's line for every look, and what came of it."""
        task = aq.Problem(self.build, self.shards, self.config, self.data.validation, self.contribution)
        entry, sent = aq.registry.algorithm(word).enter(task), []
        rounds = entry.rounds(self.build, self.shards, self.config, progress=False)
        rows = list(self.looked_at(rounds, sent))
        paid = entry.pay(self.last)
        given = (paid.models, self.alone, None, None, self.data, self.config)
        found = aq.report(*given, contribution=self.contribution, method=word)
        (full,) = aq.accuracy([aq.slim(self.build, self.last.theta, 1.0)], self.data.test)
        tested, widths = np.array(found.test_accuracy), np.array(paid.plan.widths)
        rows.append(self.row(self.config.rounds, tested, float(full), widths))
        error = np.sqrt((self.own * (1 - self.own)).mean() / len(self.data.test))
        end = {"full": float(full), **{name: found.fairness[name] for name in TOLD},
               "worse_off": len(found.fairness["worse_off"]), "alone_best": float(self.own.max()),
               "informative": bool(self.own.std() >= 3 * error), "parameters_sent": sum(sent)}  # fmt: skip
        return [{**self.head, "method": word, **row} for row in rows], {**self.head, "method": word, **end}


def paths_of(partition: str, seed: int, word: str) -> list[Path]:
    """Where the two tables of a method in a run are kept."""
    folder = DONE / f"{aq.registry.folder_named(partition)}-{seed}"
    return [folder / f"{aq.registry.folder_named(word)}-{name}.csv" for name in TABLES]


def measure(partition: str, seed: int) -> None:
    """Measure what is missing of one partition and seed."""
    world = None
    for word in WORDS:
        paths = paths_of(partition, seed, word)
        if not all(path.exists() for path in paths):
            world = world or World(partition, seed)
            rows, end = world.run(word)
            for path, found in zip(paths, (rows, [end]), strict=True):
                with atomic_write(path) as half:
                    pd.DataFrame(found).to_csv(half, index=False, float_format="%.6g")


def main() -> None:
    """Measure what is missing and write the tables, of those runs in which every method is done."""
    given = [word for word in sys.argv[1:] if word != "--gather"]
    runs = [(p, seed) for seed in range(int(given[0]) if given else 3) for p in PARTITIONS]
    for run in tqdm([] if "--gather" in sys.argv else runs, desc="runs"):
        measure(*run)
    found = {run: [paths_of(*run, word) for word in WORDS] for run in runs}
    done = {run: paths for run, paths in found.items() if all(path.exists() for each in paths for path in each)}
    if not done:
        sys.exit("nothing has been measured yet")
    for k, name in enumerate(TABLES):
        with atomic_write(RESULTS / f"{name}.csv") as half:
            parts = [pd.read_csv(each[k]) for paths in done.values() for each in paths]
            pd.concat(parts).to_csv(half, index=False, float_format="%.6g")
    about = {
        "script": "scripts/training_time.py",
        "seeds": sorted({seed for _, seed in done}),
        "runs": [f"{partition}, seed {seed}" for partition, seed in done],
        "recipe": {**RECIPE.to_dict(), "seed": "each of the seeds"},
        "versions": versions_of_run(),
        "device": device_in_words(torch.device("cpu")),
        "date": date.today().isoformat(),
    }
    with atomic_write(RESULTS / "by_round.json") as half:
        half.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
