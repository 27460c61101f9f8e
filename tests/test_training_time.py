"""Rewards while training: what leaves the server, who may hold what, and how it is settled."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom

import aequa_lite as aq
from aequa_lite.allocation.exact import Plan, plan_of
from aequa_lite.method import assess, slimmable_rewards, train
from aequa_lite.slimmable import prefix
from aequa_lite.theory import held_margin
from aequa_lite.training_time import (
    GRID,
    _earned,
    certified,
    earned_accuracy,
    held_models,
    lost,
    settle,
    upper_bounds,
    widest_within,
)

QUIET = partial(train, progress=False)


@pytest.fixture
def config() -> aq.Config:
    """Four participants, a dozen short rounds."""
    return aq.Config(participants=4, rounds=12, local_steps=5, lr=0.03)


@pytest.fixture
def problem(few: aq.Dataset, config: aq.Config) -> aq.Problem:
    """Shards of very different size, with the models trained alone."""
    return assess(aq.MLP, aq.data.power_law(few.train, config), config, few, progress=False)


@pytest.fixture
def longer(few: aq.Dataset) -> aq.Problem:
    """As long as the network needs to be better than what anybody reaches alone."""
    config = aq.Config(participants=4, rounds=12, local_steps=20, lr=0.1, norm_limit=1e6)
    return assess(aq.MLP, aq.data.dirichlet(few.train, config, alpha=0.5), config, few, progress=False)


def policy_of(problem: aq.Problem, allowance: float = 0.02, confidence: float | None = None, **options: float):
    return aq.training_time(allowance, confidence=confidence, **options)(
        problem.build, problem.validation, problem.contribution
    )


def drawn(true: np.ndarray, samples: int, rng: np.random.Generator, noise: float = 0.1) -> aq.Curve:
    """A curve measured on samples that are easy or hard for all widths alike, but for a share of noise."""
    shared = rng.random(samples) < ((true - noise / 2) / (1 - noise))[:, None]
    right = np.where(rng.random(shared.shape) < noise, rng.random(shared.shape) < 0.5, shared)
    return aq.Curve(np.arange(1, len(true) + 1) / len(true), right.mean(1), samples, right)


def true_excess(true: np.ndarray, contribution: np.ndarray, allowance: float) -> np.ndarray:
    """By how much each width exceeds what each participant has earned and the allowance, (n, K)."""
    earned = np.minimum(true[-1], contribution + max(0.0, true[-1] - contribution.max()))
    return true - earned[:, None] - allowance


def rounds_of(problem: aq.Problem, **options) -> list[aq.Round]:
    options = {"policy": policy_of(problem), "progress": False, **options}
    return list(aq.federate(problem.build, problem.shards, problem.config, **options))


def test_nothing_leaves_the_server_that_lies_outside_a_participants_width(problem: aq.Problem) -> None:
    inner, sent = aq.slimmable(aq.MLP), []

    def watched(state, participant, width):
        sent.append((participant, width, inner.broadcast(state, participant, width)))
        return sent[-1][2]

    rounds = rounds_of(problem, strategy=replace(inner, broadcast=watched), policy=policy_of(problem, 0.0))
    assert min(min(each.widths) for each in rounds) < 1.0
    for k, each in enumerate(rounds):
        for participant, width, state in sent[4 * k : 4 * k + 4]:
            assert width == each.widths[participant]
            assert set(state) == set(aq.MLP(width).state_dict())
            for name, t in aq.MLP(width).state_dict().items():
                assert torch.equal(state[name], each.before.theta[name][prefix(t.shape)])


def test_everyone_starts_with_the_full_network(problem: aq.Problem) -> None:
    assert rounds_of(problem)[0].widths == (1.0,) * 4


@pytest.mark.parametrize("allowance", [0.0, 0.02, 0.1])
def test_nobody_holds_more_than_it_has_earned_and_the_allowance(problem: aq.Problem, allowance: float) -> None:
    for last in rounds_of(problem):
        widths = policy_of(problem, allowance)(problem.config, last)
        curve = aq.accuracy_curve(aq.MLP, last.theta, problem.validation, grid=GRID)
        if last.index + 1 == problem.config.rounds:  # the settlement is as fine as the rewards
            curve = aq.reward_curve(aq.MLP, last.theta, problem.validation, problem.config)
        earned = earned_accuracy(curve, problem.contribution)
        held = curve.fitted[np.searchsorted(curve.widths, widths)]
        least = np.array(widths) == curve.widths[0]  # nobody can hold less
        assert ((held <= earned + allowance + 1e-9) | least).all()


def test_nobody_is_overtaken_on_the_fitted_curve_by_who_contributed_less(problem: aq.Problem) -> None:
    order = np.argsort(problem.contribution)
    for last in rounds_of(problem):
        assert (np.diff(np.array(policy_of(problem)(problem.config, last))[order]) >= 0).all()


def test_while_the_network_is_worse_than_what_each_has_alone_everyone_holds_all(problem: aq.Problem) -> None:
    best = np.ones(4)  # nobody needs the network
    policy = aq.training_time(0.0)(problem.build, problem.validation, best)
    for last in rounds_of(problem)[:3]:
        assert policy(problem.config, last) == (1.0,) * 4


def test_a_larger_allowance_never_narrows_anybody(problem: aq.Problem) -> None:
    last = rounds_of(problem)[-1]
    widths = [policy_of(problem, allowance)(problem.config, last) for allowance in (0.0, 0.02, 0.05, 1.0)]
    for narrow, wide in zip(widths[:-1], widths[1:], strict=True):
        assert all(a <= b for a, b in zip(narrow, wide, strict=True))
    assert widths[-1] == (1.0,) * 4


def test_the_widest_width_within_a_target_is_the_last_of_its_block() -> None:
    curve = aq.Curve((0.1, 0.4, 0.5, 0.8, 1.0), (0.3, 0.6, 0.6, 0.6, 0.8), samples=1000)
    assert widest_within(curve, [0.1, 0.3, 0.6, 0.79, 0.8, 1.0]).tolist() == [0.1, 0.1, 0.8, 0.8, 1.0, 1.0]


def test_a_settlement_widens_nobody(problem: aq.Problem) -> None:
    curve = aq.Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
    plan = aq.allocate([0.3, 0.5, 0.75], curve)
    held = np.array([1.0, 0.3, 0.5])
    settled = settle(plan, held, curve, [0.3, 0.5, 0.75])
    assert (settled.widths <= np.minimum(np.maximum(held, 0.1), plan.widths)).all()
    assert settle(plan, [1.0] * 3, curve, [0.3, 0.5, 0.75]).widths.tolist() == plan.widths.tolist()


def test_widths_are_compared_up_to_rounding_where_a_plan_is_settled() -> None:
    third = 0.1 + 0.2
    assert third > 0.3  # in sixteen digits
    wider, narrower = (aq.Curve((0.1, w, 1.0), (0.3, 0.6, 0.8), samples=1000) for w in (third, 0.3))
    b = np.array([0.6])
    for curve, width in ((wider, 0.3), (narrower, third)):  # held, and planned, are the curve's up to rounding
        plan = plan_of([2], curve, b, tau=0.25)
        settled = settle(plan, [width], curve, b)
        assert (settled.widths.tolist(), settled.tau) == ([curve.widths[1]], 0.25)
        planned = settle(replace(plan, widths=np.array([width])), [1.0], curve, b)
        assert planned.widths.tolist() == [curve.widths[1]]


def test_the_bound_of_each_width_by_itself_is_that_of_clopper_and_pearson() -> None:
    curve = drawn(np.array([0.5, 0.7, 0.75]), 200, aq.stream(0, "exact"))
    _, plain = upper_bounds(curve, 0.9, tests=3)
    hits = curve.correct.sum(1)
    # at the bound, as few hits as were seen are as likely as the level allows
    assert binom.cdf(hits, 200, plain) == pytest.approx([0.1 / 3] * 3)


def test_what_an_update_lost_is_measured_against_the_network_before_and_at_most_its_own(longer: aq.Problem) -> None:
    last, alone = rounds_of(longer)[2], longer.contribution  # the network still becomes better quickly
    before, after = (
        aq.accuracy([aq.slim(aq.MLP, theta, 1.0)], longer.validation)[0] for theta in (last.before.theta, last.theta)
    )
    came = aq.accuracy([aq.slim(aq.MLP, u.state, u.width) for u in last.updates], longer.validation)
    assert before != after
    for b in (alone, np.full(4, 0.2), np.ones(4)):  # its own accuracy, or the network's where that is less
        assert lost(aq.MLP, last, longer.validation, b) == pytest.approx(1 - came / np.minimum(before, b))


def test_no_width_below_the_configs_least_is_sent(problem: aq.Problem) -> None:
    ended = rounds_of(problem)[-2]
    wide = replace(problem.config, min_width=0.4)
    policy = aq.training_time(0.0)(problem.build, problem.validation, np.linspace(0.0, 0.9, 4))
    assert min(policy(problem.config, ended)) < 0.4 <= min(policy(wide, ended))


def test_the_rewards_are_slices_of_the_final_network_within_what_is_held(problem: aq.Problem) -> None:
    outcome = slimmable_rewards(problem, schedule=aq.training_time(0.02), train=QUIET)
    held = policy_of(problem)(problem.config, outcome.last)
    assert (outcome.plan.widths <= np.array(held) + 1e-9).all()
    assert aq.report(outcome).widths == tuple(round(w, 6) for w in outcome.plan.widths)


def test_with_a_boundless_allowance_training_is_that_of_post_training_rewards(problem: aq.Problem) -> None:
    problem = replace(problem, config=replace(problem.config, logit_adjustment=1.0))  # as with a schedule
    while_training = slimmable_rewards(problem, schedule=aq.training_time(1.0), train=QUIET)
    after = slimmable_rewards(problem, train=QUIET)
    assert all(torch.equal(t, after.last.theta[k]) for k, t in while_training.last.theta.items())
    assert while_training.plan.widths.tolist() == after.plan.widths.tolist()


def test_the_loss_is_adjusted_to_the_label_shares_of_the_validation_samples(problem: aq.Problem) -> None:
    seen: list[tuple[float, ...]] = []

    def watched(problem: aq.Problem, strategy: aq.Strategy, **options) -> aq.Round:
        seen.append(strategy.label_shares)
        return QUIET(problem, strategy, **options)

    def trained(validation: aq.Samples, config: aq.Config, **options) -> None:
        data = replace(problem.data, validation=validation)
        slimmable_rewards(replace(problem, data=data, config=replace(config, rounds=1)), train=watched, **options)

    own, schedule = problem.validation, aq.training_time()
    equal = own.take(torch.cat([torch.nonzero(own.y == c)[:5, 0] for c in range(10)]))
    unequal = own.take(torch.cat([torch.nonzero(own.y == c)[: 1 + c, 0] for c in range(10)]))
    trained(equal, problem.config, schedule=schedule)
    trained(unequal, problem.config)  # nothing is adjusted without a schedule
    trained(unequal, problem.config, schedule=schedule)
    trained(unequal, replace(problem.config, logit_adjustment=0.5))
    shares = pytest.approx([(c + 2) / 65 for c in range(10)])
    assert seen == [(), (), shares, shares]


def test_who_sent_no_valid_update_is_sent_nothing_better_than_what_it_has_alone(longer: aq.Problem) -> None:
    inner, last, who = aq.slimmable(aq.MLP), longer.config.rounds - 1, int(longer.contribution.argmax())

    def local(state, shard, width, config, rng, *, first, **rest):
        update = inner.local(state, shard, width, config, rng, first=first, **rest)
        spoiled = shard.participant == who and first // config.local_steps in (last - 1, last)
        return replace(update, state={k: t * float("nan") for k, t in update.state.items()}) if spoiled else update

    rounds, honest = rounds_of(longer, strategy=replace(inner, local=local)), rounds_of(longer)
    assert [each.widths for each in rounds[:-1]] == [each.widths for each in honest[:-1]]
    assert rounds[-2].left_out == rounds[-1].left_out == (who,)
    for sent, before in ((rounds[-1].widths, rounds[-2]), (policy_of(longer)(longer.config, rounds[-1]), rounds[-1])):
        curve = aq.accuracy_curve(longer.build, before.theta, longer.validation)
        assert curve.full > longer.contribution[who]
        assert 0 < sent[who] < 1
        at = curve.fitted[np.searchsorted(curve.widths, sent[who] - 1e-9)]
        assert at <= longer.contribution[who] + 0.01


def test_a_spoiler_that_is_absent_afterwards_does_not_rise(longer: aq.Problem) -> None:
    """Without its next update, nobody knows that a participant is honest again."""
    who, rounds = int(longer.contribution.argmax()), rounds_of(longer)
    ended, config, policy = rounds[-2], longer.config, policy_of(longer)
    refused = replace(ended, left_out=(who,))
    capped = policy(config, refused)
    assert capped[who] < policy(config, ended)[who] == 1.0
    absent = [0.0 if i == who else w for i, w in enumerate(capped)]
    here = [u for u in ended.updates if u.participant != who]
    later = replace(ended, widths=tuple(absent), updates=tuple(here), next_widths=capped)
    assert policy(config, later)[who] == capped[who]
    honest = replace(later, next_widths=(1.0,) * 4)  # it was not refused before it was absent
    assert policy(config, honest) == policy(config, ended)


def test_a_round_tells_the_policy_what_it_had_decided(problem: aq.Problem) -> None:
    seen = []

    def policy(config: aq.Config, last: aq.Round | None) -> tuple[float, ...]:
        seen.append(last and (last.next_widths, last.widths))
        return (1.0, 0.5, 0.25, 0.75)

    rounds_of(replace(problem, config=replace(problem.config, participation=0.5, rounds=4)), policy=policy)
    assert seen[0] is None
    assert len(seen) == 5
    for planned, received in seen[1:]:
        assert planned == (1.0, 0.5, 0.25, 0.75)
        assert sorted(w == 0 for w in received) == [False, False, True, True]


def nothing_in_common(contribution: np.ndarray, curve: aq.Curve) -> Plan:
    """A rule that shares no gain: everyone is paid what it reaches alone."""
    place = np.searchsorted(curve.levels, contribution + 1e-12, side="right") - 1
    return plan_of(np.maximum(place, 0), curve, contribution, tau=0.0)


def test_another_rule_says_what_is_earned(longer: aq.Problem) -> None:
    before, alone, rule = rounds_of(longer)[-2], longer.contribution, nothing_in_common
    curve = aq.accuracy_curve(longer.build, before.theta, longer.validation, grid=GRID)
    assert curve.full > alone.max() + 0.01
    widths = policy_of(longer, 0.0, allocation=rule)(longer.config, before)
    held = curve.fitted[np.searchsorted(curve.widths, widths)]
    assert (held <= alone + 1e-9).all()  # nothing of the common gain, which the default shares
    assert widths[int(alone.argmax())] < policy_of(longer, 0.0)(longer.config, before)[int(alone.argmax())] == 1.0
    poor = replace(before, state=replace(before.state, theta=aq.init_params(aq.MLP, 0)))
    assert policy_of(longer, 0.0, allocation=rule)(longer.config, poor) == (1.0,) * 4  # worse than what each has alone


def test_training_and_settlement_follow_one_rule(longer: aq.Problem) -> None:
    schedule = aq.training_time(0.01, allocation=nothing_in_common)
    outcome = slimmable_rewards(longer, schedule=schedule, allocation=nothing_in_common, train=QUIET)
    paid, least = outcome.plan.predicted_accuracy, outcome.plan.widths == outcome.curve.widths[0]
    assert (paid <= np.where(least, paid, longer.contribution) + 1e-9).all()
    assert not least.all()
    assert "nothing_in_common" in str(outcome.last.identity)
    words = "aequa(allocation='proportional', schedule=\"training_time(0.01, allocation='proportional')\")"
    found = aq.registry.algorithm(words).keywords
    assert found["schedule"].keywords["allocation"] is found["allocation"] is aq.allocation.proportional


def test_no_confidence_for_another_rule() -> None:
    with pytest.raises(ValueError, match="`confidence` must be None with an `allocation`, got 0.9"):
        aq.training_time(confidence=0.9, allocation=aq.allocation.proportional)


def test_updates_that_lose_more_than_the_tolerance_are_not_paid(longer: aq.Problem) -> None:
    who, alone, config = int(longer.contribution.argmax()), longer.contribution, longer.config
    honest = rounds_of(longer)[-1]
    spoiled = [replace(u, state=aq.init_params(aq.MLP, 0)) if u.participant == who else u for u in honest.updates]
    spoiled = replace(honest, updates=tuple(spoiled))
    few, many = (lost(longer.build, each, longer.validation, alone) for each in (honest, spoiled))
    assert few.max() < 0.3 < many[who]
    assert np.delete(few, who).tolist() == np.delete(many, who).tolist()

    paid, checked = policy_of(longer), policy_of(longer, tolerance=0.3)
    assert paid(config, spoiled) == paid(config, honest) == checked(config, honest)
    found = checked(config, spoiled)
    assert np.delete(found, who).tolist() == np.delete(paid(config, honest), who).tolist()
    assert found[who] < paid(config, honest)[who] == 1.0  # the best contributor keeps everything, else
    nets = [aq.slim(longer.build, honest.theta, found[who])]
    assert aq.accuracy(nets, longer.validation)[0] <= 0.7 * alone[who] + 0.01
    with pytest.raises(ValueError, match=r"`tolerance` must be a number in \[0, 1\] or None, got 2"):
        aq.training_time(tolerance=2)


def test_a_run_that_was_killed_goes_on_to_the_same_bits(problem: aq.Problem, tmp_path: Path) -> None:
    whole = rounds_of(problem)[-1]
    path = tmp_path / "state.safetensors"
    options = {"policy": policy_of(problem), "checkpoint": path, "progress": False}
    for each in aq.federate(problem.build, problem.shards, problem.config, **options):
        if each.index == 7:
            break
    rest = list(aq.federate(problem.build, problem.shards, problem.config, **options))
    assert rest[0].index == 8
    assert rest[-1].widths == whole.widths
    assert all(torch.equal(t, whole.theta[name]) for name, t in rest[-1].theta.items())
    assert rest[-1].total_sent == whole.total_sent


def test_another_allowance_is_another_run(problem: aq.Problem, tmp_path: Path) -> None:
    options = {"checkpoint": tmp_path / "state.safetensors", "progress": False}
    run = partial(aq.federate, problem.build, problem.shards, problem.config, **options)
    next(run(policy=policy_of(problem, 0.02)))
    with pytest.raises(ValueError, match="policy.*allowance = 0.02, this run has 0.03"):
        next(run(policy=policy_of(problem, 0.03)))


def test_held_models_are_what_was_sent(problem: aq.Problem, few: aq.Dataset) -> None:
    rounds = rounds_of(problem, policy=policy_of(problem, 0.0))[:6]
    for each, held in zip(rounds, held_models(aq.MLP, rounds, few.test), strict=True):
        nets = [aq.slim(aq.MLP, each.before.theta, w) for w in each.widths]
        assert held.accuracy.tolist() == aq.accuracy(nets, few.test).tolist()
        assert held.full == aq.accuracy([aq.slim(aq.MLP, each.before.theta, 1.0)], few.test)[0]
        assert held.widths == each.widths


@pytest.mark.parametrize(
    ("allowance", "grid"), [(-0.1, GRID), (1.5, GRID), (float("nan"), GRID), ("much", GRID), (0.02, (0.0, 1.0))]
)
def test_a_schedule_that_is_none_is_refused_before_any_work(allowance, grid) -> None:
    with pytest.raises(ValueError, match="`(allowance|grid)` must be (a number|a sequence, each part a number)"):
        aq.training_time(allowance, grid)


@pytest.mark.parametrize("samples", [200, 2000])
def test_a_bound_is_exceeded_no_more_often_than_its_confidence_allows(samples: int) -> None:
    true, rng, repeats = np.array([0.4, 0.7, 0.72, 0.75]), aq.stream(samples, "coverage"), 600
    missed = np.zeros((2, 4))
    for _ in range(repeats):
        paired, plain = upper_bounds(drawn(true, samples, rng), 0.8)
        missed += [true - true[-1] > paired + 1e-12, true > plain]
    noise = 3 * np.sqrt(0.2 * 0.8 / repeats)
    assert (missed / repeats <= 0.2 + noise).all()
    assert (missed[1] / repeats >= 0.2 - noise - 0.05).all()  # exact, but for the binomial's steps


@pytest.mark.parametrize("start", [0.0, 0.3])  # the network is better than the best alone, or worse
def test_certified_widths_exceed_what_is_earned_no_more_often_than_the_confidence_allows(start: float) -> None:
    """Many widths are equally good, just above what the weaker may have: the widest within is a lucky one."""
    true = np.array([*(0.7,) * 15, 0.75])
    contribution = start + np.array([0.5495, 0.6])  # 0.0005 too little, for widths of 0.7
    if start:  # 0.85 at best alone: the weaker has 0.6995
        contribution = np.array([0.6995, 0.85])
    allowance, repeats, rng = 0.0, 400, aq.stream(0, "certified")
    above = true_excess(true, contribution, allowance) > 0
    assert above[0, :15].all()
    lucky = wrong = 0
    for _ in range(repeats):
        curve = drawn(true, 1000, rng)
        widths = widest_within(curve, earned_accuracy(curve, contribution) + allowance)
        held = np.searchsorted(curve.widths, widths)
        lucky += held[0] > 0 and above[0, held[0]]
        wrong += (certified(curve, contribution, allowance, 0.8, tests=32) & above).any()
    assert wrong / repeats <= 0.2 + 3 * np.sqrt(0.2 * 0.8 / repeats)
    assert lucky / repeats > 0.3  # without certification


def test_what_is_held_without_certification_exceeds_by_no_more_than_the_margin() -> None:
    true, contribution = np.linspace(0.5, 0.8, 16), np.array([0.4, 0.55, 0.7])
    excess, rng, repeats, beyond, smallest = true_excess(true, contribution, 0.01), aq.stream(0, "margin"), 300, 0, 1.0
    for _ in range(repeats):
        curve = drawn(true, 2000, rng)
        widths = widest_within(curve, earned_accuracy(curve, contribution) + 0.01)
        held = np.searchsorted(curve.widths, widths)
        margin = held_margin(curve, contribution, 0.8, tests=32)[held]
        beyond += (excess[np.arange(3), held] > margin + 1e-12).any()
        smallest = min(smallest, margin.max())
    assert beyond / repeats <= 0.2 + 3 * np.sqrt(0.2 * 0.8 / repeats)
    assert smallest > 0  # a margin, not a promise without one


def test_paired_samples_bound_far_better_than_each_width_by_itself() -> None:
    curve = drawn(np.array([0.7, 0.72, 0.74, 0.75]), 2000, aq.stream(0, "paired"), noise=0.05)
    tests = 2 * len(GRID) * 40
    paired, _ = upper_bounds(curve, 0.95, tests)
    hoeffding = 2 * np.sqrt(np.log(tests / 0.05) / (2 * 2000))  # of both widths
    assert (paired - (curve.accuracy - curve.accuracy[-1]) < hoeffding / 2).all()
    assert paired[-1] == 0.0


def test_bounds_fall_with_confidence_and_rise_with_tests() -> None:
    curve = drawn(np.array([0.5, 0.7, 0.75]), 500, aq.stream(0, "monotone"))
    found = [np.array(upper_bounds(curve, each)) for each in (0.5, 0.9, 0.99)]
    assert all((a <= b).all() for a, b in zip(found[:-1], found[1:], strict=True))
    assert np.array(upper_bounds(curve, 0.9, 10)) == pytest.approx(np.array(upper_bounds(curve, 0.99)))
    assert (found[0] >= [curve.accuracy - curve.accuracy[-1], curve.accuracy]).all()


@pytest.mark.parametrize(
    "right", [[[False] * 9] * 2, [[True] * 9] * 2, [[False] * 9, [True] * 9], [[True] * 9, [False] * 9]]
)
def test_bounds_of_extreme_curves_are_accuracies(right: list[list[bool]]) -> None:
    found = np.array(right)
    paired, plain = upper_bounds(aq.Curve((0.5, 1.0), found.mean(1), 9, found), 0.95)
    assert (plain >= found.mean(1)).all()
    assert (plain <= 1).all()
    assert found[0].mean() - found[1].mean() <= paired[0] + 1e-9
    assert paired[0] <= 1


def test_without_confidence_a_schedule_is_what_it_was(problem: aq.Problem) -> None:
    plain, same = policy_of(problem), policy_of(problem, confidence=None)
    assert plain.keywords == same.keywords
    last = rounds_of(problem)[-1]
    assert plain(problem.config, last) == same(problem.config, last)


def test_a_higher_confidence_never_widens_anybody(problem: aq.Problem) -> None:
    for last in rounds_of(problem):
        widths = [policy_of(problem, 0.1, each)(problem.config, last) for each in (None, 0.01, 0.5, 0.95, 0.999999)]
        for wide, narrow in zip(widths[:-1], widths[1:], strict=True):
            assert all(a >= b for a, b in zip(wide, narrow, strict=True))


def test_with_confidence_too_nobody_is_overtaken_by_who_contributed_less(problem: aq.Problem) -> None:
    order = np.argsort(problem.contribution)
    for last in rounds_of(problem, policy=policy_of(problem, confidence=0.95)):
        widths = np.array(policy_of(problem, confidence=0.95)(problem.config, last))
        assert (np.diff(widths[order]) >= 0).all()


def test_a_sent_width_is_certified_or_the_least(problem: aq.Problem) -> None:
    tests = 2 * len(GRID) * problem.config.rounds
    for last in rounds_of(problem)[:-1]:
        widths = policy_of(problem, 0.1, 0.95)(problem.config, last)
        curve = aq.accuracy_curve(aq.MLP, last.theta, problem.validation, grid=GRID)
        sure = certified(curve, problem.contribution, 0.1, 0.95, tests)
        place = np.searchsorted(curve.widths, widths)
        assert (sure[np.arange(4), place] | (place == 0)).all()


def test_the_confidence_is_shared_by_all_widths_of_all_rounds(
    problem: aq.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    timing = sys.modules["aequa_lite.training_time"]
    monkeypatch.setattr(timing, "certified", lambda *args: asked.append(args[-1]) or certified(*args))
    config, rounds = replace(problem.config, fractions=4, grid=20), rounds_of(problem)
    for ended in (rounds[0], rounds[-1]):
        policy_of(problem, 0.1, 0.95)(config, ended)
    # two bounds of each width in each round; the settlement chooses among the fractions too
    assert asked == [2 * len(GRID) * config.rounds, 2 * 20 * 4 * config.rounds]


def test_who_was_refused_after_an_absent_one_is_found_by_its_place(longer: aq.Problem) -> None:
    """Updates come from those who were present: their places are not those of the participants."""
    ended, config, policy = rounds_of(longer)[-2], longer.config, policy_of(longer)
    who = int(longer.contribution.argmax())
    away = (who - 1) % 4
    widths = tuple(0.0 if i == away else 1.0 for i in range(4))
    here = tuple(u for u in ended.updates if u.participant != away)
    later = replace(ended, widths=widths, updates=here, next_widths=(1.0,) * 4)
    honest, refused = policy(config, later), policy(config, replace(later, left_out=(who,)))
    assert refused[who] < honest[who]
    assert np.delete(refused, who).tolist() == np.delete(honest, who).tolist()


def test_who_was_absent_holds_a_certified_width_too(problem: aq.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certified widths have gaps: what an absent participant held may lie in one of them."""
    policy, config, ended = policy_of(problem, 1.0, 0.95), problem.config, rounds_of(problem)[0]
    gap = [w for w in GRID if 0.3 <= w <= 0.7]

    def with_gap(curve: aq.Curve, contribution, *rest) -> np.ndarray:
        return np.tile(~np.isin(curve.widths, gap), (len(contribution), 1))

    monkeypatch.setattr(sys.modules["aequa_lite.training_time"], "certified", with_gap)
    held = (0.5, 1.0, 1.0, 1.0)
    later = replace(ended, widths=(0.0, 1.0, 1.0, 1.0), updates=ended.updates[1:], next_widths=held)
    assert policy(config, later)[0] == max(w for w in GRID if w < 0.3)
    assert policy(config, replace(later, next_widths=(1.0,) * 4))[0] == 1.0


