"""What a participant can do to earn more than it contributed: with updates, with identities, with its reward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._check import NotNegative, Positive, checked, flag, number, refusal
from .config import Config, stream
from .federate import Policy, Strategy
from .method import Algorithm, Outcome, Problem, Train, train
from .slimmable import prefix, slim
from .types import Build, Round, ServerState, Shard, State, Update, floating

__all__ = [
    "data_change", "dropout", "ensemble", "flip_labels", "free_rider", "honest_but_curious", "merged_shards",
    "noisy_rider", "refilled", "sign_flipper", "sybils", "with_attack",
]  # fmt: skip

# (what was received, the honest update, generator) -> the update that is sent, or its tensors
Forge = Callable[[State, Update, np.random.Generator], Update]
Make = Callable[[State, Update, np.random.Generator], dict[str, Tensor]]
Attack = Callable[[Strategy], Strategy]


@checked
def free_rider(strategy: Strategy, who: Collection[int]) -> Strategy:
    r"""Let some participants send back what they have received: an update of zeros.

    Args:
        strategy: The honest strategy.
        who: Participants that attack.

    Raises:
        ValueError: `who` names nobody.

    Example:
        >>> import aequa_lite as aq
        >>> strategy = free_rider(aq.slimmable(aq.MLP), {1})
        >>> config, theta = aq.Config(participants=2, local_steps=1), aq.init_params(aq.MLP, seed=0)
        >>> _, shard = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> update = strategy.local(theta, shard, 1.0, config, aq.stream(0, "doc"))
        >>> all(bool((update.state[k] == t).all()) for k, t in theta.items())
        True

    References:
        The free riders of CFFL, CGSV and RFFL.
    """
    return _with_local(strategy, who=chosen(who), make=_received)


@checked
def noisy_rider(strategy: Strategy, who: Collection[int], size: NotNegative = 0.1) -> Strategy:
    r"""Let some participants send back what they have received, plus noise.

    Args:
        who: Participants that attack.
        size: Standard deviation of the noise, in root mean squares of each tensor.

    Raises:
        ValueError: `who` names nobody, or `size` is negative.

    Example:
        >>> import aequa_lite as aq
        >>> noisy_rider(aq.slimmable(aq.MLP), {1}, size=0.5).local.args[2].keywords["who"]
        (1,)

    References:
        The free riders of CFFL and RFFL.
    """
    return _with_local(strategy, who=chosen(who), make=partial(_noisy, size=size))


@checked
def sign_flipper(strategy: Strategy, who: Collection[int], *, scale: Positive = 1.0) -> Strategy:
    r"""Let some participants train honestly and send the opposite: $\theta_i - s\,\Delta_i$ with $s$ = `scale`.

    Args:
        who: Participants that attack.
        scale: $s$, above 0.

    Raises:
        ValueError: `who` names nobody, or `scale` is not above 0.

    Example:
        >>> import aequa_lite as aq
        >>> sign_flipper(aq.slimmable(aq.MLP), {0}, scale=4.0).local.args[2].keywords["who"]
        (0,)

    References:
        The sign-flipping attack (Li et al. 2019, RSA).
    """
    return _with_local(strategy, who=chosen(who), make=partial(_opposite, scale=scale))


@checked
def honest_but_curious(
    strategy: Strategy, who: Collection[int], kept: list[Update], *, received: bool = False
) -> Strategy:
    """Let some participants keep what they hold in each round; their updates are honest.

    It is what no server can take back.

    Args:
        who: Participants that keep.
        kept: An empty list, to which everything is added in order.
        received: Keep what was received, instead of what they hold after training.

    Raises:
        ValueError: `who` names nobody, or `kept` is no empty list.

    Example:
        >>> import aequa_lite as aq
        >>> config, kept = aq.Config(participants=2, rounds=3, local_steps=1), []
        >>> strategy = honest_but_curious(aq.slimmable(aq.MLP), {1}, kept)
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> *_, last = aq.federate(aq.MLP, shards, config, strategy=strategy, progress=False)
        >>> [each.participant for each in kept]
        [1, 1, 1]

    References:
        Our choice.
    """
    if not isinstance(kept, list) or kept:
        raise refusal("kept", "an empty list", kept)
    if flag("received", received):
        return replace(strategy, broadcast=partial(_keep_received, strategy.broadcast, chosen(who), kept))
    return replace(strategy, aggregate=partial(_keep_sent, strategy.aggregate, chosen(who), kept))


@checked
def flip_labels(shards: Sequence[Shard], who: Collection[int]) -> list[Shard]:
    r"""Let some participants label every class as the next one: $y \leftarrow (y + 1) \bmod K$ of $K$ classes.

    Args:
        who: Participants that attack.

    Raises:
        ValueError: `who` names nobody or somebody who is no participant.

    Example:
        >>> import aequa_lite as aq
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, aq.Config(participants=2))
        >>> flipped = flip_labels(shards, {1})
        >>> int((flipped[1].samples.y - shards[1].samples.y).unique()[-1]), flipped[0] is shards[0]
        (1, True)

    References:
        The label-flipping attack (Biggio et al. 2012; Tolpegin et al. 2020), with one shift for all classes.
    """
    liars = chosen(who)
    if not set(liars) <= {shard.participant for shard in shards}:
        raise refusal("who", f"some of the {len(shards)} participants", liars)
    flipped = [replace(s, samples=replace(s.samples, y=(s.samples.y + 1) % s.samples.classes)) for s in shards]
    return [other if s.participant in liars else s for s, other in zip(shards, flipped, strict=True)]


@checked
def data_change(strategy: Strategy, shards: Mapping[int, Shard], rounds: Collection[int]) -> Strategy:
    """Let some participants train on another shard in some rounds: their data improve, spoil, or come late.

    Args:
        shards: Participant -> its shard in these rounds; its aggregation weight stays.
        rounds: Indices of rounds, such as `range(20, 60)`.

    Raises:
        ValueError: `shards` names nobody, or a round is not a whole number from 0.

    Example:
        >>> import aequa_lite as aq
        >>> config = aq.Config(participants=2, rounds=4, local_steps=1)
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> spoilt = data_change(aq.slimmable(aq.MLP), {1: flip_labels(shards, {1})[1]}, range(2, 4))
        >>> len(list(aq.federate(aq.MLP, shards, config, strategy=spoilt, progress=False)))
        4

    References:
        Our choice.
    """
    chosen(shards, "shards")
    return _with_local(strategy, others=shards, rounds=chosen(rounds, "rounds"))


@checked
def dropout(policy: Policy, who: Collection[int], rounds: Collection[int]) -> Policy:
    """Let some participants be absent in some rounds: they receive nothing and send nothing.

    Those who join late are absent in the first rounds, those who leave in the last: `range(0, 20)`, `range(20, 60)`.

    Args:
        policy: The policy with everybody there.
        who: Participants that are absent.
        rounds: Indices of rounds. A schedule is not told what it decided for them, so its limit for who was absent
            does not hold for these.

    Raises:
        ValueError: `who` names nobody, or a round is not a whole number from 0.

    Example:
        >>> import aequa_lite as aq
        >>> late = dropout(aq.full_width, {1}, range(20))
        >>> late(aq.Config(participants=3), None)
        (1.0, 0.0, 1.0)

    References:
        Our choice.
    """
    return partial(_without, policy, who=chosen(who), rounds=chosen(rounds, "rounds"))


def chosen(who: Collection[int], name: str = "who") -> tuple[int, ...]:
    """Participants or rounds in rising order, at least one."""
    found = sorted({int(i) for i in who})
    if not found or found[0] < 0:
        raise refusal(name, "whole numbers from 0, at least one", who)
    return tuple(found)


def _without(
    policy: Policy, config: Config, last: Round | None, *, who: Sequence[int], rounds: Sequence[int]
) -> tuple[float, ...]:
    """The policy's widths, 0 for those who are absent."""
    widths = tuple(policy(config, last))
    index = 0 if last is None else last.index + 1
    return tuple(0.0 if index in rounds and i in who else w for i, w in enumerate(widths))


