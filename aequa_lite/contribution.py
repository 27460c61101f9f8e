"""What each participant contributed to a federation.

A game gives every coalition a number, and its Shapley value divides that;
games retrain or replay the federation; scores look at the updates of each
round; a calibration turns scores into accuracies.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from math import comb, fsum, isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor
from tqdm import tqdm

from ._check import (
    Count,
    Index,
    NotNegative,
    Numbers,
    Positive,
    Share,
    checked,
    number,
    one_each,
    refusal,
    vector,
)
from .config import Config, stream
from .evaluation import correct
from .federate import federate_many
from .networks.base import init_params
from .slimmable import aggregate, prefix, view
from .types import Build, Round, Samples, Shard, State, floating

__all__ = [
    "CachedGame", "Score", "affine_calibration", "alignment",
    "class_alignment", "class_shapley", "contributions",
    "isotonic_calibration", "leave_one_out", "replay_game",
    "retraining_game", "sampled_shapley", "shapley", "update_shapley",
]  # fmt: skip

Array = NDArray[np.float64]
# (n,) scores after the round before, if there is one
Carried = Array | None
# (theta before, round, scores) -> scores
Score = Callable[[State, Round, Carried], Array]
Coalition = frozenset[int]
Game = Callable[[Coalition], float]
Games = Callable[[list[Coalition]], list[float]]
MAX_EXACT = 12  # participants; the exact value evaluates 2 ** n coalitions
TOGETHER = 64  # coalitions that are evaluated side by side
MIN_PAIRS = 8  # pairs of orders; fewer give no useful standard error


# --- values of a game ---


@checked
@dataclass(eq=False)
class CachedGame:
    """Evaluate a game once for each coalition and keep the value.

    `values` maps coalitions to values; `len` counts them.

    Args:
        game: Function of a coalition (a frozenset of participants).
        many: Function of at most 64 coalitions that finds their values at
            once; `prepare` calls it (default: none is found beforehand).

    Raises:
        ValueError: `game` or `many` is not callable.

    Example:
        >>> game = CachedGame(lambda coalition: len(coalition) ** 2)
        >>> game({0, 1}), game({1, 0}), len(game)
        (4.0, 4.0, 1)
    """

    game: Game
    many: Games | None = None
    values: dict[Coalition, float] = field(default_factory=dict, init=False)

    def __call__(self, coalition: Collection[int]) -> float:
        members = frozenset(coalition)
        if members not in self.values:
            self.values[members] = float(self.game(members))
        return self.values[members]

    def prepare(self, coalitions: Collection[Coalition]) -> None:
        """Evaluate these together, if the game can."""
        if self.many is None:
            return
        every = dict.fromkeys(coalitions)  # each once, in order
        new = [each for each in every if each not in self.values]
        for first in range(0, len(new), TOGETHER):
            some = new[first : first + TOGETHER]
            self.values |= dict(zip(some, self.many(some), strict=True))

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Hold sampled Shapley values and what they cost.

    Args:
        value: (n,) estimates.
        standard_error: (n,) their standard errors.
        orders: Number of orders of the participants.
        evaluations: Number of evaluations of the game.

    Example:
        >>> sampled_shapley(len, 3, budget=50).value.tolist()
        [1.0, 1.0, 1.0]
    """

    value: Array
    standard_error: Array
    orders: int
    evaluations: int


@checked
def shapley(
    game: Game, participants: Count, *, progress: bool = False
) -> Array:
    r"""Return the exact Shapley value of each participant.

    $\varphi_i = \sum_{S \not\ni i} \frac{|S|!\,(n-|S|-1)!}{n!}
    \bigl(v(S \cup \{i\}) - v(S)\bigr)$ for the game $v$: what participant
    $i$ adds, averaged over the orders in which all may join. The values sum
    to $v(N) - v(\emptyset)$.

    Args:
        game: $v$, evaluated once for each of the $2^n$ coalitions.
        participants: $n$, at most 12.

    Returns:
        (n,) values, in the game's unit.

    Raises:
        ValueError: `participants` is not a whole number in [1, 12], or a
            value of the game is not finite.

    Example:
        >>> def gloves(S):  # one left, two right
        ...     return min(len(S & {0}), len(S & {1, 2}))
        >>> shapley(gloves, 3).round(3).tolist()
        [0.667, 0.167, 0.167]

    References:
        Shapley (1953).
    """
    n = participants
    if n > MAX_EXACT:
        allowed = f"a whole number in [1, {MAX_EXACT}]"
        raise refusal("participants", allowed, n, "use sampled_shapley")
    subsets = [
        frozenset(some)
        for size in range(n + 1)
        for some in combinations(range(n), size)
    ]
    v = dict(zip(subsets, _values(game, subsets, progress), strict=True))
    weight = [1 / (n * comb(n - 1, size)) for size in range(n)]

    def value(i: int) -> float:
        without = (S for S in subsets if i not in S)
        return fsum(weight[len(S)] * (v[S | {i}] - v[S]) for S in without)

    return np.array([value(i) for i in range(n)])


