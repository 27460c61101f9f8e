"""Every number of a run, validated before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from ._check import number, one_of, refusal


def _within(low: float, high: float, default: float, about: str) -> Any:
    """A number with its closed range and its meaning."""
    return field(
        default=default, metadata={"low": low, "high": high, "about": about}
    )


@dataclass(frozen=True)
class Config:
    """Describe how one network is trained together.

    Widths are fractions of the full network in (0, 1]. A local step draws a
    batch from one shard and trains the full width and `widths_per_step`
    random ones, each from Beta(`width_alpha`, `width_beta`) stretched over
    [`min_width`, widest]. How the defaults were chosen: see the book's page
    on results.

    Raises:
        ValueError: A field is outside its range or has the wrong type.

    Example:
        >>> config = Config(participants=3, rounds=2, seed=7)
        >>> config.batch, config == Config.from_dict(config.to_dict())
        (64, True)

    References:
        Our choice; the published settings are not known.
    """

    participants: int = _within(1, 1_000_000, 5, "number of participants")
    rounds: int = _within(1, 1_000_000, 60, "communication rounds")
    local_steps: int = _within(
        1, 1_000_000, 15, "SGD steps of each participant in each round"
    )
    batch: int = _within(
        1, 1_000_000, 64, "samples per step (fewer in a smaller shard)"
    )
    lr: float = _within(1e-8, 1e3, 0.06, "learning rate of the first step")
    lr_final: float = _within(
        0.0, 1.0, 0.05, "last learning rate / first; cosine in between"
    )
    momentum: float = _within(
        0.0, 0.9999, 0.9, "momentum of local SGD, reset every round"
    )
    weight_decay: float = _within(0.0, 1.0, 0.0, "L2 penalty per step")
    min_width: float = _within(
        1e-6, 1.0, 0.02, "least width that is trained and rewarded"
    )
    widths_per_step: int = _within(
        0, 64, 1, "random widths trained beside the widest in each step"
    )
    width_alpha: float = _within(
        1e-3, 1e3, 3.0, "first parameter of the Beta distribution"
    )
    width_beta: float = _within(
        1e-3, 1e3, 1.0, "second parameter of the Beta distribution"
    )
    grid: int = _within(1, 10_000, 200, "widths are multiples of 1 / grid")
    fractions: int = _within(
        0, 4096, 0, "fractional rewards between two widths; 0: none"
    )
    loss_power: float = _within(
        0.0, 16.0, 2.0, "loss weight of a width: (width / widest) ** power"
    )
    distill: float = _within(
        0.0, 1.0, 0.0, "share of soft labels in the loss of narrow widths"
    )
    logit_adjustment: float = _within(
        0.0, 1.0, 0.0, "how far the loss discounts the holders' labels"
    )
    schedule_logit_adjustment: float = _within(
        0.0, 1.0, 1.0, "the same while rewards are given in training"
    )
    proximal: float = _within(0.0, 1e3, 0.0, "FedProx's mu")
    size_power: float = _within(
        0.0, 16.0, 1.0, "aggregation weight: size ** size_power ..."
    )
    contribution_power: float = _within(
        0.0, 16.0, 2.0, "... times contribution ** contribution_power"
    )
    participation: float = _within(
        1e-6, 1.0, 1.0, "share of participants drawn into each round"
    )
    norm_limit: float = _within(
        0.0, 1e6, 10.0, "updates above so many median norms are left out"
    )
    seed: int = _within(0, 2**63 - 1, 0, "source of all randomness")

    def __post_init__(self) -> None:
        for each in fields(self):
            low, high = each.metadata["low"], each.metadata["high"]
            value = getattr(self, each.name)
            if isinstance(value, np.generic):  # JSON knows plain numbers
                value = value.item()
                object.__setattr__(self, each.name, value)
            number(each.name, value, low, high, whole=each.type == "int")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Make a config from a mapping; refuse an unknown field.

        Raises:
            ValueError: An unknown field, or a value outside its range.

        Example:
            >>> Config.from_dict({"rounds": 3}).rounds
            3
        """
        if not isinstance(values, Mapping):
            raise refusal("config", "a mapping of its fields", values)
        for name in values:
            one_of("config field", name, cls.__dataclass_fields__)
        return cls(**values)

    def lr_at(self, step: int) -> float:
        r"""Return the learning rate of a local step, counted over rounds.

        $\eta_s = \eta\,(f + (1 - f)\,\tfrac12(1 + \cos(\pi s / S)))$ with
        $f$ = `lr_final` and $S$ = rounds x local steps.

        Example:
            >>> config = Config(lr=0.1, lr_final=0.5, rounds=2, local_steps=5)
            >>> config.lr_at(0), round(config.lr_at(5), 3)
            (0.1, 0.075)
        """
        share = min(1.0, step / (self.rounds * self.local_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * share))
        return self.lr * (self.lr_final + (1 - self.lr_final) * cosine)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary.

        Example:
            >>> Config(rounds=3).to_dict()["rounds"]
            3
        """
        return asdict(self)
