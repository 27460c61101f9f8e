"""Many papermill runs from one file: side by side, resumable; a failed run stays a row with its reason.

The file says which notebook is run, which parameters are fixed and which vary: every case at every combination of the
grid is a run (of several grids, if `grid` is a list of them)::

    notebook: notebooks/reproduce.ipynb
    fixed: {participants: 10, methods: "aequa, fedavg"}
    when:
      - {if: {data: sst2}, set: {network: TextCNN}}
    cases: {sandwich: {width_sampler: sandwich}, ours: {}}
    grid: {data: [fashion, sst2], seed: [0, 1, 2]}

Each run leaves its executed notebook and a report of every method under `runs/NAME/`. What is finished is not repeated;
what failed is. A run is claimed by a lock on a file in its folder, which ends with the process, so several processes,
also on machines that share the folder, work on one sweep. The table goes to `results/NAME/`.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import itertools
import json
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import papermill
import torch
import yaml
from torch import nn
from tqdm import tqdm

from .._check import Count, checked, number, one_of, refusal
from .._io import explaining, parse_json, read_limited, short_repr, write_whole
from .._parallel import available
from ..checkpoint import describe
from ..config import Config
from ..federate import Strategy, federation, side_by_side, standalone_many
from ..method import Problem, assess
from ..registry import lookup, word_list
from ..types import Build, Round, Shard
from .run import compete, folder_name, prepare, split_parameters
from .tables import check_table, write_tables

KEYS = ("notebook", "fixed", "when", "cases", "grid")
MOST_BYTES, MOST_RUNS = 1 << 18, 100_000  # of a sweep file; of all that follows from it
ENDED = "ended"  # written last, after reports, rewards and figures: a run that was killed has none
Many = Callable[[list[Any]], list[Any]]  # requests of one kind -> what each gets


@checked
@dataclass(frozen=True)
class Run:
    """Hold one run of a sweep: its label, its parameters and its methods.

    Example:
        >>> Run({"seed": 0}, {"seed": 0, "rounds": 5}, ("aequa", "fedavg")).reports(Path("runs"))["aequa"].parts[-2:]
        ('0-faf17f61', 'aequa')
    """

    label: dict[str, Any]
    parameters: dict[str, Any]
    methods: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Identifies the run by its parameters, without its methods, so that one can be added later."""
        return hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode()).hexdigest()[:8]

    def folder(self, root: Path) -> Path:
        """Its folder: readable by its label, unique by its digest."""
        words = folder_name("-".join(map(str, self.label.values())))
        return root / (f"{words}-{self.digest}" if words else self.digest)

    def reports(self, root: Path) -> dict[str, Path]:
        """The folder of each method's report; a notebook without methods leaves one report in the run's folder."""
        folder = self.folder(root)
        return {word: folder / folder_name(word) for word in self.methods} or {"": folder}

    def missing(self, root: Path, kept: Collection[tuple[str, str]] = ()) -> list[str]:
        """The methods that have left no report, here or elsewhere (`kept`: see `finished`).

        All of them unless the run came to its end (`ENDED`).
        """
        asked = {word: folder for word, folder in self.reports(root).items() if (self.digest, word) not in kept}
        ended = (self.folder(root) / ENDED).exists()
        return [word for word, folder in asked.items() if not (ended and (folder / "report.json").exists())]


