"""A participant as a process of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .._check import number, refusal
from ..registry import lookup
from .processes import Processes, free_port
from .settings import toml_lines
from .state import writable

__all__ = ["join", "node_command"]


def node_command(
    home: Path, address: str, node: Mapping[str, object], key: Path | str | None, authority: Path | str | None
) -> list[str]:
    """The command of a SuperNode, whose configuration is written to `home/node.toml`."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "node.toml").write_text("\n".join(toml_lines(node)) + "\n")
    safe = ["--root-certificates", str(authority), "--auth-supernode-private-key", str(key)]
    command = ["flower-supernode", *(safe if key and authority else ["--insecure"]), "--superlink", address]
    return [*command, "--host", "127.0.0.1", "--port", str(free_port()), "--node-config", str(home / "node.toml")]


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
