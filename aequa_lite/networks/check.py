"""Check that a function of the width is a slimmable network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._check import checked, refusal
from .._io import error_text, fault
from ..slimmable import prefix, slim
from ..types import Build, State

TOLERANCE = 1e-3  # of the largest logit: sums in another order differ less


@checked
def check_network(build: Build, example: Tensor, widths: Sequence[float] = (0.25, 0.5, 1.0)) -> None:
    r"""Check that a network can be slimmed, trained and rewarded.

    It *nests*: each tensor of `build(w)` is a leading block of the same
    tensor of `build(1.0)`, and with zeros outside these blocks the full
    network computes the narrow one,
    $f_1(\theta \odot M_w, x) = f_w(\theta_w, x)$. It *runs*: its logits are
    (samples, classes) at every width, every parameter has a gradient, and
    no buffer changes in training. It *counts*: parameters rise with width.

    Args:
        build: Function of the width that returns a network.
        example: (samples, ...) a few samples as the data set has them.
        widths: Rising widths that end at 1.

    Raises:
        ValueError: It does not; one sentence says what, where and why.

    Example:
        >>> from aequa_lite.networks.mlp import TabularMLP
        >>> def build(width):
        ...     return TabularMLP(width, shape=(3,), classes=2)
        >>> check_network(build, torch.zeros(4, 3))
        >>> def same(width):
        ...     return nn.Linear(3, 2)
        >>> check_network(same, torch.zeros(4, 3))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: `build` must have more parameters at width 1.0 than ...

    References:
        Nesting is ordered dropout's (FjORD, Horvath et al. 2021); the list
        of checks is ours.
    """
    if not callable(build):
        raise refusal("build", "a function of the width that returns a network", build)
    if not isinstance(example, Tensor) or example.dim() < 2 or not len(example):
        raise refusal("example", "a tensor (samples, ...)", example)
    if len(widths) < 2 or not all(0 < a < b for a, b in zip(widths, widths[1:])) or widths[-1] != 1:
        raise refusal("widths", "rising numbers above 0 up to 1", widths)
    example = example.cpu()  # where `build` makes its networks
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nets = [_built(build, width) for width in widths]
        full = nets[-1]
        for net, width in zip(nets, widths):
            if [t.shape for t in net.parameters()] != [t.shape for t in _built(build, width).parameters()]:
                raise _fault("return the same shapes for the same width", f"others in a second call at {width}")
        for k in range(1, len(nets)):
            _check_tensors(*nets[k - 1 : k + 1], *widths[k - 1 : k + 1])
        least, most = (sum(p.numel() for p in net.parameters()) for net in (nets[0], full))
        if least == most:
            raise _fault(f"have more parameters at width 1.0 than at {widths[0]}", f"{most:,} and {least:,}")
        classes = _logits(full, example, 1.0).shape[1]
        _check_training(full, example)
        theta = _changed(full)
        for width in widths[:-1]:
            narrow = _slimmed(build, theta, width)
            logits = _logits(narrow, example, width)
            if logits.shape[1] != classes:
                raise _fault(f"return {classes} classes at every width", f"{logits.shape[1]} at width {width}")
            _check_nesting(full, narrow, example, logits, width)
            full.load_state_dict(theta)


@torch.no_grad()
def _changed(net: nn.Module) -> dict[str, Tensor]:
    """Change every parameter a little, since what is zero at first may mix units later; return all tensors."""
    for parameter in net.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return {k: t.clone() for k, t in net.state_dict().items()}


def _fault(must: str, got: object, remedy: str = "") -> ValueError:
    """Return the error that says what a network must do, and does; an exception is what the user's own code raised."""
    got = f"{type(got).__name__}: {error_text(got)}" if isinstance(got, Exception) else got
    return fault("`build`", must, got, remedy)


