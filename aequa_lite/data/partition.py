"""What all partitions are made of: checks, whole sizes, and lists of places that become shards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from .records import Recipe, Samples, Shard
from .rng import stream

__all__ = ["table"]

TRIES = 1_000  # redraws before a request is called impossible


def table(shards: Sequence[Shard]) -> np.ndarray:
    """Count the samples of each class that each participant holds.

    Returns a (participants, classes) array of whole numbers.

    Example:
        >>> y = torch.tensor([0, 2, 2])
        >>> table([Shard(0, Samples(y[:, None], y, classes=3), indices=np.arange(3))])
        array([[1, 0, 2]])
    """
    return np.stack([np.bincount(labels(each.samples), minlength=each.samples.classes) for each in shards])


def labels(samples: Samples) -> np.ndarray:
    """The labels as an array."""
    return torch.as_tensor(samples.y).cpu().numpy()


def check(train: Samples, recipe: Recipe, each: int = 1) -> np.ndarray:
    """Refuse what has too few samples for the participants; return the labels."""
    if not isinstance(train, Samples):
        raise ValueError(f"train is a {type(train).__name__}; allowed is a Samples, such as data.train")
    if recipe.participants * each > len(train):
        raise ValueError(
            f"participants is {recipe.participants} with at least {each} samples each, but train holds {len(train)}; "
            f"allowed are up to {len(train) // each} participants"
        )
    return labels(train)


def check_number(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    """Refuse a number of the wrong type or outside its closed range."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; allowed is a {'whole ' * whole}number from {low:g} to {high:g}")


def by_class(y: np.ndarray, classes: int, draws: np.random.Generator) -> list[np.ndarray]:
    """The places of each class, in random order."""
    order = draws.permutation(len(y))
    sorted_ = order[np.argsort(y[order], kind="stable")]
    return np.split(sorted_, np.cumsum(np.bincount(y, minlength=classes))[:-1])


def cut(order: np.ndarray, sizes: Iterable[int]) -> list[np.ndarray]:
    """Consecutive pieces of these sizes; what is left over is dropped."""
    ends = np.cumsum(list(sizes), dtype=int)
    return np.split(order[: ends[-1]], ends[:-1])


def apportion(weights: Any, total: int) -> np.ndarray:
    """Whole sizes in proportion to the weights that sum to the total, by largest remainders."""
    exact = np.asarray(weights, dtype=float) / math.fsum(weights) * total
    sizes = np.floor(exact).astype(int)
    first = np.argsort(sizes - exact, kind="stable")  # the largest remainders
    sizes[first[: total - sizes.sum()]] += 1
    return sizes


def redraw(draw: Callable[[np.random.Generator], np.ndarray], least: int, recipe: Recipe, name: str) -> np.ndarray:
    """The first of seeded draws of counts, (participants, ...), in which everyone holds ``least``."""
    for attempt in range(TRIES):
        counts = draw(stream(recipe.seed, "partition", name, attempt))
        if counts.reshape(len(counts), -1).sum(axis=1).min() >= least:
            return counts
    raise ValueError(
        f"{name} gave {recipe.participants} participants at least {least} samples each in none of {TRIES} draws; "
        "raise alpha, or lower least or the number of participants"
    )


def shards_of(train: Samples, places: Iterable[np.ndarray]) -> list[Shard]:
    """One shard for each list of places, its samples in ascending order of place."""
    device = torch.as_tensor(train.y).device
    ordered = [np.sort(np.asarray(each, dtype=np.int64)) for each in places]
    if empty := [i for i, each in enumerate(ordered) if not len(each)]:
        raise ValueError(f"participant {empty[0]} would hold no sample; use fewer participants or another partition")
    return [Shard(i, train.take(torch.from_numpy(each).to(device)), each) for i, each in enumerate(ordered)]
