"""Pay with a part of what all have learnt: the largest entries of the common update (CFFL, CGSV), or some updates (IAFL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..aggregation.server_optimizers import networks_own
from ..contribution import alignment
from ..federate import slimmable
from ..local import full_only
from ..method import Algorithm, Entry, Problem, checked_constant
from ..slimmable import State
from ..types import Update
from .common import STANDING, as_changes, n_numbers, own_network, remember_network, reward_own, round_of
from .sparsify import DOWN, _doses, _plus, _scaled, _sum

__all__ = ["cgsv"]


def cgsv(length: float = 0.5, beta: float = 1.0, alpha: float = 0.95) -> Algorithm:
    r"""Send each participant the largest entries of the common update, as many as its standing earns.

    $u_i = \Gamma\Delta_i / \lVert\Delta_i\rVert$ with $\Gamma$ the ``length``; $u = \sum_i r_i u_i$ (in the first round by
    size); $r$ from :func:`~aequa_lite.alignment` with memory $\alpha$; $q_i = \tanh(\beta r_i) / \max_j \tanh(\beta r_j)$. Participant
    $i$ receives, tensor by tensor, the share $q_i$ of $u$ that is largest in magnitude, and nothing of its own beside it.

    Raises:
        ValueError: ``length`` or ``beta`` is not above 0, or ``alpha`` is outside [0, 1).

    Example:
        >>> cgsv(0.15, beta=1.0).name
        'cgsv'

    Source: CGSV (Xu et al. 2021) and its released code; $\Gamma$ is 0.5 for MNIST, 0.15 for CIFAR-10, 1 for text there.
    Deviations: the recipe's local steps and learning rate instead of 3 epochs of their own.
    """
    checked_constant("length", length, 0 < length < np.inf, "a finite number above 0")
    checked_constant("beta", beta, 0 < beta < np.inf, "a finite number above 0")
    checked_constant("alpha", alpha, 0 <= alpha < 1, "[0, 1)")

    def enter(task: Problem) -> Entry:
        def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
            before = state[STANDING].cpu().numpy() if STANDING in state else None
            here = [u.participant for u in updates]
            moved = as_changes(state, updates)
            units = [replace(u, state=_scaled(u.state, length)) for u in moved]
            standing = (task.by_size if before is None else before).copy()
            scores = None if before is None else before[here] / before[here].sum()
            counts = standing[here] / standing[here].sum()
            standing[here] = standing[here].sum() * alignment(*round_of(state, moved), scores, alpha=alpha)
            common = _sum(units, counts)
            after = {**state, **_plus(networks_own(state), common), STANDING: torch.tensor(standing)}
            q = np.tanh(beta * standing)
            given, after[DOWN] = _doses(common, q[here] / q.max())
            for i, dose in zip(here, given, strict=True):
                after |= remember_network(i, _plus(own_network(state, i), dose))
            return after

        strategy = replace(
            slimmable(task.build, full_only),
            broadcast=lambda state, i, width: own_network(state, i),
            merge=merged,
            sent=lambda state, updates: int(state[DOWN]) + len(updates) * n_numbers(state),
        )
        return Entry(strategy, task.by_size, reward_own(task))

    return Algorithm("cgsv", enter)
