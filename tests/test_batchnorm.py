"""BatchNorm does not nest: its statistics belong to one width; and recalibration gives each reward its own."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from oracle import OracleResNet18
from torch.nn.functional import cross_entropy

import aequa_lite as aq
from aequa_lite.local import gradient
from aequa_lite.slimmable import slice_of

BUILD = partial(aq.networks.BatchResNet18, shape=(1, 14, 14), classes=10, channels=8)


@pytest.fixture(scope="module")
def quarter(data: aq.Dataset) -> aq.Dataset:
    """Every fourth sample at half the resolution, so that a few dozen steps are quick."""
    splits = (data.train, data.validation, data.test)
    small = [aq.Samples(s.x[::4, :, ::2, ::2].contiguous(), s.y[::4], s.classes) for s in splits]
    return aq.Dataset("quarter", *small, sha256="0" * 64)


@pytest.fixture(scope="module")
def trained(quarter: aq.Dataset) -> dict[str, torch.Tensor]:
    """A network with BatchNorm after sixty steps over the full width and a random one."""
    config = aq.Config(local_steps=60, rounds=1, batch=48, lr=0.05, min_width=0.25)
    shard = aq.Shard(0, quarter.train, np.arange(len(quarter.train)))
    return dict(aq.local_sgd(BUILD, aq.init_params(BUILD, 0), shard, 1.0, config, aq.stream(0, "t")).state)


@pytest.mark.parametrize("width", [0.5, 0.75])
def test_recalibration_repairs_a_narrow_width_that_shared_statistics_spoil(quarter, trained, width: float) -> None:
    net = aq.slim(BUILD, trained, width)
    spoiled, repaired = aq.accuracy([net, aq.networks.recalibrate_batchnorm(net, quarter.train)], quarter.validation)
    assert repaired > 0.4
    assert repaired > spoiled + 0.1


def test_recalibration_does_not_harm_the_full_width_which_shared_statistics_hurt_least(quarter, trained) -> None:
    """The loss at full width depends on the machine's order of summation: 0 to 7 points."""
    full, narrow = aq.slim(BUILD, trained, 1.0), aq.slim(BUILD, trained, 0.5)
    nets = [each for net in (full, narrow) for each in (net, aq.networks.recalibrate_batchnorm(net, quarter.train))]
    shared_full, full_width, shared_half, half_width = aq.accuracy(nets, quarter.validation)
    assert full_width > max(0.6, shared_full - 0.03)  # 500 samples: two standard errors of a paired difference
    assert full_width - shared_full < half_width - shared_half


def test_statistics_that_are_right_at_full_width_are_wrong_at_half(quarter, trained) -> None:
    right = aq.networks.recalibrate_batchnorm(aq.slim(BUILD, trained, 1.0), quarter.train)
    cut = aq.slim(BUILD, right.state_dict(), 0.5)
    repaired = aq.networks.recalibrate_batchnorm(cut, quarter.train)
    assert torch.equal(cut.norm1.running_mean, right.norm1.running_mean[:4])  # after the first layer they still agree
    assert not torch.allclose(cut.layer1[0].norm2.running_var, repaired.layer1[0].norm2.running_var, rtol=0.2)
    spoiled, good = aq.accuracy([cut, repaired], quarter.validation)
    assert good > spoiled + 0.1


def test_recalibration_gives_the_statistics_of_one_large_batch(quarter, trained) -> None:
    net, some = aq.slim(BUILD, trained, 0.5), quarter.train.take(slice(0, 300))
    repaired = aq.networks.recalibrate_batchnorm(net, some, batch=300)
    with torch.no_grad():
        first = net.conv1(net.scale(some.x))
    torch.testing.assert_close(repaired.norm1.running_mean, first.mean((0, 2, 3)))
    torch.testing.assert_close(repaired.norm1.running_var, first.var((0, 2, 3)))
    several = aq.networks.recalibrate_batchnorm(net, some, batch=100)
    torch.testing.assert_close(several.norm1.running_mean, first.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert several.norm1.num_batches_tracked == 3
    assert several.norm1.momentum == net.norm1.momentum == 0.1


def test_recalibration_changes_neither_the_network_nor_any_weight(quarter, trained) -> None:
    net = aq.slim(BUILD, trained, 0.5)
    before = {k: t.clone() for k, t in net.state_dict().items()}
    repaired = aq.networks.recalibrate_batchnorm(net, quarter.train.take(slice(0, 64)))
    assert net.training
    assert not repaired.training
    assert all(torch.equal(before[k], t) for k, t in net.state_dict().items())
    assert all(torch.equal(before[k], p) for k, p in repaired.named_parameters())


def test_a_network_without_batchnorm_is_copied_unchanged(few: aq.Dataset) -> None:
    net = aq.for_dataset(aq.networks.ConvNet, few)(0.25)
    repaired = aq.networks.recalibrate_batchnorm(net, few.train)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), repaired.state_dict().values()))


