"""The live source of a function, so that the code a chapter shows is the code under test."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

__all__ = ["Source", "show"]


class Source(str):
    """Python source that a notebook displays as a highlighted block."""

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}\n```"


def show(function: Callable[..., Any]) -> Source:
    """Return the source of a function or class as it runs now, without its docstring.

    Example:
        >>> from aequa_lite import prefix
        >>> print(show(prefix))
        def prefix(shape: Iterable[int]) -> tuple[slice, ...]:
            return tuple(slice(0, size) for size in shape)

    Source: ours.
    """
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    body = ast.parse("\n".join(lines)).body[0].body  # type: ignore[attr-defined]
    first = body[0]
    if len(body) > 1 and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        del lines[first.lineno - 1 : first.end_lineno]
    return Source("\n".join(lines).strip())
