"""What a false report adds: much where it is believed, next to nothing where the contribution is measured."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

import aequa_lite as aq

FINE = aq.Curve(np.linspace(0.02, 1, 50), np.linspace(0.1, 0.9, 50), samples=4000)
B = [0.3, 0.5, 0.7]
BUDGETED = {"cost": lambda w: w, "budget": 1.8}


def test_reporting_more_pays_below_the_top_and_not_at_it() -> None:
    b = [0.3, 0.5, 0.7]
    gains = aq.allocation.misreport_gains(b, FINE)
    assert gains[0] > 0.2
    assert gains[2] == 0.0  # it holds the full network already


def test_a_rule_that_follows_contributions_rewards_false_reports_that_are_believed() -> None:
    for rule in (
        aq.allocate,
        aq.allocation.proportional,
        aq.allocation.capped,
        partial(aq.allocation.leximin, **BUDGETED),
        partial(aq.allocation.nash, **BUDGETED),
    ):
        assert aq.allocation.misreport_gains(B, FINE, rule).max() > 0.05


def test_a_rule_that_ignores_them_does_not() -> None:
    def everyone_full(b: object, curve: aq.Curve) -> aq.Plan:
        return aq.allocate(np.full(len(np.asarray(b)), 0.5), curve)

    assert aq.allocation.misreport_gains(B, FINE, everyone_full).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "rule", [aq.allocation.proportional, aq.allocation.capped, partial(aq.allocation.leximin, **BUDGETED)]
)
def test_reporting_less_never_pays(rule) -> None:
    for seed in range(5):
        b = aq.stream(seed, "claims").uniform(0.15, 0.6, 3).round(2)
        assert aq.allocation.misreport_gains(b, FINE, rule, measured=True).max() == 0


def test_reporting_less_pays_at_most_one_step_of_the_curve_under_equal_gains() -> None:
    step = float(np.diff(FINE.levels).max())
    for seed in range(5):
        b = aq.stream(seed, "claims").uniform(0.15, 0.6, 4).round(2)
        assert aq.allocation.misreport_gains(b, FINE, measured=True).max() <= step + 1e-9


def test_the_sum_of_powers_rewards_a_low_report_of_whoever_cannot_gain() -> None:
    rule = partial(aq.allocation.lp_welfare, p=0.5, cost=lambda w: w, budget=1.0)
    assert aq.allocation.misreport_gains([0.3, 0.75], FINE, rule, measured=True)[1] > 0.05


COARSE = aq.Curve((0.1, 0.3, 0.6, 1.0), (0.4, 0.5, 0.6, 0.8), samples=100)


@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("rule", [aq.allocate, partial(aq.allocation.thresholded, least=0.35)])
def test_a_groups_best_joint_report_is_found_by_trying_every_one(together: int, measured: bool, rule) -> None:
    grid = np.array([0.2, 0.4, 0.55, 0.9])
    for seed in range(2):
        b = aq.stream(seed, "together").uniform(0.36, 0.7, 4).round(2)
        honest, expected = rule(b, COARSE).predicted_accuracy, []
        for group in itertools.combinations(range(4), together):
            best = 0.0
            for joint in itertools.product(*([b[i], *grid[(grid <= b[i]) | (not measured)]] for i in group)):
                reported = b.tolist()
                for i, report in zip(group, joint):
                    reported[i] = report
                more = (rule(reported, COARSE).predicted_accuracy - honest)[list(group)]
                if min(more) > -1e-12:
                    best = max(best, sum(more))
            expected.append(best)
        found = aq.allocation.misreport_gains(b, COARSE, rule, measured=measured, together=together, reports=grid)
        assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_the_strongest_can_lift_others_by_a_low_report_at_no_cost() -> None:
    b = [0.4, 0.5, 0.7]
    alone = aq.allocation.misreport_gains(b, COARSE, measured=True)
    pairs = aq.allocation.misreport_gains(b, COARSE, measured=True, together=2)  # (0, 1), (0, 2), (1, 2)
    assert alone.max() <= 0.1 + 1e-9
    assert pairs[0] < 0.1  # without the strongest, lowering adds next to nothing
    assert pairs[1:].min() > alone.sum()
    low = aq.allocate([0.4, 0.5, 0.5], COARSE).predicted_accuracy
    assert low[2] == aq.allocate(b, COARSE).predicted_accuracy[2] == COARSE.full  # it holds the full network either way


def test_joint_reports_that_are_too_many_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^`together` must be such that all groups have at most 200,000 joint reports"
    ):
        aq.allocation.misreport_gains([0.5] * 6, COARSE, together=4)
    with pytest.raises(ValueError, match=r"^`together` must be a whole number in \[1, 3\], got 4"):
        aq.allocation.misreport_gains(B, COARSE, together=4)


@pytest.mark.parametrize(
    ("rule", "constant", "rising"),
    [
        (aq.allocation.proportional, False, True),
        (aq.allocation.capped, False, True),
        (lambda b, curve: aq.allocation.plan_of([2] * len(b), curve, b), True, True),
        (lambda b, curve: aq.allocation.plan_of([2 * (b[k - 1] > 0.4) for k in range(len(b))], curve, b), True, True),
        (lambda b, curve: aq.allocation.plan_of([2 * (x < 0.4) for x in b], curve, b), False, False),
    ],
    ids=["proportional", "capped", "the same for all", "by the report of another", "falling"],
)
def test_truth_pays_where_the_own_report_changes_nothing_or_can_only_be_lowered(
    rule, constant: bool, rising: bool
) -> None:
    """Proposition 16: the most that a report adds is the range of what it earns, or its largest fall."""
    grid = np.linspace(0.2, 0.8, 25)
    constants, rises = [], []
    for others in ([0.3, 0.6], [0.45, 0.47]):
        earned = np.array([rule([x, *others], FINE).predicted_accuracy[0] for x in grid])
        gains = partial(aq.allocation.misreport_gains, curve=FINE, rule=rule, reports=grid)
        any_report = [gains([x, *others])[0] for x in grid]
        lower = [gains([x, *others], measured=True)[0] for x in grid]
        assert max(any_report) == pytest.approx(np.ptp(earned), abs=1e-9)
        assert max(lower) == pytest.approx((np.maximum.accumulate(earned) - earned).max(), abs=1e-9)
        constants.append(max(any_report) == 0)
        rises.append(max(lower) == 0)
    assert all(constants) is constant
    assert all(rises) is rising


def test_a_cap_withstands_groups_and_other_rules_do_not() -> None:
    b, few = [0.3, 0.5, 0.7], np.linspace(0, 1, 11)
    gain = {
        name: aq.allocation.misreport_gains(b, FINE, rule, measured=True, together=2, reports=few).max()
        for name, rule in {
            "cap": aq.allocation.capped,
            "proportional": aq.allocation.proportional,
            "equal": aq.allocate,
        }.items()
    }
    assert gain["cap"] == 0
    assert min(gain["proportional"], gain["equal"]) > 0.1


def test_appearing_weaker_can_pay_on_a_curve_of_levels() -> None:
    """The counterexample of the page of proofs, beside Proposition 16."""
    curve = aq.Curve((0.1, 0.3, 0.5, 0.7, 1.0), (0.26, 0.41, 0.82, 0.84, 0.95), samples=1000)
    paid = [aq.allocate([0.27, b], curve, individually_rational=True).predicted_accuracy[1] for b in (0.68, 0.63)]
    assert paid == pytest.approx([0.82, 0.95])
