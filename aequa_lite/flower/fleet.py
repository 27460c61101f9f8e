"""A fleet on this machine: a SuperLink and N SuperNodes as processes, started, watched and stopped together.

``python -m aequa_lite.flower.local --participants 3 --rounds 2 --partition "imbalanced(0.5)"``
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import distribution
from pathlib import Path
from types import TracebackType

from ..config import Config
from ..report import Report, table
from .keys import write_certificates, write_key
from .settings import WELL, Settings, write_app
from .state import writable

__all__ = ["Fleet", "main", "run_fleet"]


QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
    "OMP_NUM_THREADS": "1",
}


STOP = 8.0  # seconds that a process has to stop by itself


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def programs() -> str:
    """Return the folder of Flower's own programs: it goes with the package, which may lie beside this Python's own."""
    named = [each.locate() for each in distribution("flwr").files or () if each.stem == "flower-superlink"]
    return os.path.dirname(os.path.abspath(str(named[0]) if named else sys.executable))


def visible() -> list[str]:
    """Return where this process finds its packages, this one included, in its own order."""
    own, seen = str(Path(__file__).resolve().parents[2]), [os.path.abspath(each) for each in sys.path if each]
    return seen if own in seen else [own, *seen]


class Fleet:
    """Start a server and its participants as processes of this machine, and stop every one of them at the end.

    ``folder``: everything is written below it: ``server/`` (what a run leaves), ``nodes/NN/`` (what a participant keeps),
    ``logs/``; ``partition``: how the data set becomes shards; ``secure``: TLS, and a key for each node.

    Example:
        >>> fleet = Fleet("runs/fleet", participants=2)
        >>> fleet.rewards(1).as_posix()
        'runs/fleet/nodes/01/rewards'
    """

    def __init__(
        self,
        folder: Path | str,
        participants: int,
        *,
        data: str = "fashion-mini",
        partition: str = "homogeneous",
        secure: bool = False,
    ) -> None:
        self.folder, self.participants, self.secure = Path(folder), participants, secure
        self.data, self.partition = data, partition
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Fleet:
        """Start the server, then the participants."""
        writable(self.folder)
        try:
            if self.secure:
                write_certificates(self.folder / "keys")
                for number in range(self.participants):
                    write_key(self.folder / "keys", f"participant-{number:02d}")
            self.start_server()
            if self.secure:
                self.register()
            for number in range(self.participants):
                self.start_participant(number)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what was started, whatever happened."""
        self.stop()

    @property
    def address(self) -> str:
        """Where the server listens."""
        return f"127.0.0.1:{self.port}"

    def door(self, number: int) -> str:
        """Where a participant finds the server."""
        return self.address

    def rewards(self, number: int) -> Path:
        """Return the folder in which a participant keeps its reward."""
        return self.folder / "nodes" / f"{number:02d}" / "rewards"

    def start(self, name: str, command: Sequence[str], home: Path) -> subprocess.Popen[bytes]:
        """Start one process in a session of its own, so that it can be stopped with all that it starts."""
        log, place = self.folder / "logs" / f"{name}.log", os.environ.get("PATH", "")
        for each in (log.parent, home):
            each.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([programs(), place])  # Flower finds its own programs by name
        env = {**os.environ, **QUIET, "PATH": path, "FLWR_HOME": str(home.resolve())}
        env["PYTHONPATH"] = os.pathsep.join(visible())
        with log.open("ab") as out:
            self.processes[name] = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
            )
        return self.processes[name]

    def start_server(self) -> None:
        """Start the SuperLink, again at the same address after it was killed, and wait until it listens.

        Raises:
            RuntimeError: it ended at once, or does not listen within a minute.
        """
        keys, place = self.folder / "keys", self.folder / "server"
        safe = ["--ssl-ca-certfile", f"{keys}/ca.crt", "--ssl-certfile", f"{keys}/server.pem"]
        safe += ["--ssl-keyfile", f"{keys}/server.key", "--enable-supernode-auth"]
        writable(place)
        command = ["flower-superlink", *(safe if self.secure else ["--insecure"]), "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--database", str(place / "superlink.db")]
        process = self.start("server", [*command, "--disable-runtime-dependency-installation"], place / "flwr")
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.1)
        raise RuntimeError(f"the server does not listen; the end of its log:\n{self.tail('server')}")

    def start_participant(self, number: int, key: Path | None = None, authority: Path | None = None) -> None:
        """Start one SuperNode, which knows its own data; ``key`` and ``authority``: others than the fleet's own."""
        keys, place = self.folder / "keys", self.folder / "nodes" / f"{number:02d}"
        safe = ["--root-certificates", str(authority or keys / "ca.crt")]
        safe += ["--auth-supernode-private-key", str(key or keys / f"participant-{number:02d}")]
        config = f'participant={number} data="{self.data}" partition="{self.partition}"'
        config += f' rewards="{self.rewards(number).resolve()}"'
        command = ["flower-supernode", *(safe if self.secure else ["--insecure"]), "--superlink", self.door(number)]
        command += ["--host", "127.0.0.1", "--port", str(free_port()), "--node-config", config]
        self.start(f"participant-{number:02d}", command, place / "flwr")

    def register(self) -> None:
        """Tell the server which keys belong to the fleet; any other node is refused.

        Raises:
            RuntimeError: the server did not take one.
        """
        self._address_book()
        for number in range(self.participants):
            key = self.folder / "keys" / f"participant-{number:02d}.pub"
            self.finished("register", ["flwr", "supernode", "register", str(key), "here"])

    def _address_book(self) -> None:
        """Write where the command `flwr` finds this server."""
        home = self.folder / "flwr"
        home.mkdir(parents=True, exist_ok=True)
        lines = ["[superlink]", 'default = "here"', "[superlink.here]", f'address = "{self.address}"']
        lines += [f"root-certificates = {json.dumps(str((self.folder / 'keys' / 'ca.crt').resolve()))}" if self.secure
                  else "insecure = true"]  # fmt: skip
        (home / "config.toml").write_text("\n".join(lines) + "\n")

    def finished(self, name: str, command: Sequence[str], patience: float = 120) -> None:
        """Run one command to its end.

        Raises:
            RuntimeError: it failed; the sentence holds the end of what it said.
        """
        process = self.start(name, command, self.folder / "flwr")
        if process.wait(patience):
            raise RuntimeError(f"{' '.join(command[:3])} failed:\n{self.tail(name)}")

    def submit(self, settings: Settings, config: Config) -> None:
        """Start a run; where the folder holds a checkpoint of the same recipe, it goes on from there."""
        self._address_book()
        (Path(settings.folder) / "outcome.json").unlink(missing_ok=True)
        write_app(self.folder / "app", settings, config)
        self.finished("run", ["flwr", "run", str(self.folder / "app"), "here"])

    def wait(self, settings: Settings, patience: float = 86400) -> str:
        """Wait until the run has ended and return how.

        Raises:
            RuntimeError: the server died, or the run ended without a word.
            TimeoutError: it has not ended within so many seconds.
        """
        until, path = time.monotonic() + patience, Path(settings.folder) / "outcome.json"
        while not path.exists():
            if self.processes["server"].poll() is not None:
                raise RuntimeError(f"the server died; the end of its log:\n{self.tail('server')}")
            if time.monotonic() > until:
                raise TimeoutError(f"the run has not ended in {patience:g} s; see {self.folder / 'logs'}")
            time.sleep(0.2)
        return str(json.loads(path.read_text())["outcome"])

    def settings(self, **options: object) -> Settings:
        """Return settings whose folder and keys are this fleet's."""
        keys = str((self.folder / "keys").resolve()) if self.secure else ""
        folder = str((self.folder / "server").resolve())
        return Settings(**{"data": self.data, "folder": folder, "keys": keys, **options})  # type: ignore[arg-type]

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines that a process wrote."""
        log = self.folder / "logs" / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def stop(self, *names: str, kill: bool = False) -> None:
        """Stop these processes (default: all), the last one first, each with whatever it started."""
        chosen = [name for name in reversed(self.processes) if not names or name in names]
        groups = {name: groups_of(self.processes[name].pid) for name in chosen}
        for name in chosen:
            for group in groups[name] if kill else groups[name][:1]:
                _signal(group, signal.SIGKILL if kill else signal.SIGTERM)
        for name in chosen:
            process = self.processes.pop(name)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP)
            for group in groups[name]:  # what is left of them, also when their leader has gone
                _signal(group, signal.SIGKILL)
            process.wait()


def _signal(group: int, number: int) -> None:
    """Send a signal to a group of processes, if there is still one."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def groups_of(leader: int) -> list[int]:
    """Return the group of a process, then those of whatever it started: a SuperLink's apps are in a group of their own."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid="], capture_output=True, text=True, check=True).stdout
    rows = [tuple(map(int, line.split())) for line in listed.splitlines()]
    groups, found = [leader], {leader}
    while new := [row for row in rows if row[1] in found and row[0] not in found]:
        found |= {row[0] for row in new}
        groups += [row[2] for row in new if row[2] not in groups]
    return groups


def run_fleet(
    folder: Path | str,
    config: Config,
    *,
    partition: str = "homogeneous",
    data: str = "fashion-mini",
    secure: bool = False,
    **options: object,
) -> Report:
    """Start a fleet, run the recipe over it, stop it, and return the report.

    ``options``: of ``Settings``. Started again with the same folder and recipe, a run that was broken off goes on.

    Raises:
        RuntimeError: the run did not end well; the sentence says why.
    """
    with Fleet(folder, config.participants, partition=partition, data=data, secure=secure) as fleet:
        settings = fleet.settings(**options)
        fleet.submit(settings, config)
        outcome = fleet.wait(settings)
        if outcome != WELL:
            raise RuntimeError(f"{outcome}\n(the server's log: {fleet.folder / 'logs' / 'server.log'})")
    return Report.load(settings.folder)


def main() -> None:
    """Read the command line, run a fleet on this machine and print the report."""
    parser = argparse.ArgumentParser(prog="python -m aequa_lite.flower.local", description=main.__doc__)
    parser.add_argument("--folder", default="runs/fleet", help="everything is written below it")
    parser.add_argument("--partition", default="homogeneous", help='such as "imbalanced(0.5)"')
    parser.add_argument("--data", default="fashion-mini", help="name of a data set or path of an .npz file")
    parser.add_argument("--secure", action="store_true", help="TLS, and a key for each node")
    for name in ("network", "policy", "draw", "server", "merging"):
        parser.add_argument(f"--{name}", default=getattr(Settings, name))
    parser.add_argument(
        "--balance", type=float, default=0.0, help="how far rare classes of a shard count like common ones"
    )
    parser.add_argument("--outsized", type=float, default=0.0, help="leave out changes above so many times the median")
    parser.add_argument("--quorum", type=int, default=1, help="answers that a round needs")
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds that a round waits for answers")
    config = Config()
    for name, value in config.to_dict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="of the recipe")
    asked = vars(parser.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the fleet is stopped before this process ends
    try:
        chosen = Config.from_dict({name: asked.pop(name) for name in config.to_dict()})
        print(table(run_fleet(asked.pop("folder"), chosen, **asked)))
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
