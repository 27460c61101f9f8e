"""Coalitions that block a plan, all or drawn, and the best or nearest plan that none blocks, against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import aequa_lite as aq
from aequa_lite.allocation.exact import default_objective, plan_of

al = aq.allocation
CURVE = aq.Curve((0.1, 0.3, 0.6, 1.0), (0.4, 0.5, 0.6, 0.8), samples=100)
B = [0.4, 0.5, 0.8]


def random_federation(seed: int, common: bool):
    """Contributions, a curve, and what each coalition would receive: one accuracy for all, or one for each member."""
    rng = aq.stream(seed, "federation")
    n = int(rng.integers(1, 5))
    b = rng.uniform(0.3, 0.7, n).round(1 if seed % 2 else 6)
    levels = np.sort(rng.uniform(0.3, 0.85, 5))
    curve = aq.Curve(np.linspace(0.2, 1, 5), levels, 1000)
    found = {}
    for members in coalitions(n):
        top = rng.uniform(0.3, levels[-1] + 0.03 * (seed % 3 == 0))
        found[members] = np.full(len(members), top) if common else rng.uniform(0.3, top, len(members))
    return b, curve, found.__getitem__


def coalitions(n: int):
    return (each for size in range(1, n + 1) for each in itertools.combinations(range(n), size))


def largest_margin(rewards: np.ndarray, game) -> float:
    return max(min(v - rewards[i] for i, v in zip(s, game(s))) for s in coalitions(len(rewards)))


@pytest.mark.parametrize("common", [True, False])
def test_a_coalition_blocks_if_every_member_would_be_better_off(common: bool) -> None:
    for seed in range(100):
        b, curve, game = random_federation(seed, common)
        plan = aq.allocate(b, curve)
        found = al.blocking_coalitions(plan, game)
        margins = {s: min(v - plan.predicted_accuracy[i] for i, v in zip(s, game(s))) for s in coalitions(len(b))}
        assert dict(found) == pytest.approx({s: m for s, m in margins.items() if m > 1e-12})
        assert [m for _, m in found] == sorted((m for _, m in found), reverse=True)


@pytest.mark.parametrize("common", [True, False])
def test_no_fair_plan_that_no_coalition_blocks_is_better(common: bool) -> None:
    for seed in range(150):
        b, curve, game = random_federation(seed, common)
        plan, objective = al.stable(b, curve, game=game), default_objective(len(b))
        epsilon = max(0.0, largest_margin(np.full(len(b), curve.full), game))
        values = []
        for chosen in itertools.product(range(5), repeat=len(b)):
            rewards = curve.levels[list(chosen)]
            pairs = itertools.permutations(range(len(b)), 2)
            fair = all(rewards[i] <= rewards[j] for i, j in pairs if b[i] <= b[j])
            if fair and largest_margin(rewards, game) <= epsilon + 1e-9:
                values.append(objective((rewards - b).mean(), (rewards - b).std()))
        assert plan.certificate.exact
        assert plan.certificate.value == pytest.approx(min(values), abs=1e-9)
        assert largest_margin(plan.predicted_accuracy, game) <= epsilon + 1e-9
        order = np.argsort(b, kind="stable")
        assert (np.diff(plan.widths[order]) >= 0).all()


def test_a_strong_member_costs_the_weak_and_the_stable_rule_makes_up_for_it() -> None:
    b = np.array([0.5, 0.5, 0.5, 0.8])
    curve = aq.Curve(np.linspace(0.1, 1, 8), np.linspace(0.47, 0.82, 8), 1000)

    def game(members: tuple[int, ...]) -> aq.Curve:
        top = 0.82 if len(members) == 4 else 0.8 if 3 in members else (0.5, 0.54, 0.58)[len(members) - 1]
        return aq.Curve((0.1, 1.0), (0.3, top), 1000)

    plan = aq.allocate(b, curve)
    assert al.blocking_coalitions(plan, game)[0][0] == (0, 1, 2)  # without the strong one each gains more
    stable = al.stable(b, curve, game=game)
    assert al.blocking_coalitions(stable, game) == ()
    assert stable.predicted_accuracy[0] >= 0.58
    assert stable.certificate.value >= plan.certificate.value  # stability has its price


WEAK = {1: 0.5, 2: 0.54, 3: 0.58}  # what one, two and three weak ones reach; with the strong one 0.8, all together 0.82


def weak_and_strong(members: tuple[int, ...]) -> list[float]:
    value = 0.82 if len(members) == 4 else 0.8 if 3 in members else WEAK[len(members)]
    return [value] * len(members)


def test_equal_gain_is_not_in_the_core_of_the_counterexample() -> None:
    b, curve = [0.5, 0.5, 0.5, 0.8], aq.Curve((0.1, 0.4, 0.7, 1.0), (0.4, 0.52, 0.6, 0.82), 1000)
    plan = aq.allocate(b, curve)
    assert plan.predicted_accuracy.tolist() == [0.52, 0.52, 0.52, 0.82]
    assert dict(al.blocking_coalitions(plan, weak_and_strong)) == pytest.approx(
        {(0, 1, 2): 0.06, (0, 1): 0.02, (0, 2): 0.02, (1, 2): 0.02}
    )
    lower = aq.allocate([0.5] * 4, curve)  # the strong one reports what the others have
    assert lower.predicted_accuracy.tolist() == [0.82] * 4
    assert al.blocking_coalitions(lower, weak_and_strong) == ()


def equal_gains(b: np.ndarray, full: float) -> tuple[aq.Plan, aq.Curve]:
    """The plan in which all gain full - max B, on a curve that attains it and more."""
    levels = np.unique([*(b + full - b.max()).round(12), 0.2, full])
    curve = aq.Curve(np.linspace(0.1, 1, len(levels)), levels, 1000)
    return aq.allocate(b, curve), curve


def test_equal_gain_is_in_the_core_exactly_where_no_coalition_adds_more_to_its_strongest() -> None:
    """Proposition 15 (a), (b)."""
    stable = 0
    for seed in range(300):
        rng = aq.stream(seed, "core")
        b = rng.uniform(0.3, 0.6, int(rng.integers(2, 6))).round(2)
        full = round(b.max() + rng.uniform(0, 0.08), 2)
        value = {s: round(min(full, max(b[list(s)]) + rng.uniform(-0.1, 0.06)), 2) for s in coalitions(len(b))}
        value[tuple(range(len(b)))] = full
        plan, _ = equal_gains(b, full)
        assert plan.predicted_accuracy == pytest.approx(b + full - b.max())
        found = al.blocking_coalitions(plan, lambda s, value=value: [value[s]] * len(s))
        excess = {s: value[s] - max(b[list(s)]) - (full - max(b)) for s in value}
        assert dict(found) == pytest.approx({s: x for s, x in excess.items() if x > 1e-9})
        stable += not found
    assert 20 < stable < 280


def test_the_strongest_participants_report_down_to_the_runner_up_costs_it_nothing() -> None:
    """The corollary of Proposition 15: its own reward stays, all others gain what it leaves, and the core is entered."""
    entered = 0
    for seed in range(100):
        rng = aq.stream(seed, "corollary")
        b, full = rng.uniform(0.3, 0.6, 4).round(2), 0.65
        m, second = int(b.argmax()), float(np.sort(b)[-2])
        for x in (second, round((second + b[m]) / 2, 3)):
            reported = b.copy()
            reported[m] = x
            plan, _ = equal_gains(reported, full)
            expected = np.where(np.arange(4) == m, full, b + full - b.max() + b[m] - x)
            assert plan.predicted_accuracy == pytest.approx(expected)
        value = {s: round(min(full, max(b[list(s)]) + rng.uniform(0, 0.15)), 2) for s in coalitions(4)}
        game = lambda s, value=value: [value[s]] * len(s)
        reported[m] = second
        lower = equal_gains(reported, full)[0]
        core = all(value[s] <= max(b[list(s)]) + full - second + 1e-9 for s in value if m not in s)
        assert (al.blocking_coalitions(lower, game) == ()) is core
        entered += core and al.blocking_coalitions(equal_gains(b, full)[0], game) != ()
    assert entered > 5


def test_stability_of_single_participants_is_individual_rationality() -> None:
    for seed in range(50):
        b, curve, _ = random_federation(seed, True)
        b = np.minimum(b, curve.full)

        def alone(members: tuple[int, ...], b: np.ndarray = b) -> np.ndarray:
            return b[list(members)] if len(members) == 1 else np.zeros(len(members))

        rational = aq.allocate(b, curve, individually_rational=True)
        assert al.stable(b, curve, game=alone).widths.tolist() == rational.widths.tolist()


def test_twelve_participants_are_exact() -> None:
    b = aq.stream(0, "twelve").uniform(0.3, 0.6, 12)
    curve = aq.Curve(np.linspace(0.02, 1, 50), np.linspace(0.2, 0.85, 50), 1000)

    def game(members: tuple[int, ...]) -> list[float]:
        return [min(0.85, max(b[list(members)]) + 0.03 * len(members))] * len(members)

    plan = al.stable(b, curve, game=game)
    assert plan.certificate.exact
    assert al.blocking_coalitions(plan, game) == ()


# --- the nearest plan, and the least core ---


@pytest.mark.parametrize("common", [True, False])
def test_no_fair_plan_that_no_coalition_blocks_is_nearer(common: bool) -> None:
    moved = 0
    for seed in range(100):
        b, curve, game = random_federation(seed, common)
        plan = aq.allocate(b, curve)
        near = al.stable(b, curve, game=game, nearest_to=plan)
        distances, least = [], np.inf
        for chosen in itertools.product(range(5), repeat=len(b)):
            rewards = curve.levels[list(chosen)]
            pairs = itertools.permutations(range(len(b)), 2)
            if all(rewards[i] <= rewards[j] for i, j in pairs if b[i] <= b[j]):
                margin = largest_margin(rewards, game)
                least = min(least, max(margin, 0.0))
                if margin <= near.stability.epsilon + 1e-9:
                    distances.append(np.abs(rewards - plan.predicted_accuracy).sum())
        assert near.stability.epsilon == pytest.approx(least, abs=1e-9)  # no fair plan is blocked by less
        assert near.certificate.value == pytest.approx(min(distances), abs=1e-9)
        assert np.abs(near.predicted_accuracy - plan.predicted_accuracy).sum() == pytest.approx(
            min(distances), abs=1e-9
        )
        assert largest_margin(near.predicted_accuracy, game) <= near.stability.epsilon + 1e-9
        found = near.stability
        assert (found.asked, found.blocking, found.share, found.confidence) == (2 ** len(b) - 1, 0, 0.0, 1.0)
        moved += min(distances) > 0
    assert moved > 5


@pytest.mark.parametrize("chosen", [[0, 1], [1, 0]])
def test_no_plan_is_near_to_one_that_gives_equals_unequal_accuracies(chosen: list[int]) -> None:
    unequal = plan_of(chosen, CURVE, [0.5, 0.5])
    with pytest.raises(ValueError, match="`nearest_to` must be a plan in which equal contributions earn equal"):
        al.stable([0.5, 0.5], CURVE, game=lambda s: [0.0] * len(s), nearest_to=unequal)


# --- coalitions that are drawn ---


def probability(members: tuple[int, ...], n: int) -> float:
    """Of a coalition, by the law of the draws."""
    return 1 / (n * math.comb(n, len(members)))


def test_every_coalition_is_drawn_with_its_probability() -> None:
    plan = aq.allocate([0.5] * 4, CURVE)
    asked: dict[tuple[int, ...], int] = {}
    for seed in range(2000):
        al.sampled_blocking(
            plan, lambda s: [asked.update({s: asked.get(s, 0) + 1}) or 0.0] * len(s), samples=1, seed=seed
        )
    assert set(asked) == set(coalitions(4))
    for members, count in asked.items():
        p = probability(members, 4)
        assert abs(count / 2000 - p) < 4 * np.sqrt(p * (1 - p) / 2000)


def test_a_planted_blocking_coalition_is_found_and_satisfied() -> None:
    n = 30
    b = aq.stream(0, "thirty").uniform(0.3, 0.6, n).round(2)
    curve = aq.Curve(np.linspace(0.02, 1, 50), np.linspace(0.2, 0.7, 50), 1000)
    weak = set(np.argsort(b)[:12].tolist())

    def game(members: tuple[int, ...]) -> list[float]:
        gain = 0.25 if set(members) <= weak and len(members) > 1 else 0.0
        return [min(0.7, b[list(members)].max() + gain)] * len(members)

    equal = aq.allocate(b, curve)
    found, bound = al.sampled_blocking(equal, game, samples=2000)
    assert found
    assert all(set(members) <= weak for members, _ in found)
    assert [by for _, by in found] == sorted((by for _, by in found), reverse=True)
    assert 0 < bound.blocking / bound.asked < bound.share < 0.1
    plan = al.stable(b, curve, game=game, samples=500)
    assert plan.stability.blocking == 0
    assert plan.stability.share < 0.02  # ln(2 / 0.05) / 500 after one pass more
    _, fresh = al.sampled_blocking(plan, game, samples=2000, seed=1)
    assert fresh.blocking / 2000 <= plan.stability.share
    assert plan.certificate.value >= equal.certificate.value


def test_the_bound_on_blocking_coalitions_covers_as_often_as_it_says() -> None:
    plan = aq.allocate([0.5] * 14, aq.Curve((0.5, 1.0), (0.6, 0.7), 100))
    game = lambda s: [0.75 if len(s) >= 12 else 0.6] * len(s)  # blocks with probability 3/14
    found = [al.sampled_blocking(plan, game, samples=40, confidence=0.9, seed=seed)[1] for seed in range(400)]
    shares = np.array([each.share for each in found])
    assert np.mean(shares >= 3 / 14) >= 0.9
    assert np.mean(shares < 3 / 14) > 0.02  # the bound is not so loose that it always holds
    assert np.mean([each.blocking / 40 for each in found]) == pytest.approx(3 / 14, abs=0.02)
    none = al.sampled_blocking(plan, lambda s: [0.5] * len(s), samples=100)[1]
    assert none.share == pytest.approx(1 - 0.05**0.01)
    assert none.share <= np.log(20) / 100


def test_a_plan_made_from_draws_asks_each_coalition_once() -> None:
    asked = []
    al.stable(B, CURVE, game=lambda s: [asked.append(s) or (0.4, 0.58, 0.8)[max(s)]] * len(s), samples=50)
    assert sorted(asked) == sorted(coalitions(3))


def test_the_bound_of_a_plan_made_from_draws_covers_what_was_not_asked() -> None:
    kept, tight = 0, 0
    for seed in range(60):
        rng = aq.stream(seed, "seven")
        b = rng.uniform(0.3, 0.6, 7).round(2)
        curve = aq.Curve(np.linspace(0.1, 1, 10), np.linspace(0.3, 0.7, 10), 1000)
        value = {s: min(0.7, b[list(s)].max() + rng.uniform(0, 0.15)) for s in coalitions(7)}
        game = lambda s, value=value: [value[s]] * len(s)
        plan = al.stable(b, curve, game=game, samples=25, confidence=0.8, seed=seed)
        rest = [s for s, _ in al.blocking_coalitions(plan, game)]
        p = sum(probability(s, 7) for s in rest)
        kept += p <= plan.stability.share
        tight += p > 0
        assert plan.stability.share < 0.35
    assert kept >= 0.8 * 60
    assert tight > 5  # some coalition that was not asked would leave


def test_the_bound_of_the_first_pass_has_half_of_what_may_go_wrong() -> None:
    plan = al.stable(B, CURVE, game=lambda s: [0.0] * len(s), samples=40, confidence=0.9)
    assert (plan.stability.asked, plan.stability.blocking) == (40, 0)
    assert plan.stability.share == pytest.approx(1 - (0.1 / 2) ** (1 / 40))  # 1 - 0.1 / (1 x 2) and no hit


def test_other_seeds_draw_other_coalitions_for_a_plan() -> None:
    def asked(seed: int) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        al.stable([0.5] * 9, CURVE, game=lambda s: [found.append(s) or 0.0] * len(s), samples=5, seed=seed)
        return found

    assert asked(0) == asked(0) != asked(1)


@pytest.mark.parametrize("common", [True, False])
def test_when_every_coalition_is_drawn_the_plan_is_the_exact_one(common: bool) -> None:
    for seed in range(12):
        b, curve, game = random_federation(seed, common)
        exact, drawn = al.stable(b, curve, game=game), al.stable(b, curve, game=game, samples=1500)
        assert drawn.widths.tolist() == exact.widths.tolist()
        assert drawn.stability.epsilon == exact.stability.epsilon
        assert drawn.certificate.value == exact.certificate.value
        plan = aq.allocate(b, curve)
        found, bound = al.sampled_blocking(plan, game, samples=1500)
        assert found == al.blocking_coalitions(plan, game)
        assert bound.share < sum(probability(s, len(b)) for s, _ in found) + 0.05


def test_the_value_of_a_stable_plan_is_its_own() -> None:
    """Its certificate holds the objective of the gains that it gives, and a bound that is no larger."""
    rng = aq.stream(0, "many levels")
    curve = aq.Curve(np.linspace(1e-4, 1.0, 9000), np.sort(rng.uniform(0.2, 0.9, 9000)), samples=10**6)
    b = rng.uniform(0.3, 0.7, 120)
    plan = aq.allocation.stable(
        b, curve, game=lambda members: [float(b[list(members)].max())] * len(members), samples=5
    )
    gains = plan.predicted_accuracy - b
    assert plan.certificate.value == pytest.approx(float(default_objective(120)(gains.mean(), gains.std())), abs=1e-12)
    assert plan.certificate.bound <= plan.certificate.value
    assert plan.certificate.exact == (plan.certificate.bound == plan.certificate.value)


def test_eight_participants_are_satisfied_by_draws_as_by_all() -> None:
    b = aq.stream(0, "eight").uniform(0.3, 0.6, 8).round(2)
    curve = aq.Curve(np.linspace(0.1, 1, 10), np.linspace(0.3, 0.7, 10), 1000)
    game = lambda s: [min(0.7, b[list(s)].max() + 0.02 * len(s))] * len(s)
    exact, drawn = al.stable(b, curve, game=game), al.stable(b, curve, game=game, samples=4000)
    assert drawn.widths.tolist() == exact.widths.tolist()
    assert exact.widths.tolist() != aq.allocate(b, curve).widths.tolist()
    assert al.blocking_coalitions(drawn, game) == ()


# --- gains in proportion to marginal values ---


def test_gains_are_in_proportion_to_marginal_values_and_nobody_loses() -> None:
    fine = aq.Curve(np.linspace(0.001, 1, 5001), np.linspace(0.1, 0.8, 5001), 1000)
    coarse = aq.Curve(np.linspace(0.2, 1, 5), (0.2, 0.35, 0.5, 0.65, 0.8), 1000)
    for seed in range(50):
        rng = aq.stream(seed, "marginal")
        b = rng.uniform(0.2, 0.7, 5)
        missing = rng.uniform(0, 0.3, 5) * (rng.random(5) > 0.3)  # what the others would miss
        game = lambda s, missing=missing: [0.8 - sum(missing[i] for i in range(5) if i not in s)] * len(s)
        plan = al.marginal_value(b, fine, game=game)
        gains = plan.predicted_accuracy - b
        if missing.any():
            scale = ((0.8 - b) / np.where(missing > 0, missing, 1e-9)).min()
            assert gains == pytest.approx(scale * missing, abs=1.5e-4)  # a level
        assert plan.predicted_accuracy.max() == 0.8
        assert gains.min() > -1e-12
        assert (al.marginal_value(b, coarse, game=game).predicted_accuracy >= b).all()


def test_an_accuracy_that_is_attainable_up_to_rounding_is_not_rounded_up_to_the_next_level() -> None:
    three_tenths = 0.1 + 0.2
    assert three_tenths > 0.3  # in sixteen digits
    curve = aq.Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=100)
    game = lambda s: [0.8 if 1 in s else 0.3] * len(s)  # nobody misses the first
    assert al.marginal_value([three_tenths, 0.6], curve, game=game).predicted_accuracy.tolist() == [0.3, 0.8]


def test_whoever_is_redundant_keeps_what_it_has() -> None:
    curve = aq.Curve(np.linspace(0.01, 1, 100), np.linspace(0.2, 0.8, 100), 1000)
    game = lambda s: [0.8 if 2 in s and len(s) > 1 else 0.5] * len(s)  # 0 and 1 hold the same data
    plan = al.marginal_value([0.5, 0.5, 0.6], curve, game=game)
    assert plan.predicted_accuracy[:2] == pytest.approx(0.5, abs=0.01)
    assert plan.predicted_accuracy[2] == 0.8
    nothing = al.marginal_value([0.5, 0.6], curve, game=lambda s: [0.7] * len(s))  # nobody is missed: equal gains
    assert nothing.predicted_accuracy == pytest.approx([0.7, 0.8], abs=0.004)
    assert al.marginal_value([0.5], curve, game=lambda s: [0.7]).predicted_accuracy.tolist() == [0.8]
    assert al.marginal_value([0.9, 0.9], curve, game=lambda s: [0.7] * len(s)).predicted_accuracy.tolist() == [0.8] * 2


def test_more_contribution_earns_less_where_it_is_redundant() -> None:
    """Chapter 6's table: the two who hold the same data contribute more than the one that is missed."""
    curve = aq.Curve(np.linspace(0.01, 1, 100), np.linspace(0.2, 0.8, 100), 1000)
    plan = al.marginal_value([0.55, 0.55, 0.5], curve, game=lambda s: [0.8 if 2 in s and len(s) > 1 else 0.55] * len(s))
    assert plan.predicted_accuracy[0] == plan.predicted_accuracy[1] < plan.predicted_accuracy[2]


