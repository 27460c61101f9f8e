"""Attacks on a whole algorithm: its strategy, who signs up, and what they claim to have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._check import checked, flag, number, refusal
from ..federate import Strategy
from ..method import Algorithm, Outcome, Problem, Train, train
from ..rng import stream
from ..types import Round, Samples, Shard
from .updates import chosen

__all__ = ["inflated_shard", "merged_shards", "sybils", "with_attack"]

Attack = Callable[[Strategy], Strategy]


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
def sybils(shards: Sequence[Shard], who: int, count: int, *, clones: bool = False, seed: int = 0) -> list[Shard]:
    """Let one participant sign up several times.

    The first identity keeps its place and the others come last, so that nobody else's random streams change.

    Args:
        who: The participant.
        count: Identities, from 2 to the size of its shard.
        clones: Each identity has the whole shard, instead of a part of it.
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
    mine, n = shards[_one_of(shards, who)], len(shards)
    number("count", count, 2, len(mine), whole=True)
    parts = np.array_split(stream(seed, "sybils").permutation(len(mine)), count)
    if flag("clones", clones):
        parts = [np.arange(len(mine))] * count
    names = [who, *range(n, n + count - 1)]
    pairs = zip(names, parts, strict=True)
    first, *others = [replace(_part(mine, np.sort(part)), participant=name) for name, part in pairs]
    return [*(first if i == who else shard for i, shard in enumerate(shards)), *others]


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
    x, y = (torch.cat([getattr(each.samples, part) for each in members]) for part in ("x", "y"))
    samples = Samples(x, y, members[0].samples.classes)
    union = Shard(together[0], samples, np.concatenate([np.asarray(each.indices) for each in members]))
    kept = [union if i == together[0] else each for i, each in enumerate(shards) if i not in together[1:]]
    return [replace(each, participant=place) for place, each in enumerate(kept)]


@checked
def inflated_shard(shards: Sequence[Shard], who: int, times: int) -> list[Shard]:
    """Let one participant repeat each of its samples, so that its shard counts as larger.

    Args:
        who: The participant.
        times: Copies of each sample, from 1.

    Raises:
        ValueError: `who` is no participant, or `times` is not a whole number from 1.

    Example:
        >>> import aequa_lite as aq
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, aq.Config(participants=2))
        >>> [len(each) for each in inflated_shard(shards, 0, 10)]
        [30000, 3000]

    References:
        Our choice.
    """
    mine = shards[_one_of(shards, who)]
    number("times", times, 1, whole=True)
    more = _part(mine, np.tile(np.arange(len(mine)), times))
    return [more if i == who else shard for i, shard in enumerate(shards)]


def _one_of(shards: Sequence[Shard], who: int) -> int:
    """A participant; anybody else is refused."""
    return number("who", who, 0, len(shards) - 1, whole=True)


def _part(shard: Shard, places: NDArray[np.int64]) -> Shard:
    """The samples of a shard at these places."""
    taken = shard.samples.take(torch.as_tensor(places, device=shard.samples.y.device))
    return replace(shard, samples=taken, indices=np.asarray(shard.indices)[places])
