"""Convolutional networks for images, and the recalibration of BatchNorm, which does not nest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._check import Count, Range, checked, refusal
from .._parallel import arithmetic
from ..types import Samples
from .base import ScalePixels, n_units

Norm = Callable[[int], nn.Module]  # channels -> normalisation layer


def _image_shape(shape: tuple[int, ...], least: int = 1) -> tuple[int, ...]:
    """Return (channels, height, width), or refuse what is no image of this size."""
    lows = (1, least, least)
    if len(shape) != 3 or not all(Range(low).holds(size, whole=True) for low, size in zip(lows, shape)):
        raise refusal("shape", f"(channels, height, width) of at least {least} x {least} pixels", shape)
    return tuple(shape)


def group_norm(group: int, channels: int) -> nn.GroupNorm:
    """A GroupNorm with `group` channels in each group, so that a narrow network keeps the first groups."""
    return nn.GroupNorm(channels // group, channels)


@checked
class LeNet(nn.Sequential):
    """LeNet-5 with ReLU and max pooling: 6 and 16 filters, then 120 and 84 units.

    Args:
        width: Fraction of filters and units, in (0, 1].
        shape: (channels, height, width) of an image of 12 x 12 pixels or more.
        classes: Number of classes.
        multiple: Factor of all filters and units.

    Returns:
        A network that turns (samples, *shape) into logits (samples, classes).

    Raises:
        ValueError: `width` is outside (0, 1], or `shape` is no image of this size.

    Example:
        >>> net = LeNet(0.5, shape=(3, 32, 32))
        >>> net(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])

    References:
        LeCun et al. 1998; the sizes are those of IAFL's code for the same data sets.
    """

    # As in MLP: the output of the first 4 layers, up to the first pooling, is a prefix of that at any larger width.
    stem_layers = 4

    def __init__(
        self, width: float = 1.0, *, shape: tuple[int, ...] = (1, 28, 28), classes: Count = 10, multiple: Count = 1
    ) -> None:
        channels, *sides = _image_shape(shape, 12)
        a, b, c, d = (n_units(width, multiple * full) for full in (6, 16, 120, 84))
        rows, columns = ((side // 2 - 4) // 2 for side in sides)  # after 5x5, pool, 5x5, pool
        super().__init__(
            ScalePixels(),
            nn.Conv2d(channels, a, 5, padding=2),  # (samples, a, height, width)
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(a, b, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),  # (samples, b * rows * columns): channels outermost, so a prefix stays a prefix
            nn.Linear(b * rows * columns, c),
            nn.ReLU(),
            nn.Linear(c, d),
            nn.ReLU(),
            nn.Linear(d, classes),
        )


@checked
class ConvNet(nn.Sequential):
    """Four 3x3 convolutions of 32, 64, 128 and 256 channels, and a global average.

    Each is followed by GroupNorm, ReLU and pooling. The *number* of groups grows with
    the width while their size is fixed: with a fixed number of groups a channel would
    change its group from one width to the next.

    Args:
        width: Fraction of the channels, in (0, 1].
        shape: (channels, height, width) of an image of 8 x 8 pixels or more.
        classes: Number of classes.
        multiple: Factor of all channels.
        group: Channels in each group of GroupNorm.

    Returns:
        A network that turns (samples, *shape) into logits (samples, classes).

    Raises:
        ValueError: `width` is outside (0, 1], `shape` is no image of this size, or
            `group` does not divide the channels.

    Example:
        >>> ConvNet(0.5)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])

    References:
        Our choice.
    """

    def __init__(
        self, width: float = 1.0, *, shape: tuple[int, ...] = (3, 32, 32), classes: Count = 10, multiple: Count = 1,
        group: Count = 4,
    ) -> None:  # fmt: skip
        sizes = [_image_shape(shape, 8)[0], *(n_units(width, multiple * full, group) for full in (32, 64, 128, 256))]
        blocks: list[nn.Module] = []
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            blocks += [convolution, group_norm(group, after), nn.ReLU(), nn.MaxPool2d(2)]
        blocks[-1] = nn.AdaptiveAvgPool2d(1)  # the last block ends in the average over the image
        super().__init__(ScalePixels(), *blocks, nn.Flatten(), nn.Linear(sizes[-1], classes))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the identity, or a 1x1 convolution where the stride is 2.

    The stride alone decides, not the channels at this width, so that the same tensors exist at every width.
    """

    def __init__(self, before: int, after: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = norm(after)
        shortcut = (nn.Conv2d(before, after, 1, stride, bias=False), norm(after)) if stride > 1 else ()
        self.downsample = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(h)) + self.downsample(x))


