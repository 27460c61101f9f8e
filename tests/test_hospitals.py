"""Laws of the embedded hospitals: published bytes, FLamby's patients."""

from __future__ import annotations

import hashlib

import pytest
import torch

import aequa_lite as aq
from aequa_lite.data import hospitals, natural
from aequa_lite.networks import TabularMLP, check_network

MD5 = {  # the ones that FLamby compares
    "Cleveland": "2d91a8ff69cfd9616aa47b59d6f843db",
    "Budapest": "22e96bee155b5973568101c93b3705f6",
    "Switzerland": "9a87f7577310b3917730d06ba9349e20",
    "Long Beach": "4249d03ca7711e84f4444768c9426170",
}
NAMES = ("Budapest", "Cleveland", "Long Beach", "Switzerland")
KEPT = {"Budapest": 261, "Cleveland": 303, "Long Beach": 130, "Switzerland": 46}
ALL = {"Budapest": 294, "Cleveland": 303, "Long Beach": 200, "Switzerland": 123}
ILL = {"Budapest": 98, "Cleveland": 139, "Long Beach": 101, "Switzerland": 45}
ALL_ILL = {"Budapest": 106, "Cleveland": 139, "Long Beach": 149, "Switzerland": 115}


@pytest.fixture(scope="module")
def data() -> aq.Dataset:
    return aq.load("hospitals", device="cpu")


@pytest.fixture(scope="module")
def whole() -> aq.Dataset:
    return aq.load("hospitals", whole=True, device="cpu")


def patients(data: aq.Dataset) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All patients: features, labels, hospitals."""
    splits = (data.train, data.validation, data.test)
    return tuple(torch.cat([getattr(s, k) for s in splits]) for k in ("x", "y", "groups"))


@pytest.mark.parametrize("hospital", MD5)
def test_the_embedded_files_are_the_published_bytes(hospital):
    content = (hospitals.HOSPITALS / hospitals.FILES[hospital][0]).read_bytes()
    assert hashlib.md5(content, usedforsecurity=False).hexdigest() == MD5[hospital]


def test_licence_provenance_and_investigators_are_beside_the_files():
    licence = (hospitals.HOSPITALS / "LICENSE-heart-disease").read_text(encoding="utf-8")
    for name in ("Janosi", "Steinbrunn", "Pfisterer", "Detrano", "CC BY 4.0"):
        assert name in licence
    readme = (hospitals.HOSPITALS / "README.md").read_text(encoding="utf-8")
    assert all(each in readme for each in MD5.values())
    assert "archive.ics.uci.edu/dataset/45" in readme


def test_the_embedded_files_are_small():
    assert sum(file.stat().st_size for file in hospitals.HOSPITALS.iterdir()) < 60_000


@pytest.mark.parametrize(("name", "sizes", "ill"), [("data", KEPT, ILL), ("whole", ALL, ALL_ILL)])
def test_each_hospital_has_its_patients(request, name, sizes, ill):
    found = request.getfixturevalue(name)
    _, y, owner = patients(found)
    assert found.participants == NAMES
    assert dict(zip(NAMES, owner.bincount().tolist())) == sizes
    assert dict(zip(NAMES, owner[y == 1].bincount().tolist())) == ill
    assert found.labels == ("no disease", "disease")


def test_the_features_are_those_of_flamby_with_all_categories(data, whole):
    assert data.encoder.features == (
        *("age", "sex", "cp=1", "cp=2", "cp=3", "cp=4", "trestbps", "chol", "fbs"),
        *("restecg=0", "restecg=1", "restecg=2", "thalach", "exang", "oldpeak"),
    )
    assert {"slope=3", "slope missing", "ca missing", "thal=7"} < set(whole.encoder.features)


def test_a_cholesterol_of_zero_tells_switzerland_unless_it_is_missing(data, whole):
    column = next(c for c in data.encoder.columns if c.name == "chol")
    x, _, owner = patients(data)
    raw = x[:, data.encoder.features.index("chol")] * column.sd + column.mean
    assert (raw[owner == 3].abs() < 1e-3).all()
    assert int((raw[owner == 2].abs() < 1e-3).sum()) == 33
    x, _, owner = patients(whole)
    absent = x[:, whole.encoder.features.index("chol missing")]
    assert absent[owner == 3].all()
    assert (whole.train.x.abs() < 10).all()


def test_hospitals_are_participants_and_each_trains_on_both_labels(data):
    shards = natural(data.train, aq.Config(participants=4))
    assert [set(s.samples.groups.tolist()) for s in shards] == [{0}, {1}, {2}, {3}]
    assert (aq.data.class_counts(shards) > 0).all()


def test_the_seed_decides_who_is_tested_but_not_what_the_data_are(data):
    other = aq.load("hospitals", seed=1, device="cpu")
    assert other.sha256 == data.sha256
    assert not torch.equal(other.test.x, data.test.x)


def test_the_hash_tells_the_two_choices_of_patients_apart(data, whole):
    assert data.sha256 != whole.sha256


def test_one_flipped_bit_is_refused(tmp_path, monkeypatch):
    for file in hospitals.HOSPITALS.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken = tmp_path / "processed.va.data"
    content = bytearray(broken.read_bytes())
    content[100] ^= 1
    broken.write_bytes(content)
    monkeypatch.setattr(hospitals, "HOSPITALS", tmp_path)
    with pytest.raises(ValueError, match="is damaged .* install aequa-lite again"):
        aq.load("hospitals")
    broken.unlink()
    with pytest.raises(FileNotFoundError, match=r"processed.va.data is missing"):
        aq.load("hospitals")


@pytest.mark.parametrize("wrong", [1, "yes", None])
def test_whole_is_true_or_false(wrong):
    with pytest.raises(ValueError, match="`whole` must be True or False"):
        aq.load("hospitals", whole=wrong)


def test_more_participants_than_hospitals_are_refused(data):
    with pytest.raises(ValueError, match="`participants` must be at most 4"):
        natural(data.train, aq.Config(participants=5))


def test_a_network_for_tables_fits_and_can_be_rewarded(data):
    build = aq.for_dataset(TabularMLP, data)
    check_network(build, data.train.x[:8])


def test_together_the_hospitals_beat_the_worst_of_them(data):
    config = aq.Config(participants=4, rounds=20, local_steps=5)
    shards = natural(data.train, config)
    build = aq.for_dataset(TabularMLP, data)
    alone = aq.accuracy(aq.standalone(build, shards, config, progress=False), data.test)
    *_, last = aq.federate(build, shards, config, progress=False)
    (together,) = aq.accuracy([aq.slim(build, last.theta, 1.0)], data.test)
    assert together > alone[3] + 0.1
    assert alone.argmin() == 3