@pytest.mark.parametrize("common", [True, False])
def test_the_full_network_for_all_is_blocked_by_the_least_core_at_most(common: bool) -> None:
    for seed in range(100):
        b, curve, game = random_federation(seed, common)
        everything = plan_of(np.full(len(b), len(curve.levels) - 1), curve, b)
        epsilon = al.stable(b, curve, game=game).stability.epsilon
        assert all(by <= epsilon + 1e-12 for _, by in al.blocking_coalitions(everything, game))


def test_which_rules_follow_a_common_shift_of_the_contributions() -> None:
    changed = 0
    for seed in range(100):
        rng = aq.stream(seed, "shift")
        b = rng.integers(8, 32, 4) / 64  # sums of such numbers are not rounded
        curve = aq.Curve(np.linspace(1 / 64, 1, 64), np.arange(1, 65) / 64, 1000)
        worth = {s: float(rng.integers(16, 49)) / 64 for s in coalitions(4)}
        game = lambda s, worth=worth: [worth[s]] * len(s)
        for rule in (al.stable, al.marginal_value):
            same = rule(b, curve, game=game).widths.tolist() == rule(b + 0.125, curve, game=game).widths.tolist()
            assert same or rule is al.marginal_value
            changed += not same
    assert changed > 50  # of the marginal values


