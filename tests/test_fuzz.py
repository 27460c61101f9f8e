"""Hostile input: a reader returns what it promises or refuses in one sentence, and runs no code.

The same examples every time; ``AEQUA_FUZZ=15 pytest tests/test_fuzz.py`` is a campaign: 15 times as many, and others each time.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from formats import write_leaf, write_mnist, write_npz, write_sst2
from hostile import as_text, damaged, misshapen, refused_or_read, tries
from hypothesis import given
from hypothesis import strategies as st
from programs import program

import aequa_lite as aq
from aequa_lite.experiments import sweep, tables

CONFIG = aq.Config(participants=2, rounds=3, local_steps=1, batch=4)
SMALL = aq.registry.network("MLP(hidden=4)")
READER = aq.registry.network("TextCNN(words=4, embedding=4, maps=4)")
ROOT = Path(__file__).resolve().parents[1]
published = program("scripts/published.py")
PUBLISHED = "{a: [{claim: c, source: s, mark: seen, measure: m, rows: {}, tolerance: 1, why: w, sweeps: {}, value: 1}]}"


@dataclass(frozen=True)
class Reader:
    """One reader: what writes an intact folder for it, what reads it, and which of its files are damaged."""

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    files: tuple[str, ...]


def rounds(folder: Path) -> Iterator[aq.Round]:
    """The rounds of a small run with a checkpoint; of one that was killed, those that are left."""
    train = aq.Samples(torch.zeros(8, 1, 28, 28, dtype=torch.uint8), torch.arange(8), classes=10)
    shards = aq.data.homogeneous(train, CONFIG)
    return aq.federate(SMALL, shards, CONFIG, checkpoint=folder / "theta.safetensors", workers=1, progress=False)


def write_checkpoint(folder: Path) -> None:
    """Train one round of three."""
    running = rounds(folder)
    next(running)
    running.close()


def resume(folder: Path) -> None:
    """Go on from a checkpoint: what was read must also work."""
    copied = Path(tempfile.mkdtemp(dir=folder.parent))
    shutil.copy(folder / "theta.safetensors", copied)
    try:
        assert all(torch.isfinite(t).all() for each in rounds(copied) for t in each.theta.values())
    finally:
        shutil.rmtree(copied)


def write_rewards(folder: Path) -> None:
    vocabulary = ("<padding>", "<unknown>", "film", "fine")
    aq.save_rewards(folder, READER, [READER(0.5), READER(1.0)], [0.5, 1.0], CONFIG, vocabulary=vocabulary)


def read_reward(folder: Path) -> None:
    path = folder / "participant-00.safetensors"
    net, vocabulary = aq.load_reward(path), aq.rewards.load_vocabulary(path)
    net(aq.data.tokens(["a fine film"], vocabulary))


def verify(folder: Path) -> None:
    for line in map(str, aq.rewards.verify(folder)):
        assert line.isprintable()
        assert len(line) < 2000


def write_report(folder: Path) -> None:
    aq.Report(
        config=CONFIG.to_dict(), data={"name": "few", "sha256": "0" * 64, "sizes": {"train": 8, "validation": 8, "test": 8}},
        partition="homogeneous", method="aequa", versions={"torch": "2"}, device="cpu", seconds=1.0, parameters_sent=9,
        contribution=(0.2, 0.4), standalone=(0.2, 0.4), widths=(0.5, 1.0), parameters=(5, 9), predicted_accuracy=(0.5, 0.6),
        test_accuracy=(0.5, 0.6), curve={"widths": [0.5, 1.0], "validation": [0.5, 0.6], "test": [0.5, 0.6],
        "standard_error": [0.1, 0.1]}, fairness={**dict.fromkeys(("pearson", "mcg", "cgs", "min_gain", "better_off"), 0.5),
        "pearson_interval": [0.1, 0.9], "pearson_noise_interval": None, "pearson_ceiling": None, "worse_off": [1]},
        warnings=("a", "b"),
    ).save(folder)  # fmt: skip


def read_report(folder: Path) -> None:
    text = aq.table(aq.Report.load(folder))
    assert text.replace("\n", "").isprintable()


RUN = sweep.Run({"seed": 0}, {"seed": 0}, ("aequa", "fedavg"))


def write_rows(folder: Path) -> None:
    for place in RUN.reports(folder).values():
        write_report(place)
    (RUN.folder(folder) / "run.json").write_text(json.dumps({"scale": "mini", "seconds_alone": 1.0}))


def read_rows(folder: Path) -> None:
    assert len(tables.rows_of(RUN, folder)) == 2  # a damaged report is a row that says so


def write_sweep(folder: Path) -> None:
    values = {"notebook": str(ROOT / "notebooks" / "reproduce.ipynb"), "fixed": {"rounds": 2, "methods": "aequa, fedavg"},
             "when": [{"if": {"data": "sst2"}, "set": {"network": "TextCNN"}}],
             "cases": {"a": {"width_sampler": "sandwich"}, "b": None},
             "grid": {"data": ["fashion", "sst2"], "seed": [0, 1]}}  # fmt: skip
    (folder / "sweep.yml").write_text(as_text(values))  # JSON is YAML


def read_sweep(folder: Path) -> None:
    for run in sweep.read_sweep(folder / "sweep.yml").runs():
        assert folder in run.folder(folder).parents
        assert all(folder in place.parents for place in run.reports(folder).values())


RUN_FOLDER = str(RUN.folder(Path())) + "/"
FIRST_REWARD = ("participant-00.safetensors", "participant-00.json", "vocabulary.json")
ALL_REWARDS = ("participant-00.safetensors", "participant-01.json", "vocabulary.json", "rewards.json")
MNIST_FILES = tuple(f"MNIST/raw/{name}-ubyte" for name in ("train-images-idx3", "train-labels-idx1"))
READERS = {
    "checkpoint": Reader(write_checkpoint, resume, ("theta.safetensors",)),
    "reward": Reader(write_rewards, read_reward, FIRST_REWARD),
    "folder of rewards": Reader(write_rewards, verify, ALL_REWARDS),
    "report": Reader(write_report, read_report, ("report.json",)),
    "rows": Reader(write_rows, read_rows, (f"{RUN_FOLDER}run.json", f"{RUN_FOLDER}aequa/report.json")),
    "npz": Reader(
        lambda folder: write_npz(folder / "a.npz"), lambda folder: aq.load(folder / "a.npz", device="cpu"), ("a.npz",)
    ),
    "tsv": Reader(write_sst2, lambda folder: aq.load(folder, device="cpu"), ("train.tsv", "dev.tsv")),
    "leaf": Reader(write_leaf, lambda folder: aq.load(folder, device="cpu"), ("train/a.json", "test/a.json")),
    "idx": Reader(write_mnist, lambda folder: aq.load("mnist", root=folder, device="cpu"), MNIST_FILES),
    "sweep": Reader(write_sweep, read_sweep, ("sweep.yml",)),
    "published": Reader(
        lambda folder: (folder / "a.yml").write_text(PUBLISHED),
        lambda folder: published.published(folder / "a.yml"),
        ("a.yml",),
    ),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each reader, as it should be."""
    root = tmp_path_factory.mktemp("intact")
    for name, reader in READERS.items():
        (root / name).mkdir()
        reader.write(root / name)
    return root


