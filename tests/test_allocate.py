"""The allocation is exact: held against every tuple of widths, against annealing, and against its own two searches."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import dual_annealing

import aequa_lite as aq
from aequa_lite.allocation._search import SearchProblem, bounded_search, exact_search

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


def problem_of(b: list[float], levels: list[float], individually_rational: bool) -> SearchProblem:
    own, rungs = np.array(b), curve_of(levels).levels
    floor = np.minimum(np.searchsorted(rungs, own - 1e-12), len(rungs) - 1)
    return SearchProblem(own, rungs, floor if individually_rational else np.zeros(len(own), dtype=int))


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


@pytest.mark.parametrize("objective", OBJECTIVES)
@many_times
@given(b=contributions, levels=levels_of, individually_rational=st.booleans())
def test_the_bounded_search_keeps_its_promise(
    objective: Callable, b: list[float], levels: list[float], individually_rational: bool
) -> None:
    problem = problem_of(b, levels, individually_rational)
    best = best_of_all(problem, objective)
    chosen, _, bound = bounded_search(problem, objective)
    found = problem.value(chosen, objective)
    if np.isfinite(best):
        assert bound <= best + 1e-9
        assert found <= best + 1.001e-6
    else:
        assert not np.isfinite(found)


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
    rungs = curve_of(levels).levels
    for own, paid in zip(b, plan.predicted_accuracy):
        assert abs(paid - own - plan.tau) <= np.abs(rungs - own - plan.tau).min() + 1e-9


def test_annealing_on_the_same_accuracies_never_beats_it() -> None:
    objective = aq.allocation.spread_minus_gain(0.3)
    for seed in range(5):
        draws = aq.stream(seed, "anneal")
        rungs = np.sort(draws.uniform(0.2, 0.9, 12))
        problem = SearchProblem(draws.uniform(0.2, 0.8, 6), rungs, np.zeros(6, dtype=int))

        def cost(x: np.ndarray, problem: SearchProblem = problem) -> float:
            return problem.value(np.clip(np.rint(x), 0, 11).astype(int), objective)

        annealed = dual_annealing(cost, [(-0.49, 11.49)] * 6, maxiter=150, rng=seed).fun
        assert problem.value(exact_search(problem, objective)[0], objective) <= annealed + 1e-12


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_on_thousands_of_random_curves_neither_annealing_nor_any_tuple_is_better(objective: Callable) -> None:
    draws = aq.stream(0, "thousands")
    tuples = np.array(list(itertools.product(range(4), repeat=3)))  # (64, 3)
    for each in range(1000):
        b, rungs = draws.uniform(0.2, 0.8, 3), np.sort(draws.uniform(0.2, 0.9, 4))
        if each % 3 == 0:  # coarse numbers, so that ties are common
            b, rungs = b.round(1), np.unique(rungs.round(1))
        plan = aq.allocate(
            b, aq.Curve(np.linspace(0.1, 1, len(rungs)), rungs, 1000), objective=aq.allocation.spread_minus_gain(0.2)
        )
        assert plan.certificate.exact
        problem, top = SearchProblem(b, rungs, np.zeros(3, dtype=int)), len(rungs) - 1
        found = problem.value(exact_search(problem, objective)[0], objective)
        gains = rungs[np.minimum(tuples, top)] - b
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
    assert plan.certificate.gap == 0.0


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
def test_the_equal_gain_point_is_left_exactly_beyond_the_threshold(tied: int) -> None:
    n = 8
    b = np.concatenate([np.linspace(0.3, 0.5, n - tied), np.full(tied, 0.6)])
    curve = aq.Curve(np.linspace(0.001, 1, 6001), np.linspace(0.2, 0.8, 6001), 1000)
    threshold = np.sqrt(tied / (n - tied))
    below = aq.allocate(b, curve, objective=aq.allocation.spread_minus_gain(0.97 * threshold))
    above = aq.allocate(b, curve, objective=aq.allocation.spread_minus_gain(1.1 * threshold))
    assert below.certificate.spread < 1e-3
    assert below.certificate.at_full == tuple(range(n - tied, n))
    assert above.certificate.spread > 1e-2


def test_rational_means_nobody_below_alone_or_a_clear_shortfall() -> None:
    curve = aq.Curve((0.2, 0.5, 1.0), (0.4, 0.6, 0.8), samples=100)
    plan = aq.allocate([0.45, 0.65, 0.78], curve, individually_rational=True)
    assert (plan.predicted_accuracy >= [0.45, 0.65, 0.78]).all()
    short = aq.allocate([0.45, 0.65, 0.9], curve, individually_rational=True)
    assert short.certificate.worse_off == (2,)
    assert short.certificate.shortfall == pytest.approx(0.1)
    assert not short.certificate.top_reaches


@pytest.mark.parametrize(
    ("b", "individually_rational", "said"),
    [
        ([0.45, 0.65], False, "nobody is predicted to fall below"),
        ([0.55, 0.6, 0.8], False, "participants 0, 1, 2 are predicted"),
        ([0.45, 0.65, 0.9], True, "participant 2 is predicted up to 0.100 below .* not even the full width"),
    ],
)
def test_who_falls_short_is_said_in_a_sentence(b: list[float], individually_rational: bool, said: str) -> None:
    levels = [0.4, 0.5, 0.6, 0.7, 0.8] if individually_rational or len(b) == 2 else [0.5, 0.65, 0.7]
    assert re.search(
        said, aq.allocate(b, curve_of(levels), individually_rational=individually_rational).certificate.statement
    )


def test_what_another_plan_could_prevent_is_told_so() -> None:
    plan = aq.allocate([0.45, 0.78], curve_of([0.4, 0.8]), objective=aq.allocation.spread_only())
    assert "individually_rational=True" in plan.certificate.statement
    assert aq.allocate([0.45, 0.78], curve_of([0.4, 0.8]), individually_rational=True).certificate.worse_off == ()


def test_gains_and_rationality_use_what_was_reached_alone() -> None:
    curve = aq.Curve((0.2, 0.5, 1.0), (0.4, 0.6, 0.8), samples=100)
    plan = aq.allocate([0.4, 0.4], curve, individually_rational=True, standalone=[0.75, 0.3])
    assert plan.predicted_accuracy[0] == 0.8
    assert plan.certificate.worse_off == ()


def test_both_searches_agree_where_both_can_go() -> None:
    draws = aq.stream(0, "sizes")
    for individually_rational in (False, True):
        b, levels = draws.normal(0.6, 0.1, 4000).clip(0, 1), np.sort(draws.uniform(0.3, 0.85, 60))
        floor = np.minimum(np.searchsorted(levels, b), 59) if individually_rational else np.zeros(4000, dtype=int)
        problem, objective = SearchProblem(b, levels, floor), aq.allocation.spread_minus_gain(0.5 / np.sqrt(3999))
        exact = problem.value(exact_search(problem, objective)[0], objective)
        chosen, _, bound = bounded_search(problem, objective)
        assert bound <= exact + 1e-12
        assert exact - 1e-12 <= problem.value(chosen, objective) <= exact + 1e-6


def test_beyond_a_million_the_gap_is_certified_and_ties_still_earn_the_same() -> None:
    b = np.round(aq.stream(0, "large").normal(0.6, 0.1, 30_000).clip(0, 1), 3)
    curve = aq.Curve(np.linspace(0.02, 1, 100), np.linspace(0.3, 0.85, 100), 1000)
    plan = aq.allocate(b, curve)
    assert 0 <= plan.certificate.gap < 1e-6
    for value in np.unique(b)[::40]:
        assert len(set(plan.widths[b == value])) == 1
    assert (np.diff(plan.widths[np.argsort(b, kind="stable")]) >= 0).all()


def test_a_million_equal_participants_are_no_special_case() -> None:
    plan = aq.allocate(np.full(1_000_000, 0.5), aq.Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), 1000))
    assert plan.certificate.at_full[:2] == (0, 1)
    assert plan.certificate.gap < 1e-6


@pytest.mark.parametrize("wrong", [[], [0.5, 1.2], [0.5, float("nan")], [[0.5, 0.6]], 0.5])
def test_contributions_that_are_no_accuracies_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"contribution .*allowed"):
        aq.allocate(wrong, curve_of([0.3, 0.6]))


def test_an_objective_without_meaning_here_is_refused() -> None:
    with pytest.raises(ValueError, match="objective is undefined"):
        aq.allocate([0.8, 0.9], curve_of([0.3, 0.6]), objective=aq.allocation.spread_per_gain())
    for make in (aq.allocation.spread_minus_gain, aq.allocation.gain_minus_variance):
        with pytest.raises(ValueError, match="weight"):
            make(-1.0)


def test_an_objective_that_likes_spread_is_refused() -> None:
    with pytest.raises(ValueError, match="falls as the spread"):
        aq.allocate([0.4, 0.5], curve_of([0.3, 0.6]), objective=lambda mean, spread: -spread)


def test_a_single_participant_gets_the_full_network() -> None:
    assert aq.allocate([0.4], curve_of([0.3, 0.6, 0.8])).widths.tolist() == [1.0]
