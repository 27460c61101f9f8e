"""A file is written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole"]


@contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Offer a temporary path beside ``path`` to write to, and put it in place once the block has ended well.

    Raises:
        OSError: the folder cannot be written to; nothing is left behind.

    Example:
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with whole(target) as half:
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
