"""Every number of a run, and the random streams of its seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from operator import index
from typing import Annotated, Any

import numpy as np

from ._check import Index, Range, Share, checked, one_of, refusal

Some = Annotated[int, Range(1, 1_000_000)]
Rate = Annotated[float, Range(1e-8, 1e3)]
Part = Annotated[float, Range(1e-6, 1)]
Shape = Annotated[float, Range(1e-3, 1e3)]
Power = Annotated[float, Range(0, 16)]


@checked
@dataclass(frozen=True)
class Config:
    """Describe how one network is trained together.

    Widths are fractions of the full network in (0, 1]. A local step draws a
    batch from one shard and trains the full width and `widths_per_step`
    random ones, each from Beta(`width_alpha`, `width_beta`) stretched over
    [`min_width`, widest]. How the defaults were chosen: see the book's page
    on results.

    Args:
        participants: number of participants
        rounds: communication rounds
        local_steps: SGD steps of each participant in each round
        batch: samples per step (fewer in a smaller shard)
        lr: learning rate of the first step
        lr_final: last learning rate / first; cosine in between
        momentum: momentum of local SGD, reset every round
        weight_decay: L2 penalty per step
        min_width: least width that is trained and rewarded
        widths_per_step: random widths trained beside the widest in a step
        width_alpha: first parameter of the Beta distribution
        width_beta: second parameter of the Beta distribution
        grid: widths are multiples of 1 / grid
        fractions: fractional rewards between two widths; 0: none
        loss_power: loss weight of a width: (width / widest) ** power
        distill: share of soft labels in the loss of narrow widths
        logit_adjustment: how far the loss discounts the holders' labels
        schedule_logit_adjustment: the same, rewards being given in training
        proximal: FedProx's mu
        size_power: aggregation weight: size ** size_power ...
        contribution_power: ... times contribution ** contribution_power
        participation: share of participants drawn into each round
        norm_limit: updates above so many median norms are left out
        seed: source of all randomness

    Raises:
        ValueError: A field is outside its range or has the wrong type.

    Example:
        >>> config = Config(participants=3, rounds=2, seed=7)
        >>> config.batch, config == Config.from_dict(config.to_dict())
        (64, True)

    References:
        Our choice; the published settings are not known.
    """

    participants: Some = 5
    rounds: Some = 60
    local_steps: Some = 15
    batch: Some = 64
    lr: Rate = 0.06
    lr_final: Share = 0.05
    momentum: Annotated[float, Range(0, 0.9999)] = 0.9
    weight_decay: Share = 0.0
    min_width: Part = 0.02
    widths_per_step: Annotated[int, Range(0, 64)] = 1
    width_alpha: Shape = 3.0
    width_beta: Shape = 1.0
    grid: Annotated[int, Range(1, 10_000)] = 200
    fractions: Annotated[int, Range(0, 4096)] = 0
    loss_power: Power = 2.0
    distill: Share = 0.0
    logit_adjustment: Share = 0.0
    schedule_logit_adjustment: Share = 1.0
    proximal: Annotated[float, Range(0, 1e3)] = 0.0
    size_power: Power = 1.0
    contribution_power: Power = 2.0
    participation: Part = 1.0
    norm_limit: Annotated[float, Range(0, 1e6)] = 10.0
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).copy().items():
            if isinstance(value, np.generic):  # JSON knows plain numbers
                object.__setattr__(self, name, value.item())

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


@checked
def stream(seed: Index, *tags: str | int) -> np.random.Generator:
    """Return the random generator that belongs to a seed and a purpose.

    The stream is the PCG64 generator seeded with SHA-256(seed, tags): the
    same seed and tags give the same numbers, different tags give
    independent ones, so that adding a draw in one place shifts none
    elsewhere.

    Raises:
        ValueError: `seed` is negative or not a whole number.

    Example:
        >>> found = stream(0, "batches", 3).integers(100, size=2)
        >>> again = stream(0, "batches", 3).integers(100, size=2)
        >>> bool((found == again).all())
        True

    References:
        Our choice; SHA-256 keeps tags such as ("a", "bc") and ("ab", "c")
        apart.
    """
    kinds = [
        f"str:{tag}" if isinstance(tag, str) else f"int:{index(tag)}"
        for tag in tags
    ]
    name = "\x1f".join([str(int(seed)), *kinds])
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
