"""Measure the baselines, who can fool them, and one trained network realized by five mechanisms.

usage: python scripts/baseline_seeds.py [SEEDS]

Five participants, an MLP, Fashion-MNIST mini, 30 rounds of 15 steps; seeds 0, 1, ... (default: three). Writes
methods.csv (a row for each partition, seed, method and participant), fooled.csv (participant 0 sends noise, or claims to
be the best), realised.csv (a row for each seed, training, mechanism and participant), coalitions.csv (what the lower
three make of their rewards together) and summary.json (config, versions, device, date) under results/baseline_seeds/. A
seed that is done is not repeated; a few minutes each on one core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.method import train
from aequa_lite.report import device_name, versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DONE = ROOT / "results" / "baseline_seeds", ROOT / "runs" / "baseline_seeds"
CONFIG = aq.Config(participants=5, rounds=30, local_steps=15, contribution_power=2.0, fractions=0)
PARTITIONS: dict[str, Callable[[aq.Samples, aq.Config], list[aq.Shard]]] = {
    "by_size": partial(aq.data.by_size, sizes=(50, 200, 750, 2000, 3000)),
    "class_imbalance": aq.data.class_imbalance,
}
WORDS = ("aequa", "fedavg", "fedavg(by_contribution=True)", "fedavg_finetuned", "lg_fedavg", "cffl", "cffl(upload=0.1)",
         "cgsv", "iafl", "iafl(recovery=0.2)", "shapfed", "shapfed_wa", "fedsac", "fedsac(20.0)", "fedrac")  # fmt: skip
FOOLED = ("aequa", "fedavg", "cffl", "cgsv", "iafl", "shapfed", "fedsac", "fedrac")
TOLD = ("aequa", "iafl", "fedsac", "fedrac")  # algorithms that are told contributions: no claim reaches the others
TABLES = ("methods", "fooled", "realised", "coalitions")


class Run:
    """One partition and seed: shards, networks trained alone, contributions, shared by all that follows."""

    def __init__(self, partition: str, seed: int) -> None:
        data, config = aq.load("fashion-mini", device="cpu"), replace(CONFIG, seed=seed)
        build, shards = aq.for_dataset(aq.MLP, data), PARTITIONS[partition](data.train, config)
        self.head = {"partition": partition, "seed": seed}
        self.problem = aq.method.assess(build, shards, config, data, progress=False)
        self.own = aq.accuracy(self.problem.alone, data.test)

    def by(self, algorithm: aq.Algorithm, contribution: np.ndarray | None = None) -> aq.Outcome:
        """The outcome of an algorithm in this run; contributions are as measured by default."""
        told = self.problem.contribution if contribution is None else contribution
        return algorithm(replace(self.problem, contribution=told), train=partial(train, progress=False))

    def rows(self, outcome: aq.Outcome, **about: object) -> list[dict[str, object]]:
        """A row for each participant."""
        tested = aq.accuracy(outcome.models, self.problem.data.test)
        return [
            {**self.head, **about, "participant": i, "samples": len(shard),
             "contribution": float(self.problem.contribution[i]), "alone": float(self.own[i]), "test": float(tested[i]),
             "parameters": aq.n_parameters(outcome.models[i]), "parameters_sent": outcome.last.total_sent}
            for i, shard in enumerate(self.problem.shards)
        ]  # fmt: skip


def noise_of_length_one(
    local: Callable[..., aq.Update], sent: Mapping[str, torch.Tensor], shard: aq.Shard, width: float, config: aq.Config,
    rng: np.random.Generator, **rest: Any,
) -> aq.Update:  # fmt: skip
    """Local training; participant 0 sends noise instead, where its network is not zero."""
    update = local(sent, shard, width, config, rng, **rest)
    if shard.participant:
        return update
    noise = {k: torch.as_tensor(rng.standard_normal(tuple(t.shape)), dtype=t.dtype) for k, t in sent.items()}
    norm = float(torch.cat([z.flatten() for z in noise.values()]).norm())
    return replace(update, state={k: t + noise[k] * (t != 0) / norm for k, t in sent.items()})


def noisy(strategy: aq.Strategy) -> aq.Strategy:
    """The strategy in which participant 0 sends noise."""
    return replace(strategy, local=partial(noise_of_length_one, strategy.local), vectorized=None)


def realised(run: Run) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The same targets by five mechanisms, of a network of every width and of a plain one; and what a coalition regains."""
    rows, together, of = [], [], run.problem
    start, targets = aq.init_params(of.build, of.config.seed), None
    for trained, sampler in {"every width": aq.full_and_random, "full width": aq.full_only}.items():
        strategy = aq.slimmable(of.build, sampler)
        weights = aq.aggregation_weights(of.shards, of.config, of.contribution)
        rounds = list(aq.federate(of.build, of.shards, of.config, strategy=strategy, weights=weights, progress=False))
        theta = rounds[-1].theta
        if targets is None:
            curve = aq.accuracy_curve(of.build, theta, of.validation)
            targets = aq.allocate(of.contribution, curve).predicted_accuracy
        mechanisms = {
            "slimming": aq.baselines.by_width(of.build, theta),
            "zeroing": aq.baselines.by_zeroing(theta, start),
            "subsets": aq.baselines.by_subset(rounds, start, of.config.seed, levels=41),
            "pruning": aq.baselines.by_pruning(theta),
            "noise": aq.baselines.by_noise(theta, of.config.seed),
        }
        for name, mechanism in mechanisms.items():
            about = {**run.head, "trained": trained, "way": name}
            models = aq.baselines.realize(mechanism, of.build, targets, of.validation)
            rows += realised_rows(run, models, targets, about)
            equals = [mechanism(models[0].amount, i) for i in range(4)]  # four as good as the smallest
            for who, some in {"the lower three": models[:3], "four equals": equals}.items():
                best = aq.accuracy([each.model(of.build) for each in some], of.data.test).max()
                (pool,) = aq.accuracy([aq.baselines.pooled(of.build, some)], of.data.test)
                together.append({**about, "who": who, "best_member": float(best), "together": float(pool)})
    return rows, together


