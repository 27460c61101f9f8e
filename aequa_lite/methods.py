"""Every method behind one call: ours and its rivals, by the word that names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .allocate import Plan, plan_of
from .contribution import alignment
from .curve import Curve
from .doses import cffl, cgsv, iafl
from .earned import arrived_accuracy, cautious, earned_widths, own_accuracy, with_own
from .federate import merge_weights, slimmable
from .judge import accuracy_curve, network_at, reward_curve, widths
from .local import checked_balance
from .mixing import shapfed, shapfed_wa
from .names import allocation_named, by_name, called, draw_named, merging_named, server_named
from .policy import Policy, given_to
from .records import Round
from .rivals import Entry, Method, Paid, Task, checked_constant, fedavg, finetuned, lg_fedavg
from .server import by_validation
from .slim import slim
from .stacked import half_precision
from .submodels import submodels

__all__ = ["aequa", "earned", "method_named"]


def aequa(
    draw: str = "full_and_random",
    server: str = "averaged",
    rational: bool = True,
    allocation: str = "allocate",
    arrival: bool = False,
    mixed: bool = False,
    merging: str = "merge",
    balance: float = 0.0,
) -> Method:
    """Train one network of every width and pay after training: each participant the width that it earned.

    ``draw``, ``server``, ``allocation``, ``merging``: as :func:`draw_named`, :func:`server_named`,
    :func:`allocation_named` and :func:`merging_named` read them; ``rational``: nobody's predicted accuracy below what it
    reached alone; ``arrival``: answers count by their validation accuracy as they arrive, to the recipe's
    ``contribution_power``, instead of by the recipe's weights; ``mixed``: half precision in the passes, on a GPU;
    ``balance``: as in :func:`slimmable`.

    Raises:
        ValueError: a name is unknown, ``rational`` is asked of a rule that cannot keep it, or ``balance`` is outside [0, 1].

    Example:
        >>> aequa("full_only").name
        'aequa'

    Source: Aequa with post-training allocation; what is ours in it stands in :func:`allocate` and :func:`slimmable`.
    """
    drawn, step, rule = draw_named(draw), server_named(server), allocation_named(allocation, rational)
    merged = merging_named(merging)
    checked_balance(balance)

    def enter(task: Task) -> Entry:
        power = task.recipe.contribution_power
        weigh = by_validation(task.build, task.validation, power) if arrival else None
        precision = half_precision(task.validation.y.device) if mixed else None
        how = {"server": step, "weigh": weigh, "merging": merged, "precision": precision, "balance": balance}
        scheme = slimmable(task.build, drawn, **how)
        return Entry(scheme, merge_weights(task.shards, task.recipe, task.contribution.tolist()), _pays(task, rule))

    return Method("aequa", enter)


def _pays(task: Task, rule: Callable[[Any, Curve], Plan]) -> Callable[[Round], Paid]:
    """Measure the final network at every width and pay by the rule."""

    def pay(last: Round) -> Paid:
        curve = reward_curve(task.build, last.theta, task.validation, task.recipe)
        plan = rule(task.contribution, curve)
        models = [network_at(task.build, last.theta, curve, w) for w in plan.widths]
        return Paid(models, last, curve, plan)

    return pay


def earned(
    score: str = "own_accuracy",
    power: float = 0.5,
    floor: float = 0.1,
    start: float = 0.25,
    warm_up: int = 3,
    step: float = 0.1,
    hands: float = 0.2,
    balance: float = 1.0,
) -> Method:
    r"""Train one network of every width and pay while training: each round sends only the slice that is earned by then.

    ``score``: what is earned by, ``own_accuracy`` (networks trained alone come twice, in the first round and in the middle, and
    cost together as many local steps as training alone does), ``arrived_accuracy`` or ``alignment``; ``power``: of
    :func:`cautious`; ``floor``, ``start``, ``warm_up``, ``step``, ``hands``: as in :func:`earned_widths`; ``balance``: as in
    :func:`slimmable`, since few train the outermost units, and with classes that their own shards do not show all alike.
    Merge weights are those of :func:`aequa`. The reward is the slice of the final network that the next round would send:
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
    merging = cautious(power)
    checked_balance(balance)
    schedule = {"floor": floor, "start": start, "warm_up": warm_up, "step": step, "hands": hands}
    earned_widths(alignment, **schedule)  # what makes no schedule is refused before any work

    def enter(task: Task) -> Entry:
        build, validation, recipe = task.build, task.validation, task.recipe
        scheme, judge = slimmable(build, merging=merging, balance=balance), alignment
        if score == "own_accuracy":
            half = max(recipe.rounds // 2, 1)
            scheme = with_own(scheme, build, steps=half * recipe.local_steps, every=half)
            judge = own_accuracy(build, validation)
        elif score == "arrived_accuracy":
            judge = arrived_accuracy(build, validation)
        policy = earned_widths(judge, build, validation, stretch=score == "alignment", **schedule)
        weights = merge_weights(task.shards, recipe, task.contribution.tolist())
        return Entry(scheme, weights, _keeps(task, policy), policy)

    return Method("earned", enter)


def _keeps(task: Task, policy: Policy) -> Callable[[Round], Paid]:
    """Pay the slices that the policy would send next, with what the final network's curve says of them."""

    def pay(last: Round) -> Paid:
        held = np.array(given_to(policy(task.recipe, last)).widths)
        curve = accuracy_curve(
            task.build, last.theta, task.validation, grid=widths(task.recipe.min_width, grid=task.recipe.grid)
        )
        chosen = np.maximum(np.searchsorted(curve.level_widths, held + 1e-9, side="right") - 1, 0)
        plan = replace(plan_of(chosen, curve, task.contribution), widths=held)
        return Paid([slim(task.build, last.theta, w) for w in held.tolist()], last, curve, plan)

    return pay


METHODS = by_name(  # the one list of methods: a new one is added here
    aequa,
    earned,
    fedavg,
    finetuned,
    lg_fedavg,
    cffl,
    cgsv,
    iafl,
    shapfed,
    shapfed_wa,
    submodels,
)


def method_named(text: str) -> Method:
    """Return the method that is written as a name or a call, such as ``fedavg`` or ``cgsv(0.15, beta=1.0)``.

    Its ``run(build, shards, recipe, data, alone, contribution)`` returns what a report needs: :class:`Paid`.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its constants are.

    Example:
        >>> method_named("cgsv(0.15, beta=1.0)").name
        'cgsv'
    """
    return called("method", text, METHODS)()
