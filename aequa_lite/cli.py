"""The command `aequa`; `python -m aequa_lite` is the same."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

from ._check import refusal
from ._io import check_folder, error_text
from .config import Config
from .experiments.run import Setup, algorithms, comparison, compete, prepare, reading_of, split_parameters
from .method import Problem, assess, train
from .registry import lookup
from .report import Report, table
from .rewards import verify

INTERRUPTED, REFUSED = 130, 2
GO_ON = ("run", "sweep", "fleet", "serve", "join")  # where they were stopped
# of a sweep's table
SHOWN = ("method", "status", "pearson", "pearson_ceiling", "cgs", "min_gain", "worse_off", "alone_best", "reward_best")
ABOUT = {
    "run": "train together, print who earned what, and write the report and the rewards",
    "reproduce": "run several methods on the same problem and compare them",
    "sweep": "run a sweep file and gather its table",
    "show": "print the report of a folder",
    "verify": "check a folder of rewards",
    "fleet": "run a server and its participants on this machine, over Flower",
    "serve": "start the server of participants on other machines",
    "join": "take part in a run of another machine",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 if what was checked is wrong, or 2 after one sentence about a wrong argument.

    Example:
        >>> main(["show", "nowhere"])
        2
    """
    words = list(sys.argv[1:] if words is None else words)
    name = words[0] if words else ""
    try:
        asked = vars(_parser(name).parse_args(words))
        return asked.pop("command")(**asked)
    except SystemExit as stop:  # of the parser, after `--help` or its sentence
        return int(stop.code or 0)
    except BrokenPipeError:  # the reader has gone: `aequa show FOLDER | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        more = "; the same command goes on with what is not finished" if name in GO_ON else ""
        print(f"\naequa {name}: stopped{more}", file=sys.stderr)
        return INTERRUPTED
    except (OSError, ValueError, ImportError, RuntimeError, ArithmeticError) as error:
        print(f"aequa {name}: {error_text(error, 2000)}", file=sys.stderr)
        return 1 if isinstance(error, (RuntimeError, ArithmeticError)) else REFUSED  # the first: training diverged


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the list of all options."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and exit with 2."""
        self.exit(REFUSED, f"{self.prog}: {message}\n")


