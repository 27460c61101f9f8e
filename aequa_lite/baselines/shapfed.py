"""ShapFed: each participant receives a mix of its own network and the global model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._check import Decay, checked
from ..contribution import class_alignment
from ..federate import slimmable
from ..local import full_only
from ..method import Outcome, Problem, Train, train
from ..slimmable import aggregate
from ..types import ServerState, State, Update
from . import common
from .common import STANDING

LEAST = 1e-3  # weight of a standing in the aggregate, so that every weight is above zero


@checked
def shapfed_wa(problem: Problem, *, memory: Decay = 0.9, train: Train = train) -> Outcome:
    r"""Aggregate by standing instead of size, and give the global model to everybody.

    $\theta \leftarrow \sum_i \gamma_i v_i / \sum_j \gamma_j$ with $\gamma_i \leftarrow \mu\gamma_i + (1 - \mu)\phi_i$, $\mu$ =
    `memory`, and $\phi_i$ of `class_alignment`: the mean cosine of the last layer's rows.

    Args:
        memory: $\mu$, in [0, 1).

    Raises:
        ValueError: `memory` is outside [0, 1).

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> problem = aq.method.assess(aq.MLP, shards, config, data, progress=False)
        >>> shapfed_wa(problem, train=partial(train, progress=False)).method
        'shapfed_wa'

    References:
        ShapFed-WA (Tastan et al. 2024); $\mu$ and $\phi$ as in its released script for images.
        Deviation: a standing weighs at least 0.001, so that no weight is negative.
    """
    step = partial(_aggregate, participants=len(problem.shards), memory=memory, personal=False)
    strategy = replace(slimmable(problem.build, full_only), aggregate=step)
    return common.reward_own(problem, strategy, train, "shapfed_wa")


@checked
def shapfed(problem: Problem, *, memory: Decay = 0.9, relative: bool = False, train: Train = train) -> Outcome:
    r"""Aggregate by standing, and send each participant a mix of its own network and the global model.

    $v_i \leftarrow (1 - \gamma_i)\,v_i + \gamma_i\theta$ with $\theta$ and $\gamma$ of `shapfed_wa`, $\gamma_i$ clipped to
    [0, 1]. If everybody's is 1, it is ShapFed-WA.

    Args:
        memory: $\mu$, in [0, 1).
        relative: Mix by $\gamma_i / \max_j \gamma_j$.

    Raises:
        ValueError: `memory` is outside [0, 1), or `relative` is not True or False.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> problem = aq.method.assess(aq.MLP, shards, config, data, progress=False)
        >>> shapfed(problem, relative=True, train=partial(train, progress=False)).method
        'shapfed'

    References:
        ShapFed (Tastan et al. 2024), personalised broadcast; by the standing itself, as its README and its script for
        synthetic data say. Its script for images has `relative` as a comment and mixes by normalised weights: each of n
        equals takes 1/n of the global model.
        Deviation: ours clips the standing, weighs it as `shapfed_wa` does, and mixes the statistics of BatchNorm as well;
        theirs leaves everybody its own.
    """
    constants = {"memory": memory, "personal": True, "relative": relative}
    step = partial(_aggregate, participants=len(problem.shards), **constants)
    return common.reward_own(problem, common.personal(problem, step, sent=None), train, "shapfed")


def _aggregate(
    state: ServerState, updates: Sequence[Update], *, participants: int, memory: float, personal: bool,
    relative: bool = False,
) -> ServerState:  # fmt: skip
    """One round of ShapFed, with or without its personalised broadcast."""
    standing = _standing(state, updates, participants, memory)
    weights = np.maximum(standing, LEAST)
    theta = aggregate(state.theta, [(u.state, float(weights[u.participant])) for u in updates])
    after = {**state.memory, STANDING: torch.tensor(standing)}
    if personal:
        share = np.clip(standing / (np.nanmax(weights) if relative else 1.0), 0, 1)
        mixed = {u.participant: _mixed(u.state, theta, float(share[u.participant])) for u in updates}
        after = common.remember({**common.memory_of(state), **after}, mixed)
    return ServerState(theta, after)


def _standing(state: ServerState, updates: Sequence[Update], participants: int, memory: float) -> NDArray[np.float64]:
    """Standings after a round, (participants,); NaN for those who have not sent an update yet."""
    before = common.remembered(state, STANDING, torch.full((participants,), torch.nan, dtype=torch.float64)).numpy()
    known = before[[u.participant for u in updates]]
    weights = np.ones(len(known)) if np.isnan(known).any() else np.maximum(known, LEAST)
    pairs = zip(common.own_changes(state, updates), weights, strict=True)
    cosine = class_alignment(*common.as_round(state.theta, [replace(c, weight=float(w)) for c, w in pairs]))
    after = before.copy()
    after[[u.participant for u in updates]] = np.where(np.isnan(known), cosine, memory * known + (1 - memory) * cosine)
    return after


def _mixed(own: State, theta: State, share: float) -> dict[str, Tensor]:
    """A network moved towards the global model by this share of the way."""
    return {k: t + share * (theta[k] - t) if t.is_floating_point() else t for k, t in own.items()}
