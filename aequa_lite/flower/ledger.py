"""What the server remembers between rounds and after a restart: who is who, what each brought, what was sent and answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..checkpoint import save_tensors
from ..files import whole
from ..records import Recipe

__all__ = ["Ledger", "writable"]


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
        with whole(folder / "probe") as half:
            half.write_bytes(bytes(1 << 16))
        (folder / "probe").unlink()
    except OSError as error:
        raise OSError(f"folder {folder} cannot be written to ({error}); make room there or name another") from error
    return folder


class Ledger:
    """Keep a run's history by participant in ``ledger.json`` and the networks trained alone beside it.

    ``participants``: {number: {"key", "samples"}}; ``rounds``: a row for each round with its widths, bytes and answers;
    ``earned``: the widths that were settled during training. A file of another recipe is refused.

    Raises:
        ValueError: ``ledger.json`` is damaged or belongs to another recipe.

    Example:
        >>> import tempfile
        >>> ledger = Ledger(tempfile.mkdtemp(), Recipe(participants=2))
        >>> ledger.admit(0, "aa", 40)
        >>> ledger.missing
        [1]
    """

    def __init__(self, folder: Path | str, recipe: Recipe) -> None:
        self.folder, self.recipe = Path(folder), recipe
        self.path = self.folder / "ledger.json"
        self.participants: dict[int, dict[str, Any]] = {}
        self.rounds: list[dict[str, Any]] = []
        self.earned: tuple[float, ...] = ()
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        """Go on from what an earlier start left behind."""
        try:
            found = json.loads(self.path.read_text())
            self.participants = {int(number): dict(each) for number, each in found["participants"].items()}
            self.rounds = list(found["rounds"])
            self.earned = tuple(found["earned"])
            theirs = found["recipe"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"ledger {self.path} is damaged ({error}); delete the folder to start afresh") from error
        if theirs != self.recipe.hash:
            raise ValueError(f"ledger {self.path} belongs to another recipe; use the same one or another folder")

    def save(self) -> None:
        """Write the file, whole or not at all."""
        found = {
            "recipe": self.recipe.hash,
            "participants": {str(number): self.participants[number] for number in sorted(self.participants)},
            "earned": list(self.earned),
            "rounds": self.rounds,
        }
        with whole(self.path) as half:
            half.write_text(json.dumps(found, indent=1) + "\n")

    @property
    def missing(self) -> list[int]:
        """The participants that have never introduced themselves."""
        return [number for number in range(self.recipe.participants) if number not in self.participants]

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

    def alone(self, number: int) -> dict[str, Tensor]:
        """Return the network that a participant trained alone.

        Raises:
            ValueError: its file is missing or damaged.
        """
        try:
            return load_file(self._alone(number))
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{self._alone(number)} cannot be read ({error}); delete the folder to start afresh"
            ) from error

    def note(self, row: dict[str, Any]) -> None:
        """Add a round's row, in place of an earlier one of the same round."""
        self.rounds = [*(each for each in self.rounds if each["round"] < row["round"]), row]
        self.save()
