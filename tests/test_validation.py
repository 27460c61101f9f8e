"""Laws of what crosses a boundary: an honest answer passes unchanged, a dishonest one is refused with one sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import aequa_lite as aq
from aequa_lite._io import parse_json, read_limited, short_repr


def sent(width=0.3):
    return aq.slice_of(aq.MLP, aq.init_params(aq.MLP, seed=0), width)


@given(st.sampled_from([0.02, 0.3, 1.0]), st.booleans())
@settings(max_examples=10, deadline=None)
def test_an_honest_answer_passes_unchanged(width, arrays):
    answer = {k: t + 0.01 for k, t in sent(width).items()}
    received = {k: t.numpy() for k, t in answer.items()} if arrays else answer
    found = aq._validation.checked_update(dict(reversed(received.items())), sent(width), limit=10.0)
    assert list(found) == list(sent(width))
    assert all(torch.equal(found[k], t) for k, t in answer.items())
    assert all(torch.equal(t, answer[k]) for k, t in aq._validation.parse_update(save(answer), sent(width)).items())


def test_shapes_without_numbers_are_enough_to_check_against():
    with torch.device("meta"):
        empty = aq.MLP(0.3).state_dict()
    assert all(torch.equal(t, sent()[k]) for k, t in aq._validation.checked_update(sent(), empty).items())


NAN = torch.full((10,), math.nan)
HOSTILE = {
    "tensor '6.bias' is missing; allowed are the 6 names": {"6.bias": None},
    "tensor 'spare' is none of the network's": {"spare": torch.zeros(1)},
    "tensor '6.bias' holds a number that is not finite": {"6.bias": NAN},
    r"'6.bias' is torch.float32 of shape \(11,\); allowed is torch.float32 of shape \(10,\)": {
        "6.bias": torch.zeros(11)
    },
    "'6.bias' is torch.float16": {"6.bias": torch.zeros(10, dtype=torch.float16)},
    "'6.bias' is float64 of shape|'6.bias' is torch.float64": {"6.bias": np.zeros(10)},
    "'6.bias' is object of shape": {"6.bias": np.array([print] * 10, dtype=object)},
    "'6.bias' is >f4 of shape": {"6.bias": np.zeros(10, dtype=">f4")},
    r"'6.bias' is \[0.0, 0.0": {"6.bias": [0.0] * 10},
    "'6.bias' is torch.float32 of shape .10,.": {"6.bias": torch.zeros(10).to_sparse()},
    "the change has norm .*; allowed is at most 5": {"6.bias": torch.full((10,), 1e6)},
}


@pytest.mark.parametrize("sentence", HOSTILE)
def test_a_hostile_answer_is_refused_with_one_sentence(sentence):
    received = {**sent(), **HOSTILE[sentence]}
    with pytest.raises(ValueError, match=sentence) as error:
        aq._validation.checked_update({k: v for k, v in received.items() if v is not None}, sent(), limit=5.0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("other", [0.29, 0.31, 1.0])
def test_a_slice_of_another_width_is_refused(other):
    with pytest.raises(ValueError, match="allowed is torch.float32 of shape"):
        aq._validation.checked_update(sent(other), sent(0.3))


@pytest.mark.parametrize("nothing", [None, 3, [], "state"])
def test_what_holds_no_tensors_is_refused(nothing):
    with pytest.raises(ValueError, match="allowed are tensors by name|is missing"):
        aq._validation.checked_update(nothing, sent())


def test_a_message_is_measured_before_it_is_parsed(monkeypatch):
    monkeypatch.setattr("aequa_lite.trust.tensors_from", lambda content: pytest.fail("it was parsed"))
    with pytest.raises(ValueError, match="allowed are at most"):
        aq._validation.parse_update(bytes(10**6), sent())


@pytest.mark.parametrize("content", [b"", b"{}", b'\x08\0\0\0\0\0\0\0{"a":{}}', b"\xff" * 64, b"\x80\x04K\x01."])
def test_damaged_messages_are_refused(content):
    with pytest.raises(ValueError, match="no intact safetensors file"):
        aq._validation.parse_update(content, sent())


ASKED = {"participant": (0, 4), "samples": (1, 1000), "loss": (0.0, 1e6)}


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"participant": 5}, "participant is 5; allowed is a whole number from 0 to 4"),
        ({"participant": -1}, "participant is -1"),
        ({"participant": 1.0}, "participant is 1.0"),
        ({"samples": True}, "samples is True"),
        ({"samples": 10**5000}, "samples is a int that is too large to be shown"),
        ({"loss": math.nan}, "loss is nan; allowed is a finite number from 0.0 to 1000000.0"),
        ({"loss": math.inf}, "loss is inf"),
        ({"loss": "x" * 10**6}, r"loss is 'xxxxx[x]* \.\.\.;"),
        ({"spare": 1}, "what was said is about .*'spare'"),
    ],
)
def test_what_is_said_beside_the_tensors_is_checked(said, sentence):
    honest = {"participant": 3, "samples": 40, "loss": 1}
    assert aq._validation.checked_metadata(honest, ASKED) == honest
    with pytest.raises(ValueError, match=sentence) as error:
        aq._validation.checked_metadata({**honest, **said}, ASKED)
    assert len(str(error.value)) < 200


def test_the_rounds_median_says_who_is_outsized_whatever_the_widths():
    theta = aq.init_params(aq.MLP, seed=0)
    answers = [{k: t + 0.01 for k, t in aq.slice_of(aq.MLP, theta, w).items()} for w in (0.05, 0.3, 1.0)]
    loud = {k: t + 0.05 for k, t in aq.slice_of(aq.MLP, theta, 0.05).items()}
    assert aq._validation.oversized([*answers, loud], theta) == [False, False, False, True]
    assert (
        aq._validation.oversized([theta, theta, loud], theta) == [False] * 3
    )  # most sent nothing: no scale to measure by
    assert aq._validation.oversized([], theta) == []


def test_no_more_of_a_file_is_read_than_allowed(tmp_path):
    (tmp_path / "a").write_bytes(bytes(11))
    assert read_limited(tmp_path / "a", 11) == bytes(11)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_limited(tmp_path / "a", 10)
    with pytest.raises(ValueError, match="more than 10 bytes|no ordinary file"):
        read_limited("/dev/zero", 10)
    with pytest.raises(ValueError, match="no ordinary file"):
        read_limited(tmp_path, 10)


@pytest.mark.parametrize("text", ["[" * 100_000, "NaN", "[Infinity]", "{", b"\xff\xff", "1" * 5000])
def test_json_is_plain_finite_and_flat(text):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(text)


def test_a_value_is_shown_on_one_short_line():
    assert short_repr("a\nb") == "'a\\nb'"
    assert len(short_repr(list(range(10_000)))) <= 80
