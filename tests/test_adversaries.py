"""Who cheats, and how: forged answers worked by hand, data that change, and participants who are away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import aequa_lite as aq


def run(few: aq.Dataset, config: aq.Config, strategy: aq.Strategy, **options) -> list[aq.Round]:
    shards = aq.data.homogeneous(few.train, config)
    return list(aq.federate(aq.MLP, shards, config, strategy=strategy, progress=False, **options))


def block(theta, state):
    return {name: theta[name][aq.prefix(t.shape)] for name, t in state.items()}


def close(a, b) -> bool:
    return all(torch.allclose(a[name], b[name], atol=1e-6) for name in b)


def narrow(config: aq.Config, last: aq.Round | None) -> tuple[float, ...]:
    """The cheat's slice grows from round to round."""
    index = 0 if last is None else last.index + 1
    return (1.0, 0.2 + 0.2 * index, 0.6)


def test_a_zero_rider_sends_back_what_it_has_received(few: aq.Dataset, config: aq.Config) -> None:
    for rnd in run(few, config, aq.attacks.free_rider(aq.slimmable(aq.MLP), {1}, "zero"), policy=narrow):
        _, rider, _ = rnd.updates
        assert all(torch.equal(t, block(rnd.before, rider.state)[name]) for name, t in rider.state.items())


def test_a_noisy_riders_noise_is_as_large_as_was_said(few: aq.Dataset, config: aq.Config) -> None:
    rnd, *_ = run(few, config, aq.attacks.free_rider(aq.slimmable(aq.MLP), {1}, "noise", size=0.5))
    name = "2.weight"
    noise = rnd.updates[1].state[name] - rnd.before[name]
    assert float(noise.square().mean() / rnd.before[name].square().mean()) == pytest.approx(0.25, rel=0.02)
    again, *_ = run(few, config, aq.attacks.free_rider(aq.slimmable(aq.MLP), {1}, "noise", size=0.5))
    assert torch.equal(again.updates[1].state[name], rnd.updates[1].state[name])


def test_a_stale_rider_repeats_what_the_network_has_just_done(few: aq.Dataset, config: aq.Config) -> None:
    first, second, third = run(few, config, aq.attacks.free_rider(aq.slimmable(aq.MLP), {1}, "stale"))
    assert all(torch.equal(first.updates[1].state[k], t) for k, t in first.before.items())
    for before, rnd in ((first, second), (second, third)):
        echo = {k: t + (t - before.before[k]) for k, t in rnd.before.items()}
        assert close(rnd.updates[1].state, echo)


def test_a_copy_is_what_another_changed_a_round_ago_as_far_as_the_own_slice_goes(
    few: aq.Dataset, config: aq.Config
) -> None:
    strategy = aq.attacks.free_rider(aq.slimmable(aq.MLP), {1}, "copy", whose=2)
    first, second, _ = run(few, config, strategy, policy=narrow)
    copied, source = second.updates[1].state, first.updates[2].state
    for name, t in copied.items():
        change = source[name] - block(first.before, source)[name]
        both = aq.prefix(min(a, b) for a, b in zip(t.shape, change.shape, strict=True))
        expected = block(second.before, copied)[name].clone()
        expected[both] += change[both]
        assert torch.equal(t, expected)


def test_a_flipped_sign_is_the_opposite_change_and_only_the_flippers(few: aq.Dataset, config: aq.Config) -> None:
    honest, *_ = run(few, config, aq.slimmable(aq.MLP))
    flipped, *_ = run(few, config, aq.attacks.sign_flipper(aq.slimmable(aq.MLP), {0}))
    mirrored = {k: 2 * t - honest.updates[0].state[k] for k, t in honest.before.items()}
    assert close(flipped.updates[0].state, mirrored)
    assert all(torch.equal(t, honest.updates[2].state[k]) for k, t in flipped.updates[2].state.items())


@pytest.mark.parametrize("how", ["stale", "copy"])
def test_a_resumed_cheat_remembers(few: aq.Dataset, config: aq.Config, tmp_path: Path, how: str) -> None:
    strategy, path = (
        aq.attacks.free_rider(aq.slimmable(aq.MLP, server=aq.aggregation.fedavgm(0.5)), {1}, how),
        tmp_path / "theta",
    )
    *_, whole = run(few, config, strategy)
    broken_off = aq.federate(
        aq.MLP, aq.data.homogeneous(few.train, config), config, strategy=strategy, checkpoint=path, progress=False
    )
    next(broken_off)
    broken_off.close()
    *_, rest = run(few, config, strategy, checkpoint=path)
    assert all(torch.equal(t, rest.theta[k]) for k, t in whole.theta.items())
    assert set(rest.theta) == set(aq.init_params(aq.MLP, 0))  # what a cheat remembers is no part of the network
    assert rest.parameters_sent == whole.parameters_sent == 6 * aq.n_parameters(aq.MLP())  # nor sent


