"""CONTRIBUTING.md is tested: its examples run, their words resolve, and what it mentions exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import test_project
from programs import program

import aequa_lite as aq
from aequa_lite import _check, registry
from aequa_lite.experiments.sweep import read_sweep

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.S)
EXAMPLE = re.compile(
    r'File: `aequa_lite/([\w/]+\.py)`\. Line of `registry\.py`, in `"(\w+)"`:\s`"([\w.]+)": "\.\.\. (\w+)"`\.'
    r"\n\n```python\n(.*?)```",
    flags=re.S,
)
EXAMPLES = EXAMPLE.findall(TEXT)


def test_there_is_an_example_of_each_kind() -> None:
    assert [each[1] for each in EXAMPLES] == ["allocation", "network", "data", "partition", "contribution", "algorithm"]
    assert TEXT.count("```python") == len(EXAMPLES)
    assert TEXT.count("```yaml") == 1


@pytest.mark.parametrize(("file", "kind", "path", "word", "text"), EXAMPLES, ids=[each[3] for each in EXAMPLES])
def test_an_example_runs_and_its_line_of_the_registry_finds_it(
    file: str, kind: str, path: str, word: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "assert " in text
    defined: dict[str, Any] = {}
    exec(text, defined)  # our own page
    assert (ROOT / "aequa_lite" / file).exists()
    assert file == path.replace(".", "/") + ".py"
    assert word not in registry.TABLES[kind]
    assert not hasattr(importlib.import_module(f"aequa_lite.{path}"), word)
    monkeypatch.setattr(importlib.import_module(f"aequa_lite.{path}"), word, defined[word], raising=False)
    line = f"{registry.FUNCTIONS[kind].get(path, '')} {word}"
    monkeypatch.setitem(registry.TABLES, kind, registry.table({**registry.FUNCTIONS[kind], path: line}))
    assert registry.lookup(kind, word) is defined[word]


def test_an_example_can_be_used_in_a_run() -> None:
    defined: dict[str, Any] = {}
    for *_, text in EXAMPLES:
        exec(text, defined)
    data, config = aq.load("fashion-mini"), aq.Config(participants=3, rounds=1, local_steps=1, grid=20)
    outcome = aq.aequa(
        aq.for_dataset(defined["OneLayer"], data),
        defined["halving"](data.train, config),
        config,
        data,
        contribution=defined["balanced_accuracy"],
        allocation=defined["halves"],
        progress=False,
    )
    assert set(outcome.plan.widths) <= {outcome.curve.level_widths[0], outcome.curve.level_widths[-1]}


def test_the_example_of_a_data_set_loads_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ((path, text),) = [(each[2], each[4]) for each in EXAMPLES if each[1] == "data"]
    defined: dict[str, Any] = {}
    exec(text, defined)
    monkeypatch.setattr(importlib.import_module(f"aequa_lite.{path}"), "two_moons", defined["two_moons"], raising=False)
    monkeypatch.setitem(registry.TABLES["data"], "two_moons", f"{path}:two_moons")
    clear, noisy = aq.load("two_moons", noise=0.0, device="cpu"), aq.load("two_moons", noise=0.3, device="cpu")
    assert clear.sizes == {"train": 200, "validation": 200, "test": 200}
    assert not clear.train.x.equal(noisy.train.x)
    shards = aq.data.natural(clear.train, aq.Config(participants=2))
    assert [shard.samples.x[:, 0].gt(0.5).float().mean().item() for shard in shards] == [0, 1]
    with pytest.raises(ValueError, match="noise"):
        aq.load("two_moons", nois=0.3)


def test_a_new_chapter_runs_and_has_the_form_of_a_chapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    path = tmp_path / "12_my_topic.ipynb"
    program("scripts/new_chapter.py").write(path, "My topic")
    program("scripts/refresh.py").refresh(path)
    test_project.test_a_notebook_is_executed_short_celled_and_clean(path)
    test_project.test_a_figure_has_a_name_and_a_caption_below_it_and_no_number_is_written_by_hand(path)
    test_project.test_most_cells_that_a_page_shows_are_short(path)
    test_project.test_a_solution_holds_an_executed_cell(path)
    test_project.test_a_chapter_has_the_form_of_a_chapter(path)
    test_project.test_on_colab_a_gpu_means_longer_training(path, monkeypatch)


def test_the_sweep_is_one_that_its_notebook_knows(tmp_path: Path) -> None:
    (sweep,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S)
    (tmp_path / "rates.yml").write_text(sweep.replace("notebooks/", f"{ROOT}/notebooks/"))
    every = read_sweep(tmp_path / "rates.yml").runs()
    assert len(every) == 6
    assert every[0].methods == ("aequa", "fedavg")


def test_every_file_that_is_mentioned_exists() -> None:
    for name in re.findall(r"`((?:tests|scripts|book|sweeps|aequa_lite)/[\w./]*)`", PROSE):
        assert (ROOT / name).exists() or "NAME" in name, name
    for name in re.findall(r"`(_?\w+\.py)`", PROSE):
        assert name == "__init__.py" or (ROOT / "aequa_lite" / name).exists(), name


def test_every_name_that_is_mentioned_exists() -> None:
    for path in re.findall(r"`aq\.([\w.]+)", PROSE):
        found: Any = aq
        for name in () if "NAME" in path else path.split("."):
            found = getattr(found, name)
    (checks,) = re.findall(r"`_check\.py` write it: ([^.]*)\.", PROSE)
    assert sorted(re.findall(r"`(\w+)`", checks)) == _check.__all__
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for verb in re.findall(r"`make (\w+)`", PROSE):
        assert re.search(rf"^{verb}:", makefile, re.M), verb
    for name in re.findall(r"`(test_\w+)`", PROSE):
        assert any(f"def {name}(" in path.read_text() for path in (ROOT / "tests").glob("test_*.py")), name
