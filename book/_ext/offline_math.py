"""Ship the one MathJax file that the pages need, so that mathematics is drawn without a network."""

from __future__ import annotations

import shutil
from importlib.metadata import files
from pathlib import Path
from typing import Any


def _copy(app: Any, error: Exception | None) -> None:
    """Put tex-svg.js where ``mathjax_path`` points to."""
    if error or app.builder.format != "html":
        return
    # the package's folder has a hyphen, so it cannot be imported; its list of files knows where it lies
    source = next(each for each in files("sphinx-mathjax-offline") or [] if each.name == "tex-svg.js").locate()
    target = Path(app.outdir) / "_static" / "mathjax" / "tex-svg.js"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def setup(app: Any) -> dict[str, Any]:
    """Register the copy with Sphinx."""
    app.connect("build-finished", _copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
