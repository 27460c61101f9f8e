"""Laws of the data sets: the embedded one is exact and balanced, every set is checked, errors are one plain sentence."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from formats import pixels, write_npz
from programs import program

from aequa_lite.data import readers
from aequa_lite.data.load import default_device, load


def test_the_embedded_set_is_class_balanced_and_has_its_sizes():
    data = load("fashion-mini", device="cpu")
    assert data.sizes == {"train": 6000, "validation": 2000, "test": 4000}
    for split, each in ((data.train, 600), (data.validation, 200), (data.test, 400)):
        assert split.y.bincount().tolist() == [each] * 10
        assert split.x.dtype == torch.uint8
        assert split.y.dtype == torch.int64
        assert split.x.shape[1:] == (1, 28, 28)
    assert len(data.labels) == data.classes == 10


def test_the_embedded_splits_are_disjoint():
    with np.load(readers.EMBEDDED, allow_pickle=False) as content:
        places = np.concatenate([content["source_train"], content["source_validation"]])
    assert len(np.unique(places)) == 8000


def test_the_embedded_set_is_small():
    assert sum(file.stat().st_size for file in readers.EMBEDDED.parent.iterdir()) < 6_000_000


def test_the_embedded_set_comes_with_its_licence_and_the_hash_that_is_checked():
    folder = readers.EMBEDDED.parent
    assert "MIT" in (folder / "LICENSE-fashion-mnist").read_text(encoding="utf-8")
    assert "2017 Zalando SE" in (folder / "LICENSE-fashion-mnist").read_text(encoding="utf-8")
    assert readers.SHA256 in (folder / "README.md").read_text(encoding="utf-8")


def test_one_flipped_bit_in_the_embedded_file_is_refused(tmp_path, monkeypatch):
    content = bytearray(readers.EMBEDDED.read_bytes())
    content[1_000_000] ^= 1
    (tmp_path / "fashion-mini.npz").write_bytes(content)
    monkeypatch.setattr(readers, "EMBEDDED", tmp_path / "fashion-mini.npz")
    with pytest.raises(ValueError, match=r"is damaged .* install aequa-lite again"):
        load("fashion-mini")


def test_the_embedded_set_needs_nothing_but_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert len(load("fashion-mini", root=tmp_path / "nowhere", device="cpu").train) == 6000
    assert list(tmp_path.iterdir()) == []


def test_the_same_data_have_the_same_hash_whatever_is_set_aside(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    first = load(path)
    assert first.sha256 == load(path, seed=5, validation=3).sha256
    other = pixels(24, 3, 8, 8)
    other[0, 0, 0, 0] ^= 1
    assert first.sha256 != load(write_npz(tmp_path / "b.npz", x_train=other)).sha256
    assert first.sha256 != load(write_npz(tmp_path / "c.npz", y_test=np.array([1, 0, 2, 0, 1, 2]))).sha256


def script(monkeypatch, n=9000):
    """The script that makes the embedded set, over a stand-in for Fashion-MNIST."""
    module = program("scripts/make_fashion_mini.py")

    def stand_in(root, train, download):
        y = torch.from_numpy(np.random.default_rng(int(train)).permutation(n) % 10)
        x = torch.arange(n)[:, None, None].expand(n, 2, 2) % 256
        return SimpleNamespace(data=x.to(torch.uint8), targets=y)

    monkeypatch.setattr(module, "FashionMNIST", stand_in)
    return module


def test_the_script_makes_the_same_bytes_twice_and_balanced_disjoint_splits(monkeypatch):
    module = script(monkeypatch)
    arrays = module.draw("anywhere")
    assert module.pack(arrays) == module.pack(module.draw("anywhere"))
    assert module.pack(arrays) != module.pack(module.draw("anywhere", seed=1))
    assert not set(arrays["source_train"]) & set(arrays["source_validation"])
    assert np.bincount(arrays["y_train"]).tolist() == [600] * 10
    for split in ("train", "validation", "test"):
        assert (np.diff(arrays[f"source_{split}"].astype(int)) > 0).all()
        assert np.array_equal(arrays[f"x_{split}"][:, 0, 0], arrays[f"source_{split}"] % 256)


def test_the_script_writes_complete_files_and_prints_its_usage(monkeypatch, tmp_path, capsys):
    module = script(monkeypatch)
    module.main(["anywhere", str(tmp_path / "mini.npz")])
    assert [file.name for file in tmp_path.iterdir()] == ["mini.npz"]
    content = (tmp_path / "mini.npz").read_bytes()
    assert capsys.readouterr().out.splitlines()[-1] == hashlib.sha256(content).hexdigest()
    assert load(tmp_path / "mini.npz").sizes == {"train": 6000, "validation": 2000, "test": 4000}
    with pytest.raises(SystemExit, match=r"usage: python scripts/make_fashion_mini.py ROOT"):
        module.main([])


def test_what_is_set_aside_is_class_balanced_disjoint_and_decided_by_the_seed(tmp_path):
    x = (np.arange(200)[:, None] * np.ones(3)).astype(np.uint8)
    y = np.repeat([0, 1, 2], [150, 40, 10])
    path = write_npz(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:6])
    one, same, other = (load(path, seed=seed, validation=30, device="cpu") for seed in (1, 1, 2))
    assert one.validation.y.bincount().tolist() == [13, 12, 5]  # at most half of a class
    assert torch.equal(one.validation.x, same.validation.x)
    assert not torch.equal(one.validation.x, other.validation.x)
    both = torch.cat([one.train.x[:, 0], one.validation.x[:, 0]])
    assert both.sort().values.tolist() == list(range(200))


def test_by_default_a_sixth_and_at_most_five_thousand_of_sixty_thousand(tmp_path):
    for n, each in ((60, 10), (60_000, 5_000), (240_000, 10_000)):
        x, y = np.zeros((n, 1), np.uint8), np.arange(n) % 10
        assert len(load(write_npz(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:6])).validation) == each


@pytest.mark.parametrize("validation", [0, 13, -1, 2.5, True, "5"])
def test_an_impossible_validation_size_is_refused(tmp_path, validation):
    with pytest.raises(
        ValueError,
        match=r"`validation` must be a whole number (in .1, 12. .at most half of each class|from 1 or None, got )",
    ):
        load(write_npz(tmp_path / "a.npz"), validation=validation)


@pytest.mark.parametrize(("name", "near"), [("fashon-mini", "fashion-mini"), ("MNIST", "mnist"), ("cifar", "cifar10")])
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name, near):
    with pytest.raises(ValueError, match=f"`name` must be .*, got '{name}'; the nearest is '{near}'"):
        load(name)


@pytest.mark.parametrize("wrong", ["gpu", 1.5, "cuda:99", "meta"])
def test_an_impossible_device_is_refused(wrong):
    with pytest.raises(
        ValueError,
        match=f"`device` must be (a device that torch can use here, .*|text or a device or None), got {wrong!r}",
    ):
        load("fashion-mini", device=wrong)


def test_the_default_device_is_the_environments_else_a_gpu_else_the_cpu(monkeypatch):
    monkeypatch.setenv("AEQUA_DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device() == load("fashion-mini").train.x.device == torch.device("cpu")
    monkeypatch.delenv("AEQUA_DEVICE")
    assert default_device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device().type == ("mps" if torch.backends.mps.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta"])
def test_an_environment_that_names_no_usable_device_is_refused(monkeypatch, name):
    monkeypatch.setenv("AEQUA_DEVICE", name)
    with pytest.raises(ValueError, match=f"`AEQUA_DEVICE` must be a device that torch can use here, .*, got '{name}'"):
        load("no-file.npz")
    assert load("fashion-mini", device="cpu").classes == 10


@pytest.mark.parametrize("name", [5, None, b"mnist", ["mnist"]])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="`name` must be a path, got"):
        load(name)


def test_a_bad_seed_is_refused_before_any_file_is_read():
    with pytest.raises(ValueError, match="seed.* -1"):
        load("no-file.npz", seed=-1)
