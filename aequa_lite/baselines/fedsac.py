"""Pay with a network of fewer units, chosen by importance instead of by place: the rival nearest to slimming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..aggregation.server_optimizers import networks_own
from ..federate import slimmable
from ..local import full_only
from ..method import Algorithm, Entry, Outcome, Problem, checked_constant
from ..slimmable import Build, State, slim, template
from ..types import Round, Samples, Update
from .common import ROUNDS

__all__ = ["compact", "fedsac", "importance"]


IMPORTANCE = "importance of units"  # (units of all hidden layers,), in the order of the layers


SENT = "numbers of the round"  # that travelled in the round that was merged last


Units = list[Tensor]  # for each hidden layer (units,) bool: which are kept


def chain(build: Build) -> list[str]:
    """The layers of a network that is one chain of linear and convolutional layers, by name; others are refused."""
    net = template(build, 1.0)
    found = [name for name, layer in net.named_children() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    known = {f"{name}.{part}" for name in found for part in ("weight", "bias")}
    if not isinstance(net, nn.Sequential) or set(net.state_dict()) != known or len(found) < 2:
        raise ValueError(
            f"build makes {type(net).__name__}; allowed are chains of linear and convolutional layers, such as MLP or LeNet"
        )
    return found


def importance(build: Build, theta: State, samples: Samples) -> np.ndarray:
    r"""Measure what each hidden unit is worth: by how much the loss rises when it is silenced, (units,).

    $s_j = F(\theta \text{ without unit } j) - F(\theta)$ on ``samples``, for the units (or filters) of all hidden layers in
    their order.

    Raises:
        ValueError: the network is no chain of linear and convolutional layers.

    Example:
        >>> import aequa_lite as aq
        >>> some = aq.load("fashion-mini").validation.take(slice(0, 50))
        >>> importance(aq.MLP, aq.init_params(aq.MLP, 0), some).shape
        (400,)

    Source: neuron importance as FedSAC has it (Wang et al. 2024); the split is ours.
    """
    names, net = chain(build), slim(build, theta, 1.0).eval()
    layers = list(net.children())
    places = [place for place, (name, _) in enumerate(net.named_children()) if name in names]
    found, heard, before = [], samples.x, 0
    with torch.inference_mode():
        whole = float(cross_entropy(net(samples.x), samples.y))
        for name, following in zip(names, places[1:], strict=False):
            heard = nn.Sequential(*layers[before:following])(heard)  # what the following layer is told
            before, rest = following, nn.Sequential(*layers[following:])
            units = len(theta[f"{name}.weight"])
            each = heard.shape[1] // units  # after flattening, a filter is several inputs
            for unit in range(units):
                silenced = heard.clone()
                silenced[:, unit * each : (unit + 1) * each] = 0
                found.append(float(cross_entropy(rest(silenced), samples.y)) - whole)
    return np.array(found)


def chosen(score: np.ndarray, sizes: Sequence[int], reputation: float) -> list[np.ndarray]:
    """For each hidden layer which units a reputation in (0, 100] pays for: the least important first.

    Units are taken while their importance sums to no more than the reputation; all together weigh 100. The least
    important unit of each layer is always among them.
    """
    weight = np.maximum(score, 0)
    weight = 100 * weight / weight.sum() if weight.sum() > 0 else np.zeros_like(weight)
    order = np.argsort(score, kind="stable")
    kept = np.zeros(len(score), dtype=bool)
    kept[order] = np.cumsum(weight[order]) <= reputation + 1e-9
    layers = np.split(kept, np.cumsum(sizes)[:-1])
    for some, scores in zip(layers, np.split(score, np.cumsum(sizes)[:-1]), strict=True):
        some[np.argmin(scores)] = True
    return layers


def masks(theta: State, names: Sequence[str], kept: Units) -> dict[str, Tensor]:
    """Which entries of every tensor a network of the kept units holds."""
    found: dict[str, Tensor] = {}
    for place, name in enumerate(names):
        weight = theta[f"{name}.weight"]
        rows = kept[place] if place < len(kept) else torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        columns = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
        if place:
            columns = kept[place - 1].repeat_interleave(weight.shape[1] // len(kept[place - 1]))
        held = rows[:, None] & columns[None, :]
        found[f"{name}.weight"] = held.view(*held.shape, *[1] * (weight.ndim - 2)).expand_as(weight)
        found[f"{name}.bias"] = rows
    return found


def compact(build: Build, theta: State, kept: Units) -> nn.Module:
    """Return an ordinary network of the kept units alone, with the outputs of the one in which all others are zero.

    ``kept``: for each hidden layer (units,) bool.

    Raises:
        ValueError: the network is no chain of linear and convolutional layers.

    Example:
        >>> import aequa_lite as aq
        >>> few = [torch.arange(200) < 50, torch.arange(200) >= 180]
        >>> aq.n_parameters(compact(aq.MLP, aq.init_params(aq.MLP, 0), few))
        40480

    Source: ours.
    """
    names, net = chain(build), slim(build, theta, 1.0)
    held = masks(theta, names, kept)
    for name in names:
        layer, weight = net.get_submodule(name), held[f"{name}.weight"]
        rows, columns = held[f"{name}.bias"], weight.flatten(2)[:, :, 0].any(0) if weight.ndim > 2 else weight.any(0)
        layer.weight = nn.Parameter(theta[f"{name}.weight"][rows][:, columns].clone())
        layer.bias = nn.Parameter(theta[f"{name}.bias"][rows].clone())
        sizes = ("out_features", "in_features") if isinstance(layer, nn.Linear) else ("out_channels", "in_channels")
        for size, count in zip(sizes, layer.weight.shape, strict=False):
            setattr(layer, size, count)
    return net


def _merged(theta: State, updates: Sequence[Update], held: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The average of every entry over those who hold it; entries that nobody holds keep their value."""
    after = {}
    for name, t in theta.items():
        push, count = torch.zeros_like(t), torch.zeros_like(t)
        for u in updates:
            mask = held[u.participant][name]
            push += u.weight * mask * (u.state[name] - t)
            count += u.weight * mask
        after[name] = t + push / count.clamp_min(1e-30)
    return after


