"""Server optimizers: steps worked by hand, memory beside the model, and weights by validation accuracy."""

from __future__ import annotations

import pytest
import torch

import aequa_lite as aq
from aequa_lite.aggregation import fedadam, fedavg, fedavgm, validation_weights
from aequa_lite.types import ServerState, State

OPTIMIZERS = {"fedavg": fedavg, "fedavgm": fedavgm(0.9), "fedadam": fedadam()}


def model(value: float) -> State:
    return {"w": torch.tensor([value]), "steps": torch.tensor(3)}


def server(value: float) -> ServerState:
    return ServerState(model(value))


def test_fedavg_takes_the_aggregate_as_it_is() -> None:
    assert fedavg(server(0.0), model(2.0)).theta["w"].item() == 2.0


def test_fedavgm_without_momentum_is_fedavg() -> None:
    after = fedavgm(0.0)(server(1.0), model(2.0)).theta
    assert after["w"].item() == 2.0
    assert after["steps"].item() == 3


def test_fedavgm_worked_by_hand() -> None:
    step = fedavgm(0.5, lr=0.5)
    first = step(server(0.0), model(1.0))  # m = 1, w = 0.5
    second = step(first, model(1.5))  # m = 0.5 + 1 = 1.5, w = 0.5 + 0.75
    assert (first.theta["w"].item(), second.theta["w"].item()) == (0.5, 1.25)


def test_fedadam_worked_by_hand() -> None:
    step = fedadam(lr=0.1, beta=0.9, beta2=0.99, epsilon=0.001)
    after = step(server(0.0), model(2.0))  # m = 0.2, v = 0.04, so 0.1 * 0.2 / (0.2 + 0.001)
    assert after.theta["w"].item() == pytest.approx(0.02 / 0.201)
    again = step(after, model(after.theta["w"].item()))  # d = 0: m = 0.18, v = 0.0396
    assert again.theta["w"].item() == pytest.approx(0.02 / 0.201 + 0.018 / (0.0396**0.5 + 0.001), rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_round_without_change_changes_nothing(name: str) -> None:
    state = server(0.5)
    for _ in range(3):
        state = OPTIMIZERS[name](state, state.theta)
        assert list(state.theta) == ["w", "steps"]
    assert state.theta["w"].item() == 0.5


@pytest.mark.parametrize(
    ("name", "kinds"), [("fedavg", []), ("fedavgm", ["momentum"]), ("fedadam", ["momentum", "square"])]
)
def test_memory_is_a_field_with_one_tensor_of_each_kind_for_each_floating_point_tensor(name: str, kinds: list) -> None:
    before = server(0.0)
    after = OPTIMIZERS[name](before, model(1.0))
    assert sorted(after.memory) == [f"{kind}/w" for kind in kinds]
    assert all(t.shape == (1,) for t in after.memory.values())
    assert not before.memory
    assert before.theta["w"].item() == 0.0  # nothing is changed in place


def test_memory_of_others_is_kept() -> None:
    state = ServerState(model(0.0), {"other/w": torch.ones(1)})
    for optimizer in OPTIMIZERS.values():
        assert "other/w" in optimizer(state, model(1.0)).memory


def test_a_more_accurate_update_has_more_weight(few: aq.Dataset) -> None:
    config = aq.Config(participants=1, rounds=1, local_steps=60, batch=32)
    (shard,) = aq.data.homogeneous(few.train, config)
    start = aq.init_params(aq.MLP, seed=0)
    trained = aq.local_sgd(aq.MLP, start, shard, 1.0, config, aq.stream(0, "t"))
    fresh = aq.Update(1, 1.0, start, weight=1.0, loss=2.3)
    accuracy = aq.accuracy([aq.slim(aq.MLP, u.state, 1.0) for u in (trained, fresh)], few.validation)
    weights = validation_weights(aq.MLP, few.validation, power=2.0)([trained, fresh])
    assert weights == pytest.approx((accuracy**2 / (accuracy**2).sum()).tolist())
    assert weights[0] > 0.6
    assert validation_weights(aq.MLP, few.validation, power=0.0)([trained, fresh]) == [0.5, 0.5]


class Biased(torch.nn.Sequential):
    """Its class is that of the larger bias, unless units are dropped, which happens in training."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__(torch.nn.Dropout(1.0), torch.nn.Linear(1, 2))


def test_weights_are_of_evaluated_networks_and_never_zero() -> None:
    samples = aq.Samples(torch.ones(4, 1), torch.zeros(4, dtype=torch.int64), classes=2)
    # a weight of 2 on the input makes class 0 the larger: right in evaluation, wrong where the input is dropped
    states = [{"1.weight": torch.tensor([[a], [0.0]]), "1.bias": torch.tensor([0.0, 1.0])} for a in (2.0, 0.0)]
    updates = [aq.Update(i, 1.0, state, 1.0, 0.0) for i, state in enumerate(states)]
    assert aq.accuracy([aq.slim(Biased, state, 1.0) for state in states], samples).tolist() == [1.0, 0.0]
    assert validation_weights(Biased, samples)(updates) == pytest.approx([1 / 1.001, 0.001 / 1.001])


@pytest.mark.parametrize("name", ["fedavgm", "fedadam"])
def test_a_federation_follows_a_server_optimizer(few: aq.Dataset, config: aq.Config, name: str) -> None:
    shards = aq.data.homogeneous(few.train, config)
    strategy = aq.slimmable(aq.MLP, server=OPTIMIZERS[name])
    *_, last = aq.federate(aq.MLP, shards, config, strategy=strategy, progress=False)
    assert {k.split("/", 1)[1] for k in last.state.memory} == set(last.theta)


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan"), "half", None, True])
def test_a_decay_outside_its_range_is_refused(beta: float) -> None:
    for make, name in ((fedavgm, "beta"), (fedadam, "beta"), (fedadam, "beta2")):
        with pytest.raises(ValueError, match=rf"`{name}` must be a number in \[0, 1\), got"):
            make(**{name: beta})


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "fast", None])
def test_a_step_size_that_is_not_above_zero_is_refused(value: float) -> None:
    for make, name in ((fedavgm, "lr"), (fedadam, "lr"), (fedadam, "epsilon")):
        with pytest.raises(ValueError, match=f"`{name}` must be a number above 0, got"):
            make(**{name: value})


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("state", "aggregated", "sentence"),
    [
        (model(0.0), model(1.0), "`state` must be a ServerState, got {'w'"),
        (ServerState({}), {}, "`aggregated` must be tensors by name, got {}"),
        (server(0.0), None, "`aggregated` must be tensors by name, got None"),
        (server(0.0), {"w": torch.ones(1)}, r"`aggregated` must be the model's 2 tensors by name, got \['w'\]"),
    ],
)
def test_an_aggregate_of_another_model_is_refused(name: str, state, aggregated, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        OPTIMIZERS[name](state, aggregated)


def test_weights_without_samples_updates_or_a_finite_power_are_refused(few: aq.Dataset) -> None:
    for power in (-1.0, float("nan"), float("inf"), "two"):
        with pytest.raises(ValueError, match="`power` must be a number from 0, got"):
            validation_weights(aq.MLP, few.validation, power)
    with pytest.raises(ValueError, match="`validation` must be Samples, at least one, got None"):
        validation_weights(aq.MLP, None)
    with pytest.raises(ValueError, match=r"`updates` must be a sequence, each part an Update, at least one, got \[\]"):
        validation_weights(aq.MLP, few.validation)([])
