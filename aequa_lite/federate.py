"""The training loop: choose widths, send slices, train locally, aggregate.

What trains or rewards differently is another strategy or another policy.
"""

from __future__ import annotations

import math
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ._check import (
    Count,
    Fraction,
    checked,
    flag,
    number,
    one_each,
    refusal,
    vector,
)
from ._io import write_whole
from ._parallel import arithmetic, one_thread, tf32
from ._parallel import workers as pool
from ._validation import readable_update, refusals
from .checkpoint import (
    describe,
    load_checkpoint,
    save_checkpoint,
    shards_digest,
)
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


def fixed_widths(
    config: Config, last: Round | None, *, widths: Sequence[float]
) -> tuple[float, ...]:
    """Send everyone a fixed width: use `partial(fixed_widths, widths=...)`.

    Raises:
        ValueError: There is not one width in (0, 1] for each participant.

    Example:
        >>> two = Config(participants=2)
        >>> fixed_widths(two, None, widths=(0.25, 1.0))
        (0.25, 1.0)

    References:
        HeteroFL's fixed complexity levels (Diao et al. 2021).
    """
    one_each("widths", widths, config.participants)
    return tuple(number("widths", w, 0, 1, above=True) for w in widths)


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
        found = np.array(
            [] if contribution is None else contribution, float
        )
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
    every: Count = 1,
    name: str = "",
    progress: bool = True,
) -> Iterator[Round]:
    """Train one network together and yield every round.

    An update that is not finite, does not fit what was sent, or is larger
    than `config.norm_limit` median updates is left out and named.

    Args:
        strategy: How to send, train and aggregate (default: `slimmable`).
        policy: Which width each participant receives.
        weights: (n,) aggregation weights (default: shard sizes, as FedAvg;
            `aequa` passes `aggregation_weights`).
        vectorized: Train all participants in one pass (default: on a GPU,
            if the network has no buffers). Equal up to rounding.
        deterministic: Let a GPU train with deterministic algorithms.
        workers: Threads; the result does not depend on it.
        checkpoint: File from which a killed run goes on, written every
            `every` rounds. A run with another identity is refused.
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
        checkpoint=checkpoint, every=every, name=name, progress=progress,
    )  # fmt: skip
    found = next(run, None)
    device = shards[0].samples.y.device
    with pool(workers, device) as spread:
        while found:
            if isinstance(found, _Task):
                (updates,) = _trained([found], spread)
                found = run.send(updates)
            yield found
            found = next(run, None)


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
    device = runs[0][0][0].samples.y.device if runs else "cpu"
    each = [federation(build, *run, **options) for run in runs]
    with pool(workers, device) as spread:
        return side_by_side(each, spread, progress)


def side_by_side(
    runs: Sequence[Federation],
    spread: Callable[..., Iterator[Update]],
    progress: bool = False,
) -> list[Round]:
    """The last round of each; tasks of one kind share a pass."""
    last: dict[int, Round] = {}
    bar = tqdm(desc="rounds", disable=not progress)
    while found := {
        k: t for k, r in enumerate(runs) if (t := next(r, None))
    }:
        groups: dict[Any, list[int]] = {}
        for k, task in found.items():
            if isinstance(task, Round):  # it had ended
                last[k] = task
            else:
                groups.setdefault(task.kind(k), []).append(k)
        for ks in groups.values():
            updates = _trained([found[k] for k in ks], spread)
            for k, own in zip(ks, updates, strict=True):
                last[k] = runs[k].send(own)
        bar.update()
    bar.close()
    return [last[k] for k in range(len(runs))]


@dataclass(frozen=True)
class _Task:
    """The local training of one round."""

    strategy: Strategy
    sent: Mapping[int, State]
    shards: Sequence[Shard]
    widths: Sequence[float]
    mass: NDArray[np.float64]
    config: Config
    index: int
    at_once: bool
    deterministic: bool
    offsets: Offsets

    def kind(self, own: int) -> Any:
        """Equal where tasks may share a pass; else their own number."""
        rule = self.strategy.vectorized
        if self.at_once and getattr(rule, "func", None) is vectorized_sgd:
            config = replace(self.config, seed=0, participants=1)
            return self.index, config, rule.args, *rule.keywords.items()
        return own


def _trained_with(config: Config, policy: Policy) -> dict[str, Any]:
    """The numbers that change training; `fractions` change rewards only.

    They stay in where the policy may read them: a schedule settles by them.
    """
    found = config.to_dict()
    if getattr(policy, "func", policy) in (full_width, fixed_widths):
        del found["fractions"]
    return found


def _begun(
    build: Build, shards: Sequence[Shard], config: Config, policy: Policy,
    checkpoint: Path | str | None, identity: Mapping[str, Any],
) -> Round:  # fmt: skip
    """The last round that is saved, or the state before the first."""
    device = shards[0].samples.y.device
    state = ServerState(init_params(build, config.seed, device))
    if checkpoint:
        path = Path(checkpoint)
        if saved := load_checkpoint(path, identity, state.theta):
            return saved
    widths = _checked_widths(policy(config, None), config)
    return Round(
        -1, state, (), math.nan, 0, next_widths=widths, identity=identity
    )


# rounds, and before each the task whose updates it is sent
Federation = Generator[Any, list[Update], None]


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
    every: int = 1,
    name: str = "",
    progress: bool = False,
) -> Federation:
    """The loop of `federate`, which trains nobody itself."""
    strategy = strategy or slimmable(build)
    mass = _checked_weights(shards, config, weights)
    in_a_pass = _in_a_pass(strategy, build, shards, config, vectorized)
    parts = {
        "config": _trained_with(config, policy), "build": build,
        "weights": mass.tolist(), "strategy": strategy,
        "policy": policy, "vectorized": in_a_pass, "tf32": tf32(),
        "deterministic": flag("deterministic", deterministic),
    }  # fmt: skip
    name = name or ("" if checkpoint else "unnamed")
    identity = describe(parts, name) | {"shards": shards_digest(shards)}
    last = _begun(build, shards, config, policy, checkpoint, identity)
    if last.index + 1 == config.rounds:
        yield last
    strength = config.logit_adjustment
    labels = [class_shares(s.samples) for s in shards if strength]
    used = strategy.label_shares
    if labels and used:
        one_each("label_shares", used, len(labels[0]), "classes")
    bar = tqdm(
        range(last.index + 1, config.rounds),
        initial=last.index + 1,
        total=config.rounds,
        desc="rounds",
        disable=not progress,
    )
    for index in bar:
        # 1. choose: who takes part, and at which width
        widths = last.next_widths
        able = [i for i, width in enumerate(widths) if width]
        here = present(config, index, able)
        # 2. send each its slice
        sent = {
            i: strategy.broadcast(
                last.state, shards[i].participant, widths[i]
            )
            for i in here
        }
        # 3. train locally
        held = [w if i in here else 0.0 for i, w in enumerate(widths)]
        written = _versions(last.state)
        updates = yield _Task(
            strategy, sent, shards, widths, mass, config, index,
            in_a_pass > 0, deterministic,
            logit_offsets(labels, held, strength, used) if labels else (),
        )  # fmt: skip
        if _versions(last.state) != written:  # slices are views
            raise ValueError(
                "`strategy.local` must not write into what it was "
                "sent; copy it first"
            )
        # 4. aggregate what is valid
        with one_thread():
            why = refusals(updates, sent, widths, config.norm_limit)
        refused = {shards[i].participant: r for i, r in why.items()}
        valid = [u for u in updates if u.participant not in refused]
        if not valid:
            each = "; ".join(f"{k}: {r}" for k, r in refused.items())
            raise FloatingPointError(
                f"round {index}: every update was refused ({each}); "
                f"lower lr (now {config.lr:g})"
            )
        state = strategy.aggregate(last.state, valid)
        last = _round(
            index, state, last, updates, refused, sent, widths, strategy
        )
        ahead = _checked_widths(policy(config, last), config)
        last = replace(last, next_widths=ahead)
        due = (index + 1) % every == 0 or index + 1 == config.rounds
        if checkpoint and due:
            _save(Path(checkpoint), last)
        bar.set_postfix(loss=f"{last.loss:.3f}", refresh=False)
        yield last


def present(config: Config, index: int, able: Sequence[int]) -> list[int]:
    """Who takes part in a round: a random share of all, of the able."""
    count = max(1, round(config.participation * config.participants))
    if count >= len(able):
        return list(able)
    rng = stream(config.seed, "participation", index)
    return sorted(able[k] for k in rng.permutation(len(able))[:count])


def _trained(
    tasks: Sequence[_Task], spread: Callable[..., Iterator[Update]]
) -> list[list[Update]]:
    """Everybody's update, for each task; one by one or in one pass."""
    task, *_ = tasks
    strategy, config = task.strategy, task.config
    first = task.index * config.local_steps
    who = [(t, i) for t in tasks for i in t.sent]
    rngs = [
        stream(t.config.seed, "local", t.index, t.shards[i].participant)
        for t, i in who
    ]
    sent, shards, widths, weights = zip(
        *[
            (t.sent[i], t.shards[i], t.widths[i], float(t.mass[i]))
            for t, i in who
        ]
    )
    offsets = [t.offsets for t, _ in who]

    def local(
        state: State, shard: Shard, width: float,
        rng: np.random.Generator, weight: float, own: Offsets,
    ) -> Update:  # fmt: skip
        rest: dict[str, Any] = {"first": first, "weight": weight}
        rest |= {"offsets": own} if own else {}
        return strategy.local(state, shard, width, config, rng, **rest)

    with arithmetic(task.deterministic):
        if not task.at_once or strategy.vectorized is None:
            each = sent, shards, widths, rngs, weights, offsets
            found = spread(local, *each)
        else:
            found = strategy.vectorized(
                list(sent), list(shards), list(widths), config, rngs,
                first=first, weights=list(weights),
                **({"offsets": offsets} if task.offsets else {}),
            )  # fmt: skip
        read = iter([
            readable_update(u, s.participant, width, s.samples.y.device)
            for u, s, width in zip(found, shards, widths, strict=True)
        ])  # fmt: skip
    return [[next(read) for _ in t.sent] for t in tasks]


