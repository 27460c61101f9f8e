"""Paying with a part of the updates: CGSV, CFFL and IAFL worked by hand, and what travels."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from toys import held, moved, start
from toys import task as toy

import aequa_lite as aq
from aequa_lite.baselines.cffl import credited
from aequa_lite.baselines.sparsify import largest


def last(method: aq.Algorithm, task: aq.Problem) -> aq.Round:
    entry = method.enter(task)
    options = {"scheme": entry.strategy, "weights": entry.weights.tolist(), "progress": False}
    *_, final = aq.federate(task.build, task.shards, task.config, **options)
    return final


def real(few: aq.Dataset, config: aq.Config, brought=(0.4, 0.6, 0.7)) -> aq.Problem:
    shards = aq.data.homogeneous(few.train, config)
    return aq.Problem(aq.MLP, shards, config, few.validation, np.array(brought[: config.participants]))


def own(rnd: aq.Round, participant: int) -> dict[str, torch.Tensor]:
    return {name: rnd.state[f"{name} of participant {participant}"] for name in rnd.theta}


def test_the_largest_entries_stay_and_the_others_are_zero() -> None:
    assert largest(torch.tensor([1.0, -3.0, 2.0, 0.5]), 2).tolist() == [0.0, -3.0, 2.0, 0.0]
    assert largest(torch.tensor([1.0, 1.0, 1.0]), 1).tolist() == [1.0, 0.0, 0.0]  # among equals the first


def test_values_travel_with_their_places() -> None:
    assert aq.baselines.sparse_numbers(0, 100) == 0
    assert aq.baselines.sparse_numbers(3, 100) == 6  # an index for each
    assert aq.baselines.sparse_numbers(50, 100) == 54  # a bit for each entry: 4 numbers of 32
    assert aq.baselines.sparse_numbers(100, 100) == 100


# --- CGSV ---


def test_cgsv_worked_by_hand() -> None:
    task = toy([9, 1])
    strategy = aq.baselines.cgsv(length=1.0, beta=1.0).enter(task).strategy
    updates = moved(start(), [[3.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]], task.by_size)
    after = strategy.merge(start(), updates)
    # u = 0.9 e0 + 0.1 e1 by size; the cosines are 0.9 / |u| and 0.1 / |u|, so r = (0.9, 0.1)
    assert after["standing of participants"].tolist() == pytest.approx([0.9, 0.1])
    assert after["0.weight"].flatten().tolist() == pytest.approx([0.9, 0.1, 0.0, 0.0])
    assert held(after, 0) == [0.9, 0.1, 0.0, 0.0]
    share = math.tanh(0.1) / math.tanh(0.9)  # 0.139 of four entries: one
    assert math.ceil(4 * share) == 1
    assert held(after, 1) == [0.9, 0.0, 0.0, 0.0]  # and nothing of its own
    assert (
        strategy.sent(after, updates) == 2 * 4 + 4 + 2
    )  # two whole uploads, one whole download, one value and its place


def test_without_differences_cgsv_gives_everybody_the_whole_update(few: aq.Dataset, config: aq.Config) -> None:
    task = real(few, config)
    rnd = last(aq.baselines.cgsv(beta=1e7), task)
    assert all(torch.allclose(own(rnd, i)[k], rnd.theta[k], atol=1e-7) for i in range(3) for k in rnd.theta)
    assert rnd.parameters_sent == 6 * aq.n_parameters(aq.MLP())


def test_every_round_of_cgsv_moves_no_further_than_its_length(few: aq.Dataset, config: aq.Config) -> None:
    task = real(few, replace(config, rounds=1))
    rnd, before = last(aq.baselines.cgsv(length=0.2), task), aq.init_params(aq.MLP, 0)
    step = torch.cat([(rnd.theta[k] - before[k]).flatten() for k in before])
    assert 0.05 < float(step.norm()) <= 0.2 + 1e-5


def test_the_score_of_cgsv_is_the_alignment_of_the_contributions(few: aq.Dataset, config: aq.Config) -> None:
    task = real(few, replace(config, rounds=1))
    rnd = last(aq.baselines.cgsv(), task)
    scores = aq.alignment(aq.init_params(aq.MLP, 0), rnd)
    assert rnd.state["standing of participants"].tolist() == pytest.approx(scores.tolist(), rel=1e-4)


# --- CFFL ---


def test_credits_worked_by_hand() -> None:
    found = credited(np.full(2, np.nan), [0, 1], [0.6, 0.3], alpha=5.0, memory=0.2, threshold=1 / 3)
    raw = np.sinh(5 * np.array([0.8 * 2 / 3, 0.8 / 3]))
    assert found.tolist() == pytest.approx((raw / raw.sum()).tolist())
    again = credited(found, [0, 1], [0.5, 0.5], alpha=5.0, memory=0.2, threshold=1 / 3)
    raw = np.sinh(5 * (0.2 * found + 0.8 * 0.5))
    assert again.tolist() == pytest.approx((raw / raw.sum()).tolist())


def test_who_has_too_little_credit_is_left_to_itself_for_good() -> None:
    first = credited(np.full(3, np.nan), [0, 1, 2], [0.8, 0.7, 0.1], alpha=5.0, memory=0.2, threshold=1 / 3)
    assert first[2] == 0
    assert first.sum() == pytest.approx(1)
    later = credited(first, [0, 1, 2], [0.1, 0.1, 0.9], alpha=5.0, memory=0.2, threshold=0.0)
    assert later[2] == 0


def test_who_is_away_keeps_its_place_and_who_is_new_begins() -> None:
    away = credited(np.array([0.5, 0.5, np.nan]), [0], [0.5], alpha=1.0, memory=0.2, threshold=0.0)
    assert np.isnan(away[2])
    assert np.nansum(away) == pytest.approx(1)


def test_cffl_worked_by_hand() -> None:
    task = toy([2, 2])
    strategy = aq.baselines.cffl(upload=1.0).enter(task).strategy
    updates = moved(start(), [[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]], task.by_size)
    after = strategy.merge(start(), updates)
    # samples are zeros of class 0, so both uploads are equally good; equal sizes: the quota is everything
    assert after["standing of participants"].tolist() == pytest.approx([0.5, 0.5])
    assert held(after, 0) == [4.0, 1.0, 0.0, 0.0]  # all of its own, and half of the other's: its own half is taken out
    assert held(after, 1) == [2.0, 2.0, 0.0, 0.0]
    assert strategy.sent(after, updates) == 2 * 4 + 2 * (2 + 1)  # zeros of the common update need not be sent


def test_a_smaller_shard_downloads_less() -> None:
    task = toy([4, 1])
    strategy = aq.baselines.cffl(upload=1.0).enter(task).strategy
    after = strategy.merge(start(), moved(start(), [[4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 5.0]], task.by_size))
    # u = 0.8 d0 + 0.2 d1 = (3.2, 2.4, 1.6, 1.8); a quarter of the quota is one entry, and 0.2 d1 comes out
    assert held(after, 1) == [3.2, 0.0, 0.0, 4.0]


def test_cffl_of_one_participant_is_its_own_training(few: aq.Dataset) -> None:
    config = aq.Config(participants=1, rounds=2, local_steps=3)
    task = real(few, config, (0.5,))
    rnd, plain = last(aq.baselines.cffl(upload=1.0), task), last(aq.baselines.fedavg(), task)
    assert all(torch.allclose(own(rnd, 0)[k], plain.theta[k], atol=1e-6) for k in plain.theta)


def test_who_is_left_to_itself_trains_alone(few: aq.Dataset, config: aq.Config) -> None:
    task = real(few, replace(config, rounds=1))
    rnd = last(aq.baselines.cffl(threshold=1.2), task)  # nobody below 1.2 times an equal share is trusted
    credit = rnd.state["standing of participants"]
    assert (credit == 0).any()
    for i in np.flatnonzero(credit.numpy() == 0):
        assert all(torch.allclose(own(rnd, i)[k], rnd.updates[i].state[k], atol=1e-6) for k in rnd.theta)


def test_an_upload_is_a_tenth_of_the_values_and_their_places(few: aq.Dataset, config: aq.Config) -> None:
    size = aq.n_parameters(aq.MLP())
    rnd = last(aq.baselines.cffl(), real(few, replace(config, rounds=1)))
    up = 3 * aq.baselines.sparse_numbers(math.ceil(0.1 * size), size)
    assert up < rnd.parameters_sent < up + 3 * aq.baselines.sparse_numbers(math.ceil(0.3 * size), size)


# --- IAFL ---


def test_iafl_without_differences_is_fedavg_among_equals(few: aq.Dataset, config: aq.Config) -> None:
    task = real(few, config)
    plain = last(aq.baselines.fedavg(), task)
    for method in (aq.baselines.iafl(kappa=1.0), aq.baselines.iafl(kappa=1.0, recovery=1.0)):
        rnd = last(method, task)
        for network in (rnd.theta, *(own(rnd, i) for i in range(3))):
            assert all(torch.allclose(network[k], plain.theta[k], atol=1e-6) for k in network)


def test_iafl_gives_as_many_updates_as_the_contribution_earns() -> None:
    task = toy([1] * 5, contribution=[0.5, 0.1, 0.6, 0.8, 1.0])
    strategy = aq.baselines.iafl().enter(task).strategy
    updates = moved(start(), [[1.0, 0.0, 0.0, 0.0], [10.0, 0, 0, 0], [100.0, 0, 0, 0], [1e3, 0, 0, 0], [1e4, 0, 0, 0]])
    after, values = strategy.merge(start(), updates), [10.0**i for i in range(5)]
    for i, count in enumerate((2, 1, 3, 4, 4)):  # ceil(gamma * 4), and one's own
        others = [v for j, v in enumerate(values) if j != i]
        possible = [(values[i] + sum(some)) / (count + 1) for some in combinations(others, count)]
        assert min(abs(held(after, i)[0] - p) for p in possible) < 1e-3
    assert after["0.weight"][0, 0] == pytest.approx(sum(values) / 5)  # the reference follows the largest reward


def test_who_recovers_begins_the_round_with_the_reference() -> None:
    task = toy([1] * 4, contribution=[0.2, 0.3, 0.5, 1.0])
    changes = [[1.0, 0, 0, 0], [2.0, 0, 0, 0], [3.0, 0, 0, 0], [4.0, 0, 0, 0]]
    for recovery in (0.0, 1.0):
        strategy = aq.baselines.iafl(recovery=recovery).enter(task).strategy
        after = strategy.merge(start(), moved(start(), changes))
        for i in range(4):
            expected = after["0.weight"] if recovery else after[f"0.weight of participant {i}"]
            assert torch.equal(strategy.broadcast(after, i, 1.0)["0.weight"], expected)


def test_updates_are_drawn_anew_in_every_round() -> None:
    task = toy([1] * 6, contribution=[0.2] + [1.0] * 5)
    strategy, state, found = aq.baselines.iafl().enter(task).strategy, start(), set()
    for _ in range(8):
        before = state.get("0.weight of participant 0", state["0.weight"]).clone()
        state = strategy.merge(state, moved(state, [[float(2**i), 0, 0, 0] for i in range(6)]))
        found.add(round(2 * float((state["0.weight of participant 0"] - before)[0, 0])))
    assert found <= {1 + 2**i for i in range(1, 6)}
    assert len(found) > 2
