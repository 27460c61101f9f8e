"""Laws of the partitions: disjoint, complete unless they say otherwise, never empty, decided by the seed alone."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from aequa_lite.config import Config
from aequa_lite.data.partition import (
    apportion,
    by_size,
    class_counts,
    class_imbalance,
    dirichlet,
    fedrac_dirichlet,
    homogeneous,
    imbalanced,
    label_noise,
    label_skew,
    natural,
    power_law,
)
from aequa_lite.types import Dataset, Samples

quick = settings(derandomize=True, deadline=None, max_examples=60)
COMPLETE = {
    "homogeneous": homogeneous,
    "dirichlet": partial(dirichlet, alpha=0.5, least=1),
    "imbalanced": partial(imbalanced, share=0.3, holders=2),
    "power_law": power_law,
}
PARTIAL = {
    "by_size": lambda train, config: by_size(train, config, range(1, config.participants + 1)),
    "natural": natural,
    "label_skew": partial(label_skew, classes_each=2),
    "class_imbalance": class_imbalance,
    "fedrac_dirichlet": partial(fedrac_dirichlet, alpha=3),
}
EVERY = COMPLETE | PARTIAL


def samples(y, classes, groups=None):
    """Samples whose one pixel is their position (modulo 256)."""
    y = torch.as_tensor(np.asarray(y), dtype=torch.int64)
    x = torch.arange(len(y)) % 256
    owners = torch.arange(len(y)) % 23 if groups is None else torch.as_tensor(groups)
    return Samples(x.to(torch.uint8).reshape(-1, 1, 1, 1), y, classes, owners)


def balanced(each=60, classes=10):
    """A class-balanced training split."""
    return samples(np.tile(np.arange(classes), each), classes)


@st.composite
def requests(draw):
    """Random labels, every class with a few samples at least, a number of participants and a seed."""
    classes = draw(st.integers(2, 6))
    tail = draw(st.lists(st.integers(0, classes - 1), max_size=60))
    y = np.concatenate([np.tile(np.arange(classes), draw(st.integers(0, 20))), np.array(tail, dtype=int)])
    assume(len(y))
    config = Config(participants=draw(st.integers(1, 12)), seed=draw(st.integers(0, 2**32)))
    return samples(y, classes), config


def shards_or_refusal(partition, train, config):
    """The shards; none where the request is refused, which must be one sentence."""
    try:
        return partition(train, config)
    except ValueError as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert " must " in sentence
    assert ", got " in sentence
    return []


@pytest.mark.parametrize("name", EVERY)
@given(requests())
@quick
def test_shards_are_disjoint_and_never_empty(name, request):
    train, config = request
    shards = shards_or_refusal(EVERY[name], train, config)
    event("accepted" if shards else "refused")
    if not shards:
        return
    assert [shard.participant for shard in shards] == list(range(config.participants))
    assert all(len(shard) > 0 for shard in shards)
    positions = np.concatenate([shard.indices for shard in shards])
    assert len(np.unique(positions)) == len(positions)
    assert positions.min() >= 0
    assert positions.max() < len(train)


@pytest.mark.parametrize("name", COMPLETE)
@given(requests())
@quick
def test_every_sample_is_used_by_a_complete_partition(name, request):
    train, config = request
    shards = shards_or_refusal(COMPLETE[name], train, config)
    assert sum(map(len, shards)) == (len(train) if shards else 0)


@pytest.mark.parametrize("name", EVERY)
def test_a_shard_holds_the_samples_at_its_indices_in_ascending_order(name):
    train = balanced()
    for shard in EVERY[name](train, Config(participants=5)):
        assert (np.diff(shard.indices) > 0).all()
        assert torch.equal(shard.samples.x, train.x[shard.indices])
        assert torch.equal(shard.samples.y, train.y[shard.indices])
        assert torch.equal(shard.samples.groups, train.groups[shard.indices])
        assert shard.samples.x.data_ptr() != train.x.data_ptr()


@pytest.mark.parametrize("name", EVERY)
def test_the_seed_alone_decides(name):
    def indices(seed, **other):
        shards = EVERY[name](balanced(), Config(participants=5, seed=seed, **other))
        return [shard.indices.tolist() for shard in shards]

    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  (the global generator must not matter)
    first = indices(3)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert first == indices(3, rounds=7, lr=0.5)
    assert first != indices(4)


def test_a_million_requests_for_other_participants_are_refused_before_any_work():
    with pytest.raises(ValueError, match="`participants` must be at most 600, .*, got 1000000"):
        homogeneous(balanced(), Config(participants=1_000_000))


@given(requests())
@quick
def test_homogeneous_counts_differ_by_at_most_one(request):
    train, config = request
    assume(len(train) >= config.participants)
    counts = class_counts(homogeneous(train, config))
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1


def test_a_large_alpha_is_homogeneous_and_a_small_one_is_not():
    train, config = balanced(each=600), Config(participants=5)
    even, uneven = (class_counts(dirichlet(train, config, alpha)) for alpha in (1e6, 0.1))
    assert np.abs(even - 120).max() <= 3
    assert np.median(uneven.max(axis=0)) > 300
    assert uneven.sum(axis=1).min() >= 10


def test_imbalanced_gives_two_of_ten_forty_percent_each():
    shards = imbalanced(balanced(each=600), Config(participants=10), share=0.4, holders=2)
    assert sorted(map(len, shards)) == [150] * 8 + [2400] * 2
    holders = {
        tuple(np.argsort([len(s) for s in imbalanced(balanced(), Config(10, seed=i), 0.4, 2)])[-2:]) for i in range(9)
    }
    assert len(holders) > 3  # the seed chooses the holders


def test_sizes_are_exactly_those_asked_for():
    train = balanced(each=600)
    sizes = (40, 120, 400, 1400, 4040)
    assert [len(shard) for shard in by_size(train, Config(participants=5), sizes)] == list(sizes)


def test_power_law_sizes_grow_evenly_and_keep_the_published_ratio():
    sizes = np.array([len(shard) for shard in power_law(balanced(each=1000), Config(participants=5))])
    assert np.ptp(np.diff(sizes)) <= 2
    assert sizes[-1] / sizes[0] == pytest.approx((0.99 / 0.01) ** (1 / 1.65911332899), rel=0.01)
    assert len(power_law(balanced(), Config(participants=1))[0]) == 600


@given(st.integers(2, 12), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
@quick
def test_label_skew_gives_each_its_number_of_classes_and_each_class_a_holder(n, classes, classes_each, seed):
    assume(classes_each <= classes)
    shards = label_skew(balanced(each=30, classes=classes), Config(participants=n, seed=seed), classes_each)
    holds = class_counts(shards) > 0
    assert (holds.sum(axis=1) == classes_each).all()
    assert holds.any(axis=0).sum() == min(classes, n * classes_each)
    for column in class_counts(shards).T:
        assert np.ptp(column[column > 0]) <= 1 if column.any() else True
    if n * classes_each >= classes:
        assert sum(map(len, shards)) == 30 * classes


@given(st.integers(1, 15), st.integers(0, 99))
@quick
def test_class_imbalance_holds_one_class_more_each_time_and_equal_sizes(n, seed):
    shards = class_imbalance(balanced(each=200), Config(participants=n, seed=seed))
    counts = class_counts(shards)
    assert (counts > 0).sum(axis=1).tolist() == [-(-i * 10 // n) for i in range(1, n + 1)]
    assert len({len(shard) for shard in shards}) == 1
    assert max(np.ptp(row[row > 0]) for row in counts) <= 1


def test_class_imbalance_takes_the_most_that_the_data_allow():
    train, config = balanced(each=600), Config(participants=10)
    most = len(class_imbalance(train, config)[0])
    assert len(class_imbalance(train, config, samples_each=most - 5)[0]) == most - 5
    with pytest.raises(ValueError, match=rf"`samples_each` must be a whole number in \[10, {most}\], got {most + 1}"):
        class_imbalance(train, config, samples_each=most + 1)


def test_class_imbalance_with_replacement_gives_more_samples_than_there_are():
    train, config = balanced(each=60), Config(participants=10)
    shards = class_imbalance(train, config, samples_each=2000, replace=True)
    counts = class_counts(shards)
    assert (counts > 0).sum(axis=1).tolist() == list(range(1, 11))
    assert {len(shard) for shard in shards} == {2000}
    assert max(np.ptp(row[row > 0]) for row in counts) <= 1
    assert all(torch.equal(shard.samples.y, train.y[shard.indices]) for shard in shards)
    assert len(np.unique(shards[-1].indices)) > 550  # all 600 are drawn from, some of them never drawn
    order = [row > 0 for row in class_counts(class_imbalance(train, config))]
    assert np.array_equal(order, counts > 0)  # the classes' order is that without replacement
    again = class_imbalance(train, config, samples_each=2000, replace=True)
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(shards, again))


def test_fedrac_dirichlet_gives_equal_sizes_and_each_its_own_mix():
    train = balanced(each=450)
    shards = fedrac_dirichlet(train, Config(participants=10), alpha=3)
    counts = class_counts(shards)
    assert counts.sum(axis=1).tolist() == [450] * 10
    assert counts.sum(axis=0).tolist() == [450] * 10
    few = fedrac_dirichlet(train, Config(participants=10), alpha=3, samples_each=20)
    assert {len(shard) for shard in few} == {20}


def test_fedrac_dirichlet_has_the_variance_of_its_dirichlet():
    """q ~ Dirichlet(alpha / C, ...): each share has variance (1/C) (1 - 1/C) / (alpha + 1)."""
    train, alpha = balanced(each=2000), 3.0
    shares = [
        class_counts(fedrac_dirichlet(train, Config(participants=20, seed=seed), alpha, samples_each=100)) / 100
        for seed in range(30)
    ]
    spread = 0.1 * 0.9 / (alpha + 1)
    drawn = (0.1 - spread - 0.01) / 100  # of 100 draws from a share q: E[q (1 - q)] / 100
    assert np.var(shares) == pytest.approx(spread + drawn, rel=0.05)
    even = class_counts(fedrac_dirichlet(train, Config(participants=20), 1e6))
    assert np.abs(even - 100).max() < 50


def test_natural_owners_are_participants_and_more_participants_add_owners():
    train = samples(np.arange(40) % 2, 2, groups=np.repeat([3, 8, 11, 40], 10))
    every, three, two = (natural(train, Config(participants=n)) for n in (4, 3, 2))
    assert [set(shard.samples.groups.tolist()).pop() for shard in every] == [3, 8, 11, 40]  # in the codes' order
    assert [shard.indices.tolist() for shard in two] == [shard.indices.tolist() for shard in three[:2]]
    assert {tuple(shard.indices) for shard in three} < {tuple(shard.indices) for shard in every}
    assert all(len(shard) == 10 for shard in every)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.integers(0, 9))
@quick
def test_label_noise_flips_exactly_the_rate_and_never_to_the_same_class(rates, seed):
    config = Config(participants=4, seed=seed)
    clean = homogeneous(balanced(), config)
    before = [shard.samples.y.clone() for shard in clean]
    for old, y, new, rate in zip(clean, before, label_noise(clean, config, rates), rates, strict=True):
        assert int((new.samples.y != y).sum()) == round(rate * len(y))
        assert new.samples.y.min() >= 0
        assert new.samples.y.max() < 10
        assert torch.equal(old.samples.y, y)  # the shards stay as they were
        assert torch.equal(old.samples.x, new.samples.x)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.integers(0, 10_000))
@quick
def test_apportioned_sizes_sum_to_the_total_and_are_within_one(weights, total):
    assume(sum(weights) > 1e-6)
    sizes = apportion(weights, total)
    assert sizes.sum() == total
    assert np.abs(sizes - np.array(weights) / sum(weights) * total).max() < 1 + 1e-6


def test_the_table_counts_every_sample_once():
    train = balanced()
    assert class_counts(homogeneous(train, Config(participants=7))).sum() == len(train)


N5 = Config(participants=5)
NUMBER = "must be a number in"
IMPOSSIBLE = {
    f"`alpha` {NUMBER} .*, got 0$": lambda t: dirichlet(t, N5, alpha=0),
    f"`alpha` {NUMBER} .*, got nan$": lambda t: dirichlet(t, N5, alpha=float("nan")),
    f"`alpha` {NUMBER} .*, got True$": lambda t: dirichlet(t, N5, alpha=True),
    f"`alpha` {NUMBER} .*, got -1$": lambda t: fedrac_dirichlet(t, N5, alpha=-1),
    "`least` must be a whole number from 1, got 0": lambda t: dirichlet(t, N5, alpha=1.0, least=0),
    "`dirichlet` must give each of 5 participants at least 120": lambda t: dirichlet(t, N5, alpha=0.01, least=120),
    "`participants` must be at most 3, .* each needs 200, got 5": lambda t: dirichlet(t, N5, alpha=1.0, least=200),
    r"`holders` must be a whole number in \[1, 4\], got 5": lambda t: imbalanced(t, N5, share=0.2, holders=5),
    "`participants` must be at least 2 .*, got 1": lambda t: imbalanced(t, Config(participants=1), 0.2, holders=1),
    f"`share` {NUMBER} .*, got 0$": lambda t: imbalanced(t, N5, share=0, holders=1),
    "`share` must be at most .* for each of 2 holders, .*, got 0.5": lambda t: imbalanced(t, N5, share=0.5, holders=2),
    "`share` must be at most 0.4975 .*, got 0.499": lambda t: imbalanced(t, N5, share=0.499, holders=2),
    "`sizes` must hold one entry for each of the 5 participants, got 2 entries": lambda t: by_size(t, N5, (1, 2)),
    r"`sizes` must be a sequence, each part a whole number from 1, got .1, 0": lambda t: by_size(
        t, N5, (1, 0, 1, 1, 1)
    ),
    r"`sizes` must be a sequence, each part a whole number from 1, got .1\.5": lambda t: by_size(
        t, N5, (1.5, 1, 1, 1, 1)
    ),
    "`sizes` must be at most 600 in total, .*, got 601": lambda t: by_size(t, N5, (597, 1, 1, 1, 1)),
    "`classes_each` must be a whole number .*, got 11": lambda t: label_skew(t, N5, classes_each=11),
    "`classes_each` must be a whole number .*, got 0": lambda t: label_skew(t, N5, classes_each=0),
    "class 0 must have a sample for each of its 100 holders, got 60": lambda t: label_skew(
        t, Config(participants=100), classes_each=10
    ),
    "`samples_each` must be a whole number .*, got 3": lambda t: class_imbalance(t, N5, samples_each=3),
    "`samples_each` must be a whole number .*, got None": lambda t: class_imbalance(t, N5, replace=True),
    "`samples_each` must be a whole number .*, got 2000": lambda t: class_imbalance(t, N5, samples_each=2000),
    "`samples_each` must be a whole number .*, got 121": lambda t: fedrac_dirichlet(t, N5, 1.0, samples_each=121),
    "`replace` must be True or False, got 1": lambda t: class_imbalance(t, N5, 20, replace=1),
    "each class must have a sample, got none of class 1": lambda t: class_imbalance(
        samples(np.zeros(9), 2), Config(participants=2), 4, replace=True
    ),
    "`train` must have 10 samples for each of 100 participants": lambda t: class_imbalance(t, Config(participants=100)),
    "`train` must be samples with natural owners": lambda t: natural(Samples(t.x, t.y, 10), N5),
    "`participants` must be at most 23, the number of natural owners, got 24": lambda t: natural(
        t, Config(participants=24)
    ),
    "`train` must be Samples, such as .*, got Dataset": lambda t: homogeneous(Dataset("d", t, t, t, ""), N5),
    "`config` must be a Config, got 5": lambda t: homogeneous(t, 5),
    "`shards` must be a sequence, each part Shard, at least one, got ": lambda t: class_counts([]),
    r"`rates` must be a sequence, each part a number in \[0, 1\], got .0, 0, 0, 0, 1.5": lambda t: label_noise(
        homogeneous(t, N5), N5, (0, 0, 0, 0, 1.5)
    ),
    "`rates` must hold one entry for each of the 5 .*, got 2": lambda t: label_noise(homogeneous(t, N5), N5, (0, 0)),
    "`shards` must hold one entry for each of the 5 .*, got 4": lambda t: label_noise(
        homogeneous(t, Config(participants=4)), N5, (0,) * 5
    ),
}


@pytest.mark.parametrize("sentence", IMPOSSIBLE)
def test_an_impossible_request_is_refused_with_the_reason(sentence):
    with pytest.raises(ValueError, match=sentence):
        IMPOSSIBLE[sentence](balanced())


def test_sizes_in_small_integers_do_not_overflow(few: Dataset) -> None:
    sizes = np.array([200, 200], np.uint8)
    few_hundred = few.train.take(slice(0, 300))
    with pytest.raises(ValueError, match="`sizes` must be at most 300 in total"):
        by_size(few_hundred, Config(participants=2), sizes=sizes)
