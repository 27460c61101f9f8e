"""FedSAC and FedRAC: each participant trains and receives a sub-network of chosen units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .._check import Count, NotNegative, checked, refusal
from .._parallel import arithmetic
from ..evaluation import correct
from ..method import Outcome, Problem, Train, train
from ..slimmable import slim, template, view
from ..types import Build, Samples, ServerState, State, Update
from .common import ROUNDS, SENT, Array, personal, remembered, reward_own

IMPORTANCE = "importance"  # key of the memory: (units of all layers,)
TRAINED, WIDTHS = "trained", "widths"  # keys of the memory: (hidden units,) trainings, (participants,) widths

Masks = Mapping[str, Tensor]  # for each tensor bool, which entries a participant holds
Units = Sequence[Tensor]  # for each layer from the first (units,) bool, which are kept
Measure = Callable[[ServerState, State, Sequence[Update]], State]  # (before, new theta, updates) -> to be remembered


def chain(build: Build) -> dict[str, int]:
    """Units of each layer of a chain of linear and convolutional layers, by name; other networks are refused."""
    net = template(build, 1.0)
    found = [name for name, layer in net.named_children() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    known = {f"{name}.{part}" for name in found for part in ("weight", "bias")}
    if not isinstance(net, nn.Sequential) or set(net.state_dict()) != known or len(found) < 2:
        raise refusal("build", "a chain of linear and convolutional layers, such as MLP or LeNet", type(net).__name__)
    return {name: len(net.get_submodule(name).weight) for name in found}


def masks(theta: State, names: Sequence[str], kept: Units) -> dict[str, Tensor]:
    """Which entries of every tensor a network of the kept units holds; of layers beyond `kept`, all units."""
    found, columns = {}, torch.ones(theta[f"{names[0]}.weight"].shape[1], dtype=torch.bool)
    for place, name in enumerate(names):
        weight, bias = theta[f"{name}.weight"], theta[f"{name}.bias"]
        rows = (kept[place] if place < len(kept) else torch.ones_like(bias, dtype=torch.bool)).to(bias.device)
        inputs = columns.repeat_interleave(weight.shape[1] // len(columns))  # after flattening, a filter is several
        each = [1] * (weight.ndim - 2)  # of a filter
        block = rows.view(-1, 1, *each) & inputs.to(rows.device).view(1, -1, *each)
        found |= {f"{name}.weight": block.expand_as(weight), f"{name}.bias": rows}
        columns = rows
    return found


def masked(theta: State, mask: Masks) -> dict[str, Tensor]:
    """The network in which all entries outside the mask are zero."""
    return {k: t * mask[k] for k, t in theta.items()}


def average(theta: State, updates: Sequence[Update], masks_of: Mapping[int, Masks]) -> dict[str, Tensor]:
    """The average of every entry over those who hold it; entries that nobody holds keep their value."""
    after = {}
    for k, t in theta.items():
        push, mass = torch.zeros_like(t), torch.zeros_like(t)
        for u in updates:
            push += u.weight * masks_of[u.participant][k] * (u.state[k] - t)
            mass += u.weight * masks_of[u.participant][k]
        after[k] = t + push / mass.clamp_min(1e-30)
    return after


def compact(build: Build, theta: State, kept: Units) -> nn.Module:
    """Return an ordinary network of the kept units; its outputs are those of the full one with the other units zeroed.

    Args:
        build: Constructor of a chain of linear and convolutional layers.
        theta: Tensors of the full network.
        kept: For each hidden layer, and for the output layer or not, (units,) bool. An output that is not kept is zero.

    Example:
        >>> import aequa_lite as aq
        >>> few = [torch.arange(200) < 50, torch.arange(200) >= 180]
        >>> aq.n_parameters(compact(aq.MLP, aq.init_params(aq.MLP, 0, "cpu"), few))
        40480
    """
    names = list(chain(build))
    net, mask = slim(build, theta, 1.0), masks(theta, names, kept)
    zeroed = masked(theta, mask)
    for name in names:
        layer, held = net.get_submodule(name), mask[f"{name}.weight"]
        rows = mask[f"{name}.bias"] | (name == names[-1])
        columns = held.any(0).reshape(held.shape[1], -1).any(1)
        layer.weight = nn.Parameter(zeroed[f"{name}.weight"][rows][:, columns])
        layer.bias = nn.Parameter(zeroed[f"{name}.bias"][rows])
        kind = "features" if isinstance(layer, nn.Linear) else "channels"
        setattr(layer, f"out_{kind}", int(rows.sum()))
        setattr(layer, f"in_{kind}", int(columns.sum()))
    return net


def train_subnetworks(
    problem: Problem, units: Callable[[ServerState, int], Units], measure: Measure, train: Train, method: str
) -> Outcome:
    """Train and reward with sub-networks: `units` says which units a participant has, `measure` what is remembered."""
    chosen = {"names": list(chain(problem.build)), "units": units}
    aggregate, broadcast = partial(_aggregate, **chosen, measure=measure), partial(_broadcast, **chosen)
    strategy = personal(problem, aggregate, broadcast=broadcast)
    equal = np.full(len(problem.shards), 1 / len(problem.shards))
    return reward_own(
        problem, strategy, train, method, equal, lambda state, i: compact(problem.build, state.theta, units(state, i))
    )


def _broadcast(
    state: ServerState, participant: int, width: float, *, names: Sequence[str], units: Callable[..., Units]
) -> dict[str, Tensor]:
    """A participant's sub-network as a full one; local training leaves the other hidden units at zero."""
    return masked(state.theta, masks(state.theta, names, units(state, participant)))


