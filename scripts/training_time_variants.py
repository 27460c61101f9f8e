"""Try variants of training under `training_time`, one factor at a time: results/training_time/variants.csv.

usage: python scripts/training_time_variants.py

Ten participants, an MLP, 40 rounds of 15 steps, Fashion-MNIST and CIFAR-10 (from the folder AEQUA_DATA), six partitions at
seed 100, which no other table reports, and the allowance min(0.02, sd(B) / 4). Models trained alone take the steps of
40 rounds, also where a variant trains longer. Everything is measured on the validation
split: the table is for choosing. All variants of a cell share shards, models trained alone and contributions. Rows are
written as they finish; a variant that has its row is not repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from training_time import CONFIG, DATA, PARTITIONS, Recorder, falling, origin, overpaid

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.aggregation import fedavgm
from aequa_lite.federate import Policy, ServerOptimizer
from aequa_lite.local import Offsets, class_shares, logit_offsets
from aequa_lite.method import assess, slimmable_rewards
from aequa_lite.slimmable import aggregate, coverage, prefix
from aequa_lite.training_time import GRID, HeldModels, Schedule, earned_accuracy, widest_within
from aequa_lite.types import State

TABLE = Path(__file__).resolve().parents[1] / "results" / "training_time" / "variants.csv"
SEED = 100
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # of the noise on units that are not earned
COARSE = (*(0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.12, 0.15, 0.18, 0.21), *(k / 20 for k in range(5, 21)))

Arrived = Iterable[tuple[State, float]]  # slices and their weights
Aggregate = Callable[[State, Arrived], State]


def by_width(updates: Sequence[aq.Update], power: float) -> list[float]:
    """Weight an update as its width is weighted in the loss of a full one."""
    return [u.weight * u.width**power for u in updates]


def by_coverage(_: aq.Problem) -> Aggregate:
    """Aggregate with steps that shrink where few hold an entry: divided by the weight of all, not of its holders."""

    def found(theta: State, arrived: Arrived) -> State:
        pairs = list(arrived)
        mass, total = coverage(theta, pairs), sum(weight for _, weight in pairs)
        new = aggregate(theta, pairs)
        return {name: theta[name] + (t - theta[name]) * mass[name] / total for name, t in new.items()}

    return found


def by_labels(problem: aq.Problem) -> Aggregate:
    """Aggregate with steps that shrink with the labels that an entry's holders cover.

    The factor is the share of classes of which the holders have at least a tenth of all samples.
    """
    classes = problem.data.train.classes
    counts = torch.stack([torch.bincount(shard.samples.y, minlength=classes) for shard in problem.shards])  # (n, C)

    def found(theta: State, arrived: Arrived) -> State:
        pairs = list(arrived)  # of all participants, in their order
        sizes = torch.tensor([sum(t.numel() for t in state.values()) for state, _ in pairs])
        new, share = aggregate(theta, pairs), {name: torch.zeros_like(t) for name, t in theta.items()}
        for i in sizes.argsort(descending=True).tolist():
            held = counts[sizes >= sizes[i]].sum(0)
            for name, t in pairs[i][0].items():
                share[name][prefix(t.shape)] = (held >= 0.1 * counts.sum(0)).float().mean()
        return {name: theta[name] + share[name] * (t - theta[name]) for name, t in new.items()}

    return found


def normalised(_: aq.Problem) -> Aggregate:
    """Aggregate, with every entry's step divided by its usual size: doubled at most, where it is small."""
    squares: State = {}

    def found(theta: State, arrived: Arrived) -> State:
        steps = {name: t - theta[name] for name, t in aggregate(theta, arrived).items()}
        for name, step in steps.items():
            squares[name] = 0.9 * squares.get(name, step.square()) + 0.1 * step.square()
        usual = {name: t.sqrt() for name, t in squares.items()}
        typical = {name: t.square().mean().sqrt() for name, t in usual.items()}
        return {
            name: theta[name] + step * 2 * typical[name] / (usual[name] + typical[name]).clamp(min=1e-12)
            for name, step in steps.items()
        }

    return found


