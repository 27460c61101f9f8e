"""Under a budget, every welfare rule treats equals equally, gives more for more, and states a bound that holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aequa_lite as aq

many_times = settings(derandomize=True, deadline=None, max_examples=80)
COARSE = aq.Curve((0.1, 0.3, 0.6, 1.0), (0.3, 0.5, 0.7, 0.8), samples=4000)
few = st.lists(st.integers(5, 28).map(lambda k: k / 100), min_size=2, max_size=4)  # equals are common
budgets = st.floats(0.5, 4.0)


def width(w: float) -> float:
    """The cost that is the width itself."""
    return w


WELFARE = {
    "nash": lambda b, curve, budget: aq.allocation.nash(b, curve, cost=width, budget=budget),
    "leximin": lambda b, curve, budget: aq.allocation.leximin(b, curve, cost=width, budget=budget),
    "lp": lambda b, curve, budget: aq.allocation.lp_welfare(b, curve, p=0.5, cost=width, budget=budget),
    "sum": lambda b, curve, budget: aq.allocation.lp_welfare(b, curve, p=1.0, cost=width, budget=budget),
}


def fair_tuples(b: list[float], budget: float) -> Iterator[np.ndarray]:
    """The gains of every affordable tuple of levels that gives equals the same and more for more."""
    own = np.array(b)
    for each in itertools.product(range(len(COARSE.levels)), repeat=len(b)):
        chosen = np.array(each)
        fair = all(chosen[i] == chosen[j] if own[i] == own[j] else chosen[i] <= chosen[j]
                   for i, j in itertools.permutations(range(len(b)), 2) if own[i] <= own[j])  # fmt: skip
        if fair and COARSE.level_widths[chosen].sum() <= budget + 1e-9:
            yield COARSE.levels[chosen] - own


@pytest.mark.parametrize("rule", WELFARE.values(), ids=WELFARE)
def test_without_a_scarce_resource_everyone_gets_the_full_network(rule) -> None:
    assert rule([0.2, 0.4, 0.6], COARSE, 3.0).widths.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("rule", WELFARE.values(), ids=WELFARE)
@many_times
@given(b=few, budget=budgets)
def test_the_budget_is_kept_equals_are_equal_and_more_never_earns_less(rule, b: list[float], budget: float) -> None:
    plan = rule(b, COARSE, budget)
    assert plan.widths.sum() <= budget + 1e-9
    for (b1, w1), (b2, w2) in itertools.combinations(zip(b, plan.widths), 2):
        assert w1 == w2 if b1 == b2 else (w1 <= w2) == (b1 < b2) or w1 == w2


@pytest.mark.parametrize("rule", WELFARE.values(), ids=WELFARE)
def test_what_only_one_of_two_equals_could_receive_stays_unspent(rule) -> None:
    plan = rule([0.2, 0.2], COARSE, 0.5)  # 0.1 + 0.3 would fit, 0.3 + 0.3 does not
    assert plan.widths.tolist() == [0.1, 0.1]
    assert rule([0.2, 0.2], COARSE, 0.6).widths.tolist() == [0.3, 0.3]


@many_times
@given(b=few, budget=budgets)
def test_the_welfare_bounds_hold_against_every_fair_tuple(b: list[float], budget: float) -> None:
    plan = aq.allocation.nash(b, COARSE, cost=width, budget=budget)
    best = max(np.log(gains).sum() for gains in fair_tuples(b, budget) if (gains > 1e-12).all())
    assert -plan.certificate.value <= best + 1e-9 <= -plan.certificate.bound + 2e-9
    lp = aq.allocation.lp_welfare(b, COARSE, p=0.5, cost=width, budget=budget)
    best = max((np.maximum(gains, 0) ** 0.5).sum() for gains in fair_tuples(b, budget))
    assert -lp.certificate.value <= best + 1e-9 <= -lp.certificate.bound + 2e-9


@many_times
@given(b=few, budget=budgets)
def test_leximin_is_the_lexicographic_best_of_the_fair_tuples(b: list[float], budget: float) -> None:
    plan = aq.allocation.leximin(b, COARSE, cost=width, budget=budget)
    found = np.sort(plan.predicted_accuracy - b).round(9).tolist()
    best = max(np.sort(gains).round(9).tolist() for gains in fair_tuples(b, budget))
    assert found[0] == best[0]  # the smallest gain is the largest possible
    if len({round(a - x, 9) for a in COARSE.levels for x in set(b)}) == len(set(b)) * len(COARSE.levels):
        assert found == best  # and the next, where no two participants' gains can tie


@pytest.mark.parametrize("rule", WELFARE.values(), ids=WELFARE)
@many_times
@given(b=st.lists(st.integers(4, 18).map(lambda k: k / 64), min_size=2, max_size=4), budget=budgets)
def test_they_depend_on_gains_only(rule, b: list[float], budget: float) -> None:
    curve = aq.Curve((0.1, 0.3, 0.6, 1.0), np.array([20, 30, 38, 42]) / 64, 4000)
    moved = aq.Curve(curve.widths, curve.accuracy + 8 / 64, 4000)
    assert rule([x + 8 / 64 for x in b], moved, budget).widths.tolist() == rule(b, curve, budget).widths.tolist()


def test_a_free_rider_receives_no_more_than_contributors() -> None:
    curve = aq.Curve(np.linspace(0.02, 1, 50), np.linspace(0.1, 0.9, 50), 4000)
    for name, rule in WELFARE.items():
        rewards = rule([0.1, 0.6, 0.7], curve, 2.0).predicted_accuracy
        assert rewards[0] <= rewards[1] <= rewards[2], name


def test_a_budget_may_be_of_parameters_or_bytes() -> None:
    def numbers(w: float) -> float:
        return float(aq.n_parameters(aq.LeNet(w)))

    plan = aq.allocation.nash([0.1, 0.2], COARSE, cost=numbers, budget=1.2 * numbers(1.0))
    assert sum(map(numbers, plan.widths)) <= 1.2 * numbers(1.0)
    in_bytes = aq.allocation.nash([0.1, 0.2], COARSE, cost=lambda w: 4 * numbers(w), budget=4.8 * numbers(1.0))
    assert in_bytes.widths.tolist() == plan.widths.tolist()


def test_nobody_passes_a_better_contributor_who_cannot_gain() -> None:
    plan = aq.allocation.lp_welfare(
        [0.05, 0.75], COARSE, p=0.5, cost=width, budget=0.9
    )  # 0.75 gains only at full width
    assert plan.widths[0] <= plan.widths[1]


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="`budget` must be at least"):
        aq.allocation.nash([0.1, 0.2], COARSE, cost=width, budget=0.1)
    with pytest.raises(ValueError, match="`cost` must be a number"):
        aq.allocation.leximin([0.1, 0.2], COARSE, cost=lambda w: -w, budget=3)
    with pytest.raises(ValueError, match="`cost` must be a function that never falls"):
        aq.allocation.leximin([0.1, 0.2], COARSE, cost=lambda w: 2 - w, budget=3)
    with pytest.raises(ValueError, match="`contribution` must be below the full width's"):
        aq.allocation.nash([0.9, 0.2], COARSE, cost=width, budget=4)
    with pytest.raises(ValueError, match="`budget` must be at least .*at which everybody gains"):
        aq.allocation.nash([0.65, 0.65], COARSE, cost=width, budget=0.7)  # it could gain, but not within the budget
    with pytest.raises(ValueError, match="`p` must be a number in"):
        aq.allocation.lp_welfare([0.1], COARSE, p=2, cost=width, budget=4)


@pytest.mark.parametrize("rule", [aq.allocation.leximin, partial(aq.allocation.lp_welfare, p=0.5)])
def test_a_budget_for_the_least_widths_is_enough_up_to_rounding(rule) -> None:
    curve = aq.Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=100)
    plan = rule([0.1, 0.1, 0.2], curve, cost=lambda width: width, budget=0.3)  # 3 x 0.1 is a little more
    assert plan.widths.tolist() == [0.1] * 3
