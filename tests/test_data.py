"""Laws of the data sets: the embedded one is exact and balanced, every reader gives the same form, errors are plain."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import pickle
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets
from torchvision.datasets import mnist as torchvision_mnist
from torchvision.datasets import utils as torchvision_download

from aequa_lite import sources
from aequa_lite.data import load
from aequa_lite.downloads import folder_of_data
from aequa_lite.partition import natural
from aequa_lite.records import Recipe

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_fashion_mini.py"


def pixels(*shape, seed=0):
    """Random uint8 images."""
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


# -- files in the formats of the real ones ----------------------------------------------------------------------------
def write_idx(path, array):
    """Write the format of MNIST: a magic number, the shape, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def write_mnist(root, name="MNIST"):
    """Write 60 + 20 digits."""
    for split, n in (("train", 60), ("t10k", 20)):
        write_idx(root / name / "raw" / f"{split}-images-idx3-ubyte", pixels(n, 28, 28))
        write_idx(root / name / "raw" / f"{split}-labels-idx1-ubyte", np.arange(n) % 10)


def write_cifar(root, monkeypatch, kind):
    """Write 12 images in every file of a CIFAR set, and let torchvision expect exactly these files."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    key, classes = ("fine_labels", 100) if kind is datasets.CIFAR100 else ("labels", 10)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()

    def batch(i):
        return {"data": pixels(12, 3072, seed=i), key: [j // 2 for j in range(12)]}

    for splits in ("train_list", "test_list"):
        written = [[name, write(name, batch(i))] for i, (name, _) in enumerate(getattr(kind, splits))]
        monkeypatch.setattr(kind, splits, written)
    names = [f"class {i}" for i in range(classes)]
    md5 = write(kind.meta["filename"], {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5})


def write_svhn(root, monkeypatch):
    """Write 30 house numbers a split, where the digit 0 is called 10."""
    root.mkdir(parents=True, exist_ok=True)
    expected = {}
    for split, (url, name, _) in datasets.SVHN.split_list.items():
        scipy.io.savemat(root / name, {"X": pixels(32, 32, 3, 30), "y": np.arange(30)[:, None] % 10 + 1})
        expected[split] = [url, name, hashlib.md5((root / name).read_bytes(), usedforsecurity=False).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", expected)


def write_npz(path, **changes):
    """Write 24 + 6 small colour images, and what a test changes."""
    arrays = {"x_train": pixels(24, 3, 8, 8), "y_train": np.arange(24) % 3}
    arrays |= {"x_test": pixels(6, 3, 8, 8, seed=1), "y_test": np.arange(6) % 3} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def write_leaf(folder, change=lambda content: None):
    """Write two training files of two writers each and a test file, as LEAF does."""
    for split, file, writers in (("train", "a", (0, 1)), ("train", "b", (2, 3)), ("test", "a", (0, 2))):
        users = [f"f{i:04}_0" for i in writers]
        x = {u: (pixels(8, 784, seed=i) / 255).tolist() for i, u in zip(writers, users, strict=True)}
        data = {u: {"x": x[u], "y": [0, 61, 0, 61, 5, 5, 0, 61]} for u in users}
        content = {"users": users, "num_samples": [8, 8], "user_data": data}
        if split == "train":
            change(content)
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{file}.json").write_text(json.dumps(content))
    return folder


# -- the embedded data set --------------------------------------------------------------------------------------------
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
    with np.load(sources.EMBEDDED, allow_pickle=False) as content:
        places = np.concatenate([content["source_train"], content["source_validation"]])
    assert len(np.unique(places)) == 8000


def test_the_embedded_set_is_small_and_loads_fast():
    assert sum(file.stat().st_size for file in sources.EMBEDDED.parent.iterdir()) < 6_000_000
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        sources.embedded()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_the_embedded_set_comes_with_its_licence_and_the_hash_that_is_checked():
    folder = sources.EMBEDDED.parent
    assert "MIT" in (folder / "LICENSE-fashion-mnist").read_text(encoding="utf-8")
    assert "2017 Zalando SE" in (folder / "LICENSE-fashion-mnist").read_text(encoding="utf-8")
    assert sources.SHA256 in (folder / "README.md").read_text(encoding="utf-8")


def test_one_flipped_bit_in_the_embedded_file_is_noticed(tmp_path, monkeypatch):
    content = bytearray(sources.EMBEDDED.read_bytes())
    content[1_000_000] ^= 1
    (tmp_path / "fashion-mini.npz").write_bytes(content)
    monkeypatch.setattr(sources, "EMBEDDED", tmp_path / "fashion-mini.npz")
    with pytest.raises(ValueError, match=r"is damaged .* install aequa-lite again"):
        load("fashion-mini")


def test_the_embedded_set_needs_nothing_but_its_folder(monkeypatch, tmp_path):
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
    spec = importlib.util.spec_from_file_location("make_fashion_mini", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

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


def test_the_script_writes_whole_files_and_says_how_it_is_used(monkeypatch, tmp_path, capsys):
    module = script(monkeypatch)
    module.main(["anywhere", str(tmp_path / "mini.npz")])
    assert [file.name for file in tmp_path.iterdir()] == ["mini.npz"]
    content = (tmp_path / "mini.npz").read_bytes()
    assert capsys.readouterr().out.splitlines()[-1] == hashlib.sha256(content).hexdigest()
    assert load(tmp_path / "mini.npz").sizes == {"train": 6000, "validation": 2000, "test": 4000}
    with pytest.raises(SystemExit, match=r"usage: python scripts/make_fashion_mini.py ROOT"):
        module.main([])


# -- torchvision's ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion", "FashionMNIST")])
def test_idx_files_are_read(tmp_path, name, folder):
    write_mnist(tmp_path, folder)
    data = load(name, root=tmp_path, device="cpu")
    assert data.sizes == {"train": 50, "validation": 10, "test": 20}
    assert torch.equal(data.test.x[:, 0], torch.from_numpy(pixels(20, 28, 28)))
    assert data.test.y.tolist() == [*range(10)] * 2
    assert len(data.labels) == 10


@pytest.mark.parametrize(
    ("name", "kind", "n"), [("cifar10", datasets.CIFAR10, 60), ("cifar100", datasets.CIFAR100, 12)]
)
def test_cifar_files_are_read_channels_first(tmp_path, monkeypatch, name, kind, n):
    write_cifar(tmp_path, monkeypatch, kind)
    data = load(name, root=tmp_path, device="cpu")
    assert data.test.x.shape == (12, 3, 32, 32)
    assert torch.equal(data.test.x.reshape(12, -1), torch.from_numpy(pixels(12, 3072)))  # both are channels first
    assert len(data.train) + len(data.validation) == n
    assert data.test.y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert data.labels[:2] == ("class 0", "class 1")
    assert data.classes == len(data.labels)


def test_svhn_is_read_and_the_digit_zero_is_called_zero(tmp_path, monkeypatch):
    write_svhn(tmp_path, monkeypatch)
    data = load("svhn", root=tmp_path, device="cpu")
    assert data.test.x.shape == (30, 3, 32, 32)
    assert data.test.y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 3
    assert np.array_equal(data.test.x.numpy(), pixels(32, 32, 3, 30).transpose(3, 2, 0, 1))
    assert data.labels == tuple("0123456789")


def test_missing_files_are_downloaded_once_and_then_read(tmp_path, monkeypatch):
    write_mnist(tmp_path / "far")
    asked = []

    def fetch(url, download_root, filename, md5):
        asked.append(filename)
        shutil.copy(tmp_path / "far" / "MNIST" / "raw" / filename.removesuffix(".gz"), download_root)

    monkeypatch.setattr(torchvision_mnist, "download_and_extract_archive", fetch)
    monkeypatch.setenv("AEQUA_DATA", str(tmp_path / "near"))
    assert len(load("mnist", device="cpu").test) == 20
    assert len(load("mnist", device="cpu").test) == 20
    assert len(asked) == 4


def test_files_that_are_there_are_not_asked_for(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setattr(torchvision_download, "_urlretrieve", lambda *_: pytest.fail("asked the network"))
    assert len(load("mnist", root=tmp_path, device="cpu").test) == 20


@pytest.mark.parametrize("name", ["fashion", "mnist", "cifar10", "cifar100", "svhn"])
def test_without_a_network_one_sentence_names_the_remedy(tmp_path, monkeypatch, name):
    def no_network(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torchvision_download, "_urlretrieve", no_network)
    monkeypatch.setattr(torchvision_download, "_get_redirect_url", no_network)
    with pytest.raises(FileNotFoundError, match=f"{name} is not complete in .* AEQUA_DATA .'fashion-mini'") as error:
        load(name, root=tmp_path)
    assert "\n" not in str(error.value)


def damage(path):
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_idx_file_is_named_and_not_downloaded_over(tmp_path):
    write_mnist(tmp_path)
    damage(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte")
    with pytest.raises(ValueError, match=r"mnist in .* cannot be read .*'fashion-mini' is embedded"):
        load("mnist", root=tmp_path)


def test_a_damaged_or_hostile_pickle_is_never_opened(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, datasets.CIFAR10)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"cifar10 in .* cannot be read"):
        load("cifar10", root=tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_damaged_svhn_file_is_named(tmp_path, monkeypatch):
    write_svhn(tmp_path, monkeypatch)
    damage(tmp_path / "test_32x32.mat")
    with pytest.raises(ValueError, match=r"svhn in .* cannot be read"):
        load("svhn", root=tmp_path)


def test_images_without_labels_are_noticed(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.arange(59) % 10)
    with pytest.raises(ValueError, match=r"y_train is int64 of shape \(59,\); allowed are .* \(60,\)"):
        load("mnist", root=tmp_path)


def test_the_folder_is_the_argument_then_the_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("AEQUA_DATA", "from/environment")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of_data("from/argument") == Path("from/argument")
    assert folder_of_data() == Path("from/environment")
    monkeypatch.delenv("AEQUA_DATA")
    assert folder_of_data() == tmp_path / ".cache" / "aequa-lite"


# -- .npz -------------------------------------------------------------------------------------------------------------
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


def test_a_table_of_floats_is_taken_as_it_is(tmp_path):
    x = np.linspace(-1, 1, 24 * 5, dtype=np.float32).reshape(24, 5)
    data = load(write_npz(tmp_path / "a.npz", x_train=x, x_test=x[:6]), device="cpu")
    assert torch.equal(data.test.x, torch.from_numpy(x[:6]))


def test_a_validation_split_of_its_own_is_kept(tmp_path):
    own = {"x_validation": pixels(4, 3, 8, 8, seed=3), "y_validation": np.array([0, 1, 2, 0], dtype=np.uint8)}
    data = load(write_npz(tmp_path / "a.npz", **own), device="cpu")
    assert data.sizes == {"train": 24, "validation": 4, "test": 6}
    with pytest.raises(ValueError, match=r"validation is 3, but .* its own validation split"):
        load(write_npz(tmp_path / "a.npz", **own), validation=3)


def float_images():
    """Images from 0 to 1, as many people keep them."""
    return pixels(24, 3, 8, 8) / 255


WRONG = {
    "lacks y_test; needed are x_train, y_train, x_test, y_test": {"y_test": None},
    "lacks y_validation;": {"x_validation": pixels(4, 3, 8, 8)},
    r"x_train is float64 with 4 axes; allowed is uint8; .* np.rint\(255": {"x_train": float_images()},
    "x_train is int64 with 4 axes; allowed is uint8": {"x_train": pixels(24, 3, 8, 8).astype(int)},
    r"x_train has shape \(24, 3, 0, 8\)": {"x_train": pixels(24, 3, 0, 8)},
    r"x_train has shape \(24,\)": {"x_train": pixels(24)},
    r"x_test has shape \(6, 3, 9, 8\)": {"x_test": pixels(6, 3, 9, 8)},
    "x_test holds numbers that are not finite": {
        "x_train": np.ones((24, 2), np.float32),
        "x_test": np.full((6, 2), np.nan, np.float32),
    },
    r"y_train is int64 of shape \(23,\); .* \(24,\)": {"y_train": np.arange(23) % 3},
    r"y_train is int64 of shape \(24, 1\)": {"y_train": np.arange(24)[:, None] % 3},
    "y_train is float64": {"y_train": np.arange(24) % 3 / 1.0},
    "y_train holds 3 labels from 1 to 3; .* without a gap": {"y_train": np.arange(24) % 3 + 1},
    "y_train holds 1 labels from 0 to 0; allowed are at least two": {"y_train": np.zeros(24, int)},
    "y_train holds 24 labels from -1 to 22": {"y_train": np.arange(24) - 1},
    "y_test holds labels 0 to 3; allowed are 0 to 2": {"y_test": np.array([0, 1, 2, 3, 0, 1])},
    "cannot be read .ValueError: Object arrays": {"y_test": np.array([0, 1, 2, 0, 1, None], dtype=object)},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_arrays_are_refused_with_the_remedy(tmp_path, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        load(write_npz(tmp_path / "a.npz", **WRONG[sentence]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut", pickle.dumps({"x": 1})])
def test_what_is_no_npz_file_is_said_to_be_damaged(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.npz cannot be read .*'fashion-mini' is embedded and needs no file"):
        load(tmp_path / "a.npz")


def test_an_npz_file_cut_in_half_is_said_to_be_damaged(tmp_path):
    damage(write_npz(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "a.npz")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a.npz is missing; check the path .'fashion-mini'"):
        load(tmp_path / "a.npz")


# -- LEAF -------------------------------------------------------------------------------------------------------------
def test_femnist_keeps_pixels_and_writers(tmp_path):
    data = load(write_leaf(tmp_path / "femnist"), device="cpu", validation=2)
    assert data.sizes == {"train": 30, "validation": 2, "test": 16}
    assert data.classes == 62
    assert data.labels[10] + data.labels[61] == "Az"
    assert torch.equal(
        data.test.x.reshape(16, 784), torch.from_numpy(np.concatenate([pixels(8, 784, seed=i) for i in (0, 2)]))
    )
    assert data.train.groups.unique().tolist() == [0, 1, 2, 3]
    for shard in natural(data.train, Recipe(participants=4)):
        writer = int(shard.samples.groups[0])
        own = {row.tobytes() for row in pixels(8, 784, seed=writer)}
        assert all(row.numpy().tobytes() in own for row in shard.samples.x)


def test_leaf_files_under_data_are_named_where_they_are_missing(tmp_path):
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
        (change_pixel, "writer f0000_0 in .*a.json does not hold 8 rows of 784 pixels"),
        (change_label, "whole labels from 0 to 61"),
        (change_size, "does not hold 8 rows"),
        (lose_a_pixel, "writer f0000_0 in .* cannot be read"),
        (lose_a_writer, "writer f0000_0 in .* cannot be read .KeyError"),
        (lose_the_sizes, "a.json cannot be read .KeyError"),
    ],
)
def test_a_damaged_leaf_file_is_named_with_its_writer(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(write_leaf(tmp_path, change))


def test_json_that_is_cut_is_said_to_be_damaged(tmp_path):
    damage(write_leaf(tmp_path) / "test" / "a.json")
    with pytest.raises(ValueError, match=r"test/a.json cannot be read .JSONDecodeError"):
        load(tmp_path)


# -- setting aside, names, devices ------------------------------------------------------------------------------------
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
    with pytest.raises(ValueError, match=r"validation is .* from 1 to 12 .at most half of each class"):
        load(write_npz(tmp_path / "a.npz"), validation=validation)


@pytest.mark.parametrize(("name", "near"), [("fashon-mini", "fashion-mini"), ("MNIST", "mnist"), ("cifar", "cifar10")])
def test_an_unknown_name_is_answered_with_the_nearest_known_one(name, near):
    with pytest.raises(ValueError, match=f"name is '{name}'; the nearest known one is '{near}'"):
        load(name)


@pytest.mark.parametrize("wrong", ["gpu", 1.5, "cuda:99"])
def test_an_impossible_device_is_refused(wrong):
    with pytest.raises(ValueError, match=f"device is {wrong!r}, which torch cannot use here"):
        load("fashion-mini", device=wrong)


def test_a_bad_seed_is_refused_before_any_file_is_read():
    with pytest.raises(ValueError, match="seed is -1"):
        load("no-file.npz", seed=-1)


def test_packed_idx_files_are_unpacked_without_a_network(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    resources = []
    for name, _ in datasets.MNIST.resources:
        plain = tmp_path / "MNIST" / "raw" / name.removesuffix(".gz")
        packed = gzip.compress(plain.read_bytes())
        plain.with_name(name).write_bytes(packed)
        plain.unlink()
        resources.append((name, hashlib.md5(packed, usedforsecurity=False).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(torchvision_download, "_urlretrieve", lambda *_: pytest.fail("asked the network"))
    assert len(load("mnist", root=tmp_path, device="cpu").test) == 20
