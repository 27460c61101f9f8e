"""Networks, that is constructors width -> network: for images, tables and text; and the check of your own."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.nn.modules.batchnorm import _BatchNorm

from .._check import Count, Positive, Range, checked, number, refusal
from .._io import error_text, fault
from .._parallel import arithmetic
from ..slimmable import n_parameters, prefix, slim
from ..types import Build, Samples
from .base import ScalePixels, n_units

Norm = Callable[[int], nn.Module]  # channels -> normalisation layer
KERNELS = (1, 3, 5)  # odd, so that each window is centred on a token
TOLERANCE = 1e-3  # of the largest logit: sums in another order differ less


def _perceptron(*sizes: int) -> list[nn.Module]:
    """Linear layers from each size to the next, with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]


@checked
class MLP(nn.Sequential):
    """Two hidden layers with ReLU, for images or flat features.

    Inputs and classes are never slimmed.

    Args:
        width: Fraction of the hidden units, in (0, 1].
        shape: Shape of one sample.
        classes: Number of classes.
        hidden: Units of each hidden layer at width 1.
        ahead: The second hidden layer has the width min(1, `ahead` * `width`), so that
            widths differ by layer along one nested path.

    Returns:
        A network that turns (samples, *shape) into logits (samples, classes).

    Raises:
        ValueError: `width` is outside (0, 1].

    Example:
        >>> import torch
        >>> MLP(0.5)(torch.zeros(3, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([3, 10])

    References:
        The 200-200 network of FedSAC and FedRAC.
    """

    # The output of the first 4 layers at a width is a prefix of their output at any larger width, since the input
    # is not slimmed: one pass at the largest width serves all.
    stem_layers = 4

    def __init__(
        self, width: float = 1.0, *, shape: tuple[Count, ...] = (1, 28, 28), classes: Count = 10, hidden: Count = 200,
        ahead: Positive = 1,
    ) -> None:  # fmt: skip
        first, second = n_units(width, hidden), n_units(min(1.0, ahead * width), hidden)
        super().__init__(ScalePixels(), nn.Flatten(), *_perceptron(math.prod(shape), first, second, classes))


@checked
class TabularMLP(nn.Sequential):
    r"""Two hidden layers with ReLU, for standardised features.

    $z = W_3\,\sigma(W_2\,\sigma(W_1 x + b_1) + b_2) + b_3$ with $\sigma$ =
    ReLU. Features and classes are never slimmed. There is no normalisation:
    LayerNorm and BatchNorm use statistics that depend on all units, and a
    narrower network has fewer.

    Args:
        width: Share of the hidden units, in (0, 1].
        shape: (features,), by default those of the embedded hospitals.
        classes: Number of classes.
        hidden: Units of each hidden layer at width 1.

    Returns:
        Network from (samples, features) float32 to (samples, classes).

    Raises:
        ValueError: `width` is outside (0, 1], or a size is not right.

    Example:
        >>> import torch
        >>> net = TabularMLP(0.5, shape=(15,), classes=2)
        >>> net(torch.zeros(3, 15)).shape
        torch.Size([3, 2])

    References:
        The two layers of 200 units are those of :class:`~aequa_lite.MLP`; on the
        embedded hospitals 64 are as good at width 1 and worse below.
    """

    stem_layers = 2  # their output is a prefix of any wider network's
    reads_pixels = False

    def __init__(
        self, width: float = 1.0, *, shape: tuple[Count, ...] = (15,), classes: Count = 2, hidden: Count = 200
    ) -> None:
        if len(shape) != 1:
            raise refusal("shape", "(features,), as a table has it", shape)
        units = n_units(width, hidden)
        super().__init__(*_perceptron(shape[0], units, units, classes))