@checked
@dataclass(frozen=True)
class Sweep:
    """Hold a sweep.

    Args:
        fixed: Parameters of all runs.
        cases: Name -> parameters, for each grid point.
        grids: Name -> values; every combination is run.
        when: Pairs of a condition and what is then set.
        defaults: The notebook's own parameters.
        text: The file, kept with the results.

    Example:
        >>> grid = {"seed": [0, 1], "data": ["mnist"]}
        >>> len(Sweep("mini", Path("notebooks/reproduce.ipynb"), {}, {"": {}}, (grid,)).runs())
        2
    """

    name: str
    notebook: Path
    fixed: Mapping[str, Any]
    cases: Mapping[str, Mapping[str, Any]]
    grids: Sequence[Mapping[str, list[Any]]]
    when: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""

    def runs(self) -> list[Run]:
        """Return every case at each combination of the grids; a run of several grids appears once, with all methods.

        A grid's last parameter varies first. A grid or a case overrides `when`, and that overrides `fixed`.

        Raises:
            ValueError: Two cases ask for the same run.
        """
        keys = list(dict.fromkeys(name for grid in self.grids for name in grid if name != "methods"))
        found: dict[str, Run] = {}
        for grid in self.grids:
            for values in itertools.product(*grid.values()):
                for case, changed in self.cases.items():
                    run = self._run({**dict(zip(grid, values)), **changed}, case, keys)
                    known = found.setdefault(run.digest, run)
                    if known.label != run.label:
                        raise ValueError(
                            f"cases {short_repr(known.label)} and {short_repr(run.label)} are the same run"
                        )
                    found[run.digest] = replace(known, methods=tuple(dict.fromkeys([*known.methods, *run.methods])))
        return list(found.values())

    def _run(self, asked: Mapping[str, Any], case: str, keys: Iterable[str]) -> Run:
        """One run from what its grid and its case ask for."""
        full = {**self.fixed, **asked}
        for condition, then in self.when:
            if all(full.get(name, self.defaults.get(name)) in _many(value) for name, value in condition.items()):
                full = {**full, **then, **asked}
        methods = full.pop("methods", self.defaults.get("methods"))
        label = {name: full.get(name, self.defaults.get(name)) for name in keys}
        if len(self.cases) > 1:
            label = {"case": case, **label}
        return Run(label, full, tuple(word_list("methods", methods)) if methods else ())


def _many(value: Any) -> list[Any]:
    """A list as it is, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


@checked
def read_sweep(path: Path | str) -> Sweep:
    """Read a sweep file; refuse parameters that its notebook does not have.

    Raises:
        ValueError: a key is missing or unknown, or a parameter is none of the notebook's; the nearest name is given.

    Example:
        >>> read_sweep("nowhere.yml")
        Traceback (most recent call last):
        ValueError: sweep nowhere.yml cannot be read: [Errno 2] No such file or directory: 'nowhere.yml'
    """
    path = Path(path)
    # whatever a reader of YAML or of notebooks chokes on
    with explaining(f"sweep {path} cannot be read", Exception, most=1000):
        return _parse_sweep(path)


def _parse_sweep(path: Path) -> Sweep:
    """The sweep of a file, compared with its notebook."""
    found, text = plain_yaml(path)
    for key in found:
        one_of("key", key, KEYS)
    notebook = Path(found["notebook"])
    if not notebook.is_file():
        raise refusal("notebook", "a file on this machine", str(notebook))
    known = papermill.inspect_notebook(str(notebook))
    defaults = {name: ast.literal_eval(each["default"]) for name, each in known.items()}
    fixed, grids = dict(found.get("fixed") or {}), tuple(map(dict, _many(found["grid"])))
    cases = {str(name): dict(case or {}) for name, case in dict(found.get("cases") or {"": {}}).items()}
    when = tuple((dict(each["if"]), dict(each["set"])) for each in found.get("when") or ())
    for name in itertools.chain(fixed, *grids, *cases.values(), *itertools.chain(*when)):
        one_of("parameter", name, [each for each in known if each != "out"])
    for name, values in itertools.chain(*(grid.items() for grid in grids)):
        if not isinstance(values, list) or not values:
            raise refusal(f"grid {name}", "a list of values", values)
    number("number of runs", len(cases) * sum(math.prod(map(len, grid.values())) for grid in grids), 1, MOST_RUNS)
    sweep = Sweep(path.stem, notebook, fixed, cases, grids, when, defaults, text)
    sweep.runs()  # its methods may be no list of words
    return sweep


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping; plain YAML keeps the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping, if its keys differ."""
        keys = [each.value for each, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"key {short_repr(key)} stands twice")
        return super().construct_mapping(node, deep)


def plain_yaml(path: Path | str) -> tuple[Any, str]:
    """Read YAML that holds only what JSON can (no dates, infinite numbers or aliases), and its text.

    Aliases are refused since a few aliases of aliases unfold to more than any memory.

    Raises:
        ValueError: It is damaged, too large, nested too deep, or holds something else.
    """
    text = read_limited(path, MOST_BYTES).decode("utf-8")
    with explaining("it is no plain YAML", yaml.YAMLError, RecursionError, TypeError):
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("it holds an alias (*); allowed is to write it out")
        return parse_json(json.dumps(yaml.load(text, _Strict), allow_nan=False)), text


