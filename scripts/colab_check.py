"""Run every notebook as Colab would: Colab's packages and no others, an empty folder, from the first cell to the last.

usage: python scripts/colab_check.py [--python PYTHON] [--here FOLDER] [NOTEBOOK ...]     (default: all of notebooks/)
       python scripts/colab_check.py --cells     (write the installing cells into all notebooks, and do nothing else)

The installing cells hold the repository's address once, as `address`; it is that of pyproject.toml.

A copy of an interpreter (``--python``; Colab has 3.13) gets what ``scripts/colab.txt`` lists, and a module that is called
google.colab. Each notebook then runs in it through papermill. Its first cell takes the wheel of this working tree, which
lies in the folder as one that a reader has uploaded; with ``--from repository`` it takes the last commit, from the address
in the cell, which is replaced by that of this working tree. The tables of results come from its folder. Afterwards every
package that was there must still have its version, and aequa-lite must be the only one that was added.

It cannot try: Colab's own page, its GPU, its network. The CUDA libraries that torch loads also on a CPU are lent by the
environment which runs this, where that has them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
LISTED = ROOT / "scripts" / "colab.txt"
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
RAW = f"{ADDRESS.replace('github.com', 'raw.githubusercontent.com')}/main"  # where a notebook on Colab finds files
PIP = ("-P", "-m", "pip")  # which takes what is installed, not what lies in this folder
FIRST = f"""import sys
from pathlib import Path

if "google.colab" in sys.modules:
    address = "{ADDRESS}"
    wheels = sorted(Path().glob("aequa_lite-*.whl"))  # yours, if uploaded
    package = wheels[-1] if wheels else f"git+{{address}}"
    get_ipython().system(f"pip -q install --no-deps {{package}}")

    import aequa_lite as aq

    print(aq.runtime())"""
FLEET = """if "google.colab" in sys.modules:
    # Flower asks for other versions of what Colab has: they lie beside
    # Colab's own, in a folder
    shell = get_ipython().system
    shell("python -m venv --without-pip --system-site-packages flower")
    shell('pip -q --python flower/bin/python install "flwr>=1.42,<1.43"')
    major, minor = sys.version_info[:2]
    sys.path.insert(0, f"flower/lib/python{major}.{minor}/site-packages")"""

LARGER = "rounds = 2 * rounds"  # what a chapter changes on a GPU; those that change something else:
OTHERS = {
    "02": "rounds, seeds = 2 * rounds, 5",
    "04": "seeds, rounds, scale = 8, 2 * rounds, 4",
    "10": "local_steps = 2 * local_steps",
    "11": "seeds = 2 * seeds",
}
LARGER_CELL = """if "google.colab" in sys.modules:
    import torch

    if torch.cuda.is_available():  # there is time to train longer
        {}"""


def installing_cells(name: str) -> list[str]:
    """The cells for Colab: what installs, and Flower where a notebook starts a fleet; a chapter's larger numbers."""
    install = [FIRST, FLEET] if name.startswith(("10_", "11_")) else [FIRST]
    number = name.split("_")[0]
    return [*install, LARGER_CELL.format(OTHERS.get(number, LARGER))] if number.isdigit() else install


def write_cells(notebooks: list[Path]) -> None:
    """Write the installing cells into each notebook that has other ones."""
    for path in notebooks:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if "nbval-skip" in cell["metadata"].get("tags", [])]
        wanted = [text.splitlines(keepends=True) for text in installing_cells(path.stem)]
        if len(cells) < len(wanted):  # the last one is new
            place = next(i for i, c in enumerate(notebook["cells"]) if "parameters" in c["metadata"].get("tags", []))
            tags = {"tags": ["remove-cell", "nbval-skip"]}
            cell = {"cell_type": "code", "execution_count": None, "id": f"{path.stem[:12]}-larger", "metadata": tags}
            notebook["cells"].insert(place + 1, {**cell, "outputs": [], "source": []})
            cells.append(notebook["cells"][place + 1])
        if [cell["source"] for cell in cells] != wanted:
            for cell, text in zip(cells, wanted, strict=True):
                cell["source"] = text
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{path.name}: installing cells written")


