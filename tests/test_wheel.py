"""The package as it is handed out: source archive and wheel, which bring all they need and ask for all they import."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HANDED_OUT = ("pyproject.toml", "README.md", "LICENSE", "aequa_lite")


def built(kind: str, source: Path, into: Path) -> Path:
    """Build one archive from a folder, by the build backend that pyproject.toml names."""
    into.mkdir()
    call = f"from setuptools import build_meta; build_meta.build_{kind}({str(into)!r})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", call], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = into.iterdir()
    return archive


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as its wheel installs it; the wheel is built from the source archive."""
    place = tmp_path_factory.mktemp("handed-out")
    (place / "tree").mkdir()
    for name in HANDED_OUT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, place / "tree" / name)
    with tarfile.open(built("sdist", place / "tree", place / "source")) as archive:
        archive.extractall(place / "unpacked", filter="data")
    (unpacked,) = (place / "unpacked").iterdir()
    with zipfile.ZipFile(built("wheel", unpacked, place / "wheel")) as archive:
        archive.extractall(place / "site")
    return place / "site"


def test_the_wheel_holds_every_file_of_the_package(site: Path) -> None:
    wanted = {
        p.relative_to(ROOT) for p in (ROOT / "aequa_lite").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    found = {p.relative_to(site) for p in (site / "aequa_lite").rglob("*") if p.is_file()}
    assert found == wanted


def test_the_readmes_program_runs_from_the_wheel_in_another_folder(site: Path, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    quick = program.replace("seed=0)", "seed=0, rounds=2, local_steps=2)")
    quick += "\nprint(aq.__file__)\n"
    env = {**os.environ, "PYTHONPATH": str(site), "AEQUA_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", quick], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "smallest gain" in done.stdout
    assert str(site) in done.stdout.splitlines()[-1]  # the wheel's, not the working tree's


def test_the_wheel_asks_for_what_pyproject_declares(site: Path) -> None:
    (metadata,) = site.glob("*.dist-info/METADATA")
    said = re.findall(r"^Requires-Dist: ([\w.-]+)(?!.*extra ==).*$", metadata.read_text(encoding="utf-8"), re.M)
    assert [name.lower() for name in said] == [re.split(r"[>=<]", each)[0] for each in PROJECT["dependencies"]]


def imported(room: str) -> tuple[set[str], set[str]]:
    """The rooms and the packages of others that a file imports when it is imported itself."""
    tops = ast.parse((ROOT / "aequa_lite" / f"{room}.py").read_text(encoding="utf-8")).body
    rooms, others = set(), set()
    for node in tops:
        if isinstance(node, ast.ImportFrom) and node.level:
            rooms |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            others.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
    return rooms, others - set(sys.stdlib_module_names)


def test_importing_it_needs_no_more_than_is_declared() -> None:
    declared = {re.split(r"[>=<]", each)[0] for each in PROJECT["dependencies"]}
    left, seen = {"__init__", "__main__"}, set()
    while left:
        room = left.pop()
        rooms, others = imported(room)
        seen.add(room)
        left |= rooms - seen
        assert others <= declared, f"{room}.py imports {others - declared}"
    assert len(seen) > 40  # the sweeps alone are outside: they need papermill, of the extra [book]
