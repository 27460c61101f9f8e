"""Contribution: games that retrain and replay a federation, scores of updates, and what both refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import aequa_lite as aq
from aequa_lite.contribution import (
    alignment,
    class_alignment,
    class_shapley,
    contributions,
    leave_one_out,
    replay_game,
    retraining_game,
    sampled_shapley,
    update_shapley,
)
from aequa_lite.types import ServerState

SCORES = {"alignment": alignment, "class_alignment": class_alignment, "class_shapley": class_shapley}


@pytest.fixture(scope="module")
def shards(few: aq.Dataset) -> list[aq.Shard]:
    return aq.data.by_size(few.train, aq.Config(participants=3), sizes=(20, 100, 400))


@pytest.fixture
def rounds(few: aq.Dataset, config: aq.Config, shards: list[aq.Shard]) -> list[aq.Round]:
    return list(aq.federate(aq.MLP, shards, config, progress=False))


@pytest.fixture
def start(config: aq.Config) -> dict[str, torch.Tensor]:
    return aq.init_params(aq.MLP, config.seed)


def last(found):
    *_, final = found
    return final


def validated(few: aq.Dataset, theta) -> float:
    return float(aq.accuracy([aq.slim(aq.MLP, theta, 1.0)], few.validation)[0])


# --- games ---


def test_the_value_of_a_coalition_is_the_accuracy_it_reaches_without_the_others(
    few, config, shards, rounds, start
) -> None:
    game = retraining_game(aq.MLP, shards, config, few.validation)
    assert game(()) == validated(few, start)  # the initial network
    assert game({0, 1, 2}) == validated(few, rounds[-1].theta)
    two = last(aq.federate(aq.MLP, shards[1:], replace(config, participants=2), progress=False))
    assert game({1, 2}) == validated(few, two.theta)
    assert len(game) == 3


def test_coalitions_trained_again_change_no_bit(few, config, shards) -> None:
    one, again = (retraining_game(aq.MLP, shards, config, few.validation) for _ in range(2))
    values = aq.shapley(one, 3)
    assert (values == aq.shapley(again, 3)).all()
    assert one.values == again.values
    assert values.sum() == pytest.approx(one({0, 1, 2}) - one(()))


def test_a_round_is_replayed_from_its_updates(few, rounds, start) -> None:
    game = replay_game(aq.MLP, start, rounds[0], few.validation)
    assert game(()) == validated(few, start)
    assert game({0, 1, 2}) == validated(few, rounds[0].theta)
    assert game({1}) == validated(few, rounds[0].updates[1].state)


def test_a_refused_update_changes_no_coalition(few, rounds, start) -> None:
    rnd = replace(rounds[0], left_out=(1,))
    game = replay_game(aq.MLP, start, rnd, few.validation)
    assert game({1}) == game(()) == validated(few, start)
    assert game({0, 1}) == game({0}) == validated(few, rnd.updates[0].state)


def test_the_empty_coalition_has_the_initial_network_of_the_runs_seed(few, config, shards) -> None:
    other = replace(config, seed=5)
    game = retraining_game(aq.MLP, shards, other, few.validation)
    assert game(()) == validated(few, aq.init_params(aq.MLP, 5)) != validated(few, aq.init_params(aq.MLP, 0))


def test_the_values_of_replayed_rounds_sum_to_the_gain_in_accuracy(few, rounds, start) -> None:
    score = update_shapley(aq.MLP, few.validation)
    found = list(contributions(score, rounds, start))
    rises = [validated(few, rnd.theta) - validated(few, start) for rnd in rounds]
    assert [each.sum() for each in found] == pytest.approx(rises)
    never = update_shapley(aq.MLP, few.validation, tolerance=2.0)  # no round moves the accuracy by 2
    assert last(contributions(never, rounds, start)).tolist() == [0.0, 0.0, 0.0]


def test_another_solver_may_replace_the_exact_one(few, rounds, start) -> None:
    sampled = lambda game, n: sampled_shapley(game, n, budget=400).value
    exact = last(contributions(update_shapley(aq.MLP, few.validation), rounds, start))
    near = last(contributions(update_shapley(aq.MLP, few.validation, solve=sampled), rounds, start))
    assert near == pytest.approx(exact, abs=0.05)


# --- scores of updates ---


def made(*states: dict[str, torch.Tensor], weights=None, left_out=(), widths=None) -> aq.Round:
    """A round of these updates."""
    weights = weights or [1 / len(states)] * len(states)
    widths = widths or [1.0] * len(states)
    updates = tuple(aq.Update(i, w, s, a, 0.0) for i, (s, a, w) in enumerate(zip(states, weights, widths)))
    return aq.Round(0, ServerState(states[0]), tuple(widths), 0.0, 0, left_out=tuple(left_out), updates=updates)


def steps(start, n: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Updates in random directions, of different lengths."""
    rng = torch.Generator().manual_seed(seed)
    return [{k: t + (1 + i) * torch.randn(t.shape, generator=rng).add(0.3) for k, t in start.items()} for i in range(n)]


