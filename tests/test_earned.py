"""Widths that are earned while training: what leaves the server, how fast it may change, who ends where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import aequa_lite as aq
from aequa_lite.slimmable import prefix
from aequa_lite.training_time import GRID, carried_scores


@pytest.fixture
def recipe() -> aq.Config:
    """Four participants, a dozen short rounds."""
    return aq.Config(participants=4, rounds=12, local_steps=5, lr=0.03)


@pytest.fixture
def shards(few: aq.Dataset, config: aq.Config) -> list[aq.Shard]:
    """Shards of very different size."""
    return aq.data.power_law(few.train, config)


def by_own(few: aq.Dataset, **options: float) -> aq.training_time.score_schedule:
    """Widths by the accuracy of networks that were trained alone."""
    return aq.training_time.score_schedule(
        aq.training_time.own_model_accuracy(aq.MLP, few.validation), aq.MLP, few.validation, **options
    )


def rounds_of(few: aq.Dataset, shards, config, **options) -> Iterator[aq.Round]:
    """A federation whose widths are earned."""
    strategy = aq.training_time.with_own_model(aq.slimmable(aq.MLP), aq.MLP, steps=30, every=6)
    policy = options.pop("policy", None) or by_own(few)
    return aq.federate(aq.MLP, shards, config, strategy=strategy, policy=policy, progress=False, **options)


def test_nothing_leaves_the_server_that_lies_outside_a_participants_width(few, shards, config) -> None:
    inner, sent = aq.slimmable(aq.MLP), []

    def watched(state, participant, width):
        sent.append((participant, width, inner.broadcast(state, participant, width)))
        return sent[-1][2]

    rounds = list(aq.federate(aq.MLP, shards, config, strategy=replace(inner, broadcast=watched),
                              policy=aq.training_time.score_schedule(aq.alignment), progress=False))  # fmt: skip
    for k, rnd in enumerate(rounds):
        for participant, width, state in sent[4 * k : 4 * k + 4]:
            assert width == rnd.widths[participant]
            for name, t in aq.MLP(width).state_dict().items():
                assert torch.equal(state[name], rnd.before[name][prefix(t.shape)])
            assert set(state) == set(aq.MLP(width).state_dict())


def test_all_start_narrow_and_afterwards_somebody_always_holds_everything(few, shards, config) -> None:
    rounds = list(rounds_of(few, shards, config))
    assert all(set(rnd.widths) == {0.25} for rnd in rounds[:3])
    assert all(max(rnd.widths) == 1.0 for rnd in rounds[3:])
    assert all(min(rnd.widths) >= 0.03 for rnd in rounds)


def test_a_width_moves_by_no_more_than_a_step_but_for_the_one_that_must_be_full(few, shards, config) -> None:
    rounds = list(rounds_of(few, shards, config, policy=by_own(few, step=0.07)))
    for before, after in zip(rounds[:-1], rounds[1:], strict=True):
        far = [abs(a - b) > 0.07 + 1e-9 for a, b in zip(before.widths, after.widths, strict=True)]
        assert sum(far) <= 1
        assert all(after.widths[i] == 1.0 for i in np.flatnonzero(far))


def test_who_brings_more_ends_wider(few, shards, config) -> None:
    *_, last = rounds_of(few, shards, config)
    brought = np.array(last.scores)
    assert int(np.argmax(last.widths)) == int(np.argmax(brought))
    assert last.widths[int(np.argmin(brought))] == min(last.widths)


def test_a_run_that_was_killed_goes_on_to_the_same_bits(few, shards, config, tmp_path: Path) -> None:
    *_, whole = rounds_of(few, shards, config)
    path = tmp_path / "theta.safetensors"
    for rnd in rounds_of(few, shards, config, checkpoint=path):
        if rnd.index == 7:
            break
    rest = list(rounds_of(few, shards, config, checkpoint=path))
    assert rest[0].index == 8
    assert rest[-1].widths == whole.widths
    assert rest[-1].scores == whole.scores
    assert all(torch.equal(t, whole.theta[name]) for name, t in rest[-1].theta.items())


def test_a_score_stays_where_nothing_new_comes(few, shards, config) -> None:
    score = aq.training_time.own_model_accuracy(aq.MLP, few.validation)
    (first,) = list(rounds_of(few, shards, replace(config, rounds=1)))
    found = score(first.before, first, None)
    silent = replace(first, updates=tuple(replace(u, own=None) for u in first.updates))
    assert score(first.before, silent, found).tolist() == found.tolist()


def test_who_comes_late_starts_at_the_floor(few, shards, config) -> None:
    policy = aq.attacks.dropout(by_own(few), {2}, range(6))
    rounds = list(rounds_of(few, shards, config, policy=policy))
    assert all(rnd.widths[2] == 0.0 for rnd in rounds[:6])
    assert rounds[6].widths[2] == pytest.approx(0.03)


def test_who_was_left_out_keeps_its_score_and_a_stranger_gets_the_lowest(few, shards, config) -> None:
    (rnd,) = list(rounds_of(few, shards, replace(config, rounds=1)))
    lost = replace(
        rnd.updates[1], loss=float("nan"), width=0.01, state={k: t * float("nan") for k, t in rnd.before.items()}
    )
    silent = replace(rnd, updates=(rnd.updates[0], lost, *rnd.updates[2:]), left_out=(1,))
    asked = []

    def score(before, seen, scores):
        asked.append([u.participant for u in seen.updates])
        return np.array([0.6, 0.5, 0.4])

    assert carried_scores(score, replace(silent, scores=(0.1, 0.7, 0.1, 0.1)), 4).tolist() == [0.6, 0.7, 0.5, 0.4]
    assert carried_scores(score, silent, 4).tolist() == [0.6, 0.4, 0.5, 0.4]
    assert asked == [[0, 2, 3]] * 2
    for score in (
        aq.alignment,
        aq.training_time.update_accuracy(aq.MLP, few.validation),
        aq.training_time.own_model_accuracy(aq.MLP, few.validation),
    ):
        assert np.isfinite(carried_scores(score, silent, 4)).all()


def test_a_network_of_ones_own_that_is_not_finite_changes_no_score(few, shards, config) -> None:
    score = aq.training_time.own_model_accuracy(aq.MLP, few.validation)
    (rnd,) = list(rounds_of(few, shards, replace(config, rounds=1)))
    found = score(rnd.before, rnd, None)
    spoilt = {name: t * float("nan") for name, t in (rnd.updates[0].own or {}).items()}
    broken = replace(rnd, updates=(replace(rnd.updates[0], own=spoilt), *rnd.updates[1:]))
    assert score(rnd.before, broken, found)[0] == found[0]


def test_scores_that_are_accuracies_are_never_stretched(few, shards, config) -> None:
    close = np.array([0.50, 0.505, 0.51, 0.51])
    *_, last = rounds_of(few, shards, config)
    after = replace(last, scores=tuple(close))
    options = {"floor": 0.02, "step": 1.0}
    widths = {stretch: aq.training_time.score_schedule(lambda before, rnd, scores: close, aq.MLP, few.validation, stretch=stretch, **options)(
        config, after).widths for stretch in (True, False)}  # fmt: skip
    curve = aq.accuracy_curve(aq.MLP, last.theta, few.validation, grid=GRID)
    assert curve.full - curve.least > 0.05
    assert widths[True][0] == 0.02
    assert widths[False][0] == curve.width_at(curve.full - 0.01)


def test_a_cautious_merge_is_the_merge_in_its_limits() -> None:
    theta = {"w": torch.randn(4, 3), "n": torch.tensor(3)}
    narrow = ({"w": torch.randn(2, 3), "n": torch.tensor(4)}, 0.3)
    wide = [({"w": torch.randn(4, 3), "n": torch.tensor(4)}, weight) for weight in (0.1, 0.7)]
    for power, answers in ((0.0, [narrow, *wide]), (0.5, wide), (1.0, wide)):
        assert torch.equal(
            aq.training_time.damped_aggregate(power)(theta, answers)["w"], aq.aggregate(theta, answers)["w"]
        )
    assert torch.equal(
        aq.training_time.damped_aggregate(0.5)(theta, [(theta, 1.0), ({"w": theta["w"][:1]}, 1.0)])["w"], theta["w"]
    )
    assert torch.equal(aq.training_time.damped_aggregate(0.5)(theta, [narrow])["w"][2:], theta["w"][2:])


def test_the_fewer_hold_an_entry_the_shorter_its_step() -> None:
    theta = {"w": torch.zeros(3)}
    after = aq.training_time.damped_aggregate(0.5)(theta, [({"w": torch.ones(size)}, 1.0) for size in (3, 2, 2, 1)])[
        "w"
    ]
    assert after.tolist() == pytest.approx([1.0, 0.75**0.5, 0.25**0.5])


def test_a_trajectory_judges_what_was_sent(few, shards, config) -> None:
    policy = aq.attacks.dropout(by_own(few), {2}, range(2))
    rounds = list(rounds_of(few, shards, replace(config, rounds=5), policy=policy))
    for rnd, held in zip(rounds, aq.training_time.held_models(aq.MLP, rounds, few.test), strict=True):
        nets = [aq.slim(aq.MLP, rnd.before, w or 1.0) for w in rnd.widths]
        away = np.array(rnd.widths) == 0
        assert np.isnan(held.accuracy[away]).all()
        assert held.accuracy[~away].tolist() == aq.accuracy(nets, few.test)[~away].tolist()
        assert held.full == aq.accuracy([aq.slim(aq.MLP, rnd.before, 1.0)], few.test)[0]
        assert (held.index, held.widths, held.scores) == (rnd.index, rnd.widths, rnd.scores)
        assert held.parameters_sent == rnd.parameters_sent


# --- as a method ---


@pytest.fixture
def task(few: aq.Dataset, config: aq.Config, shards: list[aq.Shard]) -> aq.Problem:
    return aq.Problem(aq.MLP, shards, config, few.validation, np.array([0.3, 0.4, 0.5, 0.6]))


@pytest.mark.parametrize("score", ["own_accuracy", "arrived_accuracy", "alignment"])
def test_the_method_pays_what_the_next_round_would_send(score: str, few, shards, config, task) -> None:
    entry = aq.method.earned(score).enter(task)
    *_, last = entry.rounds(aq.MLP, shards, config, progress=False)
    paid = entry.pay(last)
    given = entry.policy(config, last)
    assert paid.plan.widths.tolist() == list(given.widths)
    assert max(given.widths) == 1.0
    for net, width in zip(paid.models, given.widths, strict=True):
        for name, t in net.state_dict().items():
            assert torch.equal(t, last.theta[name][prefix(t.shape)])
        assert aq.n_parameters(net) == aq.n_parameters(aq.MLP(width))
    alone = aq.standalone(aq.MLP, shards, replace(config, rounds=1), progress=False)
    found = aq.report(paid.models, alone, paid.plan, paid.curve, few, config, method=score)
    assert found.widths == tuple(round(w, 6) for w in given.widths)


def test_what_travels_is_the_slices_and_the_networks_trained_alone(few, shards, config, task) -> None:
    for score, own in (("own_accuracy", 4 * aq.n_parameters(aq.MLP())), ("alignment", 0)):
        for rnd in aq.method.earned(score).enter(task).rounds(aq.MLP, shards, config, progress=False):
            slices = 2 * sum(aq.n_parameters(aq.MLP(w)) for w in rnd.widths)
            assert rnd.parameters_sent == slices + (own if rnd.index in (0, 6) else 0)


def test_where_all_hold_everything_the_method_trains_as_ours_does(task, shards, config) -> None:
    entry = aq.method.earned("alignment", floor=1.0, start=1.0, logit_adjustment=0.0).enter(task)
    *_, held = entry.rounds(aq.MLP, shards, config, progress=False)
    *_, ours = aq.aequa().enter(task).rounds(aq.MLP, shards, config, progress=False)
    assert all(torch.equal(t, ours.theta[name]) for name, t in held.theta.items())


@pytest.mark.parametrize(
    ("word", "said"),
    [("earned('loudness')", "score is 'loudness'"), ("earned(power=2.0)", "power is 2.0"),
     ("earned(floor=0.0)", "floor is 0.0"), ("earned(width=1)", "allowed in its brackets")],
)  # fmt: skip
def test_a_method_that_makes_no_sense_is_refused_before_any_work(word: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aq.registry.algorithm(word)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"floor": 0.0}, "floor is 0.0"), ({"start": 1.5}, "start is 1.5"), ({"step": -1.0}, "step is -1.0"),
     ({"hands": 0.0}, "hands is 0.0"),
     ({"warm_up": 0}, "warm_up is 0")],
)  # fmt: skip
def test_what_makes_no_schedule_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aq.training_time.score_schedule(aq.alignment, **options)


@pytest.mark.parametrize(("hands", "full"), [(0.01, 1), (0.2, 2), (0.3, 3), (1.0, 10)])
def test_a_share_of_the_widest_always_holds_everything(hands: float, full: int) -> None:
    policy = aq.training_time.score_schedule(lambda before, rnd, known: np.arange(10.0), warm_up=1, hands=hands)
    given = policy(aq.Config(participants=10), None)
    state = {"w": torch.zeros(1)}
    answers = tuple(aq.Update(i, w, state, weight=1.0, loss=0.0) for i, w in enumerate(given.widths))
    following = policy(
        aq.Config(participants=10), aq.Round(0, state, given.widths, 0.0, 20, updates=answers, before=state)
    )
    assert [i for i, w in enumerate(following.widths) if w == 1] == list(range(10 - full, 10))
