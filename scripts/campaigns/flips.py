"""Flip bits of files, and cut them: the reader refuses in one sentence, or reads exactly what it read before.

usage: python scripts/campaigns/flips.py [--seed N] [--share S] [--no-table]
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import FAILED, ROOT, Row, few, main
from formats import write_leaf, write_mnist, write_npz, write_sst2

import aequa_lite as aq
from aequa_lite.checkpoint import digest
from aequa_lite.experiments.sweep import finished, read_sweep
from aequa_lite.experiments.tables import checksum
from aequa_lite.flower.participants import RunState

CONFIG = aq.Config(participants=2, rounds=2, local_steps=1, batch=4)
BUILD = aq.registry.network("MLP(hidden=4)")
READER = aq.registry.network("TextCNN(words=4, embedding=4, maps=4)")
FORBIDDEN = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn")


@dataclass(frozen=True)
class Kind:
    """What writes an intact folder, which of its files are damaged, what reads it, and how many tries it gets."""

    write: Callable[[Path], Any]
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    tries: int = 100


def state(tensors: Any) -> list[Any]:
    """Names and bits of tensors."""
    return [sorted(tensors), digest([tensors[k] for k in sorted(tensors)])]


def resume(folder: Path) -> Any:
    """Start a run on its checkpoint, which is at its end: only the last round is read."""
    train = few().train
    shards = aq.data.homogeneous(train, CONFIG)
    path = folder / "theta.safetensors"
    *_, last = aq.federate(BUILD, shards, CONFIG, checkpoint=path, workers=1, progress=False)
    return [last.index, last.widths, last.loss, last.total_sent, *state(last.theta)]


def write_rewards(folder: Path) -> None:
    """Rewards of a network for text, with its vocabulary, manifests and the hashed list."""
    torch.manual_seed(0)
    words = ("<padding>", "<unknown>", "film", "fine")
    aq.save_rewards(folder, READER, [READER(0.5), READER(1.0)], [0.5, 1.0], CONFIG, vocabulary=words)


def rewards(folder: Path) -> Any:
    """Load the first reward and verify the folder; a fault that is found is a refusal."""
    path = folder / "participant-00.safetensors"
    found = [state(aq.load_reward(path).state_dict()), aq.rewards.load_vocabulary(path)]
    for each in aq.rewards.verify(folder):
        if each.fault:
            raise ValueError(str(each))
    return found


def write_report(folder: Path) -> None:
    """The report of a small run."""
    data = few()
    shards = aq.data.homogeneous(data.train, CONFIG)
    aq.aequa(aq.for_dataset(BUILD.func, data, hidden=4), shards, CONFIG, data, progress=False).report.save(folder)


def dataset(name: str, **options: Any) -> Callable[[Path], Any]:
    """A reader of data; the hash of what it read names the data set, in every report and checkpoint."""

    def read(folder: Path) -> Any:
        data = aq.load(folder / name if name != "mnist" else name, device="cpu", **{
            k: v if v != "." else folder for k, v in options.items()})  # fmt: skip
        return [data.sha256, digest([t for part in (data.train, data.validation, data.test) for t in (part.x, part.y)])]

    return read


def write_csv(folder: Path) -> None:
    """A table of patients."""
    rows = [f"{40 + i % 30},{'ab'[i % 2]},{i * 7 % 3 % 2}" for i in range(80)]
    (folder / "a.csv").write_text("\n".join(["age,ward,ill", *rows]) + "\n")


def write_state(folder: Path) -> None:
    """What a server over Flower keeps."""
    found, theta = RunState(folder, CONFIG), aq.init_params(BUILD, 0)
    for i in range(2):
        found.admit(i, "ab" * 16, 40, theta)
    found.note({"round": 0, "participants": {"0": {"width": 1.0}, "1": {"width": 0.5}}, "numbers": 9, "left_out": []})


def read_state(folder: Path) -> Any:
    """Read it again."""
    found = RunState(folder, CONFIG)
    return [found.participants, found.rounds, *(state(found.alone(i, BUILD)) for i in sorted(found.participants))]


def write_table(folder: Path) -> None:
    """A sweep and its table, as another machine has left them."""
    text = json.dumps({"notebook": str(ROOT / "notebooks" / "reproduce.ipynb"), "grid": {"seed": [0, 1]}})
    (folder / "sweep.yml").write_text(text)
    rows = [
        {"case": np.nan, "seed": i, "method": "aequa", "status": "done", "pearson": 0.97, "cgs": 0.01} for i in (0, 1)
    ]
    pd.DataFrame(rows).drop(columns="case").to_csv(folder / "runs.csv", index=False)
    (folder / "about.json").write_text(json.dumps({"sha256_runs": checksum(folder / "runs.csv")}))


def read_table(folder: Path) -> Any:
    """The rows that need not be run again."""
    return sorted(map(str, finished(read_sweep(folder / "sweep.yml"), folder.parent).items()))


MNIST = tuple(f"MNIST/raw/{name}-ubyte" for name in ("train-images-idx3", "train-labels-idx1"))
KINDS = {
    "checkpoint": Kind(resume, ("theta.safetensors",), resume, 220),
    "reward": Kind(write_rewards, ("participant-00.safetensors",), rewards, 220),
    "manifest of a reward": Kind(write_rewards, ("participant-00.json", "participant-01.json"), rewards, 150),
    "list of rewards with hashes": Kind(write_rewards, ("rewards.json", "vocabulary.json"), rewards, 150),
    "report.json": Kind(write_report, ("report.json",), lambda folder: asdict(aq.Report.load(folder)), 220),
    "state of a server": Kind(write_state, ("run.json", "alone/participant-00.safetensors"), read_state, 150),
    "data: npz": Kind(lambda folder: write_npz(folder / "a.npz"), ("a.npz",), dataset("a.npz"), 120),
    "data: csv": Kind(write_csv, ("a.csv",), dataset("a.csv", label="ill"), 120),
    "data: tsv": Kind(lambda folder: write_sst2(folder), ("train.tsv", "dev.tsv"), dataset("."), 60),
    "data: leaf": Kind(lambda folder: write_leaf(folder), ("train/a.json", "test/a.json"), dataset("."), 60),
    "data: idx": Kind(write_mnist, MNIST, dataset("mnist", root="."), 60),
    "table of a sweep": Kind(write_table, ("runs.csv", "about.json"), read_table, 120),
}  # fmt: skip


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes of which one to three bits are flipped, which are cut, or of which a part is zero."""
    data, what = bytearray(content), rng.choice(["flip", "flip", "flip", "cut", "zero"])
    at = int(rng.integers(len(data)))
    if what == "cut":
        del data[at:]
    elif what == "zero":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    else:
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def outcome_of(read: Callable[[Path], Any], folder: Path, whole: Any, data: bool) -> str:
    """What a reader makes of a damaged folder."""
    try:
        found = read(folder)
    except (ValueError, OSError) as error:
        said = str(error)
        plain = (
            (type(error) is ValueError or isinstance(error, OSError)) and said.isprintable() and 10 < len(said) < 2000
        )
        return "refused in one sentence" if plain else f"{FAILED}{type(error).__name__} {said[:60]!r}"
    except BaseException as error:
        return f"{FAILED}{type(error).__name__}"
    if str(found) == str(whole):
        return "read unchanged"
    if data and found[0] != whole[0]:
        return "read as another data set, and named so by its hash"
    return FAILED + "read, and silently different"


def campaign(rng: np.random.Generator, share: float = 1.0) -> Iterator[Row]:
    """Damage of every kind of file."""
    forbidden: list[str] = []
    sys.addaudithook(lambda event, _: forbidden.append(event) if event in FORBIDDEN else None)
    for name, kind in KINDS.items():
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "folder" / "sweep"
            folder.mkdir(parents=True)
            kind.write(folder)
            whole = kind.read(folder)
            for _ in range(max(2, round(kind.tries * share))):
                path = folder / str(rng.choice(list(kind.files)))
                intact = path.read_bytes()
                path.write_bytes(damaged(intact, rng))
                forbidden.clear()
                outcome = outcome_of(kind.read, folder, whole, name.startswith("data"))
                path.write_bytes(intact)
                yield {"what": name, "outcome": FAILED + forbidden[0] if forbidden else outcome}


if __name__ == "__main__":
    main({"flips": campaign}, seed=20283)
