"""Who cheats, and how: participants who do not send what their data say, as wrappers of a scheme, of shards, of a policy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..aggregation.server_optimizers import networks_own
from ..config import Config
from ..federate import Policy, Strategy, given_to
from ..slimmable import State, prefix
from ..types import Round, Shard, Update, WidthAssignment

__all__ = ["data_change", "dropout", "flip_labels", "free_rider", "honest_but_curious", "sign_flipper"]


Forge = Callable[[State, Update, np.random.Generator], dict[str, Tensor]]  # received, honest answer, draws -> sent back


Remember = Callable[[State, State, Sequence[Update], int], dict[str, Tensor] | None]


def free_rider(
    strategy: Strategy, who: Collection[int], how: str, *, size: float = 0.1, whose: int | None = None
) -> Strategy:
    r"""Let some participants send back something that their data have no part in.

    With $\theta_i$ what participant $i$ has received: ``zero`` sends $\theta_i$ itself; ``noise`` adds to each tensor noise of
    ``size`` times its root mean square; ``stale`` adds the change that what $i$ is sent has made in the last round in which
    $i$ took part; ``copy`` adds the change that participant ``whose`` (default: the first honest one) sent in the last
    round. A change from a wider or a narrower slice is added where both hold the entry. The first answer of ``stale`` and
    ``copy`` is that of ``zero``.

    Raises:
        ValueError: ``how`` is unknown, ``who`` names nobody, ``size`` is negative, or ``whose`` is among ``who``.

    Example:
        >>> import aequa_lite as aq
        >>> strategy = free_rider(aq.slimmable(aq.MLP), {1}, "zero")
        >>> config, theta = aq.Config(participants=2, local_steps=1), aq.init_params(aq.MLP, seed=0)
        >>> _, shard = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> update = strategy.local(theta, shard, 1.0, config, aq.stream(0, "doc"))
        >>> all(bool((update.state[name] == t).all()) for name, t in theta.items())
        True

    Source: ours; the riders of CFFL, CGSV and RFFL send zeros, noise or copies.
    """
    riders = named(who)
    if how not in ("zero", "noise", "stale", "copy"):
        raise ValueError(f"how is {how!r}; allowed are 'zero', 'noise', 'stale' and 'copy'")
    if not 0 <= size < np.inf:
        raise ValueError(f"size is {size!r}; allowed is a finite number from 0")
    if how == "noise":
        return _forged(strategy, riders, lambda got, honest, rng: _noisy(got, rng, size))
    if how == "zero":
        return _forged(strategy, riders, lambda got, honest, rng: {k: t.clone() for k, t in networks_own(got).items()})
    source = next(i for i in count() if i not in riders) if whose is None else whose
    if source in riders:
        raise ValueError(f"whose is {whose!r}, one of the riders; allowed is an honest participant")

    def remember(before: State, after: State, updates: Sequence[Update], rider: int) -> dict[str, Tensor] | None:
        answers, watched = {u.participant: u for u in updates}, source if how == "copy" else rider
        if watched not in answers:
            return None
        answer = answers[watched]
        start, next_one = (networks_own(strategy.broadcast(s, watched, answer.width)) for s in (before, after))
        return _moved(start, answer.state if how == "copy" else next_one)

    return _forged(strategy, riders, _echo, remember)


def sign_flipper(strategy: Strategy, who: Collection[int], *, scale: float = 1.0) -> Strategy:
    r"""Let some participants train honestly and send the opposite: $\theta_i - s\,\Delta_i$ with $s$ = ``scale``.

    Raises:
        ValueError: ``who`` names nobody, or ``scale`` is not above 0.

    Example:
        >>> import aequa_lite as aq
        >>> strategy = sign_flipper(aq.slimmable(aq.MLP), {0})
        >>> strategy.merge == aq.slimmable(aq.MLP).merge
        False

    Source: the sign-flipping attack (Li et al. 2019, RSA).
    """
    if not 0 < scale < np.inf:
        raise ValueError(f"scale is {scale!r}; allowed is a finite number above 0")

    def opposite(got: State, honest: Update, rng: np.random.Generator) -> dict[str, Tensor]:
        floating = {k: t for k, t in networks_own(got).items() if t.is_floating_point()}
        return {**honest.state, **{k: t - scale * (honest.state[k] - t) for k, t in floating.items()}}

    return _forged(strategy, named(who), opposite)


def honest_but_curious(
    strategy: Strategy, who: Collection[int], kept: list[Update], *, received: bool = False
) -> Strategy:
    """Let some participants keep, round after round, what they hold after training: each adds it to ``kept``, in one list.

    ``received``: what they are sent, before they train on it. Their answers are honest, and nothing that the server sees is
    different. It is what no server can take back.

    Raises:
        ValueError: ``who`` names nobody.

    Example:
        >>> import aequa_lite as aq
        >>> config, kept = aq.Config(participants=2, rounds=3, local_steps=1), []
        >>> strategy, train = honest_but_curious(aq.slimmable(aq.MLP), {1}, kept), aq.load("fashion-mini").train
        >>> *_, last = aq.federate(aq.MLP, aq.data.homogeneous(train, config), config, strategy=strategy, progress=False)
        >>> [each.participant for each in kept]
        [1, 1, 1]

    Source: ours.
    """
    keeping = named(who)

    def merge(state: State, updates: Sequence[Update]) -> State:
        kept.extend(u for u in updates if u.participant in keeping)
        return strategy.merge(state, updates)

    def broadcast(state: State, participant: int, width: float) -> State:
        sent = strategy.broadcast(state, participant, width)
        if participant in keeping:
            kept.append(Update(participant, width, {k: t.clone() for k, t in networks_own(sent).items()}, 0.0, 0.0))
        return sent

    return replace(strategy, broadcast=broadcast) if received else replace(strategy, merge=merge)


def flip_labels(shards: Sequence[Shard], who: Collection[int], shift: int = 1) -> list[Shard]:
    r"""Let some participants call every class by the name of another: $y \leftarrow (y + \mathrm{shift}) \bmod K$.

    Raises:
        ValueError: ``who`` names nobody, or ``shift`` changes no label.

    Example:
        >>> import aequa_lite as aq
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, aq.Config(participants=2))
        >>> flipped = flip_labels(shards, {1})
        >>> int((flipped[1].samples.y - shards[1].samples.y).unique()[-1]), flipped[0] is shards[0]
        (1, True)

    Source: the label-flipping attack (Biggio et al. 2012; Tolpegin et al. 2020), with one shift for all classes.
    """
    liars = named(who)
    classes = shards[0].samples.classes
    if shift % classes == 0:
        raise ValueError(f"shift is {shift!r}; allowed is a whole number that is no multiple of the {classes} classes")

    def flipped(shard: Shard) -> Shard:
        return replace(shard, samples=replace(shard.samples, y=(shard.samples.y + shift) % classes))

    return [flipped(shard) if shard.participant in liars else shard for shard in shards]


def data_change(strategy: Strategy, shards: Mapping[int, Shard], rounds: Collection[int]) -> Strategy:
    """Let some participants train on another shard in some rounds: data that improve, spoil, or come late.

    ``shards``: participant -> what it trains on in these rounds; its weight in the merge stays.

    Raises:
        ValueError: ``shards`` names nobody.

    Example:
        >>> import aequa_lite as aq
        >>> config = aq.Config(participants=2, rounds=4, local_steps=1)
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> spoilt = data_change(aq.slimmable(aq.MLP), {1: aq.attacks.flip_labels(shards, {1})[1]}, range(2, 4))
        >>> len(list(aq.federate(aq.MLP, shards, config, strategy=spoilt, progress=False)))
        4

    Source: ours.
    """
    named(shards)

    def now(shard: Shard, config: Config, first: int) -> Shard:
        return shards.get(shard.participant, shard) if first // config.local_steps in rounds else shard

    def local(
        sent: State, shard: Shard, width: float, config: Config, rng: Any, *, first: int = 0, **rest: Any
    ) -> Update:
        return strategy.local(sent, now(shard, config, first), width, config, rng, first=first, **rest)

    def together(
        sent: Any, each: Any, widths: Any, config: Config, rng: Any, *, first: int = 0, **rest: Any
    ) -> list[Update]:
        theirs = [now(shard, config, first) for shard in each]
        return strategy.together(sent, theirs, widths, config, rng, first=first, **rest)  # type: ignore[misc]

    return replace(strategy, local=local, together=strategy.together and together)


def dropout(policy: Policy, who: Collection[int], rounds: Collection[int]) -> Policy:
    """Let some participants be away in some rounds: they receive nothing and send nothing.

    Late joiners are absent in the first rounds, leavers in the last: ``range(0, 20)``, ``range(20, 60)``.

    Raises:
        ValueError: ``who`` names nobody.

    Example:
        >>> import aequa_lite as aq
        >>> late = dropout(aq.full_width, {1}, range(20))
        >>> late(aq.Config(participants=3), None).widths
        (1.0, 0.0, 1.0)

    Source: ours.
    """
    away = named(who)

    def present(config: Config, last: Round | None) -> WidthAssignment:
        given = given_to(policy(config, last))
        if (0 if last is None else last.index + 1) not in rounds:
            return given
        return replace(given, widths=tuple(0.0 if i in away else w for i, w in enumerate(given.widths)))

    return present


def named(who: Collection[int]) -> frozenset[int]:
    """The participants that are meant, at least one."""
    found = frozenset(who)
    if not found or not all(isinstance(i, (int, np.integer)) and i >= 0 for i in found):
        raise ValueError(
            f"who is {sorted(found, key=str)!r}; allowed are participants, at least one: whole numbers from 0"
        )
    return found


def _forged(strategy: Strategy, who: frozenset[int], forge: Forge, remember: Remember | None = None) -> Strategy:
    """The scheme in which these participants' answers are forged.

    What a cheat remembers rides in the state like what a server remembers, so that a killed run goes on to the same bits;
    it is handed back to that cheat alone, and is nothing that the server sends.
    """

    def mine(state: State, participant: int) -> Iterator[tuple[str, Tensor]]:
        return ((name, t) for name, t in state.items() if name.startswith(f"echo {participant} of "))

    def broadcast(state: State, participant: int, width: float) -> State:
        return {**strategy.broadcast(state, participant, width), **dict(mine(state, participant))}

    def answer(got: State, honest: Update, rng: np.random.Generator) -> Update:
        return replace(honest, state=forge(got, honest, rng)) if honest.participant in who else honest

    def local(sent: State, shard: Shard, width: float, config: Config, rng: Any, **rest: Any) -> Update:
        return answer(sent, strategy.local(networks_own(sent), shard, width, config, rng, **rest), rng)

    def together(sent: Any, shards: Any, widths: Any, config: Config, rng: Any, **rest: Any) -> list[Update]:
        honest = strategy.together([networks_own(s) for s in sent], shards, widths, config, rng, **rest)  # type: ignore[misc]
        return [answer(*each) for each in zip(sent, honest, rng, strict=True)]

    def merge(state: State, updates: Sequence[Update]) -> State:
        after = dict(strategy.merge(state, updates))
        for rider in who if remember else ():
            kept = remember(state, after, updates, rider)
            echo = dict(mine(state, rider)) if kept is None else {f"echo {rider} of {k}": t for k, t in kept.items()}
            after.update(echo)
        return after

    return replace(strategy, broadcast=broadcast, local=local, merge=merge, together=strategy.together and together)


def _moved(before: State, after: State) -> dict[str, Tensor]:
    """What a slice has changed by, where the numbers are no whole numbers."""
    return {k: t - before[k] for k, t in after.items() if t.is_floating_point()}


def _echo(got: State, honest: Update, rng: np.random.Generator) -> dict[str, Tensor]:
    """What was received, plus a remembered change where both hold the entry."""
    said = {k: t.clone() for k, t in networks_own(got).items()}
    for name, change in got.items():
        if " of " in name:
            entry = said[name.split(" of ", 1)[1]]
            both = prefix(min(a, b) for a, b in zip(entry.shape, change.shape, strict=True))
            entry[both] += change[both]
    return said


def _noisy(got: State, rng: np.random.Generator, size: float) -> dict[str, Tensor]:
    """What was received, plus noise in proportion to each tensor's root mean square."""

    def spoilt(t: Tensor) -> Tensor:
        noise = torch.as_tensor(rng.standard_normal(tuple(t.shape)), dtype=t.dtype, device=t.device)
        return t + size * t.square().mean().sqrt() * noise

    return {k: spoilt(t) if t.is_floating_point() else t.clone() for k, t in networks_own(got).items()}
