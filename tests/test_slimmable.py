"""The laws of slimming and merging, held against an independent width-carrying network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import OracleConvNet, OracleLeNet, OracleMLP, OracleResNet18, OracleTextCNN, OracleTransformer
from torch import Tensor, nn

import aequa_lite as aq
from aequa_lite.slimmable import fractional_slice, grid_width, prefix, slice_of, template

PAIRS = [
    (aq.MLP, OracleMLP),
    (partial(aq.MLP, ahead=3), partial(OracleMLP, ahead=3)),
    (aq.LeNet, OracleLeNet),
    (partial(aq.LeNet, multiple=2), partial(OracleLeNet, multiple=2)),
]
COLOUR = {"shape": (3, 16, 16), "classes": 10}
TEXT = {"shape": (9,), "classes": 2, "words": 50}
DEEP_PAIRS = [  # their sums are taken in another order than the oracle's
    (partial(aq.networks.ConvNet, **COLOUR), OracleConvNet),
    (partial(aq.networks.ResNet18, **COLOUR, channels=16), partial(OracleResNet18, channels=16)),
    (partial(aq.networks.TextCNN, **TEXT), OracleTextCNN),
    (partial(aq.networks.Transformer, **TEXT), OracleTransformer),
]
BATCH = partial(aq.networks.BatchResNet18, **COLOUR, channels=16)
NETS = [*(first for first, _ in PAIRS + DEEP_PAIRS), BATCH]
few_times = settings(derandomize=True, deadline=None, max_examples=30)


def images(n: int = 5) -> Tensor:
    """A few random grey pictures."""
    return torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def inputs(build) -> Tensor:
    """A few random samples of the kind that a network reads; sentences end in padding of every length."""
    g = torch.Generator().manual_seed(0)
    if (keywords := getattr(build, "keywords", {})).get("words"):
        ids = torch.randint(1, 50, (5, 9), generator=g)
        return ids * (torch.arange(9) < torch.tensor([[9], [5], [1], [8], [2]]))
    if "shape" in keywords:
        return torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=g)
    return images()


@cache
def initial(build) -> dict[str, Tensor]:
    """The initial network; never written to."""
    return aq.init_params(build, seed=1)


@pytest.mark.parametrize("build", NETS)
@few_times
@given(w=st.floats(0.01, 1.0), v=st.floats(0.01, 1.0))
def test_slimming_twice_is_slimming_once(build, w: float, v: float) -> None:
    w, v = min(w, v), max(w, v)
    theta = initial(build)
    once, twice = aq.slim(build, theta, w), aq.slim(build, aq.slim(build, theta, v).state_dict(), w)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))


GRID = 100  # of widths


def grows(build) -> float:
    """A width of the grid, beyond a third of it, at which the network is larger than at the one below."""
    sizes = [aq.n_parameters(template(build, k / GRID)) for k in range(34, GRID)]
    return (35 + next(k for k, (a, b) in enumerate(zip(sizes[:-1], sizes[1:])) if a < b)) / GRID


@pytest.mark.parametrize("build", NETS)
def test_units_fade_in_from_the_narrower_network_to_the_wider(build) -> None:
    theta, x, wide = initial(build), inputs(build), grows(build)

    def said(width: float, grid: int | None = GRID) -> Tensor:
        with torch.no_grad():
            return (aq.fractional_slim(build, theta, width, grid) if grid else aq.slim(build, theta, width)).eval()(x)

    assert torch.equal(said(wide), said(wide, None))
    assert not torch.equal(said(wide), said(wide - 1 / GRID))
    assert torch.allclose(said(wide - 0.99999 / GRID), said(wide - 1 / GRID), atol=1e-4)
    steps = torch.stack([said(wide - (1 - k / 64) / GRID) for k in range(65)])  # (widths, samples, classes)
    assert (steps[1:] - steps[:-1]).abs().max() < 0.1 * (steps[-1] - steps[0]).abs().max() + 1e-4


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_a_faded_unit_speaks_with_its_share_of_its_voice(share: float) -> None:
    theta, x = aq.init_params(aq.MLP, seed=2), images()
    w = [theta[f"{k}.{part}"] for k in (2, 4, 6) for part in ("weight", "bias")]
    voice = torch.ones(31)
    voice[30] = share
    h = voice * torch.relu((x.float() / 127.5 - 1).flatten(1) @ w[0][:31].T + w[1][:31])
    h = voice * torch.relu(h @ w[2][:31, :31].T + w[3][:31])
    paid = aq.fractional_slim(aq.MLP, theta, 0.15 + share / 200, grid=200)
    assert torch.allclose(paid(x), h @ w[4][:, :31].T + w[5], atol=1e-5)
    assert aq.n_parameters(paid) == aq.n_parameters(aq.MLP(0.155))


@pytest.mark.parametrize("share", [0.005, 0.5, 0.995])
def test_units_fade_in_within_the_second_cell_of_a_grid_too(share: float) -> None:
    theta = initial(aq.MLP)
    whole, paid = slice_of(aq.MLP, theta, 0.5), fractional_slice(aq.MLP, theta, (1 + share) / 4, 4)
    for name in ("4.weight", "6.weight"):  # 50 units at a quarter, 100 at a half
        assert torch.equal(paid[name][:, :50], whole[name][:, :50])
        torch.testing.assert_close(paid[name][:, 50:], share * whole[name][:, 50:])


@pytest.mark.parametrize(("width", "grid", "name"), [(1.5, 200, "width"), (0.0, 200, "width"), (0.5, 0, "grid")])
def test_a_width_or_a_grid_that_is_none_is_refused(width: float, grid: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        grid_width(width, grid)


def test_below_the_least_width_of_a_grid_nothing_fades() -> None:
    least, paid = slice_of(aq.MLP, initial(aq.MLP), 0.25), fractional_slice(aq.MLP, initial(aq.MLP), 0.1, 4)
    assert all(torch.equal(paid[name], t) for name, t in least.items())


@pytest.mark.parametrize(
    ("width", "grid", "said"),
    [(1.01, 200, "`width` must be"), (0.0, 200, "`width` must be"), (0.5, 0, "`grid` must be")],
)
def test_what_lies_between_no_two_sizes_is_refused(width: float, grid: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aq.fractional_slim(aq.MLP, initial(aq.MLP), width, grid)


@few_times
@given(w=st.floats(0.01, 1.0))
def test_fading_leaves_the_shared_network_and_whole_widths_as_they_are(w: float) -> None:
    theta = initial(aq.MLP)
    before = {name: t.clone() for name, t in theta.items()}
    paid, whole = aq.fractional_slim(aq.MLP, theta, w, grid=200), aq.slim(aq.MLP, theta, w)
    assert all(torch.equal(t, before[name]) for name, t in theta.items())
    for name, t in paid.state_dict().items():
        inside = (
            prefix(s - 1 if d == 1 else s for d, s in enumerate(t.shape)) if t.dim() > 1 and name[0] != "2" else ...
        )
        assert torch.equal(t[inside], whole.state_dict()[name][inside])


@pytest.mark.parametrize("build", NETS)
def test_the_full_width_is_the_whole_network(build) -> None:
    theta = initial(build)
    assert all(torch.equal(theta[k], t) for k, t in aq.slim(build, theta, 1.0).state_dict().items())


@pytest.mark.parametrize(("build", "oracle"), PAIRS)
@pytest.mark.parametrize("width", [0.02, 0.07, 0.3, 0.5, 0.995, 1.0])
def test_a_reward_computes_what_the_wide_network_computes_at_that_width(build, oracle, width: float) -> None:
    theta, x = aq.init_params(build, seed=2), images()
    wide = oracle()
    wide.load_state_dict(theta)
    expected = wide(x, width)
    assert torch.equal(aq.slim(build, theta, width)(x), expected)
    assert torch.equal(aq.view(build, theta, width)(x), expected)


@pytest.mark.parametrize(("build", "oracle"), DEEP_PAIRS)
@pytest.mark.parametrize("width", [0.02, 0.07, 0.3, 0.5, 0.995, 1.0])
def test_a_deep_reward_computes_it_too_up_to_the_order_of_sums(build, oracle, width: float) -> None:
    theta, x = initial(build), inputs(build)
    wide = oracle()
    wide.load_state_dict(theta)
    reward = aq.slim(build, theta, width)(x)
    torch.testing.assert_close(reward, wide(x, width), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reward, aq.view(build, theta, width)(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("build", NETS)
def test_a_network_computes_with_every_width_something_else(build) -> None:
    x, theta = inputs(build), initial(build)
    narrow, wide = (aq.slim(build, theta, width)(x) for width in (0.3, 1.0))
    assert narrow.shape == wide.shape
    assert not torch.allclose(narrow, wide, atol=1e-3)


@pytest.mark.parametrize(("build", "oracle"), PAIRS + DEEP_PAIRS)
@pytest.mark.parametrize("width", [0.07, 0.5, 1.0])
def test_gradients_agree_with_the_oracle_and_vanish_outside_the_slice(build, oracle, width: float) -> None:
    theta = {k: t.clone().requires_grad_() for k, t in aq.init_params(build, seed=2).items()}
    wide = oracle()
    wide.load_state_dict({k: t.detach() for k, t in theta.items()})
    aq.view(build, theta, width)(inputs(build)).square().sum().backward()
    wide(inputs(build), width).square().sum().backward()
    for (name, p), (k, t) in zip(wide.named_parameters(), theta.items(), strict=True):
        assert name == k
        torch.testing.assert_close(t.grad, p.grad, atol=1e-4 * float(p.grad.abs().max()) + 1e-6, rtol=1e-4)
        tail = t.grad.clone()
        tail[prefix(slice_of(build, theta, width)[k].shape)] = 0
        assert not tail.any()


def test_a_reward_shares_no_memory_with_theta() -> None:
    theta = aq.init_params(aq.MLP, seed=0)
    before = {k: t.clone() for k, t in theta.items()}
    with torch.no_grad():
        for p in aq.slim(aq.MLP, theta, 0.5).parameters():
            p.fill_(7.0)
    assert all(torch.equal(before[k], t) for k, t in theta.items())


def test_views_of_one_width_do_not_meet_whoever_asks_when() -> None:
    x, states = images(), [aq.init_params(aq.MLP, seed) for seed in range(4)]
    said = [aq.slim(aq.MLP, theta, 0.5)(x) for theta in states]
    views = [aq.view(aq.MLP, theta, 0.5) for theta in states]  # all over one template
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: views[k](x), [0, 1, 2, 3] * 50))
    assert all(torch.equal(each, said[k % 4]) for k, each in enumerate(found))
    assert all(t.is_meta for t in template(aq.MLP, 0.5).state_dict().values())


class Removed(nn.Module):
    """A network of which one layer was taken out: its name is still there."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.body = aq.MLP(width)
        self.register_module("dropout", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_a_layer_that_was_taken_out_disturbs_no_view() -> None:
    theta, x = initial(Removed), images()
    assert torch.equal(aq.view(Removed, theta, 0.5)(x), aq.slim(Removed, theta, 0.5)(x))


@pytest.mark.parametrize("width", [0.0, -0.1, 1.01, float("nan")])
def test_a_width_outside_zero_to_one_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match=r"`width` must be"):
        aq.slim(aq.MLP, aq.init_params(aq.MLP, 0), width)


