"""What a participant brought to a federation: games that retrain or replay it, and scores that only look at updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from .config import Config
from .evaluation import correct
from .federate import federate
from .networks.base import init_params
from .shapley import CachedGame, Game, shapley
from .slimmable import Build, State, aggregate, prefix, view
from .types import Round, Samples, Shard

__all__ = [
    "affine_calibration",
    "alignment",
    "class_alignment",
    "class_shapley",
    "contributions",
    "isotonic_calibration",
    "replay_game",
    "retraining_game",
    "update_shapley",
]


Score = Callable[[State, Round, np.ndarray | None], np.ndarray]  # theta before, the round, scores so far -> scores


def _worth(build: Build, theta: State, validation: Samples) -> float:
    """The validation accuracy of the full network."""
    return float(correct(view(build, theta, 1.0), validation).mean())


def retraining_game(
    build: Build, shards: Sequence[Shard], config: Config, validation: Samples, **options: Any
) -> CachedGame:
    r"""Make a game of a federation: a coalition is worth the accuracy of the network that it trains without the others.

    $v(S)$ is the validation accuracy, at full width, of :func:`~aequa_lite.federate` over the shards of $S$ with the same seed, rounds
    and local steps; $v(\emptyset)$ is that of the initial network, which everyone has for nothing. A coalition is trained
    once and remembered: the coalitions of 5 participants are 31 trainings. ``options`` go to :func:`~aequa_lite.federate`.

    Raises:
        ValueError: shards and recipe do not fit together.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=1, local_steps=1)
        >>> game = retraining_game(aq.MLP, aq.data.homogeneous(data.train, config), config, data.validation)
        >>> bool(np.isclose(aq.shapley(game, 2).sum(), game({0, 1}) - game(())))
        True

    Source: ours; data Shapley (Ghorbani and Zou 2019) with participants in place of samples.
    """
    if len(shards) != config.participants:
        raise ValueError(
            f"shards holds {len(shards)}; allowed is one for each of the {config.participants} participants"
        )

    start = init_params(build, config.seed, shards[0].samples.y.device)

    def worth(coalition: frozenset[int]) -> float:
        if not coalition:
            return _worth(build, start, validation)
        chosen = [shards[i] for i in sorted(coalition)]
        fewer = replace(config, participants=len(chosen))
        for last in federate(build, chosen, fewer, **{"progress": False, **options}):
            theta = last.theta
        return _worth(build, theta, validation)

    return CachedGame(worth)


def replay_game(build: Build, before: State, rnd: Round, validation: Samples) -> CachedGame:
    r"""Make a game of one round: a coalition is worth the accuracy after merging its updates and no others.

    $v(S)$ is the validation accuracy, at full width, of ``merge(before, updates of S)``; $v(\emptyset)$ is that of
    ``before``, the state at the start of the round. Nothing is trained. Whoever was left out of the round changes nothing.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=1, local_steps=1)
        >>> (rnd,) = aq.federate(aq.MLP, aq.data.homogeneous(data.train, config), config, progress=False)
        >>> game = replay_game(aq.MLP, aq.init_params(aq.MLP, config.seed), rnd, data.validation)
        >>> game({0, 1}) == float(aq.accuracy([aq.slim(aq.MLP, rnd.theta, 1.0)], data.validation)[0])
        True

    Source: the game of GTG-Shapley (Liu et al. 2022).
    """

    def worth(coalition: frozenset[int]) -> float:
        chosen = (rnd.updates[i] for i in sorted(coalition))
        kept = [(u.state, u.weight) for u in chosen if u.participant not in rnd.left_out]
        return _worth(build, aggregate(before, kept), validation)

    return CachedGame(worth)


def contributions(score: Score, rounds: Iterable[Round], start: State) -> Iterator[np.ndarray]:
    r"""Carry a score through the rounds and yield everybody's contribution after each, (participants,).

    A score is a function $c_t = \mathrm{score}(\theta_{t-1}, \mathrm{round}_t, c_{t-1})$, with $c$ None before the first round:
    :func:`~aequa_lite.alignment`, :func:`~aequa_lite.contribution.class_alignment`, :func:`~aequa_lite.contribution.class_shapley`, or what :func:`~aequa_lite.contribution.update_shapley` returns. ``start``:
    the state before the first round, which is ``initial(build, recipe.seed)`` where the run began.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=3, local_steps=1)
        >>> rounds = aq.federate(aq.MLP, aq.data.homogeneous(data.train, config), config, progress=False)
        >>> *_, contribution = contributions(alignment, rounds, aq.init_params(aq.MLP, config.seed))
        >>> contribution.shape
        (2,)

    Source: ours.
    """
    before, scores = start, None
    for rnd in rounds:
        scores = score(before, rnd, scores)
        before = rnd.theta
        yield scores


def update_shapley(
    build: Build,
    validation: Samples,
    *,
    solve: Callable[[Game, int], np.ndarray] = shapley,
    tolerance: float = 0.0,
) -> Score:
    r"""Score by the Shapley value of every round's own game, summed over the rounds; nothing is trained again.

    $c_i = \sum_t \varphi_i(v_t)$ with $v_t$ from :func:`~aequa_lite.contribution.replay_game`: the scores sum to what the accuracy rose by during
    training. Costs $2^n$ evaluations a round. ``solve``: how a game is solved (another: :func:`~aequa_lite.shapley.sampled_shapley`); a round
    whose merge moved the accuracy by less than ``tolerance`` (0: none) is skipped.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=2, local_steps=1)
        >>> rounds = aq.federate(aq.MLP, aq.data.homogeneous(data.train, config), config, progress=False)
        >>> score = update_shapley(aq.MLP, data.validation)
        >>> len(list(contributions(score, rounds, aq.init_params(aq.MLP, config.seed))))
        2

    Source: GTG-Shapley (Liu et al. 2022) with each round solved exactly; their guided sampling is left out.
    """

    def score(before: State, rnd: Round, scores: np.ndarray | None) -> np.ndarray:
        n = len(rnd.updates)
        game = replay_game(build, before, rnd, validation)
        idle = abs(game(range(n)) - game(())) < tolerance
        return (np.zeros(n) if scores is None else scores) + (np.zeros(n) if idle else solve(game, n))

    return score


def _weights(rnd: Round) -> np.ndarray:
    """Everybody's share in the merge, (participants,), summing to one; none for whoever was left out."""
    mass = np.array([0.0 if u.participant in rnd.left_out else u.weight for u in rnd.updates])
    return mass / mass.sum()