def test_the_word_of_a_schedule_takes_a_confidence() -> None:
    assert aq.registry.lookup("schedule", "training_time(0.02, confidence=0.95)").keywords["confidence"] == 0.95


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_the_vectorised_run_is_the_plain_one(problem: aq.Problem, confidence: float | None) -> None:
    modest = replace(problem, contribution=np.linspace(0.0, 0.1, 4))  # so that widths differ from the start
    policy, inner, found = policy_of(modest, 0.0, confidence), aq.slimmable(aq.MLP), {}
    for at_once in (False, True):
        sent: list = []

        def watched(state, participant, width, sent=sent):
            sent.append(inner.broadcast(state, participant, width))
            return sent[-1]

        rounds = rounds_of(problem, policy=policy, strategy=replace(inner, broadcast=watched), vectorized=at_once)[:4]
        found[at_once] = rounds, sent[: 4 * problem.config.participants]
    (plain, sent), (stacked, sent_at_once) = found[False], found[True]
    assert [each.widths for each in plain] == [each.widths for each in stacked]
    assert min(min(each.widths) for each in plain) < 1.0
    for one, other in [*zip(sent, sent_at_once, strict=True), (plain[-1].theta, stacked[-1].theta)]:
        assert {k: t.shape for k, t in one.items()} == {k: t.shape for k, t in other.items()}
        assert all(torch.allclose(t, other[k], atol=1e-4) for k, t in one.items())


