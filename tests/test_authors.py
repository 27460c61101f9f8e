"""Baselines against released code: what it returned for fixed tensors stands as numbers in authors/."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import problem, strategy_of

import aequa_lite as aq
from aequa_lite.baselines import cffl, cgsv, fedsac, iafl, personal, shapfed, shapfed_wa
from aequa_lite.baselines.common import own_network, remember
from aequa_lite.baselines.personal import credits
from aequa_lite.baselines.subnetworks import (
    average,
    bonus,
    compact,
    first_units,
    importance,
    masked,
    masks,
    released_bonus,
    selected,
    widest_allowed,
)
from aequa_lite.evaluation import correct

LAYERS, UNITS = ["0", "2", "4"], [5, 5, 3]  # of `three_layers`
FOLDER = Path(__file__).parent / "authors"
THEIRS = {file.stem: json.loads(file.read_text()) for file in FOLDER.glob("*.json")}


def two_layers(width: float = 1.0) -> nn.Module:
    """The network of most fixtures: 23 numbers in four tensors."""
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def three_layers(width: float = 1.0) -> nn.Module:
    """The network of the fixtures of sub-networks: two hidden layers of five units, three classes."""
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))


def ten_classes(width: float = 1.0) -> nn.Module:
    """The network of ShapFed's fixture, whose code fixes ten classes: 36 numbers in four tensors."""
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 10))


def tensors(numbers: list[float], build: Callable[[], nn.Module] = two_layers) -> dict[str, Tensor]:
    """A flat list as a state of the network."""
    like = build().state_dict()
    parts = torch.tensor(numbers).split([t.numel() for t in like.values()])
    return {name: part.view_as(like[name]) for name, part in zip(like, parts, strict=True)}


def changed(start: dict[str, Tensor], change: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: t + change[k] for k, t in start.items()}


def numbers(state: dict[str, Tensor]) -> list[float]:
    return torch.cat([t.flatten() for t in state.values()]).tolist()


def test_three_rounds_of_cgsv_are_those_of_its_released_code() -> None:
    theirs = THEIRS["cgsv"]
    task = problem(theirs["sizes"], build=two_layers)
    strategy = strategy_of(partial(cgsv, **theirs["constants"]), task)
    state = aq.ServerState(tensors(theirs["start"]))
    for expected in theirs["rounds"]:
        updates = []
        for i, change in enumerate(expected["changes"]):
            end = changed(own_network(state, i), tensors(change))
            updates.append(aq.Update(i, 1.0, end, float(task.by_size[i]), 0.0))
        state = strategy.aggregate(state, updates)
        assert state.memory["standing"].tolist() == pytest.approx(expected["standing"], abs=1e-6)
        assert numbers(state.theta) == pytest.approx(expected["server"], abs=1e-6)
        for i, network in enumerate(expected["participants"]):
            assert numbers(own_network(state, i)) == pytest.approx(network, abs=1e-6)
    assert expected["participants"][0] != expected["participants"][3]  # the rewards of the fixture differ


def test_four_rounds_of_credits_are_those_of_the_released_code_of_cffl() -> None:
    theirs = THEIRS["cffl"]
    found = np.full(5, np.nan)
    for expected in theirs["rounds"]:
        found = credits(found, range(5), expected["accuracy"], alpha=expected["alpha"], **theirs["constants"])
        assert found.tolist() == pytest.approx(expected["credits"], abs=1e-6)
    assert found[0] == 0.0  # it was excluded on the way


