"""Measure what a fractional reward is worth to someone who tries to restore it; write results/fractions/restored.csv.

usage: python scripts/fractional_rewards.py [SEEDS]

Between two widths of the grid a reward has the units of the wider one, less some of the weights that read the newest
units. Three ways are compared with whole widths: these weights are *scaled* by the fraction (`fractional_slim`),
*noisy* (scaled, with fresh noise that vanishes at both ends), or *withheld* (a fraction of them is sent, the others are
zero). Each participant then restores what it can: it divides by the fraction, and it fits these weights on its own
shard; the best network counts, chosen with hindsight. *Together*, it also averages its weights with those of everybody
who received the same units at no larger fraction, each divided by its fraction. Ten participants, Fashion-MNIST from the
folder AEQUA_DATA, three partitions, seeds 100, 101, ... (default: three). One half of the validation split measures
contributions and curves, the other gives all numbers: the test split is not used, since a default is chosen by this
table. Rows that exist are kept.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.report import device_name, versions
from aequa_lite.slimmable import slice_of, template

TABLE = Path(__file__).resolve().parents[1] / "results" / "fractions" / "restored.csv"
PARTITIONS = ("class_imbalance", "dirichlet(0.5)", "dirichlet(0.1)")
GRID, LEVELS = 200, 32  # widths, and fractions between two of them
FITS = [(steps, lr) for steps in (30, 200) for lr in (0.01, 0.1)]

Option = tuple[float, float]  # grid width, fraction in (0, 1] of its newest units
Change = Callable[[Tensor, float, np.random.Generator], Tensor]  # of the weights that read the newest units


def scaled(weights: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Multiply by the fraction."""
    return share * weights


