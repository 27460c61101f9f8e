"""The package as it is handed out: source archive and wheel, which bring all they need and ask for all they import."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HANDED_OUT = ("pyproject.toml", "README.md", "LICENSE", "aequa_lite", "aequa_command.py")


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


def test_ctrl_c_while_the_package_is_imported_ends_the_command_without_a_traceback(site: Path, tmp_path: Path) -> None:
    """The wheel's command, with a package in place of ours that is interrupted while it is imported."""
    (metadata,) = site.glob("*.dist-info/entry_points.txt")
    ((module, function),) = re.findall(r"^aequa = (\w+):(\w+)$", metadata.read_text(encoding="utf-8"), re.M)
    shutil.copy(site / f"{module}.py", tmp_path)
    (tmp_path / "aequa_lite").mkdir()
    (tmp_path / "aequa_lite" / "__init__.py").write_text("import signal\n\nsignal.raise_signal(signal.SIGINT)\n")
    start = f"import {module}; {module}.{function}()"
    done = subprocess.run([sys.executable, "-c", start], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_the_command_of_the_wheel_answers_and_hands_ctrl_c_back(site: Path, tmp_path: Path) -> None:
    start = (
        "import signal, sys, aequa_command\nsys.argv = ['aequa', 'show', 'nowhere']\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a process in the background begins without it
        "status = aequa_command.main()\n"
    )
    start += "print(status, signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", start], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "True"], done.stderr


def test_the_readmes_program_runs_from_the_wheel_in_another_folder(site: Path, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    quick = program.replace("seed=0)", "seed=0, rounds=2, local_steps=2)").replace("runs/first", str(tmp_path / "run"))
    quick += "\nprint(aq.__file__)\n"
    env = {**os.environ, "PYTHONPATH": str(site), "AEQUA_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", quick], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "smallest gain" in done.stdout
    assert str(site) in done.stdout.splitlines()[-1]  # the wheel's, not the working tree's


def test_the_wheel_requires_what_pyproject_declares(site: Path) -> None:
    (metadata,) = site.glob("*.dist-info/METADATA")
    required = re.findall(r"^Requires-Dist: ([\w.-]+)(?!.*extra ==).*$", metadata.read_text(encoding="utf-8"), re.M)
    assert [name.lower() for name in required] == [re.split(r"[>=<]", each)[0] for each in PROJECT["dependencies"]]


def test_importing_it_needs_no_extra(tmp_path: Path) -> None:
    declared = {re.split(r"[>=<]", each)[0] for each in PROJECT["dependencies"]}
    drawing = {"matplotlib", "seaborn"}  # loaded when a figure is asked for
    script = f"""
import sys
allowed = {sorted((declared - drawing) | {"aequa_lite"})!r}
before = set(sys.modules)
import torch, torchvision, scipy.optimize, scipy.stats, safetensors.torch, tqdm
theirs = {{name.split(".")[0] for name in sys.modules}}
import aequa_lite
loaded = {{name.split(".")[0] for name in sys.modules}} - theirs - set(sys.stdlib_module_names)
print(sorted(loaded - set(allowed)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