def _aggregate(
    state: ServerState, updates: Sequence[Update], *, names: Sequence[str], units: Callable[..., Units],
    measure: Measure,
) -> ServerState:  # fmt: skip
    """The average over those who hold an entry, and what is measured of it."""
    masks_of = {u.participant: masks(state.theta, names, units(state, u.participant)) for u in updates}
    theta = average(state.theta, updates, masks_of)
    entries = sum(int(mask.sum()) for each in masks_of.values() for mask in each.values())
    known = {ROUNDS: torch.tensor(int(state.memory.get(ROUNDS, 0)) + 1), SENT: torch.tensor(2 * entries)}  # down and up
    return ServerState(theta, {**state.memory, **known, **measure(state, theta, updates)})


@checked
def fedsac(
    problem: Problem, *, beta: NotNegative = 5.0, every: Count = 10, samples: Count = 1000, prune_outputs: bool = True,
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
        FedSAC (Wang et al. 2024): reputation, importance, aggregation over holders. The repository that its paper names
        holds no code. That the unit which crosses $r_i$ is taken, that outputs are pruned and that what a pruned output
        learns in a round is dropped is as in code of another account (YOVC/FedSAC, author not known), where $\beta$ is 1 and in
        its example 3; ours, 5, is the best of 5, 20 and 80 on validation at one cell. Tests hold reputation, importance,
        selection and aggregation against it.
        Deviation: contributions are of the validation split. Everybody trains the whole initial network in the first
        round (there importance is measured before it). The least important unit of each layer is always kept. An entry
        is held by whoever holds both of its units (there by whoever holds the unit that it belongs to, which damps its
        change). An entry that nobody holds keeps its value (there it becomes zero). The reward is of the final round.
    """
    layers = list(chain(problem.build).values())
    sizes = layers if prune_outputs else layers[:-1]
    reputation = 100 * np.exp(beta * (problem.contribution - problem.contribution.max()))
    units = partial(_fedsac_units, sizes=sizes, reputation=reputation)
    few = problem.validation.take(slice(0, samples))
    measure = partial(_fedsac_measure, build=problem.build, samples=few, every=every)
    return train_subnetworks(problem, units, measure, train, "fedsac")


@arithmetic()
def importance(build: Build, theta: State, samples: Samples) -> Array:
    r"""Measure by how much the loss rises when a unit is zeroed.

    $s_j = F(\theta \text{ without unit } j) - F(\theta)$ for the units (or filters, or outputs) of all layers in order.

    Args:
        build: Constructor of a chain of linear and convolutional layers.
        theta: Tensors of the full network.
        samples: Samples on which $F$ is measured, moved to the device of theta.

    Returns:
        (units,) differences of the mean cross-entropy; the last ones are of the outputs.

    Example:
        >>> import aequa_lite as aq
        >>> some = aq.load("fashion-mini", device="cpu").validation.take(slice(0, 50))
        >>> importance(aq.MLP, aq.init_params(aq.MLP, 0, "cpu"), some).shape
        (410,)

    References:
        FedSAC (Wang et al. 2024), neuron importance; the split is our choice.
    """
    sizes = chain(build)
    net = slim(build, theta, 1.0).eval()
    layers, names = list(net.children()), [name for name, _ in net.named_children()]
    ends = [*(names.index(name) for name in list(sizes)[1:]), len(layers)]
    device = next(net.parameters()).device
    x, y = samples.x.to(device), samples.y.to(device)
    found, features, before = [], x, 0
    with torch.inference_mode():
        loss = float(cross_entropy(net(x), y))
        for count, end in zip(sizes.values(), ends, strict=True):
            features = nn.Sequential(*layers[before:end])(features)  # what the next layer reads
            before, rest = end, nn.Sequential(*layers[end:])
            found += [_loss_without(rest, features, unit, count, y) - loss for unit in range(count)]
    return np.array(found)


def _loss_without(rest: nn.Module, features: Tensor, unit: int, units: int, y: Tensor) -> float:
    """The loss of the layers that follow when one unit is zeroed."""
    zeroed, each = features.clone(), features.shape[1] // units  # after flattening, a filter is several inputs
    zeroed[:, unit * each : (unit + 1) * each] = 0
    return float(cross_entropy(rest(zeroed), y))


def selected(score: Array, sizes: Sequence[int], reputation: float) -> list[np.ndarray]:
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


def _fedsac_units(state: ServerState, participant: int, *, sizes: Sequence[int], reputation: Array) -> list[Tensor]:
    """The units that a participant's reputation buys; before they are measured, all."""
    if IMPORTANCE not in state.memory:
        return [torch.ones(size, dtype=torch.bool) for size in sizes]
    score = state.memory[IMPORTANCE].cpu().numpy()[: sum(sizes)]
    return [torch.as_tensor(kept) for kept in selected(score, sizes, float(reputation[participant]))]


def _fedsac_measure(
    state: ServerState, theta: State, updates: Sequence[Update], *, build: Build, samples: Samples, every: int
) -> dict[str, Tensor]:
    """The importance of all units, in the rounds in which it is measured."""
    due = int(state.memory.get(ROUNDS, 0)) % every == 0
    return {IMPORTANCE: torch.tensor(importance(build, theta, samples))} if due else {}


@checked
def fedrac(
    problem: Problem, *, beta: NotNegative = 80.0, widths: Count = 50, released: bool = False, train: Train = train
) -> Outcome:
    r"""Train and reward with sub-networks of rotating units, as wide as a reputation allows.

    After round $t$ the reputation is $r_i = B_i + A_t \bigl(1 - \lambda (1 - \tfrac{1}{\log(\zeta t + \kappa)})\bigr)
    e^{\beta (B_i - \max_j B_j)}$ with the contribution $B_i$ and the validation accuracy $A_t$ of the global model. In
    each hidden layer the units are ordered by how often they have been trained, the least often first; a sub-network of
    width $w$ has the first $\lceil wK \rceil$ of $K$. Participant $i$ receives the widest of `widths` sub-networks whose
    validation accuracy is at most $r_i$. Each entry is averaged over those who hold it. $\lambda$ = 0.5 is the part of the
    bonus that vanishes in the course of training, and $\zeta$ = 1 and $\kappa$ = e say how fast.

    Args:
        beta: $\beta$, from 0: how fast the bonus falls with the distance from the best contribution.
        widths: Number of sub-networks that are measured in each round, $1/m, \dots, 1$.
        released: Whether $\lambda$, $\zeta$, $\kappa$ and $t$ are those of the released code.

    Raises:
        ValueError: A constant is outside its range, or the network is no chain of linear and convolutional layers.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> problem = aq.method.assess(aq.MLP, aq.data.homogeneous(data.train, config), config, data, progress=False)
        >>> len(fedrac(problem, widths=5, train=partial(train, progress=False)).models)
        2

    References:
        FedRAC (CVPR 2026). From its paper and released code: the reputation, $\beta$ = 80, a first round in which
        everybody trains the whole network, nested masks over units of which the least trained come first, the widest
        admissible of 50 widths, and the average over those who hold an entry. Tests hold these against the code.
        In its code $\lambda$ is 0.2 until round 100 and 0.8 afterwards, $\zeta$ is 0.3, $\kappa$ is 3, and $t$ is 2 after the
        first round: `released`. By default they are our choice, and $t$ is 0 there; so were the rows of `fedrac` on the page
        of results measured.
        Deviation: contributions are of the validation split (its code lists them as constants). Each hidden layer has an order of
        its own (its code orders the units of all hidden layers together, so a layer can be empty). Everybody receives the
        widest admissible width, the least one if none is admissible (its code: one width less, but more than whoever
        contributes less has, and always the whole network for the best). An entry counts for all who hold it (its code:
        for those in whose training it has changed). The reward is of the final round, in widths chosen after it (its
        code: in those that were trained in it).
    """
    sizes = list(chain(problem.build).values())[:-1]
    measure = partial(
        _fedrac_measure, build=problem.build, validation=problem.validation, contribution=problem.contribution, sizes=sizes,
        grid=[(k + 1) / widths for k in range(widths)], bonus=partial(released_bonus if released else bonus, beta=beta),
    )  # fmt: skip
    return train_subnetworks(problem, partial(_fedrac_units, sizes=sizes), measure, train, "fedrac")


def bonus(
    contribution: Array, index: int, *, beta: float, lam: float = 0.5, zeta: float = 1.0, kappa: float = math.e
) -> Array:
    """Share of the global model's accuracy that is added to each contribution, (participants,)."""
    share = 1 - lam * (1 - 1 / math.log(zeta * index + kappa))
    return share * np.exp(beta * (contribution - contribution.max()))


def released_bonus(contribution: Array, index: int, *, beta: float) -> Array:
    """The bonus with the constants of the released code, where the second round has the number 2."""
    number = index + 2
    return bonus(contribution, number, beta=beta, lam=0.2 if number <= 100 else 0.8, zeta=0.3, kappa=3.0)


def first_units(trained: Tensor, sizes: Sequence[int], width: float) -> list[Tensor]:
    """The least trained units of each hidden layer, as many as the width says."""
    ranks = [each.argsort(stable=True).argsort() for each in trained.split(list(sizes))]
    return [rank < math.ceil(width * len(rank) - 1e-9) for rank in ranks]


def widest_allowed(accuracy: Sequence[float], grid: Sequence[float], reputation: float) -> float:
    """The widest sub-network whose accuracy is at most the reputation; the least where there is none."""
    return max((w for w, a in zip(grid, accuracy, strict=True) if a <= reputation), default=grid[0])


def _fedrac_units(state: ServerState, participant: int, *, sizes: Sequence[int]) -> list[Tensor]:
    """The units that a participant has in the next round; before the first, all."""
    trained = remembered(state, TRAINED, torch.zeros(sum(sizes)))
    widths = state.memory.get(WIDTHS)
    return first_units(trained, sizes, 1.0 if widths is None else float(widths[participant]))


def _fedrac_measure(
    state: ServerState, theta: State, updates: Sequence[Update], *, build: Build, validation: Samples,
    contribution: Array, sizes: Sequence[int], grid: Sequence[float], bonus: partial[Array],
) -> dict[str, Tensor]:  # fmt: skip
    """How often each unit has been trained, and the widths of the next round."""
    trained = remembered(state, TRAINED, torch.zeros(sum(sizes)))
    trained = trained + sum(torch.cat(_fedrac_units(state, u.participant, sizes=sizes)) for u in updates)
    names = list(chain(build))
    nets = (masked(theta, masks(theta, names, first_units(trained, sizes, w))) for w in grid)
    accuracy = [float(correct(view(build, net, 1.0).eval(), validation).mean()) for net in nets]
    reputation = contribution + accuracy[-1] * bonus(contribution, int(state.memory.get(ROUNDS, 0)))
    widths = [widest_allowed(accuracy, grid, float(r)) for r in reputation]
    return {TRAINED: trained, WIDTHS: torch.tensor(widths)}
