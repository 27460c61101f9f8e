"""Multi-layer perceptrons: for images, and for the columns of a table."""

from __future__ import annotations

import math

from torch import nn

from .._check import Count, Positive, checked, refusal
from .base import ScalePixels, n_units


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
        super().__init__(
            ScalePixels(),
            nn.Flatten(),  # (samples, pixels)
            nn.Linear(math.prod(shape), first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, classes),
        )


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
        if not isinstance(shape, (tuple, list)) or len(shape) != 1:
            raise refusal("shape", "(features,), as a table has it", shape)
        features, units = shape[0], n_units(width, hidden)
        super().__init__(
            nn.Linear(features, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, classes)
        )