def _versions(state: ServerState) -> int:
    """How often the server's tensors have been written to."""
    tensors = (*state.theta.values(), *state.memory.values())
    return sum(t._version for t in tensors)


def _round(
    index: int,
    state: ServerState,
    before: Round,
    updates: Sequence[Update],
    refused: Mapping[int, str],
    sent: Mapping[int, State],
    widths: Sequence[float],
    strategy: Strategy,
) -> Round:
    """The record of a round."""
    valid = [u for u in updates if u.participant not in refused]
    loss = np.average(
        [u.loss for u in valid], weights=[u.weight for u in valid]
    )
    numbers = sum(
        t.numel()
        for each in (*sent.values(), *(u.state for u in updates))
        for t in each.values()
    )
    if strategy.sent:
        numbers = strategy.sent(state, updates)
    left_out = tuple(refused)
    return Round(
        index=index,
        state=state,
        widths=tuple(
            float(w) if i in sent else 0.0 for i, w in enumerate(widths)
        ),
        loss=float(loss),
        parameters_sent=numbers,
        left_out=left_out,
        updates=tuple(updates),
        before=before.state,
        total_sent=before.total_sent + numbers,
        total_left_out=before.total_left_out + left_out,
        next_widths=tuple(widths),  # until the policy decides
        identity=before.identity,
    )


