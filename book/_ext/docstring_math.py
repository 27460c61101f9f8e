"""Let docstrings write mathematics between dollar signs, as the chapters do."""

from __future__ import annotations

import re
from typing import Any


def _to_roles(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn dollars into math roles, also where a formula runs over a line's end; examples are left alone."""
    text = "\n".join(lines)
    lines[:] = re.sub(r"(?<![\\$])\$([^$`]+?)\$", lambda m: f":math:`{' '.join(m[1].split())}`", text).split("\n")


def setup(app: Any) -> dict[str, Any]:
    """Register the hook before napoleon reads the docstring."""
    app.connect("autodoc-process-docstring", _to_roles, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