@checked
def share(runs: Collection[Run], part: int, parts: int) -> list[Run]:
    """Return one of `parts` balanced shares of the runs (`part` from 0).

    Runs are sorted by label without the seed; a share takes every `parts`-th, so the seeds of each case are split evenly.

    Raises:
        ValueError: There is no such share.

    Example:
        >>> runs = [Run({"case": case, "seed": seed}, {}) for seed in (0, 1) for case in ("slow", "quick")]
        >>> [run.label["case"] for run in share(runs, 0, 2)]
        ['quick', 'slow']
    """
    number("part", part, 0, number("parts", parts, 1, whole=True) - 1, whole=True)
    ordered = sorted(runs, key=lambda run: [str(value) for name, value in run.label.items() if name != "seed"])
    return ordered[part::parts]


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Claim a run's folder while the block lasts; False if another process has it.

    The claim is a lock of the operating system, so it ends with the process.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with claimed(folder) as mine, claimed(folder) as mine_too:
        ...     print(mine, mine_too)
        True False
    """
    import fcntl  # late: not on Windows, where only reading sweeps works

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "claim").open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def reason_of(error: BaseException, folder: Path) -> str:
    """Why there is no report: `no data`, `refused` (before any work) or `failed`, and the message."""
    # of an error in a notebook papermill tells its kind and message
    kind, message = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    early = not (folder / "run.json").exists()
    status = "no data" if kind == "FileNotFoundError" else "refused" if kind == "ValueError" and early else "failed"
    return f"{status}: {'' if status != 'failed' else kind + ': '}{' '.join(message.split())}"


def in_notebook(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Execute the notebook with these parameters; leave it beside its reports."""
    try:
        papermill.execute_notebook(str(notebook), f"{parameters['out']}/run.ipynb", parameters, progress_bar=False)
    finally:
        with suppress(RuntimeError):  # it may have failed before it opened one
            asyncio.get_event_loop_policy().get_event_loop().close()  # the thread's own; papermill leaves it open


def run_one(
    execute: Callable[[dict[str, Any]], None], run: Run, root: Path, kept: Collection[tuple[str, str]] = ()
) -> bool:
    """Execute the run for the methods that are missing; a failure leaves its reason in the folder.

    Returns False, and does nothing, where another process has claimed the run.
    """
    folder = run.folder(root)
    with claimed(folder) as mine:
        if mine and (missing := run.missing(root, kept)):
            for earlier in ("failed.txt", ENDED):
                (folder / earlier).unlink(missing_ok=True)
            asked = {"methods": ", ".join(missing)} if run.methods else {}
            try:
                execute({**run.parameters, **asked, "out": str(folder)})
            except Exception as error:  # whatever it was, the sweep goes on and the row says it
                write_whole(folder / "failed.txt", reason_of(error, folder) + "\n")
            write_whole(folder / ENDED, "")
    return mine


