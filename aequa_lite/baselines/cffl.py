"""Pay with a part of what all have learnt: the largest entries of the common update (CFFL, CGSV), or some updates (IAFL)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..aggregation.server_optimizers import networks_own
from ..evaluation import correct
from ..federate import slimmable
from ..local import full_only
from ..method import Algorithm, Entry, Problem, checked_constant
from ..slimmable import State, view
from ..types import Update
from .common import STANDING, as_changes, n_numbers, own_network, remember_network, reward_own
from .sparsify import DOWN, _flat, _like, _plus, _sum, largest, sparse_numbers

__all__ = ["cffl"]


def cffl(upload: float = 0.1, alpha: float = 5.0, memory: float = 0.2, threshold: float = 1 / 3) -> Algorithm:
    r"""Keep one's own update, and download as many entries of the common one as credit and size allow.

    Everybody uploads the share ``upload`` of its change that is largest. The server tries each on its validation split,
    $c_i \leftarrow m c_i + (1 - m)\,a_i / \sum_j a_j$ with $m$ the ``memory``, then $c \leftarrow \sinh(\alpha c)$ brought to
    sum one; who falls below ``threshold`` / n is left to itself from then on. Participant $i$ keeps its own change,
    receives of $u = \sum_j \frac{|D_j|}{|D|} \Delta_j$ the share $\frac{c_i}{\max c} \frac{|D_i|}{\max |D|}$ that is largest,
    and takes its own part in $u$ out.

    Raises:
        ValueError: ``upload`` is outside (0, 1], ``alpha`` not above 0, ``memory`` outside [0, 1), ``threshold`` negative.

    Example:
        >>> cffl(1.0).name
        'cffl'

    Source: CFFL (Lyu et al. 2020), credits and quota as in its released code. Deviations: changes are not clipped (the
    bound there goes with another learning rate), nobody pretrains alone, and $\alpha$ does not grow.
    """
    checked_constant("upload", upload, 0 < upload <= 1, "(0, 1]")
    checked_constant("alpha", alpha, 0 < alpha < np.inf, "a finite number above 0")
    checked_constant("memory", memory, 0 <= memory < 1, "[0, 1)")
    checked_constant("threshold", threshold, 0 <= threshold < np.inf, "a finite number from 0")

    def enter(task: Problem) -> Entry:
        def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
            moved = as_changes(state, updates)
            shown = [replace(u, state=_top(u.state, upload)) for u in moved]
            tried = [_tried(task, state, u, s, upload) for u, s in zip(updates, shown, strict=True)]
            before = state[STANDING].cpu().numpy() if STANDING in state else np.full(len(task.shards), np.nan)
            credit = credited(before, [u.participant for u in updates], tried, alpha, memory, threshold)
            trusted = [u for u in shown if credit[u.participant] > 0]
            common = _sum(shown, [task.by_size[u.participant] * (credit[u.participant] > 0) for u in shown])
            after = {**state, **_plus(networks_own(state), common), STANDING: torch.tensor(credit)}
            return after | _topped_up(task, state, moved, trusted, common, credit)

        strategy = replace(
            slimmable(task.build, full_only),
            broadcast=lambda state, i, width: own_network(state, i),
            merge=merged,
            sent=lambda state, updates: int(state[DOWN]) + len(updates) * _shown(n_numbers(state), upload),
        )
        return Entry(strategy, task.by_size, reward_own(task))

    return Algorithm("cffl", enter)


def credited(
    before: np.ndarray, here: Sequence[int], tried: Sequence[float], alpha: float, memory: float, threshold: float
) -> np.ndarray:
    """CFFL's credits after a round, (participants,), summing to one; 0 for who is left to itself, NaN for who is new.

    The memory of who is new is 0. Credits are compared among those who are known, present or not.
    """
    credit, tried = before.copy(), np.asarray(tried, dtype=float)
    seen = np.array([i for i in here if before[i] != 0], dtype=int)  # also who is new
    worth = np.array([a for i, a in zip(here, tried, strict=True) if before[i] != 0])
    credit[seen] = memory * np.nan_to_num(before[seen]) + (1 - memory) * worth / max(worth.sum(), 1e-12)
    known = np.flatnonzero(np.nan_to_num(credit) > 0)
    credit[known] = np.sinh(alpha * credit[known])
    credit[known] /= credit[known].sum()
    credit[known[credit[known] < threshold / len(known)]] = 0.0
    return credit / np.nansum(credit)


def _top(change: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The largest entries of a change over all tensors, the others zero."""
    flat = _flat(change)
    return dict(change) if share == 1 else _like(largest(flat, math.ceil(share * len(flat))), change)


def _shown(entries: int, share: float) -> int:
    """How many numbers an upload of that share of the entries has."""
    return sparse_numbers(math.ceil(share * entries), entries)


def _tried(task: Problem, state: State, update: Update, shown: Update, upload: float) -> float:
    """The validation accuracy of the server's network with one upload; of the participant's own if it shows all."""
    network = update.state if upload == 1 else _plus(networks_own(state), shown.state)
    return float(correct(view(task.build, network, 1.0), task.validation).mean())


def _topped_up(
    task: Problem,
    state: State,
    moved: Sequence[Update],
    trusted: Sequence[Update],
    common: Mapping[str, Tensor],
    credit: np.ndarray,
) -> dict[str, Tensor]:
    """What everybody holds after a round of CFFL: its own change and, if it is trusted, its quota of the others'."""
    flat, size, shown = _flat(common), task.by_size, {u.participant: u for u in trusted}
    order, filled = flat.abs().argsort(descending=True, stable=True), int(flat.count_nonzero())
    after, sent = {}, 0
    for u in moved:
        i = u.participant
        network = _plus(own_network(state, i), u.state)
        if i in shown:
            quota = credit[i] / np.nanmax(credit) * size[i] / size.max()
            count = min(int(quota * len(flat) + 1e-9), filled)  # a zero need not be sent
            network = _plus(network, _like(largest(flat, count, order), common))
            network = _plus(network, shown[i].state, -float(size[i]))
            sent += sparse_numbers(count, len(flat))
        after |= remember_network(i, network)
    return {**after, DOWN: torch.tensor(sent)}
