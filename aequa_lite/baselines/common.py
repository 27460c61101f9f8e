"""Other ways to train and to pay, as schemes of the one loop: the same seeds, shards, batches, network and budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..aggregation.server_optimizers import networks_own
from ..method import Outcome, Problem
from ..slimmable import State, slim
from ..types import Round, Update

ROUNDS, STANDING = "rounds of the server", "standing of participants"  # what a server remembers has " of " in its name


def n_numbers(state: Mapping[str, Tensor]) -> int:
    """How many numbers a network has, in what is sent."""
    return sum(t.numel() for t in networks_own(state).values())


def own_network(state: State, participant: int) -> dict[str, Tensor]:
    """A participant's own network: what the server remembers of it, and the shared one where it remembers nothing."""
    return {name: state.get(f"{name} of participant {participant}", t) for name, t in networks_own(state).items()}


def remember_network(participant: int, network: State) -> dict[str, Tensor]:
    """A participant's own network, or some of its tensors, as the server remembers them."""
    return {f"{name} of participant {participant}": t for name, t in network.items()}


def as_changes(state: State, updates: Sequence[Update]) -> tuple[Update, ...]:
    """The updates as what they changed, each from the network that its participant had received."""

    def moved(u: Update) -> dict[str, Tensor]:
        start = own_network(state, u.participant)
        return {name: t - start[name] for name, t in u.state.items() if t.is_floating_point()}

    return tuple(replace(u, state=moved(u)) for u in updates)


def round_of(before: State, moved: Sequence[Update]) -> tuple[State, Round]:
    """Zeros, and changes from zero as a round: what the scores of ``contribution`` are asked about."""
    zero = {name: torch.zeros_like(t) for name, t in networks_own(before).items() if t.is_floating_point()}
    return zero, Round(0, zero, (), 0.0, 0, updates=tuple(moved))


def reward_own(task: Problem) -> Callable[[Round], Outcome]:
    """Pay everybody the network that the server remembers of it."""
    return lambda last: Outcome(
        [slim(task.build, own_network(last.state, shard.participant), 1.0) for shard in task.shards], last
    )


def reward_shared(task: Problem) -> Callable[[Round], Outcome]:
    """Pay everybody the one shared network."""
    return lambda last: Outcome([slim(task.build, last.theta, 1.0) for _ in task.shards], last)
