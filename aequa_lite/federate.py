"""The training loop: choose widths, send slices, train locally, aggregate.

What trains or rewards differently is another strategy or another policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ._check import Count, Fraction, checked, one_each, refusal, vector
from ._parallel import arithmetic, one_thread, tf32
from ._parallel import workers as pool
from ._validation import readable_update, refusals
from .checkpoint import load_checkpoint, run_identity, save_checkpoint
from .config import Config, stream
from .local import (
    Offsets,
    WidthSampler,
    class_shares,
    full_and_random,
    full_only,
    local_sgd,
    logit_offsets,
)
from .networks.base import init_params
from .slimmable import Pairs, aggregate, slice_of, slim, template
from .types import Build, Round, ServerState, Shard, State, Update
from .vectorized import participants_per_pass, vectorized_sgd

__all__ = [
    "Policy", "Strategy", "aggregation_weights", "federate",
    "federate_many", "fixed_widths", "full_width", "slimmable",
    "standalone",
]  # fmt: skip

# (config, last round or None) -> next width of each participant, 0 if
# absent; asked after the last round too: what everyone then holds
Policy = Callable[[Config, Round | None], Sequence[float]]
Aggregator = Callable[[State, Pairs], dict[str, Tensor]]
ServerOptimizer = Callable[[ServerState, State], ServerState]
Reweight = Callable[[Sequence[Update]], Sequence[float]]


@checked
def full_width(config: Config, last: Round | None) -> tuple[float, ...]:
    """Send everyone the full network; rewards are cut after training.

    Example:
        >>> full_width(Config(participants=3), None)
        (1.0, 1.0, 1.0)

    References:
        Aequa, Algorithm 1.
    """
    return (1.0,) * config.participants


@checked
def fixed_widths(
    config: Config, last: Round | None, *, widths: Sequence[Fraction]
) -> tuple[float, ...]:
    """Send everyone a fixed width: use `partial(fixed_widths, widths=...)`.

    Raises:
        ValueError: A width is outside (0, 1].

    Example:
        >>> two = Config(participants=2)
        >>> fixed_widths(two, None, widths=(0.25, 1.0))
        (0.25, 1.0)

    References:
        HeteroFL's fixed complexity levels (Diao et al. 2021).
    """
    return tuple(widths)


@checked
@dataclass(frozen=True)
class Strategy:
    """Hold the functions that a way of training together consists of.

    Args:
        broadcast: (state, participant, width) -> what that one receives.
        local: (slice, shard, width, config, rng, first=, weight=) -> its
            update; with `Config.logit_adjustment` also (offsets=).
        aggregate: (state, updates) -> the next state.
        vectorized: `local` of all participants at once, for a GPU.
        sent: (state after the round, updates) -> numbers sent and received,
            where not all of a slice travels.
        label_shares: Of the labels where the network is used, for
            `Config.logit_adjustment` (default: equal).

    Example:
        >>> import aequa_lite as aq
        >>> fedavg = aq.slimmable(aq.MLP, width_sampler=aq.full_only)
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> half = fedavg.broadcast(aq.types.ServerState(theta), 0, 0.5)
        >>> half["2.weight"].shape
        torch.Size([100, 784])
    """

    broadcast: Callable[[ServerState, int, float], State]
    local: Callable[..., Update]
    aggregate: Callable[[ServerState, Sequence[Update]], ServerState]
    vectorized: Callable[..., list[Update]] | None = None
    sent: Callable[[ServerState, Sequence[Update]], int] | None = None
    label_shares: Sequence[Fraction] = ()


@checked
def slimmable(
    build: Build,
    width_sampler: WidthSampler = full_and_random,
    *,
    server: ServerOptimizer | None = None,
    aggregate: Aggregator = aggregate,
    reweight: Reweight | None = None,
    precision: torch.dtype | None = None,
    label_shares: Sequence[float] = (),
) -> Strategy:
    """Train one network at every width: slices out, slices back, averaged.

    Args:
        width_sampler: The widths of a local step.
        server: What is made of the aggregate (default: taken as it is).
        aggregate: How slices become one network.
        reweight: Weights of the updates as they arrive (default: those that
            `federate` was given).
        precision: Of the passes on a GPU.
        label_shares: As in `Strategy`.

    Example:
        >>> import aequa_lite as aq
        >>> slimmable(aq.MLP).sent is None
        True

    References:
        Ordered dropout (FjORD) with full participation; the width sampler
        is our choice.
    """
    return Strategy(
        broadcast=partial(_slice, build),
        local=partial(local_sgd, build, width_sampler=width_sampler),
        aggregate=partial(
            _aggregate, server=server, rule=aggregate, reweight=reweight
        ),
        vectorized=partial(
            vectorized_sgd,
            build,
            width_sampler=width_sampler,
            precision=precision,
        ),
        label_shares=tuple(label_shares),
    )


def _slice(
    build: Build, state: ServerState, participant: int, width: float
) -> dict[str, Tensor]:
    return slice_of(build, state.theta, width)


def _aggregate(
    state: ServerState,
    updates: Sequence[Update],
    server: ServerOptimizer | None,
    rule: Aggregator,
    reweight: Reweight | None,
) -> ServerState:
    weights = reweight(updates) if reweight else [u.weight for u in updates]
    slices = [u.state for u in updates]
    with one_thread():
        theta = rule(state.theta, zip(slices, weights, strict=True))
        if server:
            return server(state, theta)
        return ServerState(theta, state.memory)


@checked
def aggregation_weights(
    shards: Sequence[Shard],
    config: Config,
    contribution: ArrayLike | None = None,
) -> NDArray[np.float64]:
    r"""Return each participant's weight in the aggregate, summing to one.

    $\omega_i \propto |D_i|^p\, B_i^q$ with $p$ = `size_power`, $q$ =
    `contribution_power` and $B_i$ the contribution, at least 0.001.

    Returns:
        (n,) weights.

    Raises:
        ValueError: `contribution_power` is above 0 and there is not one
            finite contribution for each participant.

    Example:
        >>> import aequa_lite as aq
        >>> config = aq.Config(participants=2, contribution_power=1.0)
        >>> train = aq.load("fashion-mini").train
        >>> shards = aq.data.homogeneous(train, config)
        >>> a = aggregation_weights(shards, config, [0.2, 0.6])
        >>> a.round(6).tolist()
        [0.25, 0.75]

    References:
        FedAvg weights by size, ShapFed-WA by contribution; the product is
        our choice.
    """
    sizes = np.array([float(len(shard)) for shard in shards])
    mass = sizes**config.size_power
    if config.contribution_power:
        found = np.array(contribution, float)
        if found.shape != mass.shape or not np.isfinite(found).all():
            allowed = f"{len(mass)} finite numbers (contribution_power > 0)"
            raise refusal("contribution", allowed, contribution)
        mass *= np.maximum(found, 1e-3) ** config.contribution_power
    return mass / mass.sum()


@checked
def federate(
    build: Build,
    shards: Sequence[Shard],
    config: Config,
    *,
    strategy: Strategy | None = None,
    policy: Policy = full_width,
    weights: ArrayLike | None = None,
    vectorized: bool | None = None,
    deterministic: bool = False,
    workers: Count | None = None,
    checkpoint: Path | str | None = None,
    name: str = "",
    progress: bool = True,
) -> Iterator[Round]:
    """Train one network together and yield every round.

    An update that is not finite, does not fit what was sent, or is larger
    than `config.norm_limit` median updates is left out and named. A round
    holds its updates: a list of rounds takes as much memory as all of them.

    Args:
        strategy: How to send, train and aggregate (default: `slimmable`).
        policy: Which width each participant receives.
        weights: (n,) aggregation weights (default: shard sizes, as FedAvg;
            `aequa` passes `aggregation_weights`).
        vectorized: Train all participants in one pass (default: on a GPU,
            if the network has no buffers). Equal up to rounding.
        deterministic: Let a GPU train with deterministic algorithms.
        workers: Threads; the result does not depend on it.
        checkpoint: File from which a killed run goes on, written after
            every round. A run with another identity is refused.
        name: Vouches for functions that cannot be imported.

    Yields:
        Rounds; of a run that had ended, the last one.

    Raises:
        ValueError: Arguments do not fit together.
        FloatingPointError: Every update of a round was refused.

    Example:
        >>> import aequa_lite as aq
        >>> config = aq.Config(participants=2, rounds=2, local_steps=1)
        >>> train = aq.load("fashion-mini").train
        >>> shards = aq.data.homogeneous(train, config)
        >>> rounds = aq.federate(aq.MLP, shards, config, progress=False)
        >>> [last.index for last in rounds]
        [0, 1]

    References:
        FedAvg's loop (McMahan et al. 2017).
    """
    run = federation(
        build, shards, config, strategy=strategy, policy=policy,
        weights=weights, vectorized=vectorized, deterministic=deterministic,
        checkpoint=checkpoint, name=name, progress=progress,
    )  # fmt: skip
    device = shards[0].samples.y.device
    return (last for _, last in side_by_side([run], device, workers))


@checked
def federation(
    build: Build,
    shards: Sequence[Shard],
    config: Config,
    *,
    strategy: Strategy | None = None,
    policy: Policy = full_width,
    weights: ArrayLike | None = None,
    vectorized: bool | None = None,
    deterministic: bool = False,
    checkpoint: Path | str | None = None,
    name: str = "",
    progress: bool = False,
) -> Federation:
    """The loop of `federate`, which trains nobody itself.

    In each round it yields a task, is sent everybody's updates, and yields
    the round. So many loops can wait side by side.
    """
    one_each("shards", shards, config.participants)
    strategy = strategy or slimmable(build)
    mass = by_size(shards)
    if weights is not None:
        mass = one_each("weights", vector("weights", weights), len(shards))
        if (mass <= 0).any():
            raise refusal("weights", "finite numbers above 0", weights)
    in_a_pass = _in_a_pass(strategy, build, shards, config, vectorized)
    numbers = config.to_dict()
    if getattr(policy, "func", policy) in (full_width, fixed_widths):
        del numbers["fractions"]  # which other policies may read
    parts = {
        "config": numbers, "build": build, "weights": mass.tolist(),
        "strategy": strategy, "policy": policy, "vectorized": in_a_pass,
        "tf32": tf32(), "deterministic": deterministic,
    }  # fmt: skip
    name = name or ("" if checkpoint else "unnamed")
    identity = run_identity(parts, shards, name)
    path = Path(checkpoint) if checkpoint else None
    last = _begun(build, shards, config, policy, path, identity)
    begin = last.index + 1
    if begin == config.rounds:
        yield last
    strength, used = config.logit_adjustment, strategy.label_shares
    labels = [class_shares(s.samples) for s in shards if strength]
    if labels and used:
        one_each("label_shares", used, len(labels[0]), "classes")
    bar = tqdm(
        range(begin, config.rounds), "rounds", initial=begin,
        total=config.rounds, disable=not progress,
    )  # fmt: skip
    for index in bar:
        # 1. choose: who takes part, and at which width
        chosen = last.next_widths
        here = present(config, index, np.flatnonzero(chosen).tolist())
        held = [w if i in here else 0.0 for i, w in enumerate(chosen)]
        # 2. send each its slice
        send = partial(strategy.broadcast, last.state)
        sent = {i: send(shards[i].participant, held[i]) for i in here}
        # 3. train locally
        offsets = logit_offsets(labels, held, strength, used)
        jobs = [
            Job(
                sent[i], shards[i], held[i],
                stream(config.seed, "local", index, shards[i].participant),
                float(mass[i]), offsets,
            )
            for i in here
        ]  # fmt: skip
        written = _versions(last.state)
        updates = yield Task(
            strategy, config, jobs, {"first": index * config.local_steps},
            in_a_pass > 0, deterministic,
        )  # fmt: skip
        if _versions(last.state) != written:  # slices are views
            raise ValueError(
                "`strategy.local` must not write into what it was "
                "sent; copy it first"
            )
        # 4. aggregate what is valid
        with one_thread():
            why = refusals(updates, sent, held, config.norm_limit)
        refused = {shards[i].participant: r for i, r in why.items()}
        valid = [u for u in updates if u.participant not in refused]
        if not valid:
            each = "; ".join(f"{k}: {r}" for k, r in refused.items())
            raise FloatingPointError(
                f"round {index}: every update was refused ({each}); "
                f"lower lr (now {config.lr:g})"
            )
        state = strategy.aggregate(last.state, valid)
        count = (strategy.sent or partial(_numbers, sent))(state, updates)
        loss = np.average(
            [u.loss for u in valid], weights=[u.weight for u in valid]
        )
        last = Round(
            index, state, tuple(held), float(loss), count,
            left_out=tuple(refused), updates=tuple(updates),
            before=last.state, total_sent=last.total_sent + count,
            total_left_out=last.total_left_out + tuple(refused),
            next_widths=chosen, identity=identity,
        )  # fmt: skip
        ahead = _checked_widths(policy(config, last), config)
        last = replace(last, next_widths=ahead)
        if path:
            save_checkpoint(path, last)
        bar.set_postfix(loss=f"{last.loss:.3f}", refresh=False)
        yield last


@checked
def federate_many(
    build: Build,
    runs: Sequence[tuple[Sequence[Shard], Config]],
    *,
    workers: Count | None = None,
    progress: bool = False,
    **options: Any,
) -> list[Round]:
    """Train many networks side by side; return the last round of each.

    They may differ in seed, shards and participants. Where participants are
    trained in one pass, those that take the same steps share it.

    Args:
        runs: Shards and config of each federation.
        strategy: And all others: as in `federate`.

    Returns:
        What `federate` yields last, up to rounding.

    Raises:
        ValueError: As `federate`.

    Example:
        >>> import aequa_lite as aq
        >>> config, data = aq.Config(2, 1, 1), aq.load("fashion-mini")
        >>> run = aq.data.homogeneous(data.train, config), config
        >>> len(aq.federate_many(aq.MLP, [run, run]))
        2
    """
    each = [federation(build, *run, **options) for run in runs]
    device = runs[0][0][0].samples.y.device if runs else "cpu"
    rounds = side_by_side(each, device, workers)
    last = dict(tqdm(rounds, "rounds", disable=not progress))
    return [last[k] for k in range(len(each))]


class Job(NamedTuple):
    """What one participant trains on its own."""

    sent: State
    shard: Shard
    width: float
    rng: np.random.Generator
    weight: float
    offsets: Offsets


@dataclass(frozen=True)
class Task:
    """The local training of a round; `options` say which steps it takes."""

    strategy: Strategy
    config: Config
    jobs: Sequence[Job]
    options: Mapping[str, int]
    at_once: bool
    deterministic: bool

    def kind(self, own: int) -> Any:
        """Equal where tasks may share a pass; else their own number."""
        rule = self.strategy.vectorized
        if self.at_once and getattr(rule, "func", None) is vectorized_sgd:
            config = replace(self.config, seed=0, participants=1)
            steps = *self.options.items(), *rule.keywords.items()
            return config, rule.args, *steps
        return own


# yields a task, is sent its updates, yields the round, and so on
Federation = Generator[Task | Round, list[Update], None]


def side_by_side(
    runs: Sequence[Federation], device: Any, workers: int | None = None
) -> Iterator[tuple[int, Round]]:
    """Train federations; yield each one's number with each of its rounds.

    Tasks of one kind are trained together.
    """
    with pool(workers, device) as spread:
        while found := {
            k: t for k, run in enumerate(runs) if (t := next(run, None))
        }:
            groups: dict[Any, list[int]] = {}
            for k, task in found.items():
                if isinstance(task, Round):  # it had ended
                    yield k, task
                else:
                    groups.setdefault(task.kind(k), []).append(k)
            for ks in groups.values():
                updates = _trained([found[k] for k in ks], spread)
                for k, own in zip(ks, updates, strict=True):
                    yield k, runs[k].send(own)


def _trained(
    tasks: Sequence[Task], spread: Callable[..., Iterator[Update]]
) -> list[list[Update]]:
    """Everybody's update, for each task; one by one or in one pass."""
    task, *_ = tasks
    strategy, config = task.strategy, task.config
    jobs = [job for each in tasks for job in each.jobs]

    def local(job: Job) -> Update:
        rest = {"offsets": job.offsets} if job.offsets else {}
        return strategy.local(
            job.sent, job.shard, job.width, config, job.rng,
            weight=job.weight, **task.options, **rest,
        )  # fmt: skip

    with arithmetic(task.deterministic):
        if task.at_once:
            columns = map(list, zip(*jobs))
            sent, shards, widths, rngs, weights, offsets = columns
            rest = {"offsets": offsets} if any(offsets) else {}
            found = strategy.vectorized(
                sent, shards, widths, config, rngs, weights=weights,
                **task.options, **rest,
            )  # fmt: skip
        else:
            found = spread(local, jobs)
        device = jobs[0].shard.samples.y.device
        pairs = zip(found, jobs, strict=True)
        read = iter([
            readable_update(u, job.shard.participant, job.width, device)
            for u, job in pairs
        ])  # fmt: skip
    return [[next(read) for _ in each.jobs] for each in tasks]


