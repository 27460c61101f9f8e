"""Files and text from elsewhere: written whole or not at all, read with a limit, shown on one printable line."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from stat import S_IMODE
from typing import Any


def short_repr(value: object, most: int = 80) -> str:
    """A value as it may stand in a sentence: short, on one line, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # a whole number of thousands of digits; a list that contains itself
        return f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def printable(text: str) -> str:
    """A text on one line, without characters that a terminal would act on.

    Example:
        >>> printable("all well\x1b[2K\\rforged")
        'all well [2K forged'
    """
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def error_text(error: BaseException, most: int = 200) -> str:
    """The message of an error as it may stand in a sentence: short, printable, on one line."""
    return printable(str(error))[:most] or type(error).__name__


def fault(what: str, must: str, got: object, remedy: str = "") -> ValueError:
    """Return the error that says what must hold of something from elsewhere, and what was found."""
    return ValueError(f"{what} must {must}, got {got}" + (f"; {remedy}" if remedy else ""))


@contextmanager
def explaining(what: str, *kinds: type[Exception], remedy: str = "", most: int = 400) -> Iterator[None]:
    """Turn an error of these kinds (default: ValueError) into one ValueError that says what is wrong, and why.

    Example:
        >>> with explaining("width.json is damaged"):
        ...     parse_json("{")
        Traceback (most recent call last):
        ValueError: width.json is damaged: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)
    """
    try:
        yield
    except kinds or (ValueError,) as error:  # noqa: B030  (a tuple of classes)
        raise ValueError(f"{what}: {error_text(error, most)}" + (f"; {remedy}" if remedy else "")) from error


def regular_file(path: Path | str) -> Path:
    """Return the path of a regular file or of a missing one; opening a pipe would wait forever.

    Raises:
        ValueError: It is a folder, a pipe or a device.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    return path


def read_limited(path: Path | str, most: int) -> bytes:
    """Return the bytes of a file of at most `most` bytes; never read more.

    Raises:
        ValueError: It has more, or is not a regular file (a folder, a pipe, a device).
        OSError: It cannot be read.
    """
    with regular_file(path).open("rb") as file:
        content = file.read(most + 1)  # the size that a file system states is not trusted
    if len(content) > most:
        raise ValueError(f"{path} has more than {most} bytes, the largest size that is read")
    return content


def parse_json(content: bytes | str) -> Any:
    """Return what JSON holds, if all its numbers are finite and all keys of an object differ.

    Raises:
        ValueError: It is damaged, nested too deeply, or holds NaN, Infinity or the same key twice.

    Example:
        >>> parse_json('{"width": 0.5, "width": 1.0}')
        Traceback (most recent call last):
        ValueError: the key 'width' stands twice in one object
    """
    try:
        return json.loads(content, parse_constant=_not_finite, parse_float=_finite, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def seal(document: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON document with the SHA-256 of its content, so that a damaged digit is noticed.

    Example:
        >>> opened(seal({"width": 0.5}))
        {'width': 0.5}
    """
    content = json.dumps(json.loads(json.dumps(document, allow_nan=False)), sort_keys=True)
    return {**document, "sha256": hashlib.sha256(content.encode()).hexdigest()}


def opened(document: dict[str, Any]) -> dict[str, Any]:
    """Return a sealed document without its hash.

    Raises:
        ValueError: There is no hash, or it is another document's.
    """
    inner = {k: v for k, v in document.items() if k != "sha256"}
    if seal(inner) != document:
        raise ValueError("its checksum does not fit its contents")
    return inner


def tuples(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a record that JSON wrote: its lists become tuples again."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _not_finite(text: str) -> Any:
    """Refuse a number that is not finite."""
    raise ValueError(f"{short_repr(text)} is not a finite number")


def _finite(text: str) -> float:
    """A number, if it is finite."""
    return float(text) if math.isfinite(float(text)) else _not_finite(text)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs, if all keys differ."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {short_repr(key)} stands twice in one object")
        found[key] = value
    return found


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` when the block ends without an error.

    The file and its folder are flushed to the disk, so that after a crash the file is the old one or the new one. Permissions
    follow the process's umask. Temporary files that a killed process left for the same `path` are removed.

    Raises:
        OSError: The file cannot be written (no permission, no space, a folder or device); nothing is left behind.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_write(target) as half:
        ...     _ = half.write_text("all of it")
        >>> target.read_text(), len(list(target.parent.iterdir()))
        ('all of it', 1)

    References:
        `rename` replaces a file in one step (POSIX).
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(f"cannot write {path}: it is not a regular file")
    half = path.with_name(f".{path.name}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(half) as mode:
            abandoned(path, remove=True)
            yield half
            half.chmod(mode)  # a library may have put a file of its own there
            _flush(half)
            os.replace(half, path)
            _flush(path.parent)
    except OSError as error:
        if error.filename not in (None, str(half)):  # another file's error, or one that names this file already
            raise
        kind = () if error.errno is None else (error.errno,)  # so that a PermissionError stays one
        raise OSError(*kind, f"cannot write {path}: {error.strerror or error_text(error)}") from error
    finally:
        half.unlink(missing_ok=True)


def write_whole(path: Path | str, content: str | bytes) -> None:
    """Write text or bytes, whole or not at all."""
    with atomic_write(path) as half:
        half.write_bytes(content.encode() if isinstance(content, str) else content)


def check_folder(name: str, folder: Path | str) -> None:
    """Refuse a folder that cannot be written to, before the work whose results shall lie there."""
    here = Path(folder).absolute()
    while not here.exists():
        here = here.parent
    if not here.is_dir() or not os.access(here, os.W_OK):
        raise ValueError(f"`{name}` must be a folder that can be written to, got {short_repr(str(folder))}")


@contextmanager
def _locked(half: Path) -> Iterator[int]:
    """Make a temporary file and lock it, so that no other process takes it for an abandoned one; yield its mode."""
    while True:
        with half.open("xb") as file:
            mode = S_IMODE(os.fstat(file.fileno()).st_mode)
            if not _lock(file.fileno(), wait=True):
                file.close()  # Windows renames no open file
            elif not half.exists():  # another process took it for an abandoned one before it was locked
                continue
            yield mode
            return


def _lock(handle: int, wait: bool = False) -> bool:
    """Whether this process now has the only lock on an open file; never where the system has no such locks."""
    try:
        import fcntl  # late: not on Windows

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


def abandoned(path: Path, remove: bool = False) -> list[Path]:
    """The temporary files of writes to this path that were killed; removed while they are locked, if asked for."""
    found = []
    for half in path.parent.glob(f".{escape(path.name)}-{'[0-9a-f]' * 8}{escape(path.suffix)}"):
        with suppress(FileNotFoundError):  # another process was faster
            if half.is_symlink() or not half.is_file():
                continue
            with half.open("rb") as file:
                if _lock(file.fileno()):
                    found.append(half)
                    if remove:
                        half.unlink(missing_ok=True)
    return found


def _flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk; not on Windows, which opens no folder."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