def test_a_free_rider_has_the_common_gain_or_what_it_has() -> None:
    """Nobody misses the first, and it has nothing."""
    curve = aq.Curve(np.linspace(0.01, 1, 701), np.linspace(0.1, 0.8, 701), 1000)
    game = lambda s: [min(0.1 + 0.3 * sum(i > 0 for i in s), 0.8)] * len(s)
    idle = 0.1
    equal, marginal = (rule([idle, 0.4, 0.5], curve, game=game) for rule in (al.stable, al.marginal_value))
    gains = equal.predicted_accuracy - [idle, 0.4, 0.5]
    assert gains[0] == pytest.approx(gains[2], abs=1e-3)
    assert gains[0] > 0.1
    assert marginal.predicted_accuracy[0] == pytest.approx(idle, abs=1e-3)


def test_marginal_values_ask_everybody_and_everybody_but_one() -> None:
    asked = []
    al.marginal_value([0.5] * 30, CURVE, game=lambda s: [asked.append(s) or 0.6] * len(s))
    assert sorted(map(len, asked)) == [29] * 30 + [30]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("plan", lambda: al.blocking_coalitions(B, lambda s: [0.5] * len(s))),
        ("game", lambda: al.stable(B, CURVE, game={})),
        ("game", lambda: al.stable(B, CURVE, game=lambda s: [0.5])),
        ("game", lambda: al.stable(B, CURVE, game=lambda s: [float("nan")] * len(s))),
        ("game", lambda: al.blocking_coalitions(aq.allocate(B, CURVE), lambda s: None)),
        ("contribution", lambda: al.stable([0.5] * 13, CURVE, game=lambda s: [0.5] * len(s))),
        ("samples", lambda: al.stable([0.5] * 13, CURVE, game=lambda s: [0.5] * len(s), samples=0)),
        ("samples", lambda: al.sampled_blocking(aq.allocate(B, CURVE), lambda s: [0.5] * len(s), samples=2.5)),
        ("confidence", lambda: al.stable(B, CURVE, game=lambda s: [0.5] * len(s), samples=9, confidence=1.0)),
        ("plan", lambda: al.sampled_blocking(B, lambda s: [0.5] * len(s), samples=9)),
        ("game", lambda: al.sampled_blocking(aq.allocate(B, CURVE), lambda s: [0.5, 0.5], samples=9)),
        ("nearest_to", lambda: al.stable(B, CURVE, game=lambda s: [0.5] * len(s), nearest_to=B)),
        (
            "nearest_to",
            lambda: al.stable(B, CURVE, game=lambda s: [0.5] * len(s), nearest_to=aq.allocate(B[:2], CURVE)),
        ),
        (
            "nearest_to",
            lambda: al.stable(B, CURVE, game=lambda s: [0.5] * len(s), nearest_to=aq.allocate(B[::-1], CURVE)),
        ),
        ("game", lambda: al.marginal_value(B, CURVE, game=lambda s: None)),
        ("curve", lambda: al.marginal_value(B, None, game=lambda s: [0.5] * len(s))),
        ("contribution", lambda: al.marginal_value([], CURVE, game=lambda s: [0.5] * len(s))),
        ("contribution", lambda: al.stable([], CURVE, game=lambda s: [0.5] * len(s))),
        ("curve", lambda: al.stable(B, None, game=lambda s: [0.5] * len(s))),
    ],
)
def test_a_bad_argument_is_refused_by_name(name: str, call) -> None:
    with pytest.raises(ValueError, match=rf"^`{name}` must "):
        call()


def test_more_than_twelve_participants_need_draws_and_the_refusal_says_so() -> None:
    game = lambda s: [0.5] * len(s)
    with pytest.raises(ValueError, match=r"^`contribution` must be of at most 12 .*, got 13; with `samples=m` only m"):
        al.stable([0.5] * 13, CURVE, game=game)
    with pytest.raises(ValueError, match=r"^`plan` must be of at most 12 .*, got 13; `sampled_blocking` draws some"):
        al.blocking_coalitions(aq.allocate([0.5] * 13, CURVE), game)
    assert al.stable([0.5] * 13, CURVE, game=game, samples=20).stability.asked == 20