def noisy(weights: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Multiply by the fraction, with noise of up to four standard deviations of the weights."""
    noise = torch.from_numpy(rng.standard_normal(weights.shape)).to(weights)
    return share * (weights + 4 * (1 - share) * weights.std(correction=0) * noise)


def withheld(weights: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Keep a fraction of the weights, always the same ones first."""
    places = np.random.default_rng(0).permutation(weights.numel()).reshape(weights.shape)
    return weights * torch.from_numpy(places < round(share * weights.numel())).to(weights)


KINDS: dict[str, Change | None] = {"whole": None, "scaled": scaled, "noisy": noisy, "withheld": withheld}


class Federation:
    """One trained network of every width, and what its participants have alone."""

    def __init__(self, partition: str, seed: int) -> None:
        data = aq.load("fashion", device="cpu")
        self.head = {"data": "fashion", "partition": partition, "seed": seed}
        config = aq.Config(participants=10, lr=0.1, seed=seed, grid=GRID)
        self.config, self.build = config, aq.for_dataset(aq.MLP, data)
        self.shards = aq.registry.lookup("partition", partition)(data.train, config)
        order = aq.stream(seed, "fractions", "halves").permutation(len(data.validation))
        self.first, self.second = (data.validation.take(torch.from_numpy(half)) for half in np.array_split(order, 2))
        alone = aq.standalone(self.build, self.shards, config, progress=False)
        self.contribution, self.alone = aq.accuracy(alone, self.first), aq.accuracy(alone, self.second)
        weights = aq.aggregation_weights(self.shards, config, self.contribution)
        for last in aq.federate(self.build, self.shards, config, weights=weights, progress=False):
            pass
        self.theta = last.theta

    def newest(self, width: float) -> Iterator[tuple[str, int]]:
        """Names of the tensors that read units absent at the next smaller width, and where these begin."""
        wide, narrow = (template(self.build, w).state_dict() for w in (width, width - 1 / GRID))
        for name, t in narrow.items():
            if t.dim() > 1 and t.shape[1] < wide[name].shape[1]:
                yield name, t.shape[1]

    def network(self, option: Option, change: Change | None, rng: np.random.Generator) -> nn.Module:
        """The reward at a width and fraction."""
        width, share = option
        block = {k: t.clone() for k, t in slice_of(self.build, self.theta, width).items()}
        if share < 1:
            for name, begin in self.newest(width):
                block[name][:, begin:] = change(block[name][:, begin:], share, rng)
        net = self.build(width)
        net.load_state_dict(block)
        return net.eval()

    def options(self, change: Change | None) -> tuple[list[Option], aq.Curve]:
        """What may be rewarded, with its accuracy on the first half: fractions where the step is above half a point."""
        rng, widths = aq.stream(self.config.seed, "fractions", "curve"), [k / GRID for k in range(4, GRID + 1)]
        measure = lambda option: float(aq.correct(self.network(option, change, rng), self.first).mean())
        found = {(w, 1.0): measure((w, 1.0)) for w in widths}
        if change:
            for below, above in pairwise(widths):
                if abs(found[above, 1.0] - found[below, 1.0]) > 0.005:
                    found |= {(above, k / LEVELS): measure((above, k / LEVELS)) for k in range(1, LEVELS)}
        every = sorted(found, key=position)
        return every, aq.Curve([position(o) for o in every], [found[o] for o in every], len(self.first))

    def row(self, kind: str) -> dict[str, object]:
        """Allocate, hand out, restore, and compare."""
        change, rng = KINDS[kind], aq.stream(self.config.seed, "fractions", "rewards")
        options, curve = self.options(change)
        plan = aq.allocate(self.contribution, curve, individually_rational=True)
        places = np.searchsorted(curve.widths, plan.widths - 1e-9)
        handed = [(options[place], self.network(options[place], change, rng)) for place in places]
        received, restored, together = np.array([self.restored(i, handed) for i in range(len(handed))]).T
        steps = aq.curve_diagnostics(curve, self.contribution)["largest_step"]
        return {
            **self.head, "rewards": kind, "largest_step": steps,
            "fractional": sum(options[place][1] < 1 for place in places),
            "pearson": aq.pearson(self.alone, received), "cgs": float((received - self.alone).std()),
            "pearson_restored": aq.pearson(self.alone, restored), "cgs_restored": float((restored - self.alone).std()),
            "pearson_together": aq.pearson(self.alone, together), "cgs_together": float((together - self.alone).std()),
            "pools": sum(len(self.pool(i, handed)) > 1 for i in range(len(handed))),
            "restoring_mean": float((restored - received).mean()), "restoring_most": float((restored - received).max()),
            **{f"version_{name}": each for name, each in versions().items()},
            "device": device_name(self.first.y.device), "date": date.today().isoformat(),
        }  # fmt: skip

    def restored(self, i: int, handed: list[tuple[Option, nn.Module]]) -> tuple[float, float, float]:
        """The accuracy of what a participant receives, and of the best that it can make of it, alone and together."""
        (width, share), net = handed[i]
        received = float(aq.correct(net, self.second).mean())
        if share == 1 and width <= 4 / GRID:
            return received, received, received
        alone = self.best(i, width, [net] if share == 1 else [net, self.averaged(width, [(share, net)])])
        pool = self.pool(i, handed)
        together = self.best(i, width, [self.averaged(width, pool)]) if len(pool) > 1 else alone
        return received, alone, max(alone, together)

    def pool(self, i: int, handed: list[tuple[Option, nn.Module]]) -> list[tuple[float, nn.Module]]:
        """Fraction and network of everybody who received the same units at no larger fraction, if that is below one."""
        (width, share), _ = handed[i]
        return [(other[1], net) for other, net in handed if other[0] == width and other[1] <= share < 1]

    def averaged(self, width: float, pool: list[tuple[float, nn.Module]]) -> nn.Module:
        """The network whose newest weights are the mean of these, divided by their fractions; larger fractions weigh more."""
        mean, weight = copy.deepcopy(pool[-1][1]), sum(share**2 for share, _ in pool)
        with torch.no_grad():
            for name, begin in self.newest(width):
                parts = [share * net.get_parameter(name)[:, begin:] for share, net in pool]
                mean.get_parameter(name)[:, begin:] = torch.stack(parts).sum(0) / weight
        return mean

    def best(self, i: int, width: float, starts: list[nn.Module]) -> float:
        """The best accuracy of these networks, as they are and fitted on the participant's own shard."""
        tried = [*starts, *(self.fitted(start, i, width, *how) for start in starts for how in FITS)]
        return max(float(aq.correct(each.eval(), self.second).mean()) for each in tried)

    def fitted(self, net: nn.Module, i: int, width: float, steps: int, lr: float) -> nn.Module:
        """Fit the weights that read the newest units on the participant's own shard."""
        net, samples = copy.deepcopy(net).train(), self.shards[i].samples
        rng, free = aq.stream(self.config.seed, "fractions", "fit", i), dict(self.newest(width))
        for _ in range(steps):
            batch = torch.from_numpy(rng.integers(len(samples), size=64))
            loss = nn.functional.cross_entropy(net(samples.x[batch]), samples.y[batch])
            grads = torch.autograd.grad(loss, [net.get_parameter(name) for name in free])
            with torch.no_grad():
                for (name, begin), grad in zip(free.items(), grads, strict=True):
                    net.get_parameter(name)[:, begin:] -= lr * grad[:, begin:]
        return net


def position(option: Option) -> float:
    """Where an option lies on the axis of widths."""
    return option[0] - (1 - option[1]) / GRID


def main() -> None:
    """Measure all rows that are missing."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rows = pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []
    done = {(row["partition"], row["seed"], row["rewards"]) for row in rows}
    for seed, partition in tqdm(
        [(seed, p) for seed in range(100, 100 + seeds) for p in PARTITIONS], desc="federations"
    ):
        missing = [kind for kind in KINDS if (partition, seed, kind) not in done]
        if missing:
            rows += map(partial(Federation.row, Federation(partition, seed)), missing)
            with atomic_write(TABLE) as half:
                pd.DataFrame(rows).to_csv(half, index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
