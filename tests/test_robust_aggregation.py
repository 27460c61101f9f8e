"""Robust aggregation: each rule is `aggregate` in its limit, keeps entries nobody holds, and bounds one attacker."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aequa_lite as aq
from aequa_lite.aggregation import (
    coordinate_median,
    dp_epsilon,
    dp_gaussian,
    norm_clipping,
    norm_screening,
    trimmed_mean,
)
from aequa_lite.checkpoint import describe

TINY = partial(aq.MLP, shape=(5,), hidden=6, classes=3)
LIMITS = {
    "norm_clipping": norm_clipping(1e9),
    "norm_screening": norm_screening(1e9),
    "trimmed_mean": trimmed_mean(0.0),
    "dp_gaussian": dp_gaussian(1e9, noise=0.0),
}
RULES = {
    "norm_clipping": norm_clipping(0.1),
    "norm_clipping at the median": norm_clipping(),
    "norm_screening": norm_screening(),
    "trimmed_mean": trimmed_mean(0.2),
    "coordinate_median": coordinate_median,
    "dp_gaussian": dp_gaussian(0.1, noise=0.5, seed=0),
}


def theta() -> dict[str, torch.Tensor]:
    return aq.init_params(TINY, seed=0)


def slices(widths, sizes, seed=0):
    """Slices of these widths, each moved at random by about its size."""
    rng = torch.Generator().manual_seed(seed)

    def moved(width, size):
        return {k: t + size * torch.randn(t.shape, generator=rng) for k, t in aq.slice_of(TINY, theta(), width).items()}

    return [(moved(width, size), 1.0 + place) for place, (width, size) in enumerate(zip(widths, sizes))]


@given(
    st.lists(st.sampled_from([0.1, 0.34, 0.5, 1.0]), min_size=1, max_size=6),
    st.sampled_from(sorted(LIMITS)),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_in_its_limit_a_rule_is_aggregate(widths, name, seed):
    updates = slices(widths, [0.1] * len(widths), seed)
    plain, robust = aq.aggregate(theta(), updates), LIMITS[name](theta(), updates)
    assert list(plain) == list(robust)
    assert all(torch.allclose(plain[k], robust[k], atol=1e-6) for k in plain)


@pytest.mark.parametrize("widths", [[1.0], [0.5, 1.0]])
def test_the_median_of_one_or_two_holders_is_aggregate(widths):
    plain, middle = (each(theta(), slices(widths, [0.1, 0.2])) for each in (aq.aggregate, coordinate_median))
    assert all(torch.allclose(plain[k], middle[k], atol=1e-6) for k in plain)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"dp_gaussian"}))
def test_a_round_without_change_changes_no_bit(name):
    same = [(aq.slice_of(TINY, theta(), width), 1.0) for width in (0.2, 0.5, 1.0)]
    after = RULES[name](theta(), same)
    assert all(torch.equal(after[k], t) for k, t in theta().items())


@pytest.mark.parametrize("name", sorted(RULES))
def test_entries_that_nobody_holds_keep_their_value(name):
    after = RULES[name](theta(), slices([0.34, 0.34, 0.34], [0.1, 0.2, 0.3]))
    for k, t in theta().items():
        block = aq.prefix(aq.slice_of(TINY, theta(), 0.34)[k].shape)
        outside = torch.ones(t.shape, dtype=torch.bool)
        outside[block] = False
        assert torch.equal(after[k][outside], t[outside])
    assert all(bool(torch.isfinite(t).all()) for t in after.values())


@pytest.mark.parametrize("name", ["trimmed_mean", "coordinate_median"])
def test_one_attacker_cannot_move_an_entry_out_of_the_range_of_the_honest(name):
    honest = slices([1.0] * 4, [0.1] * 4)
    attack = ({k: t + 1e6 for k, t in theta().items()}, 100.0)
    rule = trimmed_mean(0.25) if name == "trimmed_mean" else coordinate_median
    after, crowd = rule(theta(), [*honest, attack]), {k: torch.stack([s[k] for s, _ in honest]) for k in theta()}
    assert all(bool((after[k] <= crowd[k].amax(0) + 1e-6).all()) for k in after)
    assert all(bool((after[k] >= crowd[k].amin(0) - 1e-6).all()) for k in after)


def test_the_median_is_taken_among_those_who_hold_an_entry():
    state = {"w": torch.zeros(3)}
    updates = [({"w": torch.full((size,), value)}, 1.0) for size, value in ((3, 1.0), (3, 5.0), (2, 9.0), (1, 100.0))]
    assert coordinate_median(state, updates)["w"].tolist() == [7.0, 5.0, 3.0]  # of 1 5 9 100, of 1 5 9, of 1 5


def test_trimming_towards_a_half_is_the_median():
    updates = slices([1.0] * 5, [0.1, 0.2, 0.3, 0.4, 0.5])
    nearly, middle = trimmed_mean(0.499)(theta(), updates), coordinate_median(theta(), updates)
    assert all(torch.equal(nearly[k], middle[k]) for k in middle)


def test_no_clipped_change_is_longer_than_allowed():
    (only,) = slices([0.5], [10.0])
    after = norm_clipping(0.25)(theta(), [only])
    assert aq._validation.change_norm(after, theta()) == pytest.approx(0.25, rel=1e-5)


def test_without_a_length_changes_are_clipped_to_the_median_of_the_round():
    state, moves = {"w": torch.zeros(2)}, ([1.0, 0.0], [2.0, 0.0], [0.0, 9.0])
    after = norm_clipping()(state, [({"w": torch.tensor(move)}, 1.0) for move in moves])["w"]
    assert after.tolist() == pytest.approx([(1 + 2) / 3, 2 / 3])  # the third is shortened from 9 to 2


def test_an_oversized_update_is_left_out_whatever_its_width():
    updates = slices([0.2, 0.5, 1.0, 0.2], [0.1, 0.1, 0.1, 5.0])
    kept = aq.aggregate(theta(), updates[:3])
    assert all(torch.equal(t, kept[k]) for k, t in norm_screening()(theta(), updates).items())


def test_the_noise_has_its_documented_size_and_is_larger_where_fewer_hold_an_entry():
    """Its standard deviation is sigma C a_max over the weights of those who hold the entry."""
    state = {"w": torch.zeros(2, 20_000)}
    updates = [({"w": torch.zeros(2, 20_000)}, 2.0), ({"w": torch.zeros(1, 20_000)}, 1.0)]
    spread = dp_gaussian(0.5, noise=3.0, seed=1)(state, updates)["w"].std(dim=1)
    assert spread[0].item() == pytest.approx(3.0 * 0.5 * 2.0 / 3.0, rel=0.03)
    assert spread[1].item() == pytest.approx(3.0 * 0.5 * 2.0 / 2.0, rel=0.03)


def test_the_noise_differs_between_rounds_and_is_the_same_in_a_repeated_one():
    state, moved = {"w": torch.zeros(50)}, {"w": torch.ones(50)}
    rule = dp_gaussian(1.0, noise=1.0, seed=0)
    first, again = (rule(state, [(state, 1.0)])["w"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, rule(moved, [(moved, 1.0)])["w"] - 1)
    system = dp_gaussian(1.0, noise=1.0)
    assert not torch.equal(system(state, [(state, 1.0)])["w"], system(state, [(state, 1.0)])["w"])


def test_epsilon_is_the_least_over_the_orders_of_renyi():
    """T Gaussian rounds are Renyi-private with T a / (2 s^2); the conversion of Canonne, Kamath and Steinke on a fine grid."""
    pytest.importorskip("opacus", reason="an optional extra")
    orders = [1 + step / 100 for step in range(1, 8000)]
    # noise 4, 20 rounds
    best = min(20 * a / (2 * 4.0**2) + math.log1p(-1 / a) - math.log(1e-5 * a) / (a - 1) for a in orders)
    assert dp_epsilon(4.0, 20, delta=1e-5) == pytest.approx(best, rel=0.01)
    assert dp_epsilon(4.0, 40) > dp_epsilon(4.0, 20) > dp_epsilon(8.0, 20)


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_federation_learns_with_every_rule_and_repeats_to_the_bit(few, config, name):
    shards = aq.data.homogeneous(few.train, config)
    strategy = aq.slimmable(aq.MLP, aggregate=RULES[name])
    once, twice = (list(aq.federate(aq.MLP, shards, config, strategy=strategy, progress=False))[-1] for _ in range(2))
    assert all(torch.equal(once.theta[k], twice.theta[k]) for k in once.theta)
    assert aq._validation.change_norm(once.theta, aq.init_params(aq.MLP, config.seed)) > 0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: norm_clipping(0.0), "`norm` must be a number above 0 or None, got 0.0"),
        (lambda: norm_clipping(math.inf), "`norm` must be a number above 0 or None, got inf"),
        (lambda: norm_clipping(math.nan), "`norm` must be a number above 0 or None, got nan"),
        (lambda: norm_clipping("short"), "`norm` must be a number above 0 or None, got 'short'"),
        (lambda: trimmed_mean(0.5), r"`share` must be a number in \[0, 0.5\), got 0.5"),
        (lambda: trimmed_mean(None), r"`share` must be a number in \[0, 0.5\), got None"),
        (lambda: norm_screening(0.5), "`times` must be a number from 1, got 0.5"),
        (lambda: norm_screening(math.inf), "`times` must be a number from 1, got inf"),
        (lambda: dp_gaussian(math.inf, 1.0), "`norm` must be a number above 0, got inf"),
        (lambda: dp_gaussian(-1.0, 0.0), "`norm` must be a number above 0, got -1.0"),
        (lambda: dp_gaussian(1.0, -1.0), "`noise` must be a number from 0, got -1.0"),
        (lambda: dp_gaussian(1.0, math.nan), "`noise` must be a number from 0, got nan"),
        (lambda: dp_gaussian(1.0, 1.0, seed=0.5), "`seed` must be a whole number from 0 or None, got 0.5"),
        (lambda: dp_epsilon(0.0, 1), "`noise` must be a number above 0, got 0.0"),
        (lambda: dp_epsilon(1.0, 0), "`rounds` must be a whole number from 1, got 0"),
        (lambda: dp_epsilon(1.0, 3, delta=0.0), r"`delta` must be a number in \(0, 1\), got 0.0"),
    ],
)
def test_a_rule_with_constants_outside_their_range_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize(
    ("before", "updates", "sentence"),
    [
        (None, [({"w": torch.ones(1)}, 1.0)], "`theta` must be tensors by name, got None"),
        ({"w": torch.zeros(1)}, [], r"`updates` must be at least one slice with its weight, got \[\]"),
        ({"w": torch.zeros(1)}, [({"w": torch.ones(1)}, 0.0)], "`weight` must be a number above 0, got 0.0"),
        (
            {"w": torch.zeros(1)},
            [({"w": torch.ones(1)}, math.nan)],
            "must be a number above 0, got nan|tensors by name, a finite number",
        ),
    ],
)
def test_a_round_that_cannot_be_aggregated_is_refused(name, before, updates, sentence):
    with pytest.raises(ValueError, match=sentence):
        RULES[name](before, updates)


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_batch_counter_keeps_its_value(name):
    before = {"w": torch.zeros(2), "batches": torch.tensor(3)}
    after = RULES[name](before, [({"w": torch.ones(1), "batches": torch.tensor(9)}, 1.0)])
    assert after["batches"].item() == 3


def test_a_limit_that_is_infinite_has_an_identity_that_json_holds() -> None:
    found = describe(partial(coordinate_median, limit=math.inf))
    assert "Infinity" in json.dumps(found, allow_nan=False)
    assert found != describe(partial(coordinate_median, limit=None))


@pytest.mark.parametrize("rule", [trimmed_mean(0.25), coordinate_median], ids=["trimmed mean", "median"])
def test_equal_values_of_unequal_weights_do_not_make_the_order_matter(rule) -> None:
    sent = [(0.0, 1.0), (0.0, 100.0), (1.0, 1.0), (2.0, 1.0)]
    found = {
        rule({"w": torch.zeros(1)}, [({"w": torch.tensor([value])}, weight) for value, weight in order])["w"].item()
        for order in itertools.permutations(sent)
    }
    assert len(found) == 1


@pytest.mark.parametrize("share", [0.21, 0.39, 0.42, 0.123])
def test_a_share_of_the_holders_is_whole_where_it_is_so_in_decimals(share: float) -> None:
    counts = torch.arange(1, 400)
    exact = [int(Fraction(str(share)) * int(count)) for count in counts]
    assert aq.aggregation._dropped(counts, share).tolist() == exact


def test_a_share_of_nearly_half_leaves_the_middle_value() -> None:
    updates = [({"w": torch.tensor([value])}, 1.0) for value in (1.0, 2.0)]
    assert trimmed_mean(0.49999)({"w": torch.zeros(1)}, updates)["w"].item() == 1.5
