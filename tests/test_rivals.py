"""Rivals under one set of laws: the same start, the same batches, honest counts; and the limits in which each is FedAvg."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import held, moved, start
from toys import task as toy

import aequa_lite as aq

WORDS = ("aequa", "earned", "fedavg", "finetuned(0.4)", "lg_fedavg", "cffl", "cgsv", "iafl(recovery=0.3)", "shapfed",
         "shapfed_wa", "submodels(20.0, every=2, samples=50)")  # fmt: skip
RIVALS, WITH_WIDTHS = WORDS[2:], WORDS[:2]
BROUGHT = [0.4, 0.6, 0.7]


@pytest.fixture(scope="module")
def shards(few: aq.Dataset) -> list[aq.Shard]:
    return aq.data.by_size(few.train, aq.Config(participants=3), sizes=(40, 120, 360))


@pytest.fixture
def task(few: aq.Dataset, config: aq.Config, shards: list[aq.Shard]) -> aq.Problem:
    return aq.Problem(aq.MLP, shards, config, few.validation, np.array(BROUGHT))


@pytest.fixture
def equal(few: aq.Dataset, config: aq.Config) -> aq.Problem:
    """Equal shards: the share of the samples and the share of the heads are the same."""
    return aq.Problem(aq.MLP, aq.data.homogeneous(few.train, config), config, few.validation, np.array(BROUGHT))


def rounds(word: str, task: aq.Problem, **options) -> list[aq.Round]:
    entry = aq.registry.algorithm(word).enter(task)
    options = {"scheme": entry.strategy, "weights": entry.weights.tolist(), "progress": False, **options}
    return list(aq.federate(task.build, task.shards, task.config, **options))


def paid(word: str, task: aq.Problem, last: aq.Round) -> list[dict[str, torch.Tensor]]:
    return [net.state_dict() for net in aq.registry.algorithm(word).enter(task).pay(last).models]


def alike(a, b, **close) -> bool:
    return set(a) == set(b) and all(torch.allclose(a[k], b[k], **(close or {"rtol": 0, "atol": 0})) for k in a)


# --- laws for every method ---


@pytest.mark.parametrize("word", WORDS)
def test_a_method_pays_everybody_an_ordinary_network_of_the_final_round(word, few, config, shards) -> None:
    alone = aq.standalone(aq.MLP, shards, config, progress=False)
    found = aq.registry.algorithm(word).run(aq.MLP, shards, config, few, alone, progress=False)
    assert found.last.index == config.rounds - 1
    assert len(found.models) == 3
    assert (found.plan is None) == (found.curve is None) == (word not in WITH_WIDTHS)
    assert found.left_out == ()
    judged = aq.report(found.models, alone, found.plan, found.curve, few, config, method=word)
    assert judged.widths == (None if word not in WITH_WIDTHS else tuple(round(w, 6) for w in found.plan.widths))
    before = {k: t.clone() for k, t in found.last.state.items()}
    for net in found.models:
        for p in net.parameters():
            p.data.add_(1)
    assert alike(before, found.last.state)  # what goes home shares no memory with what the server keeps


@pytest.mark.parametrize("word", RIVALS)
def test_all_start_from_the_same_network_and_see_the_same_batches(word: str, task: aq.Problem) -> None:
    first, plain = (next(iter(rounds(each, task))) for each in (word, "fedavg"))
    for a, b in zip(first.updates, plain.updates, strict=True):
        assert alike(a.state, b.state)


@pytest.mark.parametrize("word", RIVALS)
def test_all_trained_in_one_pass_say_the_same(word: str, task: aq.Problem) -> None:
    whole, apart = (rounds(word, task, vectorized=vectorized) for vectorized in (True, False))
    for a, b in zip(whole[0].updates, apart[0].updates, strict=True):
        assert alike(a.state, b.state, rtol=1e-4, atol=1e-5)
    assert whole[0].parameters_sent == apart[0].parameters_sent
    assert all(torch.isfinite(t).all() for t in whole[-1].theta.values())


@pytest.mark.parametrize("word", RIVALS)
def test_the_same_seed_gives_the_same_bits_and_a_killed_run_ends_in_them(
    word, task: aq.Problem, tmp_path: Path
) -> None:
    whole = rounds(word, task, count=1)[-1]
    entry, path = aq.registry.algorithm(word).enter(task), tmp_path / "theta.safetensors"
    options = {"scheme": entry.strategy, "weights": entry.weights.tolist(), "progress": False, "checkpoint": path}
    broken_off = aq.federate(task.build, task.shards, task.config, **options)
    next(broken_off)
    broken_off.close()
    rest = list(aq.federate(task.build, task.shards, task.config, **options, count=2))
    assert [rnd.index for rnd in rest] == [1, 2]
    assert alike(whole.state, rest[-1].state)


@pytest.mark.parametrize("word", RIVALS)
def test_what_is_not_finite_or_not_there_spoils_no_round(word: str, task: aq.Problem) -> None:
    half = replace(task, config=replace(task.config, participation=0.7, rounds=5))
    entry = aq.registry.algorithm(word).enter(half)

    def poisoned(*args, **options) -> aq.Update:
        update = entry.strategy.local(*args, **options)
        if update.participant == 1 and options["first"] == 0:
            update.state["2.bias"][0] = float("nan")
        return update

    *_, last = rounds(word, half, strategy=replace(entry.strategy, local=poisoned))
    assert all(torch.isfinite(t).all() for net in paid(word, half, last) for t in net.values())


@pytest.mark.parametrize("word", RIVALS)
def test_nobodys_merge_weights_are_taken_from_our_recipe(word: str, task: aq.Problem) -> None:
    ours = replace(task, config=replace(task.config, size_power=0.5, contribution_power=3.0))
    assert np.array_equal(
        aq.registry.algorithm(word).enter(task).weights, aq.registry.algorithm(word).enter(ours).weights
    )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("fedav", "nearest is 'fedavg'"),
        ("fedavg(1)", "no values"),
        ("cgsv(beta=0)", "beta is 0"),
        ("cgsv(0.5, 1.0, alpha=1.0)", "alpha is 1.0"),
        ("cffl(0)", "upload is 0"),
        ("iafl(2.0)", "kappa is 2.0"),
        ("iafl(recovery=-0.1)", "recovery is -0.1"),
        ("finetuned(1.0)", "share is 1.0"),
        ("lg_fedavg(0)", "shared is 0"),
        ("shapfed(memory=1.0)", "memory is 1.0"),
        ("submodels(-1.0)", "beta is -1.0"),
        ("aequa('sandwic')", "nearest is 'sandwich'"),
    ],
)
def test_a_word_or_a_constant_that_makes_no_method_is_refused_before_any_work(word: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aq.registry.algorithm(word)


def test_published_constants_are_the_defaults(task: aq.Problem) -> None:
    for short, long in (
        ("cgsv", "cgsv(length=0.5, beta=1.0, alpha=0.95)"),
        ("cffl", "cffl(upload=0.1, alpha=5.0, memory=0.2, threshold=0.3333333333333333)"),
        ("iafl", "iafl(kappa=0.0, recovery=0.0)"),
        ("shapfed", "shapfed(memory=0.9)"),
        ("lg_fedavg", "lg_fedavg(shared=1)"),
        ("submodels", "submodels(beta=80.0, every=10)"),
    ):
        assert alike(rounds(short, task)[-1].state, rounds(long, task)[-1].state)


# --- what travels ---


def test_what_a_whole_network_costs_is_counted_down_and_up(task: aq.Problem) -> None:
    size = aq.n_parameters(aq.MLP())
    for word in ("fedavg", "iafl", "shapfed", "shapfed_wa"):
        assert {rnd.parameters_sent for rnd in rounds(word, task)} == {2 * 3 * size}


def test_who_tunes_alone_sends_nothing_more_than_receives_the_network_once(task: aq.Problem) -> None:
    size, longer = aq.n_parameters(aq.MLP()), replace(task, config=replace(task.config, rounds=5))
    assert [rnd.parameters_sent for rnd in rounds("finetuned(0.4)", longer)] == [6 * size] * 3 + [3 * size, 0]


def test_layers_of_ones_own_are_never_sent(task: aq.Problem) -> None:
    head, body = 200 * 10 + 10, 200 * 200 + 200
    assert {rnd.parameters_sent for rnd in rounds("lg_fedavg", task)} == {6 * head}
    assert {rnd.parameters_sent for rnd in rounds("lg_fedavg(2)", task)} == {6 * (head + body)}


# --- FedAvg, and the limits in which others are it ---


def test_fedavg_is_fedavg(task: aq.Problem) -> None:
    ours = aq.federate(aq.MLP, task.shards, task.config, strategy=aq.slimmable(aq.MLP, aq.full_only), progress=False)
    *_, last = ours
    found = rounds("fedavg", task)[-1]
    assert alike(found.theta, last.theta)
    assert all(alike(net, last.theta) for net in paid("fedavg", task, found))


def test_tuning_for_no_round_is_fedavg(task: aq.Problem) -> None:
    last = rounds("finetuned(0.0)", task)[-1]
    assert alike(last.theta, rounds("fedavg", task)[-1].theta)
    assert all(alike(net, last.theta) for net in paid("finetuned(0.0)", task, last))


def test_tuning_goes_on_from_fedavg_on_ones_own_shard(task: aq.Problem) -> None:
    together, config = rounds("fedavg", task)[1], task.config
    tuned = paid("finetuned(0.4)", task, rounds("finetuned(0.4)", task)[-1])  # one round of three
    for i, shard in enumerate(task.shards):
        draws = aq.stream(config.seed, "local", 2, i)
        options = {"draw": aq.full_only, "first": 2 * config.local_steps}
        by_hand = aq.local_sgd(aq.MLP, together.theta, shard, 1.0, config, draws, **options)
        assert alike(tuned[i], by_hand.state, rtol=1e-5, atol=1e-6)


def test_sharing_every_layer_among_equals_is_fedavg(equal: aq.Problem) -> None:
    last = rounds("lg_fedavg(3)", equal)[-1]
    assert alike(last.theta, rounds("fedavg", equal)[-1].theta)


def test_lower_layers_are_ones_own_and_the_last_is_everybodys(task: aq.Problem) -> None:
    nets = paid("lg_fedavg", task, rounds("lg_fedavg", task)[-1])
    assert all(torch.equal(nets[0]["6.weight"], net["6.weight"]) for net in nets)
    assert not torch.equal(nets[0]["2.weight"], nets[1]["2.weight"])
    first = rounds("lg_fedavg", task)[0]
    assert torch.equal(first.state["2.weight of participant 0"], first.updates[0].state["2.weight"])


# --- ShapFed, by hand ---


@pytest.mark.parametrize("word", ["shapfed", "shapfed_wa"])
def test_where_all_send_the_same_shapfed_is_fedavg(word: str) -> None:
    strategy = aq.registry.algorithm(word).enter(toy([2, 2, 2])).strategy
    after = strategy.merge(start(), moved(start(), [[1.0, 2.0, 3.0, 4.0]] * 3))
    assert torch.allclose(after["0.weight"].flatten(), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    for i in range(3):
        assert torch.allclose(strategy.broadcast(after, i, 1.0)["0.weight"], after["0.weight"])


def test_shapfed_worked_by_hand() -> None:
    strategy = aq.baselines.shapfed().enter(toy([2, 2])).strategy
    # class 0: both point the same way, cosine 1; class 1: they cancel out, and nobody is aligned with nothing
    after = strategy.merge(start(), moved(start(), [[1.0, 0.0, 0.0, 2.0], [3.0, 0.0, 0.0, -2.0]]))
    assert after["standing of participants"].tolist() == pytest.approx([0.5, 0.5])
    assert after["0.weight"].flatten().tolist() == [2.0, 0.0, 0.0, 0.0]
    assert held(after, 0) == [1.5, 0.0, 0.0, 1.0]  # half its own, half the shared one
    assert held(after, 1) == [2.5, 0.0, 0.0, -1.0]
    again = strategy.merge(after, moved(after, [[1.0, 0.0, 0.0, 1.0]] * 2))  # both the same: cosines of 1
    assert again["standing of participants"].tolist() == pytest.approx([0.9 * 0.5 + 0.1] * 2)


def test_a_standing_below_zero_mixes_nothing_in() -> None:
    strategy = aq.baselines.shapfed().enter(toy([2, 2, 2])).strategy
    after = strategy.merge(start(), moved(start(), [[1.0, 1.0, 1.0, 1.0]] * 2 + [[-1.0, -1.0, -1.0, -1.0]]))
    assert after["standing of participants"][2] == pytest.approx(-1.0)
    assert held(after, 2) == [-1.0] * 4
    assert after["0.weight"][0, 0] == pytest.approx(1.0, abs=0.01)  # and it hardly counts
