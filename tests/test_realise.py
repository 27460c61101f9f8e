"""The same targets realised in five ways: each way's ends, the one rule that turns the knob, and what a coalition regains."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import aequa_lite as aq

SMALL = partial(aq.MLP, hidden=40)


@pytest.fixture(scope="module")
def trained(few: aq.Dataset):
    config = aq.Config(participants=3, rounds=12, local_steps=8, batch=32)
    rounds = list(aq.federate(SMALL, aq.data.by_size(few.train, config, sizes=(40, 120, 360)), config, progress=False))
    return rounds, aq.init_params(SMALL, config.seed)


@pytest.fixture(scope="module")
def ways(trained):
    rounds, start = trained
    theta = rounds[-1].theta
    return {
        "width": aq.baselines.by_width(SMALL, theta),
        "zeroing": aq.baselines.by_zeroing(theta, start),
        "pruning": aq.baselines.by_pruning(theta),
        "noise": aq.baselines.by_noise(theta, seed=0),
        "subset": aq.baselines.by_subset(rounds, start, seed=0, levels=11),
    }


WAYS = ("width", "zeroing", "pruning", "noise", "subset")


def validated(dose: aq.baselines.PartialModel, few: aq.Dataset) -> float:
    return float(aq.accuracy([dose.model(SMALL)], few.validation)[0])


@pytest.mark.parametrize("name", WAYS)
def test_the_knob_at_one_hands_out_the_trained_network(name: str, ways, trained) -> None:
    theta = trained[0][-1].theta
    dose = ways[name](1.0, 0)
    assert all(torch.allclose(dose.state[k], t, atol=1e-5) for k, t in theta.items())
    assert dose.numbers == sum(t.numel() for t in theta.values())


@pytest.mark.parametrize("name", ["zeroing", "pruning"])
def test_the_knob_at_zero_hands_out_what_everybody_knows(name: str, ways, trained) -> None:
    dose, start = ways[name](0.0, 0), trained[1]
    assert dose.numbers == 0
    for k, t in start.items():
        assert torch.equal(dose.state[k], t if name == "zeroing" else torch.zeros_like(t))


@pytest.mark.parametrize("name", ["width", "zeroing", "pruning"])
def test_less_of_it_is_nested_in_more_of_it(name: str, ways) -> None:
    doses = [ways[name](knob, i) for i, knob in enumerate((0.1, 0.3, 0.31, 0.8, 1.0))]
    for less, more in zip(doses, doses[1:], strict=False):
        assert all((more.held[k] | ~less.held[k]).all() for k in less.held)
        assert less.numbers <= more.numbers


def test_a_width_is_the_slim_network(ways, trained, few: aq.Dataset) -> None:
    net = aq.slim(SMALL, trained[0][-1].theta, 0.3)
    dose = ways["width"](0.3, 0)
    assert torch.equal(net(few.test.x[:20]), dose.model(SMALL)(few.test.x[:20]))
    assert dose.numbers == aq.n_parameters(net)


def test_the_numbers_of_zeroing_are_values_and_places(ways, trained) -> None:
    sizes = [t.numel() for t in trained[1].values()]
    assert ways["zeroing"](0.25, 0).numbers == sum(
        aq.baselines.sparse_numbers(int(np.ceil(0.25 * n)), n) for n in sizes
    )


def test_noise_is_everybodys_own_and_the_same_each_time(ways) -> None:
    one, again, other = (ways["noise"](0.5, i).state["2.weight"] for i in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_no_others_updates_are_ones_own_trajectory(trained, ways) -> None:
    rounds, start = trained
    total, before = start["2.weight"].clone(), start["2.weight"]
    for rnd in rounds:
        total, before = total + (rnd.updates[1].state["2.weight"] - before), rnd.theta["2.weight"]
    assert torch.allclose(ways["subset"](0.0, 1).state["2.weight"], total, atol=1e-5)


def test_who_was_left_out_of_a_round_is_in_no_subset(few: aq.Dataset) -> None:
    config = aq.Config(participants=2, rounds=1, local_steps=1)
    honest = aq.slimmable(SMALL)

    def poisoned(*args, **options) -> aq.Update:
        update = honest.local(*args, **options)
        if update.participant == 0:
            update.state["2.bias"][0] = float("nan")
        return update

    strategy = aq.Strategy(honest.broadcast, poisoned, honest.merge)
    rounds = list(aq.federate(SMALL, aq.data.homogeneous(few.train, config), config, strategy=strategy, progress=False))
    dose = aq.baselines.by_subset(rounds, aq.init_params(SMALL, 0), seed=0)(0.0, 0)
    assert torch.isfinite(dose.state["2.bias"]).all()


@pytest.mark.parametrize("name", WAYS)
def test_every_way_meets_the_target_on_validation_from_above(name: str, ways, few: aq.Dataset) -> None:
    whole = validated(ways[name](1.0, 0), few)
    targets = [0.5 * whole, 0.8 * whole, whole + 0.01]
    doses = aq.baselines.realize(ways[name], SMALL, targets, few.validation)
    reached = [validated(dose, few) for dose in doses]
    assert all(a >= t - 1e-9 for a, t in zip(reached[:2], targets[:2], strict=True))
    assert doses[2].knob == 1.0  # what the network cannot reach is answered by the whole network
    assert doses[0].knob < 1.0


def test_the_knob_is_turned_down_until_a_thousandth_less_would_not_do(ways, few: aq.Dataset) -> None:
    target = 0.8 * validated(ways["zeroing"](1.0, 0), few)
    (dose,) = aq.baselines.realize(ways["zeroing"], SMALL, [target], few.validation)
    assert validated(ways["zeroing"](dose.knob - 2**-10, 0), few) < target <= validated(dose, few)


@pytest.mark.parametrize("name", ["width", "zeroing", "pruning"])
def test_of_nested_doses_a_coalition_holds_the_largest_and_no_more(name: str, ways, few: aq.Dataset) -> None:
    doses = [ways[name](knob, i) for i, knob in enumerate((0.2, 0.5, 0.35))]
    pool = aq.baselines.pooled(SMALL, doses)
    assert torch.allclose(pool(few.test.x[:20]), doses[1].model(SMALL)(few.test.x[:20]), atol=1e-5)


def test_of_noise_a_coalition_averages_much_away(ways, few: aq.Dataset) -> None:
    doses = [ways["noise"](0.6, i) for i in range(8)]
    best = max(float(aq.accuracy([dose.model(SMALL)], few.test)[0]) for dose in doses)
    assert float(aq.accuracy([aq.baselines.pooled(SMALL, doses)], few.test)[0]) > best + 0.02


def test_nonsense_is_refused(ways, few: aq.Dataset, trained) -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        aq.baselines.realize(ways["width"], SMALL, [0.5], few.validation, steps=0)
    with pytest.raises(ValueError, match="levels is 1"):
        aq.baselines.by_subset(trained[0], trained[1], seed=0, levels=1)
