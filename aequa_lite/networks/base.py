"""What all networks share: units at a width, pixel scaling, initial parameters, operations."""

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

from .._check import Fraction, checked, number, refusal
from .._parallel import usable_device
from ..config import stream
from ..types import Build, Dataset


def n_units(width: float, full: int, group: int = 1) -> int:
    r"""Return how many units a layer keeps at a width.

    $u(w) = g \lceil w \cdot \mathrm{full} / g \rceil$, at least $g$ and at most `full`:
    it never falls as the width rises, keeps whole groups, and is guarded against
    floating error (0.07 of 100 is 7, although `0.07 * 100 > 7`).

    Args:
        width: Fraction of the full network, in (0, 1].
        full: Units of the layer at width 1.
        group: Units $g$ of a normalisation group or an attention head.

    Raises:
        ValueError: `width` is outside (0, 1], or `group` does not divide `full`.

    Example:
        >>> n_units(0.07, 100), n_units(0.5, 16), n_units(0.3, 32, group=4)
        (7, 8, 12)

    References:
        FjORD (Horvath et al. 2021) keeps the first ceil(p K) units; whole groups are our
        choice.
    """
    number("width", width, 0, 1, above=True)
    number("full", full, 1, whole=True)
    if full % number("group", group, 1, whole=True):
        raise refusal("group", f"a divisor of {full}", group)
    return group * max(1, math.ceil(width * full / group - 1e-9))


class ScalePixels(nn.Module):
    """Turn uint8 images into float32 in [-1, 1], so that a network reads raw images.

    Example:
        >>> ScalePixels()(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        [-1.0, 1.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return scaled pixels; anything but uint8 is returned as it is."""
        return x.float().div(127.5).sub(1) if x.dtype == torch.uint8 else x


@checked
def for_dataset(build: Callable[..., nn.Module], dataset: Dataset, **options: Any) -> Build:
    """Fit a network constructor to a data set: input shape, classes and, for text, words.

    Args:
        build: A constructor of this package, or one with the same arguments.
        dataset: What the network will read.
        options: Further arguments of the constructor.

    Returns:
        A function of the width that returns a network.

    Raises:
        ValueError: The network does not read this kind of data.

    Example:
        >>> import aequa_lite as aq
        >>> build = aq.for_dataset(aq.LeNet, aq.load("fashion-mini"), multiple=2)
        >>> build(0.5)[1].out_channels
        6
    """
    shape, network = tuple(dataset.train.x.shape[1:]), getattr(build, "func", build)
    if ("words" in signature(build).parameters) != bool(dataset.words):
        kind = "text, such as TextCNN" if dataset.words else f"samples of shape {shape}, such as MLP"
        name = getattr(network, "__name__", build)
        raise refusal("build", f"a network for the data set {dataset.name!r}, that is for {kind}", name)
    if len(shape) == 1 and dataset.train.x.dtype == torch.uint8 and not getattr(network, "reads_pixels", True):
        raise refusal("dataset", "one of float32 features, which are not scaled", f"{dataset.name!r} of uint8")
    text = {"words": len(dataset.words)} if dataset.words else {}
    fitted = partial(build, shape=shape, classes=dataset.classes, **text, **options)
    with torch.device("meta"):
        fitted(1.0)  # the constructor refuses here what it cannot read
    return fitted


@checked
def flops(build: Build, width: Fraction, x: Tensor) -> int:
    """Count the floating-point operations for one sample at a width.

    A multiplication and an addition count as two. Convolutions and matrix products are
    counted; biases, normalisations and activations, a small part, are not.

    Args:
        build: A function of the width that returns a network.
        width: Fraction of the full network, in (0, 1].
        x: Any samples, (samples, ...); only their shape and type matter.

    Raises:
        ValueError: `width` is outside (0, 1], or `x` is empty.

    Example:
        >>> from aequa_lite.networks import MLP
        >>> images = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
        >>> flops(MLP, 0.5, images) == 2 * (784 * 100 + 100 * 100 + 100 * 10)
        True

    References:
        PyTorch's own counter, `torch.utils.flop_counter`.
    """
    if not x.numel():
        raise refusal("x", "a tensor of one sample or more", x)
    with torch.device("meta"):
        net = build(width).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x.to("meta"))
    return int(counter.get_total_flops()) // len(x)


_generator = Lock()  # PyTorch initialises from one generator of the process: one thread at a time


@checked
def init_params(build: Build, seed: int, device: str | torch.device | None = None) -> dict[str, Tensor]:
    """Return the full network's state before training; the seed alone decides it.

    Args:
        device: Where it lies (default: where :func:`~aequa_lite.load` puts data).

    Raises:
        ValueError: `seed` is not a whole number from 0.

    Example:
        >>> from aequa_lite.networks import MLP
        >>> a, b = init_params(MLP, seed=0), init_params(MLP, seed=0)
        >>> all(bool((a[k] == b[k]).all()) for k in a)
        True

    References:
        PyTorch's own initial distributions; its generator is seeded for this call and
        restored afterwards.
    """
    device, rng = usable_device(device), stream(seed, "initial")
    with _generator, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(int(rng.integers(2**62)))  # not a GPU's too, which is not restored
        net = build(1.0)
    return {name: t.to(device) for name, t in net.state_dict().items()}
