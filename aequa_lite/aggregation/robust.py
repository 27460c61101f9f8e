"""Other ways to merge, for rounds in which not everyone can be trusted. Each costs something; chapter 08 measures what.

A merging is a function ``(theta, [(slice, weight), ...]) -> theta`` in the place of :func:`merge`:
``slimmable(build, merging=trimmed(0.2))``. All of them ask entry by entry who holds the entry, and are :func:`merge` in their
limits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from .._validation import change_norm, oversized
from ..rng import stream
from ..slimmable import State, aggregate, prefix

__all__ = ["coordinate_median", "dp_epsilon", "dp_gaussian", "norm_clipping", "norm_screening", "trimmed_mean"]


Aggregator = Callable[[State, Iterable[tuple[State, float]]], dict[str, Tensor]]


Pairs = Iterable[tuple[State, float]]


def norm_clipping(norm: float | None = None) -> Aggregator:
    r"""Merge changes none of which is longer than ``norm``: $\Delta_i \leftarrow \Delta_i \min(1, C / \lVert \Delta_i \rVert)$.

    ``norm`` = None takes the median norm of the round. At infinity it is :func:`~aequa_lite.aggregate`, to the bit.

    Raises:
        ValueError: ``norm`` is not above 0.

    Example:
        >>> theta, long = {"w": torch.zeros(2)}, {"w": torch.tensor([30.0, 40.0])}
        >>> norm_clipping(5.0)(theta, [(long, 1.0), (theta, 1.0)])["w"].tolist()
        [1.5, 2.0]

    Source: norm bounding (Sun et al. 2019); over nested slices ours.
    """
    if norm is not None and not norm > 0:
        raise ValueError(f"norm is {norm!r}; allowed is a number above 0, or None for the round's median")

    def aggregator(theta: State, updates: Pairs) -> dict[str, Tensor]:
        pairs = list(updates)
        most = float(np.median([change_norm(state, theta) for state, _ in pairs])) if norm is None else norm
        return aggregate(theta, [(_shortened(state, theta, most), weight) for state, weight in pairs])

    return aggregator


def _shortened(state: State, theta: State, norm: float) -> State:
    """A slice whose change is no longer than this; the slice itself where it already is."""
    length = change_norm(state, theta)
    if length <= norm:
        return state
    blocks = {k: theta[k][prefix(v.shape)] for k, v in state.items() if v.is_floating_point()}
    return {**state, **{k: t + (norm / length) * (state[k] - t) for k, t in blocks.items()}}


def norm_screening(times: float = 4.0) -> Aggregator:
    """Merge the answers whose change is no larger than ``times`` the round's median (:func:`~aequa_lite._validation.oversized`); leave out the rest.

    Raises:
        ValueError: ``times`` is not a finite number from 1.

    Example:
        >>> theta = {"w": torch.zeros(1)}
        >>> norm_screening()(theta, [({"w": torch.full((1,), size)}, 1.0) for size in (1.0, 2.0, 99.0)])["w"].item()
        1.5

    Source: ours.
    """
    oversized([], {}, times)

    def aggregator(theta: State, updates: Pairs) -> dict[str, Tensor]:
        pairs = list(updates)
        out = oversized([state for state, _ in pairs], theta, times)
        return aggregate(theta, [pair for pair, large in zip(pairs, out, strict=True) if not large])

    return aggregator


def trimmed_mean(share: float = 0.2) -> Aggregator:
    r"""Average each entry over those who hold it, without the ``share`` of largest and the share of smallest values.

    Of $h$ holders, the $\lfloor \mathrm{share} \cdot h \rfloor$ largest and as many of the smallest changes go; the others are
    averaged by their weights. Where two hold an entry nobody is in the middle, so nothing goes. ``trimmed(0)`` is
    :func:`~aequa_lite.aggregate`; towards a half it becomes the median.

    Raises:
        ValueError: ``share`` is outside [0, 0.5).

    Example:
        >>> answers = [({"w": torch.tensor([value])}, 1.0) for value in (1.0, 2.0, 3.0, 99.0)]
        >>> trimmed_mean(0.25)({"w": torch.zeros(1)}, answers)["w"].item()
        2.5

    Source: the trimmed mean (Yin et al. 2018), over those who hold an entry.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"share is {share!r}; allowed is a number from 0 and below 0.5")
    return lambda theta, updates: _ranked(theta, updates, lambda holders: (share * holders + 1e-9).long())


