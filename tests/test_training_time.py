"""Rewards while training: what leaves the server, who may hold what, and how it is settled."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import aequa_lite as aq
from aequa_lite.method import assess, slimmable_rewards, train
from aequa_lite.slimmable import prefix
from aequa_lite.training_time import GRID, earned_accuracy, held_models, settle, widest_within

QUIET = partial(train, progress=False)


@pytest.fixture
def config() -> aq.Config:
    """Four participants, a dozen short rounds."""
    return aq.Config(participants=4, rounds=12, local_steps=5, lr=0.03)


@pytest.fixture
def problem(few: aq.Dataset, config: aq.Config) -> aq.Problem:
    """Shards of very different size, with the models trained alone."""
    return assess(aq.MLP, aq.data.power_law(few.train, config), config, few, progress=False)


def policy_of(problem: aq.Problem, allowance: float = 0.02):
    return aq.training_time(allowance)(problem.build, problem.validation, problem.contribution)


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


def test_the_rewards_are_slices_of_the_final_network_within_what_is_held(problem: aq.Problem) -> None:
    outcome = slimmable_rewards(problem, schedule=aq.training_time(0.02), train=QUIET)
    held = policy_of(problem)(problem.config, outcome.last)
    assert (outcome.plan.widths <= np.array(held) + 1e-9).all()
    assert aq.report(outcome).widths == tuple(round(w, 6) for w in outcome.plan.widths)


def test_with_a_boundless_allowance_training_is_that_of_post_training_rewards(problem: aq.Problem) -> None:
    while_training = slimmable_rewards(problem, schedule=aq.training_time(1.0), train=QUIET)
    after = slimmable_rewards(problem, train=QUIET)
    assert all(torch.equal(t, after.last.theta[k]) for k, t in while_training.last.theta.items())
    assert while_training.plan.widths.tolist() == after.plan.widths.tolist()


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
        assert (held.index, held.widths, held.parameters_sent) == (each.index, each.widths, each.parameters_sent)


@pytest.mark.parametrize(
    ("allowance", "grid"), [(-0.1, GRID), (1.5, GRID), (float("nan"), GRID), ("much", GRID), (0.02, (0.0, 1.0))]
)
def test_a_schedule_that_is_none_is_refused_before_any_work(allowance, grid) -> None:
    with pytest.raises(ValueError, match=r"`(allowance|grid)` must be a (finite )?number"):
        aq.training_time(allowance, grid)
