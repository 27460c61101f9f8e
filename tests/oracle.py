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
    """784-200-200-10; the second hidden layer may run ahead of the width."""

    def __init__(self, ahead: int = 1) -> None:
        super().__init__({"2": nn.Linear(784, 200), "4": nn.Linear(200, 200), "6": nn.Linear(200, 10)})
        self.ahead = ahead

    def forward(self, x: Tensor, width: float) -> Tensor:
        h = (x.float() / 127.5 - 1).flatten(1)
        h = torch.relu(self.part("2", h, width))
        h = torch.relu(self.part("4", h, min(1.0, self.ahead * width)))
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


class Flat:
    """A network as nothing but its full-size tensors by name, for the networks that nest their layers."""

    def load_state_dict(self, theta: dict[str, Tensor]) -> None:
        self.whole = {
            k: t.clone().requires_grad_(t.is_floating_point() and "running" not in k) for k, t in theta.items()
        }

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return [(k, t) for k, t in self.whole.items() if t.requires_grad]

    def part(self, name: str, *sizes: int | None) -> Tensor:
        """The first ``sizes`` of a tensor along its first axes (None: all)."""
        return self.whole[name][tuple(slice(size) for size in sizes)]

    def linear(self, name: str, x: Tensor, out: int | None = None) -> Tensor:
        """Apply the first outputs of a linear layer to however many inputs arrive."""
        return x @ self.part(f"{name}.weight", out, x.shape[-1]).T + self.part(f"{name}.bias", out)


def in_groups(width: float, full: int, group: int) -> int:
    """The units that remain when they remain in whole groups."""
    return group * kept(width, full // group)


def standardised(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mean 0 and variance 1 over some axes, with the usual small number under the root."""
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + 1e-5)


class OraclePictures(Flat):
    """What the convolutional oracles share; ``group`` = 0 is BatchNorm on the statistics of the batch."""

    def __init__(self, group: int = 4) -> None:
        self.group = group

    def kept(self, width: float, full: int) -> int:
        return in_groups(width, full, self.group or 1)

    def norm(self, name: str, x: Tensor) -> Tensor:
        n, c, h, b = x.shape
        out = (
            standardised(x.reshape(n, c // self.group, self.group, h, b), (2, 3, 4)).reshape(x.shape)
            if self.group
            else standardised(x, (0, 2, 3))
        )
        return out * self.part(f"{name}.weight", c)[:, None, None] + self.part(f"{name}.bias", c)[:, None, None]

    def conv(self, name: str, x: Tensor, out: int, stride: int = 1) -> Tensor:
        weight = self.part(f"{name}.weight", out, x.shape[1])
        return conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


class OracleConvNet(OraclePictures):
    """Four blocks of 32, 64, 128, 256 channels."""

    def __call__(self, x: Tensor, width: float) -> Tensor:
        h = x.float() / 127.5 - 1
        for i, full in enumerate((32, 64, 128, 256)):
            h = torch.relu(self.norm(f"{4 * i + 2}", self.conv(f"{4 * i + 1}", h, self.kept(width, full))))
            h = max_pool2d(h, 2) if i < 3 else h
        return self.linear("18", h.mean((2, 3)))


class OracleResNet18(OraclePictures):
    """18 layers with the small stem."""

    def __init__(self, group: int = 4, channels: int = 64) -> None:
        super().__init__(group)
        self.channels = channels

    def __call__(self, x: Tensor, width: float) -> Tensor:
        h = self.conv("conv1", x.float() / 127.5 - 1, self.kept(width, self.channels))
        h = torch.relu(self.norm("norm1", h))
        for stage in range(4):
            out = self.kept(width, self.channels * 2**stage)
            for block in range(2):
                at, stride = f"layer{stage + 1}.{block}.", 2 if stage and not block else 1
                g = torch.relu(self.norm(at + "norm1", self.conv(at + "conv1", h, out, stride)))
                g = self.norm(at + "norm2", self.conv(at + "conv2", g, out))
                if stride == 2:
                    h = self.norm(at + "downsample.1", self.conv(at + "downsample.0", h, out, stride))
                h = torch.relu(g + h)
        return self.linear("fc", h.mean((2, 3)))


class OracleTextCNN(Flat):
    """Sentence by sentence without its padding, window by window, and with the branches concatenated."""

    def __call__(self, x: Tensor, width: float) -> Tensor:
        e, m = kept(width, 128), kept(width, 128)
        rows = []
        for ids in x:
            words = self.part("embedding.weight", None, e)[ids[ids != 0]]  # (n, e)
            found = []
            for i, size in enumerate((1, 3, 5)):
                weight = self.part(f"convolutions.{i}.weight", m, e)
                edge = torch.zeros(size // 2, e)
                windows = torch.cat([edge, words, edge]).unfold(0, size, 1)  # (n, e, size)
                out = torch.einsum("nes,mes->nm", windows, weight) + self.part(f"convolutions.{i}.bias", m)
                found.append(torch.relu(out).max(0).values)
            head = torch.cat([self.part(f"branches.{i}.weight", None, m) for i in range(3)], 1)
            rows.append(head @ torch.cat(found) + self.part("branches.0.bias"))
        return torch.stack(rows)


class OracleTransformer(Flat):
    """Sentence by sentence without its padding, head by head: 2 layers of 8 heads of 16 units."""

    def norm(self, name: str, x: Tensor) -> Tensor:
        pieces = torch.cat([standardised(piece, (1,)) for piece in x.split(16, 1)], 1)
        return pieces * self.part(f"{name}.weight", x.shape[1]) + self.part(f"{name}.bias", x.shape[1])

    def heads(self, at: str, x: Tensor) -> Tensor:
        outs = []
        for head in range(x.shape[1] // 16):
            own = slice(16 * head, 16 * head + 16)
            q, k, v = (self.linear(f"{at}.{name}", x, x.shape[1])[:, own] for name in ("query", "key", "value"))
            outs.append(torch.softmax(q @ k.T / 4, 1) @ v)
        return self.linear(f"{at}.out", torch.cat(outs, 1), x.shape[1])

    def __call__(self, x: Tensor, width: float) -> Tensor:
        stream, hidden = in_groups(width, 128, 16), kept(width, 256)
        rows = []
        for ids in x:
            ids = ids[ids != 0]
            h = self.part("words.weight", None, stream)[ids] + self.part("positions", len(ids), stream)
            for layer in ("layers.0", "layers.1"):
                h = h + self.heads(f"{layer}.attention", self.norm(f"{layer}.norm1", h))
                up = torch.relu(self.linear(f"{layer}.up", self.norm(f"{layer}.norm2", h), hidden))
                h = h + self.linear(f"{layer}.down", up, stream)
            rows.append(self.linear("out", self.norm("norm", h).mean(0)))
        return torch.stack(rows)