@checked
def leave_one_out(game: Game, participants: Count) -> Array:
    r"""Return the loss of value when one participant leaves.

    $v(N) - v(N \setminus \{i\})$. Two copies of the same data have value 0.

    Returns:
        (n,) values, in the game's unit.

    Raises:
        ValueError: `participants` is not a whole number from 1, or a value
            of the game is not finite.

    Example:
        >>> def gloves(S):  # one left, two right
        ...     return min(len(S & {0}), len(S & {1, 2}))
        >>> leave_one_out(gloves, 3).tolist()
        [1.0, 0.0, 0.0]

    References:
        Ghorbani and Zou (2019), as a baseline of theirs.
    """
    everyone = frozenset(range(participants))
    less = [everyone - {i} for i in range(participants)]
    total, *others = _values(game, [everyone, *less])
    return total - np.array(others)


@checked
def sampled_shapley(
    game: Game, participants: Count, *, budget: Count,
    error: Positive | None = None, tolerance: NotNegative = 0.0,
    seed: Index = 0,
) -> Estimate:  # fmt: skip
    r"""Estimate Shapley values from random orders and their reverses.

    $\hat\varphi_i$ is the mean over pairs of orders of what participant $i$
    adds to those before it; the standard error is that of the pairs' mean.
    An order is cut short where its coalition's value is within `tolerance`
    of $v(N)$; those who follow are taken to add nothing.

    Args:
        budget: Largest number of evaluations; at least eight pairs.
        error: Stop, after each eight pairs, when no standard error is
            larger.
        tolerance: Of the truncation. In a game that never falls, it biases
            each value by at most as much; 0 never truncates.
        seed: Of the orders.

    Raises:
        ValueError: There are fewer than two participants, the budget is
            less than eight pairs of orders, or a value is not finite.

    Example:
        >>> def gloves(S):  # one left, two right
        ...     return min(len(S & {0}), len(S & {1, 2}))
        >>> found = sampled_shapley(gloves, 3, budget=400)
        >>> error = abs(found.value - [2 / 3, 1 / 6, 1 / 6])
        >>> bool((error < 3 * found.standard_error).all()), found.orders
        (True, 198)

    References:
        Truncated permutation sampling (Ghorbani and Zou 2019); the reversed
        orders are antithetic variates.
    """
    n = number("participants", participants, 2, whole=True)
    cost = 2 * (n - 1)  # evaluations of a pair of orders
    number("budget", budget, 2 + MIN_PAIRS * cost, whole=True)
    nobody, everyone = frozenset(), frozenset(range(n))
    ends: list[float] = []
    rng, added, used = stream(seed, "orders"), [], 2  # both ends
    while used + cost <= budget and len(added) < budget:
        left = (budget - used) // cost  # pairs of orders
        orders = []
        for _ in range(min(left, MIN_PAIRS) if error else left):
            order = rng.permutation(n).tolist()
            orders += [order, order[::-1]]
        if not tolerance and isinstance(game, CachedGame):  # at once
            sizes = range(n + 1)
            game.prepare([frozenset(o[:k]) for o in orders for k in sizes])
        ends = ends or [_value(game, each) for each in (nobody, everyone)]
        for order in orders:
            values = _truncated(game, order, *ends, tolerance)
            used += min(len(values) - 1, n - 1)
            steps = np.zeros(n)
            steps[order[: len(values) - 1]] = np.diff(values)
            added.append(steps)
        pairs = np.reshape(added, (-1, 2, n)).mean(1)
        deviation = pairs.std(0, ddof=1) / np.sqrt(len(pairs))
        if error and (deviation <= error).all():
            break
    return Estimate(pairs.mean(0), deviation, len(added), used)