def flat(start, state) -> np.ndarray:
    return np.concatenate([(state[k] - t).flatten().numpy().astype(float) for k, t in start.items()])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_alignment_is_the_formula_of_cgsv(start) -> None:
    weights, r, reference = [0.2, 0.3, 0.5], np.zeros(3), None
    for seed in range(3):
        rnd = made(*steps(start, 3, seed), weights=weights)
        units = [flat(start, u.state) / np.linalg.norm(flat(start, u.state)) for u in rnd.updates]
        together = sum(w * u for w, u in zip(weights if seed == 0 else r, units))
        r = np.maximum(0.95 * r + 0.05 * np.array([cosine(u, together) for u in units]), 1e-3)
        r = r / r.sum()
        reference = alignment(start, rnd, reference)
        assert reference == pytest.approx(r, abs=1e-5)


def test_scores_of_many_participants_do_not_depend_on_the_number_of_threads() -> None:
    code = """
import torch
from aequa_lite.contribution import alignment, class_alignment
from aequa_lite.types import Round, ServerState, Update

rng, start = torch.Generator().manual_seed(0), {"w": torch.zeros(10, 20_000)}
states = [{"w": torch.randn(10, 20_000, generator=rng)} for _ in range(12)]
updates = [Update(i, 1.0, state, 0.1 + i, 0.0) for i, state in enumerate(states)]
rnd = Round(0, ServerState(start), (), 0.0, 0, updates=tuple(updates))
for score in (alignment, class_alignment):
    print([float(each).hex() for each in score(start, rnd)])
"""
    found = set()
    for threads in ("1", "2", "4"):
        own = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
        found.add(run.stdout)
    assert len(found) == 1


def with_dropout(width: float = 1.0) -> torch.nn.Sequential:
    *lower, last = aq.MLP(width)
    return torch.nn.Sequential(*lower, torch.nn.Dropout(0.5), last)


def test_a_coalition_is_worth_what_its_network_reaches_when_it_is_used(
    few: aq.Dataset, config: aq.Config, shards
) -> None:
    *_, last = aq.federate(with_dropout, shards, config, progress=False)
    (reached,) = aq.accuracy([aq.slim(with_dropout, last.theta, 1.0)], few.validation)
    for _ in range(3):
        game = replay_game(with_dropout, last.before.theta, last, few.validation)
        assert game({0, 1, 2}) == reached


def test_alignment_by_hand() -> None:
    start = {"w": torch.zeros(2)}
    rnd = made({"w": torch.tensor([5.0, 0.0])}, {"w": torch.tensor([0.0, 0.1])}, {"w": torch.tensor([-1.0, 0.0])})
    found = alignment(start, rnd)  # units sum to (0, 1): the first is orthogonal to it, the third too
    assert found == pytest.approx(np.array([1e-3, 0.05, 1e-3]) / 0.052)


def test_class_alignment_is_the_mean_of_one_cosine_for_each_class(start) -> None:
    weights, gamma, reference = [0.2, 0.3, 0.5], None, None
    for seed in range(3):
        rnd = made(*steps(start, 3, seed), weights=weights)
        rows = [
            torch.cat([u.state["6.weight"] - start["6.weight"], (u.state["6.bias"] - start["6.bias"])[:, None]], 1)
            for u in rnd.updates
        ]
        together = sum(w * each for w, each in zip(weights, rows))
        phi = np.array([torch.cosine_similarity(each, together, dim=1).mean() for each in rows])
        gamma = phi if gamma is None else 0.9 * gamma + 0.1 * phi
        reference = class_alignment(start, rnd, reference)
        assert reference == pytest.approx(gamma, abs=1e-5)


def test_a_score_does_not_depend_on_how_small_the_changes_are() -> None:
    start, moves = {"weight": torch.zeros(1, 2)}, torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])
    for score in SCORES.values():
        small, large = (score(start, made(*({"weight": scale * move} for move in moves))) for scale in (1e-6, 1.0))
        assert small == pytest.approx(large, rel=1e-5)


