"""Servers and participants as processes of this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import tomli_w

from .._check import flag
from .._io import write_whole
from ..config import Config
from ..registry import lookup
from ..report import Report
from .machine import Processes, free_port, valid_certificate, write_certificate, write_key
from .machine import roster as read_roster
from .participant import node_command
from .participants import LOG
from .server import prepare
from .wire import COMPLETED, Settings, write_app

START = 300.0  # seconds that a server has to start


class Server(Processes):
    """Run a SuperLink on this machine, and runs over it.

    Everything is written below `folder`: `server/` (what a run leaves behind), `keys/` (certificates), `logs/`.

    Args:
        folder: Made if it is missing.
        roster: Folder with a public key `participant-NN.pub` for each participant: TLS, and no other node is admitted.
            Without it, messages are neither encrypted nor authenticated.
        address: Name or address at which participants find this machine, for the certificate.
        host: Address at which the server listens.
        port: Where it listens (default: a free one).

    Example:
        >>> Server("runs/server", port=8000).address_for(0)
        '127.0.0.1:8000'
    """

    def __init__(
        self, folder: Path | str, roster: Path | str | None = None, *, address: str = "127.0.0.1",
        host: str = "127.0.0.1", port: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(folder)
        self.roster, self.progress = Path(roster) if roster else None, True
        self.address, self.host, self.port = address, host, port or free_port()
        self.reach = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # from this machine
        self.here = f"{self.reach}:{self.port}"

    def start_all(self) -> None:
        """Start the SuperLink and admit the keys of the roster; other nodes are refused.

        Raises:
            RuntimeError: It does not listen, or refuses a key.
        """
        self.start_server()
        self.register()

    def address_for(self, participant: int) -> str:
        """Return where a participant on this machine finds the server."""
        return self.here

    def start_server(self) -> None:
        """Start the SuperLink, also again after it was killed, and what starts its apps.

        Raises:
            RuntimeError: It has ended, or does not listen within five minutes.
        """
        keys, place = self.folder / "keys", self.folder / "server"
        names = self.address, self.reach
        if self.roster and not valid_certificate(keys, *names):
            write_certificate(keys, *names)
        safe = ["--ssl-ca-certfile", f"{keys}/ca.crt", "--ssl-certfile", f"{keys}/ca.crt"]
        safe += ["--ssl-keyfile", f"{keys}/server.key", "--enable-supernode-auth"]
        command = ["flower-superlink", *(safe if self.roster else ["--insecure"]), "--isolation", "process"]
        command += ["--host", self.host, "--port", str(self.port), "--database", str(place / "superlink.db")]
        process, until = self.start("server", command, place / "flwr"), time.monotonic() + START
        while process.poll() is None and time.monotonic() < until:
            with suppress(OSError), socket.create_connection((self.reach, self.port), timeout=1):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"the server does not listen; the end of its log:\n{self.tail('server')}")
        trust = ["--root-certificates", f"{keys}/ca.crt"] if self.roster else ["--insecure"]
        command = ["flower-superexec", *trust, "--runtime-api-address", self.here]
        self.start("apps", command, place / "flwr")

    def register(self) -> None:
        """Admit the keys of the roster."""
        for path in sorted(self.roster.glob("participant-*.pub")) if self.roster else []:
            failed = self._flwr("register", "supernode", "register", str(path)).wait(600)
            if failed and "already in use" not in self.tail("register", 4):  # of an earlier start with this folder
                raise RuntimeError(f"the server does not admit the key {path}:\n{self.tail('register')}")

    def _flwr(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the command `flwr` for this server."""
        home, trust = self.folder / "flwr", {"insecure": True}
        if self.roster:
            trust = {"root-certificates": str((self.folder / "keys" / "ca.crt").resolve())}
        link = {"address": self.here, **trust}
        write_whole(home / "config.toml", tomli_w.dumps({"superlink": {"default": "here", "here": link}}))
        return self.start(name, ["flwr", *arguments, "here"], home)

    def settings(self, **options: object) -> Settings:
        """Return settings with this server's folder and roster."""
        keys = str(self.roster.resolve()) if self.roster else ""
        return Settings(**{"folder": str((self.folder / "server").resolve()), "keys": keys, **options})  # type: ignore[arg-type]

    def submit(self, settings: Settings, config: Config) -> None:
        """Start a run; it goes on from the folder's checkpoint, if there is one."""
        (Path(settings.folder) / "outcome.json").unlink(missing_ok=True)
        write_app(self.folder / "app", settings, config)
        self._flwr("run", "run", "--stream", str(self.folder / "app"))

    def wait(self, settings: Settings) -> str:
        """Wait until the run has ended and return how; print meanwhile who is admitted or refused, and who is missing.

        Raises:
            RuntimeError: The run has ended without writing a result.
        """
        names = "run", "server", "apps"
        for line in self.told(*names, watched=[each for each in self.processes if each.startswith("participant-")]):
            self._tell(line)
        path = Path(settings.folder) / "outcome.json"
        if not path.exists():
            name = [each for each in names if self.processes[each].poll() is not None][-1]
            raise RuntimeError(f"the run ended without a result; the end of the {name}'s log:\n{self.tail(name)}")
        return str(json.loads(path.read_text())["outcome"])

    def _tell(self, line: str) -> None:
        """Print a line beside the report, which is the output."""
        if self.progress:
            print(line, file=sys.stderr, flush=True)

    def run(self, settings: Settings, config: Config) -> Report:
        """Run to the end and return the report.

        Raises:
            RuntimeError: The run failed; the sentence says why.
        """
        log = Path(settings.folder) / LOG
        self._tell(f"waiting for participants at {self.here}; {log} keeps what follows")
        self.submit(settings, config)
        if (outcome := self.wait(settings)) != COMPLETED:
            raise RuntimeError(f"{outcome}\n(the run's log: {self.log('run')})")
        return Report.load(settings.folder)


