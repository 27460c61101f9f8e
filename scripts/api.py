"""Write the book's API pages: the names of a first run, the rest of the top level in two pages, one for each namespace;
stability, a part of `allocation`, has its own.

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
# files of a namespace on a page of their own
APART = {"allocation": ("stability", ("stability",))}
WHO_LEAVES = "What a false claim pays, and which coalitions would leave."
HEAD = """`import aequa_lite as aq`. The twelve names that a first run needs:

| name | what it does |
| --- | --- |
{rows}

{{doc}}`top` documents the other functions of the top level, {{doc}}`classes` its classes, and a page for each namespace
follows. Each entry links its source.
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


def about(thing: object) -> str:
    """The first line of a docstring, for a cell of a table."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def top_level() -> list[str]:
    """The functions and classes of the top level, in the order of `__init__.py`."""
    tree = ast.parse(Path(aq.__file__).read_text())
    nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return [alias.name for node in nodes for alias in node.names]


def pages() -> dict[str, str]:
    """Every page by its file name."""
    names = top_level()
    rows = "\n".join(f"| {{py:obj}}`~aequa_lite.{name}` | {about(getattr(aq, name))} |" for name in FIRST)
    rest = [name for name in names if name not in FIRST]
    classes = [name for name in rest if inspect.isclass(getattr(aq, name))]
    functions = [name for name in rest if name not in classes]
    more = "The other {} of the top level, in reading order. {{doc}}`index` documents the first twelve names."
    found = {
        "index.md": page("API: the twelve you need", HEAD.format(rows=rows).strip(), "aequa_lite", list(FIRST), aq),
        "top.md": page("Functions of aq", more.format("functions"), "aequa_lite", functions, aq),
        "classes.md": page("Classes of aq", more.format("classes"), "aequa_lite", classes, aq),
    }
    for namespace in NAMESPACES:
        module = importlib.import_module(f"aequa_lite.{namespace}")
        first = (module.__doc__ or "").strip().split("\n\n")[0]
        own = [name for name in getattr(module, "__all__", []) if name not in names]
        title, files = APART.get(namespace, ("", ()))
        apart = [name for name in own if getattr(getattr(module, name), "__module__", "").rpartition(".")[2] in files]
        own = [name for name in own if name not in apart]
        if apart:
            found[f"{title}.md"] = page(
                f"aq.{namespace}: {title}", WHO_LEAVES, f"aequa_lite.{namespace}", apart, module
            )
        if own:
            found[f"{namespace}.md"] = page(f"aq.{namespace}", first, f"aequa_lite.{namespace}", own, module)
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
