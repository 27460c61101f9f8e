"""One run from its parameters: refused at once where they do not fit, and everything it needs by the word that names it."""

from __future__ import annotations

import ast
import inspect
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from .calibrate import affine_calibration
from .downloads import NAMES, folder_of_data
from .files import shown, whole
from .judge import accuracy, accuracy_curve
from .methods import METHODS
from .names import LONGEST, called, fits
from .records import Data, Recipe, Report, Shard
from .report import report
from .rivals import Method, Paid
from .slim import Build

__all__ = [
    "check_parameters",
    "comparison",
    "compete",
    "contribution_named",
    "folder_named",
    "located",
    "methods_named",
]


def check_parameters(cells: Iterable[str], values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a notebook's parameters; refuse what was passed and is none of them, or of another kind.

    ``cells``: the sources that ran so far (``In`` in a notebook): the first one with annotated values declares the
    parameters, a later one without annotations sets them, as papermill does, which itself lets unknown names pass.
    ``values``: the notebook's names (``globals()``), from which annotated ones are taken where no sources were kept, as
    under nbval.

    Raises:
        ValueError: a name is unknown (the nearest is given), or a value is not of the declared kind.

    Example:
        >>> check_parameters(["rounds: int = 20", "roundz = 3"])
        Traceback (most recent call last):
        ValueError: 'roundz' is no parameter; the nearest is 'rounds'
    """
    declared: dict[str, str] = {}
    given: dict[str, Any] = {}
    for cell in cells:
        for name, kind, value in _assigned(cell):
            if kind:
                declared[name] = kind
            elif declared and name not in declared:
                near = get_close_matches(name, declared, n=1, cutoff=0.0)[0]
                raise ValueError(f"{shown(name)} is no parameter; the nearest is {near!r}")
            elif declared and not fits(value, declared[name]):
                raise ValueError(f"{name} is {shown(value)}; allowed is a value of the kind {declared[name]}")
            given[name] = value
    if not declared and values is not None:
        return {name: values[name] for name in values.get("__annotations__", {})}
    return {name: given[name] for name in declared}


def _assigned(cell: str) -> list[tuple[str, str, Any]]:
    """Name, declared kind ("" for none) and value of a cell that holds nothing but plain values; else nothing."""
    try:
        found = ast.parse(cell).body
        pairs = [
            (node.target, ast.unparse(node.annotation), node.value)
            if isinstance(node, ast.AnnAssign)
            else (node.targets[0], "", node.value)
            for node in found
        ]
        return [(target.id, kind, ast.literal_eval(value)) for target, kind, value in pairs]
    except (SyntaxError, AttributeError, ValueError, TypeError, RecursionError, MemoryError):
        return []  # a cell that does something sets no parameters


def listed(text: str) -> list[str]:
    """Split a list of calls at its outer commas: each word as it was written, without the spaces around it.

    Raises:
        ValueError: this is no list of calls, or a call stands in it twice.

    Example:
        >>> listed("aequa, imbalanced(0.4, 2)")
        ['aequa', 'imbalanced(0.4, 2)']
    """
    refusal = ValueError(f"methods is {shown(text)}; allowed is a list such as 'aequa, fedavg'")
    if not isinstance(text, str) or len(text) > LONGEST:
        raise refusal
    try:
        found: Any = ast.parse(f"({text.strip()},)", mode="eval").body
        words = [ast.unparse(each) for each in found.elts]
    except (SyntaxError, AttributeError, ValueError, RecursionError, MemoryError) as error:
        raise refusal from error
    if len({folder_named(word) for word in words} - {""}) < len(words):
        raise ValueError(f"methods is {shown(text)}; allowed is each method once, by a name")
    return words


def methods_named(text: str, **constants: Any) -> dict[str, Method]:
    """Return the methods of a comma-separated list, by their words; ``constants`` go to those that have them.

    A constant in a method's own brackets comes first.

    Raises:
        ValueError: a name is unknown (the nearest is given), stands twice, or its constants do not fit.

    Example:
        >>> list(methods_named("aequa(draw='sandwich'), fedavg", draw="full_only", rational=False))
        ["aequa(draw='sandwich')", 'fedavg']
    """
    found = {}
    for word in listed(text):
        call = called("method", word, METHODS)
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


def located(data: str, root: str | Path | None = None) -> str | Path:
    """Return where a data set lies: a folder or file of this name in the folder of data, else the name itself.

    So ``sst2`` means the folder ``sst2`` of AEQUA_DATA, on every machine.

    Example:
        >>> located("fashion-mini")
        'fashion-mini'
    """
    place = folder_of_data(root) / data
    return place if data and data not in NAMES and place.exists() else data


def _alone(alone: Sequence[nn.Module], shards: Sequence[Shard], data: Data) -> np.ndarray:
    """The validation accuracy of the models trained alone."""
    return accuracy(alone, data.validation)


def _size(alone: Sequence[nn.Module], shards: Sequence[Shard], data: Data) -> np.ndarray:
    """The number of samples, stretched over the accuracies reached alone."""
    reached = accuracy(alone, data.validation)
    return affine_calibration([len(shard) for shard in shards], float(reached.min()), float(reached.max()))


def _circular(alone: Sequence[nn.Module], shards: Sequence[Shard], data: Data) -> np.ndarray:
    """The test accuracy of the models trained alone: what fairness is then measured against."""
    return accuracy(alone, data.test)


CONTRIBUTIONS = {"alone": _alone, "size": _size, "circular": _circular}


def contribution_named(text: str, rational: bool = False) -> Callable[..., np.ndarray]:
    """Return what says who brought what, ``(models alone, shards, data) -> (n,)`` on the scale of accuracies.

    ``alone``: validation accuracy of the models trained alone; ``size``: samples held, stretched over those accuracies;
    ``circular``: *test* accuracy of the models trained alone, as the released code of FedSAC and FedRAC has it, which
    then measures fairness against the same numbers: for comparison with their figures only.

    Raises:
        ValueError: the name is unknown, or ``rational`` is asked of contributions that are not what was reached alone.

    Example:
        >>> contribution_named("alone").__name__
        '_alone'
    """
    if not isinstance(text, str) or text not in CONTRIBUTIONS:
        near = get_close_matches(str(text)[:100], CONTRIBUTIONS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"contribution is {shown(text)}; allowed is one of {', '.join(CONTRIBUTIONS)}; the nearest is {near!r}"
        )
    if rational and text == "size":
        raise ValueError(
            "rational is True and contribution 'size'; allowed is rational False, since sizes are no accuracies"
        )
    return CONTRIBUTIONS[text]


def compete(
    methods: Mapping[str, Method],
    build: Build,
    shards: Sequence[Shard],
    recipe: Recipe,
    data: Data,
    alone: Sequence[nn.Module],
    contribution: Sequence[float],
    *,
    partition: str = "",
    out: str | Path,
    progress: bool = True,
) -> Iterator[tuple[str, Paid, Report]]:
    """Run every method on the same shards, models alone and contributions; yield its word, its pay and its report.

    Reports are left in ``out/METHOD/report.json``. A method that fails leaves ``failed.txt`` there instead, and the
    others are run all the same.

    Raises:
        RuntimeError: in the end, when a method failed; the sentence says which and why.

    Example:
        >>> import tempfile
        >>> import aequa_lite as aq
        >>> data, recipe = aq.load("fashion-mini"), aq.Recipe(participants=2, rounds=1, local_steps=1)
        >>> given = aq.MLP, aq.homogeneous(data.train, recipe), recipe, data, [aq.MLP(), aq.MLP()], [0.1, 0.1]
        >>> [word for word, *_ in compete(aq.methods_named("fedavg"), *given, out=tempfile.mkdtemp(), progress=False)]
        ['fedavg']
    """
    failed = {}
    for word, method in methods.items():
        folder, started = Path(out) / folder_named(word), time.perf_counter()
        (folder / "failed.txt").unlink(missing_ok=True)
        try:
            paid = method.run(build, shards, recipe, data, alone, contribution, progress=progress)
            found = _judged(paid, word, build, recipe, data, alone, contribution, partition, started)
        except Exception as error:  # whatever it was, the other methods are still worth their run
            failed[word] = " ".join(f"{type(error).__name__}: {error}".split())
            with whole(folder / "failed.txt") as half:
                half.write_text(failed[word] + "\n")
            continue
        found.save(folder)
        yield word, paid, found
    if failed:
        raise RuntimeError("; ".join(f"{word} failed, {reason}" for word, reason in failed.items()))


def _judged(
    paid: Paid,
    word: str,
    build: Build,
    recipe: Recipe,
    data: Data,
    alone: Sequence[nn.Module],
    contribution: Sequence[float],
    partition: str,
    started: float,
) -> Report:
    """The report of a method's final round."""
    curve = paid.curve
    test = (
        None
        if curve is None
        else accuracy_curve(build, paid.last.theta, data.test, grid=curve.widths, fading=curve.fading)
    )
    return report(
        paid.models,
        alone,
        paid.plan,
        curve,
        data,
        recipe,
        test_curve=test,
        contribution=contribution,
        partition=partition,
        method=word,
        seconds=time.perf_counter() - started,
        parameters_sent=paid.parameters_sent,
        left_out=paid.left_out,
    )


def comparison(reports: Mapping[str, Report]) -> str:
    """Lay the reports of several methods out as text, a line for each.

    Best and mean reward, gains in points (mean, spread, least), Pearson, how many are significantly worse off than alone,
    and millions of numbers sent.

    Example:
        >>> import aequa_lite as aq
        >>> data, nets = aq.load("fashion-mini"), [aq.MLP(), aq.MLP(0.5)]
        >>> print(comparison({"same": aq.report(nets, nets, None, None, data, aq.Recipe(participants=2))}).split()[0])
        method
    """
    wide = max(len(word) for word in ("method", *reports))
    lines = [f"{'method':<{wide}}   best   mean  Pearson    MCG    CGS  least gain  worse off  millions sent"]
    for word, found in reports.items():
        f, paid = found.fairness, found.test_accuracy
        pearson = "   none" if f["pearson"] is None else f"{f['pearson']:7.3f}"
        lines.append(
            f"{word:<{wide}}  {max(paid):5.3f}  {sum(paid) / len(paid):5.3f}  {pearson}  {100 * f['mcg']:5.2f}"
            f"  {100 * f['cgs']:5.2f}  {100 * f['min_gain']:10.2f}  {len(f['worse_off']):9}"
            f"  {found.parameters_sent / 1e6:13.1f}"
        )
    return "\n".join(lines)
