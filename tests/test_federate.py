"""The one loop: reproducible to the bit, deaf to a NaN, and alive after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import aequa_lite as aq

SCRIPT = """
import sys, aequa_lite as aq
recipe = aq.Config(participants=3, rounds=40, local_steps=3, batch=16)
shards = aq.data.homogeneous(aq.load("fashion-mini", device="cpu").train, recipe)
for rnd in aq.federate(aq.MLP, shards, recipe, checkpoint=sys.argv[1], progress=False):
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
    one = last(aq.federate(aq.LeNet, shards, config, count=1, progress=False))
    assert same(one, last(aq.federate(aq.LeNet, shards, config, count=count, progress=False)))


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
    with pytest.raises(FloatingPointError, match=r"round \d+: no participant.*lower lr"):
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
    found, index = aq.checkpoint.load_checkpoint(checkpoint, config)  # type: ignore[misc]
    assert index == 39
    assert all(torch.equal(whole.theta[k], found[k]) for k in found)


def test_a_checkpoint_of_another_recipe_or_of_no_sense_is_refused(tmp_path: Path, config: aq.Config) -> None:
    path = tmp_path / "theta.safetensors"
    aq.checkpoint.save_checkpoint(path, aq.init_params(aq.MLP, 0), 1, config)
    with pytest.raises(ValueError, match="lr = "):
        aq.checkpoint.load_checkpoint(path, replace(config, lr=0.5))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        aq.checkpoint.load_checkpoint(path, config)


def test_what_does_not_fit_together_is_refused_before_any_work(few: aq.Dataset, config: aq.Config) -> None:
    shards = shards_of(few, config)
    with pytest.raises(ValueError, match="shards holds 2"):
        next(aq.federate(aq.MLP, shards[:2], config, progress=False))
    for weights in ([1.0, 2.0], [1.0, 0.0, 1.0], [1.0, float("inf"), 1.0]):
        with pytest.raises(ValueError, match="weights"):
            next(aq.federate(aq.MLP, shards, config, weights=weights, progress=False))
    with pytest.raises(ValueError, match="workers is 0"):
        next(aq.federate(aq.MLP, shards, config, count=0, progress=False))


def test_merge_weights_are_shard_sizes_to_a_power(few: aq.Dataset) -> None:
    config = aq.Config(participants=2, size_power=2.0)
    shards = [aq.Shard(i, few.train.take(slice(0, n)), np.arange(n)) for i, n in enumerate((10, 30))]
    assert aq.aggregation_weights(shards, config).tolist() == pytest.approx([0.1, 0.9])
    assert aq.aggregation_weights(shards, replace(config, size_power=0.0)).tolist() == [0.5, 0.5]


def test_merge_weights_by_contribution_need_the_contribution(few: aq.Dataset) -> None:
    config = aq.Config(participants=2, size_power=0.0, contribution_power=3.0)
    shards = shards_of(few, config)
    assert aq.aggregation_weights(shards, config, [0.2, 0.4]).tolist() == pytest.approx([1 / 9, 8 / 9])
    with pytest.raises(ValueError, match=r"contribution is None.*merge_weights\(shards, recipe, contribution\)"):
        next(aq.federate(aq.MLP, shards, config, progress=False))


def test_a_share_of_the_participants_is_drawn_anew_for_every_round(few: aq.Dataset) -> None:
    config = aq.Config(participants=10, rounds=12, local_steps=1, batch=8, participation=0.3)
    shards = shards_of(few, config)
    rounds = list(aq.federate(aq.MLP, shards, config, progress=False))
    here = [tuple(np.flatnonzero(rnd.widths)) for rnd in rounds]
    assert {len(each) for each in here} == {3}
    assert len(set(here)) > 6
    assert all(tuple(u.participant for u in rnd.updates) == who for rnd, who in zip(rounds, here, strict=True))
    first, *_ = aq.federate(aq.MLP, shards, config, progress=False, count=1)
    assert same(first, rounds[0])


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
