"""FedAvg, and FedAvg fine-tuned on each participant's own shard."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from .._check import checked, flag, number, refusal
from ..federate import aggregation_weights, slimmable
from ..local import full_only, local_sgd
from ..method import Outcome, Problem, Train, train
from ..rng import stream
from ..slimmable import slim
from ..types import Shard, State
from .common import reward_global

__all__ = ["fedavg", "fedavg_finetuned"]


@checked
def fedavg(problem: Problem, *, by_contribution: bool = False, train: Train = train) -> Outcome:
    r"""Train one network and give it to everybody: $\theta \leftarrow \sum_i \frac{|D_i|}{|D|} v_i$.

    Args:
        by_contribution: Weight the updates as `aequa` does, by `aggregation_weights` with the config's powers: what of
            a difference to FedAvg is due to the weights.

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
        FedAvg (McMahan et al. 2017), Algorithm 1; `by_contribution` is our choice.
        Deviation: everybody takes equally many local steps.
    """
    weights = problem.by_size
    if flag("by_contribution", by_contribution):
        weights = aggregation_weights(problem.shards, problem.config, problem.contribution)
    return reward_global(problem, slimmable(problem.build, full_only), train, "fedavg", weights)


@checked
def fedavg_finetuned(problem: Problem, *, epochs: int = 1, train: Train = train) -> Outcome:
    r"""Train as FedAvg, then fine-tune the global model on each participant's own shard.

    After all rounds, participant $i$ takes $\lceil |D_i| / \text{batch} \rceil$ steps of SGD from $\theta$ for each epoch,
    at the initial learning rate. Nothing is sent for them.

    Args:
        epochs: Epochs of fine-tuning, from 1.

    Raises:
        ValueError: `epochs` is not a whole number from 1, or the shards are not in this process.

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
    number("epochs", epochs, 1, whole=True)
    if any(shard.samples.x is None for shard in problem.shards):
        raise refusal("shards", "in this process, for fine-tuning", None, "use fedavg")
    tuned = reward_global(problem, slimmable(problem.build, full_only), train, "fedavg_finetuned")
    return replace(tuned, models=[_finetuned(problem, tuned.last.theta, shard, epochs) for shard in problem.shards])


def _finetuned(problem: Problem, theta: State, shard: Shard, epochs: int) -> nn.Module:
    """The global model after some epochs on one shard."""
    config = replace(problem.config, lr_final=1.0)  # a constant learning rate
    steps = epochs * -(-len(shard) // config.batch)
    rng = stream(config.seed, "finetune", shard.participant)
    update = local_sgd(problem.build, theta, shard, 1.0, config, rng, width_sampler=full_only, steps=steps)
    return slim(problem.build, update.state, 1.0)
