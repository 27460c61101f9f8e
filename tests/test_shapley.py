"""The Shapley value: known values, the four axioms that single it out, and estimates with their standard error."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aequa_lite as aq
from aequa_lite.contribution import CachedGame, Game, leave_one_out, sampled_shapley

many_times = settings(derandomize=True, deadline=None, max_examples=100)
COSTS = (1.0, 2.0, 2.0, 5.0, 9.0)


def weighted(weights: tuple[float, ...], quota: float) -> Game:
    """A coalition wins where its weights reach the quota."""
    return lambda coalition: float(sum(weights[i] for i in coalition) >= quota)


KNOWN = {
    "one left glove, two right": (lambda S: min(len(S & {0}), len(S & {1, 2})), [2 / 3, 1 / 6, 1 / 6]),
    "two left gloves, two right": (lambda S: min(len(S & {0, 1}), len(S & {2, 3})), [1 / 2] * 4),
    "airport": (
        lambda S: max((COSTS[i] for i in S), default=0.0),
        np.cumsum(np.diff(COSTS, prepend=0.0) / np.arange(5, 0, -1)).tolist(),
    ),
    "unanimity of three in five": (lambda S: float(S.issuperset({0, 2, 3})), [1 / 3, 0, 1 / 3, 1 / 3, 0]),
    "majority 6 of 4, 3, 2, 1": (weighted((4, 3, 2, 1), 6), [5 / 12, 3 / 12, 3 / 12, 1 / 12]),
    "majority with a veto": (weighted((3, 1, 1), 4), [2 / 3, 1 / 6, 1 / 6]),
    "one participant": (lambda S: 7.0 + 2.0 * len(S), [2.0]),
}


@st.composite
def games(draw, least: int = 1, most: int = 5) -> tuple[int, dict[frozenset[int], float]]:
    """A number of participants, and any value for each coalition: it may fall as the coalition grows."""
    n = draw(st.integers(least, most))
    coalitions = [frozenset(some) for size in range(n + 1) for some in itertools.combinations(range(n), size)]
    values = draw(st.lists(st.floats(-10, 10), min_size=2**n, max_size=2**n))
    return n, dict(zip(coalitions, values))


def by_definition(game: Game, n: int) -> np.ndarray:
    """What each participant adds to those before it, averaged over all orders."""
    added = np.zeros(n)
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        for place, i in enumerate(order):
            added[i] += game(frozenset(order[: place + 1])) - game(frozenset(order[:place]))
    return added / len(orders)


@pytest.mark.parametrize(("game", "expected"), KNOWN.values(), ids=KNOWN)
def test_known_games_have_their_known_values(game: Game, expected: list[float]) -> None:
    assert aq.shapley(game, len(expected)).tolist() == pytest.approx(expected, abs=1e-12)


@many_times
@given(game=games())
def test_the_formula_is_the_mean_over_all_orders(game) -> None:
    n, worth = game
    assert aq.shapley(worth.__getitem__, n) == pytest.approx(by_definition(worth.__getitem__, n), abs=1e-9)


@many_times
@given(game=games())
def test_the_values_sum_to_the_value_of_all(game) -> None:
    n, worth = game
    together = worth[frozenset(range(n))] - worth[frozenset()]
    assert aq.shapley(worth.__getitem__, n).sum() == pytest.approx(together, abs=1e-9)


@many_times
@given(game=games(least=2))
def test_two_who_add_the_same_have_the_same_value_to_the_last_bit(game) -> None:
    n, worth = game

    def twins(coalition: frozenset[int]) -> float:  # participants 0 and 1 are interchangeable
        swapped = frozenset({0: 1, 1: 0}.get(i, i) for i in coalition)
        return worth[min(coalition, swapped, key=sorted)]

    values = aq.shapley(twins, n)
    assert values[0] == values[1]


@many_times
@given(game=games(most=4))
def test_a_participant_that_adds_nothing_has_value_zero(game) -> None:
    n, worth = game
    values = aq.shapley(lambda coalition: worth[coalition - {n}], n + 1)
    assert values[n] == 0.0
    assert values[:n] == pytest.approx(aq.shapley(worth.__getitem__, n), abs=1e-9)  # and changes nobody else's


@many_times
@given(pair=st.integers(1, 4).flatmap(lambda n: st.tuples(games(n, n), games(n, n))), factor=st.floats(-3, 3))
def test_the_value_of_a_sum_of_games_is_the_sum_of_the_values(pair, factor: float) -> None:
    (n, one), (_, two) = pair
    both = aq.shapley(lambda coalition: one[coalition] + factor * two[coalition], n)
    apart = aq.shapley(one.__getitem__, n) + factor * aq.shapley(two.__getitem__, n)
    assert both == pytest.approx(apart, abs=1e-9)


def test_every_coalition_is_evaluated_once() -> None:
    evaluated = []
    game = KNOWN["airport"][0]
    values = aq.shapley(lambda S: evaluated.append(S) or game(S), 5)
    assert len(evaluated) == len(set(evaluated)) == 32
    assert (values == aq.shapley(game, 5)).all()


def test_twelve_participants_are_quick_and_thirteen_are_refused() -> None:
    assert aq.shapley(lambda S: len(S) ** 2, 12).tolist() == pytest.approx([12.0] * 12)
    with pytest.raises(
        ValueError, match=r"`participants` must be a whole number in \[1, 12\], got 13; use sampled_shapley"
    ):
        aq.shapley(len, 13)


SOLVERS = [aq.shapley, leave_one_out, partial(sampled_shapley, budget=100)]


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("participants", [0, -1, 2.0, True, "3", None, float("nan")])
def test_an_invalid_number_of_participants_is_refused(solve, participants) -> None:
    with pytest.raises(ValueError, match="`participants` must be a whole number from [12], got"):
        solve(len, participants)


@pytest.mark.parametrize("solve", SOLVERS)
def test_what_is_no_game_is_refused(solve) -> None:
    with pytest.raises(ValueError, match="`game` must be a function( of a coalition)?, got {}"):
        solve({}, 3)


def test_what_is_no_game_is_not_cached() -> None:
    with pytest.raises(ValueError, match="`game` must be a function, got {}"):
        CachedGame({})
    with pytest.raises(ValueError, match="`many` must be a function or None, got {}"):
        CachedGame(len, {})


@pytest.mark.parametrize("solve", SOLVERS)
def test_a_value_that_is_not_finite_is_refused_with_its_coalition(solve) -> None:
    broken = lambda S: float("nan") if sorted(S) == [0, 2] else 1.0
    with pytest.raises(ValueError, match=r"game's value of the coalition \[0, 2\]` must be a finite number, got nan"):
        solve(broken, 3)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"budget": 65}, "`budget` must be a whole number from 66, got 65"),
        ({"budget": 1e3}, "`budget` must be a whole number from 1, got 1000.0"),
        ({"tolerance": -0.1}, "`tolerance` must be a number from 0, got -0.1"),
        ({"error": 0.0}, "`error` must be a number above 0 or None, got 0.0"),
        ({"seed": -1}, "`seed` must be a whole number from 0, got -1"),
    ],
)
def test_a_sampling_that_makes_no_estimate_is_refused(wrong: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sampled_shapley(len, 5, **{"budget": 100, **wrong})


@pytest.mark.parametrize(
    "solve",
    [
        partial(sampled_shapley, budget=100, seed=-1),
        partial(sampled_shapley, budget=100.0),
        partial(sampled_shapley, budget=100, error=0.0),
    ],
)
def test_a_refused_argument_evaluates_nothing(solve) -> None:
    asked: list[frozenset[int]] = []
    game = CachedGame(len, lambda coalitions: asked.extend(coalitions) or [0.0] * len(coalitions))
    with pytest.raises(ValueError, match=r"^`(seed|budget|error)` must be .*, got "):
        solve(game, 5)
    assert asked == []


def test_leave_one_out_gives_copies_no_value() -> None:
    copies = lambda S: float(bool(S & {0, 1})) + float(2 in S)  # 0 and 1 hold the same data
    assert leave_one_out(copies, 3).tolist() == [0.0, 0.0, 1.0]
    assert aq.shapley(copies, 3).tolist() == [0.5, 0.5, 1.0]


def test_a_cached_game_is_evaluated_once_for_each_coalition() -> None:
    evaluated = []
    game = CachedGame(lambda S: evaluated.append(S) or len(S))
    assert [game({1, 0}), game([0, 1]), game(frozenset({0, 1})), game(())] == [2.0, 2.0, 2.0, 0.0]
    assert len(game) == len(evaluated) == 2


def uneven(n: int, seed: int = 0) -> dict[frozenset[int], float]:
    """A game of n participants with no structure at all."""
    rng = aq.stream(seed, "uneven")
    return {
        frozenset(some): float(rng.normal()) for size in range(n + 1) for some in itertools.combinations(range(n), size)
    }


def test_sampled_values_cover_the_exact_ones_at_their_standard_errors() -> None:
    game = uneven(6)
    exact = aq.shapley(game.__getitem__, 6)
    found = [sampled_shapley(game.__getitem__, 6, budget=402, seed=seed) for seed in range(200)]
    z = np.array([(each.value - exact) / each.standard_error for each in found])  # (runs, participants)
    assert 0.92 < (np.abs(z) < 1.96).mean() < 0.97
    assert np.abs(z.mean(0)).max() < 0.25  # unbiased: 200 runs place the mean to within 0.07
    assert {each.orders for each in found} == {80}


def test_the_security_council() -> None:
    council = weighted((7,) * 5 + (1,) * 10, 39)  # five vetoes; nine of fifteen votes
    found = sampled_shapley(council, 15, budget=60_000)
    known = np.array([421 / 2145] * 5 + [4 / 2145] * 10)
    assert (np.abs(found.value - known) < 4 * found.standard_error + 1e-12).all()
    assert found.value.sum() == pytest.approx(1.0)


def test_the_values_of_every_pair_of_orders_sum_to_the_value_of_all() -> None:
    game = uneven(5)
    found = sampled_shapley(game.__getitem__, 5, budget=66)
    assert found.orders == 16
    assert found.value.sum() == pytest.approx(game[frozenset(range(5))] - game[frozenset()])


def test_reversed_orders_estimate_pairwise_synergy_without_error() -> None:
    # what one adds grows with its place, so an order and its reverse sum to a constant
    pairs = lambda S: float(len(S) ** 2)
    found = sampled_shapley(pairs, 6, budget=100)
    assert found.value == pytest.approx(aq.shapley(pairs, 6))
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_sampling_stops_at_the_budget_and_at_the_error() -> None:
    game, evaluated = uneven(6), []
    for budget in (82, 83, 150, 1001):
        evaluated.clear()
        found = sampled_shapley(lambda S: evaluated.append(S) or game[S], 6, budget=budget)
        assert len(evaluated) == found.evaluations <= budget < found.evaluations + 10
    precise = sampled_shapley(game.__getitem__, 6, budget=10**6, error=0.05)
    assert precise.standard_error.max() <= 0.05
    assert precise.evaluations < 10_000


def test_an_order_is_truncated_where_little_is_left_to_add() -> None:
    worth = lambda S: 1 - 0.5 ** len(S)  # everyone halves what is missing
    whole = sampled_shapley(worth, 10, budget=2000)
    cut = sampled_shapley(worth, 10, budget=2000, tolerance=0.05)
    assert cut.orders > 1.5 * whole.orders
    assert np.abs(cut.value - aq.shapley(worth, 10)).max() < 0.05 + 4 * cut.standard_error.max()
    flat = sampled_shapley(lambda S: 1.0, 3, budget=40, tolerance=0.1)  # evaluates nothing, and ends
    assert flat.value.tolist() == [0.0, 0.0, 0.0]


def test_an_estimate_is_the_mean_over_the_seeds_orders_and_their_reverses() -> None:
    game, rng, pairs = uneven(4), aq.stream(3, "orders"), np.zeros((11, 4))
    for pair in pairs:
        order = rng.permutation(4).tolist()
        for each in (order, order[::-1]):
            for place, i in enumerate(each):
                pair[i] += (game[frozenset(each[: place + 1])] - game[frozenset(each[:place])]) / 2
    found = sampled_shapley(game.__getitem__, 4, budget=2 + 11 * 2 * 3, seed=3)
    assert (found.orders, found.evaluations) == (22, 68)
    assert found.value == pytest.approx(pairs.mean(0))
    assert found.standard_error == pytest.approx(pairs.std(0, ddof=1) / np.sqrt(11))


def test_no_sampling_stops_before_eight_pairs_of_orders() -> None:
    assert sampled_shapley(uneven(4).__getitem__, 4, budget=10**6, error=1e9).orders == 16


def test_the_same_seed_draws_the_same_orders() -> None:
    game = uneven(5)
    one, same, other = (sampled_shapley(game.__getitem__, 5, budget=70, seed=s).value for s in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


PYDVL = json.loads(Path(__file__).with_name("pydvl_oracle.json").read_text())["games"]


@pytest.mark.parametrize("name", PYDVL)
def test_pydvl_gives_the_same_values(name: str) -> None:
    """scripts/pydvl_oracle.py stores the values of pyDVL's exact solver, since the two need different numpy."""
    game = PYDVL[name]
    ours = aq.shapley(lambda S: game["worth"][sum(1 << i for i in S)], game["participants"])
    assert ours == pytest.approx(game["shapley"], abs=1e-9)
