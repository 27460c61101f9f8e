"""Small files in the formats of the real data sets, for the tests of the readers."""

from __future__ import annotations

import hashlib
import json
import pickle

import numpy as np
import scipy.io
from torchvision import datasets


def pixels(*shape, seed=0):
    """Random uint8 images."""
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


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


def damage(path):
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_sst2(folder, **changes):
    """Write 60 + 12 + 12 short reviews, a sentence, a tab and a label each, and what a test changes (None: no file)."""
    draws = np.random.default_rng(0)
    tone = (("bad", "dull", "lifeless"), ("good", "fine", "moving"))

    def rows(n):
        return [(f"a {draws.choice(tone[i % 2])} film , {draws.choice(tone[i % 2])} n{i}", i % 2) for i in range(n)]

    folder.mkdir(parents=True, exist_ok=True)
    for name, found in ({"train": rows(60), "dev": rows(12), "test": rows(12)} | changes).items():
        if found is not None:
            (folder / f"{name}.tsv").write_text("".join(f"{sentence}\t{label}\n" for sentence, label in found))
    return folder
