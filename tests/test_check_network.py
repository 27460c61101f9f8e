"""Laws of `check_network`: what nests, runs and counts passes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import aequa_lite as aq
from aequa_lite.networks import BatchResNet18, ConvNet, ResNet18, TabularMLP, TextCNN, Transformer, check_network
from aequa_lite.networks.base import n_units

TABLE = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
COLOR = {"shape": (3, 16, 16), "classes": 10}
TEXT = {"shape": (9,), "classes": 2, "words": 50}
GOOD = [
    (aq.MLP, IMAGES.new_zeros(2, 1, 28, 28)),
    (aq.LeNet, IMAGES.new_zeros(2, 1, 28, 28)),
    (partial(ConvNet, **COLOR), IMAGES),
    (partial(ResNet18, **COLOR, channels=16), IMAGES),
    (partial(TextCNN, **TEXT), torch.randint(1, 50, (5, 9))),
    (partial(Transformer, **TEXT), torch.randint(1, 50, (5, 9))),
    (partial(TabularMLP, shape=(3,), classes=2), TABLE),
]


@pytest.mark.parametrize(("build", "example"), GOOD)
def test_the_networks_of_the_package_pass(build, example) -> None:
    check_network(build, example, widths=(0.2, 0.3, 0.7, 1.0))


def mlp(width: float, hidden: int = 8, *between: nn.Module) -> nn.Sequential:
    """A network as a user writes it."""
    units = n_units(width, hidden)
    return nn.Sequential(nn.Linear(3, units), *between, nn.Linear(units, 2))


def test_any_function_of_the_width_passes_with_any_activation() -> None:
    for activation in (nn.ReLU(), nn.Sigmoid(), nn.GELU(), nn.Dropout()):
        check_network(lambda w, f=activation: mlp(w, 8, f), TABLE)
    check_network(lambda w: mlp(w, 2), TABLE)  # 0.25 and 0.5 are the same


def test_group_norm_nests_with_fixed_groups_only() -> None:
    def norm(width: float, per_group: int) -> nn.Module:
        units = n_units(width, 8, 2)
        groups = units // 2 if per_group else 1
        return mlp(units / 8, 8, nn.GroupNorm(groups, units), nn.ReLU())

    check_network(partial(norm, per_group=2), TABLE)
    with pytest.raises(ValueError, match="must nest: with fewer units"):
        check_network(partial(norm, per_group=0), TABLE)


class Concatenated(nn.Module):
    """Two branches side by side: the second one's columns move."""

    def __init__(self, width: float) -> None:
        super().__init__()
        units = n_units(width, 4)
        self.a, self.b = nn.Linear(3, units), nn.Linear(3, units)
        self.out = nn.Linear(2 * units, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([self.a(x), self.b(x)], 1).relu())


class Buffered(nn.Module):
    """A constant that is not part of the state."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.net = mlp(width)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x * self.scale)


class Unused(Buffered):
    """A parameter that no loss reaches."""

    def __init__(self, width: float) -> None:
        super().__init__(width)
        self.spare = nn.Linear(1, 1)


def tied(width: float) -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, layer, mlp(width))


def growing(width: float, calls: list[int]) -> nn.Module:
    calls.append(1)
    return mlp(width, 8 + len(calls))


def other_names(width: float) -> nn.Module:
    return mlp(width, 8, nn.ReLU()) if width < 1 else mlp(width)


def classes_too(width: float) -> nn.Module:
    return nn.Linear(3, n_units(width, 4))


def raises(width: float) -> nn.Module:
    raise RuntimeError(f"no {width}")


def u(width: float) -> int:
    return n_units(width, 8)


BAD = {
    r"`build` must be a function, got 3": 3,
    r"must return a network at width 0.25, got RuntimeError: no 0.25": raises,
    r"must return a torch.nn.Module at width 0.25, got a int": u,
    r"must use each parameter in one layer": tied,
    r"must return the same shapes for the same width": partial(growing, calls=[]),
    r"same tensors at every width, got '1.bias' at 1.0 only": other_names,
    r"leading block .* got '0.weight' torch.float32 \(5, 3\) at width 0.25 and "
    r"torch.float32 \(4, 3\) at 0.5": lambda w: mlp(0.75 - w / 2),
    r"more parameters at width 1.0 than at 0.25, got 50 and 50": lambda w: mlp(1),
    r"return 4 classes at every width, got 1 at width 0.25": classes_too,
    r"run on `example` at width 1.0, got RuntimeError": lambda w: nn.Linear(4, u(w)),
    r"return logits \(6, classes\) .* got shape \(6, 2, 1\)": lambda w: mlp(w).append(nn.Unflatten(1, (2, 1))),
    r"use every parameter, got no gradient for 'spare.weight'": Unused,
    r"keep no running statistics, got a buffer '1.running_mean'": lambda w: mlp(w, 8, nn.BatchNorm1d(u(w))),
    r"keep its buffers in the state, got 'scale'": Buffered,
    r"nest: with fewer units .* LayerNorm over all units": lambda w: mlp(w, 8, nn.LayerNorm(u(w))),
    r"nest: .* got other logits at width 0.25; .* concatenated": Concatenated,
}


@pytest.mark.parametrize("sentence", BAD)
def test_what_cannot_be_rewarded_is_refused_in_one_sentence(sentence) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        check_network(BAD[sentence], TABLE)
    assert "\n" not in str(error.value)


def test_batch_norm_is_refused_where_the_package_has_it() -> None:
    with pytest.raises(ValueError, match="BatchNorm does not nest"):
        check_network(partial(BatchResNet18, **COLOR, channels=16), IMAGES)


@pytest.mark.parametrize("widths", [(), (1.0,), (0.5,), (0.5, 0.25, 1.0), (0, 1)])
def test_widths_rise_to_one(widths) -> None:
    with pytest.raises(ValueError, match="`widths` must be rising numbers"):
        check_network(mlp, TABLE, widths)


@pytest.mark.parametrize("example", [None, torch.zeros(3), torch.zeros(0, 3)])
def test_an_example_is_a_batch(example) -> None:
    with pytest.raises(ValueError, match="`example` must be a [tT]ensor.*, got "):
        check_network(mlp, example)


def test_checking_draws_from_no_generator_of_the_caller() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_network(mlp, TABLE)
    assert torch.equal(torch.rand(3), expected)


def test_a_table_network_nests_and_reads_a_table_only() -> None:
    build = partial(TabularMLP, shape=(3,), classes=2)
    theta = aq.init_params(build, seed=1)
    half = aq.slim(build, theta, 0.5)
    twice = aq.slim(build, half.state_dict(), 0.25)
    once = aq.slim(build, theta, 0.25)
    assert torch.equal(once(TABLE), twice(TABLE))
    with pytest.raises(ValueError, match=r"`shape` must be \(features,\)"):
        TabularMLP(0.5, shape=(1, 28, 28), classes=2)


def test_units_that_mix_only_after_training_are_found() -> None:
    class Scaled(nn.Module):
        """A layer whose normalisation over all units has no weight at first."""

        def __init__(self, width: float) -> None:
            super().__init__()
            units = aq.networks.n_units(width, 8)
            self.a, self.norm, self.b = nn.Linear(3, units), nn.LayerNorm(units), nn.Linear(units, 2)
            self.scale = nn.Parameter(torch.zeros(units))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.a(x)
            return self.b(z + self.scale * self.norm(z))

    with pytest.raises(ValueError, match="`build` must"):
        aq.networks.check_network(Scaled, torch.randn(4, 3))
