r"""Slimmable linear models whose constants are known, to compare the theorems with the training loop that runs.

The loop trains with cross-entropy. The logits $(-\log(e^q - 1),\ 0)$ have the cross-entropy $q > 0$ for class 0, so that
least squares runs through the same code as image classification.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from .._check import checked, number, refusal
from ..networks.base import n_units

__all__ = ["LeastSquares", "Logistic", "TwoLayers"]

Array = NDArray[np.float64]
LEAST_LOSS = 0.1  # added to a squared error, so that its logarithm exists


@checked
class LinearModel(nn.Module):
    """A linear score of the leading features; the width is the share of features that are used."""

    max_second_derivative: float  # of the loss by the score

    def __init__(self, width: float = 1.0, *, features: int, start: ArrayLike | None = None) -> None:
        super().__init__()
        used = n_units(width, number("features", features, 1, whole=True))
        first = np.zeros(features) if start is None else np.array(start, dtype=float)
        if first.shape != (features,) or not np.isfinite(first).all():
            raise refusal("start", f"{features} finite numbers", start)
        self.weight = nn.Parameter(torch.empty(used, dtype=torch.float64))
        if self.weight.device.type != "meta":
            self.weight.data.copy_(torch.from_numpy(first[:used]))

    def score(self, x: Tensor) -> Tensor:
        """The score of each sample, (samples,)."""
        return x[:, : len(self.weight)] @ self.weight


class LeastSquares(LinearModel):
    r"""Fit targets by least squares: cross-entropy is $\tfrac12(\theta^\top x - y)^2 + 0.1$.

    It takes `x` of shape (samples, features + 1) in float64 with the target as the last column; every label is 0.

    Args:
        width: Share of the features, in (0, 1].
        features: Number of features.
        start: (features,) initial parameters (default: 0).

    Raises:
        ValueError: `features` is not a whole number from 1, or `start` is not as many finite numbers.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)  # features 1 and 2, target 3
        >>> logits = LeastSquares(features=2)(x)
        >>> round(nn.functional.cross_entropy(logits, torch.tensor([0])).item(), 9)
        4.6

    References:
        Our choice.
    """

    max_second_derivative = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (samples, 2), whose cross-entropy for class 0 is the loss."""
        return logits_of(0.5 * (self.score(x) - x[:, -1]) ** 2 + LEAST_LOSS)

    @staticmethod
    def loss(score: Array, y: Array) -> Array:
        """Return the loss of each score."""
        return 0.5 * (score - y) ** 2 + LEAST_LOSS

    @staticmethod
    def derivative(score: Array, y: Array) -> Array:
        """Return the derivative of the loss by the score."""
        return score - y


class Logistic(LinearModel):
    r"""Classify by logistic regression without a bias: cross-entropy is $\log(1 + e^z) - yz$ with $z = \theta^\top x$.

    It takes `x` of shape (samples, features + 1) in float64 and ignores the last column; the label is $y \in \{0, 1\}$.

    Args:
        width: Share of the features, in (0, 1].
        features: Number of features.
        start: (features,) initial parameters (default: 0).

    Raises:
        ValueError: `features` is not a whole number from 1, or `start` is not as many finite numbers.

    Example:
        >>> Logistic(features=2)(torch.zeros(1, 3, dtype=torch.float64)).tolist()
        [[0.0, 0.0]]
    """

    max_second_derivative = 0.25

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (samples, 2)."""
        score = self.score(x)
        return torch.stack([torch.zeros_like(score), score], 1)

    @staticmethod
    def loss(score: Array, y: Array) -> Array:
        """Return the loss of each score."""
        return np.logaddexp(0, score) - y * score

    @staticmethod
    def derivative(score: Array, y: Array) -> Array:
        """Return the derivative of the loss by the score."""
        return 1 / (1 + np.exp(-score)) - y


class TwoLayers(nn.Module):
    r"""Fit targets by two linear layers with slimmable hidden units: cross-entropy is $\tfrac12\|W_2 W_1 x - y\|^2 + 0.1$.

    It takes `x` of shape (samples, features + outputs) in float64 with the targets as the last columns; every label is 0.

    Args:
        width: Share of the hidden units, in (0, 1].
        features: Number of features.
        outputs: Number of targets.
        hidden: Number of hidden units at full width.

    Raises:
        ValueError: A number is not a whole number from 1.

    Example:
        >>> TwoLayers(0.5, features=3, outputs=2, hidden=4).first.shape
        torch.Size([2, 3])

    References:
        FjORD (Horvath et al. 2021), whose theorem is about this network.
    """

    def __init__(self, width: float = 1.0, *, features: int, outputs: int, hidden: int) -> None:
        super().__init__()
        for name, value in {"features": features, "outputs": outputs, "hidden": hidden}.items():
            number(name, value, 1, whole=True)
        used = n_units(width, hidden)
        self.first = nn.Parameter(0.3 * torch.randn(used, features, dtype=torch.float64))
        self.second = nn.Parameter(0.3 * torch.randn(outputs, used, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (samples, 2), whose cross-entropy for class 0 is the loss."""
        features = self.first.shape[1]
        residual = x[:, :features] @ self.first.T @ self.second.T - x[:, features:]
        return logits_of(0.5 * residual.square().sum(1) + LEAST_LOSS)


def logits_of(loss: Tensor) -> Tensor:
    """Logits, (samples, 2), whose cross-entropy for class 0 is this loss, (samples,), above 0."""
    return torch.stack([-(loss + torch.log(-torch.expm1(-loss))), torch.zeros_like(loss)], 1)
