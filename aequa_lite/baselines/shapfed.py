"""Pay by mixing: each participant's own network and the shared one, in the proportion of its standing (ShapFed)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..aggregation.server_optimizers import networks_own
from ..contribution import class_alignment
from ..federate import slimmable
from ..local import full_only
from ..method import Algorithm, Entry, Problem, checked_constant
from ..slimmable import State, aggregate
from ..types import Update
from .common import STANDING, as_changes, own_network, remember_network, reward_own, reward_shared, round_of

__all__ = ["shapfed", "shapfed_wa"]


def _standing(task: Problem, state: State, updates: Sequence[Update], memory: float) -> np.ndarray:
    """ShapFed's scores after a round, (participants,): nobody's is known before its first answer (NaN)."""
    n = len(task.shards)
    before = state[STANDING].cpu().numpy() if STANDING in state else np.full(n, np.nan)
    here = [u.participant for u in updates]
    counts = np.ones(len(here)) if np.isnan(before[here]).any() else np.maximum(before[here], 1e-3)
    moved = [replace(u, weight=float(w)) for u, w in zip(as_changes(state, updates), counts, strict=True)]
    found, after = class_alignment(*round_of(state, moved)), before.copy()
    after[here] = np.where(np.isnan(before[here]), found, memory * before[here] + (1 - memory) * found)
    return after


def _shapfed(name: str, memory: float, personal: bool, relative: bool) -> Algorithm:
    """ShapFed with or without its personalised broadcast."""
    checked_constant("memory", memory, 0 <= memory < 1, "[0, 1)")

    def enter(task: Problem) -> Entry:
        def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
            standing = _standing(task, state, updates, memory)
            counts = np.maximum(standing, 1e-3)
            shared = aggregate(networks_own(state), [(u.state, float(counts[u.participant])) for u in updates])
            after = {**state, **shared, STANDING: torch.tensor(standing)}
            top = np.nanmax(counts) if relative else 1.0
            for u in updates if personal else ():
                pull = float(np.clip(standing[u.participant] / top, 0, 1))
                mixed_precision = {
                    k: v + pull * (shared[k] - v) if v.is_floating_point() else v for k, v in u.state.items()
                }
                after |= remember_network(u.participant, mixed_precision)
            return after

        strategy = replace(slimmable(task.build, full_only), merge=merged)
        if personal:
            strategy = replace(strategy, broadcast=lambda state, i, width: own_network(state, i))
        return Entry(strategy, task.by_size, reward_own(task) if personal else reward_shared(task))

    return Algorithm(name, enter)


def shapfed_wa(memory: float = 0.9) -> Algorithm:
    r"""Merge by standing instead of size, $\theta \leftarrow \sum_i \gamma_i v_i / \sum_j \gamma_j$, and give it to everybody.

    $\gamma_i \leftarrow \mu\gamma_i + (1 - \mu)\phi_i$ with $\mu$ the ``memory`` and $\phi_i$ from :func:`~aequa_lite.contribution.class_alignment`: one
    cosine for each class between its rows of the last layer's change and everybody's.

    Raises:
        ValueError: ``memory`` is outside [0, 1).

    Example:
        >>> shapfed_wa().name
        'shapfed_wa'

    Source: ShapFed-WA (Tastan et al. 2024) as its released code computes it. Deviation: a standing counts as at least
    0.001 in the merge, so that no weight is negative.
    """
    return _shapfed("shapfed_wa", memory, personal=False, relative=False)


def shapfed(memory: float = 0.9, relative: bool = False) -> Algorithm:
    r"""Merge by standing, and send each participant a mix of its own network and the merged one.

    $v_i \leftarrow (1 - \gamma_i)\,v_i + \gamma_i\theta$ with $\theta$ and $\gamma$ from :func:`~aequa_lite.baselines.shapfed_wa`, $\gamma_i$ held in
    [0, 1]; ``relative``: $\gamma_i / \max_j \gamma_j$ instead. Everybody at 1 is ShapFed-WA.

    Raises:
        ValueError: ``memory`` is outside [0, 1).

    Example:
        >>> shapfed(relative=True).name
        'shapfed'

    Source: ShapFed (Tastan et al. 2024). Deviations: its script for pictures mixes by normalised weights, so that among
    n equals each takes 1/n of the shared network; ours mixes by the standing itself, as the formula says, and holds it
    in [0, 1].
    """
    return _shapfed("shapfed", memory, personal=True, relative=relative)
