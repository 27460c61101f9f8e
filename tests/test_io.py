"""Files are written whole or not at all, read with a limit, and shown on one printable line."""

from __future__ import annotations

import math
import os
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from aequa_lite._io import atomic_write, check_folder, parse_json, printable, read_limited, short_repr


def test_no_more_of_a_file_is_read_than_allowed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(11))
    assert read_limited(tmp_path / "a", 11) == bytes(11)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_limited(tmp_path / "a", 10)
    with pytest.raises(ValueError, match="more than 10 bytes|not a regular file"):
        read_limited("/dev/zero", 10)
    with pytest.raises(ValueError, match="not a regular file"):
        read_limited(tmp_path, 10)


DAMAGED = [
    "[" * 100_000,
    "NaN",
    "[Infinity]",
    "[1e999]",
    "{",
    b"\xff\xff",
    "1" * 5000,
    '{"a": 1, "b": {"a": 1, "a": 2}}',
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_json_is_finite_flat_and_says_everything_once(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(text)
    assert parse_json('{"a": [1, 2.5, null], "b": {"a": "x"}}') == {"a": [1, 2.5, None], "b": {"a": "x"}}


def test_a_value_is_shown_on_one_short_line() -> None:
    assert short_repr("a\nb") == "'a\\nb'"
    assert len(short_repr(list(range(10_000)))) <= 80


def test_nothing_reaches_a_terminal_that_it_would_act_on() -> None:
    assert printable("a\x1b[31mred\x9b2J\u202e\r\nb\tc") == "a [31mred 2J b c"


def test_a_file_is_whole_or_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(TypeError), atomic_write(path) as half:
        half.write_text(half.write_text("new, but not"))
    assert path.read_text() == "old"
    with atomic_write(path) as half:
        assert half.suffix == ".json"  # what writes by a file's ending writes the right kind
        half.write_text("new")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.json", "new")]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_that_the_process_gives(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "a") as half:
            half.write_text("")
        with atomic_write(tmp_path / "b") as half:  # a library that puts a file of its own there
            (tmp_path / "other").touch(0o600)
            (tmp_path / "other").replace(half)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {mode}


def test_file_and_folder_are_flushed_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    flush, replace = os.fsync, os.replace

    def noted(handle: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        flush(handle)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    with atomic_write(tmp_path / "a") as half:
        half.write_text("")
    assert events == ["file", "rename", "folder"]


def test_the_next_write_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a[1].json"
    code = (
        "import sys; from aequa_lite._io import atomic_write\n"
        f"with atomic_write({str(path)!r}) as half: half.write_text('half'); print(half, flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    left = Path(writer.stdout.readline().strip())
    foreign = [tmp_path / name for name in (".a[1].json-notes.json", ".b.json-0123abcd.json")]
    for each in foreign:
        each.write_text("somebody else's")
    for alive in (True, False):
        with atomic_write(path) as half:
            half.write_text("whole")
        assert left.exists() == alive  # another process may still be writing
        if alive:
            writer.kill()
            writer.communicate()
    assert path.read_text() == "whole"
    assert all(each.exists() for each in foreign)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no device that is always full")
def test_a_full_disk_is_one_sentence_with_the_path(tmp_path: Path) -> None:
    sentence = r"\[Errno 28\] cannot write .*a\.txt: No space left on device"
    with pytest.raises(OSError, match=sentence), atomic_write(tmp_path / "a.txt"):
        Path("/dev/full").write_text("x" * 100_000)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_one_sentence_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path, tmp_path / "file" / "a", Path("/dev/null")):
        named = wrong.parent if wrong.parent == tmp_path / "file" else wrong
        with pytest.raises(OSError, match=str(named)), atomic_write(wrong) as half:
            half.write_text("")
    assert not list(tmp_path.glob(".*"))


def test_an_error_about_another_file_is_not_blamed_on_this_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^(?!.*cannot write).*nowhere"), atomic_write(tmp_path / "a"):
        (tmp_path / "nowhere").read_text()


def test_the_largest_and_smallest_numbers_are_read() -> None:
    assert parse_json("[1e308, -1e308, 5e-324]") == [1e308, -1e308, 5e-324]
    assert math.isfinite(parse_json("1e-400"))


def test_processes_that_write_one_file_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = (
        "import sys; from aequa_lite._io import write_whole\n"
        f"for _ in range(150): write_whole({str(tmp_path / 'a.txt')!r}, sys.argv[1] * 2000)"
    )
    start = partial(subprocess.Popen, stderr=subprocess.PIPE, text=True)
    writers = [start([sys.executable, "-c", code, letter]) for letter in "abcd"]
    assert [writer.communicate()[1] for writer in writers] == [""] * 4
    (found,) = tmp_path.iterdir()
    assert found.read_text() in {letter * 2000 for letter in "abcd"}


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(tmp_path: Path) -> None:
    check_folder("out", tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())  # nothing is made
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="`out` must be a folder that can be written to"):
            check_folder("out", wrong)