def packs(runs: Iterable[Run], root: Path, kept: Collection[tuple[str, str]], most: int) -> list[list[Run]]:
    """Runs of one shape, at most so many together: they differ in seed and partition only, and lack the same methods."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        shape = {k: v for k, v in run.parameters.items() if k not in ("seed", "partition")}
        found.setdefault(json.dumps([shape, run.missing(root, kept)], sort_keys=True), []).append(run)
    return [each[first : first + most] for each in found.values() for first in range(0, len(each), most)]


class RunGroup:
    """Where runs of one process wait for one another; each is a thread, and one computes at a time.

    When all wait, what they ask for is trained together, in shared vectorized passes. If that fails, each is trained by
    itself, so that only the run whose fault it is fails.

    Args:
        runs: How many there are.
        options: Of `federate` and `standalone`.
    """

    def __init__(self, runs: int, **options: Any) -> None:
        self.turn, self.here, self.options = threading.Condition(), runs, {"progress": False, **options}
        self.asked: list[tuple[Many, Any, Future[Any]]] = []
        self.builds: dict[str, Build] = {}

    def execute(self, run: Callable[[], Any]) -> Any:
        """Run one of the runs in this thread."""
        with self.turn:
            try:
                return run()
            finally:
                self.here -= 1
                self._serve()

    def ask(self, many: Many, request: Any) -> Any:
        """Wait until the others wait too; return what this request gets."""
        mine: Future[Any] = Future()
        self.asked.append((many, request, mine))
        self._serve()
        self.turn.wait_for(mine.done)
        return mine.result()

    def _serve(self) -> None:
        """Train what was asked for, if nobody is missing."""
        if len(self.asked) < self.here:
            return
        asked, self.asked = self.asked, []
        for many in {each for each, *_ in asked}:
            requests, futures = zip(*(own for each, *own in asked if each == many))
            for future, got in zip(futures, _together(many, list(requests))):
                tell = future.set_exception if isinstance(got, Exception) else future.set_result
                tell(got)
        self.turn.notify_all()

    def _alone(self, requests: Sequence[tuple[Build, Sequence[Shard], Config]]) -> list[list[nn.Module]]:
        build = requests[0][0]
        if any(each is not build for each, *_ in requests):  # another split of a table may have other categories
            return [self._alone([each])[0] for each in requests]
        return standalone_many(build, [each for _, *each in requests], **self.options)

    def train(self, problem: Problem, strategy: Strategy, **options: Any) -> Round:
        """`method.train`, with the others."""
        return self.ask(self._train, (problem, {"strategy": strategy, **self.options, **options}))

    def _train(self, requests: Sequence[tuple[Problem, dict[str, Any]]]) -> list[Round]:
        runs = [federation(p.build, p.shards, p.config, **options) for p, options in requests]
        last = dict(side_by_side(runs, requests[0][0].validation.y.device))
        return [last[k] for k in range(len(runs))]

    def run(self, values: Mapping[str, Any]) -> None:
        """Do what `notebooks/reproduce.ipynb` does with these parameters, without its figures.

        Raises:
            ValueError: A parameter is unknown or does not fit.
            RuntimeError: A method failed.
        """
        scale, keep, out = (values[name] for name in ("scale", "keep", "out"))
        setup, config = split_parameters({k: v for k, v in values.items() if k not in ("scale", "keep", "out")})
        if scale == "paper" and not (setup.device or torch.cuda.is_available()):
            raise refusal("scale", "mini, or paper on a GPU", scale)
        data, build, shards = prepare(setup, config)
        build = self.builds.setdefault(json.dumps(describe(build)), build)  # one pass has one network
        started = time.perf_counter()
        alone = self.ask(self._alone, (build, shards, config))
        contribution = lookup("contribution", setup.contribution)
        problem = assess(build, shards, config, data, contribution=contribution, alone=alone)
        about = {**values, "seconds_alone": round(time.perf_counter() - started, 1)}
        write_whole(Path(out) / "run.json", json.dumps(about, indent=1) + "\n")
        for _ in compete(setup, problem, out, keep=keep, train=self.train):
            pass


def _together(many: Many, requests: list[Any]) -> list[Any]:
    """What each request gets; if they fail together each by itself, and then the error of each that fails."""
    try:
        return many(requests)
    except Exception as error:
        return [error] if len(requests) == 1 else [_together(many, [each])[0] for each in requests]


def run_pack(
    runs: Sequence[Run], defaults: Mapping[str, Any], root: Path, kept: Collection[tuple[str, str]] = (), **options: Any
) -> None:
    """Train these runs side by side in this process; `options` are those of `federate`."""
    group = RunGroup(len(runs), **options)

    def one(run: Run) -> None:
        group.execute(lambda: run_one(lambda asked: group.run({**defaults, **asked}), run, root, kept))

    run_all([partial(one, run) for run in runs], len(runs))  # as many threads as runs: all must be able to wait


def run_all(jobs: Sequence[Callable[[], object]], threads: int, title: str | None = None) -> None:
    """Do all jobs, so many at a time, with a bar if it has a title; an interrupt waits for none of them."""
    pool = ThreadPoolExecutor(threads)
    running = {pool.submit(job) for job in jobs}
    try:
        with tqdm(desc=title, total=len(jobs), disable=title is None) as bar:
            while running:  # in steps, since Python overlooks a Ctrl-C that arrives just before a wait begins
                ended, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for each in ended:
                    each.result()
                bar.update(len(ended))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# for a while kernels that start compute with one thread each: faster than several with many
one_thread_each = partial(patch.dict, os.environ, OMP_NUM_THREADS="1", AEQUA_WORKERS="1")


@checked
def finished(
    sweep: Sweep, results: Path = Path("results"), *, failed: bool = False
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the finished rows of `results/NAME` by digest and method: what another machine has run.

    Only rows whose parameters are still the sweep's are returned, by the sweep file beside the table.

    Args:
        failed: Return the rows of runs that did not succeed, too.

    Raises:
        ValueError: The table cannot be read, or is not the one that was written.

    Example:
        >>> finished(Sweep("none", Path("x.ipynb"), {}, {"": {}}, ()))
        {}
    """
    place = results / sweep.name
    if not (place / "runs.csv").exists() or not (place / "sweep.yml").exists():
        return {}
    words, remedy = ("status", "method", "device", "date", "data_sha256", "scale"), "restore or delete it"
    with explaining(f"{place / 'runs.csv'} cannot be read", ValueError, OSError, remedy=remedy):
        check_table(place)
        texts = pd.read_csv(place / "runs.csv", dtype=str, keep_default_na=False)  # as they stand there
        kinds = {c: str for c in texts if c in words or c.startswith("version_")}
        table = pd.read_csv(place / "runs.csv", dtype=kinds)
    then = {tuple(map(_plain, run.label.values())): run.digest for run in read_sweep(place / "sweep.yml").runs()}
    labels, now = list(sweep.runs()[0].label), {run.digest for run in sweep.runs()}
    if not {*labels, "status"} <= {*table}:
        return {}
    keys = (tuple(map(_plain, each)) for each in texts[labels].itertuples(index=False))
    rows = ({k: v for k, v in row.items() if v == v} for row in table.to_dict("records"))  # a hole is no figure
    found = {(digest, row.get("method", "")): row for digest, row in zip(map(then.get, keys), rows) if digest in now}
    return {key: row for key, row in found.items() if failed or row["status"] == "done"}


