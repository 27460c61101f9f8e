"""Accuracy by width with its uncertainty; the monotone fit; from an accuracy to the smallest width that reaches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor, nn

from ._parallel import workers
from .config import Config
from .slimmable import Build, bind, fractional_slice, fractional_slim, grid_width, slice_of, slim, split_stem, template
from .types import Samples

__all__ = ["Curve", "accuracy", "accuracy_curve", "correct", "curve_diagnostics", "model_at", "reward_curve", "widths"]


@dataclass(frozen=True, eq=False)
class Curve:
    r"""Hold the shared network's accuracy at each width, measured on ``samples`` samples.

    ``widths`` (K,) rising in (0, 1]; ``accuracy`` (K,) in [0, 1]; ``correct`` (K, samples) bool, where it is known which
    samples were right; ``fraction_grid``: the grid between whose multiples units fade in (:func:`~aequa_lite.fractional_slim`), if they do.
    The standard error is $\sqrt{\tilde a(1-\tilde a)/n}$ with $\tilde a = (na + 1)/(n + 2)$, which
    stays above zero at $a = 0$ and $a = 1$.

    Raises:
        ValueError: widths do not rise within (0, 1], accuracies leave [0, 1], lengths differ, or there are no samples.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
        >>> curve.width_at(0.55), curve.levels.tolist()
        (0.5, [0.3, 0.6, 0.8])

    Source: isotonic regression (Barlow et al. 1972), weighted by precision; its use here is ours.
    """

    widths: Any
    accuracy: Any
    samples: int
    correct: Any = None
    fraction_grid: int | None = None

    def __post_init__(self) -> None:
        for name in ("widths", "accuracy"):
            values = np.array(getattr(self, name), dtype=float)
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        _check_curve(self)

    @property
    def standard_error(self) -> np.ndarray:
        """The standard error of each accuracy, (K,)."""
        a = (self.samples * self.accuracy + 1) / (self.samples + 2)
        return np.sqrt(a * (1 - a) / self.samples)

    @cached_property
    def _blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """The monotone fit (K,) and where its blocks begin (levels + 1,); blocks of equal height are one."""
        if (np.diff(self.accuracy) > 0).all():
            return self.accuracy, np.arange(len(self.accuracy) + 1)
        fitted = isotonic_regression(self.accuracy, weights=self.standard_error**-2.0).x
        fitted = np.maximum.accumulate(np.clip(fitted, 0, 1))
        starts = np.flatnonzero(np.diff(fitted, prepend=-1.0) > 1e-12)
        return fitted, np.append(starts, len(fitted))

    @property
    def fitted(self) -> np.ndarray:
        """The monotone fit (K,), an isotonic regression weighted by precision."""
        return self._blocks[0]

    @property
    def levels(self) -> np.ndarray:
        """The attainable accuracies in rising order, one for each block of the fit."""
        return self.fitted[self._blocks[1][:-1]]

    @property
    def level_widths(self) -> np.ndarray:
        """The smallest width that attains each level."""
        return self.widths[self._blocks[1][:-1]]

    @property
    def least(self) -> float:
        """The lowest attainable accuracy."""
        return float(self.levels[0])

    @property
    def full(self) -> float:
        """The highest attainable accuracy."""
        return float(self.levels[-1])

    def width_at(self, accuracy: float) -> float:
        """Return the smallest width whose fitted accuracy reaches this one.

        Raises:
            ValueError: not even the full width reaches it.
        """
        if not accuracy <= self.full:
            raise ValueError(f"accuracy is {accuracy!r}; allowed is a number up to the full width's {self.full:.4f}")
        return float(self.level_widths[np.searchsorted(self.levels, accuracy - 1e-12)])


def _check_curve(curve: Curve) -> None:
    """Refuse what is not a curve."""
    w, a = curve.widths, curve.accuracy
    if w.ndim != 1 or len(w) == 0 or not ((w > 0) & (w <= 1)).all() or not (np.diff(w) > 0).all():
        raise ValueError(f"widths is {w.tolist()!r}; allowed are rising numbers in (0, 1]")
    if a.shape != w.shape or not ((a >= 0) & (a <= 1)).all():
        raise ValueError(f"accuracy is {a.tolist()!r}; allowed are {len(w)} numbers in [0, 1], one for each width")
    if isinstance(curve.samples, bool) or int(curve.samples) != curve.samples or curve.samples < 1:
        raise ValueError(f"samples is {curve.samples!r}; allowed is a whole number from 1")
    if curve.correct is not None and np.shape(curve.correct) != (len(w), curve.samples):
        raise ValueError(f"hits has shape {np.shape(curve.hits)}; allowed is {(len(w), curve.samples)}")


def curve_diagnostics(curve: Curve, contribution: Any) -> dict[str, Any]:
    r"""Say whether the curve is a good currency for these contributions: its top, its range, its small change.

    With the largest common gain $\tau = u - \max B$, rewards lie between $\min B + \tau$ and $u$. Returns ``top``
    ($\tau$ itself), ``bottom`` (how far the least width lies below the lowest reward), ``covers`` (it does),
    ``largest_step`` between neighbouring levels where rewards lie, ``noise`` (two standard errors of the curve there, at
    least one point), ``least_width`` (the widest ``min_width`` that would still cover), and ``advice`` in one sentence.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
        >>> curve_diagnostics(curve, [0.4, 0.9])["advice"]
        'the full width is below the best participant alone: train longer together, or weight the merge'

    Source: ours.
    """
    b = np.asarray(contribution, dtype=float)
    levels, tau = curve.levels, curve.full - float(b.max())
    lowest = float(b.min()) + tau
    first = max(int(np.searchsorted(levels, lowest + 1e-12, side="right")) - 1, 0)  # the level at or below it
    near = curve.accuracy >= levels[first] - 1e-12
    steps = np.diff(levels[first:])
    found = {
        "top": tau,
        "bottom": lowest - curve.least,
        "covers": bool(lowest >= curve.least - 1e-12),
        "largest_step": float(steps.max()) if len(steps) else 0.0,
        "noise": max(0.01, 2 * float(np.median(curve.standard_error[near]))),
        "least_width": float(curve.level_widths[first]),
    }
    return {**found, "advice": _advice(found, float(curve.widths[0]))}


def _advice(found: dict[str, Any], least: float) -> str:
    """The first thing to change, in one sentence."""
    if found["top"] < 0:
        return "the full width is below the best participant alone: train longer together, or weight the merge"
    if not found["covers"]:
        return "the least width is too good for the weakest participant: lower min_width"
    if found["largest_step"] > found["noise"]:
        return "neighbouring attainable accuracies are far apart: let units fade in (reward_curve), or use more units"
    if found["least_width"] > 2 * least:
        return f"the curve reaches further down than any reward: min_width may be raised to {found['least_width']:g}"
    return "the curve covers the contributions with small change"


LEAP = 0.005  # between neighbouring accuracies of a reward curve: half of what noise hides at best


def widths(least: float, most: float = 1.0, grid: int = Config.grid) -> tuple[float, ...]:
    """Return the widths from the least to the most: whole multiples of 1 / ``grid``, and both ends.

    Example:
        >>> widths(0.98)
        (0.98, 0.985, 0.99, 0.995, 1.0)

    Source: our choice; 200 is the number of units in the MLP's hidden layers.
    """
    inner = np.arange(1, grid + 1) / grid
    return (least, *(float(w) for w in inner if least + 1e-9 < w < most - 1e-9), *((most,) if most > least else ()))


@torch.inference_mode()
def correct(net: Callable[[Tensor], Tensor], samples: Samples, batch: int = 1000) -> np.ndarray:
    """Say for every sample whether the network gets it right: (samples,) bool.

    Example:
        >>> import aequa_lite as aq
        >>> test = aq.load("fashion-mini").test
        >>> correct(aq.MLP().eval(), test).shape
        (4000,)
    """
    found = [net(x).argmax(1) == y for x, y in zip(samples.x.split(batch), samples.y.split(batch), strict=True)]
    return torch.cat(found).cpu().numpy()


@torch.inference_mode()
def _outputs(net: nn.Module, x: Tensor) -> Tensor:
    """What a network says."""
    return net(x)


def accuracy(nets: Sequence[nn.Module], samples: Samples) -> np.ndarray:
    """Return the share of samples that each network gets right, (networks,) in [0, 1].

    Example:
        >>> import aequa_lite as aq
        >>> accuracy([aq.MLP(), aq.MLP(0.5)], aq.load("fashion-mini").validation).shape
        (2,)
    """
    return np.array([correct(net.eval(), samples).mean() for net in nets])


def distinct_widths(build: Build, grid: Sequence[float]) -> Iterator[float]:
    """Those widths of the grid at which the network really grows: the smallest width of each size."""
    last = None
    for width in grid:
        shapes = [t.shape for t in template(build, width).state_dict().values()]
        if shapes != last:
            yield width
        last = shapes


def _at(build: Build, theta: Mapping[str, Tensor], width: float, fraction_grid: int | None) -> nn.Module:
    """The network of that width over theta's own memory."""
    if not fraction_grid:
        return bind(template(build, width), slice_of(build, theta, width))
    return bind(template(build, grid_width(width, fraction_grid)), fractional_slice(build, theta, width, fraction_grid))


