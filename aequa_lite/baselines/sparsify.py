"""Pay with a part of what all have learnt: the largest entries of the common update (CFFL, CGSV), or some updates (IAFL)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .contribution import alignment
from .federate import slimmable
from .judge import hits
from .local import full_only
from .records import Update
from .rivals import (
    ROUNDS,
    STANDING,
    Entry,
    Method,
    Task,
    changes,
    checked_constant,
    kept,
    numbers,
    own,
    round_of,
    takes_own,
)
from .rng import stream
from .server import networks_own
from .slim import State, view

__all__ = ["cffl", "cgsv", "iafl", "sparse_numbers"]

DOWN = "downloads of the server"  # numbers sent to participants in the round that was merged last


def sparse_numbers(held: int, entries: int) -> int:
    """Count the numbers that travel when ``held`` of ``entries`` entries do: the values, and where they belong.

    Positions are sent as one index for each value or as one bit for each entry, 32 to a number, whichever is less; a
    full tensor needs none.

    Example:
        >>> sparse_numbers(10, 1000), sparse_numbers(500, 1000), sparse_numbers(1000, 1000)
        (20, 532, 1000)

    Source: ours.
    """
    return held if held in (0, entries) else held + min(held, math.ceil(entries / 32))


def largest(flat: Tensor, count: int, order: Tensor | None = None) -> Tensor:
    """A vector with all but its ``count`` largest entries by magnitude set to zero; ``order``: where they lie."""
    chosen = (flat.abs().argsort(descending=True, stable=True) if order is None else order)[:count]
    return torch.zeros_like(flat).index_copy(0, chosen, flat[chosen])


def _flat(change: Mapping[str, Tensor]) -> Tensor:
    """All tensors of a change as one vector."""
    return torch.cat([t.flatten() for t in change.values()])


def _like(flat: Tensor, shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One vector as tensors of these shapes."""
    pieces = flat.split([t.numel() for t in shapes.values()])
    return {name: piece.view_as(t) for (name, t), piece in zip(shapes.items(), pieces, strict=True)}


def _plus(network: State, change: Mapping[str, Tensor], share: float = 1.0) -> dict[str, Tensor]:
    """A network after a change of its tensors."""
    return {name: t + share * change[name] if name in change else t.clone() for name, t in network.items()}


