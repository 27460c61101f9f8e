"""Laws for every algorithm: the same start, the same batches, honest counts; and the limits in which each is FedAvg."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import asked, four, moved, problem, quiet, rounds_of, same, start, strategy_of

import aequa_lite as aq
from aequa_lite.baselines import (
    cffl,
    cgsv,
    fedavg,
    fedavg_finetuned,
    fedrac,
    fedsac,
    iafl,
    lg_fedavg,
    shapfed,
    shapfed_wa,
)
from aequa_lite.baselines.common import own_network
from aequa_lite.checkpoint import describe
from aequa_lite.method import slimmable_rewards, train

BASELINES = {
    "fedavg": fedavg,
    "fedavg by contribution": partial(fedavg, by_contribution=True),
    "fedavg with momentum of the server": partial(fedavg, server=aq.aggregation.fedavgm(0.5)),
    "fedavg_finetuned": fedavg_finetuned,
    "lg_fedavg": lg_fedavg,
    "cffl": cffl,
    "cffl, a tenth uploaded": partial(cffl, upload=0.1),
    "cffl as released": partial(cffl, upload=0.1, released=True),
    "cgsv": cgsv,
    "iafl": partial(iafl, recovery=0.3),
    "shapfed": shapfed,
    "shapfed_wa": shapfed_wa,
    "fedsac": partial(fedsac, beta=20.0, every=2, samples=50),
    "fedrac": partial(fedrac, widths=5),
    "fedrac with the released constants": partial(fedrac, widths=5, released=True),
}
WITH_WIDTHS = {
    "aequa": slimmable_rewards,
    "aequa while training": partial(slimmable_rewards, schedule=aq.training_time()),
}
CONTRIBUTION = [0.4, 0.6, 0.7]
each_baseline = pytest.mark.parametrize("algorithm", BASELINES.values(), ids=list(BASELINES))


@pytest.fixture(scope="module")
def shards(few: aq.Dataset) -> list[aq.Shard]:
    return aq.data.by_size(few.train, aq.Config(participants=3), sizes=(40, 120, 360))


def a_problem(few: aq.Dataset, config: aq.Config, shards: list[aq.Shard]) -> aq.Problem:
    alone = [aq.slim(aq.MLP, aq.init_params(aq.MLP, i), 1.0) for i in range(3)]
    return aq.Problem(aq.MLP, shards, config, few, alone, np.array(CONTRIBUTION))


@pytest.fixture
def task(few: aq.Dataset, config: aq.Config, shards: list[aq.Shard]) -> aq.Problem:
    return a_problem(few, config, shards)


@pytest.fixture
def equal(few: aq.Dataset, config: aq.Config) -> aq.Problem:
    """Equal shards: weights by size and by head are the same."""
    return a_problem(few, config, aq.data.homogeneous(few.train, config))


# --- laws for every algorithm ---


@pytest.mark.parametrize("name", [*WITH_WIDTHS, *BASELINES])
def test_an_algorithm_rewards_everybody_with_an_ordinary_network_of_the_final_round(name: str, task) -> None:
    found = (WITH_WIDTHS | BASELINES)[name](task, train=quiet)
    assert found.last.index == task.config.rounds - 1
    assert len(found.models) == 3
    assert (found.plan is None) == (found.curve is None) == (name not in WITH_WIDTHS)
    assert found.last.total_left_out == ()
    assert found.seconds > 0
    report = found.report
    assert report.widths == (None if name not in WITH_WIDTHS else tuple(round(w, 6) for w in found.plan.widths))
    before = {k: t.clone() for k, t in {**found.last.theta, **found.last.state.memory}.items()}
    for net in found.models:
        for p in net.parameters():
            p.data.add_(1)
    assert same(before, {**found.last.theta, **found.last.state.memory})  # a reward shares no memory with the server


@each_baseline
def test_all_start_from_the_same_network_and_see_the_same_batches(algorithm, task: aq.Problem) -> None:
    first, plain = rounds_of(algorithm, task)[0], rounds_of(fedavg, task)[0]
    for a, b in zip(first.updates, plain.updates, strict=True):
        assert same(a.state, b.state)


@each_baseline
def test_the_vectorized_path_gives_the_same_updates(algorithm, task: aq.Problem) -> None:
    together, apart = (rounds_of(algorithm, task, vectorized=vectorized) for vectorized in (True, False))
    for a, b in zip(together[0].updates, apart[0].updates, strict=True):
        assert same(a.state, b.state, rtol=1e-4, atol=1e-5)
    assert together[0].parameters_sent == apart[0].parameters_sent
    assert all(torch.isfinite(t).all() for t in together[-1].theta.values())


@each_baseline
def test_the_same_seed_gives_the_same_bits_and_a_killed_run_ends_in_them(algorithm, task, tmp_path: Path) -> None:
    whole = algorithm(task, train=partial(quiet, workers=1))
    path = tmp_path / "state.safetensors"
    strategy, options = asked(algorithm, task)
    killed = aq.federate(task.build, task.shards, task.config, strategy=strategy, checkpoint=path, progress=False,
                         **options)  # fmt: skip
    next(killed)
    killed.close()
    rest = algorithm(task, train=partial(quiet, checkpoint=path, workers=2))
    assert same(whole.last.theta, rest.last.theta)
    assert same(whole.last.state.memory, rest.last.state.memory)
    assert whole.last.total_sent == rest.last.total_sent
    assert all(same(a.state_dict(), b.state_dict()) for a, b in zip(whole.models, rest.models, strict=True))


def test_every_strategy_has_an_identity_of_its_own(task: aq.Problem) -> None:
    told = {name: str(describe(list(asked(algorithm, task)))) for name, algorithm in BASELINES.items()}
    del told["fedavg_finetuned"]  # it trains as fedavg
    assert len(set(told.values())) == len(told)


@each_baseline
def test_who_is_absent_or_not_finite_spoils_no_round(algorithm, task: aq.Problem) -> None:
    half = replace(task, config=replace(task.config, participation=0.7, rounds=5))

    def poisoned(strategy: aq.Strategy, *args, **options) -> aq.Update:
        update = strategy.local(*args, **options)
        if update.participant == 1 and options["first"] == 0:
            update.state["2.bias"][0] = float("nan")
        return update

    def attack(strategy: aq.Strategy) -> aq.Strategy:
        return replace(strategy, local=partial(poisoned, strategy))

    found = aq.attacks.with_attack(algorithm, attack)(half, train=quiet)
    assert all(torch.isfinite(t).all() for net in found.models for t in net.state_dict().values())


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "fedavg by contribution"])
def test_no_baseline_uses_our_aggregation_weights(name: str, task: aq.Problem) -> None:
    ours = replace(task, config=replace(task.config, size_power=0.5, contribution_power=3.0))
    one, other = (asked(BASELINES[name], each)[1]["weights"] for each in (task, ours))
    assert np.array_equal(one, other)


def test_every_word_is_a_baseline() -> None:
    words = set(aq.registry.TABLES["algorithm"]) - {"aequa"}
    assert words <= set(BASELINES)
    assert all(getattr(BASELINES[word], "func", BASELINES[word]) is aq.registry.algorithm(word) for word in words)


@pytest.mark.parametrize(
    ("algorithm", "sentence"),
    [
        (partial(fedavg, by_contribution=1), "`by_contribution` must be True or False, got 1"),
        (partial(cgsv, beta=0), "`beta` must be a number above 0, got 0"),
        (partial(cgsv, length=float("nan")), "`length` must be a number above 0, got nan"),
        (partial(cgsv, alpha=1.0), r"`alpha` must be a number in \[0, 1\), got 1.0"),
        (partial(cffl, upload=0), r"`upload` must be a number in \(0, 1\], got 0"),
        (partial(cffl, clip=0.0), "`clip` must be a number above 0 or None, got 0.0"),
        (partial(cffl, memory=1.0), r"`memory` must be a number in \[0, 1\), got 1.0"),
        (partial(cffl, threshold=1.2), r"`threshold` must be a number in \[0, 1\], got 1.2"),
        (partial(cffl, released=1), "`released` must be True or False, got 1"),
        (partial(iafl, kappa=2.0), r"`kappa` must be a number in \[0, 1\], got 2.0"),
        (partial(iafl, recovery=-0.1), r"`recovery` must be a number in \[0, 1\], got -0.1"),
        (partial(lg_fedavg, shared=0), "`shared` must be a whole number from 1, got 0"),
        (partial(shapfed, memory=1.0), r"`memory` must be a number in \[0, 1\), got 1.0"),
        (partial(shapfed, relative="yes"), "`relative` must be True or False, got 'yes'"),
        (partial(shapfed_wa, memory=True), r"`memory` must be a number in \[0, 1\), got True"),
        (partial(fedsac, beta=-1.0), "`beta` must be a number from 0, got -1.0"),
        (partial(fedsac, every=0.5), "`every` must be a whole number from 1, got 0.5"),
        (partial(fedsac, samples=0), "`samples` must be a whole number from 1, got 0"),
        (partial(fedsac, prune_outputs=None), "`prune_outputs` must be True or False, got None"),
        (partial(fedrac, beta=-1), "`beta` must be a number from 0, got -1"),
        (partial(fedrac, released="yes"), "`released` must be True or False, got 'yes'"),
        (partial(fedrac, widths=0), "`widths` must be a whole number from 1, got 0"),
    ],
)
def test_a_bad_constant_is_refused_before_any_work(algorithm, sentence: str, task: aq.Problem) -> None:
    with pytest.raises(ValueError, match=sentence):
        asked(algorithm, task)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("fedav", "the nearest is 'fedavg'"),
        ("fedavg(1)", "by_contribution` must be True or False, got 1"),
        ("cgsv(size=1)", "length"),
    ],
)
def test_a_word_that_names_no_algorithm_is_refused(word: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        aq.registry.algorithm(word)


def test_a_baseline_is_its_function_however_it_is_imported() -> None:
    assert import_module("aequa_lite.baselines.fedavg").fedavg is fedavg  # the file has the name of its function
    assert aq.baselines.fedavg is fedavg
    assert all(callable(getattr(aq.baselines, name)) for name in aq.baselines.__all__)


# --- what travels ---


def test_a_whole_network_is_counted_down_and_up(task: aq.Problem) -> None:
    size = aq.n_parameters(aq.MLP())
    for algorithm in (fedavg, fedavg_finetuned, iafl, shapfed, shapfed_wa):
        assert {rnd.parameters_sent for rnd in rounds_of(algorithm, task)} == {2 * 3 * size}


def test_ones_own_layers_are_never_sent(task: aq.Problem) -> None:
    head, body = 200 * 10 + 10, 200 * 200 + 200
    assert {rnd.parameters_sent for rnd in rounds_of(lg_fedavg, task)} == {6 * head}
    assert {rnd.parameters_sent for rnd in rounds_of(partial(lg_fedavg, shared=2), task)} == {6 * (head + body)}


# --- FedAvg, and the limits in which others are it ---


def test_fedavg_is_fedavg(task: aq.Problem) -> None:
    strategy = aq.slimmable(aq.MLP, aq.full_only)
    *_, last = aq.federate(aq.MLP, task.shards, task.config, strategy=strategy, progress=False)
    found = fedavg(task, train=quiet)
    assert same(found.last.theta, last.theta)
    assert all(same(net.state_dict(), last.theta) for net in found.models)


def test_fedavg_worked_by_hand() -> None:
    strategy, options = asked(fedavg, problem([3, 1]))
    assert options["weights"].tolist() == [0.75, 0.25]
    after = strategy.aggregate(
        start(), moved(start(), [[4.0, 0.0, 1.0, 0.0], [0.0, 8.0, 1.0, 0.0]], options["weights"])
    )
    assert four(after) == [3.0, 2.0, 1.0, 0.0]


def test_fedavg_by_contribution_weighs_as_aequa_does() -> None:
    task = problem([3, 1], [0.2, 0.6], contribution_power=1.0, size_power=1.0)
    _, options = asked(partial(fedavg, by_contribution=True), task)
    assert options["weights"].tolist() == pytest.approx([0.5, 0.5])  # 3 x 0.2 against 1 x 0.6
    _, ours = asked(slimmable_rewards, task)
    assert np.array_equal(options["weights"], ours["weights"])


def test_fedavg_with_momentum_of_the_server_worked_by_hand() -> None:
    strategy, options = asked(partial(fedavg, server=aq.aggregation.fedavgm(0.5)), problem([3, 1]))
    state, nobody = start(), [0.0] * 4
    state = strategy.aggregate(state, moved(state, [[4.0, 0.0, 0.0, 0.0], nobody], options["weights"]))
    assert four(state) == [3.0, 0.0, 0.0, 0.0]
    state = strategy.aggregate(state, moved(state, [nobody, nobody], options["weights"]))
    assert four(state) == [4.5, 0.0, 0.0, 0.0]


def test_fine_tuning_is_one_epoch_from_the_global_model_at_the_initial_rate(task: aq.Problem) -> None:
    found, config = fedavg_finetuned(task, train=quiet), task.config
    assert same(found.last.theta, rounds_of(fedavg, task)[-1].theta)
    constant = replace(config, lr_final=1.0)
    assert {constant.lr_at(step) for step in range(30)} == {config.lr}
    for i, shard in enumerate(task.shards):
        rng, steps = aq.stream(config.seed, "finetune", i), (3, 8, 23)[i]  # 40, 120, 360 samples in batches of 16
        by_hand = aq.local_sgd(
            aq.MLP, found.last.theta, shard, 1.0, constant, rng, width_sampler=aq.full_only, steps=steps
        )
        assert same(found.models[i].state_dict(), by_hand.state)


def test_fine_tuning_without_shards_is_refused_before_any_work(task: aq.Problem) -> None:
    absent = replace(task.shards[0], samples=replace(task.shards[0].samples, x=None))
    with pytest.raises(ValueError, match="`shards` must be in this process"):
        asked(fedavg_finetuned, replace(task, shards=[absent, *task.shards[1:]]))


def test_sharing_every_layer_among_equals_is_fedavg(equal: aq.Problem) -> None:
    last = rounds_of(partial(lg_fedavg, shared=3), equal)[-1]
    assert same(last.theta, rounds_of(fedavg, equal)[-1].theta)


def test_lower_layers_are_ones_own_and_the_last_is_everybodys(task: aq.Problem) -> None:
    found = lg_fedavg(task, train=quiet)
    nets = [net.state_dict() for net in found.models]
    assert all(torch.equal(nets[0]["6.weight"], net["6.weight"]) for net in nets)
    assert not torch.equal(nets[0]["2.weight"], nets[1]["2.weight"])
    first = rounds_of(lg_fedavg, task)[0]
    assert torch.equal(first.state.memory["participant/0/2.weight"], first.updates[0].state["2.weight"])


def test_lg_fedavg_worked_by_hand() -> None:
    def two(width: float = 1.0) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False))

    strategy = strategy_of(lg_fedavg, problem([5, 1], build=two))
    before = aq.ServerState({"0.weight": torch.zeros(1, 1), "1.weight": torch.zeros(1, 1)})
    ends = [{"0.weight": torch.full((1, 1), a), "1.weight": torch.full((1, 1), b)} for a, b in ((1.0, 2.0), (3.0, 6.0))]
    updates = [aq.Update(i, 1.0, end, 0.5, 0.0) for i, end in enumerate(ends)]
    after = strategy.aggregate(before, updates)
    found = [[t.item() for t in own_network(after, i).values()] for i in range(2)]
    assert found == [[1.0, 4.0], [3.0, 4.0]]  # own first layer, the plain average of the second
    assert strategy.sent(after, updates) == 4


# --- ShapFed, by hand ---


@pytest.mark.parametrize("algorithm", [shapfed, shapfed_wa])
def test_where_all_send_the_same_shapfed_is_fedavg(algorithm) -> None:
    strategy = strategy_of(algorithm, problem([2, 2, 2]))
    after = strategy.aggregate(start(), moved(start(), [[1.0, 2.0, 3.0, 4.0]] * 3))
    assert torch.allclose(after.theta["0.weight"].flatten(), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    for i in range(3):
        assert torch.allclose(strategy.broadcast(after, i, 1.0)["0.weight"], after.theta["0.weight"])


def test_shapfed_worked_by_hand() -> None:
    strategy = strategy_of(shapfed, problem([2, 2]))
    # class 0: both point the same way, cosine 1; class 1: they cancel out, and nobody is aligned with nothing
    after = strategy.aggregate(start(), moved(start(), [[1.0, 0.0, 0.0, 2.0], [3.0, 0.0, 0.0, -2.0]]))
    assert after.memory["standing"].tolist() == pytest.approx([0.5, 0.5])
    assert four(after) == [2.0, 0.0, 0.0, 0.0]
    assert four(after, 0) == [1.5, 0.0, 0.0, 1.0]  # half its own, half the global model
    assert four(after, 1) == [2.5, 0.0, 0.0, -1.0]
    again = strategy.aggregate(after, moved(after, [[1.0, 0.0, 0.0, 1.0]] * 2))  # both the same: cosines of 1
    assert again.memory["standing"].tolist() == pytest.approx([0.9 * 0.5 + 0.1] * 2)


def test_shapfed_wa_worked_by_hand() -> None:
    strategy = strategy_of(shapfed_wa, problem([9, 1]))
    # class 0: the sum is (4, 4), cosines 1 and 1; class 1: the sum is (0, 3), cosines 1 and 0: standings 1 and 1/2
    updates = moved(start(), [[1.0, 1.0, 0.0, 3.0], [3.0, 3.0, 0.0, 0.0]])
    after = strategy.aggregate(start(), updates)
    assert after.memory["standing"].tolist() == pytest.approx([1.0, 0.5])
    assert four(after) == pytest.approx([5 / 3, 5 / 3, 0.0, 2.0], abs=1e-6)  # 2/3 of one, 1/3 of the other: not by size


def test_relative_standings_mix_the_best_one_completely() -> None:
    strategy = strategy_of(partial(shapfed, relative=True), problem([2, 2]))
    after = strategy.aggregate(start(), moved(start(), [[1.0, 0.0, 0.0, 2.0], [3.0, 0.0, 0.0, -2.0]]))
    assert four(after, 0) == four(after, 1) == [2.0, 0.0, 0.0, 0.0]


def test_a_standing_below_zero_mixes_nothing_in() -> None:
    strategy = strategy_of(shapfed, problem([2, 2, 2]))
    after = strategy.aggregate(start(), moved(start(), [[1.0, 1.0, 1.0, 1.0]] * 2 + [[-1.0, -1.0, -1.0, -1.0]]))
    assert after.memory["standing"][2] == pytest.approx(-1.0)
    assert four(after, 2) == [-1.0] * 4
    assert after.theta["0.weight"][0, 0] == pytest.approx(1.0, abs=0.01)  # and it hardly weighs


def test_all_that_decides_a_reward_is_measured_on_validation(task: aq.Problem) -> None:
    told = []

    def schedule(build, samples: aq.Samples, contribution: np.ndarray):
        told.append((samples, contribution))
        return aq.full_width

    config = replace(task.config, rounds=1, grid=20, fractions=2, schedule_logit_adjustment=0.5)
    found = slimmable_rewards(replace(task, config=config), schedule=schedule, train=quiet)
    ((samples, contribution),) = told
    assert samples is task.validation
    assert contribution is task.contribution
    curve = aq.reward_curve(aq.MLP, found.last.theta, task.validation, config)
    assert np.array_equal(found.curve.correct, curve.correct)
    assert found.last.identity["config"]["logit_adjustment"] == 0.5
    assert found.last.identity["weights"] == aq.aggregation_weights(task.shards, config, contribution).tolist()
    assert found.rewarding["fractions"] == 2
    alone = aq.method.standalone_accuracy(found.models, task.shards, task.data)
    assert alone.tolist() == aq.accuracy(found.models, task.validation).tolist()
    assert alone.tolist() != aq.accuracy(found.models, task.data.test).tolist()


def test_who_trains_by_train_is_trained_once(task: aq.Problem) -> None:
    calls = []

    def counting(*args, **options) -> aq.Round:
        calls.append(options)
        return train(*args, progress=False, **options)

    for algorithm in BASELINES.values():
        algorithm(task, train=counting)
    assert len(calls) == len(BASELINES)
