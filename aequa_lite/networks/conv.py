"""Convolutional networks for colour pictures, and the repair of the one normalisation that does not nest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..types import Samples
from .base import Pixels, n_units

__all__ = ["BatchResNet18", "ConvNet", "LeNet", "ResNet18", "recalibrate_batchnorm"]


Norm = Callable[[int], nn.Module]


def grouped(group: int) -> Norm:
    """Channels -> a GroupNorm with ``group`` channels in each group, so that a narrow net's groups are the first ones."""
    return lambda channels: nn.GroupNorm(channels // group, channels)


class ConvNet(nn.Sequential):
    r"""Four 3x3 convolutions of 32, 64, 128 and 256 channels, each times ``multiple``, and a global average.

    ``x``: ``(samples, *shape)`` -> logits (samples, classes); pictures of 8 x 8 or more. ``group``: channels in each group
    of the GroupNorm. Their *number* grows with the width while their size is fixed: with a fixed number of groups, as in
    ``GroupNorm(2)``, a channel would change its group from one width to the next.

    Raises:
        ValueError: ``width`` is outside (0, 1], or ``group`` does not divide the channels.

    Example:
        >>> ConvNet(0.5)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])

    Source: ours.
    """

    def __init__(
        self,
        width: float = 1.0,
        *,
        shape: tuple[int, ...] = (3, 32, 32),
        classes: int = 10,
        multiple: int = 1,
        group: int = 4,
    ) -> None:
        sizes = [shape[0], *(n_units(width, multiple * full, group) for full in (32, 64, 128, 256))]
        blocks: list[nn.Module] = []
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            blocks += [convolution, grouped(group)(after), nn.ReLU(), nn.MaxPool2d(2)]
        blocks[-1] = nn.AdaptiveAvgPool2d(1)  # the last block ends in the average over the whole picture
        super().__init__(Pixels(), *blocks, nn.Flatten(), nn.Linear(sizes[-1], classes))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the identity, or a 1x1 convolution where the stride is 2.

    The stride alone decides, never the channels of this width: the same tensors are there at every width, and where
    the identity is added both sides hold the same first channels.
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


def _layers(sizes: list[int], incoming: int, classes: int, stem: int, norm: Norm) -> OrderedDict[str, nn.Module]:
    """The layers of an 18-layer residual network, under torchvision's names (but ``norm`` for ``bn``)."""
    if stem not in (3, 7):
        raise ValueError(f"stem is {stem!r}; allowed is 3 (small pictures) or 7 (large ones)")
    small = stem == 3
    layers: dict[str, nn.Module] = {
        "pixels": Pixels(),
        "conv1": nn.Conv2d(incoming, sizes[0], stem, 1 if small else 2, padding=stem // 2, bias=False),
        "norm1": norm(sizes[0]),
        "relu": nn.ReLU(),
        "maxpool": nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1),
    }
    for i, (before, after) in enumerate(zip([sizes[0], *sizes], sizes)):
        first = Block(before, after, 2 if i else 1, norm)
        layers[f"layer{i + 1}"] = nn.Sequential(first, Block(after, after, 1, norm))
    head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(sizes[-1], classes)}
    return OrderedDict(layers | head)


class ResNet18(nn.Sequential):
    r"""ResNet-18 with GroupNorm: four stages of ``channels`` times 1, 2, 4 and 8 channels, two blocks each.

    ``x``: ``(samples, *shape)`` -> logits (samples, classes). ``stem``: 3 is a 3x3 convolution of stride 1 without
    max-pooling, for small pictures; 7 is torchvision's, for large ones. ``group``: channels in each group of the
    GroupNorm; every channel belongs to the same group at every width.

    Raises:
        ValueError: ``width`` is outside (0, 1], ``stem`` is neither 3 nor 7, or ``group`` does not divide the channels.

    Example:
        >>> ResNet18(0.25)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])

    Source: He et al. 2016 as in torchvision; the small stem is the usual one for CIFAR, the groups are ours.
    """

    def __init__(
        self,
        width: float = 1.0,
        *,
        shape: tuple[int, ...] = (3, 32, 32),
        classes: int = 10,
        channels: int = 64,
        stem: int = 3,
        group: int = 4,
    ) -> None:
        sizes = [n_units(width, channels << stage, group) for stage in range(4)]
        super().__init__(_layers(sizes, shape[0], classes, stem, grouped(group)))


