"""Attacks on updates and data: forged updates worked by hand, data that change, and participants who are absent."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import aequa_lite as aq
from aequa_lite.checkpoint import describe


def run(few: aq.Dataset, config: aq.Config, strategy: aq.Strategy, **options) -> list[aq.Round]:
    shards = aq.data.homogeneous(few.train, config)
    return list(aq.federate(aq.MLP, shards, config, strategy=strategy, progress=False, **options))


def block(theta, state):
    return {k: theta[k][aq.prefix(t.shape)] for k, t in state.items()}


def close(a, b) -> bool:
    return all(torch.allclose(a[k], b[k], atol=1e-6) for k in b)


def growing(config: aq.Config, last: aq.Round | None) -> tuple[float, ...]:
    """The attacker's slice grows from round to round."""
    index = 0 if last is None else last.index + 1
    return (1.0, 0.2 + 0.2 * index, 0.6)


RIDERS = {"free": aq.attacks.free_rider, "noisy": aq.attacks.noisy_rider, "flipper": aq.attacks.sign_flipper}


def test_a_free_rider_sends_back_what_it_has_received(few: aq.Dataset, config: aq.Config) -> None:
    for rnd in run(few, config, aq.attacks.free_rider(aq.slimmable(aq.MLP), {1}), policy=growing):
        _, rider, _ = rnd.updates
        assert all(torch.equal(t, block(rnd.before.theta, rider.state)[k]) for k, t in rider.state.items())


def test_the_noise_of_a_noisy_rider_has_the_size_that_was_asked_for(few: aq.Dataset, config: aq.Config) -> None:
    strategy, k = aq.attacks.noisy_rider(aq.slimmable(aq.MLP), {1}, size=0.5), "2.weight"
    rnd, *_ = run(few, config, strategy)
    start = rnd.before.theta[k]
    noise = rnd.updates[1].state[k] - start
    assert float(noise.square().mean() / start.square().mean()) == pytest.approx(0.25, rel=0.02)
    again, *_ = run(few, config, strategy)
    assert torch.equal(again.updates[1].state[k], rnd.updates[1].state[k])


def test_a_flipped_sign_is_the_opposite_change_of_the_flipper_alone(few: aq.Dataset, config: aq.Config) -> None:
    honest, *_ = run(few, config, aq.slimmable(aq.MLP))
    flipped, *_ = run(few, config, aq.attacks.sign_flipper(aq.slimmable(aq.MLP), {0}))
    mirrored = {k: 2 * t - honest.updates[0].state[k] for k, t in honest.before.theta.items()}
    assert close(flipped.updates[0].state, mirrored)
    assert all(torch.equal(t, honest.updates[2].state[k]) for k, t in flipped.updates[2].state.items())


@pytest.mark.parametrize("rider", RIDERS)
def test_the_vectorized_path_is_attacked_alike(few: aq.Dataset, config: aq.Config, rider: str) -> None:
    strategy = RIDERS[rider](aq.slimmable(aq.MLP), {1})
    plain, vectorized = (run(few, config, strategy, vectorized=v)[-1] for v in (False, True))
    assert all(torch.allclose(t, vectorized.theta[k], atol=1e-5) for k, t in plain.theta.items())


@pytest.mark.parametrize("rider", RIDERS)
def test_an_attacked_run_has_an_identity_of_its_own(few: aq.Dataset, config: aq.Config, rider: str) -> None:
    plain = aq.slimmable(aq.MLP)
    shards = aq.data.homogeneous(few.train, config)
    strategies = (plain, RIDERS[rider](plain, {1}), RIDERS[rider](plain, {2}),
                  aq.attacks.data_change(plain, {1: shards[0]}, range(2)))  # fmt: skip
    told = [str(describe(each)) for each in strategies]  # without a name that vouches for anything
    assert len(set(told)) == 4
    describe(aq.attacks.dropout(aq.full_width, {1}, range(2)))