class Fleet(Server):
    """Run a server and all participants on this machine; what a participant keeps lies in `nodes/NN/`.

    Args:
        folder: Made if it is missing.
        participants: Number of participants.
        data: Name of the data set, or an .npz file.
        partition: How the data set becomes shards.
        secure: TLS, and a key for each participant.

    Example:
        >>> Fleet("runs/fleet", participants=2).rewards(1).as_posix()
        'runs/fleet/nodes/01/rewards'
    """

    def __init__(
        self, folder: Path | str, participants: int, *, data: str = "fashion-mini", partition: str = "power_law",
        secure: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(folder, Path(folder) / "keys" if secure else None)
        self.participants, self.data, self.partition = participants, data, partition

    def start_all(self) -> None:
        """Start the server, then the participants."""
        for i in range(self.participants) if self.roster else []:
            write_key(self.folder / "keys", f"participant-{i:02d}")
        super().start_all()
        for i in range(self.participants):
            self.start_participant(i)

    def settings(self, **options: object) -> Settings:
        """Return settings for this fleet, in which a participant that starts again without a key keeps its place."""
        replaced = options.get("allow_replacement") or not self.roster
        own = {"data": self.data, "partition": self.partition}
        return super().settings(**{**own, **options, "allow_replacement": replaced})

    def rewards(self, participant: int) -> Path:
        """Return the folder in which a participant keeps its reward."""
        return self.folder / "nodes" / f"{participant:02d}" / "rewards"

    def start_participant(self, participant: int, key: Path | None = None, authority: Path | None = None) -> None:
        """Start one SuperNode, with its own key and the fleet's certificate unless others are named."""
        keys, home = self.folder / "keys", self.folder / "nodes" / f"{participant:02d}"
        node = {"participant": participant, "data": self.data, "partition": self.partition}
        node["rewards"] = str(self.rewards(participant).resolve())
        if self.roster:
            key, authority = key or keys / f"participant-{participant:02d}", authority or keys / "ca.crt"
        command = node_command(home, self.address_for(participant), node, key, authority)
        self.start(f"participant-{participant:02d}", command, home / "flwr")


def run_fleet(
    folder: Path | str, config: Config, *, partition: str = "power_law", data: str = "fashion-mini",
    secure: bool = False, progress: bool = True, **options: object,
) -> Report:  # fmt: skip
    """Start a fleet on this machine, run over it, stop it and return the report.

    Started again with the same arguments, a run that was interrupted goes on.

    Args:
        folder: Made if it is missing.
        config: Of the run.
        partition: How the data set becomes shards.
        data: Name of the data set, or an .npz file.
        secure: TLS, and a key for each participant.
        progress: Print who is admitted or refused.
        options: Of `Settings`.

    Raises:
        RuntimeError: The run failed; the sentence says why.
        ValueError: Arguments do not fit together; nothing was started.
    """
    fleet = Fleet(folder, config.participants, data=data, partition=partition, secure=secure)
    settings = fleet.settings(**options)
    rule = lookup("partition", partition)
    rule(prepare(settings, config)[0].train, config)
    fleet.progress = flag("progress", progress)
    with fleet:
        fleet.start_all()
        return fleet.run(settings, config)


def serve(
    folder: Path | str, config: Config, *, roster: Path | str | None = None, address: str = "127.0.0.1",
    host: str = "127.0.0.1", port: int = 8000, **options: object,
) -> Report:  # fmt: skip
    """Run the server of one run on this machine, for participants that `join` from theirs, and return the report.

    Args:
        folder: Made if it is missing; participants need `keys/ca.crt` from there.
        config: Of the run.
        roster: Folder with a public key participant-NN.pub for each participant: TLS, and no other node is admitted.
        address: Name or address at which participants find this machine, for the certificate.
        host: Address at which the server listens; 0.0.0.0 for all interfaces.
        port: Where it listens.
        options: Of `Settings`.

    Raises:
        RuntimeError: The run failed; the sentence says why.
        ValueError: Arguments do not fit together; nothing was started.
    """
    server = Server(folder, roster, address=address, host=host, port=port)
    settings = server.settings(**options)
    if server.roster:
        read_roster(server.roster, config.participants)
    prepare(settings, config)
    with server:
        server.start_all()
        return server.run(settings, config)
