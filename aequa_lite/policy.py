"""Which width each participant receives in a round; post-training and training-time rewards differ only here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .records import Given, Recipe, Round

__all__ = ["everyone_full"]

Policy = Callable[[Recipe, Round | None], Sequence[float] | Given]


def everyone_full(recipe: Recipe, last: Round | None) -> tuple[float, ...]:
    """Give everyone the full network in every round; the rewards are cut after training.

    ``last``: the round before this one, None at the start. Returns (participants,) widths.

    Example:
        >>> everyone_full(Recipe(participants=3), None)
        (1.0, 1.0, 1.0)

    Source: Algorithm 1 of Aequa sends the full network during training (seen in its reviews).
    """
    return (1.0,) * recipe.participants


def given_to(given: Sequence[float] | Given) -> Given:
    """What a policy has decided, with what it wants to remember: nothing, where it returned widths alone."""
    return given if isinstance(given, Given) else Given(tuple(float(w) for w in given))
