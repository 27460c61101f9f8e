"""Local training: only what is trained may move, and only the participant's own stream decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import aequa_lite as aq
from aequa_lite.local import Offsets, WidthSampler, batches, class_shares, gradient, logit_offsets, row_at
from aequa_lite.slimmable import Build, prefix, slice_of


def only_narrow(rng: np.random.Generator, widest: float, config: aq.Config) -> tuple[float, ...]:
    """Train half the width alone, although the participant holds more."""
    return (0.5,)


def shard_of(few: aq.Dataset) -> aq.Shard:
    return aq.Shard(0, few.train, np.arange(len(few.train)))


def test_full_width_training_is_plain_sgd(few: aq.Dataset) -> None:
    config = aq.Config(local_steps=6, batch=32, weight_decay=0.01, lr=0.05)
    theta, shard = aq.init_params(aq.LeNet, seed=0), shard_of(few)
    update = aq.local_sgd(aq.LeNet, theta, shard, 1.0, config, aq.stream(0, "t"), width_sampler=aq.full_only)
    net = aq.slim(aq.LeNet, theta, 1.0)
    plain = torch.optim.SGD(net.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=0.01)
    for step, chosen in enumerate(batches(aq.stream(0, "t"), len(shard), config, 6)):
        for group in plain.param_groups:
            group["lr"] = config.lr_at(step)
        plain.zero_grad()
        cross_entropy(net(few.train.x[chosen]), few.train.y[chosen]).backward()
        plain.step()
    for k, t in net.state_dict().items():
        torch.testing.assert_close(update.state[k], t, atol=2e-6, rtol=1e-5)


def test_a_narrow_step_moves_no_tail_by_momentum_or_decay(few: aq.Dataset) -> None:
    config = aq.Config(local_steps=8, batch=16, weight_decay=0.1)
    theta = aq.init_params(aq.MLP, seed=0)
    update = aq.local_sgd(aq.MLP, theta, shard_of(few), 1.0, config, aq.stream(0, "t"), width_sampler=only_narrow)
    for k, block in slice_of(aq.MLP, theta, 0.5).items():
        now, before = update.state[k].clone(), theta[k].clone()
        assert not torch.equal(now[prefix(block.shape)], before[prefix(block.shape)])
        now[prefix(block.shape)] = before[prefix(block.shape)] = 0
        assert torch.equal(now, before)


class Nested(nn.Sequential):
    """A slimmable network that names no stem."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__(*list(aq.MLP(width)))


class Turned(aq.MLP):
    """It computes something else than its layers in turn, so its first layers are no stem."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the pictures upside down."""
        return super().forward(x.flip(-2))


@pytest.mark.parametrize("build", [aq.MLP, aq.LeNet, Nested, Turned], ids=lambda b: b.__name__)
def test_the_gradient_is_that_of_the_width_averaged_loss(few: aq.Dataset, build: Build) -> None:
    theta, x, y = aq.init_params(build, seed=0), few.train.x[:20], few.train.y[:20]
    chosen = (0.3, 1.0, 0.6, 1.0)
    grads, loss = gradient(build, theta, chosen, x, y, aq.Config(loss_power=0.0))
    leaves = {k: t.clone().requires_grad_() for k, t in theta.items()}
    mean = sum(cross_entropy(aq.view(build, leaves, w)(x), y) for w in chosen) / 4
    mean.backward()
    torch.testing.assert_close(loss, mean.detach())
    assert grads.keys() == theta.keys()
    for k, t in leaves.items():
        torch.testing.assert_close(grads[k], t.grad)


@pytest.mark.parametrize("build", [aq.MLP, aq.LeNet], ids=lambda b: b.__name__)
def test_the_output_of_a_stem_is_a_prefix_of_a_wider_one(few: aq.Dataset, build: Build) -> None:
    theta = aq.init_params(build, seed=0)
    wide, narrow = (list(aq.slim(build, theta, w))[: build.stem_layers] for w in (0.8, 0.3))
    wide_out, narrow_out = nn.Sequential(*wide)(few.train.x[:9]), nn.Sequential(*narrow)(few.train.x[:9])
    torch.testing.assert_close(wide_out[prefix(narrow_out.shape)], narrow_out)


def test_local_training_leaves_the_shared_network_alone(few: aq.Dataset) -> None:
    theta = aq.init_params(aq.MLP, seed=0)
    before = {k: t.clone() for k, t in theta.items()}
    aq.local_sgd(aq.MLP, slice_of(aq.MLP, theta, 0.5), shard_of(few), 0.5, aq.Config(), aq.stream(0, "t"), steps=2)
    assert all(torch.equal(before[k], t) for k, t in theta.items())


