"""Baselines against their authors' released code: what it returned for fixed tensors stands as numbers in authors/."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import problem, strategy_of

import aequa_lite as aq
from aequa_lite.baselines import cgsv
from aequa_lite.baselines.cffl import credits
from aequa_lite.baselines.common import own_network

FOLDER = Path(__file__).parent / "authors"
THEIRS = {file.stem: json.loads(file.read_text()) for file in FOLDER.glob("*.json")}


def two_layers(width: float = 1.0) -> nn.Module:
    """The network of the fixture: 23 numbers in four tensors."""
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def tensors(numbers: list[float]) -> dict[str, Tensor]:
    """A flat list as a state of the network."""
    like = two_layers().state_dict()
    parts = torch.tensor(numbers).split([t.numel() for t in like.values()])
    return {name: part.view_as(like[name]) for name, part in zip(like, parts, strict=True)}


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
            trained = {
                k: t + c for (k, t), c in zip(own_network(state, i).items(), tensors(change).values(), strict=True)
            }
            updates.append(aq.Update(i, 1.0, trained, float(task.by_size[i]), 0.0))
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
