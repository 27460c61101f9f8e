"""One sentence for each bad argument: its name, what is allowed, what came."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache, partial, wraps
from inspect import Parameter, signature, unwrap
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ._io import printable, short_repr

__all__ = ["accuracies", "checked", "flag", "number", "one_each", "one_of", "refusal", "right_or_wrong",
           "vector"]  # fmt: skip


def refusal(name: str, allowed: str, value: object, remedy: str = "") -> ValueError:
    """Return the error that says what is allowed and what came.

    Example:
        >>> str(refusal("width", "in (0, 1]", 1.5))
        '`width` must be in (0, 1], got 1.5'
    """
    tail = f"; {remedy}" if remedy else ""
    return ValueError(f"`{name}` must be {allowed}, got {short_repr(value)}{tail}")


class Range(NamedTuple):
    """The finite numbers from `low` to `high`; `above` and `below` leave out the ends."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: Any, whole: bool = False) -> bool:
        """Whether a value is one of these numbers."""
        kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
        if not isinstance(value, kinds) or isinstance(value, bool) or not abs(value) < math.inf:
            return False
        at_end = (self.above and value == self.low) or (self.below and value == self.high)
        return self.low <= value <= self.high and not at_end

    def words(self, whole: bool = False) -> str:
        """These numbers as an error names them."""
        kind, low = "a whole number" if whole else "a number", f"{self.low:g}"
        if math.isinf(self.low) and math.isinf(self.high):
            return kind if whole else "a finite number"
        if math.isinf(self.high):
            return f"{kind} {'above' if self.above else 'from'} {low}"
        return f"{kind} in {'(' if self.above else '['}{low}, {self.high:g}{')' if self.below else ']'}"


class Vector(NamedTuple):
    """One finite number from `low` to `high` for each participant."""

    low: float = -math.inf
    high: float = math.inf

    def holds(self, value: Any, whole: bool = False) -> bool:
        """Whether a value can be read as such numbers."""
        try:
            if np.asarray(value).dtype.kind in "US":  # numpy would read "0.5"
                return False
            found = np.array(value, dtype=float)
        except (TypeError, ValueError, OverflowError):
            return False
        fits = np.isfinite(found) & (found >= self.low) & (found <= self.high)
        return found.ndim == 1 and len(found) > 0 and bool(fits.all())

    def words(self, whole: bool = False) -> str:
        """These numbers as an error names them."""
        return f"one {Range(self.low, self.high).words().removeprefix('a ')} for each participant"


# what an annotation says of an argument; `checked` holds callers to it
Count = Annotated[int, Range(1)]
Index = Annotated[int, Range(0)]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]
Fraction = Annotated[float, Range(0, 1, above=True)]
Decay = Annotated[float, Range(0, 1, below=True)]
Level = Annotated[float, Range(0, 1, above=True, below=True)]
Numbers = Annotated[ArrayLike, Vector()]
Accuracies = Annotated[ArrayLike, Vector(0, 1)]


def number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, whole: bool = False, above: bool = False,
    below: bool = False,
) -> Any:  # fmt: skip
    """Return a finite number of [low, high]; `above` and `below` leave out the ends.

    Example:
        >>> number("rounds", 3, 1, whole=True)
        3
    """
    allowed = Range(low, high, above, below)
    if allowed.holds(value, whole):
        return value
    raise refusal(name, allowed.words(whole), value)


def flag(name: str, value: Any) -> bool:
    """Return True or False, and refuse whatever else counts as one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise refusal(name, "True or False", value)
    return bool(value)


def one_of(name: str, value: Any, known: Collection[str], kind: str = "") -> str:
    """Return one of the known names; `kind` says what they are.

    Example:
        >>> one_of("partition", "dirichlet", ["dirichlet", "natural"])
        'dirichlet'
    """
    text = value if isinstance(value, str) else ""
    if text in known:
        return text
    near = f"the nearest is {short_repr(nearest(text, known))}" if text and known else ""
    raise refusal(name, f"one of {kind}{listed(known)}", value, near)


def nearest(text: str, known: Collection[str]) -> str:
    """The known name that is most like a text."""
    return get_close_matches(text[:100], list(known), n=1, cutoff=0.0)[0]


def listed(names: Collection[str], most: int = 30) -> str:
    """The first names of many, for a sentence."""
    more = [f"... ({len(names)} in all)"] if len(names) > most else []
    return ", ".join([printable(each) for each in list(names)[:most]] + more)


def one_each(name: str, values: Any, count: int, of: str = "participants") -> Any:
    """Return a sequence that holds one entry for each of `count`."""
    found = len(values) if isinstance(values, (Sequence, np.ndarray)) else None
    if found != count or isinstance(values, str):
        came = f"{found} entries" if found is not None else short_repr(values)
        raise ValueError(f"`{name}` must hold one entry for each of the {count} {of}, got {came}")
    return values


def vector(name: str, value: ArrayLike, low: float = -math.inf, high: float = math.inf) -> NDArray[np.float64]:
    """Return one finite number of [low, high] for each participant, (n,)."""
    allowed = Vector(low, high)
    if not allowed.holds(value):
        raise refusal(name, allowed.words(), value)
    return np.array(value, dtype=float)


def accuracies(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return one accuracy in [0, 1] for each participant, (n,)."""
    return vector(name, value, 0, 1)


