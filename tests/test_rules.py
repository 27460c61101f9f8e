"""Other rules keep their axioms; with no scarce resource, welfare hands everyone the full network."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aequa_lite as aq
from aequa_lite.allocate import Plan

many_times = settings(derandomize=True, deadline=None, max_examples=100)
contributions = st.lists(st.floats(0.05, 0.75), min_size=2, max_size=5)
FINE = aq.Curve(np.linspace(0.02, 1, 50), np.linspace(0.1, 0.9, 50), samples=4000)
COARSE = aq.Curve((0.1, 0.3, 0.6, 1.0), (0.3, 0.5, 0.7, 0.8), samples=4000)


def width(w: float) -> float:
    """The cost that is the width itself."""
    return w


RULES = {
    "allocate": aq.allocate,
    "proportional": aq.proportional,
    "thresholded": lambda b, curve: aq.thresholded(b, curve, least=0.05),
    "capped": lambda b, curve: aq.capped(b, curve, 0.05),
}
WELFARE = {
    "nash": lambda b, curve, budget: aq.nash(b, curve, cost=width, budget=budget),
    "leximin": lambda b, curve, budget: aq.leximin(b, curve, cost=width, budget=budget),
    "lp": lambda b, curve, budget: aq.lp_welfare(b, curve, p=0.5, cost=width, budget=budget),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@many_times
@given(b=contributions, twin=st.booleans())
def test_equal_treatment_and_monotone_in_contribution(rule, b: list[float], twin: bool) -> None:
    b = [*b, b[0]] if twin else b
    plan: Plan = rule(b, FINE)
    for (b1, a1), (b2, a2) in itertools.combinations(zip(b, plan.predicted_accuracy), 2):
        if b1 == b2:
            assert a1 == a2
        if b1 < b2:
            assert a1 <= a2


@many_times
@given(b=contributions, scale=st.floats(0.2, 1.0))
def test_proportional_rewards_do_not_know_the_scale(b: list[float], scale: float) -> None:
    first, second = aq.proportional(b, FINE), aq.proportional([scale * x for x in b], FINE)
    assert np.abs(first.predicted_accuracy - second.predicted_accuracy).max() < 0.02  # a level, where a tie is rounded


@many_times
@given(b=contributions, shift=st.floats(0.0, 0.2))
def test_equal_gains_do_not_know_a_common_shift(b: list[float], shift: float) -> None:
    first = aq.allocate(b, FINE, objective=aq.spread_minus_gain(0.3))
    moved = aq.Curve(FINE.widths, FINE.accuracy * 0.9 + 0.05, 4000)
    shifted = aq.Curve(FINE.widths, np.clip(moved.accuracy + shift, 0, 1), 4000)
    if shifted.full < 1 and max(b) + shift <= 1:
        again = aq.allocate([x + shift for x in b], shifted, objective=aq.spread_minus_gain(0.3))
        before = aq.allocate(b, moved, objective=aq.spread_minus_gain(0.3))
        assert np.abs(again.predicted_accuracy - shift - before.predicted_accuracy).max() < 0.04
    assert first.certificate.exact


def test_what_a_free_rider_gets() -> None:
    b = [0.1, 0.6, 0.7]  # the first is at chance
    assert aq.allocate(b, FINE).predicted_accuracy[0] > 0.2  # the common gain, without having done anything
    assert aq.thresholded(b, FINE, least=0.2).predicted_accuracy[0] == FINE.least
    assert aq.proportional(b, FINE).predicted_accuracy[0] < 0.15
    assert aq.capped(b, FINE).predicted_accuracy[0] <= 0.1


def test_capped_never_pays_above_the_cap() -> None:
    for allowance in (0.0, 0.05, 0.2):
        paid = aq.capped([0.3, 0.5, 0.7], FINE, allowance).predicted_accuracy
        assert (paid <= np.array([0.3, 0.5, 0.7]) + allowance + 1e-12).all()


@pytest.mark.parametrize("rule", WELFARE.values(), ids=WELFARE)
def test_without_a_scarce_resource_everyone_gets_the_full_network(rule) -> None:
    assert rule([0.2, 0.4, 0.6], FINE, budget=3.0).widths.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("rule", WELFARE.values(), ids=WELFARE)
@many_times
@given(b=st.lists(st.floats(0.05, 0.25), min_size=2, max_size=4), budget=st.floats(1.3, 4.0))
def test_the_budget_is_kept(rule, b: list[float], budget: float) -> None:
    assert rule(b, COARSE, budget).widths.sum() <= budget + 1e-9


def over_all(b: list[float], budget: float):
    """Every affordable tuple of levels, as gains."""
    for each in itertools.product(range(len(COARSE.levels)), repeat=len(b)):
        if COARSE.level_widths[list(each)].sum() <= budget + 1e-9:
            yield COARSE.levels[list(each)] - np.array(b)


@many_times
@given(b=st.lists(st.floats(0.05, 0.28), min_size=2, max_size=4), budget=st.floats(0.5, 4.0))
def test_the_welfare_bounds_hold_against_every_tuple(b: list[float], budget: float) -> None:
    plan = aq.nash(b, COARSE, cost=width, budget=budget)
    best = max(np.log(gains).sum() for gains in over_all(b, budget) if (gains > 0).all())
    assert -plan.certificate.value <= best + 1e-9 <= -plan.certificate.bound + 2e-9
    lp = aq.lp_welfare(b, COARSE, p=0.5, cost=width, budget=budget)
    best = max((np.maximum(gains, 0) ** 0.5).sum() for gains in over_all(b, budget))
    assert -lp.certificate.value <= best + 1e-9 <= -lp.certificate.bound + 2e-9


@many_times
@given(b=st.lists(st.floats(0.05, 0.28), min_size=2, max_size=4), budget=st.floats(0.5, 4.0))
def test_leximin_lifts_the_smallest_gain_as_far_as_it_goes(b: list[float], budget: float) -> None:
    plan = aq.leximin(b, COARSE, cost=width, budget=budget)
    best = max(gains.min() for gains in over_all(b, budget))
    assert (plan.predicted_accuracy - b).min() == pytest.approx(best)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="budget is"):
        aq.nash([0.1, 0.2], COARSE, cost=width, budget=0.1)
    with pytest.raises(ValueError, match="cost does not rise"):
        aq.leximin([0.1, 0.2], COARSE, cost=lambda w: -w, budget=3)
    with pytest.raises(ValueError, match="nash is undefined"):
        aq.nash([0.9, 0.2], COARSE, cost=width, budget=4)
    with pytest.raises(ValueError, match="least is"):
        aq.thresholded([0.1, 0.2], COARSE, least=0.5)
    with pytest.raises(ValueError, match="p is"):
        aq.lp_welfare([0.1], COARSE, p=2, cost=width, budget=4)


def test_annealing_never_beats_the_exact_plan() -> None:
    for seed in range(6):
        draws = aq.stream(seed, "t")
        b = draws.uniform(0.2, 0.8, 5)
        curve = aq.Curve(np.linspace(0.1, 1, 9), np.sort(draws.uniform(0.2, 0.9, 9)), 1000)
        assert aq.allocate(b, curve).certificate.value <= aq.anneal(b, curve, seed=seed).certificate.value + 1e-12


def test_claiming_more_pays_below_the_top_and_not_at_it() -> None:
    b = [0.3, 0.5, 0.7]
    report, added = aq.best_reply(b, FINE, 0)
    assert report > 0.3
    assert added > 0.2
    assert aq.best_reply(b, FINE, 2)[1] == 0.0  # it holds the full network already
    with pytest.raises(ValueError, match="participant is 3"):
        aq.best_reply(b, FINE, 3)


@many_times
@given(b=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6), ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_the_continuum_is_the_limit_of_fine_curves(b: list[float], ends: tuple[float, float]) -> None:
    least, full = min(ends), max(ends)
    if full - least < 0.01:
        return
    fine = aq.Curve(np.linspace(0.001, 1, 3001), np.linspace(least, full, 3001), 1000)
    objective = aq.spread_minus_gain(0.3)
    gains = aq.closed_form(b, least, full, objective) - b
    limit = objective(gains.mean(), gains.std())
    assert aq.allocate(b, fine, objective=objective).certificate.value == pytest.approx(limit, abs=5e-4)
    spread = aq.allocate(b, fine, objective=aq.spread_only()).certificate.spread
    assert spread == pytest.approx(aq.smallest_spread(b, least, full), abs=5e-4)


def test_the_threshold_counts_those_tied_at_the_top() -> None:
    assert aq.threshold([0.1, 0.2, 0.3]) == pytest.approx(np.sqrt(1 / 2))
    assert aq.threshold([0.1, 0.3, 0.3]) == pytest.approx(np.sqrt(2))
    assert aq.threshold([0.3, 0.3]) == np.inf


def test_reward_intervals_narrow_with_more_validation_samples() -> None:
    def wide(samples: int) -> float:
        curve = aq.Curve(FINE.widths, FINE.accuracy, samples)
        return float(np.mean(np.diff(aq.reward_intervals([0.3, 0.5, 0.7], curve, draws=100).rewards)))

    assert wide(10_000) < 0.5 * wide(500)


def test_telling_two_rewards_apart_needs_the_samples_that_it_takes() -> None:
    n = aq.samples_needed(0.03, 0.7)
    draws = aq.stream(0, "t").binomial(n, [0.715, 0.685], size=(4000, 2)) / n
    found = np.abs(draws[:, 0] - draws[:, 1]) > 1.96 * np.sqrt(2 * 0.7 * 0.3 / n)
    assert found.mean() == pytest.approx(0.8, abs=0.03)
    with pytest.raises(ValueError, match="gap"):
        aq.samples_needed(0.0, 0.5)
