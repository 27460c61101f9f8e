"""All participants in one pass: the updates of each by itself, up to rounding, in any number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import aequa_lite as aq
from aequa_lite import networks, vectorized
from aequa_lite.slimmable import slice_of

WAYS = [
    ({}, aq.full_and_random),
    ({"widths_per_step": 2, "loss_power": 1.0, "weight_decay": 0.01}, aq.sandwich),
    ({"distill": 0.5, "proximal": 0.3}, aq.full_and_random),
    ({"weight_decay": 0.1}, aq.one_random),
    ({"momentum": 0.0}, aq.full_only),
]
WIDTHS = (1.0, 0.3, 0.75)


def shards_of(few: aq.Dataset, sizes: tuple[int, ...] = (200, 9, 60)) -> list[aq.Shard]:
    """Three participants, one of them with less than a batch."""
    return aq.data.by_size(few.train, aq.Config(participants=len(sizes)), sizes=sizes)


def both(build, few, config: aq.Config, sampler, **more) -> tuple[list[aq.Update], list[aq.Update]]:
    """Three participants of a data set, or three shards, trained in one pass and one by one."""
    theta, shards = aq.init_params(build, seed=0), few if isinstance(few, list) else shards_of(few)
    sent = [slice_of(build, theta, w) for w in WIDTHS]
    rngs = [aq.stream(0, "vectorized", i) for i in range(3)]
    together = vectorized.vectorized_sgd(
        build, sent, shards, WIDTHS, config, rngs, width_sampler=sampler, first=3, **more
    )
    rngs = [aq.stream(0, "vectorized", i) for i in range(3)]
    offsets = more.get("offsets", [()] * 3)
    alone = [
        aq.local_sgd(build, s, shard, w, config, rng, first=3, width_sampler=sampler, offsets=own)
        for s, shard, w, rng, own in zip(sent, shards, WIDTHS, rngs, offsets, strict=True)
    ]
    return together, alone


def drawn(shape: tuple[int, ...], words: int, classes: int, sizes: Sequence[int] = (40, 9, 30)) -> list[aq.Shard]:
    """Shards of random images, sentences (where there are words) or rows of a table."""
    rng, found = np.random.default_rng(0), []
    for i, size in enumerate(sizes):
        if words:
            x = torch.from_numpy(rng.integers(1, words, (size, *shape)))
            x[:, shape[0] // 2 :] *= torch.from_numpy(rng.integers(0, 2, (size, 1)))  # 0 pads a short one
        else:
            x = torch.from_numpy(rng.normal(size=(size, *shape)).astype(np.float32))
        y = torch.from_numpy(rng.integers(0, classes, size))
        found.append(aq.Shard(i, aq.Samples(x, y, classes), np.arange(size)))
    return found


ALIKE = {"atol": 1e-5, "rtol": 0.0}  # after one round
OTHERS = {  # constructor, shape of a sample, words, options
    "MLP": (aq.MLP, (1, 16, 16), 0, {}),
    "LeNet": (aq.LeNet, (1, 28, 28), 0, {}),
    "ConvNet": (networks.ConvNet, (3, 16, 16), 0, {}),
    "ResNet18": (networks.ResNet18, (1, 8, 8), 0, {"channels": 8}),
    "TabularMLP": (networks.TabularMLP, (15,), 0, {"hidden": 40}),
    "TextCNN": (networks.TextCNN, (12,), 30, {"embedding": 16, "maps": 16}),
    "Transformer": (networks.Transformer, (12,), 30, {"heads": 4, "size": 4}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_network_trains_in_one_pass_as_one_by_one(name: str) -> None:
    build, shape, words, options = OTHERS[name]
    fitted = partial(build, shape=shape, classes=4, **({"words": words} if words else {}), **options)
    config = aq.Config(participants=3, rounds=2, local_steps=3, batch=16, distill=0.3 if words else 0.0)
    for together, alone in zip(*both(fitted, drawn(shape, words, 4), config, aq.full_and_random), strict=True):
        assert together.loss == pytest.approx(alone.loss, rel=1e-5)
        for key, t in alone.state.items():
            torch.testing.assert_close(together.state[key], t, **ALIKE)


@pytest.mark.parametrize("build", [aq.MLP, partial(aq.LeNet, multiple=2)], ids=["MLP", "LeNet"])
@pytest.mark.parametrize(("fields", "sampler"), WAYS, ids=[sampler.__name__ + str(len(f)) for f, sampler in WAYS])
def test_vectorized_training_gives_each_its_own_update(build, fields: dict, sampler, few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=2, local_steps=4, batch=16, **fields)
    for together, alone in zip(*both(build, few, config, sampler), strict=True):
        assert (together.participant, together.width) == (alone.participant, alone.width)
        assert together.loss == pytest.approx(alone.loss, rel=1e-4)
        assert together.state.keys() == alone.state.keys()
        for name, t in alone.state.items():
            torch.testing.assert_close(together.state[name], t, **ALIKE)


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_vectorized_training_adds_the_offsets_of_each_participant_and_width(distill: float, few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=2, local_steps=4, batch=16, distill=distill)
    rows = [(w, [k * w * (c - 4) / 5 for c in range(10)]) for k, w in ((3, 0.3), (-2, 0.75), (1, 1.0))]
    offsets = [rows, rows[:1], [(1.0, [0.5 * (c == 2) for c in range(10)])]]  # two federations, say
    with_them = both(aq.MLP, few, config, aq.full_and_random, offsets=offsets)
    _, without = both(aq.MLP, few, config, aq.full_and_random)
    for together, alone in zip(*with_them, strict=True):
        for name, t in alone.state.items():
            torch.testing.assert_close(together.state[name], t, **ALIKE)
    for adjusted, plain in zip(with_them[1], without, strict=True):
        assert not torch.allclose(adjusted.state["6.bias"], plain.state["6.bias"], atol=1e-3)


def test_who_has_no_offsets_beside_others_is_trained_without(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=2, local_steps=4, batch=16)
    row = (1.0, [float(c == 2) for c in range(10)])
    together, alone = both(aq.MLP, few, config, aq.full_and_random, offsets=[[row], (), [row]])
    for one, other in zip(together, alone, strict=True):
        for name, t in other.state.items():
            torch.testing.assert_close(one.state[name], t, **ALIKE)


def test_half_precision_stays_near(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=2, local_steps=4, batch=16)
    halves, alone = both(aq.MLP, few, config, aq.full_and_random, precision=torch.bfloat16)
    for half, plain in zip(halves, alone, strict=True):
        assert half.loss == pytest.approx(plain.loss, rel=0.05)
        assert all(t.dtype == torch.float32 for t in half.state.values())
        assert not all(torch.equal(half.state[k], t) for k, t in plain.state.items())


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_half_precision_suits_the_card(capability, dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert aq.vectorized.half_precision("cuda") == dtype
    assert aq.vectorized.half_precision("cpu") is None


def test_participants_beyond_the_memory_of_one_pass_take_another(
    few: aq.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = aq.Config(participants=3, rounds=2, local_steps=2, batch=16)
    once, _ = both(aq.MLP, few, config, aq.full_and_random)
    monkeypatch.setattr(vectorized, "participants_per_pass", lambda *which: 2)
    twice, _ = both(aq.MLP, few, config, aq.full_and_random)
    assert [u.participant for u in twice] == [0, 1, 2]
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a.state["2.weight"], b.state["2.weight"], atol=1e-5, rtol=1e-4)


def test_a_vectorized_federation_is_the_plain_one_up_to_rounding(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=3, local_steps=3, batch=16)
    shards = shards_of(few)
    plain, at_once = (
        list(aq.federate(aq.MLP, shards, config, vectorized=how, progress=False))[-1] for how in (False, True)
    )
    assert at_once.loss == pytest.approx(plain.loss, rel=1e-3)
    assert at_once.parameters_sent == plain.parameters_sent
    for name, t in plain.theta.items():
        torch.testing.assert_close(at_once.theta[name], t, atol=5e-5, rtol=1e-3)


class Counting(nn.Sequential):
    """A network with state beside its parameters."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10))


