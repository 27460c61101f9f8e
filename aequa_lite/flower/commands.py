"""The commands `aequa fleet`, `aequa serve` and `aequa join`."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, signature
from pathlib import Path

from .._check import number, refusal
from ..config import Config
from ..registry import lookup
from ..report import Report, table
from .fleet import node_command, run_fleet, serve
from .participants import writable
from .processes import Processes
from .wire import Settings


def join(
    address: str,
    participant: int,
    *,
    folder: Path | str = "runs/join",
    data: str = "",
    partition: str = "",
    key: str = "",
    authority: str = "",
    device: str = "cpu",
) -> None:
    """Take part from this machine, until the process is interrupted.

    Args:
        address: The server's, as HOST:PORT.
        participant: Number of this participant, from 0.
        folder: Everything is written below it; the reward to its subfolder rewards.
        data: An .npz file with x and y of this participant; with a partition, a known data set.
        partition: For a trial, how a known data set becomes shards.
        key: This participant's private key.
        authority: The server's ca.crt.
        device: On which to train.

    Raises:
        RuntimeError: The connection ended; the sentence holds the end of the log.
        ValueError: Arguments do not fit together; nothing was started.
    """
    number("participant", participant, 0, whole=True)
    if partition:
        lookup("partition", partition)
    elif not Path(data).is_file():
        raise refusal("data", "an .npz file, or a known data set with a partition", data)
    if bool(key) != bool(authority):
        raise refusal("key", "given together with authority", key)
    node = {"participant": participant, "device": device, "partition": partition}
    node["data"] = str(Path(data).resolve()) if Path(data).is_file() else data
    node["rewards"] = str((Path(folder) / "rewards").resolve())
    with Processes(writable(folder)) as own:
        configuration = {name: value for name, value in node.items() if value != ""}
        command = node_command(own.folder, address, configuration, key, authority)
        own.start("participant", command, own.folder / "flwr").wait()
        raise RuntimeError(f"the connection to {address} ended; the end of its log:\n{own.tail('participant')}")


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
