"""What the server makes of the answers: steps worked by hand, and weights that follow what the answers are worth."""

from __future__ import annotations

import pytest
import torch

import aequa_lite as aq


def one(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([value]), "steps": torch.tensor(3)}


def test_the_plain_server_takes_the_average_as_it_is() -> None:
    assert aq.aggregation.fedavg(one(0.0), one(2.0))["w"].item() == 2.0


def test_momentum_without_memory_is_the_plain_average() -> None:
    after = aq.aggregation.fedavgm(0.0)(one(1.0), one(2.0))
    assert after["w"].item() == 2.0
    assert after["steps"].item() == 3


def test_momentum_worked_by_hand() -> None:
    step = aq.aggregation.fedavgm(0.5, lr=0.5)
    first = step(one(0.0), one(1.0))  # m = 1, w = 0.5
    second = step(first, one(1.5))  # m = 0.5 + 1 = 1.5, w = 0.5 + 0.75
    assert (first["w"].item(), second["w"].item()) == (0.5, 1.25)


def test_the_adaptive_step_worked_by_hand() -> None:
    step = aq.aggregation.fedadam(lr=0.1, beta=0.9, beta2=0.99, epsilon=0.001)
    after = step(one(0.0), one(2.0))  # m = 0.2, v = 0.04, so 0.1 * 0.2 / (0.2 + 0.001)
    assert after["w"].item() == pytest.approx(0.02 / 0.201)
    again = step(after, one(after["w"].item()))  # d = 0: m = 0.18, v = 0.0396
    assert again["w"].item() == pytest.approx(0.02 / 0.201 + 0.018 / (0.0396**0.5 + 0.001), rel=1e-5)


def test_a_round_without_change_is_the_identity_for_every_server() -> None:
    for server in (aq.aggregation.fedavg, aq.aggregation.fedavgm(0.9), aq.aggregation.fedadam()):
        state = one(0.5)
        for _ in range(3):
            state = server(state, {name: t for name, t in state.items() if name in one(0.0)})
        assert state["w"].item() == 0.5


def test_a_better_answer_counts_more(few: aq.Dataset) -> None:
    config = aq.Config(participants=1, rounds=1, local_steps=60, batch=32)
    (shard,) = aq.data.homogeneous(few.train, config)
    start = aq.init_params(aq.MLP, seed=0)
    trained = aq.local_sgd(aq.MLP, start, shard, 1.0, config, aq.stream(0, "t"))
    fresh = aq.Update(1, 1.0, start, weight=1.0, loss=2.3)
    worth = aq.accuracy([aq.slim(aq.MLP, u.state, 1.0) for u in (trained, fresh)], few.validation)
    weights = aq.aggregation.validation_weights(aq.MLP, few.validation, power=2.0)([trained, fresh])
    assert weights == pytest.approx((worth**2 / (worth**2).sum()).tolist())
    assert weights[0] > 0.6
    assert aq.aggregation.validation_weights(aq.MLP, few.validation, power=0.0)([trained, fresh]) == [0.5, 0.5]


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_constants_that_make_no_step_are_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        aq.aggregation.fedavgm(beta)
    with pytest.raises(ValueError, match="beta2"):
        aq.aggregation.fedadam(beta2=beta)
    with pytest.raises(ValueError, match="lr"):
        aq.aggregation.fedadam(lr=0.0)


def test_words_name_partitions_networks_draws_and_servers() -> None:
    assert aq.registry.partition("imbalanced(0.4, holders=2)").keywords == {"share": 0.4, "holders": 2}
    assert aq.registry.network("MLP(hidden=40)")(1.0)[2].out_features == 40
    assert aq.registry.width_sampler("one_random").func is aq.one_random
    assert aq.registry.server_optimizer("averaged") is aq.aggregation.fedavg
    assert aq.registry.server_optimizer("with_momentum(0.5)")(one(0.0), one(1.0))["w"].item() == 1.0


@pytest.mark.parametrize(
    ("named", "text", "said"),
    [
        (aq.registry.partition, "dirichlt(0.5)", "nearest is 'dirichlet'"),
        (aq.registry.partition, "dirichlet(0.5, 1, 2, 3)", "allowed in its brackets are alpha, least"),
        (aq.registry.partition, "dirichlet(beta=1)", "allowed in its brackets are alpha, least"),
        (aq.registry.partition, "dirichlet(__import__('os'))", "plain values"),
        (aq.registry.network, "MLP.__class__", "nearest"),
        (aq.registry.network, "LeNet(", "allowed is one of"),
        (aq.registry.server_optimizer, "with_momentum(2.0)", "beta is 2.0"),
        (aq.registry.width_sampler, "sandwic", "nearest is 'sandwich'"),
    ],
)
def test_words_that_name_nothing_are_refused(named, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        named(text)