def _keep_sent(
    aggregate: Callable[..., ServerState], who: Sequence[int], kept: list[Update], state: ServerState,
    updates: Sequence[Update],
) -> ServerState:  # fmt: skip
    """Aggregation, while some keep what they have sent."""
    kept.extend(u for u in updates if u.participant in who)
    return aggregate(state, updates)


def _keep_received(
    broadcast: Callable[..., State], who: Sequence[int], kept: list[Update], state: ServerState, participant: int,
    width: float,
) -> State:  # fmt: skip
    """Broadcast, while some keep what they have received."""
    sent = broadcast(state, participant, width)
    if participant in who:
        kept.append(Update(participant, width, {k: t.clone() for k, t in sent.items()}, 0.0, 0.0))
    return sent


# --- local training on another shard, with a forged update ---


def _with_local(
    strategy: Strategy, *, who: Sequence[int] = (), make: Make | None = None, others: Mapping[int, Shard] | None = None,
    rounds: Sequence[int] = (),
) -> Strategy:  # fmt: skip
    """The strategy in which `who` sends what `make` returns, or some train on other shards in some rounds."""
    swap, forge = partial(_now, others=dict(others or {}), rounds=rounds), partial(_forge, who=who, make=make)
    together = strategy.vectorized and partial(_vectorized, strategy.vectorized, swap, forge)
    return replace(strategy, local=partial(_local, strategy.local, swap, forge), vectorized=together)


