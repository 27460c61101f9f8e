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
from .slim import Build, in_two, over, slice_of, template
from .workers import workers

__all__ = ["accuracy", "accuracy_curve", "hits", "widths"]


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


def accuracy_curve(
    build: Build,
    theta: Mapping[str, Tensor],
    samples: Samples,
    *,
    least: float = 0.02,
    grid: Sequence[float] | None = None,
    count: int | None = None,
) -> Curve:
    r"""Measure the shared network's accuracy at every width: $\hat\phi(w)$ on ``samples``.

    ``grid``: the widths to try (default: :func:`widths` from ``least`` to 1); those at which the network does not
    grow are dropped. ``count``: workers. The curve keeps which samples were right, for paired statistics.

    Example:
        >>> import aequa_lite as aq
        >>> curve = accuracy_curve(aq.MLP, aq.initial(aq.MLP, 0), aq.load("fashion-mini").validation, grid=(0.5, 1.0))
        >>> curve.widths.tolist(), curve.samples
        ([0.5, 1.0], 2000)
    """
    chosen = tuple(distinct(build, widths(least) if grid is None else [float(w) for w in grid]))
    # no copies, for to look is not to change; and the widest one's stem runs once, for all
    nets = [in_two(over(template(build, w), slice_of(build, theta, w)).eval()) for w in chosen]
    with workers(count, samples.y.device) as spread:
        widest, _ = nets[int(np.argmax(chosen))]
        heard = replace(samples, x=torch.cat(list(spread(partial(said, widest), samples.x.split(1000)))))

        def right(net: tuple[nn.Module, nn.Module]) -> np.ndarray:
            stem, head = net
            units = next((t.shape[0] for t in stem.parameters()), None)
            return hits(lambda x: head(x[:, :units]), heard)

        found = np.stack(list(spread(right, nets)))  # (widths, samples)
    return Curve(np.array(chosen), found.mean(1), len(samples), hits=found)
