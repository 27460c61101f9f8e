"""Who cheats, and how: forged answers worked by hand, data that change, and participants who are away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import aequa_lite as aq


def run(few: aq.Data, recipe: aq.Recipe, scheme: aq.Scheme, **options) -> list[aq.Round]:
    shards = aq.homogeneous(few.train, recipe)
    return list(aq.federate(aq.MLP, shards, recipe, scheme=scheme, progress=False, **options))


def block(theta, state):
    return {name: theta[name][aq.prefix(t.shape)] for name, t in state.items()}


def close(a, b) -> bool:
    return all(torch.allclose(a[name], b[name], atol=1e-6) for name in b)


def narrow(recipe: aq.Recipe, last: aq.Round | None) -> tuple[float, ...]:
    """The cheat's slice grows from round to round."""
    index = 0 if last is None else last.index + 1
    return (1.0, 0.2 + 0.2 * index, 0.6)


def test_a_zero_rider_sends_back_what_it_has_received(few: aq.Data, recipe: aq.Recipe) -> None:
    for rnd in run(few, recipe, aq.free_rider(aq.slimmable(aq.MLP), {1}, "zero"), policy=narrow):
        _, rider, _ = rnd.updates
        assert all(torch.equal(t, block(rnd.before, rider.state)[name]) for name, t in rider.state.items())


def test_a_noisy_riders_noise_is_as_large_as_was_said(few: aq.Data, recipe: aq.Recipe) -> None:
    rnd, *_ = run(few, recipe, aq.free_rider(aq.slimmable(aq.MLP), {1}, "noise", size=0.5))
    name = "2.weight"
    noise = rnd.updates[1].state[name] - rnd.before[name]
    assert float(noise.square().mean() / rnd.before[name].square().mean()) == pytest.approx(0.25, rel=0.02)
    again, *_ = run(few, recipe, aq.free_rider(aq.slimmable(aq.MLP), {1}, "noise", size=0.5))
    assert torch.equal(again.updates[1].state[name], rnd.updates[1].state[name])


def test_a_stale_rider_repeats_what_the_network_has_just_done(few: aq.Data, recipe: aq.Recipe) -> None:
    first, second, third = run(few, recipe, aq.free_rider(aq.slimmable(aq.MLP), {1}, "stale"))
    assert all(torch.equal(first.updates[1].state[k], t) for k, t in first.before.items())
    for before, rnd in ((first, second), (second, third)):
        echo = {k: t + (t - before.before[k]) for k, t in rnd.before.items()}
        assert close(rnd.updates[1].state, echo)


def test_a_copy_is_what_another_changed_a_round_ago_as_far_as_the_own_slice_goes(
    few: aq.Data, recipe: aq.Recipe
) -> None:
    scheme = aq.free_rider(aq.slimmable(aq.MLP), {1}, "copy", whose=2)
    first, second, _ = run(few, recipe, scheme, policy=narrow)
    copied, source = second.updates[1].state, first.updates[2].state
    for name, t in copied.items():
        change = source[name] - block(first.before, source)[name]
        both = aq.prefix(min(a, b) for a, b in zip(t.shape, change.shape, strict=True))
        expected = block(second.before, copied)[name].clone()
        expected[both] += change[both]
        assert torch.equal(t, expected)


def test_a_flipped_sign_is_the_opposite_change_and_only_the_flippers(few: aq.Data, recipe: aq.Recipe) -> None:
    honest, *_ = run(few, recipe, aq.slimmable(aq.MLP))
    flipped, *_ = run(few, recipe, aq.sign_flipper(aq.slimmable(aq.MLP), {0}))
    mirrored = {k: 2 * t - honest.updates[0].state[k] for k, t in honest.before.items()}
    assert close(flipped.updates[0].state, mirrored)
    assert all(torch.equal(t, honest.updates[2].state[k]) for k, t in flipped.updates[2].state.items())


@pytest.mark.parametrize("how", ["stale", "copy"])
def test_a_resumed_cheat_remembers(few: aq.Data, recipe: aq.Recipe, tmp_path: Path, how: str) -> None:
    scheme, path = aq.free_rider(aq.slimmable(aq.MLP, server=aq.with_momentum(0.5)), {1}, how), tmp_path / "theta"
    *_, whole = run(few, recipe, scheme)
    broken_off = aq.federate(
        aq.MLP, aq.homogeneous(few.train, recipe), recipe, scheme=scheme, checkpoint=path, progress=False
    )
    next(broken_off)
    broken_off.close()
    *_, rest = run(few, recipe, scheme, checkpoint=path)
    assert all(torch.equal(t, rest.theta[k]) for k, t in whole.theta.items())
    assert set(rest.theta) == set(aq.initial(aq.MLP, 0))  # what a cheat remembers is no part of the network
    assert rest.parameters_sent == whole.parameters_sent == 6 * aq.parameters(aq.MLP())  # nor sent


