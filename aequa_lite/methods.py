"""Every method behind one call: ours and its rivals, by the word that names it."""

from __future__ import annotations

from .allocate import allocate
from .doses import cffl, cgsv, iafl
from .federate import merge_weights, slimmable
from .local import accuracy_curve
from .mixing import shapfed, shapfed_wa
from .names import _called, _table, draw_named, server_named
from .records import Round
from .rivals import Entry, Method, Paid, Task, fedavg, finetuned, lg_fedavg
from .slim import slim
from .submodels import submodels

__all__ = ["aequa", "method_named"]


def aequa(draw: str = "full_and_random", server: str = "averaged", rational: bool = True) -> Method:
    """Train one network of every width and pay after training: each participant the width that it earned.

    ``draw``, ``server``: as :func:`draw_named` and :func:`server_named` read them; ``rational``: nobody's predicted accuracy
    below what it reached alone. The merge is weighted as the recipe says.

    Raises:
        ValueError: a name is unknown.

    Example:
        >>> aequa("full_only").name
        'aequa'

    Source: Aequa with post-training allocation; what is ours in it stands in :func:`allocate` and :func:`slimmable`.
    """
    drawn, step = draw_named(draw), server_named(server)

    def enter(task: Task) -> Entry:
        def pay(last: Round) -> Paid:
            curve = accuracy_curve(task.build, last.theta, task.validation, least=task.recipe.min_width)
            plan = allocate(task.contribution, curve, rational=rational)
            return Paid([slim(task.build, last.theta, w) for w in plan.widths], last, curve, plan)

        scheme = slimmable(task.build, drawn, server=step)
        return Entry(scheme, merge_weights(task.shards, task.recipe, task.contribution.tolist()), pay)

    return Method("aequa", enter)


METHODS = _table(  # the one list of methods: a new one is added here
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
    return _called("method", text, METHODS)()
