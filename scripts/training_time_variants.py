"""Try variants of training under `training_time`, one factor at a time: results/training_time/variants.csv.

usage: python scripts/training_time_variants.py

Ten participants, an MLP, 40 rounds of 15 steps, Fashion-MNIST and CIFAR-10 (from the folder AEQUA_DATA), six partitions at
seed 100, which no other table reports, and the allowance min(0.02, sd(B) / 4). Everything is measured on the validation
split: the table is for choosing. All variants of a cell share shards, models trained alone and contributions. Rows are
written as they finish; a variant that has its row is not repeated.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from tqdm import tqdm
from training_time import CONFIG, DATA, PARTITIONS, origin

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.method import assess, slimmable_rewards, train

TABLE = Path(__file__).resolve().parents[1] / "results" / "training_time" / "variants.csv"
SEED = 100
# logit adjustment, power of the width in the weight of an update, whether rewards are given while training
VARIANTS = {
    "after training": (0.0, 0.0, False),
    "after training, logit adjustment": (1.0, 0.0, False),
    "while training": (0.0, 0.0, True),
    "logit adjustment": (1.0, 0.0, True),
    "updates weighted by width": (0.0, 2.0, True),
    "both": (1.0, 2.0, True),
}


def by_width(updates: Sequence[aq.Update], power: float) -> list[float]:
    """Weight an update as its width is weighted in the loss of a full one."""
    return [u.weight * u.width**power for u in updates]


def measured(problem: aq.Problem, name: str) -> dict[str, object]:
    """Train one variant and measure it on validation."""
    adjustment, power, schedule = VARIANTS[name]
    contribution, started = problem.contribution, time.process_time()
    allowance = min(0.02, float(contribution.std()) / 4)
    outcome = slimmable_rewards(
        replace(problem, config=replace(problem.config, logit_adjustment=adjustment)),
        schedule=aq.training_time(allowance) if schedule else None,
        reweight=partial(by_width, power=power) if power else None,
        train=partial(train, progress=False),
    )
    rewards = aq.accuracy(outcome.models, problem.validation)
    gain = rewards - contribution
    return {
        "allowance": allowance, "best_alone": float(contribution.max()), "sd_alone": float(contribution.std()),
        "full": outcome.curve.full, "pearson": aq.pearson(contribution, rewards), "mcg": float(gain.mean()),
        "cgs": float(gain.std()), "min_gain": float(gain.min()), "seconds": time.process_time() - started,
    }  # fmt: skip


def rows() -> list[dict[str, object]]:
    """The rows written so far."""
    return pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []


def problem(data: str, partition: str) -> aq.Problem:
    """What all variants of a cell share."""
    config, samples = replace(CONFIG, seed=SEED), aq.load(data, device="cpu", seed=SEED)
    shards = aq.registry.lookup("partition", partition)(samples.train, config)
    build: aq.types.Build = aq.for_dataset(aq.MLP, samples)
    return assess(build, shards, config, samples, progress=False)


def main() -> None:
    """Measure all variants that are missing."""
    for data, partition in tqdm([(d, p) for p in reversed(PARTITIONS) for d in DATA], desc="cells"):
        done = {row["variant"] for row in rows() if (row["data"], row["partition"]) == (data, partition)}
        if done == set(VARIANTS):
            continue
        shared = problem(data, partition)
        for name in [each for each in VARIANTS if each not in done]:
            head = {"data": data, "partition": partition, "seed": SEED, "variant": name}
            row = {**head, **measured(shared, name), **origin(shared)}
            with atomic_write(TABLE) as half:
                pd.DataFrame([*rows(), row]).to_csv(half, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