def _change(before: Tensor, after: Tensor) -> Tensor:
    """What one tensor changed by, zero where the participant did not hold the entry."""
    moved = torch.zeros_like(before)
    block = prefix(after.shape)
    moved[block] = after - before[block]
    return moved


def _changes(before: State, rnd: Round, join: Callable[[Mapping[str, Tensor]], Tensor]) -> np.ndarray:
    """What each participant changed, (participants, ...), its tensors joined into one; zero for whoever was left out."""
    found = []
    for u in rnd.updates:
        kept = before if u.participant in rnd.left_out else u.state
        joined = join({k: _change(before[k], t) for k, t in kept.items() if t.is_floating_point()})
        found.append(joined.cpu().numpy())
    return np.stack(found)


def _everything(state: Mapping[str, Tensor]) -> Tensor:
    """All of a state as one vector."""
    return torch.cat([t.flatten() for t in state.values()])


def _last_layer(state: Mapping[str, Tensor]) -> Tensor:
    """The last matrix of a state with its bias as a last column: a row for each class."""
    name = [k for k, t in state.items() if t.ndim == 2][-1]
    bias = state.get(name.removesuffix("weight") + "bias")
    return state[name] if bias is None else torch.cat([state[name], bias[:, None]], dim=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors brought to length one along the last axis; a zero stays a zero, and is aligned with nothing."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def alignment(
    before: State, rnd: Round, scores: np.ndarray | None = None, *, alpha: float = 0.95, floor: float = 1e-3
) -> np.ndarray:
    r"""Score by how well an update points where all point together, with a memory of the rounds before.

    With updates of length one $u_i = \Delta_i / \lVert\Delta_i\rVert$ and $u = \sum_j r_j u_j$ (in the first round $r$ is the
    share in the merge), $r_i \leftarrow \alpha r_i + (1 - \alpha) \cos(u_i, u)$, not below ``floor``, brought to sum one. The
    memory starts at zero. ``before``: the state at the start of the round; ``scores``: $r$ after the round before.

    Example:
        >>> start = {"w": torch.zeros(2)}
        >>> from aequa_lite import Round, Update
        >>> sent = [Update(i, 1.0, {"w": torch.tensor(d)}, 0.5, 0.0) for i, d in enumerate(([1.0, 0.0], [1.0, 1.0]))]
        >>> alignment(start, Round(0, start, (1.0, 1.0), 0.0, 4, updates=tuple(sent))).round(6).tolist()
        [0.5, 0.5]

    Source: CGSV (Xu et al. 2021), as its released code computes it; its rewards are another matter.
    """
    units = _unit(_changes(before, rnd, _everything))  # (participants, entries)
    together = (_weights(rnd) if scores is None else scores) @ units
    memory = 0.0 if scores is None else scores
    r = np.maximum(alpha * memory + (1 - alpha) * (units @ _unit(together)), floor)
    return r / r.sum()


