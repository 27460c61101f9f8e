"""Other ways to train and to pay, as schemes of the one loop: the same seeds, shards, batches, network and budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from .aggregation.server_optimizers import validation_weights
from .allocation.exact import Plan, plan_of
from .config import Config
from .contribution import alignment
from .evaluation import Curve, accuracy, accuracy_curve, model_at, reward_curve, widths
from .federate import Policy, Strategy, aggregation_weights, federate, full_width, given_to, slimmable
from .local import checked_logit_adjustment
from .slimmable import Build, slim
from .training_time import damped_aggregate, own_model_accuracy, score_schedule, update_accuracy, with_own_model
from .types import Dataset, Round, Samples, Shard
from .vectorized import half_precision

__all__ = ["Algorithm", "Entry", "Outcome", "Problem", "aequa", "earned"]


@dataclass(frozen=True)
class Problem:
    """Hold what every method is given: network, shards, recipe, the server's validation split and the contributions.

    Example:
        >>> import aequa_lite as aq
        >>> config, data = aq.Config(participants=2), aq.load("fashion-mini")
        >>> Problem(aq.MLP, aq.data.homogeneous(data.train, config), config, data.validation, np.array([0.5, 0.5])).by_size
        array([0.5, 0.5])
    """

    build: Build
    shards: Sequence[Shard]
    config: Config
    validation: Samples
    contribution: np.ndarray

    @property
    def by_size(self) -> np.ndarray:
        """FedAvg's merge weights, (participants,), each one's share of the samples, whatever the recipe says of ours."""
        return aggregation_weights(self.shards, replace(self.config, size_power=1.0, contribution_power=0.0))


@dataclass(frozen=True, eq=False)
class Outcome:
    """Hold what a method leaves behind: the models that go home, and what a report needs beside them.

    ``last``: the final round; ``curve`` and ``plan``: None for a method without widths; ``parameters_sent``: numbers sent
    and received in all rounds; ``left_out``: a participant for each of its answers that was not finite.

    Example:
        >>> Outcome([nn.Linear(2, 2)], Round(0, {}, (1.0,), 0.0, 8)).plan is None
        True
    """

    models: list[nn.Module]
    last: Round
    curve: Curve | None = None
    plan: Plan | None = None
    parameters_sent: int = 0
    left_out: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Entry:
    """Hold a method that knows its task: its scheme, its merge weights, and how the final round becomes the pay.

    ``policy``: which width each participant receives in a round.

    Example:
        >>> import aequa_lite as aq
        >>> config, data = aq.Config(participants=2), aq.load("fashion-mini")
        >>> task = aq.Problem(aq.MLP, aq.data.homogeneous(data.train, config), config, data.validation, np.array([0.5, 0.5]))
        >>> aq.baselines.fedavg().enter(task).strategy.sent is None
        True
    """

    strategy: Strategy
    weights: np.ndarray
    pay: Callable[[Round], Outcome]
    policy: Policy = full_width

    def rounds(self, build: Build, shards: Sequence[Shard], config: Config, **options: Any) -> Iterator[Round]:
        """Train together by this method, round by round; ``options`` go to :func:`~aequa_lite.federate`."""
        given = {"scheme": self.strategy, "policy": self.policy, "weights": self.weights.tolist(), **options}
        return federate(build, shards, config, **given)


@dataclass(frozen=True)
class Algorithm:
    """Hold a way to train together and to pay, before it knows its task.

    Example:
        >>> fedavg().name
        'fedavg'
    """

    name: str
    enter: Callable[[Problem], Entry]

    def run(
        self,
        build: Build,
        shards: Sequence[Shard],
        config: Config,
        data: Dataset,
        alone: Sequence[nn.Module],
        contribution: Sequence[float] | None = None,
        *,
        progress: bool = True,
    ) -> Outcome:
        """Train together by this method and return what everybody takes home: always of the final round.

        ``alone``: the networks trained alone, shared by all methods of a run; ``contribution``: (participants,) on the
        accuracy scale (default: the validation accuracy of ``alone``).
        """
        contribution = (
            accuracy(alone, data.validation) if contribution is None else np.asarray(contribution, dtype=float)
        )
        entry = self.enter(Problem(build, shards, config, data.validation, contribution))
        sent, left_out = 0, []
        for last in entry.rounds(build, shards, config, progress=progress):
            sent, left_out = sent + last.parameters_sent, [*left_out, *last.left_out]
        return replace(entry.pay(last), parameters_sent=sent, left_out=tuple(left_out))


def checked_constant(name: str, value: object, fits: bool, allowed: str) -> None:
    """Refuse a constant of a method before any work."""
    if not fits:
        raise ValueError(f"{name} is {value!r}; allowed is {allowed}")


def aequa(
    width_sampler: str = "full_and_random",
    server: str = "averaged",
    individually_rational: bool = True,
    allocation: str = "allocate",
    arrival: bool = False,
    mixed_precision: bool = False,
    aggregate: str = "merge",
    logit_adjustment: float = 0.0,
) -> Algorithm:
    """Train one network of every width and pay after training: each participant the width that it earned.

    ``width_sampler``, ``server``, ``allocation``, ``aggregate``: as :func:`~aequa_lite.registry.width_sampler`, :func:`~aequa_lite.registry.server_optimizer`,
    :func:`~aequa_lite.registry.allocation` and :func:`~aequa_lite.registry.aggregation` read them; ``individually_rational``: nobody's predicted accuracy below what it
    reached alone; ``arrival``: answers count by their validation accuracy as they arrive, to the recipe's
    ``contribution_power``, instead of by the recipe's weights; ``mixed_precision``: half precision in the passes, on a GPU;
    ``logit_adjustment``: as in :func:`~aequa_lite.slimmable`.

    Raises:
        ValueError: a name is unknown, ``individually_rational`` is asked of a rule that cannot keep it, or ``logit_adjustment`` is outside [0, 1].

    Example:
        >>> aequa("full_only").name
        'aequa'

    Source: Aequa with post-training allocation; what is ours in it stands in :func:`~aequa_lite.allocate` and :func:`~aequa_lite.slimmable`.
    """
    drawn, step, rule = (
        width_sampler,
        server,
        allocation(allocation, individually_rational),
    )
    merged = aggregate
    checked_logit_adjustment(logit_adjustment)

    def enter(task: Problem) -> Entry:
        power = task.config.contribution_power
        reweight = validation_weights(task.build, task.validation, power) if arrival else None
        precision = half_precision(task.validation.y.device) if mixed_precision else None
        how = {
            "server": step,
            "weigh": reweight,
            "merging": merged,
            "precision": precision,
            "balance": logit_adjustment,
        }
        strategy = slimmable(task.build, drawn, **how)
        return Entry(
            strategy, aggregation_weights(task.shards, task.config, task.contribution.tolist()), _pays(task, rule)
        )

    return Algorithm("aequa", enter)


def _pays(task: Problem, rule: Callable[[Any, Curve], Plan]) -> Callable[[Round], Outcome]:
    """Measure the final network at every width and pay by the rule."""

    def pay(last: Round) -> Outcome:
        curve = reward_curve(task.build, last.theta, task.validation, task.config)
        plan = rule(task.contribution, curve)
        models = [model_at(task.build, last.theta, curve, w) for w in plan.widths]
        return Outcome(models, last, curve, plan)

    return pay


def earned(
    score: str = "own_accuracy",
    power: float = 0.5,
    floor: float = 0.1,
    start: float = 0.25,
    warm_up: int = 3,
    step: float = 0.1,
    hands: float = 0.2,
    logit_adjustment: float = 1.0,
) -> Algorithm:
    r"""Train one network of every width and pay while training: each round sends only the slice that is earned by then.

    ``score``: what is earned by, ``own_accuracy`` (networks trained alone come twice, in the first round and in the middle, and
    cost together as many local steps as training alone does), ``arrived_accuracy`` or ``alignment``; ``power``: of
    :func:`~aequa_lite.training_time.damped_aggregate`; ``floor``, ``start``, ``warm_up``, ``step``, ``hands``: as in :func:`~aequa_lite.training_time.score_schedule`; ``logit_adjustment``: as in
    :func:`~aequa_lite.slimmable`, since few train the outermost units, and with classes that their own shards do not show all alike.
    Merge weights are those of :func:`~aequa_lite.aequa`. The reward is the slice of the final network that the next round would send:
    nobody takes home more than it has earned, and no other rule is asked at the end.

    Raises:
        ValueError: a constant is outside its range, or ``score`` is unknown.

    Example:
        >>> earned("alignment").name
        'earned'

    Source: training-time rewards are Algorithm 2 of Aequa (seen by name); schedule, scores and merge are ours.
    """
    scores = ("own_accuracy", "arrived_accuracy", "alignment")
    checked_constant("score", score, score in scores, f"one of {', '.join(scores)}")
    aggregate = damped_aggregate(power)
    checked_logit_adjustment(logit_adjustment)
    schedule = {"floor": floor, "start": start, "warm_up": warm_up, "step": step, "hands": hands}
    score_schedule(alignment, **schedule)  # what makes no schedule is refused before any work

    def enter(task: Problem) -> Entry:
        build, validation, config = task.build, task.validation, task.config
        strategy, judge = slimmable(build, aggregate=aggregate, logit_adjustment=logit_adjustment), alignment
        if score == "own_accuracy":
            half = max(config.rounds // 2, 1)
            strategy = with_own_model(strategy, build, steps=half * config.local_steps, every=half)
            judge = own_model_accuracy(build, validation)
        elif score == "arrived_accuracy":
            judge = update_accuracy(build, validation)
        policy = score_schedule(judge, build, validation, stretch=score == "alignment", **schedule)
        weights = aggregation_weights(task.shards, config, task.contribution.tolist())
        return Entry(strategy, weights, _keeps(task, policy), policy)

    return Algorithm("earned", enter)


def _keeps(task: Problem, policy: Policy) -> Callable[[Round], Outcome]:
    """Pay the slices that the policy would send next, with what the final network's curve says of them."""

    def pay(last: Round) -> Outcome:
        held = np.array(given_to(policy(task.config, last)).widths)
        curve = accuracy_curve(
            task.build, last.theta, task.validation, grid=widths(task.config.min_width, grid=task.config.grid)
        )
        chosen = np.maximum(np.searchsorted(curve.level_widths, held + 1e-9, side="right") - 1, 0)
        plan = replace(plan_of(chosen, curve, task.contribution), widths=held)
        return Outcome([slim(task.build, last.theta, w) for w in held.tolist()], last, curve, plan)

    return pay
