"""A multi-layer perceptron for images or flat features."""

from __future__ import annotations

import math

from torch import nn

from .._check import checked, counts, number
from .base import ScalePixels, n_units

__all__ = ["MLP"]


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
        self,
        width: float = 1.0,
        *,
        shape: tuple[int, ...] = (1, 28, 28),
        classes: int = 10,
        hidden: int = 200,
        ahead: float = 1,
    ) -> None:
        counts(shape=shape, classes=classes, hidden=hidden)
        number("ahead", ahead, 0, above=True)
        first, second = n_units(width, hidden), n_units(min(1.0, ahead * width), hidden)
        super().__init__(
            ScalePixels(),
            nn.Flatten(),  # (samples, pixels)
            nn.Linear(math.prod(shape), first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, classes),
        )
