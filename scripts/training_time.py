"""Compare rewards while training with rewards after it and write results/training_time/allowances.csv.

usage: python scripts/training_time.py [SEEDS]

Ten participants, an MLP, 40 rounds of 15 steps, Fashion-MNIST and CIFAR-10 (from the folder AEQUA_DATA), six partitions,
seeds 0, 1, ... (default: three). All runs of a cell share shards, models trained alone and contributions: `aequa` after
training, and `training_time` at half, once and twice the allowance min(0.02, sd(B) / 4). `certified` is once the allowance
with a confidence of 95%, `falling` an allowance that falls from four times to once. Rows are written as they finish; a run
that has its row is not repeated. Accuracies are of the test split, `seconds` of CPU time without measuring.

What a participant was sent is worth the best that it can make of it. For every participant, `excess_...` is measured by how
much models made from its slices exceed what it has earned in the end plus the allowance, and the largest is written:
*received* in any round; its best and its last slice with the last layer *refitted*, or all layers *finetuned*, on its own
shard; the slices of its last rounds *averaged*; the leading block of its last slice *combined* with an older, wider one.
`above` counts the participants of whom one of these exceeds it by more than the 95% margin of a paired comparison on test.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.experiments.tables import informative
from aequa_lite.federate import Policy
from aequa_lite.method import assess, slimmable_rewards, train
from aequa_lite.report import device_name, versions
from aequa_lite.training_time import HeldModels, Schedule, held_models

TABLE = Path(__file__).resolve().parents[1] / "results" / "training_time" / "allowances.csv"
CONFIG = aq.Config(participants=10, rounds=40, local_steps=15)
DATA = ("fashion", "cifar10")
PARTITIONS = (
    *("class_imbalance", "power_law", "dirichlet(0.3)", "dirichlet(0.5)"),
    *("imbalanced(0.4, 2)", "label_skew(3)"),
)
RUNS = (  # method and factor of the allowance
    *(("aequa", None), ("training_time", 1.0), ("training_time", 0.5), ("training_time", 2.0)),
    *(("certified", 1.0), ("falling", 1.0)),
)
CONFIDENCE = {"certified": 0.95}
MADE = ("received", "refitted", "finetuned", "averaged", "combined")  # of what a participant was sent
DRAWS = 1000  # of the test samples, with replacement

Correct = NDArray[np.bool_]  # (participants, test samples)


def cells(seeds: int) -> Iterator[tuple[str, str, int]]:
    """Yield data, partition and seed: all of seed 0 first."""
    for seed in range(seeds):
        for data in DATA:
            yield from ((data, partition, seed) for partition in PARTITIONS)


def falling(allowance: float, times: float = 4.0, end: float = 0.0) -> Schedule:
    """The schedule with an allowance that falls from so many times its value to another multiple of it."""

    def schedule(build: aq.types.Build, validation: aq.Samples, contribution: np.ndarray) -> Policy:
        def policy(config: aq.Config, last: aq.Round | None) -> Sequence[float]:
            left = 1.0 if last is None else 1 - (last.index + 1) / config.rounds
            today = allowance * (end + (times - end) * left)
            return aq.training_time(today)(build, validation, contribution)(config, last)

        return policy

    return schedule


@dataclass
class Recorder:
    """Train as `aequa` does and keep what participants held in each round, measured on one split."""

    split: str = "test"
    seconds: float = 0.0  # spent on measuring
    held: list[HeldModels] = field(default_factory=list)
    sent: list[aq.types.State] = field(default_factory=list)  # the network of which slices were sent, by round

    def train(self, problem: aq.Problem, strategy: aq.Strategy, **options: object) -> aq.Round:
        """Train to the end; the argument `train` of an algorithm."""
        rounds = aq.federate(
            problem.build, problem.shards, problem.config, strategy=strategy, progress=False, **options
        )
        for last in rounds:
            started = time.process_time()
            self.held += held_models(problem.build, [last], getattr(problem.data, self.split))
            self.sent.append({name: t.clone() for name, t in last.before.theta.items()})
            self.seconds += time.process_time() - started
        return last


def overpaid(own: NDArray[np.float64], held: list[HeldModels], full: float) -> tuple[float, float]:
    """Return by how much held models exceed what is earned in the end, and what is earned in their round, at most."""
    accuracy, now = np.stack([each.accuracy for each in held]), np.array([each.full for each in held])
    final = own + max(0.0, full - own.max())
    earned = np.minimum(now[:, None], own + np.maximum(0, now - own.max())[:, None])
    return float(np.nanmax(accuracy - final)), float(np.nanmax(accuracy - earned))  # NaN: received nothing


Sent = list[tuple[float, aq.types.State]]  # width and slice of each round in which a participant was present


def made_of(
    sent: Sent, best: int, build: aq.types.Build, shard: aq.Shard, config: aq.Config
) -> dict[str, list[nn.Module]]:
    """Return what the holder can make of its slices; `best` is the place of its best one."""
    (width, last), chosen = sent[-1], [sent[best], sent[-1]]
    recent = [[each for each in sent[-rounds:] if each[0] >= width] for rounds in (3, 10)]
    averaged = [(width, mean([leading(state, last) for _, state in each])) for each in recent]
    wider = [each for each in {w: (w, state) for w, state in sent}.values() if each[0] > width]
    combined = [(w, stitched(state, last)) for w, state in wider]
    return {
        "refitted": [trained_further(build, each, shard, config, last_layer=True) for each in chosen],
        "finetuned": [trained_further(build, each, shard, config, last_layer=False) for each in chosen],
        "averaged": [network(build, *each) for each in averaged],
        "combined": [network(build, *each) for each in combined],
    }


def network(build: aq.types.Build, width: float, state: aq.types.State) -> nn.Module:
    """The network of this width with these tensors."""
    net = build(width)
    net.load_state_dict(state)
    return net


def leading(state: aq.types.State, like: aq.types.State) -> aq.types.State:
    """The leading blocks of a slice that have the shapes of a narrower one."""
    return {name: state[name][tuple(slice(size) for size in t.shape)] for name, t in like.items()}


def mean(states: Sequence[aq.types.State]) -> aq.types.State:
    """The average of slices of one shape."""
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def stitched(old: aq.types.State, new: aq.types.State) -> aq.types.State:
    """An older, wider slice with the leading block of a newer one."""
    kept = {name: t.clone() for name, t in old.items()}
    for name, t in new.items():
        kept[name][tuple(slice(size) for size in t.shape)] = t
    return kept


def trained_further(
    build: aq.types.Build, held: tuple[float, aq.types.State], shard: aq.Shard, config: aq.Config, *, last_layer: bool
) -> nn.Module:
    """A slice after two epochs on the holder's own shard, of its last layer or of all."""
    net = network(build, *held)
    parameters = list(net.parameters())[-2:] if last_layer else list(net.parameters())
    optimizer = torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum)
    generator = torch.Generator().manual_seed(config.seed)
    for chosen in torch.cat([torch.randperm(len(shard), generator=generator) for _ in range(2)]).split(config.batch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(shard.samples.x[chosen]), shard.samples.y[chosen]).backward()
        optimizer.step()
    return net


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

    def train_reference(self) -> None:
        """Train with rewards after training, which the other runs are compared with."""
        outcome = slimmable_rewards(self.problem, train=partial(train, progress=False))
        self.after = self.correct(outcome.models)

    def run(self, method: str, factor: float | None) -> dict[str, object]:
        """Return the row of one allowance; of rewards after training without one."""
        allowance = None if factor is None else factor * min(0.02, self.spread / 4)
        schedule = None if allowance is None else aq.training_time(allowance, confidence=CONFIDENCE.get(method))
        schedule = falling(allowance, 4.0, 1.0) if method == "falling" else schedule
        recorder, started = Recorder(), time.process_time()
        outcome = slimmable_rewards(self.problem, schedule=schedule, train=recorder.train)
        seconds = time.process_time() - started - recorder.seconds
        row = {**self.head, "method": method, "factor": factor, "allowance": allowance}
        found = {**self.measured(outcome, recorder.held), **self.worth(outcome, recorder, allowance or 0.0)}
        return {**row, **found, "seconds": seconds, **origin(self.problem)}

    def worth(self, outcome: aq.Outcome, recorder: Recorder, allowance: float) -> dict[str, object]:
        """Return by how much the best that participants can make of their slices exceeds what they have earned."""
        problem, own, most = self.problem, self.own.mean(1), dict.fromkeys(MADE, -1.0)
        gain, above = max(0.0, recorder.held[-1].full - own.max()), 0
        reached = [aq.correct(net.eval(), problem.data.test) for net in outcome.models]
        for i, shard in enumerate(problem.shards):
            present = [k for k, each in enumerate(recorder.held) if each.widths[i] > 0]
            sent = [
                (w, {name: t.clone() for name, t in aq.slim(problem.build, recorder.sent[k], w).state_dict().items()})
                for k in present
                for w in (recorder.held[k].widths[i],)
            ]
            best = int(np.argmax([recorder.held[k].accuracy[i] for k in present]))
            made = {"received": [network(problem.build, *sent[best])]}
            made |= made_of(sent, best, problem.build, shard, problem.config)
            right = {name: [aq.correct(net.eval(), problem.data.test) for net in nets] for name, nets in made.items()}
            limit = own[i] + gain + allowance
            for name, each in right.items():
                most[name] = max(most[name], *(float(np.mean(c)) - limit for c in each), -1.0)
            everything = [reached[i], *(c for each in right.values() for c in each)]
            above += any(self.exceeds(np.asarray(c), i, gain + allowance) for c in everything)
        return {**{f"excess_{name}": most[name] for name in MADE}, "above": above}

    def exceeds(self, correct: NDArray[np.bool_], i: int, limit: float) -> bool:
        """Whether a model beats what participant i reaches alone by more than the limit, with the margin of 95%."""
        difference = correct.astype(float) - self.own[i]
        return bool(difference.mean() - limit > 1.96 * difference.std() / np.sqrt(len(difference)))

    def measured(self, outcome: aq.Outcome, held: list[HeldModels]) -> dict[str, object]:
        """Return every measure of a run."""
        problem, own = self.problem, self.own.mean(1)
        test, ceiling = problem.data.test, aq.report(outcome).fairness
        full = float(aq.accuracy([aq.slim(problem.build, outcome.last.theta, 1.0)], test)[0])
        rewards = self.correct(outcome.models)
        best = np.max([*(each.accuracy for each in held), rewards.mean(1)], axis=0)
        final, now = overpaid(own, held, full)
        return {
            "full": full, "alone_best": float(own.max()), "alone_sd": float(own.std()),
            "informative": informative(problem.contribution, len(problem.validation)),
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
    return row["data"], row["partition"], row["seed"], row["method"], None if after else factor


def measure(cell: tuple[str, str, int], runs: Sequence[tuple[str, float | None]]) -> None:
    """Add the rows that a cell lacks."""
    done = {key(row) for row in rows()}
    if all((*cell, *run) in done for run in runs):
        return
    shared = Cell(*cell)
    if (*cell, "aequa", None) in done:
        shared.train_reference()
    for run in [each for each in runs if (*cell, *each) not in done]:
        row = shared.run(*run)
        with atomic_write(TABLE) as half:
            pd.DataFrame([*rows(), row]).to_csv(half, index=False, float_format="%.6g")


def main() -> None:
    """Measure all cells that are missing."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    for runs in (RUNS[:2], RUNS[:4], RUNS[:5], RUNS):  # first the allowance that the aims are about
        for cell in tqdm(list(cells(seeds)), desc="cells"):
            measure(cell, runs)


if __name__ == "__main__":
    main()
