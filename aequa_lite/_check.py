"""One sentence for each bad argument: its name, what is allowed, what came."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._io import short_repr

__all__ = ["accuracies", "flag", "number", "one_each", "one_of", "refusal"]


def refusal(name: str, allowed: str, value: object, remedy: str = "") -> ValueError:
    """Return the error that says what is allowed and what came.

    Example:
        >>> str(refusal("width", "in (0, 1]", 1.5))
        '`width` must be in (0, 1], got 1.5'
    """
    tail = f"; {remedy}" if remedy else ""
    return ValueError(f"`{name}` must be {allowed}, got {short_repr(value)}{tail}")


def number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    whole: bool = False,
    above: bool = False,
    below: bool = False,
) -> Any:
    """Return a finite number of [low, high]; `above` and `below` leave out the ends.

    Example:
        >>> number("rounds", 3, 1, whole=True)
        3
    """
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    right = isinstance(value, kinds) and not isinstance(value, bool)
    at_end = right and ((above and value == low) or (below and value == high))
    if right and abs(value) < math.inf and low <= value <= high and not at_end:
        return value
    kind = "a whole number" if whole else "a number"
    if math.isinf(low) and math.isinf(high):
        raise refusal(name, kind if whole else "a finite number", value)
    if math.isinf(high):
        raise refusal(name, f"{kind} {'above' if above else 'from'} {low:g}", value)
    ends = f"{'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
    raise refusal(name, f"{kind} in {ends}", value)


def flag(name: str, value: Any) -> bool:
    """Return True or False, and refuse whatever else counts as one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise refusal(name, "True or False", value)
    return bool(value)


def one_of(name: str, value: Any, known: Collection[str]) -> str:
    """Return a known word; an unknown one is refused with the nearest.

    Example:
        >>> one_of("partition", "dirichlet", ["dirichlet", "natural"])
        'dirichlet'
    """
    if isinstance(value, str) and value in known:
        return value
    near = get_close_matches(str(value)[:100], list(known), n=1, cutoff=0.0)
    remedy = f"the nearest is {near[0]!r}" if near else ""
    raise refusal(name, f"one of {', '.join(known)}", value, remedy)


def one_each(name: str, values: Any, count: int, of: str = "participants") -> Any:
    """Return a sequence that holds one entry for each of `count`."""
    found = len(values) if isinstance(values, (Sequence, np.ndarray)) else None
    if found != count or isinstance(values, str):
        came = f"{found} entries" if found is not None else short_repr(values)
        raise ValueError(f"`{name}` must hold one entry for each of the {count} {of}, got {came}")
    return values


def accuracies(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return one accuracy in [0, 1] for each participant, (n,)."""
    try:
        found = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise refusal(name, "one number in [0, 1] for each participant", value) from None
    if found.ndim != 1 or not len(found) or not ((found >= 0) & (found <= 1)).all():
        raise refusal(name, "one number in [0, 1] for each participant", value)
    return found
