"""Ship the one MathJax file that the pages need, so that mathematics is drawn without a network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import sphinx_mathjax_offline


def _copy(app: Any, error: Exception | None) -> None:
    """Put tex-svg.js where ``mathjax_path`` points to."""
    if error or app.builder.format != "html":
        return
    source = next(Path(sphinx_mathjax_offline.__file__).parent.rglob("tex-svg.js"))
    target = Path(app.outdir) / "_static" / "mathjax" / "tex-svg.js"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def setup(app: Any) -> dict[str, Any]:
    """Register the copy with Sphinx."""
    app.connect("build-finished", _copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
