"""The records that flow through everything: frozen, validated, and free of any dependency beyond Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Dataset", "Round", "Samples", "Shard", "Update", "WidthAssignment"]


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
class Dataset:
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
class WidthAssignment:
    """What a policy decides before a round: ``widths`` (n,), 0 for who is away; ``scores``: what it must remember.

    Example:
        >>> WidthAssignment(widths=(0.5, 1.0)).scores
        ()
    """

    widths: tuple[float, ...]
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class ServerState:
    """Hold the global model and what the server remembers beside it between rounds.

    Args:
        theta: Tensors of the full network by name.
        memory: Tensors by any other name, such as momentum; never sent to a participant.

    Example:
        >>> ServerState({}).memory
        {}
    """

    theta: Mapping[str, Any]
    memory: Mapping[str, Any] = field(default_factory=dict)


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