def accepted_by_validation(problem: aq.Problem) -> Aggregate:
    """Aggregate, but take the outer units' step whole, by half or not at all: whatever has the least validation loss."""

    def loss(theta: State) -> float:
        with torch.no_grad():
            return float(cross_entropy(aq.slim(problem.build, theta, 1.0)(problem.validation.x), problem.validation.y))

    def found(theta: State, arrived: Arrived) -> State:
        pairs = list(arrived)
        new = aggregate(theta, pairs)
        slices = {sum(t.numel() for t in state.values()): state for state, _ in pairs}
        options = [new]
        for inner in [slices[size] for size in sorted(slices)][:-1]:
            for share in (0.0, 0.5):
                options.append({name: theta[name] + share * (t - theta[name]) for name, t in new.items()})
                for name, t in inner.items():
                    options[-1][name][prefix(t.shape)] = new[name][prefix(t.shape)]
        return min(options, key=loss)

    return found


def with_fitted_biases(problem: aq.Problem) -> Aggregate:
    """Aggregate, then fit the output biases at full width on the validation samples."""

    def found(theta: State, arrived: Arrived) -> State:
        new, y = aggregate(theta, arrived), problem.validation.y
        with torch.no_grad():
            logits = aq.slim(problem.build, new, 1.0)(problem.validation.x)
        bias = torch.zeros(logits.shape[1], requires_grad=True)
        optimizer = torch.optim.LBFGS([bias], max_iter=30)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(logits + bias, y)
            loss.backward()
            return loss

        optimizer.step(closure)
        last = [name for name, t in new.items() if t.shape == bias.shape][-1]
        return {**new, last: new[last] + bias.detach()}

    return found


def distilled(problem: aq.Problem, steps: int = 10) -> Aggregate:
    """Aggregate, then teach the full width by its best slice on validation inputs; kept if other samples say it helps."""
    order = aq.stream(SEED, "distilled").permutation(len(problem.validation))
    taught, held_out = (problem.validation.take(torch.from_numpy(half)) for half in np.array_split(order, 2))
    widths, build = (0.25, 0.5, 0.75), problem.build

    def loss(theta: State, width: float) -> float:
        with torch.no_grad():
            return float(cross_entropy(aq.slim(build, theta, width)(held_out.x), held_out.y))

    def found(theta: State, arrived: Arrived) -> State:
        new = aggregate(theta, arrived)
        before, best = loss(new, 1.0), min(widths, key=lambda w: loss(new, w))
        if loss(new, best) >= before:
            return new
        with torch.no_grad():
            soft = aq.slim(build, new, best)(taught.x).softmax(1)
        net, inner = aq.slim(build, new, 1.0), aq.slice_of(build, new, best)
        optimizer = torch.optim.SGD(net.parameters(), lr=problem.config.lr)
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(net(taught.x), soft).backward()
            for name, t in net.named_parameters():
                t.grad[prefix(inner[name].shape)] = 0  # the teacher stays as it is
            optimizer.step()
        after = {name: t.detach() for name, t in net.state_dict().items()}
        return after if loss(after, 1.0) < before else new

    return found


def to_own_labels(strategy: aq.Strategy) -> aq.Strategy:
    """Adjust each participant's logits to its own labels at every width, not to those of all who hold the width."""

    def local(state: State, shard: aq.Shard, *rest: object, offsets: Offsets, **more: object) -> aq.Update:
        ((_, row),) = logit_offsets([class_shares(shard.samples)], [1.0], 1.0, strategy.label_shares)
        return strategy.local(state, shard, *rest, offsets=[(1.0, row)], **more)

    return replace(strategy, local=local, vectorized=None)


def ending_together(allowance: float, rounds: int = 8) -> Schedule:
    """The schedule; in the last rounds only those who have earned the full network go on."""

    def schedule(build: aq.types.Build, validation: aq.Samples, contribution: np.ndarray) -> Policy:
        inner = aq.training_time(allowance)(build, validation, contribution)

        def policy(config: aq.Config, last: aq.Round | None) -> Sequence[float]:
            widths = inner(config, last)
            if last is None or not config.rounds - rounds <= last.index + 1 < config.rounds:
                return widths
            return [width if width == 1.0 else 0.0 for width in widths]

        return policy

    return schedule


