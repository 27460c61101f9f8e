"""Laws of FEMNIST: pixels and writers are kept, a damaged file is named with its writer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from formats import damage, pixels, write_leaf

from aequa_lite.config import Config
from aequa_lite.data.load import load
from aequa_lite.data.partition import natural


def test_femnist_keeps_pixels_and_writers(tmp_path):
    data = load(write_leaf(tmp_path / "femnist"), device="cpu", validation=2)
    assert data.sizes == {"train": 30, "validation": 2, "test": 16}
    assert data.classes == 62
    assert data.labels[10] + data.labels[61] == "Az"
    assert torch.equal(
        data.test.x.reshape(16, 784), torch.from_numpy(np.concatenate([pixels(8, 784, seed=i) for i in (0, 2)]))
    )
    assert data.train.groups.unique().tolist() == [0, 1, 2, 3]
    assert len(data.validation.groups) == 2
    for shard in natural(data.train, Config(participants=4)):
        writer = int(shard.samples.groups[0])
        own = {row.tobytes() for row in pixels(8, 784, seed=writer)}
        assert all(row.numpy().tobytes() in own for row in shard.samples.x)


def test_missing_leaf_files_are_named(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no train/\*.json; LEAF writes train/ and test/"):
        load(tmp_path)


def change_pixel(content):
    """A pixel brighter than white."""
    content["user_data"][content["users"][0]]["x"][0][0] = 1.5


def change_label(content):
    """A class that does not exist."""
    content["user_data"][content["users"][0]]["y"][0] = 62


def change_size(content):
    """A row too few."""
    content["user_data"][content["users"][0]]["x"].pop()


def lose_a_pixel(content):
    """Rows of unequal length."""
    content["user_data"][content["users"][0]]["x"][0].pop()


def lose_a_writer(content):
    """A writer without samples."""
    del content["user_data"][content["users"][0]]


def lose_the_sizes(content):
    """A key too few."""
    del content["num_samples"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (change_pixel, "writer f0000_0 in .*a.json must hold 8 rows of 784 pixels"),
        (change_label, "whole labels from 0 to 61"),
        (change_size, "must hold 8 rows"),
        (lose_a_pixel, "writer f0000_0 in .* cannot be read"),
        (lose_a_writer, "writer f0000_0 in .* cannot be read .KeyError"),
        (lose_the_sizes, "a.json cannot be read .KeyError"),
    ],
)
def test_a_damaged_leaf_file_is_named_with_its_writer(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(write_leaf(tmp_path, change))


def test_json_that_is_cut_is_refused(tmp_path):
    damage(write_leaf(tmp_path) / "test" / "a.json")
    with pytest.raises(ValueError, match=r"test/a.json cannot be read .JSONDecodeError"):
        load(tmp_path)
