"""What participants make of the rewards they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .._check import checked, refusal
from ..slimmable import prefix, slim
from ..types import Build, State

__all__ = ["ensemble", "refilled"]


@checked
def refilled(build: Build, reward: State, start: State) -> dict[str, Tensor]:
    r"""Fill a slice up to a full network with the entries of the initial one.

    A participant can train it on its own shard to exceed its reward.

    Args:
        build: Constructor of the network.
        reward: Tensors of the slice.
        start: Tensors of the initial network $\theta_0$.

    Returns:
        Tensors of the full network, with the reward in the leading block and $\theta_0$ outside it.

    Raises:
        ValueError: The reward is no slice of this network.

    Example:
        >>> import aequa_lite as aq
        >>> start, theta = aq.init_params(aq.MLP, 0), aq.init_params(aq.MLP, 1)
        >>> wide = refilled(aq.MLP, aq.slice_of(aq.MLP, theta, 0.5), start)
        >>> bool((wide["2.weight"][:100] == theta["2.weight"][:100]).all()), bool((wide["2.bias"][100:] == 0).all())
        (True, False)

    References:
        Our choice.
    """
    full = {k: t.clone() for k, t in slim(build, start, 1.0).state_dict().items()}
    if not isinstance(reward, Mapping) or not reward or not set(reward) <= set(full):
        raise refusal("reward", "tensors of a slice of this network, by name", reward)
    for k, t in reward.items():
        full[k][prefix(t.shape)] = t
    return full


@checked
def ensemble(models: Sequence[nn.Module]) -> nn.Module:
    r"""Return the ensemble of a coalition's networks: $\log \frac1k \sum_j \mathrm{softmax}(f_j(x))$.

    The owner of the widest of nested slices can compute it alone.

    Args:
        models: Networks with the same classes, at least one.

    Raises:
        ValueError: There is no network.

    Example:
        >>> import aequa_lite as aq
        >>> net, few = aq.MLP(), aq.load("fashion-mini").test.take(slice(0, 10))
        >>> bool((aq.correct(ensemble([net, net]), few) == aq.correct(net, few)).all())
        True

    References:
        Our choice.
    """
    if not models or not all(isinstance(each, nn.Module) for each in models):
        raise refusal("models", "networks, at least one", models)
    return _Ensemble(models)


class _Ensemble(nn.Module):
    """Networks whose probabilities are averaged."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x).softmax(1) for net in self.members]).mean(0).log()