def output_of(*command: str | Path, **options: object) -> str:
    """Run a command and return its output; a failure is shown whole."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command[:6]))} ... failed:\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def machine(python: str, place: Path) -> Path:
    """Copy an interpreter, so that it is no virtual environment, and install what Colab has; return its executable."""
    where = "import sys, sysconfig; print(sys.base_prefix); print(sysconfig.get_path('purelib', vars={'base': ''}))"
    base, site = output_of(python, "-c", where).split()
    if base == "/usr":
        sys.exit(
            f"--python is {python}, which the system owns; allowed is one in a folder of its own (pyenv, uv, conda)"
        )
    shutil.copytree(base, place, symlinks=True, ignore=shutil.ignore_patterns("site-packages", "test", "__pycache__"))
    site_packages, executable = place / site.strip("/"), place / "bin" / "python3"
    output_of(executable, "-m", "ensurepip")
    lines = [line for line in LISTED.read_text().splitlines() if line and not line.startswith("#")]
    own = [line for line in lines if line.startswith(("torch=", "torchvision="))]
    put = (sys.executable, "-m", "uv", "pip", "install", "-q", "--python", executable)
    output_of(*put, "--no-deps", "--reinstall", "pip==24.1.2")  # Colab's; its script now starts this interpreter
    output_of(*put, "--no-deps", *[line for line in lines if line not in own])
    spec = find_spec("nvidia")
    if spec is None or not spec.submodule_search_locations:
        output_of(*put, *lines)  # with whatever torch asks for
    else:
        output_of(*put, "--no-deps", *own)
        (site_packages / "nvidia").symlink_to(next(iter(spec.submodule_search_locations)))
    (site_packages / "google" / "colab").mkdir(parents=True)
    (site_packages / "google" / "colab" / "__init__.py").write_text("")
    (site_packages / "colab.pth").write_text("import google.colab\n")  # loaded before any cell runs
    for name in ("python", "pip"):
        if not (place / "bin" / name).exists():
            (place / "bin" / name).symlink_to(f"{name}3")
    return executable


def installed(executable: Path) -> dict[str, str]:
    """Every package of the simulated machine and its version."""
    listed = json.loads(output_of(executable, *PIP, "list", "--format", "json"))
    return {each["name"].lower(): each["version"] for each in listed}


def kernel(executable: Path, place: Path) -> dict[str, str]:
    """Register the interpreter as a kernel; return the environment in which papermill finds it."""
    path = f"{executable.parent}{os.pathsep}/usr/bin{os.pathsep}/bin"
    env = {"PATH": path, "PYTHONPATH": "", "AEQUA_DATA": ""}
    spec = {"argv": [str(executable), "-m", "ipykernel_launcher", "-f", "{connection_file}"], "env": env,
            "display_name": "Colab", "language": "python"}  # fmt: skip
    (place / "kernels" / "colab").mkdir(parents=True)
    (place / "kernels" / "colab" / "kernel.json").write_text(json.dumps(spec))
    return {**os.environ, "JUPYTER_PATH": str(place)}


def run(path: Path, wheel: Path | None, empty: Path, env: dict[str, str]) -> tuple[bool, str]:
    """Run one notebook in an empty folder; return whether it went through and a sentence about it.

    Without a wheel the package comes from this working tree's repository.
    """
    empty.mkdir()
    text = path.read_text(encoding="utf-8").replace(RAW, ROOT.as_uri())
    if wheel is None:
        text = text.replace(ADDRESS, ROOT.as_uri())
    else:
        shutil.copy(wheel, empty)
    given, ran = empty.parent / path.name, empty.parent / f"ran-{path.name}"
    given.write_text(text, encoding="utf-8")
    command = ["papermill", "-k", "colab", "--cwd", empty, "--no-progress-bar", given, ran]
    done = subprocess.run([sys.executable, "-m", *map(str, command)], env=env, capture_output=True, text=True)
    outputs = [each for cell in nbformat.read(ran, as_version=4).cells[:3] for each in cell.get("outputs", [])]
    words = "".join(each.get("text", "") for each in outputs).strip()
    return done.returncode == 0, words if done.returncode == 0 else done.stderr[-3000:]


def main() -> None:
    """Make the machine, run the notebooks, and say of each what happened."""
    parser = argparse.ArgumentParser(prog="colab_check.py", description=main.__doc__)
    parser.add_argument("--cells", action="store_true", help="write the installing cells into all notebooks")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that is copied")
    parser.add_argument(
        "--from", dest="source", choices=("wheel", "repository"), default="wheel", help="of the package"
    )
    parser.add_argument("--here", help="a folder for the simulated machine, kept and used again")
    parser.add_argument("notebooks", nargs="*", type=Path)
    asked = parser.parse_args()
    notebooks = asked.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if asked.cells:
        return write_cells(notebooks)
    place = Path(asked.here or tempfile.mkdtemp(prefix="colab-")).resolve()
    runs = Path(tempfile.mkdtemp(prefix="colab-runs-"))
    executable = place / "colab" / "bin" / "python3"
    if not executable.exists():
        machine(asked.python, place / "colab")
    env = kernel(executable, runs)
    output_of(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir", "-w", runs, ROOT)
    (wheel,) = runs.glob("aequa_lite-*.whl")
    remove = (executable, *PIP, "uninstall", "-q", "-y", "aequa-lite")
    output_of(*remove)  # a check that was killed has left it on a machine that is used again
    before, bad = installed(executable), 0
    print(
        f"Python {output_of(executable, '-V').split()[1]}, torch {before['torch']}, {len(before)} packages", flush=True
    )
    for number, path in enumerate(notebooks):
        started = time.perf_counter()
        well, words = run(path, wheel if asked.source == "wheel" else None, runs / f"empty-{number}", env)
        after = installed(executable)
        touched = {name: after.get(name) for name in {*before, *after} if before.get(name) != after.get(name)}
        well &= set(touched) == {"aequa-lite"}
        bad += not well
        print(f"{'ok' if well else 'FAILED'}  {path.name}  {time.perf_counter() - started:.0f} s  "
              f"changed: {sorted(touched)}\n    {words}", flush=True)  # fmt: skip
        output_of(*remove)
    sys.exit(f"{bad} of {len(notebooks)} notebooks failed" if bad else 0)


if __name__ == "__main__":
    main()
