"""Other rules keep their axioms, annealing never beats the exact plan, and the continuum is the limit of fine curves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aequa_lite as aq
from aequa_lite.allocation.exact import Plan

many_times = settings(derandomize=True, deadline=None, max_examples=100)
contributions = st.lists(st.floats(0.05, 0.75), min_size=2, max_size=5)
FINE = aq.Curve(np.linspace(0.02, 1, 50), np.linspace(0.1, 0.9, 50), samples=4000)
COARSE = aq.Curve((0.1, 0.3, 0.6, 1.0), (0.3, 0.5, 0.7, 0.8), samples=4000)
EXACT = aq.Curve(np.linspace(0.1, 1, 20), (np.arange(20) ** 2 // 12 + np.arange(20) + 4) / 64, samples=4000)  # in 64ths
grid_contributions = st.lists(st.integers(4, 40).map(lambda k: k / 64), min_size=2, max_size=5)


RULES = {
    "allocate": aq.allocate,
    "proportional": aq.allocation.proportional,
    "thresholded": lambda b, curve: aq.allocation.thresholded(b, curve, least=0.05),
    "capped": lambda b, curve: aq.allocation.capped(b, curve, 0.05),
    "generous": lambda b, curve: aq.allocation.generous(b, curve, 0.3),
    "stable": lambda b, curve: aq.allocation.stable(b, curve, game=lambda s: [0.3 + 0.08 * len(s)] * len(s)),
    "marginal_value": lambda b, curve: aq.allocation.marginal_value(b, curve, game=additive(b)),
}


def additive(b):
    """A game in which each adds a sixth of its contribution, so that equal ones have equal marginal values."""
    return lambda s: [math.fsum(b[i] for i in s) / 6] * len(s)


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
def test_proportional_rewards_ignore_the_scale(b: list[float], scale: float) -> None:
    first, second = aq.allocation.proportional(b, FINE), aq.allocation.proportional([scale * x for x in b], FINE)
    assert np.abs(first.predicted_accuracy - second.predicted_accuracy).max() < 0.02  # a level, where a tie is rounded


@many_times
@given(b=contributions, shift=st.floats(0.0, 0.2))
def test_equal_gains_ignore_a_common_shift(b: list[float], shift: float) -> None:
    first = aq.allocate(b, FINE, objective=aq.allocation.spread_minus_gain(0.3))
    moved = aq.Curve(FINE.widths, FINE.accuracy * 0.9 + 0.05, 4000)
    shifted = aq.Curve(FINE.widths, np.clip(moved.accuracy + shift, 0, 1), 4000)
    if shifted.full < 1 and max(b) + shift <= 1:
        again = aq.allocate([x + shift for x in b], shifted, objective=aq.allocation.spread_minus_gain(0.3))
        before = aq.allocate(b, moved, objective=aq.allocation.spread_minus_gain(0.3))
        assert np.abs(again.predicted_accuracy - shift - before.predicted_accuracy).max() < 0.04
    assert first.certificate.exact


def test_the_reward_of_a_free_rider() -> None:
    b = [0.1, 0.6, 0.7]  # the first is at chance
    assert aq.allocate(b, FINE).predicted_accuracy[0] > 0.2  # the common gain, for nothing
    assert aq.allocation.thresholded(b, FINE, least=0.2).predicted_accuracy[0] == FINE.least
    assert aq.allocation.proportional(b, FINE).predicted_accuracy[0] < 0.15
    assert aq.allocation.capped(b, FINE).predicted_accuracy[0] <= 0.1


def test_capped_never_gives_more_than_the_cap() -> None:
    for allowance in (0.0, 0.05, 0.2):
        rewards = aq.allocation.capped([0.3, 0.5, 0.7], FINE, allowance).predicted_accuracy
        assert (rewards <= np.array([0.3, 0.5, 0.7]) + allowance + 1e-12).all()


def test_a_threshold_that_nobody_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match="`least` must be a number that some contribution reaches"):
        aq.allocation.thresholded([0.1, 0.2], COARSE, least=0.5)


@many_times
@given(b=grid_contributions, shift=st.integers(0, 8))
def test_which_rules_follow_a_common_shift(b: list[float], shift: int) -> None:
    moved = aq.Curve(EXACT.widths, EXACT.accuracy + shift / 64, 4000)
    shifted = [x + shift / 64 for x in b]
    for rule in (
        aq.allocate,
        aq.allocation.capped,
    ):  # they depend on gains only; powers of two, so that no sum is rounded
        assert (rule(shifted, moved).predicted_accuracy - shift / 64).tolist() == rule(
            b, EXACT
        ).predicted_accuracy.tolist()


@many_times
@given(b=grid_contributions)
def test_which_rules_follow_a_common_scale(b: list[float]) -> None:
    halved = aq.Curve(EXACT.widths, EXACT.accuracy / 2, 4000)
    for rule in (aq.allocate, aq.allocation.capped, aq.allocation.proportional):
        again = rule([x / 2 for x in b], halved).predicted_accuracy
        assert (again * 2).tolist() == rule(b, EXACT).predicted_accuracy.tolist()


@many_times
@given(b=grid_contributions)
def test_the_proportional_rule_ignores_the_scale_of_the_contributions(b: list[float]) -> None:
    again = aq.allocation.proportional([x / 2 for x in b], EXACT).predicted_accuracy
    assert again.tolist() == aq.allocation.proportional(b, EXACT).predicted_accuracy.tolist()


def test_the_proportional_rule_depends_on_a_shift() -> None:
    assert (
        aq.allocation.proportional([0.1, 0.5], FINE).widths[0] < aq.allocation.proportional([0.3, 0.7], FINE).widths[0]
    )


def test_annealing_never_beats_the_exact_plan() -> None:
    for seed in range(6):
        rng = aq.stream(seed, "t")
        b = rng.uniform(0.2, 0.8, 5)
        curve = aq.Curve(np.linspace(0.1, 1, 9), np.sort(rng.uniform(0.2, 0.9, 9)), 1000)
        assert (
            aq.allocate(b, curve).certificate.value
            <= aq.allocation.anneal(b, curve, seed=seed).certificate.value + 1e-12
        )


@many_times
@given(b=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6), ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_the_continuum_is_the_limit_of_fine_curves(b: list[float], ends: tuple[float, float]) -> None:
    least, full = min(ends), max(ends)
    if full - least < 0.01:
        return
    fine = aq.Curve(np.linspace(0.001, 1, 3001), np.linspace(least, full, 3001), 1000)
    objective = aq.allocation.spread_minus_gain(0.3)
    gains = aq.allocation.water_filling(b, least, full, objective) - b
    limit = objective(gains.mean(), gains.std())
    assert aq.allocate(b, fine, objective=objective).certificate.value == pytest.approx(limit, abs=5e-4)
    spread = aq.allocate(b, fine, objective=aq.allocation.spread_only()).certificate.spread
    assert spread == pytest.approx(aq.allocation.smallest_spread(b, least, full), abs=5e-4)


def test_the_critical_weight_depends_on_how_many_share_the_top() -> None:
    assert aq.allocation.critical_weight([0.1, 0.2, 0.3]) == pytest.approx(np.sqrt(1 / 2))
    assert aq.allocation.critical_weight([0.1, 0.3, 0.3]) == pytest.approx(np.sqrt(2))
    assert aq.allocation.critical_weight([0.3, 0.3]) == np.inf


def test_who_is_at_which_bound_gains_more_or_less_than_the_rest() -> None:
    b = np.array([0.2, 0.5, 0.6, 0.9])
    rewards = aq.allocation.water_filling(b, 0.4, 0.85)
    at_least, at_full = aq.allocation.at_bounds(b, 0.4, 0.85)
    free = [i for i in range(4) if i not in (*at_least, *at_full)]
    gains = rewards - b
    assert (at_least, at_full) == ((0,), (3,))
    assert np.ptp(gains[free]) < 1e-9  # everybody at no bound gains the same
    assert gains[0] >= gains[1] >= gains[3]


@many_times
@given(b=contributions, spread=st.floats(0.0, 0.2))
def test_the_generous_rule_gives_no_less_and_keeps_within_its_spread(b: list[float], spread: float) -> None:
    fair = aq.allocate(b, FINE)
    if spread < fair.certificate.best_spread:
        with pytest.raises(ValueError, match="`spread` must be a number from"):
            aq.allocation.generous(b, FINE, spread)
        return
    plan = aq.allocation.generous(b, FINE, max(spread, fair.certificate.spread))
    assert plan.certificate.spread <= max(spread, fair.certificate.spread) + 1e-12
    assert plan.predicted_accuracy.mean() >= fair.predicted_accuracy.mean() - 1e-12
