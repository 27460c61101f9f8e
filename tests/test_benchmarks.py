"""The benchmarks: what they compare is the same work, and their tables are tidy. Nothing here looks at a clock."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import measure  # noqa: E402
import page  # noqa: E402
import speed  # noqa: E402

TINY = speed.Scale(
    participants=2,
    rounds=2,
    local_steps=2,
    batch=8,
    repeats=1,
    threads=1,
    bare_steps=4,
    in_a_pass=(2,),
    crowds=(2, 3),
    widths=(0.1, 1.0),
    widths_per_step=(0,),
    batches=(1, 3),
)


@pytest.mark.parametrize("name", ["plain", "overhead", "workers", "passes", "reward"])
def test_every_way_of_a_comparison_ends_in_the_same_network(name: str) -> None:
    rows = speed.rows_of(name, TINY, "cpu")  # asserts it before it measures
    assert {row["net"] for row in rows} == set(speed.PASSES if name == "passes" else speed.NETS)
    assert all(row.get("difference", 0) < measure.TOLERANCE for row in rows)


def test_other_work_is_not_timed() -> None:
    import torch

    with pytest.raises(AssertionError, match=r"differ by 0\.5"):
        measure.agree([torch.zeros(2)], [torch.full((2,), 0.5)])


def test_a_case_of_growth_runs_in_a_process_of_its_own() -> None:
    case = (
        '{"net": "MLP", "device": "cpu", "repeats": 1, "participants": 2, "local_steps": 1, "batch": 4, "width": 0.5}'
    )
    found = measure.alone("speed.py", "--case", case)
    assert 0 < found["own_mb"] <= found["peak_mb"]


def test_a_power_law_is_found() -> None:
    assert measure.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_a_machines_new_rows_replace_its_old_ones_and_no_others(tmp_path: Path) -> None:
    here = {"device": "a", "cores": 2, "torch": "1", "date": "2026-01-01"}
    there = {**here, "device": "b"}
    measure.store("t", [{"x": 1}], here, tmp_path)
    measure.store("t", [{"x": 2}], there, tmp_path)
    table = measure.store("t", [{"x": 3}], {**here, "date": "2026-01-02"}, tmp_path)
    assert sorted(zip(table["device"], table["x"], strict=True)) == [("a", 3), ("b", 2)]
    assert measure.measured("t", {**here, "date": "later"}, tmp_path)
    assert not measure.measured("t", {**here, "torch": "2"}, tmp_path)


def test_the_page_shows_the_committed_tables() -> None:
    assert page.PAGE.read_text() == page.filled(page.PAGE.read_text())


def test_the_page_shows_the_tables_of_a_gpu_or_says_that_there_was_none(tmp_path: Path) -> None:
    assert page.of_a_gpu(tmp_path / "gpu") == page.of_a_gpu(tmp_path)
    assert page.of_a_gpu(tmp_path).startswith("No GPU was at hand")
    here = {"device": "cuda (A)", "cores": 8, "python": "3.11", "torch": "2.14", "date": "2026-01-01"}
    rows = [{"net": "MLP", "way": "vectorised", "difference": 0.00001234, "launches_a_step": 65, "ok": True, **here}]
    pd.DataFrame(rows).to_csv(tmp_path / "launches.csv", index=False)
    text = page.of_a_gpu(tmp_path)
    assert "On cuda (A), 8 cores; Python 3.11, torch 2.14; 2026-01-01:" in text
    assert "| net | way | difference | launches a step | ok |" in text
    assert "| MLP | vectorised | 1.23e-05 | 65 | yes |" in text
    assert "<!-- gpu -->" in page.PAGE.read_text()


@pytest.mark.parametrize("path", sorted(measure.TABLES.glob("*.csv")), ids=lambda p: p.stem)
def test_every_row_says_where_and_when_it_was_measured(path: Path) -> None:
    table = pd.read_csv(path)
    for column in ("device", "cores", "python", "torch", "date"):
        assert table[column].notna().all()
