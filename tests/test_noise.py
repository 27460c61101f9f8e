"""What measurement noise leaves: intervals that cover the truth, samples that suffice, plans tested on fresh samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

import aequa_lite as aq

FINE = aq.Curve(np.linspace(0.02, 1, 50), np.linspace(0.1, 0.9, 50), samples=4000)
WIDTHS, TRUTH = np.linspace(0.1, 1, 10), np.linspace(0.4, 0.85, 10)
ALONE = np.array([0.45, 0.6, 0.75])


def measured(seed: int, samples: int, tag: str = "world") -> tuple[aq.Curve, np.ndarray]:
    """A curve and who is right alone, on one set of samples, some harder than others for every network alike."""
    rng = aq.stream(seed, tag)
    hard = rng.uniform(size=samples)
    jitter = rng.uniform(-0.1, 0.1, (len(WIDTHS) + len(ALONE), samples))
    right = np.concatenate([TRUTH, ALONE])[:, None] > (hard + jitter)
    return aq.Curve(WIDTHS, right[:10].mean(1), samples, right[:10]), right[10:]


def test_reward_intervals_narrow_with_more_validation_samples() -> None:
    def wide(samples: int) -> float:
        curve = aq.Curve(FINE.widths, FINE.accuracy, samples)
        return float(np.mean(np.diff(aq.allocation.reward_intervals([0.3, 0.5, 0.7], curve, draws=100).rewards)))

    assert wide(10_000) < 0.5 * wide(500)


def test_telling_two_rewards_apart_needs_the_samples_that_it_takes() -> None:
    curve = aq.Curve((0.5, 1.0), (0.685, 0.715), samples=1000)
    n = aq.allocation.samples_for(aq.allocation.plan_of([0, 1], curve, [0.6, 0.7]), curve)
    draws = aq.stream(0, "t").binomial(n, [0.715, 0.685], size=(4000, 2)) / n
    found = np.abs(draws[:, 0] - draws[:, 1]) > 1.96 * np.sqrt(2 * 0.7 * 0.3 / n)
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_fewer_samples_suffice_where_both_are_measured_on_the_same() -> None:
    right = np.arange(1000) < np.array([[685], [685]])  # of 1,000 samples
    right[1, 650:750] = ~right[1, 650:750]  # the second is right on 65 more and wrong on 35
    curve = aq.Curve((0.5, 1.0), right.mean(1), 1000, right)
    assert curve.accuracy.tolist() == [0.685, 0.715]
    plan = aq.allocation.plan_of([0, 1], curve, [0.6, 0.7])
    n = aq.allocation.samples_for(plan, curve)
    assert n < aq.allocation.samples_for(plan, aq.Curve(curve.widths, curve.accuracy, 1000)) / 3
    draws = aq.stream(0, "paired").multinomial(n, [0.065, 0.035, 0.9], size=4000) / n
    gap = draws[:, 0] - draws[:, 1]
    error = np.sqrt((draws[:, 0] + draws[:, 1] - gap**2) / n)
    assert (gap > 1.96 * error).mean() == pytest.approx(0.8, abs=0.04)


def test_the_intervals_cover_the_true_rewards() -> None:
    covered = []
    for seed in range(30):
        curve, own = measured(seed, 400)
        plan = aq.allocate(own.mean(1), curve)
        truth = TRUTH[np.searchsorted(WIDTHS, plan.widths)]
        found = aq.allocation.reward_intervals(own.mean(1), curve, alone_correct=own, draws=80, seed=seed)
        covered += [low <= a <= high for (low, high), a in zip(found.rewards, truth)]
    assert 0.85 <= np.mean(covered) <= 0.995


def test_a_curve_without_rise_leaves_rewards_without_variance() -> None:
    falling = aq.Curve((0.2, 0.5, 1.0), (0.62, 0.6, 0.58), samples=500)  # its fit is one level
    found = aq.allocation.reward_intervals([0.4, 0.5, 0.6], falling, draws=50)
    assert found.pearson is None
    assert found.cgs == pytest.approx([np.std([0.4, 0.5, 0.6])] * 2, abs=1e-6)


def test_the_seed_decides_the_intervals() -> None:
    one, same, other = (aq.allocation.reward_intervals([0.3, 0.5, 0.7], FINE, draws=20, seed=s) for s in (0, 0, 1))
    assert one == same
    assert one != other


def test_shared_noise_changes_fewer_widths() -> None:
    curve, own = measured(0, 1000)
    shared = aq.allocation.reward_intervals(own.mean(1), curve, alone_correct=own, draws=100)
    apart = aq.allocation.reward_intervals(own.mean(1), curve, draws=100)
    assert np.diff(shared.widths).sum() <= np.diff(apart.widths).sum()
    assert shared.cgs[1] <= apart.cgs[1]
    with pytest.raises(ValueError, match="`alone_correct` must be bool"):
        aq.allocation.reward_intervals(own.mean(1), curve, alone_correct=own[:, :5])


def test_the_two_nearest_rewards_say_how_many_samples_are_needed() -> None:
    curve, own = measured(0, 1000)
    plan = aq.allocate(own.mean(1), curve)
    plain = aq.Curve(curve.widths, curve.accuracy, curve.samples)
    needed, paired = aq.allocation.samples_for(plan, plain), aq.allocation.samples_for(plan, curve)
    assert needed is not None
    assert paired is not None
    assert paired < needed  # the same samples tell more
    assert aq.allocation.samples_for(aq.allocate([0.5], curve), curve) is None


def test_the_two_halves_partition_the_samples() -> None:
    curve, own = measured(0, 101)
    first, second = aq.allocation.split_validation(curve, own)
    assert first.curve.samples + second.curve.samples == 101
    together = np.sort(np.concatenate([first.alone_correct, second.alone_correct], axis=1), axis=1)
    assert (together == np.sort(own, axis=1)).all()
    assert aq.allocation.split_validation(curve, own)[0].contribution.tolist() == first.contribution.tolist()
    assert aq.allocation.split_validation(curve, own, seed=1)[0].contribution.tolist() != first.contribution.tolist()


def test_an_honest_plan_is_confirmed_and_a_wrong_one_is_not() -> None:
    false_alarms = 0
    for seed in range(100):
        first, second = aq.allocation.split_validation(*measured(seed, 800))
        false_alarms += not aq.allocation.confirm(
            aq.allocate(first.contribution, first.curve), first.curve, second.curve
        ).confirmed
    assert false_alarms <= 10  # five in a hundred are allowed to chance
    first, second = aq.allocation.split_validation(*measured(0, 2000))
    flattered = aq.Curve(WIDTHS, np.minimum(first.curve.accuracy + 0.1, 1), 1000)
    found = aq.allocation.confirm(aq.allocate(first.contribution, flattered), flattered, second.curve)
    assert not found.confirmed
    assert "below its prediction" in found.statement


def test_the_level_is_shared_by_the_plans_and_by_the_widths_not_by_the_participants() -> None:
    curve, fresh = (aq.Curve((0.5, 1.0), (0.5, a), samples=1000) for a in (0.7, 0.656))
    plan = aq.allocate([0.7] * 20, curve)  # one width for all
    assert plan.widths.tolist() == [1.0] * 20
    error = np.sqrt(curve.standard_error[1] ** 2 + fresh.standard_error[1] ** 2)
    p = 2 * norm.sf(0.044 / error)
    assert 0.05 / 2 < p < 0.05
    assert aq.allocation.confirm(plan, curve, fresh).broken == tuple(range(20))
    assert aq.allocation.confirm(plan, curve, fresh, plans=2).confirmed


def test_the_best_of_many_lucky_curves_is_not_confirmed_as_often() -> None:
    flat, widths = np.full(40, 0.5), np.linspace(0.1, 1, 40)
    broken = 0
    for seed in range(40):
        rng = aq.stream(seed, "luck")
        measured = (
            rng.binomial(200, flat, size=(60, 40)) / 200
        )  # sixty measurements of a network whose accuracy does not depend on width
        best = measured[measured.max(1).argmax()]
        curve = aq.Curve(widths, np.sort(best), 200)
        fresh = aq.Curve(widths, rng.binomial(2000, flat) / 2000, 2000)
        broken += not aq.allocation.confirm(aq.allocate([0.4, 0.6], curve), curve, fresh).confirmed
    assert broken > 30


def test_what_cannot_be_confirmed_is_refused() -> None:
    curve, own = measured(0, 100)
    with pytest.raises(ValueError, match="`curve` must be a Curve that knows"):
        aq.allocation.split_validation(FINE, own)
    with pytest.raises(ValueError, match="`alone_correct` must be bool"):
        aq.allocation.split_validation(curve, own[:, :50])
    with pytest.raises(ValueError, match="`fresh` must be a Curve measured"):
        aq.allocation.confirm(aq.allocate([0.5, 0.6], FINE), FINE, curve)
    with pytest.raises(ValueError, match="`plans` must be"):
        aq.allocation.confirm(aq.allocate([0.5, 0.6], curve), curve, curve, plans=0)
