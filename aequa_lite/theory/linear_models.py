r"""Linear networks whose every constant is known, so that what is proved can be held against the loop that runs.

The loop trains with cross-entropy. A network that answers a loss $q > 0$ with the two scores $(-\log(e^q - 1),\ 0)$
has the cross-entropy $q$ exactly: so a quadratic runs through the same lines of code as a network for pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..networks.base import n_units

__all__ = ["Logistic", "Squares", "TwoLayers"]


LEAST_LOSS = 0.1  # added to a squared error, so that its logarithm exists


def _scores(loss: Tensor) -> Tensor:
    """Two scores for each sample, (samples, 2), whose cross-entropy for class 0 is this loss, (samples,), above 0."""
    return torch.stack([-(loss + torch.log(-torch.expm1(-loss))), torch.zeros_like(loss)], 1)


class _Linear(nn.Module):
    """One score for each sample from its leading features: the width is the share of features that are looked at."""

    def __init__(self, width: float = 1.0, *, features: int, start: Any = None) -> None:
        super().__init__()
        first = np.zeros(features) if start is None else np.asarray(start, dtype=float)
        kept = n_units(width, features)
        self.weight = nn.Parameter(torch.empty(kept, dtype=torch.float64))
        if self.weight.device.type != "meta":
            self.weight.data.copy_(torch.from_numpy(first[:kept]))


class Squares(_Linear):
    r"""Least squares as a network: cross-entropy is $\tfrac12(\theta^\top x - y)^2 + 0.1$, to the last digits.

    ``x``: (samples, features + 1) float64, the last column is the target; every label is 0. ``start``: where it
    begins.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)  # features 1 and 2, target 3
        >>> logits = Squares(features=2)(x)
        >>> round(nn.functional.cross_entropy(logits, torch.tensor([0])).item(), 9)
        4.6
    """

    steepest = 1.0  # the largest second derivative of the loss by the score

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, whose cross entropy is the loss."""
        return _scores(0.5 * (x[:, : len(self.weight)] @ self.weight - x[:, -1]) ** 2 + LEAST_LOSS)

    @staticmethod
    def loss(score: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The loss of each score."""
        return 0.5 * (score - y) ** 2 + LEAST_LOSS

    @staticmethod
    def slope(score: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Its derivative by the score."""
        return score - y


class Logistic(_Linear):
    r"""Logistic regression without a bias: cross-entropy is $\log(1 + e^z) - yz$ with $z = \theta^\top x$.

    ``x``: (samples, features + 1) float64, the last column is not looked at; the label is ``y``, 0 or 1.

    Example:
        >>> Logistic(features=2)(torch.zeros(1, 3, dtype=torch.float64)).tolist()
        [[0.0, 0.0]]
    """

    steepest = 0.25

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, whose cross entropy is the loss."""
        score = x[:, : len(self.weight)] @ self.weight
        return torch.stack([torch.zeros_like(score), score], 1)

    @staticmethod
    def loss(score: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The loss of each score."""
        return np.logaddexp(0, score) - y * score

    @staticmethod
    def slope(score: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Its derivative by the score."""
        return 1 / (1 + np.exp(-score)) - y


class TwoLayers(nn.Module):
    r"""A linear network whose hidden units are slimmed: cross-entropy is $\tfrac12\|W_2 W_1 x - y\|^2 + 0.1$.

    ``x``: (samples, features + outputs) float64, the last columns are the targets; every label is 0.

    Example:
        >>> TwoLayers(0.5, features=3, outputs=2, hidden=4).first.shape
        torch.Size([2, 3])
    """

    def __init__(self, width: float = 1.0, *, features: int, outputs: int, hidden: int) -> None:
        super().__init__()
        kept = n_units(width, hidden)
        self.first = nn.Parameter(0.3 * torch.randn(kept, features, dtype=torch.float64))
        self.second = nn.Parameter(0.3 * torch.randn(outputs, kept, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, whose cross entropy is the loss."""
        features = self.first.shape[1]
        missed = x[:, :features] @ self.first.T @ self.second.T - x[:, features:]
        return _scores(0.5 * missed.square().sum(1) + LEAST_LOSS)
