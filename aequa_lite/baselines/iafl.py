"""IAFL: each participant receives some of the others' updates, as many as its contribution earns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._check import Share, checked, refusal
from ..config import stream
from ..method import Outcome, Problem, Train, train
from ..types import ServerState, State, Update
from .common import (
    ROUNDS,
    add,
    as_changes,
    first_network,
    own_network,
    personal,
    remember_network,
    reward_own,
    size_of,
    weighted_sum,
)


@checked
def iafl(problem: Problem, *, kappa: Share = 0.0, recovery: Share = 0.0, train: Train = train) -> Outcome:
    r"""Send each participant the average of its own update and some of the others'.

    $\gamma_i = B_i / \max_j B_j$ with the contribution $B_i$; of the others, $\lceil\gamma_i^{1-\kappa}(|S|-1)\rceil$ are
    drawn anew in each round, $S$ those present. The average moves $i$'s own network. Before each round, with probability
    `recovery`, the reference takes its place: the global model, which follows the participant with the largest reward.
    With $\kappa = 1$ and equal sizes it is FedAvg.

    Args:
        kappa: $\kappa$, in [0, 1]; the larger, the more equal the rewards.
        recovery: Probability $q$, in [0, 1].

    Raises:
        ValueError: A constant is outside its range, a contribution is negative, or none is above 0.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> problem = aq.method.assess(aq.MLP, shards, config, data, progress=False)
        >>> len(iafl(problem, recovery=0.2, train=partial(train, progress=False)).models)
        2

    References:
        IAFL (Wu et al. 2024), Algorithm 1, and its released code, where $\kappa$ and $q$ are 0 by default.
        Deviation: the contribution is the validation accuracy alone, their second choice (on test samples there); SGD
        instead of Adam; the count is rounded up exactly, theirs in single precision, where it is sometimes one more.
    """
    found = problem.contribution
    if (found < 0).any() or not found.max() > 0:
        raise refusal("contribution", "numbers from 0, one of them above 0", found)
    gamma = (found / found.max()) ** (1 - kappa)
    start = partial(_start, seed=problem.config.seed, recovery=recovery)
    step = partial(_aggregate, start=start, gamma=gamma, seed=problem.config.seed)
    strategy = personal(problem, step, partial(_sent, participants=len(gamma)), broadcast=start)
    return reward_own(problem, strategy, train, "iafl")


def _start(state: ServerState, participant: int, width: float, *, seed: int, recovery: float) -> dict[str, Tensor]:
    """What a participant begins the round with: its own network, or the reference."""
    index = int(state.memory.get(ROUNDS, 0))
    recovers = stream(seed, "recovery", index, participant).random() < recovery
    return dict(state.theta) if recovers else own_network(state, participant)


def _aggregate(
    state: ServerState, updates: Sequence[Update], *, start: Callable[..., State], gamma: NDArray[np.float64], seed: int
) -> ServerState:
    """One round of IAFL."""
    index = int(state.memory.get(ROUNDS, 0))
    starts = {i: start(state, i, 1.0) for i in range(len(gamma))}
    changes = as_changes(starts, updates)
    theta, memory = dict(state.theta), {**state.memory, **first_network(state), ROUNDS: torch.tensor(index + 1)}
    for i in starts:
        some = _chosen(changes, i, gamma[i], stream(seed, "subset", index, i))
        step = weighted_sum(some, [1 / len(some)] * len(some)) if some else {}
        memory |= remember_network(i, add(starts[i], step))
        if i == int(np.argmax(gamma)):
            theta = add(state.theta, step)
    return ServerState(theta, memory)


def _chosen(changes: Sequence[Update], participant: int, gamma: float, rng: np.random.Generator) -> list[Update]:
    """A participant's own update, and as many of the others' as it earns."""
    own = [u for u in changes if u.participant == participant]
    others = [u for u in changes if u.participant != participant]
    count = math.ceil(gamma * (len(changes) - 1) - 1e-9)
    drawn = rng.permutation(len(others))[:count]
    return [*own, *(others[j] for j in sorted(drawn))]


def _sent(state: ServerState, updates: Sequence[Update], *, participants: int) -> int:
    """Whole updates up, whole networks down to everybody."""
    return (len(updates) + participants) * size_of(state.theta)
