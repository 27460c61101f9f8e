"""Participants who do not send what their data say: attacks on a strategy, on shards, on a policy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._check import checked, flag, number, refusal
from ..config import Config
from ..federate import Policy, Strategy
from ..slimmable import prefix
from ..types import Round, ServerState, Shard, State, Update

__all__ = [
    "copying_rider", "data_change", "dropout", "flip_labels", "free_rider", "honest_but_curious", "noisy_rider",
    "sign_flipper", "stale_rider",
]  # fmt: skip

# (what was received, the honest update, generator) -> the update that is sent, or its tensors
Forge = Callable[[State, Update, np.random.Generator], Update]
Make = Callable[[Any, Update, np.random.Generator], dict[str, Tensor]]


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
        >>> _, shard = aq.data.homogeneous(aq.load("fashion-mini", device="cpu").train, config)
        >>> update = strategy.local(theta, shard, 1.0, config, aq.stream(0, "doc"))
        >>> all(bool((update.state[k] == t).all()) for k, t in theta.items())
        True

    References:
        The free riders of CFFL, CGSV and RFFL.
    """
    return _forged(strategy, who, _received)


@checked
def noisy_rider(strategy: Strategy, who: Collection[int], size: float = 0.1) -> Strategy:
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
    return _forged(strategy, who, partial(_noisy, size=number("size", size, 0)))


@checked
def stale_rider(strategy: Strategy, who: Collection[int]) -> Strategy:
    r"""Let some participants repeat what the server has just done.

    Each adds to what it has received the change that the server made to it in the last round in which it took part. Its
    first update is that of `free_rider`. A change from another width is added where both widths hold the entry.

    Args:
        who: Participants that attack.

    Raises:
        ValueError: `who` names nobody.

    Example:
        >>> import aequa_lite as aq
        >>> stale_rider(aq.slimmable(aq.MLP), {1}).local.args[2].keywords["who"]
        (1,)

    References:
        Our choice.
    """
    return _echoing(strategy, who, None)


@checked
def copying_rider(strategy: Strategy, who: Collection[int], whose: int | None = None) -> Strategy:
    r"""Let some participants send the change that somebody else sent in the last round.

    As `stale_rider`, with the change of participant `whose`.

    Args:
        who: Participants that attack.
        whose: An honest participant (default: the first one).

    Raises:
        ValueError: `who` names nobody, or `whose` is among them.

    Example:
        >>> import aequa_lite as aq
        >>> copying_rider(aq.slimmable(aq.MLP), {0}).aggregate.args[1:]
        ((0,), 1)

    References:
        The free riders of CGSV.
    """
    riders = chosen(who)
    source = min(set(range(len(riders) + 1)) - set(riders)) if whose is None else number("whose", whose, 0, whole=True)
    if source in riders:
        raise refusal("whose", "an honest participant", whose)
    return _echoing(strategy, who, source)


@checked
def sign_flipper(strategy: Strategy, who: Collection[int], *, scale: float = 1.0) -> Strategy:
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
    return _forged(strategy, who, partial(_opposite, scale=number("scale", scale, 0, above=True)))


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
def flip_labels(shards: Sequence[Shard], who: Collection[int], shift: int = 1) -> list[Shard]:
    r"""Let some participants label every class as another: $y \leftarrow (y + \mathrm{shift}) \bmod K$.

    Args:
        who: Participants that attack.
        shift: A whole number, no multiple of the $K$ classes.

    Raises:
        ValueError: `who` names nobody or somebody who is no participant, or `shift` changes no label.

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
    classes = shards[0].samples.classes
    if number("shift", shift, whole=True) % classes == 0:
        raise refusal("shift", f"no multiple of the {classes} classes", shift)
    moved = [replace(shard.samples, y=(shard.samples.y + shift) % classes) for shard in shards]
    return [replace(s, samples=m) if s.participant in liars else s for s, m in zip(shards, moved, strict=True)]


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
    return _attacked(strategy, swap=partial(_now, others=dict(shards), rounds=chosen(rounds, "rounds")))


@checked
def dropout(policy: Policy, who: Collection[int], rounds: Collection[int]) -> Policy:
    """Let some participants be absent in some rounds: they receive nothing and send nothing.

    Those who join late are absent in the first rounds, those who leave in the last: `range(0, 20)`, `range(20, 60)`.

    Args:
        policy: The policy with everybody there.
        who: Participants that are absent.
        rounds: Indices of rounds.

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
    found = list(who) if isinstance(who, Iterable) else []
    if not found or not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) and i >= 0 for i in found):
        raise refusal(name, "whole numbers from 0, at least one", who)
    return tuple(sorted({int(i) for i in found}))