def test_training_computes_with_one_thread_wherever_it_is_called(few: aq.Dataset) -> None:
    config, threads, before = aq.Config(participants=1, local_steps=2), [], torch.get_num_threads()
    (shard,) = aq.data.homogeneous(few.train, config)

    def noting(rng: np.random.Generator, widest: float, config: aq.Config) -> tuple[float]:
        threads.append(torch.get_num_threads())
        return (widest,)

    try:
        torch.set_num_threads(3)
        aq.local_sgd(aq.MLP, aq.init_params(aq.MLP, 0), shard, 1.0, config, aq.stream(0), width_sampler=noting)
        assert (threads, torch.get_num_threads()) == ([1, 1], 3)
    finally:
        torch.set_num_threads(before)


def test_as_many_steps_are_taken_as_are_asked_for_and_the_weight_is_passed_on(few: aq.Dataset) -> None:
    config, theta = aq.Config(local_steps=5, batch=16, lr_final=1.0), aq.init_params(aq.MLP, seed=0)
    train = partial(aq.local_sgd, aq.MLP, theta, shard_of(few), 1.0, width_sampler=aq.full_only)
    asked = train(config, aq.stream(0, "t"), steps=2, weight=0.25)
    own = train(replace(config, local_steps=2), aq.stream(0, "t"))
    assert (asked.weight, own.weight) == (0.25, 1.0)
    assert asked.loss == own.loss
    assert all(torch.equal(t, own.state[k]) for k, t in asked.state.items())


def test_every_sample_is_seen_before_any_is_seen_twice() -> None:
    order = batches(aq.stream(0, "t"), 50, aq.Config(batch=16), steps=10).ravel()
    assert sorted(order[:50]) == list(range(50))
    assert sorted(order[50:100]) == list(range(50))
    assert not np.array_equal(order[:50], order[50:100])


def test_a_shard_smaller_than_a_batch_is_taken_whole() -> None:
    assert batches(aq.stream(0, "t"), 5, aq.Config(batch=64), steps=3).shape == (3, 5)


def test_drawn_widths_stay_between_least_and_widest() -> None:
    config = aq.Config(min_width=0.1, widths_per_step=50)
    for widest in (0.1, 0.4, 1.0):
        first, *others = aq.full_and_random(aq.stream(0, "t"), widest, config)
        assert first == widest
        assert all(0.1 <= w <= widest for w in others)


@pytest.mark.parametrize("sampler", [aq.full_only, aq.full_and_random, aq.one_random, aq.sandwich])
@pytest.mark.parametrize("widest", [0.05, 0.333])  # below the least width of the config, and off its grid
def test_nobody_trains_more_than_it_holds(sampler: WidthSampler, widest: float) -> None:
    drawn = sampler(aq.stream(0, "t"), widest, aq.Config(min_width=0.1, grid=10, widths_per_step=50))
    assert drawn
    assert max(drawn) <= widest


def test_drawn_widths_lie_on_the_grid() -> None:
    drawn = np.array(aq.full_and_random(aq.stream(0, "t"), 1.0, aq.Config(widths_per_step=50, grid=7)))
    assert np.allclose(drawn * 7, np.round(drawn * 7))


def test_ordered_dropout_trains_one_width_and_the_sandwich_both_ends() -> None:
    config = aq.Config(min_width=0.1, widths_per_step=3)
    assert len(aq.one_random(aq.stream(0, "t"), 1.0, config)) == 1
    drawn = aq.sandwich(aq.stream(0, "t"), 0.6, config)
    assert drawn[:2] == (0.6, 0.1)
    assert len(drawn) == 5


def test_a_step_of_ordered_dropout_moves_nothing_beyond_its_width(few: aq.Dataset) -> None:
    config, theta = aq.Config(local_steps=1, batch=16, weight_decay=0.1), aq.init_params(aq.MLP, seed=0)
    (width,) = aq.one_random(_after_batches(config, few), 1.0, config)
    update = aq.local_sgd(aq.MLP, theta, shard_of(few), 1.0, config, aq.stream(0, "t"), width_sampler=aq.one_random)
    for k, block in slice_of(aq.MLP, theta, width).items():
        moved = update.state[k] != theta[k]
        assert moved[prefix(block.shape)].any()
        moved[prefix(block.shape)] = False
        assert not moved.any()