def _truncated(
    game: Game, order: list[int], nobody: float, everyone: float,
    tolerance: float,
) -> list[float]:  # fmt: skip
    """The values of an order's coalitions, until little is left to add."""
    values = [nobody]
    for size in range(1, len(order)):
        if abs(everyone - values[-1]) < tolerance:
            return values
        values.append(_value(game, frozenset(order[:size])))
    return [*values, everyone]


def _values(
    game: Game, coalitions: list[Coalition], progress: bool = False
) -> list[float]:
    """Finite values, found together if the game can."""
    if isinstance(game, CachedGame):
        game.prepare(coalitions)
    bar = tqdm(coalitions, "coalitions", disable=not progress)
    return [_value(game, each) for each in bar]


def _value(game: Game, coalition: Coalition) -> float:
    value = float(game(coalition))
    if not isfinite(value):
        of = f"game's value of the coalition {sorted(coalition)}"
        raise refusal(of, "a finite number", value)
    return value


# --- games: a coalition's value is the accuracy that it reaches ---


@checked
def retraining_game(
    build: Build, shards: Sequence[Shard], config: Config,
    validation: Samples, **options: Any,
) -> CachedGame:  # fmt: skip
    r"""Make a game whose coalitions train without the others.

    $v(S)$ is the validation accuracy, at full width, of `federate` over the
    shards of $S$; $v(\emptyset)$ is that of the initial network. Each
    coalition trains once: five participants take 31 trainings. On a GPU, or
    with `vectorized=True`, those that a solver needs train side by side
    (`federate_many`), up to rounding.

    Args:
        validation: Samples that measure the accuracy.
        options: Passed on to `federate`.

    Raises:
        ValueError: There is not one shard for each participant, or no
            validation sample.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> game = retraining_game(aq.MLP, shards, config, data.validation)
        >>> values, gain = aq.shapley(game, 2), game([0, 1]) - game([])
        >>> bool(abs(values.sum() - gain) < 1e-9)
        True

    References:
        Our choice: data Shapley (Ghorbani and Zou 2019) with participants
        in place of samples.
    """
    one_each("shards", shards, config.participants)
    device = shards[0].samples.y.device
    start = init_params(build, config.seed, device)

    def trained(coalitions: Sequence[Coalition]) -> list[float]:
        chosen = [[shards[i] for i in sorted(S)] for S in coalitions if S]
        runs = [(c, replace(config, participants=len(c))) for c in chosen]
        last = iter(federate_many(build, runs, **options))
        thetas = (next(last).theta if S else start for S in coalitions)
        return [_accuracy(build, theta, validation) for theta in thetas]

    at_once = device.type == "cuda" or options.get("vectorized")
    return CachedGame(
        lambda S: trained([S])[0], trained if at_once else None
    )


@checked
def replay_game(
    build: Build, before: State, rnd: Round, validation: Samples
) -> CachedGame:
    r"""Make a game of one round whose coalitions aggregate their updates.

    $v(S)$ is the validation accuracy, at full width, of the aggregate of
    `before` and the updates of $S$; $v(\emptyset)$ is that of `before`.
    Nothing is trained. A refused update changes nothing.

    Args:
        before: Global model at the start of the round.
        rnd: The round; participants count by position in its updates.

    Raises:
        ValueError: The round has no updates, or there is no sample.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> (rnd,) = aq.federate(aq.MLP, shards, config, progress=False)
        >>> theta = aq.init_params(aq.MLP, config.seed)
        >>> len(replay_game(aq.MLP, theta, rnd, data.validation))
        0

    References:
        GTG-Shapley (Liu et al. 2022).
    """
    _check_round(rnd)
    start = _beside(before, rnd)

    def value(coalition: Coalition) -> float:
        chosen = [rnd.updates[i] for i in sorted(coalition)]
        valid = [u for u in chosen if u.participant not in rnd.left_out]
        theta = aggregate(start, [(u.state, u.weight) for u in valid])
        return _accuracy(build, theta, validation)

    return CachedGame(value)


def _accuracy(build: Build, theta: State, validation: Samples) -> float:
    """Validation accuracy of the full network."""
    net = view(build, theta, 1.0).eval()
    return float(correct(net, validation).mean())


# --- scores: carried from round to round ---


