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

from ._io import fault, printable, short_repr

__all__ = ["accuracies", "checked", "flag", "number", "one_each", "one_of", "refusal", "right_or_wrong",
           "vector"]  # fmt: skip


def refusal(name: str, allowed: str, value: object, remedy: str = "") -> ValueError:
    """Return the error that says what is allowed and what came.

    Example:
        >>> str(refusal("width", "in (0, 1]", 1.5))
        '`width` must be in (0, 1], got 1.5'
    """
    return fault(f"`{name}`", f"be {allowed}", short_repr(value), remedy)


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
        kind = "a whole number" if whole else "a number"
        low, high = (str(end) if isinstance(end, int) else f"{end:g}" for end in self[:2])
        if math.isinf(self.low) and math.isinf(self.high):
            return kind if whole else "a finite number"
        if math.isinf(self.high):
            return f"{kind} {'above' if self.above else 'from'} {low}"
        return f"{kind} in {'(' if self.above else '['}{low}, {high}{')' if self.below else ']'}"


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


class Kind(NamedTuple):
    """What an argument may be: a test of a value, and the words of an error."""

    fits: Callable[[Any], bool]
    words: str


class Array:
    """What `ArrayLike` stands for in an annotation."""


ANYTHING = Kind(lambda value: True, "anything")
Checked = TypeVar("Checked", bound=Callable[..., Any])


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
    def parameters() -> dict[str, tuple[Kind, Any]]:  # at the first call: then every name of the module is known
        many = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        found = [each for each in signature(thing).parameters.values() if each.kind not in many]
        return {each.name: (_annotated_kind(each.annotation, thing), each.default) for each in found}

    @wraps(thing)
    def call(*args: Any, **keywords: Any) -> Any:
        known = parameters()
        for name, value in (*zip(known, args), *keywords.items()):
            kind, default = known.get(name, (ANYTHING, None))
            if value is not default and not kind.fits(value):
                raise refusal(name, kind.words, value)
        return thing(*args, **keywords)

    return call  # type: ignore[return-value]


def _annotated_kind(annotation: Any, thing: Callable[..., Any]) -> Kind:
    """The kind that a parameter is annotated with; anything where there is none or its names are unknown."""
    if not isinstance(annotation, str):
        return ANYTHING
    try:
        return _kind(eval(annotation, unwrap(thing).__globals__ | {"ArrayLike": Array}))
    except NameError:  # imported for type checkers only
        return ANYTHING


def _kind(hint: Any) -> Kind:
    """The kind that a type means."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in KINDS:
        return KINDS[origin]
    if origin in (Union, UnionType):
        return _any_of(inner)
    if origin is Annotated:
        allowed, whole = hint.__metadata__[0], hint.__origin__ is int
        return Kind(partial(allowed.holds, whole=whole), allowed.words(whole))
    if not isinstance(origin, type):
        return ANYTHING
    if not inner:
        return _instance(origin)
    if issubclass(origin, Mapping):
        return _mapping(*inner)
    if origin is tuple and inner[-1] is not ...:
        return _places([_kind(each) for each in inner])
    return _sequence(origin, inner[0]) if issubclass(origin, Iterable) else ANYTHING


def _any_of(inner: Sequence[Any]) -> Kind:
    """One of several kinds; a path may be text."""
    if Path in inner:
        inner = [PathLike if each is Path else each for each in inner if each is not str]
    kinds = [_kind(each) for each in inner]
    words = " or ".join(dict.fromkeys(kind.words for kind in kinds))
    return Kind(lambda value: any(kind.fits(value) for kind in kinds), words)


def _instance(of: type) -> Kind:
    """Objects of a class; a record that counts something, as samples, counts at least one."""
    if is_dataclass(of) and hasattr(of, "__len__"):
        return Kind(lambda value: isinstance(value, of) and len(value) > 0, f"{of.__name__}, at least one")
    return Kind(lambda value: isinstance(value, of), f"a{'n' * (of.__name__[0] in 'AEIOU')} {of.__name__}")


def _mapping(key: Any, value: Any) -> Kind:
    """A mapping; of tensors it holds at least one, since a network has some."""
    keys, values = _kind(key), _kind(value)
    words = "a mapping" if value is Any else f"a mapping, each value {values.words}"

    def fits(found: Any) -> bool:
        right = isinstance(found, Mapping) and all(map(keys.fits, found)) and all(map(values.fits, found.values()))
        return right and (value is not Tensor or len(found) > 0)

    return Kind(fits, "tensors by name" if value is Tensor else words)


def _places(kinds: Sequence[Kind]) -> Kind:
    """A sequence with a kind for each place."""

    def fits(found: Any) -> bool:
        return _parts(found) and len(found) == len(kinds) and all(k.fits(each) for k, each in zip(kinds, found))

    return Kind(fits, f"({', '.join(kind.words for kind in kinds)})")


def _sequence(origin: type, part: Any) -> Kind:
    """Parts of one kind; of records, and of numbers of a range, there is at least one."""
    kind = _kind(part)
    records = origin is Sequence and isinstance(part, type) and part not in (int, float, str)
    least = int(records or get_origin(part) is Annotated)
    words = f"a sequence, each part {kind.words}"

    def fits(found: Any) -> bool:
        if not _parts(found, ordered=issubclass(origin, Sequence)):
            return False
        if not hasattr(found, "__len__"):  # it may be read only once, so it is not looked into
            return not issubclass(origin, Collection)
        if isinstance(found, np.ndarray) and found.ndim == 1 and found.size and found.dtype.kind in "biuf":
            return kind.fits(found.min()) and kind.fits(found.max())  # of one kind, so the ends of their range say all
        return len(found) >= least and all(map(kind.fits, found))

    return Kind(fits, f"{words}, at least one" if records and "at least one" not in words else words)


def _parts(value: Any, ordered: bool = True) -> bool:
    """Whether a value has parts that are read one after another; text has none, and a mapping is not ordered."""
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping) if ordered else (str, bytes))


def _numeric(value: Any) -> bool:
    """Whether a value can be read as an array of numbers; the function itself says how many, and of which range."""
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except (TypeError, ValueError, RuntimeError):
        return False


KINDS: dict[Any, Kind] = {
    Any: ANYTHING,
    NoneType: Kind(lambda value: value is None, "None"),
    int: Kind(partial(Range().holds, whole=True), Range().words(whole=True)),
    float: Kind(Range().holds, Range().words()),
    bool: Kind(lambda value: isinstance(value, (bool, np.bool_)), "True or False"),
    str: Kind(lambda value: isinstance(value, str), "text"),
    PathLike: Kind(lambda value: isinstance(value, (str, Path)) and "\0" not in str(value), "a path"),
    Array: Kind(_numeric, "numbers"),
    np.ndarray: Kind(_numeric, "an array of numbers"),
    Callable: Kind(callable, "a function"),
}