def lending(allowance: float, every: int = 8) -> Schedule:
    """The schedule; in one of so many rounds everyone receives the full network, and keeps what it received."""

    def schedule(build: aq.types.Build, validation: aq.Samples, contribution: np.ndarray) -> Policy:
        inner = aq.training_time(allowance)(build, validation, contribution)

        def policy(config: aq.Config, last: aq.Round | None) -> Sequence[float]:
            lent = last is not None and (last.index + 1) % every == 0 and last.index + 1 < config.rounds
            return (1.0,) * config.participants if lent else inner(config, last)

        return policy

    return schedule


def nearly_all(allowance: float, least: float = 0.95) -> Schedule:
    """The schedule, whose slices are never narrower than this until the end; beyond the limit, to find the cause."""

    def schedule(build: aq.types.Build, validation: aq.Samples, contribution: np.ndarray) -> Policy:
        inner = aq.training_time(allowance)(build, validation, contribution)

        def policy(config: aq.Config, last: aq.Round | None) -> Sequence[float]:
            ended = last is not None and last.index + 1 == config.rounds
            return [width if ended else max(width, least) for width in inner(config, last)]

        return policy

    return schedule


class Masked:
    """Everyone trains the full network; units beyond what one has earned arrive with noise, drawn anew in every round.

    The least noise of `SCALES`, in standard deviations of a tensor, with which the network is worth no more on validation
    than the slice that the schedule would send. The server adds the difference to what it sent to its own network, so the
    noise is in the gradients only. `held`: the best of what one has received, the clean slice, and the average of what was
    received in the last ten rounds.
    """

    def __init__(self, problem: aq.Problem, allowance: float) -> None:
        self.problem, self.inner, self.held = problem, aq.training_time(allowance), list[HeldModels]()
        self.widths: Sequence[float] = ()
        self.sent: list[dict[int, State]] = []  # by round

    def schedule(self, build: aq.types.Build, validation: aq.Samples, contribution: np.ndarray) -> Policy:
        """The full network for all; what has been earned is kept beside it, and settles in the end."""
        policy = self.inner(build, validation, contribution)

        def found(config: aq.Config, last: aq.Round | None) -> Sequence[float]:
            self.widths = policy(config, last)
            self.sent.append({})
            ended = last is not None and last.index + 1 == config.rounds
            return self.widths if ended else (1.0,) * config.participants

        return found

    def strategy(self, plain: aq.Strategy) -> aq.Strategy:
        """The strategy with noise in what is sent, and without it in what is aggregated."""

        def broadcast(state: aq.ServerState, participant: int, width: float) -> State:
            found = self.masked(state.theta, participant, self.widths[participant])
            self.sent[-1][participant] = found
            return found

        def aggregated(state: aq.ServerState, updates: Sequence[aq.Update]) -> aq.ServerState:
            self.record(state.theta)
            clean = []
            for u in updates:
                sent = self.sent[-1][u.participant]
                own = {name: state.theta[name] + (t - sent[name]) for name, t in u.state.items()}
                clean.append(replace(u, state=own))
            return plain.aggregate(state, clean)

        return replace(plain, broadcast=broadcast, aggregate=aggregated, vectorized=None)

    def masked(self, theta: State, participant: int, width: float) -> State:
        """The network with noise beyond a width."""
        if width == 1.0:
            return theta
        inner = aq.slice_of(self.problem.build, theta, width)
        limit = self.worth(inner, width)
        seed = int(aq.stream(SEED, "mask", len(self.sent), participant).integers(2**31))
        draw = torch.Generator().manual_seed(seed)
        noise = {name: torch.randn(t.shape, generator=draw) * t.std() for name, t in theta.items()}
        for name, t in inner.items():
            noise[name][prefix(t.shape)] = 0
        for scale in SCALES:
            found = {name: t + scale * noise[name] for name, t in theta.items()}
            if self.worth(found, 1.0) <= limit:
                break
        return found

    def worth(self, state: State, width: float) -> float:
        """Accuracy of a slice on validation."""
        net = self.problem.build(width)
        net.load_state_dict(state)
        return float(aq.accuracy([net], self.problem.validation)[0])

    def record(self, theta: State) -> None:
        """Keep how good the models are that participants have after this round's broadcast."""
        best = []
        for i, width in enumerate(self.widths):
            recent = [sent[i] for sent in self.sent[-10:]]
            average = {name: torch.stack([s[name] for s in recent]).mean(0) for name in theta}
            clean = aq.slice_of(self.problem.build, theta, width)
            best.append(max(self.worth(recent[-1], 1.0), self.worth(average, 1.0), self.worth(clean, width)))
        full = self.worth(theta, 1.0)
        self.held.append(HeldModels(tuple(self.widths), np.array(best), full))


