"""Verification of a folder of rewards, file by file: `python -m aequa_lite verify FOLDER`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._check import checked, refusal
from .._io import abandoned, error_text, parse_json, printable, read_limited
from ..registry import NETWORKS
from .files import (
    LIST,
    MOST_BYTES,
    MOST_LIST_BYTES,
    VOCABULARY,
    Build,
    digest,
    is_digest,
    load_vocabulary,
    read_reward,
    rebuild,
)

__all__ = ["FileCheck", "verify"]


NAME = re.compile(r"participant-(\d{2,7})\.(safetensors|json)")


@checked
@dataclass(frozen=True)
class FileCheck:
    """Hold what was found in one file.

    Args:
        file: Its name.
        description: What it is.
        fault: What is wrong with it; None where nothing is.

    Example:
        >>> print(FileCheck("participant-00.safetensors", "MLP at width 0.5: 89,610 parameters"))
        ok     participant-00.safetensors: MLP at width 0.5: 89,610 parameters
    """

    file: str
    description: str
    fault: str | None = None

    def __str__(self) -> str:
        file = self.file if self.file.isprintable() else repr(self.file)  # a line break in a name would forge a line
        text = self.description if self.fault is None else self.fault
        return f"{'ok' if self.fault is None else 'WRONG':<6} {file}: {printable(text)}"


@checked
def verify(folder: Path | str, build: Build | None = None, *, name: str = "") -> list[FileCheck]:
    """Check every file of a folder of rewards against the folder's list, and rebuild every reward.

    Faults are: a file that is changed, missing, a link, or not on the list; a reward of another run or participant; a
    reward that `load_reward` refuses. Temporary files of a killed process are ignored.

    Whoever rewrites the whole folder consistently, list included, is not noticed; only a signature could show that.

    Args:
        folder: A folder that `save_rewards` wrote.
        build: As in `load_reward`. Without it, a network that is not one of this package is not rebuilt, and the line says
            so.
        name: As in `load_reward`.

    Returns:
        One entry for each file, in the order of their names.

    Raises:
        ValueError: There is no such folder, or no rewards in it.

    Example:
        >>> import tempfile, aequa_lite as aq
        >>> path, = aq.save_rewards(tempfile.mkdtemp(), aq.MLP, [aq.MLP(0.5)], [0.5], aq.Config())
        >>> [each.file for each in verify(path.parent) if each.fault is None]
        ['participant-00.json', 'participant-00.safetensors', 'rewards.json']

    References:
        Our choice.
    """
    folder = Path(folder)
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not any(each == LIST or NAME.fullmatch(each) for each in present):
        raise refusal("folder", f"a folder of rewards, with {LIST}", str(folder))
    try:
        run, listed = _read_list(folder / LIST)
    except (OSError, ValueError) as error:
        return [FileCheck(LIST, "", f"the folder cannot be verified: {error_text(error)}")]
    present -= {half.name for each in [LIST, *listed] for half in abandoned(folder / each)}
    checks = {LIST: FileCheck(LIST, f"the list of {len(listed)} files")}
    checks |= {each: FileCheck(each, "", f"it is not on the list of {LIST}") for each in present - {LIST, *listed}}
    for each, entry in listed.items():
        try:
            checks[each] = FileCheck(each, _check(folder / each, entry, run, build, name))
        except (OSError, ValueError) as error:
            checks[each] = FileCheck(each, "", error_text(error, 1000))
    return [checks[each] for each in sorted(checks)]


def _read_list(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """The run of a folder's list, and its entries by name."""
    if not path.is_file() or path.is_symlink():
        raise ValueError(f"{LIST} is missing; it is written last, so the folder is not complete")
    found = parse_json(read_limited(path, MOST_LIST_BYTES))
    entries = found.get("files") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not all(map(_is_entry, entries)) or not is_digest(found.get("run")):
        raise ValueError(f"{LIST} is damaged: it must hold a run and its files")
    listed = {each["name"]: each for each in entries}
    lonely = [name for name in listed if name != VOCABULARY and _partner(name) not in listed]
    if len(listed) < len(entries) or lonely:
        raise ValueError(f"{LIST} is damaged: it must name each reward and each manifest once")
    return found["run"], listed


def _partner(name: str) -> str:
    """The manifest of a reward, or the reward of a manifest."""
    return name[:-5] + ".safetensors" if name.endswith(".json") else name.removesuffix(".safetensors") + ".json"


def _is_entry(value: object) -> bool:
    """Whether this is an entry of the list, with the participant that its name says."""
    if not isinstance(value, dict) or set(value) != {"name", "size", "sha256", "participant"}:
        return False
    match = NAME.fullmatch(value["name"]) if isinstance(value["name"], str) else None
    whose = int(match[1]) if match else None
    right = (match or value["name"] == VOCABULARY) and type(value["size"]) is int and is_digest(value["sha256"])
    return bool(right) and value["participant"] == whose and type(value["participant"]) is type(whose)


def _check(path: Path, entry: dict[str, Any], run: str, build: Build | None, name: str) -> str:
    """Describe a listed file; a ValueError says what is wrong."""
    if path.is_symlink():
        raise ValueError("it is a link; a folder of rewards holds the files themselves")
    if not path.exists():
        raise ValueError("it is missing")
    content = read_limited(path, MOST_BYTES)
    if len(content) != entry["size"] or digest(content) != entry["sha256"]:
        raise ValueError(f"it does not have the size and SHA-256 of {LIST}")
    if path.name == VOCABULARY:
        return f"{len(content):,} bytes, checked with each reward"
    if path.suffix == ".json":
        return f"the manifest of {_partner(path.name)}"
    return _check_reward(path, entry["participant"], run, build, name)


def _check_reward(path: Path, participant: int, run: str, build: Build | None, name: str) -> str:
    """Describe a reward, rebuilt where its network is known."""
    manifest, tensors = read_reward(path)
    if (manifest.participant, manifest.run) != (participant, run):
        raise ValueError("it is the reward of another participant or run than its name and the list state")
    known = build is not None or manifest.architecture in NETWORKS
    if known:
        rebuild(path, manifest, tensors, build, name)
    vocabulary = f", {len(load_vocabulary(path)):,} words" if manifest.vocabulary else ""
    text = f"{manifest.architecture} at width {manifest.fractional_width:g}: {manifest.n_parameters:,} parameters"
    return text + vocabulary + ("" if known else "; not rebuilt, since `build` was not passed")
