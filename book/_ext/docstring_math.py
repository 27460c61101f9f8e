"""Prepare docstrings: mathematics between dollar signs, as in the chapters, and what Napoleon would read wrongly."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

STAR = re.compile(r"(?<=[(\s])\*(?=[,\w])(?![^\n]*\w\*)")  # of a signature, `(problem, *, train)`: no emphasis


def _with_fields(obj: Any, lines: list[str]) -> list[str]:
    """The docstring of a dataclass whose fields say what they are, such as `Config`, with an argument for each."""
    told = [each for each in fields(obj) if "about" in each.metadata] if is_dataclass(obj) else []
    if not told or "Raises:" not in lines:
        return lines
    entries = [f"    {each.name}: {each.metadata['about']} (default: {each.default})" for each in told]
    at = lines.index("Raises:")
    return [*lines[:at], "Args:", *entries, "", *lines[at:]]


def _to_roles(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn dollars into math roles, also where a formula runs over a line's end; examples are left alone."""
    lines[:] = _with_fields(obj, lines)
    text = "\n".join(line if ">>>" in line or "..." in line else STAR.sub(r"\\*", line) for line in lines)
    text = re.sub(r"(?<![\\$])\$([^$`]+?)\$", lambda m: f":math:`{' '.join(m[1].split())}`", text)
    if what == "property":
        text = text.replace(": ", ", ", 1)  # Napoleon takes what stands before a colon for a type
    lines[:] = text.split("\n")


def setup(app: Any) -> dict[str, Any]:
    """Register the hook before napoleon reads the docstring."""
    app.connect("autodoc-process-docstring", _to_roles, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