def _now(shard: Shard, config: Config, first: int, others: Mapping[int, Shard], rounds: Sequence[int]) -> Shard:
    """The shard on which a participant trains in this round."""
    return others.get(shard.participant, shard) if first // config.local_steps in rounds else shard


def _local(
    local: Callable[..., Update], swap: Callable[..., Shard], forge: Forge, sent: State, shard: Shard, width: float,
    config: Config, rng: np.random.Generator, *, first: int = 0, **rest: Any,
) -> Update:  # fmt: skip
    """Local training under attack."""
    return forge(sent, local(sent, swap(shard, config, first), width, config, rng, first=first, **rest), rng)


def _vectorized(
    vectorized: Callable[..., list[Update]], swap: Callable[..., Shard], forge: Forge, sent: Sequence[State],
    shards: Sequence[Shard], widths: Sequence[float], config: Config, rngs: Sequence[np.random.Generator],
    *, first: int = 0, **rest: Any,
) -> list[Update]:  # fmt: skip
    """Training in one pass under attack."""
    swapped = [swap(shard, config, first) for shard in shards]
    updates = vectorized(sent, swapped, widths, config, rngs, first=first, **rest)
    return [forge(*each) for each in zip(sent, updates, rngs, strict=True)]


def _forge(sent: State, update: Update, rng: np.random.Generator, who: Sequence[int], make: Make) -> Update:
    """A forged update of those who attack."""
    return replace(update, state=make(sent, update, rng)) if update.participant in who else update


def _received(sent: State, update: Update, rng: np.random.Generator) -> dict[str, Tensor]:
    """What was received."""
    return {k: t.clone() for k, t in sent.items()}


def _noisy(sent: State, update: Update, rng: np.random.Generator, *, size: float) -> dict[str, Tensor]:
    """What was received, plus noise in proportion to each tensor's root mean square."""
    made = _received(sent, update, rng)
    for k, t in floating(sent).items():
        z = torch.as_tensor(rng.standard_normal(tuple(t.shape)), dtype=t.dtype, device=t.device)
        made[k] = t + size * t.square().mean().sqrt() * z
    return made


def _opposite(sent: State, update: Update, rng: np.random.Generator, *, scale: float) -> dict[str, Tensor]:
    """What was received, minus the honest change."""
    flipped = {k: t - scale * (update.state[k] - t) for k, t in floating(sent).items()}
    return {**update.state, **flipped}


def with_attack(algorithm: Algorithm, attack: Attack) -> Algorithm:
    """Return the algorithm in which some participants attack: its strategy is changed, its weights and rewards are not.

    Args:
        algorithm: A function (problem, *, train) -> outcome.
        attack: A function of a strategy, such as `partial(free_rider, who={2})`.

    Raises:
        ValueError: One of them is no function.

    Example:
        >>> import aequa_lite as aq
        >>> with_attack(aq.baselines.fedavg, partial(aq.attacks.sign_flipper, who={2})).func.__name__
        '_attacked'

    References:
        Our choice.
    """
    if not callable(algorithm):
        raise refusal("algorithm", "a function (problem, *, train) -> Outcome", algorithm)
    if not callable(attack):
        raise refusal("attack", "a function (strategy) -> Strategy", attack)
    return partial(_attacked, algorithm=algorithm, attack=attack)


def _attacked(problem: Problem, *, algorithm: Algorithm, attack: Attack, train: Train = train) -> Outcome:
    """The algorithm, trained with the attacked strategy."""
    return algorithm(problem, train=partial(_train_attacked, train, attack))


def _train_attacked(train: Train, attack: Attack, problem: Problem, strategy: Strategy, **options: Any) -> Round:
    """Training with the attacked strategy."""
    return train(problem, attack(strategy), **options)


