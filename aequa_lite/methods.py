"""Every method behind one call: ours and its rivals, by the word that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .allocate import Plan
from .curve import Curve
from .doses import cffl, cgsv, iafl
from .federate import merge_weights, slimmable
from .local import accuracy_curve, widths
from .mixing import shapfed, shapfed_wa
from .names import allocation_named, by_name, called, defence_named, draw_named, server_named
from .records import Round
from .rivals import Entry, Method, Paid, Task, fedavg, finetuned, lg_fedavg
from .server import by_validation
from .slim import slim
from .stacked import half_precision
from .submodels import submodels

__all__ = ["aequa", "method_named"]


def aequa(
    draw: str = "full_and_random",
    server: str = "averaged",
    rational: bool = True,
    allocation: str = "allocate",
    arrival: bool = False,
    mixed: bool = False,
    defence: str = "merge",
) -> Method:
    """Train one network of every width and pay after training: each participant the width that it earned.

    ``draw``, ``server``, ``allocation``, ``defence``: as :func:`draw_named`, :func:`server_named`,
    :func:`allocation_named` and :func:`defence_named` read them; ``rational``: nobody's predicted accuracy below what it
    reached alone; ``arrival``: answers count by their validation accuracy as they arrive, to the recipe's
    ``contribution_power``, instead of by the recipe's weights; ``mixed``: half precision in the passes, on a GPU.

    Raises:
        ValueError: a name is unknown, or ``rational`` is asked of a rule that cannot keep it.

    Example:
        >>> aequa("full_only").name
        'aequa'

    Source: Aequa with post-training allocation; what is ours in it stands in :func:`allocate` and :func:`slimmable`.
    """
    drawn, step, rule = draw_named(draw), server_named(server), allocation_named(allocation, rational)
    merging = defence_named(defence)

    def enter(task: Task) -> Entry:
        power = task.recipe.contribution_power
        weigh = by_validation(task.build, task.validation, power) if arrival else None
        precision = half_precision(task.validation.y.device) if mixed else None
        scheme = slimmable(task.build, drawn, server=step, weigh=weigh, merging=merging, precision=precision)
        return Entry(scheme, merge_weights(task.shards, task.recipe, task.contribution.tolist()), _pays(task, rule))

    return Method("aequa", enter)


def _pays(task: Task, rule: Callable[[Any, Curve], Plan]) -> Callable[[Round], Paid]:
    """Measure the final network at every width and pay by the rule."""

    def pay(last: Round) -> Paid:
        grid = widths(task.recipe.min_width, grid=task.recipe.grid)
        curve = accuracy_curve(task.build, last.theta, task.validation, grid=grid)
        plan = rule(task.contribution, curve)
        return Paid([slim(task.build, last.theta, w) for w in plan.widths], last, curve, plan)

    return pay


METHODS = by_name(  # the one list of methods: a new one is added here
    aequa,
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