def _after_batches(config: aq.Config, few: aq.Dataset) -> np.random.Generator:
    """The stream of a participant once its batches have been drawn."""
    rng = aq.stream(0, "t")
    batches(rng, len(few.train), config, config.local_steps)
    return rng


def test_losses_are_weighted_by_width_to_a_power(few: aq.Dataset) -> None:
    theta, x, y = aq.init_params(aq.MLP, seed=0), few.train.x[:20], few.train.y[:20]
    config = aq.Config(loss_power=2.0)
    grads, loss = gradient(aq.MLP, theta, (0.5, 1.0), x, y, config)
    leaves = {k: t.clone().requires_grad_() for k, t in theta.items()}
    wide, narrow = (cross_entropy(aq.view(aq.MLP, leaves, w)(x), y) for w in (1.0, 0.5))
    (0.8 * wide + 0.2 * narrow).backward()
    torch.testing.assert_close(loss, (0.8 * wide + 0.2 * narrow).detach())
    for k, t in leaves.items():
        torch.testing.assert_close(grads[k], t.grad)


def test_narrow_widths_learn_from_the_soft_labels_of_the_widest(few: aq.Dataset) -> None:
    theta, x, y = aq.init_params(aq.MLP, seed=0), few.train.x[:20], few.train.y[:20]
    grads, _ = gradient(aq.MLP, theta, (1.0, 0.5), x, y, aq.Config(distill=0.25, loss_power=0.0))
    leaves = {k: t.clone().requires_grad_() for k, t in theta.items()}
    wide, narrow = (aq.view(aq.MLP, leaves, w)(x) for w in (1.0, 0.5))
    soft = wide.detach().softmax(1)
    hard = (cross_entropy(wide, y) + 0.75 * cross_entropy(narrow, y)) / 2
    (hard + 0.25 * cross_entropy(narrow, soft) / 2).backward()
    for k, t in leaves.items():
        torch.testing.assert_close(grads[k], t.grad)


def test_the_proximal_pull_is_that_of_fedprox(few: aq.Dataset) -> None:
    config = aq.Config(local_steps=5, batch=32, lr=0.05, momentum=0.0, proximal=0.7)
    theta, shard = aq.init_params(aq.MLP, seed=0), shard_of(few)
    update = aq.local_sgd(aq.MLP, theta, shard, 1.0, config, aq.stream(0, "t"), width_sampler=aq.full_only)
    net = aq.slim(aq.MLP, theta, 1.0)
    for step, chosen in enumerate(batches(aq.stream(0, "t"), len(shard), config, 5)):
        net.zero_grad()
        away = sum((p - theta[k]).square().sum() for k, p in net.named_parameters())
        (cross_entropy(net(few.train.x[chosen]), few.train.y[chosen]) + 0.35 * away).backward()
        with torch.no_grad():
            for p in net.parameters():
                p -= config.lr_at(step) * p.grad
    for k, t in net.state_dict().items():
        torch.testing.assert_close(update.state[k], t, atol=2e-6, rtol=1e-5)


def unlike() -> aq.Shard:
    """Eighty samples of class 3 and twenty of class 7, all with the same black picture."""
    y = torch.tensor([3] * 80 + [7] * 20)
    return aq.Shard(0, aq.Samples(torch.zeros(100, 1, 28, 28, dtype=torch.uint8), y, classes=10), np.arange(100))


COUNTS = (1, 1, 1, 81, 1, 1, 1, 21, 1, 1)  # of its classes, and one more of each


def of(shard: aq.Shard, strength: float, label_shares: Sequence[float] = ()) -> Offsets:
    """The offsets of a participant who holds everything and is alone."""
    return logit_offsets([class_shares(shard.samples)], [1.0], strength, label_shares)


def test_alone_offsets_are_the_log_shares_of_the_own_classes() -> None:
    ((width, found),) = of(unlike(), 0.5)
    assert width == 1.0
    assert found == pytest.approx([0.5 * np.log(n / 110) for n in COUNTS], rel=1e-6)


def test_offsets_are_relative_to_the_labels_where_the_network_is_used() -> None:
    wanted = [0.3] * 3 + [0.1] * 7
    by_hand = [np.log(n / 110 / p) for n, p in zip(COUNTS, wanted, strict=True)]
    assert of(unlike(), 1.0, wanted)[0][1] == pytest.approx(by_hand, rel=1e-5)
    same = class_shares(unlike().samples).tolist()
    assert of(unlike(), 1.0, same)[0][1] == pytest.approx([0.0] * 10, abs=1e-6)