def _sum(updates: Sequence[Update], counts: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum of changes."""
    return {
        name: torch.stack([float(c) * u.state[name] for u, c in zip(updates, counts, strict=True)]).sum(0)
        for name in updates[0].state
    }


def cgsv(length: float = 0.5, beta: float = 1.0, alpha: float = 0.95) -> Method:
    r"""Send each participant the largest entries of the common update, as many as its standing earns.

    $u_i = \Gamma\Delta_i / \lVert\Delta_i\rVert$ with $\Gamma$ the ``length``; $u = \sum_i r_i u_i$ (in the first round by
    size); $r$ from :func:`alignment` with memory $\alpha$; $q_i = \tanh(\beta r_i) / \max_j \tanh(\beta r_j)$. Participant
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

    def enter(task: Task) -> Entry:
        def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
            before = state[STANDING].cpu().numpy() if STANDING in state else None
            here = [u.participant for u in updates]
            moved = changes(state, updates)
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
                after |= kept(i, _plus(own(state, i), dose))
            return after

        scheme = replace(
            slimmable(task.build, full_only),
            broadcast=lambda state, i, width: own(state, i),
            merge=merged,
            sent=lambda state, updates: int(state[DOWN]) + len(updates) * numbers(state),
        )
        return Entry(scheme, task.by_size, takes_own(task))

    return Method("cgsv", enter)


def _scaled(change: Mapping[str, Tensor], length: float) -> dict[str, Tensor]:
    """A change brought to this length."""
    scale = length / (float(torch.linalg.vector_norm(_flat(change))) + 1e-7)
    return {name: scale * t for name, t in change.items()}


def _doses(common: Mapping[str, Tensor], shares: Sequence[float]) -> tuple[list[dict[str, Tensor]], Tensor]:
    """For each share that much of every tensor, largest first; and how many numbers travel in all."""
    flats = {name: t.flatten() for name, t in common.items()}
    orders = {name: flat.abs().argsort(descending=True, stable=True) for name, flat in flats.items()}
    given, sent = [], 0
    for share in shares:
        count = {name: math.ceil(min(share, 1.0) * len(flat) - 1e-9) for name, flat in flats.items()}
        given.append({k: largest(flats[k], count[k], orders[k]).view_as(t) for k, t in common.items()})
        sent += sum(sparse_numbers(count[name], len(flat)) for name, flat in flats.items())
    return given, torch.tensor(sent)


def cffl(upload: float = 0.1, alpha: float = 5.0, memory: float = 0.2, threshold: float = 1 / 3) -> Method:
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

    def enter(task: Task) -> Entry:
        def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
            moved = changes(state, updates)
            shown = [replace(u, state=_top(u.state, upload)) for u in moved]
            tried = [_tried(task, state, u, s, upload) for u, s in zip(updates, shown, strict=True)]
            before = state[STANDING].cpu().numpy() if STANDING in state else np.full(len(task.shards), np.nan)
            credit = credited(before, [u.participant for u in updates], tried, alpha, memory, threshold)
            trusted = [u for u in shown if credit[u.participant] > 0]
            common = _sum(shown, [task.by_size[u.participant] * (credit[u.participant] > 0) for u in shown])
            after = {**state, **_plus(networks_own(state), common), STANDING: torch.tensor(credit)}
            return after | _topped_up(task, state, moved, trusted, common, credit)

        scheme = replace(
            slimmable(task.build, full_only),
            broadcast=lambda state, i, width: own(state, i),
            merge=merged,
            sent=lambda state, updates: int(state[DOWN]) + len(updates) * _shown(numbers(state), upload),
        )
        return Entry(scheme, task.by_size, takes_own(task))

    return Method("cffl", enter)


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


def _tried(task: Task, state: State, update: Update, shown: Update, upload: float) -> float:
    """The validation accuracy of the server's network with one upload; of the participant's own if it shows all."""
    network = update.state if upload == 1 else _plus(networks_own(state), shown.state)
    return float(hits(view(task.build, network, 1.0), task.validation).mean())


def _topped_up(
    task: Task,
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
        network = _plus(own(state, i), u.state)
        if i in shown:
            quota = credit[i] / np.nanmax(credit) * size[i] / size.max()
            count = min(int(quota * len(flat) + 1e-9), filled)  # a zero need not be sent
            network = _plus(network, _like(largest(flat, count, order), common))
            network = _plus(network, shown[i].state, -float(size[i]))
            sent += sparse_numbers(count, len(flat))
        after |= kept(i, network)
    return {**after, DOWN: torch.tensor(sent)}


def iafl(kappa: float = 0.0, recovery: float = 0.0) -> Method:
    r"""Send each participant the average of its own update and some of the others', as many as its contribution earns.

    $\gamma_i = B_i / \max_j B_j$ with the contribution $B_i$; of the others, $\lceil\gamma_i^{1-\kappa}(|S|-1)\rceil$ are drawn
    anew in each round, $S$ those present. The average moves $i$'s own network. Before each round, with probability
    ``recovery``, the server's reference takes its place, which follows the participant with the largest reward.
    $\kappa = 1$ and equal sizes: FedAvg.

    Raises:
        ValueError: ``kappa`` or ``recovery`` is outside [0, 1].

    Example:
        >>> iafl(recovery=0.2).name
        'iafl'

    Source: IAFL (Wu et al. 2024) and its released code, where $\kappa$ and the probability (q) are 0 unless told otherwise.
    Deviations: the contribution is the validation accuracy alone, their second choice; SGD instead of Adam.
    """
    checked_constant("kappa", kappa, 0 <= kappa <= 1, "[0, 1]")
    checked_constant("recovery", recovery, 0 <= recovery <= 1, "[0, 1]")

    def enter(task: Task) -> Entry:
        seed, n = task.recipe.seed, len(task.shards)
        gamma = (task.contribution / task.contribution.max()) ** (1 - kappa)

        def start(state: State, i: int) -> dict[str, Tensor]:
            """What a participant begins the round with."""
            back = stream(seed, "recovery", int(state.get(ROUNDS, 0)), i).random() < recovery
            return networks_own(state) if back else own(state, i)

        def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
            index = int(state.get(ROUNDS, 0))
            begun = {**networks_own(state), ROUNDS: torch.tensor(index + 1)}
            starts = [start(state, i) for i in range(n)]
            moved = changes({**begun, **kept_all(starts)}, updates)
            after = dict(begun)
            for i in range(n):
                own_one = [u for u in moved if u.participant == i]
                others = [u for u in moved if u.participant != i]
                count = math.ceil(gamma[i] * (len(moved) - 1) - 1e-9)
                drawn = stream(seed, "subset", index, i).permutation(len(others))[:count]
                some = [*own_one, *(others[j] for j in sorted(drawn))]
                step = _sum(some, [1 / len(some)] * len(some)) if some else {}
                after |= kept(i, _plus(starts[i], step))
                if i == int(np.argmax(gamma)):
                    after |= _plus(networks_own(state), step)
            return after

        scheme = replace(
            slimmable(task.build, full_only),
            broadcast=lambda state, i, width: start(state, i),
            merge=merged,
            sent=lambda state, updates: (len(updates) + n) * numbers(state),
        )
        return Entry(scheme, task.by_size, takes_own(task))

    return Method("iafl", enter)


def kept_all(networks: Sequence[State]) -> dict[str, Tensor]:
    """Everybody's own network as the server remembers them."""
    return {name: t for i, network in enumerate(networks) for name, t in kept(i, network).items()}