class BatchResNet18(nn.Sequential):
    r"""ResNet-18 with BatchNorm, which does not nest: slim it, then repair it by :func:`~aequa_lite.networks.recalibrate_batchnorm`.

    A channel's running mean and variance belong to the width at which they were measured, since what arrives at a
    channel is a sum over all channels before it; but every width reads, and in training writes, the same prefix.

    ``x``: ``(samples, *shape)`` -> logits (samples, classes). ``channels``, ``stem``: as in :class:`~aequa_lite.networks.ResNet18`.

    Raises:
        ValueError: ``width`` is outside (0, 1], or ``stem`` is neither 3 nor 7.

    Example:
        >>> BatchResNet18(0.25)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])

    Source: He et al. 2016; with ``stem=7, classes=1000`` it computes what torchvision's resnet18 computes.
    """

    def __init__(
        self,
        width: float = 1.0,
        *,
        shape: tuple[int, ...] = (3, 32, 32),
        classes: int = 10,
        channels: int = 64,
        stem: int = 3,
    ) -> None:
        sizes = [n_units(width, channels << stage) for stage in range(4)]
        super().__init__(_layers(sizes, shape[0], classes, stem, nn.BatchNorm2d))


@torch.no_grad()
def recalibrate_batchnorm(net: nn.Module, samples: Samples, batch: int = 200) -> nn.Module:
    r"""Return a copy of a network whose BatchNorm statistics are those of these samples at this very width.

    $\mu = \tfrac1B \sum_b \mu_b, \; \sigma^2 = \tfrac1B \sum_b \sigma_b^2$ over $B$ batches, equally large but for one sample,
    in one pass in training mode; the copy is in evaluation mode. Take training samples: the repair looks at inputs,
    never at labels. A network without BatchNorm comes back as it was.

    Raises:
        ValueError: ``batch`` is not a whole number from 2.

    Example:
        >>> import aequa_lite as aq
        >>> build, few = aq.for_dataset(aq.networks.BatchResNet18, aq.load("fashion-mini"), channels=8), aq.load("fashion-mini").train
        >>> theta = aq.init_params(build, seed=0)
        >>> recalibrate_batchnorm(aq.slim(build, theta, 0.5), few.take(slice(0, 20))).training
        False

    Source: the post-statistics of universally slimmable networks (Yu and Huang 2019); HeteroFL's static BatchNorm.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 2:
        raise ValueError(f"batch is {batch!r}; allowed is a whole number from 2")
    net = deepcopy(net).eval()
    norms = [each for each in net.modules() if isinstance(each, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    if norms:
        for x in samples.x.tensor_split(-(-len(samples) // batch)):
            net(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.eval()


class LeNet(nn.Sequential):
    """LeNet-5 with ReLU and max pooling: 6 and 16 filters, then 120 and 84 units, each times ``multiple``.

    ``x``: ``(samples, *shape)`` -> logits (samples, classes). Pictures smaller than 28 or larger than 32 are welcome as
    long as two 5x5 convolutions and two poolings leave something.

    Raises:
        ValueError: ``width`` is outside (0, 1].

    Example:
        >>> LeNet(0.5, shape=(3, 32, 32))(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])

    Source: LeCun et al. 1998; the sizes are those of the IAFL code's network for the same data sets.
    """

    stem_layers = 4  # up to the first pooling, for the same reason

    def __init__(
        self,
        width: float = 1.0,
        *,
        shape: tuple[int, ...] = (1, 28, 28),
        classes: int = 10,
        multiple: int = 1,
    ) -> None:
        channels, height, breadth = shape
        a, b, c, d = (n_units(width, multiple * full) for full in (6, 16, 120, 84))
        rows, columns = ((side // 2 - 4) // 2 for side in (height, breadth))  # after 5x5, pool, 5x5, pool
        super().__init__(
            Pixels(),
            nn.Conv2d(channels, a, 5, padding=2),  # (samples, a, height, breadth)
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
