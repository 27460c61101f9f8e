"""A folder of rewards, checked file by file: ``python -m aequa_lite verify FOLDER``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .._io import error_text, parse_json, printable, read_limited
from ..registry import NETWORKS
from ..slimmable import n_parameters
from .export import LOADER, loader_text
from .files import MOST_MANIFEST_BYTES, MOST_WORDS_BYTES, WORDS, load_reward, load_words

__all__ = ["Checked", "verify_rewards"]


@dataclass(frozen=True)
class Checked:
    """Hold what was found in one file: ``fault`` is None where nothing is wrong, ``said`` describes it.

    Example:
        >>> print(Checked("participant-00.safetensors", "MLP at width 0.5: 89,610 parameters"))
        ok     participant-00.safetensors: MLP at width 0.5: 89,610 parameters
    """

    file: str
    error_text: str
    fault: str | None = None

    def __str__(self) -> str:
        file = self.file if self.file.isprintable() else repr(self.file)  # a line break in a name would forge a line
        return f"{'ok' if self.fault is None else 'WRONG':<6} {file}: {printable(self.fault or self.said)}"


def verify_rewards(folder: Path | str) -> list[Checked]:
    """Check every file of a folder of rewards; return a line for each, in the order of their names.

    A reward is rebuilt with all of ``load_reward``'s checks; a manifest without its reward, a loader that is not what this
    version writes, a reward of another run than the first, and any file that does not belong there are faults.

    Raises:
        ValueError: there is no such folder, or no reward in it.

    Example:
        >>> import tempfile, aequa_lite as aq
        >>> path, = aq.save_rewards(tempfile.mkdtemp(), aq.MLP, [aq.MLP(0.5)], [0.5], aq.Config())
        >>> [(each.file, each.fault) for each in verify_rewards(path.parent)]
        [('participant-00.json', None), ('participant-00.safetensors', None)]

    Source: ours.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("*")) if folder.is_dir() else []
    rewards = [path for path in paths if path.match("participant-*.safetensors")]
    if not rewards:
        raise ValueError(f"folder is {str(folder)!r}; allowed is one that holds participant-NN.safetensors")
    return list(_lines(paths, rewards))


def _lines(paths: list[Path], rewards: list[Path]) -> Iterator[Checked]:
    """One line for each file."""
    first = _stated(rewards[0])
    for path in paths:
        if path in rewards:
            yield _reward(path, first)
        elif path.suffix == ".json" and path.with_suffix(".safetensors") in rewards:
            yield Checked(path.name, f"the manifest of {path.stem}")
        elif path.suffix == ".onnx" and path.with_suffix(".safetensors") in rewards:
            yield Checked(path.name, "not checked: an ONNX file has no manifest; export it again from its reward")
        elif path.name == WORDS and first.get("words"):
            yield _words(path, rewards[0])
        elif path.name == LOADER:
            yield _loader(path, first)
        elif path.match("participant-*.json"):
            yield Checked(path.name, "", "the manifest of a reward that is missing")
        else:
            yield Checked(path.name, "", "does not belong into a folder of rewards")


def _stated(reward: Path) -> dict:
    """What a reward's manifest states, before any check; nothing where it cannot be read."""
    try:
        found = parse_json(read_limited(reward.with_suffix(".json"), MOST_MANIFEST_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _reward(path: Path, first: dict) -> Checked:
    """A reward, rebuilt."""
    try:
        net = load_reward(path)
        if first.get("words"):
            load_words(path)
    except ValueError as error:
        return Checked(path.name, "", str(error))
    found = _stated(path)
    for name in ("recipe", "architecture"):
        if first.get(name) != found[name]:
            return Checked(path.name, "", f"its {name} is not that of the first reward: it comes from another run")
    return Checked(path.name, f"{found['architecture']} at width {found['width']:g}: {n_parameters(net):,} parameters")


def _words(path: Path, reward: Path) -> Checked:
    """The words that the rewards read."""
    try:
        return Checked(path.name, f"{len(load_words(reward)):,} words")
    except ValueError as error:
        return Checked(path.name, "", str(error))


def _loader(path: Path, first: dict) -> Checked:
    """The loader, against the one that this version writes: it is code, so a changed byte is a fault."""
    function = NETWORKS.get(str(first.get("architecture")))
    try:
        if function is not None and read_limited(path, MOST_WORDS_BYTES) == loader_text(function).encode():
            return Checked(path.name, f"the loader of {function.__name__}, as this version writes it")
    except (OSError, ValueError) as error:
        return Checked(path.name, "", error_text(error))
    return Checked(path.name, "", "differs from the loader that this version writes; do not run it, write it again")
