"""Federations of linear models with every constant of the theorems, and what they really did, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from ..config import Config
from ..federate import federate, slimmable
from ..local import shares
from ..networks.base import n_units
from ..rng import stream
from ..types import Samples, Shard
from .linear_models import Logistic, Squares
from .sampling import Distribution, recorded_steps, sampled_from

__all__ = ["LinearFederation", "Moments", "regression"]


class Moments(NamedTuple):
    """What the bounds ask for at one local step; arrays where several steps are meant.

    ``square``: the objective's squared gradient; ``noise``: the variance of the merged gradient; ``scatter``: the
    variance that merging removes; ``heterogeneity``: how far the participants' gradients are from their average,
    squared.

    Example:
        >>> Moments(1.0, 0.5, 0.5, 0.0).noise
        0.5
    """

    square: Any
    noise: Any
    scatter: Any
    heterogeneity: Any


@dataclass(frozen=True, eq=False)
class LinearFederation:
    r"""Hold linear models of several participants: the data, and with them every constant of the theorems.

    ``net``: :class:`~aequa_lite.theory.Squares` or :class:`~aequa_lite.theory.Logistic`; ``x``: (participants, samples, features); ``y``: (participants,
    samples); ``config``: without momentum and with a constant learning rate; ``law``: widest -> the sets of widths
    that a step may train, with probabilities; ``given``: (participants,) the widths that the participants receive
    (default: full); ``weights``: their merge weights (default: equal); ``start``: where training begins (default: 0).

    Raises:
        ValueError: the recipe is not one that the theorems are about.

    Example:
        >>> import aequa_lite as aq
        >>> plain = Config(participants=1, momentum=0.0, lr_final=1.0, batch=2)
        >>> law = lambda widest: [((1.0,), 1.0)]
        >>> known = LinearFederation(Squares, np.eye(2)[None], np.ones((1, 2)), plain, law)
        >>> known.smooth, known.least[0].round(6).tolist()
        (0.5, [1.0, 1.0])
    """

    net: type[Squares] | type[Logistic]
    x: np.ndarray
    y: np.ndarray
    config: Config
    law: Callable[[float], Distribution]
    given: Sequence[float] | None = None
    weights: Sequence[float] | None = None
    start: Any = None

    def __post_init__(self) -> None:
        r = self.config
        outside = [n for n in ("momentum", "weight_decay", "distill", "proximal") if getattr(r, n)]
        if outside or r.lr_final != 1 or r.participation != 1:
            what = ", ".join(outside) or "lr_final or participation"
            raise ValueError(
                f"recipe has {what} set; allowed is plain SGD: momentum=0.0, lr_final=1.0, participation=1.0"
            )

    @cached_property
    def a(self) -> np.ndarray:
        """The merge weights, (participants,), summing to one."""
        raw = np.ones(len(self.x)) if self.weights is None else np.asarray(self.weights, dtype=float)
        return raw / raw.sum()

    @cached_property
    def widths(self) -> tuple[float, ...]:
        """What each participant receives."""
        return (1.0,) * len(self.x) if self.given is None else tuple(self.given)

    @cached_property
    def held(self) -> np.ndarray:
        """Which entries each participant holds, (participants, features) bool."""
        d = self.x.shape[2]
        return np.arange(d) < np.array([n_units(w, d) for w in self.widths])[:, None]

    @cached_property
    def mass(self) -> np.ndarray:
        """The merge weight of those who hold each entry, (features,); entries that nobody holds never move."""
        return np.maximum(self.a @ self.held, 1e-300)

    @cached_property
    def groups(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Who holds each width handed out, its masks (masks, features), each draw's weights on them, and its chance."""
        d, found = self.x.shape[2], []
        for widest in sorted(set(self.widths)):
            sets, chances = zip(*self.law(widest), strict=True)
            sizes = [[n_units(w, d) for w in sorted(each, reverse=True)] for each in sets]
            kept = sorted({k for each in sizes for k in each})
            reweight = np.zeros((len(sets), len(kept)))
            for row, each, counts in zip(reweight, sets, sizes, strict=True):
                np.add.at(row, np.searchsorted(kept, counts), shares(sorted(each, reverse=True), self.config))
            who = np.flatnonzero(np.array(self.widths) == widest)
            found.append((who, np.arange(d) < np.array(kept)[:, None], reweight, np.array(chances)))
        return found

    @cached_property
    def curved(self) -> np.ndarray:
        """The second derivative of each participant's loss where it is largest, (participants, features, features)."""
        second = self.net.steepest * np.einsum("isd,ise->ide", self.x, self.x) / self.x.shape[1]
        for who, masks, reweight, chances in self.groups:
            second[who] *= np.einsum("m,md,me->de", chances @ reweight, masks, masks)
        return second

    @cached_property
    def smooth(self) -> float:
        r"""$L$: the largest curvature that any participant's width-averaged loss has anywhere."""
        return float(np.linalg.eigvalsh(self.curved)[:, -1].max())

    @cached_property
    def curvature(self) -> float:
        r"""$\mu$: the smallest curvature of the objective in the norm of the merge; 0 for :class:`~aequa_lite.theory.Logistic`, which flattens."""
        root = np.sqrt(self.mass)
        whole = np.einsum("i,ide->de", self.a, self.curved) / np.outer(root, root)
        return float(np.linalg.eigvalsh(whole)[0]) if self.net is Squares else 0.0

    @cached_property
    def unlike(self) -> float:
        r"""$\delta \le L$: what participants who moved apart do to the gradient; 0 for least squares of equal curvature."""
        if self.net is not Squares:
            return self.smooth
        n, d = self.held.shape
        root = np.sqrt(self.a)
        apart = np.eye(n * d).reshape(n, d, n, d)  # x_i -> x_i less the holders' average, in units of sqrt(a_i) x_i
        both = self.held[:, :, None] * self.held.T[None]  # (participants, features, participants)
        for e in range(d):
            apart[:, e, :, e] -= np.outer(root, root) * both[:, e] / self.mass[e]
        merged = np.einsum("i,ide,iejf->djf", root, self.curved, apart) / np.sqrt(self.mass)[:, None, None]
        return float(np.linalg.norm(merged.reshape(d, n * d), 2))

    def value(self, theta: np.ndarray) -> float:
        r"""The objective: $F(\theta) = \sum_i a_i\,\mathbb E_{W \sim q_i}\sum_{v \in W} s_v f_i(M_v\theta)$."""
        total = 0.0
        for who, masks, reweight, chances in self.groups:
            score = (masks * theta) @ self.x[who].transpose(0, 2, 1)  # (who, masks, samples)
            total += float(self.a[who] @ self.net.loss(score, self.y[who][:, None]).mean(2) @ (chances @ reweight))
        return total

    def _slopes(self, points: np.ndarray, who: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """The loss's derivative by the score, each participant at its own point, (who, masks, samples)."""
        score = (masks * points[who][:, None]) @ self.x[who].transpose(0, 2, 1)
        return self.net.slope(score, self.y[who][:, None])

    def gradients(self, points: np.ndarray) -> np.ndarray:
        """The gradient of each participant's width-averaged loss at its own point, (participants, features)."""
        found = np.zeros_like(points)
        for who, masks, reweight, chances in self.groups:
            each = self._slopes(points, who, masks) @ self.x[who] * masks / self.x.shape[1]  # (who, masks, features)
            found[who] = np.einsum("m,imd->id", chances @ reweight, each)
        return found

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """The gradient of the objective, (features,)."""
        return self.a @ self.gradients(np.broadcast_to(theta, self.held.shape) * 1.0)

    @cached_property
    def least(self) -> tuple[np.ndarray, float]:
        """Where the objective is least, and how little that is."""
        options = {"gtol": 1e-11, "maxiter": 10_000}
        found = minimize(self.value, np.zeros(self.x.shape[2]), jac=self.gradient, method="BFGS", options=options)
        return found.x, float(found.fun)

    def merged(self, states: np.ndarray) -> np.ndarray:
        """The merge of the participants' states, (..., participants, features) -> (..., features)."""
        return np.einsum("i,id,...id->...d", self.a, self.held, states) / self.mass

    def moments(self, states: np.ndarray) -> Moments:
        """What the bounds ask for when participant i is at ``states[i]``, (participants, features)."""
        spread = self.variances(states)  # (participants, features)
        each = self.gradients(np.broadcast_to(self.merged(states), states.shape) * 1.0)
        average = self.a @ each / self.mass
        a = self.a[:, None]
        return Moments(
            square=float((self.mass * average**2).sum()),
            noise=float((a**2 * spread / self.mass).sum()),
            scatter=float((a * (1 - a / self.mass) * self.held * spread).sum()),
            heterogeneity=float(self.a @ ((each - self.held * average) ** 2).sum(1)),
        )

    def variances(self, points: np.ndarray) -> np.ndarray:
        """The variance of each stochastic gradient, of the widths and of the batch in them, (participants, features)."""
        found, count = np.zeros_like(points), self.x.shape[1]
        batch = min(self.config.batch, count)
        for who, masks, reweight, chances in self.groups:
            slope, x = self._slopes(points, who, masks), self.x[who]
            mean = np.einsum("wm,imd->iwd", reweight, slope @ x * masks / count)
            widths = np.einsum("w,iwd->id", chances, (mean - np.einsum("w,iwd->id", chances, mean)[:, None]) ** 2)
            found[who] = widths
            if batch < count:
                every = np.einsum("wm,ims,md->iwsd", reweight, slope, masks * 1.0, optimize=True) * x[:, None]
                share = (count - batch) / (batch * (count - 1))  # drawn without putting back
                found[who] += share * np.einsum("w,iwd->id", chances, every.var(2))
        return found

    @cached_property
    def build(self) -> Callable[[float], nn.Module]:
        """The constructor of the network, for the loop."""
        return partial(self.net, features=self.x.shape[2], start=self.start)

    @cached_property
    def shards(self) -> list[Shard]:
        """The data as the loop takes it."""
        labels = np.zeros_like(self.y) if self.net is Squares else self.y
        whole = torch.from_numpy(np.concatenate([self.x, self.y[..., None]], 2).astype(float))
        places = np.arange(self.y.shape[1])
        return [Shard(i, Samples(w, torch.from_numpy(c.astype(int)), 2), places) for i, (w, c) in
                enumerate(zip(whole, labels, strict=True))]  # fmt: skip

    def run(self, seed: int = 0) -> np.ndarray:
        """Train together once; where every local step began and the end: (rounds * steps + 1, participants, features)."""
        path: dict[tuple[int, int], Mapping[str, Tensor]] = {}
        config = replace(self.config, seed=seed)
        strategy = recorded_steps(slimmable(self.build, sampled_from(self.law)), path)
        *_, last = federate(self.build, self.shards, config, strategy=strategy, weights=self.a, count=1,
                            policy=lambda config, last: self.widths, progress=False)  # fmt: skip
        found = np.zeros((config.rounds * config.local_steps + 1, *self.held.shape))
        for (step, i), state in path.items():
            kept = state["weight"].numpy()
            found[step, i, : len(kept)] = kept
        found[-1] = self.held * last.theta["weight"].numpy()
        return found

    def along(self, path: np.ndarray) -> Moments:
        """The moments along a run, each (rounds, steps)."""
        rows = np.array([self.moments(states) for states in path[:-1]])
        return Moments(*rows.T.reshape(4, self.config.rounds, self.config.local_steps))


def regression(
    config: Config,
    law: Callable[[float], Distribution],
    *,
    net: type[Squares] | type[Logistic] = Squares,
    features: int = 8,
    samples: int = 16,
    correlation: float = 0.1,
    apart: float = 1.0,
    steepness: Sequence[float] | None = None,
    given: Sequence[float] | None = None,
) -> LinearFederation:
    r"""Make a federation of linear models from the recipe's seed, with the heterogeneity that is asked for.

    Participant $i$'s features have the second moments $h_i((1-c) I + c\,\mathbf 1\mathbf 1^\top)$ exactly, $c$ =
    ``correlation``, $h_i$ = ``steepness`` (default: 1); its targets follow $\theta_i = \theta + $ ``apart`` $\times$
    noise. For :class:`~aequa_lite.theory.Logistic` the label is whether the target is above 0.

    Example:
        >>> plain = Config(participants=2, momentum=0.0, lr_final=1.0)
        >>> round(regression(plain, lambda widest: [((1.0,), 1.0)], features=2, correlation=0.5).smooth, 6)
        1.5
    """
    rng = stream(config.seed, "regression")
    moments = (1 - correlation) * np.eye(features) + correlation
    h = np.ones(config.participants) if steepness is None else np.asarray(steepness, dtype=float)
    x = np.stack(
        [np.linalg.qr(rng.normal(size=(samples, features)))[0] @ np.linalg.cholesky(samples * s * moments).T for s in h]
    )
    theta = rng.normal(size=features) + apart * rng.normal(size=(config.participants, features))
    y = np.einsum("isd,id->is", x, theta) + 0.1 * rng.normal(size=x.shape[:2])
    return LinearFederation(net, x, y if net is Squares else (y > 0).astype(int), config, law, given)
