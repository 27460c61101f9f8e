"""The idea: a narrow network is the same constructor at a smaller width, filled with the leading block of every tensor."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

__all__ = ["aggregate", "fractional_slice", "fractional_slim", "n_parameters", "prefix", "slice_of", "slim", "view"]


Build = Callable[[float], nn.Module]


State = Mapping[str, Tensor]


def prefix(shape: Iterable[int]) -> tuple[slice, ...]:
    """Return the index of the leading block of that shape in any larger tensor.

    Example:
        >>> torch.arange(9).reshape(3, 3)[prefix((2, 2))].tolist()
        [[0, 1], [3, 4]]

    Source: ordered dropout (FjORD, Horvath et al. 2021) keeps the first units of every layer.
    """
    return tuple(slice(0, size) for size in shape)


@lru_cache(maxsize=1024)
def template(build: Build, width: float) -> nn.Module:
    """Return the empty network of that width, shapes without numbers: one for all who ask, so nobody may change it."""
    with torch.device("meta"):
        return build(width)


def bind(layers: nn.Module, tensors: State, path: str = "") -> nn.Module:
    """The same layers over these very tensors: no copy, gradients flow to them, and what they were over stays as it is."""
    net = object.__new__(type(layers))
    net.__dict__.update(
        layers.__dict__,
        _parameters={name: tensors.get(path + name, t) for name, t in layers._parameters.items()},
        _buffers={name: tensors.get(path + name, t) for name, t in layers._buffers.items()},
        _modules={name: each and bind(each, tensors, f"{path}{name}.") for name, each in layers._modules.items()},
    )
    return net


def slice_of(build: Build, theta: State, width: float) -> dict[str, Tensor]:
    """Return the leading block of every shared tensor that a network of this width has (views, no copy).

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> slice_of(aq.MLP, theta, 0.5)["2.weight"].shape
        torch.Size([100, 784])
    """
    return {name: theta[name][prefix(t.shape)] for name, t in template(build, width).state_dict().items()}


def slim(build: Build, theta: State, width: float) -> nn.Module:
    r"""Return an ordinary, smaller network: ``build(width)`` filled with theta's leading blocks.

    $\mathrm{slim}(\theta, w)_k = \theta_k[0{:}s_1, 0{:}s_2, \dots]$ with $s$ the shape that ``build(w)`` gives tensor $k$.
    The new network shares no memory with ``theta``.

    Raises:
        ValueError: ``width`` is outside (0, 1].

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> aq.n_parameters(slim(aq.MLP, theta, 0.5)), aq.n_parameters(slim(aq.MLP, theta, 1.0))
        (89610, 199210)

    Source: ordered dropout (FjORD), as a constructor instead of a mask.
    """
    with torch.device("meta"):
        net = build(width)
    net.load_state_dict({k: theta[k][prefix(t.shape)].clone() for k, t in net.state_dict().items()}, assign=True)
    return net


def grid_width(width: float, grid: int) -> float:
    """Return the multiple of 1 / ``grid`` that this width is, or lies below.

    Raises:
        ValueError: ``grid`` is no whole number from 1, or ``width`` is outside (0, 1].

    Example:
        >>> grid_width(0.0525, grid=200), grid_width(0.07, grid=100)
        (0.055, 0.07)
    """
    if not isinstance(grid, int) or isinstance(grid, bool) or grid < 1:
        raise ValueError(f"grid is {grid!r}; allowed is a whole number from 1")
    if not 0 < width <= 1:
        raise ValueError(f"width is {width!r}; allowed is a number in (0, 1]")
    return math.ceil(width * grid - 1e-9) / grid


def fractional_slice(build: Build, theta: State, width: float, grid: int) -> dict[str, Tensor]:
    r"""Return the slice at any width, also between two multiples of 1 / ``grid``: there the units on top fade in.

    With $b = \lceil wg \rceil / g$ and $a = b - 1/g$, the slice is the one at $b$, but what layers read from the units that
    $a$ lacks counts $f = (w - a)\,g$: nothing at $a$, all at $b$, and continuous in between. Below 1 / ``grid`` there is
    nothing to fade in from. Views, but for the tensors that fade; where words are embedded, the new dimensions are read from the
    embedding and from what reads it, and count $f^2$.

    Raises:
        ValueError: ``width`` is outside (0, 1], or ``grid`` is no whole number from 1.

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> part, all_of_it = (fractional_slice(aq.MLP, theta, w, grid=200)["6.weight"] for w in (0.0525, 0.055))
        >>> bool(torch.allclose(part[:, 10], 0.5 * all_of_it[:, 10])), bool((part[:, :10] == all_of_it[:, :10]).all())
        (True, True)

    Source: ours.
    """
    upper = grid_width(width, grid)
    held, share = slice_of(build, theta, upper), 1 - (upper - width) * grid
    if share > 1 - 1e-6 or upper * grid < 1.5:
        return held
    for name, t in template(build, upper - 1 / grid).state_dict().items():
        if t.dim() > 1 and t.shape[1] < held[name].shape[1]:  # (units that read, units that are read, ...)
            held[name] = held[name].clone()
            held[name][:, t.shape[1] :] *= share
    return held


def fractional_slim(build: Build, theta: State, width: float, grid: int) -> nn.Module:
    """Return an ordinary, smaller network of any width, also between two sizes: :func:`~aequa_lite.slim` with :func:`~aequa_lite.slimmable.fractional_slice`.

    Raises:
        ValueError: ``width`` is outside (0, 1], or ``grid`` is no whole number from 1.

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> aq.n_parameters(fractional_slim(aq.MLP, theta, 0.0525, grid=200)) == aq.n_parameters(slim(aq.MLP, theta, 0.055))
        True

    Source: ours.
    """
    net = slim(build, theta, grid_width(width, grid))
    net.load_state_dict(fractional_slice(build, theta, width, grid))
    return net


def split_stem(net: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A network's stem (no layers if it names none), and what follows it.

    The input is never slimmed: what a narrow stem says is a prefix of what a wider one says.
    """
    if not (cut := getattr(net, "stem_layers", 0)):
        return nn.Sequential(), net
    layers = list(net.named_children())  # a Sequential's layers keep their names when it is cut in two
    return nn.Sequential(OrderedDict(layers[:cut])), nn.Sequential(OrderedDict(layers[cut:]))


