"""Shards of lower quality: flipped labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from .._check import checked, number, one_each, refusal
from ..config import Config
from ..rng import stream
from ..types import Shard
from .partition import labels_of

__all__ = ["label_noise"]


@checked
def label_noise(shards: Sequence[Shard], config: Config, rates: Sequence[float]) -> list[Shard]:
    """Flip a share of each participant's labels to another class.

    Args:
        shards: One shard for each participant; they stay as they are.
        config: Participants and seed.
        rates: (participants,) in [0, 1]: round(rate * samples) labels become one of the
            other classes, each equally likely.

    Returns:
        The shards with flipped labels.

    Raises:
        ValueError: Not one rate in [0, 1] for each shard, or fewer than two classes.

    Example:
        >>> import aequa_lite as aq
        >>> config, train = Config(participants=2), aq.load("fashion-mini", device="cpu").train
        >>> clean = aq.data.homogeneous(train, config)
        >>> noisy = label_noise(clean, config, (0.0, 0.5))
        >>> [int((a.samples.y != b.samples.y).sum()) for a, b in zip(clean, noisy)]
        [0, 1500]

    References:
        Our choice.
    """
    one_each("shards", shards, config.participants)
    for i, rate in enumerate(one_each("rates", rates, config.participants)):
        number(f"rates[{i}]", rate, 0.0, 1.0)
    if (classes := shards[0].samples.classes) < 2:
        raise refusal("shards", "samples of at least 2 classes", classes)
    return [_flipped(shard, config, rate) for shard, rate in zip(shards, rates, strict=True)]


def _flipped(shard: Shard, config: Config, rate: float) -> Shard:
    """The shard with a share of its labels moved to other classes."""
    rng, y = stream(config.seed, "partition", "label_noise", shard.participant), labels_of(shard.samples).copy()
    chosen = rng.permutation(len(y))[: round(rate * len(y))]
    y[chosen] = (y[chosen] + rng.integers(1, shard.samples.classes, size=len(chosen))) % shard.samples.classes
    return replace(shard, samples=replace(shard.samples, y=torch.from_numpy(y).to(shard.samples.y.device)))