class Older:
    """Whoever may hold a wider slice of a network of the last three rounds than of the newest receives that one.

    The server adds what changed in it to its own network. In the end rewards settle on the newest network alone.
    """

    def __init__(self, problem: aq.Problem, allowance: float, rounds: int = 3) -> None:
        self.problem, self.allowance, self.rounds, self.held = problem, allowance, rounds, list[HeldModels]()
        self.known: list[tuple[State, aq.Curve]] = []  # newest first
        self.sent: dict[int, State] = {}  # the older network, by participant

    def schedule(self, build: aq.types.Build, validation: aq.Samples, contribution: np.ndarray) -> Policy:
        """The widest slice of the networks that are kept; the newest of equally wide ones."""
        settled, number = (
            aq.training_time(self.allowance)(build, validation, contribution),
            np.arange(len(contribution)),
        )

        def policy(config: aq.Config, last: aq.Round | None) -> Sequence[float]:
            if last is None or last.index + 1 == config.rounds:
                return settled(config, last)
            grid = [width for width in GRID if width >= config.min_width]
            curve = aq.accuracy_curve(build, last.theta, validation, grid=grid)
            target = earned_accuracy(curve, contribution) + self.allowance
            self.known = [(last.theta, curve), *self.known[: self.rounds]]
            fitting = [widest_within(each, target) * (each.fitted[0] <= target) for _, each in self.known[1:]]
            widths = np.stack([widest_within(curve, target), *fitting])  # (networks, n)
            chosen = widths.argmax(0)
            self.sent = {i: self.known[k][0] for i, k in enumerate(chosen) if k}
            found = widths[chosen, number]
            curves = [self.known[k][1] for k in chosen]
            got = [c.accuracy[np.searchsorted(c.widths, w - 1e-9)] for c, w in zip(curves, found)]
            self.held.append(HeldModels(tuple(found), np.array(got), float(curve.accuracy[-1])))
            return tuple(found.tolist())

        return policy

    def strategy(self, plain: aq.Strategy) -> aq.Strategy:
        """The strategy with older networks for some."""

        def broadcast(state: aq.ServerState, participant: int, width: float) -> State:
            return aq.slice_of(self.problem.build, self.sent.get(participant, state.theta), width)

        def aggregated(state: aq.ServerState, updates: Sequence[aq.Update]) -> aq.ServerState:
            return plain.aggregate(state, [self.renewed(state.theta, u) for u in updates])

        return replace(plain, broadcast=broadcast, aggregate=aggregated, vectorized=None)

    def renewed(self, theta: State, update: aq.Update) -> aq.Update:
        """An update of an older network as one of the newest."""
        old = self.sent.get(update.participant, theta)
        blocks = {name: prefix(t.shape) for name, t in update.state.items()}
        return replace(update, state={n: theta[n][b] + (update.state[n] - old[n][b]) for n, b in blocks.items()})


