"""A narrow network is the same constructor called at a smaller width.

It is filled with the leading block of every tensor of the full network.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn

from ._check import Count, Fraction, checked, number, refusal
from .types import Build, State, floating

__all__ = [
    "aggregate", "coverage", "fractional_slice", "fractional_slim",
    "n_parameters", "prefix", "slice_of", "slim", "view",
]  # fmt: skip

Pairs = Iterable[tuple[State, float]]  # a slice and its aggregation weight


def prefix(shape: Iterable[int]) -> tuple[slice, ...]:
    """Return the index of the leading block of this shape.

    Example:
        >>> torch.arange(9).reshape(3, 3)[prefix((2, 2))].tolist()
        [[0, 1], [3, 4]]

    References:
        Ordered dropout (FjORD, Horvath et al. 2021).
    """
    try:
        return tuple(slice(0, size) for size in shape)
    except TypeError:
        raise refusal("shape", "a sequence of sizes", shape) from None


@lru_cache(maxsize=1024)
def template(build: Build, width: float) -> nn.Module:
    """The network of this width on the meta device: shapes, no numbers.

    It is shared by all callers and must not be changed.
    """
    with torch.device("meta"):
        return build(width)


def bind(layers: nn.Module, tensors: State, path: str = "") -> nn.Module:
    """A copy of the layers that computes with these tensors.

    Nothing is copied but the module objects; gradients reach the tensors.
    Each caller has a copy of its own, so threads do not disturb each other.
    """
    net = object.__new__(type(layers))

    def chosen(own: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
        return {k: tensors.get(path + k, t) for k, t in own.items()}

    net.__dict__.update(
        layers.__dict__,
        _parameters=chosen(layers._parameters),
        _buffers=chosen(layers._buffers),
        _modules={
            k: each and bind(each, tensors, f"{path}{k}.")
            for k, each in layers._modules.items()
        },
    )
    return net


@checked
def slice_of(build: Build, theta: State, width: float) -> dict[str, Tensor]:
    """Return the leading block of every tensor at this width (views).

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> slice_of(aq.MLP, theta, 0.5)["2.weight"].shape
        torch.Size([100, 784])
    """
    shapes = template(build, width).state_dict()
    if lacking := shapes.keys() - theta.keys():
        allowed = f"the network's tensors, {min(lacking)!r} included"
        raise refusal("theta", allowed, sorted(map(str, theta)))
    found = {k: theta[k][prefix(t.shape)] for k, t in shapes.items()}
    for k, t in found.items():
        if t.shape != shapes[k].shape:
            allowed = f"of a network of width {width:g} or wider"
            raise refusal("theta", allowed, f"{k} {tuple(theta[k].shape)}")
    return found


@checked
def slim(build: Build, theta: State, width: float) -> nn.Module:
    r"""Return an ordinary, smaller network.

    It is `build(width)` filled with the leading blocks of $\theta$:
    $\mathrm{slim}(\theta, w)_k = \theta_k[0{:}s_1, 0{:}s_2, \dots]$, where
    $s$ is the shape of tensor $k$ in `build(w)`. No memory is shared.

    Args:
        theta: Tensors of the full network, or of any wider one.
        width: In (0, 1].

    Raises:
        ValueError: `width` is outside (0, 1].

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> aq.n_parameters(slim(aq.MLP, theta, 0.5))
        89610

    References:
        Ordered dropout (FjORD), as a constructor instead of a mask.
    """
    number("width", width, 0, 1, above=True)
    blocks = slice_of(build, theta, width)  # views
    with torch.device("meta"):
        net = build(width)
    own = {k: t.clone() for k, t in blocks.items()}
    net.load_state_dict(own, assign=True)
    return net


@checked
def view(build: Build, theta: State, width: float) -> nn.Module:
    """Return the network of this width that reads theta itself.

    Parameters are not copied and gradients reach theta; buffers are copied,
    so that evaluation changes nothing.

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, 0, "cpu")
        >>> x = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
        >>> ours, own = view(aq.MLP, theta, 0.3), slim(aq.MLP, theta, 0.3)
        >>> bool((ours(x) == own(x)).all())
        True
    """
    net, tensors = template(build, width), slice_of(build, theta, width)
    for name, _ in net.named_buffers():
        tensors[name] = tensors[name].clone()
    return bind(net, tensors)


@checked
def grid_width(width: Fraction, grid: Count) -> float:
    """Round a width up to a multiple of 1 / `grid`.

    Raises:
        ValueError: `grid` is no whole number from 1, or `width` is
            outside (0, 1].

    Example:
        >>> grid_width(0.0525, grid=200), grid_width(0.07, grid=100)
        (0.055, 0.07)
    """
    return math.ceil(width * grid - 1e-9) / grid


@checked
def fractional_slice(
    build: Build, theta: State, width: Fraction, grid: Count
) -> dict[str, Tensor]:
    r"""Return the slice at any width, also between two grid widths.

    With $b = \lceil wg \rceil / g$ and $a = b - 1/g$ it is the slice at
    $b$ whose columns that read the units absent at $a$ are multiplied by
    $f = (w - a)\,g$: zero at $a$, one at $b$, continuous in between. So the
    output is continuous in the width. Where tokens are embedded, the new
    dimensions are scaled in the embedding and where it is read: $f^2$.

    A participant can undo the scaling and then holds the slice at $b$.

    Returns:
        Tensors; views, except for those that are scaled.

    Raises:
        ValueError: `width` is outside (0, 1], or `grid` is not a whole
            number from 1.

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> half = fractional_slice(aq.MLP, theta, 0.0525, 200)["6.weight"]
        >>> full = fractional_slice(aq.MLP, theta, 0.055, 200)["6.weight"]
        >>> bool(torch.allclose(half[:, 10], 0.5 * full[:, 10]))
        True

    References:
        Our choice.
    """
    upper = grid_width(width, grid)
    block = slice_of(build, theta, upper)
    share = 1 - (upper - width) * grid
    if share > 1 - 1e-6 or upper * grid < 1.5:
        return block
    lower = template(build, upper - 1 / grid).state_dict()
    for name, t in lower.items():  # (units that read, units read, ...)
        if t.dim() > 1 and t.shape[1] < block[name].shape[1]:
            block[name] = block[name].clone()
            block[name][:, t.shape[1] :] *= share
    return block


@checked
def fractional_slim(
    build: Build, theta: State, width: Fraction, grid: Count
) -> nn.Module:
    """Return an ordinary network of any width, also between grid widths.

    It is `slim` with `fractional_slice`.

    Raises:
        ValueError: As `fractional_slice`.

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> net = fractional_slim(aq.MLP, theta, 0.0525, grid=200)
        >>> aq.n_parameters(net) == aq.n_parameters(aq.MLP(0.055))
        True

    References:
        Our choice.
    """
    net = slim(build, theta, grid_width(width, grid))
    net.load_state_dict(fractional_slice(build, theta, width, grid))
    return net


def split_stem(net: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Split a network into its stem and the rest.

    The stem's output at a width is a prefix of its output at a larger one,
    since the input is never slimmed. It is empty if the network names none,
    or computes something else than its layers in turn.
    """
    cut = getattr(net, "stem_layers", 0)
    if not cut or type(net).forward is not nn.Sequential.forward:
        return nn.Sequential(), net
    layers = list(net.named_children())  # names stay when it is cut
    stem, head = OrderedDict(layers[:cut]), OrderedDict(layers[cut:])
    return nn.Sequential(stem), nn.Sequential(head)