def _without(
    policy: Policy, config: Config, last: Round | None, *, who: Sequence[int], rounds: Sequence[int]
) -> tuple[float, ...]:
    """The policy's widths, 0 for those who are absent."""
    widths = tuple(policy(config, last))
    index = 0 if last is None else last.index + 1
    return tuple(0.0 if index in rounds and i in who else w for i, w in enumerate(widths))


def _now(shard: Shard, config: Config, first: int, others: Mapping[int, Shard], rounds: Sequence[int]) -> Shard:
    """The shard on which a participant trains in this round."""
    return others.get(shard.participant, shard) if first // config.local_steps in rounds else shard


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


class _Sent(dict[str, Tensor]):
    """What a participant has received, and beside it what an attacker remembers of an earlier round."""

    echo: State


def _own_shard(shard: Shard, config: Config, first: int) -> Shard:
    """The participant's own shard."""
    return shard


def _honest(sent: State, update: Update, rng: np.random.Generator) -> Update:
    """The update itself."""
    return update


def _attacked(strategy: Strategy, swap: Callable[..., Shard] = _own_shard, forge: Forge = _honest) -> Strategy:
    """The strategy with other shards, or with forged updates."""
    together = strategy.vectorized and partial(_vectorized, strategy.vectorized, swap, forge)
    return replace(strategy, local=partial(_local, strategy.local, swap, forge), vectorized=together)


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


def _forged(strategy: Strategy, who: Collection[int], make: Make) -> Strategy:
    """The strategy in which these participants send what `make` returns."""
    return _attacked(strategy, forge=partial(_forge, who=chosen(who), make=make))


def _forge(sent: State, update: Update, rng: np.random.Generator, *, who: Sequence[int], make: Make) -> Update:
    """A forged update of those who attack."""
    return replace(update, state=make(sent, update, rng)) if update.participant in who else update


def _echoing(strategy: Strategy, who: Collection[int], source: int | None) -> Strategy:
    """The strategy in which these participants repeat a change of the last round.

    What they remember rides in the server's memory, so that a killed run goes on to the same bits; it is handed to that
    attacker alone, and the server's own functions do not use it.
    """
    return replace(
        _forged(strategy, who, _echoed),
        broadcast=partial(_send_echo, strategy.broadcast),
        aggregate=partial(_remember, strategy, chosen(who), source),
    )


def _send_echo(broadcast: Callable[..., State], state: ServerState, participant: int, width: float) -> State:
    """What a participant receives, with what it remembers."""
    found, head = _Sent(broadcast(state, participant, width)), f"echo/{participant}/"
    found.echo = {k.removeprefix(head): t for k, t in state.memory.items() if k.startswith(head)}
    return found


def _remember(
    strategy: Strategy, who: Sequence[int], source: int | None, state: ServerState, updates: Sequence[Update]
) -> ServerState:
    """Aggregation, after which each attacker remembers a change: of the source, or of what the server sends to itself."""
    after, by = strategy.aggregate(state, updates), {u.participant: u for u in updates}
    memory = {**{k: t for k, t in state.memory.items() if k.startswith("echo/")}, **after.memory}
    for i in who:
        if u := by.get(i if source is None else source):
            start = strategy.broadcast(state, u.participant, u.width)
            end = strategy.broadcast(after, u.participant, u.width) if source is None else u.state
            memory |= {f"echo/{i}/{k}": t - start[k] for k, t in end.items() if t.is_floating_point()}
    return replace(after, memory=memory)


def _received(sent: State, update: Update, rng: np.random.Generator) -> dict[str, Tensor]:
    """What was received."""
    return {k: t.clone() for k, t in sent.items()}


def _noisy(sent: State, update: Update, rng: np.random.Generator, *, size: float) -> dict[str, Tensor]:
    """What was received, plus noise in proportion to each tensor's root mean square."""
    made = _received(sent, update, rng)
    for k, t in sent.items():
        if t.is_floating_point():
            z = torch.as_tensor(rng.standard_normal(tuple(t.shape)), dtype=t.dtype, device=t.device)
            made[k] = t + size * t.square().mean().sqrt() * z
    return made


def _echoed(sent: _Sent, update: Update, rng: np.random.Generator) -> dict[str, Tensor]:
    """What was received, plus the remembered change where both widths hold the entry."""
    made = _received(sent, update, rng)
    for k, change in sent.echo.items():
        both = prefix(min(a, b) for a, b in zip(made[k].shape, change.shape, strict=True))
        made[k][both] += change[both]
    return made


def _opposite(sent: State, update: Update, rng: np.random.Generator, *, scale: float) -> dict[str, Tensor]:
    """What was received, minus the honest change."""
    flipped = {k: t - scale * (update.state[k] - t) for k, t in sent.items() if t.is_floating_point()}
    return {**update.state, **flipped}
