"""Other ways to train and to pay, as schemes of the one loop: the same seeds, shards, batches, network and budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from ..aggregation.server_optimizers import networks_own
from ..federate import slimmable
from ..local import full_only
from ..method import Algorithm, Entry, Problem, checked_constant
from ..slimmable import State, aggregate
from ..types import Update
from .common import n_numbers, own_network, remember_network, reward_own

__all__ = ["lg_fedavg"]


def lg_fedavg(shared: int = 1) -> Algorithm:
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

    def enter(task: Problem) -> Entry:
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
            after = {**state, **aggregate(ours, [(parts(u.state)[0], u.weight) for u in updates])}
            for u in updates:
                after |= remember_network(u.participant, parts(u.state)[1])
            return after

        strategy = replace(
            plain,
            broadcast=lambda state, i, width: own_network(state, i),
            merge=merged,
            sent=lambda state, updates: 2 * len(updates) * n_numbers(parts(state)[0]),
        )
        return Entry(strategy, np.full(len(task.shards), 1 / len(task.shards)), reward_own(task))

    return Algorithm("lg_fedavg", enter)
