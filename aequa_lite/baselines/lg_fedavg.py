"""LG-FedAvg: the last layers are averaged, the layers below are each participant's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from .._check import checked, number
from ..federate import slimmable
from ..local import full_only
from ..method import Outcome, Problem, Train, train
from ..slimmable import aggregate
from ..types import ServerState, State, Update
from .common import remember_network, reward_own, send_own
from .sparsify import size_of

__all__ = ["lg_fedavg"]


@checked
def lg_fedavg(problem: Problem, *, shared: int = 1, train: Train = train) -> Outcome:
    r"""Average the last layers; the layers below are each participant's own and are never sent.

    $\theta_\ell \leftarrow \frac1n \sum_i v_{i\ell}$ for the shared layers. A layer begins at a matrix or a filter and ends
    before the next one. With all layers shared it is FedAvg with equal weights.

    Args:
        shared: Number of layers that are shared, from 1.

    Raises:
        ValueError: `shared` is not a whole number from 1.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> problem = aq.method.assess(aq.MLP, shards, config, data, progress=False)
        >>> lg_fedavg(problem, train=partial(train, progress=False)).last.parameters_sent
        8040

    References:
        LG-FedAvg (Liang et al. 2020); its released code shares one layer by default.
        Deviation: it starts from a network trained by FedAvg and keeps each participant's best round on the test split;
        ours starts where all methods start, and the reward is of the final round.
    """
    number("shared", shared, 1, whole=True)
    strategy = replace(
        slimmable(problem.build, full_only),
        broadcast=send_own,
        aggregate=partial(_aggregate, shared=shared),
        sent=partial(_sent, shared=shared),
    )
    return reward_own(problem, strategy, train, "lg_fedavg", np.full(len(problem.shards), 1 / len(problem.shards)))


def _split(theta: State, shared: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the last layers, and those of the layers below."""
    names = list(theta)
    starts = [place for place, name in enumerate(names) if theta[name].ndim > 1]
    cut = starts[-shared] if shared < len(starts) else 0
    return {k: theta[k] for k in names[cut:]}, {k: theta[k] for k in names[:cut]}


def _aggregate(state: ServerState, updates: Sequence[Update], *, shared: int) -> ServerState:
    """The average of the shared layers; everybody's other layers are remembered."""
    parts = {u.participant: _split(u.state, shared) for u in updates}
    common = aggregate(_split(state.theta, shared)[0], [(parts[u.participant][0], u.weight) for u in updates])
    memory = dict(state.memory)
    for i, (_, own) in parts.items():
        memory |= remember_network(i, own)
    return ServerState({**state.theta, **common}, memory)


def _sent(state: ServerState, updates: Sequence[Update], *, shared: int) -> int:
    """The shared layers, down and up."""
    return 2 * len(updates) * size_of(_split(state.theta, shared)[0])
