"""What one participant does: local SGD over a set of widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ._io import short_repr
from .config import Config
from .slimmable import Build, bind, prefix, split_stem, template
from .types import Samples, Shard, Update

__all__ = ["full_and_random", "full_only", "local_sgd", "one_random", "sandwich"]


WidthSampler = Callable[[np.random.Generator, float, Config], Sequence[float]]


def full_only(rng: np.random.Generator, widest: float, config: Config) -> tuple[float, ...]:
    """Train the widest width alone in every step: plain FedAvg, sliced afterwards.

    Example:
        >>> full_only(np.random.default_rng(0), 1.0, Config())
        (1.0,)

    Source: FedAvg (McMahan et al. 2017).
    """
    return (widest,)


def full_and_random(rng: np.random.Generator, widest: float, config: Config) -> tuple[float, ...]:
    r"""Train the widest width and ``widths_per_step`` random ones in every step.

    $w = w_{\min} + (w_{\max} - w_{\min}) B$ with $B \sim \mathrm{Beta}(\alpha, \beta)$, rounded up to the grid: the density of
    the sampled widths decides where on the width axis the accuracies lie.

    Example:
        >>> full_and_random(np.random.default_rng(0), 1.0, Config(widths_per_step=2))
        (1.0, 0.995, 0.645)

    Source: ours; the sandwich rule of universally slimmable networks without the least width.
    """
    return (widest, *_random(rng, widest, config, config.widths_per_step))


def one_random(rng: np.random.Generator, widest: float, config: Config) -> tuple[float, ...]:
    """Train one random width in every step, and nothing else: ordered dropout.

    Example:
        >>> one_random(np.random.default_rng(0), 1.0, Config())
        (0.995,)

    Source: FjORD (Horvath et al. 2021), with a continuous range of widths.
    """
    return _random(rng, widest, config, 1)


def sandwich(rng: np.random.Generator, widest: float, config: Config) -> tuple[float, ...]:
    """Train the widest width, the least, and ``widths_per_step`` random ones in every step.

    Example:
        >>> sandwich(np.random.default_rng(0), 1.0, Config())
        (1.0, 0.02, 0.995)

    Source: the sandwich rule (Yu and Huang 2019).
    """
    least = min(config.min_width, widest)
    return (widest, least, *_random(rng, widest, config, config.widths_per_step))


def _random(rng: np.random.Generator, widest: float, config: Config, count: int) -> tuple[float, ...]:
    """Random widths from the recipe's distribution between the least and the widest, on the grid."""
    low = min(config.min_width, widest)
    drawn = low + (widest - low) * rng.beta(config.width_alpha, config.width_beta, count)
    return tuple(min(widest, float(np.ceil(w * config.grid - 1e-9)) / config.grid) for w in drawn)


def batches(rng: np.random.Generator, size: int, config: Config, steps: int) -> np.ndarray:
    """The positions of each step's samples, (steps, batch): epoch after epoch, each in a new order."""
    batch = min(config.batch, size)
    epochs = -(-steps * batch // size)
    order = np.concatenate([rng.permutation(size) for _ in range(epochs)])
    return order[: steps * batch].reshape(steps, batch)


@dataclass(frozen=True)
class _Part:
    """Some layers of an empty network, and the blocks of theta that they train and that they only read."""

    layers: nn.Module
    trained: dict[str, tuple[slice, ...]]
    read: dict[str, tuple[slice, ...]]

    def __call__(self, leaves: Mapping[str, Tensor], theta: Mapping[str, Tensor], x: Tensor) -> Tensor:
        tensors = {name: leaves[name][block] for name, block in self.trained.items()}
        tensors.update({name: theta[name][block] for name, block in self.read.items()})
        return bind(self.layers, tensors)(x)


@lru_cache(maxsize=1024)
def _parts(build: Build, width: float) -> tuple[_Part, _Part]:
    """The empty network of that width: its stem (no layers if it names none), and what follows."""

    def part(layers: nn.Module) -> _Part:
        trained = dict(layers.named_parameters(remove_duplicate=False))
        read = {name: prefix(t.shape) for name, t in layers.state_dict().items() if name not in trained}
        return _Part(layers, {name: prefix(t.shape) for name, t in layers.named_parameters()}, read)

    stem, head = split_stem(template(build, width))
    return part(stem), part(head)


def gradient(
    build: Build,
    theta: Mapping[str, Tensor],
    chosen: Sequence[float],
    x: Tensor,
    y: Tensor,
    config: Config,
    offset: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """The gradient of the mean loss over the chosen widths, on the widest one's block; and that loss, (), detached.

    ``offset``: (classes,) what the true labels' loss adds to the logits. The input is never slimmed: what a narrow stem says
    is a prefix of what the widest one says, so it runs once.
    """
    order = sorted(chosen, reverse=True)
    parts = [_parts(build, width) for width in order]
    widest = {**parts[0][0].trained, **parts[0][1].trained}
    leaves = {name: theta[name][block].detach().requires_grad_() for name, block in widest.items()}
    said, soft, values = parts[0][0](leaves, theta, x), None, []
    for (stem, head), share in zip(parts, shares(order, config), strict=True):
        heard = said[:, : next(iter(stem.trained.values()))[0].stop] if stem.trained else said
        logits = head(leaves, theta, heard)
        value = share * cross_entropy(logits if offset is None else logits + offset, y)
        if soft is not None:  # the narrower ones also learn from what the widest one says
            value = (1 - config.distill) * value + config.distill * share * cross_entropy(logits, soft)
        elif config.distill:
            soft = logits.detach().softmax(1)  # (batch, classes)
        values.append(value)
    loss = sum(values[1:], start=values[0])
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)), loss.detach()


