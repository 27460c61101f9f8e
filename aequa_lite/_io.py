"""A file is written whole or not at all, and read with a limit: whatever it turns out to be, it is read or refused."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["atomic_write", "error_text", "parse_json", "printable", "read_limited", "regular_file", "short_repr"]


def short_repr(value: Any, most: int = 80) -> str:
    """A value as it may stand in a sentence: short, on one line, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # a whole number of thousands of digits; a list that holds itself
        return f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def printable(text: str) -> str:
    """A text on one line, without what would move a terminal's cursor."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def error_text(error: BaseException, most: int = 200) -> str:
    """What an error said, as it may stand in a sentence: short, printable, on one line."""
    return printable(str(error))[:most] or type(error).__name__


def regular_file(path: Path | str) -> Path:
    """Return the path of what is an ordinary file or is missing; opening a pipe would wait forever.

    Raises:
        ValueError: it is a folder, a pipe or a device.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no ordinary file")
    return path


def read_limited(path: Path | str, most: int) -> bytes:
    """The bytes of a file, of which no more than so many are ever read.

    Raises:
        ValueError: it has more; or it is no ordinary file (a folder, a pipe, a device).
        OSError: it cannot be read.
    """
    with regular_file(path).open("rb") as file:
        content = file.read(most + 1)  # the size that a file system states is not believed
    if len(content) > most:
        raise ValueError(f"{path} has more than {most} bytes, which is the most that is read")
    return content


def parse_json(content: bytes | str) -> Any:
    """Read JSON of which only plain, finite values come out.

    Raises:
        ValueError: it is damaged, nested beyond reason, or holds NaN or Infinity.
    """

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number that is allowed here")

    def number(word: str) -> float:
        return float(word) if abs(float(word)) < math.inf else refuse(word)

    try:
        return json.loads(content, parse_constant=refuse, parse_float=number)
    except RecursionError as error:
        raise ValueError("it is nested beyond reason") from error


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Offer a temporary path beside ``path`` to write to, and put it in place once the block has ended well.

    Raises:
        OSError: the folder cannot be written to; nothing is left behind.

    Example:
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_write(target) as half:
        ...     _ = half.write_text("all of it")
        >>> target.read_text(), len(list(target.parent.iterdir()))
        ('all of it', 1)

    Source: the usual rename, which POSIX file systems do in one step.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    half = Path(name)
    try:
        yield half
        half.chmod(0o644)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)
