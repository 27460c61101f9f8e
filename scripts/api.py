"""Write the book's API pages from the package: the top level in reading order, then a page for each namespace.

usage: python scripts/api.py [--check]     (--check: only say whether the pages are up to date)
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from pathlib import Path

import aequa_lite as aq
from aequa_lite._io import atomic_write

FOLDER = Path(__file__).resolve().parents[1] / "book" / "api"
NAMESPACES = (
    "data", "networks", "local", "federate", "evaluation", "contribution", "allocation", "training_time", "metrics", "method",
    "aggregation", "baselines", "attacks", "theory", "rewards", "plotting", "registry", "checkpoint", "vectorized",
    "slimmable", "experiments", "flower",
)  # fmt: skip
HEAD = """# API

`import aequa_lite as aq`. These names are `aq.NAME`; a page for each namespace follows. Start with the twelve that a
first run needs: {first}.
"""
FIRST = ("load", "Config", "MLP", "for_dataset", "aequa", "federate", "slim", "standalone", "accuracy", "reward_curve",
         "allocate", "report")  # fmt: skip


def entry(path: str, thing: object) -> str:
    """The directive that documents one name."""
    if inspect.isclass(thing):
        return f".. autoclass:: {path}\n   :members:\n   :exclude-members: __init__, __new__\n"
    return f".. autofunction:: {path}\n" if callable(thing) else ""


def page(title: str, about: str, prefix: str, names: list[str], owner: object) -> str:
    """A page of entries."""
    entries = "\n".join(filter(None, (entry(f"{prefix}.{name}", getattr(owner, name)) for name in names)))
    return f"# {title}\n\n{about}\n\n```{{eval-rst}}\n{entries}\n```\n"


def top_level() -> list[str]:
    """The functions and classes of the top level, in the order of `__init__.py`."""
    tree = ast.parse(Path(aq.__file__).read_text())
    nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return [alias.name for node in nodes for alias in node.names]


def pages() -> dict[str, str]:
    """Every page by its file name."""
    first = ", ".join(f"{{py:obj}}`~aequa_lite.{name}`" for name in FIRST)
    names = top_level()
    start = page("API", "", "aequa_lite", names, aq)
    found = {"index.md": HEAD.format(first=first) + start.split("\n", 2)[2]}
    for namespace in NAMESPACES:
        module = importlib.import_module(f"aequa_lite.{namespace}")
        about = (module.__doc__ or "").strip().split("\n\n")[0]
        own = [name for name in getattr(module, "__all__", []) if name not in names]
        if own:
            found[f"{namespace}.md"] = page(f"aq.{namespace}", about, f"aequa_lite.{namespace}", own, module)
    return found


def main() -> None:
    """Write the pages, or check them."""
    wanted = pages()
    if "--check" in sys.argv:
        known = {path.name: path.read_text() for path in FOLDER.glob("*.md")}
        sys.exit(0 if known == wanted else "book/api is out of date; run python scripts/api.py")
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        with atomic_write(FOLDER / name) as half:
            half.write_text(text)


if __name__ == "__main__":
    main()
