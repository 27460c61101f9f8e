"""What a machine needs to take part: Flower's programs as processes that are stopped together; keys and certificates."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import distribution
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .._check import refusal
from .._io import explaining, read_limited, write_whole

ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
MOST_KEY_BYTES = 1 << 16
PEM = serialization.Encoding.PEM
PLAIN = serialization.NoEncryption()
# below those of outgoing connections, which begin at 32768 on Linux and at 49152 elsewhere; each is taken once
_PORTS = iter(random.SystemRandom().sample(range(20000, 32768), 12768))
STOP = 8.0  # seconds that a process has to stop by itself
TOLD = "aequa: "  # begins a line of a log that is meant for the operator of the machine
# reads a line of groups after each start until the process that writes them has ended, however it ends; kills the last
GUARD = "while read -r line; do groups=$line; done; kill -s KILL -- $groups"


def tell(sentence: str) -> None:
    """Print what the operator of this machine should know; it reaches the log, and from there `Processes.told`."""
    print(f"{TOLD}{sentence}", flush=True)


def send_signal(group: int, number: int) -> None:
    """Send a signal to a group of processes, if it still exists."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on, another one each time.

    It is none of those that a system gives to outgoing connections, one of which could take it before a program that has
    just been started listens there.
    """
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port from 20000 to 32767 is left")


def program_folder() -> str:
    """Return the folder of Flower's own programs, which may lie beside another Python's packages."""
    named = [each.locate() for each in distribution("flwr").files or () if each.stem == "flower-superlink"]
    return os.path.dirname(os.path.abspath(str(named[0]) if named else sys.executable))


def search_path() -> list[str]:
    """Return where this process finds its packages, this one included, in its own order."""
    own, seen = str(Path(__file__).resolve().parents[2]), [os.path.abspath(each) for each in sys.path if each]
    return seen if own in seen else [own, *seen]


class Processes:
    """Start processes and stop them, with all that they started, when the `with` block ends or this process is killed.

    Args:
        folder: Logs are written to its subfolder `logs`.

    Example:
        >>> import tempfile
        >>> with Processes(tempfile.mkdtemp()) as own:
        ...     _ = own.start("hello", ["echo", "of no interest\\naequa: hello"], own.folder)
        ...     list(own.told("hello"))
        ['hello']
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._began: dict[str, int] = {}  # where in its log a process began

    def __enter__(self) -> Processes:
        """Start the guard, which kills everything if this process is killed."""
        command, quiet = ["/bin/sh", "-c", GUARD], subprocess.DEVNULL
        self._guard = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, text=True, start_new_session=True
        )
        return self

    def __exit__(self, *error: object) -> None:
        """Stop what was started, whatever happened."""
        self.stop()
        self._guard.kill()
        self._guard.communicate()

    def log(self, name: str) -> Path:
        """Return the path of a process's log."""
        return self.folder / "logs" / f"{name}.log"

    def start(self, name: str, command: Sequence[str], home: Path) -> subprocess.Popen[bytes]:
        """Start one of Flower's programs in a session of its own, with its state in the folder `home`."""
        self.stop(name)  # of an earlier start
        log = self.log(name)
        for each in (log.parent, home):
            each.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([program_folder(), os.environ.get("PATH", "")])  # Flower starts its programs by name
        env = {**os.environ, **ENVIRONMENT, "PATH": path, "FLWR_HOME": str(home.resolve())}
        env["PYTHONPATH"] = os.pathsep.join(search_path())
        with log.open("ab") as out:
            self._began[name] = out.tell()
            self.processes[name] = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
            )
        running = [f"-{each.pid}" for each in self.processes.values() if each.poll() is None]
        print(*running, file=self._guard.stdin, flush=True)
        return self.processes[name]

    def told(self, name: str, *others: str, watched: Collection[str] = ()) -> Iterator[str]:
        """Yield what a process tells the operator of this machine, until it ends, or one of the others does.

        Also yield when a process of `watched` has ended, with the end of its log.
        """
        line, ended, watched = "", False, set(watched)
        with self.log(name).open(errors="replace") as log:
            log.seek(self._began[name])
            while not ended:
                ended = any(self.processes[each].poll() is not None for each in (name, *others))
                for each in sorted(watched):
                    process = self.processes.get(each)  # none while it is stopped on purpose
                    if process and process.poll() is not None:
                        watched.remove(each)
                        yield f"{each} has ended; the end of its log:\n{self.tail(each, 5)}"
                for part in log:
                    line += part
                    if line.endswith("\n"):
                        if TOLD in line:
                            yield line.rstrip("\n").partition(TOLD)[2]
                        line = ""
                time.sleep(0.5)

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines of a process's log."""
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])

    def stop(self, *names: str) -> None:
        """Stop these processes (default: all), the last one first, each with all that it started."""
        chosen = [self.processes.pop(name) for name in list(reversed(self.processes)) if not names or name in names]
        for process in chosen:
            send_signal(process.pid, signal.SIGTERM)
        for process in chosen:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP)
            send_signal(process.pid, signal.SIGKILL)  # what is left of its group, also if it has ended
            process.wait()