def test_a_network_with_other_state_is_refused_and_trained_one_by_one(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=1, local_steps=1, batch=8)
    with pytest.raises(ValueError, match=r"running_mean.*vectorized=False"):
        both(Counting, few, config, aq.full_only)


def test_a_pass_takes_as_many_participants_as_fit_the_memory(few: aq.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    shard, config = shards_of(few)[0], aq.Config(participants=3, batch=16)
    many = vectorized.participants_per_pass(aq.LeNet, 1.0, shard, config)
    assert many > vectorized.participants_per_pass(aq.LeNet, 1.0, shard, replace(config, batch=64)) > 1
    monkeypatch.setattr(vectorized, "CPU_BYTES", 1)
    assert vectorized.participants_per_pass(aq.LeNet, 1.0, shard, config) == 1


def test_a_pass_has_room_for_the_samples_that_it_copies(few: aq.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, config, sizes = shards_of(few, (9, 200, 60)), aq.Config(participants=3, local_steps=1, batch=16), []
    least, most, _ = (vectorized.participant_bytes(aq.MLP, 1.0, shard, config) for shard in shards)
    assert most - least == 191 * (784 + 8)  # bytes of an image and its class
    train = vectorized._Stack.train
    monkeypatch.setattr(
        vectorized._Stack, "train", lambda self, plan: sizes.append(len(self.shards)) or train(self, plan)
    )
    for memory, passes in ((3 * most, [3]), (3 * most - 1, [2, 1])):
        monkeypatch.setattr(vectorized, "CPU_BYTES", memory)
        both(aq.MLP, shards, config, aq.full_and_random)
        assert sizes == passes
        sizes.clear()


def test_lists_of_different_length_are_refused(few: aq.Dataset) -> None:
    shards, theta = shards_of(few), aq.init_params(aq.MLP, seed=0)
    with pytest.raises(ValueError, match="`sent` must hold one entry for each"):
        vectorized.vectorized_sgd(aq.MLP, [theta], shards, WIDTHS, aq.Config(), [np.random.default_rng(0)] * 3)


@pytest.mark.parametrize("short", ["widths", "rngs", "offsets"])
def test_every_list_has_one_entry_for_each_participant(short: str, few: aq.Dataset) -> None:
    shards, theta = shards_of(few), aq.init_params(aq.MLP, seed=0)
    lists = {"widths": [1.0] * 3, "rngs": [np.random.default_rng(0)] * 3, "offsets": [()] * 3}
    lists[short] = lists[short][:2]
    with pytest.raises(ValueError, match=f"`{short}` must hold one entry for each"):
        vectorized.vectorized_sgd(aq.MLP, [theta] * 3, shards, config=aq.Config(), **lists)


def test_vectorized_is_refused_where_a_strategy_cannot(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=1, local_steps=1)
    strategy = replace(aq.slimmable(aq.MLP), vectorized=None)
    with pytest.raises(ValueError, match="`vectorized` must be False"):
        next(aq.federate(aq.MLP, shards_of(few), config, strategy=strategy, vectorized=True, progress=False))
    with pytest.raises(ValueError, match="`vectorized` must be True or False"):
        next(aq.federate(aq.MLP, shards_of(few), config, vectorized="no", progress=False))


def test_federations_in_two_threads_do_not_disturb_each_other(few: aq.Dataset) -> None:
    config, shards = aq.Config(participants=3, rounds=2, local_steps=3, batch=16), shards_of(few)

    def final(_: int) -> dict[str, torch.Tensor]:
        *_, last = aq.federate(aq.MLP, shards, config, vectorized=True, workers=1, progress=False)
        return dict(last.theta)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(final, range(8)))
    *_, after = aq.federate(aq.MLP, shards, config, vectorized=True, progress=False)
    for each in found:
        for name, t in after.theta.items():
            torch.testing.assert_close(each[name], t, atol=1e-6, rtol=1e-5)


def test_a_step_compiles_whole_and_once(few: aq.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    config, shards = aq.Config(participants=3, rounds=2, local_steps=3, batch=16), shards_of(few)
    plain = last_of(aq.MLP, shards, config)
    counters = torch._dynamo.utils.counters
    counters.clear()
    whole = torch.compile(vectorized._Stack.step, fullgraph=True, dynamic=False, backend="aot_eager")
    monkeypatch.setattr(vectorized._Stack, "step", whole)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = last_of(aq.MLP, shards, config)  # the rate of each step is another one
    assert counters["stats"]["unique_graphs"] == 1
    assert all(torch.equal(t, compiled.theta[k]) for k, t in plain.theta.items())


def last_of(build, shards, config: aq.Config, **options) -> aq.Round:
    *_, last = aq.federate(build, shards, config, vectorized=True, progress=False, **options)
    return last


def test_a_step_that_overflows_in_half_precision_moves_nobody_but_the_others(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=2, local_steps=2, batch=16, weight_decay=0.01, lr=0.01)
    shards, theta = shards_of(few, (20, 30, 60)), aq.init_params(aq.MLP, seed=0)
    huge = {
        k: t * (3e3 if k == "6.weight" else 1) for k, t in theta.items()
    }  # its logits are finite, its gradient is not
    rngs = [aq.stream(0, i) for i in range(3)]
    updates = vectorized.vectorized_sgd(
        aq.MLP, [theta, huge, theta], shards, [1.0] * 3, config, rngs, precision=torch.float16
    )
    moved = [any(not torch.equal(t, sent[k]) for k, t in u.state.items()) for u, sent in zip(
        updates, (theta, huge, theta), strict=True)]  # fmt: skip
    assert moved == [True, False, True]
    assert all(t.isfinite().all() for u in updates for t in u.state.values())


def test_a_batch_that_overflows_in_half_precision_is_in_no_mean() -> None:
    config = aq.Config(participants=2, rounds=1, local_steps=4, batch=16, lr=0.01)
    build = partial(networks.TabularMLP, shape=(15,), classes=4)
    one, other = drawn((15,), 0, 4, sizes=(64, 64))
    x = one.samples.x.clone()  # four batches are an epoch: one of them holds the sample that overflows
    x[5] = 1e6
    shards, theta = [replace(one, samples=replace(one.samples, x=x)), other], aq.init_params(build, seed=0)

    def trained(shards: list[aq.Shard], **options) -> list[aq.Update]:
        rngs = [aq.stream(0, i) for i in range(2)]
        options = {"width_sampler": aq.full_only, **options}
        return vectorized.vectorized_sgd(build, [theta] * 2, shards, [1.0] * 2, config, rngs, **options)

    skipped, beside = trained(shards, precision=torch.float16)
    whole, alone = trained([one, other], precision=torch.float16)
    assert all(t.isfinite().all() for t in skipped.state.values())
    assert skipped.loss == pytest.approx(whole.loss, rel=0.2)  # the mean of three batches, and of four
    assert skipped.loss != whole.loss
    assert beside.loss == pytest.approx(alone.loss, rel=1e-4)
    strategy = aq.slimmable(build, aq.full_only, precision=torch.float16)
    assert last_of(build, shards, config, strategy=strategy).left_out == ()


def test_an_update_of_which_every_step_overflowed_has_no_loss_and_did_not_move(few: aq.Dataset) -> None:
    config = aq.Config(participants=2, rounds=1, local_steps=2, batch=16)
    theta = aq.init_params(aq.MLP, seed=0)
    huge = {k: t * 1e6 for k, t in theta.items()}  # its outputs are beyond float16
    rngs, shards = [aq.stream(0, i) for i in range(2)], shards_of(few, (20, 30))
    over, other = vectorized.vectorized_sgd(
        aq.MLP, [huge, theta], shards, [1.0] * 2, config, rngs, precision=torch.float16
    )
    assert all(torch.equal(t, over.state[k]) for k, t in huge.items())
    assert np.isnan(over.loss)
    assert np.isfinite(other.loss)
    assert not torch.equal(other.state["2.weight"], theta["2.weight"])


def runs_of(few: aq.Dataset) -> list[tuple[list[aq.Shard], aq.Config]]:
    """Federations of other seeds, sizes and numbers of participants."""
    config = aq.Config(participants=3, rounds=2, local_steps=3, batch=16)
    pair = replace(config, participants=2, seed=7)
    return [(shards_of(few), config), (shards_of(few)[1:], pair), (shards_of(few, (50, 60)), pair)]


@pytest.mark.parametrize("at_once", [True, False], ids=["in one pass", "one by one"])
@pytest.mark.parametrize("adjusted", [0.0, 1.0])
def test_many_federations_train_side_by_side_as_each_alone(
    few: aq.Dataset, at_once: bool, adjusted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, train = [], vectorized._Stack.train
    monkeypatch.setattr(vectorized._Stack, "train", lambda self, plan: passes.append(self) or train(self, plan))
    runs = [(shards, replace(config, logit_adjustment=adjusted)) for shards, config in runs_of(few)]
    many = aq.federate_many(aq.MLP, runs, vectorized=at_once)
    assert len(passes) == (2 if at_once else 0)  # one for each round
    for together, (shards, config) in zip(many, runs, strict=True):
        *_, alone = aq.federate(aq.MLP, shards, config, vectorized=False, progress=False)
        assert together.index == alone.index
        for name, t in alone.theta.items():
            torch.testing.assert_close(
                together.theta[name], t, atol=1e-5 if at_once else 0, rtol=1e-4 if at_once else 0
            )


def test_federations_of_other_settings_take_passes_of_their_own(few: aq.Dataset) -> None:
    (shards, config), *_ = runs_of(few)
    longer = replace(config, rounds=3, lr=0.01)
    one, other = aq.federate_many(aq.MLP, [(shards, config), (shards, longer)], vectorized=True)
    assert (one.index, other.index) == (1, 2)
    alone = last_of(aq.MLP, shards, longer)
    assert all(torch.equal(t, other.theta[k]) for k, t in alone.theta.items())


def test_attackers_are_trained_with_their_own_federation(few: aq.Dataset) -> None:
    (shards, config), *_ = runs_of(few)
    strategy = aq.attacks.noisy_rider(aq.slimmable(aq.MLP), who=[0])
    runs = [(shards, config), (shards, replace(config, seed=1))]
    for found, (_, own) in zip(aq.federate_many(aq.MLP, runs, strategy=strategy, vectorized=True), runs, strict=True):
        alone = last_of(aq.MLP, shards, own, strategy=strategy)
        assert all(torch.equal(t, found.theta[k]) for k, t in alone.theta.items())


def test_models_trained_alone_in_one_pass_are_those_trained_one_by_one(few: aq.Dataset) -> None:
    config = aq.Config(participants=3, rounds=2, local_steps=3, batch=16)
    both = [aq.standalone(aq.MLP, shards_of(few), config, vectorized=how, progress=False) for how in (True, False)]
    for one, other in zip(*both, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


SOLVERS = {  # and how many networks train side by side in a round: the members of all coalitions that it needs
    "shapley": (aq.shapley, 12),
    "leave_one_out": (aq.contribution.leave_one_out, 9),
    "sampled_shapley": (lambda game, n: aq.contribution.sampled_shapley(game, n, budget=40).value, 12),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_coalitions_train_side_by_side(name: str, few: aq.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    (solve, members), config = SOLVERS[name], aq.Config(participants=3, rounds=2, local_steps=2, batch=16)
    build = partial(aq.MLP, hidden=40)
    games = [
        aq.contribution.retraining_game(build, shards_of(few), config, few.validation, vectorized=how)
        for how in (True, False)
    ]
    passes, train = [], vectorized._Stack.train
    monkeypatch.setattr(vectorized._Stack, "train", lambda self, plan: passes.append(self) or train(self, plan))
    at_once, plain = (solve(game, 3) for game in games)
    assert [len(each.shards) for each in passes] == [members] * config.rounds
    np.testing.assert_allclose(at_once, plain, atol=0.01)


def test_orders_that_may_be_cut_short_train_no_coalition_beforehand() -> None:
    asked: list[frozenset[int]] = []
    game = aq.contribution.CachedGame(lambda S: float(bool(S)), lambda many: asked.extend(many) or [0.0] * len(many))
    found = aq.contribution.sampled_shapley(game, 4, budget=100, tolerance=0.5)
    assert not asked
    assert len(game) == 6  # nobody, everybody, and each one alone
    assert found.value.sum() == pytest.approx(1.0)
