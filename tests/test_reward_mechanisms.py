"""The same targets realized by five mechanisms: their ends, the rule that finds the amount, and what a coalition regains."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import aequa_lite as aq
from aequa_lite.baselines import PartialModel, by_noise, by_pruning, by_subset, by_width, by_zeroing, pooled, realize
from aequa_lite.baselines.common import sparse_numbers
from aequa_lite.checkpoint import describe

SMALL = partial(aq.MLP, hidden=40)


@pytest.fixture(scope="module")
def trained(few: aq.Dataset):
    config = aq.Config(participants=3, rounds=12, local_steps=8, batch=32)
    rounds = list(aq.federate(SMALL, aq.data.by_size(few.train, config, sizes=(40, 120, 360)), config, progress=False))
    return rounds, aq.init_params(SMALL, config.seed)


@pytest.fixture(scope="module")
def mechanisms(trained):
    rounds, start = trained
    theta = rounds[-1].theta
    return {
        "width": by_width(SMALL, theta),
        "zeroing": by_zeroing(theta, start),
        "pruning": by_pruning(theta),
        "noise": by_noise(theta, seed=0),
        "subset": by_subset(rounds, start, seed=0, levels=11),
    }


NAMES = ("width", "zeroing", "pruning", "noise", "subset")


def validated(model: PartialModel, few: aq.Dataset) -> float:
    return float(aq.accuracy([model.model(SMALL)], few.validation)[0])


@pytest.mark.parametrize("name", NAMES)
def test_amount_one_is_the_trained_network(name: str, mechanisms, trained) -> None:
    theta, whole = trained[0][-1].theta, mechanisms[name](1.0, 0)
    assert all(torch.allclose(whole.state[k], t, atol=1e-5) for k, t in theta.items())
    assert whole.numbers == sum(t.numel() for t in theta.values())


@pytest.mark.parametrize("name", ["zeroing", "pruning"])
def test_amount_zero_is_what_everybody_knows(name: str, mechanisms, trained) -> None:
    nothing, start = mechanisms[name](0.0, 0), trained[1]
    assert nothing.numbers == 0
    for k, t in start.items():
        assert torch.equal(nothing.state[k], t if name == "zeroing" else torch.zeros_like(t))


@pytest.mark.parametrize("name", ["width", "zeroing", "pruning"])
def test_a_smaller_amount_is_nested_in_a_larger_one(name: str, mechanisms) -> None:
    models = [mechanisms[name](amount, i) for i, amount in enumerate((0.1, 0.3, 0.31, 0.8, 1.0))]
    for less, more in zip(models, models[1:], strict=False):
        assert all((more.mask[k] | ~less.mask[k]).all() for k in less.mask)
        assert less.numbers <= more.numbers


def test_a_width_is_the_slim_network(mechanisms, trained, few: aq.Dataset) -> None:
    net, model = aq.slim(SMALL, trained[0][-1].theta, 0.3), mechanisms["width"](0.3, 0)
    assert torch.equal(net(few.test.x[:20]), model.model(SMALL)(few.test.x[:20]))
    assert model.numbers == aq.n_parameters(net)


def test_the_numbers_of_zeroing_are_values_and_positions(mechanisms, trained) -> None:
    sizes = [t.numel() for t in trained[1].values()]
    expected = sum(sparse_numbers(int(np.ceil(0.25 * n)), n) for n in sizes)
    assert mechanisms["zeroing"](0.25, 0).numbers == expected


def test_noise_is_everybodys_own_and_the_same_each_time(mechanisms) -> None:
    one, again, other = (mechanisms["noise"](0.5, i).state["2.weight"] for i in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_none_of_the_others_updates_is_ones_own_trajectory(trained, mechanisms) -> None:
    rounds, start = trained
    total, before = start["2.weight"].clone(), start["2.weight"]
    for rnd in rounds:
        total, before = total + (rnd.updates[1].state["2.weight"] - before), rnd.theta["2.weight"]
    assert torch.allclose(mechanisms["subset"](0.0, 1).state["2.weight"], total, atol=1e-5)


def test_who_was_left_out_of_a_round_is_in_no_subset(few: aq.Dataset) -> None:
    config = aq.Config(participants=2, rounds=1, local_steps=1)
    honest = aq.slimmable(SMALL)

    def poisoned(*args, **options) -> aq.Update:
        update = honest.local(*args, **options)
        if update.participant == 0:
            update.state["2.bias"][0] = float("nan")
        return update

    strategy = replace(honest, local=poisoned)
    rounds = list(aq.federate(SMALL, aq.data.homogeneous(few.train, config), config, strategy=strategy, progress=False))
    model = by_subset(rounds, aq.init_params(SMALL, 0), seed=0)(0.0, 0)
    assert torch.isfinite(model.state["2.bias"]).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_mechanism_reaches_the_target_on_validation(name: str, mechanisms, few: aq.Dataset) -> None:
    whole = validated(mechanisms[name](1.0, 0), few)
    targets = [0.5 * whole, 0.8 * whole, whole + 0.01]
    models = realize(mechanisms[name], SMALL, targets, few.validation)
    reached = [validated(model, few) for model in models]
    assert all(a >= t - 1e-9 for a, t in zip(reached[:2], targets[:2], strict=True))
    assert models[2].amount == 1.0  # a target that the network cannot reach is met by the whole network
    assert models[0].amount < 1.0


def test_a_thousandth_less_would_miss_the_target(mechanisms, few: aq.Dataset) -> None:
    target = 0.8 * validated(mechanisms["zeroing"](1.0, 0), few)
    (model,) = realize(mechanisms["zeroing"], SMALL, [target], few.validation)
    assert validated(mechanisms["zeroing"](model.amount - 2**-10, 0), few) < target <= validated(model, few)


@pytest.mark.parametrize("name", ["width", "zeroing", "pruning"])
def test_a_coalition_of_nested_models_has_the_largest_and_no_more(name: str, mechanisms, few: aq.Dataset) -> None:
    models = [mechanisms[name](amount, i) for i, amount in enumerate((0.2, 0.5, 0.35))]
    pool = pooled(SMALL, models)
    assert torch.allclose(pool(few.test.x[:20]), models[1].model(SMALL)(few.test.x[:20]), atol=1e-5)


def test_a_coalition_averages_much_of_the_noise_away(mechanisms, few: aq.Dataset) -> None:
    models = [mechanisms["noise"](0.6, i) for i in range(8)]
    best = max(float(aq.accuracy([model.model(SMALL)], few.test)[0]) for model in models)
    assert float(aq.accuracy([pooled(SMALL, models)], few.test)[0]) > best + 0.02


@pytest.mark.parametrize("name", ["width", "zeroing", "pruning", "noise"])
def test_a_mechanism_can_be_described(name: str, mechanisms) -> None:
    describe(mechanisms[name])


def test_bad_arguments_are_refused(mechanisms, few: aq.Dataset, trained) -> None:
    rounds, start = trained
    width = mechanisms["width"]
    for wrong, sentence in (
        (
            partial(realize, width, SMALL, [0.5], few.validation, steps=0),
            "`steps` must be a whole number from 1, got 0",
        ),
        (partial(realize, width, SMALL, [1.5], few.validation), r"`targets` must be one number in \[0, 1\]"),
        (partial(realize, width, SMALL, [0.5], few.validation.take([])), "`validation` must be Samples, at least one"),
        (partial(by_subset, rounds, start, seed=0, levels=1), "`levels` must be a whole number from 2, got 1"),
        (partial(by_subset, [], start, seed=0), "`rounds` must be at least one Round"),
        (partial(by_width, SMALL, {}), "`theta` must be tensors by name"),
        (partial(by_zeroing, start, {**start, "more": torch.zeros(1)}), "`start` must be the same 6 tensors as theta"),
        (partial(by_noise, start, seed=0, most=-1.0), "`most` must be a number from 0, got -1.0"),
        (partial(pooled, SMALL, []), "`models` must be a sequence, each part a PartialModel, at least one, got "),
        *((partial(mechanisms[name], 1.5, 0), r"`amount` must be a number in \[0, 1\], got 1.5") for name in NAMES),
    ):
        with pytest.raises(ValueError, match=sentence):
            wrong()