def right_or_wrong(name: str, value: ArrayLike, samples: int | None = None) -> NDArray[np.bool_]:
    """Return which samples were right, bool of shape (n, samples)."""
    found = np.asarray(value)
    if found.dtype != bool or found.ndim != 2 or not found.size or samples not in (None, found.shape[1]):
        raise refusal(name, f"bool of shape (n, {samples or 'samples'})", f"{found.dtype} of shape {found.shape}")
    return found


Checked = TypeVar("Checked", bound=Callable[..., Any])
Test = Callable[[Any], bool]
ANYTHING: tuple[Test, Any, Any] = (lambda value: True, Any, None)


def checked(thing: Checked) -> Checked:
    """Refuse an argument that is not of its annotated kind, before any work; of a class, one of its constructor.

    Numbers are finite; an array holds numbers; a sequence's and a mapping's parts are of their kinds.
    The default itself is always allowed, and so is everything where the annotation is unknown.

    Example:
        >>> @checked
        ... def half(width: float, shape: Sequence[int] = ()) -> float:
        ...     return width / 2
        >>> half("1")
        Traceback (most recent call last):
        ValueError: `width` must be a finite number, got '1'
        >>> half(1.0, [2, None])
        Traceback (most recent call last):
        ValueError: `shape` must be a sequence, each part a whole number, got [2, None]
    """
    if isinstance(thing, type):
        thing.__init__ = checked(thing.__init__)  # type: ignore[misc]
        return thing

    @cache
    def parameters() -> dict[str, tuple[Test, Any, Any]]:  # at the first call: then every name of the module is known
        many = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        found = [each for each in signature(thing).parameters.values() if each.kind not in many]
        hints = [_hint(each.annotation, thing) for each in found]
        return {each.name: (_test(hint), hint, each.default) for each, hint in zip(found, hints, strict=True)}

    @wraps(thing)
    def call(*args: Any, **keywords: Any) -> Any:
        known = parameters()
        for name, value in (*zip(known, args), *keywords.items()):
            fits, hint, default = known.get(name, ANYTHING)
            if value is not default and not fits(value):
                raise refusal(name, _allowed(hint), value)
        return thing(*args, **keywords)

    return call  # type: ignore[return-value]


def _hint(annotation: Any, thing: Callable[..., Any]) -> Any:
    """The type that an annotation means; anything where there is none or its names are unknown."""
    if annotation is Parameter.empty:
        return Any
    try:
        return eval(annotation, unwrap(thing).__globals__) if isinstance(annotation, str) else annotation
    except NameError:  # imported for type checkers only
        return Any


WORDS = {int: Range().words(whole=True), float: Range().words(), bool: "True or False", str: "text", Path: "a Path",
         PathLike: "a path", NoneType: "None", ArrayLike: "numbers"}  # fmt: skip


