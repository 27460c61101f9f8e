"""Other ways to train and to pay, as schemes of the one loop: the same seeds, shards, batches, network and budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from .allocate import Plan
from .curve import Curve
from .federate import Scheme, federate, merge_weights, slimmable
from .local import accuracy, full_only
from .records import Data, Recipe, Round, Samples, Shard
from .slim import Build, slim

__all__ = ["Entry", "Method", "Paid", "Task", "fedavg"]


@dataclass(frozen=True)
class Task:
    """Hold what every method is given: network, shards, recipe, the server's validation split and the contributions.

    Example:
        >>> import aequa_lite as aq
        >>> recipe, data = aq.Recipe(participants=2), aq.load("fashion-mini")
        >>> Task(aq.MLP, aq.homogeneous(data.train, recipe), recipe, data.validation, np.array([0.5, 0.5])).by_size
        array([0.5, 0.5])
    """

    build: Build
    shards: Sequence[Shard]
    recipe: Recipe
    validation: Samples
    contribution: np.ndarray

    @property
    def by_size(self) -> np.ndarray:
        """FedAvg's merge weights, (participants,): the share of the samples, whatever the recipe says of ours."""
        return merge_weights(self.shards, replace(self.recipe, size_power=1.0, contribution_power=0.0))


@dataclass(frozen=True, eq=False)
class Paid:
    """Hold what a method leaves behind: the models that go home, and what a report needs beside them.

    ``last``: the final round; ``curve`` and ``plan``: None for a method without widths; ``parameters_sent``: numbers sent
    and received in all rounds; ``left_out``: a participant for each of its answers that was not finite.

    Example:
        >>> Paid([nn.Linear(2, 2)], Round(0, {}, (1.0,), 0.0, 8)).plan is None
        True
    """

    models: list[nn.Module]
    last: Round
    curve: Curve | None = None
    plan: Plan | None = None
    parameters_sent: int = 0
    left_out: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Entry:
    """Hold a method that knows its task: its scheme, its merge weights, and how the final round becomes the pay.

    Example:
        >>> import aequa_lite as aq
        >>> recipe, data = aq.Recipe(participants=2), aq.load("fashion-mini")
        >>> task = aq.Task(aq.MLP, aq.homogeneous(data.train, recipe), recipe, data.validation, np.array([0.5, 0.5]))
        >>> aq.fedavg().enter(task).scheme.sent is None
        True
    """

    scheme: Scheme
    weights: np.ndarray
    pay: Callable[[Round], Paid]


@dataclass(frozen=True)
class Method:
    """Hold a way to train together and to pay, before it knows its task.

    Example:
        >>> fedavg().name
        'fedavg'
    """

    name: str
    enter: Callable[[Task], Entry]

    def run(
        self,
        build: Build,
        shards: Sequence[Shard],
        recipe: Recipe,
        data: Data,
        alone: Sequence[nn.Module],
        contribution: Sequence[float] | None = None,
        *,
        progress: bool = True,
    ) -> Paid:
        """Train together by this method and return what everybody takes home: always of the final round.

        ``alone``: the networks trained alone, shared by all methods of a run; ``contribution``: (participants,) on the
        accuracy scale (default: the validation accuracy of ``alone``).
        """
        brought = accuracy(alone, data.validation) if contribution is None else np.asarray(contribution, dtype=float)
        entry = self.enter(Task(build, shards, recipe, data.validation, brought))
        sent, left_out = 0, []
        for last in federate(
            build, shards, recipe, scheme=entry.scheme, weights=entry.weights.tolist(), progress=progress
        ):
            sent, left_out = sent + last.parameters_sent, [*left_out, *last.left_out]
        return replace(entry.pay(last), parameters_sent=sent, left_out=tuple(left_out))


def takes_shared(task: Task) -> Callable[[Round], Paid]:
    """Pay everybody the one shared network."""
    return lambda last: Paid([slim(task.build, last.theta, 1.0) for _ in task.shards], last)


def fedavg() -> Method:
    r"""Train one network and give it to everybody: $\theta \leftarrow \sum_i \frac{|D_i|}{|D|} v_i$.

    Example:
        >>> fedavg().name
        'fedavg'

    Source: FedAvg (McMahan et al. 2017). Deviation: everybody takes equally many local steps, as in all our runs.
    """
    return Method("fedavg", lambda task: Entry(slimmable(task.build, full_only), task.by_size, takes_shared(task)))
