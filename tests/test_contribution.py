"""What a participant brought: games that retrain and replay a federation, scores that look at updates alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import aequa_lite as aq

SCORES = {
    "alignment": aq.alignment,
    "class_alignment": aq.contribution.class_alignment,
    "class_shapley": aq.contribution.class_shapley,
}


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


def test_a_coalition_is_worth_what_it_trains_without_the_others(few, config, shards, rounds, start) -> None:
    game = aq.contribution.retraining_game(aq.MLP, shards, config, few.validation)
    assert game(()) == validated(few, start)  # what everyone has for nothing
    assert game({0, 1, 2}) == validated(few, rounds[-1].theta)
    two = last(aq.federate(aq.MLP, shards[1:], replace(config, participants=2), progress=False))
    assert game({1, 2}) == validated(few, two.theta)
    assert len(game) == 3


def test_coalitions_trained_side_by_side_change_no_bit(few, config, shards) -> None:
    one, four = (aq.contribution.retraining_game(aq.MLP, shards, config, few.validation) for _ in range(2))
    values = aq.shapley(one, 3)
    assert (values == aq.shapley(four, 3, count=4)).all()
    assert one.worth == four.worth
    assert values.sum() == pytest.approx(one({0, 1, 2}) - one(()))


def test_shards_that_do_not_fit_are_refused_before_any_training(few, config, shards) -> None:
    with pytest.raises(ValueError, match="shards holds 2; allowed is one for each of the 3"):
        aq.contribution.retraining_game(aq.MLP, shards[:2], config, few.validation)


def test_a_round_is_replayed_from_its_updates(few, rounds, start) -> None:
    game = aq.contribution.replay_game(aq.MLP, start, rounds[0], few.validation)
    assert game(()) == validated(few, start)
    assert game({0, 1, 2}) == validated(few, rounds[0].theta)
    assert game({1}) == validated(few, rounds[0].updates[1].state)


def test_replayed_values_sum_to_what_the_accuracy_rose_by(few, rounds, start) -> None:
    score = aq.contribution.update_shapley(aq.MLP, few.validation)
    found = list(aq.contributions(score, rounds, start))
    rises = [validated(few, rnd.theta) - validated(few, start) for rnd in rounds]
    assert [each.sum() for each in found] == pytest.approx(rises)
    never = aq.contribution.update_shapley(aq.MLP, few.validation, tolerance=2.0)  # no round moves the accuracy by 2
    assert last(aq.contributions(never, rounds, start)).tolist() == [0.0, 0.0, 0.0]


def test_a_round_may_be_solved_in_another_way(few, rounds, start) -> None:
    sampled = lambda game, n: aq.contribution.sampled_shapley(game, n, budget=400).value
    exact = last(aq.contributions(aq.contribution.update_shapley(aq.MLP, few.validation), rounds, start))
    near = last(aq.contributions(aq.contribution.update_shapley(aq.MLP, few.validation, solve=sampled), rounds, start))
    assert near == pytest.approx(exact, abs=0.05)


# --- what looks at updates ---


def made(*states: dict[str, torch.Tensor], weights=None, left_out=(), widths=None) -> aq.Round:
    """A round of these answers."""
    weights = weights or [1 / len(states)] * len(states)
    widths = widths or [1.0] * len(states)
    updates = tuple(aq.Update(i, w, s, a, 0.0) for i, (s, a, w) in enumerate(zip(states, weights, widths)))
    return aq.Round(0, states[0], tuple(widths), 0.0, 0, left_out=tuple(left_out), updates=updates)


def steps(start, n: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Answers in random directions, of random lengths."""
    draws = torch.Generator().manual_seed(seed)
    return [
        {k: t + (1 + i) * torch.randn(t.shape, generator=draws).add(0.3) for k, t in start.items()} for i in range(n)
    ]


def flat(start, state) -> np.ndarray:
    return np.concatenate([(state[k] - t).flatten().numpy().astype(float) for k, t in start.items()])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_alignment_is_cgsv_written_out(start) -> None:
    weights, r, reference = [0.2, 0.3, 0.5], np.zeros(3), None
    for seed in range(3):
        rnd = made(*steps(start, 3, seed), weights=weights)
        units = [flat(start, u.state) / np.linalg.norm(flat(start, u.state)) for u in rnd.updates]
        together = sum(w * u for w, u in zip(weights if seed == 0 else r, units))
        r = np.maximum(0.95 * r + 0.05 * np.array([cosine(u, together) for u in units]), 1e-3)
        r = r / r.sum()
        reference = aq.alignment(start, rnd, reference)
        assert reference == pytest.approx(r, abs=1e-5)


