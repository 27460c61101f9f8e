"""What a coalition would reach without the others: trained, or predicted by a model that is held against trainings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

from .._check import Share, accuracies, checked, one_each, refusal
from ..contribution import CachedGame
from ..evaluation import Curve

Coalition = tuple[int, ...]
Game = Callable[[Coalition], Curve | ArrayLike]


FEWEST = 4  # trained coalitions: three coefficients, and one that is left out


START = (0.1, 0.2, 0.5)  # a, b, c, where the fit begins


def rewards_of(game: Game, members: Coalition) -> NDArray[np.float64]:
    """What each member of a coalition would receive, (members,)."""
    reward = game(members)
    reward = [reward.full] * len(members) if isinstance(reward, Curve) else accuracies("game", reward)
    return np.array(one_each("game", reward, len(members), "members"))


@checked
def trained_game(value: Callable[[frozenset[int]], float]) -> Game:
    r"""Make a game with copies: each member of a coalition may keep its full network, so all receive $v(S)$.

    Args:
        value: $v$, of a frozenset of participants, as `aequa_lite.contribution.retraining_game` returns. Each coalition
            is asked once.

    Returns:
        A game for `blocking_coalitions`, `stable` and `marginal_value`.

    Raises:
        ValueError: `value` is no function.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> value = aq.contribution.retraining_game(aq.MLP, shards, config, data.validation, progress=False)
        >>> game = trained_game(value)
        >>> game((0, 1)) == [value({0, 1})] * 2
        True
    """
    if not callable(value):
        raise refusal("value", "a function of a frozenset of participants", value)
    cached = value if isinstance(value, CachedGame) else CachedGame(value)
    return lambda members: [cached(members)] * len(members)


@dataclass(frozen=True, eq=False)
class PredictedGame:
    """Hold the accuracies of trained coalitions and predict those of the others: a game with copies.

    Args:
        trained: Accuracies of the coalitions that were trained.
        counts: (n, classes) each participant's samples of each class.
        coefficients: a, b and c of `predicted_game`.
        error: Root mean square error on the trained coalitions, each predicted from the others.
        error_of_mean: The same where the mean of the others is predicted.

    Example:
        >>> game = PredictedGame({(0,): 0.5}, np.array([[100], [300]]), (0.1, 0.2, 0.5), 0.01, 0.05)
        >>> game((0,)), game((0, 1))
        ([0.5], [0.7, 0.7])
    """

    trained: Mapping[Coalition, float]
    counts: NDArray[np.int64]
    coefficients: tuple[float, float, float]
    error: float
    error_of_mean: float

    def __call__(self, members: Coalition) -> list[float]:
        members = tuple(sorted(members))
        if members in self.trained:
            return [self.trained[members]] * len(members)
        pooled, covered = _features([members], self.counts)
        return [float(_accuracy(np.array(self.coefficients), pooled, covered)[0])] * len(members)

    @property
    def statement(self) -> str:
        """How far predictions are off, in one sentence."""
        return (
            f"coalitions that were left out were predicted with a root mean square error of {self.error:.3f}, "
            f"and of {self.error_of_mean:.3f} by the mean of the others"
        )


@checked
def predicted_game(trained: Mapping[Collection[int], Share], counts: ArrayLike) -> PredictedGame:
    r"""Predict a coalition's accuracy from its pooled samples and the classes that it holds.

    A network does not predict a class that it has not seen, and on the others its error falls as a power of the samples:

    $$v(S) = k(S)\, \big( 1 - a - b\, (n(S) / n(N))^{-c} \big)$$

    with $n(S)$ the pooled samples, $k(S)$ the share of the classes that somebody in $S$ holds, and $a, b \in [0, 1]$,
    $c \in [0, 2]$ by least squares. Predictions are clipped to [0, 1].

    Args:
        trained: Accuracies of at least 4 coalitions, such as `CachedGame.values`; the empty one is left out.
        counts: (n, classes) each participant's samples of each class, such as `aequa_lite.data.class_counts`.

    Returns:
        A game that returns the trained accuracy where there is one and else the predicted one.

    Raises:
        ValueError: Fewer than 4 coalitions were trained, one is not among the participants, or counts are not whole
            numbers from 0 of which each participant has some.

    Example:
        >>> counts = np.array([[100, 0], [100, 100], [0, 800]])
        >>> trained = {(0,): 0.3, (1,): 0.64, (2,): 0.38, (0, 1): 0.68, (0, 2): 0.78, (1, 2): 0.79}
        >>> game = predicted_game(trained, counts)
        >>> game((0, 1)), game.error < game.error_of_mean
        ([0.68, 0.68], True)

    References:
        The power law of learning curves (Hestness et al. 2017); the factor for classes is our choice.
    """
    table = np.asarray(counts)
    if table.ndim != 2 or table.dtype.kind not in "iu" or not (table >= 0).all() or not table.sum(1).all():
        raise refusal("counts", "whole numbers of shape (n, classes), at least one sample each", counts)
    known = {tuple(sorted(members)): float(value) for members, value in trained.items() if len(members)}
    if len(known) < FEWEST or not set().union(*known) <= set(range(len(table))):
        allowed = f"accuracies of at least {FEWEST} coalitions of participants 0 to {len(table) - 1}"
        raise refusal("trained", allowed, list(known))
    pooled, covered = _features(list(known), table)
    value, every = np.array(list(known.values())), np.arange(len(known))
    apart = [every != i for i in every]
    left_out = [_accuracy(_fitted(pooled[k], covered[k], value[k]), pooled[~k], covered[~k])[0] for k in apart]
    means = [value[k].mean() for k in apart]
    error, error_of_mean = (float(np.sqrt(np.mean((value - found) ** 2))) for found in (left_out, means))
    a, b, c = _fitted(pooled, covered, value).tolist()
    return PredictedGame(known, table, (a, b, c), error, error_of_mean)


def _features(
    coalitions: Collection[Coalition], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each coalition's share of all samples and of all classes."""
    held = np.array([counts[list(members)].sum(0) for members in coalitions])
    classes = counts.sum(0) > 0
    return held.sum(1) / counts.sum(), (held[:, classes] > 0).mean(1)


def _accuracy(
    coefficients: NDArray[np.float64], pooled: NDArray[np.float64], covered: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The stated model."""
    a, b, c = coefficients
    return np.clip(covered * (1 - a - b * pooled**-c), 0, 1)


def _fitted(
    pooled: NDArray[np.float64], covered: NDArray[np.float64], value: NDArray[np.float64]
) -> NDArray[np.float64]:
    """a, b and c by least squares."""
    found = least_squares(lambda x: _accuracy(x, pooled, covered) - value, START, bounds=([0, 0, 0], [1, 1, 2]))
    return found.x