def _smoothed(scores: np.ndarray | None, found: np.ndarray, memory: float) -> np.ndarray:
    """The moving average that begins at its first value."""
    return found if scores is None else memory * scores + (1 - memory) * found


def class_alignment(before: State, rnd: Round, scores: np.ndarray | None = None, *, memory: float = 0.9) -> np.ndarray:
    r"""Score by one cosine for each class, of the last layer's rows: what ShapFed's released code computes.

    $\phi_i = \frac1K \sum_k \cos(g_{ik}, g_k)$ with $g_{ik}$ the change of row $k$ of the last layer (weights and bias) and
    $g_k = \sum_j \omega_j g_{jk}$ over everybody, $\omega$ the shares in the merge; with $\mu$ the ``memory``,
    $\gamma \leftarrow \mu\gamma + (1 - \mu)\phi$ from $\gamma = \phi$. Only the coalition of all appears in it, so it is no
    Shapley value; see :func:`~aequa_lite.contribution.class_shapley`.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=1, local_steps=1)
        >>> (rnd,) = aq.federate(aq.MLP, aq.data.homogeneous(data.train, config), config, progress=False)
        >>> bool((class_alignment(aq.init_params(aq.MLP, config.seed), rnd) > 0.5).all())
        True

    Source: the released code of ShapFed (Tastan et al. 2024).
    """
    rows = _changes(before, rnd, _last_layer)  # (participants, classes, columns)
    together = np.einsum("i,ikd->kd", _weights(rnd), rows)
    return _smoothed(scores, (_unit(rows) * _unit(together)).sum(-1).mean(1), memory)


def _class_cosine(rows: np.ndarray, weights: np.ndarray, coalition: frozenset[int]) -> float:
    """How well a coalition's rows point where everybody's do, averaged over the classes; nobody's do not at all."""
    some = np.zeros_like(weights)
    some[sorted(coalition)] = weights[sorted(coalition)]
    part, whole = (_unit(np.einsum("i,ikd->kd", w, rows)) for w in (some, weights))
    return float((part * whole).sum(-1).mean())


