"""Aequa: train together, measure contributions, allocate widths, cut.

Baselines are algorithms too: `(problem, *, train) -> Outcome`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ._check import checked, one_each, vector
from .allocation.exact import Plan, Rule, allocate
from .checkpoint import describe
from .config import Config
from .evaluation import Curve, accuracy, model_at, reward_curve
from .federate import (
    Aggregator,
    Reweight,
    ServerOptimizer,
    Strategy,
    aggregation_weights,
    by_size,
    federate,
    full_width,
    slimmable,
    standalone,
)
from .local import WidthSampler, class_shares, full_and_random
from .slimmable import aggregate
from .training_time import Schedule, settle
from .types import Build, Dataset, Round, Samples, Shard

__all__ = [
    "Algorithm", "Outcome", "Problem", "aequa", "assess",
    "slimmable_rewards", "standalone_accuracy", "train",
]  # fmt: skip

# (models trained alone, shards, data) -> (n,) on the scale of accuracies
Contribution = Callable[
    [Sequence[nn.Module], Sequence[Shard], Dataset], NDArray[np.float64]
]
RATIONAL: Rule = partial(allocate, individually_rational=True)


def standalone_accuracy(
    alone: Sequence[nn.Module], shards: Sequence[Shard], data: Dataset
) -> NDArray[np.float64]:
    """Return the validation accuracy of the models trained alone, (n,).

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> standalone_accuracy([aq.MLP()], [], data).shape
        (1,)

    References:
        The contribution of Aequa.
    """
    return accuracy(alone, data.validation)


@checked
@dataclass(frozen=True, eq=False)
class Problem:
    """Hold what every algorithm is given.

    Args:
        alone: Each participant's model trained alone.
        contribution: (n,) on the scale of accuracies.
        started: `time.perf_counter()` when work began.

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> config = aq.Config(participants=2)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> alone, b = [aq.MLP(), aq.MLP()], np.array([0.1, 0.1])
        >>> Problem(aq.MLP, shards, config, data, alone, b).by_size.tolist()
        [0.5, 0.5]
    """

    build: Build
    shards: Sequence[Shard]
    config: Config
    data: Dataset
    alone: Sequence[nn.Module]
    contribution: NDArray[np.float64]
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        n = self.config.participants
        one_each("alone", self.alone, n)
        one_each("contribution", self.contribution, n)

    @property
    def validation(self) -> Samples:
        """The server's validation samples."""
        return self.data.validation

    @property
    def by_size(self) -> NDArray[np.float64]:
        """FedAvg's weights: each one's share of the samples, (n,)."""
        return by_size(self.shards)


@checked
@dataclass(frozen=True, eq=False)
class Outcome:
    """Hold the rewards, and all that a report needs.

    Args:
        models: Each participant's reward.
        last: The final round.
        curve: Accuracy by width; None for a method without widths.
        plan: The allocation; None for a method without widths.
        seconds: From the start of the work.
        rewarding: What changed the rewards only (`checkpoint.describe`).

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> found = aq.aequa(aq.MLP, shards, config, data, progress=False)
        >>> len(found.models)
        2
    """

    problem: Problem
    models: Sequence[nn.Module]
    last: Round
    curve: Curve | None = None
    plan: Plan | None = None
    seconds: float = 0.0
    method: str = "aequa"
    partition: str = ""
    rewarding: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_each("models", self.models, self.problem.config.participants)

    @cached_property
    def report(self) -> Any:
        """The report: rewards evaluated on the test split."""
        from .report import report  # late: it builds on this module

        return report(self)

    def table(self) -> str:
        """Lay the report out as text."""
        from .report import table

        return table(self.report)

    def save(self, folder: Path | str, *, name: str = "") -> Path:
        """Write `report.json` and, where there are widths, the rewards.

        Args:
            name: Vouches for a network that cannot be imported.
        """
        from .rewards import clear, save_rewards

        clear(Path(folder) / "rewards")  # of an earlier run
        self.report.save(folder)
        if self.plan is not None:
            save_rewards(
                Path(folder) / "rewards", self.problem.build, self.models,
                self.plan.widths.tolist(), self.problem.config,
                identity={
                    "trained": dict(self.last.identity),
                    "rewarded": dict(self.rewarding),
                },
                vocabulary=self.problem.data.words,
                encoder=self.problem.data.encoder,
                labels=self.problem.data.labels,
                fraction_grid=self.curve and self.curve.fraction_grid,
                name=name,
            )  # fmt: skip
        return Path(folder)


Algorithm = Callable[..., Outcome]  # (problem, *, train=train) -> Outcome
Train = Callable[..., Round]  # (problem, strategy, **options) -> last round


def train(problem: Problem, strategy: Strategy, **options: Any) -> Round:
    """Train together to the end and return the last round.

    Args:
        options: Of `federate`.

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> alone, b = [aq.MLP(), aq.MLP()], np.array([0.1, 0.1])
        >>> problem = Problem(aq.MLP, shards, config, data, alone, b)
        >>> train(problem, aq.slimmable(aq.MLP), progress=False).index
        0
    """
    build, shards, config = problem.build, problem.shards, problem.config
    rounds = federate(build, shards, config, strategy=strategy, **options)
    for last in rounds:  # a list would keep the updates of all rounds
        pass
    return last


