"""Measure the rivals, who can fool them, and one trained network realised in five ways; tables under results/rival_seeds/.

usage: python scripts/rival_seeds.py [SEEDS]

Five participants, an MLP, Fashion-MNIST mini, 30 rounds of 15 steps; seeds 0, 1, ... (default: three). Writes methods.csv (a
row for each partition, seed, method and participant), fooled.csv (participant 0 sends noise, or claims to be the best),
realised.csv (a row for each seed, training, way and participant), coalitions.csv (what the lower three make of their
rewards together) and summary.json (recipe, versions, device, date). A seed that is done is not repeated; about two
minutes each on one core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.report import device_in_words, versions_of_run

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DONE = ROOT / "results" / "rival_seeds", ROOT / "runs" / "rival_seeds"
RECIPE = aq.Config(participants=5, rounds=30, local_steps=15, contribution_power=2.0, fractions=0)
PARTITIONS: dict[str, Callable[[aq.Samples, aq.Config], list[aq.Shard]]] = {
    "by_size": partial(aq.data.by_size, sizes=(50, 200, 750, 2000, 3000)),
    "class_imbalance": aq.data.class_imbalance,
}
WORDS = ("aequa", "fedavg", "finetuned", "lg_fedavg", "cffl", "cgsv", "iafl", "iafl(recovery=0.2)", "shapfed", "shapfed_wa",
         "submodels", "submodels(20)")  # fmt: skip
FOOLED = ("aequa", "fedavg", "cffl", "cgsv", "iafl", "shapfed", "submodels")
TOLD = ("aequa", "iafl", "submodels")  # methods that are told contributions: no claim reaches the others
TABLES = ("methods", "fooled", "realised", "coalitions")


class Run:
    """One partition and seed: shards, networks trained alone, contributions, shared by all that follows."""

    def __init__(self, partition: str, seed: int) -> None:
        self.head = {"partition": partition, "seed": seed}
        self.data, self.config = aq.load("fashion-mini", device="cpu"), replace(RECIPE, seed=seed)
        self.build, self.shards = aq.for_dataset(aq.MLP, self.data), PARTITIONS[partition](self.data.train, self.config)
        self.alone = aq.standalone(self.build, self.shards, self.config, progress=False)
        self.contribution, self.own = (aq.accuracy(self.alone, s) for s in (self.data.validation, self.data.test))

    def by(self, method: aq.Algorithm, contribution: np.ndarray) -> aq.Outcome:
        """What a method pays in this run."""
        given = (self.build, self.shards, self.config, self.data, self.alone, contribution)
        return method.run(*given, progress=False)

    def rows(self, paid: aq.Outcome, **about: object) -> list[dict[str, object]]:
        """A row for each participant."""
        tested = aq.accuracy(paid.models, self.data.test)
        return [
            {**self.head, **about, "participant": i, "samples": len(shard), "contribution": float(self.contribution[i]),
             "alone": float(self.own[i]), "test": float(tested[i]), "parameters": aq.n_parameters(paid.models[i]),
             "parameters_sent": paid.parameters_sent} for i, shard in enumerate(self.shards)
        ]  # fmt: skip


def noisy(method: aq.Algorithm) -> aq.Algorithm:
    """The method when participant 0 answers with noise of length one instead of training."""

    def enter(task: aq.Problem) -> aq.method.Entry:
        entry = method.enter(task)

        def local(received, shard, width, config, draws, *, first, weight):
            update = entry.strategy.local(received, shard, width, config, draws, first=first, weight=weight)
            if shard.participant:
                return update
            noise = {
                k: torch.as_tensor(draws.standard_normal(tuple(t.shape)), dtype=t.dtype) for k, t in received.items()
            }
            length = float(torch.cat([z.flatten() for z in noise.values()]).norm())
            held = {k: z * (received[k] != 0) for k, z in noise.items()}  # silent units stay silent
            return replace(update, state={k: received[k] + z / length for k, z in held.items()})

        return replace(entry, strategy=replace(entry.strategy, local=local, together=None))

    return replace(method, enter=enter)


def realised(run: Run) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The same targets in five ways, of a network of every width and of a plain one; and what a coalition regains."""
    rows, together, start = [], [], aq.init_params(run.build, run.config.seed)
    example, targets = run.data.test.x[:1], None
    for trained, draw in {"every width": aq.full_and_random, "full width": aq.full_only}.items():
        strategy = aq.slimmable(run.build, draw)
        weights = aq.aggregation_weights(run.shards, run.config, run.contribution)
        rounds = list(
            aq.federate(run.build, run.shards, run.config, strategy=strategy, weights=weights, progress=False)
        )
        theta = rounds[-1].theta
        if targets is None:
            curve = aq.accuracy_curve(run.build, theta, run.data.validation)
            targets = aq.allocate(run.contribution, curve).predicted_accuracy
        ways = {"slimming": aq.baselines.by_width(run.build, theta), "zeroing": aq.baselines.by_zeroing(theta, start),
                "subsets": aq.baselines.by_subset(rounds, start, run.config.seed, levels=41), "pruning": aq.baselines.by_pruning(theta),
                "noise": aq.baselines.by_noise(theta, run.config.seed)}  # fmt: skip
        for name, way in ways.items():
            doses = aq.baselines.realize(way, run.build, targets, run.data.validation)
            nets = [dose.model(run.build) for dose in doses]
            seen, tested = (aq.accuracy(nets, split) for split in (run.data.validation, run.data.test))
            about = {**run.head, "trained": trained, "way": name}
            rows += [{**about, "participant": i, "alone": float(run.own[i]), "target": float(targets[i]),
                      "knob": dose.knob, "validation": float(seen[i]), "test": float(tested[i]), "numbers": dose.numbers,
                      "flops": aq.networks.flops(run.build, dose.width, example)} for i, dose in enumerate(doses)]  # fmt: skip
            equals = [way(doses[0].knob, i) for i in range(4)]  # four as good as the smallest
            for who, some in {"the lower three": doses[:3], "four equals": equals}.items():
                best = aq.accuracy([dose.model(run.build) for dose in some], run.data.test).max()
                (pool,) = aq.accuracy([aq.baselines.pooled(run.build, some)], run.data.test)
                together.append({**about, "who": who, "best_member": float(best), "together": float(pool)})
    return rows, together