@checked
def contributions(
    score: Score, rounds: Iterable[Round], start: State
) -> Iterator[Array]:
    r"""Carry a score through the rounds and yield it after each.

    $c_t = \mathrm{score}(\theta_{t-1}, \mathrm{round}_t, c_{t-1})$, with
    $c_0$ = None.

    Args:
        score: `alignment`, `class_alignment`, `class_shapley`, or what
            `update_shapley` returns.
        start: Global model before the first round:
            `init_params(build, config.seed)` where a run began.

    Yields:
        (n,) scores; who was absent keeps its own, from 0.

    Raises:
        ValueError: `score` is not callable, or `start` holds no tensors.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 3, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> rounds = aq.federate(aq.MLP, shards, config, progress=False)
        >>> start = aq.init_params(aq.MLP, config.seed)
        >>> [c.shape for c in contributions(alignment, rounds, start)]
        [(2,), (2,), (2,)]
    """
    before, scores = start, np.zeros(0)
    for rnd in rounds:
        here = [u.participant for u in rnd.updates]
        n = max([len(scores), len(rnd.widths), *(i + 1 for i in here)])
        known = np.append(scores, np.zeros(n - len(scores)))
        own = known[here] if len(scores) else None
        known[here] = score(before, rnd, own)
        before, scores = rnd.theta, known
        yield scores


@checked
def update_shapley(
    build: Build, validation: Samples, *,
    solve: Callable[[Game, int], Array] = shapley,
    tolerance: NotNegative = 0.0,
) -> Score:  # fmt: skip
    r"""Make a score: the Shapley values of `replay_game`, summed up.

    $c_i = \sum_t \varphi_i(v_t)$ with $v_t$ the game of round $t$: the
    scores sum to the gain in accuracy during training. It takes $2^n$
    evaluations a round and trains nothing.

    Args:
        solve: (game, n) -> (n,) values, in place of the exact ones.
        tolerance: A round that moves the accuracy by less is skipped.

    Raises:
        ValueError: There is no validation sample, `solve` is not callable,
            or `tolerance` is negative.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 2, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> rounds = aq.federate(aq.MLP, shards, config, progress=False)
        >>> score = update_shapley(aq.MLP, data.validation)
        >>> start = aq.init_params(aq.MLP, config.seed)
        >>> len(list(contributions(score, rounds, start)))
        2

    References:
        GTG-Shapley (Liu et al. 2022) with each round solved exactly,
        without its guided sampling.
    """

    def score(before: State, rnd: Round, scores: Carried = None) -> Array:
        n = len(rnd.updates)
        game = replay_game(build, before, rnd, validation)
        scores = np.zeros(n) if scores is None else scores
        if abs(game(range(n)) - game(())) < tolerance:
            return scores
        return scores + solve(game, n)

    return score


@checked
def alignment(
    before: State, rnd: Round, scores: Carried = None, *,
    alpha: Share = 0.95, floor: Positive = 1e-3,
) -> Array:  # fmt: skip
    r"""Score by the cosine between an update and the mean update.

    With $u_i = \Delta_i / \lVert\Delta_i\rVert$ and $u = \sum_j r_j u_j$,
    where $r$ is the aggregation weight in the first round,
    $r_i \leftarrow \max(\alpha r_i + (1 - \alpha) \cos(u_i, u), f)$,
    divided by their sum; the average starts at zero.

    Args:
        before: Global model at the start of the round.
        rnd: The round; a refused update is a zero.
        scores: (n,) scores $r$ after the round before, or None.
        alpha: Share of the earlier scores, in [0, 1].
        floor: Least score $f$ before the division, above 0.

    Returns:
        (n,) scores, which sum to one.

    Raises:
        ValueError: The round has no updates, `scores` does not fit them, or
            a number is outside its range.

    Example:
        >>> from aequa_lite.types import Round, ServerState, Update
        >>> start = {"w": torch.zeros(2)}
        >>> ends = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> us = [
        ...     Update(i, 1.0, {"w": w}, .5, 0.) for i, w in enumerate(ends)
        ... ]
        >>> rnd = Round(0, ServerState(start), (1., 1.), 0., 4, updates=us)
        >>> alignment(start, rnd).round(6).tolist()
        [0.5, 0.5]

    References:
        CGSV (Xu et al. 2021), as its released code computes it.
    """
    scores = _check_round(rnd, scores)
    changes = _changes(before, rnd, flatten)  # (participants, entries)
    shares = _weights(rnd) if scores is None else scores
    memory = 0.0 if scores is None else scores
    if changes.device.type != "cpu":  # only the Gram matrix leaves a GPU
        units = torch.nn.functional.normalize(changes, dim=1, eps=1e-30)
        gram = (units @ units.T).cpu().double().numpy()
        cosine = gram @ shares / max(np.sqrt(shares @ gram @ shares), 1e-30)
    else:
        units = _unit(changes.numpy())
        # not by `@`, whose sums depend on the number of processors
        together = _unit(np.einsum("i,id->d", shares, units))
        cosine = np.einsum("id,d->i", units, together)
    r = np.maximum(alpha * memory + (1 - alpha) * cosine, floor)
    return r / r.sum()


