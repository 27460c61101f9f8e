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


def test_sybils_share_out_what_one_had(few: aq.Data, recipe: aq.Recipe) -> None:
    shards = aq.homogeneous(few.train, recipe)
    several = aq.sybils(shards, 1, 3)
    assert [each.participant for each in several] == [0, 1, 2, 3, 4]
    assert places(several) == places(shards)  # nothing is lost, nothing is there twice
    assert several[0] is shards[0]
    assert several[2] is shards[2]
    assert {len(several[i]) - len(shards[1]) // 3 for i in (1, 3, 4)} <= {0, 1}


def test_clones_have_all_of_it_each(few: aq.Data, recipe: aq.Recipe) -> None:
    shards = aq.homogeneous(few.train, recipe)
    for each in (aq.sybils(shards, 1, 3, clones=True)[i] for i in (1, 3, 4)):
        assert torch.equal(each.samples.x, shards[1].samples.x)


def test_three_as_one_hold_all_that_they_held(few: aq.Data, recipe: aq.Recipe) -> None:
    shards = aq.homogeneous(few.train, recipe)
    first, last = aq.merged_shards(shards, {0, 1})
    assert places([first]) == places(shards[:2])
    assert [first.participant, last.participant] == [0, 1]
    assert torch.equal(last.samples.x, shards[2].samples.x)


def test_a_false_size_weighs_more_and_says_the_same(few: aq.Data, recipe: aq.Recipe) -> None:
    shards = aq.homogeneous(few.train, recipe)
    false = aq.inflated(shards, 1, 4)
    weights = aq.merge_weights(false, recipe)
    assert weights[1] / weights[0] == pytest.approx(4 * len(shards[1]) / len(shards[0]))
    assert set(places([false[1]])) == set(places([shards[1]]))


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lambda shards: aq.sybils(shards, 3, 2), "who is 3"),
        (lambda shards: aq.sybils(shards, 0, 1), "count is 1"),
        (lambda shards: aq.merged_shards(shards, {1}), "at least two"),
        (lambda shards: aq.merged_shards(shards, {1, 3}), "at least two"),
        (lambda shards: aq.inflated(shards, 0, 0), "times is 0"),
    ],
)
def test_what_is_no_attack_is_refused(few: aq.Data, recipe: aq.Recipe, attack, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attack(aq.homogeneous(few.train, recipe))


def test_a_regrown_slice_is_the_slice_inside_and_the_start_outside() -> None:
    start, theta = aq.initial(aq.MLP, 0), aq.initial(aq.MLP, 1)
    wide = aq.regrown(aq.MLP, aq.slice_of(aq.MLP, theta, 0.3), start)
    again = aq.slice_of(aq.MLP, wide, 0.3)
    assert all(torch.equal(again[k], t) for k, t in aq.slice_of(aq.MLP, theta, 0.3).items())
    assert torch.equal(wide["2.weight"][100:], start["2.weight"][100:])
    assert torch.equal(start["2.weight"], aq.initial(aq.MLP, 0)["2.weight"])  # nobody's memory is written to


def test_a_vote_of_one_is_its_own_and_of_two_lies_between(few: aq.Data) -> None:
    nets = [aq.slim(aq.MLP, aq.initial(aq.MLP, seed), 1.0) for seed in (0, 1)]
    x = few.test.x[:20].float()
    asked = aq.voted(nets)(x).exp()
    each = torch.stack([net(x).softmax(1) for net in nets])
    assert torch.allclose(asked, each.mean(0), atol=1e-6)
    assert (aq.hits(aq.voted(nets[:1]), few.test) == aq.hits(nets[0], few.test)).all()


def test_against_cheats_in_the_rounds_and_nowhere_else(few: aq.Data, recipe: aq.Recipe) -> None:
    shards = aq.homogeneous(few.train, recipe)
    alone = [aq.slim(aq.MLP, aq.initial(aq.MLP, 0), 1.0)] * 3
    run = {"data": few, "alone": alone, "progress": False}
    honest = aq.fedavg().run(aq.MLP, shards, recipe, **run)
    same = aq.against(aq.fedavg(), lambda scheme: scheme).run(aq.MLP, shards, recipe, **run)
    idle = aq.against(aq.fedavg(), partial(aq.free_rider, who={0, 1, 2}, how="zero")).run(aq.MLP, shards, recipe, **run)
    assert all(torch.equal(same.last.theta[k], t) for k, t in honest.last.theta.items())
    start = aq.initial(aq.MLP, recipe.seed)
    assert all(torch.allclose(idle.last.theta[k], start[k]) for k in start)  # nobody works, nothing moves
    assert not torch.allclose(honest.last.theta["2.weight"], start["2.weight"])


def test_what_is_received_is_kept_as_it_was_sent(few: aq.Data, recipe: aq.Recipe) -> None:
    shards, kept = aq.homogeneous(few.train, recipe), []
    scheme = aq.keeper(aq.slimmable(aq.MLP), {1}, kept, received=True)
    rounds = list(aq.federate(aq.MLP, shards, recipe, scheme=scheme, progress=False))
    assert [each.participant for each in kept] == [1] * recipe.rounds
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
