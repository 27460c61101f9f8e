"""Other ways to train and to pay, as schemes of the one loop: the same seeds, shards, batches, network and budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .allocate import Plan
from .curve import Curve
from .federate import Scheme, federate, merge_weights, slimmable
from .judge import accuracy
from .local import full_only
from .policy import Policy, everyone_full
from .records import Data, Recipe, Round, Samples, Shard, Update
from .server import networks_own
from .slim import Build, State, merge, slim

__all__ = ["Entry", "Method", "Paid", "Task", "fedavg", "finetuned", "lg_fedavg"]

ROUNDS, STANDING = "rounds of the server", "standing of participants"  # what a server remembers has " of " in its name


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
        """FedAvg's merge weights, (participants,), each one's share of the samples, whatever the recipe says of ours."""
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

    ``policy``: which width each participant receives in a round.

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
    policy: Policy = everyone_full

    def rounds(self, build: Build, shards: Sequence[Shard], recipe: Recipe, **options: Any) -> Iterator[Round]:
        """Train together by this method, round by round; ``options`` go to :func:`federate`."""
        given = {"scheme": self.scheme, "policy": self.policy, "weights": self.weights.tolist(), **options}
        return federate(build, shards, recipe, **given)


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
        for last in entry.rounds(build, shards, recipe, progress=progress):
            sent, left_out = sent + last.parameters_sent, [*left_out, *last.left_out]
        return replace(entry.pay(last), parameters_sent=sent, left_out=tuple(left_out))


def numbers(state: Mapping[str, Tensor]) -> int:
    """How many numbers a network has, in what is sent."""
    return sum(t.numel() for t in networks_own(state).values())


def own(state: State, participant: int) -> dict[str, Tensor]:
    """A participant's own network: what the server remembers of it, and the shared one where it remembers nothing."""
    return {name: state.get(f"{name} of participant {participant}", t) for name, t in networks_own(state).items()}


def kept(participant: int, network: State) -> dict[str, Tensor]:
    """A participant's own network, or some of its tensors, as the server remembers them."""
    return {f"{name} of participant {participant}": t for name, t in network.items()}


def changes(state: State, updates: Sequence[Update]) -> tuple[Update, ...]:
    """The updates as what they changed, each from the network that its participant had received."""

    def moved(u: Update) -> dict[str, Tensor]:
        start = own(state, u.participant)
        return {name: t - start[name] for name, t in u.state.items() if t.is_floating_point()}

    return tuple(replace(u, state=moved(u)) for u in updates)


def round_of(before: State, moved: Sequence[Update]) -> tuple[State, Round]:
    """Zeros, and changes from zero as a round: what the scores of ``contribution`` are asked about."""
    zero = {name: torch.zeros_like(t) for name, t in networks_own(before).items() if t.is_floating_point()}
    return zero, Round(0, zero, (), 0.0, 0, updates=tuple(moved))


def takes_own(task: Task) -> Callable[[Round], Paid]:
    """Pay everybody the network that the server remembers of it."""
    return lambda last: Paid([slim(task.build, own(last.state, shard.participant), 1.0) for shard in task.shards], last)


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


def finetuned(share: float = 0.1) -> Method:
    r"""Train as FedAvg does, and spend the last ``share`` of the rounds on one's own shard alone.

    $v_i \leftarrow v_i - \eta\nabla F_i(v_i)$ from $v_i = \theta$, with the recipe's schedule going on; the budget of local
    steps is that of all methods. Nothing is sent in those rounds but the network itself, once. 0 is FedAvg.

    Raises:
        ValueError: ``share`` is outside [0, 1).

    Example:
        >>> finetuned(0.2).name
        'finetuned'

    Source: FedAvg-FT, a baseline of IAFL (Wu et al. 2024). Deviation: its length is not known to us; a tenth is ours.
    """
    checked_constant("share", share, 0 <= share < 1, "[0, 1)")

    def enter(task: Task) -> Entry:
        plain, rounds = slimmable(task.build, full_only), task.recipe.rounds
        together = rounds - round(share * rounds)  # so many rounds are FedAvg's

        def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
            index = int(state.get(ROUNDS, 0))
            after = {**state, ROUNDS: torch.tensor(index + 1)}
            if index < together:
                return after | plain.merge(networks_own(state), updates)
            for u in updates:
                after |= kept(u.participant, u.state)
            return after

        def sent(state: State, updates: Sequence[Update]) -> int:
            index = int(state[ROUNDS]) - 1
            return (2 if index < together else int(index == together)) * len(updates) * numbers(state)

        scheme = replace(plain, broadcast=lambda state, i, width: own(state, i), merge=merged, sent=sent)
        return Entry(scheme, task.by_size, takes_own(task))

    return Method("finetuned", enter)


def lg_fedavg(shared: int = 1) -> Method:
    r"""Average the last ``shared`` layers; the layers below them are each participant's own and are never sent.

    $\theta_\ell \leftarrow \frac1n \sum_i v_{i\ell}$ for the shared layers. A layer begins at a matrix or a filter and ends
    before the next one. All layers: FedAvg with equal weights.

    Raises:
        ValueError: ``shared`` is no whole number from 1.

    Example:
        >>> lg_fedavg(2).name
        'lg_fedavg'

    Source: LG-FedAvg (Liang et al. 2020), whose released code shares one layer unless told otherwise. Deviations: it
    starts from a network trained by FedAvg and keeps each participant's best round on the test split; ours starts where
    all methods start and pays the final round.
    """
    checked_constant("shared", shared, isinstance(shared, int) and shared >= 1, "a whole number from 1")

    def enter(task: Task) -> Entry:
        plain = slimmable(task.build, full_only)

        def parts(state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            """The shared tensors and the participant's own ones."""
            network = networks_own(state)
            names = list(network)
            starts = [place for place, name in enumerate(names) if network[name].ndim > 1]
            cut = starts[-min(shared, len(starts))] if shared < len(starts) else 0
            return {k: network[k] for k in names[cut:]}, {k: network[k] for k in names[:cut]}

        def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
            ours, _ = parts(state)
            after = {**state, **merge(ours, [(parts(u.state)[0], u.weight) for u in updates])}
            for u in updates:
                after |= kept(u.participant, parts(u.state)[1])
            return after

        scheme = replace(
            plain,
            broadcast=lambda state, i, width: own(state, i),
            merge=merged,
            sent=lambda state, updates: 2 * len(updates) * numbers(parts(state)[0]),
        )
        return Entry(scheme, np.full(len(task.shards), 1 / len(task.shards)), takes_own(task))

    return Method("lg_fedavg", enter)


def checked_constant(name: str, value: object, fits: bool, allowed: str) -> None:
    """Refuse a constant of a method before any work."""
    if not fits:
        raise ValueError(f"{name} is {value!r}; allowed is {allowed}")
