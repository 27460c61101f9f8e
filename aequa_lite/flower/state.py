"""What the server remembers between rounds and after a restart: who is who, what each brought, what was sent and answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .._io import atomic_write, error_text, parse_json, read_limited, short_repr
from .._validation import checked_update, numbers, tensors_at
from ..checkpoint import save_tensors
from ..config import Config
from ..slimmable import Build, template

__all__ = ["RunState", "writable"]


MOST_BYTES = 1 << 28  # of ledger.json; a round of a thousand participants takes a tenth of a megabyte


MOST_SAMPLES = 10**9


def writable(folder: Path | str) -> Path:
    """Return the folder, made where it was missing, once it is certain that files can be written there.

    Raises:
        OSError: they cannot; the sentence says why.

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
    """Keep a run's history by participant in ``ledger.json`` and the networks trained alone beside it.

    ``participants``: {number: {"key", "samples"}}; ``rounds``: a row for each round with its widths, bytes and answers;
    ``earned``: the widths that were settled during training. A file of another recipe is refused.

    Raises:
        ValueError: ``ledger.json`` is damaged or belongs to another recipe.

    Example:
        >>> import tempfile
        >>> ledger = RunState(tempfile.mkdtemp(), Config(participants=2))
        >>> ledger.admit(0, "aa", 40)
        >>> ledger.missing
        [1]
    """

    def __init__(self, folder: Path | str, config: Config) -> None:
        self.folder, self.config = Path(folder), config
        self.path = self.folder / "ledger.json"
        self.participants: dict[int, dict[str, Any]] = {}
        self.rounds: list[dict[str, Any]] = []
        self.earned: tuple[float, ...] = ()
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        """Go on from what an earlier start left behind."""
        try:
            found = parse_json(read_limited(self.path, MOST_BYTES))
            self.participants = {
                int(number): self._known(int(number), each) for number, each in found["participants"].items()
            }
            self.rounds = [self._row(each) for each in found["rounds"]]
            self.earned, theirs = tuple(found["earned"]), found["recipe"]
            if not numbers(self.earned, len(self.earned) and self.config.participants, 0, 1):
                raise ValueError(f"earned is {short_repr(self.earned)}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"ledger {self.path} is damaged ({error_text(error)}); delete the folder to start afresh"
            ) from error
        if theirs != self.config.hash:
            raise ValueError(f"ledger {self.path} belongs to another recipe; use the same one or another folder")

    def _known(self, number: int, each: Any) -> dict[str, Any]:
        """What is known of a participant, if that is what this class has written."""
        right = isinstance(each["key"], str) and numbers([each["samples"]], 1, 1, MOST_SAMPLES, whole=True)
        if not right or not 0 <= number < self.config.participants:
            raise ValueError(f"participant {number} is {short_repr(each)}")
        return dict(each)

    def _row(self, row: Any) -> dict[str, Any]:
        """A round's row, if that is what this class has written."""
        held, out = row["participants"], row.get("left_out", [])
        right = numbers([row["round"], row.get("numbers", 0)], 2, 0, whole=True)
        right = right and numbers(out, len(out), 0, self.config.participants - 1, whole=True)
        if not right or not numbers([held[number]["width"] for number in held], len(held), 0, 1):
            raise ValueError(f"a round is {short_repr(row)}")
        return dict(row)

    def save(self) -> None:
        """Write the file, whole or not at all."""
        found = {
            "recipe": self.config.hash,
            "participants": {str(number): self.participants[number] for number in sorted(self.participants)},
            "earned": list(self.earned),
            "rounds": self.rounds,
        }
        with atomic_write(self.path) as half:
            half.write_text(json.dumps(found, indent=1) + "\n")

    @property
    def missing(self) -> list[int]:
        """The participants that have never introduced themselves."""
        return [number for number in range(self.config.participants) if number not in self.participants]

    def known(self, key: str) -> int | None:
        """Return the participant that this key belongs to, if it has been here before."""
        return next((number for number, each in self.participants.items() if each["key"] == key), None)

    def admit(self, number: int, key: str, samples: int, alone: Mapping[str, Tensor] | None = None) -> None:
        """Note who a participant is; its number of samples and what it brought stay as they were said the first time."""
        if alone is not None and number not in self.participants:
            save_tensors(self._alone(number), alone, {})
        self.participants.setdefault(number, {"samples": samples})["key"] = key
        self.save()

    def _alone(self, number: int) -> Path:
        """The file of the network that a participant trained alone."""
        return self.folder / "alone" / f"participant-{number:02d}.safetensors"

    def alone(self, number: int, build: Build) -> dict[str, Tensor]:
        """Return the network that a participant trained alone.

        Raises:
            ValueError: its file is missing, damaged, or no full network of this constructor.
        """
        try:
            return checked_update(tensors_at(self._alone(number))[0], template(build, 1.0).state_dict())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self._alone(number)} cannot be read ({error_text(error)}); delete the folder to start afresh"
            ) from error

    def note(self, row: dict[str, Any]) -> None:
        """Add a round's row, in place of an earlier one of the same round."""
        self.rounds = [*(each for each in self.rounds if each["round"] < row["round"]), row]
        self.save()
