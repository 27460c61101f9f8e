"""How networks are evaluated: the widths that are tried, and the curve that comes of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import aequa_lite as aq
from aequa_lite.evaluation import distinct_widths


def test_the_grid_of_widths_has_both_ends() -> None:
    grid = aq.widths(0.033)
    assert (grid[0], grid[-1]) == (0.033, 1.0)
    assert all(a < b for a, b in zip(grid[:-1], grid[1:], strict=True))
    assert aq.widths(1.0) == (1.0,)
    assert aq.widths(0.75, grid=8) == (0.75, 0.875, 1.0)


def test_a_least_width_that_lies_on_the_grid_up_to_rounding_is_on_it() -> None:
    least = 0.7 - 0.4
    assert least < 0.3  # in sixteen digits
    assert aq.widths(least, grid=10) == (least, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def test_only_widths_at_which_the_network_grows_are_measured() -> None:
    kept = distinct_widths(aq.LeNet, [k / 1000 for k in range(1, 1001)])
    sizes = [aq.n_parameters(aq.LeNet(w)) for w in kept]
    assert all(a < b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    assert sizes[-1] == aq.n_parameters(aq.LeNet())


TENTHS = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SMALL = {"shape": (1, 28, 28), "classes": 10}
NETS = {
    "MLP": aq.MLP,
    "LeNet": aq.LeNet,
    "no stem": partial(aq.networks.ResNet18, **SMALL, channels=8, group=2),
    "running statistics": partial(aq.networks.BatchResNet18, **SMALL, channels=8),
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", NETS)
def test_the_curve_is_the_rewards_accuracy_whatever_the_number_of_workers(
    few: aq.Dataset, name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEQUA_WORKERS", str(count))
    build, theta = NETS[name], aq.init_params(NETS[name], seed=3)
    before = {key: t.clone() for key, t in theta.items()}
    curve = aq.accuracy_curve(build, theta, few.test, grid=(0.1, 0.5, 1.0))
    rewards = [aq.slim(build, theta, w).eval() for w in curve.widths]
    assert np.array_equal(curve.correct, [aq.correct(reward, few.test) for reward in rewards])
    assert curve.accuracy.tolist() == aq.accuracy(rewards, few.test).tolist()
    assert all(torch.equal(t, before[key]) for key, t in theta.items())
    assert curve.samples == len(few.test)


@pytest.mark.parametrize("name", NETS)
def test_a_reward_curve_splits_leaps_by_units_that_fade_in(few: aq.Dataset, name: str) -> None:
    build, config = NETS[name], aq.Config(grid=10, min_width=0.15, fractions=8)
    theta = {key: 3 * t if t.is_floating_point() else t for key, t in aq.init_params(build, seed=3).items()}
    curve = aq.reward_curve(build, theta, few.test, config)
    plain = aq.accuracy_curve(build, theta, few.test, grid=TENTHS)
    assert set(plain.widths[1:]) <= set(curve.widths)
    assert (np.diff(curve.widths) > 1 / 80 - 1e-9).all()
    near = np.diff(curve.widths) > 1.5 / 80
    cell = np.ceil(curve.widths[1:] * 10 - 1e-9) / 10 - 0.1  # where the grid's cell of the wider one begins
    inside = cell <= curve.widths[:-1] + 1e-9
    assert (np.abs(np.diff(curve.accuracy))[near & inside] <= 0.005).all()
    rewards = [aq.model_at(build, theta, curve, w).eval() for w in curve.widths]
    assert np.array_equal(curve.correct, [aq.correct(reward, few.test) for reward in rewards])


def test_without_fading_a_reward_curve_has_whole_widths_only(few: aq.Dataset) -> None:
    theta = aq.init_params(aq.MLP, seed=3)
    curve = aq.reward_curve(aq.MLP, theta, few.test, aq.Config(grid=10, min_width=0.15, fractions=0))
    assert (curve.widths.tolist(), curve.fraction_grid) == (list(TENTHS), None)


def test_measuring_many_widths_keeps_the_memory_flat(few: aq.Dataset) -> None:
    theta = aq.init_params(aq.MLP, seed=0)
    resident = [_resident()]
    for _ in range(3):
        aq.accuracy_curve(aq.MLP, theta, few.validation)
        resident.append(_resident())
    assert resident[-1] - resident[1] < 150e6


def _resident() -> float:
    """Bytes of memory that this process holds; where the system does not say, none."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * 4096.0 if path.exists() else 0.0
