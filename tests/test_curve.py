"""A curve is monotone, weighted by precision, and realised by its smallest widths."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aequa_lite as aq
from aequa_lite import evaluation, vectorized

many_times = settings(derandomize=True, deadline=None, max_examples=200)
values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@many_times
@given(a=values)
def test_the_fit_rises_and_is_constant_on_its_blocks(a: list[float]) -> None:
    curve = aq.Curve(np.linspace(0.1, 1, len(a)) if len(a) > 1 else [1.0], a, samples=500)
    assert (np.diff(curve.fitted) >= 0).all()
    assert (np.diff(curve.levels) > 0).all()
    assert set(curve.levels) <= set(curve.fitted)
    assert len(curve.levels) == len(curve.level_widths)


@many_times
@given(a=values)
def test_each_level_is_attained_first_at_its_width(a: list[float]) -> None:
    curve = aq.Curve(np.linspace(0.1, 1, len(a)) if len(a) > 1 else [1.0], a, samples=500)
    for level, width in zip(curve.levels, curve.level_widths):
        assert curve.width_at(float(level)) == width
        assert (curve.fitted[curve.widths < width] < level).all()


def test_a_dip_is_pooled_with_its_neighbour_by_precision() -> None:
    curve = aq.Curve((0.2, 0.5, 1.0), (0.3, 0.7, 0.6), samples=1000)
    weights = curve.standard_error[1:] ** -2.0
    assert curve.levels.tolist() == pytest.approx([0.3, float(weights @ [0.7, 0.6] / weights.sum())])
    assert curve.level_widths.tolist() == [0.2, 0.5]


def test_a_rising_curve_is_left_as_it_is() -> None:
    curve = aq.Curve((0.2, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
    assert curve.levels.tolist() == [0.3, 0.6, 0.8]


def test_the_standard_error_is_the_binomial_one_and_never_zero() -> None:
    curve = aq.Curve((0.2, 0.5, 1.0), (0.0, 0.5, 1.0), samples=10_000)
    assert curve.standard_error[1] == pytest.approx(0.005, rel=1e-3)
    assert (curve.standard_error > 0).all()


def test_a_level_is_reached_up_to_rounding() -> None:
    curve = aq.Curve((0.2, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
    assert 0.1 + 0.2 > 0.3  # in sixteen digits
    assert curve.width_at(0.1 + 0.2) == 0.2


def test_a_curve_does_not_change_with_the_arrays_it_was_made_of() -> None:
    widths, accuracy = np.array([0.5, 1.0]), np.array([0.1, 0.2])
    curve = aq.Curve(widths, accuracy, 10)
    widths[0], accuracy[0] = 0.7, 0.9  # which their owner may still do
    assert (curve.widths.tolist(), curve.accuracy.tolist()) == ([0.5, 1.0], [0.1, 0.2])


def test_an_accuracy_that_no_width_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`accuracy` must be a number in \[0, 0.8\], got 0.9"):
        aq.Curve((0.5, 1.0), (0.3, 0.8), samples=10).width_at(0.9)


@pytest.mark.parametrize(
    ("widths", "accuracy", "samples", "said"),
    [
        ((0.5, 0.5), (0.1, 0.2), 10, "widths"),
        ((0.0, 0.5), (0.1, 0.2), 10, "widths"),
        ((), (), 10, "widths"),
        ((0.5, 1.0), (0.1, 1.2), 10, "accuracy"),
        ((0.5, 1.0), (0.1, float("nan")), 10, "accuracy"),
        ((0.5, 1.0), (0.1,), 10, "accuracy"),
        ((0.5, 1.0), (0.1, 0.2), 0, "samples"),
    ],
)
def test_what_is_no_curve_is_refused(widths: tuple, accuracy: tuple, samples: int, said: str) -> None:
    with pytest.raises(ValueError, match=f"`{said}` must be"):
        aq.Curve(widths, accuracy, samples)


def test_a_curve_cannot_be_changed() -> None:
    curve = aq.Curve((0.5, 1.0), (0.1, 0.2), 10)
    with pytest.raises(ValueError, match="read-only"):
        curve.accuracy[0] = 0.9


@pytest.mark.parametrize(
    ("contribution", "said"),
    [([0.4, 0.95], "below the best participant"), ([0.05, 0.85], "lower min_width"), ([0.35, 0.85], "far apart")],
)
def test_the_range_report_names_what_to_change(contribution: list[float], said: str) -> None:
    curve = aq.Curve((0.1, 0.5, 1.0), (0.3, 0.7, 0.9), samples=4000)
    assert said in aq.curve_diagnostics(curve, contribution)["advice"]


def test_a_good_currency_is_told_so() -> None:
    curve = aq.Curve(np.linspace(0.02, 1, 100), np.linspace(0.3, 0.9, 100), samples=4000)
    found = aq.curve_diagnostics(curve, [0.21, 0.8])
    assert found["covers"]
    assert "small steps" in found["advice"]


def test_a_range_that_is_too_wide_is_told_with_the_least_width_that_covers() -> None:
    curve = aq.Curve(np.linspace(0.02, 1, 100), np.linspace(0.3, 0.9, 100), samples=4000)
    found = aq.curve_diagnostics(curve, [0.7, 0.8])  # rewards lie between 0.8 and 0.9
    assert "may be raised" in found["advice"]
    raised = curve.widths >= found["least_width"]
    again = aq.curve_diagnostics(aq.Curve(curve.widths[raised], curve.accuracy[raised], 4000), [0.7, 0.8])
    assert again["covers"]
    assert again["advice"] == "the curve covers the contributions in small steps"


def test_noise_counts_only_where_rewards_lie() -> None:
    curve = aq.Curve((0.1, 0.4, 0.8, 0.9, 1.0), (0.5, 0.55, 0.6, 0.98, 0.99), samples=100)
    found = aq.curve_diagnostics(curve, [0.97, 0.98])  # rewards lie between 0.98 and 0.99
    assert found["noise"] == pytest.approx(2 * np.median(curve.standard_error[3:]))
    assert found["noise"] < 0.7 * 2 * np.median(curve.standard_error)


def test_steps_count_only_where_rewards_lie() -> None:
    curve = aq.Curve((0.1, 0.5, 0.9, 1.0), (0.3, 0.7, 0.71, 0.72), samples=4000)
    assert aq.curve_diagnostics(curve, [0.6, 0.61])["largest_step"] == pytest.approx(0.01)
    assert aq.curve_diagnostics(curve, [0.3, 0.6])["largest_step"] == pytest.approx(0.4)


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("fraction_grid", [None, 20])
@pytest.mark.parametrize("build", [aq.MLP, partial(aq.LeNet, multiple=2)], ids=["MLP", "LeNet"])
def test_many_widths_at_once_are_right_where_each_by_itself_is(
    few: aq.Dataset, build, fraction_grid: int | None, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta, grid = aq.init_params(build, 0), (0.1, 0.333, 0.5, 0.71, 1.0)
    curve = aq.accuracy_curve(build, theta, few.validation, grid=grid, fraction_grid=fraction_grid)
    kind = few.validation.x.dtype
    with torch.no_grad():  # as where a curve is measured
        vectorized.pass_bytes.cache_clear()
        (own, first), (_, two) = (vectorized.pass_bytes(build, 1.0, (n, 1, 28, 28), kind) for n in (1, 2))
    one = two - first
    assert one > 4 * 28 * 28  # a sample and what each layer makes of it
    stacks, padded = [], evaluation.padded
    monkeypatch.setattr(evaluation, "padded", lambda like, *more: stacks.append(1) or padded(like, *more))
    # room for all, or for two widths and ten samples
    monkeypatch.setattr(vectorized, "CPU_BYTES", 1 << 40 if passes == 1 else 2 * (own + 10 * one))
    nets = [evaluation._bound(build, theta, w, fraction_grid).eval() for w in curve.widths.tolist()]
    found = evaluation._correct_at_many_widths(build, nets, nets[-1], few.validation, torch.device("cpu"))
    assert (len(stacks) > 1) == (passes > 1)
    assert found.shape == curve.correct.shape
    assert (found != curve.correct).mean() < 1e-3  # two logits may be equal up to rounding
