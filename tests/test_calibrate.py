"""Calibration keeps the order, stays between its anchors, and gains are still measured from the accuracy alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aequa_lite as aq

many_times = settings(derandomize=True, deadline=None, max_examples=100)
scores = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=2, max_size=6)
accuracies = st.floats(0, 1)


def keeps_order(before: list[float], after: np.ndarray) -> bool:
    """Whether equal stays equal and more never becomes less."""
    pairs = itertools.permutations(zip(before, after), 2)
    return all((b1 != b2 or a1 == a2) and (b1 >= b2 or a1 <= a2) for (b1, a1), (b2, a2) in pairs)


@many_times
@given(s=scores, ends=st.tuples(accuracies, accuracies))
def test_affine_keeps_the_order_and_reaches_both_ends(s: list[float], ends: tuple[float, float]) -> None:
    low, high = min(ends), max(ends)
    found = aq.contribution.affine_calibration(s, low, high)
    assert keeps_order(s, found)
    assert ((found >= low - 1e-12) & (found <= high + 1e-12)).all()
    if len(set(s)) > 1:
        assert [found.min(), found.max()] == pytest.approx([low, high])


@many_times
@given(s=scores, scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
def test_affine_does_not_know_the_scores_own_scale(s: list[float], scale: float, shift: float) -> None:
    moved = aq.contribution.affine_calibration(scale * np.array(s) + shift, 0.2, 0.8)
    if np.ptp(s) > 0.01:
        assert moved == pytest.approx(aq.contribution.affine_calibration(s, 0.2, 0.8), abs=1e-6)


def test_equal_scores_become_the_middle() -> None:
    assert aq.contribution.affine_calibration([3.0, 3.0], 0.4, 0.6).tolist() == [0.5, 0.5]


@many_times
@given(s=scores, data=st.data())
def test_isotonic_keeps_the_order_and_the_range_of_what_is_known(s: list[float], data) -> None:
    known = data.draw(st.dictionaries(st.integers(0, len(s) - 1), accuracies, min_size=1))
    found = aq.contribution.isotonic_calibration(s, known)
    assert keeps_order(s, found)
    assert ((found >= min(known.values()) - 1e-12) & (found <= max(known.values()) + 1e-12)).all()


@many_times
@given(s=st.lists(st.integers(-20, 20).map(float), min_size=2, max_size=6, unique=True), data=st.data())
def test_isotonic_returns_what_is_known_where_it_rises_with_the_score(s: list[float], data) -> None:
    risen = sorted(data.draw(st.lists(accuracies, min_size=len(s), max_size=len(s))))
    known = {i: risen[rank] for rank, i in enumerate(np.argsort(s).tolist())}
    assert aq.contribution.isotonic_calibration(s, known) == pytest.approx([known[i] for i in range(len(s))])


def test_isotonic_pools_what_contradicts_the_score_and_joins_by_straight_lines() -> None:
    found = aq.contribution.isotonic_calibration([0.0, 1.0, 2.0, 4.0], known={0: 0.4, 1: 0.8, 2: 0.6})
    assert found == pytest.approx([0.4, 0.7, 0.7, 0.7])
    assert aq.contribution.isotonic_calibration([0.0, 1.0, 4.0], known={0: 0.4, 2: 0.8}) == pytest.approx(
        [0.4, 0.5, 0.8]
    )
    assert aq.contribution.isotonic_calibration([1.0, 1.0, 2.0], known={0: 0.2, 1: 0.4}) == pytest.approx(
        [0.3, 0.3, 0.3]
    )


def test_two_anchors_at_the_ends_are_the_affine_map() -> None:
    s = [0.1, -0.3, 0.7, 0.2]
    assert aq.contribution.isotonic_calibration(s, {1: 0.45, 2: 0.85}) == pytest.approx(
        aq.contribution.affine_calibration(s, 0.45, 0.85)
    )


def test_what_cannot_be_calibrated_is_refused() -> None:
    for low, high in ((0.8, 0.2), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)):
        with pytest.raises(ValueError, match="low is"):
            aq.contribution.affine_calibration([1.0, 2.0], low, high)
    for s in ([], [float("nan"), 1.0], [[1.0]]):
        with pytest.raises(ValueError, match="scores is"):
            aq.contribution.affine_calibration(s, 0, 1)
    for known in ({}, {2: 0.5}, {-1: 0.5}, {0: 1.5}):
        with pytest.raises(ValueError, match="known is"):
            aq.contribution.isotonic_calibration([1.0, 2.0], known)


def test_a_calibrated_score_decides_the_widths_and_the_accuracy_alone_who_is_worse_off() -> None:
    curve = aq.Curve(np.linspace(0.02, 1, 50), np.linspace(0.1, 0.9, 50), samples=4000)
    alone = np.array([0.5, 0.6, 0.85])
    score = aq.contribution.affine_calibration([3.0, 1.0, 2.0], alone.min(), alone.max())  # another order than alone
    plan = aq.allocate(score, curve, standalone=alone)
    assert np.argsort(plan.predicted_accuracy).tolist() == [1, 2, 0]
    assert plan.certificate.worse_off == tuple(np.flatnonzero(plan.predicted_accuracy < alone).tolist()) != ()
    kept = aq.allocate(score, curve, standalone=alone, individually_rational=True)
    assert kept.certificate.worse_off == ()
    assert (kept.predicted_accuracy >= alone - 1e-12).all()
