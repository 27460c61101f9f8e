"""The oracle of slimming: full-size layers that carry the width through their forward pass and slice as they go.

Written without the package, the way the first slimmable networks were, so that the two can be held against each other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, max_pool2d


def kept(width: float, full: int) -> int:
    """The units that remain."""
    return max(1, math.ceil(round(width * full, 9)))


class Oracle(nn.Module):
    """A network whose layers, named as the package names them, stay whole; ``forward(x, width)`` uses a part of each."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def part(self, name: str, x: Tensor, width: float, last: bool = False) -> Tensor:
        """Apply a layer's first outputs to however many inputs arrive."""
        layer = getattr(self, name)
        out = layer.weight.shape[0] if last else kept(width, layer.weight.shape[0])
        weight, bias = layer.weight[:out, : x.shape[1]], layer.bias[:out]
        return (
            conv2d(x, weight, bias, padding=layer.padding) if isinstance(layer, nn.Conv2d) else linear(x, weight, bias)
        )


class OracleMLP(Oracle):
    """784-200-200-10."""

    def __init__(self) -> None:
        super().__init__({"2": nn.Linear(784, 200), "4": nn.Linear(200, 200), "6": nn.Linear(200, 10)})

    def forward(self, x: Tensor, width: float) -> Tensor:
        h = (x.float() / 127.5 - 1).flatten(1)
        h = torch.relu(self.part("2", h, width))
        h = torch.relu(self.part("4", h, width))
        return self.part("6", h, width, last=True)


class OracleLeNet(Oracle):
    """LeNet-5 for 28 x 28 pictures."""

    def __init__(self, multiple: int = 1) -> None:
        a, b, c, d = (multiple * n for n in (6, 16, 120, 84))
        super().__init__(
            {
                "1": nn.Conv2d(1, a, 5, padding=2),
                "4": nn.Conv2d(a, b, 5),
                "8": nn.Linear(b * 25, c),
                "10": nn.Linear(c, d),
                "12": nn.Linear(d, 10),
            }
        )

    def forward(self, x: Tensor, width: float) -> Tensor:
        h = max_pool2d(torch.relu(self.part("1", x.float() / 127.5 - 1, width)), 2)
        h = max_pool2d(torch.relu(self.part("4", h, width)), 2).flatten(1)
        h = torch.relu(self.part("8", h, width))
        h = torch.relu(self.part("10", h, width))
        return self.part("12", h, width, last=True)
