r"""All participants in one pass, for a GPU: widths as masks.

A network of width $w$ is the full one with the entries outside its leading
blocks set to zero, $M_w\theta$: units beyond the width contribute nothing.
So participants that train different widths in the same step share one
vectorised pass. Batches, widths and updates are those of the plain path, up
to rounding. A round's random numbers are drawn and uploaded before its
first step, so no step waits for the device; all widths of a step are one
pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
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
    Offsets,
    WidthSampler,
    batches,
    checked_offsets,
    full_and_random,
    loss_over_widths,
    loss_shares,
    row_at,
    sgd_step,
)
from .slimmable import bind, prefix, slice_of, template
from .types import Build, Shard, State, Update

__all__ = ["half_precision", "vectorized_sgd"]

CPU_BYTES = 4 << 30  # that one pass may take; of a GPU it may take half


def vectorized_sgd(
    build: Build,
    sent: Sequence[State],
    shards: Sequence[Shard],
    widths: Sequence[float],
    config: Config,
    rngs: Sequence[np.random.Generator],
    *,
    width_sampler: WidthSampler = full_and_random,
    offsets: Sequence[Offsets] = (),
    first: int = 0,
    steps: int | None = None,
    weights: Sequence[float] | None = None,
    precision: torch.dtype | None = None,
) -> list[Update]:
    r"""Train many slices in vectorised passes: `local_sgd` up to rounding.

    Each step follows $\sum_v s_v M_v \nabla F(M_v\theta)$ for every
    participant at once, $v$ over that participant's own widths.

    Args:
        sent: Each participant's slice.
        rngs: Each participant's generator.
        offsets: Each participant's, as in `local_sgd` (default: nothing).
        first: Steps taken in earlier rounds, for the learning rate.
        steps: Steps to take (default: the config's).
        precision: bfloat16 or float16 for the passes; parameters, momentum
            and updates keep their type. In float16, a participant whose
            step overflows does not take it. bfloat16 has the exponents of
            float32, so nothing is checked for overflow.

    Returns:
        One update for each participant.

    Raises:
        ValueError: The network has buffers (BatchNorm), or the lists differ
            in length.

    Example:
        >>> import aequa_lite as aq
        >>> config = aq.Config(participants=2, local_steps=2)
        >>> train = aq.load("fashion-mini").train
        >>> shards = aq.data.homogeneous(train, config)
        >>> theta, rngs = aq.init_params(aq.MLP, 0), [aq.stream(0)] * 2
        >>> two = aq.vectorized.vectorized_sgd(
        ...     aq.MLP, [theta] * 2, shards, [1.0, 0.5], config, rngs)
        >>> [u.width for u in two]
        [1.0, 0.5]

    References:
        Our choice; vectorised gradients by torch.func.
    """
    offsets = offsets or [()] * len(shards)
    lists = {"sent": sent, "widths": widths, "rngs": rngs}
    for name, each in {**lists, "offsets": offsets}.items():
        one_each(name, each, len(shards))
    if buffers := [k for k, _ in template(build, 1.0).named_buffers()]:
        raise refusal("build", "a network without buffers", buffers[0],
                      "train it with vectorized=False")  # fmt: skip
    weights = [1.0] * len(shards) if weights is None else weights
    steps = config.local_steps if steps is None else steps
    updates: list[Update] = []
    largest = max(shards, key=len)
    most = participants_per_pass(build, max(widths), largest, config)
    for start in range(0, len(shards), most):
        part = slice(start, start + most)
        few = sent[part], shards[part], widths[part], offsets[part]
        stack = _Stack(build, *few, config, precision)
        plan = stack.plan(rngs[part], width_sampler, first, steps)
        losses = stack.train(plan)
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


def participants_per_pass(
    build: Build, widest: float, shard: Shard, config: Config
) -> int:
    """How many stacked networks fit the memory that one pass may take."""
    each = participant_bytes(build, widest, shard, config)
    return max(1, most_bytes(shard.samples.y.device) // each)


def participant_bytes(
    build: Build, widest: float, shard: Shard, config: Config
) -> int:
    """The memory that one participant takes of a pass."""
    x, y = shard.samples.x, shard.samples.y
    shape = config.batch, *x.shape[1:]
    own, saved = pass_bytes(build, widest, shape, x.dtype)
    many = config.widths_per_step + 2  # widths, at most
    copied = x.nbytes + y.nbytes  # a pass has the samples of all shards
    return (4 + 2 * many) * own + many * saved + copied


def most_bytes(device: torch.device) -> int:
    """The memory that one pass may take."""
    if device.type != "cuda":
        return CPU_BYTES
    return torch.cuda.get_device_properties(device).total_memory // 2


@lru_cache(maxsize=64)
def pass_bytes(
    build: Build, width: float, shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[int, int]:
    """Bytes of the parameters, and of what a backward pass needs."""
    net, saved = template(build, width), [0]

    def add(t: Tensor) -> Tensor:
        saved[0] += t.nbytes
        return t

    hooks = torch.autograd.graph.saved_tensors_hooks(add, lambda t: t)
    with torch.enable_grad(), hooks:  # nothing is saved without gradients
        net(torch.empty(shape, dtype=dtype, device="meta"))
    return sum(t.nbytes for t in net.parameters()), saved[0]


@lru_cache(maxsize=4096)
def axis_sizes(build: Build, width: float) -> tuple[int, ...]:
    """The size of every axis of every tensor at this width, in one row."""
    shapes = template(build, width).state_dict().values()
    return tuple(size for t in shapes for size in t.shape)


@dataclass(frozen=True)
class _Plan:
    """A round's random choices, on the device before its first step.

    K widths a step, P participants, batches of B. For each step: positions
    of samples (K P, B), weights of the widths' losses (K, P), the rate (),
    what is added to the logits (K, P, 1, classes) or None, and for each
    distinct axis that some width cuts the entries that a width holds,
    (K, P, ..., size, ...) bool, to be broadcast. `cut` says for each tensor
    which of these axes are its own.
    """

    steps: list[tuple[Any, ...]]
    samples: Tensor  # weights within a batch, (P, B)
    cut: list[tuple[int, ...]]
    whole: bool  # every step trains all that a participant holds


class _Stack:
    """Some participants as tensors with a new first axis, (P, ...)."""

    def __init__(
        self, build: Build, sent: Sequence[State], shards: Sequence[Shard],
        widths: Sequence[float], offsets: Sequence[Offsets],
        config: Config, precision: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        self.build, self.shards, self.widths = build, shards, widths
        self.config, self.precision = config, precision
        self.net = template(build, max(widths))
        self.device = shards[0].samples.y.device
        like = self.net.state_dict()
        self.names = list(like)
        self.theta = padded(like, sent, self.device)
        # rows that nn.Embedding does not train, which vmap does not know
        self.padding = [
            (self.names.index(f"{path}.weight"), each.padding_idx)
            for path, each in self.net.named_modules()
            if getattr(each, "padding_idx", None) is not None
        ]
        self.velocity = [torch.zeros_like(t) for t in self.theta]
        self.start = [t.clone() for t in self.theta if config.proximal]
        # one shard may train in many federations
        distinct = {id(shard.samples): shard.samples for shard in shards}
        self.x = torch.cat([each.x for each in distinct.values()])
        self.y = torch.cat([each.y for each in distinct.values()])
        begin = np.cumsum([0, *map(len, distinct.values())])
        where = dict(zip(distinct, begin))
        self.begin = [where[id(shard.samples)] for shard in shards]
        self.offsets = offsets

    def plan(
        self, rngs: Sequence[np.random.Generator], sampler: WidthSampler,
        first: int, steps: int,
    ) -> _Plan:  # fmt: skip
        """Draw batches and widths as the plain path does; upload them."""
        config = self.config
        own = list(zip(rngs, self.shards, self.widths, strict=True))
        rows = [batches(rng, len(s), config, steps) for rng, s, _ in own]
        drawn = [
            [sorted(sampler(r, w, config), reverse=True) for r, _, w in own]
            for _ in range(steps)
        ]  # [steps][P][K]
        shares = [[loss_shares(ws, config) for ws in s] for s in drawn]
        rates = [config.lr_at(first + step) for step in range(steps)]
        seen, where = np.unique(drawn, return_inverse=True)
        sizes = np.int32([axis_sizes(self.build, w) for w in seen.tolist()])
        positions, samples = self._positions(rows, len(drawn[0][0]))
        shares = self._upload(np.float32(shares).transpose(0, 2, 1))
        rates, added = self._upload(np.float32(rates)), self._offsets(drawn)
        axes, cut = self._axes(sizes[where].transpose(0, 2, 1, 3))
        whole = bool((np.array(drawn)[..., 0] == self.widths).all())
        each = [
            (*own, [t[k] for t in axes])
            for k, own in enumerate(zip(positions, shares, rates, added))
        ]
        return _Plan(each, samples, cut, whole)

    def _offsets(
        self, drawn: Sequence[Sequence[Sequence[float]]]
    ) -> Iterable[Tensor | None]:
        """What each step adds to the logits: zero for who has none."""
        if not any(self.offsets):
            return [None] * len(drawn)
        classes = self.shards[0].samples.classes
        own = [each or [(1.0, [0.0] * classes)] for each in self.offsets]
        rows = [np.stack(checked_offsets(each, classes)) for each in own]
        added = [
            [
                [table[row_at(each, w)] for w in ws]
                for each, table, ws in zip(own, rows, widths)
            ]
            for widths in drawn
        ]  # [steps][P][K]
        added = np.array(added).transpose(0, 2, 1, 3)
        return self._upload(added[..., None, :])

    def _upload(self, array: NDArray[Any]) -> Tensor:
        """A tensor on the device; from pinned memory, so nothing waits."""
        t = torch.from_numpy(np.ascontiguousarray(array))
        t = t.pin_memory() if self.device.type == "cuda" else t
        return t.to(self.device, non_blocking=True)

    def _positions(
        self, rows: Sequence[NDArray[np.int64]], many: int
    ) -> tuple[Tensor, Tensor]:
        """Batch positions (steps, K P, B), and weights (P, B).

        A smaller shard has smaller batches: they are padded with its first
        sample, whose weight there is zero.
        """
        size = max(each.shape[1] for each in rows)
        positions = np.empty((len(rows[0]), len(rows), size), dtype=int)
        samples = np.zeros((len(rows), size), dtype=np.float32)
        for i, each in enumerate(rows):
            batch = each.shape[1]
            positions[:, i] = self.begin[i]
            positions[:, i, :batch] += each
            samples[i, :batch] = 1 / batch
        every = np.tile(positions, (1, many, 1))
        return self._upload(every), self._upload(samples)

    def _axes(
        self, sizes: NDArray[np.int32]
    ) -> tuple[list[Tensor], list[tuple[int, ...]]]:
        """The distinct axes that some width cuts, and whose they are."""
        kept, column = self._upload(sizes), 0  # (steps, K, P, axes)
        axes: dict[tuple[Any, ...], Tensor] = {}
        cut: list[tuple[int, ...]] = []
        for shape in [t.shape[1:] for t in self.theta]:
            own: list[int] = []
            for axis, size in enumerate(shape):
                held = sizes[..., column]
                key = axis, len(shape), size, held.tobytes()
                if key not in axes and (held < size).any():
                    inside = torch.arange(size, device=self.device)
                    inside = inside < kept[..., column, None]
                    broad = [1] * len(shape)
                    broad[axis] = size
                    axes[key] = inside.view(*held.shape, *broad)
                if key in axes:
                    own.append(list(axes).index(key))
                column += 1
            cut.append(tuple(own))
        return list(axes.values()), cut

    def train(self, plan: _Plan) -> Tensor:
        """Take all local steps; return the mean losses, (P,).

        A step that overflowed is in no mean; NaN where every step did.
        """
        every = torch.stack([self.step(plan, *own) for own in plan.steps])
        half = self.precision == torch.float16
        return every.nanmean(0) if half else every.mean(0)

    def step(
        self, plan: _Plan, chosen: Tensor, shares: Tensor, rate: Tensor,
        added: Tensor | None, axes: list[Tensor],
    ) -> Tensor:  # fmt: skip
        """Take one step in place; return everybody's loss, (P,).

        It is NaN for whom the step overflowed: that one does not move.
        """
        masks = _masks(axes, plan.cut)
        # small numbers of half the bits would vanish
        scale = 1024.0 if self.precision == torch.float16 else 1.0
        leaves = [t.detach().requires_grad_() for t in self.theta]
        losses = self._losses(
            leaves, masks, chosen, plan.samples, shares, added
        )
        # networks do not meet in the forward pass, so the gradient of the
        # sum of their losses is everybody's own
        grads = torch.autograd.grad(losses.sum() * scale, leaves)
        for k, row in self.padding:
            grads[k][:, row] = 0.0
        moved = None if plan.whole else [
            torch.ones_like(t[:1]) if m is None else m[0].to(t.dtype)
            for m, t in zip(masks, self.theta, strict=True)
        ]  # fmt: skip
        if scale != 1:
            keep = _finite(grads)
            grads, moved = _unscaled(grads, scale, keep, moved)
            losses = losses.where(keep, torch.nan)
        tensors = self.theta, self.velocity, grads, self.start
        sgd_step(*tensors, self.config, rate, moved)
        return losses.detach()

    def _losses(
        self, theta: list[Tensor], masks: Sequence[Tensor | None],
        chosen: Tensor, samples: Tensor, shares: Tensor,
        added: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Everybody's loss over its widths, (P,)."""
        x, y = self.x[chosen], self.y[chosen]  # (K P, B, ...), (K P, B)
        masked = [
            t.expand(len(shares), *t.shape) if m is None else t * m
            for t, m in zip(theta, masks, strict=True)
        ]
        stacked = [t.flatten(0, 1) for t in masked]  # (K P, ...)
        logits = vmap(self._logits)(stacked, x)
        logits, y = (t.unflatten(0, shares.shape) for t in (logits, y))
        outputs, each, offsets = [logits], [shares], [added]  # all widths
        if self.config.distill:
            outputs, each, y = list(logits), list(shares), y[0]
            offsets = [None] * len(each) if added is None else list(added)
        loss = partial(_per_participant, samples)
        losses = loss_over_widths(
            outputs, y, each, offsets, self.config.distill, loss
        )
        return losses.view(-1, len(self.shards)).sum(0)

    def _logits(self, tensors: list[Tensor], x: Tensor) -> Tensor:
        """One network's outputs, (batch, classes)."""
        own, half = dict(zip(self.names, tensors)), self.precision
        with torch.autocast(x.device.type, half, enabled=bool(half)):
            logits = bind(self.net, own)(x)
        return logits.float() if half else logits

    def updates(
        self, weights: Sequence[float], losses: Tensor
    ) -> list[Update]:
        """Each participant's slice after training."""
        means, found = losses.tolist(), []
        for i, shard in enumerate(self.shards):
            own = {k: t[i] for k, t in zip(self.names, self.theta)}
            slices = slice_of(self.build, own, self.widths[i])
            state = {k: t.clone() for k, t in slices.items()}
            rest = self.widths[i], state, float(weights[i]), means[i]
            found.append(Update(shard.participant, *rest))
        return found


def padded(
    like: State, states: Sequence[State], device: torch.device
) -> list[Tensor]:
    """Slices as one tensor of each name with a new first axis.

    Beyond a slice is zero, which contributes nothing.
    """
    found = [
        torch.zeros(len(states), *t.shape, dtype=t.dtype, device=device)
        for t in like.values()
    ]
    for i, state in enumerate(states):
        own = [state[k].to(device) for k in like]
        pairs = zip(found, own)
        blocks = [(t[i][prefix(v.shape)], v) for t, v in pairs]
        torch._foreach_copy_(*map(list, zip(*blocks)))
    return found


def _per_participant(
    samples: Tensor, logits: Tensor, target: Tensor
) -> Tensor:
    """Mean cross entropy of each network's batch, (..., P)."""
    soft = target.dim() == logits.dim()
    flat = target.flatten(0, -2) if soft else target.flatten()
    each = cross_entropy(logits.flatten(0, -2), flat, reduction="none")
    return (samples * each.view(logits.shape[:-1])).sum(-1)


def _masks(
    axes: Sequence[Tensor], cut: Sequence[tuple[int, ...]]
) -> list[Tensor | None]:
    """The entries of each tensor that a width holds, (K, P, ...)."""
    made: dict[tuple[int, ...], Tensor | None] = {(): None}
    for own in cut:
        if own not in made:
            made[own] = reduce(torch.mul, [axes[i] for i in own])
    return [made[own] for own in cut]


def _finite(grads: Sequence[Tensor]) -> Tensor:
    """Whose gradients are finite, (P,)."""
    each = torch.cat([g.flatten(1) for g in grads], 1)
    return torch.linalg.vector_norm(each, torch.inf, 1).isfinite()


def _unscaled(
    grads: Sequence[Tensor], scale: float, keep: Tensor,
    moved: Sequence[Tensor] | None,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """Finite gradients of the loss itself, and who moves: who is kept."""
    flat = torch.cat([g.flatten() for g in grads])  # few kernels for all
    flat = flat.nan_to_num(0.0, 0.0, 0.0) / scale
    parts = flat.split([g.numel() for g in grads])
    own = [part.view(g.shape) for part, g in zip(parts, grads)]
    held = keep.to(flat.dtype)
    each = [held.view(-1, *[1] * (g.dim() - 1)) for g in grads]
    if moved is None:
        return own, each
    return own, [k * m for k, m in zip(each, moved)]