def coverage(theta: State, updates: Pairs) -> dict[str, Tensor]:
    r"""Return how much weight holds each entry: $\sum_{i \ni e} \omega_i$.

    Example:
        >>> theta, slices = {"w": torch.zeros(2)}, {"w": torch.ones(1)}
        >>> coverage(theta, [(slices, 2.0), (theta, 1.0)])["w"].tolist()
        [3.0, 1.0]
    """
    mass = {k: torch.zeros_like(t) for k, t in theta.items()}
    for state, weight in updates:
        if held := [mass[k][prefix(v.shape)] for k, v in state.items()]:
            torch._foreach_add_(held, weight)
    return mass


def _trained(theta: State, state: State) -> dict[str, Tensor]:
    """The trained tensors of a slice, on theta's device."""
    return {k: v.to(theta[k].device) for k, v in floating(state).items()}


@checked
def aggregate(theta: State, updates: Pairs) -> dict[str, Tensor]:
    r"""Average the slices entry by entry over those who hold the entry.

    $\theta_e \leftarrow \theta_e + \sum_{i \ni e} \omega_i
    (v_{i,e} - \theta_e) \,/\, \sum_{i \ni e} \omega_i$.
    Entries that nobody holds keep their value;
    if everybody holds everything this is FedAvg.

    Args:
        theta: Global model before the round.
        updates: Pairs of a slice $v_i$ and its weight $\omega_i > 0$.

    Returns:
        The aggregated model. Tensors that are not floating point, such as a
        batch counter, keep their value.

    Example:
        >>> theta = {"w": torch.zeros(3)}
        >>> wide, narrow = {"w": torch.ones(3)}, {"w": 4 * torch.ones(1)}
        >>> aggregate(theta, [(wide, 1.0), (narrow, 2.0)])["w"].tolist()
        [3.0, 1.0, 1.0]

    References:
        FjORD (Eq. 2) and HeteroFL, in difference form, so that no change
        is exactly no change.
    """
    pairs = [(_trained(theta, state), weight) for state, weight in updates]
    push = {k: torch.zeros_like(t) for k, t in theta.items()}
    for state, weight in pairs:
        blocks = {k: prefix(v.shape) for k, v in state.items()}
        if not blocks:
            continue
        old, to = (
            [each[k][block] for k, block in blocks.items()]
            for each in (theta, push)
        )
        change = torch._foreach_sub(list(state.values()), old)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(to, change)
    mass = coverage(theta, pairs)
    return {
        k: t + push[k] / mass[k].clamp_min(1e-30)
        if t.is_floating_point()
        else t
        for k, t in theta.items()
    }


@checked
def n_parameters(net: nn.Module) -> int:
    """Count the parameters of a network.

    Example:
        >>> n_parameters(nn.Linear(3, 2))
        8
    """
    return sum(p.numel() for p in net.parameters())
