"""Write the book's API page from the package: its public names in reading order, room by room.

usage: python scripts/api.py [--check]     (--check: only say whether the page is up to date)
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from pathlib import Path

import aequa_lite as aq
from aequa_lite._io import atomic_write

PAGE = Path(__file__).resolve().parents[1] / "book" / "api.md"
HEAD = """# API

Every public name, in reading order: a heading for each file of the module. Import the names from the package,
`import aequa_lite as aq`.
"""


def imported() -> list[tuple[str, list[str]]]:
    """Each room with the names that the package takes from it, in the order of ``__init__.py``."""
    tree = ast.parse(Path(aq.__file__).read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    return [(str(node.module), [alias.asname or alias.name for alias in node.names]) for node in nodes]


def entry(name: str) -> str:
    """The directive that documents one name."""
    if inspect.isclass(getattr(aq, name)):
        return f".. autoclass:: aequa_lite.{name}\n   :members:\n   :exclude-members: __init__, __new__\n"
    return f".. autofunction:: aequa_lite.{name}\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for room, names in imported():
        about = (importlib.import_module(f"aequa_lite.{room}").__doc__ or "").strip().splitlines()[0]
        entries = "\n".join(entry(name) for name in sorted(names))
        parts.append(f"\n## {room}\n\n{about}\n\n```{{eval-rst}}\n{entries}\n```\n")
    return "".join(parts)


def main() -> None:
    """Write the page, or check it."""
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text() == page() else f"{PAGE.name} is out of date; run python scripts/api.py")
    with atomic_write(PAGE) as half:
        half.write_text(page())


if __name__ == "__main__":
    main()