def assess(
    build: Build, shards: Sequence[Shard], config: Config, data: Dataset, *,
    contribution: Contribution | ArrayLike = standalone_accuracy,
    alone: Sequence[nn.Module] | None = None, **options: Any,
) -> Problem:  # fmt: skip
    """Train everyone alone and measure what each contributes.

    This is step 1 of `aequa`.

    Args:
        contribution: A function, or (n,) numbers on the accuracy scale.
        alone: Models trained alone before (default: train them now).
        options: Of `standalone`.

    Raises:
        ValueError: There is not one shard, model or contribution for each
            participant.

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> found = assess(aq.MLP, shards, config, data, progress=False)
        >>> found.contribution.shape
        (2,)
    """
    started = time.perf_counter()
    one_each("shards", shards, config.participants)
    # 1. everyone trains alone
    if alone is None:
        alone = standalone(build, shards, config, **options)
    # what that reaches is the contribution
    if callable(contribution):
        contribution = contribution(alone, shards, data)
    found = vector("contribution", contribution)
    return Problem(build, shards, config, data, alone, found, started)


def slimmable_rewards(
    problem: Problem, *, schedule: Schedule | None = None,
    allocation: Rule = RATIONAL,
    width_sampler: WidthSampler = full_and_random,
    server: ServerOptimizer | None = None,
    aggregate: Aggregator = aggregate, reweight: Reweight | None = None,
    precision: torch.dtype | None = None, train: Train = train,
) -> Outcome:  # fmt: skip
    """Train one network of every width and reward with sub-networks.

    These are the steps 2 to 5 of `aequa`.

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> problem = aq.method.assess(
        ...     aq.MLP, shards, config, data, progress=False)
        >>> quiet = partial(train, progress=False)
        >>> len(slimmable_rewards(problem, train=quiet).models)
        2
    """
    build, config = problem.build, problem.config
    if schedule:  # few train the outer units; they may know few classes
        strength = config.schedule_logit_adjustment
        config = replace(config, logit_adjustment=strength)
        problem = replace(problem, config=config)
    contribution, shares = problem.contribution, []
    if config.logit_adjustment:  # to the labels as the server sees them
        shares = class_shares(problem.validation).tolist()
    # 2. all train one network
    strategy = slimmable(
        build, width_sampler, server=server, aggregate=aggregate,
        reweight=reweight, precision=precision,
        label_shares=shares if len(set(shares)) > 1 else (),
    )  # fmt: skip
    policy = full_width
    if schedule:
        policy = schedule(build, problem.validation, contribution)
    weights = aggregation_weights(problem.shards, config, contribution)
    last = train(problem, strategy, policy=policy, weights=weights)
    # 3. the server measures it at every width
    curve = reward_curve(build, last.theta, problem.validation, config)
    # 4. each is allocated a width
    plan = allocation(contribution, curve)
    if schedule:  # nobody's reward is wider than what it holds
        plan = settle(plan, last.next_widths, curve, contribution)
    # 5. rewards are cut
    models = [model_at(build, last.theta, curve, w) for w in plan.widths]
    own = {"allocation": allocation, "fractions": config.fractions}
    return Outcome(
        problem, models, last, curve, plan,
        seconds=time.perf_counter() - problem.started,
        rewarding=describe(own, "unnamed"),
    )  # fmt: skip


@checked
def aequa(
    build: Build,
    shards: Sequence[Shard],
    config: Config,
    data: Dataset,
    *,
    schedule: Schedule | None = None,
    contribution: Contribution | ArrayLike = standalone_accuracy,
    allocation: Rule = RATIONAL,
    width_sampler: WidthSampler = full_and_random,
    server: ServerOptimizer | None = None,
    aggregate: Aggregator = aggregate,
    reweight: Reweight | None = None,
    precision: torch.dtype | None = None,
    alone: Sequence[nn.Module] | None = None,
    partition: str = "",
    **options: Any,
) -> Outcome:
    r"""Train together and reward each participant with what it earned.

    1. Everyone trains alone; the accuracy of that, on validation, is the
       contribution $B_i$.
    2. All train one slimmable network.
    3. The server measures its accuracy at every width, on validation.
    4. The allocation gives each the width whose accuracy is nearest to
       $B_i + \tau$, one $\tau$ for all.
    5. Rewards are cut: ordinary, smaller networks.

    Args:
        build: width -> network.
        schedule: `training_time(...)` rewards while training (default:
            after training).
        contribution: A function of (alone, shards, data), or (n,) numbers.
        allocation: A function of (contribution, curve), giving a plan.
        width_sampler: The widths of a local step.
        server: A server optimizer (default: FedAvg).
        aggregate: How slices become one network.
        reweight: Weights of updates as they arrive.
        precision: Of the passes on a GPU.
        alone: Models trained alone before.
        partition: Name of the partition, for the report.
        options: Of `federate`: vectorized, deterministic, workers,
            checkpoint, name, progress.

    Returns:
        Rewards, curve, plan and report.

    Raises:
        ValueError: Arguments do not fit together.
        FloatingPointError: Training diverged.

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> outcome = aequa(aq.MLP, shards, config, data, progress=False)
        >>> len(outcome.models)
        2

    References:
        Aequa (Tastan, Horvath, Nandakumar 2025). What the paper leaves open
        is our choice: see each step.
    """
    alike = "vectorized", "deterministic", "workers", "progress"
    problem = assess(  # step 1
        build, shards, config, data, contribution=contribution,
        alone=alone, **{k: options[k] for k in alike if k in options},
    )  # fmt: skip
    outcome = slimmable_rewards(  # steps 2 to 5
        problem, schedule=schedule, allocation=allocation,
        width_sampler=width_sampler, server=server, aggregate=aggregate,
        reweight=reweight, precision=precision,
        train=partial(train, **options),
    )  # fmt: skip
    return replace(outcome, partition=partition)
