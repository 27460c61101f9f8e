"""Attacks on a whole algorithm: false identities share what one had, pooled slices add nothing; and the measured table."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import aequa_lite as aq
from aequa_lite.method import train

RESULTS = Path(__file__).resolve().parents[1] / "results" / "attacks"
quiet = partial(train, progress=False)


def places(shards) -> list[int]:
    return sorted(int(i) for shard in shards for i in shard.indices)


def test_the_identities_of_a_sybil_share_what_one_had(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.homogeneous(few.train, config)
    several = aq.attacks.sybils(shards, 1, 3)
    assert [each.participant for each in several] == [0, 1, 2, 3, 4]
    assert places(several) == places(shards)  # nothing is lost, nothing is there twice
    assert several[0] is shards[0]
    assert several[2] is shards[2]
    assert {len(several[i]) - len(shards[1]) // 3 for i in (1, 3, 4)} <= {0, 1}


def test_merged_participants_have_all_that_they_had(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.homogeneous(few.train, config)
    first, last = aq.attacks.merged_shards(shards, {0, 1})
    assert places([first]) == places(shards[:2])
    assert [first.participant, last.participant] == [0, 1]
    assert torch.equal(last.samples.x, shards[2].samples.x)


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (lambda shards: aq.attacks.sybils(shards, 3, 2), r"`who` must be a whole number in \[0, 2\], got 3"),
        (lambda shards: aq.attacks.sybils(shards, 0, 1), "`count` must be a whole number in .*, got 1"),
        (lambda shards: aq.attacks.merged_shards(shards, {1}), "`who` must be at least two of the 3 participants"),
        (lambda shards: aq.attacks.merged_shards(shards, {1, 3}), "`who` must be at least two of the 3 participants"),
        (lambda shards: aq.attacks.refilled(aq.MLP, {"x": torch.ones(1)}, aq.init_params(aq.MLP, 0)), "`reward` must"),
        (lambda shards: aq.attacks.ensemble([]), "`models` must be a sequence, each part a Module"),
        (lambda shards: aq.attacks.with_attack("fedavg", aq.attacks.free_rider), "`algorithm` must be a function"),
        (lambda shards: aq.attacks.with_attack(aq.baselines.fedavg, {2}), "`attack` must be a function"),
    ],
)
def test_bad_arguments_are_refused(few: aq.Dataset, config: aq.Config, attack, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        attack(aq.data.homogeneous(few.train, config))


def test_a_refilled_slice_is_the_slice_inside_and_the_start_outside() -> None:
    start, theta = aq.init_params(aq.MLP, 0), aq.init_params(aq.MLP, 1)
    wide = aq.attacks.refilled(aq.MLP, aq.slice_of(aq.MLP, theta, 0.3), start)
    again = aq.slice_of(aq.MLP, wide, 0.3)
    assert all(torch.equal(again[k], t) for k, t in aq.slice_of(aq.MLP, theta, 0.3).items())
    assert torch.equal(wide["2.weight"][100:], start["2.weight"][100:])
    assert torch.equal(start["2.weight"], aq.init_params(aq.MLP, 0)["2.weight"])  # the arguments are not written to


def test_an_ensemble_averages_probabilities(few: aq.Dataset) -> None:
    nets = [aq.slim(aq.MLP, aq.init_params(aq.MLP, seed), 1.0) for seed in (0, 1)]
    x = few.test.x[:20].float()
    together = aq.attacks.ensemble(nets)(x).exp()
    each = torch.stack([net(x).softmax(1) for net in nets])
    assert torch.allclose(together, each.mean(0), atol=1e-6)
    assert (aq.correct(aq.attacks.ensemble(nets[:1]), few.test) == aq.correct(nets[0], few.test)).all()


def test_an_attacked_algorithm_differs_in_its_strategy_alone(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.homogeneous(few.train, config)
    alone = [aq.slim(aq.MLP, aq.init_params(aq.MLP, 0), 1.0)] * 3
    problem = aq.Problem(aq.MLP, shards, config, few, alone, np.full(3, 0.1))
    fedavg, riders = aq.baselines.fedavg, partial(aq.attacks.free_rider, who={0, 1, 2})
    honest = fedavg(problem, train=quiet)
    same = aq.attacks.with_attack(fedavg, lambda strategy: strategy)(problem, train=quiet)
    idle = aq.attacks.with_attack(fedavg, riders)(problem, train=quiet)
    assert all(torch.equal(same.last.theta[k], t) for k, t in honest.last.theta.items())
    assert idle.method == same.method == "fedavg"
    start = aq.init_params(aq.MLP, config.seed)
    assert all(torch.allclose(idle.last.theta[k], start[k]) for k in start)  # nobody works, nothing moves
    assert not torch.allclose(honest.last.theta["2.weight"], start["2.weight"])


def test_an_attacked_algorithm_keeps_its_constants(few: aq.Dataset, config: aq.Config) -> None:
    alone = [aq.slim(aq.MLP, aq.init_params(aq.MLP, 0), 1.0)] * 3
    problem = aq.Problem(aq.MLP, aq.data.homogeneous(few.train, config), config, few, alone, np.full(3, 0.1))
    shared = aq.attacks.with_attack(partial(aq.baselines.lg_fedavg, shared=2), partial(aq.attacks.free_rider, who={0}))
    assert shared(problem, train=quiet).last.parameters_sent == 6 * (200 * 200 + 200 + 200 * 10 + 10)


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    return pd.read_csv(RESULTS / "attacks.csv")


def test_the_table_is_whole(measured: pd.DataFrame) -> None:
    about = json.loads((RESULTS / "about.json").read_text())
    assert sorted(measured["seed"].unique()) == about["seeds"]
    rows = measured.groupby(["method", "defence", "attack", "participant"]).size()
    compact = rows.index.get_level_values("method").isin(["fedsac", "fedrac"])  # tuned only where nothing was cut away
    tuned = rows.index.get_level_values("attack") == "tunes"
    assert (rows[~(compact & tuned)] == len(about["seeds"])).all()
    assert {"versions", "device", "date"} <= set(measured)
    known = measured[["alone", "honest", "reward", "others", "others_honest"]]
    assert ((known.isna()) | ((known >= 0) & (known <= 1))).all(axis=None)
    assert set(map(str, about["epsilon"])) == {
        each.split(", ")[1] for each in measured["defence"].unique() if each.startswith(("private", "dp_gaussian"))
    }


def test_pooled_slices_of_one_round_add_nothing_in_the_table(measured: pd.DataFrame) -> None:
    nested = measured["method"].str.match("fedavg$|aequa|earned")
    pools = measured[(measured["attack"] == "pools") & nested]
    assert len(pools) == pools["method"].nunique() * measured["seed"].nunique()
    assert {"fedavg", "aequa", "aequa(schedule='training_time')"} <= set(pools["method"])
    # the pool is the slice of the widest of the three, which is participant 2: to the bit, whatever the others hold
    widest = measured.query("attack == 'honest' and defence == 'none'").set_index(["seed", "method"])["reward"]
    assert (
        pools.set_index(["seed", "method"])["reward"] == widest.loc[list(zip(pools["seed"], pools["method"]))]
    ).all()
    # "honest" is the best reward of the three; that the widest is also the best holds where the curve decides the widths
    assert (pools["reward"] <= pools["honest"] + 1e-3).all()
    decided = pools[~pools["method"].str.startswith("earned")]
    assert np.allclose(decided["reward"], decided["honest"], atol=1e-3)


def test_what_is_made_of_a_reward_costs_the_others_nothing(measured: pd.DataFrame) -> None:
    after = measured[measured["attack"].isin(["keeps", "averages", "tunes", "grows", "votes", "pools"])]
    assert (after["others"] == after["others_honest"]).all()
