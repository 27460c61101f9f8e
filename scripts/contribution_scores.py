"""Compare contribution scores with the exact Shapley value and write the tables under results/contribution/.

usage: python scripts/contribution_scores.py [SEEDS]

Five participants, an MLP, Fashion-MNIST mini; five partitions; seeds 0, 1, ... (default: three). The exact value retrains
all 31 coalitions. Writes scores.csv (a row for each partition, seed, score and participant) and summary.json (correlations
and costs of each score, config, versions, device and date). Finished pairs of partition and seed are not repeated; each
takes about a minute on one core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.contribution import (
    CachedGame,
    class_alignment,
    class_shapley,
    leave_one_out,
    retraining_game,
    update_shapley,
)
from aequa_lite.report import device_name, versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DONE = ROOT / "results" / "contribution", ROOT / "runs" / "contribution"
CONFIG = aq.Config(participants=5, rounds=20, local_steps=15, batch=64, lr=0.08)
RATES = (0.0, 0.2, 0.4, 0.6, 0.8)
PARTITIONS: dict[str, Callable[[aq.Samples, aq.Config], list[aq.Shard]]] = {
    "by_size": partial(aq.data.by_size, sizes=(50, 200, 750, 2000, 3000)),
    "power_law": aq.data.power_law,
    "dirichlet(0.5)": partial(aq.data.dirichlet, alpha=0.5),
    "class_imbalance": aq.data.class_imbalance,
    "label_noise": lambda train, config: aq.data.label_noise(aq.data.homogeneous(train, config), config, RATES),
}
UPDATES = {
    "alignment": aq.alignment,
    "alignment, no memory": partial(aq.alignment, alpha=0.0),
    "class alignment": class_alignment,
    "class Shapley": class_shapley,
}
COLUMNS = ["partition", "seed", "score", "participant", "value", "trainings", "local_steps", "evaluations"]


def total_steps(coalitions: list[frozenset[int]]) -> int:
    """The local steps of training each of these coalitions."""
    return sum(len(each) for each in coalitions) * CONFIG.rounds * CONFIG.local_steps


def retraining_scores(build: Callable, shards: list[aq.Shard], config: aq.Config, data: aq.Dataset) -> dict[str, tuple]:
    """Scores that train again: name -> (values, trainings, local steps, evaluations), beyond the federation itself."""
    n = config.participants
    alone = aq.accuracy(aq.standalone(build, shards, config, progress=False), data.validation)
    found = {
        "samples": ([len(shard) for shard in shards], 0, 0, 0),
        "accuracy alone": (alone, n, n * config.rounds * config.local_steps, n),
    }
    game = retraining_game(build, shards, config, data.validation, strategy=aq.slimmable(build, aq.full_only))
    for name, solve in {"Shapley": aq.shapley, "leave one out": leave_one_out}.items():
        cached = CachedGame(game)  # counts the coalitions of this solver
        values = solve(cached, n)
        trained = [each for each in cached.values if 0 < len(each) < n]
        found[name] = (values, len(trained), total_steps(trained), len(cached))
    return found


def update_scores(build: Callable, shards: list[aq.Shard], config: aq.Config, data: aq.Dataset) -> dict[str, tuple]:
    """Scores of the updates of one federation: name -> (values, trainings, local steps, evaluations)."""
    plain, start = aq.slimmable(build, aq.full_only), aq.init_params(build, config.seed)
    rounds = list(aq.federate(build, shards, config, strategy=plain, progress=False))
    last = {name: list(aq.contributions(score, rounds, start))[-1] for name, score in UPDATES.items()}
    replay = list(aq.contributions(update_shapley(build, data.validation), rounds, start))[-1]
    return {
        **{name: (values, 0, 0, 0) for name, values in last.items()},
        "update Shapley": (replay, 0, 0, config.rounds * 2**config.participants),
    }


def rows(partition: str, seed: int) -> pd.DataFrame:
    """All scores of one partition and seed, a row for each score and participant."""
    path = DONE / f"{partition}-{seed}.csv"
    if not path.exists():
        data, config = aq.load("fashion-mini", device="cpu"), replace(CONFIG, seed=seed)
        build, shards = aq.for_dataset(aq.MLP, data), PARTITIONS[partition](data.train, config)
        found = {**retraining_scores(build, shards, config, data), **update_scores(build, shards, config, data)}
        head = {"partition": partition, "seed": seed}
        table = pd.DataFrame(
            {**head, "score": name, "participant": i, "value": round(float(value), 6),
             "trainings": trainings, "local_steps": local_steps, "evaluations": evaluations}
            for name, (values, trainings, local_steps, evaluations) in found.items() for i, value in enumerate(values)
        )  # fmt: skip
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False)
    return pd.read_csv(path)[COLUMNS]


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Rank and linear correlation of each score with Shapley and stand-alone accuracy, a row for each seed."""
    found = []
    for (partition, seed), run in table.groupby(["partition", "seed"], sort=False):
        scores = run.pivot(index="participant", columns="score", values="value")
        for name in scores.columns:
            for truth in ("Shapley", "accuracy alone"):
                pair = np.array(scores[name]), np.array(scores[truth])
                found.append((partition, seed, name, truth, aq.metrics.spearman(*pair), aq.pearson(*pair)))
    return pd.DataFrame(found, columns=["partition", "seed", "score", "beside", "spearman", "pearson"])


def summary(table: pd.DataFrame) -> dict[str, object]:
    """Correlations by partition and score (mean and least over the seeds), costs, and where it was run."""
    agreed = agreement(table).groupby(["beside", "partition", "score"], sort=False)[["spearman", "pearson"]]
    both = agreed.agg(["mean", "min", "count"]).astype(float).round(3)
    both.columns = [f"{measure}_{statistic}" for measure, statistic in both.columns]
    entries = json.loads(both.reset_index().to_json(orient="records"))  # an undefined correlation is null
    return {
        "seeds": sorted(int(s) for s in table["seed"].unique()),
        "agreement": entries,
        "costs": json.loads(
            table.groupby("score", sort=False)[["trainings", "local_steps", "evaluations"]]
            .max()
            .to_json(orient="index")
        ),
        "config": {**CONFIG.to_dict(), "seed": "each of the seeds"},
        "network": "MLP",
        "data": "fashion-mini",
        "label_noise_rates": RATES,
        "versions": versions(),
        "device": device_name(aq.load("fashion-mini", device="cpu").test.y.device),
        "date": date.today().isoformat(),
    }


def main() -> None:
    """Run every partition and seed that is missing and write the tables."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    runs = [(partition, seed) for seed in seeds for partition in PARTITIONS]
    table = pd.concat([rows(*each) for each in tqdm(runs, desc="runs")], ignore_index=True)
    with atomic_write(RESULTS / "scores.csv") as temporary:
        table.to_csv(temporary, index=False)
    with atomic_write(RESULTS / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary(table), indent=1, allow_nan=False) + "\n")
    print(f"{len(table)} rows in {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
