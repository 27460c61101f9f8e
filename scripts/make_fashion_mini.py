"""Make the embedded data set: draw fashion-mini from Fashion-MNIST, class-balanced, the same bytes at every run.

usage: python scripts/make_fashion_mini.py ROOT [FILE]

ROOT is a folder in torchvision's layout (ROOT/FashionMNIST/raw/train-images-idx3-ubyte and the three others).
FILE is written completely or not at all (default: aequa_lite/data/embedded/fashion-mini.npz). The last line printed is the
SHA-256 that ``aequa_lite/data/readers.py`` checks at load; the bytes, not the arrays, may differ under another zlib.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torchvision.datasets import FashionMNIST

from aequa_lite._io import atomic_write
from aequa_lite.config import stream

__all__ = ["draw", "pack"]

TARGET = Path(__file__).resolve().parents[1] / "aequa_lite" / "data" / "embedded" / "fashion-mini.npz"
EACH = {"train": (("train", 600), ("validation", 200)), "test": (("test", 400),)}  # per class, by original split


def draw(root: str | Path, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw the three disjoint splits, in ascending order of their position in the original split."""
    arrays: dict[str, np.ndarray] = {}
    for original, parts in EACH.items():
        source = FashionMNIST(root, train=original == "train", download=False)
        x, y = source.data.numpy(), source.targets.numpy()
        orders = [stream(seed, "fashion-mini", original, c).permutation(np.flatnonzero(y == c)) for c in range(10)]
        start = 0
        for name, each in parts:
            chosen = np.sort(np.concatenate([order[start : start + each] for order in orders]))
            arrays |= {f"x_{name}": x[chosen], f"y_{name}": y[chosen].astype(np.uint8)}
            arrays[f"source_{name}"] = chosen.astype(np.uint16)  # position in the original split
            start += each
    return arrays


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Pack arrays as an .npz file without a time stamp, so that the same arrays give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, array in sorted(arrays.items()):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            body = io.BytesIO()
            np.lib.format.write_array(body, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(entry, body.getvalue(), compresslevel=9)
    return packed.getvalue()


def main(arguments: list[str]) -> None:
    """Draw, pack and write the data set, and print its SHA-256."""
    if len(arguments) not in (1, 2):
        sys.exit(__doc__)
    target = Path(arguments[1]) if len(arguments) == 2 else TARGET
    content = pack(draw(arguments[0]))
    with atomic_write(target) as temporary:
        temporary.write_bytes(content)
    print(f"{target}: {len(content):,} bytes")
    print(hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main(sys.argv[1:])
