"""Laws of the defences: each is merge in its limit, each asks who holds an entry, none is moved far by one liar."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aequa_lite as aq

TINY = partial(aq.MLP, shape=(5,), hidden=6, classes=3)
LIMITS = {
    "clipped": aq.aggregation.norm_clipping(math.inf),
    "screened": aq.aggregation.norm_screening(1e9),
    "trimmed": aq.aggregation.trimmed_mean(0.0),
    "private": aq.aggregation.dp_gaussian(math.inf, noise=0.0),
}
ALL = {
    "clipped": aq.aggregation.norm_clipping(0.1),
    "at the median": aq.aggregation.norm_clipping(),
    "screened": aq.aggregation.norm_screening(),
    "trimmed": aq.aggregation.trimmed_mean(0.2),
    "median": aq.aggregation.coordinate_median,
    "private": aq.aggregation.dp_gaussian(0.1, noise=0.5, seed=0),
}


def theta() -> dict[str, torch.Tensor]:
    return aq.init_params(TINY, seed=0)


def answers(widths, sizes, seed=0):
    """Slices of these widths, each moved at random by about its size."""
    draws = torch.Generator().manual_seed(seed)

    def moved(width, size):
        return {
            k: t + size * torch.randn(t.shape, generator=draws) for k, t in aq.slice_of(TINY, theta(), width).items()
        }

    return [(moved(width, size), 1.0 + place) for place, (width, size) in enumerate(zip(widths, sizes))]


@given(
    st.lists(st.sampled_from([0.1, 0.34, 0.5, 1.0]), min_size=1, max_size=6),
    st.sampled_from(sorted(LIMITS)),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_in_its_limit_a_defence_is_merge(widths, name, seed):
    given_ = answers(widths, [0.1] * len(widths), seed)
    plain, defended = aq.aggregate(theta(), given_), LIMITS[name](theta(), given_)
    assert list(plain) == list(defended)
    assert all(torch.allclose(plain[k], defended[k], atol=1e-6) for k in plain)


@pytest.mark.parametrize("widths", [[1.0], [0.5, 1.0]])
def test_the_median_of_one_or_two_holders_is_merge(widths):
    plain, middle = (
        each(theta(), answers(widths, [0.1, 0.2])) for each in (aq.aggregate, aq.aggregation.coordinate_median)
    )
    assert all(torch.allclose(plain[k], middle[k], atol=1e-6) for k in plain)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"private"}))
def test_a_round_in_which_nobody_changes_anything_is_exactly_the_identity(name):
    same = [(aq.slice_of(TINY, theta(), width), 1.0) for width in (0.2, 0.5, 1.0)]
    after = ALL[name](theta(), same)
    assert all(torch.equal(after[k], t) for k, t in theta().items())


@pytest.mark.parametrize("name", sorted(ALL))
def test_entries_that_nobody_holds_keep_their_value(name):
    after = ALL[name](theta(), answers([0.34, 0.34, 0.34], [0.1, 0.2, 0.3]))
    for k, t in theta().items():
        held = aq.prefix(aq.slice_of(TINY, theta(), 0.34)[k].shape)
        outside = torch.ones(t.shape, dtype=torch.bool)
        outside[held] = False
        assert torch.equal(after[k][outside], t[outside])
    assert all(bool(torch.isfinite(t).all()) for t in after.values())


@pytest.mark.parametrize("name", ["trimmed", "median"])
def test_a_liar_cannot_move_an_entry_out_of_the_range_of_the_honest(name):
    honest = answers([1.0] * 4, [0.1] * 4)
    lie = ({k: t + 1e6 for k, t in theta().items()}, 100.0)
    merging = aq.aggregation.trimmed_mean(0.25) if name == "trimmed" else aq.aggregation.coordinate_median
    after, crowd = merging(theta(), [*honest, lie]), {k: torch.stack([s[k] for s, _ in honest]) for k in theta()}
    assert all(bool((after[k] <= crowd[k].amax(0) + 1e-6).all()) for k in after)
    assert all(bool((after[k] >= crowd[k].amin(0) - 1e-6).all()) for k in after)


def test_the_middle_is_taken_among_those_who_hold_an_entry():
    state = {"w": torch.zeros(3)}
    said = [({"w": torch.full((size,), value)}, 1.0) for size, value in ((3, 1.0), (3, 5.0), (2, 9.0), (1, 100.0))]
    assert aq.aggregation.coordinate_median(state, said)["w"].tolist() == [
        7.0,
        5.0,
        3.0,
    ]  # of 1 5 9 100, of 1 5 9, of 1 5


def test_trimming_towards_a_half_is_the_median():
    said = answers([1.0] * 5, [0.1, 0.2, 0.3, 0.4, 0.5])
    nearly, middle = aq.aggregation.trimmed_mean(0.499)(theta(), said), aq.aggregation.coordinate_median(theta(), said)
    assert all(torch.equal(nearly[k], middle[k]) for k in middle)


def test_no_clipped_change_is_longer_than_allowed():
    (only,) = answers([0.5], [10.0])
    after = aq.aggregation.norm_clipping(0.25)(theta(), [only])
    assert aq._validation.change_norm(after, theta()) == pytest.approx(0.25, rel=1e-5)


def test_an_outsized_answer_is_left_out_whatever_its_width():
    said = answers([0.2, 0.5, 1.0, 0.2], [0.1, 0.1, 0.1, 5.0])
    kept = aq.aggregate(theta(), said[:3])
    assert all(torch.equal(t, kept[k]) for k, t in aq.aggregation.norm_screening()(theta(), said).items())


def test_the_noise_is_as_large_as_promised_and_larger_where_fewer_hold():
    """Of the sum over holders sigma C a_max, of their mean that divided by the weights of those who hold the entry."""
    state = {"w": torch.zeros(2, 20_000)}
    said = [({"w": torch.zeros(2, 20_000)}, 2.0), ({"w": torch.zeros(1, 20_000)}, 1.0)]
    spread = aq.aggregation.dp_gaussian(0.5, noise=3.0, seed=1)(state, said)["w"].std(dim=1)
    assert spread[0].item() == pytest.approx(3.0 * 0.5 * 2.0 / 3.0, rel=0.03)
    assert spread[1].item() == pytest.approx(3.0 * 0.5 * 2.0 / 2.0, rel=0.03)


def test_the_noise_is_another_in_every_round_and_the_same_in_a_repeated_one():
    state, moved = {"w": torch.zeros(50)}, {"w": torch.ones(50)}
    merging = aq.aggregation.dp_gaussian(1.0, noise=1.0, seed=0)
    first, again = (merging(state, [(state, 1.0)])["w"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, merging(moved, [(moved, 1.0)])["w"] - 1)
    system = aq.aggregation.dp_gaussian(1.0, noise=1.0)
    assert not torch.equal(system(state, [(state, 1.0)])["w"], system(state, [(state, 1.0)])["w"])


def test_epsilon_is_the_least_over_the_orders_of_renyi():
    """T Gaussian rounds are Renyi-private with T a / (2 s^2); the conversion of Canonne, Kamath and Steinke on a fine grid."""
    pytest.importorskip("opacus", reason="an optional extra")
    orders = [1 + step / 100 for step in range(1, 8000)]
    best = min(
        20 * a / (2 * 4.0**2) + math.log1p(-1 / a) - math.log(1e-5 * a) / (a - 1) for a in orders
    )  # noise 4, 20 rounds
    assert aq.aggregation.dp_epsilon(4.0, 20, delta=1e-5) == pytest.approx(best, rel=0.01)
    assert aq.aggregation.dp_epsilon(4.0, 40) > aq.aggregation.dp_epsilon(4.0, 20) > aq.aggregation.dp_epsilon(8.0, 20)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_federation_learns_with_every_defence_and_is_repeated_to_the_bit(few, config, name):
    shards = aq.data.homogeneous(few.train, config)
    strategy = aq.slimmable(aq.MLP, aggregate=ALL[name])
    once, twice = (list(aq.federate(aq.MLP, shards, config, strategy=strategy, progress=False))[-1] for _ in range(2))
    assert all(torch.equal(once.theta[k], twice.theta[k]) for k in once.theta)
    assert aq._validation.change_norm(once.theta, aq.init_params(aq.MLP, config.seed)) > 0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: aq.aggregation.norm_clipping(0.0), "norm is 0.0; allowed is a number above 0"),
        (lambda: aq.aggregation.norm_clipping(math.nan), "norm is nan"),
        (lambda: aq.aggregation.trimmed_mean(0.5), "share is 0.5; allowed is a number from 0 and below 0.5"),
        (lambda: aq.aggregation.norm_screening(0.5), "times is 0.5; allowed is a finite number from 1"),
        (lambda: aq.aggregation.dp_gaussian(math.inf, 1.0), "norm is inf and noise 1.0"),
        (lambda: aq.aggregation.dp_gaussian(1.0, -1.0), "noise -1.0"),
        (lambda: aq.aggregation.dp_epsilon(1.0, 0), "rounds is 0; allowed is a whole number from 1"),
        (lambda: aq.aggregation.dp_epsilon(1.0, 3, delta=0.0), "delta is 0.0"),
    ],
)
def test_a_defence_that_makes_no_sense_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