def test_a_network_that_lacks_a_tensor_is_refused_with_its_name() -> None:
    theta = {k: t for k, t in initial(aq.MLP).items() if k != "4.bias"}
    for cut in (slice_of, aq.slim, aq.view):
        with pytest.raises(ValueError, match="`theta` must be the network's tensors, '4.bias' included"):
            cut(aq.MLP, theta, 0.5)


@few_times
@given(full=st.integers(1, 300), group=st.integers(1, 8), a=st.floats(0.001, 1.0), b=st.floats(0.001, 1.0))
def test_units_are_whole_groups_and_never_shrink_as_width_grows(full: int, group: int, a: float, b: float) -> None:
    full *= group
    low, high = aq.networks.n_units(min(a, b), full, group), aq.networks.n_units(max(a, b), full, group)
    assert group <= low <= high <= full
    assert low % group == 0
    assert aq.networks.n_units(1.0, full, group) == full


def test_seven_hundredths_of_a_hundred_are_seven() -> None:
    assert [aq.networks.n_units(k / 100, 100) for k in range(1, 101)] == list(range(1, 101))


def updates(theta: dict[str, Tensor], widths: list[float], seed: int = 0) -> list[tuple[dict[str, Tensor], float]]:
    """Random answers at the given widths, each with a random weight."""
    g = torch.Generator().manual_seed(seed)
    blocks = [slice_of(aq.LeNet, theta, w) for w in widths]
    return [({k: torch.randn(t.shape, generator=g) for k, t in b.items()}, 0.5 + i) for i, b in enumerate(blocks)]