class LeftOut:
    """Each participant lacks hidden units of its own, drawn once, instead of the outer ones: others hold those.

    It lacks the fewest with which the network is worth no more than it has earned and is allowed. For an MLP.
    """

    shares = (0.03, 0.05, 0.08, 0.12, 0.16, *(k / 20 for k in range(4, 19)), 0.94, 0.97, 0.985, 1.0)

    def __init__(self, problem: aq.Problem, allowance: float) -> None:
        self.problem, self.allowance, self.held = problem, allowance, list[HeldModels]()
        self.kept = dict.fromkeys(range(len(problem.shards)), 1.0)

    def masks(self, participant: int, share: float, theta: State) -> State:
        """Which entries a participant holds."""
        draw, units, found = aq.stream(SEED, "left out", participant), None, {}
        for name, t in theta.items():  # weight, bias, weight, ..., as the layers stand
            if t.ndim == 2:
                before = torch.ones(t.shape[1]) if units is None else units
                units = torch.from_numpy(draw.permutation(t.shape[0]) < share * t.shape[0] - 1e-9).float()
                units = torch.ones_like(units) if t.shape[0] == self.problem.data.classes else units
                found[name] = units[:, None] * before
            else:
                found[name] = units
        return found

    def masked(self, theta: State, participant: int, share: float) -> State:
        """The network without the units that a participant lacks: zeros, which training leaves as they are."""
        masks = self.masks(participant, share, theta)
        return {name: t * masks[name] for name, t in theta.items()}

    def schedule(self, build: aq.types.Build, validation: aq.Samples, contribution: np.ndarray) -> Policy:
        """The full width for all, some units of which are left out; rewards settle in the end."""
        settled = aq.training_time(self.allowance)(build, validation, contribution)

        def policy(config: aq.Config, last: aq.Round | None) -> Sequence[float]:
            if last is None or last.index + 1 == config.rounds:
                return settled(config, last)
            full = aq.accuracy_curve(build, last.theta, validation, grid=(1.0,))
            target, got = earned_accuracy(full, contribution) + self.allowance, np.full(len(contribution), full.full)
            for i in range(len(contribution)):
                self.kept[i] = 1.0
                if target[i] < full.full:
                    nets = [aq.slim(build, self.masked(last.theta, i, share), 1.0) for share in self.shares]
                    curve = aq.Curve(self.shares, aq.accuracy(nets, validation), len(validation))
                    self.kept[i] = float(widest_within(curve, target[i]))
                    got[i] = curve.accuracy[self.shares.index(self.kept[i])]
            self.held.append(HeldModels((1.0,) * len(got), got, full.full))
            return (1.0,) * config.participants

        return policy

    def strategy(self, plain: aq.Strategy) -> aq.Strategy:
        """The strategy with units left out; the server averages each entry over those who hold it."""

        def broadcast(state: aq.ServerState, participant: int, width: float) -> State:
            return self.masked(state.theta, participant, self.kept[participant])

        def aggregated(state: aq.ServerState, updates: Sequence[aq.Update]) -> aq.ServerState:
            masks = [self.masks(u.participant, self.kept[u.participant], state.theta) for u in updates]
            new = {}
            for name, t in state.theta.items():
                held = torch.stack([u.weight * mask[name] for u, mask in zip(updates, masks)])
                steps = torch.stack([u.state[name] - t for u in updates])
                new[name] = t + (held * steps).sum(0) / held.sum(0).clamp_min(1e-30)
            return aq.ServerState(new, state.memory)

        return replace(plain, broadcast=broadcast, aggregate=aggregated, vectorized=None)


@dataclass(frozen=True)
class Variant:
    """What a variant changes."""

    while_training: bool = True
    config: Mapping[str, float] = field(default_factory=dict)
    grid: Sequence[float] | None = None
    power: float = 0.0  # of the width in the weight of an update
    aggregate: Callable[[aq.Problem], Aggregate] | None = None
    schedule: Callable[[float], Schedule] = aq.training_time
    strategy: Callable[[aq.Strategy], aq.Strategy] | None = None
    server: ServerOptimizer | None = None
    sender: Callable[[aq.Problem, float], Masked | Older | LeftOut] | None = None  # (problem, allowance)


