"""Words for what is otherwise passed as a function: a parameter from a command line names a partition or a network."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

from torch import nn

from . import convnets, nets, partition, textnets
from .records import Recipe, Samples, Shard

__all__ = ["network_named", "partition_named"]

PARTITIONS: dict[str, Callable[..., list[Shard]]] = {
    each.__name__: each
    for each in (
        partition.by_size,
        partition.class_imbalance,
        partition.dirichlet,
        partition.homogeneous,
        partition.imbalanced,
        partition.label_skew,
        partition.natural,
        partition.power_law,
        partition.quantity_dirichlet,
    )
}
NETWORKS: dict[str, Callable[..., nn.Module]] = {  # the one list of networks: rewards are read back by it too
    each.__name__: each
    for each in (
        nets.MLP,
        nets.LeNet,
        convnets.ConvNet,
        convnets.ResNet18,
        convnets.BatchResNet18,
        textnets.TextCNN,
        textnets.Transformer,
    )
}


def partition_named(text: str) -> Callable[[Samples, Recipe], list[Shard]]:
    """Return the partition that is written as a call, such as ``dirichlet(0.5)`` or ``imbalanced(0.4, 2)``.

    Only the names of this package's partitions and plain numbers are read; nothing is evaluated.

    Raises:
        ValueError: the name is unknown (the nearest is given), or the arguments are no plain values.

    Example:
        >>> partition_named("label_skew(3)").func.__name__
        'label_skew'
    """
    found = re.fullmatch(r"\s*(\w+)\s*(\(.*\))?\s*", text, flags=re.S)
    name = found[1] if found else text
    if not found or name not in PARTITIONS:
        near = get_close_matches(name, PARTITIONS, n=1, cutoff=0.0)[0]
        raise ValueError(f"partition is {text!r}; allowed is one of {', '.join(PARTITIONS)}; the nearest is {near!r}")
    try:
        values = ast.literal_eval(f"[{(found[2] or '()')[1:-1]}]")
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"partition is {text!r}; allowed are plain numbers in its brackets") from error
    return _bound(PARTITIONS[name], tuple(values))


def _bound(function: Callable[..., list[Shard]], values: tuple) -> Callable[[Samples, Recipe], list[Shard]]:
    """The partition with its arguments after train and recipe."""
    names = function.__code__.co_varnames[2 : function.__code__.co_argcount]
    if len(values) > len(names):
        raise ValueError(
            f"partition {function.__name__} is given {values!r}; allowed are up to {len(names)} values: {names}"
        )
    return partial(function, **dict(zip(names, values)))


def network_named(name: str) -> Callable[..., nn.Module]:
    """Return the network of that name.

    Raises:
        ValueError: the name is unknown; the nearest is given.

    Example:
        >>> network_named("LeNet").__name__
        'LeNet'
    """
    if name not in NETWORKS:
        near = get_close_matches(name, NETWORKS, n=1, cutoff=0.0)[0]
        raise ValueError(f"network is {name!r}; allowed is one of {', '.join(NETWORKS)}; the nearest is {near!r}")
    return NETWORKS[name]
