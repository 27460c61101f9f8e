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

import torch
from torch import nn

from . import convnets, defences, local, nets, partition, rules, server, textnets
from .allocate import Plan, allocate, gain_minus_variance, spread_minus_gain, spread_only, spread_per_gain
from .curve import Curve
from .files import said, shown
from .records import Recipe, Samples, Shard
from .slim import merge, parameters

__all__ = ["allocation_named", "draw_named", "merging_named", "network_named", "partition_named", "server_named"]

LONGEST = 100_000  # letters of a word: room for a thousand widths
MOST_PARAMETERS = 1 << 28  # of a network that is named by somebody else: a gigabyte
MOST_LAYERS = 64
KINDS = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "None": (type(None),)}


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
MERGINGS = by_name(defences.clipped, defences.screened, defences.trimmed, defences.private)
RULES = by_name(rules.anneal, rules.capped, rules.generous, rules.proportional, rules.thresholded)
OBJECTIVES = by_name(gain_minus_variance, spread_minus_gain, spread_only, spread_per_gain)


def _nearest(kind: str, text: str, name: str, known: Iterable[str]) -> ValueError:
    """The refusal of a name that is unknown."""
    near = get_close_matches(name[:100], list(known), n=1, cutoff=0.0)[0]
    return ValueError(f"{kind} is {shown(text)}; allowed is one of {', '.join(known)}; the nearest is {near!r}")


def fits(value: Any, kind: str) -> bool:
    """Whether a value is of an annotated kind, such as ``float | None``; a truth is no number."""
    each = [KINDS.get(word, (object,)) for word in kind.split(" | ")]
    return isinstance(value, sum(each, ())) and ("bool" in kind or (object,) in each or not isinstance(value, bool))


def called(kind: str, text: str, known: dict[str, Callable[..., Any]], first: int = 0) -> partial:
    """The function that a word names, bound to the plain values in its brackets; ``first`` arguments come later."""
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ValueError(f"{kind} is {shown(text)}; allowed is a word of up to {LONGEST} letters")
    try:
        found: Any = ast.parse(text.strip(), mode="eval").body
        call = found if isinstance(found, ast.Call) else ast.Call(found, [], [])
        if not isinstance(call.func, ast.Name) or call.func.id not in known:
            raise _nearest(kind, text, ast.unparse(call.func), known)
    except (SyntaxError, RecursionError, MemoryError) as error:  # the last two: nested beyond reason
        raise _nearest(kind, text, text, known) from error
    function = known[call.func.id]
    return partial(function, **_values(kind, text, call, function, first))


def _values(kind: str, text: str, call: ast.Call, function: Callable[..., Any], first: int) -> dict[str, Any]:
    """The plain values in a word's brackets, by the names of the function's own arguments."""
    known = dict(list(inspect.signature(function).parameters.items())[first:])
    pairs = [*zip(known, call.args), *((str(each.arg), each.value) for each in call.keywords)]
    if len(call.args) > len(known) or len(dict(pairs)) < len(pairs) or not set(dict(pairs)) <= set(known):
        raise ValueError(
            f"{kind} is {shown(text)}; allowed in its brackets are {', '.join(known) or 'no values'}, each once"
        )
    try:
        values = {name: ast.literal_eval(node) for name, node in pairs}
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{kind} is {shown(text)}; allowed are plain values in its brackets") from error
    for name, each in known.items():
        if name not in values and each.default is each.empty:
            raise ValueError(f"{kind} is {shown(text)}; it needs a value for {name}")
        if name in values and not fits(values[name], str(each.annotation)):
            raise ValueError(
                f"{kind} has {name} = {shown(values[name])}; allowed is a value of the kind {each.annotation}"
            )
    return values


def plain_option(name: str, value: Any) -> bool:
    """Whether a network's option is true or false, a small positive whole number or a short list of them."""
    many = value if isinstance(value, (list, tuple)) else [value]
    most = MOST_LAYERS if name == "layers" else 65536
    return isinstance(value, bool) or (0 < len(many) <= 4 and all(type(v) is int and 1 <= v <= most for v in many))


def outline(build: Callable[..., nn.Module], width: float) -> nn.Module:
    """A network's shapes without its numbers, once it is certain that it can be built and is no larger than a gigabyte."""
    name = getattr(getattr(build, "func", build), "__name__", "build")
    try:
        with torch.device("meta"):
            net = build(width)
    except Exception as error:  # whatever a constructor chokes on, it is an option that somebody else chose
        raise ValueError(f"{name} cannot be built with these options: {said(error)}") from error
    if (count := parameters(net)) > MOST_PARAMETERS:
        raise ValueError(f"{name} has {count} parameters with these options; allowed are {MOST_PARAMETERS}")
    return net


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
        ValueError: the name is unknown (the nearest is given), or its options are; or it would have more than 2^28 parameters.

    Example:
        >>> network_named("LeNet(multiple=2)")(1.0)[1].out_channels
        12
    """
    build = called("network", text, NETWORKS, first=1)
    for name, value in build.keywords.items():
        if not plain_option(name, value):
            raise ValueError(f"network has {name} = {shown(value)}; allowed is a whole number from 1, or a few of them")
    outline(build, 1.0)
    return build


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
    if isinstance(text, str) and text.strip() == "averaged":  # without constants: the step is the function itself
        return server.averaged
    return called("server", text, SERVERS)()


def merging_named(text: str) -> defences.Merging:
    """Return the way of merging that is written as a name or a call, such as ``merge``, ``median`` or ``trimmed(0.2)``.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its constants are.

    Example:
        >>> merging_named("median").__name__
        'median'
    """
    plain = by_name(merge, defences.median)  # those without constants are the functions themselves
    if isinstance(text, str) and text.strip() in plain:
        return plain[text.strip()]
    return called("merging", text, {**plain, **MERGINGS})()


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
    if not isinstance(text, str):
        raise ValueError(f"allocation is {shown(text)}; allowed is a word")
    if text.strip() == "allocate":  # with its default objective
        return partial(allocate, rational=rational)
    if text.split("(")[0].strip() in OBJECTIVES:
        objective = called("allocation", text, OBJECTIVES)()
        return partial(allocate, objective=objective, rational=rational)
    rule = called("allocation", text, {"allocate": allocate, **OBJECTIVES, **RULES}, first=2)
    if rational or rule.func is allocate:
        kept = f"allocate, {', '.join(OBJECTIVES)}"
        raise ValueError(
            f"allocation is {shown(text)} and rational {rational}; allowed is rational False, or one of {kept}"
        )
    return rule
