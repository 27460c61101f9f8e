"""CFFL: each participant keeps its own update and downloads a part of the others', as its credit and size allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._check import Decay, Fraction, Positive, Share, checked, number
from ..evaluation import correct
from ..method import Outcome, Problem, Train, train
from ..slimmable import view
from ..types import Build, Samples, ServerState, State, Update
from .common import (
    ROUNDS,
    SENT,
    STANDING,
    add,
    descending,
    flatten,
    largest,
    own_changes,
    own_network,
    personal,
    remember_network,
    remembered,
    reward_own,
    size_of,
    sparse_numbers,
    unflatten,
    weighted_sum,
)


@checked
def cffl(
    problem: Problem, *, upload: Fraction = 1.0, clip: Positive | None = 1e-3, memory: Decay = 0.8, alpha: float = 5.0,
    alpha_final: float = 10.0, threshold: Share = 1 / 3, train: Train = train,
) -> Outcome:  # fmt: skip
    r"""Keep one's own update, and download as many entries of the sum of all as credit and size allow.

    Everybody uploads the share `upload` of its change that is largest, each entry clipped to [-`clip`, `clip`]:
    $\tilde\Delta_i$. The server tries each on its validation split, $c_i \leftarrow m c_i + (1 - m)\,a_i / \sum_j a_j$ with
    $m$ = `memory`, then $c \leftarrow \sinh(\alpha c)$, divided by its sum; whoever falls below `threshold` / n is excluded
    from then on. The sum is $u = \sum_j \tilde\Delta_j$ over the others. Participant $i$ keeps its own change, receives the
    share $\frac{c_i}{\max c} s_i$ of $u$ that is largest, and takes out its own part $s_i \tilde\Delta_i$, with
    $s_i = |D_i| / \max_j |D_j|$.

    Args:
        upload: Share of the entries that is uploaded, in (0, 1]. With 1 the server tries each participant's own network.
        clip: Bound of an uploaded entry, above 0; None: no bound.
        memory: $m$, share of the earlier credit, in [0, 1).
        alpha: $\alpha$ in the first round, in (0, 100].
        alpha_final: $\alpha$ in the last round, in (0, 100].
        threshold: Least credit, in equal shares, in [0, 1].

    Raises:
        ValueError: A constant is outside its range.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> problem = aq.method.assess(aq.MLP, aq.data.homogeneous(data.train, config), config, data, progress=False)
        >>> len(cffl(problem, upload=0.1, train=partial(train, progress=False)).models)
        2

    References:
        CFFL (Lyu et al. 2020), Algorithm 1, with the constants of its released code: memory 0.8, alpha 5 to 10, clip 0.001,
        threshold 1/3, and an upload of 1 (default) or 0.1, its two settings.
        Deviation: nobody pretrains alone; $\alpha$ ends at `alpha_final` (theirs one step below). In its commit 5c8f854 one's
        own change is clipped too, and where changes are summed the own part is taken out whole, not its share $s_i$.
    """
    number("alpha", alpha, 0, 100, above=True)
    number("alpha_final", alpha_final, 0, 100, above=True)
    step = partial(
        _aggregate, build=problem.build, validation=problem.validation, upload=upload, clip=clip,
        size=problem.by_size / problem.by_size.max(), credit=partial(credits, memory=memory, threshold=threshold),
        alphas=np.linspace(alpha, alpha_final, problem.config.rounds),
    )  # fmt: skip
    return reward_own(problem, personal(problem, step, partial(_sent, upload=upload)), train, "cffl")


def credits(
    before: NDArray[np.float64], here: Sequence[int], accuracy: ArrayLike,
    *, alpha: float, memory: float, threshold: float,
) -> NDArray[np.float64]:  # fmt: skip
    """Credits after a round, (participants,), summing to one; 0 for the excluded, NaN before the first update.

    A newcomer's earlier credit is 0. Credits are compared among all who have taken part so far, present or not.
    """
    credit, found = before.copy(), np.full(len(before), np.nan)
    found[list(here)] = accuracy
    seen = [i for i in here if before[i] != 0]  # newcomers as well: NaN
    share = found[seen] / max(found[seen].sum(), 1e-12)
    credit[seen] = memory * np.nan_to_num(before[seen]) + (1 - memory) * share
    known = np.flatnonzero(np.nan_to_num(credit) > 0)
    credit[known] = np.sinh(alpha * credit[known])
    credit[known] /= credit[known].sum()
    credit[known[credit[known] < threshold / len(known)]] = 0.0
    return credit / np.nansum(credit)


def _aggregate(
    state: ServerState, updates: Sequence[Update], *, build: Build, validation: Samples, upload: float,
    clip: float | None, size: NDArray[np.float64], credit: partial[NDArray[np.float64]], alphas: NDArray[np.float64],
) -> ServerState:  # fmt: skip
    """One round of CFFL."""
    index, here = int(state.memory.get(ROUNDS, 0)), [u.participant for u in updates]
    changes = own_changes(state, updates)
    uploads = [replace(u, state=_uploaded(u.state, upload, clip)) for u in changes]
    tried = [u.state if upload == 1 else add(state.theta, s.state) for u, s in zip(updates, uploads, strict=True)]
    accuracy = [float(correct(view(build, net, 1.0), validation).mean()) for net in tried]
    before = remembered(state, STANDING, torch.full((len(size),), torch.nan, dtype=torch.float64)).numpy()
    found = credit(before, here, accuracy, alpha=float(alphas[index]))
    u = weighted_sum(uploads, (found[here] > 0).tolist())
    shares = np.nan_to_num(found) / np.nanmax(found) * size
    flat = flatten(u)
    order, nonzero = descending(flat), int(flat.count_nonzero())  # a zero need not be sent
    memory, sent = {**state.memory, STANDING: torch.tensor(found), ROUNDS: torch.tensor(index + 1)}, 0
    for i, change, own in zip(here, changes, uploads, strict=True):
        count = min(int(shares[i] * len(flat) + 1e-9), nonzero)
        network = add(own_network(state, i), change.state)
        if found[i] > 0:
            network = add(add(network, unflatten(largest(flat, count, order), u)), own.state, -float(size[i]))
        memory |= remember_network(i, network)
        sent += sparse_numbers(count, len(flat))
    return ServerState(add(state.theta, u), {**memory, SENT: torch.tensor(sent)})


def _uploaded(change: State, share: float, clip: float | None) -> dict[str, Tensor]:
    """The largest entries of a change over all tensors, clipped; the others are zero."""
    flat = flatten(change)
    if share < 1:
        flat = largest(flat, math.ceil(share * len(flat)))
    return unflatten(flat if clip is None else flat.clamp(-clip, clip), change)


def _sent(state: ServerState, updates: Sequence[Update], *, upload: float) -> int:
    """Sparse updates up, sparse ones down."""
    entries = size_of(state.theta)
    return int(state.memory[SENT]) + len(updates) * sparse_numbers(math.ceil(upload * entries), entries)
