"""What a reward costs whoever runs it: size, parameters, operations, time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..slimmable import n_parameters

__all__ = ["Cost", "cost", "cost_table"]


@dataclass(frozen=True)
class Cost:
    """Hold a network's parameters, bytes, operations for one sample, and milliseconds for one sample (median).

    Example:
        >>> Cost(6, 24, 12, 0.1).bytes
        24
    """

    n_parameters: int
    bytes: int
    flops: int
    milliseconds: float


@torch.inference_mode()
def cost(net: nn.Module, example: Tensor, repeats: int = 30) -> Cost:
    """Measure what one network costs: ``example`` (samples, ...) holds inputs of the kind that it takes.

    Operations are those of matrix products and convolutions, a multiplication and an addition counted as two. Time is the
    median over ``repeats`` of one sample on the network's own device, after one that does not count.

    Raises:
        ValueError: ``repeats`` is below 1.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> found = cost(net, torch.zeros(5, 3))
        >>> found.parameters, found.bytes, found.flops
        (8, 32, 12)

    Source: PyTorch's counter.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats!r}; allowed is a whole number from 1")
    net, one, seconds = net.eval(), example[:1], []
    with FlopCounterMode(display=False) as counter:
        net(one)
    for _ in range(repeats):
        started = time.perf_counter()
        net(one)
        if one.is_cuda:
            torch.cuda.synchronize(one.device)
        seconds.append(time.perf_counter() - started)
    size = sum(t.numel() * t.element_size() for t in net.state_dict().values())
    return Cost(n_parameters(net), size, counter.get_total_flops(), round(1000 * float(np.median(seconds)), 4))


def cost_table(models: Sequence[nn.Module], example: Tensor, widths: Sequence[float] | None = None) -> str:
    """Lay out what each participant's reward costs, a line for each, shares against the largest.

    Example:
        >>> import aequa_lite as aq
        >>> cost_table([aq.MLP(0.5), aq.MLP()], torch.zeros(1, 1, 28, 28)).split()[9:13]
        ['-', '89,610', '45%', '350']

    Source: ours.
    """
    found = [cost(net, example) for net in models]
    most = max(each.parameters for each in found), max(max(each.flops for each in found), 1)
    lines = ["participant   width  parameters share     KiB     MFLOPs share      ms"]
    for i, each in enumerate(found):
        width = "-" if widths is None else f"{widths[i]:.3f}"
        lines.append(
            f"{i:>11}  {width:>6}  {each.parameters:>10,}  {each.parameters / most[0]:>4.0%}  {each.bytes / 1024:>6,.0f}"
            f"  {each.flops / 1e6:>9,.2f}  {each.flops / most[1]:>4.0%}  {each.milliseconds:>6.3f}"
        )
    return "\n".join(lines)