def fedsac(beta: float = 80.0, every: int = 10, samples: int = 1000) -> Algorithm:
    r"""Train and pay with the units that a reputation buys, the least important first; each entry by those who hold it.

    $r_i = 100\,e^{\beta B_i} / \max_j e^{\beta B_j}$ with the contribution $B_i$; the importance of all units is brought to sum
    100, and units are taken in rising order while their sum is no more than $r_i$: sub-models are nested by importance as
    ours are by place. Importance is measured after the first round and ``every`` rounds, on the first ``samples`` of the
    validation split. $\beta = 0$: everybody the full network, FedAvg with equal weights.

    Raises:
        ValueError: ``beta`` is negative, ``every`` or ``samples`` no whole number from 1; at the start of a run: the
            network is no chain of linear and convolutional layers.

    Example:
        >>> fedsac(20.0).name
        'submodels'

    Source: FedSAC (Wang et al. 2024), with the $\beta$ of FedRAC's code. Deviations: our contributions come from the
    validation split (their released lists are test accuracies, by which fairness is then judged); everyone trains the
    initial network whole in the first round; one unit of each layer is always kept; the final round is paid.
    """
    checked_constant("beta", beta, 0 <= beta < np.inf, "a finite number from 0")
    checked_constant("every", every, isinstance(every, int) and every >= 1, "a whole number from 1")
    checked_constant("samples", samples, isinstance(samples, int) and samples >= 1, "a whole number from 1")

    def enter(task: Problem) -> Entry:
        names, build = chain(task.build), task.build
        few = task.validation.take(slice(0, samples))
        sizes = [len(template(build, 1.0).get_submodule(name).weight) for name in names[:-1]]
        reputation = 100 * np.exp(beta * (task.contribution - task.contribution.max()))

        def bought(state: State, i: int) -> Units:
            device = state[f"{names[0]}.weight"].device
            score = state[IMPORTANCE].cpu().numpy() if IMPORTANCE in state else np.zeros(sum(sizes))
            found = chosen(score, sizes, float(reputation[i]))
            return [torch.as_tensor(kept, device=device) for kept in found]

        def held(state: State, i: int) -> dict[str, Tensor]:
            return masks(networks_own(state), names, bought(state, i))

        def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
            index = int(state.get(ROUNDS, 0))
            after = _merged(networks_own(state), updates, {u.participant: held(state, u.participant) for u in updates})
            score = torch.tensor(importance(build, after, few)) if index % every == 0 else state[IMPORTANCE]
            sent = sum(int(m.sum()) for u in updates for m in held(state, u.participant).values())
            return {**after, ROUNDS: torch.tensor(index + 1), IMPORTANCE: score, SENT: torch.tensor(2 * sent)}

        def broadcast(state: State, i: int, width: float) -> dict[str, Tensor]:
            mask = held(state, i)
            return {name: t * mask[name] for name, t in networks_own(state).items()}  # silent units stay silent

        def pay(last: Round) -> Outcome:
            return Outcome([compact(build, last.theta, bought(last.state, s.participant)) for s in task.shards], last)

        strategy = replace(
            slimmable(build, full_only), broadcast=broadcast, merge=merged, sent=lambda state, updates: int(state[SENT])
        )
        return Entry(strategy, np.full(len(task.shards), 1 / len(task.shards)), pay)

    return Algorithm("submodels", enter)
