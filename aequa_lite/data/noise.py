"""Shards of worse quality: labels that were flipped, pixels with noise on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from .records import Recipe, Shard
from .rng import stream
from .shards import check_number, labels

__all__ = ["feature_noise", "label_noise"]


def label_noise(shards: Sequence[Shard], recipe: Recipe, rates: Sequence[float]) -> list[Shard]:
    """Flip the labels of a share of each participant's samples to another class.

    ``rates``: (participants,) in [0, 1]; of participant i, round(rate_i x samples) labels become one of the other
    classes, each equally likely. The shards that are given stay as they are.

    Raises:
        ValueError: not one rate for each shard, a rate outside [0, 1], or fewer than two classes.

    Example:
        >>> import aequa_lite as aq
        >>> recipe = Recipe(participants=2)
        >>> clean = aq.homogeneous(aq.load("fashion-mini", device="cpu").train, recipe)
        >>> noisy = label_noise(clean, recipe, (0.0, 0.5))
        >>> [int((a.samples.y != b.samples.y).sum()) for a, b in zip(clean, noisy)]
        [0, 1500]

    Source: ours.
    """
    _check(shards, recipe, "rates", rates, high=1.0)
    if (classes := shards[0].samples.classes) < 2:
        raise ValueError(f"the shards have {classes} class; allowed are at least 2, so that a label can be another one")
    return [_flipped(shard, recipe, rate) for shard, rate in zip(shards, rates, strict=True)]


def feature_noise(shards: Sequence[Shard], recipe: Recipe, sigmas: Sequence[float]) -> list[Shard]:
    """Add Gaussian noise to the pixels of each participant's images.

    x = clip(x + sigma_i z, 0, 1), z standard normal, with pixels from 0 to 1, rounded to uint8 again; ``sigmas``:
    (participants,) standard deviations in units of the pixel range. The shards that are given stay as they are.

    Raises:
        ValueError: not one sigma for each shard, a sigma outside [0, 100], or inputs that are no uint8 images.

    Example:
        >>> import aequa_lite as aq
        >>> recipe = Recipe(participants=2)
        >>> clean = aq.homogeneous(aq.load("fashion-mini", device="cpu").train, recipe)
        >>> noisy = feature_noise(clean, recipe, (0.0, 0.1))
        >>> [bool((a.samples.x == b.samples.x).all()) for a, b in zip(clean, noisy)]
        [True, False]

    Source: feature noise of NIID-Bench, there growing with i / n; here any sequence.
    """
    _check(shards, recipe, "sigmas", sigmas, high=100.0)
    for shard in shards:
        if shard.samples.x.dtype != torch.uint8:
            raise ValueError(f"x of participant {shard.participant} is {shard.samples.x.dtype}; allowed is torch.uint8")
    return [_noisy(shard, recipe, sigma) for shard, sigma in zip(shards, sigmas, strict=True)]


def _check(shards: Sequence[Shard], recipe: Recipe, name: str, values: Sequence[float], high: float) -> None:
    """Refuse what is not one number in range for each of the recipe's participants."""
    if not len(shards) == len(values) == recipe.participants:
        raise ValueError(
            f"{name} holds {len(values)} and shards {len(shards)}; allowed is one for each of the "
            f"{recipe.participants} participants"
        )
    for i, value in enumerate(values):
        check_number(f"{name}[{i}]", value, 0.0, high)


def _flipped(shard: Shard, recipe: Recipe, rate: float) -> Shard:
    """The shard with a share of its labels moved to other classes."""
    draws, y = stream(recipe.seed, "partition", "label_noise", shard.participant), labels(shard.samples).copy()
    chosen = draws.permutation(len(y))[: round(rate * len(y))]
    y[chosen] = (y[chosen] + draws.integers(1, shard.samples.classes, size=len(chosen))) % shard.samples.classes
    return replace(shard, samples=replace(shard.samples, y=torch.from_numpy(y).to(shard.samples.y.device)))


def _noisy(shard: Shard, recipe: Recipe, sigma: float) -> Shard:
    """The shard with noise on its pixels."""
    draws, x = stream(recipe.seed, "partition", "feature_noise", shard.participant), shard.samples.x
    z = draws.standard_normal(tuple(x.shape), dtype=np.float32)
    noisy = np.rint(np.clip(x.cpu().numpy() + np.float32(255 * sigma) * z, 0, 255)).astype(np.uint8)
    return replace(shard, samples=replace(shard.samples, x=torch.from_numpy(noisy).to(x.device)))