@pytest.mark.parametrize("batch", [0, 1, 2.5, True])
def test_an_impossible_batch_is_refused(few: aq.Dataset, batch: object) -> None:
    with pytest.raises(ValueError, match=r"`batch` must be a whole number from 2, got "):
        aq.networks.recalibrate_batchnorm(BUILD(0.5), few.train, batch=batch)


def test_in_training_it_computes_with_the_statistics_of_the_batch() -> None:
    theta = aq.init_params(BUILD, seed=0)
    x = torch.randint(0, 256, (8, 1, 14, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wide = OracleResNet18(group=0, channels=8)
    wide.load_state_dict(theta)
    for width in (0.3, 1.0):
        torch.testing.assert_close(aq.slim(BUILD, theta, width)(x), wide(x, width), atol=1e-4, rtol=1e-4)


def test_one_step_writes_the_statistics_of_the_width_it_trained_and_no_others(quarter) -> None:
    theta, x, y = aq.init_params(BUILD, seed=0), quarter.train.x[:16], quarter.train.y[:16]
    state = {k: t.clone() for k, t in theta.items()}
    grads, _ = gradient(BUILD, state, (0.5,), x, y, aq.Config())
    net = aq.slim(BUILD, theta, 0.5)
    cross_entropy(net(x), y).backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(grads[name], p.grad)
    block = slice_of(BUILD, state, 0.5)
    for name, t in net.named_buffers():
        torch.testing.assert_close(block[name], t)
    assert torch.equal(state["norm1.running_mean"][4:], theta["norm1.running_mean"][4:])


def test_aggregation_averages_statistics_and_leaves_the_counter_of_batches(quarter) -> None:
    config = aq.Config(participants=2, rounds=1, local_steps=2, batch=16)
    shards = aq.data.homogeneous(quarter.train, config)
    (last,) = aq.federate(BUILD, shards, config, progress=False)
    means = [u.state["norm1.running_mean"] for u in last.updates]
    assert not torch.equal(*means)
    torch.testing.assert_close(last.theta["norm1.running_mean"], (means[0] + means[1]) / 2)
    assert all(u.state["norm1.num_batches_tracked"] == 4 for u in last.updates)  # two widths in each of two steps
    assert last.theta["norm1.num_batches_tracked"] == 0


def test_evaluating_a_network_changes_none_of_its_statistics(quarter) -> None:
    theta = aq.init_params(BUILD, seed=0)
    before = {k: t.clone() for k, t in theta.items()}
    aq.view(BUILD, theta, 0.5)(quarter.train.x[:16])
    aq.accuracy_curve(BUILD, theta, quarter.validation, grid=(0.5, 1.0))
    assert all(torch.equal(before[k], t) for k, t in theta.items())


def test_no_batch_of_one_sample_is_measured() -> None:
    net = BUILD(0.25)
    five = aq.Samples(torch.rand(5, 1, 14, 14), torch.zeros(5, dtype=torch.long), 10)
    repaired = aq.networks.recalibrate_batchnorm(net, five, batch=2)
    assert all(torch.isfinite(t).all() for t in repaired.state_dict().values())
    assert repaired.norm1.num_batches_tracked == 2
    with pytest.raises(ValueError, match="`samples` must be two or more"):
        aq.networks.recalibrate_batchnorm(net, five.take(torch.tensor([0])))
