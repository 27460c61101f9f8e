"""How any network is judged on samples: which are right, how many, and at which width."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from .curve import Curve
from .records import Recipe, Samples
from .slim import Build, faded, faded_slice, in_two, over, slice_of, slim, template, whole_width
from .workers import workers

__all__ = ["accuracy", "accuracy_curve", "hits", "network_at", "reward_curve", "widths"]

LEAP = 0.005  # between neighbouring accuracies of a reward curve: half of what noise hides at best


def widths(least: float, most: float = 1.0, grid: int = Recipe.grid) -> tuple[float, ...]:
    """Return the widths from the least to the most: whole multiples of 1 / ``grid``, and both ends.

    Example:
        >>> widths(0.98)
        (0.98, 0.985, 0.99, 0.995, 1.0)

    Source: our choice; 200 is the number of units in the MLP's hidden layers.
    """
    inner = np.arange(1, grid + 1) / grid
    return (least, *(float(w) for w in inner if least + 1e-9 < w < most - 1e-9), *((most,) if most > least else ()))


@torch.inference_mode()
def hits(net: Callable[[Tensor], Tensor], samples: Samples, batch: int = 1000) -> np.ndarray:
    """Say for every sample whether the network gets it right: (samples,) bool.

    Example:
        >>> import aequa_lite as aq
        >>> test = aq.load("fashion-mini").test
        >>> hits(aq.MLP().eval(), test).shape
        (4000,)
    """
    found = [net(x).argmax(1) == y for x, y in zip(samples.x.split(batch), samples.y.split(batch), strict=True)]
    return torch.cat(found).cpu().numpy()


@torch.inference_mode()
def said(net: nn.Module, x: Tensor) -> Tensor:
    """What a network says."""
    return net(x)


def accuracy(nets: Sequence[nn.Module], samples: Samples) -> np.ndarray:
    """Return the share of samples that each network gets right, (networks,) in [0, 1].

    Example:
        >>> import aequa_lite as aq
        >>> accuracy([aq.MLP(), aq.MLP(0.5)], aq.load("fashion-mini").validation).shape
        (2,)
    """
    return np.array([hits(net.eval(), samples).mean() for net in nets])


def distinct(build: Build, grid: Sequence[float]) -> Iterator[float]:
    """Those widths of the grid at which the network really grows: the smallest width of each size."""
    last = None
    for width in grid:
        shapes = [t.shape for t in template(build, width).state_dict().values()]
        if shapes != last:
            yield width
        last = shapes


def _at(build: Build, theta: Mapping[str, Tensor], width: float, fading: int | None) -> nn.Module:
    """The network of that width over theta's own memory."""
    if not fading:
        return over(template(build, width), slice_of(build, theta, width))
    return over(template(build, whole_width(width, fading)), faded_slice(build, theta, width, fading))


def accuracy_curve(
    build: Build,
    theta: Mapping[str, Tensor],
    samples: Samples,
    *,
    least: float = 0.02,
    grid: Sequence[float] | None = None,
    count: int | None = None,
    fading: int | None = None,
) -> Curve:
    r"""Measure the shared network's accuracy at every width: $\hat\phi(w)$ on ``samples``.

    ``grid``: the widths to try (default: :func:`widths` from ``least`` to 1); those at which the network does not
    grow are dropped. ``count``: workers. ``fading``: widths are as :func:`faded` has them with this grid, and none is dropped.
    The curve keeps which samples were right, for paired statistics.

    Example:
        >>> import aequa_lite as aq
        >>> curve = accuracy_curve(aq.MLP, aq.initial(aq.MLP, 0), aq.load("fashion-mini").validation, grid=(0.5, 1.0))
        >>> curve.widths.tolist(), curve.samples
        ([0.5, 1.0], 2000)
    """
    tried = widths(least) if grid is None else tuple(float(w) for w in grid)
    chosen = tried if fading else tuple(distinct(build, tried))
    # no copies, for to look is not to change; and the widest one's stem runs once, for all
    nets = [in_two(_at(build, theta, w, fading).eval()) for w in chosen]
    with workers(count, samples.y.device) as spread:
        widest, _ = nets[int(np.argmax(chosen))]
        heard = replace(samples, x=torch.cat(list(spread(partial(said, widest), samples.x.split(1000)))))

        def right(net: tuple[nn.Module, nn.Module]) -> np.ndarray:
            stem, head = net
            units = next((t.shape[0] for t in stem.parameters()), None)
            return hits(lambda x: head(x[:, :units]), heard)

        found = np.stack(list(spread(right, nets)))  # (widths, samples)
    return Curve(np.array(chosen), found.mean(1), len(samples), hits=found, fading=fading)


def reward_curve(build: Build, theta: Mapping[str, Tensor], samples: Samples, recipe: Recipe) -> Curve:
    r"""Measure the curve that rewards are chosen from: every width of the recipe, and where accuracy leaps, widths between.

    Neighbouring widths whose accuracies differ by more than half a point get one between them, and so on until they do not,
    or until they lie 1 / (``grid`` x ``fade``) apart. ``fade`` = 0: whole widths only.

    Example:
        >>> import aequa_lite as aq
        >>> data, theta = aq.load("fashion-mini"), aq.initial(aq.MLP, seed=0)
        >>> [len(reward_curve(aq.MLP, theta, data.validation, aq.Recipe(fade=k)).widths) for k in (0, 1)]
        [197, 197]

    Source: ours.
    """
    whole = tuple(distinct(build, widths(recipe.min_width, grid=recipe.grid)))
    curve = accuracy_curve(build, theta, samples, grid=whole, fading=recipe.grid if recipe.fade else None)
    while recipe.fade > 1:
        below, above = np.maximum(curve.widths[:-1], curve.widths[1:] - 1 / recipe.grid), curve.widths[1:]
        leaps = np.abs(np.diff(curve.accuracy)) > LEAP
        inside = leaps & (above - below > 1.5 / (recipe.grid * recipe.fade))
        if not inside.any():
            break
        more = accuracy_curve(build, theta, samples, grid=((below + above) / 2)[inside], fading=recipe.grid)
        curve = _joined(curve, more)
    return curve


def network_at(build: Build, theta: Mapping[str, Tensor], curve: Curve, width: float) -> nn.Module:
    """Return the network whose accuracy the curve states at this width, as it goes home: no memory is shared with theta.

    Example:
        >>> import aequa_lite as aq
        >>> curve = Curve((0.05, 0.0525, 0.055), (0.3, 0.35, 0.4), samples=1000, fading=200)
        >>> aq.parameters(network_at(aq.MLP, aq.initial(aq.MLP, seed=0), curve, 0.0525)) == aq.parameters(aq.MLP(0.055))
        True
    """
    return faded(build, theta, width, curve.fading) if curve.fading else slim(build, theta, width)


def _joined(one: Curve, other: Curve) -> Curve:
    """Two curves on the same samples as one."""
    every = np.concatenate([one.widths, other.widths])
    order = np.argsort(every)
    accuracies, right = np.concatenate([one.accuracy, other.accuracy]), np.concatenate([one.hits, other.hits])
    return replace(one, widths=every[order], accuracy=accuracies[order], hits=right[order])