@checked
def sybils(shards: Sequence[Shard], who: int, count: int, *, seed: int = 0) -> list[Shard]:
    """Let one participant sign up several times.

    The first identity keeps its place and the others come last, so that nobody else's random streams change.

    Args:
        who: The participant.
        count: Identities, from 2 to the size of its shard.
        seed: Of the random parts.

    Returns:
        The shards, `count` - 1 more than before.

    Raises:
        ValueError: `who` is no participant, or `count` is outside its range.

    Example:
        >>> import aequa_lite as aq
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, aq.Config(participants=2))
        >>> [(each.participant, len(each)) for each in sybils(shards, 0, 3)]
        [(0, 1000), (1, 3000), (2, 1000), (3, 1000)]

    References:
        The sybil attack (Douceur 2002).
    """
    mine, n = shards[number("who", who, 0, len(shards) - 1, whole=True)], len(shards)
    number("count", count, 2, len(mine), whole=True)
    parts = np.array_split(stream(seed, "sybils").permutation(len(mine)), count)
    identities = []
    for name, part in zip([who, *range(n, n + count - 1)], parts, strict=True):
        places = np.sort(part)
        taken = mine.samples.take(torch.as_tensor(places, device=mine.samples.y.device))
        identities.append(Shard(name, taken, np.asarray(mine.indices)[places]))
    return [*shards[:who], identities[0], *shards[who + 1 :], *identities[1:]]


@checked
def merged_shards(shards: Sequence[Shard], who: Collection[int]) -> list[Shard]:
    """Let some participants sign up as one, with all their data; those who follow move up.

    Args:
        who: Participants, at least two.

    Returns:
        The shards, with fewer participants than before.

    Raises:
        ValueError: `who` names fewer than two, or somebody who is no participant.

    Example:
        >>> import aequa_lite as aq
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, aq.Config(participants=3))
        >>> [(each.participant, len(each)) for each in merged_shards(shards, {0, 2})]
        [(0, 4000), (1, 2000)]

    References:
        Our choice.
    """
    together = chosen(who)
    if len(together) < 2 or together[-1] >= len(shards):
        raise refusal("who", f"at least two of the {len(shards)} participants", together)
    members = [shards[i] for i in together]
    parts = [[getattr(each.samples, part) for each in members] for part in ("x", "y", "groups")]
    x, y, groups = (None if part[0] is None else torch.cat(part) for part in parts)
    samples = replace(members[0].samples, x=x, y=y, groups=groups)
    union = Shard(together[0], samples, np.concatenate([np.asarray(each.indices) for each in members]))
    kept = [union if i == together[0] else each for i, each in enumerate(shards) if i not in together[1:]]
    return [replace(each, participant=place) for place, each in enumerate(kept)]


@checked
def refilled(build: Build, reward: State, start: State) -> dict[str, Tensor]:
    r"""Fill a slice up to a full network with the entries of the initial one.

    A participant can train it on its own shard to exceed its reward.

    Args:
        build: Constructor of the network.
        reward: Tensors of the slice.
        start: Tensors of the initial network $\theta_0$.

    Returns:
        Tensors of the full network, with the reward in the leading block and $\theta_0$ outside it.

    Raises:
        ValueError: The reward is no slice of this network.

    Example:
        >>> import aequa_lite as aq
        >>> start, theta = aq.init_params(aq.MLP, 0), aq.init_params(aq.MLP, 1)
        >>> wide = refilled(aq.MLP, aq.slice_of(aq.MLP, theta, 0.5), start)
        >>> bool((wide["2.weight"][:100] == theta["2.weight"][:100]).all()), bool((wide["2.bias"][100:] == 0).all())
        (True, False)

    References:
        Our choice.
    """
    full = {k: t.clone() for k, t in slim(build, start, 1.0).state_dict().items()}
    if not set(reward) <= set(full):
        raise refusal("reward", "tensors of a slice of this network, by name", reward)
    for k, t in reward.items():
        full[k][prefix(t.shape)] = t
    return full


@checked
def ensemble(models: Sequence[nn.Module]) -> nn.Module:
    r"""Return the ensemble of a coalition's networks: $\log \frac1k \sum_j \mathrm{softmax}(f_j(x))$.

    The owner of the widest of nested slices can compute it alone.

    Args:
        models: Networks with the same classes, at least one.

    Raises:
        ValueError: There is no network.

    Example:
        >>> import aequa_lite as aq
        >>> net, few = aq.MLP(), aq.load("fashion-mini").test.take(slice(0, 10))
        >>> bool((aq.correct(ensemble([net, net]), few) == aq.correct(net, few)).all())
        True

    References:
        Our choice.
    """
    return _Ensemble(models)


class _Ensemble(nn.Module):
    """Networks whose probabilities are averaged."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x).softmax(1) for net in self.members]).mean(0).log()