def _begun(
    build: Build, shards: Sequence[Shard], config: Config, policy: Policy,
    path: Path | None, identity: Mapping[str, Any],
) -> Round:  # fmt: skip
    """The last round that is saved, or the state before the first."""
    device = shards[0].samples.y.device
    state = ServerState(init_params(build, config.seed, device))
    if path and (saved := load_checkpoint(path, identity, state.theta)):
        return saved
    widths = _checked_widths(policy(config, None), config)
    return Round(
        -1, state, (), math.nan, 0, next_widths=widths, identity=identity
    )


def present(config: Config, index: int, able: Sequence[int]) -> list[int]:
    """Who takes part in a round: a random share of all, of the able."""
    count = max(1, round(config.participation * config.participants))
    if count >= len(able):
        return list(able)
    rng = stream(config.seed, "participation", index)
    return sorted(able[k] for k in rng.permutation(len(able))[:count])


def _versions(state: ServerState) -> int:
    """How often the server's tensors have been written to."""
    tensors = (*state.theta.values(), *state.memory.values())
    return sum(t._version for t in tensors)


def _numbers(
    sent: Mapping[int, State], state: ServerState, updates: Sequence[Update]
) -> int:
    """How many numbers have travelled, there and back."""
    states = *sent.values(), *(u.state for u in updates)
    return sum(t.numel() for each in states for t in each.values())


