"""Laws of .npz files: any layout of images becomes one, what is wrong is refused with the remedy."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from formats import damage, pixels, write_npz

from aequa_lite.config import Config
from aequa_lite.data.load import load
from aequa_lite.data.partition import natural


@pytest.mark.parametrize(
    ("shape", "tensor"),
    [((8, 9), (1, 8, 9)), ((3, 8, 9), (3, 8, 9)), ((8, 9, 3), (3, 8, 9)), ((8, 9, 1), (1, 8, 9)), ((7,), (7,))],
)
def test_images_of_any_layout_become_channels_first(tmp_path, shape, tensor):
    x, x_test = pixels(24, *shape), pixels(6, *shape)
    data = load(write_npz(tmp_path / "a.npz", x_train=x, x_test=x_test), device="cpu")
    assert data.train.x.shape[1:] == data.validation.x.shape[1:] == data.test.x.shape[1:] == tensor
    moved = np.moveaxis(x_test, -1, 1) if len(shape) == 3 and shape[-1] in (1, 3) else x_test.reshape(6, *tensor)
    assert np.array_equal(data.test.x.numpy(), moved)
    assert data.name == "a.npz"


def test_a_table_of_floats_is_read_unchanged(tmp_path):
    x = np.linspace(-1, 1, 24 * 5, dtype=np.float32).reshape(24, 5)
    data = load(write_npz(tmp_path / "a.npz", x_train=x, x_test=x[:6]), device="cpu")
    assert torch.equal(data.test.x, torch.from_numpy(x[:6]))


def test_a_validation_split_of_its_own_is_kept(tmp_path):
    own = {"x_validation": pixels(4, 3, 8, 8, seed=3), "y_validation": np.array([0, 1, 2, 0], dtype=np.uint8)}
    data = load(write_npz(tmp_path / "a.npz", **own), device="cpu")
    assert data.sizes == {"train": 24, "validation": 4, "test": 6}
    with pytest.raises(ValueError, match=r"`validation` must be left out, since .* its own validation split, got 3"):
        load(write_npz(tmp_path / "a.npz", **own), validation=3)


def test_a_file_named_like_a_known_set_comes_first_and_is_named(tmp_path):
    write_npz(tmp_path / "cifar10.npz", x_train=pixels(24, 3, 32, 32), x_test=pixels(6, 3, 32, 32))
    data = load("cifar10", root=tmp_path, device="cpu")
    assert data.name == "cifar10.npz"
    assert data.sizes["test"] == 6


def test_participants_of_an_npz_file_are_natural_owners(tmp_path):
    owner = np.repeat(["b", "c", "a"], 8)
    dataset = load(write_npz(tmp_path / "a.npz", participant=owner), device="cpu", validation=3)
    assert dataset.train.groups.bincount().sum() == 21
    x = pixels(24, 3, 8, 8)
    for shard in natural(dataset.train, Config(participants=3)):
        code = int(shard.samples.groups.unique())
        own = {row.tobytes() for row in x[owner == "abc"[code]]}
        assert all(row.numpy().tobytes() in own for row in shard.samples.x)
    plain = load(write_npz(tmp_path / "b.npz"), device="cpu")
    assert plain.train.groups is None
    assert plain.sha256 != dataset.sha256


@pytest.mark.parametrize("owner", [np.zeros(23, int), np.zeros((24, 1), int), np.zeros(24)])
def test_participants_that_do_not_fit_the_training_samples_are_refused(tmp_path, owner):
    with pytest.raises(ValueError, match="`participant` of .* for each of 24 training samples, got"):
        load(write_npz(tmp_path / "a.npz", participant=owner))


def test_one_number_in_place_of_images_is_refused_beside_participants(tmp_path):
    with pytest.raises(ValueError, match="^`x_train` must .*, got"):
        load(write_npz(tmp_path / "a.npz", x_train=np.uint8(3), participant=np.zeros(24, int)))


def float_images():
    """Images with pixels from 0 to 1."""
    return pixels(24, 3, 8, 8) / 255


WRONG = {
    "must hold x_train, y_train, x_test, y_test, got none of y_test": {"y_test": None},
    "got none of y_validation": {"x_validation": pixels(4, 3, 8, 8)},
    r"`x_train` must be uint8, got float64 with 4 axes; .* np.rint\(255": {"x_train": float_images()},
    "`x_train` must be uint8, got int64 with 4 axes": {"x_train": pixels(24, 3, 8, 8).astype(int)},
    r"`x_train` must have shape .*, got \(24, 3, 0, 8\)": {"x_train": pixels(24, 3, 0, 8)},
    r"`x_train` must have shape .*, got \(24,\)": {"x_train": pixels(24)},
    r"`x_test` must have shape .*, got \(6, 3, 9, 8\)": {"x_test": pixels(6, 3, 9, 8)},
    "`x_test` must hold finite numbers": {
        "x_train": np.ones((24, 2), np.float32),
        "x_test": np.full((6, 2), np.nan, np.float32),
    },
    r"`y_train` must be whole numbers of shape \(24,\), got int64 of shape \(23,\)": {"y_train": np.arange(23) % 3},
    r"`y_train` must be .*, got int64 of shape \(24, 1\)": {"y_train": np.arange(24)[:, None] % 3},
    "`y_train` must be whole numbers .*, got float64": {"y_train": np.arange(24) % 3 / 1.0},
    "`y_train` must hold .* without a gap, got 3 from 1 to 3": {"y_train": np.arange(24) % 3 + 1},
    "`y_train` must hold two or more labels .*, got 1 from 0 to 0": {"y_train": np.zeros(24, int)},
    "`y_train` must hold .*, got 24 from -1 to 22": {"y_train": np.arange(24) - 1},
    "`y_test` must hold labels from 0 to 2, got 0 to 3": {"y_test": np.array([0, 1, 2, 3, 0, 1])},
    "cannot be read .ValueError: Object arrays": {"y_test": np.array([0, 1, 2, 0, 1, None], dtype=object)},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_arrays_are_refused_with_the_remedy(tmp_path, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        load(write_npz(tmp_path / "a.npz", **WRONG[sentence]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut", pickle.dumps({"x": 1})])
def test_what_is_no_npz_file_is_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.npz cannot be read .*'fashion-mini' is embedded and needs no file"):
        load(tmp_path / "a.npz")


def test_an_npz_file_cut_in_half_is_refused(tmp_path):
    damage(write_npz(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "a.npz")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a.npz is missing; check the path .'fashion-mini'"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("split", ["test", "validation"])
def test_splits_of_two_types_are_refused_since_only_bytes_are_scaled(tmp_path, split):
    arrays = {f"x_{split}": (pixels(6, 3, 8, 8) / 255).astype(np.float32), f"y_{split}": np.arange(6) % 3}
    with pytest.raises(ValueError, match=f"`x_{split}` must be uint8 as `x_train` is, got float32"):
        load(write_npz(tmp_path / "a.npz", **arrays), device="cpu")
