"""Flower's programs as processes of this machine: started with their environment, logged, and stopped together.

Run as a script, this file is the guard that stops them if their own process is killed; it needs the standard library alone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import distribution
from pathlib import Path
from types import TracebackType


def send_signal(group: int, number: int) -> None:
    """Send a signal to a group of processes, if it still exists."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def groups_of(leader: int) -> list[int]:
    """Return the group of a process and those of its descendants; a SuperLink's apps have a group of their own.

    Without the program `ps`, as in small images, those of the descendants are not known.
    """
    try:
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,pgid="], capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        return [leader]
    rows = [tuple(map(int, line.split())) for line in listed.splitlines()]
    groups, found = [leader], {leader}
    while new := [row for row in rows if row[1] in found and row[0] not in found]:
        found |= {row[0] for row in new}
        groups += [row[2] for row in new if row[2] not in groups]
    return groups


def guard() -> None:
    """Read `+PID` and `-PID` lines until the input closes, then kill what was added and not removed."""
    leaders = set()
    for line in sys.stdin:
        (leaders.add if line[0] == "+" else leaders.discard)(int(line[1:]))
    for leader in leaders:
        for group in groups_of(leader):
            send_signal(group, signal.SIGKILL)


ENVIRONMENT = {
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


def program_folder() -> str:
    """Return the folder of Flower's own programs, which may lie beside another Python's packages."""
    named = [each.locate() for each in distribution("flwr").files or () if each.stem == "flower-superlink"]
    return os.path.dirname(os.path.abspath(str(named[0]) if named else sys.executable))


def search_path() -> list[str]:
    """Return where this process finds its packages, this one included, in its own order."""
    own, seen = str(Path(__file__).resolve().parents[2]), [os.path.abspath(each) for each in sys.path if each]
    return seen if own in seen else [own, *seen]


class AppendedLines:
    """Return the whole lines that were appended to a file since the last time, from its present end on.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "log"
        >>> new = AppendedLines(path)
        >>> _ = path.write_text("one\\ntw")
        >>> new()
        ['one']
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._read = self.path.stat().st_size if self.path.exists() else 0

    def __call__(self) -> list[str]:
        """Return them."""
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
            self._read += len(whole + end)
            return whole.decode(errors="replace").splitlines()
        return []


class Processes:
    """Start processes and stop them, with all that they started, when the `with` block ends or this process is killed.

    Args:
        folder: Logs are written to its subfolder `logs`.

    Example:
        >>> import tempfile
        >>> with Processes(tempfile.mkdtemp()) as own:
        ...     own.complete("hello", ["echo", "hello"], own.folder)
        ...     own.tail("hello")
        'hello'
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._guard: subprocess.Popen[str] | None = None

    def __enter__(self) -> Processes:
        """Start the guard, which stops everything if this process is killed."""
        command = [sys.executable, "-I", __file__]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what was started, whatever happened."""
        self.stop()
        if self._guard and self._guard.stdin:
            with suppress(BrokenPipeError):
                self._guard.stdin.close()
            self._guard.wait()

    def _tell_guard(self, line: str) -> None:
        """Tell the guard of a process that was started or stopped."""
        if self._guard and self._guard.stdin:
            with suppress(BrokenPipeError):
                self._guard.stdin.write(line + "\n")
                self._guard.stdin.flush()

    def log(self, name: str) -> Path:
        """Return the path of a process's log."""
        return self.folder / "logs" / f"{name}.log"

    def start(self, name: str, command: Sequence[str], home: Path) -> subprocess.Popen[bytes]:
        """Start one of Flower's programs in a session of its own, with its state in the folder `home`."""
        log = self.log(name)
        for each in (log.parent, home):
            each.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([program_folder(), os.environ.get("PATH", "")])  # Flower starts its programs by name
        env = {**os.environ, **ENVIRONMENT, "PATH": path, "FLWR_HOME": str(home.resolve())}
        env["PYTHONPATH"] = os.pathsep.join(search_path())
        with log.open("ab") as out:
            self.processes[name] = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
            )
        self._tell_guard(f"+{self.processes[name].pid}")
        return self.processes[name]

    def complete(self, name: str, command: Sequence[str], home: Path, patience: float = 120) -> None:
        """Run one command to its end.

        Raises:
            RuntimeError: It failed; the sentence holds the end of its log.
        """
        process = self.start(name, command, home)
        if process.wait(patience):
            raise RuntimeError(f"{' '.join(command[:3])} failed:\n{self.tail(name)}")

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines of a process's log."""
        log = self.log(name)
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def stop(self, *names: str, kill: bool = False) -> None:
        """Stop these processes (default: all), the last one first, each with all that it started."""
        chosen = [name for name in reversed(self.processes) if not names or name in names]
        groups = {name: groups_of(self.processes[name].pid) for name in chosen}
        for name in chosen:
            for group in groups[name] if kill else groups[name][:1]:
                send_signal(group, signal.SIGKILL if kill else signal.SIGTERM)
        for name in chosen:
            process = self.processes.pop(name)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP)
            for group in groups[name]:  # what is left of them, also if their leader has ended
                send_signal(group, signal.SIGKILL)
            process.wait()
            self._tell_guard(f"-{process.pid}")


if __name__ == "__main__":
    guard()
