"""Words for what is otherwise passed as a function: a parameter from a command line names a partition or a network.

A word is written like a call, ``imbalanced(0.4, holders=2)``; only names of this package and plain values are read, and
nothing is evaluated.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from . import local
from ._io import error_text, short_repr
from .aggregation import robust, server_optimizers
from .allocation import rules
from .allocation.exact import Plan, allocate, gain_minus_variance, spread_minus_gain, spread_only, spread_per_gain
from .baselines.cffl import cffl
from .baselines.cgsv import cgsv
from .baselines.fedavg import fedavg, fedavg_finetuned
from .baselines.fedsac import fedsac
from .baselines.iafl import iafl
from .baselines.lg_fedavg import lg_fedavg
from .baselines.shapfed import shapfed, shapfed_wa
from .config import Config
from .contribution import affine_calibration
from .data import partition as partitions
from .evaluation import Curve, accuracy
from .method import Algorithm, aequa, earned
from .networks.conv import BatchResNet18, ConvNet, LeNet, ResNet18
from .networks.mlp import MLP
from .networks.text import TextCNN, Transformer
from .slimmable import aggregate, n_parameters
from .types import Dataset, Samples, Shard

__all__ = [
    "aggregation",
    "algorithm",
    "algorithms",
    "allocation",
    "contribution",
    "folder_named",
    "network",
    "partition",
    "server_optimizer",
    "width_sampler",
]


LONGEST = 100_000  # letters of a word: room for a thousand widths


MOST_PARAMETERS = 1 << 28  # of a network that is named by somebody else: a gigabyte


MOST_LAYERS = 64


KINDS = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "None": (type(None),)}


def by_name(*functions: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Functions by their names."""
    return {each.__name__: each for each in functions}


PARTITIONS = by_name(
    partitions.by_size,
    partitions.class_imbalance,
    partitions.dirichlet,
    partitions.homogeneous,
    partitions.imbalanced,
    partitions.label_skew,
    partitions.natural,
    partitions.power_law,
    partitions.quantity_dirichlet,
)


NETWORKS = by_name(  # the one list of networks: rewards are read back by it too
    MLP,
    LeNet,
    ConvNet,
    ResNet18,
    BatchResNet18,
    TextCNN,
    Transformer,
)


WIDTH_SAMPLERS = by_name(local.full_and_random, local.full_only, local.one_random, local.sandwich)


SERVERS = by_name(server_optimizers.fedavg, server_optimizers.fedavgm, server_optimizers.fedadam)


AGGREGATIONS = by_name(robust.norm_clipping, robust.norm_screening, robust.trimmed_mean, robust.dp_gaussian)


RULES = by_name(rules.anneal, rules.capped, rules.generous, rules.proportional, rules.thresholded)


OBJECTIVES = by_name(gain_minus_variance, spread_minus_gain, spread_only, spread_per_gain)


def _unknown_word(kind: str, text: str, name: str, known: Iterable[str]) -> ValueError:
    """The refusal of a name that is unknown."""
    near = get_close_matches(name[:100], list(known), n=1, cutoff=0.0)[0]
    return ValueError(f"{kind} is {short_repr(text)}; allowed is one of {', '.join(known)}; the nearest is {near!r}")


def fits(value: Any, kind: str) -> bool:
    """Whether a value is of an annotated kind, such as ``float | None``; a truth is no number."""
    each = [KINDS.get(word, (object,)) for word in kind.split(" | ")]
    return isinstance(value, sum(each, ())) and ("bool" in kind or (object,) in each or not isinstance(value, bool))


def called(kind: str, text: str, known: dict[str, Callable[..., Any]], first: int = 0) -> partial:
    """The function that a word names, bound to the plain values in its brackets; ``first`` arguments come later."""
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ValueError(f"{kind} is {short_repr(text)}; allowed is a word of up to {LONGEST} letters")
    try:
        found: Any = ast.parse(text.strip(), mode="eval").body
        call = found if isinstance(found, ast.Call) else ast.Call(found, [], [])
        if not isinstance(call.func, ast.Name) or call.func.id not in known:
            raise _unknown_word(kind, text, ast.unparse(call.func), known)
    except (SyntaxError, RecursionError, MemoryError) as error:  # the last two: nested beyond reason
        raise _unknown_word(kind, text, text, known) from error
    function = known[call.func.id]
    return partial(function, **_values(kind, text, call, function, first))