def _built(build: Build, width: float) -> nn.Module:
    """Return the network of a width."""
    try:
        net = build(width)
    except Exception as error:
        raise _fault(f"return a network at width {width}", error) from error
    if not isinstance(net, nn.Module):
        raise _fault(f"return a torch.nn.Module at width {width}", f"a {type(net).__name__}")
    if len(list(net.named_parameters(remove_duplicate=False))) != len(list(net.parameters())):
        raise _fault("use each parameter in one layer", "one in two layers")
    return net


def _check_tensors(narrow: nn.Module, wide: nn.Module, low: float, high: float) -> None:
    """Refuse tensors that are no leading blocks of the wider network's."""
    small, large = narrow.state_dict(), wide.state_dict()
    if odd := sorted(set(small) ^ set(large)):
        raise _fault("have the same tensors at every width", f"{odd[0]!r} at {low if odd[0] in small else high} only")
    for name, t in small.items():
        whole = large[name]
        inside = all(a <= b for a, b in zip(t.shape, whole.shape))
        if t.dim() != whole.dim() or t.dtype != whole.dtype or not inside:
            raise _fault(
                "nest: a tensor is a leading block of any wider network's",
                f"{name!r} {t.dtype} {tuple(t.shape)} at width {low} and {whole.dtype} {tuple(whole.shape)} at {high}",
            )


def _logits(net: nn.Module, example: Tensor, width: float) -> Tensor:
    """Return the logits of a network, or say why there are none."""
    try:
        with torch.no_grad():
            found = net.eval()(example)
    except Exception as error:
        raise _fault(f"run on `example` at width {width}", error) from error
    shape = tuple(found.shape) if isinstance(found, Tensor) else ()
    if len(shape) != 2 or shape[0] != len(example) or not shape[1]:
        got = f"shape {shape}" if shape else f"a {type(found).__name__}"
        raise _fault(f"return logits ({len(example)}, classes) at width {width}", got)
    if not found.is_floating_point() or not bool(found.isfinite().all()):
        got = f"{found.dtype} {found.flatten()[0].item()}, ..."
        raise _fault(f"return finite floating-point logits at width {width}", got)
    return found


def _check_training(net: nn.Module, example: Tensor) -> None:
    """Refuse parameters without gradient, and buffers that change."""
    before = {name: t.clone() for name, t in net.named_buffers()}
    names, params = zip(*net.named_parameters())
    try:
        grads = torch.autograd.grad(net.train()(example).logsumexp(1).sum(), params, allow_unused=True)
    except Exception as error:
        raise _fault("have gradients", error) from error
    for name, grad in zip(names, grads):
        if grad is None:
            raise _fault("use every parameter", f"no gradient for {name!r}")
    for name, t in net.named_buffers():
        if not torch.equal(t, before[name]):
            remedy = "BatchNorm does not nest: use GroupNorm with a fixed number of channels in a group"
            raise _fault("keep no running statistics", f"a buffer {name!r} that changes in training", remedy)


def _slimmed(build: Build, theta: State, width: float) -> nn.Module:
    """Return the narrow network with the full one's leading blocks."""
    net = slim(build, theta, width)
    for name, t in net.named_buffers():
        if t.is_meta:  # `slim` fills what is in the state, and only that
            raise _fault("keep its buffers in the state", f"{name!r} with persistent=False")
    return net


def _check_nesting(full: nn.Module, narrow: nn.Module, example: Tensor, logits: Tensor, width: float) -> None:
    """Refuse a network that is not the full one with fewer units."""
    masked = {k: torch.zeros_like(t) for k, t in full.state_dict().items()}
    for name, t in narrow.state_dict().items():
        masked[name][prefix(t.shape)] = t
    full.load_state_dict(masked)
    difference = (_logits(full, example, 1.0) - logits).abs().max()
    if difference > TOLERANCE * max(1e-3, float(logits.abs().max())):
        remedy = "LayerNorm over all units, concatenated branches and factors that depend on the width do not nest"
        raise _fault(
            "nest: with fewer units the full network is the narrow one", f"other logits at width {width}", remedy
        )
