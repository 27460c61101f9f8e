"""Shards of worse quality: labels that were flipped, pixels with noise on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..config import Config
from ..rng import stream
from ..types import Shard
from .partition import check_number, shard_labels

__all__ = ["feature_noise", "label_noise"]


def label_noise(shards: Sequence[Shard], config: Config, rates: Sequence[float]) -> list[Shard]:
    """Flip the labels of a share of each participant's samples to another class.

    ``rates``: (participants,) in [0, 1]; of participant i, round(rate_i x samples) labels become one of the other
    classes, each equally likely. The shards that are given stay as they are.

    Raises:
        ValueError: not one rate for each shard, a rate outside [0, 1], or fewer than two classes.

    Example:
        >>> import aequa_lite as aq
        >>> config = Config(participants=2)
        >>> clean = aq.data.homogeneous(aq.load("fashion-mini", device="cpu").train, config)
        >>> noisy = label_noise(clean, config, (0.0, 0.5))
        >>> [int((a.samples.y != b.samples.y).sum()) for a, b in zip(clean, noisy)]
        [0, 1500]

    Source: ours.
    """
    _check_noise(shards, config, "rates", rates, high=1.0)
    if (classes := shards[0].samples.classes) < 2:
        raise ValueError(f"the shards have {classes} class; allowed are at least 2, so that a label can be another one")
    return [_flipped(shard, config, rate) for shard, rate in zip(shards, rates, strict=True)]


def feature_noise(shards: Sequence[Shard], config: Config, sigmas: Sequence[float]) -> list[Shard]:
    """Add Gaussian noise to the pixels of each participant's images.

    x = clip(x + sigma_i z, 0, 1), z standard normal, with pixels from 0 to 1, rounded to uint8 again; ``sigmas``:
    (participants,) standard deviations in units of the pixel range. The shards that are given stay as they are.

    Raises:
        ValueError: not one sigma for each shard, a sigma outside [0, 100], or inputs that are no uint8 images.

    Example:
        >>> import aequa_lite as aq
        >>> config = Config(participants=2)
        >>> clean = aq.data.homogeneous(aq.load("fashion-mini", device="cpu").train, config)
        >>> noisy = feature_noise(clean, config, (0.0, 0.1))
        >>> [bool((a.samples.x == b.samples.x).all()) for a, b in zip(clean, noisy)]
        [True, False]

    Source: feature noise of NIID-Bench, there growing with i / n; here any sequence.
    """
    _check_noise(shards, config, "sigmas", sigmas, high=100.0)
    for shard in shards:
        if shard.samples.x.dtype != torch.uint8:
            raise ValueError(f"x of participant {shard.participant} is {shard.samples.x.dtype}; allowed is torch.uint8")
    return [_noisy(shard, config, sigma) for shard, sigma in zip(shards, sigmas, strict=True)]


def _check_noise(shards: Sequence[Shard], config: Config, name: str, values: Sequence[float], high: float) -> None:
    """Refuse what is not one number in range for each of the recipe's participants."""
    if not len(shards) == len(values) == config.participants:
        raise ValueError(
            f"{name} holds {len(values)} and shards {len(shards)}; allowed is one for each of the "
            f"{config.participants} participants"
        )
    for i, value in enumerate(values):
        check_number(f"{name}[{i}]", value, 0.0, high)


def _flipped(shard: Shard, config: Config, rate: float) -> Shard:
    """The shard with a share of its labels moved to other classes."""
    rng, y = stream(config.seed, "partition", "label_noise", shard.participant), shard_labels(shard.samples).copy()
    chosen = rng.permutation(len(y))[: round(rate * len(y))]
    y[chosen] = (y[chosen] + rng.integers(1, shard.samples.classes, size=len(chosen))) % shard.samples.classes
    return replace(shard, samples=replace(shard.samples, y=torch.from_numpy(y).to(shard.samples.y.device)))


def _noisy(shard: Shard, config: Config, sigma: float) -> Shard:
    """The shard with noise on its pixels."""
    rng, x = stream(config.seed, "partition", "feature_noise", shard.participant), shard.samples.x
    z = rng.standard_normal(tuple(x.shape), dtype=np.float32)
    noisy = np.rint(np.clip(x.cpu().numpy() + np.float32(255 * sigma) * z, 0, 255)).astype(np.uint8)
    return replace(shard, samples=replace(shard.samples, x=torch.from_numpy(noisy).to(x.device)))
