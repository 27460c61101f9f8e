"""The commands `aequa fleet`, `aequa serve` and `aequa join`."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, signature

from ..config import Config
from ..report import Report, table
from .fleet import run_fleet, serve
from .node import join
from .settings import Settings

__all__ = ["COMMANDS", "add_arguments", "main"]


COMMANDS: dict[str, Callable[..., Report | None]] = {"fleet": run_fleet, "serve": serve, "join": join}


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Add an argument for each parameter of a command's function; for `config` and `options` those of their fields.

    Args:
        parser: Of the command.
        command: fleet, serve or join.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_arguments(parser, "fleet")
        >>> parser.parse_args(["--participants", "3"]).quorum
        1
    """
    own = signature(COMMANDS[command]).parameters
    about = dict(re.findall(r"^ +(\w+): (.+)", str(COMMANDS[command].__doc__), re.M))
    for name, each in own.items():
        if name == "folder":
            parser.add_argument("--folder", default=f"runs/{command}", help=about[name])
        elif each.default is not Parameter.empty:
            _add_option(parser, name, each.default, about[name])
        elif name not in ("config", "options"):
            parser.add_argument(name, type={"int": int}.get(each.annotation, str), help=about[name])
    for kind in (Settings, Config) if "config" in own else ():
        for field in fields(kind):
            if field.name not in {*own, "keys"}:
                _add_option(parser, field.name, field.default, field.metadata["about"])


def main(command: str, asked: argparse.Namespace) -> None:
    """Run a command and print the report.

    Args:
        command: fleet, serve or join.
        asked: What a parser with `add_arguments` has read.

    Raises:
        RuntimeError: The run failed.
        ValueError: Arguments do not fit together; nothing was started.
    """
    values = vars(asked).copy()
    if command != "join":
        values["config"] = Config.from_dict({name: values.pop(name) for name in Config.__dataclass_fields__})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes are stopped before this one ends
    if found := COMMANDS[command](**values):
        print(table(found))


def _add_option(parser: argparse.ArgumentParser, name: str, default: object, about: str) -> None:
    """Add an option of the type of its default."""
    option, about = f"--{name.replace('_', '-')}", about.replace("%", "%%")
    if isinstance(default, bool):
        parser.add_argument(option, action="store_true", help=about)
    else:
        kind = str if default is None else type(default)
        parser.add_argument(option, type=kind, default=default, help=f"{about} (default: {default})")