def realised_rows(
    run: Run, models: list[aq.baselines.PartialModel], targets: np.ndarray, about: Mapping[str, object]
) -> list[dict[str, object]]:
    """A row for each participant's partial model."""
    of = run.problem
    nets, example = [each.model(of.build) for each in models], of.data.test.x[:1]
    seen, tested = (aq.accuracy(nets, split) for split in (of.validation, of.data.test))
    return [
        {**about, "participant": i, "alone": float(run.own[i]), "target": float(targets[i]), "knob": each.amount,
         "validation": float(seen[i]), "test": float(tested[i]), "numbers": each.numbers,
         "flops": aq.networks.flops(of.build, each.width, example)} for i, each in enumerate(models)
    ]  # fmt: skip


def fooled(run: Run, honest: Mapping[str, aq.Outcome]) -> list[dict[str, object]]:
    """Everybody's reward when participant 0 sends noise, or claims to be the best; and when it does neither."""
    rows, known = [], run.problem.contribution
    claim = np.where(np.arange(len(known)) == 0, known.max(), known)
    for word in FOOLED:
        algorithm = aq.registry.algorithm(word)
        tried = {"honest": honest[word], "sends noise": run.by(aq.attacks.with_attack(algorithm, noisy)),
                 "claims to be the best": run.by(algorithm, claim) if word in TOLD else honest[word]}  # fmt: skip
        rows += [row for lie, outcome in tried.items() for row in run.rows(outcome, method=word, lie=lie)]
    return rows


def measured(partition: str, seed: int) -> dict[str, pd.DataFrame]:
    """The tables of one partition and seed; what has been measured is not measured again."""
    folder, wanted = DONE / f"{partition}-{seed}", TABLES if partition == "by_size" else TABLES[:1]
    if missing := {name for name in wanted if not (folder / f"{name}.csv").exists()}:
        run, found = Run(partition, seed), {}
        if missing & {"methods", "fooled"}:
            honest = {word: run.by(aq.registry.algorithm(word)) for word in WORDS}
            found["methods"] = [row for word, outcome in honest.items() for row in run.rows(outcome, method=word)]
            if "fooled" in wanted:
                found["fooled"] = fooled(run, honest)
        if missing & {"realised", "coalitions"}:
            found["realised"], found["coalitions"] = realised(run)
        for name, rows in found.items():
            with atomic_write(folder / f"{name}.csv") as half:
                pd.DataFrame(rows).to_csv(half, index=False, float_format="%.6g")
    return {name: pd.read_csv(folder / f"{name}.csv") for name in wanted}


def main() -> None:
    """Measure what is missing and write the tables."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    found = [measured(p, seed) for seed in tqdm(seeds, desc="seeds") for p in PARTITIONS]
    for name in TABLES:
        table = pd.concat([tables[name] for tables in found if name in tables])
        with atomic_write(RESULTS / f"{name}.csv") as half:
            table.to_csv(half, index=False, float_format="%.6g")
    about = {"seeds": list(seeds), "config": CONFIG.to_dict(), "versions": versions(),
             "device": device_name(torch.device("cpu")), "date": date.today().isoformat()}  # fmt: skip
    with atomic_write(RESULTS / "summary.json") as half:
        half.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
