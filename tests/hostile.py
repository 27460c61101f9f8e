"""What a hostile or broken machine may send: damaged bytes, documents with a wrong part, texts that control a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("AEQUA_FUZZ", "1"))  # a longer campaign: AEQUA_FUZZ=20 pytest tests/test_fuzz.py


def tries(count: int) -> settings:
    """`count` examples, the same ones on every machine, unless a longer campaign is asked for."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=count * TIMES, derandomize=TIMES == 1, deadline=None, database=None, suppress_health_check=checks
    )


def refused_or_read(read: Callable[..., Any], *arguments: Any) -> str:
    """The one sentence with which a reader refused its input; empty where it accepted it.

    Anything but a plain ValueError or an OSError passes through and fails the test.
    """
    try:
        read(*arguments)
    except OSError as error:
        sentence = str(error)
    except ValueError as error:
        if type(error) is not ValueError:  # JSONDecodeError, UnicodeDecodeError: not a sentence of this package
            raise
        sentence = str(error)
    else:
        return ""
    assert 10 < len(sentence) < 2000, sentence[:2000]
    assert sentence.isprintable(), sentence
    return sentence


NUMBERS = [0, -1, 1, 2, 255, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.5, 1e-300, 1e308]
HOSTILE: list[Any] = [
    None, True, False, *NUMBERS, float("nan"), float("inf"), "", "0", "x" * 3000, "a\nb", "\x1b[2K\rok", "../../etc/passwd", "\0",
    "\ud800", "ünïcödé", [], {}, [[]], [None], [0] * 300, {"": 0}, {"a": {"b": []}},
]  # fmt: skip
hostile = st.sampled_from(HOSTILE).map(deepcopy)  # a second change may edit what the first has put there


def nested(depth: int) -> str:
    """Lists inside lists, so many levels deep, as JSON (also YAML and Python)."""
    return "[" * depth + "]" * depth


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes after one to three random changes."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        size = len(data)
        at, other = draw(st.integers(0, size)), draw(st.integers(0, size))
        length = draw(st.sampled_from([1, 2, 4, 8, 64, 1000]))
        what = draw(st.sampled_from(["cut", "flip", "number", "splice", "insert", "remove", "repeat"]))
        if what == "cut":
            del data[at:]
        elif what == "flip" and at < size:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "number":
            data[at : at + length] = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80", b"9", b"["])) * length
        elif what == "splice":
            data[at : at + length] = data[other : other + length]
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif what == "remove":
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every part of a document; of a long list only the first and last parts."""
    found = [path]
    if len(path) > 20:  # deeper than any document of the package: it is there to break readers, not this test
        return found
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    steps = list(inside)
    for key, part in steps if len(steps) < 20 else [*steps[:2], *steps[-2:]]:
        found += places(part, (*path, key))
    return found


@st.composite
def misshapen(draw: st.DrawFn, document: Any) -> Any:
    """A document in which one or two parts are removed, added, or replaced by a hostile value."""
    value = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(places(value)))
        if not path:
            if draw(st.booleans()):
                return draw(hostile)
            continue
        holder = value
        for step in path[:-1]:
            holder = holder[step]
        what = draw(st.sampled_from(["remove", "add", "change", "change", "change"]))
        if what == "remove":
            del holder[path[-1]]
        elif what == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["spare", "", "ünïcödé", "__class__", "a\nb"]))] = draw(hostile)
        else:
            holder[path[-1]] = draw(hostile)
    return value


def as_text(document: Any) -> str:
    """A document as JSON, with NaN and Infinity as other programs write them."""
    return json.dumps(document)
