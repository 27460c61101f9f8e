"""How good a network is: correct samples, accuracy, accuracy by width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor, nn
from torch.func import vmap

from ._check import Count, Fraction, checked, number, refusal
from ._parallel import arithmetic
from ._parallel import workers as pool
from .config import Config
from .slimmable import (
    bind,
    fractional_slice,
    fractional_slim,
    grid_width,
    slim,
    split_stem,
    template,
    view,
)
from .types import Build, Samples, State
from .vectorized import axis_sizes, most_bytes, padded, pass_bytes

__all__ = [
    "Curve", "accuracy", "accuracy_curve", "correct",
    "model_at", "reward_curve", "widths",
]  # fmt: skip

# between neighbouring accuracies of a reward curve: half of the best noise
LARGEST_STEP = 0.005


@arithmetic()
@torch.inference_mode()
@checked
def correct(
    net: Callable[[Tensor], Tensor], samples: Samples, batch: Count = 1000
) -> NDArray[np.bool_]:
    """Return which samples the network classifies correctly, (samples,).

    Batches are moved to the network's device.

    Example:
        >>> import aequa_lite as aq
        >>> test = aq.load("fashion-mini").test
        >>> correct(aq.MLP().eval(), test).shape
        (4000,)
    """
    device = samples.y.device
    if isinstance(net, nn.Module):
        device = next((p.device for p in net.parameters()), device)
    pairs = zip(samples.x.split(batch), samples.y.split(batch), strict=True)
    found = [net(x.to(device)).argmax(1) == y.to(device) for x, y in pairs]
    return torch.cat(found).cpu().numpy()


@checked
def accuracy(
    nets: Sequence[nn.Module], samples: Samples
) -> NDArray[np.float64]:
    """Return each network's accuracy, (networks,) in [0, 1].

    The networks are left in evaluation mode.

    Example:
        >>> import aequa_lite as aq
        >>> samples = aq.load("fashion-mini").validation
        >>> accuracy([aq.MLP(), aq.MLP(0.5)], samples).shape
        (2,)
    """
    return np.array([correct(net.eval(), samples).mean() for net in nets])


@checked
@dataclass(frozen=True, eq=False)
class Curve:
    r"""Hold the accuracy at each width, measured on `samples` samples.

    The standard error is $\sqrt{\tilde a(1-\tilde a)/n}$ with
    $\tilde a = (na + 1)/(n + 2)$, above zero also at $a = 0$ and $a = 1$.

    Args:
        widths: (K,) rising in (0, 1].
        accuracy: (K,) in [0, 1].
        correct: (K, samples) bool, if it is known which were correct.
        fraction_grid: Widths between two multiples of 1 / this grid are
            fractional (`fractional_slim`); None: whole widths only.

    Raises:
        ValueError: Widths do not rise within (0, 1], accuracies leave
            [0, 1], lengths differ, or there are no samples.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
        >>> curve.width_at(0.55), curve.levels.tolist()
        (0.5, [0.3, 0.6, 0.8])

    References:
        Isotonic regression (Barlow et al. 1972), weighted by precision; its
        use here is our choice.
    """

    widths: ArrayLike
    accuracy: ArrayLike
    samples: Count
    correct: NDArray[np.bool_] | None = None
    fraction_grid: Count | None = None

    def __post_init__(self) -> None:
        for name in ("widths", "accuracy"):
            values = np.array(getattr(self, name), dtype=float)
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        w, a = self.widths, self.accuracy
        rises = w.ndim == 1 and len(w) and (np.diff(w, prepend=0) > 0).all()
        if not rises or w[-1] > 1:
            raise refusal("widths", "rising numbers in (0, 1]", w.tolist())
        if a.shape != w.shape or not ((a >= 0) & (a <= 1)).all():
            allowed = f"{len(w)} numbers in [0, 1], one for each width"
            raise refusal("accuracy", allowed, a.tolist())
        shape = (len(w), self.samples)
        found = shape if self.correct is None else np.shape(self.correct)
        if found != shape:
            raise refusal("correct", f"of shape {shape}", found)

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Standard error of each accuracy, (K,)."""
        a = (self.samples * self.accuracy + 1) / (self.samples + 2)
        return np.sqrt(a * (1 - a) / self.samples)

    @cached_property
    def fitted(self) -> NDArray[np.float64]:
        """Monotone fit of the accuracies, (K,)."""
        if (np.diff(self.accuracy) > 0).all():
            return self.accuracy
        precision = self.standard_error**-2.0
        fit = isotonic_regression(self.accuracy, weights=precision).x
        return np.maximum.accumulate(np.clip(fit, 0, 1))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Where the blocks of the fit begin, (levels,)."""
        return np.flatnonzero(np.diff(self.fitted, prepend=-1.0) > 1e-12)

    @property
    def levels(self) -> NDArray[np.float64]:
        """Attainable accuracies, rising: one for each block of the fit."""
        return self.fitted[self._starts]

    @property
    def level_widths(self) -> NDArray[np.float64]:
        """The smallest width that attains each level."""
        return self.widths[self._starts]

    @property
    def least(self) -> float:
        """Lowest attainable accuracy."""
        return float(self.levels[0])

    @property
    def full(self) -> float:
        """Highest attainable accuracy."""
        return float(self.levels[-1])

    def width_at(self, accuracy: float) -> float:
        """Return the smallest width whose fitted accuracy reaches this.

        Raises:
            ValueError: Not even the full width reaches it.
        """
        number("accuracy", accuracy, 0, self.full)
        place = np.searchsorted(self.levels, accuracy - 1e-12)
        return float(self.level_widths[place])


@checked
def widths(
    least: Fraction, *, grid: Count = Config.grid
) -> tuple[float, ...]:
    """Return a width and the multiples of 1 / `grid` above it, up to 1.

    Example:
        >>> widths(0.983)
        (0.983, 0.985, 0.99, 0.995, 1.0)
    """
    steps = [k / grid for k in range(1, grid + 1)]
    return (least, *(w for w in steps if w > least + 1e-9))


def distinct_widths(build: Build, grid: Sequence[float]) -> list[float]:
    """The widths at which the network grows: the smallest of each size."""
    sizes = partial(axis_sizes, build)
    return [next(alike) for _, alike in groupby(grid, sizes)]


def _bound(
    build: Build, theta: State, width: float, fraction_grid: int | None
) -> nn.Module:
    """The network of this width over theta's own memory."""
    if not fraction_grid:
        return view(build, theta, width)
    tensors = fractional_slice(build, theta, width, fraction_grid)
    return bind(template(build, grid_width(width, fraction_grid)), tensors)


