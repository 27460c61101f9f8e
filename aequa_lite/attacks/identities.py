"""What a cheat does to a whole method: its scheme, who it says it is, what it says it has, and what it makes of its pay."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import torch

from ..federate import Strategy
from ..method import Algorithm, Entry, Problem
from ..rng import stream
from ..types import Samples, Shard
from .updates import named

__all__ = ["inflated_shard", "merged_shards", "sybils", "with_attack"]


def with_attack(method: Algorithm, cheat: Callable[[Strategy], Strategy]) -> Algorithm:
    """Return the method when some of its participants cheat: its scheme is wrapped, its weights and its pay are its own.

    ``cheat``: a wrapper of a scheme, such as ``partial(free_rider, who={2}, how="zero")``.

    Example:
        >>> import aequa_lite as aq
        >>> from functools import partial
        >>> with_attack(aq.baselines.fedavg(), partial(aq.attacks.sign_flipper, who={2})).name
        'fedavg'

    Source: ours.
    """

    def enter(task: Problem) -> Entry:
        entry = method.enter(task)
        return replace(entry, strategy=cheat(entry.strategy))

    return replace(method, enter=enter)


def sybils(shards: Sequence[Shard], who: int, count: int, *, clones: bool = False, seed: int = 0) -> list[Shard]:
    """Let one participant sign up as ``count``: its shard in that many parts, or each with all of it (``clones``).

    The first keeps its place, the others come last, so that nobody else's random streams change.

    Raises:
        ValueError: ``who`` is no participant, or ``count`` is not from 2 to the size of its shard.

    Example:
        >>> import aequa_lite as aq
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, aq.Config(participants=2))
        >>> [(each.participant, len(each)) for each in sybils(shards, 0, 3)]
        [(0, 1000), (1, 3000), (2, 1000), (3, 1000)]

    Source: the sybil attack (Douceur 2002).
    """
    _one_of(shards, who)
    mine, n = shards[who], len(shards)
    if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= len(mine):
        raise ValueError(f"count is {count!r}; allowed is a whole number from 2 to {len(mine)}, the size of its shard")
    order = stream(seed, "sybils").permutation(len(mine))
    parts = [np.arange(len(mine))] * count if clones else [np.sort(part) for part in np.array_split(order, count)]
    names = [who, *range(n, n + count - 1)]
    fake = {name: replace(_part(mine, part), participant=name) for name, part in zip(names, parts, strict=True)}
    return [fake.get(i, shard) for i, shard in enumerate(shards)] + [fake[name] for name in names[1:]]


def merged_shards(shards: Sequence[Shard], who: Collection[int]) -> list[Shard]:
    """Let some participants sign up as one, with all that they hold; who follows moves up.

    Raises:
        ValueError: ``who`` names fewer than two, or somebody who is no participant.

    Example:
        >>> import aequa_lite as aq
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, aq.Config(participants=3))
        >>> [(each.participant, len(each)) for each in merged_shards(shards, {0, 2})]
        [(0, 4000), (1, 2000)]

    Source: ours.
    """
    together = sorted(named(who))
    if len(together) < 2 or together[-1] >= len(shards):
        raise ValueError(f"who is {together}; allowed are at least two of the {len(shards)} participants")
    held = [shards[i].samples for i in together]
    joined = Samples(torch.cat([s.x for s in held]), torch.cat([s.y for s in held]), held[0].classes)
    indices = np.concatenate([np.asarray(shards[i].indices) for i in together])
    union = Shard(together[0], joined, indices)
    kept = [union if i == together[0] else each for i, each in enumerate(shards) if i not in together[1:]]
    return [replace(each, participant=place) for place, each in enumerate(kept)]


def inflated_shard(shards: Sequence[Shard], who: int, times: int) -> list[Shard]:
    """Let one participant hold each of its samples ``times`` times over: it claims more, and a count cannot tell.

    Raises:
        ValueError: ``who`` is no participant, or ``times`` is not a whole number from 1.

    Example:
        >>> import aequa_lite as aq
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, aq.Config(participants=2))
        >>> [len(each) for each in inflated_shard(shards, 0, 10)]
        [30000, 3000]

    Source: ours.
    """
    _one_of(shards, who)
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise ValueError(f"times is {times!r}; allowed is a whole number from 1")
    more = _part(shards[who], np.tile(np.arange(len(shards[who])), times))
    return [more if i == who else shard for i, shard in enumerate(shards)]


def _one_of(shards: Sequence[Shard], who: int) -> None:
    """Refuse who is no participant."""
    if isinstance(who, bool) or not isinstance(who, (int, np.integer)) or not 0 <= who < len(shards):
        raise ValueError(f"who is {who!r}; allowed is a participant: a whole number from 0 to {len(shards) - 1}")


def _part(shard: Shard, places: np.ndarray) -> Shard:
    """The samples of a shard at these places."""
    chosen = torch.as_tensor(places, device=shard.samples.y.device)
    return replace(shard, samples=shard.samples.take(chosen), indices=np.asarray(shard.indices)[places])
