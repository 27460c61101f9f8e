"""Rewards that are parts of the updates: CGSV, CFFL and IAFL worked by hand, and what travels."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from toys import asked, four, moved, problem, quiet, rounds_of, start, strategy_of

import aequa_lite as aq
from aequa_lite.baselines import cffl, cgsv, fedavg, iafl
from aequa_lite.baselines.common import descending, only, own_network, sparse_numbers
from aequa_lite.baselines.personal import credits, sparse_shares


def last(algorithm, of: aq.Problem) -> aq.Round:
    return algorithm(of, train=quiet).last


def real(few: aq.Dataset, config: aq.Config, contribution=(0.4, 0.6, 0.7)) -> aq.Problem:
    shards, n = aq.data.homogeneous(few.train, config), config.participants
    alone = [aq.slim(aq.MLP, aq.init_params(aq.MLP, 0), 1.0)] * n
    return aq.Problem(aq.MLP, shards, config, few, alone, np.array(contribution[:n]))


def own(rnd: aq.Round, participant: int) -> dict[str, torch.Tensor]:
    assert f"participant/{participant}/2.weight" in rnd.state.memory
    return own_network(rnd.state, participant)


def test_the_largest_entries_stay_and_the_others_are_zero() -> None:
    for flat, count, expected in (
        (torch.tensor([1.0, -3.0, 2.0, 0.5]), 2, [0.0, -3.0, 2.0, 0.0]),
        (torch.tensor([1.0, 1.0, 1.0]), 1, [1.0, 0.0, 0.0]),  # among equals the first
    ):
        assert only(flat, descending(flat)[:count]).tolist() == expected


def test_values_travel_with_their_positions() -> None:
    assert sparse_numbers(0, 100) == 0
    assert sparse_numbers(3, 100) == 6  # an index for each
    assert sparse_numbers(50, 100) == 54  # a bit for each entry: 4 numbers of 32
    assert sparse_numbers(100, 100) == 100


# --- CGSV ---


def test_cgsv_worked_by_hand() -> None:
    task = problem([9, 1])
    strategy = strategy_of(partial(cgsv, length=1.0, beta=1.0), task)
    updates = moved(start(), [[3.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]], task.by_size)
    after = strategy.aggregate(start(), updates)
    # u = 0.9 e0 + 0.1 e1 by size; the cosines are 0.9 / |u| and 0.1 / |u|, so r = (0.9, 0.1)
    assert after.memory["standing"].tolist() == pytest.approx([0.9, 0.1])
    assert four(after) == pytest.approx([0.9, 0.1, 0.0, 0.0])
    assert four(after, 0) == [0.9, 0.1, 0.0, 0.0]
    share = math.tanh(0.1) / math.tanh(0.9)  # 0.139 of four entries: one
    assert math.ceil(4 * share) == 1
    assert four(after, 1) == [0.9, 0.0, 0.0, 0.0]  # and nothing of its own
    # two whole uploads; down: three values (of four at most) and their positions in a bitmap, one value and its position
    assert strategy.sent(after, updates) == 2 * 4 + (3 + 1) + (1 + 1)


def test_a_second_round_of_cgsv_worked_by_hand() -> None:
    task = problem([1, 1])
    strategy = strategy_of(partial(cgsv, length=2.0), task)
    first = strategy.aggregate(start(), moved(start(), [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], task.by_size))
    assert first.memory["standing"].tolist() == pytest.approx([0.5, 0.5])
    second = strategy.aggregate(first, moved(first, [[5.0, 0.0, 0.0, 0.0], [0.0, 0.0, 7.0, 0.0]], task.by_size))
    # u = e0 + e2 of units of norm 2, both cosines 1 / sqrt(2): r stays (0.5, 0.5)
    assert second.memory["standing"].tolist() == pytest.approx([0.5, 0.5])
    assert four(second) == pytest.approx([3.0, 0.0, 1.0, 0.0], abs=1e-6)
    assert four(second, 0) == four(second, 1) == pytest.approx([3.0, 0.0, 1.0, 0.0], abs=1e-6)


def test_at_share_one_all_but_one_entry_of_each_tensor_is_sent() -> None:
    strategy = strategy_of(partial(cgsv, length=30.0**0.5), problem([1, 1]))
    after = strategy.aggregate(start(), moved(start(), [[4.0, 3.0, 2.0, 1.0]] * 2))
    assert four(after) == pytest.approx([4.0, 3.0, 2.0, 1.0], abs=1e-5)
    assert four(after, 0) == four(after, 1) == pytest.approx([4.0, 3.0, 2.0, 0.0], abs=1e-5)


def test_a_share_is_rounded_up_but_not_by_its_own_rounding() -> None:
    change, share = {"w": torch.arange(1.0, 11.0)}, 0.56 / 0.8
    assert share * 10 > 7  # in sixteen digits
    (part,), _ = sparse_shares(change, [share])
    assert int(part["w"].count_nonzero()) == 7


def test_cgsv_compares_standings_with_those_of_the_absent_too() -> None:
    strategy = strategy_of(partial(cgsv, length=1.0, beta=1.0), problem([9, 1]))
    first = strategy.aggregate(start(), moved(start(), [[3.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]], [0.9, 0.1]))
    only = replace(moved(first, [[0.0] * 4, [4.0, 3.0, 2.0, 1.0]])[1], participant=1)
    second = strategy.aggregate(first, [only])
    before, after = own_network(first, 1)["0.weight"], own_network(second, 1)["0.weight"]
    share = math.tanh(0.1) / math.tanh(0.9)  # as in the first round: the standing 0.9 is that of who is absent now
    assert second.memory["standing"].tolist() == pytest.approx([0.9, 0.1])
    assert int((after != before).sum()) == math.ceil(4 * share) == 1


def test_without_differences_cgsv_gives_everybody_the_same_nearly_whole_update(few, config: aq.Config) -> None:
    rnd = last(partial(cgsv, beta=1e7), real(few, config))
    for i in range(3):
        for k, t in rnd.theta.items():
            apart = ~torch.isclose(own(rnd, i)[k], t, atol=1e-7)
            assert int(apart.sum()) <= config.rounds  # one entry of each tensor in each round
            assert torch.equal(own(rnd, i)[k], own(rnd, 0)[k])
    sizes = [t.numel() for t in rnd.theta.values()]
    down = sum(sparse_numbers(size - 1, size) for size in sizes)
    assert rnd.parameters_sent == 3 * (sum(sizes) + down)


def test_every_round_of_cgsv_moves_no_further_than_its_length(few: aq.Dataset, config: aq.Config) -> None:
    rnd, before = last(partial(cgsv, length=0.2), real(few, replace(config, rounds=1))), aq.init_params(aq.MLP, 0)
    step = torch.cat([(rnd.theta[k] - before[k]).flatten() for k in before])
    assert 0.05 < float(step.norm()) <= 0.2 + 1e-5


def test_the_score_of_cgsv_is_the_alignment_of_the_contributions(few: aq.Dataset, config: aq.Config) -> None:
    rnd = last(cgsv, real(few, replace(config, rounds=1)))
    scores = aq.alignment(aq.init_params(aq.MLP, 0), rnd)
    assert rnd.state.memory["standing"].tolist() == pytest.approx(scores.tolist(), rel=1e-4)


# --- CFFL ---


def test_credits_worked_by_hand() -> None:
    constants = {"alpha": 5.0, "memory": 0.8, "threshold": 1 / 3}
    found = credits(np.full(2, np.nan), [0, 1], [0.6, 0.3], **constants)
    # 0.2 x 2/3 = 0.1333 and 0.0667; sinh(0.6667) = 0.7172, sinh(0.3333) = 0.3395
    assert found.tolist() == pytest.approx([0.7172 / 1.0567, 0.3395 / 1.0567], abs=1e-4)
    again = credits(found, [0, 1], [0.5, 0.5], **constants)
    raw = np.sinh(5 * (0.8 * found + 0.2 * 0.5))
    assert again.tolist() == pytest.approx((raw / raw.sum()).tolist())
    assert again[0] > found[0]  # sinh amplifies what is remembered


def test_who_has_too_little_credit_is_excluded_for_good() -> None:
    first = credits(np.full(3, np.nan), [0, 1, 2], [0.8, 0.7, 0.1], alpha=5.0, memory=0.2, threshold=1 / 3)
    assert first[2] == 0
    assert first.sum() == pytest.approx(1)
    later = credits(first, [0, 1, 2], [0.1, 0.1, 0.9], alpha=5.0, memory=0.2, threshold=0.0)
    assert later[2] == 0


def test_equal_networks_have_equal_credits_also_if_none_classifies_anything() -> None:
    constants = {"alpha": 5.0, "memory": 0.8, "threshold": 1.0}
    assert credits(np.full(3, np.nan), [0, 1, 2], [0.0, 0.0, 0.0], **constants).tolist() == [1 / 3] * 3
    for n in range(2, 40):  # rounding excludes nobody from an equal share
        equal = credits(np.full(n, np.nan), range(n), [0.7] * n, **constants)
        assert equal.tolist() == pytest.approx([1 / n] * n)


def test_who_is_absent_keeps_its_credit_and_who_is_new_begins() -> None:
    away = credits(np.array([0.5, 0.5, np.nan]), [0], [0.5], alpha=1.0, memory=0.2, threshold=0.0)
    assert np.isnan(away[2])
    assert np.nansum(away) == pytest.approx(1)


def test_alpha_grows_over_training() -> None:
    strategy, _ = asked(cffl, problem([1, 1], rounds=6))
    assert strategy.aggregate.keywords["alphas"].tolist() == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]


def test_cffl_worked_by_hand() -> None:
    strategy = strategy_of(partial(cffl, clip=None), problem([2, 2]))
    updates = moved(start(), [[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    after = strategy.aggregate(start(), updates)
    # samples are zeros of class 0, so both uploads are equally good; equal sizes: the quota is everything
    assert after.memory["standing"].tolist() == pytest.approx([0.5, 0.5])
    assert four(after) == [4.0, 2.0, 0.0, 0.0]  # the sum
    assert four(after, 0) == [4.0, 2.0, 0.0, 0.0]  # its own, and the other's: its own part of the sum is taken out
    assert four(after, 1) == [4.0, 2.0, 0.0, 0.0]
    assert strategy.sent(after, updates) == 2 * 4 + 2 * (2 + 1)  # zeros of the sum need not be sent


def test_uploads_are_clipped_and_ones_own_change_is_not() -> None:
    strategy = strategy_of(partial(cffl, clip=1.0), problem([2, 2]))
    after = strategy.aggregate(start(), moved(start(), [[4.0, 0.0, -0.5, 0.0], [0.0, -2.0, 0.0, 0.0]]))
    assert four(after) == [1.0, -1.0, -0.5, 0.0]
    assert four(after, 0) == [4.0, -1.0, -0.5, 0.0]
    assert four(after, 1) == [1.0, -2.0, -0.5, 0.0]


def test_as_released_ones_own_change_is_clipped_and_the_own_part_taken_out_whole() -> None:
    strategy, _ = asked(partial(cffl, clip=1.0, released=True), problem([2, 1], rounds=5))
    assert strategy.aggregate.keywords["alphas"].tolist() == [5.0, 6.0, 7.0, 8.0, 9.0]
    after = strategy.aggregate(start(), moved(start(), [[4.0, 0.0, 0.0, 0.25], [0.0, -2.0, 0.5, 0.0]]))
    assert four(after) == [1.0, -1.0, 0.5, 0.25]
    assert four(after, 0) == [1.0, -1.0, 0.5, 0.25]
    assert four(after, 1) == [1.0, -1.0, 0.0, 0.0]  # two entries of four; 0.5 is its own


def test_as_released_entries_that_tie_travel_together() -> None:
    strategy = strategy_of(partial(cffl, clip=1.0, upload=0.25, released=True), problem([2, 2]))
    updates = moved(start(), [[4.0, 3.0, 0.5, 0.0], [0.0, 0.0, 0.5, 0.0]])
    after = strategy.aggregate(start(), updates)
    assert four(after) == [1.0, 1.0, 0.5, 0.0]
    assert four(after, 0) == [1.0, 1.0, 1.0, 0.0]  # its own 0.5 is not uploaded and stays
    assert strategy.sent(after, updates) == (2 + 1) + (1 + 1) + 2 * (3 + 1)


def test_a_smaller_shard_downloads_less() -> None:
    strategy = strategy_of(partial(cffl, clip=None), problem([4, 1]))
    after = strategy.aggregate(start(), moved(start(), [[4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 5.0]]))
    # u = (4, 3, 2, 6); a quarter of the quota is one entry, 6, and a quarter of the own change, 1.25, is taken out
    assert four(after, 1) == [0.0, 0.0, 0.0, 5.0 + 6.0 - 1.25]


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_cffl_of_one_participant_is_its_own_training(few: aq.Dataset, clip: float | None) -> None:
    task = real(few, aq.Config(participants=1, rounds=2, local_steps=3), (0.5,))
    rnd, plain = last(partial(cffl, clip=clip), task), last(fedavg, task)
    assert all(torch.allclose(own(rnd, 0)[k], plain.theta[k], atol=1e-6) for k in plain.theta)


def test_who_is_excluded_trains_alone(few: aq.Dataset, config: aq.Config) -> None:
    rnd = last(partial(cffl, threshold=1.0), real(few, replace(config, rounds=1)))  # who is below an equal share
    credit = rnd.state.memory["standing"]
    assert (credit == 0).any()
    for i in np.flatnonzero(credit.numpy() == 0):
        assert all(torch.allclose(own(rnd, i)[k], rnd.updates[i].state[k], atol=1e-6) for k in rnd.theta)


def test_an_upload_is_a_tenth_of_the_values_and_their_positions(few: aq.Dataset, config: aq.Config) -> None:
    size = aq.n_parameters(aq.MLP())
    rnd = last(partial(cffl, upload=0.1), real(few, replace(config, rounds=1)))
    up = 3 * sparse_numbers(math.ceil(0.1 * size), size)
    assert up < rnd.parameters_sent < up + 3 * sparse_numbers(math.ceil(0.3 * size), size)


# --- IAFL ---


def test_iafl_without_differences_is_fedavg_among_equals(few: aq.Dataset, config: aq.Config) -> None:
    task = real(few, config)
    plain = last(fedavg, task)
    for algorithm in (partial(iafl, kappa=1.0), partial(iafl, kappa=1.0, recovery=1.0)):
        rnd = last(algorithm, task)
        for network in (rnd.theta, *(own(rnd, i) for i in range(3))):
            assert all(torch.allclose(network[k], plain.theta[k], atol=1e-6) for k in network)


def test_iafl_gives_as_many_updates_as_the_contribution_earns() -> None:
    strategy = strategy_of(iafl, problem([1] * 5, [0.5, 0.1, 0.6, 0.8, 1.0]))
    updates = moved(start(), [[1.0, 0.0, 0.0, 0.0], [10.0, 0, 0, 0], [100.0, 0, 0, 0], [1e3, 0, 0, 0], [1e4, 0, 0, 0]])
    after, values = strategy.aggregate(start(), updates), [10.0**i for i in range(5)]
    for i, count in enumerate((2, 1, 3, 4, 4)):  # ceil(gamma * 4), and one's own
        others = [v for j, v in enumerate(values) if j != i]
        possible = [(values[i] + sum(some)) / (count + 1) for some in combinations(others, count)]
        assert min(abs(four(after, i)[0] - p) for p in possible) < 1e-3
    assert after.theta["0.weight"][0, 0] == pytest.approx(sum(values) / 5)  # the reference follows the largest reward


@pytest.mark.parametrize(("kappa", "contribution", "others", "drawn"), [(0.5, 0.25, 4, 2), (0.0, 0.56 / 0.8, 10, 7)])
def test_the_count_of_iafl_is_a_power_of_the_contribution_rounded_up(
    kappa: float, contribution: float, others: int, drawn: int
) -> None:
    strategy = strategy_of(partial(iafl, kappa=kappa), problem([1] * (1 + others), [contribution] + [1.0] * others))
    after = strategy.aggregate(start(), moved(start(), [[0.0] * 4] + [[1.0, 0.0, 0.0, 0.0]] * others))
    # one's own update is zero, so the mean counts the others': 0.25 ** 0.5 of four, and 0.7 of ten
    assert four(after, 0)[0] == pytest.approx(drawn / (drawn + 1), abs=1e-6)


def test_everybody_recovers_by_a_draw_of_its_own() -> None:
    contribution = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0]
    strategy = strategy_of(partial(iafl, recovery=0.5), problem([1] * 8, contribution))
    after = strategy.aggregate(start(), moved(start(), [[2.0**i, 0.0, 0.0, 0.0] for i in range(8)]))
    recovers = [aq.stream(0, "recovery", 1, i).random() < 0.5 for i in range(7)]  # the reference is the eighth's
    assert 0 < sum(recovers) < 7
    for i, reference in enumerate(recovers):
        expected = after.theta if reference else own_network(after, i)
        assert torch.equal(strategy.broadcast(after, i, 1.0)["0.weight"], expected["0.weight"])
        assert four(after) != four(after, i)


def test_who_recovers_begins_the_round_with_the_reference() -> None:
    task = problem([1] * 4, [0.2, 0.3, 0.5, 1.0])
    changes = [[1.0, 0, 0, 0], [2.0, 0, 0, 0], [3.0, 0, 0, 0], [4.0, 0, 0, 0]]
    for recovery in (0.0, 1.0):
        strategy = strategy_of(partial(iafl, recovery=recovery), task)
        after = strategy.aggregate(start(), moved(start(), changes))
        for i in range(4):
            expected = after.theta["0.weight"] if recovery else after.memory[f"participant/{i}/0.weight"]
            assert torch.equal(strategy.broadcast(after, i, 1.0)["0.weight"], expected)


def test_updates_are_drawn_anew_in_every_round() -> None:
    strategy = strategy_of(iafl, problem([1] * 6, [0.2] + [1.0] * 5))
    state, found = start(), set()
    for _ in range(8):
        before = own_network(state, 0)["0.weight"].clone()
        state = strategy.aggregate(state, moved(state, [[float(2**i), 0, 0, 0] for i in range(6)]))
        found.add(round(2 * float((own_network(state, 0)["0.weight"] - before)[0, 0])))
    assert found <= {1 + 2**i for i in range(1, 6)}
    assert len(found) > 2


def test_contributions_that_earn_nothing_are_refused() -> None:
    for contribution in ([0.0, 0.0], [-0.1, 0.5]):
        with pytest.raises(ValueError, match="`contribution` must be numbers from 0, one of them above 0"):
            asked(iafl, problem([1, 1], contribution))


def test_rounds_of_real_training_stay_finite(few: aq.Dataset, config: aq.Config) -> None:
    for algorithm in (cgsv, cffl, iafl):
        assert all(np.isfinite(rnd.loss) for rnd in rounds_of(algorithm, real(few, config)))


@pytest.mark.parametrize("algorithm", [aq.baselines.cgsv, aq.baselines.cffl, aq.baselines.shapfed])
def test_whose_updates_are_all_refused_keeps_the_first_network(algorithm, few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=2, local_steps=3)
    shards = aq.data.homogeneous(few.train, config)
    task = aq.method.assess(aq.MLP, shards, config, few, progress=False)

    def spoil(states, shard, width, config, rng, **rest):
        update = task_local(states, shard, width, config, rng, **rest)
        bad = {k: torch.full_like(t, torch.nan) for k, t in update.state.items()}
        return replace(update, state=bad) if shard.participant == 0 else update

    task_local = aq.slimmable(task.build, aq.full_only).local

    def train(given, strategy, **options):
        return aq.method.train(given, replace(strategy, local=spoil, vectorized=None), progress=False, **options)

    outcome = algorithm(task, train=train)
    first = aq.init_params(task.build, task.config.seed, "cpu")
    for name, t in outcome.models[0].state_dict().items():
        assert torch.equal(t, first[name])
    assert not all(torch.equal(t, first[name]) for name, t in outcome.models[1].state_dict().items())
