"""What the baselines share: participants' own networks in the server's memory, updates as changes, and rewards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ..federate import Strategy
from ..method import Outcome, Problem, Train
from ..slimmable import slim
from ..types import Round, ServerState, State, Update

ROUNDS, SENT, STANDING = "rounds", "sent", "standing"  # keys of a server's memory


def reward_global(
    problem: Problem, strategy: Strategy, train: Train, method: str, weights: ArrayLike | None = None
) -> Outcome:
    """Train (weights: by size) and reward everybody with the global model."""
    last = train(problem, strategy, weights=problem.by_size if weights is None else weights)
    return outcome(problem, [slim(problem.build, last.theta, 1.0) for _ in problem.shards], last, method)


def reward_own(
    problem: Problem, strategy: Strategy, train: Train, method: str, weights: ArrayLike | None = None
) -> Outcome:
    """Train (weights: by size) and reward everybody with its own network."""
    last = train(problem, strategy, weights=problem.by_size if weights is None else weights)
    models = [slim(problem.build, own_network(last.state, i), 1.0) for i in range(len(problem.shards))]
    return outcome(problem, models, last, method)


def outcome(problem: Problem, models: Sequence[nn.Module], last: Round, method: str) -> Outcome:
    """The outcome of a method without widths."""
    return Outcome(problem, models, last, method=method, seconds=time.perf_counter() - problem.started)


def own_network(state: ServerState, participant: int) -> dict[str, Tensor]:
    """A participant's own network; the global model where the server remembers none."""
    return {k: state.memory.get(f"participant/{participant}/{k}", t) for k, t in state.theta.items()}


def remember_network(participant: int, network: State) -> dict[str, Tensor]:
    """A participant's own network, or some of its tensors, as entries of the memory."""
    return {f"participant/{participant}/{k}": t for k, t in network.items()}


def send_own(state: ServerState, participant: int, width: float) -> dict[str, Tensor]:
    """Broadcast of the algorithms that send each participant its own network."""
    return own_network(state, participant)


def own_changes(state: ServerState, updates: Sequence[Update]) -> list[Update]:
    """The updates as changes of each participant's own network."""
    return as_changes({u.participant: own_network(state, u.participant) for u in updates}, updates)


def as_changes(starts: Mapping[int, State], updates: Sequence[Update]) -> list[Update]:
    """The updates as changes of what each participant started from."""
    return [replace(u, state=_change(starts[u.participant], u.state)) for u in updates]


def _change(start: State, end: State) -> dict[str, Tensor]:
    """The change of each floating-point tensor."""
    return {k: t - start[k] for k, t in end.items() if t.is_floating_point()}


def as_round(theta: State, changes: Sequence[Update]) -> tuple[dict[str, Tensor], Round]:
    """Zeros, and a round of updates that start there: arguments of a score of `contribution`."""
    zero = {k: torch.zeros_like(t) for k, t in theta.items() if t.is_floating_point()}
    return zero, Round(0, ServerState(zero), (), 0.0, 0, updates=tuple(changes))


def remembered(state: ServerState, key: str, default: Tensor) -> Tensor:
    """A tensor of the memory, on the CPU."""
    return state.memory.get(key, default).cpu()