def test_the_full_width_merge_is_fedavg() -> None:
    theta = aq.init_params(aq.LeNet, seed=0)
    answers = updates(theta, [1.0, 1.0, 1.0])
    mass = sum(weight for _, weight in answers)
    for k, t in aq.aggregate(theta, answers).items():
        torch.testing.assert_close(t, sum(weight * state[k] for state, weight in answers) / mass, atol=1e-6, rtol=1e-5)


def test_a_round_in_which_nobody_changes_anything_is_exactly_the_identity() -> None:
    theta = aq.init_params(aq.LeNet, seed=0)
    merged = aq.aggregate(theta, [(slice_of(aq.LeNet, theta, w), 0.3) for w in (0.2, 0.7, 1.0)])
    assert all(torch.equal(theta[k], merged[k]) for k in theta)


def test_entries_that_nobody_holds_keep_their_value() -> None:
    theta = aq.init_params(aq.LeNet, seed=0)
    merged = aq.aggregate(theta, updates(theta, [0.3, 0.6]))
    for k, held in slice_of(aq.LeNet, theta, 0.6).items():
        tail_now, tail_before = merged[k].clone(), theta[k].clone()
        tail_now[prefix(held.shape)] = tail_before[prefix(held.shape)] = 0
        assert torch.equal(tail_now, tail_before)


