"""Calibration keeps the order of scores, stays in its range, and leaves gains to the stand-alone accuracy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aequa_lite as aq
from aequa_lite.contribution import affine_calibration, isotonic_calibration

many_times = settings(derandomize=True, deadline=None, max_examples=100)
scores = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=2, max_size=6)
accuracies = st.floats(0, 1)


def keeps_order(before: list[float], after: np.ndarray) -> bool:
    """Whether equal scores stay equal and a higher one never becomes lower."""
    pairs = itertools.permutations(zip(before, after), 2)
    return all((b1 != b2 or a1 == a2) and (b1 >= b2 or a1 <= a2) for (b1, a1), (b2, a2) in pairs)


@many_times
@given(s=scores, ends=st.tuples(accuracies, accuracies))
def test_affine_keeps_the_order_and_reaches_both_ends(s: list[float], ends: tuple[float, float]) -> None:
    low, high = min(ends), max(ends)
    found = affine_calibration(s, low, high)
    assert keeps_order(s, found)
    assert ((found >= low - 1e-12) & (found <= high + 1e-12)).all()
    if len(set(s)) > 1:
        assert [found.min(), found.max()] == pytest.approx([low, high])


@many_times
@given(s=scores, scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
def test_affine_does_not_depend_on_scale_and_zero_of_the_scores(s: list[float], scale: float, shift: float) -> None:
    moved = affine_calibration(scale * np.array(s) + shift, 0.2, 0.8)
    if np.ptp(s) > 0.01:
        assert moved == pytest.approx(affine_calibration(s, 0.2, 0.8), abs=1e-6)


def test_equal_scores_become_the_middle() -> None:
    assert affine_calibration([3.0, 3.0], 0.4, 0.6).tolist() == [0.5, 0.5]


@many_times
@given(s=scores, data=st.data())
def test_isotonic_keeps_the_order_and_the_range_of_the_known_accuracies(s: list[float], data) -> None:
    known = data.draw(st.dictionaries(st.integers(0, len(s) - 1), accuracies, min_size=1))
    found = isotonic_calibration(s, known)
    assert keeps_order(s, found)
    assert ((found >= min(known.values()) - 1e-12) & (found <= max(known.values()) + 1e-12)).all()


@many_times
@given(s=st.lists(st.integers(-20, 20).map(float), min_size=2, max_size=6, unique=True), data=st.data())
def test_isotonic_returns_the_known_accuracies_if_they_rise_with_the_score(s: list[float], data) -> None:
    risen = sorted(data.draw(st.lists(accuracies, min_size=len(s), max_size=len(s))))
    known = {i: risen[rank] for rank, i in enumerate(np.argsort(s).tolist())}
    assert isotonic_calibration(s, known) == pytest.approx([known[i] for i in range(len(s))])


def test_isotonic_pools_accuracies_that_contradict_the_score_and_interpolates_linearly() -> None:
    found = isotonic_calibration([0.0, 1.0, 2.0, 4.0], known={0: 0.4, 1: 0.8, 2: 0.6})
    assert found == pytest.approx([0.4, 0.7, 0.7, 0.7])
    assert isotonic_calibration([0.0, 1.0, 4.0], known={0: 0.4, 2: 0.8}) == pytest.approx([0.4, 0.5, 0.8])
    assert isotonic_calibration([1.0, 1.0, 2.0], known={0: 0.2, 1: 0.4}) == pytest.approx([0.3, 0.3, 0.3])


def test_known_accuracies_of_equal_scores_count_each_by_itself() -> None:
    found = isotonic_calibration([0.0, 0.0, 1.0], known={0: 0.8, 1: 0.6, 2: 0.4})
    assert found == pytest.approx([(0.8 + 0.6 + 0.4) / 3] * 3)


def test_two_anchors_at_the_ends_are_the_affine_map() -> None:
    s = [0.1, -0.3, 0.7, 0.2]
    assert isotonic_calibration(s, {1: 0.45, 2: 0.85}) == pytest.approx(affine_calibration(s, 0.45, 0.85))


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (0.8, 0.2, r"`low` must be a number in \[0, 0.2\], got 0.8"),
        (-0.1, 0.5, r"`low` must be a number in \[0, 1\], got -0.1"),
        (0.5, 1.1, r"`high` must be a number in \[0, 1\], got 1.1"),
        (float("nan"), 0.5, r"`low` must be a number in \[0, 1\], got nan"),
        ("low", 0.5, r"`low` must be a number in \[0, 1\], got 'low'"),
    ],
)
def test_a_range_of_no_accuracies_is_refused(low: float, high: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        affine_calibration([1.0, 2.0], low, high)


@pytest.mark.parametrize("wrong", [[], [float("nan"), 1.0], [[1.0]], "scores", None, {0: 1.0}])
def test_scores_that_are_not_finite_numbers_are_refused(wrong) -> None:
    for calibrate in (lambda s: affine_calibration(s, 0, 1), lambda s: isotonic_calibration(s, {0: 0.5})):
        with pytest.raises(ValueError, match="`scores` must be one finite number for each participant, got"):
            calibrate(wrong)


@pytest.mark.parametrize("known", [{}, {2: 0.5}, {-1: 0.5}, {0: 1.5}, {0.5: 0.5}, {0: None}, [0.5]])
def test_accuracies_of_no_participant_are_refused(known) -> None:
    with pytest.raises(ValueError, match="`known( participant| accuracy)?` must be"):
        isotonic_calibration([1.0, 2.0], known)


def test_calibrated_scores_decide_the_widths_and_stand_alone_accuracy_decides_who_is_worse_off() -> None:
    curve = aq.Curve(np.linspace(0.02, 1, 50), np.linspace(0.1, 0.9, 50), samples=4000)
    alone = np.array([0.5, 0.6, 0.85])
    score = affine_calibration([3.0, 1.0, 2.0], alone.min(), alone.max())  # not in the order of `alone`
    plan = aq.allocate(score, curve, standalone=alone)
    assert np.argsort(plan.predicted_accuracy).tolist() == [1, 2, 0]
    assert plan.certificate.worse_off == tuple(np.flatnonzero(plan.predicted_accuracy < alone).tolist()) != ()
    kept = aq.allocate(score, curve, standalone=alone, individually_rational=True)
    assert kept.certificate.worse_off == ()
    assert (kept.predicted_accuracy >= alone - 1e-12).all()
