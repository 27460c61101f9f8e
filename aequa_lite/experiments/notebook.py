"""The live source of a function, so that the code a chapter shows is the code under test."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from .._io import short_repr
from ..registry import fits

__all__ = ["Source", "check_parameters", "show_source"]


class Source(str):
    """Python source that a notebook displays as a highlighted block."""

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}\n```"


def show_source(function: Callable[..., Any]) -> Source:
    """Return the source of a function or class as it runs now, without its docstring.

    Example:
        >>> from aequa_lite import prefix
        >>> print(show_source(prefix))
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


def check_parameters(cells: Iterable[str], values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a notebook's parameters; refuse what was passed and is none of them, or of another kind.

    ``cells``: the sources that ran so far (``In`` in a notebook): the first one with annotated values declares the
    parameters, a later one without annotations sets them, as papermill does, which itself lets unknown names pass.
    ``values``: the notebook's names (``globals()``), from which annotated ones are taken where no sources were kept, as
    under nbval.

    Raises:
        ValueError: a name is unknown (the nearest is given), or a value is not of the declared kind.

    Example:
        >>> check_parameters(["rounds: int = 20", "roundz = 3"])
        Traceback (most recent call last):
        ValueError: 'roundz' is no parameter; the nearest is 'rounds'
    """
    declared: dict[str, str] = {}
    given: dict[str, Any] = {}
    for cell in cells:
        for name, kind, value in _assigned(cell):
            if kind:
                declared[name] = kind
            elif declared and name not in declared:
                near = get_close_matches(name, declared, n=1, cutoff=0.0)[0]
                raise ValueError(f"{short_repr(name)} is no parameter; the nearest is {near!r}")
            elif declared and not fits(value, declared[name]):
                raise ValueError(f"{name} is {short_repr(value)}; allowed is a value of the kind {declared[name]}")
            given[name] = value
    if not declared and values is not None:
        return {name: values[name] for name in values.get("__annotations__", {})}
    return {name: given[name] for name in declared}


def _assigned(cell: str) -> list[tuple[str, str, Any]]:
    """Name, declared kind ("" for none) and value of a cell that holds nothing but plain values; else nothing."""
    try:
        found = ast.parse(cell).body
        pairs = [
            (node.target, ast.unparse(node.annotation), node.value)
            if isinstance(node, ast.AnnAssign)
            else (node.targets[0], "", node.value)
            for node in found
        ]
        return [(target.id, kind, ast.literal_eval(value)) for target, kind, value in pairs]
    except (SyntaxError, AttributeError, ValueError, TypeError, RecursionError, MemoryError):
        return []  # a cell that does something sets no parameters