def _checked_weights(
    shards: Sequence[Shard], config: Config, weights: ArrayLike | None
) -> NDArray[np.float64]:
    """Refuse what does not fit together; return the weights."""
    one_each("shards", shards, config.participants)
    sizes = np.array([float(len(shard)) for shard in shards])
    if weights is None:
        return sizes / sizes.sum()
    found = one_each("weights", vector("weights", weights), len(sizes))
    if (found <= 0).any():
        raise refusal("weights", "finite numbers above 0", weights)
    return found


def _checked_widths(
    widths: Sequence[float], config: Config
) -> tuple[float, ...]:
    """Refuse a policy's decision that is no width for each participant."""
    one_each("policy's widths", widths, config.participants)
    found = tuple(number("policy's width", float(w), 0, 1) for w in widths)
    if not any(found):
        raise refusal("policy", "one that gives somebody a width", found)
    return found


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
    device = shards[0].samples.y.device
    if vectorized is None:
        if device.type != "cuda" or strategy.vectorized is None:
            return 0
        if list(template(build, 1.0).buffers()):
            return 0
    elif not flag("vectorized", vectorized):
        return 0
    elif strategy.vectorized is None:
        raise refusal("vectorized", "False with this strategy", True)
    largest = max(shards, key=len)
    if largest.samples.x is None:  # they train on other machines
        return len(shards)
    fit = participants_per_pass(build, 1.0, largest, config)
    return 0 if vectorized is None and fit < 2 else min(fit, len(shards))