def test_alignment_by_hand() -> None:
    start = {"w": torch.zeros(2)}
    rnd = made({"w": torch.tensor([5.0, 0.0])}, {"w": torch.tensor([0.0, 0.1])}, {"w": torch.tensor([-1.0, 0.0])})
    found = aq.alignment(start, rnd)  # units sum to (0, 1): the first is orthogonal to it, the third too
    assert found == pytest.approx(np.array([1e-3, 0.05, 1e-3]) / 0.052)


def test_class_alignment_is_one_cosine_for_each_class(start) -> None:
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
        reference = aq.contribution.class_alignment(start, rnd, reference)
        assert reference == pytest.approx(gamma, abs=1e-5)


def test_class_shapley_is_the_mean_of_the_classes_values(start) -> None:
    weights = [0.2, 0.3, 0.5]
    rnd = made(*steps(start, 3), weights=weights)
    rows = np.stack([np.column_stack([(u.state[f"6.{k}"] - start[f"6.{k}"]).numpy().reshape(10, -1)
                                      for k in ("weight", "bias")]) for u in rnd.updates])  # fmt: skip

    def game_of(k: int, coalition: frozenset[int]) -> float:
        some = sum((weights[i] * rows[i, k] for i in coalition), np.zeros(rows.shape[2]))
        return cosine(some, np.einsum("i,id->d", weights, rows[:, k])) if coalition else 0.0

    apart = np.mean([aq.shapley(partial(game_of, k), 3) for k in range(10)], axis=0)
    found = aq.contribution.class_shapley(start, rnd)
    assert found == pytest.approx(apart, abs=1e-5)
    assert found.sum() == pytest.approx(1, abs=1e-6)


def test_one_cosine_for_each_class_is_no_shapley_value(start) -> None:
    rnd = made(*steps(start, 3))
    assert (
        aq.contribution.class_alignment(start, rnd).sum() > 1.2
    )  # the coalition of all is worth 1, and more is handed out


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_the_length_of_the_learning_rate_does_not_matter(score, start) -> None:
    short = [{k: start[k] + 0.25 * (t - start[k]) for k, t in each.items()} for each in steps(start, 3)]
    assert score(start, made(*short)) == pytest.approx(score(start, made(*steps(start, 3))), abs=1e-5)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_a_copied_update_scores_as_much_as_the_one_it_copies(score, start) -> None:
    one, other = steps(start, 2)
    found = score(start, made(one, other, {k: t.clone() for k, t in one.items()}))
    assert found[0] == pytest.approx(found[2], abs=1e-12)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_whoever_changed_nothing_or_was_left_out_is_aligned_with_nothing(score, start) -> None:
    one, other = steps(start, 2)
    poison = {k: t * float("nan") for k, t in one.items()}
    idle = score(start, made(one, other, start))
    broken = score(start, made(one, other, poison, left_out=[2]))
    assert idle[2] == pytest.approx(0.0 if score is not aq.alignment else 1e-3 / 0.05, abs=0.02)
    assert idle[2] < 0.1 * idle[:2].min()
    assert np.isfinite(broken).all()
    assert broken == pytest.approx(idle, abs=1e-6)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_a_narrow_update_counts_as_no_change_where_it_holds_nothing(score, start) -> None:
    wide, other = steps(start, 2)
    narrow = {k: t.clone() for k, t in aq.slice_of(aq.MLP, wide, 0.5).items()}
    filled = {k: t.clone() for k, t in start.items()}
    for k, t in narrow.items():
        filled[k][aq.prefix(t.shape)] = t
    found = score(start, made(other, narrow, widths=[1.0, 0.5]))
    assert found == pytest.approx(score(start, made(other, filled)), abs=1e-12)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_scores_are_carried_through_the_rounds_as_they_come(score, few, config, shards, rounds, start) -> None:
    live = aq.contributions(score, aq.federate(aq.MLP, shards, config, progress=False), start)
    scores, before = None, start
    for rnd, streamed in zip(rounds, live, strict=True):
        scores, before = score(before, rnd, scores), rnd.theta
        assert (scores == streamed).all()


def test_a_participant_that_flips_its_labels_is_worth_less_by_every_game(few, config) -> None:
    clean = aq.data.homogeneous(few.train, config)
    flipped = aq.data.label_noise(clean, config, rates=(0.0, 0.0, 1.0))
    longer = replace(config, rounds=4, local_steps=10)
    game = aq.contribution.retraining_game(aq.MLP, flipped, longer, few.validation)
    rounds = aq.federate(aq.MLP, flipped, longer, progress=False)
    replay = last(
        aq.contributions(
            aq.contribution.update_shapley(aq.MLP, few.validation), rounds, aq.init_params(aq.MLP, longer.seed)
        )
    )
    for values in (aq.shapley(game, 3), aq.contribution.leave_one_out(game, 3), replay):
        assert values.argmin() == 2
        assert values[2] < 0