def test_slices_of_a_network_that_is_not_convex_stay_within_the_stated_margins(data: aq.Dataset) -> None:
    """On the test split, whose own error is bounded in the same way; the contributions are those of the schedule."""
    config = aq.Config(participants=5, rounds=8, local_steps=10)
    shards = aq.data.class_imbalance(data.train, config)
    problem = assess(aq.MLP, shards, config, data, progress=False)
    b, tests, seen = problem.contribution, 2 * len(GRID) * config.rounds, 0
    behind = b.max() - b
    for confidence in (None, 0.95):
        for last in rounds_of(problem, policy=policy_of(problem, 0.02, confidence))[:-1]:
            widths = policy_of(problem, 0.02, confidence)(config, last)
            on = partial(aq.accuracy_curve, aq.MLP, last.theta, grid=GRID)
            curve, test = on(problem.validation), on(data.test)
            place = np.searchsorted(curve.widths, widths)
            wrong = aq.Curve(test.widths, 1 - test.accuracy, test.samples, ~test.correct)
            short, errors = upper_bounds(wrong, 0.95, tests)  # lower bounds on the accuracies
            paired, plain = -short[place], 1 - errors[place]
            excess = np.maximum(paired, np.minimum(paired + behind, plain - b)) - 0.02
            margin = 0.0 if confidence else held_margin(curve, b, 0.95, tests)[place]
            assert ((excess <= margin) | (place == 0)).all()
            seen += int((np.array(widths) < 1).sum())
    assert seen > 10  # decisions that could have been wrong


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.5, float("nan"), "high", True])
def test_a_confidence_that_is_none_is_refused_before_any_work(confidence: object) -> None:
    with pytest.raises(ValueError, match=r"`confidence` must be a number in \(0, 1\) or None, got"):
        aq.training_time(confidence=confidence)


def test_bounds_need_to_know_which_samples_were_correct() -> None:
    with pytest.raises(ValueError, match="`curve` must be measured, with its correct samples, got"):
        upper_bounds(aq.Curve((0.5, 1.0), (0.4, 0.5), 100), 0.95)
    with pytest.raises(ValueError, match="`tests` must be a whole number from 1, got 0"):
        upper_bounds(drawn(np.array([0.5, 0.6]), 100, aq.stream(0, "few")), 0.95, 0)


def test_a_rule_that_is_undefined_while_nobody_gains_does_not_end_the_run() -> None:
    rule = partial(aq.allocate, objective=aq.allocation.spread_per_gain())
    curve = aq.Curve((0.1, 1.0), (0.2, 0.3), samples=100)
    with pytest.raises(ValueError, match="objective"):
        rule([0.5, 0.6], curve)
    found = _earned(curve, np.array([0.5, 0.6]), rule)
    assert found.tolist() == earned_accuracy(curve, [0.5, 0.6]).tolist()
