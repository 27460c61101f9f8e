"""CGSV: each participant receives the largest entries of the aggregate, as many as its standing earns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._check import Decay, Positive, checked
from ..contribution import alignment
from ..method import Outcome, Problem, Train, train
from ..types import ServerState, State, Update
from . import common
from .common import SENT, STANDING, add, flatten


@checked
def cgsv(
    problem: Problem, *, length: Positive = 0.5, beta: Positive = 1.0, alpha: Decay = 0.95, train: Train = train
) -> Outcome:
    r"""Send each participant the largest entries of the aggregate, as many as its standing earns.

    $u_i = \Gamma\Delta_i / \lVert\Delta_i\rVert$ with $\Gamma$ = `length`; $u = \sum_i r_i u_i$ (in the first round by
    size); $r$ from `alignment` with memory $\alpha$; $q_i = \tanh(\beta r_i) / \max_j \tanh(\beta r_j)$. Participant $i$
    adds, tensor by tensor, the share $q_i$ of $u$ that is largest in magnitude to its own network, and nothing of its own.

    Args:
        length: $\Gamma$, norm of an update, above 0. It must fit the network, the learning rate and the number of rounds:
            choose it on validation, for instance among 0.1, 0.25, 0.5 and 0.75.
        beta: $\beta$, above 0; the larger, the more equal the rewards.
        alpha: $\alpha$, share of the earlier standing, in [0, 1).

    Raises:
        ValueError: A constant is outside its range.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> problem = aq.method.assess(aq.MLP, shards, config, data, progress=False)
        >>> len(cgsv(problem, train=partial(train, progress=False)).models)
        2

    References:
        CGSV (Xu et al. 2021) and its released code, which leaves out one entry of each tensor also at $q_i = 1$. Its
        constants (0.5 for MNIST, 0.15 for CIFAR-10, 1 for text) belong to its CNNs and 200 rounds of 3 epochs.
        Deviation: the config's local steps and learning rate; participants may be absent.
    """
    step = partial(_aggregate, by_size=problem.by_size, length=length, beta=beta, alpha=alpha)
    return common.reward_own(problem, common.personal(problem, step), train, "cgsv")


def _aggregate(
    state: ServerState, updates: Sequence[Update], *, by_size: NDArray[np.float64], length: float, beta: float,
    alpha: float,
) -> ServerState:  # fmt: skip
    """One round of CGSV."""
    here = [u.participant for u in updates]
    changes = common.own_changes(state, updates)
    known = STANDING in state.memory
    standing = common.remembered(state, STANDING, torch.tensor(by_size)).numpy().copy()
    share = standing[here] / standing[here].sum()
    zero, rnd = common.as_round(state.theta, changes)
    standing[here] = standing[here].sum() * alignment(zero, rnd, share if known else None, alpha=alpha)
    u = common.weighted_sum([_with_norm(c.state, length) for c in changes], share)
    q = np.tanh(beta * standing)
    parts, sent = sparse_shares(u, q[here] / q.max())
    sent += len(updates) * common.size_of(state.theta)  # whole updates up
    networks = {i: add(common.own_network(state, i), part) for i, part in zip(here, parts, strict=True)}
    memory = {**common.memory_of(state), STANDING: torch.tensor(standing), SENT: torch.tensor(sent)}
    return ServerState(add(state.theta, u), common.remember(memory, networks))


def _with_norm(change: State, norm: float) -> dict[str, Tensor]:
    """A change scaled to this Euclidean norm."""
    scale = norm / (float(torch.linalg.vector_norm(flatten(change))) + 1e-7)
    return {k: scale * t for k, t in change.items()}


def sparse_shares(change: State, shares: Sequence[float]) -> tuple[list[dict[str, Tensor]], int]:
    """For each share that much of every tensor, largest entries first, never all; and how many numbers travel in all.

    As in CGSV's code, at least one entry of a tensor of several is left out, also at share 1.
    """
    parts, sent = [{} for _ in shares], 0
    for k, t in change.items():
        flat, most = t.flatten(), max(t.numel() - 1, 1)
        order = common.descending(flat)
        for part, share in zip(parts, shares, strict=True):
            count = min(math.ceil(share * len(flat) - 1e-9), most)
            part[k] = common.only(flat, order[:count]).view_as(t)
            sent += common.sparse_numbers(count, len(flat))
    return parts, sent