def test_offsets_at_a_width_are_those_of_all_who_hold_it() -> None:
    shares = [torch.tensor(s) for s in ([0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.3, 0.7])]
    found = logit_offsets(shares, [0.5, 1.0, 0.5, 0.0], 0.5)
    assert [width for width, _ in found] == [0.5, 1.0]  # the absent fourth counts nowhere
    assert found[1][1] == pytest.approx(0.5 * np.log([0.2, 0.8]))
    everybody = (np.array([0.9, 0.1]) + np.array([0.2, 0.8]) + np.array([0.5, 0.5])) / 3
    assert found[0][1] == pytest.approx(0.5 * np.log(everybody))


def test_a_width_between_two_that_are_held_has_the_row_of_the_wider() -> None:
    offsets = [(0.25, [0.0]), (0.5, [0.0]), (1.0, [0.0])]
    assert [row_at(offsets, w) for w in (0.02, 0.25, 0.255, 0.5, 0.505, 1.0)] == [0, 0, 1, 1, 2, 2]


def test_the_row_of_a_width_is_found_up_to_rounding_and_beyond_the_widest_row_too() -> None:
    offsets = [(0.3, [0.0]), (0.5, [0.0])]
    assert 0.1 + 0.2 > 0.3  # in sixteen digits
    assert [row_at(offsets, w) for w in (0.1 + 0.2, 0.31, 0.75)] == [0, 1, 1]


def test_each_width_of_a_step_is_trained_with_its_own_offsets() -> None:
    rows = [(0.5, [0.3 * c for c in range(10)]), (1.0, [-0.2 * c for c in range(10)])]
    config = aq.Config(participants=1, rounds=1, local_steps=1, batch=100, lr=1.0, momentum=0.0, min_width=0.5)
    shard, theta = unlike(), aq.init_params(aq.MLP, seed=0)

    def both(rng: np.random.Generator, widest: float, config: aq.Config) -> tuple[float, ...]:
        return 0.5, 1.0

    found = aq.local_sgd(aq.MLP, theta, shard, 1.0, config, aq.stream(0, "t"), width_sampler=both, offsets=rows)
    leaves = {k: t.clone().requires_grad_() for k, t in theta.items()}
    loss = 0.0
    for width, row in rows:
        net, slices = aq.MLP(width), aq.slice_of(aq.MLP, leaves, width)
        logits = torch.func.functional_call(net, dict(slices), shard.samples.x) + torch.tensor(row)
        loss = loss + width**2 / 1.25 * torch.nn.functional.cross_entropy(logits, shard.samples.y)
    loss.backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(found.state[name], theta[name] - leaf.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("strength", "odds"), [(0.0, 80 / 20), (0.5, (80 / 20) / (81 / 21) ** 0.5), (1.0, (80 / 20) / (81 / 21))]
)
def test_an_adjusted_loss_discounts_how_often_a_shard_shows_a_class(strength: float, odds: float) -> None:
    # the pictures are equal, so all that can be learnt is how often each class comes
    config = aq.Config(participants=1, rounds=1, local_steps=400, batch=100, lr=0.1, logit_adjustment=strength)
    shard, fedavg = unlike(), aq.slimmable(aq.MLP, aq.full_only)
    *_, last = aq.federate(aq.MLP, [shard], config, strategy=fedavg, progress=False)
    share = aq.slim(aq.MLP, last.theta, 1.0)(shard.samples.x[:1]).softmax(1)[0].tolist()  # (classes,)
    assert share[3] / share[7] == pytest.approx(odds, rel=0.02)


def test_a_network_for_the_shards_own_labels_is_not_adjusted() -> None:
    config, shard = aq.Config(participants=1, rounds=1, local_steps=5, logit_adjustment=1.0), unlike()

    def trained(strength: float, label_shares: Sequence[float] = ()) -> dict[str, torch.Tensor]:
        strategy = aq.slimmable(aq.MLP, label_shares=label_shares)
        changed = replace(config, logit_adjustment=strength)
        (last,) = aq.federate(aq.MLP, [shard], changed, strategy=strategy, progress=False)
        return dict(last.theta)

    plain, own = trained(0.0), trained(1.0, class_shares(shard.samples).tolist())
    torch.testing.assert_close(own, plain)
    assert not torch.allclose(trained(1.0)["4.bias"], plain["4.bias"], atol=1e-3)


