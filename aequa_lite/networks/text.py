"""Networks for text: token ids to logits; 0 is padding, and more of it changes no result."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from .._check import Count, checked, number, refusal
from .base import n_units

KERNELS = (1, 3, 5)  # odd, so that each window is centred on a token


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
