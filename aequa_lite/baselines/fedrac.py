"""FedRAC: sub-networks whose units rotate, each as wide as a reputation allows its accuracy to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._check import checked, number
from ..evaluation import correct
from ..method import Outcome, Problem, Train, train
from ..slimmable import view
from ..types import Build, Samples, ServerState, State, Update
from .common import ROUNDS, remembered
from .subnetworks import chain, masked, masks, train_subnetworks

__all__ = ["fedrac"]

TRAINED, WIDTHS = "trained", "widths"  # keys of the memory: (hidden units,) trainings, (participants,) widths


@checked
def fedrac(
    problem: Problem, *, beta: float = 80.0, lam: float = 0.5, zeta: float = 1.0, kappa: float = math.e,
    widths: int = 50, train: Train = train,
) -> Outcome:  # fmt: skip
    r"""Train and reward with sub-networks of rotating units, as wide as a reputation allows.

    After round $t$ the reputation is $r_i = B_i + A_t \bigl(1 - \lambda (1 - \tfrac{1}{\log(\zeta t + \kappa)})\bigr)
    e^{\beta (B_i - \max_j B_j)}$ with the contribution $B_i$ and the validation accuracy $A_t$ of the global model. In
    each hidden layer the units are ordered by how often they have been trained, the least often first; a sub-network of
    width $w$ has the first $\lceil wK \rceil$ of $K$. Participant $i$ receives the widest of `widths` sub-networks whose
    validation accuracy is at most $r_i$. Each entry is averaged over those who hold it.

    Args:
        beta: $\beta$, from 0: how fast the bonus falls with the distance from the best contribution.
        lam: $\lambda$, in [0, 1]: the part of the bonus that vanishes in the course of training.
        zeta: $\zeta$, from 0: how fast it vanishes.
        kappa: $\kappa$, from e, so that the bonus never exceeds the accuracy.
        widths: Number of sub-networks that are measured in each round, $1/m, \dots, 1$.

    Raises:
        ValueError: A constant is outside its range, or the network is no chain of linear and convolutional layers.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> problem = aq.method.assess(aq.MLP, aq.data.homogeneous(data.train, config), config, data, progress=False)
        >>> len(fedrac(problem, widths=5, train=partial(train, progress=False)).models)
        2

    References:
        FedRAC (CVPR 2026). From its paper and code: the reputation, $\beta$ = 80, nested masks over units of which the
        least trained come first, 50 widths, and the average over those who hold an entry. $\lambda$, $\zeta$ and $\kappa$
        are not known to us: our choice. That the widest admissible sub-network is taken is our reading.
        Deviation: contributions are of the validation split (its code lists them as constants); everybody trains the
        whole initial network in the first round; if no width is admissible, the least one is sent; the reward is of the
        final round, not of the best one.
    """
    number("beta", beta, 0)
    number("lam", lam, 0, 1)
    number("zeta", zeta, 0)
    number("kappa", kappa, math.e)
    number("widths", widths, 1, whole=True)
    sizes = list(chain(problem.build).values())[:-1]
    measure = partial(
        _measure, build=problem.build, validation=problem.validation, contribution=problem.contribution, sizes=sizes,
        grid=[(k + 1) / widths for k in range(widths)], bonus=partial(bonus, beta=beta, lam=lam, zeta=zeta, kappa=kappa),
    )  # fmt: skip
    return train_subnetworks(problem, partial(_units, sizes=sizes), measure, train, "fedrac")


def bonus(
    contribution: NDArray[np.float64], index: int, *, beta: float, lam: float, zeta: float, kappa: float
) -> NDArray[np.float64]:
    """Share of the global model's accuracy that is added to each contribution, (participants,)."""
    share = 1 - lam * (1 - 1 / math.log(zeta * index + kappa))
    return share * np.exp(beta * (contribution - contribution.max()))


def first_units(
    trained: Tensor, sizes: Sequence[int], width: float, device: torch.device | None = None
) -> list[Tensor]:
    """The least trained units of each hidden layer, as many as the width says."""
    ranks = [each.argsort(stable=True).argsort() for each in trained.split(list(sizes))]
    return [(rank < math.ceil(width * len(rank) - 1e-9)).to(device) for rank in ranks]


def widest_allowed(accuracy: Sequence[float], grid: Sequence[float], reputation: float) -> float:
    """The widest sub-network whose accuracy is at most the reputation; the least where there is none."""
    return max((w for w, a in zip(grid, accuracy, strict=True) if a <= reputation), default=grid[0])


def _units(state: ServerState, participant: int, *, sizes: Sequence[int]) -> list[Tensor]:
    """The units that a participant has in the next round; before the first, all."""
    trained = remembered(state, TRAINED, torch.zeros(sum(sizes)))
    widths = state.memory.get(WIDTHS)
    device = next(iter(state.theta.values())).device
    return first_units(trained, sizes, 1.0 if widths is None else float(widths[participant]), device)


def _measure(
    state: ServerState, theta: State, updates: Sequence[Update], *, build: Build, validation: Samples,
    contribution: NDArray[np.float64], sizes: Sequence[int], grid: Sequence[float], bonus: partial[NDArray[np.float64]],
) -> dict[str, Tensor]:  # fmt: skip
    """How often each unit has been trained, and the widths of the next round."""
    trained = remembered(state, TRAINED, torch.zeros(sum(sizes)))
    trained = trained + sum(torch.cat(_units(state, u.participant, sizes=sizes)).cpu() for u in updates)
    names, device = list(chain(build)), next(iter(theta.values())).device
    nets = (masked(theta, masks(theta, names, first_units(trained, sizes, w, device))) for w in grid)
    accuracy = [float(correct(view(build, net, 1.0), validation).mean()) for net in nets]
    reputation = contribution + accuracy[-1] * bonus(contribution, int(state.memory.get(ROUNDS, 0)))
    widths = [widest_allowed(accuracy, grid, float(r)) for r in reputation]
    return {TRAINED: trained, WIDTHS: torch.tensor(widths)}