VARIANTS = {
    "after training": Variant(False),
    "after training, three times the rounds": Variant(False, {"rounds": 3 * CONFIG.rounds}),
    "after training, logit adjustment": Variant(False, {"logit_adjustment": 1.0}),
    "after training, server momentum 0.5": Variant(False, server=fedavgm(0.5)),
    "after training, server momentum 0.7": Variant(False, server=fedavgm(0.7)),
    "while training": Variant(),
    "while training, three times the rounds": Variant(config={"rounds": 3 * CONFIG.rounds}),
    "server momentum 0.5": Variant(server=fedavgm(0.5)),
    "server momentum 0.7": Variant(server=fedavgm(0.7)),
    "logits adjusted to own labels": Variant(strategy=to_own_labels),
    "no logit adjustment": Variant(config={"schedule_logit_adjustment": 0.0}),
    "half the logit adjustment": Variant(config={"schedule_logit_adjustment": 0.5}),
    "no logit adjustment, 27 widths": Variant(config={"schedule_logit_adjustment": 0.0}, grid=COARSE),
    "27 widths": Variant(grid=COARSE),
    "fractional rewards at the end": Variant(config={"fractions": 16}),
    "updates weighted by width squared": Variant(power=2.0),
    "steps scaled by coverage": Variant(aggregate=by_coverage),
    "steps scaled by the labels covered": Variant(aggregate=by_labels),
    "steps divided by their usual size": Variant(aggregate=normalised),
    "outer steps accepted by validation": Variant(aggregate=accepted_by_validation),
    "the same, no logit adjustment": Variant(
        config={"schedule_logit_adjustment": 0.0}, aggregate=accepted_by_validation
    ),
    "outer units taught by the best slice, if validation agrees": Variant(aggregate=distilled),
    "twice the allowance": Variant(schedule=partial(falling, times=2.0, end=2.0)),
    "allowance from twice to zero": Variant(schedule=partial(falling, times=2.0)),
    "allowance from four times to zero": Variant(schedule=falling),
    "allowance from four times to once": Variant(schedule=partial(falling, end=1.0)),
    "the full network for all in one of eight rounds": Variant(schedule=lending),
    "older networks where a wider slice of them is within the limit": Variant(sender=Older),
    "units left out at random instead of the outer ones": Variant(
        config={"schedule_logit_adjustment": 0.0}, sender=LeftOut
    ),
    "slices never narrower than 0.95 of the network": Variant(schedule=nearly_all),
    "last 8 rounds without those who hold less than all": Variant(schedule=ending_together),
    "output biases fitted on validation": Variant(
        config={"schedule_logit_adjustment": 0.0}, aggregate=with_fitted_biases
    ),
    "all units for all, with noise on those not earned": Variant(sender=Masked),
    "noise on units not earned, no logit adjustment": Variant(config={"schedule_logit_adjustment": 0.0}, sender=Masked),
}


def measured(problem: aq.Problem, variant: Variant) -> dict[str, object]:
    """Train one variant and measure it on validation."""
    contribution, started, recorder = problem.contribution, time.process_time(), Recorder("validation")
    allowance = min(0.02, float(contribution.std()) / 4)
    grid = {} if variant.grid is None else {"grid": variant.grid}
    schedule = variant.schedule(allowance, **grid) if variant.while_training else None
    sender, change = None, variant.strategy or (lambda plain: plain)
    if variant.sender:
        sender = variant.sender(problem, allowance)
        schedule, change = sender.schedule, sender.strategy

    def trained(problem: aq.Problem, strategy: aq.Strategy, **options: object) -> aq.Round:
        return recorder.train(problem, change(strategy), **options)

    outcome = slimmable_rewards(
        replace(problem, config=replace(problem.config, **variant.config)),
        schedule=schedule,
        server=variant.server,
        aggregate=variant.aggregate(problem) if variant.aggregate else aggregate,
        reweight=partial(by_width, power=variant.power) if variant.power else None,
        train=trained,
    )
    rewards = aq.accuracy(outcome.models, problem.validation)
    gain, full = rewards - contribution, float(outcome.curve.accuracy[-1])
    final, now = overpaid(contribution, sender.held if sender else recorder.held, full)
    return {
        "allowance": allowance, "best_alone": float(contribution.max()), "sd_alone": float(contribution.std()),
        "full": full, "pearson": aq.pearson(contribution, rewards),
        "mcg": float(gain.mean()), "cgs": float(gain.std()), "min_gain": float(gain.min()),
        "overpaid_final": final, "overpaid_now": now, "width_reward": float(np.mean(outcome.plan.widths)),
        "seconds": time.process_time() - started - recorder.seconds,
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
    for data, partition in tqdm([(d, p) for d in DATA for p in reversed(PARTITIONS)], desc="cells"):
        done = {row["variant"] for row in rows() if (row["data"], row["partition"]) == (data, partition)}
        if done == set(VARIANTS):
            continue
        shared = problem(data, partition)
        for name in [each for each in VARIANTS if each not in done]:
            head = {"data": data, "partition": partition, "seed": SEED, "variant": name}
            row = {**head, **measured(shared, VARIANTS[name]), **origin(shared)}
            with atomic_write(TABLE) as half:
                pd.DataFrame([*rows(), row]).to_csv(half, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
