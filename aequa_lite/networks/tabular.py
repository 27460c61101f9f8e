"""A slimmable network for the columns of a table."""

from __future__ import annotations

from torch import nn

from .._check import number, refusal
from .base import n_units

__all__ = ["TabularMLP"]


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

    def __init__(
        self, width: float = 1.0, *, shape: tuple[int, ...] = (15,), classes: int = 2, hidden: int = 200
    ) -> None:
        if not isinstance(shape, (tuple, list)) or len(shape) != 1:
            raise refusal("shape", "(features,), as a table has it", shape)
        features = number("shape[0]", shape[0], 1, whole=True)
        units = n_units(width, number("hidden", hidden, 1, whole=True))
        super().__init__(
            nn.Linear(features, units),
            nn.ReLU(),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, number("classes", classes, 1, whole=True)),
        )
