"""Measures against libraries and hand-worked cases, and the noise ceiling against what must hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import aequa_lite as aq


def test_correlations_agree_with_scipy() -> None:
    rng = aq.stream(0, "t")
    for _ in range(20):
        a, b = rng.normal(size=9), np.round(rng.normal(size=9), 1)
        assert aq.pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
        assert aq.metrics.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_no_variance_is_no_correlation_and_not_nan() -> None:
    assert aq.pearson([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]) is None
    rng = aq.stream(0, "t")
    alone = rng.random((4, 100)) < np.array([[0.4], [0.5], [0.6], [0.7]])
    assert aq.metrics.measure(alone, np.ones((4, 100), dtype=bool))["pearson_interval"] is None
    assert aq.metrics.measure(alone[:3], alone[:3])["pearson_interval"] is None  # three participants are too few


def test_the_interval_over_participants_is_fishers() -> None:
    rng = aq.stream(0, "fisher")
    alone = rng.random((9, 500)) < np.linspace(0.3, 0.8, 9)[:, None]
    reward = alone | (rng.random((9, 500)) < rng.uniform(0, 0.5, (9, 1)))
    found = aq.metrics.measure(alone, reward)
    middle, half = np.arctanh(found["pearson"]), stats.norm.ppf(0.975) / np.sqrt(9 - 3)
    assert found["pearson_interval"] == pytest.approx((np.tanh(middle - half), np.tanh(middle + half)), abs=1e-12)


def test_a_gain_is_paired_on_the_samples() -> None:
    own = np.zeros((1, 1000), dtype=bool)
    own[0, :600] = True
    reward = own.copy()
    reward[0, 600:620] = True  # right where the own model is, and on twenty more
    gain, error = aq.metrics.paired_gains(own, reward)
    assert gain[0] == pytest.approx(0.02)
    assert error[0] == pytest.approx(np.sqrt(0.02 * 0.98 / 1000))
    assert error[0] < np.sqrt(2 * 0.6 * 0.4 / 1000) / 3  # far below the error of unpaired accuracies


def test_worse_off_means_significantly_below_alone() -> None:
    rng = aq.stream(0, "t")
    own = rng.random((5, 2000)) < 0.7
    same = own ^ (rng.random((5, 2000)) < 0.02)  # noise in both directions, a little worse on average
    assert aq.worse_off(own, own) == ()
    harmed = own.copy()
    harmed[3, np.flatnonzero(own[3])[:60]] = False
    assert aq.worse_off(own, harmed) == (3,)
    assert 3 not in aq.worse_off(own, np.where(np.arange(5)[:, None] == 3, own, same))


def test_holm_is_stricter_than_each_test_alone() -> None:
    own = np.ones((20, 1000), dtype=bool)
    harmed = own.copy()
    harmed[0, :6] = False  # z = -2.46, p = 0.014: worse off alone, not among twenty
    assert aq.worse_off(own[:1], harmed[:1]) == (0,)
    assert aq.worse_off(own, harmed) == ()


def test_a_p_value_at_its_threshold_is_significant() -> None:
    assert aq.metrics.holm([0.05]) == (0,)
    assert aq.metrics.holm([0.5, 0.25], level=0.5) == (0, 1)  # 0.25 <= 0.5 / 2, then 0.5 <= 0.5
    assert aq.metrics.holm([0.26, 0.26], level=0.5) == ()


def test_the_level_decides_who_is_worse_off() -> None:
    own = np.ones((1, 1000), dtype=bool)
    harmed = own.copy()
    harmed[0, :6] = False  # z = -2.46, p = 0.014
    assert [aq.worse_off(own, harmed, level) for level in (0.02, 0.01)] == [(0,), ()]


def test_non_inferiority_needs_samples_and_a_margin() -> None:
    own = np.ones((3, 4000), dtype=bool)
    reward = own.copy()
    reward[1, :40] = False  # one point lost: the margin itself, so not shown
    reward[2, :16] = False  # 0.4 points with a standard error of 0.1
    assert aq.metrics.non_inferior(own, reward) == (0, 2)
    assert aq.metrics.non_inferior(own, reward, margin=0.0) == ()  # some samples may differ elsewhere
    assert aq.metrics.non_inferior(own, reward, margin=0.02) == (0, 1, 2)
    own, reward = own[:, :250], reward[:, 15:265]  # 0.4 points of 250 samples: neither worse off nor shown not to be
    assert 2 not in aq.worse_off(own, reward)
    assert aq.metrics.non_inferior(own, reward) == (0,)
    with pytest.raises(ValueError, match="`margin` must be"):
        aq.metrics.non_inferior(own, reward, margin=-0.01)


def test_non_inferiority_is_claimed_wrongly_as_often_as_the_level_says() -> None:
    rng = aq.stream(0, "margin")
    own = np.ones((2000, 3000), dtype=bool)
    claimed = len(aq.metrics.non_inferior(own, rng.random(own.shape) >= 0.02, margin=0.02)) / len(own)
    assert 0.03 < claimed < 0.07  # each lies on the margin, so that a claim is a false one


def test_the_measures_of_a_report_follow_from_who_is_right() -> None:
    rng = aq.stream(1, "t")
    own = rng.random((4, 3000)) < np.array([[0.4], [0.5], [0.6], [0.7]])
    reward = own | (rng.random((4, 3000)) < 0.1)
    found = aq.metrics.measure(own, reward)
    gains = reward.mean(1) - own.mean(1)
    assert found["mcg"] == pytest.approx(gains.mean())
    assert found["cgs"] == pytest.approx(gains.std())
    assert found["min_gain"] == pytest.approx(gains.min())
    assert found["better_off"] == 1.0
    assert found["worse_off"] == ()
    low, high = found["pearson_noise_interval"]
    assert low <= found["pearson"] <= high <= 1
    assert high - low < found["pearson_interval"][1] - found["pearson_interval"][0]


def test_the_seed_of_the_measures_is_that_of_the_interval_over_samples() -> None:
    rng = aq.stream(0, "seed")
    own, reward = rng.random((2, 4, 60)) < np.array([0.3, 0.5, 0.6, 0.8])[:, None]
    found = [aq.metrics.measure(own, reward, seed)["pearson_noise_interval"] for seed in (0, 1)]
    assert found == [aq.metrics.pearson_noise_interval(own, reward, seed) for seed in (0, 1)]
    assert found[0] != found[1]


def test_an_interval_over_samples_needs_variance_in_half_of_the_draws() -> None:
    own, reward = np.zeros((2, 2, 100), dtype=bool)
    own[0, 0] = reward[0, 0] = True  # one sample tells them apart: 63 of 100 draws have it
    assert aq.metrics.pearson_noise_interval(own, reward) == (1.0, 1.0)
    reward[0] = np.arange(100) == 1  # two must be drawn: 40 of 100 draws have both
    assert aq.metrics.pearson_noise_interval(own, reward) is None


def test_arrays_of_another_shape_or_type_are_refused() -> None:
    with pytest.raises(ValueError, match="`reward_correct` must be bool of shape"):
        aq.metrics.measure(np.ones((2, 3), dtype=bool), np.ones((2, 4), dtype=bool))
    with pytest.raises(ValueError, match="`alone_correct` must be bool"):
        aq.metrics.paired_gains(np.ones((2, 3)), np.ones((2, 3)))


def federation(spread: float, samples: int) -> dict:
    """The ceiling of ten participants whose accuracies differ by ``spread``, on a fine curve."""
    rng = aq.stream(2, "t")
    alone = rng.random((10, 6000)) < np.linspace(0.6, 0.6 + spread, 10)[:, None]
    wide = rng.random((60, 6000)) < np.linspace(0.4, 0.9, 60)[:, None]
    return aq.allocation.noise_ceiling(
        alone, wide, np.linspace(0.02, 1, 60), validation_samples=samples, test_samples=samples, draws=60
    )


def test_the_ceiling_falls_with_less_data_and_less_spread() -> None:
    sharp, blurred, alike = federation(0.2, 20_000), federation(0.2, 300), federation(0.03, 2000)
    assert sharp["pearson_ceiling"] > 0.995
    assert blurred["pearson_ceiling"] < 0.97
    assert alike["pearson_ceiling"] < blurred["pearson_ceiling"]
    assert np.less(sharp["cgs_ceiling_interval"], blurred["cgs_ceiling_interval"]).all()
    low, high = sharp["pearson_ceiling_interval"]
    assert low <= sharp["pearson_ceiling"] <= high


def test_the_ideal_ceiling_does_not_forgive_a_bad_curve() -> None:
    rng = aq.stream(3, "t")
    hard = rng.random(6000)
    alone = np.linspace(0.4, 0.7, 8)[:, None] > hard

    def ceilings(levels: np.ndarray) -> tuple[float, float]:
        wide, widths = levels[:, None] > hard, np.linspace(0.1, 1, len(levels))
        simulated = [
            aq.allocation.noise_ceiling(
                alone, wide, widths, validation_samples=4000, test_samples=4000, draws=60, ideal=ideal
            )["pearson_ceiling"]
            for ideal in (False, True)
        ]
        return simulated[0], simulated[1]

    own, ideal = ceilings(np.array([0.3, 0.55, 0.8]))  # three steps for eight participants
    assert own < 0.95 < 0.995 < ideal
    fine, perfect = ceilings(np.linspace(0.3, 0.8, 101))  # a perfect curve is its own ideal
    assert fine == pytest.approx(perfect, abs=1e-3)
    high, covers = ceilings(np.linspace(0.72, 0.8, 50))  # starts above what the weakest have earned
    assert high < covers - 0.02


def test_the_same_seed_gives_the_same_ceiling() -> None:
    assert federation(0.1, 500) == federation(0.1, 500)


@pytest.mark.parametrize("factor", [1e-12, 1e-8, 1.0, 1e8])
def test_correlation_does_not_depend_on_the_scale(factor: float) -> None:
    assert aq.pearson(factor * np.array([1.0, 2.0, 3.0]), factor * np.array([2.0, 4.0, 6.0])) == pytest.approx(1)
    assert aq.pearson([factor * 0.1] * 3, factor * np.array([1.0, 2.0, 3.0])) is None


def test_few_samples_show_no_non_inferiority() -> None:
    rng, false = np.random.default_rng(0), 0
    for _ in range(400):  # the reward loses 1.2 % of what the own model gets right: more than the margin
        alone = np.ones((1, 148), dtype=bool)
        false += len(aq.metrics.non_inferior(alone, rng.random((1, 148)) >= 0.012))
    assert false / 400 <= 0.07