@checked
def class_alignment(
    before: State, rnd: Round, scores: Carried = None, *,
    memory: Share = 0.9,
) -> Array:  # fmt: skip
    r"""Score by the mean over classes of the last layer's cosines.

    $\phi_i = \frac1K \sum_k \cos(g_{ik}, g_k)$ with $g_{ik}$ the change of
    row $k$ of the last layer (weights and bias), $g_k = \sum_j \omega_j
    g_{jk}$ and $\omega$ the aggregation weights; then $\gamma \leftarrow
    \mu\gamma + (1 - \mu)\phi$ from $\gamma = \phi$. Only the coalition of
    all appears in it, so it is no Shapley value: see `class_shapley`.

    Args:
        before: Global model at the start of the round.
        rnd: The round; a refused update is a zero.
        scores: (n,) scores $\gamma$ after the round before, or None.
        memory: $\mu$, in [0, 1].

    Returns:
        (n,) scores in [-1, 1].

    Raises:
        ValueError: As `alignment`.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> (rnd,) = aq.federate(aq.MLP, shards, config, progress=False)
        >>> bool((class_alignment(rnd.before.theta, rnd) > 0.5).all())
        True

    References:
        The released code of ShapFed (Tastan et al. 2024).
    """
    scores = _check_round(rnd, scores)
    # (participants, classes, columns)
    rows = _changes(before, rnd, _rows).cpu().numpy()
    mean = np.einsum("i,ikd->kd", _weights(rnd), rows)
    cosine = (_unit(rows) * _unit(mean)).sum(-1).mean(1)
    return _smoothed(scores, cosine, memory)


@checked
def class_shapley(
    before: State, rnd: Round, scores: Carried = None, *,
    memory: Share = 0.9,
) -> Array:  # fmt: skip
    r"""Score by the Shapley value of the mean class-wise cosine.

    $\phi_i = \frac1K \sum_k \varphi_i(v_k)$ with $v_k(S) = \cos\bigl(
    \sum_{j \in S} \omega_j g_{jk}, g_k\bigr)$, $v_k(\emptyset) = 0$ and the
    symbols of `class_alignment`. The values of a round sum to one. As the
    Shapley value is linear, one game is solved: the mean over classes.

    Args:
        before: Global model at the start of the round.
        rnd: The round, of at most 12 updates.
        scores: (n,) scores after the round before, or None.
        memory: $\mu$, in [0, 1].

    Returns:
        (n,) scores.

    Raises:
        ValueError: As `alignment`, or more than 12 updates.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> (rnd,) = aq.federate(aq.MLP, shards, config, progress=False)
        >>> round(float(class_shapley(rnd.before.theta, rnd).sum()), 5)
        1.0

    References:
        Class-specific Shapley values of ShapFed (Tastan et al. 2024); that
        the game is this one is our reading.
    """
    scores = _check_round(rnd, scores)
    # (participants, classes, columns)
    rows = _changes(before, rnd, _rows).cpu().numpy()
    game = partial(_class_cosine, rows, _weights(rnd))
    return _smoothed(scores, shapley(game, len(rnd.updates)), memory)


def _class_cosine(
    rows: Array, weights: Array, coalition: Coalition
) -> float:
    """Mean cosine over classes of a coalition's rows and everybody's."""
    some = np.zeros_like(weights)
    some[sorted(coalition)] = weights[sorted(coalition)]
    part, whole = (
        _unit(np.einsum("i,ikd->kd", w, rows)) for w in (some, weights)
    )
    return float((part * whole).sum(-1).mean())


def _weights(rnd: Round) -> Array:
    """Aggregation weights, summing to one; 0 for a refused update."""
    valid = [u.participant not in rnd.left_out for u in rnd.updates]
    raw = np.where(valid, [u.weight for u in rnd.updates], 0.0)
    return raw / raw.sum()


