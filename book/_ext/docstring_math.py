"""Prepare docstrings: mathematics between dollar signs, as in the chapters, and what Napoleon would read wrongly."""

from __future__ import annotations

import re
from typing import Any

STAR = re.compile(r"(?<=[(\s])\*(?=[,\w])(?![^\n]*\w\*)")  # of a signature, `(problem, *, train)`: no emphasis


def _to_roles(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn dollars into math roles, also where a formula runs over a line's end; examples are left alone."""
    text = "\n".join(line if ">>>" in line or "..." in line else STAR.sub(r"\\*", line) for line in lines)
    text = re.sub(r"(?<![\\$])\$([^$`]+?)\$", lambda m: f":math:`{' '.join(m[1].split())}`", text)
    if what == "property":
        text = text.replace(": ", ", ", 1)  # Napoleon takes what stands before a colon for a type
    lines[:] = text.split("\n")


def setup(app: Any) -> dict[str, Any]:
    """Register the hook before napoleon reads the docstring."""
    app.connect("autodoc-process-docstring", _to_roles, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