@pytest.fixture(scope="module")
def damaged_copy(intact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for the tests to damage."""
    root = tmp_path_factory.mktemp("damaged")
    return Path(shutil.copytree(intact, root, dirs_exist_ok=True))


def read_with(intact: Path, damaged_copy: Path, name: str, file: str, content: bytes) -> str:
    """Read a folder in which one file is another, and put the file back."""
    path = damaged_copy / name / file
    path.write_bytes(content)
    try:
        return refused_or_read(READERS[name].read, damaged_copy / name)
    finally:
        shutil.copy(intact / name / file, path)


@pytest.mark.parametrize("name", READERS)
def test_an_intact_folder_is_read(intact: Path, name: str) -> None:
    READERS[name].read(intact / name)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@tries(60)
def test_damaged_bytes_are_read_or_refused(intact: Path, damaged_copy: Path, name: str, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(READERS[name].files))
    read_with(intact, damaged_copy, name, file, data.draw(damaged((intact / name / file).read_bytes())))


@cache
def parsed(path: Path) -> Any:
    """An intact document, parsed once."""
    return (json.loads if path.suffix == ".json" else yaml.safe_load)(path.read_text())


DOCUMENTS = [
    (name, file) for name, reader in READERS.items() for file in reader.files if file.endswith((".json", ".yml"))
]


@pytest.mark.parametrize(("name", "file"), DOCUMENTS)
@given(data=st.data())
@tries(60)
def test_documents_of_another_shape_are_read_or_refused(
    intact: Path, damaged_copy: Path, name: str, file: str, data: st.DataObject
) -> None:
    document = parsed(intact / name / file)
    read_with(intact, damaged_copy, name, file, as_text(data.draw(misshapen(document))).encode())


@pytest.mark.parametrize(
    "name", ["mcg", "min_gain", "pearson", "pearson_ceiling", "pearson_interval", "pearson_noise_interval"]
)
def test_a_report_that_lacks_a_measure_is_refused(intact: Path, damaged_copy: Path, name: str) -> None:
    document = json.loads((intact / "report" / "report.json").read_text())
    del document["fairness"][name]
    assert "its checksum does not fit" in read_with(
        intact, damaged_copy, "report", "report.json", as_text(document).encode()
    )


def test_a_published_figure_of_hundreds_of_digits_is_refused(intact: Path, damaged_copy: Path) -> None:
    large = PUBLISHED.replace("value: 1}", f"value: {10**400}}}")
    assert large != PUBLISHED
    assert "too large" in read_with(intact, damaged_copy, "published", "a.yml", large.encode())
