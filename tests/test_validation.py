"""Laws of the trust boundary: an honest update passes unchanged, anything else is refused with one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import aequa_lite as aq
from aequa_lite import _validation
from aequa_lite._check import Count, Share, checked
from aequa_lite._validation import save_tensors, tensors_at, tensors_of


def sent(width=0.3):
    return aq.slice_of(aq.MLP, aq.init_params(aq.MLP, seed=0), width)


@given(st.sampled_from([0.02, 0.3, 1.0]), st.booleans())
@settings(max_examples=10, deadline=None)
def test_an_honest_update_passes_unchanged(width, arrays):
    update = {k: t + 0.01 for k, t in sent(width).items()}
    received = {k: t.numpy() for k, t in update.items()} if arrays else update
    found = _validation.checked_update(dict(reversed(received.items())), sent(width))
    assert list(found) == list(sent(width))
    assert all(torch.equal(found[k], t) for k, t in update.items())
    assert all(torch.equal(t, update[k]) for k, t in _validation.parse_update(save(update), sent(width)).items())


def test_shapes_without_numbers_are_enough_to_check_against():
    with torch.device("meta"):
        empty = aq.MLP(0.3).state_dict()
    assert all(torch.equal(t, sent()[k]) for k, t in _validation.checked_update(sent(), empty).items())


NAN = torch.full((10,), math.nan)
HOSTILE = {
    "tensor '6.bias' is missing; the network has 6 tensors": {"6.bias": None},
    "tensor 'spare' is none of the network's": {"spare": torch.zeros(1)},
    "tensor '6.bias' holds a number that is not finite": {"6.bias": NAN},
    r"'6.bias' must be torch.float32 of shape \(10,\), got torch.float32 of shape \(11,\)": {"6.bias": torch.zeros(11)},
    "'6.bias' must be torch.float32 .* got torch.float16": {"6.bias": torch.zeros(10, dtype=torch.float16)},
    "'6.bias' must be .* got float64 of shape|'6.bias' must be .* got torch.float64": {"6.bias": np.zeros(10)},
    "'6.bias' must be .* got object of shape": {"6.bias": np.array([print] * 10, dtype=object)},
    "'6.bias' must be .* got >f4 of shape": {"6.bias": np.zeros(10, dtype=">f4")},
    r"'6.bias' must be .* got \[0.0, 0.0": {"6.bias": [0.0] * 10},
    "'6.bias' must be .* got torch.float32 of shape .10,.": {"6.bias": torch.zeros(10).to_sparse()},
}


@pytest.mark.parametrize("sentence", HOSTILE)
def test_a_hostile_update_is_refused_with_one_sentence(sentence):
    received = {**sent(), **HOSTILE[sentence]}
    with pytest.raises(ValueError, match=sentence) as error:
        _validation.checked_update({k: v for k, v in received.items() if v is not None}, sent())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("other", [0.29, 0.31, 1.0])
def test_a_slice_of_another_width_is_refused(other):
    with pytest.raises(ValueError, match="must be torch.float32 of shape"):
        _validation.checked_update(sent(other), sent(0.3))


@pytest.mark.parametrize("nothing", [None, 3, [], "state"])
def test_what_holds_no_tensors_is_refused(nothing):
    with pytest.raises(ValueError, match="`received` must be tensors by name"):
        _validation.checked_update(nothing, sent())


def test_a_message_is_measured_before_it_is_parsed(monkeypatch):
    monkeypatch.setattr(_validation, "parse_tensors", lambda content: pytest.fail("it was parsed"))
    with pytest.raises(ValueError, match="must have at most"):
        _validation.parse_update(bytes(10**6), sent())


@pytest.mark.parametrize("content", [b"", b"{}", b'\x08\0\0\0\0\0\0\0{"a":{}}', b"\xff" * 64, b"\x80\x04K\x01."])
def test_damaged_messages_are_refused(content):
    with pytest.raises(ValueError, match="not an intact safetensors file"):
        _validation.parse_update(content, sent())


def test_tensors_and_metadata_survive_the_way_to_disk_and_back(tmp_path: Path):
    tensors = {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.tensor(3, dtype=torch.int64)}
    save_tensors(tmp_path / "a.safetensors", tensors, {"run": "ü"})
    for found, metadata in (
        tensors_at(tmp_path / "a.safetensors"),
        tensors_of((tmp_path / "a.safetensors").read_bytes()),
    ):
        assert metadata == {"run": "ü"}
        assert all(torch.equal(found[k], t) for k, t in tensors.items())
    assert tensors_of(save({"a": torch.ones(1)}))[1] == {}


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no device that is always full")
def test_a_full_disk_is_one_sentence_about_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: write(Path("/dev/full"), content))
    with pytest.raises(OSError, match=r"cannot write .*a\.safetensors: No space left on device"):
        save_tensors(tmp_path / "a.safetensors", sent(), {})
    assert not list(tmp_path.iterdir())


ASKED = {"participant": (0, 4), "samples": (1, 1000), "loss": (0.0, 1e6)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"participant": 5}, r"`participant` must be a whole number in \[0, 4\], got 5"),
        ({"participant": -1}, "`participant` must be .* got -1"),
        ({"participant": 1.0}, "`participant` must be .* got 1.0"),
        ({"samples": True}, "`samples` must be .* got True"),
        ({"samples": 10**5000}, "`samples` must be .* got a int that is too large to be shown"),
        ({"loss": math.nan}, r"`loss` must be a number in \[0, 1e\+06\], got nan"),
        ({"loss": math.inf}, "`loss` must be .* got inf"),
        ({"loss": "x" * 10**6}, r"`loss` must be .* got 'xxxxx[x]* \.\.\."),
        ({"spare": 1}, "`metadata` must be numbers named participant, samples, loss, got .*'spare'"),
    ],
)
def test_the_metadata_beside_the_tensors_is_checked(changes, sentence):
    honest = {"participant": 3, "samples": 40, "loss": 1}
    assert _validation.checked_metadata(honest, ASKED) == honest
    with pytest.raises(ValueError, match=sentence) as error:
        _validation.checked_metadata({**honest, **changes}, ASKED)
    assert len(str(error.value)) < 200


def test_the_rounds_median_says_who_is_oversized_whatever_the_widths():
    theta = aq.init_params(aq.MLP, seed=0)
    updates = [{k: t + 0.01 for k, t in aq.slice_of(aq.MLP, theta, w).items()} for w in (0.05, 0.3, 1.0)]
    large = {k: t + 0.05 for k, t in aq.slice_of(aq.MLP, theta, 0.05).items()}
    assert _validation.oversized([*updates, large], theta) == [False, False, False, True]
    assert _validation.oversized([theta, theta, large], theta) == [False] * 3  # most changed nothing: no scale
    assert _validation.oversized([], theta) == []
    for times in (0.5, math.nan, math.inf, "4"):
        with pytest.raises(ValueError, match="`times` must be a number from 1"):
            _validation.oversized([], theta, times)


REPORT: dict[str, Any] = {
    "config": {}, "data": {"name": "few", "sha256": "0", "sizes": {"train": 8, "validation": 8, "test": 8}},
    "partition": "homogeneous", "method": "aequa", "versions": {}, "device": "cpu", "seconds": 1.0, "parameters_sent": 9,
    "contribution": [0.2, 0.4], "standalone": [0.2, 0.4], "widths": None, "parameters": [5, 9],
    "predicted_accuracy": [0.5, 0.6], "test_accuracy": [0.5, 0.6], "curve": None, "warnings": [],
    "identity": {}, "rewarding": {},
    "fairness": {"pearson": None, "pearson_interval": None, "pearson_noise_interval": [0, 1], "pearson_ceiling": 0.9,
                 "mcg": 0.1, "cgs": 0.1, "min_gain": -0.1, "worse_off": [1]},
}  # fmt: skip
OPTIONAL = {"warnings", "identity", "rewarding"}


def report_of(fields: dict[str, Any]) -> aq.Report:
    """The report of these fields, lists being tuples as `Report.load` makes them."""
    return aq.Report(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def test_a_whole_report_passes():
    assert report_of(REPORT).test_accuracy == (0.5, 0.6)
    assert report_of({k: v for k, v in REPORT.items() if k not in OPTIONAL}).warnings == ()


@pytest.mark.parametrize("name", sorted(set(REPORT) - OPTIONAL))
def test_a_report_without_one_of_its_fields_is_refused(name, tmp_path: Path):
    (tmp_path / "report.json").write_text(json.dumps({k: v for k, v in REPORT.items() if k != name}))
    with pytest.raises(ValueError, match="0.1" if name == "config" else name):
        aq.Report.load(tmp_path)


@pytest.mark.parametrize("wrong", [7, "x", [0.1], [True, False], {"a": 1}, [0.2, math.nan], [10**400, 0], -1])
@pytest.mark.parametrize("name", REPORT)
def test_a_field_of_another_kind_is_refused_by_name(name, wrong):
    allowed = {"seconds": [7, -1], "parameters_sent": [7, -1], "parameters": [[10**400, 0]]}
    allowed |= {name: [{"a": 1}] for name, value in REPORT.items() if isinstance(value, dict)} | {"curve": [{"a": 1}]}
    for numbers in ("contribution", "standalone", "widths", "predicted_accuracy", "test_accuracy"):
        allowed[numbers] = [[0.1], [10**400, 0]]
    allowed |= {text: ["x"] for text in ("partition", "method", "device")}
    if wrong in allowed.get(name, []):
        return
    with pytest.raises(ValueError, match=f"`{name}` must be "):
        report_of({**REPORT, name: wrong})


def test_a_report_that_was_edited_is_refused(tmp_path: Path):
    path = report_of(REPORT).save(tmp_path)
    assert aq.Report.load(tmp_path).standalone == (0.2, 0.4)
    whole = json.loads(path.read_text())
    for edited in ({"seconds": 2.0}, {"standalone": [0.2]}, {"fairness": {}}, {"sha256": "0" * 64}, {"sha256": None}):
        path.write_text(json.dumps({**whole, **edited}))
        with pytest.raises(ValueError, match="its checksum does not fit its contents"):
            aq.Report.load(tmp_path)
    path.write_text(json.dumps({k: v for k, v in whole.items() if k != "sha256"}))
    with pytest.raises(ValueError, match="its checksum does not fit its contents"):
        aq.Report.load(tmp_path)


def test_an_array_is_refused_for_one_wrong_number_wherever_it_stands() -> None:
    @checked
    def takes(shares: Sequence[Share] = (), counts: Sequence[Count] = ()) -> int:
        return 1

    assert takes(np.array([0.0, 0.5, 1.0]), np.array([1, 5])) == 1
    for wrong in ([0.1, math.nan, 0.2], [0.1, 1.5, 0.2], [0.1, -0.1, 0.2], [math.inf, 0.1]):
        with pytest.raises(ValueError, match="`shares` must be a sequence, each part a number in"):
            takes(np.array(wrong))
    for wrong in ([3, 0, 3], [1.0, 2.0], [True, True]):
        with pytest.raises(ValueError, match="`counts` must be a sequence, each part a whole number from 1"):
            takes(counts=np.array(wrong))
