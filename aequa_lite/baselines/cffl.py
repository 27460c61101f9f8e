"""CFFL: each participant keeps its own update and downloads a share of the others', as its credit and size allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._check import number
from ..evaluation import correct
from ..federate import slimmable
from ..local import full_only
from ..method import Outcome, Problem, Train, train
from ..slimmable import view
from ..types import Build, Samples, ServerState, State, Update
from .common import (
    SENT,
    STANDING,
    as_changes,
    outcome,
    own_network,
    own_networks,
    own_starts,
    remember_network,
    send_own,
    size_of,
)
from .sparsify import add, descending, flatten, largest, sparse_numbers, unflatten, weighted_sum

__all__ = ["cffl"]


def cffl(
    problem: Problem,
    *,
    upload: float = 0.1,
    alpha: float = 5.0,
    memory: float = 0.2,
    threshold: float = 1 / 3,
    train: Train = train,
) -> Outcome:
    number("upload", upload, 0, 1, above=True)
    number("alpha", alpha, 0, above=True)
    number("memory", memory, 0, 1, below=True)
    number("threshold", threshold, 0)
    step = partial(
        _aggregate,
        build=problem.build,
        validation=problem.validation,
        by_size=problem.by_size,
        upload=upload,
        credit=partial(credits, memory=memory, threshold=threshold, alpha=alpha),
    )
    strategy = replace(
        slimmable(problem.build, full_only), broadcast=send_own, aggregate=step, sent=partial(_sent, upload=upload)
    )
    last = train(problem, strategy, weights=problem.by_size)
    return outcome(problem, own_networks(problem, last), last, "cffl")


def credits(before, here, tried, *, alpha: float, memory: float, threshold: float) -> NDArray[np.float64]:
    credit, tried = before.copy(), np.asarray(tried, dtype=float)
    seen = np.array([i for i in here if before[i] != 0], dtype=int)  # also who is new
    worth = np.array([a for i, a in zip(here, tried, strict=True) if before[i] != 0])
    credit[seen] = memory * np.nan_to_num(before[seen]) + (1 - memory) * worth / max(worth.sum(), 1e-12)
    known = np.flatnonzero(np.nan_to_num(credit) > 0)
    credit[known] = np.sinh(alpha * credit[known])
    credit[known] /= credit[known].sum()
    credit[known[credit[known] < threshold / len(known)]] = 0.0
    return credit / np.nansum(credit)


def _aggregate(state, updates, *, build, validation, by_size, upload, credit):
    changes = as_changes(own_starts(state, updates), updates)
    shown = [replace(u, state=_uploaded(u.state, upload)) for u in changes]
    tried = [_tried(build, validation, state, u, s, upload) for u, s in zip(updates, shown, strict=True)]
    before = np.full(len(by_size), np.nan)
    if STANDING in state.memory:
        before = state.memory[STANDING].cpu().numpy()
    found = credit(before, [u.participant for u in updates], tried)
    trusted = [u for u in shown if found[u.participant] > 0]
    common = weighted_sum(shown, [by_size[u.participant] * (found[u.participant] > 0) for u in shown])
    memory = {**state.memory, STANDING: torch.tensor(found)}
    memory |= _topped_up(by_size, state, changes, trusted, common, found)
    return ServerState(add(state.theta, common), memory)


def _uploaded(change, share):
    flat = flatten(change)
    return dict(change) if share == 1 else unflatten(largest(flat, math.ceil(share * len(flat))), change)


def _tried(build, validation, state, update, shown, upload):
    network = update.state if upload == 1 else add(state.theta, shown.state)
    return float(correct(view(build, network, 1.0), validation).mean())


def _topped_up(size, state, moved, trusted, common, credit):
    flat, shown = flatten(common), {u.participant: u for u in trusted}
    order, filled = flat.abs().argsort(descending=True, stable=True), int(flat.count_nonzero())
    after, sent = {}, 0
    for u in moved:
        i = u.participant
        network = add(own_network(state, i), u.state)
        if i in shown:
            quota = credit[i] / np.nanmax(credit) * size[i] / size.max()
            count = min(int(quota * len(flat) + 1e-9), filled)  # a zero need not be sent
            network = add(network, unflatten(largest(flat, count, order), common))
            network = add(network, shown[i].state, -float(size[i]))
            sent += sparse_numbers(count, len(flat))
        after |= remember_network(i, network)
    return {**after, SENT: torch.tensor(sent)}


def _sent(state, updates, *, upload):
    entries = size_of(state.theta)
    return int(state.memory[SENT]) + len(updates) * sparse_numbers(math.ceil(upload * entries), entries)