def test_class_shapley_is_the_mean_of_the_shapley_values_of_the_classes(start) -> None:
    weights = [0.2, 0.3, 0.5]
    rnd = made(*steps(start, 3), weights=weights)
    rows = np.stack([np.column_stack([(u.state[f"6.{k}"] - start[f"6.{k}"]).numpy().reshape(10, -1)
                                      for k in ("weight", "bias")]) for u in rnd.updates])  # fmt: skip

    def game_of(k: int, coalition: frozenset[int]) -> float:
        some = sum((weights[i] * rows[i, k] for i in coalition), np.zeros(rows.shape[2]))
        return cosine(some, np.einsum("i,id->d", weights, rows[:, k])) if coalition else 0.0

    apart = np.mean([aq.shapley(partial(game_of, k), 3) for k in range(10)], axis=0)
    found = class_shapley(start, rnd)
    assert found == pytest.approx(apart, abs=1e-5)
    assert found.sum() == pytest.approx(1, abs=1e-6)


def test_class_alignment_is_no_shapley_value(start) -> None:
    rnd = made(*steps(start, 3))
    assert class_alignment(start, rnd).sum() > 1.2  # the value of the coalition of all is 1


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_scores_do_not_depend_on_the_learning_rate(score, start) -> None:
    short = [{k: start[k] + 0.25 * (t - start[k]) for k, t in each.items()} for each in steps(start, 3)]
    assert score(start, made(*short)) == pytest.approx(score(start, made(*steps(start, 3))), abs=1e-5)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_a_copied_update_has_the_same_score_as_the_original(score, start) -> None:
    one, other = steps(start, 2)
    found = score(start, made(one, other, {k: t.clone() for k, t in one.items()}))
    assert found[0] == pytest.approx(found[2], abs=1e-12)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_no_change_and_a_refused_update_score_the_same_and_least(score, start) -> None:
    one, other = steps(start, 2)
    poison = {k: t * float("nan") for k, t in one.items()}
    idle = score(start, made(one, other, start))
    broken = score(start, made(one, other, poison, left_out=[2]))
    assert idle[2] == pytest.approx(0.0 if score is not alignment else 1e-3 / 0.05, abs=0.02)
    assert idle[2] < 0.1 * idle[:2].min()
    assert np.isfinite(broken).all()
    assert broken == pytest.approx(idle, abs=1e-6)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_a_first_update_without_tensors_is_a_zero(score, rounds, start) -> None:
    rnd = rounds[0]
    empty = replace(rnd.updates[0], state={})  # what stands in place of one that could not be read
    nothing = replace(rnd.updates[0], state=start)
    found, zero = (
        score(start, replace(rnd, updates=(first, *rnd.updates[1:]), left_out=(0,))) for first in (empty, nothing)
    )
    assert (found == zero).all()


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_a_narrow_update_is_no_change_outside_its_slice(score, start) -> None:
    wide, other = steps(start, 2)
    narrow = {k: t.clone() for k, t in aq.slice_of(aq.MLP, wide, 0.5).items()}
    filled = {k: t.clone() for k, t in start.items()}
    for k, t in narrow.items():
        filled[k][aq.prefix(t.shape)] = t
    found = score(start, made(other, narrow, widths=[1.0, 0.5]))
    assert found == pytest.approx(score(start, made(other, filled)), abs=1e-12)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_scores_are_carried_through_the_rounds_of_a_running_federation(
    score, few, config, shards, rounds, start
) -> None:
    live = contributions(score, aq.federate(aq.MLP, shards, config, progress=False), start)
    scores, before = None, start
    for rnd, found in zip(rounds, live, strict=True):
        scores, before = score(before, rnd, scores), rnd.theta
        assert (scores == found).all()


def test_a_participant_that_flips_its_labels_has_the_least_value_in_every_game(few, config) -> None:
    clean = aq.data.homogeneous(few.train, config)
    flipped = aq.data.label_noise(clean, config, rates=(0.0, 0.0, 1.0))
    longer = replace(config, rounds=4, local_steps=10)
    game = retraining_game(aq.MLP, flipped, longer, few.validation)
    rounds = aq.federate(aq.MLP, flipped, longer, progress=False)
    replay = last(contributions(update_shapley(aq.MLP, few.validation), rounds, aq.init_params(aq.MLP, longer.seed)))
    for values in (aq.shapley(game, 3), leave_one_out(game, 3), replay):
        assert values.argmin() == 2
        assert values[2] < 0


