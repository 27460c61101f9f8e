"""The project's scripts as modules: they lie outside the package, so they are read from their files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def program(path: str) -> ModuleType:
    """The module in a file of the project, such as scripts/draw.py; anew at each call."""
    found = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # where dataclasses look
    found.loader.exec_module(module)
    return module