def _resnet_layers(
    sizes: list[int], shape: tuple[int, ...], classes: int, stem: int, norm: Norm
) -> OrderedDict[str, nn.Module]:
    """The layers of an 18-layer residual network, under torchvision's names (but `norm` for `bn`)."""
    if stem not in (3, 7):
        raise refusal("stem", "3 (small images) or 7 (large images)", stem)
    small, channels = stem == 3, _image_shape(shape)[0]
    layers: dict[str, nn.Module] = {
        "scale": ScalePixels(),
        "conv1": nn.Conv2d(channels, sizes[0], stem, 1 if small else 2, padding=stem // 2, bias=False),
        "norm1": norm(sizes[0]),
        "relu": nn.ReLU(),
        "maxpool": nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1),
    }
    for i, (before, after) in enumerate(zip([sizes[0], *sizes], sizes)):
        first = BasicBlock(before, after, 2 if i else 1, norm)
        layers[f"layer{i + 1}"] = nn.Sequential(first, BasicBlock(after, after, 1, norm))
    head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(sizes[-1], classes)}
    return OrderedDict(layers | head)


@checked
class ResNet18(nn.Sequential):
    """ResNet-18 with GroupNorm.

    Four stages of two blocks, with 1, 2, 4 and 8 times `channels`.

    Args:
        width: Fraction of the channels, in (0, 1].
        shape: (channels, height, width) of an image.
        classes: Number of classes.
        channels: Channels of the first stage at width 1.
        stem: Kernel of the first convolution: 3 has stride 1 and no max pooling, for
            small images; 7 is torchvision's, for large ones.
        group: Channels in each group of GroupNorm; each channel belongs to the same
            group at every width.

    Returns:
        A network that turns (samples, *shape) into logits (samples, classes).

    Raises:
        ValueError: `width` is outside (0, 1], `stem` is neither 3 nor 7, or `group` does
            not divide the channels.

    Example:
        >>> ResNet18(0.25)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])

    References:
        He et al. 2016 as in torchvision; the small stem is the usual one for CIFAR, the
        groups are our choice.
    """

    def __init__(
        self, width: float = 1.0, *, shape: tuple[int, ...] = (3, 32, 32), classes: Count = 10,
        channels: Count = 64, stem: int = 3, group: Count = 4,
    ) -> None:  # fmt: skip
        sizes = [n_units(width, channels << stage, group) for stage in range(4)]
        super().__init__(_resnet_layers(sizes, shape, classes, stem, partial(group_norm, group)))


@checked
class BatchResNet18(nn.Sequential):
    """ResNet-18 with BatchNorm, which does not nest: recalibrate it after slimming.

    A channel's running mean and variance belong to the width at which they were
    measured, since a channel's input is a sum over all channels before it; but every
    width reads, and in training writes, the same prefix. See
    :func:`~aequa_lite.networks.recalibrate_batchnorm`.

    Args:
        width: Fraction of the channels, in (0, 1].
        shape: (channels, height, width) of an image.
        classes: Number of classes.
        channels: Channels of the first stage at width 1.
        stem: As in :class:`~aequa_lite.networks.ResNet18`.

    Returns:
        A network that turns (samples, *shape) into logits (samples, classes).

    Raises:
        ValueError: `width` is outside (0, 1], or `stem` is neither 3 nor 7.

    Example:
        >>> BatchResNet18(0.25)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])

    References:
        He et al. 2016; `stem=7, classes=1000` computes what torchvision's resnet18 does.
    """

    def __init__(
        self, width: float = 1.0, *, shape: tuple[int, ...] = (3, 32, 32), classes: Count = 10,
        channels: Count = 64, stem: int = 3,
    ) -> None:  # fmt: skip
        sizes = [n_units(width, channels << stage) for stage in range(4)]
        super().__init__(_resnet_layers(sizes, shape, classes, stem, nn.BatchNorm2d))


@arithmetic()
@checked
@torch.no_grad()
def recalibrate_batchnorm(net: nn.Module, samples: Samples, batch: Annotated[int, Range(2)] = 200) -> nn.Module:
    r"""Return a copy of a network with BatchNorm statistics measured at its own width.

    $\mu = \tfrac1B \sum_b \mu_b, \; \sigma^2 = \tfrac1B \sum_b \sigma_b^2$ over $B$
    batches of equal size (to within one sample), in one pass in training mode. Use
    training samples: inputs are read, labels are not. A network without BatchNorm is
    copied unchanged.

    Args:
        net: A network of any width.
        samples: What the statistics are measured on, moved to the network's device.
        batch: Samples in each batch.

    Returns:
        The copy, in evaluation mode.

    Raises:
        ValueError: `batch` is not a whole number from 2, or there is one sample only.

    Example:
        >>> import aequa_lite as aq
        >>> few = aq.load("fashion-mini").train.take(slice(0, 20))
        >>> net = BatchResNet18(0.5, shape=(1, 28, 28), channels=8)
        >>> recalibrate_batchnorm(net.to(few.x.device), few).training
        False

    References:
        Post-statistics of universally slimmable networks (Yu and Huang 2019); HeteroFL's
        static BatchNorm.
    """
    net = deepcopy(net).eval()
    norms = [each for each in net.modules() if isinstance(each, _BatchNorm)]
    if norms and len(samples) < 2:
        raise refusal("samples", "two or more", len(samples))
    batches = max(1, min(-(-len(samples) // batch), len(samples) // 2))  # none of one sample
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    for x in samples.x.tensor_split(batches) if norms else ():
        net(x.to(norms[0].running_mean.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.eval()
