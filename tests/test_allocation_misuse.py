"""Every public function of the allocation and of the metrics refuses bad arguments in one sentence, before any work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

import aequa_lite as aq

al, me = aq.allocation, aq.metrics
NAN, INF = float("nan"), float("inf")
B = [0.4, 0.6]
CURVE = aq.Curve((0.1, 0.5, 1.0), (0.5, 0.7, 0.9), samples=100)
RIGHT = np.arange(600).reshape(3, 200) % np.array([[2], [3], [5]]) > 0
SEEN = aq.Curve((0.1, 0.5, 1.0), np.sort(RIGHT.mean(1)), 200, RIGHT[np.argsort(RIGHT.mean(1))])
PLAN = aq.allocate(B, CURVE)
BUDGET = {"cost": lambda width: width, "budget": 2.0}

RULES: dict[str, Callable] = {
    "allocate": aq.allocate,
    "proportional": al.proportional,
    "thresholded": partial(al.thresholded, least=0.1),
    "capped": al.capped,
    "generous": partial(al.generous, spread=0.2),
    "anneal": partial(al.anneal, steps=2),
    "nash": partial(al.nash, **BUDGET),
    "lp_welfare": partial(al.lp_welfare, p=0.5, **BUDGET),
    "leximin": partial(al.leximin, **BUDGET),
    "misreport_gains": al.misreport_gains,
    "reward_intervals": partial(al.reward_intervals, draws=2),
    "plan_of": lambda b, curve: al.plan_of([0, 1], curve, b),
}
NO_CONTRIBUTIONS = [[], [0.5, NAN], [0.5, 1.2], [-0.1, 0.5], [[0.5, 0.6]], 0.5, None, "half", ["a", "b"], {0: 0.5}]
NO_CURVES = [None, [0.1, 0.5], "curve", 0.5]


@pytest.mark.parametrize("wrong", NO_CONTRIBUTIONS, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_contributions_must_be_accuracies(rule: str, wrong: object) -> None:
    allowed = r"one number in \[0, 1\] for each participant"
    if rule == "reward_intervals":  # its annotation asks for numbers, itself for accuracies
        allowed += "|numbers"
    with pytest.raises(ValueError, match=rf"^`contribution` must be ({allowed}), got "):
        RULES[rule](wrong, CURVE)


@pytest.mark.parametrize("wrong", NO_CURVES, ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_curve_must_be_one(rule: Callable, wrong: object) -> None:
    with pytest.raises(ValueError, match="^`curve` must be a Curve, got "):
        rule(B, wrong)


MISUSE: dict[str, Callable[[], object]] = {
    "objective": lambda: aq.allocate(B, CURVE, objective=0.5),
    "objective ": lambda: aq.allocate(B, CURVE, objective=lambda mean: mean),
    "objective  ": lambda: aq.allocate(B, CURVE, objective=lambda mean, spread: "low"),
    "objective   ": lambda: aq.allocate(B, CURVE, objective=lambda mean, spread: NAN * spread),
    "objective    ": lambda: al.anneal(B, CURVE, objective="spread"),
    "objective     ": lambda: al.water_filling(B, 0.2, 0.8, objective=3),
    "individually_rational": lambda: aq.allocate(B, CURVE, individually_rational=1),
    "standalone": lambda: aq.allocate(B, CURVE, standalone=[0.4]),
    "standalone ": lambda: aq.allocate(B, CURVE, standalone=[0.4, NAN]),
    "chosen": lambda: al.plan_of([0, 3], CURVE, B),
    "chosen ": lambda: al.plan_of([0], CURVE, B),
    "chosen  ": lambda: al.plan_of([0.0, 1.0], CURVE, B),
    "chosen   ": lambda: al.plan_of([-1, 0], CURVE, B),
    "participants": lambda: al.default_objective(0),
    "least": lambda: al.thresholded(B, CURVE, least=NAN),
    "least ": lambda: al.thresholded(B, CURVE, least=0.9),
    "allowance": lambda: al.capped(B, CURVE, NAN),
    "allowance ": lambda: al.capped(B, CURVE, -0.1),
    "spread": lambda: al.generous(B, CURVE, NAN),
    "spread ": lambda: al.generous(B, CURVE, -1),
    "steps": lambda: al.anneal(B, CURVE, steps=0),
    "steps ": lambda: al.anneal(B, CURVE, steps=2.5),
    "p": lambda: al.lp_welfare(B, CURVE, p=NAN, **BUDGET),
    "p ": lambda: al.lp_welfare(B, CURVE, p=0, **BUDGET),
    "budget": lambda: al.nash(B, CURVE, cost=BUDGET["cost"], budget=NAN),
    "budget ": lambda: al.leximin(B, CURVE, cost=BUDGET["cost"], budget="2"),
    "cost": lambda: al.leximin(B, CURVE, cost=1.0, budget=2),
    "cost ": lambda: al.leximin(B, CURVE, cost=lambda width: NAN, budget=2),
    "full": lambda: al.water_filling(B, 0.8, 0.2),
    "full ": lambda: al.at_bounds(B, 0.2, NAN),
    "least  ": lambda: al.smallest_spread(B, NAN, 0.8),
    "least   ": lambda: al.equal_gains_possible(B, -0.1, 0.8),
    "contribution": lambda: al.critical_weight([]),
    "rule": lambda: al.misreport_gains(B, CURVE, rule="allocate"),
    "rule ": lambda: al.reward_intervals(B, CURVE, rule=None),
    "reports": lambda: al.misreport_gains(B, CURVE, reports=[]),
    "reports ": lambda: al.misreport_gains(B, CURVE, reports=[0.5, NAN]),
    "measured": lambda: al.misreport_gains(B, CURVE, measured="yes"),
    "together": lambda: al.misreport_gains(B, CURVE, together=0),
    "together ": lambda: al.misreport_gains(B, CURVE, together=3),
    "reports  ": lambda: al.misreport_gains(B, CURVE, together=2, reports=[1.5]),
    "curve": lambda: al.split_validation(CURVE, RIGHT),
    "curve ": lambda: al.samples_for(PLAN, aq.Curve((0.2, 0.9), (0.5, 0.9), 10)),
    "curve  ": lambda: al.confirm(PLAN, None, CURVE),
    "alone_correct": lambda: al.split_validation(SEEN, RIGHT[:, :50]),
    "alone_correct ": lambda: al.split_validation(SEEN, RIGHT * 1.0),
    "alone_correct  ": lambda: al.reward_intervals(B, SEEN, alone_correct=RIGHT, draws=2),
    "alone_correct   ": lambda: al.noise_ceiling(
        RIGHT[:, :5], RIGHT, (0.1, 0.5, 1), validation_samples=9, test_samples=9
    ),
    "width_correct": lambda: al.noise_ceiling(RIGHT, [], (0.1,), validation_samples=9, test_samples=9),
    "test_samples": lambda: al.noise_ceiling(RIGHT, RIGHT, (0.1, 0.5, 1), validation_samples=9, test_samples=0),
    "draws": lambda: al.noise_ceiling(RIGHT, RIGHT, (0.1, 0.5, 1), validation_samples=9, test_samples=9, draws=0),
    "draws ": lambda: al.reward_intervals(B, CURVE, draws=0),
    "plan": lambda: al.confirm(B, CURVE, CURVE),
    "plan ": lambda: al.samples_for(B, CURVE),
    "fresh": lambda: al.confirm(PLAN, CURVE, aq.Curve((0.2, 0.9), (0.5, 0.9), 10)),
    "plans": lambda: al.confirm(PLAN, CURVE, CURVE, plans=0),
    "level": lambda: al.confirm(PLAN, CURVE, CURVE, level=1.0),
    "a": lambda: aq.pearson([], []),
    "a ": lambda: aq.pearson([0.1, NAN], [0.1, 0.2]),
    "b": lambda: aq.pearson([0.1, 0.2], [0.1]),
    "b ": lambda: me.spearman([0.1, 0.2], ["x", "y"]),
    "gains": lambda: aq.mcg([]),
    "gains ": lambda: aq.cgs([0.1, INF]),
    "gains  ": lambda: aq.cgs(None),
    "p  ": lambda: me.holm([NAN]),
    "p   ": lambda: me.holm([0.1, 1.1]),
    "p    ": lambda: me.holm([]),
    "level  ": lambda: me.holm([0.1], level=0),
    "level   ": lambda: aq.worse_off(RIGHT, RIGHT, level=2),
    "alone_correct    ": lambda: me.paired_gains([], []),
    "alone_correct     ": lambda: me.measure(RIGHT.mean(1), RIGHT),
    "reward_correct": lambda: aq.worse_off(RIGHT, RIGHT[:2]),
    "reward_correct ": lambda: me.pearson_noise_interval(RIGHT, RIGHT * 1),
    "draws  ": lambda: me.pearson_noise_interval(RIGHT, RIGHT, draws=0),
}


@pytest.mark.parametrize(("name", "call"), MISUSE.items(), ids=MISUSE)
def test_a_bad_argument_is_refused_by_name(name: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=rf"^`{name.strip()}` must ") as refused:
        call()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
