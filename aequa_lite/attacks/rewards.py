"""What a cheat does to a whole method: its scheme, who it says it is, what it says it has, and what it makes of its pay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..slimmable import Build, State, prefix, slim

__all__ = ["ensemble", "refilled"]


def refilled(build: Build, reward: State, start: State) -> dict[str, Tensor]:
    r"""Put a slice back into a full network, whose other entries stand as everybody knows them: $\theta_0$ outside the block.

    What a participant trains on its own shard to climb above its reward.

    Example:
        >>> import aequa_lite as aq
        >>> start, theta = aq.init_params(aq.MLP, 0), aq.init_params(aq.MLP, 1)
        >>> wide = refilled(aq.MLP, aq.slice_of(aq.MLP, theta, 0.5), start)
        >>> bool((wide["2.weight"][:100] == theta["2.weight"][:100]).all()), bool((wide["2.bias"][100:] == 0).all())
        (True, False)

    Source: ours.
    """
    grown = {name: t.clone() for name, t in slim(build, start, 1.0).state_dict().items()}
    for name, t in reward.items():
        grown[name][prefix(t.shape)] = t
    return grown


def ensemble(nets: Sequence[nn.Module]) -> nn.Module:
    r"""Return what a coalition answers that keeps its networks apart: the mean of their probabilities, as logits.

    $\log \frac1k \sum_j \mathrm{softmax}(f_j(x))$; of nested slices, the widest one's owner can compute it alone.

    Example:
        >>> import aequa_lite as aq
        >>> net, few = aq.MLP(), aq.load("fashion-mini").test.take(slice(0, 10))
        >>> bool((aq.correct(ensemble([net, net]), few) == aq.correct(net, few)).all())
        True

    Source: ours.
    """
    return _Vote(nets)


class _Vote(nn.Module):
    """Networks that are asked together."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x).softmax(1) for net in self.members]).mean(0).log()
