"""Prepare the API pages: mathematics in docstrings between dollar signs, what Napoleon would read wrongly, and sources."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "https://github.com/aequa-lite/aequa-lite/blob/main"  # finish.py puts a fork's name in its place

RANGED = re.compile(r"~?(?:typing\.)?Annotated\[(\w+), Range\([^)]*\)\]")  # a number whose range the docstring says
VECTOR = re.compile(
    r"~?(?:typing\.)?Annotated\[(?:(?!Annotated)[^:])*?, Vector\([^)]*\)\]"
)  # such numbers, one for each
STAR = re.compile(r"(?<=[(\s])\*(?=[,\w])(?![^\n]*\w\*)")  # of a signature, `(problem, *, train)`: no emphasis


def _to_roles(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn dollars into math roles, also where a formula runs over a line's end; examples are left alone."""
    text = "\n".join(line if ">>>" in line or "..." in line else STAR.sub(r"\\*", line) for line in lines)
    text = re.sub(r"(?<![\\$])\$([^$`]+?)\$", lambda m: f":math:`{' '.join(m[1].split())}`", text)
    if what == "property":
        text = text.replace(": ", ", ", 1)  # Napoleon takes what stands before a colon for a type
    lines[:] = text.split("\n")


def _plain_numbers(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """A signature in which a number of a range is a number, and one number for each participant an `ArrayLike`."""
    plain = VECTOR.sub("~numpy.typing.ArrayLike", RANGED.sub(r"\1", signature or ""))
    return plain or signature, returns


def source(domain: str, info: dict[str, str]) -> str | None:
    """The address of the lines that define a name of the package."""
    try:
        thing = inspect.unwrap(attrgetter(info["fullname"])(import_module(info["module"])))
        lines, first = inspect.getsourcelines(thing)
        path = Path(inspect.getsourcefile(thing) or "").resolve().relative_to(ROOT)
    except (AttributeError, TypeError, ValueError, OSError):
        return None  # a field, or a name of another package
    return f"{REPOSITORY}/{path.as_posix()}#L{first}-L{first + len(lines) - 1}"


def _sources(app: Any, config: Any) -> None:
    """Tell sphinx.ext.linkcode where sources lie."""
    config.linkcode_resolve = source


def setup(app: Any) -> dict[str, Any]:
    """Register the hook before napoleon reads the docstring."""
    app.connect("config-inited", _sources)
    app.connect("autodoc-process-docstring", _to_roles, priority=100)
    app.connect("autodoc-process-signature", _plain_numbers)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