def accuracy_curve(
    build: Build,
    theta: Mapping[str, Tensor],
    samples: Samples,
    *,
    least: float = 0.02,
    grid: Sequence[float] | None = None,
    count: int | None = None,
    fraction_grid: int | None = None,
) -> Curve:
    r"""Measure the shared network's accuracy at every width: $\hat\phi(w)$ on ``samples``.

    ``grid``: the widths to try (default: :func:`~aequa_lite.widths` from ``least`` to 1); those at which the network does not
    grow are dropped. ``count``: workers. ``fraction_grid``: widths are as :func:`~aequa_lite.fractional_slim` has them with this grid, and none is dropped.
    The curve keeps which samples were right, for paired statistics.

    Example:
        >>> import aequa_lite as aq
        >>> curve = accuracy_curve(aq.MLP, aq.init_params(aq.MLP, 0), aq.load("fashion-mini").validation, grid=(0.5, 1.0))
        >>> curve.widths.tolist(), curve.samples
        ([0.5, 1.0], 2000)
    """
    tried = widths(least) if grid is None else tuple(float(w) for w in grid)
    chosen = tried if fraction_grid else tuple(distinct_widths(build, tried))
    # no copies, for to look is not to change; and the widest one's stem runs once, for all
    nets = [split_stem(_at(build, theta, w, fraction_grid).eval()) for w in chosen]
    with workers(count, samples.y.device) as spread:
        widest, _ = nets[int(np.argmax(chosen))]
        heard = replace(samples, x=torch.cat(list(spread(partial(_outputs, widest), samples.x.split(1000)))))

        def right(net: tuple[nn.Module, nn.Module]) -> np.ndarray:
            stem, head = net
            units = next((t.shape[0] for t in stem.parameters()), None)
            return correct(lambda x: head(x[:, :units]), heard)

        found = np.stack(list(spread(right, nets)))  # (widths, samples)
    return Curve(np.array(chosen), found.mean(1), len(samples), correct=found, fraction_grid=fraction_grid)


