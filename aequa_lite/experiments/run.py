"""A run from its parameters; what the notebooks use: parameters that are checked, the live source of a function."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .._check import checked, one_of, refusal
from .._io import printable, write_whole
from ..aggregation import validation_weights
from ..config import Config
from ..contribution import affine_calibration
from ..data.load import load
from ..data.readers import NAMES, data_folder
from ..evaluation import accuracy
from ..method import Algorithm, Outcome, Problem, Train, train
from ..networks.base import for_dataset
from ..registry import algorithm, allocation, lookup, network, word_list
from ..report import Report, owners
from ..rewards import clear
from ..types import Dataset, Shard
from ..vectorized import half_precision

MOST_NAME_BYTES = 150  # of a folder; file systems allow 255


class Source(str):
    """Python source that a notebook displays as a highlighted block.

    Example:
        >>> Source("x = 1")
        'x = 1'
    """

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}\n```"


@checked
def show_source(function: Callable[..., Any]) -> Source:
    """Return the source of a function or class as it runs now, without its docstring and the check of its arguments.

    Example:
        >>> from aequa_lite import n_parameters
        >>> print(show_source(n_parameters))
        def n_parameters(net: nn.Module) -> int:
            return sum(p.numel() for p in net.parameters())
    """
    lines = [each for each in textwrap.dedent(inspect.getsource(function)).splitlines() if each != "@checked"]
    body = ast.parse("\n".join(lines)).body[0].body  # type: ignore[attr-defined]
    first = body[0]
    if len(body) > 1 and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        del lines[first.lineno - 1 : first.end_lineno]
    return Source("\n".join(lines).strip())


@checked
def check_parameters(cells: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a notebook's parameters; refuse one that was passed and not declared.

    Args:
        cells: Sources that ran so far (`In` in a notebook). Annotated names are the parameters; those that are passed stand in
            a cell that papermill heads "# Parameters". Papermill itself accepts unknown names.
        values: The notebook's `globals()`.

    Raises:
        ValueError: A name is unknown (the nearest is given).

    Example:
        >>> check_parameters(["rounds: int = 20", "# Parameters\\nrounds = 3"], {"rounds": 3})
        {'rounds': 3}
    """
    declared = list(values.get("__annotations__", {}))
    for cell in cells:
        with suppress(SyntaxError):  # a cell with a command of IPython
            nodes = ast.parse(cell).body
            declared += [ast.unparse(node.target) for node in nodes if isinstance(node, ast.AnnAssign)]
        for name in re.findall(r"^(\w+) = ", cell, re.M) if cell.startswith("# Parameters") else ():
            one_of("parameter", name, declared)
    return {name: values[name] for name in declared if name in values}


@checked
@dataclass(frozen=True)
class Setup:
    """Hold the words of a run; its numbers are in a `Config`.

    Args:
        data: Name of a data set, or the path of a file or folder.
        label: Of a .csv file, the column that is predicted.
        participant: Of a .csv file, the column that says whose a row is: with the partition `natural`.
        drop: Of a .csv file, columns that are left out, separated by commas.
        categorical: Of a .csv file, columns whose numbers are categories, separated by commas.
        root: Folder of downloaded data (default: AEQUA_DATA).
        partition: How training samples are split: `homogeneous`, `dirichlet(0.5)`, `natural`, ...
        network: `MLP`, `LeNet`, `TabularMLP`, ..., options in brackets.
        methods: Algorithms that compete, such as "aequa, fedavg, cgsv(0.15)".
        contribution: `standalone_accuracy`, `shard_size` or, to compare with peers that do so, `test_accuracy`.
        allocation: `allocate`, `spread_only`, `proportional`, `capped(0.02)`, ...
        individually_rational: Nobody is predicted below what it reaches alone, where that is possible.
        width_sampler: The widths of a local step: `full_and_random`, `sandwich`, ...
        server: What the server does with the aggregate: `fedavg`, `fedavgm(0.5)`, `fedadam(0.01)`.
        aggregate: How slices become one network: `aggregate`, `coordinate_median`, `trimmed_mean(0.2)`.
        schedule: `training_time(0.02)` rewards while training; empty: after training.
        validation_weights: Updates are weighted by their validation accuracy, to `contribution_power`.
        mixed_precision: Half precision in the passes, on a GPU only.
        device: `cpu`, `cuda`, `cuda:1`, ...; empty: a GPU where there is one.

    Raises:
        ValueError: A word is unknown or contradicts another.

    Example:
        >>> Setup(partition="dirichlet(0.5)").network
        'MLP'
    """

    data: str = "fashion-mini"
    label: str = ""
    participant: str = ""
    drop: str = ""
    categorical: str = ""
    root: str = ""
    partition: str = "power_law"
    network: str = "MLP"
    methods: str = "aequa"
    contribution: str = "standalone_accuracy"
    allocation: str = "allocate"
    individually_rational: bool = True
    width_sampler: str = "full_and_random"
    server: str = "fedavg"
    aggregate: str = "aggregate"
    schedule: str = ""
    validation_weights: bool = False
    mixed_precision: bool = False
    device: str = ""

    def __post_init__(self) -> None:
        for kind in ("partition", "contribution", "width_sampler", "server", "aggregate"):
            lookup(kind, getattr(self, kind))
        if self.participant and self.partition != "natural":
            raise refusal("partition", "'natural' where `participant` names the owners", self.partition)
        network(self.network)
        allocation(self.allocation, self.individually_rational)
        if self.schedule:
            lookup("schedule", self.schedule)
        for word in word_list("methods", self.methods):
            lookup("algorithm", word)
        if self.individually_rational and self.contribution == "shard_size":
            raise refusal("individually_rational", "False with contribution shard_size: sizes are no accuracies", True)