@pytest.mark.parametrize("run", THEIRS["cffl"]["step"]["runs"], ids=["all uploaded", "three tenths uploaded"])
def test_four_rounds_of_cffl_are_those_of_its_released_code(run: dict) -> None:
    theirs = THEIRS["cffl"]["step"]
    task = problem(theirs["sizes"], build=two_layers, rounds=len(theirs["changes"]))
    validation = aq.Samples(torch.tensor(theirs["x"]), torch.tensor(theirs["y"]), 2)
    task = replace(task, data=replace(task.data, validation=validation))
    constants = {k: theirs["constants"][k] for k in ("memory", "threshold", "clip")}
    assert (theirs["constants"]["alpha"], theirs["constants"]["alpha_final"]) == personal.ALPHA
    algorithm = partial(cffl, released=True, upload=run["upload"], **constants)
    strategy, state = strategy_of(algorithm, task), aq.ServerState(tensors(theirs["start"]))
    for changes, expected in zip(theirs["changes"], run["rounds"], strict=True):
        ends = [changed(own_network(state, i), tensors(change)) for i, change in enumerate(changes)]
        state = strategy.aggregate(state, [aq.Update(i, 1.0, end, 1.0, 0.0) for i, end in enumerate(ends)])
        assert state.memory["standing"].tolist() == pytest.approx(expected["credits"], abs=1e-6)
        assert numbers(state.theta) == pytest.approx(expected["server"], abs=1e-6)
        for i, network in enumerate(expected["participants"]):
            assert numbers(own_network(state, i)) == pytest.approx(network, abs=1e-6)
    clip = theirs["constants"]["clip"]
    assert 0.3 < (torch.tensor(theirs["changes"]).abs() > clip).float().mean() < 0.7  # entries that tie after clipping
    assert sum(credit == 0 for credit in expected["credits"]) == 1  # one was excluded on the way


def masks_of(theta: dict[str, Tensor], held: list[list[int]]) -> dict[int, dict[str, Tensor]]:
    """The entries that each participant holds; `held` says so of the units of the first layers."""
    bought = [torch.tensor(each, dtype=torch.bool) for each in held]
    return {i: masks(theta, LAYERS, kept.split(UNITS[: 2 if len(kept) == 10 else 3])) for i, kept in enumerate(bought)}


def trained(theta: dict[str, Tensor], changes: list[list[float]]) -> list[aq.Update]:
    """Equal updates: what the released code has trained."""
    return [
        aq.Update(i, 1.0, {k: theta[k] + c for k, c in tensors(change, three_layers).items()}, 0.25, 0.0)
        for i, change in enumerate(changes)
    ]


def test_five_rounds_of_fedrac_are_those_of_its_released_code() -> None:
    theirs = THEIRS["fedrac"]
    theta, counts = tensors(theirs["start"], three_layers), torch.zeros(10)
    validation = aq.Samples(torch.tensor(theirs["x"]), torch.tensor(theirs["y"]), 3)
    contribution, grid = np.array(theirs["contribution"]), [(k + 1) / 10 for k in range(10)]
    assert theirs["rounds"][0]["held"] == [[1] * 10] * 4
    for number, expected in enumerate(theirs["rounds"]):
        if number > 0:
            # theirs orders the units of all hidden layers together, so here they are one layer
            widths = [first_units(counts, [10], width)[0] for width in grid]
            nets = [masked(theta, masks(theta, LAYERS, units.split(UNITS[:2]))) for units in widths]
            accuracy = [float(correct(aq.view(three_layers, net, 1.0), validation).mean()) for net in nets]
            assert accuracy == pytest.approx(expected["accuracy"], abs=1e-6)
            share = bonus(contribution, expected["round"], lam=expected["lam"], **theirs["constants"])
            # ours counts rounds from 0, so the widths of its second round follow from index 0
            assert np.array_equal(share, released_bonus(contribution, expected["round"] - 2, beta=80.0))
            reputation = contribution + accuracy[-1] * share
            most = 0  # units of those who contribute less
            for i in np.argsort(contribution)[:-1]:
                assert reputation[i] == pytest.approx(expected["reputation"][i], abs=1e-6)
                # theirs: a step less than the widest allowed, and a step more than those who contribute less
                most = max(round(10 * widest_allowed(accuracy, grid, reputation[i])) - 1, most + 1)
                assert expected["held"][i] == widths[most - 1].int().tolist()
            assert expected["held"][np.argmax(contribution)] == [1] * 10
            counts += torch.tensor(expected["held"]).sum(0)
        assert counts.tolist() == expected["frequency"]
        holders = masks_of(theta, expected["held"])
        updates = trained(theta, expected["changes"])
        for u in updates:  # theirs counts whose entry has changed, ours who holds it: the same here
            assert all(torch.equal(u.state[k] != theta[k], holders[u.participant][k]) for k in theta)
        found = average(theta, updates, holders)
        assert numbers(found) == pytest.approx(expected["server"], abs=1e-6)
        theta = tensors(expected["server"], three_layers)
        for i, reward in enumerate(expected["rewards"]):
            net = compact(three_layers, theta, torch.tensor(expected["held"][i], dtype=torch.bool).split(UNITS[:2]))
            assert correct(net, validation).mean() == pytest.approx(reward, abs=1e-6)
    assert len(set(expected["rewards"])) == 4  # the rewards of the fixture differ


