"""Pay with a part of what all have learnt: the largest entries of the common update (CFFL, CGSV), or some updates (IAFL)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..aggregation.server_optimizers import networks_own
from ..federate import slimmable
from ..local import full_only
from ..method import Algorithm, Entry, Problem, checked_constant
from ..rng import stream
from ..slimmable import State
from ..types import Update
from .common import ROUNDS, as_changes, n_numbers, own_network, remember_network, reward_own
from .sparsify import _plus, _sum

__all__ = ["iafl"]


def iafl(kappa: float = 0.0, recovery: float = 0.0) -> Algorithm:
    r"""Send each participant the average of its own update and some of the others', as many as its contribution earns.

    $\gamma_i = B_i / \max_j B_j$ with the contribution $B_i$; of the others, $\lceil\gamma_i^{1-\kappa}(|S|-1)\rceil$ are drawn
    anew in each round, $S$ those present. The average moves $i$'s own network. Before each round, with probability
    ``recovery``, the server's reference takes its place, which follows the participant with the largest reward.
    $\kappa = 1$ and equal sizes: FedAvg.

    Raises:
        ValueError: ``kappa`` or ``recovery`` is outside [0, 1].

    Example:
        >>> iafl(recovery=0.2).name
        'iafl'

    Source: IAFL (Wu et al. 2024) and its released code, where $\kappa$ and the probability (q) are 0 unless told otherwise.
    Deviations: the contribution is the validation accuracy alone, their second choice; SGD instead of Adam.
    """
    checked_constant("kappa", kappa, 0 <= kappa <= 1, "[0, 1]")
    checked_constant("recovery", recovery, 0 <= recovery <= 1, "[0, 1]")

    def enter(task: Problem) -> Entry:
        seed, n = task.config.seed, len(task.shards)
        gamma = (task.contribution / task.contribution.max()) ** (1 - kappa)

        def start(state: State, i: int) -> dict[str, Tensor]:
            """What a participant begins the round with."""
            back = stream(seed, "recovery", int(state.get(ROUNDS, 0)), i).random() < recovery
            return networks_own(state) if back else own_network(state, i)

        def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
            index = int(state.get(ROUNDS, 0))
            begun = {**networks_own(state), ROUNDS: torch.tensor(index + 1)}
            starts = [start(state, i) for i in range(n)]
            moved = as_changes({**begun, **kept_all(starts)}, updates)
            after = dict(begun)
            for i in range(n):
                own_one = [u for u in moved if u.participant == i]
                others = [u for u in moved if u.participant != i]
                count = math.ceil(gamma[i] * (len(moved) - 1) - 1e-9)
                drawn = stream(seed, "subset", index, i).permutation(len(others))[:count]
                some = [*own_one, *(others[j] for j in sorted(drawn))]
                step = _sum(some, [1 / len(some)] * len(some)) if some else {}
                after |= remember_network(i, _plus(starts[i], step))
                if i == int(np.argmax(gamma)):
                    after |= _plus(networks_own(state), step)
            return after

        strategy = replace(
            slimmable(task.build, full_only),
            broadcast=lambda state, i, width: start(state, i),
            merge=merged,
            sent=lambda state, updates: (len(updates) + n) * n_numbers(state),
        )
        return Entry(strategy, task.by_size, reward_own(task))

    return Algorithm("iafl", enter)


def kept_all(networks: Sequence[State]) -> dict[str, Tensor]:
    """Everybody's own network as the server remembers them."""
    return {name: t for i, network in enumerate(networks) for name, t in remember_network(i, network).items()}