def coordinate_median(theta: State, updates: Pairs) -> dict[str, Tensor]:
    """Take for each entry the middle one of the values of those who hold it; of two middle ones, their weighted mean.

    Weights decide nothing else: who claims ten times the data has one voice. With one or two holders it is :func:`~aequa_lite.aggregate`.

    Example:
        >>> answers = [({"w": torch.tensor([value])}, 1.0) for value in (1.0, 2.0, 99.0)]
        >>> coordinate_median({"w": torch.zeros(1)}, answers)["w"].item()
        2.0

    Source: the coordinate-wise median (Yin et al. 2018), over those who hold an entry.
    """
    return _ranked(theta, updates, lambda holders: ((holders - 1) // 2).clamp_min(0))


def _ranked(theta: State, updates: Pairs, cut: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Average each entry's changes between the ranks that are cut off at both ends; ``cut``: how many of so many holders."""
    pairs = list(updates)

    def entry(name: str, t: Tensor) -> Tensor:
        held = [(state[name], weight) for state, weight in pairs if name in state]
        moved = t.new_full((len(held), *t.shape), math.inf)  # who does not hold an entry stands behind all who do
        for place, (value, _) in enumerate(held):
            moved[place][prefix(value.shape)] = value - t[prefix(value.shape)]
        moved, who = moved.sort(dim=0)
        mass = t.new_tensor([weight for _, weight in held])[who]
        holders = torch.isfinite(moved).sum(0)
        rank = torch.arange(len(held), device=t.device).view(-1, *[1] * t.ndim)
        kept = (rank >= cut(holders)) & (rank < holders - cut(holders))
        push = torch.where(kept, mass * moved, 0).sum(0)
        return t + push / torch.where(kept, mass, 0).sum(0).clamp_min(1e-30)

    known = {name for state, _ in pairs for name in state}
    return {k: entry(k, t) if k in known and t.is_floating_point() else t for k, t in theta.items()}


def dp_gaussian(norm: float, noise: float, seed: int | None = None) -> Aggregator:
    r"""Clip each change to ``norm`` and add Gaussian noise, so that no participant's share in a round can be told for sure.

    $\theta_e \leftarrow \theta_e + (\sum_{i \ni e} a_i \bar\Delta_{i,e} + \sigma C a_{\max}\, z_e) / \sum_{i \ni e} a_i$
    with $\bar\Delta_i$ the change clipped to $C$ = ``norm``, $\sigma$ = ``noise``, $z_e \sim N(0, 1)$. Replacing one answer by
    no change moves the sum by at most $C a_{\max}$, so each round is one Gaussian mechanism (:func:`~aequa_lite.aggregation.dp_epsilon` says what it
    spends). Who takes part, at which width and weight, is taken as known. Entries that nobody holds keep their value.
    ``noise`` = 0 and ``norm`` at infinity is :func:`~aequa_lite.aggregate`. ``seed``: the noise follows from it and from the network as it
    stands, for runs that can be repeated; None takes the operating system's randomness, which a real promise needs.

    Raises:
        ValueError: ``norm`` is not above 0, ``noise`` is negative, or there is noise without a finite norm.

    Example:
        >>> theta, answers = {"w": torch.zeros(1)}, [({"w": torch.ones(1)}, 1.0)]
        >>> [round(dp_gaussian(0.5, noise, seed=0)(theta, answers)["w"].item(), 2) for noise in (0.0, 0.1)] != [0.5, 0.5]
        True

    Source: DP-FedAvg (McMahan et al. 2018); the denominators over nested slices are ours.
    """
    if not norm > 0 or not 0 <= noise < math.inf or (noise and math.isinf(norm)):
        raise ValueError(f"norm is {norm!r} and noise {noise!r}; allowed are norm above 0 and finite noise from 0")
    clip = norm_clipping(norm)

    def aggregator(theta: State, updates: Pairs) -> dict[str, Tensor]:
        pairs = list(updates)
        after, most = clip(theta, pairs), max((weight for _, weight in pairs), default=0.0)
        draws = np.random.default_rng() if seed is None else stream(seed, "privacy", *_fingerprint(theta))

        def blurred(name: str, t: Tensor) -> Tensor:
            mass = torch.zeros_like(t)
            for state, weight in pairs:
                if name in state:
                    mass[prefix(state[name].shape)] += weight
            z = torch.as_tensor(draws.standard_normal(tuple(t.shape)), dtype=t.dtype, device=t.device)
            return t + torch.where(mass > 0, noise * norm * most * z / mass.clamp_min(1e-30), 0)

        if not noise:
            return after
        return {name: blurred(name, t) if t.is_floating_point() else t for name, t in after.items()}

    return aggregator


def _fingerprint(theta: State) -> Iterator[str]:
    """A few digits that change whenever the network does: the noise of every round is another, also in a run that goes on."""
    for name in sorted(theta):
        yield hashlib.sha256(theta[name].detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def dp_epsilon(noise: float, rounds: int, delta: float = 1e-5) -> float:
    r"""Return the $\varepsilon$ of $(\varepsilon, \delta)$-differential privacy that so many noisy rounds have spent.

    A participant is what is protected: its answer in every round, against being replaced by no change. No reduction
    is claimed for rounds in which it was not drawn. Needs opacus (``pip install "aequa-lite[privacy]"``).

    Raises:
        ValueError: ``noise`` is not above 0, ``rounds`` is not a whole number from 1, or ``delta`` is outside (0, 1).
        ImportError: opacus is not installed.

    Example:
        >>> dp_epsilon(0.0, 20)
        Traceback (most recent call last):
        ValueError: noise is 0.0; allowed is a finite number above 0

    Source: Rényi accounting (Mironov 2017) by opacus.
    """
    if not 0 < noise < math.inf:
        raise ValueError(f"noise is {noise!r}; allowed is a finite number above 0")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds is {rounds!r}; allowed is a whole number from 1")
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta!r}; allowed is a number between 0 and 1")
    try:
        from opacus.accountants import RDPAccountant  # late: not everybody needs it, and it takes seconds to import
    except ImportError as error:
        raise ImportError('epsilon is computed by opacus: pip install "aequa-lite[privacy]"') from error
    accountant = RDPAccountant()
    accountant.history = [(noise, 1.0, rounds)]
    return float(accountant.get_epsilon(delta))
