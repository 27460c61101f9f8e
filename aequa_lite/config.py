"""The records that flow through everything: frozen, validated, and free of any dependency beyond Python."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from ._io import short_repr

__all__ = ["Config"]


def _between(low: float, high: float, default: float, about: str) -> Any:
    """A number field of a recipe with its closed range and what it means."""
    return field(default=default, metadata={"low": low, "high": high, "about": about})


@dataclass(frozen=True)
class Config:
    """Say how one network is trained together: every number of a run, validated before any work.

    Widths are fractions of the full network in (0, 1]. A local step draws its batch from one shard and trains
    ``widths_per_step`` widths besides the widest one: each drawn from a Beta(``width_alpha``, ``width_beta``)
    distribution stretched over [``min_width``, widest].

    Raises:
        ValueError: a field is outside its range or has the wrong type; the sentence names field, value and range.

    Example:
        >>> config = Config(participants=3, rounds=2, seed=7)
        >>> config.batch, config.hash == Config(participants=3, rounds=2, seed=7).hash
        (64, True)

    Source: the fields are our choice; the published settings are not known.
    """

    participants: int = _between(1, 1_000_000, 5, "number of participants")
    rounds: int = _between(1, 1_000_000, 60, "rounds of broadcast, local training and merge")
    local_steps: int = _between(1, 1_000_000, 15, "SGD steps of each participant in each round")
    batch: int = _between(1, 1_000_000, 64, "samples per local step (fewer where the shard is smaller)")
    lr: float = _between(1e-8, 1e3, 0.06, "learning rate of the first local step")
    lr_final: float = _between(
        0.0, 1.0, 0.05, "learning rate of the last step, as a share of the first; cosine between"
    )
    momentum: float = _between(0.0, 0.9999, 0.9, "momentum of local SGD, reset in every round")
    weight_decay: float = _between(0.0, 1.0, 0.0, "L2 penalty per local step")
    min_width: float = _between(1e-6, 1.0, 0.02, "least width that is trained and handed out")
    widths_per_step: int = _between(0, 64, 1, "random widths trained beside the widest one in each step")
    width_alpha: float = _between(1e-3, 1e3, 3.0, "first shape parameter of the Beta distribution of widths")
    width_beta: float = _between(1e-3, 1e3, 1.0, "second shape parameter of the Beta distribution of widths")
    grid: int = _between(1, 10_000, 200, "widths are whole multiples of 1 / grid")
    fractions: int = _between(
        0, 4096, 64, "at most so many rewards to one step of the grid: its units fade in (0: one)"
    )
    loss_power: float = _between(0.0, 16.0, 1.0, "a width's loss counts (width / widest) ** loss_power")
    distill: float = _between(0.0, 1.0, 0.0, "share of the widest width's soft labels in the loss of the others")
    proximal: float = _between(0.0, 1e3, 0.0, "pull of local training back to what was received (FedProx's mu)")
    size_power: float = _between(0.0, 16.0, 1.0, "an answer's merge weight is size ** size_power ...")
    contribution_power: float = _between(0.0, 16.0, 0.0, "... times contribution ** contribution_power")
    participation: float = _between(1e-6, 1.0, 1.0, "share of the participants drawn into each round, at least one")
    seed: int = _between(0, 2**63 - 1, 0, "the one number that all randomness comes from")

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_field(each, getattr(self, each.name))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Make a recipe from a mapping; an unknown name is refused with the nearest known one.

        Raises:
            ValueError: an unknown field name, or a value outside its range.

        Example:
            >>> Recipe.from_dict({"rounds": 3}).rounds
            3
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"recipe is {short_repr(values)}; allowed are its fields by name")
        known = [each.name for each in fields(cls)]
        for name in values:
            if name not in known:
                near = get_close_matches(str(name)[:100], known, n=1, cutoff=0.0)[0]
                raise ValueError(f"recipe has no field {short_repr(name)}; the nearest one is {near!r}")
        return cls(**values)

    def lr_at(self, step: int) -> float:
        r"""Return the learning rate of a participant's local step, counted over all rounds.

        $\eta_s = \eta\,(f + (1 - f)\,\tfrac12(1 + \cos(\pi s / S)))$ with $f$ = ``lr_final``, $S$ = rounds x local steps.

        Example:
            >>> config = Config(lr=0.1, lr_final=0.5, rounds=2, local_steps=5)
            >>> config.lr_at(0), round(config.lr_at(5), 3)
            (0.1, 0.075)
        """
        share = min(1.0, step / (self.rounds * self.local_steps))
        return self.lr * (self.lr_final + (1 - self.lr_final) * 0.5 * (1 + math.cos(math.pi * share)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary.

        Example:
            >>> Config(rounds=3).to_dict()["rounds"]
            3
        """
        return asdict(self)

    @property
    def hash(self) -> str:
        """SHA-256 of the recipe's canonical JSON, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def _check_field(each: Any, value: Any) -> None:
    """Refuse a recipe field of the wrong type or outside its range."""
    low, high = each.metadata["low"], each.metadata["high"]
    whole = each.type == "int"
    right_type = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right_type or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise ValueError(
            f"recipe field {each.name!r} is {short_repr(value)}; allowed is {kind} from {low:g} to {high:g}"
        )
