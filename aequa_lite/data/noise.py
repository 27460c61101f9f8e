"""Shards of lower quality: flipped labels, noisy pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from .._check import checked, number, one_each, refusal
from ..config import Config
from ..rng import stream
from ..types import Shard
from .partition import labels_of

__all__ = ["feature_noise", "label_noise"]

MOST_SIGMA = 100.0


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
    _check(shards, config, "rates", rates, 1.0)
    if (classes := shards[0].samples.classes) < 2:
        raise refusal("shards", "samples of at least 2 classes", classes)
    return [_flipped(shard, config, rate) for shard, rate in zip(shards, rates, strict=True)]


@checked
def feature_noise(shards: Sequence[Shard], config: Config, sigmas: Sequence[float]) -> list[Shard]:
    r"""Add Gaussian noise to the pixels of each participant's images.

    $x \leftarrow \mathrm{clip}(x + \sigma_i z, 0, 1)$ with $z \sim N(0, 1)$ and pixels in
    [0, 1], rounded to uint8 again.

    Args:
        shards: One shard for each participant; they stay as they are.
        config: Participants and seed.
        sigmas: (participants,) standard deviations, in units of the pixel range.

    Returns:
        The shards with noisy images.

    Raises:
        ValueError: Not one sigma in [0, 100] for each shard, or samples that are no
            uint8 images.

    Example:
        >>> import aequa_lite as aq
        >>> config, train = Config(participants=2), aq.load("fashion-mini", device="cpu").train
        >>> clean = aq.data.homogeneous(train, config)
        >>> noisy = feature_noise(clean, config, (0.0, 0.1))
        >>> [bool((a.samples.x == b.samples.x).all()) for a, b in zip(clean, noisy)]
        [True, False]

    References:
        Feature noise of NIID-Bench (Li et al. 2022), whose sigma grows with i / n.
    """
    _check(shards, config, "sigmas", sigmas, MOST_SIGMA)
    for shard in shards:
        if shard.samples.x.dtype != torch.uint8:
            raise refusal("shards", "uint8 images", shard.samples.x.dtype)
    return [_noisy(shard, config, sigma) for shard, sigma in zip(shards, sigmas, strict=True)]


def _check(shards: Sequence[Shard], config: Config, name: str, values: Sequence[float], high: float) -> None:
    """Refuse what is not one shard and one number in [0, high] for each participant."""
    one_each("shards", shards, config.participants)
    for i, value in enumerate(one_each(name, values, config.participants)):
        number(f"{name}[{i}]", value, 0.0, high)


def _flipped(shard: Shard, config: Config, rate: float) -> Shard:
    """The shard with a share of its labels moved to other classes."""
    rng, y = stream(config.seed, "partition", "label_noise", shard.participant), labels_of(shard.samples).copy()
    chosen = rng.permutation(len(y))[: round(rate * len(y))]
    y[chosen] = (y[chosen] + rng.integers(1, shard.samples.classes, size=len(chosen))) % shard.samples.classes
    return replace(shard, samples=replace(shard.samples, y=torch.from_numpy(y).to(shard.samples.y.device)))


def _noisy(shard: Shard, config: Config, sigma: float) -> Shard:
    """The shard with noise on its pixels."""
    rng, x = stream(config.seed, "partition", "feature_noise", shard.participant), shard.samples.x
    z = rng.standard_normal(tuple(x.shape), dtype=np.float32)
    noisy = np.rint(np.clip(x.cpu().numpy() + np.float32(255 * sigma) * z, 0, 255)).astype(np.uint8)
    return replace(shard, samples=replace(shard.samples, x=torch.from_numpy(noisy).to(x.device)))
