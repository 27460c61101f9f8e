"""Coalitions that block a plan, and the best plan that none blocks, compared with brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import aequa_lite as aq
from aequa_lite.allocation.exact import default_objective

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


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("plan", lambda: al.blocking_coalitions(B, lambda s: [0.5] * len(s))),
        ("game", lambda: al.stable(B, CURVE, game={})),
        ("game", lambda: al.stable(B, CURVE, game=lambda s: [0.5])),
        ("game", lambda: al.stable(B, CURVE, game=lambda s: [float("nan")] * len(s))),
        ("game", lambda: al.blocking_coalitions(aq.allocate(B, CURVE), lambda s: None)),
        ("contribution", lambda: al.stable([0.5] * 13, CURVE, game=lambda s: [0.5] * len(s))),
        ("contribution", lambda: al.stable([], CURVE, game=lambda s: [0.5] * len(s))),
        ("curve", lambda: al.stable(B, None, game=lambda s: [0.5] * len(s))),
    ],
)
def test_a_bad_argument_is_refused_by_name(name: str, call) -> None:
    with pytest.raises(ValueError, match=rf"^`{name}` must "):
        call()
