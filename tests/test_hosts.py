"""The files for real hosts: units, the server's script and the container ask for nothing that is not there."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "flower"
UNITS = sorted(EXAMPLES.glob("*.service"))


def logical(name: str) -> list[str]:
    """A file's lines, those that go on put together, without comments."""
    text = (EXAMPLES / name).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if not line.startswith("#")]


def started(home: Path, *, days: str = "365") -> str:
    """Run server.sh with a SuperLink that only prints its arguments; return them."""
    programs = home / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "flower-superlink").write_text('#!/bin/sh\necho "$@"\n')
    (programs / "flower-superlink").chmod(0o755)
    script = (EXAMPLES / "server.sh").read_text().replace("-days 365", f"-days {days}")
    env = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "STATE": str(home / "state")}
    done = subprocess.run(
        ["bash", "-c", script, "server.sh", "federation.example.org"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl here")
def test_the_servers_script_makes_certificates_once_and_renews_only_the_servers(tmp_path: Path) -> None:
    keys = tmp_path / "state" / "keys"
    asked = started(tmp_path, days="20")
    assert f"--ssl-certfile {keys}/server.pem" in asked
    first = {name: (keys / name).read_bytes() for name in ("ca.crt", "ca.key", "server.pem")}
    started(tmp_path)  # what expires within a month is renewed, by the same authority
    again = {name: (keys / name).read_bytes() for name in first}
    assert [name for name in first if first[name] != again[name]] == ["server.pem"]
    started(tmp_path)
    assert (keys / "server.pem").read_bytes() == again["server.pem"]
    for name in ("federation.example.org", "127.0.0.1"):
        kind = "ip" if name[0].isdigit() else "hostname"
        command = ["openssl", "verify", "-CAfile", keys / "ca.crt", f"-verify_{kind}", name, keys / "server.pem"]
        assert subprocess.run(command, capture_output=True).returncode == 0, name
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((keys / name).stat().st_mode) == 0o600
    assert (keys / "ca.crt").stat().st_mode & stat.S_IROTH  # participants need it


@pytest.mark.parametrize(
    ("file", "program"),
    [
        ("server.sh", "flower-superlink"),
        ("aequa-participant.service", "flower-supernode"),
        ("Containerfile", "flower-supernode"),
    ],
)
def test_flower_knows_every_option_that_the_hosts_use(file: str, program: str) -> None:
    pytest.importorskip("flwr")
    (line,) = [each for each in logical(file) if re.match(rf"(exec |ExecStart=|CMD ).*{program}", each)]
    help_ = subprocess.run(
        [Path(sys.executable).with_name(program), "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = set(re.findall(r"--[a-z-]+", line))
    assert len(options) > 3
    assert not options - set(re.findall(r"--[a-z-]+", help_))


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_a_unit_writes_only_where_it_may(unit: Path) -> None:
    lines = dict(
        line.split("=", 1) for line in logical(unit.name) if "=" in line and not line.startswith("Environment")
    )
    assert (lines["User"], lines["StateDirectory"], lines["ProtectSystem"]) == ("aequa", "aequa", "strict")
    assert lines["PrivateTmp"] == "true"  # a reward is checked aside, in /tmp
    homes = re.findall(r"FLWR_HOME=(\S+)", unit.read_text())
    assert homes == ["/var/lib/aequa/flwr"]
    node = tomllib.loads((EXAMPLES / "node.toml").read_text())
    assert node["rewards"].startswith("/var/lib/aequa/")


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_systemd_takes_the_units(unit: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze here")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    printed = [line for line in done.stderr.splitlines() if unit.name in line]
    assert all("is not executable" in line for line in printed), printed  # what it starts is installed on the real host


def test_the_container_copies_what_is_there_and_needs_no_other_program() -> None:
    for line in logical("Containerfile"):
        if line.startswith("COPY"):
            assert all((EXAMPLES.parents[1] / name).exists() for name in line.split()[1:-1])
    assert "git+" not in (EXAMPLES / "Containerfile").read_text()  # the slim image has no git