@checked
def split_parameters(values: Mapping[str, Any]) -> tuple[Setup, Config]:
    """Split parameters into words and numbers; refuse what is neither.

    Raises:
        ValueError: A name is unknown (the nearest is given), or a value does not fit.

    Example:
        >>> setup, config = split_parameters({"partition": "homogeneous", "rounds": 3})
        >>> setup.partition, config.rounds
        ('homogeneous', 3)
    """
    words, numbers = ({each.name for each in fields(kind)} for kind in (Setup, Config))
    for name in values:
        one_of("parameter", name, sorted(words | numbers))
    setup = Setup(**{k: v for k, v in values.items() if k in words})
    config = Config.from_dict({k: v for k, v in values.items() if k in numbers})
    if setup.validation_weights and not config.contribution_power:
        raise refusal("validation_weights", "False with contribution_power 0", True)
    return setup, config


@checked
def prepare(setup: Setup, config: Config) -> tuple[Dataset, Callable[[float], nn.Module], list[Shard]]:
    """Load the data, fit the network to it, and split the training samples.

    Example:
        >>> data, build, shards = prepare(Setup(), Config(participants=3))
        >>> len(shards), len(data.test), build(1.0)[-1].out_features
        (3, 4000, 10)
    """
    root, device = setup.root or None, setup.device or None
    columns: dict[str, Any] = {k: getattr(setup, k) for k in ("label", "participant") if getattr(setup, k)}
    lists = {k: getattr(setup, k) for k in ("drop", "categorical") if getattr(setup, k)}
    columns |= {k: [each.strip() for each in text.split(",")] for k, text in lists.items()}
    data = load(locate(setup.data, root), root=root, device=device, seed=config.seed, **columns)
    build = for_dataset(network(setup.network), data)
    return data, build, lookup("partition", setup.partition)(data.train, config)


def reading_of(data: Dataset, shards: Sequence[Shard]) -> str:
    """Return what was read, in a few lines: samples, columns, labels, and whose training samples are whose."""
    sizes = ", ".join(f"{count:,} {split}" for split, count in data.sizes.items())
    labels = ", ".join(data.labels) if len(data.labels) <= 12 else ""
    lines = [f"{data.name}: {sizes} samples; {data.train.classes} classes {labels}".rstrip()]
    if data.encoder is not None:
        lines.append(f"columns: {', '.join(each.name for each in data.encoder.columns)}")
    names = [name or f"participant {i}" for i, name in enumerate(owners(data, shards))]
    lines.append("training samples: " + ", ".join(f"{name} {len(shard):,}" for name, shard in zip(names, shards)))
    left = sorted(set(data.participants) - set(names))
    if 0 < len(left) < len(data.participants):
        lines.append(f"not taking part ({len(names)} of {len(data.participants)} do): {', '.join(left)}")
    return "\n".join(map(printable, lines))


def algorithms(setup: Setup, problem: Problem) -> dict[str, Algorithm]:
    """The setup's algorithms by their words; its other words go to those that take them."""
    power, device = problem.config.contribution_power, problem.validation.y.device
    constants = {
        "schedule": lookup("schedule", setup.schedule) if setup.schedule else None,
        "allocation": allocation(setup.allocation, setup.individually_rational),
        "width_sampler": lookup("width_sampler", setup.width_sampler),
        "server": None if setup.server == "fedavg" else lookup("server", setup.server),
        "aggregate": lookup("aggregate", setup.aggregate),
        "reweight": validation_weights(problem.build, problem.validation, power) if setup.validation_weights else None,
        "precision": half_precision(device) if setup.mixed_precision else None,
    }
    return {word: algorithm(word, **constants) for word in word_list("methods", setup.methods)}


