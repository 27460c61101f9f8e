"""What the notebooks use: the live source of a function, and parameters that are checked."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .._check import checked, one_of, refusal
from ..registry import fits

__all__ = ["Source", "check_parameters", "show_source"]


class Source(str):
    """Python source that a notebook displays as a highlighted block.

    Example:
        >>> Source("x = 1")
        'x = 1'
    """

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}\n```"


@checked
def show_source(function: Callable[..., Any]) -> Source:
    """Return the source of a function or class as it runs now, without its docstring and the check of its arguments.

    Example:
        >>> from aequa_lite import prefix
        >>> print(show_source(prefix))
        def prefix(shape: Iterable[int]) -> tuple[slice, ...]:
            return tuple(slice(0, size) for size in shape)
    """
    lines = [each for each in textwrap.dedent(inspect.getsource(function)).splitlines() if each != "@checked"]
    body = ast.parse("\n".join(lines)).body[0].body  # type: ignore[attr-defined]
    first = body[0]
    if len(body) > 1 and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        del lines[first.lineno - 1 : first.end_lineno]
    return Source("\n".join(lines).strip())


@checked
def check_parameters(cells: Iterable[str], values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a notebook's parameters; refuse one that was passed and not declared, or has another type.

    Args:
        cells: Sources that ran so far (`In` in a notebook). The first cell of annotated values declares the parameters; a
            later one without annotations sets them, as papermill does, which accepts unknown names silently.
        values: The notebook's `globals()`, for annotated names where no sources were kept, as under nbval.

    Raises:
        ValueError: A name is unknown (the nearest is given), or a value has another type than declared.

    Example:
        >>> check_parameters(["rounds: int = 20", "rounds = 3"])
        {'rounds': 3}
    """
    declared: dict[str, str] = {}
    given: dict[str, Any] = {}
    for cell in cells:
        for name, kind, value in _assigned(cell):
            if kind:
                declared[name] = kind
            elif declared:
                one_of("parameter", name, declared)
                if not fits(value, declared[name]):
                    raise refusal(name, f"of the type {declared[name]}", value)
            given[name] = value
    if not declared and values is not None:
        return {name: values[name] for name in values.get("__annotations__", {})}
    return {name: given[name] for name in declared}


def _assigned(cell: str) -> list[tuple[str, str, Any]]:
    """Name, declared type ("" for none) and value of a cell that holds only plain values; else nothing."""
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
