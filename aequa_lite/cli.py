"""The command `aequa`; `python -m aequa_lite` is the same."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ._io import check_folder, error_text
from .config import Config
from .method import Problem, train
from .report import Report, table
from .rewards import verify

if TYPE_CHECKING:
    from .experiments.run import Setup


INTERRUPTED, REFUSED = 130, 2
FLOWER = {
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
    try:
        if words[:1] and words[0] in FLOWER:
            asked = {"command": _fleet, "name": words[0], "words": words}
        else:
            asked = vars(_parser().parse_args(words))
    except SystemExit as stop:
        return int(stop.code or 0)
    command: Callable[..., int] = asked.pop("command")
    name = asked.pop("name")
    try:
        return command(**asked)
    except (OSError, ValueError, ImportError) as error:
        if isinstance(error, BrokenPipeError):  # the reader has gone: `aequa show FOLDER | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"aequa {name}: {error_text(error, 2000)}", file=sys.stderr)
        return REFUSED
    except (RuntimeError, ArithmeticError) as error:  # also if training diverges
        print(f"aequa {name}: {error_text(error, 2000)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        more = "; the same command goes on with what is not finished" if name in ("sweep", *FLOWER) else ""
        print(f"\naequa {name}: stopped{more}", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the list of all options."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and exit with 2."""
        self.exit(REFUSED, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    parser = _Parser(prog="aequa", description="Fair model rewards by one slimmable network.")
    parser.add_argument("--version", action="version", version=f"aequa-lite {version('aequa-lite')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[..., int], about: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=about, description=about)
        found.set_defaults(command=run, name=name)
        return found

    run = add("run", _run, "train together, print who earned what, and write the report and the rewards")
    reproduce = add("reproduce", _reproduce, "run several methods on the same problem and compare them")
    for each, out in ((run, "runs/aequa"), (reproduce, "runs/reproduce")):
        each.add_argument("--out", default=out, help="folder of reports and rewards")
        _add_parameters(each, skip=("methods",) if each is run else ())
    sweep = add("sweep", _sweep, "run a sweep file and gather its table")
    sweep.add_argument("file", help="sweeps/NAME.yml")
    sweep.add_argument("--workers", type=int, help="runs side by side (default: one a processor; one on a GPU)")
    sweep.add_argument("--shard", default="1/1", help="I/N: take the I-th of N balanced shares of the runs")
    sweep.add_argument(
        "--pack", type=int, default=1, help="runs of one shape that train side by side, for a GPU (default: 1)"
    )
    sweep.add_argument("--new", action="store_true", help="run only what results/NAME does not hold yet")
    sweep.add_argument("--gather", action="store_true", help="only gather the table of what has been run")
    add("show", _show, "print the report of a folder").add_argument("folder")
    add("verify", _verify, "check a folder of rewards").add_argument("folder")
    for name, about in FLOWER.items():  # read by the extra itself, see `main`
        add(name, _fleet, about)
    return parser


def _add_parameters(parser: argparse.ArgumentParser, skip: Sequence[str]) -> None:
    """An option for each word of a setup and each number of a config."""
    from .experiments.run import Setup

    told = _described(Setup) | {each.name: each.metadata.get("about", "") for each in fields(Config)}
    for each in (*fields(Setup), *fields(Config)):
        if each.name not in skip:
            _add_option(parser, each.name, each.default, told[each.name].replace("`", ""))


def _described(function: Any) -> dict[str, str]:
    """The first line that a docstring has for each argument."""
    return dict(re.findall(r"^ +(\w+): (.+)", str(function.__doc__), re.M))


def _add_option(parser: argparse.ArgumentParser, name: str, default: object, about: str) -> None:
    """Add an option of the type of its default."""
    option, about = f"--{name.replace('_', '-')}", about.replace("%", "%%")
    if isinstance(default, bool):
        parser.add_argument(option, default=default, action=argparse.BooleanOptionalAction, help=about)
    else:
        kind = str if default is None else type(default)
        parser.add_argument(option, type=kind, default=default, help=f"{about} (default: {default})")


def _problem(values: Mapping[str, Any]) -> tuple[Setup, Problem]:
    """The words of a run, and its problem: data, network, shards and the models trained alone."""
    from .experiments.run import problem_of, split_parameters

    setup, config = split_parameters(values)
    return setup, problem_of(setup, config, tell=partial(print, flush=True))


def _run(out: str, **values: Any) -> int:
    from .experiments.run import algorithms

    check_folder("out", out)
    setup, problem = _problem(values)
    (algorithm,) = algorithms(setup, problem).values()
    state = Path(out) / "state.safetensors"  # of a killed run; the same command goes on with it
    outcome = replace(
        algorithm(problem, train=partial(train, checkpoint=state, name=repr(setup))), partition=setup.partition
    )
    print(outcome.table())
    print(f"written to {outcome.save(out)}")
    for each in Path(out).glob("state*.safetensors"):
        each.unlink()
    return 0


def _reproduce(out: str, **values: Any) -> int:
    from .experiments.run import comparison, compete

    check_folder("out", out)
    setup, problem = _problem(values)
    print(comparison({word: outcome.report for word, outcome in compete(setup, problem, out, keep=True)}))
    return 0


def _sweep(file: str, gather: bool, **options: Any) -> int:
    from .experiments.sweep import sweep_table

    print(sweep_table(file, only_gather=gather, **options))
    return 0


def _show(folder: str) -> int:
    print(table(Report.load(folder)))
    return 0


def _verify(folder: str) -> int:
    lines = verify(Path(folder))
    print("\n".join(map(str, lines)))
    return int(any(each.fault for each in lines))


def _fleet(words: Sequence[str]) -> int:
    """fleet, serve and join, over Flower."""
    from .flower import fleet, participant

    run = {"fleet": fleet.run_fleet, "serve": fleet.serve, "join": participant.join}[words[0]]
    values = vars(fleet_parser(words[0], run).parse_args(words[1:]))
    if run is not participant.join:
        values["config"] = Config.from_dict({name: values.pop(name) for name in Config.__dataclass_fields__})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes are stopped before this one ends
    if found := run(**values):
        print(table(found))
    return 0


def fleet_parser(command: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
    """An argument for each parameter of a command's function; for `config` and `options` those of their fields."""
    from .flower.wire import Settings

    parser, own = _Parser(prog=f"aequa {command}", description=FLOWER[command]), signature(run).parameters
    about = {each.name: each.metadata["about"] for each in fields(Config)} | _described(Settings) | _described(run)
    for name, each in own.items():
        if name == "folder":
            _add_option(parser, name, f"runs/{command}", about[name])
        elif each.default is not Parameter.empty:
            _add_option(parser, name, each.default, about[name])
        elif name not in ("config", "options"):
            parser.add_argument(name, type={"int": int}.get(each.annotation, str), help=about[name])
    for field in (*fields(Settings), *fields(Config)) if "config" in own else ():
        if field.name not in {*own, "keys"}:
            _add_option(parser, field.name, field.default, about[field.name])
    return parser