def _parser(name: str) -> argparse.ArgumentParser:
    """All commands; the named one with its arguments."""
    parser = _Parser(prog="aequa", description="Fair model rewards by one slimmable network.")
    parser.add_argument("--version", action="version", version=f"aequa-lite {version('aequa-lite')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    found = {each: commands.add_parser(each, help=about, description=about) for each, about in ABOUT.items()}
    own = {"run": _run, "reproduce": _reproduce, "sweep": _sweep, "show": _show, "verify": _verify}
    if name in own:
        found[name].set_defaults(command=own[name])
        kinds = (Setup, Config) if name in ("run", "reproduce") else ()
        _add_arguments(found[name], own[name], kinds, skip=("methods",) if name == "run" else ())
    elif name in found:
        _add_fleet(found[name], name)
    return parser


def _add_fleet(parser: argparse.ArgumentParser, name: str) -> None:
    """The arguments of a command over Flower: of its function, and for `config` and `options` of their fields."""
    from .flower import fleet, participant
    from .flower.wire import Settings

    function = {"fleet": fleet.run_fleet, "serve": fleet.serve, "join": participant.join}[name]
    run = partial(function, folder=f"runs/{name}")
    parser.set_defaults(command=partial(_over_flower, run))
    kinds = (Settings, Config) if "config" in signature(run).parameters else ()
    _add_arguments(parser, run, kinds, skip=("config", "options", "keys"))


def _add_arguments(
    parser: argparse.ArgumentParser, function: Any, kinds: Sequence[type], skip: Collection[str]
) -> None:
    """An argument for each parameter of a function, and an option for each field of what it takes besides."""
    own, about = signature(function).parameters, _described(getattr(function, "func", function))
    for each in own.values():
        if each.default is not each.empty:
            _add_option(parser, each.name, each.default, about[each.name])
        elif each.name in about and each.name not in skip:
            parser.add_argument(each.name, type={"int": int}.get(each.annotation, str), help=about[each.name])
    for kind in kinds:
        told = _described(kind)
        for each in fields(kind):
            if each.name not in {*own, *skip}:
                _add_option(parser, each.name, each.default, told[each.name])


def _described(function: Any) -> dict[str, str]:
    """The first line that a docstring has for each argument."""
    return dict(re.findall(r"^ +(\w+): (.+)", str(function.__doc__), re.M))


def _add_option(parser: argparse.ArgumentParser, name: str, default: object, about: str) -> None:
    """Add an option of the type of its default."""
    option, about = f"--{name.replace('_', '-')}", about.replace("%", "%%").replace("`", "")
    if isinstance(default, bool):
        parser.add_argument(option, default=default, action=argparse.BooleanOptionalAction, help=about)
    else:
        kind = str if default is None else type(default)
        parser.add_argument(option, type=kind, default=default, help=f"{about} (default: {default})")


def _problem(values: Mapping[str, Any]) -> tuple[Setup, Problem]:
    """The words of a run, and its problem; what was read is printed before anybody trains."""
    setup, config = split_parameters(values)
    data, build, shards = prepare(setup, config)
    print(reading_of(data, shards), flush=True)
    return setup, assess(build, shards, config, data, contribution=lookup("contribution", setup.contribution))


def _run(out: str = "runs/aequa", **values: Any) -> int:
    """Run the method.

    Args:
        out: folder of reports and rewards
    """
    check_folder("out", out)
    setup, problem = _problem(values)
    (algorithm,) = algorithms(setup, problem).values()
    state = Path(out) / "state.safetensors"  # of a killed run; the same command goes on with it
    outcome = algorithm(problem, train=partial(train, checkpoint=state, name=repr(setup)))
    outcome = replace(outcome, partition=setup.partition)
    print(outcome.table())
    print(f"written to {outcome.save(out)}")
    state.unlink(missing_ok=True)
    return 0


def _reproduce(out: str = "runs/reproduce", **values: Any) -> int:
    """Compare methods.

    Args:
        out: folder of reports and rewards
    """
    check_folder("out", out)
    setup, problem = _problem(values)
    print(comparison({word: outcome.report for word, outcome in compete(setup, problem, out, keep=True)}))
    return 0


def _sweep(
    file: str, workers: int = 0, shard: str = "1/1", pack: int = 1, new: bool = False, gather: bool = False
) -> int:
    """Run a sweep.

    Args:
        file: sweeps/NAME.yml
        workers: runs side by side; 0: one a processor, one on a GPU
        shard: I/N: take the I-th of N balanced shares of the runs
        pack: runs of one shape that train side by side, for a GPU
        new: run only what results/NAME does not hold yet
        gather: only gather the table of what has been run
    """
    from .experiments import sweep as sweeps  # late: it needs the extra `experiments`

    sweep, pieces = sweeps.read_sweep(file), re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
    part, parts = map(int, pieces.groups()) if pieces else (0, 0)
    if not 1 <= part <= parts:
        raise refusal("shard", "I/N with I from 1 to N", shard)
    try:
        if not gather:
            kept = sweeps.finished(sweep) if new else ()
            sweeps.run_sweep(sweep, shard=(part - 1, parts), workers=workers or None, kept=kept, pack=pack)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with what is not finished", flush=True)
        os._exit(INTERRUPTED)  # not waiting for the notebooks: their kernels end with this process
    found = sweeps.gather(sweep)
    print(found[[name for name in (*sweep.runs()[0].label, *SHOWN) if name in found]].to_string(index=False))
    if not (found["status"] == "done").any():
        raise ValueError(f"no run of {sweep.name} is done")
    return 0


def _show(folder: str) -> int:
    """Print a report.

    Args:
        folder: where the report lies
    """
    print(table(Report.load(folder)))
    return 0


def _verify(folder: str) -> int:
    """Check rewards.

    Args:
        folder: folder of rewards, or one reward
    """
    lines = verify(Path(folder))
    print("\n".join(map(str, lines)))
    return int(any(each.fault for each in lines))


def _over_flower(run: Callable[..., Report | None], **values: Any) -> int:
    """Call what a command over Flower runs, with its `Config`."""
    if "config" in signature(run).parameters:
        values["config"] = Config.from_dict({each.name: values.pop(each.name) for each in fields(Config)})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes are stopped before this one ends
    if found := run(**values):
        print(table(found))
    return 0