def view(build: Build, theta: State, width: float) -> Callable[[Tensor], Tensor]:
    """Return the network of that width as a function that reads theta itself: no copy, gradients flow to theta.

    Example:
        >>> import aequa_lite as aq
        >>> theta, x = aq.init_params(aq.MLP, seed=0), torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
        >>> bool((view(aq.MLP, theta, 0.3)(x) == slim(aq.MLP, theta, 0.3)(x)).all())
        True
    """
    net = template(build, width)
    own = {name for name, _ in net.named_buffers()}  # running statistics are copied: to look is not to change
    return bind(net, {name: t.clone() if name in own else t for name, t in slice_of(build, theta, width).items()})


def aggregate(theta: State, updates: Iterable[tuple[State, float]]) -> dict[str, Tensor]:
    r"""Average what came back, entry by entry, over those who hold the entry.

    $\theta_e \leftarrow \theta_e + \sum_{i \ni e} a_i (v_{i,e} - \theta_e) \,/\, \sum_{i \ni e} a_i$, where $i \ni e$ says
    that participant $i$'s slice holds entry $e$. Entries that nobody holds keep their value; when all hold
    everything this is FedAvg. ``updates``: pairs of a slice and its weight $a_i > 0$.

    Example:
        >>> theta = {"w": torch.zeros(3)}
        >>> aggregate(theta, [({"w": torch.ones(3)}, 1.0), ({"w": 4 * torch.ones(1)}, 2.0)])["w"].tolist()
        [3.0, 1.0, 1.0]

    Source: FjORD (Eq. 2) and HeteroFL, written in difference form so that no change is exactly no change.
    """
    push = {k: torch.zeros_like(t) for k, t in theta.items()}
    mass = {k: torch.zeros_like(t) for k, t in theta.items()}
    for state, weight in updates:
        for k, v in state.items():
            if v.is_floating_point():  # a batch counter is not a quantity to average
                block = prefix(v.shape)
                push[k][block] += weight * (v - theta[k][block])
                mass[k][block] += weight
    return {k: t + push[k] / mass[k].clamp_min(1e-30) if t.is_floating_point() else t for k, t in theta.items()}


def n_parameters(net: nn.Module) -> int:
    """Count the trainable numbers of a network.

    Example:
        >>> n_parameters(nn.Linear(3, 2))
        8
    """
    return sum(p.numel() for p in net.parameters())