def test_all_together_in_one_pass_the_same_answers_are_forged(few: aq.Data, recipe: aq.Recipe) -> None:
    for how in ("zero", "stale"):
        scheme = aq.free_rider(aq.slimmable(aq.MLP), {1}, how)
        one_by_one, stacked = (run(few, recipe, scheme, stacked=s)[-1] for s in (False, True))
        assert all(torch.allclose(t, stacked.theta[k], atol=1e-5) for k, t in one_by_one.theta.items())


def test_flipped_labels_touch_no_image_and_nobody_else(few: aq.Data, recipe: aq.Recipe) -> None:
    shards = aq.homogeneous(few.train, recipe)
    flipped = aq.flip_labels(shards, {2}, shift=3)
    assert flipped[0] is shards[0]
    assert torch.equal(flipped[2].samples.x, shards[2].samples.x)
    assert torch.equal((flipped[2].samples.y - shards[2].samples.y) % 10, torch.full((len(shards[2]),), 3))


def test_data_change_in_the_rounds_that_were_named(few: aq.Data, recipe: aq.Recipe) -> None:
    shards = aq.homogeneous(few.train, recipe)
    spoilt = aq.changed(aq.slimmable(aq.MLP), {0: aq.flip_labels(shards, {0})[0]}, range(2, 3))
    plain, other = run(few, recipe, aq.slimmable(aq.MLP)), run(few, recipe, spoilt)
    same = [all(torch.equal(t, b.theta[k]) for k, t in a.theta.items()) for a, b in zip(plain, other, strict=True)]
    assert same == [True, True, False]


def test_who_is_away_receives_nothing_and_changes_nothing(few: aq.Data, recipe: aq.Recipe) -> None:
    policy = aq.absent(aq.absent(aq.everyone_full, {2}, range(1)), {0}, range(2, 3))
    rounds = run(few, recipe, aq.slimmable(aq.MLP), policy=policy)
    assert [rnd.widths for rnd in rounds] == [(1.0, 1.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 1.0)]
    assert [[u.participant for u in rnd.updates] for rnd in rounds] == [[0, 1], [0, 1, 2], [1, 2]]
    assert rounds[0].parameters_sent == 4 * aq.parameters(aq.MLP())
    with pytest.raises(ValueError, match="round 1: nobody takes part"):
        run(few, recipe, aq.slimmable(aq.MLP), policy=aq.absent(aq.everyone_full, {0, 1, 2}, {1}))


def test_a_cheat_that_makes_no_sense_is_refused(few: aq.Data, recipe: aq.Recipe) -> None:
    scheme, shards = aq.slimmable(aq.MLP), aq.homogeneous(few.train, recipe)
    for wrong, said in (
        (lambda: aq.free_rider(scheme, {0}, "lazy"), "how is 'lazy'"),
        (lambda: aq.free_rider(scheme, {0}, "noise", size=-1.0), "size is -1.0"),
        (lambda: aq.free_rider(scheme, {0}, "copy", whose=0), "whose is 0"),
        (lambda: aq.free_rider(scheme, set(), "zero"), "who is"),
        (lambda: aq.sign_flipper(scheme, {-1}), "who is"),
        (lambda: aq.sign_flipper(scheme, {0}, scale=0.0), "scale is 0.0"),
        (lambda: aq.flip_labels(shards, {0}, shift=10), "shift is 10"),
        (lambda: aq.changed(scheme, {}, range(2)), "who is"),
        (lambda: aq.absent(aq.everyone_full, {0.5}, range(2)), "who is"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=said):
            wrong()


def test_the_first_honest_participant_is_the_one_that_is_copied(few: aq.Data, recipe: aq.Recipe) -> None:
    by_default = run(few, recipe, aq.free_rider(aq.slimmable(aq.MLP), {0, 2}, "copy"))[-1]
    named = run(few, replace(recipe), aq.free_rider(aq.slimmable(aq.MLP), {0, 2}, "copy", whose=1))[-1]
    assert all(torch.equal(t, named.theta[k]) for k, t in by_default.theta.items())
    assert np.isfinite(named.loss)
