"""What coalitions reach: trained once each, and predicted by a model whose error is that of coalitions left out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import aequa_lite as aq

al = aq.allocation
COUNTS = np.array([[100, 0, 0], [200, 50, 0], [0, 400, 400], [0, 0, 1200], [60, 60, 60]])
EVERY = [each for size in range(1, 6) for each in itertools.combinations(range(5), size)]
A, B, C = 0.08, 0.12, 0.4


def truth(members: tuple[int, ...]) -> float:
    """The stated model, written out once more."""
    held = [sum(int(COUNTS[i][k]) for i in members) for k in range(3)]
    covered = sum(1 for each in held if each) / 3
    return covered * (1 - A - B * (sum(held) / int(COUNTS.sum())) ** -C)


def test_every_member_receives_what_its_coalition_reaches_and_each_trains_once() -> None:
    trained: list[frozenset[int]] = []

    def value(members: frozenset[int]) -> float:
        trained.append(members)
        return 0.1 * len(members)

    game = al.trained_game(value)
    assert game((0, 2)) == game((2, 0)) == [0.2, 0.2]
    assert trained == [frozenset({0, 2})]
    plan = aq.allocate([0.3, 0.4, 0.5], aq.Curve((0.5, 1.0), (0.2, 0.6), 100))
    assert al.blocking_coalitions(plan, game) == ()
    assert len(trained) == 7


def test_the_model_is_found_where_it_is_true() -> None:
    trained = {members: truth(members) for members in EVERY[::2]}
    game = al.predicted_game(trained, COUNTS)
    assert game.coefficients == pytest.approx((A, B, C), abs=1e-3)
    assert game.error < 1e-3 < 0.05 < game.error_of_mean
    for members in EVERY:
        assert game(members) == pytest.approx([truth(members)] * len(members), abs=1e-3)


def test_a_trained_coalition_keeps_its_measured_accuracy_and_the_empty_one_is_left_out() -> None:
    trained = {frozenset(members): truth(members) for members in EVERY[:10]}
    game = al.predicted_game({**trained, frozenset({0, 1}): 0.123, frozenset(): 0.1}, COUNTS)
    assert game((0, 1)) == game((1, 0)) == [0.123, 0.123]
    assert len(game.trained) == 10


def test_the_stated_error_is_that_of_coalitions_left_out() -> None:
    noise = aq.stream(0, "noise").normal(0, 0.02, len(EVERY))
    trained = {members: float(np.clip(truth(members) + e, 0, 1)) for members, e in zip(EVERY, noise)}
    game = al.predicted_game(trained, COUNTS)
    missed, means = [], []
    for members in EVERY:
        others = {each: value for each, value in trained.items() if each != members}
        missed.append(al.predicted_game(others, COUNTS)(members)[0] - trained[members])
        means.append(sum(others.values()) / len(others) - trained[members])
    assert game.error == pytest.approx(math.sqrt(sum(e**2 for e in missed) / len(EVERY)))
    assert game.error_of_mean == pytest.approx(math.sqrt(sum(e**2 for e in means) / len(EVERY)))
    assert 0.015 < game.error < 0.04 < game.error_of_mean
    assert f"error of {game.error:.3f}, and of {game.error_of_mean:.3f} by the mean" in game.statement


def test_a_predicted_game_tells_who_would_leave() -> None:
    b = np.array([truth((i,)) for i in range(5)])
    curve = aq.Curve(np.linspace(0.02, 1, 50), np.linspace(0.1, truth((0, 1, 2, 3, 4)), 50), 1000)
    plan = aq.allocate(b, curve)
    exact = lambda members: [truth(members)] * len(members)
    game = al.predicted_game({members: truth(members) for members in EVERY[::2]}, COUNTS)
    found, expected = al.blocking_coalitions(plan, game), al.blocking_coalitions(plan, exact)
    sure = {members for members, by in expected if by > 0.002}
    assert sure
    assert sure <= {members for members, _ in found} <= {members for members, _ in expected}
    assert al.blocking_coalitions(al.stable(b, curve, game=game), game) == ()


def test_real_trainings_are_predicted_better_than_by_their_mean_where_classes_decide() -> None:
    data, config = aq.load("fashion-mini"), aq.Config(4, 2, 15, seed=1)
    shards = aq.data.label_skew(data.train, config, 2)
    value = aq.contribution.retraining_game(aq.MLP, shards, config, data.validation, progress=False)
    game = al.trained_game(value)
    plan = aq.allocate([value({i}) for i in range(4)], aq.Curve((0.5, 1.0), (0.2, 0.4), 1000))
    found = al.blocking_coalitions(plan, game)
    assert len(value) == 15
    assert all(min(game(members)) > max(plan.predicted_accuracy[list(members)]) for members, _ in found)
    predicted = al.predicted_game(value.values, aq.data.class_counts(shards))
    assert 0 < predicted.error < predicted.error_of_mean < 1


TRAINED = dict.fromkeys(EVERY[:6], 0.5)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("value", lambda: al.trained_game(0.5)),
        ("trained", lambda: al.predicted_game({(0,): 0.5, (1,): 0.5, (2,): 0.5}, COUNTS)),
        ("trained", lambda: al.predicted_game({**TRAINED, (5,): 0.5}, COUNTS)),
        ("trained", lambda: al.predicted_game({**TRAINED, (4,): 1.5}, COUNTS)),
        ("trained", lambda: al.predicted_game([0.5] * 6, COUNTS)),
        ("counts", lambda: al.predicted_game(TRAINED, [100, 200, 300])),
        ("counts", lambda: al.predicted_game(TRAINED, COUNTS * 0.5)),
        ("counts", lambda: al.predicted_game(TRAINED, COUNTS - 1)),
        ("counts", lambda: al.predicted_game(TRAINED, COUNTS * 0)),
    ],
)
def test_a_bad_argument_is_refused_by_name(name: str, call) -> None:
    with pytest.raises(ValueError, match=rf"^`{name}` must "):
        call()