# --- refusals ---

START = {"w": torch.zeros(2)}
ROUND = made({"w": torch.ones(2)}, {"w": torch.ones(2)})
NO_SAMPLES = aq.Samples(torch.zeros(0, 2), torch.zeros(0).long(), 2)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"before": None}, "`before` must be tensors by name, got None"),
        ({"before": {}}, "`before` must be tensors by name, got {}"),
        ({"rnd": replace(ROUND, updates=())}, "`rnd` must be a Round that holds its updates, got Round"),
        ({"rnd": 3}, "`rnd` must be a Round, got 3"),
        ({"scores": np.ones(3)}, "`scores` must hold one entry for each of the 2 updates, got 3 entries"),
        ({"scores": [0.5, float("nan")]}, "`scores` must be one finite number for each participant, got"),
        ({"scores": "half"}, "`scores` must be an array of numbers or None, got 'half'"),
    ],
)
def test_a_score_refuses_what_is_no_round(score, wrong: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        score(**{"before": START, "rnd": ROUND, "scores": None, **wrong})


def test_a_class_wise_score_needs_a_matrix() -> None:
    with pytest.raises(ValueError, match=r"`before` must be a model with a matrix, got \['w'\]"):
        class_alignment(START, ROUND)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda few: alignment(START, ROUND, alpha=1.5), r"`alpha` must be a number in \[0, 1\], got 1.5"),
        (lambda few: alignment(START, ROUND, floor=0.0), "`floor` must be a number above 0, got 0.0"),
        (lambda few: update_shapley(aq.MLP, NO_SAMPLES), "`validation` must be Samples, at least one"),
        (lambda few: update_shapley(aq.MLP, few.validation, solve=3), "`solve` must be a function, got 3"),
        (lambda few: update_shapley(aq.MLP, few.validation, tolerance=-1), "`tolerance` must be a number from 0, got"),
        (lambda few: replay_game(aq.MLP, START, ROUND, None), "`validation` must be Samples, at least one, got None"),
        (lambda few: replay_game(aq.MLP, START, None, few.validation), "`rnd` must be a Round, got None"),
        (lambda few: next(contributions(3, [ROUND], START)), "`score` must be a function.*, got 3"),
        (lambda few: next(contributions(alignment, [ROUND], {})), "`start` must be tensors by name"),
    ],
)
def test_arguments_that_make_no_score_are_refused(few: aq.Dataset, call, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call(few)


def test_shards_that_do_not_fit_are_refused_before_any_training(few, config, shards) -> None:
    with pytest.raises(ValueError, match="`shards` must hold one entry for each of the 3 participants, got 2 entries"):
        retraining_game(aq.MLP, shards[:2], config, few.validation)
    with pytest.raises(ValueError, match="`validation` must be (a )?Samples.*, got 'all'"):
        retraining_game(aq.MLP, shards, config, "all")


@pytest.mark.parametrize("score", [alignment, class_alignment, class_shapley])
def test_scores_may_be_any_sequence(score) -> None:
    start = {"w": torch.zeros(2, 3)}
    rnd = made({"w": torch.ones(2, 3)}, {"w": torch.eye(2, 3)})
    first = score(start, rnd)
    assert np.array_equal(score(start, rnd, first.tolist()), score(start, rnd, first))


def test_scores_stay_with_their_participants_if_not_all_take_part(few: aq.Dataset) -> None:
    config = aq.Config(participants=4, rounds=4, local_steps=1, participation=0.5)
    shards = aq.data.homogeneous(few.train, config)
    rounds = list(aq.federate(aq.MLP, shards, config, progress=False))
    start = aq.init_params(aq.MLP, config.seed)
    carried = list(aq.contributions(alignment, rounds, start))
    assert all(each.shape == (4,) for each in carried)
    for rnd, before, after in zip(rounds[1:], carried[:-1], carried[1:], strict=True):
        absent = sorted(set(range(4)) - {u.participant for u in rnd.updates})
        assert len(absent) == 2
        assert np.array_equal(after[absent], before[absent])
    wider = [rounds[0], replace(rounds[1], updates=(*rounds[1].updates, replace(rounds[1].updates[0], participant=6)))]
    *_, grown = aq.contributions(alignment, wider, start)
    assert grown.shape == (7,)
    assert grown[[4, 5]].tolist() == [0, 0]
    assert np.array_equal(carried[0][[u.participant for u in rounds[0].updates]], alignment(start, rounds[0]))
