"""What the server does with the answers: how much each counts, and how far the shared network follows their average.

A server step is a function ``(state, merged) -> next state``. What it remembers lies in the state too, under names that no
network has, so it is checkpointed with everything else and never sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..evaluation import correct
from ..slimmable import Build, slim
from ..types import Samples, Update

__all__ = ["fedadam", "fedavg", "fedavgm", "validation_weights"]


State = Mapping[str, Tensor]


ServerOptimizer = Callable[[State, State], dict[str, Tensor]]


Reweight = Callable[[Sequence[Update]], Sequence[float]]


def networks_own(state: State) -> dict[str, Tensor]:
    """The state without what the server remembers."""
    return {name: t for name, t in state.items() if " of " not in name}


def fedavg(state: State, merged: State) -> dict[str, Tensor]:
    r"""Take the average of the answers as it is: $\theta \leftarrow \mathrm{merge}(\theta)$.

    Example:
        >>> fedavg({"w": torch.zeros(1)}, {"w": torch.ones(1)})["w"].item()
        1.0

    Source: FedAvg (McMahan et al. 2017).
    """
    return dict(merged)


def fedavgm(beta: float = 0.9, lr: float = 1.0) -> ServerOptimizer:
    r"""Follow the average with momentum.

    $m \leftarrow \beta m + (\mathrm{merge}(\theta) - \theta)$, then $\theta \leftarrow \theta + \eta m$.

    Raises:
        ValueError: ``beta`` is outside [0, 1), or ``lr`` is not above 0.

    Example:
        >>> state = fedavgm(0.5)({"w": torch.zeros(1)}, {"w": torch.ones(1)})
        >>> fedavgm(0.5)(state, {"w": torch.full((1,), 2.0)})["w"].item()
        2.5

    Source: FedAvgM (Hsu et al. 2019).
    """
    _check_constants(beta=beta, lr=lr)

    def follow(name: str, state: State, push: Tensor) -> dict[str, Tensor]:
        speed = state.get(f"momentum of {name}", torch.zeros_like(push)) * beta + push
        return {name: state[name] + lr * speed, f"momentum of {name}": speed}

    return _entrywise(follow)


def fedadam(lr: float = 0.01, beta: float = 0.9, beta2: float = 0.99, epsilon: float = 1e-3) -> ServerOptimizer:
    r"""Follow the average with a step of its own for each entry, larger where answers have been small.

    With $d = \mathrm{merge}(\theta) - \theta$: $m \leftarrow \beta m + (1-\beta) d$, $v \leftarrow \beta_2 v + (1-\beta_2) d^2$,
    $\theta \leftarrow \theta + \eta\, m / (\sqrt v + \epsilon)$.

    Raises:
        ValueError: a ``beta`` is outside [0, 1), or ``lr`` or ``epsilon`` is not above 0.

    Example:
        >>> round(fedadam(lr=0.1)({"w": torch.zeros(1)}, {"w": torch.ones(1)})["w"].item(), 3)
        0.099

    Source: FedAdam (Reddi et al. 2021), without bias correction, as published.
    """
    _check_constants(beta=beta, beta2=beta2, lr=lr, epsilon=epsilon)

    def follow(name: str, state: State, push: Tensor) -> dict[str, Tensor]:
        zero = torch.zeros_like(push)
        first = beta * state.get(f"momentum of {name}", zero) + (1 - beta) * push
        second = beta2 * state.get(f"square of {name}", zero) + (1 - beta2) * push.square()
        new = state[name] + lr * first / (second.sqrt() + epsilon)
        return {name: new, f"momentum of {name}": first, f"square of {name}": second}

    return _entrywise(follow)


def _entrywise(follow: Callable[[str, State, Tensor], dict[str, Tensor]]) -> ServerOptimizer:
    """The server step that follows each tensor's push; whole numbers, such as a counter of batches, are taken as they come."""

    def step(state: State, merged: State) -> dict[str, Tensor]:
        after: dict[str, Tensor] = {}
        for name, new in merged.items():
            after |= follow(name, state, new - state[name]) if new.is_floating_point() else {name: new}
        return after

    return step


def validation_weights(build: Build, validation: Samples, power: float = 1.0) -> Reweight:
    r"""Weigh each answer by what it is worth now: $a_i \propto \mathrm{acc}_i^{\,p}$, its validation accuracy as it arrives.

    Raises:
        ValueError: ``power`` is negative or not finite.

    Example:
        >>> import aequa_lite as aq
        >>> reweight = validation_weights(aq.MLP, aq.load("fashion-mini").validation, power=2.0)
        >>> update = aq.Update(0, 1.0, aq.init_params(aq.MLP, seed=0), weight=1.0, loss=2.3)
        >>> reweight([update, update]) == [0.5, 0.5]
        True

    Source: ours; contribution-weighted merging as in ShapFed-WA, with accuracy as the contribution.
    """
    if not 0 <= power < np.inf:
        raise ValueError(f"power is {power!r}; allowed is a finite number from 0")

    def reweight(updates: Sequence[Update]) -> list[float]:
        worth = np.array([correct(slim(build, u.state, u.width).eval(), validation).mean() for u in updates])
        mass = np.maximum(worth, 1e-3) ** power
        return (mass / mass.sum()).tolist()

    return reweight


def _check_constants(**values: float) -> None:
    """Refuse constants that make no step."""
    for name, value in values.items():
        fits = 0 <= value < 1 if name.startswith("beta") else 0 < value < np.inf
        if not fits:
            raise ValueError(f"{name} is {value!r}; allowed is {'[0, 1)' if name.startswith('beta') else 'above 0'}")
