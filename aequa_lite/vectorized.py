r"""All participants in one pass, for a GPU: their networks stacked along a new first axis, their widths as masks.

A network of width $w$ is the full one with every entry outside its leading blocks set to zero, $M_w\theta$: units beyond
the width say nothing and hear nothing. So participants that draw different widths in the same step still share one
vectorised pass, and each keeps the widths, the batches and the updates that it has on the plain path, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from .config import Config
from .local import WidthSampler, batches, checked_logit_adjustment, full_and_random, offsets, shares
from .slimmable import Build, prefix, slice_of, template
from .types import Shard, Update

__all__ = ["half_precision", "vectorized_sgd"]


State = Mapping[str, Tensor]


MOST = 64  # participants in one stack: more are trained stack after stack, so that memory stays bounded


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
    logit_adjustment: float = 0.0,
) -> list[Update]:
    r"""Train many participants' slices in vectorised passes; the same answers as :func:`~aequa_lite.local_sgd`, up to rounding.

    Each step follows $\sum_v s_v M_v \nabla F(M_v\theta)$ for every participant at once, $v$ over its own random widths and
    $s_v$ their shares of the loss. ``sent``: each one's slice; ``precision``: bfloat16 or float16 for the passes
    (default: whatever the parameters are), while parameters, momentum and updates keep theirs; ``logit_adjustment``: as there.

    Raises:
        ValueError: the network holds state beside its parameters (BatchNorm), or the lists differ in length, or ``logit_adjustment`` is
            outside [0, 1].

    Example:
        >>> import aequa_lite as aq
        >>> config, theta = aq.Config(participants=2, local_steps=2), aq.init_params(aq.MLP, seed=0)
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini", device="cpu").train, config)
        >>> rngs = [aq.stream(0, "doc", i) for i in range(2)]
        >>> [u.participant for u in vectorized_sgd(aq.MLP, [theta, theta], shards, [1.0, 1.0], config, rngs)]
        [0, 1]

    Source: ours; vectorised gradients by torch.func.
    """
    if not len(sent) == len(shards) == len(widths) == len(rngs):
        raise ValueError(
            f"sent, shards, widths and rngs hold {len(sent)}, {len(shards)}, {len(widths)} and {len(rngs)}; "
            "allowed is one of each for each participant"
        )
    if buffers := [name for name, _ in template(build, 1.0).named_buffers()]:
        raise ValueError(f"build holds {buffers[0]!r}, which is no parameter; such networks are trained one by one")
    checked_logit_adjustment(logit_adjustment)
    weights = [1.0] * len(shards) if weights is None else weights
    updates: list[Update] = []
    for start in range(0, len(shards), MOST):
        part = slice(start, start + MOST)
        stack = _Vectorized(build, sent[part], shards[part], widths[part], config, precision, logit_adjustment)
        updates += stack.trained(rngs[part], width_sampler, first, weights[part])
    return updates


def half_precision(device: Any) -> torch.dtype | None:
    """Return the half precision that suits a device: bfloat16 from Ampere on, float16 before, None on a CPU.

    Example:
        >>> half_precision("cpu") is None
        True

    Source: the cards' tensor cores; float16 gets a loss scale in :func:`~aequa_lite.vectorized.vectorized_sgd`, since its range is narrow.
    """
    if torch.device(device).type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


class _Vectorized:
    """Some participants as tensors with a new first axis: (participants, ...)."""

    def __init__(
        self,
        build: Build,
        sent: Sequence[State],
        shards: Sequence[Shard],
        widths: Sequence[float],
        config: Config,
        precision: torch.dtype | None,
        logit_adjustment: float,
    ) -> None:
        self.build, self.shards, self.widths, self.config, self.precision = build, shards, widths, config, precision
        self.device = shards[0].samples.y.device
        full = template(build, 1.0).state_dict()
        self.theta = {k: torch.zeros(len(shards), *t.shape, dtype=t.dtype, device=self.device) for k, t in full.items()}
        for i, state in enumerate(sent):
            for name, t in state.items():
                self.theta[name][i][prefix(t.shape)] = t
        self.start = {k: t.clone() for k, t in self.theta.items()} if config.proximal else {}
        self.speed = {k: torch.zeros_like(t) for k, t in self.theta.items()}
        self.x = torch.cat([shard.samples.x for shard in shards])  # (all samples, ...)
        self.y = torch.cat([shard.samples.y for shard in shards])
        self.offsets = torch.stack(
            [offsets(shard.samples, logit_adjustment) for shard in shards]
        )  # (participants, classes)

    def trained(
        self, rngs: Sequence[np.random.Generator], width_sampler: WidthSampler, first: int, weights: Sequence[float]
    ) -> list[Update]:
        """Take all local steps and return each participant's slice."""
        steps = self.config.local_steps
        order, counts = self._order([batches(d, len(s), self.config, steps) for d, s in zip(rngs, self.shards)])
        losses = torch.zeros(len(self.shards), device=self.device)
        for step in range(steps):
            chosen = [sorted(width_sampler(d, w, self.config), reverse=True) for d, w in zip(rngs, self.widths)]
            grads, loss = self._gradient(chosen, order[step], counts)
            self._step(grads, self._mask([each[0] for each in chosen]), self.config.lr_at(first + step))
            losses += loss
        means = (losses / steps).tolist()
        return [
            Update(shard.participant, w, self._slice(i, w), float(a), means[i])
            for i, (shard, w, a) in enumerate(zip(self.shards, self.widths, weights))
        ]

    def _slice(self, i: int, width: float) -> dict[str, Tensor]:
        """What participant i sends back."""
        mine = {name: t[i] for name, t in self.theta.items()}
        return {name: t.clone() for name, t in slice_of(self.build, mine, width).items()}

    def _order(self, each: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Every step's samples among all, (steps, participants, batch), and what each counts, (participants, batch).

        A shard that is smaller than the batch is filled up with samples that count nothing.
        """
        size = max(positions.shape[1] for positions in each)
        offset = np.cumsum([0, *(len(shard) for shard in self.shards)])
        order = np.zeros((self.config.local_steps, len(each), size), dtype=np.int64)
        counts = np.zeros((len(each), size), dtype=np.float32)
        for i, positions in enumerate(each):
            order[:, i, : positions.shape[1]] = positions + offset[i]
            order[:, i, positions.shape[1] :] = offset[i]
            counts[i, : positions.shape[1]] = 1 / positions.shape[1]
        return torch.from_numpy(order).to(self.device), torch.from_numpy(counts).to(self.device)

    def _mask(self, widths: Sequence[float]) -> dict[str, Tensor]:
        """Which entries each participant's network of this width holds, {name: (participants, ...) bool}."""
        shapes = [{k: t.shape for k, t in template(self.build, w).state_dict().items()} for w in widths]
        masks = {}
        for name, t in self.theta.items():
            mask = torch.ones(t.shape[0], *([1] * (t.dim() - 1)), dtype=torch.bool, device=self.device)
            for d, size in enumerate(t.shape[1:]):
                held = torch.tensor([shape[name][d] for shape in shapes], device=self.device)
                inside = torch.arange(size, device=self.device) < held[:, None]  # (participants, size)
                mask = mask & inside.reshape(len(widths), *(size if k == d else 1 for k in range(t.dim() - 1)))
            masks[name] = mask
        return masks

    def _gradient(
        self, chosen: Sequence[Sequence[float]], order: Tensor, counts: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Everybody's gradient of its mean loss over its own widths, and that loss, (participants,)."""
        x, y = self.x[order], self.y[order]  # (participants, batch, ...)
        parts = torch.tensor(np.stack([shares(each, self.config) for each in chosen]), dtype=torch.float32).to(x.device)
        masks = [self._mask([each[k] for each in chosen]) for k in range(parts.shape[1])]
        net, distill = template(self.build, 1.0), self.config.distill
        scale = 1024.0 if self.precision == torch.float16 else 1.0  # small gradients vanish in half precision

        def logits(theta: State, mask: State, x: Tensor) -> Tensor:
            held = {name: t * mask[name] for name, t in theta.items()}
            with torch.autocast(x.device.type, self.precision) if self.precision else nullcontext():
                return functional_call(net, held, (x,)).float()  # (batch, classes)

        def loss(theta: State, masks: Any, parts: Tensor, x: Tensor, y: Tensor, counts: Tensor, offset: Tensor) -> Any:
            total, soft = torch.zeros((), device=x.device), None
            for mask, share in zip(masks, parts):
                said = logits(theta, mask, x)
                value = share * (counts * cross_entropy(said + offset, y, reduction="none")).sum()
                if soft is not None:
                    pull = (counts * cross_entropy(said, soft, reduction="none")).sum()
                    value = (1 - distill) * value + distill * share * pull
                elif distill:
                    soft = said.detach().softmax(1)  # (batch, classes)
                total = total + value
            return total * scale, total

        pull = vmap(grad_and_value(loss, has_aux=True), randomness="error")
        grads, (_, value) = pull(self.theta, masks, parts, x, y, counts, self.offsets)
        return {name: g / scale for name, g in grads.items()}, value.detach()

    @torch.no_grad()
    def _step(self, grads: State, held: State, lr: float) -> None:
        """One step of SGD with momentum on the blocks that were trained; the tails beyond them do not move."""
        for name, push in grads.items():
            theta, mask = self.theta[name], held[name]
            if self.config.proximal:
                push = push + self.config.proximal * (theta - self.start[name])
            if self.config.weight_decay:
                push = push + self.config.weight_decay * theta
            if self.config.momentum:
                push = self.config.momentum * self.speed[name] + push
                self.speed[name] = torch.where(mask, push, self.speed[name])
            self.theta[name] = torch.where(mask, theta - lr * push, theta)
