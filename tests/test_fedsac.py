"""Sub-networks of units, FedSAC and FedRAC: nested, compact without loss, averaged over holders, worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from toys import asked, problem, quiet, rounds_of, strategy_of

import aequa_lite as aq
from aequa_lite.baselines import fedavg, fedrac, fedsac
from aequa_lite.baselines.subnetworks import (
    average,
    bonus,
    compact,
    first_units,
    importance,
    masks,
    selected,
    widest_allowed,
)

NAMES = {aq.MLP: ["2", "4", "6"], aq.LeNet: ["1", "4", "8", "10", "12"]}
hidden = partial(fedsac, beta=20.0, samples=50, prune_outputs=False)


@pytest.fixture
def task(few: aq.Dataset, config: aq.Config) -> aq.Problem:
    alone = [aq.slim(aq.MLP, aq.init_params(aq.MLP, 0), 1.0)] * 3
    shards = aq.data.homogeneous(few.train, config)
    return aq.Problem(aq.MLP, shards, config, few, alone, np.array([0.4, 0.6, 0.7]))


def test_units_are_taken_from_the_least_important_upwards_until_the_reputation_is_reached() -> None:
    score = np.array([3.0, 1.0, 2.0, 0.0, 4.0, -1.0])  # weighs 30, 10, 20, 0, 40, 0
    kept = [np.concatenate(selected(score, [3, 3], r)).tolist() for r in (1, 10, 30, 60, 60.1, 100)]
    assert kept[0] == [False, True, False, True, False, True]  # the unit that crosses the reputation is taken
    assert kept[1] == [False, True, False, True, False, True]
    assert kept[2] == [False, True, True, True, False, True]
    assert kept[3] == [True, True, True, True, False, True]
    assert all(kept[4])
    assert all(kept[5])


def test_more_reputation_buys_all_that_less_buys() -> None:
    score = aq.stream(0, "units").normal(size=40)
    bought = [np.concatenate(selected(score, [25, 15], r)) for r in np.linspace(0.1, 100, 30)]
    assert all((a <= b).all() for a, b in zip(bought, bought[1:], strict=False))
    assert all(part.any() for part in selected(score, [25, 15], 0.0))


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("build", [aq.MLP, aq.LeNet])
def test_a_compact_network_computes_what_the_masked_one_does(build, outputs: bool, few: aq.Dataset) -> None:
    theta, rng = aq.init_params(build, 0), aq.stream(0, "kept")
    names = NAMES[build]
    layers = names if outputs else names[:-1]
    kept = [torch.as_tensor(rng.random(len(theta[f"{name}.weight"])) < 0.5) for name in layers]
    mask = masks(theta, names, kept)
    masked = aq.slim(build, {k: t * mask[k] for k, t in theta.items()}, 1.0)
    net = compact(build, theta, kept)
    numbers = aq.n_parameters(net)
    assert numbers < aq.n_parameters(masked)
    assert outputs or numbers == sum(int(m.sum()) for m in mask.values())
    x = few.test.x[:50]
    assert torch.allclose(net(x), masked(x), atol=1e-5)
    if outputs:
        assert (net(x)[:, ~kept[-1]] == 0).all()


@pytest.mark.parametrize("build", [aq.MLP, aq.LeNet])
def test_importance_is_what_the_loss_rises_by_without_the_unit(build, few: aq.Dataset) -> None:
    theta, some = aq.init_params(build, 0), few.validation.take(slice(0, 40))
    score, names = importance(build, theta, some), NAMES[build]
    sizes = [len(theta[f"{name}.weight"]) for name in names]
    assert len(score) == sum(sizes)

    def loss(net: nn.Module) -> float:
        return float(cross_entropy(net(some.x), some.y).detach())

    whole = loss(aq.slim(build, theta, 1.0))
    for layer, unit in ((0, 3), (1, 5), (len(sizes) - 2, 7), (len(sizes) - 1, 4)):  # the last one is an output
        kept = [torch.ones(size, dtype=torch.bool) for size in sizes]
        kept[layer][unit] = False
        without = loss(compact(build, theta, kept))
        assert score[sum(sizes[:layer]) + unit] == pytest.approx(without - whole, abs=1e-5)


def test_every_entry_is_averaged_over_those_who_hold_it_by_hand() -> None:
    theta = {"w": torch.tensor([1.0, 1.0, 1.0])}
    masks_of = {0: {"w": torch.tensor([True, True, False])}, 1: {"w": torch.tensor([True, False, False])}}
    ends = ([3.0, 5.0, 9.0], [7.0, 9.0, 9.0])
    updates = [aq.Update(i, 1.0, {"w": torch.tensor(end)}, 0.5, 0.0) for i, end in enumerate(ends)]
    assert average(theta, updates, masks_of)["w"].tolist() == [5.0, 5.0, 1.0]


@pytest.mark.parametrize("algorithm", [fedsac, fedrac])
def test_networks_that_are_no_chain_are_refused_before_any_work(algorithm, task: aq.Problem) -> None:
    for build in (aq.networks.ConvNet, aq.networks.ResNet18):
        with pytest.raises(ValueError, match="`build` must be a chain of linear and convolutional layers"):
            asked(algorithm, replace(task, build=build))


# --- FedSAC ---


def test_without_differences_fedsac_is_fedavg_among_equals(task: aq.Problem) -> None:
    found, plain = rounds_of(partial(fedsac, beta=0.0, samples=50), task)[-1], rounds_of(fedavg, task)[-1]
    assert all(torch.allclose(found.theta[k], plain.theta[k], atol=1e-6) for k in plain.theta)
    assert found.parameters_sent == plain.parameters_sent


def test_zeroed_hidden_units_stay_zero_while_their_participant_trains(task: aq.Problem) -> None:
    decayed = replace(task, config=replace(task.config, weight_decay=0.01, proximal=0.1))
    strategy, found = strategy_of(hidden, decayed), rounds_of(hidden, decayed)
    sent = strategy.broadcast(found[0].state, 0, 1.0)  # what participant 0 was sent in the second round
    assert 0 < sum(int((t == 0).sum()) for t in sent.values()) < aq.n_parameters(aq.MLP())
    assert all((found[1].updates[0].state[k][t == 0] == 0).all() for k, t in sent.items())


def test_what_a_pruned_output_learns_is_dropped(task: aq.Problem) -> None:
    algorithm = partial(fedsac, beta=20.0, samples=50)
    strategy, found = strategy_of(algorithm, task), rounds_of(algorithm, task)
    holders = torch.stack([strategy.broadcast(found[0].state, i, 1.0)["6.bias"] != 0 for i in range(3)])
    assert not holders[0].all()
    assert holders[2].all()
    only = holders[2] & ~holders[1] & ~holders[0]
    assert only.any()
    assert torch.allclose(found[1].theta["6.bias"][only], found[1].updates[2].state["6.bias"][only], atol=1e-6)


def test_entries_are_averaged_over_those_who_hold_them(task: aq.Problem) -> None:
    found, strategy = rounds_of(hidden, task), strategy_of(hidden, task)
    holds = [strategy.broadcast(found[0].state, i, 1.0)["4.weight"] != 0 for i in range(3)]
    only = holds[2] & ~holds[1] & ~holds[0]
    assert only.any()
    assert torch.allclose(found[1].theta["4.weight"][only], found[1].updates[2].state["4.weight"][only], atol=1e-6)


def test_who_contributes_less_is_sent_less_and_rewarded_with_less(task: aq.Problem) -> None:
    rounds, found = rounds_of(hidden, task), hidden(task, train=quiet)
    sizes = [aq.n_parameters(net) for net in found.models]
    assert sizes[0] < sizes[1] < sizes[2] == aq.n_parameters(aq.MLP())
    assert rounds[0].parameters_sent == 6 * sizes[2]  # the first round is everybody's
    assert rounds[-1].parameters_sent == 2 * sum(sizes)


def test_the_first_round_is_everybodys_whatever_the_reputation(task: aq.Problem) -> None:
    (first, *_), whole = rounds_of(partial(fedsac, beta=120.0, samples=50), task), aq.n_parameters(aq.MLP())
    assert first.parameters_sent == 6 * whole  # the least reputation is 2e-14


def test_the_reputation_of_fedsac_worked_by_hand() -> None:
    strategy, _ = asked(partial(fedsac, beta=2.0), problem([1, 1], [0.5, 1.0], build=partial(aq.MLP, hidden=4)))
    assert strategy.broadcast.keywords["units"].keywords["reputation"].tolist() == pytest.approx([36.7879441, 100.0])


def test_importance_is_measured_every_so_many_rounds_on_so_many_samples(task: aq.Problem) -> None:
    rounds = rounds_of(partial(fedsac, every=2, samples=20), task)
    first, second, third = (each.state.memory["importance"] for each in rounds)
    few = task.validation.take(slice(0, 20))
    assert first.tolist() == importance(aq.MLP, rounds[0].theta, few).tolist()
    assert torch.equal(first, second)  # of the second round nothing is measured
    assert third.tolist() == importance(aq.MLP, rounds[2].theta, few).tolist()


def test_a_reputation_that_is_reached_up_to_rounding_buys_no_further_unit() -> None:
    assert np.concatenate(selected(np.full(3, 0.1), [3], 100 / 3)).tolist() == [True, False, False]


# --- FedRAC ---


def test_the_reputation_of_fedrac_worked_by_hand() -> None:
    constants = {"beta": 10.0, "lam": 0.5, "zeta": 1.0, "kappa": math.e}
    contribution = np.array([0.5, 0.7])
    assert bonus(contribution, 0, **constants).tolist() == pytest.approx([0.1353353, 1.0])  # exp(-2), and all of it
    # log(5 + e) = 2.0436, 1 / 2.0436 = 0.48933, 1 - 0.5 (1 - 0.48933) = 0.74467
    assert bonus(contribution, 5, **constants).tolist() == pytest.approx([0.10078, 0.74467], abs=1e-4)


def test_the_least_trained_units_come_first_by_hand() -> None:
    trained = torch.tensor([3.0, 1.0, 2.0, 1.0, 0.0, 0.0])
    narrow, wide = (first_units(trained, [4, 2], width) for width in (0.3, 0.75))
    assert [each.tolist() for each in narrow] == [[False, True, False, True], [True, False]]
    assert [each.tolist() for each in wide] == [[False, True, True, True], [True, True]]


def test_seven_hundredths_of_a_hundred_units_are_seven() -> None:
    for count in range(1, 101):
        (kept,) = first_units(torch.zeros(100), [100], count / 100)
        assert int(kept.sum()) == count


def test_the_widest_width_that_a_reputation_allows() -> None:
    accuracy, grid = [0.2, 0.5, 0.4, 0.8], [0.25, 0.5, 0.75, 1.0]
    assert [widest_allowed(accuracy, grid, r) for r in (0.1, 0.2, 0.45, 0.5, 0.9)] == [0.25, 0.25, 0.75, 0.75, 1.0]


def test_units_rotate_and_widths_follow_the_reputation(task: aq.Problem) -> None:
    longer = replace(task, config=replace(task.config, rounds=6), contribution=np.array([0.15, 0.3, 0.7]))
    rounds = rounds_of(partial(fedrac, widths=10), longer)
    assert rounds[0].state.memory["trained"].tolist() == [3.0] * 400  # everybody trains all of it
    for before, rnd in zip(rounds, rounds[1:], strict=False):
        units = [torch.cat(first_units(before.state.memory["trained"], [200, 200], float(w)))
                 for w in before.state.memory["widths"]]  # fmt: skip
        assert torch.equal(rnd.state.memory["trained"] - before.state.memory["trained"], sum(u.float() for u in units))
        widths = rnd.state.memory["widths"]
        assert widths[0] <= widths[1] <= widths[2] == 1.0
    assert rounds[-1].state.memory["widths"][0] < 1
    assert rounds[-1].state.memory["trained"].std() > 0


def test_no_reward_of_fedrac_is_more_accurate_than_its_reputation(task: aq.Problem) -> None:
    longer = replace(task, config=replace(task.config, rounds=8), contribution=np.array([0.2, 0.4, 0.6]))
    found = partial(fedrac, widths=20)(longer, train=quiet)
    whole = aq.accuracy([aq.slim(aq.MLP, found.last.theta, 1.0)], longer.validation)[0]
    index = longer.config.rounds - 1
    share = bonus(longer.contribution, index, beta=80.0, lam=0.5, zeta=1.0, kappa=math.e)
    reached = aq.accuracy(found.models, longer.validation)
    assert (reached <= np.maximum(longer.contribution + whole * share, 0.11) + 1e-6).all()
    assert aq.n_parameters(found.models[0]) < aq.n_parameters(found.models[2]) == aq.n_parameters(aq.MLP())


def test_without_differences_fedrac_is_fedavg_among_equals(task: aq.Problem) -> None:
    equal = replace(task, contribution=np.full(3, 0.9))
    found, plain = rounds_of(partial(fedrac, beta=0.0, widths=3), equal)[-1], rounds_of(fedavg, equal)[-1]
    assert all(torch.allclose(found.theta[k], plain.theta[k], atol=1e-6) for k in plain.theta)
    assert found.parameters_sent == plain.parameters_sent
