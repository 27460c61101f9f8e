"""The training loop: reproducible to the bit, robust to bad updates, and resumable after a kill."""

from __future__ import annotations

import _thread
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import aequa_lite as aq
from aequa_lite import vectorized
from aequa_lite._parallel import arithmetic, workers
from aequa_lite.checkpoint import load_checkpoint
from aequa_lite.federate import fixed_widths, present
from aequa_lite.local import class_shares, logit_offsets
from aequa_lite.slimmable import slice_of

SCRIPT = """
import sys, aequa_lite as aq
config = aq.Config(participants=3, rounds=40, local_steps=3, batch=16)
shards = aq.data.homogeneous(aq.load("fashion-mini", device="cpu").train, config)
for rnd in aq.federate(aq.MLP, shards, config, checkpoint=sys.argv[1], progress=False):
    print(rnd.index, flush=True)
"""


def shards_of(few: aq.Dataset, config: aq.Config) -> list[aq.Shard]:
    return aq.data.homogeneous(few.train, config)


def last(rounds) -> aq.Round:
    *_, final = rounds
    return final


def same(a: aq.Round, b: aq.Round) -> bool:
    return a.loss == b.loss and all(torch.equal(a.theta[k], b.theta[k]) for k in a.theta)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_workers_changes_no_bit(few: aq.Dataset, config: aq.Config, count: int) -> None:
    shards = shards_of(few, config)
    one = last(aq.federate(aq.LeNet, shards, config, workers=1, progress=False))
    assert same(one, last(aq.federate(aq.LeNet, shards, config, workers=count, progress=False)))


def test_a_worker_that_starts_late_computes_with_one_thread_too() -> None:
    before = torch.get_num_threads()
    try:
        with workers(1) as spread:
            assert list(spread(abs, [-1])) == [1]  # the thread is there, and has not computed yet
            torch.set_num_threads(before + 1)  # as the main thread does after it has aggregated
            assert list(spread(lambda _: torch.get_num_threads(), [0])) == [1]
    finally:
        torch.set_num_threads(before)


def test_an_interrupt_that_ends_no_wait_is_noticed_before_the_work_is_done() -> None:
    """As a Ctrl-C that arrives just before the main thread begins to wait: Python notes it, and nothing wakes the thread."""
    release, before = threading.Event(), signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    threading.Timer(0.3, _thread.interrupt_main).start()
    try:
        with pytest.raises(KeyboardInterrupt), workers(1) as spread:
            list(spread(lambda _: release.wait(60), [0]))
    finally:
        release.set()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 30


def test_workers_leave_threads_that_start_later_the_callers_number() -> None:
    before, found = torch.get_num_threads(), []
    try:
        torch.set_num_threads(3)
        with workers(2) as spread:
            list(spread(abs, [-1, -2, -3]))
        later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert (found, torch.get_num_threads()) == ([3], 3)
    finally:
        torch.set_num_threads(before)


def test_another_seed_is_another_run(few: aq.Dataset, config: aq.Config) -> None:
    shards = shards_of(few, config)
    one = last(aq.federate(aq.MLP, shards, config, progress=False))
    assert not same(one, last(aq.federate(aq.MLP, shards, replace(config, seed=1), progress=False)))


def test_training_together_lowers_the_loss(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=8, local_steps=10, batch=32)
    losses = [rnd.loss for rnd in aq.federate(aq.MLP, shards_of(few, config), config, progress=False)]
    assert losses[-1] < 0.6 * losses[0]


def test_a_nan_from_one_participant_spoils_no_round(few: aq.Dataset, config: aq.Config) -> None:
    shards = shards_of(few, config)
    honest = aq.slimmable(aq.MLP)

    def poisoned(*args, **kwargs) -> aq.Update:
        update = honest.local(*args, **kwargs)
        if update.participant == 1:
            update.state["2.bias"][0] = float("nan")
        return update

    rounds = list(aq.federate(aq.MLP, shards, config, strategy=replace(honest, local=poisoned), progress=False))
    assert all(rnd.left_out == (1,) for rnd in rounds)
    assert all(torch.isfinite(t).all() for t in rounds[-1].theta.values())
    without = aq.aggregate(
        aq.init_params(aq.MLP, 0), ((u.state, u.weight) for u in rounds[0].updates if u.participant != 1)
    )
    assert all(torch.equal(without[k], rounds[0].theta[k]) for k in without)


