"""The records that flow through everything: frozen, validated, and free of any dependency beyond Python."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .files import bounded, plain_json, said, shown, whole

__all__ = ["Data", "Given", "Recipe", "Report", "Round", "Samples", "Shard", "Update"]

MOST_REPORT_BYTES = 1 << 26  # a curve of thousands of widths, a thousand participants


def _between(low: float, high: float, default: float, about: str) -> Any:
    """A number field of a recipe with its closed range and what it means."""
    return field(default=default, metadata={"low": low, "high": high, "about": about})


@dataclass(frozen=True)
class Recipe:
    """Say how one network is trained together: every number of a run, validated before any work.

    Widths are fractions of the full network in (0, 1]. A local step draws its batch from one shard and trains
    ``widths_per_step`` widths besides the widest one: each drawn from a Beta(``width_alpha``, ``width_beta``)
    distribution stretched over [``min_width``, widest].

    Raises:
        ValueError: a field is outside its range or has the wrong type; the sentence names field, value and range.

    Example:
        >>> recipe = Recipe(participants=3, rounds=2, seed=7)
        >>> recipe.batch, recipe.hash == Recipe(participants=3, rounds=2, seed=7).hash
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
    fade: int = _between(0, 4096, 64, "at most so many rewards to one step of the grid: its units fade in (0: one)")
    loss_power: float = _between(0.0, 16.0, 1.0, "a width's loss counts (width / widest) ** loss_power")
    distill: float = _between(0.0, 1.0, 0.0, "share of the widest width's soft labels in the loss of the others")
    proximal: float = _between(0.0, 1e3, 0.0, "pull of local training back to what was received (FedProx's mu)")
    size_power: float = _between(0.0, 16.0, 1.0, "an answer's merge weight is size ** size_power ...")
    contribution_power: float = _between(0.0, 16.0, 0.0, "... times contribution ** contribution_power")
    participation: float = _between(1e-6, 1.0, 1.0, "share of the participants drawn into each round, at least one")
    seed: int = _between(0, 2**63 - 1, 0, "the one number that all randomness comes from")

    def __post_init__(self) -> None:
        for each in fields(self):
            _check(each, getattr(self, each.name))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Make a recipe from a mapping; an unknown name is refused with the nearest known one.

        Raises:
            ValueError: an unknown field name, or a value outside its range.

        Example:
            >>> Recipe.from_dict({"rounds": 3}).rounds
            3
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"recipe is {shown(values)}; allowed are its fields by name")
        known = [each.name for each in fields(cls)]
        for name in values:
            if name not in known:
                near = get_close_matches(str(name)[:100], known, n=1, cutoff=0.0)[0]
                raise ValueError(f"recipe has no field {shown(name)}; the nearest one is {near!r}")
        return cls(**values)

    def lr_at(self, step: int) -> float:
        r"""Return the learning rate of a participant's local step, counted over all rounds.

        $\eta_s = \eta\,(f + (1 - f)\,\tfrac12(1 + \cos(\pi s / S)))$ with $f$ = ``lr_final``, $S$ = rounds x local steps.

        Example:
            >>> recipe = Recipe(lr=0.1, lr_final=0.5, rounds=2, local_steps=5)
            >>> recipe.lr_at(0), round(recipe.lr_at(5), 3)
            (0.1, 0.075)
        """
        share = min(1.0, step / (self.rounds * self.local_steps))
        return self.lr * (self.lr_final + (1 - self.lr_final) * 0.5 * (1 + math.cos(math.pi * share)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary.

        Example:
            >>> Recipe(rounds=3).to_dict()["rounds"]
            3
        """
        return asdict(self)

    @property
    def hash(self) -> str:
        """SHA-256 of the recipe's canonical JSON, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def _check(each: Any, value: Any) -> None:
    """Refuse a recipe field of the wrong type or outside its range."""
    low, high = each.metadata["low"], each.metadata["high"]
    whole = each.type == "int"
    right_type = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right_type or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"recipe field {each.name!r} is {shown(value)}; allowed is {kind} from {low:g} to {high:g}")


@dataclass(frozen=True)
class Samples:
    """Hold inputs and labels as tensors on one device.

    ``x``: (samples, ...) uint8 images or int64 token ids; ``y``: (samples,) int64 labels in 0..classes-1;
    ``groups``: (samples,) the natural owner of each sample, where the data set has one (a writer).

    Example:
        >>> import torch
        >>> len(Samples(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), classes=2))
        4
    """

    x: Any
    y: Any
    classes: int
    groups: Any = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Any) -> Samples:
        """Return the samples at these positions, in this order (a copy)."""
        groups = None if self.groups is None else self.groups[indices]
        return Samples(self.x[indices], self.y[indices], self.classes, groups)


