"""A config is validated before any work; a damaged report is named."""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch

import aequa_lite as aq
from aequa_lite.checkpoint import describe, digest, load_checkpoint, save_checkpoint, shards_digest
from aequa_lite.config import Config, stream
from aequa_lite.report import Report


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("participants", 0),
        ("participants", 2.0),
        ("rounds", True),
        ("lr", -0.1),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("min_width", 0.0),
        ("min_width", 1.5),
        ("seed", -1),
        ("batch", "64"),
    ],
)
def test_a_field_outside_its_range_is_refused_by_name_and_value(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be a"):
        Config(**{name: value})


def test_an_unknown_field_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ValueError, match="got 'local_step'; the nearest is 'local_steps'"):
        Config.from_dict({"local_step": 3})


def test_a_config_survives_the_way_through_a_dictionary() -> None:
    config = Config(rounds=3, lr=0.5)
    assert Config.from_dict(config.to_dict()) == config


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().rounds = 4  # type: ignore[misc]


def test_the_learning_rate_falls_from_first_to_final() -> None:
    config = Config(lr=0.2, lr_final=0.1, rounds=10, local_steps=10)
    rates = [config.lr_at(step) for step in range(101)]
    assert rates[0] == 0.2
    assert rates[100] == pytest.approx(0.02)
    assert all(a > b for a, b in zip(rates[:-1], rates[1:], strict=True))


def test_streams_of_other_purposes_are_other_streams() -> None:
    first = stream(0, "local", 1, 2).integers(2**60, size=4).tolist()
    assert first == stream(0, "local", 1, 2).integers(2**60, size=4).tolist()
    others = [stream(1, "local", 1, 2), stream(0, "local", 12), stream(0, "local", "1", 2), stream(0, "local1", 2)]
    assert all(first != other.integers(2**60, size=4).tolist() for other in others)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", True])
def test_a_seed_is_a_whole_number_from_zero(seed: object) -> None:
    with pytest.raises(ValueError, match="seed"):
        stream(seed)  # type: ignore[arg-type]


def test_a_damaged_report_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"report\.json"):
        Report.load(tmp_path)
    for text in ("{", "[]", '{"recipe": 1}', "null"):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(ValueError, match=r"report\.json"):
            Report.load(tmp_path)


def test_a_digest_tells_types_shapes_and_values_apart() -> None:
    arrays = [np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), np.zeros((2, 3), np.int32), np.zeros(6, bool),
              np.zeros((2, 3), np.float64), np.ones((2, 3), np.float32)]  # fmt: skip
    assert len({digest([each]) for each in arrays}) == len(arrays)
    assert digest([arrays[0]]) == digest([torch.zeros(2, 3)])
    assert digest([np.zeros(2), np.zeros(0)]) != digest([np.zeros(2)])


def test_a_digest_of_shards_tells_participants_samples_and_labels_apart() -> None:
    def shards(names=(0, 1), x=(1.0, 2.0), y=(0, 1)) -> str:
        samples = [aq.Samples(torch.tensor([[a]]), torch.tensor([c]), classes=2) for a, c in zip(x, y, strict=True)]
        return shards_digest([aq.Shard(i, s, np.arange(1)) for i, s in zip(names, samples, strict=True)])

    assert shards() == shards()
    assert len({shards(), shards(names=(1, 0)), shards(x=(2.0, 1.0)), shards(y=(1, 0))}) == 4


def test_a_function_that_only_bears_anothers_name_is_not_described_as_that_one() -> None:
    wrapped = functools.wraps(aq.full_width)(lambda config, last: (0.5,) * config.participants)
    assert (wrapped.__module__, wrapped.__qualname__) == (aq.full_width.__module__, aq.full_width.__qualname__)
    assert describe(aq.full_width).endswith(":full_width")
    with pytest.raises(ValueError, match="can be imported"):
        describe(wrapped)
    assert describe(wrapped, "half") == "named:half"


def test_a_part_that_only_one_of_two_identities_has_is_a_difference(tmp_path) -> None:
    path, state = tmp_path / "state.safetensors", aq.types.ServerState({"w": torch.ones(2)})
    save_checkpoint(path, aq.Round(0, state, (1.0,), 0.1, 4, total_left_out=(0, 2), identity={"a": 1}))
    assert load_checkpoint(path, {"a": 1}, state.theta).total_left_out == (0, 2)
    for other, sentence in (({"a": 1, "b": 2}, "b = 'nothing', this run has 2"), ({}, "a = 1, this run has 'nothing'")):
        with pytest.raises(ValueError, match=f"was made with {sentence}"):
            load_checkpoint(path, other, state.theta)


def test_numpys_numbers_become_plain_ones() -> None:
    config = aq.Config(participants=np.int64(3), seed=np.int64(7), lr=np.float32(0.5))
    assert [type(each) for each in (config.participants, config.seed, config.lr)] == [int, int, float]
    assert json.loads(json.dumps(config.to_dict())) == aq.Config(participants=3, seed=7, lr=0.5).to_dict()
    assert describe(np.int64(3)) == describe(3)


def test_a_stream_goes_by_the_value_of_a_tag_not_by_its_type() -> None:
    for same in (np.int64(1), np.uint8(1), True):
        assert stream(0, "a", same).integers(2**60) == stream(0, "a", 1).integers(2**60)
    assert stream(0, "a", "1").integers(2**60) != stream(0, "a", 1).integers(2**60)
    with pytest.raises(TypeError):
        stream(0, "a", 0.5)


def test_a_digest_tells_half_precision_from_whole_numbers_of_the_same_bytes() -> None:
    halves = torch.ones(3, dtype=torch.bfloat16)
    assert digest([halves]) == digest([halves.clone()]) != digest([halves.view(torch.int16)])