def test_an_entry_is_averaged_over_those_who_hold_it() -> None:
    theta = {"w": torch.zeros(3, 3)}
    narrow, wide = {"w": torch.full((1, 2), 3.0)}, {"w": torch.full((3, 3), 6.0)}
    expected = torch.full((3, 3), 6.0)
    expected[0, :2] = (2 * 3.0 + 1 * 6.0) / 3
    torch.testing.assert_close(aq.aggregate(theta, [(narrow, 2.0), (wide, 1.0)])["w"], expected)


def test_only_the_ratio_of_the_weights_matters() -> None:
    theta = aq.init_params(aq.LeNet, seed=0)
    answers = updates(theta, [0.3, 1.0])
    tiny = [(state, 1e-6 * weight) for state, weight in answers]
    for one, other in zip(aq.aggregate(theta, answers).values(), aq.aggregate(theta, tiny).values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_merging_changes_neither_theta_nor_the_answers() -> None:
    theta = aq.init_params(aq.LeNet, seed=0)
    answers = updates(theta, [0.5, 1.0])
    before = [t.clone() for state in (theta, *(s for s, _ in answers)) for t in state.values()]
    aq.aggregate(theta, answers)
    after = [t for state in (theta, *(s for s, _ in answers)) for t in state.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_whole_number_buffers_are_kept_not_averaged() -> None:
    theta = {"count": torch.tensor(3), "w": torch.zeros(1)}
    merged = aq.aggregate(theta, [({"count": torch.tensor(8), "w": torch.ones(1)}, 1.0)])
    assert merged["count"].item() == 3
    assert merged["count"].dtype == torch.int64


@pytest.mark.parametrize("cut", [aq.slice_of, aq.slim, aq.view])
def test_a_narrow_state_is_refused_at_a_larger_width(cut) -> None:
    half = aq.slim(aq.MLP, aq.init_params(aq.MLP, seed=0), 0.5).state_dict()
    with pytest.raises(ValueError, match="`theta` must be of a network of width 1 or wider"):
        cut(aq.MLP, half, 1.0)
    assert cut(aq.MLP, half, 0.25) is not None