def test_four_rounds_of_fedsac_are_those_of_the_code_of_another_account_but_for_who_counts_as_holder() -> None:
    theirs = THEIRS["fedsac"]
    theta = tensors(theirs["start"], three_layers)
    validation = aq.Samples(torch.tensor(theirs["x"]), torch.tensor(theirs["y"]), 3)
    task = problem([1] * 4, theirs["contribution"], build=three_layers)
    strategy = strategy_of(partial(fedsac, **theirs["constants"]), task)
    reputation = strategy.broadcast.keywords["units"].keywords["reputation"]
    assert reputation.tolist() == pytest.approx(theirs["reputation"], abs=1e-6)
    differs = 0
    for number, expected in enumerate(theirs["rounds"]):
        if number % theirs["constants"]["every"] == 0:
            score = importance(three_layers, theta, validation)
            weight = np.maximum(score, 0) / np.maximum(score, 0).sum()
            assert weight.tolist() == pytest.approx([each / 100 for each in expected["importance"]], abs=1e-6)
        for i, kept in enumerate(expected["kept"]):
            assert np.concatenate(selected(score, UNITS, reputation[i])).tolist() == [bool(unit) for unit in kept]
        holders = masks_of(theta, expected["kept"])
        found = average(theta, trained(theta, expected["changes"]), holders)
        after = tensors(expected["server"], three_layers)
        for k in theta:
            both = sum(holders[i][k].float() for i in holders)
            # theirs also counts who holds the unit of an entry, but not the unit that the entry reads
            rows = sum(holders[i][f"{k.split('.')[0]}.bias"].float() for i in holders)
            rows = rows.view(-1, *[1] * (both.ndim - 1)).expand_as(both)
            damped = (after[k] - theta[k]) * rows / both.clamp_min(1)
            assert torch.allclose(found[k] - theta[k], damped, rtol=0, atol=1e-6)
            assert torch.allclose(found[k][both == rows], after[k][both == rows], rtol=0, atol=1e-6)
            differs += int((both != rows).sum())
        theta = after
        for i, kept in enumerate(expected["kept"]):
            net = compact(three_layers, theta, torch.tensor(kept, dtype=torch.bool).split(UNITS))
            assert net(validation.x[:4]).flatten().tolist() == pytest.approx(expected["rewards"][i], abs=1e-6)
            assert correct(net, validation).mean() == pytest.approx(expected["accuracy"][i], abs=1e-6)
    assert differs > 0
    assert len(set(expected["accuracy"])) == 4  # the rewards of the fixture differ


# --- ShapFed: three rounds of four participants ---


def shapfed_round(strategy: aq.Strategy, state: aq.ServerState, index: int) -> tuple[aq.ServerState, list[aq.Update]]:
    """Our round on the fixture's changes, whose standings must be theirs whatever is broadcast."""
    changes = [tensors(change, ten_classes) for change in THEIRS["shapfed"]["changes"][index]]
    ends = [changed(strategy.broadcast(state, i, 1.0), change) for i, change in enumerate(changes)]
    updates = [aq.Update(i, 1.0, end, 0.25, 0.0) for i, end in enumerate(ends)]
    after = strategy.aggregate(state, updates)
    assert after.memory["standing"].tolist() == pytest.approx(THEIRS["shapfed"]["standing"][index], abs=1e-6)
    return after, updates


def shapfed_start() -> aq.ServerState:
    return aq.ServerState(tensors(THEIRS["shapfed"]["start"], ten_classes))