@dataclass(frozen=True)
class Data:
    """Hold one data set in its three splits: participants train, the server validates, the report tests.

    ``labels``: the name of each class; ``words``: for text, the word of each token id (0 pads, 1 is any other word).

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> len(data.train), len(data.validation), len(data.test), data.classes
        (6000, 2000, 4000, 10)
    """

    name: str
    train: Samples
    validation: Samples
    test: Samples
    sha256: str
    labels: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.train.classes

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples in each split."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


@dataclass(frozen=True)
class Shard:
    """Hold one participant's data; ``indices`` says where in the training split each sample came from.

    Example:
        >>> import torch
        >>> samples = Samples(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), classes=2)
        >>> len(Shard(0, samples, indices=[5, 9]))
        2
    """

    participant: int
    samples: Samples
    indices: Any

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Update:
    """What a participant sends back: its slice after local training, at the width it was given.

    ``own``: a full network that it trained on its shard alone, where the scheme asks for one.

    Example:
        >>> Update(participant=2, width=0.5, state={}, weight=40.0, loss=1.2).width
        0.5
    """

    participant: int
    width: float
    state: Mapping[str, Any]
    weight: float
    loss: float
    own: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Given:
    """What a policy decides before a round: ``widths`` (n,), 0 for who is away; ``scores``: what it must remember.

    Example:
        >>> Given(widths=(0.5, 1.0)).scores
        ()
    """

    widths: tuple[float, ...]
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Round:
    """What one round left behind.

    ``theta``: the shared network's state after the merge; ``widths``: (n,) what each participant received, 0 where it
    was not drawn into the round;
    ``loss``: mean local training loss; ``left_out``: participants whose answer was not finite and was not merged;
    ``parameters_sent``: numbers sent to and received from all participants in this round; ``before``: theta at the start
    of the round; ``scores``: what the policy remembered when it gave these widths; ``state``: theta after the round and all
    that the server remembers beside it.

    Example:
        >>> Round(index=0, theta={}, widths=(1.0, 1.0), loss=2.3, parameters_sent=8).left_out
        ()
    """

    index: int
    theta: Mapping[str, Any]
    widths: tuple[float, ...]
    loss: float
    parameters_sent: int
    left_out: tuple[int, ...] = ()
    updates: tuple[Update, ...] = ()
    before: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[float, ...] = ()
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything a run is judged by; the keys of ``report.json`` are its fields.

    Accuracies are fractions in [0, 1]. ``contribution`` is measured on the validation split, ``standalone`` and
    ``test_accuracy`` on the test split; a method without widths has ``widths = None``.

    Example:
        >>> import aequa_lite as aq
        >>> [each for each in aq.Report.__dataclass_fields__][:3]
        ['recipe', 'data', 'partition']
    """

    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    partition: str
    method: str
    versions: Mapping[str, str]
    device: str
    seconds: float
    parameters_sent: int
    contribution: tuple[float, ...]
    standalone: tuple[float, ...]
    widths: tuple[float, ...] | None
    parameters: tuple[int, ...]
    predicted_accuracy: tuple[float, ...] | None
    test_accuracy: tuple[float, ...]
    fairness: Mapping[str, Any]
    curve: Mapping[str, Any] | None
    warnings: tuple[str, ...] = ()

    def save(self, folder: Path | str) -> Path:
        """Write ``report.json`` into a folder, whole or not at all, and return its path."""
        path = Path(folder) / "report.json"
        with whole(path) as half:
            half.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, folder: Path | str) -> Report:
        """Read the report of a folder.

        Raises:
            ValueError: there is none, or it is damaged; the sentence names the file.
        """
        from .trust import checked_report  # late: a record needs nothing but Python

        path = Path(folder) / "report.json"
        try:
            found = checked_report(plain_json(bounded(path, MOST_REPORT_BYTES)))
            return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in found.items()})
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a report that can be read: {said(error)}") from error
