"""What one participant does: local SGD on the loss over a set of widths."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ._check import Count, Index, checked, number, one_each, refusal
from ._parallel import one_thread
from .config import Config
from .slimmable import bind, prefix, split_stem, template
from .types import Build, Samples, Shard, State, Update

__all__ = [
    "WidthSampler", "full_and_random", "full_only", "local_sgd",
    "one_random", "sandwich",
]  # fmt: skip

Rng = np.random.Generator
Widths = tuple[float, ...]
# (generator, widest width, config) -> the widths that one step trains
WidthSampler = Callable[[Rng, float, Config], Sequence[float]]
Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, targets) -> loss
# (width, (classes,) what the loss adds to the logits up to it), ascending
Offsets = Sequence[tuple[float, Sequence[float]]]


@checked
def full_only(rng: Rng, widest: float, config: Config) -> Widths:
    """Train the widest width alone in every step: plain FedAvg.

    Example:
        >>> full_only(np.random.default_rng(0), 1.0, Config())
        (1.0,)

    References:
        FedAvg (McMahan et al. 2017).
    """
    return (widest,)


@checked
def full_and_random(rng: Rng, widest: float, config: Config) -> Widths:
    r"""Train the widest width and `widths_per_step` random ones.

    $w = w_{\min} + (w_{\max} - w_{\min}) B$ with
    $B \sim \mathrm{Beta}(\alpha, \beta)$, rounded up to the grid. The
    density decides at which widths the network is good.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> full_and_random(rng, 1.0, Config(widths_per_step=2))
        (1.0, 0.995, 0.645)

    References:
        The sandwich rule (Yu and Huang 2019) without the least width; the
        density is our choice.
    """
    return widest, *_random(rng, widest, config, config.widths_per_step)


@checked
def one_random(rng: Rng, widest: float, config: Config) -> Widths:
    """Train one random width in every step: ordered dropout.

    Example:
        >>> one_random(np.random.default_rng(0), 1.0, Config())
        (0.995,)

    References:
        FjORD (Horvath et al. 2021), with a continuous range of widths.
    """
    return _random(rng, widest, config, 1)


@checked
def sandwich(rng: Rng, widest: float, config: Config) -> Widths:
    """Train the widest, the least and `widths_per_step` random widths.

    Example:
        >>> sandwich(np.random.default_rng(0), 1.0, Config())
        (1.0, 0.02, 0.995)

    References:
        The sandwich rule (Yu and Huang 2019).
    """
    least = min(config.min_width, widest)
    drawn = _random(rng, widest, config, config.widths_per_step)
    return widest, least, *drawn


def _random(rng: Rng, widest: float, config: Config, count: int) -> Widths:
    """Random widths between the least and the widest, on the grid."""
    low = min(config.min_width, widest)
    share = rng.beta(config.width_alpha, config.width_beta, count)
    units = np.ceil((low + (widest - low) * share) * config.grid - 1e-9)
    return tuple(min(widest, float(u) / config.grid) for u in units)


def batches(
    rng: Rng, size: int, config: Config, steps: int
) -> NDArray[np.int64]:
    """Positions of each step's samples, (steps, batch), by epochs."""
    batch = min(config.batch, size)
    epochs = -(-steps * batch // size)
    order = np.concatenate([rng.permutation(size) for _ in range(epochs)])
    return order[: steps * batch].reshape(steps, batch)


def class_shares(samples: Samples) -> Tensor:
    r"""Each class's share of the samples, $\frac{n_c + 1}{n + C}$.

    It is on the CPU: offsets are computed in 64 bits, which Apple's GPUs
    lack.
    """
    shown = torch.bincount(samples.y, minlength=samples.classes).cpu()
    return (shown + 1.0) / (len(samples) + samples.classes)


def logit_offsets(
    shares: Sequence[Tensor],
    widths: Sequence[float],
    strength: float,
    label_shares: Sequence[float] = (),
) -> Offsets:
    r"""Logit adjustment $b \log(s_c(v) / p_c)$ at every width $v$.

    $s(v)$ is the mean of the class shares $s_i$ of all who hold width $v$
    ($w_i \ge v$): the labels of the steps that train it.

    Args:
        shares: Each participant's class shares; none for no adjustment.
        widths: Which each one holds, 0 if absent.
        strength: $b$.
        label_shares: $p$, of the labels where the network is used.

    Returns:
        A row for each width that somebody holds.
    """
    rows, held = [], sorted(set(widths) - {0.0}) if shares else []
    for width in held:
        own = [s.double() for s, w in zip(shares, widths) if w >= width]
        share = torch.stack(own).mean(0)
        if label_shares:
            share = share / share.new_tensor(label_shares)
        row = strength * share.log()
        rows.append((width, row.tolist()))
    return rows


def checked_offsets(offsets: Offsets, classes: int) -> list[Tensor]:
    """Each row, (classes,), if widths ascend and all is finite."""
    widths = [number("offsets", w, 0, 1, above=True) for w, _ in offsets]
    if widths != sorted(set(widths)):
        raise refusal("offsets", "rows of ascending widths", widths)
    rows = [one_each("offsets", r, classes, "classes") for _, r in offsets]
    return [
        torch.tensor([number("offsets", o, -100, 100) for o in row])
        for row in rows
    ]


def row_at(offsets: Offsets, width: float) -> int:
    """The row of a width: the first that is not narrower."""
    found = bisect_left(offsets, width - 1e-9, key=lambda row: row[0])
    return min(found, len(offsets) - 1)


def loss_shares(widths: Sequence[float], config: Config) -> list[float]:
    """Weight of each width's loss, the widest first; they sum to one."""
    raw = [(width / widths[0]) ** config.loss_power for width in widths]
    return [each / sum(raw) for each in raw]


def loss_over_widths(
    outputs: Sequence[Tensor],
    y: Tensor,
    shares: Sequence[float | Tensor],
    offsets: Sequence[Tensor | None],
    distill: float,
    loss: Loss = cross_entropy,
) -> Tensor:
    r"""Weighted loss of one batch over its widths, the widest first.

    $\sum_v s_v [(1 - d)\,\ell(z_v + o_v, y) + d\,\ell(z_v, \hat y)]$ with
    $\hat y$ the widest width's softmax; for the widest itself $d = 0$.
    """
    soft = outputs[0].detach().softmax(-1) if distill else None
    values: list[Tensor] = []
    each = zip(outputs, shares, offsets, strict=True)
    for logits, share, offset in each:
        adjusted = logits if offset is None else logits + offset
        value = share * loss(adjusted, y)
        if soft is not None and values:
            teacher = distill * share * loss(logits, soft)
            value = (1 - distill) * value + teacher
        values.append(value)
    return sum(values[1:], values[0])


@torch.no_grad()
def sgd_step(
    block: list[Tensor],
    velocity: list[Tensor],
    grads: Sequence[Tensor],
    start: list[Tensor],
    config: Config,
    lr: float | Tensor,
    masks: list[Tensor] | None = None,
) -> None:
    """One step of SGD with momentum, in place, on the trained entries only.

    `block` and `velocity` hold exactly the trained entries, or `masks` says
    which of theirs are trained: the others must not move, neither by
    momentum nor by weight decay.
    """
    push = list(grads)
    if config.proximal:
        apart = torch._foreach_sub(block, start)
        torch._foreach_add_(push, apart, alpha=config.proximal)
    if config.weight_decay:
        torch._foreach_add_(push, block, alpha=config.weight_decay)
    if masks is not None:
        push = torch._foreach_mul(push, masks)
    if config.momentum:
        keep: float | list[Tensor] = config.momentum
        if masks is not None:
            keep = torch._foreach_mul(masks, config.momentum - 1)
            torch._foreach_add_(keep, 1)  # 1 where it is not trained
        torch._foreach_mul_(velocity, keep)
        torch._foreach_add_(velocity, push)
        push = velocity
        if masks is not None:
            push = torch._foreach_mul(velocity, masks)
    if isinstance(lr, Tensor):
        torch._foreach_sub_(block, torch._foreach_mul(push, lr))
    else:
        torch._foreach_add_(block, push, alpha=-lr)


class _Parts(NamedTuple):
    """The network of a width, cut in two, and what each reads of theta."""

    stem: nn.Module
    head: nn.Module
    below: dict[str, tuple[slice, ...]]  # by the stem
    above: dict[str, tuple[slice, ...]]  # by the head
    units: int | None  # of the stem's output
    trained: frozenset[str]


@lru_cache(maxsize=1024)
def _parts(build: Build, width: float) -> _Parts:
    net = template(build, width)
    stem, head = split_stem(net)
    below, above = (
        {k: prefix(t.shape) for k, t in layers.state_dict().items()}
        for layers in (stem, head)
    )
    units = next((p.shape[0] for p in stem.parameters()), None)
    trained = frozenset(k for k, _ in net.named_parameters())
    return _Parts(stem, head, below, above, units, trained)


def gradient(
    build: Build,
    theta: State,
    widths: Sequence[float],
    x: Tensor,
    y: Tensor,
    config: Config,
    offsets: Sequence[Tensor] = (),
) -> tuple[dict[str, Tensor], Tensor]:
    """Gradient of the loss over widths, and the loss, (), detached.

    The gradient has the widest width's shapes. The stem runs once: its
    output at a narrow width is a prefix of that at the widest. `offsets`
    are added to the logits of each width, the widest first.
    """
    order = sorted(widths, reverse=True)
    parts = [_parts(build, width) for width in order]
    widest = parts[0]
    leaves = {
        k: theta[k][block].detach().requires_grad_()
        for k, block in (widest.below | widest.above).items()
        if k in widest.trained
    }

    def read(blocks: Mapping[str, tuple[slice, ...]]) -> State:
        own = blocks.items()
        return {k: leaves.get(k, theta[k])[block] for k, block in own}

    features = bind(widest.stem, read(widest.below))(x)
    outputs = [
        bind(each.head, read(each.above))(features[:, : each.units])
        for each in parts
    ]
    shares = loss_shares(order, config)
    added = offsets or [None] * len(order)
    loss = loss_over_widths(outputs, y, shares, added, config.distill)
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return dict(zip(leaves, grads, strict=True)), loss.detach()


def _blocks(tensors: State, grads: Mapping[str, Tensor]) -> list[Tensor]:
    """The blocks to which the gradients belong, as views."""
    pairs = ((tensors[k], g.shape) for k, g in grads.items())
    return [t if t.shape == s else t[prefix(s)] for t, s in pairs]


@one_thread()  # more threads would give other bits
@checked
def local_sgd(
    build: Build,
    state: State,
    shard: Shard,
    width: float,
    config: Config,
    rng: Rng,
    *,
    width_sampler: WidthSampler = full_and_random,
    offsets: Offsets = (),
    first: Index = 0,
    steps: Count | None = None,
    weight: float = 1.0,
) -> Update:
    r"""Train one participant's slice on its own shard.

    Each step draws a batch and a set of widths $W$ and follows
    $\sum_{v \in W} s_v M_v \nabla F(M_v \theta)$ by SGD with momentum;
    $M_v$ masks the slice of width $v$ and $s_v \propto v^q$ with $q$ =
    `loss_power`.

    Args:
        state: The slice at `width`; it is copied to where the shard is,
            never written to.
        offsets: Rows (width, one number for each class): up to that width,
            the loss adds them to the logits (default: nothing).
        first: Steps taken in earlier rounds, for the learning rate.
        steps: Steps to take (default: the config's).
        weight: Aggregation weight, passed on.

    Returns:
        The update, at the same width.

    Raises:
        ValueError: `first` or `steps` is negative, or a row of offsets has
            not one number for each class.

    Example:
        >>> import aequa_lite as aq
        >>> config = aq.Config(participants=1, local_steps=2)
        >>> train = aq.load("fashion-mini").train
        >>> (shard,) = aq.data.homogeneous(train, config)
        >>> theta, rng = aq.init_params(aq.MLP, seed=0), aq.stream(0, "doc")
        >>> aq.local_sgd(aq.MLP, theta, shard, 1.0, config, rng).width
        1.0

    References:
        Local SGD (FedAvg) on the width-averaged loss; the set of widths is
        our choice. Offsets as in balanced softmax (Ren et al. 2020).
    """
    rows = checked_offsets(offsets, shard.samples.classes)
    steps = config.local_steps if steps is None else steps
    x, y = shard.samples.x, shard.samples.y
    state = {k: t.to(y.device) for k, t in state.items()}
    theta = {k: t.clone() for k, t in state.items()}
    velocity = {k: torch.zeros_like(t) for k, t in theta.items()}
    rows = [row.to(y.device) for row in rows]
    order = batches(rng, len(shard), config, steps)  # (steps, batch)
    losses = torch.zeros((), device=y.device)
    for step, chosen in enumerate(torch.as_tensor(order, device=y.device)):
        batch = x.index_select(0, chosen), y.index_select(0, chosen)
        widths = sorted(width_sampler(rng, width, config), reverse=True)
        added = [rows[row_at(offsets, w)] for w in widths if rows]
        grads, loss = gradient(build, theta, widths, *batch, config, added)
        tensors = (_blocks(each, grads) for each in (theta, velocity))
        start = _blocks(state, grads) if config.proximal else []
        lr = config.lr_at(first + step)
        sgd_step(*tensors, list(grads.values()), start, config, lr)
        losses += loss
    loss = float(losses) / steps
    return Update(shard.participant, width, theta, weight, loss)
