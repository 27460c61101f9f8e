"""What CONTRIBUTING.md shows is run: its examples, and the sweep file in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aequa_lite.experiments.sweep import read_sweep

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


def test_there_are_three_programs_and_a_sweep() -> None:
    assert len(PROGRAMS) == 3
    assert TEXT.count("```yaml") == 1


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: re.findall(r"^(?:class|def) (\w+)", text, re.M)[0])
def test_a_worked_example_runs(program: str) -> None:
    assert "assert " in program
    exec(program, {})  # our own page


def test_the_sweep_is_one_that_its_notebook_knows(tmp_path: Path) -> None:
    (sweep,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S)
    (tmp_path / "rates.yml").write_text(sweep.replace("notebooks/", f"{ROOT}/notebooks/"))
    every = read_sweep(tmp_path / "rates.yml").runs()
    assert len(every) == 6
    assert every[0].methods == ("aequa", "fedavg")


def test_every_file_and_name_that_is_mentioned_exists() -> None:
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    for name in re.findall(r"`((?:tests|scripts|book|sweeps)/[\w./]+\.\w+)`", prose):
        assert (ROOT / name).exists() or "NAME" in name, name
    code = "\n".join(
        path.read_text(encoding="utf-8") for folder in ("aequa_lite", "tests") for path in (ROOT / folder).glob("*.py")
    )
    for room, name in re.findall(r"`(\w+)\.([A-Z]+)`", prose):
        assert re.search(rf"^{name}\b", (ROOT / "aequa_lite" / f"{room}.py").read_text(encoding="utf-8"), re.M), name
    for name in ("units", "spread_minus_gain", "OBJECTIVES", "METHODS"):
        assert name in code
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for verb in re.findall(r"`make (\w+)`", prose):
        assert re.search(rf"^{verb}:", makefile, re.M), verb
