"""Call every public name with one argument wrong: one sentence must name the argument, or a committed reason allows it.

usage: python scripts/campaigns/misuse.py [--seed N] [--share S] [--no-table]
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import inspect
import io
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from common import FAILED, Row, few, main

import aequa_lite as aq
from aequa_lite._io import short_repr

NAMESPACES = ("aggregation", "allocation", "attacks", "baselines", "contribution", "data", "experiments", "metrics",
              "networks", "plotting", "registry", "rewards", "theory")  # fmt: skip
NAN, INF = float("nan"), float("inf")
KINDS: dict[str, dict[str, list[Any]]] = {  # by the kind of parameter: what is wrong about a value, and values
    "int": {"type": ["two", [1], 2.5, {}, object()], "NaN": [NAN, INF, -INF], "range": [-3, -(10**6)]},
    "float": {"type": ["half", [0.5], {}, object()], "NaN": [NAN, INF, -INF], "range": [-0.5, -1e9, 1e9]},
    "bool": {"type": ["no", 2, [], NAN]},
    "text": {"type": [3, b"x", ["a"], object()], "empty": [""], "range": ["no such thing", "x" * 3000, "a\0b"]},
    "numbers": {"type": ["half", object(), {"a": 1}, ["a", "b"]], "empty": [[], [[]]],
                "NaN": [[NAN] * 3, [INF] * 3, [0.2, NAN, 0.5]], "range": [[-1e9] * 3, [0.5] * 17, [[1], [1, 2]]]},
    "sequence": {"type": [3, object(), NAN], "empty": [[]], "parts": [[None], ["a"] * 3, [object()] * 3]},
    "mapping": {"type": [3, "text", object()], "empty": [{}], "parts": [{"a": None}, {"": object()}, {3: 4}]},
    "function": {"type": [3, "text", [], {}]},
    "object": {"type": [3, "text", [], {}, object()]},
}  # fmt: skip
KIND_OF = [  # the first pattern that an annotation matches says its kind
    (r"int( \| None)?", "int"), (r"float( \| None)?", "float"), (r"bool( \| None)?", "bool"), (r".*(str|Path)\b(?!\]).*", "text"),
    (r".*(ArrayLike|NDArray|Array\b|Pairs).*", "numbers"), (r".*(Mapping|State\b|dict|Carried).*", "mapping"),
    (r".*Callable.*|Build|Policy|Rule|Game|Objective|Cost|Schedule|Score|WidthSampler|Aggregator|ServerOptimizer|Reweight|Train"
     r"|Algorithm|Attack|Mechanism|Contribution", "function"),
    (r".*(Sequence|Iterable|Collection|tuple|list).*", "sequence"), (r".*", "object"),
]  # fmt: skip


def kind_of(annotation: str) -> str:
    """The kind of a parameter."""
    plain = re.sub(r"ForwardRef\('(.*)'\)", r"\1", annotation)
    plain = re.sub(r"( \| None)+$", "", plain) if "Callable" not in plain else plain
    return next(kind for pattern, kind in KIND_OF if re.fullmatch(pattern, plain))


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function and class, once."""
    seen = set()
    for space in ("", *NAMESPACES):
        module = importlib.import_module(f"aequa_lite.{space}".rstrip("."))
        for name in module.__all__:
            thing = getattr(module, name)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing not in seen:
                seen.add(thing)
                yield f"{space}.{name}".lstrip("."), thing


class _Called(Exception):
    """Carries the arguments with which an example calls a name; the call itself is not made."""