def lied(run: Run, honest: Mapping[str, aq.Outcome]) -> list[dict[str, object]]:
    """What everybody gets when participant 0 sends noise, or claims to be the best; and when it does neither."""
    rows, claim = [], np.where(np.arange(5) == 0, run.contribution.max(), run.contribution)
    for word in FOOLED:
        method = aq.registry.algorithm(word)
        tried = {"honest": honest[word], "sends noise": run.by(noisy(method), run.contribution),
                 "claims to be the best": run.by(method, claim) if word in TOLD else honest[word]}  # fmt: skip
        rows += [row for lie, paid in tried.items() for row in run.rows(paid, method=word, lie=lie)]
    return rows


def measured(partition: str, seed: int) -> dict[str, pd.DataFrame]:
    """The tables of one partition and seed; what has been measured is not measured again."""
    folder, asked = DONE / f"{partition}-{seed}", TABLES if partition == "by_size" else TABLES[:1]
    if missing := {name for name in asked if not (folder / f"{name}.csv").exists()}:
        run, found = Run(partition, seed), {}
        if missing & {"methods", "fooled"}:
            honest = {word: run.by(aq.registry.algorithm(word), run.contribution) for word in WORDS}
            found["methods"] = [row for word, paid in honest.items() for row in run.rows(paid, method=word)]
            if "fooled" in asked:
                found["fooled"] = lied(run, honest)
        if missing & {"realised", "coalitions"}:
            found["realised"], found["coalitions"] = realised(run)
        for name, rows in found.items():
            with atomic_write(folder / f"{name}.csv") as half:
                pd.DataFrame(rows).to_csv(half, index=False, float_format="%.6g")
    return {name: pd.read_csv(folder / f"{name}.csv") for name in asked}


def main() -> None:
    """Measure what is missing and write the tables."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    found = [measured(p, seed) for seed in tqdm(seeds, desc="seeds") for p in PARTITIONS]
    for name in TABLES:
        with atomic_write(RESULTS / f"{name}.csv") as half:
            pd.concat([tables[name] for tables in found if name in tables]).to_csv(
                half, index=False, float_format="%.6g"
            )
    about = {"seeds": list(seeds), "recipe": RECIPE.to_dict(), "versions": versions_of_run(),
             "device": device_in_words(torch.device("cpu")), "date": date.today().isoformat()}  # fmt: skip
    with atomic_write(RESULTS / "summary.json") as half:
        half.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
