"""Names of a namespace, each imported from its file when it is first used, so that importing the package stays fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def attach(
    package: str, files: Mapping[str, Sequence[str]]
) -> tuple[Callable[..., Any], Callable[..., Any], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` for a package whose files hold these names."""
    home = {name: file for file, names in files.items() for name in names}

    def load(name: str) -> Any:
        if name not in home and name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        file = import_module(f"{package}.{home.get(name, name)}")
        return getattr(file, name) if name in home else file

    return load, lambda: sorted({*home, *files}), sorted(home)