def example_call(name: str, thing: Callable[..., Any]) -> dict[str, Any]:
    """The arguments with which the example of a docstring calls its name: a valid call."""
    made = thing.__init__ if inspect.isclass(thing) and "__init__" in vars(thing) else thing
    made = inspect.unwrap(thing.__new__ if inspect.isclass(made) else made)
    module = importlib.import_module(thing.__module__)
    space = {**vars(module), **EXTRA.get(name, {})}
    source = EXTRA.get(name, {}).get("example") or "".join(
        each.source for each in doctest.DocTestParser().get_examples(thing.__doc__)
    )

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is made.__code__:
            sys.setprofile(None)
            raise _Called({k: v for k, v in frame.f_locals.items() if k != "self"})

    sys.setprofile(watch)
    try:
        exec(source, space)  # our own docstrings
    except _Called as called:
        return {k: list(v) if isinstance(v, Iterator) else v for k, v in called.args[0].items()}
    finally:
        sys.setprofile(None)
    raise AssertionError(f"the example of {name} does not call it")


def attempt(thing: Callable[..., Any], given: dict[str, Any], parameter: str = "") -> str:
    """Call; say what came of it. Good are `refused by name` and, as far as the allow-list goes, `accepted`."""
    signature = inspect.signature(thing)
    bound = inspect.BoundArguments(signature, {k: v for k, v in given.items() if k in signature.parameters})
    signal.alarm(20)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            found = thing(*bound.args, **bound.kwargs)
            if isinstance(found, Iterator):
                list(found)
    except TimeoutError:
        return FAILED + "no end within 20 seconds"
    except (ValueError, TypeError, OSError) as error:
        value = given.get(parameter)
        last, said = traceback.extract_tb(error.__traceback__)[-1].filename, str(error)
        clear = (
            (type(error) in (ValueError, TypeError) or isinstance(error, OSError))
            and said.isprintable()
            and 10 < len(said) < 2000
        )
        plain = parameter.rstrip("s").split("_")[-1]
        if not clear or ("aequa_lite" not in last and not isinstance(error, OSError)):
            return FAILED + f"raw {type(error).__name__}: {said[:90]!r}"
        shown = [short_repr(value), *map(short_repr, value if isinstance(value, list) else ()), f"{value or '.'}"]
        return (
            "refused"
            if plain in said or any(each in said for each in shown)
            else FAILED + f"argument not named: {said[:90]!r}"
        )
    except BaseException as error:
        return FAILED + f"raw {type(error).__name__}: {str(error)[:90]!r}"
    finally:
        signal.alarm(0)
    return "accepted"


EXTRA: dict[str, dict[str, Any]] = {}  # where an example does not call its name plainly


def wrong(rng: np.random.Generator, annotation: str) -> Iterator[tuple[str, Any]]:
    """A value of every way in which an argument of this annotation can be wrong."""
    for what, values in KINDS[kind_of(annotation)].items():
        yield what, values[rng.integers(len(values))]
    if "None" not in annotation:
        yield "None", None


def late(*_: Any) -> None:
    """End a call that takes too long."""
    raise TimeoutError


def campaign(rng: np.random.Generator, share: float = 1.0) -> Iterator[Row]:
    """Every parameter of every public name, wrong in every way of its kind."""
    data = few()
    aq.load = lambda *_, **__: data  # the examples' data set, so that what is accepted is quick
    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, thing in public():
            if share < 1 and rng.random() > share:
                continue
            try:
                valid = example_call(name, thing)
            except Exception as e:
                print("EXAMPLE", name, type(e), e, file=sys.stderr)
                continue
            out = attempt(thing, valid)
            if out != "accepted":
                print("VALID", name, out, file=sys.stderr)
                continue
            for parameter, about in inspect.signature(thing).parameters.items():
                if about.kind in (about.VAR_POSITIONAL, about.VAR_KEYWORD):
                    continue  # refused by the function that takes them
                for what, value in wrong(rng, str(about.annotation)):
                    outcome = attempt(thing, {**valid, parameter: value}, parameter)
                    yield {
                        "what": f"{name}({parameter})",
                        "wrong": what,
                        "outcome": outcome,
                        "value": repr(value)[:40],
                        "ann": str(about.annotation),
                    }


if __name__ == "__main__":
    main({"misuse": campaign}, seed=20261)