@torch.no_grad()
def _correct_at_many_widths(
    build: Build, nets: Sequence[nn.Module], widest: nn.Module,
    samples: Samples, device: torch.device,
) -> NDArray[np.bool_]:  # fmt: skip
    """Which samples are right, (networks, samples): many in one pass."""
    like = widest.state_dict()
    shape, dtype = samples.x.shape[1:], samples.x.dtype
    (own, first), (_, two) = (
        pass_bytes(build, 1.0, (n, *shape), dtype) for n in (1, 2)
    )
    one = two - first  # of a sample; the rest are weights
    batch = min(1000, max(1, most_bytes(device) // (own + one)))
    many = max(1, most_bytes(device) // (own + batch * one))

    def outputs(tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        return bind(widest, dict(zip(like, tensors)))(x)

    found = []
    for first in range(0, len(nets), many):
        states = [net.state_dict() for net in nets[first : first + many]]
        stack = padded(like, states, device)
        right = [
            vmap(outputs, (0, None))(stack, x.to(device)).argmax(2)
            == y.to(device)
            for x, y in zip(samples.x.split(batch), samples.y.split(batch))
        ]
        found.append(torch.cat(right, 1))
    return torch.cat(found).cpu().numpy()


def _correct_one_by_one(
    nets: Sequence[nn.Module], widest: nn.Module, samples: Samples,
    device: torch.device,
) -> NDArray[np.bool_]:  # fmt: skip
    """The same, one network after another, with the same stem."""
    # the widest width's stem runs once: a narrow one's output is its prefix
    stem, _ = split_stem(widest)

    @torch.inference_mode()
    def outputs(x: Tensor) -> Tensor:
        return stem(x.to(device))

    def right(net: nn.Module) -> NDArray[np.bool_]:
        own, head = split_stem(net)
        units = next((t.shape[0] for t in own.parameters()), None)
        return correct(lambda x: head(x[:, :units]), features)

    with pool(device=device) as spread:
        x = torch.cat(list(spread(outputs, samples.x.split(1000))))
        features = replace(samples, x=x, y=samples.y.to(device))
        return np.stack(list(spread(right, nets)))


@arithmetic()
@checked
def accuracy_curve(
    build: Build, theta: State, samples: Samples, *,
    grid: Sequence[Fraction] | None = None,
    least: Fraction = Config.min_width, fraction_grid: Count | None = None,
) -> Curve:  # fmt: skip
    r"""Measure the accuracy at every width, $\hat\phi(w)$ on `samples`.

    Args:
        samples: Moved to the device of theta.
        grid: Widths to measure (default: from `least` to 1). Those at which
            the network does not grow are dropped, unless it is fractional.
        fraction_grid: As in `Curve`.

    Returns:
        The curve; it keeps which samples were correct.

    Example:
        >>> import aequa_lite as aq
        >>> samples = aq.load("fashion-mini").validation
        >>> theta = aq.init_params(aq.MLP, 0)
        >>> curve = accuracy_curve(aq.MLP, theta, samples, grid=(0.5, 1.0))
        >>> curve.widths.tolist(), curve.samples
        ([0.5, 1.0], 2000)
    """
    tried = [float(w) for w in (widths(least) if grid is None else grid)]
    if not fraction_grid:
        tried = distinct_widths(build, tried)
    nets = [_bound(build, theta, w, fraction_grid).eval() for w in tried]
    widest = nets[int(np.argmax(tried))]
    device = next(iter(theta.values())).device
    measure = _correct_one_by_one
    if device.type == "cuda" and not list(widest.buffers()):
        measure = partial(_correct_at_many_widths, build)
    found = measure(nets, widest, samples, device)
    return Curve(tried, found.mean(1), len(samples), found, fraction_grid)


@checked
def reward_curve(
    build: Build, theta: State, samples: Samples, config: Config
) -> Curve:
    r"""Measure the curve that rewards are chosen from.

    It has every width of the config's grid. Where neighbours differ by more
    than half a point of accuracy, a fractional width between them is added,
    until they do not or lie 1 / (`grid` x `fractions`) apart.

    Example:
        >>> import aequa_lite as aq
        >>> samples = aq.load("fashion-mini").validation
        >>> theta, whole = aq.init_params(aq.MLP, 0), aq.Config(fractions=0)
        >>> len(reward_curve(aq.MLP, theta, samples, whole).widths)
        197

    References:
        Our choice.
    """
    grid, fractions = config.grid, config.fractions
    whole = distinct_widths(build, widths(config.min_width, grid=grid))
    measure = partial(accuracy_curve, build, theta, samples)
    curve = measure(grid=whole, fraction_grid=grid if fractions else None)
    while fractions > 1:
        above = curve.widths[1:]
        below = np.maximum(curve.widths[:-1], above - 1 / grid)
        steps = np.abs(np.diff(curve.accuracy)) > LARGEST_STEP
        wide = steps & (above - below > 1.5 / (grid * fractions))
        if not wide.any():
            break
        between = ((below + above) / 2)[wide]
        curve = _joined(curve, measure(grid=between, fraction_grid=grid))
    return curve


def _joined(one: Curve, other: Curve) -> Curve:
    """Two curves on the same samples as one."""
    every = np.append(one.widths, other.widths)
    order = np.argsort(every)
    right = np.vstack([one.correct, other.correct])[order]
    return Curve(
        every[order], right.mean(1), one.samples, right, one.fraction_grid
    )


@checked
def model_at(
    build: Build, theta: State, curve: Curve, width: float
) -> nn.Module:
    """Return the network whose accuracy the curve states at this width.

    It shares no memory with theta.

    Example:
        >>> import aequa_lite as aq
        >>> curve = Curve((0.05, 0.0525), (0.3, 0.35), 1000, None, 200)
        >>> net = model_at(aq.MLP, aq.init_params(aq.MLP, 0), curve, 0.0525)
        >>> aq.n_parameters(net) == aq.n_parameters(aq.MLP(0.055))
        True
    """
    if curve.fraction_grid:
        return fractional_slim(build, theta, width, curve.fraction_grid)
    return slim(build, theta, width)