def _values(kind: str, text: str, call: ast.Call, function: Callable[..., Any], first: int) -> dict[str, Any]:
    """The plain values in a word's brackets, by the names of the function's own arguments."""
    known = dict(list(inspect.signature(function).parameters.items())[first:])
    pairs = [*zip(known, call.args), *((str(each.arg), each.value) for each in call.keywords)]
    if len(call.args) > len(known) or len(dict(pairs)) < len(pairs) or not set(dict(pairs)) <= set(known):
        raise ValueError(
            f"{kind} is {short_repr(text)}; allowed in its brackets are {', '.join(known) or 'no values'}, each once"
        )
    try:
        values = {name: ast.literal_eval(node) for name, node in pairs}
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{kind} is {short_repr(text)}; allowed are plain values in its brackets") from error
    for name, each in known.items():
        if name not in values and each.default is each.empty:
            raise ValueError(f"{kind} is {short_repr(text)}; it needs a value for {name}")
        if name in values and not fits(values[name], str(each.annotation)):
            raise ValueError(
                f"{kind} has {name} = {short_repr(values[name])}; allowed is a value of the kind {each.annotation}"
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
        raise ValueError(f"{name} cannot be built with these options: {error_text(error)}") from error
    if (count := n_parameters(net)) > MOST_PARAMETERS:
        raise ValueError(f"{name} has {count} parameters with these options; allowed are {MOST_PARAMETERS}")
    return net


def partition(text: str) -> Callable[[Samples, Config], list[Shard]]:
    """Return the partition that is written as a call, such as ``dirichlet(0.5)`` or ``imbalanced(0.4, 2)``.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its values are not plain or too many.

    Example:
        >>> partition("label_skew(3)").func.__name__
        'label_skew'
    """
    return called("partition", text, PARTITIONS, first=2)


def network(text: str) -> Callable[..., nn.Module]:
    """Return the network that is written as a name or a call, such as ``MLP`` or ``LeNet(multiple=2)``.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its options are; or it would have more than 2^28 parameters.

    Example:
        >>> network("LeNet(multiple=2)")(1.0)[1].out_channels
        12
    """
    build = called("network", text, NETWORKS, first=1)
    for name, value in build.keywords.items():
        if not plain_option(name, value):
            raise ValueError(
                f"network has {name} = {short_repr(value)}; allowed is a whole number from 1, or a few of them"
            )
    outline(build, 1.0)
    return build


def width_sampler(text: str) -> local.WidthSampler:
    """Return the draw of widths of that name, such as ``full_and_random``.

    Raises:
        ValueError: the name is unknown; the nearest is given.

    Example:
        >>> width_sampler("sandwich").func.__name__
        'sandwich'
    """
    return called("draw", text, WIDTH_SAMPLERS, first=3)


def server_optimizer(text: str) -> server_optimizers.ServerOptimizer:
    """Return the server step that is written as a name or a call, such as ``averaged`` or ``with_momentum(0.5)``.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its constants are.

    Example:
        >>> server_optimizer("averaged").__name__
        'averaged'
    """
    if isinstance(text, str) and text.strip() == "averaged":  # without constants: the step is the function itself
        return server_optimizers.fedavg
    return called("server", text, SERVERS)()


def aggregation(text: str) -> robust.Aggregator:
    """Return the way of merging that is written as a name or a call, such as ``merge``, ``median`` or ``trimmed(0.2)``.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its constants are.

    Example:
        >>> aggregation("median").__name__
        'median'
    """
    plain = by_name(aggregate, robust.coordinate_median)  # those without constants are the functions themselves
    if isinstance(text, str) and text.strip() in plain:
        return plain[text.strip()]
    return called("merging", text, {**plain, **AGGREGATIONS})()


def allocation(text: str, individually_rational: bool = False) -> Callable[[Any, Curve], Plan]:
    """Return the allocation that is written as a name or a call: ``allocate``, an objective of it, or another rule.

    Objectives such as ``spread_only`` or ``gain_minus_variance(1.0)`` mean :func:`~aequa_lite.allocate` with that objective; rules are
    such as ``proportional`` or ``capped(0.02)``. ``individually_rational``: nobody's predicted accuracy below its contribution.

    Raises:
        ValueError: the name is unknown (the nearest is given), its constants are, or a rule cannot be ``individually_rational``.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> allocation("proportional")([0.4, 0.8], curve).widths.tolist()
        [0.1, 1.0]
    """
    if not isinstance(text, str):
        raise ValueError(f"allocation is {short_repr(text)}; allowed is a word")
    if text.strip() == "allocate":  # with its default objective
        return partial(allocate, individually_rational=individually_rational)
    if text.split("(")[0].strip() in OBJECTIVES:
        objective = called("allocation", text, OBJECTIVES)()
        return partial(allocate, objective=objective, individually_rational=individually_rational)
    rule = called("allocation", text, {"allocate": allocate, **OBJECTIVES, **RULES}, first=2)
    if individually_rational or rule.func is allocate:
        kept = f"allocate, {', '.join(OBJECTIVES)}"
        raise ValueError(
            f"allocation is {short_repr(text)} and rational {individually_rational}; allowed is rational False, or one of {kept}"
        )
    return rule


ALGORITHMS = by_name(  # the one list of methods: a new one is added here
    aequa,
    earned,
    fedavg,
    fedavg_finetuned,
    lg_fedavg,
    cffl,
    cgsv,
    iafl,
    shapfed,
    shapfed_wa,
    fedsac,
)


def algorithm(text: str) -> Algorithm:
    """Return the method that is written as a name or a call, such as ``fedavg`` or ``cgsv(0.15, beta=1.0)``.

    Its ``run(build, shards, recipe, data, alone, contribution)`` returns what a report needs: :class:`~aequa_lite.Outcome`.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its constants are.

    Example:
        >>> algorithm("cgsv(0.15, beta=1.0)").name
        'cgsv'
    """
    return called("method", text, ALGORITHMS)()


def listed(text: str) -> list[str]:
    """Split a list of calls at its outer commas: each word as it was written, without the spaces around it.

    Raises:
        ValueError: this is no list of calls, or a call stands in it twice.

    Example:
        >>> listed("aequa, imbalanced(0.4, 2)")
        ['aequa', 'imbalanced(0.4, 2)']
    """
    refusal = ValueError(f"methods is {short_repr(text)}; allowed is a list such as 'aequa, fedavg'")
    if not isinstance(text, str) or len(text) > LONGEST:
        raise refusal
    try:
        found: Any = ast.parse(f"({text.strip()},)", mode="eval").body
        words = [ast.unparse(each) for each in found.elts]
    except (SyntaxError, AttributeError, ValueError, RecursionError, MemoryError) as error:
        raise refusal from error
    if len({folder_named(word) for word in words} - {""}) < len(words):
        raise ValueError(f"methods is {short_repr(text)}; allowed is each method once, by a name")
    return words


def algorithms(text: str, **constants: Any) -> dict[str, Algorithm]:
    """Return the methods of a comma-separated list, by their words; ``constants`` go to those that have them.

    A constant in a method's own brackets comes first.

    Raises:
        ValueError: a name is unknown (the nearest is given), stands twice, or its constants do not fit.

    Example:
        >>> list(algorithms("aequa(draw='sandwich'), fedavg", draw="full_only", individually_rational=False))
        ["aequa(draw='sandwich')", 'fedavg']
    """
    found = {}
    for word in listed(text):
        call = called("method", word, ALGORITHMS)
        has = inspect.signature(call.func).parameters
        found[word] = partial(call.func, **{k: v for k, v in constants.items() if k in has} | call.keywords)()
    return found


def folder_named(word: str) -> str:
    """Return the folder in which a method leaves its report: its word without what a path may not hold.

    Example:
        >>> folder_named("cgsv(0.15, beta=1.0)")
        'cgsv(0.15,beta=1.0)'
    """
    return re.sub(r"[^\w.,()=-]", "", word)


def _standalone_accuracy(alone: Sequence[nn.Module], shards: Sequence[Shard], data: Dataset) -> np.ndarray:
    """The validation accuracy of the models trained alone."""
    return accuracy(alone, data.validation)


def _shard_size(alone: Sequence[nn.Module], shards: Sequence[Shard], data: Dataset) -> np.ndarray:
    """The number of samples, stretched over the accuracies reached alone."""
    reached = accuracy(alone, data.validation)
    return affine_calibration([len(shard) for shard in shards], float(reached.min()), float(reached.max()))


def _test_accuracy(alone: Sequence[nn.Module], shards: Sequence[Shard], data: Dataset) -> np.ndarray:
    """The test accuracy of the models trained alone: what fairness is then measured against."""
    return accuracy(alone, data.test)


CONTRIBUTIONS = {"alone": _standalone_accuracy, "size": _shard_size, "circular": _test_accuracy}


def contribution(text: str, individually_rational: bool = False) -> Callable[..., np.ndarray]:
    """Return what says who brought what, ``(models alone, shards, data) -> (n,)`` on the scale of accuracies.

    ``alone``: validation accuracy of the models trained alone; ``size``: samples held, stretched over those accuracies;
    ``circular``: *test* accuracy of the models trained alone, as the released code of FedSAC and FedRAC has it, which
    then measures fairness against the same numbers: for comparison with their figures only.

    Raises:
        ValueError: the name is unknown, or ``individually_rational`` is asked of contributions that are not what was reached alone.

    Example:
        >>> contribution("alone").__name__
        '_alone'
    """
    if not isinstance(text, str) or text not in CONTRIBUTIONS:
        near = get_close_matches(str(text)[:100], CONTRIBUTIONS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"contribution is {short_repr(text)}; allowed is one of {', '.join(CONTRIBUTIONS)}; the nearest is {near!r}"
        )
    if individually_rational and text == "size":
        raise ValueError(
            "rational is True and contribution 'size'; allowed is rational False, since sizes are no accuracies"
        )
    return CONTRIBUTIONS[text]
