"""Words of YAML files and the command line: each names a function, with plain values in its brackets."""

from __future__ import annotations

import pytest
import torch

import aequa_lite as aq
from aequa_lite.registry import lookup, plain_option
from aequa_lite.types import ServerState


def test_words_name_partitions_networks_width_samplers_and_server_optimizers() -> None:
    assert lookup("partition", "imbalanced(0.4, holders=2)").keywords == {"share": 0.4, "holders": 2}
    assert lookup("network", "MLP(hidden=40)")(1.0)[2].out_features == 40
    assert lookup("width_sampler", "one_random") is aq.one_random
    assert lookup("server", "fedavg") is aq.aggregation.fedavg
    assert lookup("aggregate", "coordinate_median") is aq.aggregation.coordinate_median
    state = ServerState({"w": torch.zeros(1)})
    assert lookup("server", "fedavgm(0.5)")(state, {"w": torch.ones(1)}).theta["w"].item() == 1.0
    assert lookup("aggregate", "trimmed_mean(0.3)").keywords == {"share": 0.3}


@pytest.mark.parametrize(
    ("kind", "text", "sentence"),
    [
        ("partition", "dirichlt(0.5)", "nearest is 'dirichlet'"),
        ("partition", "dirichlet(0.5, 1, 2, 3)", "values for alpha, least, each once"),
        ("partition", "dirichlet(beta=1)", "values for alpha, least, each once"),
        ("partition", "dirichlet(__import__('os'))", "plain values"),
        ("network", "MLP.__class__", "nearest"),
        ("network", "LeNet(", "must be one of"),
        ("server", "fedavgm(2.0)", "`beta` must be"),
        ("aggregate", "trimmed_mean(0.5)", "`share` must be"),
        ("width_sampler", "sandwic", "nearest is 'sandwich'"),
    ],
)
def test_words_that_name_nothing_are_refused(kind: str, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lookup(kind, text)


@pytest.mark.parametrize(
    ("kind", "text", "sentence"),
    [
        ("allocation", "capped(-1)", "`allowance` must be"),
        ("algorithm", "iafl(recovery=7)", "`recovery` must be"),
        ("algorithm", "aequa(allocation='capped(2.0)')", "`allowance` must be"),
        ("algorithm", "fedsac(every=0)", "`every` must be"),
    ],
)
def test_numbers_outside_their_range_are_refused_when_the_word_is_read(kind: str, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lookup(kind, text)


def test_a_large_vocabulary_and_many_hidden_units_can_be_saved_as_a_reward() -> None:
    assert all(plain_option(name, 70_000) for name in ("words", "hidden", "shape"))
    assert not plain_option("layers", 65)
    assert not plain_option("words", 1 << 29)
