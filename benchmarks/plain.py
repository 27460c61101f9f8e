"""The same rounds as most people would write them: ordinary modules, torch.optim.SGD, one participant after another.

Nothing here is clever and nothing is slow on purpose. Batches and widths are drawn from the package's own streams, so
that the work is the same and the final networks can be compared.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import aequa_lite as aq
from aequa_lite.local import WidthSampler, batches, loss_shares
from aequa_lite.networks.base import init_params, n_units
from aequa_lite.slimmable import Build


class SlicedMLP(nn.Module):
    """An MLP whose forward pass cuts its own weights: how slimmable networks are usually written."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(784, 200), nn.Linear(200, 200), nn.Linear(200, 10)

    def forward(self, x: Tensor, width: float) -> Tensor:
        h = n_units(width, 200)
        x = (x.float() / 127.5 - 1).flatten(1)
        x = functional.relu(functional.linear(x, self.first.weight[:h], self.first.bias[:h]))
        x = functional.relu(functional.linear(x, self.second.weight[:h, :h], self.second.bias[:h]))
        return functional.linear(x, self.last.weight[:, :h], self.last.bias)


class SlicedLeNet(nn.Module):
    """A LeNet whose forward pass cuts its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.third, self.fourth, self.last = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor, width: float) -> Tensor:
        a, b, c, d = (n_units(width, full) for full in (6, 16, 120, 84))
        x = x.float() / 127.5 - 1
        x = functional.conv2d(x, self.first.weight[:a], self.first.bias[:a], padding=2)
        x = functional.max_pool2d(functional.relu(x), 2)
        x = functional.conv2d(x, self.second.weight[:b, :a], self.second.bias[:b])
        x = functional.max_pool2d(functional.relu(x), 2).flatten(1)
        x = functional.relu(functional.linear(x, self.third.weight[:c, : 25 * b], self.third.bias[:c]))
        x = functional.relu(functional.linear(x, self.fourth.weight[:d, :c], self.fourth.bias[:d]))
        return functional.linear(x, self.last.weight[:, :d], self.last.bias)


SLICED = {aq.MLP: SlicedMLP, aq.LeNet: SlicedLeNet}


def with_copies(net: nn.Module, build: Build, width: float, x: Tensor, y: Tensor, share: float) -> None:
    """Backward through a narrow module filled with copies; its gradients are added to the full network's."""
    if width == 1.0:
        (share * functional.cross_entropy(net(x), y)).backward()
        return
    narrow = build(width).to(x.device)
    pairs = [(p, q, tuple(slice(0, n) for n in p.shape)) for p, q in zip(narrow.parameters(), net.parameters())]
    with torch.no_grad():
        for p, q, block in pairs:
            p.copy_(q[block])
    (share * functional.cross_entropy(narrow(x), y)).backward()
    for p, q, block in pairs:
        q.grad[block] += p.grad


def with_slices(net: nn.Module, build: Build, width: float, x: Tensor, y: Tensor, share: float) -> None:
    """Backward through the one network that cuts its own weights."""
    (share * functional.cross_entropy(net(x, width), y)).backward()


def rounds(
    build: Build,
    shards: list[aq.Shard],
    config: aq.Config,
    *,
    sliced: bool,
    width_sampler: WidthSampler = aq.full_and_random,
):
    """Train together for all rounds, one participant after another; return the final state as a list of tensors."""
    net, backward = (SLICED[build](), with_slices) if sliced else (build(1.0), with_copies)
    net = net.to(shards[0].samples.y.device)
    with torch.no_grad():
        for p, start in zip(net.parameters(), init_params(build, config.seed).values(), strict=True):
            p.copy_(start)
    mass = np.array([len(shard) for shard in shards], dtype=float)
    for index in range(config.rounds):
        trained = [local(net, backward, build, shard, config, index, width_sampler) for shard in shards]
        with torch.no_grad():
            for p, *own in zip(net.parameters(), *(each.parameters() for each in trained), strict=True):
                p.copy_(sum(m * q for m, q in zip((mass / mass.sum()).tolist(), own, strict=True)))
    return [p.detach() for p in net.parameters()]


def local(
    net, backward, build: Build, shard: aq.Shard, config: aq.Config, index: int, width_sampler: WidthSampler
) -> nn.Module:
    """One participant's steps on its own copy."""
    own = copy.deepcopy(net)
    optimiser = torch.optim.SGD(own.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
    rng = aq.stream(config.seed, "local", index, shard.participant)
    order = torch.as_tensor(batches(rng, len(shard), config, config.local_steps), device=shard.samples.y.device)
    for step, chosen in enumerate(order, start=index * config.local_steps):
        optimiser.param_groups[0]["lr"] = config.lr_at(step)
        x, y = shard.samples.x[chosen], shard.samples.y[chosen]
        optimiser.zero_grad()
        widths = width_sampler(rng, 1.0, config)
        for width, share in zip(widths, loss_shares(widths, config), strict=True):
            backward(own, build, width, x, y, share)
        optimiser.step()
    return own


def bare(build: Build, shard: aq.Shard, config: aq.Config) -> list[Tensor]:
    """Forward, backward, step of the full network on prepared batches, and nothing else: the floor."""
    net = aq.slim(build, {k: t.to(shard.samples.y.device) for k, t in init_params(build, config.seed).items()}, 1.0)
    optimiser = torch.optim.SGD(net.parameters(), config.lr, config.momentum)
    for index in range(config.rounds):
        optimiser.state.clear()  # momentum begins anew in every round
        rng = aq.stream(config.seed, "local", index, shard.participant)
        order = torch.as_tensor(batches(rng, len(shard), config, config.local_steps), device=shard.samples.y.device)
        for step, chosen in enumerate(order, start=index * config.local_steps):
            optimiser.param_groups[0]["lr"] = config.lr_at(step)
            optimiser.zero_grad()
            functional.cross_entropy(net(shard.samples.x[chosen]), shard.samples.y[chosen]).backward()
            optimiser.step()
    return [p.detach() for p in net.parameters()]
