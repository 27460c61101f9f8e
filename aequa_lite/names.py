"""Words for what is otherwise passed as a function: a parameter from a command line names a partition or a network.

A word is written like a call, ``imbalanced(0.4, holders=2)``; only names of this package and plain values are read, and
nothing is evaluated.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import nn

from . import convnets, defences, local, nets, partition, rules, server, slim, textnets
from .allocate import Plan, allocate, gain_minus_variance, spread_minus_gain, spread_only, spread_per_gain
from .curve import Curve
from .records import Recipe, Samples, Shard

__all__ = ["allocation_named", "defence_named", "draw_named", "network_named", "partition_named", "server_named"]


def by_name(*functions: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Functions by their names."""
    return {each.__name__: each for each in functions}


PARTITIONS = by_name(
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
NETWORKS = by_name(  # the one list of networks: rewards are read back by it too
    nets.MLP,
    nets.LeNet,
    convnets.ConvNet,
    convnets.ResNet18,
    convnets.BatchResNet18,
    textnets.TextCNN,
    textnets.Transformer,
)
DRAWS = by_name(local.full_and_random, local.full_only, local.one_random, local.sandwich)
SERVERS = by_name(server.averaged, server.with_momentum, server.adaptive)
DEFENCES = by_name(slim.merge, defences.clipped, defences.median, defences.private, defences.screened, defences.trimmed)
RULES = by_name(rules.anneal, rules.capped, rules.generous, rules.proportional, rules.thresholded)
OBJECTIVES = by_name(gain_minus_variance, spread_minus_gain, spread_only, spread_per_gain)


def _nearest(kind: str, text: str, name: str, known: Iterable[str]) -> ValueError:
    """The refusal of a name that is unknown."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.0)[0]
    return ValueError(f"{kind} is {text!r}; allowed is one of {', '.join(known)}; the nearest is {near!r}")


def called(kind: str, text: str, known: dict[str, Callable[..., Any]], first: int = 0) -> partial:
    """The function that a word names, bound to the plain values in its brackets; ``first`` arguments come later."""
    try:
        found: Any = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise _nearest(kind, text, text, known) from error
    call = found if isinstance(found, ast.Call) else ast.Call(found, [], [])
    if not isinstance(call.func, ast.Name) or call.func.id not in known:
        raise _nearest(kind, text, ast.unparse(call.func), known)
    function = known[call.func.id]
    names = list(inspect.signature(function).parameters)[first:]
    try:
        values = dict(zip(names, map(ast.literal_eval, call.args)))
        values |= {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{kind} is {text!r}; allowed are plain values in its brackets") from error
    if len(call.args) > len(names) or not set(values) <= set(names):
        raise ValueError(f"{kind} is {text!r}; allowed in its brackets are {', '.join(names) or 'no values'}")
    return partial(function, **values)


def partition_named(text: str) -> Callable[[Samples, Recipe], list[Shard]]:
    """Return the partition that is written as a call, such as ``dirichlet(0.5)`` or ``imbalanced(0.4, 2)``.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its values are not plain or too many.

    Example:
        >>> partition_named("label_skew(3)").func.__name__
        'label_skew'
    """
    return called("partition", text, PARTITIONS, first=2)


def network_named(text: str) -> Callable[..., nn.Module]:
    """Return the network that is written as a name or a call, such as ``MLP`` or ``LeNet(multiple=2)``.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its options are.

    Example:
        >>> network_named("LeNet(multiple=2)")(1.0)[1].out_channels
        12
    """
    return called("network", text, NETWORKS, first=1)


def draw_named(text: str) -> local.Draw:
    """Return the draw of widths of that name, such as ``full_and_random``.

    Raises:
        ValueError: the name is unknown; the nearest is given.

    Example:
        >>> draw_named("sandwich").func.__name__
        'sandwich'
    """
    return called("draw", text, DRAWS, first=3)


def server_named(text: str) -> server.Server:
    """Return the server step that is written as a name or a call, such as ``averaged`` or ``with_momentum(0.5)``.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its constants are.

    Example:
        >>> server_named("averaged").__name__
        'averaged'
    """
    if text.strip() == "averaged":  # the one step that has no constants is the function itself
        return server.averaged
    return called("server", text, SERVERS)()


def defence_named(text: str) -> defences.Merging:
    """Return the merging that is written as a name or a call, such as ``merge``, ``median`` or ``trimmed(0.2)``.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its constants are.

    Example:
        >>> defence_named("median").__name__
        'median'
    """
    if text.strip() in ("merge", "median"):  # the two that have no constants are the functions themselves
        return DEFENCES[text.strip()]
    return called("defence", text, DEFENCES)()


def allocation_named(text: str, rational: bool = False) -> Callable[[Any, Curve], Plan]:
    """Return the allocation that is written as a name or a call: ``allocate``, an objective of it, or another rule.

    Objectives such as ``spread_only`` or ``gain_minus_variance(1.0)`` mean :func:`allocate` with that objective; rules are
    such as ``proportional`` or ``capped(0.02)``. ``rational``: nobody's predicted accuracy below its contribution.

    Raises:
        ValueError: the name is unknown (the nearest is given), its constants are, or a rule cannot be ``rational``.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> allocation_named("proportional")([0.4, 0.8], curve).widths.tolist()
        [0.1, 1.0]
    """
    if text.strip() == "allocate":  # with its default objective
        return partial(allocate, rational=rational)
    if text.split("(")[0].strip() in OBJECTIVES:
        objective = called("allocation", text, OBJECTIVES)()
        return partial(allocate, objective=objective, rational=rational)
    rule = called("allocation", text, {"allocate": allocate, **OBJECTIVES, **RULES}, first=2)
    if rational or rule.func is allocate:
        kept = f"allocate, {', '.join(OBJECTIVES)}"
        raise ValueError(f"allocation is {text!r} and rational {rational}; allowed is rational False, or one of {kept}")
    return rule
