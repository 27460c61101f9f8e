"""CFFL, CGSV, IAFL and ShapFed: everybody trains a network of its own, to which the server adds some of the others' work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .._check import Decay, Fraction, Positive, Share, checked, refusal
from ..config import stream
from ..contribution import alignment, class_alignment, flatten
from ..evaluation import correct
from ..federate import slimmable
from ..local import full_only
from ..method import Outcome, Problem, Train, train
from ..slimmable import aggregate, view
from ..types import Build, Samples, ServerState, State, Update
from . import common
from .common import ROUNDS, SENT, STANDING, Array, add, only, own_network, unflatten

ALPHA = 5.0, 10.0  # of CFFL, in the first and in the last round
LEAST = 1e-3  # weight of a standing of ShapFed in the aggregate, so that every weight is above zero


# --- CFFL: the largest entries of the sum of all, as credit and size allow ---


@checked
def cffl(
    problem: Problem, *, upload: Fraction = 1.0, clip: Positive | None = 1e-3, memory: Decay = 0.8,
    threshold: Share = 1 / 3, released: bool = False, train: Train = train,
) -> Outcome:  # fmt: skip
    r"""Keep one's own update, and download as many entries of the sum of all as credit and size allow.

    Everybody uploads the share `upload` of its change that is largest, each entry clipped to [-`clip`, `clip`]:
    $\tilde\Delta_i$. The server tries each on its validation split, $c_i \leftarrow m c_i + (1 - m)\,a_i / \sum_j a_j$ with
    $m$ = `memory`, then $c \leftarrow \sinh(\alpha c)$, divided by its sum, where $\alpha$ grows from 5 to 10;
    whoever falls below `threshold` / n is excluded from then on. The sum is $u = \sum_j \tilde\Delta_j$ over the others.
    Participant $i$ keeps its own change, receives the share $\frac{c_i}{\max c} s_i$ of $u$ that is largest, and takes out
    its own part $s_i \tilde\Delta_i$, with $s_i = |D_i| / \max_j |D_j|$. With `released` it keeps its own *clipped* change,
    and takes out $\tilde\Delta_i$ whole.

    Args:
        upload: Share of the entries that is uploaded, in (0, 1]. With 1 the server tries each participant's own network.
        clip: Bound of an uploaded entry, above 0; None: no bound.
        memory: $m$, share of the earlier credit, in [0, 1).
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
        10. Of its data sets only `names` has these options: for MNIST it downloads entries at random, for
        CIFAR-10, SST and MR it chooses the largest of each layer, for Adult it averages, for IMDB it weighs by credit.
        Deviation: by default one's own change is not clipped (there it is), the share $s_i$ of the own part is taken out of
        a sum (there of an average only), and with an upload of 1 the server tries the network as trained (there after
        clipping). In both, a quota below one entry is none (there: all), and classes do not replace sizes where all hold
        equally many samples.
    """
    alphas = np.linspace(*ALPHA, problem.config.rounds, endpoint=not released)
    step = partial(
        _cffl_round, build=problem.build, validation=problem.validation, size=problem.by_size / problem.by_size.max(),
        credit=partial(credits, memory=memory, threshold=threshold), alphas=alphas, upload=upload, clip=clip,
        released=released,
    )  # fmt: skip
    return common.reward_own(problem, common.personal(problem, step), train, "cffl")


def credits(
    before: Array, here: Sequence[int], accuracy: ArrayLike, *, alpha: float, memory: float, threshold: float
) -> Array:
    """Credits after a round, (participants,), summing to one; 0 for the excluded, NaN before the first update.

    The earlier credit of a first-time participant is 0. Credits are compared among all who have taken part, present or not.
    """
    credit, found = before.copy(), np.full(len(before), np.nan)
    found[list(here)] = accuracy
    seen = [i for i in here if before[i] != 0]  # NaN, of those who are new, is not 0 either
    share = found[seen] / max(found[seen].sum(), 1e-12)
    credit[seen] = memory * np.nan_to_num(before[seen]) + (1 - memory) * share
    known = np.flatnonzero(np.nan_to_num(credit) > 0)
    if not known.size:  # no network classifies anything: all are alike
        known, credit[seen] = np.array(seen), 1.0
    credit[known] = np.sinh(alpha * credit[known])
    credit[known] /= credit[known].sum()
    credit[known[credit[known] < threshold / len(known) * (1 - 1e-9)]] = 0.0  # equal ones are not below their mean
    return credit / np.nansum(credit)


def _cffl_round(
    state: ServerState, updates: Sequence[Update], *, build: Build, validation: Samples, size: Array,
    credit: partial[Array], alphas: Array, upload: float, clip: float | None, released: bool,
) -> ServerState:  # fmt: skip
    """One round of CFFL."""
    index, here = int(state.memory.get(ROUNDS, 0)), [u.participant for u in updates]
    offers = [_offered(u.state, upload, clip, released) for u in common.own_changes(state, updates)]
    own, uploads, counts = zip(*offers, strict=True)
    networks = {i: add(own_network(state, i), change) for i, change in zip(here, own, strict=True)}
    tried = [add(state.theta, each) for each in uploads] if upload < 1 else networks.values()
    accuracy = [float(correct(view(build, net, 1.0).eval(), validation).mean()) for net in tried]
    before = common.remembered(state, STANDING, torch.full((len(size),), torch.nan, dtype=torch.float64)).numpy()
    found = credit(before, here, accuracy, alpha=float(alphas[index]))
    total = common.weighted_sum(uploads, (found[here] > 0).tolist())
    flat, shares = flatten(total), np.nan_to_num(found) / np.nanmax(found) * size
    order, nonzero = common.descending(flat), int(flat.count_nonzero())  # a zero need not be sent
    sent = sum(common.sparse_numbers(count, len(flat)) for count in counts)
    for i, uploaded in zip(here, uploads, strict=True):
        count = min(int(shares[i] * len(flat) + 1e-9), nonzero)
        if found[i] > 0:
            count = _tied(flat, count, order) if released else count
            received = add(networks[i], unflatten(only(flat, order[:count]), total))
            networks[i] = add(received, uploaded, -1.0 if released else -float(size[i]))
        sent += common.sparse_numbers(count, len(flat))
    known = {STANDING: torch.tensor(found), ROUNDS: torch.tensor(index + 1), SENT: torch.tensor(sent)}
    return ServerState(add(state.theta, total), common.remember({**common.memory_of(state), **known}, networks))


def _offered(change: State, share: float, clip: float | None, released: bool) -> tuple[State, State, int]:
    """What a participant keeps of its change; what it uploads: the largest entries, clipped; and how many these are."""
    flat = flatten(change)
    clipped = flat if clip is None else flat.clamp(-clip, clip)
    few = clipped
    if share < 1:
        order = common.descending(clipped if released else flat)
        count = _tied(clipped, int(share * len(flat)), order) if released else math.ceil(share * len(flat))
        few = only(clipped, order[:count])
    uploaded = max(math.ceil(share * len(flat)), int(few.count_nonzero()))  # the share, or more where entries tie
    return unflatten(clipped, change) if released else change, unflatten(few, change), uploaded


def _tied(flat: Tensor, count: int, order: Tensor) -> int:
    """How many entries are as large as the last of the `count` largest, or larger."""
    return int((flat.abs() >= flat[order[count - 1]].abs()).sum()) if count else 0


# --- CGSV: the largest entries of the aggregate, as many as the standing earns ---


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
    step = partial(_cgsv_round, by_size=problem.by_size, length=length, beta=beta, alpha=alpha)
    return common.reward_own(problem, common.personal(problem, step), train, "cgsv")


def _cgsv_round(
    state: ServerState, updates: Sequence[Update], *, by_size: Array, length: float, beta: float, alpha: float
) -> ServerState:
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
    networks = {i: add(own_network(state, i), part) for i, part in zip(here, parts, strict=True)}
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


# --- IAFL: some of the others' updates, as many as the contribution earns ---


@checked
def iafl(problem: Problem, *, kappa: Share = 0.0, recovery: Share = 0.0, train: Train = train) -> Outcome:
    r"""Send each participant the average of its own update and some of the others'.

    $\gamma_i = B_i / \max_j B_j$ with the contribution $B_i$; of the others, $\lceil\gamma_i^{1-\kappa}(|S|-1)\rceil$ are
    drawn anew in each round, $S$ those present. The average moves $i$'s own network. Before each round, with probability
    `recovery`, the reference takes its place: the global model, which follows the participant with the largest reward.
    With $\kappa = 1$ and equal sizes it is FedAvg.

    Args:
        kappa: $\kappa$, in [0, 1]; the larger, the more equal the rewards.
        recovery: Probability $q$, in [0, 1].

    Raises:
        ValueError: A constant is outside its range, a contribution is negative, or none is above 0.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> problem = aq.method.assess(aq.MLP, shards, config, data, progress=False)
        >>> len(iafl(problem, recovery=0.2, train=partial(train, progress=False)).models)
        2

    References:
        IAFL (Wu et al. 2024), Algorithm 1, and its released code, where $\kappa$ and $q$ are 0 by default.
        Deviation: the contribution is the validation accuracy alone, their second choice (on test samples there); SGD
        instead of Adam; the count is rounded up exactly, theirs in single precision, where it is sometimes one more.
    """
    found = problem.contribution
    if (found < 0).any() or not found.max() > 0:
        raise refusal("contribution", "numbers from 0, one of them above 0", found)
    gamma = (found / found.max()) ** (1 - kappa)
    start = partial(_start, seed=problem.config.seed, recovery=recovery)
    step = partial(_iafl_round, start=start, gamma=gamma, seed=problem.config.seed)
    return common.reward_own(problem, common.personal(problem, step, broadcast=start), train, "iafl")


def _start(state: ServerState, participant: int, width: float, *, seed: int, recovery: float) -> dict[str, Tensor]:
    """What a participant begins the round with: its own network, or the reference."""
    index = int(state.memory.get(ROUNDS, 0))
    recovers = stream(seed, "recovery", index, participant).random() < recovery
    return dict(state.theta) if recovers else own_network(state, participant)


def _iafl_round(
    state: ServerState, updates: Sequence[Update], *, start: Callable[..., State], gamma: Array, seed: int
) -> ServerState:
    """One round of IAFL."""
    index, changes = int(state.memory.get(ROUNDS, 0)), common.own_changes(state, updates, start)
    theta, networks = dict(state.theta), {}
    for i in range(len(gamma)):
        some = _chosen(changes, i, gamma[i], stream(seed, "subset", index, i))
        step = common.weighted_sum(some, [1 / len(some)] * len(some)) if some else {}
        networks[i] = add(start(state, i, 1.0), step)
        if i == int(np.argmax(gamma)):
            theta = add(state.theta, step)
    # whole updates up, whole networks down to everybody
    sent = (len(updates) + len(gamma)) * common.size_of(state.theta)
    known = {ROUNDS: torch.tensor(index + 1), SENT: torch.tensor(sent)}
    return ServerState(theta, common.remember({**common.memory_of(state), **known}, networks))


def _chosen(changes: Sequence[Update], participant: int, gamma: float, rng: np.random.Generator) -> list[State]:
    """A participant's own change, and as many of the others' as it earns."""
    own = [u.state for u in changes if u.participant == participant]
    others = [u.state for u in changes if u.participant != participant]
    count = math.ceil(gamma * (len(changes) - 1) - 1e-9)
    drawn = rng.permutation(len(others))[:count]
    return [*own, *(others[j] for j in sorted(drawn))]


# --- ShapFed: a mix of one's own network and the global model ---


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
    step = partial(_shapfed_round, participants=len(problem.shards), memory=memory, personal=False)
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
    step = partial(_shapfed_round, participants=len(problem.shards), memory=memory, personal=True, relative=relative)
    return common.reward_own(problem, common.personal(problem, step, sent=None), train, "shapfed")


def _shapfed_round(
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


def _standing(state: ServerState, updates: Sequence[Update], participants: int, memory: float) -> Array:
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
