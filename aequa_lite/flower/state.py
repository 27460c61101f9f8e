"""What the server keeps between rounds and after a restart: participants, their models trained alone, rounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .._io import atomic_write, error_text, opened, parse_json, read_limited, seal, short_repr
from .._validation import checked_update, numbers, save_tensors, tensors_at
from ..checkpoint import digest
from ..config import Config
from ..slimmable import template
from ..types import Build, State

__all__ = ["RunState", "writable"]


MOST_BYTES = 1 << 28  # of run.json; a round of a thousand participants takes a tenth of a megabyte


MOST_SAMPLES = 10**9


def writable(folder: Path | str) -> Path:
    """Make the folder if it is missing, and check that files can be written there.

    Returns:
        The folder.

    Raises:
        OSError: They cannot.

    Example:
        >>> import tempfile
        >>> writable(tempfile.mkdtemp()).is_dir()
        True
    """
    folder = Path(folder)
    try:
        with atomic_write(folder / "probe") as half:
            half.write_bytes(bytes(1 << 16))
        (folder / "probe").unlink()
    except OSError as error:
        raise OSError(f"folder {folder} cannot be written to ({error}); make room there or name another") from error
    return folder


class RunState:
    """Keep `run.json`, and the models that participants trained alone, in the folder of a run.

    `participants` holds key and number of samples of each participant by number, `rounds` one row for each round: its
    widths, bytes sent and received, and who replied.

    Args:
        folder: Of the run.
        config: Of the run.
        about: What else must not change between restarts, by name.

    Raises:
        ValueError: `run.json` is damaged, or belongs to another run.

    Example:
        >>> import tempfile
        >>> state = RunState(tempfile.mkdtemp(), Config(participants=2))
        >>> state.admit(0, "aa", 40)
        >>> state.missing
        [1]
    """

    def __init__(self, folder: Path | str, config: Config, about: Mapping[str, str] | None = None) -> None:
        self.folder, self.config = Path(folder), config
        self.identity = {**config.to_dict(), **(about or {})}
        self.path = self.folder / "run.json"
        self.participants: dict[int, dict[str, Any]] = {}
        self.rounds: list[dict[str, Any]] = []
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        """Go on from what an earlier start has written."""
        try:
            found = parse_json(read_limited(self.path, MOST_BYTES))
            self.participants = {int(i): self._participant(int(i), each) for i, each in found["participants"].items()}
            self.rounds = [self._row(each) for each in found["rounds"]]
            theirs = dict(opened(found)["identity"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.path} is damaged ({error_text(error)}); delete the folder to start afresh"
            ) from error
        for name, value in self.identity.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{self.path} belongs to a run with {name} = {short_repr(theirs.get(name))}, this run has "
                    f"{short_repr(value)}; use the same run or another folder"
                )

    def _participant(self, number: int, each: Any) -> dict[str, Any]:
        """What is known of a participant, checked."""
        right = isinstance(each["key"], str) and numbers([each["samples"]], 1, 1, MOST_SAMPLES, whole=True)
        if not right or not 0 <= number < self.config.participants:
            raise ValueError(f"participant {number} is {short_repr(each)}")
        return dict(each)

    def _row(self, row: Any) -> dict[str, Any]:
        """The row of a round, checked."""
        received, out = row["participants"], row.get("left_out", [])
        right = numbers([row["round"], row.get("numbers", 0)], 2, 0, whole=True)
        right = right and numbers(out, len(out), 0, self.config.participants - 1, whole=True)
        if not right or not numbers([received[i]["width"] for i in received], len(received), 0, 1):
            raise ValueError(f"a round is {short_repr(row)}")
        return dict(row)

    def save(self) -> None:
        """Write `run.json`, whole or not at all."""
        found = {
            "identity": self.identity,
            "participants": {str(number): self.participants[number] for number in sorted(self.participants)},
            "rounds": self.rounds,
        }
        with atomic_write(self.path) as half:
            half.write_text(json.dumps(seal(found), indent=1) + "\n")

    @property
    def missing(self) -> list[int]:
        """Participants that have never introduced themselves."""
        return [number for number in range(self.config.participants) if number not in self.participants]

    def owner(self, key: str) -> int | None:
        """Return the participant that has introduced itself with this key, if there is one."""
        return next((number for number, each in self.participants.items() if each["key"] == key), None)

    def admit(self, number: int, key: str, samples: int, alone: State | None = None) -> None:
        """Store a participant's key; its number of samples and its model stay those of the first time."""
        if alone is not None and number not in self.participants:
            save_tensors(self._file(number), alone, {"sha256": digest([alone[k] for k in sorted(alone)])})
        self.participants.setdefault(number, {"samples": samples})["key"] = key
        self.save()

    def _file(self, number: int) -> Path:
        """The file of the model that a participant trained alone."""
        return self.folder / "alone" / f"participant-{number:02d}.safetensors"

    def alone(self, number: int, build: Build) -> dict[str, Tensor]:
        """Return the state of the model that a participant trained alone.

        Raises:
            ValueError: Its file is missing, damaged, or not of this network.
        """
        try:
            tensors, words = tensors_at(self._file(number))
            if words.get("sha256") != digest([tensors[k] for k in sorted(tensors)]):
                raise ValueError("its checksum does not fit its contents")
            return checked_update(tensors, template(build, 1.0).state_dict())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self._file(number)} cannot be read ({error_text(error)}); delete the folder to start afresh"
            ) from error

    def note(self, row: dict[str, Any]) -> None:
        """Add the row of a round, in place of an earlier one of the same round."""
        self.rounds = [*(each for each in self.rounds if each["round"] < row["round"]), row]
        self.save()