def by_size(shards: Sequence[Shard]) -> NDArray[np.float64]:
    """FedAvg's weights: each one's share of the samples, (n,)."""
    sizes = np.array([float(len(shard)) for shard in shards])
    return sizes / sizes.sum()


def _checked_widths(
    widths: Sequence[float], config: Config
) -> tuple[float, ...]:
    """Refuse a policy's decision that is no width for each participant."""
    one_each("policy's widths", widths, config.participants)
    found = vector("policy's widths", widths, 0, 1)
    if not found.any():
        raise refusal("policy", "one that gives somebody a width", widths)
    return tuple(found.tolist())


def _in_a_pass(
    strategy: Strategy,
    build: Build,
    shards: Sequence[Shard],
    config: Config,
    vectorized: bool | None,
) -> int:
    """How many full networks one pass trains; 0: they train one by one.

    By default 0, and on a GPU whose memory holds two all that fit. That
    rests on the number of kernels launched; its time is not measured. Not
    on a CPU, also where it is faster there: both ways agree to 1e-5 only
    (see the book's page on speed).
    """
    largest = max(shards, key=len)
    able, least = strategy.vectorized is not None, 1
    if vectorized is None:
        plain = not list(template(build, 1.0).buffers())
        vectorized = able and plain and largest.samples.y.is_cuda
        least = 2
    if not vectorized:
        return 0
    if not able:
        raise refusal("vectorized", "False with this strategy", True)
    if largest.samples.x is None:  # they train on other machines
        return len(shards)
    fit = participants_per_pass(build, 1.0, largest, config)
    return min(fit, len(shards)) if fit >= least else 0


