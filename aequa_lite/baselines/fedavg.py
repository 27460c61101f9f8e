"""FedAvg, fine-tuned or not, and LG-FedAvg: everybody receives the same network, or its shared layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor, nn

from .._check import checked, number, refusal
from .._parallel import arithmetic
from ..config import stream
from ..federate import ServerOptimizer, aggregation_weights, slimmable
from ..local import full_only, local_sgd
from ..method import Outcome, Problem, Train, train
from ..slimmable import aggregate, slim
from ..types import ServerState, Shard, State, Update
from .common import personal, remember, reward_own, size_of


@checked
def fedavg(
    problem: Problem, *, by_contribution: bool = False, server: ServerOptimizer | None = None, train: Train = train
) -> Outcome:  # fmt: skip
    r"""Train one network and give it to everybody: $\theta \leftarrow \sum_i \frac{|D_i|}{|D|} v_i$.

    Args:
        by_contribution: Weight the updates as `aequa` does, by `aggregation_weights` with the config's powers: what of
            a difference to FedAvg is due to the weights.
        server: What the server does with the average, such as `fedavgm(0.5)` (default: taken as it is).

    Raises:
        ValueError: `by_contribution` is not True or False.

    Example:
        >>> import aequa_lite as aq
        >>> from functools import partial
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> problem = aq.method.assess(aq.MLP, aq.data.homogeneous(data.train, config), config, data, progress=False)
        >>> fedavg(problem, train=partial(train, progress=False)).method
        'fedavg'

    References:
        FedAvg (McMahan et al. 2017), Algorithm 1; with `fedavgm`: FedAvgM (Hsu et al. 2019). `by_contribution` is ours.
        Deviation: everybody takes equally many local steps.
    """
    weights = problem.by_size
    if by_contribution:
        weights = aggregation_weights(problem.shards, problem.config, problem.contribution)
    return reward_own(problem, slimmable(problem.build, full_only, server=server), train, "fedavg", weights)


@checked
def fedavg_finetuned(problem: Problem, *, train: Train = train) -> Outcome:
    r"""Train as FedAvg, then fine-tune the global model on each participant's own shard.

    After all rounds, participant $i$ takes $\lceil |D_i| / \text{batch} \rceil$ steps of SGD from $\theta$, one epoch,
    at the initial learning rate. Nothing is sent for them.

    Raises:
        ValueError: The shards are not in this process.

    Example:
        >>> import aequa_lite as aq
        >>> from functools import partial
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> problem = aq.method.assess(aq.MLP, aq.data.homogeneous(data.train, config), config, data, progress=False)
        >>> len(fedavg_finetuned(problem, train=partial(train, progress=False)).models)
        2

    References:
        FedAvg-FT, a baseline of IAFL (Wu et al. 2024): one epoch at the initial learning rate after all rounds.
        Deviation: SGD with momentum instead of Adam; an epoch is rounded up to whole batches.
    """
    if any(shard.samples.x is None for shard in problem.shards):
        raise refusal("shards", "in this process, for fine-tuning", None, "use fedavg")
    tuned = reward_own(problem, slimmable(problem.build, full_only), train, "fedavg_finetuned")
    with arithmetic(bool(tuned.last.identity.get("deterministic"))):  # as the rounds before
        models = [_finetuned(problem, tuned.last.theta, shard) for shard in problem.shards]
    return replace(tuned, models=models)


def _finetuned(problem: Problem, theta: State, shard: Shard) -> nn.Module:
    """The global model after an epoch on one shard."""
    config = replace(problem.config, lr_final=1.0)  # a constant learning rate
    steps = -(-len(shard) // config.batch)  # rounded up to whole batches
    rng = stream(config.seed, "finetune", shard.participant)
    update = local_sgd(problem.build, theta, shard, 1.0, config, rng, width_sampler=full_only, steps=steps)
    return slim(problem.build, update.state, 1.0)


@checked
def lg_fedavg(problem: Problem, *, shared: int = 1, train: Train = train) -> Outcome:
    r"""Average the last layers; the layers below are each participant's own and are never sent.

    $\theta_\ell \leftarrow \frac1n \sum_i v_{i\ell}$ for the shared layers. A layer begins at a matrix or a filter and ends
    before the next one. With all layers shared it is FedAvg with equal weights.

    Args:
        shared: Number of layers that are shared, from 1.

    Raises:
        ValueError: `shared` is not a whole number from 1.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(2, 1, 1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> problem = aq.method.assess(aq.MLP, shards, config, data, progress=False)
        >>> lg_fedavg(problem, train=partial(train, progress=False)).last.parameters_sent
        8040

    References:
        LG-FedAvg (Liang et al. 2020); its released code shares one layer by default.
        Deviation: it starts from a network trained by FedAvg and keeps each participant's best round on the test split;
        ours starts where all methods start, and the reward is of the final round.
    """
    number("shared", shared, 1, whole=True)
    strategy = personal(problem, partial(_aggregate, shared=shared), partial(_sent, shared=shared))
    return reward_own(problem, strategy, train, "lg_fedavg", np.full(len(problem.shards), 1 / len(problem.shards)))


def _split(theta: State, shared: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the last layers, and those of the layers below."""
    names = list(theta)
    starts = [place for place, name in enumerate(names) if theta[name].ndim > 1]
    cut = starts[-shared] if shared < len(starts) else 0
    return {k: theta[k] for k in names[cut:]}, {k: theta[k] for k in names[:cut]}


def _aggregate(state: ServerState, updates: Sequence[Update], *, shared: int) -> ServerState:
    """The average of the shared layers; everybody's other layers are remembered."""
    parts = {u.participant: _split(u.state, shared) for u in updates}
    common = aggregate(_split(state.theta, shared)[0], [(parts[u.participant][0], u.weight) for u in updates])
    return ServerState({**state.theta, **common}, remember(state.memory, {i: own for i, (_, own) in parts.items()}))


def _sent(state: ServerState, updates: Sequence[Update], *, shared: int) -> int:
    """The shared layers, down and up."""
    return 2 * len(updates) * size_of(_split(state.theta, shared)[0])
