"""CFFL: each participant keeps its own update and downloads a part of the others', as its credit and size allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from . import common
from .common import ROUNDS, SENT, STANDING, add, flatten, only, own_network, unflatten


@checked
def cffl(
    problem: Problem, *, upload: Fraction = 1.0, clip: Positive | None = 1e-3, memory: Decay = 0.8, alpha: float = 5.0,
    alpha_final: float = 10.0, threshold: Share = 1 / 3, released: bool = False, train: Train = train,
) -> Outcome:  # fmt: skip
    r"""Keep one's own update, and download as many entries of the sum of all as credit and size allow.

    Everybody uploads the share `upload` of its change that is largest, each entry clipped to [-`clip`, `clip`]:
    $\tilde\Delta_i$. The server tries each on its validation split, $c_i \leftarrow m c_i + (1 - m)\,a_i / \sum_j a_j$ with
    $m$ = `memory`, then $c \leftarrow \sinh(\alpha c)$, divided by its sum; whoever falls below `threshold` / n is excluded
    from then on. The sum is $u = \sum_j \tilde\Delta_j$ over the others. Participant $i$ keeps its own change, receives the
    share $\frac{c_i}{\max c} s_i$ of $u$ that is largest, and takes out its own part $s_i \tilde\Delta_i$, with
    $s_i = |D_i| / \max_j |D_j|$. With `released` it keeps its own *clipped* change, and takes out $\tilde\Delta_i$ whole.

    Args:
        upload: Share of the entries that is uploaded, in (0, 1]. With 1 the server tries each participant's own network.
        clip: Bound of an uploaded entry, above 0; None: no bound.
        memory: $m$, share of the earlier credit, in [0, 1).
        alpha: $\alpha$ in the first round, in (0, 100].
        alpha_final: $\alpha$ in the last round, in (0, 100].
        threshold: Least credit, in equal shares, in [0, 1].
        released: Whether a round is, to the entry, that of the released code.

    Raises:
        ValueError: A constant is outside its range, or `released` is not True or False.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> problem = aq.method.assess(aq.MLP, aq.data.homogeneous(data.train, config), config, data, progress=False)
        >>> len(cffl(problem, upload=0.1, train=partial(train, progress=False)).models)
        2

    References:
        CFFL (Lyu et al. 2020), Algorithm 1, and its released code, commit 5c8f854: memory 0.8, $\alpha$ 5 to 10, threshold
        1/3, and an upload of 1 or 0.1, its two settings. 0.001 bounds entries there for CIFAR-10, SST, MR and IMDB, and
        0.01 for MNIST and Adult. With `released`, rounds are those of its options `aggregate_mode` sum,
        `largest_criterion` all and `download` topk (tests hold four rounds against it): the change is clipped before its
        largest entries are chosen, entries as large as the last one chosen are sent too, and $\alpha$ ends one step below
        `alpha_final`. Of its data sets only `names` has these options: for MNIST it downloads entries at random, for
        CIFAR-10, SST and MR it chooses the largest of each layer, for Adult it averages, for IMDB it weighs by credit.
        Deviation: by default one's own change is not clipped (there it is), the share $s_i$ of the own part is taken out of
        a sum (there of an average only), and with an upload of 1 the server tries the network as trained (there after
        clipping). In both, a quota below one entry is none (there: all), and classes do not replace sizes where all hold
        equally many samples.
    """
    number("alpha", alpha, 0, 100, above=True)
    number("alpha_final", alpha_final, 0, 100, above=True)
    alphas = np.linspace(alpha, alpha_final, problem.config.rounds, endpoint=not released)
    step = partial(
        _aggregate, build=problem.build, validation=problem.validation, size=problem.by_size / problem.by_size.max(),
        credit=partial(credits, memory=memory, threshold=threshold), alphas=alphas, upload=upload, clip=clip,
        released=released,
    )  # fmt: skip
    return common.reward_own(problem, common.personal(problem, step), train, "cffl")


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
    if not known.size:  # no network classifies anything: all are alike
        known, credit[seen] = np.array(seen), 1.0
    credit[known] = np.sinh(alpha * credit[known])
    credit[known] /= credit[known].sum()
    credit[known[credit[known] < threshold / len(known) * (1 - 1e-9)]] = 0.0  # equal ones are not below their mean
    return credit / np.nansum(credit)


def _aggregate(
    state: ServerState, updates: Sequence[Update], *, build: Build, validation: Samples, size: NDArray[np.float64],
    credit: partial[NDArray[np.float64]], alphas: NDArray[np.float64], upload: float, clip: float | None, released: bool,
) -> ServerState:  # fmt: skip
    """One round of CFFL."""
    index, here = int(state.memory.get(ROUNDS, 0)), [u.participant for u in updates]
    offers = [_offered(u.state, upload, clip, released) for u in common.own_changes(state, updates)]
    uploads = [uploaded for _, uploaded in offers]
    networks = {i: add(own_network(state, i), kept) for i, (kept, _) in zip(here, offers, strict=True)}
    tried = [add(state.theta, each) for each in uploads] if upload < 1 else networks.values()
    accuracy = [float(correct(view(build, net, 1.0), validation).mean()) for net in tried]
    before = common.remembered(state, STANDING, torch.full((len(size),), torch.nan, dtype=torch.float64)).numpy()
    found = credit(before, here, accuracy, alpha=float(alphas[index]))
    total = common.weighted_sum(uploads, (found[here] > 0).tolist())
    flat, shares = flatten(total), np.nan_to_num(found) / np.nanmax(found) * size
    order, nonzero = common.descending(flat), int(flat.count_nonzero())  # a zero need not be sent
    sent = sum(common.sparse_numbers(_entries(each, upload), len(flat)) for each in uploads)
    for i, own in zip(here, uploads, strict=True):
        count = min(int(shares[i] * len(flat) + 1e-9), nonzero)
        if found[i] > 0:
            count = _tied(flat, count, order) if released else count
            received = add(networks[i], unflatten(only(flat, order[:count]), total))
            networks[i] = add(received, own, -1.0 if released else -float(size[i]))
        sent += common.sparse_numbers(count, len(flat))
    known = {STANDING: torch.tensor(found), ROUNDS: torch.tensor(index + 1), SENT: torch.tensor(sent)}
    return ServerState(add(state.theta, total), common.remember({**common.memory_of(state), **known}, networks))


def _offered(change: State, share: float, clip: float | None, released: bool) -> tuple[State, State]:
    """What a participant keeps of its change, and what it uploads: the largest entries, clipped, the others zero."""
    flat = flatten(change)
    clipped = flat if clip is None else flat.clamp(-clip, clip)
    few = clipped
    if share < 1:
        order = common.descending(clipped if released else flat)
        count = _tied(clipped, int(share * len(flat)), order) if released else math.ceil(share * len(flat))
        few = only(clipped, order[:count])
    return unflatten(clipped, change) if released else change, unflatten(few, change)


def _tied(flat: Tensor, count: int, order: Tensor) -> int:
    """How many entries are as large as the last of the `count` largest, or larger."""
    return int((flat.abs() >= flat[order[count - 1]].abs()).sum()) if count else 0


def _entries(uploaded: State, share: float) -> int:
    """Entries that are uploaded: the share, or more where entries tie."""
    flat = flatten(uploaded)
    return max(math.ceil(share * len(flat)), int(flat.count_nonzero()))
