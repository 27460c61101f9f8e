"""FedSAC: sub-networks of the units that a reputation buys, the least important first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .._check import checked, flag, number, refusal
from ..method import Outcome, Problem, Train, train
from ..slimmable import slim
from ..types import Build, Samples, ServerState, State, Update
from .common import ROUNDS, remembered
from .subnetworks import chain, train_subnetworks

__all__ = ["fedsac", "importance"]

IMPORTANCE = "importance"  # key of the memory: (units of all layers,)


@checked
def fedsac(
    problem: Problem, *, beta: float = 5.0, every: int = 10, samples: int = 1000, prune_outputs: bool = True,
    train: Train = train,
) -> Outcome:  # fmt: skip
    r"""Train and reward with the units that a reputation buys, the least important first.

    $r_i = 100\,e^{\beta B_i} / \max_j e^{\beta B_j}$ with the contribution $B_i$. The importance of all units is scaled to
    sum to 100, and units are taken in rising order until their sum reaches $r_i$: sub-networks are nested by importance.
    Each entry is averaged over those who hold it. With $\beta = 0$ everybody has the full network: FedAvg with equal
    weights.

    Args:
        beta: $\beta$, from 0. It decides how much network a difference in accuracy costs: choose it on validation, for
            instance among 5, 20 and 80.
        every: Rounds between two measurements of importance, the first one after the first round.
        samples: Number of validation samples on which it is measured.
        prune_outputs: Outputs are units as well, and one that is not bought is zero.

    Raises:
        ValueError: A constant is outside its range, or the network is no chain of linear and convolutional layers.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> problem = aq.method.assess(aq.MLP, aq.data.homogeneous(data.train, config), config, data, progress=False)
        >>> len(fedsac(problem, samples=20, train=partial(train, progress=False)).models)
        2

    References:
        FedSAC (Wang et al. 2024): reputation, importance, aggregation over holders. Its repository is empty; that the
        unit which crosses $r_i$ is taken and that outputs are pruned is as in FedRAC's code for it. There $\beta$ is 80.
        Deviation: contributions are of the validation split; everybody trains the whole initial network in the first
        round; the least important unit of each layer is always kept; what a pruned output learns in a round is dropped;
        the reward is of the final round.
    """
    number("beta", beta, 0)
    number("every", every, 1, whole=True)
    number("samples", samples, 1, whole=True)
    sizes = list(chain(problem.build).values())
    if not flag("prune_outputs", prune_outputs):
        sizes = sizes[:-1]
    reputation = 100 * np.exp(beta * (problem.contribution - problem.contribution.max()))
    units = partial(_units, sizes=sizes, reputation=reputation)
    few = problem.validation.take(slice(0, samples))
    return train_subnetworks(
        problem, units, partial(_measure, build=problem.build, samples=few, every=every), train, "fedsac"
    )


@checked
def importance(build: Build, theta: State, samples: Samples) -> NDArray[np.float64]:
    r"""Measure by how much the loss rises when a unit is zeroed.

    $s_j = F(\theta \text{ without unit } j) - F(\theta)$ for the units (or filters, or outputs) of all layers in order.

    Args:
        build: Constructor of a chain of linear and convolutional layers.
        theta: Tensors of the full network.
        samples: Samples on which $F$ is measured.

    Returns:
        (units,) differences of the mean cross-entropy; the last ones are of the outputs.

    Raises:
        ValueError: The network is no chain of linear and convolutional layers, or there are no samples.

    Example:
        >>> import aequa_lite as aq
        >>> some = aq.load("fashion-mini", device="cpu").validation.take(slice(0, 50))
        >>> importance(aq.MLP, aq.init_params(aq.MLP, 0), some).shape
        (410,)

    References:
        FedSAC (Wang et al. 2024), neuron importance; the split is our choice.
    """
    sizes = chain(build)
    if not isinstance(samples, Samples) or not len(samples):
        raise refusal("samples", "Samples, at least one", samples)
    net = slim(build, theta, 1.0).eval()
    layers, names = list(net.children()), [name for name, _ in net.named_children()]
    ends = [*(names.index(name) for name in list(sizes)[1:]), len(layers)]
    found, features, before = [], samples.x, 0
    with torch.inference_mode():
        loss = float(cross_entropy(net(samples.x), samples.y))
        for count, end in zip(sizes.values(), ends, strict=True):
            features = nn.Sequential(*layers[before:end])(features)  # what the next layer reads
            before, rest = end, nn.Sequential(*layers[end:])
            found += [_loss_without(rest, features, unit, count, samples.y) - loss for unit in range(count)]
    return np.array(found)


def _loss_without(rest: nn.Module, features: Tensor, unit: int, units: int, y: Tensor) -> float:
    """The loss of the layers that follow when one unit is zeroed."""
    zeroed, each = features.clone(), features.shape[1] // units  # after flattening, a filter is several inputs
    zeroed[:, unit * each : (unit + 1) * each] = 0
    return float(cross_entropy(rest(zeroed), y))


def selected(score: NDArray[np.float64], sizes: Sequence[int], reputation: float) -> list[NDArray[np.bool_]]:
    """Units of each layer that a reputation in (0, 100] buys, the least important first.

    Units are taken until their importance, scaled to sum to 100, reaches the reputation. The least important unit of
    each layer is always among them.
    """
    weight = np.maximum(score, 0)
    weight = 100 * weight / max(weight.sum(), 1e-30)
    order = np.argsort(score, kind="stable")
    kept = np.zeros(len(score), dtype=bool)
    kept[order] = np.cumsum(weight[order]) - weight[order] < reputation - 1e-9
    cuts = np.cumsum(sizes)[:-1]
    layers = np.split(kept, cuts)
    for some, scores in zip(layers, np.split(score, cuts), strict=True):
        some[np.argmin(scores)] = True
    return layers


def _units(
    state: ServerState, participant: int, *, sizes: Sequence[int], reputation: NDArray[np.float64]
) -> list[Tensor]:
    """The units that a participant's reputation buys; before they are measured, all."""
    score = remembered(state, IMPORTANCE, torch.zeros(sum(sizes))).numpy()[: sum(sizes)]
    device = next(iter(state.theta.values())).device
    return [torch.as_tensor(kept, device=device) for kept in selected(score, sizes, float(reputation[participant]))]


def _measure(
    state: ServerState, theta: State, updates: Sequence[Update], *, build: Build, samples: Samples, every: int
) -> dict[str, Tensor]:
    """The importance of all units, in the rounds in which it is measured."""
    due = int(state.memory.get(ROUNDS, 0)) % every == 0
    return {IMPORTANCE: torch.tensor(importance(build, theta, samples))} if due else {}
