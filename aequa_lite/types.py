"""The records that flow through a run: frozen, on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ._check import Count, Index, checked

Build = Callable[[float], nn.Module]  # width -> network
State = Mapping[str, Tensor]  # tensors of a network by name


def floating(state: State) -> dict[str, Tensor]:
    """The tensors that are trained; a counter of batches is none."""
    return {k: t for k, t in state.items() if t.is_floating_point()}


@checked
@dataclass(frozen=True)
class Samples:
    """Hold inputs and labels.

    Args:
        x: (samples, ...) uint8 images, float32 features or int64 tokens;
            None where the samples are on another machine.
        y: (samples,) int64 labels in 0..classes-1.
        classes: Number of classes.
        groups: (samples,) natural owner of each sample, if there is one.

    Example:
        >>> import torch
        >>> len(Samples(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), 2))
        4
    """

    x: Tensor | None
    y: Tensor
    classes: Count
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Any) -> Samples:
        """Return the samples at these positions, in this order (a copy)."""
        x, y = self.x[indices], self.y[indices]
        groups = None if self.groups is None else self.groups[indices]
        return Samples(x, y, self.classes, groups)


@checked
@dataclass(frozen=True)
class Dataset:
    """Hold a data set in three splits.

    Participants train, the server validates, the report tests.

    Args:
        labels: Name of each class.
        words: For text, the word of each token (0 pads, 1 is unknown).
        participants: Name of each natural owner, by `groups`.
        encoder: For tables, records -> inputs (`aq.data`).

    Example:
        >>> import aequa_lite as aq
        >>> aq.load("fashion-mini").sizes
        {'train': 6000, 'validation': 2000, 'test': 4000}
    """

    name: str
    train: Samples
    validation: Samples
    test: Samples
    sha256: str
    labels: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    participants: tuple[str, ...] = ()
    encoder: Any = None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.train.classes

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples in each split."""
        splits = ("train", "validation", "test")
        return {name: len(getattr(self, name)) for name in splits}


@checked
@dataclass(frozen=True)
class Shard:
    """Hold one participant's local data.

    Args:
        indices: Position of each sample in the training split.

    Example:
        >>> import torch
        >>> samples = Samples(torch.zeros(2, 3), torch.tensor([0, 1]), 2)
        >>> len(Shard(0, samples, indices=[5, 9]))
        2
    """

    participant: Index
    samples: Samples
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Update:
    """Hold what a participant sends: its slice after local training.

    Args:
        state: The slice's tensors.
        weight: Aggregation weight.
        loss: Mean local training loss.

    Example:
        >>> Update(participant=2, width=0.5, state={}, weight=1., loss=1.2).width
        0.5
    """

    participant: int
    width: float
    state: State
    weight: float
    loss: float


@dataclass(frozen=True)
class ServerState:
    """Hold the global model, and what the server remembers beside it.

    Args:
        theta: Tensors of the full network.
        memory: Other tensors, such as momentum; never sent.

    Example:
        >>> ServerState({}).memory
        {}
    """

    theta: State
    memory: State = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """Hold what one round left behind.

    Args:
        state: The server's state after aggregation.
        widths: (n,) width each participant received, 0 if absent.
        loss: Mean local training loss.
        parameters_sent: Numbers sent and received by all participants.
        left_out: Participants whose update was refused.
        updates: All updates, the refused ones included.
        before: The server's state at the start of the round.
        total_sent: Numbers sent and received up to this round.
        total_left_out: A participant for each update refused so far.
        next_widths: (n,) width that the policy gives each one next; while
            it decides, what it gave for this round.
        identity: What is trained (`checkpoint.describe`).

    Example:
        >>> Round(0, ServerState({}), (1.0, 1.0), 2.3, 8).left_out
        ()
    """

    index: int
    state: ServerState
    widths: tuple[float, ...]
    loss: float
    parameters_sent: int
    left_out: tuple[int, ...] = ()
    updates: tuple[Update, ...] = ()
    before: ServerState = field(default_factory=lambda: ServerState({}))
    total_sent: int = 0
    total_left_out: tuple[int, ...] = ()
    next_widths: tuple[float, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def theta(self) -> State:
        """The global model after aggregation."""
        return self.state.theta