def test_all_together_in_one_pass_the_same_answers_are_forged(few: aq.Dataset, config: aq.Config) -> None:
    for how in ("zero", "stale"):
        strategy = aq.attacks.free_rider(aq.slimmable(aq.MLP), {1}, how)
        one_by_one, vectorized = (run(few, config, strategy, vectorized=s)[-1] for s in (False, True))
        assert all(torch.allclose(t, vectorized.theta[k], atol=1e-5) for k, t in one_by_one.theta.items())


def test_flipped_labels_touch_no_image_and_nobody_else(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.homogeneous(few.train, config)
    flipped = aq.attacks.flip_labels(shards, {2}, shift=3)
    assert flipped[0] is shards[0]
    assert torch.equal(flipped[2].samples.x, shards[2].samples.x)
    assert torch.equal((flipped[2].samples.y - shards[2].samples.y) % 10, torch.full((len(shards[2]),), 3))


def test_data_change_in_the_rounds_that_were_named(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.homogeneous(few.train, config)
    spoilt = aq.attacks.data_change(aq.slimmable(aq.MLP), {0: aq.attacks.flip_labels(shards, {0})[0]}, range(2, 3))
    plain, other = run(few, config, aq.slimmable(aq.MLP)), run(few, config, spoilt)
    same = [all(torch.equal(t, b.theta[k]) for k, t in a.theta.items()) for a, b in zip(plain, other, strict=True)]
    assert same == [True, True, False]


def test_who_is_away_receives_nothing_and_changes_nothing(few: aq.Dataset, config: aq.Config) -> None:
    policy = aq.attacks.dropout(aq.attacks.dropout(aq.full_width, {2}, range(1)), {0}, range(2, 3))
    rounds = run(few, config, aq.slimmable(aq.MLP), policy=policy)
    assert [rnd.widths for rnd in rounds] == [(1.0, 1.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 1.0)]
    assert [[u.participant for u in rnd.updates] for rnd in rounds] == [[0, 1], [0, 1, 2], [1, 2]]
    assert rounds[0].parameters_sent == 4 * aq.n_parameters(aq.MLP())
    with pytest.raises(ValueError, match="round 1: nobody takes part"):
        run(few, config, aq.slimmable(aq.MLP), policy=aq.attacks.dropout(aq.full_width, {0, 1, 2}, {1}))


def test_a_cheat_that_makes_no_sense_is_refused(few: aq.Dataset, config: aq.Config) -> None:
    strategy, shards = aq.slimmable(aq.MLP), aq.data.homogeneous(few.train, config)
    for wrong, said in (
        (lambda: aq.attacks.free_rider(strategy, {0}, "lazy"), "how is 'lazy'"),
        (lambda: aq.attacks.free_rider(strategy, {0}, "noise", size=-1.0), "size is -1.0"),
        (lambda: aq.attacks.free_rider(strategy, {0}, "copy", whose=0), "whose is 0"),
        (lambda: aq.attacks.free_rider(strategy, set(), "zero"), "who is"),
        (lambda: aq.attacks.sign_flipper(strategy, {-1}), "who is"),
        (lambda: aq.attacks.sign_flipper(strategy, {0}, scale=0.0), "scale is 0.0"),
        (lambda: aq.attacks.flip_labels(shards, {0}, shift=10), "shift is 10"),
        (lambda: aq.attacks.data_change(strategy, {}, range(2)), "who is"),
        (lambda: aq.attacks.dropout(aq.full_width, {0.5}, range(2)), "who is"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=said):
            wrong()


def test_the_first_honest_participant_is_the_one_that_is_copied(few: aq.Dataset, config: aq.Config) -> None:
    by_default = run(few, config, aq.attacks.free_rider(aq.slimmable(aq.MLP), {0, 2}, "copy"))[-1]
    named = run(few, replace(config), aq.attacks.free_rider(aq.slimmable(aq.MLP), {0, 2}, "copy", whose=1))[-1]
    assert all(torch.equal(t, named.theta[k]) for k, t in by_default.theta.items())
    assert np.isfinite(named.loss)
