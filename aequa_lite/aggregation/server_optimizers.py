"""How far the global model follows the aggregate, and how much weight each update has.

A server optimizer is a function `(state, aggregated) -> next state` of a `ServerState` and the tensors of the aggregate.
What it remembers are tensors in `state.memory`, such as `momentum/0.weight`: saved with a checkpoint, never sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from torch import Tensor

from .._check import checked, number, refusal
from ..evaluation import correct
from ..federate import Reweight, ServerOptimizer
from ..slimmable import slim
from ..types import Build, Samples, ServerState, State, Update

__all__ = ["fedadam", "fedavg", "fedavgm", "validation_weights"]

LEAST_ACCURACY = 1e-3  # of an update, so that every weight is above zero


def fedavg(state: ServerState, aggregated: State) -> ServerState:
    r"""Take the aggregate as it is: $\theta \leftarrow \mathrm{aggregate}(\theta)$.

    Args:
        state: The server's state before the round.
        aggregated: Tensors of the aggregate, by name.

    Returns:
        The next state; the memory stays.

    Raises:
        ValueError: The aggregate has other tensors than the global model.

    Example:
        >>> import torch
        >>> fedavg(ServerState({"w": torch.zeros(1)}), {"w": torch.ones(1)}).theta
        {'w': tensor([1.])}

    References:
        FedAvg (McMahan et al. 2017).
    """
    theta, memory, _ = _begin(state, aggregated)
    return ServerState(theta, memory)


def fedavgm(beta: float = 0.9, lr: float = 1.0) -> ServerOptimizer:
    r"""Follow the aggregate with momentum.

    $m \leftarrow \beta m + (\mathrm{aggregate}(\theta) - \theta)$, then $\theta \leftarrow \theta + \eta m$.

    Args:
        beta: Momentum, in [0, 1).
        lr: Server learning rate $\eta$.

    Returns:
        A server optimizer that remembers `momentum/NAME` for each tensor.

    Raises:
        ValueError: `beta` is outside [0, 1), or `lr` is not above 0.

    Example:
        >>> import torch
        >>> step = fedavgm(0.5)
        >>> state = step(ServerState({"w": torch.zeros(1)}), {"w": torch.ones(1)})
        >>> step(state, {"w": torch.full((1,), 2.0)}).theta["w"].item()
        2.5

    References:
        FedAvgM (Hsu et al. 2019).
    """
    number("beta", beta, 0, 1, below=True)
    number("lr", lr, 0, above=True)
    return partial(_follow_with_momentum, beta=beta, lr=lr)


@checked
def fedadam(lr: float = 0.01, beta: float = 0.9, beta2: float = 0.99, epsilon: float = 1e-3) -> ServerOptimizer:
    r"""Follow the aggregate with a step size of its own for each entry.

    With $d = \mathrm{aggregate}(\theta) - \theta$: $m \leftarrow \beta m + (1-\beta) d$,
    $v \leftarrow \beta_2 v + (1-\beta_2) d^2$, $\theta \leftarrow \theta + \eta\, m / (\sqrt v + \epsilon)$.

    Args:
        lr: Server learning rate $\eta$.
        beta: Decay of $m$, in [0, 1).
        beta2: Decay of $v$, in [0, 1).
        epsilon: Added to the root, above 0.

    Returns:
        A server optimizer that remembers `momentum/NAME` and `square/NAME` for each tensor.

    Raises:
        ValueError: A decay is outside [0, 1), or `lr` or `epsilon` is not above 0.

    Example:
        >>> import torch
        >>> state = fedadam(lr=0.1)(ServerState({"w": torch.zeros(1)}), {"w": torch.ones(1)})
        >>> round(state.theta["w"].item(), 3), sorted(state.memory)
        (0.099, ['momentum/w', 'square/w'])

    References:
        FedAdam (Reddi et al. 2021), without bias correction, as published.
    """
    number("beta", beta, 0, 1, below=True)
    number("beta2", beta2, 0, 1, below=True)
    number("lr", lr, 0, above=True)
    number("epsilon", epsilon, 0, above=True)
    return partial(_follow_with_adam, lr=lr, beta=beta, beta2=beta2, epsilon=epsilon)


def _follow_with_momentum(state: ServerState, aggregated: State, *, beta: float, lr: float) -> ServerState:
    """The step of FedAvgM."""
    theta, memory, changes = _begin(state, aggregated)
    for name, change in changes.items():
        momentum = memory.get(f"momentum/{name}", 0.0) * beta + change
        theta[name] = state.theta[name] + lr * momentum
        memory[f"momentum/{name}"] = momentum
    return ServerState(theta, memory)


def _follow_with_adam(
    state: ServerState, aggregated: State, *, lr: float, beta: float, beta2: float, epsilon: float
) -> ServerState:
    """The step of FedAdam."""
    theta, memory, changes = _begin(state, aggregated)
    for name, change in changes.items():
        momentum = beta * memory.get(f"momentum/{name}", 0.0) + (1 - beta) * change
        square = beta2 * memory.get(f"square/{name}", 0.0) + (1 - beta2) * change.square()
        theta[name] = state.theta[name] + lr * momentum / (square.sqrt() + epsilon)
        memory |= {f"momentum/{name}": momentum, f"square/{name}": square}
    return ServerState(theta, memory)


def _begin(state: ServerState, aggregated: State) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Copies of the aggregate and of the memory, and the change of each floating-point tensor.

    An aggregate of other tensors than the global model's is refused.
    """
    if not isinstance(state, ServerState) or not state.theta:
        raise refusal("state", "a ServerState that holds a model", state)
    if not isinstance(aggregated, Mapping) or set(aggregated) != set(state.theta):
        found = sorted(map(str, aggregated)) if isinstance(aggregated, Mapping) else aggregated
        raise refusal("aggregated", f"the model's {len(state.theta)} tensors by name", found)
    changes = {k: t - state.theta[k] for k, t in aggregated.items() if t.is_floating_point()}
    return dict(aggregated), dict(state.memory), changes


@checked
def validation_weights(build: Build, validation: Samples, power: float = 1.0) -> Reweight:
    r"""Weight each update by its own validation accuracy: $a_i \propto \mathrm{acc}_i^{\,p}$.

    Args:
        build: Constructor of the network.
        validation: Samples of the server.
        power: $p$; 0 weights all alike.

    Returns:
        A function of the round's updates; it returns their weights, which sum to one.

    Raises:
        ValueError: There are no samples, or `power` is negative or not finite.

    Example:
        >>> import aequa_lite as aq
        >>> reweight = validation_weights(aq.MLP, aq.load("fashion-mini").validation, power=2.0)
        >>> update = aq.Update(0, 1.0, aq.init_params(aq.MLP, seed=0), weight=1.0, loss=2.3)
        >>> reweight([update, update]) == [0.5, 0.5]
        True

    References:
        Our choice: contribution-weighted aggregation as in ShapFed-WA, with accuracy as the contribution.
    """
    if not isinstance(validation, Samples) or not len(validation):
        raise refusal("validation", "Samples, at least one", validation)
    number("power", power, 0)
    return partial(_by_accuracy, build, validation, power)


def _by_accuracy(build: Build, validation: Samples, power: float, updates: Sequence[Update]) -> list[float]:
    """Weights in proportion to a power of the validation accuracy."""
    if not updates:
        raise refusal("updates", "at least one Update", updates)
    networks = [slim(build, u.state, u.width).eval() for u in updates]
    accuracy = np.array([correct(net, validation).mean() for net in networks])
    mass = np.maximum(accuracy, LEAST_ACCURACY) ** power
    return (mass / mass.sum()).tolist()