def _image_shape(shape: tuple[int, ...], least: int = 1) -> tuple[int, ...]:
    """Return (channels, height, width), or refuse what is no image of this size."""
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < least:
        raise refusal("shape", f"(channels, height, width) of at least {least} x {least} pixels", shape)
    return shape


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
            *_perceptron(b * rows * columns, c, d, classes),
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
    momenta = {each: each.momentum for each in net.modules() if isinstance(each, _BatchNorm)}
    norms = list(momenta)
    if norms and len(samples) < 2:
        raise refusal("samples", "two or more", len(samples))
    batches = max(1, min(-(-len(samples) // batch), len(samples) // 2))  # none of one sample
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    for x in samples.x.tensor_split(batches) if norms else ():
        net(x.to(norms[0].running_mean.device))
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    return net.eval()


@checked
class TextCNN(nn.Module):
    r"""Convolutions over windows of 1, 3 and 5 tokens, max pooling and a linear layer.

    Embedding and feature maps are slimmed; words and classes are not. The usual network
    concatenates its branches, $W[f_1, f_3, f_5]$: at a smaller width the second branch
    would start earlier and meet other columns of $W$. Here each branch has its own
    matrix, $W_1 f_1 + W_3 f_3 + W_5 f_5$: the same function, and each $W_k$ nests.

    Args:
        width: Fraction of embedding and feature maps, in (0, 1].
        shape: (length,); not used, since any length is read.
        classes: Number of classes.
        words: Size of the vocabulary.
        embedding: Size of a token's vector at width 1.
        maps: Feature maps of each branch at width 1.

    Returns:
        A network that turns (samples, length) int64 token ids, 0 = padding, into logits
        (samples, classes).

    Raises:
        ValueError: `width` is outside (0, 1].

    Example:
        >>> TextCNN(0.5, words=100)(torch.tensor([[2, 7, 9, 0, 0]])).shape
        torch.Size([1, 2])

    References:
        Kim 2014; three kernels and 128 maps as in IAFL's code; kernel and embedding
        sizes are our choice.
    """

    def __init__(
        self, width: float = 1.0, *, shape: tuple[Count, ...] = (56,), classes: Count = 2, words: int = 8192,
        embedding: Count = 128, maps: Count = 128,
    ) -> None:  # fmt: skip
        super().__init__()
        e, m = n_units(width, embedding), n_units(width, maps)
        self.embedding = nn.Embedding(number("words", words, 2, whole=True), e, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(e, m, size, padding=size // 2) for size in KERNELS)
        self.branches = nn.ModuleList(nn.Linear(m, classes, bias=size == KERNELS[0]) for size in KERNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of token ids: (samples, length) -> (samples, classes)."""
        real = (x != 0)[:, None]  # (samples, 1, length)
        h = self.embedding(x).transpose(1, 2) * real  # (samples, e, length)
        # ReLU is monotone, so it may follow the maximum; of equal maxima one alone gets the gradient
        found = [torch.relu((each(h) * real).max(2).values) for each in self.convolutions]  # 3 x (samples, m)
        return torch.stack([each(f) for each, f in zip(self.branches, found)]).sum(0)


class GroupedLayerNorm(nn.Module):
    """LayerNorm over groups of `size` consecutive units, so that a unit has the same neighbours at every width."""

    def __init__(self, units: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.weight, self.bias = nn.Parameter(torch.ones(units)), nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x.unflatten(-1, (-1, self.size)), (self.size,)).flatten(-2) * self.weight + self.bias


class Attention(nn.Module):
    """Self-attention with separate projections; a head has `size` units, and a width keeps whole heads."""

    def __init__(self, units: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.query, self.key, self.value = (nn.Linear(units, units) for _ in range(3))
        self.out = nn.Linear(units, units)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        q, k, v = (  # (samples, heads, length, size): heads outermost, so the first units are the first heads
            each(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        scores = (q @ k.transpose(-1, -2) / math.sqrt(self.size)).masked_fill(~real[:, None, None], -1e9)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))


class EncoderLayer(nn.Module):
    """Attention, then two linear layers, each after a norm and added to the residual stream."""

    def __init__(self, units: int, hidden: int, size: int) -> None:
        super().__init__()
        self.norm1, self.attention = GroupedLayerNorm(units, size), Attention(units, size)
        self.norm2, self.up = GroupedLayerNorm(units, size), nn.Linear(units, hidden)
        self.down = nn.Linear(hidden, units)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), real)
        return x + self.down(torch.relu(self.up(self.norm2(x))))


@checked
class Transformer(nn.Module):
    """A small transformer encoder, averaged over the tokens.

    The unit of width is the head: the residual stream has `heads * size` units, and a
    narrow network keeps the first whole heads of it. To nest, queries, keys and values
    have a matrix each (not a fused one), heads are outermost (not interleaved), and
    LayerNorm runs over groups of `size` units (not over a stream that shrinks).

    Args:
        width: Fraction of heads and hidden units, in (0, 1].
        shape: (length,), the most tokens of a sample.
        classes: Number of classes.
        words: Size of the vocabulary.
        layers: Number of layers.
        heads: Attention heads at width 1.
        size: Units of each head.

    Returns:
        A network that turns (samples, length) int64 token ids, 0 = padding, into logits
        (samples, classes).

    Raises:
        ValueError: `width` is outside (0, 1]; or a sample has more tokens than `shape`.

    Example:
        >>> Transformer(0.5, words=100)(torch.tensor([[2, 7, 9, 0, 0]])).shape
        torch.Size([1, 2])

    References:
        Vaswani et al. 2017 with the norm first; sizes and grouped norm are our choice.
    """

    def __init__(
        self, width: float = 1.0, *, shape: tuple[Count, ...] = (56,), classes: Count = 2, words: int = 8192,
        layers: Count = 2, heads: Count = 8, size: Count = 16,
    ) -> None:  # fmt: skip
        super().__init__()
        stream, hidden = n_units(width, heads * size, size), n_units(width, 2 * heads * size)
        self.words = nn.Embedding(number("words", words, 2, whole=True), stream, padding_idx=0)
        self.positions = nn.Parameter(torch.zeros(shape[0], stream))
        self.layers = nn.ModuleList(EncoderLayer(stream, hidden, size) for _ in range(layers))
        self.norm = GroupedLayerNorm(stream, size)
        self.out = nn.Linear(stream, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of token ids: (samples, length) -> (samples, classes)."""
        if x.shape[1] > len(self.positions):
            raise refusal("x", f"up to {len(self.positions)} tokens for each sample", x.shape[1])
        real = x != 0  # (samples, length)
        h = self.words(x) + self.positions[: x.shape[1]]
        for layer in self.layers:
            h = layer(h, real)
        total = (self.norm(h) * real[..., None]).sum(1)  # (samples, stream)
        return self.out(total / real.sum(1, keepdim=True).clamp_min(1))


@checked
def check_network(build: Build, example: Tensor, widths: Sequence[float] = (0.25, 0.5, 1.0)) -> None:
    r"""Check that a network can be slimmed, trained and rewarded.

    It *nests*: each tensor of `build(w)` is a leading block of the same
    tensor of `build(1.0)`, and with zeros outside these blocks the full
    network computes the narrow one,
    $f_1(\theta \odot M_w, x) = f_w(\theta_w, x)$. It *runs*: its logits are
    (samples, classes) at every width, every parameter has a gradient, and
    no buffer changes in training. It *counts*: parameters rise with width.

    Args:
        build: Function of the width that returns a network.
        example: (samples, ...) a few samples as the data set has them.
        widths: Rising widths that end at 1.

    Raises:
        ValueError: It does not; one sentence says what, where and why.

    Example:
        >>> from aequa_lite.networks import TabularMLP
        >>> def build(width):
        ...     return TabularMLP(width, shape=(3,), classes=2)
        >>> check_network(build, torch.zeros(4, 3))
        >>> def same(width):
        ...     return nn.Linear(3, 2)
        >>> check_network(same, torch.zeros(4, 3))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: `build` must have more parameters at width 1.0 than ...

    References:
        Nesting is ordered dropout's (FjORD, Horvath et al. 2021); the list
        of checks is ours.
    """
    if example.dim() < 2 or not len(example):
        raise refusal("example", "a tensor (samples, ...)", example)
    if len(widths) < 2 or not all(0 < a < b for a, b in pairwise(widths)) or widths[-1] != 1:
        raise refusal("widths", "rising numbers above 0 up to 1", widths)
    example = example.cpu()  # where `build` makes its networks
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        nets = {width: _built(build, width) for width in widths}
        for width, net in nets.items():
            first, second = ([t.shape for t in each.parameters()] for each in (net, _built(build, width)))
            got = f"others in a second call at {width}"
            _require(first == second, "return the same shapes for the same width", got)
        for low, high in pairwise(widths):
            _check_tensors(nets[low], nets[high], low, high)
        full = nets[widths[-1]]
        least, most = n_parameters(nets[widths[0]]), n_parameters(full)
        _require(least < most, f"have more parameters at width 1.0 than at {widths[0]}", f"{most:,} and {least:,}")
        classes = _logits(full, example, 1.0).shape[1]
        _check_training(full, example)
        with torch.no_grad():
            for parameter in full.parameters():  # what is zero at first may mix units later
                parameter += 0.1 * torch.randn_like(parameter)
        theta = {k: t.clone() for k, t in full.state_dict().items()}
        for width in widths[:-1]:
            narrow = slim(build, theta, width)
            for name, t in narrow.named_buffers():  # `slim` fills what is in the state, and only that
                _require(not t.is_meta, "keep its buffers in the state", f"{name!r} with persistent=False")
            logits = _logits(narrow, example, width)
            found = logits.shape[1]
            _require(found == classes, f"return {classes} classes at every width", f"{found} at width {width}")
            masked = {k: torch.zeros_like(t) for k, t in theta.items()}
            for name, t in narrow.state_dict().items():
                masked[name][prefix(t.shape)] = t
            full.load_state_dict(masked)
            _check_equal(logits, _logits(full, example, 1.0), width)


def _check_equal(narrow: Tensor, masked: Tensor, width: float) -> None:
    """Refuse a network that is not the full one with fewer units: their logits differ."""
    nests = (masked - narrow).abs().max() <= TOLERANCE * max(1e-3, float(narrow.abs().max()))
    must, got = "nest: with fewer units the full network is the narrow one", f"other logits at width {width}"
    remedy = "LayerNorm over all units, concatenated branches and factors that depend on the width do not nest"
    _require(nests, must, got, remedy)


def _require(holds: object, must: str, got: object, remedy: str = "") -> None:
    """Refuse a network of which something does not hold."""
    if not holds:
        raise fault("`build`", must, got, remedy)


@contextmanager
def _users_code(must: str) -> Iterator[None]:
    """Say what a network must do where the user's own code raises an exception."""
    try:
        yield
    except Exception as error:
        raise fault("`build`", must, f"{type(error).__name__}: {error_text(error)}") from error


def _built(build: Build, width: float) -> nn.Module:
    """Return the network of a width."""
    with _users_code(f"return a network at width {width}"):
        net = build(width)
    _require(isinstance(net, nn.Module), f"return a torch.nn.Module at width {width}", f"a {type(net).__name__}")
    layers = len(list(net.named_parameters(remove_duplicate=False)))
    _require(layers == len(list(net.parameters())), "use each parameter in one layer", "one in two layers")
    return net


def _check_tensors(narrow: nn.Module, wide: nn.Module, low: float, high: float) -> None:
    """Refuse tensors that are no leading blocks of the wider network's."""
    small, large = narrow.state_dict(), wide.state_dict()
    odd = "".join(f"{name!r} at {low if name in small else high} only" for name in sorted(set(small) ^ set(large))[:1])
    _require(not odd, "have the same tensors at every width", odd)
    for name, t in small.items():
        whole = large[name]
        nests = t.dtype == whole.dtype and t.dim() == whole.dim() and all(a <= b for a, b in zip(t.shape, whole.shape))
        here, there = (f"{each.dtype} {tuple(each.shape)} at" for each in (t, whole))
        got = f"{name!r} {here} width {low} and {there} {high}"
        _require(nests, "nest: a tensor is a leading block of any wider network's", got)


def _logits(net: nn.Module, example: Tensor, width: float) -> Tensor:
    """Return the logits of a network, or say why there are none."""
    with _users_code(f"run on `example` at width {width}"), torch.no_grad():
        found = net.eval()(example)
    shape = tuple(found.shape) if isinstance(found, Tensor) else ()
    right = len(shape) == 2 and shape[0] == len(example) and shape[1] > 0
    got = f"shape {shape}" if shape else f"a {type(found).__name__}"
    _require(right, f"return logits ({len(example)}, classes) at width {width}", got)
    finite, got = found.is_floating_point() and bool(found.isfinite().all()), f"{found.dtype} {found[0, 0].item()}, ..."
    _require(finite, f"return finite floating-point logits at width {width}", got)
    return found


def _check_training(net: nn.Module, example: Tensor) -> None:
    """Refuse parameters without gradient, and buffers that change."""
    before = {name: t.clone() for name, t in net.named_buffers()}
    names, params = zip(*net.named_parameters())
    with _users_code("have gradients"):
        grads = torch.autograd.grad(net.train()(example).logsumexp(1).sum(), params, allow_unused=True)
    for name, grad in zip(names, grads):
        _require(grad is not None, "use every parameter", f"no gradient for {name!r}")
    for name, t in net.named_buffers():
        remedy = "BatchNorm does not nest: use GroupNorm with a fixed number of channels in a group"
        got = f"a buffer {name!r} that changes in training"
        _require(torch.equal(t, before[name]), "keep no running statistics", got, remedy)
