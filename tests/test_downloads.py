"""Laws of torchvision's sets: read if they exist, downloaded if they do not, never unpickled unchecked."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from formats import damage, pixels, write_cifar, write_idx, write_mnist, write_svhn
from torchvision import datasets
from torchvision.datasets import mnist as torchvision_mnist
from torchvision.datasets import utils as torchvision_download

from aequa_lite.data.load import load
from aequa_lite.data.readers import data_folder


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
    write_mnist(tmp_path / "remote")
    requested = []

    def fetch(url, download_root, filename, md5):
        requested.append(filename)
        shutil.copy(tmp_path / "remote" / "MNIST" / "raw" / filename.removesuffix(".gz"), download_root)

    monkeypatch.setattr(torchvision_mnist, "download_and_extract_archive", fetch)
    monkeypatch.setenv("AEQUA_DATA", str(tmp_path / "local"))
    assert len(load("mnist", device="cpu").test) == 20
    assert len(load("mnist", device="cpu").test) == 20
    assert len(requested) == 4


def test_files_that_exist_are_not_downloaded(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setattr(torchvision_download, "_urlretrieve", lambda *_: pytest.fail("used the network"))
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


def test_images_without_labels_are_refused(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.arange(59) % 10)
    with pytest.raises(
        ValueError, match=r"`y_train` must be whole numbers of shape \(60,\), got int64 of shape \(59,\)"
    ):
        load("mnist", root=tmp_path)


def test_the_folder_is_the_argument_then_the_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("AEQUA_DATA", "from/environment")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder("from/argument") == Path("from/argument")
    assert data_folder() == Path("from/environment")
    monkeypatch.delenv("AEQUA_DATA")
    assert data_folder() == tmp_path / ".cache" / "aequa-lite"


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
    monkeypatch.setattr(torchvision_download, "_urlretrieve", lambda *_: pytest.fail("used the network"))
    assert len(load("mnist", root=tmp_path, device="cpu").test) == 20
