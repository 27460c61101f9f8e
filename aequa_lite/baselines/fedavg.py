"""Other ways to train and to pay, as schemes of the one loop: the same seeds, shards, batches, network and budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..aggregation.server_optimizers import networks_own
from ..federate import slimmable
from ..local import full_only
from ..method import Algorithm, Entry, Problem, checked_constant
from ..slimmable import State
from ..types import Update
from .common import ROUNDS, n_numbers, own_network, remember_network, reward_own, reward_shared

__all__ = ["fedavg", "fedavg_finetuned"]


def fedavg() -> Algorithm:
    r"""Train one network and give it to everybody: $\theta \leftarrow \sum_i \frac{|D_i|}{|D|} v_i$.

    Example:
        >>> fedavg().name
        'fedavg'

    Source: FedAvg (McMahan et al. 2017). Deviation: everybody takes equally many local steps, as in all our runs.
    """
    return Algorithm("fedavg", lambda task: Entry(slimmable(task.build, full_only), task.by_size, reward_shared(task)))


def fedavg_finetuned(share: float = 0.1) -> Algorithm:
    r"""Train as FedAvg does, and spend the last ``share`` of the rounds on one's own shard alone.

    $v_i \leftarrow v_i - \eta\nabla F_i(v_i)$ from $v_i = \theta$, with the recipe's schedule going on; the budget of local
    steps is that of all methods. Nothing is sent in those rounds but the network itself, once. 0 is FedAvg.

    Raises:
        ValueError: ``share`` is outside [0, 1).

    Example:
        >>> fedavg_finetuned(0.2).name
        'finetuned'

    Source: FedAvg-FT, a baseline of IAFL (Wu et al. 2024). Deviation: its length is not known to us; a tenth is ours.
    """
    checked_constant("share", share, 0 <= share < 1, "[0, 1)")

    def enter(task: Problem) -> Entry:
        plain, rounds = slimmable(task.build, full_only), task.config.rounds
        together = rounds - round(share * rounds)  # so many rounds are FedAvg's

        def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
            index = int(state.get(ROUNDS, 0))
            after = {**state, ROUNDS: torch.tensor(index + 1)}
            if index < together:
                return after | plain.merge(networks_own(state), updates)
            for u in updates:
                after |= remember_network(u.participant, u.state)
            return after

        def sent(state: State, updates: Sequence[Update]) -> int:
            index = int(state[ROUNDS]) - 1
            return (2 if index < together else int(index == together)) * len(updates) * n_numbers(state)

        strategy = replace(plain, broadcast=lambda state, i, width: own_network(state, i), merge=merged, sent=sent)
        return Entry(strategy, task.by_size, reward_own(task))

    return Algorithm("finetuned", enter)
