"""Laws of attacks on a whole method: false names share out what there is, pooled slices add nothing; and the table."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import aequa_lite as aq

RESULTS = Path(__file__).resolve().parents[1] / "results" / "attacks"


def places(shards) -> list[int]:
    return sorted(int(i) for shard in shards for i in shard.indices)


def test_sybils_share_out_what_one_had(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.homogeneous(few.train, config)
    several = aq.attacks.sybils(shards, 1, 3)
    assert [each.participant for each in several] == [0, 1, 2, 3, 4]
    assert places(several) == places(shards)  # nothing is lost, nothing is there twice
    assert several[0] is shards[0]
    assert several[2] is shards[2]
    assert {len(several[i]) - len(shards[1]) // 3 for i in (1, 3, 4)} <= {0, 1}


def test_clones_have_all_of_it_each(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.homogeneous(few.train, config)
    for each in (aq.attacks.sybils(shards, 1, 3, clones=True)[i] for i in (1, 3, 4)):
        assert torch.equal(each.samples.x, shards[1].samples.x)


def test_three_as_one_hold_all_that_they_held(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.homogeneous(few.train, config)
    first, last = aq.attacks.merged_shards(shards, {0, 1})
    assert places([first]) == places(shards[:2])
    assert [first.participant, last.participant] == [0, 1]
    assert torch.equal(last.samples.x, shards[2].samples.x)


def test_a_false_size_weighs_more_and_says_the_same(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.homogeneous(few.train, config)
    false = aq.attacks.inflated_shard(shards, 1, 4)
    weights = aq.aggregation_weights(false, config)
    assert weights[1] / weights[0] == pytest.approx(4 * len(shards[1]) / len(shards[0]))
    assert set(places([false[1]])) == set(places([shards[1]]))


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lambda shards: aq.attacks.sybils(shards, 3, 2), "who is 3"),
        (lambda shards: aq.attacks.sybils(shards, 0, 1), "count is 1"),
        (lambda shards: aq.attacks.merged_shards(shards, {1}), "at least two"),
        (lambda shards: aq.attacks.merged_shards(shards, {1, 3}), "at least two"),
        (lambda shards: aq.attacks.inflated_shard(shards, 0, 0), "times is 0"),
    ],
)
def test_what_is_no_attack_is_refused(few: aq.Dataset, config: aq.Config, attack, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attack(aq.data.homogeneous(few.train, config))


def test_a_regrown_slice_is_the_slice_inside_and_the_start_outside() -> None:
    start, theta = aq.init_params(aq.MLP, 0), aq.init_params(aq.MLP, 1)
    wide = aq.attacks.refilled(aq.MLP, aq.slice_of(aq.MLP, theta, 0.3), start)
    again = aq.slice_of(aq.MLP, wide, 0.3)
    assert all(torch.equal(again[k], t) for k, t in aq.slice_of(aq.MLP, theta, 0.3).items())
    assert torch.equal(wide["2.weight"][100:], start["2.weight"][100:])
    assert torch.equal(start["2.weight"], aq.init_params(aq.MLP, 0)["2.weight"])  # nobody's memory is written to


def test_a_vote_of_one_is_its_own_and_of_two_lies_between(few: aq.Dataset) -> None:
    nets = [aq.slim(aq.MLP, aq.init_params(aq.MLP, seed), 1.0) for seed in (0, 1)]
    x = few.test.x[:20].float()
    asked = aq.attacks.ensemble(nets)(x).exp()
    each = torch.stack([net(x).softmax(1) for net in nets])
    assert torch.allclose(asked, each.mean(0), atol=1e-6)
    assert (aq.correct(aq.attacks.ensemble(nets[:1]), few.test) == aq.correct(nets[0], few.test)).all()


def test_against_cheats_in_the_rounds_and_nowhere_else(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.homogeneous(few.train, config)
    alone = [aq.slim(aq.MLP, aq.init_params(aq.MLP, 0), 1.0)] * 3
    run = {"data": few, "alone": alone, "progress": False}
    honest = aq.baselines.fedavg().run(aq.MLP, shards, config, **run)
    same = aq.attacks.with_attack(aq.baselines.fedavg(), lambda strategy: strategy).run(aq.MLP, shards, config, **run)
    idle = aq.attacks.with_attack(aq.baselines.fedavg(), partial(aq.attacks.free_rider, who={0, 1, 2}, how="zero")).run(
        aq.MLP, shards, config, **run
    )
    assert all(torch.equal(same.last.theta[k], t) for k, t in honest.last.theta.items())
    start = aq.init_params(aq.MLP, config.seed)
    assert all(torch.allclose(idle.last.theta[k], start[k]) for k in start)  # nobody works, nothing moves
    assert not torch.allclose(honest.last.theta["2.weight"], start["2.weight"])


def test_what_is_received_is_kept_as_it_was_sent(few: aq.Dataset, config: aq.Config) -> None:
    shards, kept = aq.data.homogeneous(few.train, config), []
    strategy = aq.attacks.honest_but_curious(aq.slimmable(aq.MLP), {1}, kept, received=True)
    rounds = list(aq.federate(aq.MLP, shards, config, strategy=strategy, progress=False))
    assert [each.participant for each in kept] == [1] * config.rounds
    for each, rnd in zip(kept, rounds, strict=True):
        assert all(torch.equal(each.state[k], t) for k, t in rnd.before.items())


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    return pd.read_csv(RESULTS / "attacks.csv")


def test_the_table_is_whole(measured: pd.DataFrame) -> None:
    about = json.loads((RESULTS / "about.json").read_text())
    assert sorted(measured["seed"].unique()) == about["seeds"]
    rows = measured.groupby(["method", "defence", "attack", "participant"]).size()
    assert (rows == len(about["seeds"])).all()
    assert {"versions", "device", "date"} <= set(measured)
    known = measured[["alone", "honest", "reward", "others", "others_honest"]]
    assert ((known.isna()) | ((known >= 0) & (known <= 1))).all(axis=None)
    assert set(map(str, about["epsilon"])) == {
        each.split(", ")[1] for each in measured["defence"].unique() if each.startswith("private")
    }


def test_pooled_slices_of_one_round_bring_nothing_in_the_table(measured: pd.DataFrame) -> None:
    pools = measured.query("attack == 'pools' and method in ['aequa', 'earned', 'fedavg']")
    assert len(pools) == 3 * measured["seed"].nunique()
    # the pool is the slice of the widest of the three, which is participant 2: to the bit, whatever the others hold
    widest = measured.query("attack == 'honest' and defence == 'none'").set_index(["seed", "method"])["reward"]
    assert (
        pools.set_index(["seed", "method"])["reward"] == widest.loc[list(zip(pools["seed"], pools["method"]))]
    ).all()
    # "honest" is the best pay of the three; that the widest is also the best holds where the curve decides the widths
    assert (pools["reward"] <= pools["honest"] + 1e-3).all()
    decided = pools[pools["method"] != "earned"]
    assert np.allclose(decided["reward"], decided["honest"], atol=1e-3)


def test_an_attack_after_the_pay_costs_the_others_nothing(measured: pd.DataFrame) -> None:
    after = measured[measured["attack"].isin(["keeps", "averages", "tunes", "grows", "votes", "pools"])]
    assert (after["others"] == after["others_honest"]).all()