def test_flipped_labels_touch_no_image_and_nobody_else(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.homogeneous(few.train, config)
    flipped = aq.attacks.flip_labels(shards, {2})
    assert flipped[0] is shards[0]
    assert torch.equal(flipped[2].samples.x, shards[2].samples.x)
    assert torch.equal((flipped[2].samples.y - shards[2].samples.y) % 10, torch.full((len(shards[2]),), 1))


@pytest.mark.parametrize("vectorized", [False, True])
def test_data_change_in_the_named_rounds_only(few: aq.Dataset, config: aq.Config, vectorized: bool) -> None:
    shards = aq.data.homogeneous(few.train, config)
    spoilt = aq.attacks.data_change(aq.slimmable(aq.MLP), {0: aq.attacks.flip_labels(shards, {0})[0]}, range(2, 3))
    plain, other = (run(few, config, s, vectorized=vectorized) for s in (aq.slimmable(aq.MLP), spoilt))
    same = [all(torch.equal(t, b.theta[k]) for k, t in a.theta.items()) for a, b in zip(plain, other, strict=True)]
    assert same == [True, True, False]


def test_who_is_absent_receives_nothing_and_changes_nothing(few: aq.Dataset, config: aq.Config) -> None:
    policy = aq.attacks.dropout(aq.attacks.dropout(aq.full_width, {2}, range(1)), {0}, range(2, 3))
    rounds = run(few, config, aq.slimmable(aq.MLP), policy=policy)
    assert [rnd.widths for rnd in rounds] == [(1.0, 1.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 1.0)]
    assert [[u.participant for u in rnd.updates] for rnd in rounds] == [[0, 1], [0, 1, 2], [1, 2]]
    assert rounds[0].parameters_sent == 4 * aq.n_parameters(aq.MLP())
    with pytest.raises(ValueError, match="`policy` must be one that gives somebody a width"):
        run(few, config, aq.slimmable(aq.MLP), policy=aq.attacks.dropout(aq.full_width, {0, 1, 2}, {1}))


def test_what_is_received_is_kept_as_it_was_sent(few: aq.Dataset, config: aq.Config) -> None:
    kept: list[aq.Update] = []
    strategy = aq.attacks.honest_but_curious(aq.slimmable(aq.MLP), {1}, kept, received=True)
    rounds = run(few, config, strategy)
    assert [each.participant for each in kept] == [1] * config.rounds
    for each, rnd in zip(kept, rounds, strict=True):
        assert all(torch.equal(each.state[k], t) for k, t in rnd.before.theta.items())


def test_the_curious_are_honest(few: aq.Dataset, config: aq.Config) -> None:
    kept: list[aq.Update] = []
    plain = run(few, config, aq.slimmable(aq.MLP))
    seen = run(few, config, aq.attacks.honest_but_curious(aq.slimmable(aq.MLP), {0, 2}, kept))
    assert all(torch.equal(t, seen[-1].theta[k]) for k, t in plain[-1].theta.items())
    assert [each.participant for each in kept] == [0, 2] * config.rounds


def test_bad_arguments_are_refused(few: aq.Dataset, config: aq.Config) -> None:
    strategy, shards = aq.slimmable(aq.MLP), aq.data.homogeneous(few.train, config)
    attacks = aq.attacks
    for wrong, sentence in (
        (partial(attacks.noisy_rider, strategy, {0}, size=-1.0), "`size` must be a number from 0, got -1.0"),
        (partial(attacks.free_rider, strategy, set()), "`who` must be whole numbers from 0, at least one"),
        (partial(attacks.free_rider, strategy, 1), "`who` must be a sequence, each part a whole number, got 1"),
        (partial(attacks.sign_flipper, strategy, {-1}), "`who` must be whole numbers from 0, at least one"),
        (partial(attacks.sign_flipper, strategy, {0}, scale=0.0), "`scale` must be a number above 0, got 0.0"),
        (partial(attacks.flip_labels, shards, {3}), "`who` must be some of the 3 participants"),
        (partial(attacks.data_change, strategy, {}, range(2)), "`shards` must be whole numbers from 0, at least one"),
        (partial(attacks.data_change, strategy, {0: shards[1]}, {-1}), "`rounds` must be whole numbers from 0"),
        (
            partial(attacks.dropout, aq.full_width, {0.5}, range(2)),
            "`who` must be a sequence, each part a whole number",
        ),
        (
            partial(attacks.dropout, aq.full_width, {True}, range(2)),
            "`who` must be a sequence, each part a whole number",
        ),
        (
            partial(attacks.honest_but_curious, strategy, {0}, [1]),
            "`kept` must be a sequence, each part an Update, got ",
        ),
        (partial(attacks.honest_but_curious, strategy, {0}, [], received=1), "`received` must be True or False"),
    ):
        with pytest.raises(ValueError, match=sentence):
            wrong()
