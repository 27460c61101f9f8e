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

from ._io import check_folder, error_text
from .config import Config
from .experiments.run import Setup, algorithms, comparison, compete, prepare, reading_of, split_parameters
from .method import Problem, assess, train
from .registry import lookup
from .report import Report, table
from .rewards import verify

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
        more = "; the same command goes on with what is not finished" if name in ("sweep", *FLOWER) else ""
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
    """All commands; of those over Flower, which may not be installed, only the named one with its arguments."""
    parser = _Parser(prog="aequa", description="Fair model rewards by one slimmable network.")
    parser.add_argument("--version", action="version", version=f"aequa-lite {version('aequa-lite')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[..., int], about: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=about, description=about)
        found.set_defaults(command=run)
        return found

    run = add("run", _run, "train together, print who earned what, and write the report and the rewards")
    reproduce = add("reproduce", _reproduce, "run several methods on the same problem and compare them")
    for each, out in ((run, "runs/aequa"), (reproduce, "runs/reproduce")):
        each.add_argument("--out", default=out, help="folder of reports and rewards")
        _add_fields(each, Setup, skip=("methods",) if each is run else ())
        _add_fields(each, Config)
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
    for each, about in FLOWER.items():
        found = add(each, _fleet, about)
        if each == name:
            _add_fleet(found, name)
    return parser


def _add_fields(parser: argparse.ArgumentParser, kind: type, skip: Collection[str] = ()) -> None:
    """An option for each field of a dataclass; what it means is its metadata or stands in the docstring."""
    about = _described(kind)
    for each in fields(kind):
        if each.name not in skip:
            _add_option(parser, each.name, each.default, each.metadata.get("about") or about[each.name])


def _add_fleet(parser: argparse.ArgumentParser, command: str) -> None:
    """An argument for each parameter of a command's function; for `config` and `options` those of their fields."""
    from .flower import fleet, participant
    from .flower.wire import Settings

    run = {"fleet": fleet.run_fleet, "serve": fleet.serve, "join": participant.join}[command]
    own, about = signature(run).parameters, _described(run)
    parser.set_defaults(run=run)
    for name, each in own.items():
        if name == "folder":
            _add_option(parser, name, f"runs/{command}", about[name])
        elif each.default is not each.empty:
            _add_option(parser, name, each.default, about[name])
        elif name not in ("config", "options"):
            parser.add_argument(name, type={"int": int}.get(each.annotation, str), help=about[name])
    if "config" in own:
        _add_fields(parser, Settings, skip={*own, "keys"})
        _add_fields(parser, Config, skip=own)


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


def _run(out: str, **values: Any) -> int:
    check_folder("out", out)
    setup, problem = _problem(values)
    (algorithm,) = algorithms(setup, problem).values()
    state = Path(out) / "state.safetensors"  # of a killed run; the same command goes on with it
    outcome = algorithm(problem, train=partial(train, checkpoint=state, name=repr(setup)))
    outcome = replace(outcome, partition=setup.partition)
    print(outcome.table())
    print(f"written to {outcome.save(out)}")
    for each in Path(out).glob("state*.safetensors"):
        each.unlink()
    return 0


def _reproduce(out: str, **values: Any) -> int:
    check_folder("out", out)
    setup, problem = _problem(values)
    print(comparison({word: outcome.report for word, outcome in compete(setup, problem, out, keep=True)}))
    return 0


def _sweep(file: str, gather: bool, **options: Any) -> int:
    from .experiments.sweep import sweep_table  # late: it needs the extra `experiments`

    print(sweep_table(file, only_gather=gather, **options))
    return 0


def _show(folder: str) -> int:
    print(table(Report.load(folder)))
    return 0


def _verify(folder: str) -> int:
    lines = verify(Path(folder))
    print("\n".join(map(str, lines)))
    return int(any(each.fault for each in lines))


def _fleet(run: Callable[..., Report | None], **values: Any) -> int:
    """fleet, serve and join, over Flower."""
    if "config" in signature(run).parameters:
        values["config"] = Config.from_dict({each.name: values.pop(each.name) for each in fields(Config)})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes are stopped before this one ends
    if found := run(**values):
        print(table(found))
    return 0