def class_shapley(before: State, rnd: Round, scores: np.ndarray | None = None, *, memory: float = 0.9) -> np.ndarray:
    r"""Score by the Shapley value over coalitions of the class-wise cosine: class-specific Shapley values as a formula.

    $\phi_i = \frac1K \sum_k \varphi_i(v_k)$ with $v_k(S) = \cos\bigl(\sum_{j \in S} \omega_j g_{jk}, g_k\bigr)$ and
    $v_k(\emptyset) = 0$, in the words of :func:`~aequa_lite.contribution.class_alignment`; the values of one round sum to one. The Shapley value is
    additive in the game, so the games of the classes are averaged and only one is solved.

    Raises:
        ValueError: more than 12 participants.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=1, local_steps=1)
        >>> (rnd,) = aq.federate(aq.MLP, aq.data.homogeneous(data.train, config), config, progress=False)
        >>> round(float(class_shapley(aq.init_params(aq.MLP, config.seed), rnd).sum()), 5)
        1.0

    Source: class-specific Shapley values of ShapFed (Tastan et al. 2024); that the game is this one is our reading.
    """
    rows = _changes(before, rnd, _last_layer)  # (participants, classes, columns)
    game = partial(_class_cosine, rows, _weights(rnd))
    return _smoothed(scores, shapley(game, len(rnd.updates)), memory)


def _scores(scores: Any) -> np.ndarray:
    """One finite number for each participant, (n,)."""
    s = np.array(scores, dtype=float)
    if s.ndim != 1 or len(s) == 0 or not np.isfinite(s).all():
        raise ValueError(f"scores is {s.tolist()!r}; allowed is one finite number for each participant")
    return s


def affine_calibration(scores: Any, low: float, high: float) -> np.ndarray:
    r"""Stretch scores over the accuracies from ``low`` to ``high``: order and proportions of differences are kept.

    $B_i = \mathrm{low} + (\mathrm{high} - \mathrm{low})\,\frac{s_i - \min s}{\max s - \min s}$. The lowest score becomes ``low``,
    the highest ``high``, such as the accuracy alone of the weakest and the best participant; where all scores are equal,
    all become the middle. Scale and zero of the scores do not matter.

    Raises:
        ValueError: a score is not finite, or not 0 <= low <= high <= 1.

    Example:
        >>> affine_calibration([-1.0, 0.0, 3.0], low=0.5, high=0.75).tolist()
        [0.5, 0.5625, 0.75]

    Source: ours.
    """
    s = _scores(scores)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"low is {low!r} and high {high!r}; allowed are accuracies with 0 <= low <= high <= 1")
    range_ = s.max() - s.min()
    share = (s - s.min()) / range_ if range_ > 0 else np.full(len(s), 0.5)
    return low + (high - low) * share


def isotonic_calibration(scores: Any, known: Mapping[int, float]) -> np.ndarray:
    r"""Map scores onto the accuracies of those participants whose accuracy alone is known.

    The known accuracies, made to rise with the score by isotonic regression (equal scores share their mean), joined by
    straight lines and constant beyond the ends: a higher score never becomes a lower accuracy, and nobody leaves the
    range of what is known. ``known``: participant -> accuracy alone.

    Raises:
        ValueError: a score is not finite, nothing is known, or a known participant or accuracy does not exist.

    Example:
        >>> isotonic_calibration([0.1, 0.2, 0.3, 0.9], known={0: 0.5, 2: 0.75}).tolist()
        [0.5, 0.625, 0.75, 0.75]

    Source: isotonic regression (Barlow et al. 1972); its use here is ours.
    """
    s = _scores(scores)
    if not known or not all(i in range(len(s)) and 0 <= a <= 1 for i, a in known.items()):
        raise ValueError(
            f"known is {dict(known)!r}; allowed are accuracies in [0, 1] of at least one of the {len(s)} participants"
        )
    at, where, how_many = np.unique(s[list(known)], return_inverse=True, return_counts=True)
    mean = np.bincount(where, weights=list(known.values())) / how_many
    rising = isotonic_regression(mean, weights=how_many).x
    return np.interp(s, at, np.maximum.accumulate(rising))
