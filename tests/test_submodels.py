"""Sub-models by importance: nested, compact without loss, merged by those who hold an entry, and FedAvg where all hold all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import aequa_lite as aq
from aequa_lite.baselines.fedsac import chosen, masks


@pytest.fixture
def task(few: aq.Dataset, config: aq.Config) -> aq.Problem:
    return aq.Problem(aq.MLP, aq.data.homogeneous(few.train, config), config, few.validation, np.array([0.4, 0.6, 0.7]))


def rounds(method: aq.Algorithm, task: aq.Problem) -> list[aq.Round]:
    entry = method.enter(task)
    options = {"scheme": entry.strategy, "weights": entry.weights.tolist(), "progress": False}
    return list(aq.federate(task.build, task.shards, task.config, **options))


def test_units_are_bought_from_the_least_important_upwards() -> None:
    score = np.array([3.0, 1.0, 2.0, 0.0, 4.0, -1.0])  # weighs 30, 10, 20, 0, 40, 0
    kept = [np.concatenate(chosen(score, [3, 3], r)).tolist() for r in (1, 10, 30, 60, 100)]
    assert kept[0] == [False, True, False, True, False, True]  # the first layer's least important one is a gift
    assert kept[1] == [False, True, False, True, False, True]
    assert kept[2] == [False, True, True, True, False, True]
    assert kept[3] == [True, True, True, True, False, True]
    assert all(kept[4])


def test_more_reputation_buys_all_that_less_buys() -> None:
    score = aq.stream(0, "units").normal(size=40)
    bought = [np.concatenate(chosen(score, [25, 15], r)) for r in np.linspace(0.1, 100, 30)]
    assert all((a <= b).all() for a, b in zip(bought, bought[1:], strict=False))
    assert all(part.any() for part in chosen(score, [25, 15], 0.0))


@pytest.mark.parametrize("build", [aq.MLP, aq.LeNet])
def test_a_compact_network_says_what_the_silenced_one_says(build, few: aq.Dataset) -> None:
    theta, draws = aq.init_params(build, 0), aq.stream(0, "kept")
    names = ["2", "4", "6"] if build is aq.MLP else ["1", "4", "8", "10", "12"]
    kept = [torch.as_tensor(draws.random(len(theta[f"{name}.weight"])) < 0.5) for name in names[:-1]]
    mask = masks(theta, names, kept)
    silenced = aq.slim(build, {k: t * mask[k] for k, t in theta.items()}, 1.0)
    net = aq.baselines.compact(build, theta, kept)
    assert aq.n_parameters(net) == sum(int(m.sum()) for m in mask.values()) < aq.n_parameters(silenced)
    x = few.test.x[:50]
    assert torch.allclose(net(x), silenced(x), atol=1e-5)


@pytest.mark.parametrize("build", [aq.MLP, aq.LeNet])
def test_importance_is_what_the_loss_rises_by_without_the_unit(build, few: aq.Dataset) -> None:
    theta, some = aq.init_params(build, 0), few.validation.take(slice(0, 40))
    score = aq.baselines.importance(build, theta, some)
    names = ["2", "4", "6"] if build is aq.MLP else ["1", "4", "8", "10", "12"]
    sizes = [len(theta[f"{name}.weight"]) for name in names[:-1]]
    assert len(score) == sum(sizes)

    def loss(net: nn.Module) -> float:
        return float(cross_entropy(net(some.x), some.y).detach())

    whole = loss(aq.slim(build, theta, 1.0))
    for layer, unit in ((0, 3), (1, 5), (len(sizes) - 1, 7)):
        kept = [torch.ones(size, dtype=torch.bool) for size in sizes]
        kept[layer][unit] = False
        without = loss(aq.baselines.compact(build, theta, kept))
        assert score[sum(sizes[:layer]) + unit] == pytest.approx(without - whole, abs=1e-5)


def test_without_differences_it_is_fedavg_among_equals(task: aq.Problem) -> None:
    found, plain = rounds(aq.baselines.fedsac(0.0, samples=50), task)[-1], rounds(aq.baselines.fedavg(), task)[-1]
    assert all(torch.allclose(found.theta[k], plain.theta[k], atol=1e-6) for k in plain.theta)
    assert found.parameters_sent == plain.parameters_sent


def test_silent_units_stay_silent_while_their_holder_trains(task: aq.Problem) -> None:
    decayed = replace(task, config=replace(task.config, weight_decay=0.01, proximal=0.1))
    entry, found = (
        aq.baselines.fedsac(20.0, samples=50).enter(decayed),
        rounds(aq.baselines.fedsac(20.0, samples=50), decayed),
    )
    sent = entry.strategy.broadcast(found[0].state, 0, 1.0)  # what participant 0 was sent in the second round
    assert 0 < sum(int((t == 0).sum()) for t in sent.values()) < aq.n_parameters(aq.MLP())
    assert all((found[1].updates[0].state[k][t == 0] == 0).all() for k, t in sent.items())


def test_entries_are_averaged_over_those_who_hold_them(task: aq.Problem) -> None:
    found = rounds(aq.baselines.fedsac(20.0, samples=50), task)
    entry = aq.baselines.fedsac(20.0, samples=50).enter(task)
    held = [entry.strategy.broadcast(found[0].state, i, 1.0)["4.weight"] != 0 for i in range(3)]
    only = held[2] & ~held[1] & ~held[0]
    assert only.any()
    assert torch.allclose(found[1].theta["4.weight"][only], found[1].updates[2].state["4.weight"][only], atol=1e-6)


def test_less_is_sent_to_and_paid_to_who_brings_less(task: aq.Problem) -> None:
    found = rounds(aq.baselines.fedsac(20.0, samples=50), task)
    sizes = [aq.n_parameters(net) for net in aq.baselines.fedsac(20.0, samples=50).enter(task).pay(found[-1]).models]
    assert sizes[0] < sizes[1] < sizes[2] == aq.n_parameters(aq.MLP())
    assert found[0].parameters_sent == 6 * sizes[2]  # the first round is everybody's
    assert found[-1].parameters_sent == 2 * sum(sizes)


def test_networks_that_are_no_chain_are_refused(task: aq.Problem) -> None:
    for build in (aq.networks.ConvNet, aq.networks.ResNet18):
        with pytest.raises(ValueError, match="allowed are chains"):
            aq.baselines.fedsac().enter(replace(task, build=build))