def _either(hint: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation; those of `ArrayLike` count as one."""
    if get_origin(hint) not in (Union, UnionType):
        return (hint,)
    inner = tuple(
        PathLike if each is Path else each for each in get_args(hint) if each is not str or Path not in get_args(hint)
    )
    if any("_SupportsArray" in str(each) and get_origin(each) is not Annotated for each in inner):
        return (ArrayLike, *(each for each in inner if each is NoneType or get_origin(each) is Callable))
    return inner


def _test(hint: Any) -> Test:
    """What says whether a value is of an annotated kind."""
    tests = [_one_test(each) for each in _either(hint)]
    return tests[0] if len(tests) == 1 else lambda value: any(fits(value) for fits in tests)


def _one_test(hint: Any) -> Test:
    """The test of a kind that has no alternatives."""
    origin = get_origin(hint)
    if hint in TESTS:
        return TESTS[hint]
    if origin is Annotated:
        return partial(hint.__metadata__[0].holds, whole=hint.__origin__ is int)
    if origin is Callable:
        return callable
    if origin is np.ndarray:
        return _numeric if "generic" not in str(hint) else lambda value: hasattr(value, "__array__")
    if isinstance(origin, type) and issubclass(origin, (Mapping, Iterable)):
        inner = [_test(each) for each in get_args(hint)]
        if issubclass(origin, Mapping):
            least = get_args(hint)[1:] == (Tensor,)  # a network has tensors
            return lambda value: (
                isinstance(value, Mapping)
                and len(value) >= least
                and _all_fit(value, inner[0])
                and _all_fit(value.values(), inner[1])
            )
        if origin is tuple and get_args(hint)[-1] is not ...:  # one kind for each place
            return lambda value: (
                _sequence(value) and len(value) == len(inner) and all(f(v) for f, v in zip(inner, value))
            )
        first = get_args(hint)[0]
        records = origin is Sequence and isinstance(first, type) and first not in (int, float, str)
        some = records or get_origin(first) is Annotated
        sized, ordered = issubclass(origin, Collection), issubclass(origin, Sequence)
        return partial(_parts_fit, fits=inner[0], sized=sized, ordered=ordered, some=some)
    if not isinstance(hint, type):
        return lambda value: True
    some = _sized_record(hint)
    return lambda value: isinstance(value, hint) and (not some or len(value) > 0)


def _sized_record(hint: Any) -> bool:
    """Whether values are records that count something, as samples, of which there must be one."""
    return is_dataclass(hint) and hasattr(hint, "__len__")


def _all_fit(values: Iterable[Any], fits: Test) -> bool:
    """Whether all values fit."""
    return all(map(fits, values))


def _sequence(value: Any, ordered: bool = True) -> bool:
    """Whether a value has parts that are read one after another; text has none, and a mapping is not ordered."""
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping) if ordered else (str, bytes))


def _parts_fit(value: Any, fits: Test, sized: bool, ordered: bool, some: bool) -> bool:
    """Whether a value has parts that fit, at least one if `some`; what may be read only once is not looked into."""
    if not _sequence(value, ordered) or not hasattr(value, "__len__"):
        return _sequence(value, ordered) and not sized
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.size and value.dtype.kind in "biuf":
        return fits(value.min()) and fits(value.max())  # of one kind, so the ends of their range say all; NaN is both
    return _all_fit(value, fits) and len(value) >= some


def _numeric(value: Any) -> bool:
    """Whether a value can be read as an array of numbers; the function itself says how many, and of which range."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return array.dtype.kind in "biuf"


TESTS: dict[Any, Test] = {
    int: partial(Range().holds, whole=True),
    float: Range().holds,
    bool: lambda value: isinstance(value, (bool, np.bool_)),
    ArrayLike: _numeric,
    PathLike: lambda value: isinstance(value, (str, Path)) and "\0" not in str(value),
    Any: lambda value: True,
}


def _allowed(hint: Any) -> str:
    """An annotated kind in words."""
    return " or ".join(dict.fromkeys(map(_word, _either(hint))))


def _word(hint: Any) -> str:
    """A kind that has no alternatives, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in WORDS:
        return WORDS[hint]
    if origin is Annotated:
        return hint.__metadata__[0].words(whole=hint.__origin__ is int)
    if origin is Callable or not isinstance(origin or hint, type):
        return "a function"
    if origin is np.ndarray:
        return "an array of numbers"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if inner[1] is Tensor:
            return "tensors by name"
        return "a mapping" if inner[1] is Any else f"a mapping, each value {_allowed(inner[1])}"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        if origin is tuple and inner[-1] is not ...:
            return f"({', '.join(map(_allowed, inner))})"
        records = origin is Sequence and isinstance(inner[0], type) and inner[0] not in (int, float, str)
        least = ", at least one" if records and not _sized_record(inner[0]) else ""
        return f"a sequence, each part {_allowed(inner[0])}{least}"
    if _sized_record(hint):
        return f"{hint.__name__}, at least one"
    return f"a{'n' * (hint.__name__[0] in 'AEIOU')} {hint.__name__}"