def reward_curve(build: Build, theta: Mapping[str, Tensor], samples: Samples, config: Config) -> Curve:
    r"""Measure the curve that rewards are chosen from: every width of the recipe, and where accuracy leaps, widths between.

    Neighbouring widths whose accuracies differ by more than half a point get one between them, and so on until they do not,
    or until they lie 1 / (``grid`` x ``fractions``) apart. ``fractions`` = 0: whole widths only.

    Example:
        >>> import aequa_lite as aq
        >>> data, theta = aq.load("fashion-mini"), aq.init_params(aq.MLP, seed=0)
        >>> [len(reward_curve(aq.MLP, theta, data.validation, aq.Config(fractions=k)).widths) for k in (0, 1)]
        [197, 197]

    Source: ours.
    """
    whole = tuple(distinct_widths(build, widths(config.min_width, grid=config.grid)))
    curve = accuracy_curve(build, theta, samples, grid=whole, fraction_grid=config.grid if config.fractions else None)
    while config.fractions > 1:
        below, above = np.maximum(curve.widths[:-1], curve.widths[1:] - 1 / config.grid), curve.widths[1:]
        leaps = np.abs(np.diff(curve.accuracy)) > LEAP
        inside = leaps & (above - below > 1.5 / (config.grid * config.fractions))
        if not inside.any():
            break
        more = accuracy_curve(build, theta, samples, grid=((below + above) / 2)[inside], fraction_grid=config.grid)
        curve = _merged_curve(curve, more)
    return curve


def model_at(build: Build, theta: Mapping[str, Tensor], curve: Curve, width: float) -> nn.Module:
    """Return the network whose accuracy the curve states at this width, as it goes home: no memory is shared with theta.

    Example:
        >>> import aequa_lite as aq
        >>> curve = Curve((0.05, 0.0525, 0.055), (0.3, 0.35, 0.4), samples=1000, fraction_grid=200)
        >>> aq.n_parameters(model_at(aq.MLP, aq.init_params(aq.MLP, seed=0), curve, 0.0525)) == aq.n_parameters(aq.MLP(0.055))
        True
    """
    return (
        fractional_slim(build, theta, width, curve.fraction_grid) if curve.fraction_grid else slim(build, theta, width)
    )


def _merged_curve(one: Curve, other: Curve) -> Curve:
    """Two curves on the same samples as one."""
    every = np.concatenate([one.widths, other.widths])
    order = np.argsort(every)
    accuracies, right = np.concatenate([one.accuracy, other.accuracy]), np.concatenate([one.correct, other.correct])
    return replace(one, widths=every[order], accuracy=accuracies[order], correct=right[order])