def write_key(folder: Path | str, name: str) -> Path:
    """Write a private key and, as `name.pub`, its public key, in OpenSSH's format.

    The same as `ssh-keygen -t ecdsa -b 384 -N "" -f name`; only the owner may read the private key.

    Returns:
        The private key's path.

    Example:
        >>> import tempfile
        >>> write_key(tempfile.mkdtemp(), "participant-00").with_suffix(".pub").read_text()[:19]
        'ecdsa-sha2-nistp384'
    """
    key, path = ec.generate_private_key(ec.SECP384R1()), Path(folder) / name
    _write_secret(path, key.private_bytes(PEM, serialization.PrivateFormat.OpenSSH, PLAIN))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public + b"\n")
    return path


def _write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)


def write_certificate(folder: Path | str, *hosts: str, days: int = 90) -> Path:
    """Write `server.key` and `ca.crt` for a server at these addresses, and at 127.0.0.1.

    The certificate vouches for this one server: it is signed with the server's own key, and can sign no other.

    Args:
        folder: Made if it is missing.
        hosts: Names or IP addresses.
        days: Until the certificate expires.

    Returns:
        The folder.

    Example:
        >>> import tempfile
        >>> sorted(p.name for p in write_certificate(tempfile.mkdtemp()).iterdir())
        ['ca.crt', 'server.key']
    """
    for host in hosts:
        if not re.fullmatch(r"[\w.-]{1,64}|[0-9a-fA-F:.]{2,45}", host, re.ASCII):
            raise refusal("address", "a name of at most 64 letters or an IP address, without a port", host)
    folder, key = Path(folder), ec.generate_private_key(ec.SECP384R1())
    now, hosts = datetime.now(UTC), (*hosts, "127.0.0.1", "localhost")
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    made = x509.CertificateBuilder(own, own, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=days))
    names = x509.SubjectAlternativeName([_name(host) for host in dict.fromkeys(hosts)])
    server_only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(names, critical=False).add_extension(server_only, critical=False)
    _write_secret(folder / "server.key", key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN))
    write_whole(folder / "ca.crt", made.sign(key, hashes.SHA384()).public_bytes(PEM))
    return folder


def valid_certificate(folder: Path | str, *hosts: str, days: float = 31) -> bool:
    """Whether a server has its key and a certificate for these addresses that does not expire within so many days.

    Example:
        >>> import tempfile
        >>> valid_certificate(write_certificate(tempfile.mkdtemp(), "10.0.0.1"), "10.0.0.2")
        False
    """
    try:
        content, secret = (read_limited(Path(folder) / name, MOST_KEY_BYTES) for name in ("ca.crt", "server.key"))
        found = x509.load_pem_x509_certificate(content)
        own = serialization.load_pem_private_key(secret, None).public_key() == found.public_key()
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return False
    late = found.not_valid_after_utc > datetime.now(UTC) + timedelta(days=days)
    return own and late and all(_name(host) in names for host in hosts)


def _name(host: str) -> x509.GeneralName:
    """A server's name or address, as certificates have it."""
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def fingerprint(key: bytes) -> str:
    """SHA-256 of a node's public key, in hexadecimal."""
    return hashlib.sha256(key).hexdigest()


def roster(folder: Path | str, participants: int) -> dict[str, int]:
    """Read whose key is whose from the files `participant-NN.pub`, in OpenSSH's format.

    Returns:
        The participant's number by the key's fingerprint.

    Raises:
        ValueError: A participant's file is missing or holds no public key, or two hold the same.

    Example:
        >>> roster("nowhere", participants=0)
        {}
    """
    found: dict[str, int] = {}
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    for number in range(participants):
        path = Path(folder) / f"participant-{number:02d}.pub"
        damage = OSError, ValueError, UnsupportedAlgorithm, AttributeError  # some keys have no such form
        with explaining(f"keys: {path} is not a public key that can be read", *damage):
            key = serialization.load_ssh_public_key(read_limited(path, MOST_KEY_BYTES))
            own = fingerprint(key.public_bytes(*form))
        if own in found:
            raise ValueError(f"keys: {path} is also the key of participant {found[own]}; each needs its own")
        found[own] = number
    return found
