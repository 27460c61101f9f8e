"""Words that stand for functions: for YAML files, papermill and the command line.

A word is written like a call, `imbalanced(0.4, holders=2)`: names of the tables below and plain values, nothing is
evaluated. The library itself takes functions, and the names of data sets. A new function is listed beside its file in
`FUNCTIONS`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from importlib import import_module
from typing import Any

import torch
from torch import nn

from ._check import checked, one_of, refusal
from ._io import explaining, short_repr

__all__ = ["TABLES", "algorithm", "allocation", "lookup", "network", "word_list"]

# kind -> file -> its functions that are words; "word=function" where they differ; "()" behind it: a factory, which is called
FUNCTIONS: Mapping[str, Mapping[str, str]] = {
    "network": {"networks.models": "MLP TabularMLP LeNet ConvNet ResNet18 BatchResNet18 TextCNN Transformer"},
    "data": {"data.readers": "fashion-mini=embedded", "data.hospitals": "hospitals"},
    "partition": {
        "data.partition": "by_size class_imbalance dirichlet fedrac_dirichlet homogeneous imbalanced label_skew natural "
        "power_law"
    },
    "width_sampler": {"local": "full_and_random full_only one_random sandwich"},
    "server": {"aggregation": "fedavg fedavgm() fedadam()"},
    "aggregate": {
        "slimmable": "aggregate",
        "aggregation": "coordinate_median dp_gaussian() norm_clipping() norm_screening() trimmed_mean()",
    },
    "objective": {"allocation.exact": "gain_minus_variance() spread_minus_gain() spread_only() spread_per_gain()"},
    "allocation": {
        "allocation.exact": "allocate",
        "allocation.rules": "anneal capped generous proportional thresholded",
    },
    "contribution": {"method": "standalone_accuracy", "experiments.run": "shard_size test_accuracy"},
    "schedule": {"training_time": "training_time()"},
    "algorithm": {
        "method": "aequa=slimmable_rewards",
        "baselines.fedavg": "fedavg fedavg_finetuned lg_fedavg",
        "baselines.personal": "cffl cgsv iafl shapfed shapfed_wa",
        "baselines.subnetworks": "fedsac fedrac",
    },
}


def table(files: Mapping[str, str]) -> dict[str, str]:
    """The words of one kind, each with its "file:function"."""
    pairs = [(file, *each.partition("=")[::2]) for file, names in files.items() for each in names.split()]
    return {word.removesuffix("()"): f"{file}:{function or word}" for file, word, function in pairs}


TABLES = {kind: table(files) for kind, files in FUNCTIONS.items()}  # kind -> word -> "file:function"
# how many of a function's first arguments come later; of other kinds: all, unless it is a factory
LATER = {"network": 1, "partition": 2, "allocation": 2, "algorithm": 1}
MOST_PARAMETERS = 1 << 28  # of a network that somebody else names: a gigabyte
MOST_LAYERS = 64


@checked
def lookup(kind: str, text: str) -> Any:
    """Return the function that a word names, bound to the values in its brackets.

    Raises:
        ValueError: The name is unknown (the nearest is given), or its values are not plain, too many, missing or of
            another type.

    Example:
        >>> lookup("partition", "label_skew(3)").keywords
        {'classes_each': 3}
    """
    one_of("kind", kind, TABLES)
    name, call = _parsed(kind, text)
    path = TABLES[kind][one_of(kind, name, TABLES[kind])]
    function, factory = resolve(path), path.endswith("()")
    values = _values(kind, text, call, function, 0 if factory else LATER.get(kind, 99))
    if factory:
        return function(**values)
    return partial(function, **values) if values else function


def resolve(path: str) -> Any:
    """The object at "file:name" in this package."""
    file, name = path.removesuffix("()").split(":")
    return getattr(import_module(f"{__package__}.{file}"), name)


def word_of(kind: str, function: Any) -> str:
    """The word that names a function, for those without values; refused where there is none."""
    for word, path in TABLES[kind].items():
        if resolve(path) is function:
            return word
    raise refusal(kind, f"one that has a word ({', '.join(TABLES[kind])})", function)


def _parsed(kind: str, text: str) -> tuple[str, ast.Call]:
    """The name of a word, and its brackets."""
    try:
        found: Any = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deep
        raise refusal(kind, f"one of {', '.join(TABLES[kind])}", text) from error
    call = found if isinstance(found, ast.Call) else ast.Call(found, [], [])
    name = call.func.id if isinstance(call.func, ast.Name) else text
    return name, call


def _values(kind: str, text: str, call: ast.Call, function: Callable[..., Any], later: int) -> dict[str, Any]:
    """The plain values in a word's brackets, by the function's argument names."""
    known = dict(list(inspect.signature(function).parameters.items())[later:])
    pairs = [*zip(known, call.args), *((str(each.arg), each.value) for each in call.keywords)]
    names = dict(pairs)
    if len(call.args) > len(known) or len(names) < len(pairs) or not set(names) <= set(known):
        raise refusal(kind, f"given values for {', '.join(known) or 'nothing'}, each once", text)
    try:
        values = {name: ast.literal_eval(node) for name, node in pairs}
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise refusal(kind, "given plain values in its brackets", text) from error
    for name, each in known.items():
        if name not in values and each.default is each.empty:
            raise refusal(kind, f"given a value for {name}", text)
        if name in TABLES and isinstance(values.get(name), str):  # a word within a word
            values[name] = allocation(values[name]) if name == "allocation" else lookup(name, values[name])
    made = function.__init__ if isinstance(function, type) else function
    checked(wraps(made)(lambda **_: None))(**values)  # kinds and ranges, before the function itself is called
    return values


@checked
def word_list(kind: str, text: str) -> list[str]:
    """Split a list of words at its outer commas.

    Raises:
        ValueError: It is not such a list, or a word stands in it twice.

    Example:
        >>> word_list("algorithm", "aequa, imbalanced(0.4, 2)")
        ['aequa', 'imbalanced(0.4, 2)']
    """
    allowed = "a list of different words such as 'aequa, fedavg'"
    try:
        found: Any = ast.parse(f"({text.strip()},)", mode="eval").body
        words = [ast.unparse(each) for each in found.elts]
    except (SyntaxError, AttributeError, ValueError, RecursionError, MemoryError) as error:
        raise refusal(kind, allowed, text) from error
    if len(set(words)) < len(words):
        raise refusal(kind, allowed, text)
    return words


@checked
def algorithm(text: str, **constants: Any) -> Callable[..., Any]:
    """Return the algorithm of this word; `constants` go to it if it has arguments of these names.

    A value in the word's own brackets comes first.

    Raises:
        ValueError: The name is unknown, or its values do not fit.

    Example:
        >>> algorithm("aequa", logit=1.0).__name__
        'slimmable_rewards'
    """
    found = lookup("algorithm", text)
    takes, own = inspect.signature(found).parameters, getattr(found, "keywords", {})
    shared = {k: v for k, v in constants.items() if k in takes and k not in own}
    return partial(found, **shared) if shared else found


@checked
def allocation(text: str, individually_rational: bool = False) -> Callable[..., Any]:
    """Return the allocation of this word: `allocate`, an objective of it, or another rule.

    Args:
        individually_rational: Nobody's predicted accuracy lies below its contribution.

    Raises:
        ValueError: The name is unknown, its values do not fit, or a rule cannot be individually rational.

    Example:
        >>> allocation("allocate", True).keywords
        {'individually_rational': True}
    """
    name, _ = _parsed("allocation", text)
    one_of("allocation", name, [*TABLES["allocation"], *TABLES["objective"]])
    options = {"objective": lookup("objective", text)} if name in TABLES["objective"] else {}
    if not options and text.strip() != "allocate":
        if individually_rational or name == "allocate":
            able = f"allocate, {', '.join(TABLES['objective'])}"
            raise refusal("individually_rational", f"False with {short_repr(text)}; True needs one of {able}", True)
        return lookup("allocation", text)
    options |= {"individually_rational": True} if individually_rational else {}
    allocate = resolve(TABLES["allocation"]["allocate"])
    return partial(allocate, **options) if options else allocate


@checked
def network(text: str) -> Callable[..., nn.Module]:
    """Return the constructor that a word names, such as `MLP` or `LeNet(multiple=2)`.

    Raises:
        ValueError: The name or an option is unknown, or it would have more than 2^28 parameters.

    Example:
        >>> network("LeNet(multiple=2)")(1.0)[1].out_channels
        12
    """
    build = lookup("network", text)
    for name, value in getattr(build, "keywords", {}).items():
        if not plain_option(name, value):
            raise refusal(f"network: {name}", "a small whole number from 1, or a few of them", value)
    outline(build, 1.0)
    return build


def plain_option(name: str, value: Any) -> bool:
    """Whether a network's option is True or False, a number in (0, 1e6] or a whole one from 1, or a short list of such."""
    if isinstance(value, (bool, float)):
        return value is False or 0 < value <= 1e6
    many: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    most = MOST_LAYERS if name == "layers" else MOST_PARAMETERS  # each layer takes time to build
    return 0 < len(many) <= 4 and all(type(each) is int and 1 <= each <= most for each in many)


def outline(build: Callable[..., nn.Module], width: float) -> nn.Module:
    """The network on the meta device, if it can be built and has at most 2^28 parameters."""
    name = getattr(getattr(build, "func", build), "__name__", "build")
    # whatever a constructor raises, somebody else chose its options
    with explaining(f"{name} cannot be built with these options", Exception), torch.device("meta"):
        net = build(width)
    count = sum(p.numel() for p in net.parameters())
    if count > MOST_PARAMETERS:
        raise refusal(name, f"a network of at most {MOST_PARAMETERS} parameters", count)
    return net


NETWORKS = {word: resolve(path) for word, path in TABLES["network"].items()}  # the package's own