def test_a_round_in_which_nobody_is_finite_stops_with_the_reason(few: aq.Dataset, config: aq.Config) -> None:
    with pytest.raises(FloatingPointError, match=r"round \d+: every update was refused .*lower lr"):
        list(aq.federate(aq.MLP, shards_of(few, config), replace(config, lr=1e3, rounds=20), progress=False))


def test_a_resumed_run_ends_in_the_same_bits(few: aq.Dataset, config: aq.Config, tmp_path: Path) -> None:
    shards = shards_of(few, config)
    whole = last(aq.federate(aq.MLP, shards, config, progress=False))
    broken_off = aq.federate(aq.MLP, shards, config, checkpoint=tmp_path / "theta.safetensors", progress=False)
    next(broken_off)
    broken_off.close()
    rest = list(aq.federate(aq.MLP, shards, config, checkpoint=tmp_path / "theta.safetensors", progress=False))
    assert [rnd.index for rnd in rest] == [1, 2]
    assert same(whole, rest[-1])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    checkpoint = tmp_path / "theta.safetensors"
    command = [sys.executable, str(tmp_path / "run.py"), str(checkpoint)]
    env = {**os.environ, "PYTHONPATH": str(Path(aq.__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 3:
            break
    time.sleep(0.05)  # somewhere inside a later round, or in its write
    process.kill()
    process.wait()
    process.stdout.close()
    rest = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout.split()
    assert int(rest[0]) >= 3
    config = aq.Config(participants=3, rounds=40, local_steps=3, batch=16)
    shards = aq.data.homogeneous(aq.load("fashion-mini", device="cpu").train, config)
    whole = last(aq.federate(aq.MLP, shards, config, progress=False))
    found = last(aq.federate(aq.MLP, shards, config, checkpoint=checkpoint, progress=False))
    assert found.index == 39
    assert same(whole, found)


OTHERS = {
    "seed": lambda few, config: {"config": replace(config, seed=1)},
    "lr": lambda few, config: {"config": replace(config, lr=0.5)},
    "shards": lambda few, config: {"shards": shards_of(few, replace(config, seed=9))},
    "width_sampler": lambda few, config: {"strategy": aq.slimmable(aq.MLP, aq.sandwich)},
    "server": lambda few, config: {"strategy": aq.slimmable(aq.MLP, server=aq.aggregation.fedavgm(0.5))},
    "rule": lambda few, config: {"strategy": aq.slimmable(aq.MLP, aggregate=aq.aggregation.coordinate_median)},
    "policy": lambda few, config: {"policy": partial(fixed_widths, widths=(0.5, 1.0, 1.0))},
    "weights": lambda few, config: {"weights": [1.0, 2.0, 3.0]},
    "vectorized": lambda few, config: {"vectorized": True},
    "build": lambda few, config: {"build": partial(aq.MLP, hidden=200)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_another_run_is_refused_with_both_named(
    what: str, few: aq.Dataset, config: aq.Config, tmp_path: Path
) -> None:
    base = {"build": aq.MLP, "shards": shards_of(few, config), "config": config, "strategy": aq.slimmable(aq.MLP),
            "checkpoint": tmp_path / "state.safetensors", "progress": False}  # fmt: skip
    next(aq.federate(**base))
    with pytest.raises(ValueError, match=rf"was made with .*{what}.* = .*, this run has .*"):
        next(aq.federate(**{**base, **OTHERS[what](few, config)}))


def test_a_checkpoint_of_passes_of_another_size_is_refused(
    few: aq.Dataset, config: aq.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"checkpoint": tmp_path / "state.safetensors", "vectorized": True, "progress": False}
    shards = shards_of(few, config)
    assert next(aq.federate(aq.MLP, shards, config, **options)).identity["vectorized"] == len(shards) == 3
    monkeypatch.setattr(vectorized, "CPU_BYTES", 1)
    with pytest.raises(ValueError, match="was made with vectorized = 3, this run has 1"):
        next(aq.federate(aq.MLP, shards, config, **options))


def test_what_changes_rewards_only_does_not_keep_a_run_from_going_on(
    few: aq.Dataset, config: aq.Config, tmp_path: Path
) -> None:
    base = {"build": aq.MLP, "shards": shards_of(few, config), "progress": False}
    options = {**base, "checkpoint": tmp_path / "state.safetensors"}
    broken_off = aq.federate(config=config, **options)
    first = next(broken_off)
    broken_off.close()
    rest = list(aq.federate(config=replace(config, fractions=8), **options))
    assert [rnd.index for rnd in rest] == [1, 2]
    assert rest[-1].identity == first.identity
    assert same(rest[-1], last(aq.federate(config=config, **base)))
    settles = {"policy": partial(settled_by, of=0.5), "checkpoint": tmp_path / "other.safetensors"}
    next(aq.federate(config=config, **base, **settles))
    with pytest.raises(ValueError, match="was made with config.fractions = 0, this run has 8"):
        next(aq.federate(config=replace(config, fractions=8), **base, **settles))


def settled_by(config: aq.Config, last: aq.Round | None, *, of: float) -> tuple[float, ...]:
    """A policy that reads `fractions`, as a schedule of rewards does."""
    return (of,) * (config.participants - 1) + (1.0 / max(1, config.fractions),)


def test_a_checkpoint_needs_functions_that_can_be_named(few: aq.Dataset, config: aq.Config, tmp_path: Path) -> None:
    path, shards = tmp_path / "state.safetensors", shards_of(few, config)
    policy = lambda config, last: (1.0,) * config.participants
    with pytest.raises(ValueError, match="can be imported"):
        next(aq.federate(aq.MLP, shards, config, policy=policy, checkpoint=path, progress=False))
    named = {"policy": policy, "checkpoint": path, "name": "everyone", "progress": False}
    next(aq.federate(aq.MLP, shards, config, **named))
    assert next(aq.federate(aq.MLP, shards, config, **named)).index == 1
    with pytest.raises(ValueError, match="named:everyone.*named:nobody"):
        next(aq.federate(aq.MLP, shards, config, **{**named, "name": "nobody"}))


def test_a_damaged_checkpoint_is_refused_wherever_a_bit_flips(
    few: aq.Dataset, config: aq.Config, tmp_path: Path
) -> None:
    path, shards = tmp_path / "state.safetensors", shards_of(few, config)
    next(aq.federate(aq.MLP, shards, config, checkpoint=path, progress=False))
    intact = path.read_bytes()
    for place in np.linspace(9, len(intact) - 1, 60).astype(int):
        damaged = bytearray(intact)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match="checkpoint"):
            next(aq.federate(aq.MLP, shards, config, checkpoint=path, progress=False))
    path.write_bytes(intact[:1000])
    with pytest.raises(ValueError, match="delete it to start afresh"):
        next(aq.federate(aq.MLP, shards, config, checkpoint=path, progress=False))


def test_a_run_that_had_ended_yields_its_last_round(few: aq.Dataset, config: aq.Config, tmp_path: Path) -> None:
    options = {"checkpoint": tmp_path / "state.safetensors", "progress": False}
    first = last(aq.federate(aq.MLP, shards_of(few, config), config, **options))
    (again,) = aq.federate(aq.MLP, shards_of(few, config), config, **options)
    assert same(first, again)
    assert again.total_sent == first.total_sent
    assert again.index == 2


HOSTILE = {
    "NaN": lambda u: replace(u, state={k: t * float("nan") for k, t in u.state.items()}),
    "infinite": lambda u: replace(u, state={k: t + float("inf") for k, t in u.state.items()}),
    "huge": lambda u: replace(u, state={k: t + 1e6 for k, t in u.state.items()}),
    "finite but beyond its square": lambda u: replace(u, state={k: t + 1e30 for k, t in u.state.items()}),
    "of another participant": lambda u: replace(u, participant=2),
    "negative weight": lambda u: replace(u, weight=-1.0),
    "NaN weight": lambda u: replace(u, weight=float("nan")),
    "NaN loss": lambda u: replace(u, loss=float("nan")),
    "narrower": lambda u: replace(u, width=0.5, state=slice_of(aq.MLP, u.state, 0.5)),
    "narrower in secret": lambda u: replace(u, state=slice_of(aq.MLP, u.state, 0.5)),
    "empty": lambda u: replace(u, state={}),
    "with more": lambda u: replace(u, state={**u.state, "more": torch.zeros(1)}),
    "double": lambda u: replace(u, state={k: t.double() for k, t in u.state.items()}),
    "complex": lambda u: replace(u, state={k: t + 0j for k, t in u.state.items()}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_update_is_left_out_and_spoils_no_round(what: str, few: aq.Dataset, config: aq.Config) -> None:
    honest = aq.slimmable(aq.MLP)

    def local(*args, **kwargs) -> aq.Update:
        update = honest.local(*args, **kwargs)
        return HOSTILE[what](update) if update.participant == 1 else update

    shards = shards_of(few, config)
    rounds = list(aq.federate(aq.MLP, shards, config, strategy=replace(honest, local=local), progress=False))
    assert all(each.left_out == (1,) for each in rounds)
    kept = [(u.state, u.weight) for u in rounds[0].updates if u.participant != 1]
    without = aq.aggregate(aq.init_params(aq.MLP, config.seed), kept)
    assert all(torch.equal(t, rounds[0].theta[k]) for k, t in without.items())


def test_a_huge_update_is_left_out_of_two_as_well(few: aq.Dataset) -> None:
    config, honest = aq.Config(participants=2, rounds=1, local_steps=2, batch=16), aq.slimmable(aq.MLP)

    def local(*args, **kwargs) -> aq.Update:
        update = honest.local(*args, **kwargs)
        return HOSTILE["huge"](update) if update.participant == 1 else update

    (found,) = aq.federate(
        aq.MLP, shards_of(few, config), config, strategy=replace(honest, local=local), progress=False
    )
    assert found.left_out == (1,)


def test_a_local_function_that_writes_into_what_it_was_sent_is_caught(few: aq.Dataset, config: aq.Config) -> None:
    honest = aq.slimmable(aq.MLP)

    def local(sent, *args, **kwargs) -> aq.Update:
        for t in sent.values():
            t.zero_()
        return honest.local(sent, *args, **kwargs)

    with pytest.raises(ValueError, match="must not write into what it was sent"):
        list(aq.federate(aq.MLP, shards_of(few, config), config, strategy=replace(honest, local=local), workers=1,
                         progress=False))  # fmt: skip


def test_what_does_not_fit_together_is_refused_before_any_work(few: aq.Dataset, config: aq.Config) -> None:
    shards = shards_of(few, config)
    with pytest.raises(ValueError, match="`shards` must hold one entry for each of the 3 participants, got 2"):
        next(aq.federate(aq.MLP, shards[:2], config, progress=False))
    for weights in ([1.0, 2.0], [1.0, 0.0, 1.0], [1.0, float("inf"), 1.0]):
        with pytest.raises(ValueError, match="weights"):
            next(aq.federate(aq.MLP, shards, config, weights=weights, progress=False))
    with pytest.raises(ValueError, match="`workers`|workers is 0"):
        next(aq.federate(aq.MLP, shards, config, workers=0, progress=False))


def test_aggregation_weights_are_shard_sizes_to_a_power(few: aq.Dataset) -> None:
    config = aq.Config(participants=2, size_power=2.0, contribution_power=0.0)
    shards = [aq.Shard(i, few.train.take(slice(0, n)), np.arange(n)) for i, n in enumerate((10, 30))]
    assert aq.aggregation_weights(shards, config).tolist() == pytest.approx([0.1, 0.9])
    assert aq.aggregation_weights(shards, replace(config, size_power=0.0)).tolist() == [0.5, 0.5]


def test_aggregation_weights_by_contribution_need_the_contribution(few: aq.Dataset) -> None:
    config = aq.Config(participants=2, size_power=0.0, contribution_power=3.0)
    shards = shards_of(few, config)
    assert aq.aggregation_weights(shards, config, [0.2, 0.4]).tolist() == pytest.approx([1 / 9, 8 / 9])
    for wrong in (None, [0.2], [0.2, float("nan")]):
        with pytest.raises(ValueError, match="`contribution` must be 2 finite numbers"):
            aq.aggregation_weights(shards, config, wrong)


def test_a_contribution_at_or_below_zero_still_weighs_a_thousandth(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, size_power=1.0, contribution_power=2.0)
    shards = [aq.Shard(i, few.train.take(slice(0, n)), np.arange(n)) for i, n in enumerate((10, 20, 30))]
    mass = np.array([10, 20, 30]) * np.array([0.001, 0.001, 0.5]) ** 2
    assert aq.aggregation_weights(shards, config, [0.0, -0.3, 0.5]) == pytest.approx(mass / mass.sum())


@pytest.mark.parametrize("widths", [(1.0, 1.0), (1.0,) * 9, (1.0, 1.0, 1.5), (0.0, 0.0, 0.0), (1.0, 1.0, float("nan"))])
def test_a_policy_that_gives_no_width_for_each_is_refused(few: aq.Dataset, config: aq.Config, widths) -> None:
    with pytest.raises(ValueError, match="`policy"):
        next(aq.federate(aq.MLP, shards_of(few, config), config, policy=lambda c, r: widths, progress=False))


def test_a_share_of_the_participants_is_drawn_anew_for_every_round(few: aq.Dataset) -> None:
    config = aq.Config(participants=10, rounds=12, local_steps=1, batch=8, participation=0.3)
    shards = shards_of(few, config)
    rounds = list(aq.federate(aq.MLP, shards, config, progress=False))
    here = [tuple(np.flatnonzero(rnd.widths)) for rnd in rounds]
    assert {len(each) for each in here} == {3}
    assert len(set(here)) > 6
    assert all(tuple(u.participant for u in rnd.updates) == who for rnd, who in zip(rounds, here, strict=True))
    first, *_ = aq.federate(aq.MLP, shards, config, progress=False, workers=1)
    assert same(first, rounds[0])


def test_who_takes_part_depends_on_the_seed_too() -> None:
    config = aq.Config(participants=10, participation=0.3)
    drawn = [[present(replace(config, seed=seed), index, range(10)) for index in range(12)] for seed in (0, 1)]
    assert drawn[0] == [present(config, index, range(10)) for index in range(12)]
    assert sum(one == other for one, other in zip(*drawn, strict=True)) < 6


def seen_locally(few: aq.Dataset, config: aq.Config, **options) -> list[tuple[int, int, dict]]:
    """(round, participant, arguments by name and the first random number) of every local training, in order."""
    honest, seen = aq.slimmable(aq.MLP), []

    def local(state, shard, width, config, rng, *, first, **rest) -> aq.Update:
        draw = rng.bit_generator.state["state"]["state"]
        seen.append((first // config.local_steps, shard.participant, {**rest, "draw": draw}))
        return honest.local(state, shard, width, config, rng, first=first, **rest)

    shards = options.pop("shards", None) or shards_of(few, config)
    strategy = replace(honest, local=local)
    last(aq.federate(aq.MLP, shards, config, strategy=strategy, workers=1, progress=False, **options))
    return seen


def test_each_round_of_each_participant_has_a_stream_of_its_own_that_its_name_decides(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=3, local_steps=1, batch=8)
    seen = seen_locally(few, config)
    assert [(index, who) for index, who, _ in seen] == [(index, who) for index in range(3) for who in range(3)]
    assert len({each["draw"] for _, _, each in seen}) == 9
    for index, who, each in seen:
        assert each["draw"] == aq.stream(config.seed, "local", index, who).bit_generator.state["state"]["state"]
    few_of_them = shards_of(few, config)[1:]  # participants 1 and 2 draw what they drew before
    again = seen_locally(few, replace(config, participants=2), shards=few_of_them)
    draws = {(index, who): each["draw"] for index, who, each in seen}
    assert all(each["draw"] == draws[index, who] for index, who, each in again)


def test_the_labels_of_who_is_absent_adjust_nobodys_loss(few: aq.Dataset) -> None:
    config = aq.Config(participants=2, rounds=1, local_steps=1, batch=8, participation=0.5, logit_adjustment=1.0)
    halves = [torch.nonzero(few.train.y < 5)[:, 0], torch.nonzero(few.train.y >= 5)[:, 0]]
    shards = [aq.Shard(i, few.train.take(half), half.numpy()) for i, half in enumerate(halves)]
    ((_, who, rest),) = seen_locally(few, config, shards=shards)
    own = logit_offsets([class_shares(shards[who].samples)], [1.0], 1.0)
    assert rest["offsets"][0][1] == pytest.approx(own[0][1])


def test_the_refused_are_named_and_left_out_by_participant_not_by_position(few: aq.Dataset, config: aq.Config) -> None:
    shards, honest = shards_of(few, config)[1:], aq.slimmable(aq.MLP)  # participants 1 and 2

    def local(*args, **kwargs) -> aq.Update:
        update = honest.local(*args, **kwargs)
        return HOSTILE["NaN"](update) if update.participant == 2 else update

    strategy, two = replace(honest, local=local), replace(config, participants=2)
    rounds = list(aq.federate(aq.MLP, shards, two, strategy=strategy, progress=False))
    assert all(each.left_out == (2,) for each in rounds)
    for name, t in rounds[0].theta.items():
        torch.testing.assert_close(t, rounds[0].updates[0].state[name], atol=1e-6, rtol=1e-5)


def test_a_round_keeps_its_accounts_of_those_who_were_not_refused(few: aq.Dataset, config: aq.Config) -> None:
    honest = aq.slimmable(aq.MLP)

    def local(*args, first: int = 0, **kwargs) -> aq.Update:
        update = honest.local(*args, first=first, **kwargs)
        return HOSTILE["NaN"](update) if update.participant == 1 and first else update

    weights = [1.0, 2.0, 5.0]
    rounds = list(aq.federate(aq.MLP, shards_of(few, config), config, strategy=replace(honest, local=local),
                              weights=weights, progress=False))  # fmt: skip
    for index, each in enumerate(rounds):
        valid = [0, 1, 2] if index == 0 else [0, 2]
        own = [each.updates[i].loss for i in valid]
        assert each.loss == pytest.approx(np.average(own, weights=[weights[i] for i in valid]))
        assert each.total_sent == sum(before.parameters_sent for before in rounds[: index + 1])
        assert each.total_left_out == (1,) * index


def test_a_checkpoint_is_written_after_every_round(few: aq.Dataset, config: aq.Config, tmp_path: Path) -> None:
    path, saved = tmp_path / "state.safetensors", []
    for each in aq.federate(aq.MLP, shards_of(few, config), config, checkpoint=path, progress=False):
        saved.append(load_checkpoint(path, each.identity, each.theta))
    assert [found.index for found in saved] == [0, 1, 2]


def test_a_local_function_that_writes_into_what_the_server_remembers_is_caught(
    few: aq.Dataset, config: aq.Config
) -> None:
    honest = aq.slimmable(aq.MLP)

    def broadcast(state: aq.types.ServerState, participant: int, width: float) -> dict[str, torch.Tensor]:
        return {k: state.memory.get(f"own/{k}", t) for k, t in state.theta.items()}

    def aggregate(state: aq.types.ServerState, updates) -> aq.types.ServerState:
        after = honest.aggregate(state, updates)
        return replace(after, memory={f"own/{k}": t.clone() for k, t in after.theta.items()})

    def local(sent, *args, first: int = 0, **kwargs) -> aq.Update:
        update = honest.local(sent, *args, first=first, **kwargs)
        for t in sent.values() if first else ():
            t.zero_()
        return update

    strategy = replace(honest, broadcast=broadcast, local=local, aggregate=aggregate)
    rounds = aq.federate(aq.MLP, shards_of(few, config), config, strategy=strategy, workers=1, progress=False)
    assert next(rounds).index == 0
    with pytest.raises(ValueError, match="must not write into what it was sent"):
        next(rounds)


def test_a_resumed_run_keeps_what_the_server_remembers(few: aq.Dataset, config: aq.Config, tmp_path: Path) -> None:
    shards, path = shards_of(few, config), tmp_path / "theta.safetensors"
    for server in (aq.aggregation.fedavgm(0.9), aq.aggregation.fedadam(0.02)):
        strategy = aq.slimmable(aq.MLP, server=server)
        whole = last(aq.federate(aq.MLP, shards, config, strategy=strategy, progress=False))
        broken_off = aq.federate(aq.MLP, shards, config, strategy=strategy, checkpoint=path, progress=False)
        next(broken_off)
        broken_off.close()
        rest = last(aq.federate(aq.MLP, shards, config, strategy=strategy, checkpoint=path, progress=False))
        assert same(whole, rest)
        assert set(whole.theta) == set(aq.init_params(aq.MLP, 0))  # what the server remembers is no part of the network
        path.unlink()


def test_alone_means_its_own_shard_and_nothing_else(few: aq.Dataset, config: aq.Config) -> None:
    shards = shards_of(few, config)
    together = aq.standalone(aq.MLP, shards, config, progress=False)
    by_itself = aq.standalone(aq.MLP, shards[:1], replace(config, participants=1), progress=False)
    pairs = zip(together[0].state_dict().values(), by_itself[0].state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_alone_and_together_are_the_same_when_there_is_one_participant(few: aq.Dataset) -> None:
    config = aq.Config(participants=1, rounds=1, local_steps=5)
    shards = shards_of(few, config)
    fedavg = aq.slimmable(aq.MLP, width_sampler=aq.full_only)
    rnd = last(aq.federate(aq.MLP, shards, config, strategy=fedavg, progress=False))
    (alone,) = aq.standalone(aq.MLP, shards, config, progress=False)
    for k, t in alone.state_dict().items():  # other batches, so alike and not equal
        assert t.shape == rnd.theta[k].shape
    assert rnd.parameters_sent == 2 * aq.n_parameters(alone)


def arithmetic_now() -> tuple[bool, ...]:
    """How this process computes at the moment."""
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return *strict, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark


@pytest.mark.parametrize("at_once", [True, False], ids=["in one pass", "one by one"])
def test_deterministic_training_sets_what_a_gpu_needs_and_sets_it_back(
    few: aq.Dataset, config: aq.Config, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen, before, shards = [], arithmetic_now(), shards_of(few, config)
    assert before == (False, False, True, True)

    def watching(rng: np.random.Generator, widest: float, config: aq.Config) -> tuple[float, ...]:
        seen.append(arithmetic_now())
        return (widest,)

    options = {"strategy": aq.slimmable(aq.MLP, watching), "vectorized": at_once, "progress": False}
    for flag, inside in ((True, (True, True, False, False)), (False, (False, False, False, True))):
        for _ in aq.federate(aq.MLP, shards, config, deterministic=flag, **options):
            assert arithmetic_now() == before  # between rounds too
        aq.federate_many(aq.MLP, [(shards, config)], deterministic=flag, **options)
        monkeypatch.setattr(sys.modules["aequa_lite.federate"], "full_only", watching)
        aq.standalone(aq.MLP, shards, config, deterministic=flag, vectorized=at_once, progress=False)
        assert set(seen) == {inside}
        assert arithmetic_now() == before
        seen.clear()
    with pytest.raises(ValueError, match="`deterministic` must be True or False"):
        last(aq.federate(aq.MLP, shards, config, deterministic="yes", progress=False))


def test_threads_that_leave_in_any_order_set_back_what_the_first_found() -> None:
    found = torch.backends.cudnn.allow_tf32
    first, second = arithmetic(), arithmetic()
    first.__enter__()
    second.__enter__()
    assert not torch.backends.cudnn.allow_tf32
    first.__exit__(None, None, None)
    assert not torch.backends.cudnn.allow_tf32  # somebody is still inside
    second.__exit__(None, None, None)
    assert torch.backends.cudnn.allow_tf32 == found


def test_deterministic_algorithms_last_until_the_last_thread_leaves_and_no_longer() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    first, second = arithmetic(deterministic=True), arithmetic(deterministic=True)
    try:
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.are_deterministic_algorithms_enabled()  # somebody is still inside
        second.__exit__(None, None, None)
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[False, True], ids=["plain matrices", "matrices in TF32"])
def newer_switch(request: pytest.FixtureRequest) -> Iterator[bool]:
    """A user has set the switch of one layer, as PyTorch recommends since 2.9; the older switch cannot be read then."""
    cudnn, matrices = torch.backends.cudnn, torch.backends.cuda.matmul
    if not hasattr(getattr(cudnn, "conv", None), "fp32_precision"):
        pytest.skip("this PyTorch has one switch only")
    cudnn.conv.fp32_precision, matrices.allow_tf32 = "ieee", request.param
    yield request.param
    cudnn.allow_tf32, matrices.allow_tf32 = True, False  # which sets all of them


def test_switches_of_one_layer_each_are_set_and_set_back(
    few: aq.Dataset, config: aq.Config, newer_switch: bool
) -> None:
    now = lambda: (torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.rnn.fp32_precision)
    seen, before, test = [], now(), few.test.take(slice(0, 10))
    assert before == ("ieee", "tf32")

    def watching(rng: np.random.Generator, widest: float, config: aq.Config) -> tuple[float, ...]:
        seen.append(now())
        return (widest,)

    last(aq.federate(aq.MLP, shards_of(few, config), config, strategy=aq.slimmable(aq.MLP, watching), progress=False))
    aq.correct(lambda x: seen.append(now()) or torch.zeros(len(x), 10), test)
    assert set(seen) == {("tf32", "tf32") if newer_switch else ("ieee", "ieee")}
    assert now() == before


def test_networks_are_evaluated_and_fine_tuned_as_they_are_trained(
    few: aq.Dataset, config: aq.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, linear = [], torch.nn.Linear.forward
    problem = aq.method.assess(aq.MLP, shards_of(few, config), config, few, progress=False)
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda *own: seen.append(arithmetic_now()) or linear(*own))
    aq.accuracy(problem.alone, few.validation)
    aq.accuracy_curve(aq.MLP, problem.alone[0].state_dict(), few.validation, grid=(0.5, 1.0))
    assert {tf32 for _, _, tf32, _ in seen} == {False}
    seen.clear()
    tuning = sys.modules["aequa_lite.baselines.fedavg"]
    trained = tuning.reward_own
    monkeypatch.setattr(tuning, "reward_own", lambda *own: (trained(*own), seen.clear())[0])  # what follows is seen
    aq.baselines.fedavg_finetuned(problem, train=partial(aq.method.train, deterministic=True, progress=False))
    assert {(strict, tf32) for strict, _, tf32, _ in seen} == {(True, False)}


@pytest.mark.parametrize(("before", "after"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_the_workspace_of_matrix_products_is_set_before_the_first_of_them(before: str | None, after: str) -> None:
    name = "CUBLAS_WORKSPACE_CONFIG"  # PyTorch reads it once, so it must be there when the package has been imported
    others = {k: v for k, v in os.environ.items() if k != name}
    code = f"import os, aequa_lite; print(os.environ['{name}'])"
    found = subprocess.run([sys.executable, "-c", code], env=others | ({name: before} if before else {}),
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert found.stdout.strip() == after


def test_what_a_user_has_set_stays(few: aq.Dataset, config: aq.Config) -> None:
    shards, tf32 = shards_of(few, config), torch.backends.cuda.matmul.allow_tf32
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        before = arithmetic_now()
        found = last(aq.federate(aq.MLP, shards, config, deterministic=True, progress=False))
        assert arithmetic_now() == before == (True, False, True, False)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.matmul.allow_tf32 = tf32
    plain = last(aq.federate(aq.MLP, shards, config, progress=False))
    said = [(each.identity["tf32"], each.identity["deterministic"]) for each in (found, plain)]
    assert said == [(True, True), (False, False)]
    assert same(found, plain)  # a processor knows no TF32 and has no other algorithms


def test_who_is_absent_is_not_drawn(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=6, local_steps=1, participation=0.34)
    shards = aq.data.homogeneous(few.train, config)
    policy = aq.attacks.dropout(aq.full_width, {0}, range(6))
    rounds = list(aq.federate(aq.MLP, shards, config, policy=policy, progress=False))
    assert [len(rnd.updates) for rnd in rounds] == [1] * 6
    assert {u.participant for rnd in rounds for u in rnd.updates} == {1, 2}


def test_training_keeps_the_updates_of_two_rounds_at_most(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=6, local_steps=1, batch=8)
    alone, b = [aq.MLP() for _ in range(3)], np.full(3, 0.1)
    problem = aq.Problem(aq.MLP, shards_of(few, config), config, few, alone, b)
    kept = []

    def policy(config: aq.Config, last: aq.Round | None) -> tuple[float, ...]:
        gc.collect()
        kept.append(sum(type(each) is aq.Update for each in gc.get_objects()))
        return (1.0,) * config.participants

    aq.method.train(problem, aq.slimmable(aq.MLP), policy=policy, progress=False)
    assert max(kept) - kept[0] <= 2 * config.participants