@checked
def compete(
    setup: Setup, problem: Problem, out: Path | str, *, keep: bool = False, train: Train = train, **options: Any
) -> Iterator[tuple[str, Outcome]]:
    """Run every algorithm on the same problem; yield its word and its outcome.

    Reports go to `out/METHOD/report.json`. An algorithm that fails leaves `failed.txt` there; the others still run.

    Args:
        keep: Write the rewarded models too.
        train: Trains a problem's network with a strategy.
        options: Of `federate`.

    Raises:
        RuntimeError: At the end, if an algorithm failed; the sentence says which and why.

    Example:
        >>> import tempfile
        >>> from aequa_lite.method import assess
        >>> setup, config = Setup(methods="fedavg"), Config(participants=2, rounds=1, local_steps=1)
        >>> data, build, shards = prepare(setup, config)
        >>> problem = assess(build, shards, config, data, progress=False)
        >>> [word for word, _ in compete(setup, problem, tempfile.mkdtemp(), progress=False)]
        ['fedavg']
    """
    failed = {}
    for word, chosen in algorithms(setup, problem).items():
        folder = Path(out) / folder_name(word)
        for earlier in ("failed.txt", "report.json"):
            (folder / earlier).unlink(missing_ok=True)
        clear(folder / "rewards")
        try:
            started = replace(problem, started=time.perf_counter())
            outcome = chosen(started, train=partial(train, **options))
            outcome = replace(outcome, method=word, partition=setup.partition)
            _ = outcome.report  # what fails here is a failure of this algorithm too
        except Exception as error:  # whatever it was, the others are still worth their run
            failed[word] = " ".join(f"{type(error).__name__}: {error}".split())
            write_whole(folder / "failed.txt", failed[word] + "\n")
            continue
        (outcome if keep else outcome.report).save(folder)
        yield word, outcome
    if failed:
        raise RuntimeError("; ".join(f"{word} failed, {reason}" for word, reason in failed.items()))


@checked
def folder_name(word: str) -> str:
    """Return the folder of a method's report: its word without what a path may not hold.

    Example:
        >>> folder_name("cgsv(0.15, beta=1.0)")
        'cgsv(0.15,beta=1.0)'
    """
    name = re.sub(r"[^\w.,()=-]", "", word)
    if len(name.encode()) <= MOST_NAME_BYTES:
        return name
    short = name.encode()[:MOST_NAME_BYTES].decode(errors="ignore")
    return f"{short}-{hashlib.sha256(word.encode()).hexdigest()[:8]}"


@checked
def locate(data: str, root: str | Path | None = None) -> str | Path:
    """Return where a data set lies: a folder or file of this name in the folder of data, else the name itself.

    So `sst2` means the folder `sst2` of AEQUA_DATA, on every machine.

    Example:
        >>> locate("fashion-mini")
        'fashion-mini'
    """
    place = data_folder(root) / data
    return place if data and data not in NAMES and place.exists() else data


def shard_size(alone: Sequence[nn.Module], shards: Sequence[Shard], data: Dataset) -> NDArray[np.float64]:
    """Return the shard sizes, stretched over the range of stand-alone accuracies, (n,)."""
    reached = accuracy(alone, data.validation)
    return affine_calibration([len(shard) for shard in shards], float(reached.min()), float(reached.max()))


def test_accuracy(alone: Sequence[nn.Module], shards: Sequence[Shard], data: Dataset) -> NDArray[np.float64]:
    """Return the *test* accuracy of the models trained alone, (n,): circular, for comparison only.

    Fairness is then measured against the same numbers, as in the released code of FedRAC.
    """
    return accuracy(alone, data.test)


@checked
def comparison(reports: Mapping[str, Report]) -> str:
    """Lay the reports of several methods out as text, a line for each.

    Best and mean reward, Pearson, gains in points (mean, spread, smallest), how many are significantly worse off than
    alone, and millions of numbers sent.

    Example:
        >>> comparison({}).split()[0]
        'method'
    """
    wide = max(len(word) for word in ("method", *reports))
    lines = [f"{'method':<{wide}}   best   mean  Pearson    MCG    CGS  least gain  worse off  millions sent"]
    for word, found in reports.items():
        f, rewards = found.fairness, found.test_accuracy
        pearson = "   none" if f["pearson"] is None else f"{f['pearson']:7.3f}"
        lines.append(
            f"{word:<{wide}}  {max(rewards):5.3f}  {sum(rewards) / len(rewards):5.3f}  {pearson}  {100 * f['mcg']:5.2f}"
            f"  {100 * f['cgs']:5.2f}  {100 * f['min_gain']:10.2f}  {len(f['worse_off']):9}"
            f"  {found.parameters_sent / 1e6:13.1f}"
        )
    return "\n".join(lines)