def _save(path: Path, last: Round) -> None:
    """Write the checkpoint; keep the one before a round with refusals."""
    if last.left_out and path.exists():
        kept = path.with_name(f"{path.stem}-before-refusal{path.suffix}")
        write_whole(kept, path.read_bytes())
    save_checkpoint(path, last)


@checked
def standalone(
    build: Build,
    shards: Sequence[Shard],
    config: Config,
    *,
    vectorized: bool | None = None,
    deterministic: bool = False,
    workers: Count | None = None,
    progress: bool = True,
) -> list[nn.Module]:
    """Train for each participant the network it could have had alone.

    Everyone starts from the same initial network and takes rounds x local
    local steps on its own shard, as many as when training together.

    Args:
        vectorized, deterministic: As in `federate`.

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
    (found,) = standalone_many(
        build, [(shards, config)], vectorized=vectorized,
        deterministic=deterministic, workers=workers, progress=progress,
    )  # fmt: skip
    return found


def standalone_many(
    build: Build,
    runs: Sequence[tuple[Sequence[Shard], Config]],
    *,
    vectorized: bool | None = None,
    deterministic: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> list[list[nn.Module]]:
    """`standalone` of runs that differ in seed and shards, side by side."""
    (some, config), *_ = runs
    device = some[0].samples.y.device
    who = [(shard, own.seed) for shards, own in runs for shard in shards]
    starts = {seed: init_params(build, seed, device) for _, seed in who}
    shards, seeds = zip(*who)
    thetas = [starts[seed] for seed in seeds]
    rngs = [stream(seed, "alone", s.participant) for s, seed in who]
    steps = config.rounds * config.local_steps
    options = {"width_sampler": full_only, "steps": steps}

    offsets: list[Offsets] = [()] * len(who)
    if strength := config.logit_adjustment:  # who is alone holds all alone
        labels = [class_shares(shard.samples) for shard in shards]
        offsets = [logit_offsets([s], [1.0], strength) for s in labels]

    def alone(
        theta: State, shard: Shard, rng: np.random.Generator, own: Offsets
    ) -> Update:
        rest = {"offsets": own, **options}
        return local_sgd(build, theta, shard, 1.0, config, rng, **rest)

    rule = slimmable(build)
    at_once = _in_a_pass(rule, build, some, config, vectorized) > 0
    with (
        arithmetic(flag("deterministic", deterministic)),
        pool(workers, device) as spread,
    ):
        if at_once:
            full = [1.0] * len(who)
            updates: Iterable[Update] = vectorized_sgd(
                build, thetas, shards, full, config, rngs,
                offsets=offsets, **options,
            )  # fmt: skip
        else:
            updates = spread(alone, thetas, shards, rngs, offsets)
        bar = tqdm(updates, "alone", total=len(who), disable=not progress)
        nets = iter([slim(build, u.state, 1.0) for u in bar])
    return [[next(nets) for _ in shards] for shards, _ in runs]
