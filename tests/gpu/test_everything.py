"""Every example of a docstring and every cell of a notebook, as on a machine with a GPU."""

from __future__ import annotations

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
from test_pretend_device import Device, device, pytestmark  # noqa: F401

import aequa_lite

HERE = Path(__file__).resolve().parent
MODULES = [m.name for m in walk_packages(aequa_lite.__path__, "aequa_lite.") if not m.name.endswith("__main__")]
FEW = {  # parameters with which a notebook takes a minute or two
    "01_quickstart": ("rounds=2", "local_steps=2", "out='OUT'"),
    "02_slimmable_networks": ("rounds=1", "seeds=2"),
    "03_federated_training": ("rounds=2",),
    "04_convergence": ("rounds=2", "seeds=2", "out='OUT'", "MOST=8"),
    "05_contribution": ("rounds=1", "local_steps=2"),
    "06_post_training_allocation": ("rounds=6", "local_steps=10", "out='OUT'"),
    "07_training_time_allocation": ("rounds=2", "local_steps=1"),
    "08_baselines": ("rounds=4", "local_steps=8"),
    "09_incentives_and_attacks": ("rounds=4", "local_steps=8"),
    "10_many_machines": ("local_steps=2",),
    "11_your_own_data": ("rounds=2", "local_steps=1", "seeds=2", "out='OUT'", "MOST=4"),
    "reproduce": ("rounds=2", "local_steps=2", "participants=3", "out='OUT'"),
}
pytestmark = [*pytestmark, pytest.mark.whole]


@pytest.mark.parametrize("name", MODULES)
def test_every_docstring_example(device: Device, name: str) -> None:  # noqa: F811
    assert doctest.testmod(import_module(name)).failed == 0


def test_every_notebook_is_run() -> None:
    assert set(FEW) == {path.stem for path in (HERE.parents[1] / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("name", FEW)
def test_every_notebook(name: str) -> None:
    path = HERE.parents[1] / "notebooks" / f"{name}.ipynb"
    command = [sys.executable, HERE / "run_notebook.py", path, *FEW[name]]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)  # what was left out: `pytest -rP` shows it
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