def _changes(
    before: State, rnd: Round, join: Callable[[State], Tensor]
) -> Tensor:
    """The joined change of each participant, (participants, ...).

    It is zero where a participant does not hold an entry, and for a refused
    update.
    """
    found, before = [], _beside(before, rnd)
    for u in rnd.updates:
        state = before if u.participant in rnd.left_out else u.state
        trained = floating(state)
        change = {k: torch.zeros_like(before[k]) for k in trained}
        for k, t in trained.items():
            block = prefix(t.shape)
            change[k][block] = t.to(before[k].device) - before[k][block]
        found.append(join(change))
    return torch.stack(found)


def _beside(before: State, rnd: Round) -> State:
    """A model, on the device of the round's first tensor."""
    held = (t.device for u in rnd.updates for t in u.state.values())
    device = next(held, None)
    return {k: t.to(device) for k, t in before.items()}


def flatten(change: State) -> Tensor:
    """All tensors as one vector."""
    return torch.cat([t.flatten() for t in change.values()])


def _rows(change: State) -> Tensor:
    """The last matrix with its bias as a column: one row for each class."""
    matrices = [k for k, t in change.items() if t.ndim == 2]
    if not matrices:
        raise refusal("before", "a model with a matrix", list(change))
    rows = change[matrices[-1]]
    bias = change.get(matrices[-1].removesuffix("weight") + "bias")
    return rows if bias is None else torch.cat([rows, bias[:, None]], dim=1)


def _unit(vectors: Array) -> Array:
    """Vectors of length one along the last axis; zeros stay zeros."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _smoothed(scores: Carried, found: Array, memory: float) -> Array:
    """The moving average, from its first value."""
    if scores is None:
        return found
    return memory * scores + (1 - memory) * found


# --- calibration: from scores to accuracies ---


@checked
def affine_calibration(scores: Numbers, low: Share, high: Share) -> Array:
    r"""Stretch scores linearly over the accuracies from `low` to `high`.

    $B_i = \mathrm{low} + (\mathrm{high} - \mathrm{low})\,
    \frac{s_i - \min s}{\max s - \min s}$; equal scores become the middle.

    Args:
        scores: (n,) scores, on any scale.
        low: Accuracy of the lowest score, e.g. the least stand-alone one.
        high: Accuracy of the highest score.

    Returns:
        (n,) accuracies.

    Raises:
        ValueError: A score is not finite, or not 0 <= low <= high <= 1.

    Example:
        >>> affine_calibration([-1, 0, 3], low=0.5, high=0.75).tolist()
        [0.5, 0.5625, 0.75]

    References:
        Our choice.
    """
    s = vector("scores", scores)
    number("low", low, 0, high)
    spread = s.max() - s.min()
    share = (s - s.min()) / spread if spread > 0 else np.full(len(s), 0.5)
    return low + (high - low) * share


@checked
def isotonic_calibration(
    scores: Numbers, known: Mapping[int, Share]
) -> Array:
    """Map scores to the known stand-alone accuracies of some participants.

    Isotonic regression makes the known accuracies rise with the score
    (equal scores share their mean); straight lines join them, constant
    beyond the ends. A higher score never becomes a lower accuracy.

    Args:
        scores: (n,) scores, on any scale.
        known: Accuracy by participant, of at least one.

    Returns:
        (n,) accuracies, within the range of the known ones.

    Raises:
        ValueError: A score is not finite, or `known` is empty, names no
            participant, or holds what is no accuracy.

    Example:
        >>> known = {0: 0.5, 2: 0.75}
        >>> isotonic_calibration([0.1, 0.2, 0.3, 0.9], known).tolist()
        [0.5, 0.625, 0.75, 0.75]

    References:
        Isotonic regression (Barlow et al. 1972); using it is our choice.
    """
    s = vector("scores", scores)
    if not known:
        raise refusal("known", "accuracies by participant", known)
    for i in known:
        number("known participant", i, 0, len(s) - 1, whole=True)
    at, where, times = np.unique(
        s[list(known)], return_inverse=True, return_counts=True
    )
    mean = np.bincount(where, weights=list(known.values())) / times
    rising = isotonic_regression(mean, weights=times).x
    return np.interp(s, at, np.maximum.accumulate(rising))


# --- refusals ---


def _check_round(rnd: Round, scores: Carried = None) -> Carried:
    """Refuse a round without updates; the scores, one for each update."""
    if not rnd.updates:
        raise refusal("rnd", "a Round that holds its updates", rnd)
    if scores is None:
        return None
    found = vector("scores", scores)
    return one_each("scores", found, len(rnd.updates), "updates")
