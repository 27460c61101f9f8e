"""The allocation is exact: compared with every tuple of widths, with annealing, and its two searches with each other."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import dual_annealing

import aequa_lite as aq
from aequa_lite.allocation._search import SearchProblem, enumerate_plans, exact_search, few_plans, tau_path
from aequa_lite.allocation.exact import plan_of

many_times = settings(derandomize=True, deadline=None, max_examples=150)
accuracies = st.one_of(st.floats(0.0, 1.0), st.integers(0, 20).map(lambda k: k / 20))  # with ties and without
contributions = st.lists(accuracies, min_size=1, max_size=4)
levels_of = st.lists(accuracies, min_size=1, max_size=5, unique=True).map(sorted)
OBJECTIVES: list[Callable] = [
    aq.allocation.spread_minus_gain(0.3),
    aq.allocation.spread_only(),
    aq.allocation.gain_minus_variance(2.0),
    aq.allocation.spread_per_gain(),
]


def curve_of(levels: list[float]) -> aq.Curve:
    """A curve that attains exactly these accuracies."""
    return aq.Curve(np.linspace(0.1, 1.0, len(levels)) if len(levels) > 1 else [1.0], levels, samples=1000)


def problem_of(
    b: list[float], levels: list[float], individually_rational: bool, standalone: list[float] | None = None
) -> SearchProblem:
    own, steps = np.array(b), curve_of(levels).levels
    alone = own if standalone is None else np.array(standalone)
    floor = np.minimum(np.searchsorted(steps, alone - 1e-12), len(steps) - 1)
    return SearchProblem(own, steps, floor if individually_rational else np.zeros(len(own), dtype=int))


def best_of_all(problem: SearchProblem, objective: Callable) -> float:
    """The smallest objective over every tuple of levels."""
    tuples = itertools.product(*(range(f, len(problem.levels)) for f in problem.floor))
    return min(problem.value(np.array(each), objective) for each in tuples)


@pytest.mark.parametrize("objective", OBJECTIVES)
@many_times
@given(b=contributions, levels=levels_of, individually_rational=st.booleans())
def test_no_tuple_of_widths_is_better(
    objective: Callable, b: list[float], levels: list[float], individually_rational: bool
) -> None:
    problem = problem_of(b, levels, individually_rational)
    best = best_of_all(problem, objective)
    found = problem.value(exact_search(problem, objective)[0], objective)
    assert found == pytest.approx(best, abs=1e-9)


# every reading with its proof, at weights from zero to where equal gains are no longer optimal
PROVED: list[Callable] = [
    aq.allocation.spread_only(),
    *(aq.allocation.spread_minus_gain(weight) for weight in (0.1, 0.5, 1.0, 3.0)),
    aq.allocation.spread_per_gain(),
    *(aq.allocation.gain_minus_variance(weight) for weight in (0.0, 0.5, 4.0, 50.0)),
]
OTHERS: list[Callable] = [
    lambda mean, spread: spread + 5 * np.abs(mean - 0.1),
    lambda mean, spread: np.maximum(spread, 0.07) + (mean - 0.05) ** 2,
    lambda mean, spread: spread**2 - mean**3,
    lambda mean, spread: np.where(mean > 0.2, np.inf, spread - 2 * mean),
]


@pytest.mark.parametrize("individually_rational", [False, True])
@pytest.mark.parametrize("objective", [*PROVED, *OTHERS])
def test_a_certificate_of_exactness_agrees_with_brute_force(objective: Callable, individually_rational: bool) -> None:
    rng = aq.stream(0, "certificates")
    for each in range(60):  # of each objective, with and without the constraint
        n, coarse = int(rng.integers(1, 5)), each % 2 == 0
        b, alone = (x.round(1) if coarse else x for x in rng.uniform(0.2, 0.8, (2, n)))  # coarse: ties are common
        levels = rng.uniform(0.2, 0.9, int(rng.integers(1, 6)))
        levels = np.unique(levels.round(1) if coarse else levels)
        standalone = alone if each % 3 == 0 else b
        problem = problem_of(b, levels, individually_rational, standalone)
        best = best_of_all(problem, objective)
        rule = partial(
            aq.allocate, objective=objective, individually_rational=individually_rational, standalone=standalone
        )
        if not np.isfinite(best):
            with pytest.raises(ValueError, match="must be finite for some plan"):
                rule(b, curve_of(levels))
            continue
        plan = rule(b, curve_of(levels))
        assert plan.certificate.exact
        assert plan.certificate.value == pytest.approx(best, abs=1e-9)
        gains = plan.predicted_accuracy - b
        assert float(objective(gains.mean(), gains.std())) == pytest.approx(best, abs=1e-9)


def test_an_objective_that_merely_rises_with_the_spread_needs_more_than_one_tau() -> None:
    plan = aq.allocate([0.3, 0.4], curve_of([0.3, 0.4, 0.6]), objective=OTHERS[0])
    assert plan.predicted_accuracy.tolist() == [0.3, 0.6]
    assert plan.certificate.value == pytest.approx(0.1)
    assert plan.certificate.exact
    assert plan.tau is None


def test_nothing_is_claimed_for_another_objective_on_many_plans() -> None:
    b, levels = np.linspace(0.2, 0.8, 30), np.linspace(0.3, 0.9, 25)
    plan = aq.allocate(b, curve_of(levels), objective=OTHERS[0])
    assert not plan.certificate.exact
    assert plan.certificate.bound == -np.inf
    assert aq.allocate(b, curve_of(levels), objective=PROVED[2]).certificate.exact


def test_exchanges_of_equal_participants_are_one_plan() -> None:
    assert few_plans(problem_of([0.4] * 20 + [0.6] * 20, [0.3, 0.5, 0.7], False))  # 231 x 231, not 3^40
    assert not few_plans(problem_of([0.4] * 20 + [0.6] * 20, [0.3, 0.5, 0.7, 0.8], False))
    small = problem_of([0.4, 0.4, 0.6], [0.3, 0.5, 0.7], False)
    assert enumerate_plans(small, OTHERS[1])[1] == pytest.approx(best_of_all(small, OTHERS[1]), abs=1e-12)


def test_a_small_ratio_is_not_lost_in_rounding() -> None:
    levels = np.linspace(0.3, 0.9, 601)  # equal gains are attainable, at mean gains from a thousandth on
    b = levels[[40, 140, 333]] - 1e-4
    plan = aq.allocate(b, curve_of(levels), objective=aq.allocation.spread_per_gain())
    assert plan.certificate.spread < 1e-12
    assert plan.certificate.value == 0.0


@many_times
@given(b=st.lists(accuracies, min_size=2, max_size=12), levels=levels_of, individually_rational=st.booleans())
def test_equal_contributions_earn_equal_widths_and_more_never_earns_less(
    b: list[float], levels: list[float], individually_rational: bool
) -> None:
    plan = aq.allocate(b, curve_of(levels), individually_rational=individually_rational)
    for (b1, w1), (b2, w2) in itertools.combinations(zip(b, plan.widths), 2):
        if b1 == b2:
            assert w1 == w2
        if b1 < b2:
            assert w1 <= w2


@many_times
@given(b=st.lists(accuracies, min_size=2, max_size=8), levels=levels_of)
def test_the_order_of_participants_changes_nothing(b: list[float], levels: list[float]) -> None:
    curve = curve_of(levels)
    assert aq.allocate(b[::-1], curve).widths.tolist() == aq.allocate(b, curve).widths.tolist()[::-1]


@many_times
@given(b=st.lists(accuracies, min_size=2, max_size=8), levels=levels_of)
def test_every_reward_is_the_attainable_accuracy_nearest_to_contribution_plus_tau(
    b: list[float], levels: list[float]
) -> None:
    plan = aq.allocate(b, curve_of(levels))
    steps = curve_of(levels).levels
    for own, reward in zip(b, plan.predicted_accuracy):
        assert abs(reward - own - plan.tau) <= np.abs(steps - own - plan.tau).min() + 1e-9


def test_annealing_on_the_same_accuracies_never_beats_it() -> None:
    objective = aq.allocation.spread_minus_gain(0.3)
    for seed in range(5):
        rng = aq.stream(seed, "anneal")
        steps = np.sort(rng.uniform(0.2, 0.9, 12))
        problem = SearchProblem(rng.uniform(0.2, 0.8, 6), steps, np.zeros(6, dtype=int))

        def cost(x: np.ndarray, problem: SearchProblem = problem) -> float:
            return problem.value(np.clip(np.rint(x), 0, 11).astype(int), objective)

        annealed = dual_annealing(cost, [(-0.49, 11.49)] * 6, maxiter=150, rng=seed).fun
        assert problem.value(exact_search(problem, objective)[0], objective) <= annealed + 1e-12


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_on_thousands_of_random_curves_neither_annealing_nor_any_tuple_is_better(objective: Callable) -> None:
    rng = aq.stream(0, "thousands")
    tuples = np.array(list(itertools.product(range(4), repeat=3)))  # (64, 3)
    for each in range(1000):
        b, steps = rng.uniform(0.2, 0.8, 3), np.sort(rng.uniform(0.2, 0.9, 4))
        if each % 3 == 0:  # coarse numbers, so that ties are common
            b, steps = b.round(1), np.unique(steps.round(1))
        plan = aq.allocate(
            b, aq.Curve(np.linspace(0.1, 1, len(steps)), steps, 1000), objective=aq.allocation.spread_minus_gain(0.2)
        )
        assert plan.certificate.exact
        problem, top = SearchProblem(b, steps, np.zeros(3, dtype=int)), len(steps) - 1
        found = problem.value(exact_search(problem, objective)[0], objective)
        gains = steps[np.minimum(tuples, top)] - b
        spread = gains.std(1)
        assert found <= objective(gains.mean(1), np.where(spread < 1e-12, 0, spread)).min() + 1e-9
        if each % 20 == 0 and np.isfinite(found):

            def cost(x: np.ndarray, problem: SearchProblem = problem, top: int = top) -> float:
                return problem.value(np.clip(np.rint(x), 0, top).astype(int), objective)

            annealed = dual_annealing(cost, [(-0.49, top + 0.49)] * 3, maxiter=8, rng=each, no_local_search=True).fun
            assert found <= annealed + 1e-12


def test_the_same_call_gives_the_same_plan() -> None:
    b, curve = [0.31, 0.31, 0.62, 0.7], curve_of([0.2, 0.44, 0.61, 0.72, 0.8])
    first, second = aq.allocate(b, curve), aq.allocate(b, curve)
    assert first.widths.tolist() == second.widths.tolist()
    assert first.certificate == second.certificate


def test_equal_gains_are_found_when_they_are_attainable() -> None:
    plan = aq.allocate([0.45, 0.65, 0.85], aq.Curve((0.2, 0.5, 1.0), (0.5, 0.7, 0.9), samples=100))
    assert plan.predicted_accuracy.tolist() == [0.5, 0.7, 0.9]
    assert plan.certificate.spread == pytest.approx(0.0, abs=1e-12)
    assert plan.certificate.exact
    assert plan.certificate.value == plan.certificate.bound


def correlation(span: float) -> float:
    """Pearson at the smallest spread, for contributions on a line from 0.3 to 0.7 and a curve that spans less."""
    b = np.linspace(0.3, 0.7, 10)
    levels = np.linspace(0.5 - span / 2, 0.5 + span / 2, 4001)
    plan = aq.allocate(b, aq.Curve(np.linspace(0.01, 1, 4001), levels, 1000), objective=aq.allocation.spread_only())
    r = aq.pearson(b, plan.predicted_accuracy)
    assert r is not None
    return r


@pytest.mark.parametrize(("span", "expected"), [(0.3, 0.991), (0.2, 0.967), (0.1, 0.929), (0.05, 0.885)])
def test_a_curve_narrower_than_the_contributions_costs_correlation(span: float, expected: float) -> None:
    assert correlation(span) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("tied", [1, 2, 3])
def test_equal_gains_are_optimal_up_to_the_critical_weight(tied: int) -> None:
    n = 8
    b = np.concatenate([np.linspace(0.3, 0.5, n - tied), np.full(tied, 0.6)])
    curve = aq.Curve(np.linspace(0.001, 1, 6001), np.linspace(0.2, 0.8, 6001), 1000)
    threshold = np.sqrt(tied / (n - tied))
    below = aq.allocate(b, curve, objective=aq.allocation.spread_minus_gain(0.97 * threshold))
    above = aq.allocate(b, curve, objective=aq.allocation.spread_minus_gain(1.1 * threshold))
    assert below.certificate.spread < 1e-3
    assert below.certificate.at_full == tuple(range(n - tied, n))
    assert above.certificate.spread > 1e-2


def test_individually_rational_means_nobody_below_alone_or_a_stated_shortfall() -> None:
    curve = aq.Curve((0.2, 0.5, 1.0), (0.4, 0.6, 0.8), samples=100)
    plan = aq.allocate([0.45, 0.65, 0.78], curve, individually_rational=True)
    assert (plan.predicted_accuracy >= [0.45, 0.65, 0.78]).all()
    short = aq.allocate([0.45, 0.65, 0.9], curve, individually_rational=True)
    assert short.certificate.worse_off == (2,)
    assert short.certificate.shortfall == pytest.approx(0.1)
    assert not short.certificate.top_reaches


@pytest.mark.parametrize(
    ("b", "individually_rational", "statement"),
    [
        ([0.45, 0.65], False, "nobody is predicted to fall below"),
        ([0.55, 0.6, 0.8], False, "participants 0, 1, 2 are predicted"),
        ([0.45, 0.65, 0.9], True, "participant 2 is predicted up to 0.100 below .* not even the full width"),
    ],
)
def test_one_sentence_states_who_falls_short(b: list[float], individually_rational: bool, statement: str) -> None:
    levels = [0.4, 0.5, 0.6, 0.7, 0.8] if individually_rational or len(b) == 2 else [0.5, 0.65, 0.7]
    plan = aq.allocate(b, curve_of(levels), individually_rational=individually_rational)
    assert re.search(statement, plan.certificate.statement)


def test_the_certificate_states_what_another_plan_prevents() -> None:
    plan = aq.allocate([0.45, 0.78], curve_of([0.4, 0.8]), objective=aq.allocation.spread_only())
    assert "individually_rational=True" in plan.certificate.statement
    assert aq.allocate([0.45, 0.78], curve_of([0.4, 0.8]), individually_rational=True).certificate.worse_off == ()


def test_individual_rationality_uses_stand_alone_accuracies() -> None:
    curve = aq.Curve((0.2, 0.5, 1.0), (0.4, 0.6, 0.8), samples=100)
    plan = aq.allocate([0.4, 0.4], curve, individually_rational=True, standalone=[0.75, 0.3])
    assert plan.predicted_accuracy[0] == 0.8
    assert plan.certificate.worse_off == ()


def test_the_best_participant_alone_is_the_one_with_the_best_model_not_the_highest_contribution() -> None:
    plan = aq.allocate([0.4, 0.5], curve_of([0.3, 0.6, 0.8]), standalone=[0.9, 0.3])
    assert not plan.certificate.top_reaches
    assert aq.allocate([0.4, 0.9], curve_of([0.3, 0.6, 0.8]), standalone=[0.7, 0.3]).certificate.top_reaches


def test_rounding_leaves_nobody_short_and_no_curve_too_narrow() -> None:
    curve, three_tenths = curve_of([0.3, 0.6]), 0.1 + 0.2
    assert three_tenths > 0.3  # in sixteen digits
    plan = aq.allocate([three_tenths], curve_of([0.3]), individually_rational=True)
    assert (plan.certificate.worse_off, plan.certificate.shortfall) == ((), 0.0)
    assert plan.certificate.top_reaches
    assert aq.allocate([three_tenths, 0.6], curve, individually_rational=True).widths.tolist() == [0.1, 1.0]
    assert 0.4 - 0.1 > 0.6 - 0.3  # too
    assert plan_of([0, 1], curve, [0.1, 0.4]).certificate.covers


def test_a_plan_states_the_smallest_spread_beside_its_own() -> None:
    b, curve = [0.3, 0.5], curve_of([0.35, 0.5, 0.62, 0.8])
    plan = aq.allocate(b, curve, objective=aq.allocation.spread_minus_gain(3.0))
    spreads = [np.std(curve.levels[list(each)] - b) for each in itertools.product(range(4), repeat=2)]
    assert plan.certificate.best_spread == pytest.approx(min(spreads))
    assert plan.certificate.spread > min(spreads) + 0.01  # so large a weight of the mean gain costs spread


def test_who_receives_less_than_the_full_width_is_not_at_full() -> None:
    certificate = plan_of([0, 1], curve_of([0.3, 0.6, 0.8]), [0.2, 0.4]).certificate
    assert (certificate.at_least, certificate.at_full) == ((0,), ())


@pytest.mark.parametrize("mean", [-0.5, -0.1, 0.1, 0.5])
def test_an_objective_that_falls_with_the_spread_at_some_mean_gain_only_is_refused(mean: float) -> None:
    fall = lambda gain, spread: np.where(np.abs(gain - mean) < 0.05, -spread, spread)
    with pytest.raises(ValueError, match="never falls as the spread"):
        aq.allocate([0.4, 0.5], curve_of([0.3, 0.6]), objective=fall)


@pytest.mark.parametrize("individually_rational", [False, True])
def test_equal_contributions_count_once_in_the_search_and_the_plan_is_the_best_of_every_tau(
    individually_rational: bool,
) -> None:
    rng = aq.stream(0, "sizes")
    b, levels = np.round(rng.normal(0.6, 0.1, 400).clip(0, 1), 2), np.sort(rng.uniform(0.3, 0.85, 30))
    problem = problem_of(b, levels, individually_rational)
    objective = aq.allocation.spread_minus_gain(0.5 / np.sqrt(399))
    taus = np.unique(problem.midpoints[:, None] - b)
    between = [taus[0] - 1, *((taus[1:] + taus[:-1]) / 2), taus[-1] + 1]
    assert len(tau_path(problem).tau) <= len(set(b)) * (len(levels) - 1) + 1
    best = min(problem.value(problem.nearest(tau), objective) for tau in between)
    chosen, _, bound = exact_search(problem, objective)
    assert problem.value(chosen, objective) == bound == pytest.approx(best, abs=1e-14)


def test_a_large_federation_has_an_exact_plan_and_equals_receive_the_same() -> None:
    b = np.round(aq.stream(0, "large").normal(0.6, 0.1, 30_000).clip(0, 1), 3)
    curve = aq.Curve(np.linspace(0.02, 1, 100), np.linspace(0.3, 0.85, 100), 1000)
    plan = aq.allocate(b, curve)
    assert plan.certificate.exact
    for value in np.unique(b)[::40]:
        assert len(set(plan.widths[b == value])) == 1
    assert (np.diff(plan.widths[np.argsort(b, kind="stable")]) >= 0).all()


def test_a_million_equal_participants_receive_the_full_width() -> None:
    plan = aq.allocate(np.full(1_000_000, 0.5), aq.Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), 1000))
    assert plan.certificate.at_full[:2] == (0, 1)
    assert plan.certificate.exact


@pytest.mark.parametrize("wrong", [[], [0.5, 1.2], [0.5, float("nan")], [[0.5, 0.6]], 0.5])
def test_contributions_that_are_no_accuracies_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"`contribution` must be one number in \[0, 1\]"):
        aq.allocate(wrong, curve_of([0.3, 0.6]))


def test_an_objective_that_is_undefined_for_every_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="`objective` must be finite for some plan"):
        aq.allocate([0.8, 0.9], curve_of([0.3, 0.6]), objective=aq.allocation.spread_per_gain())
    for make in (aq.allocation.spread_minus_gain, aq.allocation.gain_minus_variance):
        for wrong in (-1.0, float("nan"), float("inf"), "1", True):
            with pytest.raises(ValueError, match="`weight` must be a number from 0"):
                make(wrong)


def test_an_objective_that_falls_with_the_spread_is_refused() -> None:
    with pytest.raises(ValueError, match="never falls as the spread"):
        aq.allocate([0.4, 0.5], curve_of([0.3, 0.6]), objective=lambda mean, spread: -spread)


def test_a_single_participant_gets_the_full_network() -> None:
    assert aq.allocate([0.4], curve_of([0.3, 0.6, 0.8])).widths.tolist() == [1.0]
