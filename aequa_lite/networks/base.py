"""Constructors ``width -> nn.Module``: which dimensions shrink is decided here, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from inspect import signature
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..rng import stream
from ..slimmable import Build
from ..types import Dataset

__all__ = ["flops", "for_dataset", "init_params", "n_units"]


def n_units(width: float, full: int, group: int = 1) -> int:
    r"""Return how many of ``full`` units a layer keeps at this width.

    $u(w) = g \lceil w \cdot \mathrm{full} / g \rceil$, at least one group and at most ``full``: monotone in $w$, whole groups
    only, and guarded against floating error (0.07 of 100 is 7, although ``0.07 * 100 > 7``).

    Raises:
        ValueError: ``width`` is outside (0, 1], or ``group`` does not divide ``full``.

    Example:
        >>> n_units(0.07, 100), n_units(0.5, 16), n_units(0.3, 32, group=4)
        (7, 8, 12)

    Source: FjORD keeps the first ceil(p K) units; the groups are ours.
    """
    if not 0 < width <= 1:
        raise ValueError(f"width is {width!r}; allowed is a number in (0, 1]")
    if full < 1 or group < 1 or full % group:
        raise ValueError(f"group is {group!r}; allowed is a whole number that divides {full}")
    return group * max(1, math.ceil(width * full / group - 1e-9))


class Pixels(nn.Module):
    """Turn uint8 images into floats in [-1, 1], so that a reward takes raw images and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().div(127.5).sub(1) if x.dtype == torch.uint8 else x


def for_dataset(build: Callable[..., nn.Module], data: Dataset, **options: Any) -> Callable[[float], nn.Module]:
    """Fit a constructor to a data set: its input shape, its number of classes and, for text, of words.

    Raises:
        ValueError: a network for text is to read a data set without words, or one for pictures a data set with words.

    Example:
        >>> import aequa_lite as aq
        >>> aq.for_dataset(aq.LeNet, aq.load("fashion-mini"), multiple=2)(0.5)[1].out_channels
        6
    """
    reads_words = "words" in signature(build).parameters
    if reads_words != bool(data.words):
        kind, fit = ("words", "MLP or LeNet") if reads_words else ("pictures", "TextCNN or Transformer")
        raise ValueError(f"build is {_name(build)}, which reads {kind}; for {data.name!r} allowed are such as {fit}")
    text = {"words": len(data.words)} if data.words else {}
    return partial(build, shape=tuple(data.train.x.shape[1:]), classes=data.classes, **text, **options)


def _name(build: Callable[..., nn.Module]) -> str:
    """What a constructor, or a partial of one, is called."""
    return repr(getattr(getattr(build, "func", build), "__name__", build))


def flops(build: Build, width: float, x: Tensor) -> int:
    """Count the floating-point operations for one sample at a width; a multiplication and an addition are two.

    ``x``: any samples of the data set, (samples, ...); only their shape and type are looked at. Convolutions and
    matrix products are counted; biases, normalisations and activations, a small part, are not.

    Raises:
        ValueError: ``width`` is outside (0, 1].

    Example:
        >>> flops(MLP, 0.5, torch.zeros(3, 1, 28, 28, dtype=torch.uint8)) == 2 * (784 * 100 + 100 * 100 + 100 * 10)
        True

    Source: PyTorch's own counter, ``torch.utils.flop_counter``.
    """
    with torch.device("meta"):
        net = build(width).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x.to("meta"))
    return int(counter.get_total_flops()) // len(x)


_turn = Lock()  # PyTorch draws from one generator of the whole process: threads take turns


def init_params(build: Callable[[float], nn.Module], seed: int, device: Any = "cpu") -> dict[str, Tensor]:
    """Return the full network's state before any training, drawn from the seed alone.

    Example:
        >>> a, b = init_params(MLP, seed=0), init_params(MLP, seed=0)
        >>> all(bool((a[k] == b[k]).all()) for k in a)
        True

    Source: PyTorch's own initial distributions, under a generator of our seed that is put back afterwards.
    """
    with _turn, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(stream(seed, "initial").integers(2**62)))
        net = build(1.0)
    return {name: t.to(device) for name, t in net.state_dict().items()}