@pytest.mark.parametrize("relative", [False, True])
def test_three_rounds_of_shapfed_are_those_of_its_released_code(relative: bool) -> None:
    theirs = THEIRS["shapfed"]
    constants = {**theirs["constants"], "relative": relative}
    strategy = strategy_of(partial(shapfed, **constants), problem([1] * 4, build=ten_classes))
    state = shapfed_start()
    for index, expected in enumerate(theirs["broadcast"]["relative" if relative else "standing"]["rounds"]):
        state, _ = shapfed_round(strategy, state, index)
        assert numbers(state.theta) == pytest.approx(expected["server"], abs=1e-6)
        for i, network in enumerate(expected["participants"]):
            assert numbers(own_network(state, i)) == pytest.approx(network, abs=1e-6)
    assert max(theirs["standing"][0]) > 1.5 * min(theirs["standing"][0])  # the rewards of the fixture differ


def test_three_rounds_of_shapfed_wa_are_those_of_the_released_aggregation() -> None:
    theirs = THEIRS["shapfed"]
    strategy = strategy_of(partial(shapfed_wa, **theirs["constants"]), problem([1] * 4, build=ten_classes))
    state = shapfed_start()
    for index, expected in enumerate(theirs["broadcast"]["global"]["rounds"]):
        state, _ = shapfed_round(strategy, state, index)
        assert numbers(state.theta) == pytest.approx(expected["server"], abs=1e-6)


def test_where_shapfeds_script_for_images_deviates_only_the_mixture_does() -> None:
    theirs = THEIRS["shapfed"]
    strategy = strategy_of(partial(shapfed, **theirs["constants"]), problem([1] * 4, build=ten_classes))
    state = shapfed_start()
    for index, expected in enumerate(theirs["broadcast"]["normalised"]["rounds"]):
        state, updates = shapfed_round(strategy, state, index)
        assert numbers(state.theta) == pytest.approx(expected["server"], abs=1e-6)
        standing = state.memory["standing"]
        memory = dict(state.memory)
        for u, network in zip(updates, expected["participants"], strict=True):
            share = float(standing[u.participant] / standing.sum())  # theirs; ours is the standing itself
            mixed = {k: (1 - share) * t + share * state.theta[k] for k, t in u.state.items()}
            assert numbers(mixed) == pytest.approx(network, abs=1e-6)
            assert numbers(own_network(state, u.participant)) != pytest.approx(network, abs=0.01)
            memory = remember(memory, {u.participant: tensors(network, ten_classes)})
        state = aq.ServerState(state.theta, memory)  # the next round begins from their networks


# --- IAFL: four rounds of five participants; in two of the rounds one is absent ---


class Drawn:
    """A generator that returns what theirs has drawn: one number, or the drawn ones first."""

    def __init__(self, number: float, first: Sequence[int]) -> None:
        self.number, self.first = number, list(first)

    def random(self) -> float:
        return self.number

    def permutation(self, count: int) -> list[int]:
        return self.first + [j for j in range(count) if j not in self.first]


def test_four_rounds_of_iafl_are_those_of_its_released_code(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = THEIRS["iafl"]
    rounds, people = theirs["rounds"], len(theirs["contribution"])

    def stream(seed: int, purpose: str, index: int, participant: int) -> Drawn:
        expected = rounds[index]
        others = [i for i in expected["present"] if i != participant]
        places = [others.index(i) for i in expected["drawn"][participant]]
        number = expected["recovery_draws"][participant]
        return {"recovery": Drawn(number, []), "subset": Drawn(1.0, places)}[purpose]

    monkeypatch.setattr(personal, "stream", stream)
    task = problem([1] * people, theirs["contribution"], build=two_layers)
    strategy = strategy_of(partial(iafl, **theirs["constants"]), task)
    state = aq.ServerState(tensors(theirs["start"]))
    for expected in rounds:
        updates = [
            aq.Update(i, 1.0, changed(strategy.broadcast(state, i, 1.0), tensors(expected["changes"][i])), 1.0, 0.0)
            for i in expected["present"]
        ]
        state = strategy.aggregate(state, updates)
        assert numbers(state.theta) == pytest.approx(expected["server"], abs=1e-6)
        for i, network in enumerate(expected["participants"]):
            assert numbers(own_network(state, i)) == pytest.approx(network, abs=1e-6)
    assert [len(some) for some in rounds[0]["drawn"]] == [1, 2, 3, 4, 4]  # the rewards of the fixture differ
    assert [len(each["present"]) for each in rounds] == [5, 4, 4, 5]