@checked
def standalone(
    build: Build,
    shards: Sequence[Shard],
    config: Config,
    *,
    progress: bool = True,
    **options: Any,
) -> list[nn.Module]:
    """Train for each participant the network it could have had alone.

    Everyone starts from the same initial network and takes rounds x
    `local_steps` steps on its own shard, as many as when training together.

    Args:
        vectorized, deterministic, workers: As in `federate`.

    Returns:
        One full network for each participant.

    Raises:
        ValueError: There is not one shard for each participant.

    Example:
        >>> import aequa_lite as aq
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> train = aq.load("fashion-mini").train
        >>> shards = aq.data.homogeneous(train, config)
        >>> len(standalone(aq.MLP, shards, config, progress=False))
        2

    References:
        Aequa measures contribution by stand-alone accuracy.
    """
    one_each("shards", shards, config.participants)
    runs = [(shards, config)]
    (nets,) = standalone_many(build, runs, progress=progress, **options)
    return nets


@checked
def standalone_many(
    build: Build,
    runs: Sequence[tuple[Sequence[Shard], Config]],
    *,
    vectorized: bool | None = None,
    deterministic: bool = False,
    workers: Count | None = None,
    progress: bool = False,
) -> list[list[nn.Module]]:
    """`standalone` of runs that differ in seed and shards, side by side."""
    (some, config), *_ = runs
    device, strength = some[0].samples.y.device, config.logit_adjustment
    jobs = []
    for shards, own in runs:
        theta = init_params(build, own.seed, device)
        for shard in shards:
            rng = stream(own.seed, "alone", shard.participant)
            # who is alone holds everything alone
            labels = [class_shares(s.samples) for s in [shard] if strength]
            offsets = logit_offsets(labels, [1.0], strength)
            jobs.append(Job(theta, shard, 1.0, rng, 1.0, offsets))
    rule = slimmable(build, full_only)
    at_once = _in_a_pass(rule, build, some, config, vectorized) > 0
    steps = {"steps": config.rounds * config.local_steps}
    task = Task(rule, config, jobs, steps, at_once, deterministic)
    with pool(workers, device) as spread:

        def shown(local: Callable[..., Update], jobs: Any) -> Any:
            each = spread(local, jobs)
            return tqdm(each, "alone", len(jobs), disable=not progress)

        (updates,) = _trained([task], shown)
    nets = iter([slim(build, u.state, 1.0) for u in updates])
    return [[next(nets) for _ in shards] for shards, _ in runs]
