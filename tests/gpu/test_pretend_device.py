"""Everything that computes, as on a machine with a GPU: no tensor meets one of another device, numbers are the CPU's.

The GPU is the one of `pretend_cuda.py`, so that a machine without one finds out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pretend_cuda import Device, pretend_cuda

import aequa_lite as aq
from aequa_lite import contribution, vectorized
from aequa_lite._validation import checked_update
from aequa_lite.baselines.subnetworks import importance
from aequa_lite.experiments.sweep import gather, read_sweep, run_sweep
from aequa_lite.local import class_shares
from aequa_lite.registry import TABLES, algorithm, lookup

CONFIG = aq.Config(participants=3, rounds=2, local_steps=2, batch=16, grid=20, fractions=2)
NETS = {"MLP": (aq.MLP, {}), "LeNet": (aq.LeNet, {}), "ResNet18": (aq.networks.ResNet18, {"channels": 4})}
VALUES = {  # of the words that need some
    "dp_gaussian": "dp_gaussian(1.0, 0.1, seed=0)",
    "anneal": "anneal(steps=20)",
    "capped": "capped(2.0)",
    "thresholded": "thresholded(0.1)",
}
KNOWN = ("2.14",)  # versions of torch; the pretend device uses interfaces that change without notice

REAL = torch.cuda.is_available()
unknown = not REAL and not torch.__version__.startswith(KNOWN)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(unknown, reason=f"the pretend GPU knows torch {KNOWN}, not {torch.__version__}"),
]
SUMS = 5e-6 if REAL else 1e-6  # a real GPU sums in another order
pretend_only = pytest.mark.skipif(REAL, reason="a real GPU is here: `python benchmarks/gpu.py` measures it")


@pytest.fixture
def device() -> Iterator[Device | None]:
    """The pretend GPU, or the real one where there is one."""
    with nullcontext() if REAL else pretend_cuda() as found:
        yield found


def place(device: str | None = None) -> tuple[aq.Dataset, list[aq.Shard]]:
    """A little data, and three shards; on the GPU unless told otherwise."""
    data = aq.load("fashion-mini", device=device)
    sizes = {"train": 300, "validation": 100, "test": 100}
    few = replace(data, **{k: getattr(data, k).take(slice(0, n)) for k, n in sizes.items()})
    return few, aq.data.by_size(few.train, CONFIG, sizes=(20, 60, 120))


def final(build, shards: list[aq.Shard], config: aq.Config = CONFIG, **options) -> aq.Round:
    *_, last = aq.federate(build, shards, config, progress=False, **options)
    return last


def on_gpu(state: aq.types.State) -> bool:
    return all(t.is_cuda for t in state.values())


@pytest.mark.parametrize("at_once", [None, False], ids=["vectorised", "one by one"])
@pytest.mark.parametrize("name", NETS)
def test_a_federation_is_the_cpus(device: Device, name: str, at_once: bool | None) -> None:
    (here, mine), (data, shards) = place("cpu"), place()
    build = aq.for_dataset(NETS[name][0], here, **NETS[name][1])
    assert data.train.x.is_cuda
    config = replace(CONFIG, rounds=1) if name == "ResNet18" else CONFIG
    there, plain = final(build, shards, config, vectorized=at_once), final(build, mine, config)
    assert on_gpu(there.theta)
    for key, t in plain.theta.items():
        torch.testing.assert_close(there.theta[key].cpu(), t, atol=1e-4, rtol=1e-3)


def test_vectorised_training_is_the_default_on_a_gpu(device: Device) -> None:
    _, shards = place()
    assert final(aq.MLP, shards).identity["vectorized"] == len(shards)


@pretend_only
def test_a_card_that_holds_one_network_trains_one_by_one(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    _, shards = place()
    least = 2 * vectorized.participant_bytes(aq.MLP, 1.0, shards[-1], CONFIG)  # half of a card is for one pass
    for memory, at_once in ((4 * least, True), (least, False)):
        card = lambda device, memory=memory: SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", card)
        assert final(aq.MLP, shards, replace(CONFIG, rounds=1)).identity["vectorized"] == at_once * CONFIG.participants


@pytest.mark.parametrize("at_once", [None, False], ids=["vectorised", "one by one"])
@pytest.mark.parametrize("name", ["MLP", "LeNet"])
def test_deterministic_training_gives_the_same_bits_twice(device: Device, name: str, at_once: bool | None) -> None:
    data, shards = place()
    build = aq.for_dataset(NETS[name][0], data)
    one, two = (final(build, shards, vectorized=at_once, deterministic=True) for _ in range(2))
    assert one.identity["deterministic"] is True
    assert all(torch.equal(t.cpu(), two.theta[k].cpu()) for k, t in one.theta.items())
    assert len(aq.standalone(build, shards, CONFIG, deterministic=True, progress=False)) == 3


def test_a_federation_of_batch_norms_is_trained_one_by_one(device: Device) -> None:
    data, shards = place()
    build = aq.for_dataset(aq.networks.BatchResNet18, data, channels=4)
    last = final(build, shards, replace(CONFIG, rounds=1))
    net = aq.networks.recalibrate_batchnorm(aq.slim(build, last.theta, 0.5), data.train.take(slice(0, 40)))
    assert aq.accuracy([net], data.test).shape == (1,)


@pytest.mark.parametrize("schedule", [None, aq.training_time()], ids=["post-training", "training-time"])
def test_the_method_and_its_rewards(device: Device, tmp_path: Path, schedule) -> None:
    (here, mine), (data, shards) = place("cpu"), place()
    outcome = aq.aequa(aq.MLP, shards, CONFIG, data, schedule=schedule, progress=False)
    assert aq.correct(outcome.models[0], here.test).shape == (100,)  # samples of the CPU, a network of the GPU
    plain = aq.aequa(aq.MLP, mine, CONFIG, here, schedule=schedule, vectorized=False, progress=False)
    np.testing.assert_allclose(outcome.problem.contribution, plain.problem.contribution, atol=0.011)
    outcome.save(tmp_path)
    net = aq.load_reward(tmp_path / "rewards" / "participant-00.safetensors")
    x = data.test.x[:5]
    torch.testing.assert_close(net(x.cpu()), outcome.models[0](x).cpu(), atol=1e-5, rtol=1e-4)
    assert aq.accuracy([net], data.test).shape == (1,)  # a network of the CPU, samples of the GPU
    assert all(each.fault is None for each in aq.rewards.verify(tmp_path / "rewards"))


SCHEDULES = {
    "certified": aq.training_time(allowance=0.1, confidence=0.9, tolerance=0.2),
    "allocated": aq.training_time(tolerance=0.2, allocation=aq.allocate),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_is_certified_or_allocated_while_training(device: Device, name: str) -> None:
    (here, mine), (data, shards) = place("cpu"), place()
    config = replace(CONFIG, local_steps=10)  # enough to be better than who is worst alone
    options = {"schedule": SCHEDULES[name], "vectorized": True, "progress": False}
    there, plain = aq.aequa(aq.MLP, shards, config, data, **options), aq.aequa(aq.MLP, mine, config, here, **options)
    assert 0 < min(there.last.next_widths) < 1  # somebody has earned less than all
    np.testing.assert_allclose(there.last.next_widths, plain.last.next_widths, atol=0.05)  # a step of the grid
    assert all(on_gpu(each.state_dict()) for each in there.models)


def test_runs_of_a_sweep_side_by_side(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, train, found = [], vectorized._Stack.train, {}
    monkeypatch.setattr(
        vectorized._Stack,
        "train",
        lambda self, plan: sizes.append((self.x.is_cuda, len(self.shards))) or train(self, plan),
    )
    fixed = {"methods": "aequa, fedavg", "network": "MLP(hidden=40)", "participants": 3, "rounds": 2, "local_steps": 2,
             "batch": 8, "grid": 10, "keep": False}  # fmt: skip
    notebook = str(Path(__file__).resolve().parents[2] / "notebooks" / "reproduce.ipynb")
    for where in ("cuda", "cpu"):
        about = {"notebook": notebook, "fixed": {**fixed, "device": where}, "grid": {"seed": [0, 1]}}
        (tmp_path / f"{where}.yml").write_text(json.dumps(about))
        sweep = read_sweep(tmp_path / f"{where}.yml")
        run_sweep(sweep, root=tmp_path, pack=2)
        found[where] = gather(sweep, root=tmp_path, results=tmp_path / "results")
    assert sizes == [(True, 6)] * 5  # both runs in one pass: alone, and two rounds of each method
    for table in found.values():
        assert (table["status"] == "done").all()
        assert len(table) == 4
    for column in ("alone_best", "reward_best", "full"):
        np.testing.assert_allclose(found["cuda"][column], found["cpu"][column], atol=0.011)


def test_the_method_step_by_step(device: Device) -> None:
    data, shards = place()
    last, alone = final(aq.MLP, shards), aq.standalone(aq.MLP, shards, CONFIG, progress=False)
    for curve in (
        aq.accuracy_curve(aq.MLP, last.theta, data.validation, grid=(0.1, 0.5, 1.0)),
        aq.reward_curve(aq.MLP, last.theta, data.validation, CONFIG),
    ):
        plan = aq.allocate(aq.accuracy(alone, data.validation), curve)
        models = [aq.model_at(aq.MLP, last.theta, curve, w) for w in plan.widths]
        assert all(on_gpu(each.state_dict()) for each in models)
        assert aq.accuracy(models, data.test).shape == (3,)
    own = {k: t.cpu() for k, t in last.theta.items()}  # a network of the CPU, samples of the GPU
    assert aq.reward_curve(aq.MLP, own, data.validation, CONFIG).accuracy == pytest.approx(curve.accuracy, abs=0.011)


@pytest.mark.parametrize("at_once", [None, False], ids=["vectorised", "one by one"])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(device: Device, tmp_path: Path, at_once: bool | None) -> None:
    _, shards = place()
    strategy = aq.slimmable(aq.MLP, server=lookup("server", "fedavgm"))
    options = {"strategy": strategy, "vectorized": at_once}
    longer = replace(CONFIG, rounds=3)
    run = aq.federate(aq.MLP, shards, longer, checkpoint=tmp_path / "run", progress=False, **options)
    next(run)
    run.close()
    resumed = final(aq.MLP, shards, longer, checkpoint=tmp_path / "run", **options)
    whole = final(aq.MLP, shards, longer, **options)
    assert on_gpu(resumed.theta)
    assert on_gpu(resumed.state.memory)
    assert all(torch.equal(t.cpu(), resumed.theta[k].cpu()) for k, t in whole.theta.items())


@pytest.mark.parametrize("kind", ["server", "aggregate", "width_sampler"])
def test_every_function_of_a_strategy(device: Device, kind: str) -> None:
    _, shards = place()
    for word in TABLES[kind]:
        strategy = aq.slimmable(aq.MLP, **{kind: lookup(kind, VALUES.get(word, word))})
        for at_once in (True, False):
            assert on_gpu(final(aq.MLP, shards, strategy=strategy, vectorized=at_once).theta)


def test_updates_weighted_by_their_accuracy(device: Device) -> None:
    data, shards = place()
    reweight = aq.aggregation.validation_weights(aq.MLP, data.validation)
    assert on_gpu(final(aq.MLP, shards, strategy=aq.slimmable(aq.MLP, reweight=reweight)).theta)


@pytest.mark.parametrize("fields", [{"proximal": 0.1, "weight_decay": 0.01}, {"distill": 0.5, "logit_adjustment": 0.5}])
@pytest.mark.parametrize("at_once", [True, False], ids=["vectorised", "one by one"])
def test_every_term_of_the_loss(device: Device, fields: dict, at_once: bool) -> None:
    (_, mine), (_, shards) = place("cpu"), place()
    config = replace(CONFIG, **fields)
    there, plain = final(aq.MLP, shards, config, vectorized=at_once), final(aq.MLP, mine, config)
    for key, t in plain.theta.items():
        torch.testing.assert_close(there.theta[key].cpu(), t, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("word", TABLES["algorithm"])
def test_every_algorithm(device: Device, word: str) -> None:
    data, shards = place()
    build = aq.for_dataset(aq.MLP, data, hidden=40)
    problem = aq.method.assess(build, shards, CONFIG, data, progress=False)
    outcome = algorithm(word)(problem, train=partial(aq.method.train, progress=False))
    assert aq.accuracy(outcome.models, data.test).shape == (3,)
    assert outcome.report


def test_every_contribution_score(device: Device) -> None:
    data, shards = place()
    rounds = list(aq.federate(aq.MLP, shards, CONFIG, progress=False))
    shapley = contribution.update_shapley(aq.MLP, data.validation)
    for place_of_start in ("cuda", "cpu"):  # `init_params` gives the CPU's unless asked
        start = aq.init_params(aq.MLP, CONFIG.seed, place_of_start)
        for score in (aq.alignment, contribution.class_alignment, contribution.class_shapley, shapley):
            assert all(np.isfinite(found).all() for found in aq.contributions(score, rounds, start))
    (here, mine), config = place("cpu"), replace(CONFIG, rounds=1)
    for solve in (
        aq.shapley,
        contribution.leave_one_out,
        lambda game, n: contribution.sampled_shapley(game, n, budget=40).value,
    ):
        games = (
            contribution.retraining_game(aq.MLP, own, config, each.validation)
            for own, each in ((shards, data), (mine, here))
        )
        np.testing.assert_allclose(*(solve(game, 3) for game in games), atol=0.011)  # a sample in 100


def test_alignment_is_the_cpus(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    _, shards = place()
    (rnd,) = aq.federate(aq.MLP, shards, replace(CONFIG, rounds=1), progress=False)
    here = replace(rnd, updates=tuple(replace(u, state={k: t.cpu() for k, t in u.state.items()}) for u in rnd.updates))
    start = aq.init_params(aq.MLP, CONFIG.seed, "cpu")
    for scores in (None, np.array([0.2, 0.3, 0.5])):
        plain = aq.alignment(start, here, scores)
        np.testing.assert_allclose(aq.alignment(start, rnd, scores), plain, atol=SUMS)
        with monkeypatch.context() as patch:  # a GPU of another make, such as Apple's
            patch.setattr(torch.Tensor, "is_cuda", property(lambda t: False))
            np.testing.assert_allclose(aq.alignment(start, rnd, scores), plain, atol=SUMS)


def test_class_shares_are_on_the_cpu_where_there_are_64_bits(device: Device) -> None:
    _, shards = place()
    assert not class_shares(shards[0].samples).is_cuda


def test_every_reward_mechanism(device: Device) -> None:
    data, shards = place()
    rounds = list(aq.federate(aq.MLP, shards, CONFIG, progress=False))
    theta, start = rounds[-1].theta, aq.init_params(aq.MLP, CONFIG.seed)
    mechanisms = aq.baselines.reward_mechanisms
    for mechanism in (
        mechanisms.by_width(aq.MLP, theta),
        mechanisms.by_zeroing(theta, start),
        mechanisms.by_pruning(theta),
        mechanisms.by_noise(theta, seed=0),
        mechanisms.by_subset(rounds, start, seed=0, levels=3),
    ):
        models = mechanisms.realize(mechanism, aq.MLP, [0.1, 0.2, 0.9], data.validation, steps=2)
        assert aq.accuracy([mechanisms.pooled(aq.MLP, models)], data.test).shape == (1,)


@pytest.mark.parametrize("attack", ["free_rider", "noisy_rider", "sign_flipper"])
def test_every_attack_on_updates(device: Device, attack: str) -> None:
    _, shards = place()
    strategy = getattr(aq.attacks, attack)(aq.slimmable(aq.MLP), who=[0])
    assert on_gpu(final(aq.MLP, shards, strategy=strategy).theta)


def drawn(shape: tuple[int, ...], words: int = 0) -> list[aq.Shard]:
    """Three shards of random sentences, where there are words, or of random numbers; on the GPU."""
    chance = torch.Generator().manual_seed(0)
    x = torch.randint(0, words, (60, *shape), generator=chance) if words else torch.randn(60, *shape, generator=chance)
    samples = aq.Samples(x.to("cuda"), torch.arange(60, device="cuda") % 2, 2)
    return [aq.Shard(i, samples.take(slice(20 * i, 20 * i + 20)), np.arange(20)) for i in range(3)]


@pytest.mark.parametrize("name", ["TextCNN", "Transformer"])
def test_text(device: Device, name: str) -> None:
    shards = drawn((12,), words=30)
    build = partial(getattr(aq.networks, name), words=30, shape=(12,))
    for at_once in (True, False):
        assert on_gpu(final(build, shards, vectorized=at_once).theta)


def test_a_table(device: Device) -> None:
    data = aq.load("hospitals")
    shards = aq.data.natural(data.train, replace(CONFIG, participants=4))
    build = aq.for_dataset(aq.networks.TabularMLP, data)
    aq.networks.check_network(build, data.train.x[:8])  # networks of the CPU, samples of the GPU
    assert on_gpu(final(build, shards, replace(CONFIG, participants=4)).theta)


def test_updates_of_the_cpu_enter_a_round_on_the_gpu(device: Device) -> None:
    _, shards = place()
    inner = aq.slimmable(aq.MLP)

    def local(*arguments, **options) -> aq.Update:
        update = inner.local(*arguments, **options)
        return replace(update, state={k: t.cpu() for k, t in update.state.items()})

    options = {"vectorized": False, "name": "updates of the CPU"}
    last = final(aq.MLP, shards, strategy=replace(inner, local=local), **options)
    plain = final(aq.MLP, shards, vectorized=False)
    assert all(on_gpu(u.state) for u in last.updates)
    assert all(torch.equal(t.cpu(), last.theta[k].cpu()) for k, t in plain.theta.items())


def test_functions_that_are_called_alone_move_what_is_elsewhere(device: Device) -> None:
    data, shards = place()
    here, there = aq.init_params(aq.MLP, 0, "cpu"), aq.init_params(aq.MLP, 1, "cuda")
    updates = [(here, 1.0), (there, 2.0), (aq.slimmable(aq.MLP).broadcast(aq.types.ServerState(here), 0, 0.5), 1.0)]
    rules = [aq.aggregate, *(lookup("aggregate", VALUES.get(word, word)) for word in TABLES["aggregate"])]
    for rule in rules:
        found, other = rule(there, updates), rule({k: t.cpu() for k, t in there.items()}, updates)
        assert on_gpu(found)
        for k, t in other.items():
            assert not t.is_cuda
            torch.testing.assert_close(found[k].cpu(), t, atol=1e-6, rtol=1e-5)
    for word in TABLES["server"]:
        assert on_gpu(lookup("server", word)(aq.types.ServerState(there), here).theta)
    assert on_gpu(checked_update(here, there))
    alone = aq.local_sgd(aq.MLP, here, shards[0], 1.0, replace(CONFIG, proximal=0.1), aq.stream(0))
    rngs = [aq.stream(0, i) for i in range(3)]
    at_once = aq.vectorized.vectorized_sgd(aq.MLP, [here, there, here], shards, [1.0] * 3, CONFIG, rngs)
    assert all(on_gpu(u.state) for u in (alone, *at_once))
    rnd = final(aq.MLP, shards)
    own = replace(rnd.updates[0], state={k: t.cpu() for k, t in rnd.updates[0].state.items()})
    mixed = replace(rnd, updates=(own, *rnd.updates[1:]))
    np.testing.assert_allclose(aq.alignment(here, mixed), aq.alignment(here, rnd), atol=SUMS)
    few = data.validation.take(slice(0, 20))
    np.testing.assert_allclose(
        importance(aq.MLP, here, few), importance(aq.MLP, {k: t.to("cuda") for k, t in here.items()}, few), atol=SUMS
    )
    norms = aq.for_dataset(aq.networks.BatchResNet18, data, channels=4)(0.5)
    assert not any(t.is_cuda for t in aq.networks.recalibrate_batchnorm(norms, few).buffers())


def spent(build, config: aq.Config, like: tuple[Any, ...] = (), **options) -> tuple[int, int]:
    """Launches and waits of a run of one round after another, on images or on what `drawn` makes of `like`."""
    with pretend_cuda() as device:
        shards = drawn(*like) if like else aq.data.homogeneous(aq.load("fashion-mini").train, config)
        before = device.launches, device.waits
        final(build, shards, config, **options)
        return device.launches - before[0], device.waits - before[1]


LAUNCHES = {"MLP": 65, "LeNet": 100, "ResNet18": 500}
# of what costs more than a plain step: (fields of the config, options of the strategy), and launches by network; those
# of half precision are without autocast's conversions, which the pretend device does not know
DEARER = {
    "float16": ({}, {"precision": torch.float16}, {"MLP": 96, "LeNet": 143, "ResNet18": 698}),
    "distill": ({"distill": 0.5}, {}, {"MLP": 94, "LeNet": 129, "ResNet18": 528}),
    "one_random": ({}, {"width_sampler": aq.one_random}, {"MLP": 89, "LeNet": 140, "ResNet18": 717}),
}


@pretend_only
@pytest.mark.parametrize("name", NETS)
def test_a_vectorised_step_launches_few_kernels_and_never_waits(name: str) -> None:
    data, _ = place("cpu")
    build = aq.for_dataset(NETS[name][0], data, **NETS[name][1])
    for participants in (3, 10) if name != "ResNet18" else (3,):  # as many kernels for many as for few
        config = replace(CONFIG, participants=participants, rounds=1)
        one, two = (spent(build, replace(config, local_steps=steps)) for steps in (1, 2))
        assert two[0] - one[0] <= LAUNCHES[name]
        assert two[1] == one[1]


@pretend_only
@pytest.mark.parametrize("way", DEARER)
@pytest.mark.parametrize("name", NETS)
def test_a_dearer_step_has_a_limit_too(name: str, way: str) -> None:
    data, _ = place("cpu")
    build, (fields, options, most) = aq.for_dataset(NETS[name][0], data, **NETS[name][1]), DEARER[way]
    strategy, config = aq.slimmable(build, **options), replace(CONFIG, rounds=1, **fields)
    one, two = (spent(build, replace(config, local_steps=steps), strategy=strategy) for steps in (1, 2))
    assert two[0] - one[0] <= most[name]
    assert two[1] == one[1]


WAYS = {  # fields of the config, options of the strategy
    "plain": ({}, {}),
    "float16": ({}, {"precision": torch.float16}),
    "bfloat16": ({}, {"precision": torch.bfloat16}),
    "one_random": ({}, {"width_sampler": aq.one_random}),
    "distill": ({"distill": 0.5}, {}),
    "offsets": ({"logit_adjustment": 0.5, "proximal": 0.1, "weight_decay": 0.01}, {}),
}
OTHERS: dict[str, tuple[Any, tuple[Any, ...]]] = {  # network, samples: images, or what `drawn` is asked for
    "MLP": (aq.MLP, ()),
    "ConvNet": (partial(aq.networks.ConvNet, shape=(1, 16, 16), classes=2), ((1, 16, 16),)),
    "TextCNN": (partial(aq.networks.TextCNN, shape=(12,), words=30), ((12,), 30)),
    "Transformer": (partial(aq.networks.Transformer, shape=(12,), words=30), ((12,), 30)),
    "TabularMLP": (partial(aq.networks.TabularMLP, shape=(15,), classes=2), ((15,),)),
}
CASES = [*((name, "plain") for name in OTHERS), *(("TabularMLP", way) for way in WAYS if way != "plain")]


@pretend_only
@pytest.mark.parametrize("at_once", [True, False], ids=["vectorised", "one by one"])
@pytest.mark.parametrize(("name", "way"), CASES, ids=["-".join(case) for case in CASES])
def test_no_local_step_waits(name: str, way: str, at_once: bool) -> None:
    (build, like), (fields, chosen) = OTHERS[name], WAYS[way]
    options = {"strategy": aq.slimmable(build, **chosen), "vectorized": at_once}
    config = replace(CONFIG, rounds=1, **fields)
    one, two = (spent(build, replace(config, local_steps=steps), like, **options)[1] for steps in (1, 2))
    assert two == one


@pretend_only
def test_a_round_waits_for_its_losses_and_its_check_of_updates() -> None:
    for config in (CONFIG, replace(CONFIG, logit_adjustment=0.5), replace(CONFIG, participants=2)):
        one, two = (spent(aq.MLP, replace(config, rounds=rounds))[1] for rounds in (1, 2))
        assert two - one == 2
    one, two = (spent(aq.MLP, replace(CONFIG, rounds=rounds), vectorized=False)[1] for rounds in (1, 2))
    assert two - one == CONFIG.participants * 2 + 1  # each uploads its batches and reports its loss


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark of a GPU."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    import gpu

    return gpu


@pretend_only
@pytest.mark.parametrize(
    ("part", "limit"),
    [("equality", "TOLERANCE"), ("launches", "LAUNCHES"), ("precision", "HALF"), ("speed", "TOLERANCE")],
)
def test_the_benchmark_of_a_gpu_ends_with_an_error_if_it_disagrees(
    benchmark: ModuleType, part: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = -1.0 if limit == "HALF" else dict.fromkeys(benchmark.TOLERANCE, 0.0)
    monkeypatch.setattr(benchmark, "names", lambda small: ["MLP"])
    monkeypatch.setattr(benchmark, limit, none)
    with pytest.raises(SystemExit, match="rows disagree"):
        benchmark.main(["--pretend", "--tiny", "--folder", str(tmp_path), part])


@pretend_only
def test_a_compiler_that_fails_disagrees_and_none_is_asked_where_no_time_is_left(
    device: Device, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(benchmark, "names", lambda small: ["MLP"])
    monkeypatch.setattr(torch, "compile", lambda *arguments, **options: broken)
    rows = list(benchmark.speed(True, lambda: 1e9))
    assert [(row["way"], row["ok"]) for row in rows] == [
        ("one by one", True), ("vectorised", True), ("compiled", False), ("CUDA graphs", False)
    ]  # fmt: skip

    def changing(what: Callable[[Any, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
        """A compiler whose steps give something else; where graphs are asked for, it says that it recorded them."""

        def compiled(step: Callable[..., torch.Tensor], *, mode: str | None, **options) -> Callable[..., torch.Tensor]:
            def run(stack: Any, *own: Any) -> torch.Tensor:
                torch._dynamo.utils.counters["inductor"]["cudagraph_recorded_non_static_inputs"] += mode is not None
                return what(stack, step(stack, *own))

            return run

        return compiled

    monkeypatch.setattr(torch, "compile", changing(lambda stack, loss: 1.001 * loss))
    assert all(row["ok"] for row in benchmark.speed(True, lambda: 1e9))
    moved = lambda stack, loss: ([t.add_(0.01) for t in stack.theta], loss)[1]
    monkeypatch.setattr(torch, "compile", changing(moved))  # other weights
    assert [row["ok"] for row in benchmark.speed(True, lambda: 1e9)] == [True, True, False, False]
    assert len(list(benchmark.speed(True, lambda: 1.0))) == 2


@pretend_only
def test_the_benchmark_of_a_gpu_writes_its_tables(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = benchmark
    with pytest.raises(SystemExit, match="needs a GPU"):
        gpu.main([])
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--pretend", "--tiny", "--folder", str(tmp_path)])
    assert ended.value.code == 0, capsys.readouterr().out
    tables = {path.stem: pd.read_csv(path) for path in tmp_path.glob("*.csv")}
    assert set(tables) == {"equality", "determinism", "launches", "precision", "seeds", "speed"}
    assert all(table["ok"].all() for table in tables.values())
    assert (tables["launches"]["waits_a_step"] == 0).all()


@pretend_only
def test_the_pretend_device_refuses_what_a_gpu_refuses(device: Device) -> None:
    there, here, number = torch.ones(2, device="cuda"), torch.zeros(2), torch.tensor(0)
    for mixed in (
        lambda: there + here,
        lambda: here[there.long()],
        lambda: here.add_(there),
        lambda: torch.cat([there, here]),
        lambda: torch.stack([there[0], number]),
        lambda: there.index_select(0, number),
        lambda: there.gather(0, number),
        lambda: torch._foreach_mul([there], number.float()),
        lambda: number.add_(there[0]),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(TypeError, match="cpu"):
        there.numpy()
    for drawn_on_the_cpu in (
        lambda: torch.randn(2, device="cuda", generator=torch.Generator()),
        lambda: there.normal_(generator=torch.Generator()),
    ):
        with pytest.raises(RuntimeError, match="'cuda' device type for generator"):
            drawn_on_the_cpu()
    with pytest.raises(RuntimeError, match="cannot pin"):
        there.pin_memory()


@pretend_only
def test_the_pretend_device_takes_numbers_of_the_cpu_where_a_gpu_does(device: Device) -> None:
    there, one = torch.zeros(2, device="cuda"), torch.tensor(1.0)
    for found in (
        there + one,
        there.add(0).add_(one),
        there.clone().fill_(one),
        there.masked_fill(there == 0, one),
        torch.where(there > 0, there, one),
        there.index_put((torch.tensor([0, 1]),), one),
        torch.ones_like(torch.zeros(2), device="cuda"),
    ):
        assert found.is_cuda
        assert found.tolist() == [1.0, 1.0]


@pretend_only
@pytest.mark.parametrize(
    "wait",
    [
        lambda t: t.sum().item(),
        lambda t: t.unique_consecutive(),
        lambda t: torch.allclose(t, t),
        lambda t: torch.linalg.inv(t),
        lambda t: torch.linalg.cholesky(t),
        lambda t: torch.linalg.solve(t, t),
        lambda t: torch.linalg.svd(t),
        lambda t: torch.linalg.eigvalsh(t),
    ],
    ids=["item", "unique_consecutive", "allclose", "inv", "cholesky", "solve", "svd", "eigvalsh"],
)
def test_the_pretend_device_counts_where_the_host_waits(device: Device, wait: Callable[[torch.Tensor], Any]) -> None:
    there, waits = torch.eye(2, device="cuda"), device.waits
    (there @ there).exp_()
    assert device.waits == waits
    wait(there)
    assert device.waits == waits + 1


@pretend_only
def test_the_pretend_device_waits_for_copies_unless_they_are_pinned(device: Device) -> None:
    here, waits = torch.zeros(2), device.waits
    here.to("cuda", non_blocking=True)  # not pinned: the host waits whatever it was told
    assert device.waits == waits + 1
    here.pin_memory().to("cuda", non_blocking=True)
    assert device.waits == waits + 1


def test_a_cell_that_fails_on_the_cpu_for_another_reason_is_not_left_out(tmp_path: Path) -> None:
    sources = [
        "import torch, aequa_lite as aq; x = aq.load('fashion-mini').test.x",
        "assert not x.is_cuda and len(x) < 10, f'too few rounds on {x.device}'",
        "y = x + torch.zeros(x.shape)\nassert len(y) < 10",
    ]
    cells = [{"cell_type": "code", "metadata": {}, "source": [source]} for source in sources]
    (tmp_path / "three.ipynb").write_text(json.dumps({"cells": cells}))
    command = [sys.executable, Path(__file__).with_name("run_notebook.py"), tmp_path / "three.ipynb"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "left out: 1" in done.stdout, done.stderr
    assert "cell 2 of three.ipynb" in done.stdout
    assert done.returncode == 1