def _plain(value: Any) -> str:
    """A label as text, whichever way a table wrote it: 0 beside 0.5 becomes 0.0."""
    try:
        return str(Decimal(str(value)).normalize() + 0)
    except ArithmeticError:  # it is no number
        return "" if value is None else str(value)


@checked
def gather(sweep: Sweep, root: Path = Path("runs"), results: Path = Path("results")) -> pd.DataFrame:
    """Write the tables of a sweep to `results/NAME` and return the table of all runs.

    Rows that the table has from elsewhere stay.

    Example:
        >>> gather.__name__  # see `aequa sweep`
        'gather'
    """
    return write_tables(sweep, finished(sweep, results, failed=True), root, results)


@checked
def run_sweep(
    sweep: Sweep,
    root: Path = Path("runs"),
    shard: tuple[int, int] = (0, 1),
    workers: Count | None = None,
    kept: Collection[tuple[str, str]] = (),
    pack: Count = 1,
) -> None:
    """Run what has not been finished yet, with a bar over the runs.

    Args:
        shard: (i, n), a balanced n-th of the runs, for machines that share no folder.
        workers: Runs side by side (default: one a processor, with one thread each; one on a GPU).
        kept: What need not be run (`finished`).
        pack: Runs of one shape (they differ in seed and partition only) that train side by side, for a GPU: they share
            vectorized passes in this process, without their notebook and its figures. Reports are those of the notebook,
            up to rounding; the seconds are those of the whole pack.

    Raises:
        ValueError: There is no such share, `workers` or `pack` is not a whole number from 1, or runs of another notebook
            than `reproduce` are to be packed.

    Example:
        >>> run_sweep(Sweep("none", Path("x.ipynb"), {}, {"": {}}, ()))  # no grid, no runs
    """
    here = root / sweep.name
    todo = [run for run in share(sweep.runs(), *shard) if run.missing(here, kept)]
    if pack > 1 and sweep.notebook.stem != "reproduce":
        raise refusal("pack", "1 with this notebook, since only runs of reproduce.ipynb train side by side", pack)
    if pack > 1:
        jobs = [partial(run_pack, runs, sweep.defaults, here, kept) for runs in packs(todo, here, kept, pack)]
        return run_all(jobs, 1, sweep.name)
    count = workers or (1 if torch.cuda.is_available() else available())
    jobs = [partial(run_one, partial(in_notebook, sweep.notebook), run, here, kept) for run in todo]
    with one_thread_each() if count > 1 else nullcontext():
        run_all(jobs, count, sweep.name)
