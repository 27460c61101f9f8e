r"""All participants in one pass, for a GPU: widths as masks.

A network of width $w$ is the full one with the entries outside its leading
blocks set to zero, $M_w\theta$: units beyond the width contribute nothing.
So participants that train different widths in the same step share one
vectorised pass. Batches, widths and updates are those of the plain path, up
to rounding. A round's random numbers are drawn before its first step and
uploaded once, so no step waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import cross_entropy

from ._check import one_each, refusal
from .config import Config
from .local import (
    WidthSampler,
    batches,
    full_and_random,
    logit_offsets,
    loss_over_widths,
    loss_shares,
    sgd_step,
)
from .slimmable import bind, prefix, slice_of, template
from .types import Build, Shard, State, Update

__all__ = ["half_precision", "vectorized_sgd"]

MOST_BYTES = 4 << 30  # of stacked parameters, momentum and gradients


def vectorized_sgd(
    build: Build,
    sent: Sequence[State],
    shards: Sequence[Shard],
    widths: Sequence[float],
    config: Config,
    rngs: Sequence[np.random.Generator],
    *,
    width_sampler: WidthSampler = full_and_random,
    first: int = 0,
    weights: Sequence[float] | None = None,
    precision: torch.dtype | None = None,
) -> list[Update]:
    r"""Train many slices in vectorised passes: `local_sgd` up to rounding.

    Each step follows $\sum_v s_v M_v \nabla F(M_v\theta)$ for every
    participant at once, $v$ over that participant's own widths.

    Args:
        sent: Each participant's slice.
        rngs: Each participant's generator.
        first: Steps taken in earlier rounds, for the learning rate.
        precision: bfloat16 or float16 for the passes; parameters, momentum
            and updates keep their type.

    Returns:
        One update for each participant.

    Raises:
        ValueError: The network has buffers (BatchNorm), or the lists differ
            in length.

    Example:
        >>> import aequa_lite as aq
        >>> config = aq.Config(participants=2, local_steps=2)
        >>> train = aq.load("fashion-mini", device="cpu").train
        >>> shards = aq.data.homogeneous(train, config)
        >>> theta, rngs = aq.init_params(aq.MLP, 0), [aq.stream(0)] * 2
        >>> two = aq.vectorized.vectorized_sgd(
        ...     aq.MLP, [theta] * 2, shards, [1.0, 0.5], config, rngs)
        >>> [u.width for u in two]
        [1.0, 0.5]

    References:
        Our choice; vectorised gradients by torch.func.
    """
    for name, each in {
        "sent": sent,
        "widths": widths,
        "rngs": rngs,
    }.items():
        one_each(name, each, len(shards))
    if buffers := [
        name for name, _ in template(build, 1.0).named_buffers()
    ]:
        raise refusal("build", "a network without buffers", buffers[0],
                      "train it with vectorized=False")  # fmt: skip
    weights = [1.0] * len(shards) if weights is None else weights
    updates: list[Update] = []
    most = _participants_per_pass(build, max(widths))
    for start in range(0, len(shards), most):
        part = slice(start, start + most)
        stack = _Stack(
            build, sent[part], shards[part], widths[part], config
        )
        plan = stack.plan(rngs[part], width_sampler)
        losses = stack.train(plan, first, precision)
        updates += stack.updates(weights[part], losses)
    return updates


def half_precision(device: Any) -> torch.dtype | None:
    """Return the half precision that suits a device; None on a CPU.

    It is bfloat16 from Ampere on and float16 before.

    Example:
        >>> half_precision("cpu") is None
        True
    """
    if torch.device(device).type != "cuda":
        return None
    new = torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if new else torch.float16


def _participants_per_pass(build: Build, widest: float) -> int:
    """How many stacked networks fit the memory that one pass may take."""
    tensors = template(build, widest).state_dict().values()
    size = sum(t.numel() * t.element_size() for t in tensors)
    return max(
        1, MOST_BYTES // (8 * size)
    )  # theta, velocity, two widths ...


@lru_cache(maxsize=4096)
def _axis_sizes(build: Build, width: float) -> tuple[int, ...]:
    """The size of every axis of every tensor at this width, in one row."""
    shapes = template(build, width).state_dict().values()
    return tuple(size for t in shapes for size in t.shape)


class _Plan:
    """A round's random choices, on the device, made before its first step.

    K widths a step, P participants: batch positions (steps, P, B), the
    weight of each sample (P, B), shares of the loss (steps, K, P), and for
    each tensor {axis: (steps, K, P, size) bool} of the entries that a width
    holds, only for axes that some width cuts.
    """

    def __init__(self, **tensors: Any) -> None:
        self.positions: Tensor = tensors["positions"]
        self.samples: Tensor = tensors["samples"]
        self.shares: Tensor = tensors["shares"]
        self.axes: list[dict[int, Tensor]] = tensors["axes"]

    def masks(
        self, step: int, like: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """The entries that each width holds, (K, P, ...) or None."""
        found: list[Tensor | None] = []
        for axes, t in zip(self.axes, like, strict=True):
            mask = None
            for axis, inside in axes.items():
                shape = [1] * (t.dim() - 1)
                shape[axis] = inside.shape[-1]
                one = inside[step].reshape(*inside.shape[1:3], *shape)
                mask = one if mask is None else mask & one
            found.append(mask)
        return found


class _Stack:
    """Some participants as tensors with a new first axis, (P, ...)."""

    def __init__(
        self,
        build: Build,
        sent: Sequence[State],
        shards: Sequence[Shard],
        widths: Sequence[float],
        config: Config,
    ) -> None:
        self.build, self.shards = build, shards
        self.widths, self.config = widths, config
        self.net = template(build, max(widths))
        self.device = shards[0].samples.y.device
        like = self.net.state_dict()
        stacked = {
            k: torch.zeros(
                len(shards), *t.shape, dtype=t.dtype, device=self.device
            )
            for k, t in like.items()
        }
        for i, state in enumerate(sent):
            for k, t in state.items():
                stacked[k][i][prefix(t.shape)] = t
        self.names, self.theta = list(stacked), list(stacked.values())
        self.velocity = [torch.zeros_like(t) for t in self.theta]
        proximal = config.proximal
        self.start = [t.clone() for t in self.theta] if proximal else []
        self.x = torch.cat([shard.samples.x for shard in shards])
        self.y = torch.cat([shard.samples.y for shard in shards])
        b = config.logit_adjustment
        rows = (
            [logit_offsets(s.samples, b)[None] for s in shards] if b else []
        )
        self.offset = torch.stack(rows) if b else None  # (P, 1, classes)

    def plan(
        self, rngs: Sequence[np.random.Generator], sampler: WidthSampler
    ) -> _Plan:
        """Draw batches and widths as the plain path does; upload them."""
        steps, config = self.config.local_steps, self.config
        rows = [
            batches(rng, len(shard), config, steps)
            for rng, shard in zip(rngs, self.shards, strict=True)
        ]
        drawn = [
            [
                sorted(sampler(rng, w, config), reverse=True)
                for rng, w in zip(rngs, self.widths, strict=True)
            ]
            for _ in range(steps)
        ]  # [steps][P][K]
        # outside its slice a participant's tensors are zero and stay zero
        self.whole_slices = all(
            each[0] == w
            for step in drawn
            for each, w in zip(step, self.widths, strict=True)
        )
        shares = [[loss_shares(each, config) for each in s] for s in drawn]
        sizes = [
            [[_axis_sizes(self.build, w) for w in each] for each in step]
            for step in drawn
        ]  # [steps][P][K][axes]
        positions, samples = self._positions(rows)
        return _Plan(
            positions=positions,
            samples=samples,
            shares=self._upload(np.float32(shares).transpose(0, 2, 1)),
            axes=self._axes(np.int32(sizes).transpose(0, 2, 1, 3)),
        )

    def _upload(self, array: NDArray[Any]) -> Tensor:
        """A tensor on the device; from pinned memory, so nothing waits."""
        t = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            t = t.pin_memory()
        return t.to(self.device, non_blocking=True)

    def _positions(
        self, rows: Sequence[NDArray[np.int64]]
    ) -> tuple[Tensor, Tensor]:
        """Batch positions (steps, P, B), and weights (P, B).

        A smaller shard has smaller batches: they are padded with its first
        sample, whose weight there is zero.
        """
        size = max(each.shape[1] for each in rows)
        begin = np.cumsum([0, *(len(shard) for shard in self.shards)])
        steps = self.config.local_steps
        positions = np.empty((steps, len(rows), size), dtype=np.int64)
        samples = np.zeros((len(rows), size), dtype=np.float32)
        for i, each in enumerate(rows):
            batch = each.shape[1]
            positions[:, i] = begin[i]
            positions[:, i, :batch] += each
            samples[i, :batch] = 1 / batch
        return self._upload(positions), self._upload(samples)

    def _axes(self, sizes: NDArray[np.int32]) -> list[dict[int, Tensor]]:
        """Which positions of an axis a width holds; equal axes share it."""
        axes = [(k, d, n) for k, t in enumerate(self.theta)
                for d, n in enumerate(t.shape[1:])]  # fmt: skip
        shared: dict[tuple[int, bytes], Tensor] = {}
        found: list[dict[int, Tensor]] = [{} for _ in self.theta]
        for column, (k, axis, size) in enumerate(axes):
            kept = sizes[..., column]  # (steps, K, P)
            if (kept == size).all():
                continue
            key = (size, kept.tobytes())
            if key not in shared:
                places = torch.arange(size, device=self.device)
                shared[key] = places < self._upload(kept)[..., None]
            found[k][axis] = shared[key]
        return found

    def train(
        self, plan: _Plan, first: int, precision: torch.dtype | None
    ) -> Tensor:
        """Take all local steps; return the mean losses, (P,)."""
        steps = self.config.local_steps
        losses = torch.zeros(len(self.shards), device=self.device)
        for step in range(steps):
            masks = plan.masks(step, self.theta)
            shares = plan.shares[step]
            grads, loss = self._gradient(
                plan.positions[step], plan.samples, shares, masks, precision
            )
            moved = None if self.whole_slices else [
                torch.ones_like(t[:1]) if m is None else m[0].to(t.dtype)
                for m, t in zip(masks, self.theta, strict=True)
            ]  # fmt: skip
            lr = self.config.lr_at(first + step)
            tensors = self.theta, self.velocity, grads, self.start
            sgd_step(*tensors, self.config, lr, moved)
            losses += loss
        return losses / steps

    def _gradient(
        self,
        positions: Tensor,
        samples: Tensor,
        shares: Tensor,
        masks: Sequence[Tensor | None],
        precision: torch.dtype | None,
    ) -> tuple[list[Tensor], Tensor]:
        """Everybody's gradient, and everybody's loss, (P,).

        Participants do not meet in the forward pass, so the gradient of the
        sum of their losses is everybody's own.
        """
        x, y = self.x[positions], self.y[positions]  # (P, B, ...), (P, B)
        leaves = [t.detach().requires_grad_() for t in self.theta]
        outputs = [
            vmap(partial(self._logits, precision))(
                [t if m is None else t * m[k]
                 for t, m in zip(leaves, masks, strict=True)], x,
            )
            for k in range(len(shares))
        ]  # fmt: skip
        loss = partial(_per_participant, samples)
        losses = loss_over_widths(
            outputs, y, list(shares), self.offset, self.config.distill, loss
        )
        scale = (
            1024.0 if precision == torch.float16 else 1.0
        )  # small numbers
        grads = torch.autograd.grad(losses.sum() * scale, leaves)
        return _unscaled(grads, scale), losses.detach()

    def _logits(
        self,
        precision: torch.dtype | None,
        tensors: list[Tensor],
        x: Tensor,
    ) -> Tensor:
        """One participant's outputs, (batch, classes)."""
        cast = (
            torch.autocast(x.device.type, precision) if precision else None
        )
        with cast or nullcontext():
            net = bind(
                self.net, dict(zip(self.names, tensors, strict=True))
            )
            return net(x).float()

    def updates(
        self, weights: Sequence[float], losses: Tensor
    ) -> list[Update]:
        """Each participant's slice after training."""
        means = losses.tolist()
        found = []
        for i, (shard, width) in enumerate(zip(self.shards, self.widths)):
            own = {k: t[i] for k, t in zip(self.names, self.theta)}
            slices = slice_of(self.build, own, width)
            state = {k: t.clone() for k, t in slices.items()}
            weight = float(weights[i])
            found.append(
                Update(shard.participant, width, state, weight, means[i])
            )
        return found


def _per_participant(
    samples: Tensor, logits: Tensor, target: Tensor
) -> Tensor:
    """Mean cross entropy of each participant's batch, (P,)."""
    soft = target.dim() == logits.dim()
    flat = target.flatten(0, 1) if soft else target.flatten()
    each = cross_entropy(logits.flatten(0, 1), flat, reduction="none")
    return (samples * each.view(samples.shape)).sum(1)


def _unscaled(grads: Sequence[Tensor], scale: float) -> list[Tensor]:
    """Gradients of the loss itself; one that overflowed moves nobody."""
    if scale == 1.0:
        return list(grads)
    fine = torch.stack([g.flatten(1).isfinite().all(1) for g in grads]).all(
        0
    )
    found = []
    for g in grads:
        keep = fine.view(-1, *[1] * (g.dim() - 1))
        found.append(torch.where(keep, g / scale, 0.0))
    return found