def offsets(samples: Samples, logit_adjustment: float) -> Tensor:
    r"""How much more often a shard shows each class, as its loss hears it: $b \log\frac{n_c + 1}{n + C}$, (classes,)."""
    seen = torch.bincount(samples.y, minlength=samples.classes).float()
    return logit_adjustment * ((seen + 1) / (len(samples) + samples.classes)).log()


def checked_logit_adjustment(logit_adjustment: float) -> float:
    """Refuse what is no share."""
    if (
        not isinstance(logit_adjustment, (int, float))
        or isinstance(logit_adjustment, bool)
        or not 0 <= logit_adjustment <= 1
    ):
        raise ValueError(f"balance is {short_repr(logit_adjustment)}; allowed is a number from 0 to 1")
    return logit_adjustment


def shares(order: Sequence[float], config: Config) -> list[float]:
    """How much each width's loss counts, summing to one; ``order`` begins with the widest."""
    raw = [(width / order[0]) ** config.loss_power for width in order]
    return [each / sum(raw) for each in raw]


def _held(tensors: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> list[Tensor]:
    """The blocks to which the gradients belong."""
    whole = ((tensors[name], g.shape) for name, g in grads.items())
    return [t if t.shape == shape else t[prefix(shape)] for t, shape in whole]


@torch.no_grad()
def _step(
    theta: dict[str, Tensor],
    speed: dict[str, Tensor],
    grads: dict[str, Tensor],
    config: Config,
    lr: float,
    start: Mapping[str, Tensor],
) -> None:
    """One step of SGD with momentum on the block that was trained; the tail beyond it does not move."""
    block = _held(theta, grads)
    push = list(grads.values())
    if config.proximal:
        away = torch._foreach_sub(block, _held(start, grads))
        torch._foreach_add_(push, away, alpha=config.proximal)
    if config.weight_decay:
        torch._foreach_add_(push, block, alpha=config.weight_decay)
    if config.momentum:
        memory = _held(speed, grads)
        torch._foreach_mul_(memory, config.momentum)
        torch._foreach_add_(memory, push)
        push = memory
    torch._foreach_add_(block, push, alpha=-lr)


def local_sgd(
    build: Build,
    state: Mapping[str, Tensor],
    shard: Shard,
    width: float,
    config: Config,
    rng: np.random.Generator,
    *,
    width_sampler: WidthSampler = full_and_random,
    first: int = 0,
    steps: int | None = None,
    weight: float = 1.0,
    logit_adjustment: float = 0.0,
) -> Update:
    r"""Train one participant's slice on its own shard and return it.

    Each step draws a batch and a set of widths $W$, and follows $\sum_{v \in W} s_v M_v\nabla F(M_v\theta)$ with SGD and
    momentum; $s_v \propto v^q$ with $q$ = ``loss_power``.

    ``state`` (the slice at ``width``) is copied, never written to. ``first``: how many steps this
    participant has taken before, for the learning rate's schedule; ``steps``: how many to take (default: the recipe's).
    ``logit_adjustment`` $b$: the loss hears $z_c + b \log\frac{n_c + 1}{n + C}$ for the logit $z_c$ of a class that $n_c$ of the shard's
    $n$ samples show, so that a class counts no less for being rare here: at 1 the network need not learn how often a shard
    shows each of the $C$ classes, and can be merged with others that show them differently.

    Raises:
        ValueError: ``logit_adjustment`` is outside [0, 1].

    Example:
        >>> import aequa_lite as aq
        >>> config, theta = aq.Config(participants=1, local_steps=2), aq.init_params(aq.MLP, seed=0)
        >>> (shard,) = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> aq.local_sgd(aq.MLP, theta, shard, 1.0, config, aq.stream(0, "doc")).participant
        0

    Source: local SGD (FedAvg) on the width-averaged loss; the set of widths is ours. ``logit_adjustment`` is the balanced softmax of
    Ren et al. (2020), in local training as Fed-RoD has it (Chen and Chao 2022); its strength and the added one are our choice.
    """
    theta = {name: t.clone() for name, t in state.items()}
    speed = {name: torch.zeros_like(t) for name, t in theta.items()}
    steps = config.local_steps if steps is None else steps
    x, y = shard.samples.x, shard.samples.y
    offset = offsets(shard.samples, logit_adjustment) if checked_logit_adjustment(logit_adjustment) else None
    order = torch.as_tensor(batches(rng, len(shard), config, steps), device=y.device)  # (steps, batch)
    losses = torch.zeros((), device=y.device)
    for step, chosen in enumerate(order, start=first):
        batch = x.index_select(0, chosen), y.index_select(0, chosen)
        grads, loss = gradient(build, theta, width_sampler(rng, width, config), *batch, config, offset)
        _step(theta, speed, grads, config, config.lr_at(step), state)
        losses += loss
    return Update(shard.participant, width, theta, weight, float(losses) / steps)