def test_where_all_hold_everything_the_logits_are_adjusted_to_the_labels_of_all(few: aq.Dataset) -> None:
    config = aq.Config(participants=2, rounds=1, local_steps=3, logit_adjustment=1.0)
    halves = [torch.nonzero(few.train.y < 5)[:, 0], torch.nonzero(few.train.y >= 5)[:, 0]]
    shards = [aq.Shard(i, few.train.take(half), half.numpy()) for i, half in enumerate(halves)]
    seen: list[Offsets] = []
    strategy = aq.slimmable(aq.MLP)

    def local(*rest, offsets: Offsets, **more) -> aq.Update:
        seen.append(offsets)
        return strategy.local(*rest, offsets=offsets, **more)

    list(aq.federate(aq.MLP, shards, config, strategy=replace(strategy, local=local), workers=1, progress=False))
    assert len(seen) == 2
    ((_, row),) = seen[0]
    own = of(shards[0], 1.0)[0][1]
    assert max(row) - min(row) < 1 < max(own) - min(own)  # both know half of the classes, together all


@pytest.mark.parametrize(("first", "steps"), [(-1, 1), (0, 0), (0, 2.5)])
def test_a_step_count_that_is_none_is_refused(few: aq.Dataset, first: int, steps: float) -> None:
    theta = aq.init_params(aq.MLP, seed=0)
    with pytest.raises(ValueError, match="must be a whole number from"):
        aq.local_sgd(aq.MLP, theta, shard_of(few), 1.0, aq.Config(), aq.stream(0, "t"), first=first, steps=steps)


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ([0.5, 0.5], "`label_shares` must hold one entry for each of the 10 classes, got 2 entries"),
        ([0.0] + [0.1] * 9, r"`label_shares` must be a sequence, each part a number in \(0, 1\], got \(0.0"),
        ([float("nan")] * 10, "`label_shares` must be a sequence, each part a finite number, got .nan"),
    ],
)
def test_label_shares_that_are_none_are_refused_before_any_work(shares, sentence: str, few: aq.Dataset) -> None:
    config = aq.Config(participants=1, logit_adjustment=1.0)

    def trained() -> list[aq.Round]:
        strategy = aq.slimmable(aq.MLP, label_shares=shares)
        return list(aq.federate(aq.MLP, [shard_of(few)], config, strategy=strategy, progress=False))

    with pytest.raises(ValueError, match=sentence):
        trained()


@pytest.mark.parametrize(
    ("offsets", "sentence"),
    [
        ([(1.0, [0.5, 0.5])], "`offsets` must hold one entry for each of the 10 classes, got 2 entries"),
        ([(1.0, [101.0] + [0.0] * 9)], r"`offsets` must be a number in \[-100, 100\], got 101.0"),
        (
            [(1.0, [float("nan")] * 10)],
            r"`offsets` must be (a number in .*, got nan|.* each part a finite number\), got )",
        ),
        ([(0.0, [0.0] * 10)], r"`offsets` must be a number in \(0, 1\], got 0.0"),
        ([(1.0, [0.0] * 10), (0.5, [0.0] * 10)], r"`offsets` must be rows of ascending widths, got \[1.0, 0.5\]"),
        ([(0.5, [0.0] * 10), (0.5, [1.0] * 10)], r"`offsets` must be rows of ascending widths, got \[0.5, 0.5\]"),
    ],
)
def test_offsets_that_are_none_are_refused_before_any_work(offsets, sentence: str, few: aq.Dataset) -> None:
    shard, theta, config = shard_of(few), aq.init_params(aq.MLP, seed=0), aq.Config(participants=1)
    with pytest.raises(ValueError, match=sentence):
        aq.local_sgd(aq.MLP, theta, shard, 1.0, config, aq.stream(0, "t"), offsets=offsets)
    with pytest.raises(ValueError, match=sentence):
        aq.vectorized.vectorized_sgd(aq.MLP, [theta], [shard], [1.0], config, [aq.stream(0, "t")], offsets=[offsets])


@pytest.mark.parametrize("vectorized", [False, True])
def test_who_trains_alone_is_adjusted_to_its_own_labels(vectorized: bool) -> None:
    config, shard = aq.Config(participants=1, rounds=1, local_steps=5, logit_adjustment=1.0), unlike()
    (found,) = aq.standalone(aq.MLP, [shard], config, vectorized=vectorized, progress=False)
    theta, rng = aq.init_params(aq.MLP, seed=0), aq.stream(0, "alone", shard.participant)
    update = aq.local_sgd(aq.MLP, theta, shard, 1.0, config, rng, width_sampler=aq.full_only, offsets=of(shard, 1.0))
    torch.testing.assert_close(dict(found.state_dict()), dict(update.state), atol=1e-5, rtol=1e-4)
