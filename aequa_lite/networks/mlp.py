"""Constructors ``width -> nn.Module``: which dimensions shrink is decided here, and nowhere else."""

from __future__ import annotations

import math

from torch import nn

from .base import Pixels, n_units

__all__ = ["MLP"]


class MLP(nn.Sequential):
    """Two hidden layers of 200 units (at full width), for images or flat features.

    ``x``: ``(samples, *shape)`` -> logits (samples, classes). The input and the classes are never slimmed. ``ahead``: the
    second hidden layer has the width min(1, ``ahead`` x width), so that widths differ by layer along one nested path.

    Raises:
        ValueError: ``width`` is outside (0, 1].

    Example:
        >>> MLP(0.5)(torch.zeros(3, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([3, 10])

    Source: the 200-200 network of FedSAC and FedRAC.
    """

    stem_layers = (
        4  # what these layers say at a width is a prefix of what they say at any wider one: the input is not slimmed
    )

    def __init__(
        self,
        width: float = 1.0,
        *,
        shape: tuple[int, ...] = (1, 28, 28),
        classes: int = 10,
        hidden: int = 200,
        ahead: int = 1,
    ) -> None:
        h, k = n_units(width, hidden), n_units(min(1.0, ahead * width), hidden)
        super().__init__(
            Pixels(),
            nn.Flatten(),  # (samples, pixels)
            nn.Linear(math.prod(shape), h),
            nn.ReLU(),
            nn.Linear(h, k),
            nn.ReLU(),
            nn.Linear(k, classes),
        )
