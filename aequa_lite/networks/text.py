"""Networks for text: token ids in, logits out; 0 is padding, and no amount of it changes a result."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from .base import n_units

__all__ = ["TextCNN", "Transformer"]


KERNELS = (1, 3, 5)  # odd, so that each window has a word in its middle


class TextCNN(nn.Module):
    r"""Convolutions over windows of 1, 3 and 5 words, the maximum over the sentence, and a linear layer.

    ``x``: (samples, length) int64 token ids, 0 = padding -> logits (samples, classes). Embedding and maps are
    slimmed; words and classes are not. The usual network concatenates its branches: $W[f_1, f_3, f_5]$. At a smaller
    width the second branch would then start earlier and meet other columns of $W$, so a slice of a slice would be no
    slice. Here each branch has its own matrix, $W_1 f_1 + W_3 f_3 + W_5 f_5$: the same function, and each $W_k$ nests.
    Any length is read; ``shape`` is there since every network is told its input's.

    Raises:
        ValueError: ``width`` is outside (0, 1].

    Example:
        >>> TextCNN(0.5, words=100)(torch.tensor([[2, 7, 9, 0, 0]])).shape
        torch.Size([1, 2])

    Source: Kim 2014; three kernels and 128 maps as in the IAFL code, their sizes and the embedding's are our choice.
    """

    def __init__(
        self,
        width: float = 1.0,
        *,
        shape: tuple[int, ...] = (56,),
        classes: int = 2,
        words: int = 8192,
        embedding: int = 128,
        maps: int = 128,
    ) -> None:
        super().__init__()
        e, m = n_units(width, embedding), n_units(width, maps)
        self.embedding = nn.Embedding(words, e, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(e, m, size, padding=size // 2) for size in KERNELS)
        self.branches = nn.ModuleList(nn.Linear(m, classes, bias=size == KERNELS[0]) for size in KERNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of token ids: (samples, length) -> (samples, classes)."""
        real = (x != 0)[:, None]  # (samples, 1, length)
        h = self.embedding(x).transpose(1, 2)  # (samples, e, length)
        # relu keeps the order, so it may follow the maximum; of equal ones a single one need hear of the gradient
        found = [torch.relu((each(h) * real).max(2).values) for each in self.convolutions]  # 3 x (samples, m)
        return torch.stack([each(f) for each, f in zip(self.branches, found)]).sum(0)


class PieceNorm(nn.Module):
    """LayerNorm over pieces of ``size`` consecutive units, so that a unit meets the same neighbours at every width."""

    def __init__(self, units: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.weight, self.bias = nn.Parameter(torch.ones(units)), nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x.unflatten(-1, (-1, self.size)), (self.size,)).flatten(-2) * self.weight + self.bias


class Attention(nn.Module):
    """Self-attention with separate projections; a head is ``size`` units, and whole heads come and go with the width."""

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


class Layer(nn.Module):
    """Attention, then two linear layers, each after a norm and beside the residual stream."""

    def __init__(self, units: int, hidden: int, size: int) -> None:
        super().__init__()
        self.norm1, self.attention = PieceNorm(units, size), Attention(units, size)
        self.norm2, self.up, self.down = PieceNorm(units, size), nn.Linear(units, hidden), nn.Linear(hidden, units)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), real)
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    r"""A small transformer encoder: ``layers`` layers of ``heads`` heads of ``size`` units, then the mean over the words.

    ``x``: (samples, length) int64 token ids, 0 = padding -> logits (samples, classes); at most ``shape[0]`` tokens. The unit
    of width is the head: the residual stream has ``heads * size`` units, and a narrow network keeps the first whole
    heads of it; the two linear layers keep theirs out of twice as many. What would break nesting, and what stands
    here: one fused matrix for queries, keys and values (three); heads interleaved along an axis (heads outermost);
    LayerNorm over a stream that shrinks (over each piece of ``size`` units).

    Raises:
        ValueError: ``width`` is outside (0, 1], or ``x`` has more tokens than there are positions.

    Example:
        >>> Transformer(0.5, words=100)(torch.tensor([[2, 7, 9, 0, 0]])).shape
        torch.Size([1, 2])

    Source: Vaswani et al. 2017 with the norm first; sizes and norm over pieces are ours.
    """

    def __init__(
        self,
        width: float = 1.0,
        *,
        shape: tuple[int, ...] = (56,),
        classes: int = 2,
        words: int = 8192,
        layers: int = 2,
        heads: int = 8,
        size: int = 16,
    ) -> None:
        super().__init__()
        stream = n_units(width, heads * size, size)
        hidden = n_units(width, 2 * heads * size)
        self.words = nn.Embedding(words, stream, padding_idx=0)
        self.positions = nn.Parameter(torch.zeros(shape[0], stream))
        self.layers = nn.ModuleList(Layer(stream, hidden, size) for _ in range(layers))
        self.norm = PieceNorm(stream, size)
        self.out = nn.Linear(stream, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of token ids: (samples, length) -> (samples, classes)."""
        if x.shape[1] > len(self.positions):
            raise ValueError(f"x has {x.shape[1]} tokens a sample; allowed are up to {len(self.positions)}")
        real = x != 0  # (samples, length)
        h = self.words(x) + self.positions[: x.shape[1]]
        for layer in self.layers:
            h = layer(h, real)
        total = (self.norm(h) * real[..., None]).sum(1)  # (samples, stream)
        return self.out(total / real.sum(1, keepdim=True).clamp_min(1))
