"""Numbers that stand on two pages agree: what a chapter says, and the committed table that it was taken from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"


def cells(chapter: str) -> list[dict]:
    (path,) = (ROOT / "notebooks").glob(f"{chapter}_*.ipynb")
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def prose(chapter: str) -> str:
    found = ["".join(cell["source"]) for cell in cells(chapter) if cell["cell_type"] == "markdown"]
    return " ".join("\n".join(found).split())


def printed(chapter: str) -> str:
    outputs = [each for cell in cells(chapter) for each in cell.get("outputs", [])]
    return "\n".join("".join(each.get("text", "")) for each in outputs)


def test_the_first_chapter_is_the_first_seed_of_its_ten() -> None:
    seeds = pd.read_csv(RESULTS / "quickstart" / "seeds.csv")
    first = seeds[seeds["seed"] == 0]
    number = r"([+-]?[\d.,]+)"
    lines = re.findall(rf"^ +(\d) +{' +'.join([number] * 7)}$", printed("01"), flags=re.M)
    shown = [[float(each.replace(",", "")) for each in line] for line in lines[: len(first)]]
    names = ["participant", "contribution", "width", "parameters", "predicted", "test", "standalone", "gain"]
    assert len(shown) == len(first) == 5
    for row, (_, measured) in zip(shown, first.iterrows(), strict=True):
        assert row == pytest.approx([float(measured[name]) for name in names], abs=5.01e-4)  # three digits
    (pearson,) = re.findall(r"^Pearson +([\d.]+)$", printed("01"), flags=re.M)
    assert float(pearson) == pytest.approx(first["pearson"].iloc[0], abs=5.01e-4)


def test_what_chapter_9_says_of_labels_that_turn_wrong_stands_in_the_table_of_attacks() -> None:
    table = pd.read_csv(RESULTS / "attacks" / "attacks.csv").query("defence == 'none' and participant == 2")
    lost = 100 * (table["honest"] - table["reward"]).where(table["attack"] == "flips labels in rounds")
    by_method = lost.groupby(table["method"]).mean()
    low, high = sorted(by_method[["aequa", "aequa(schedule='training_time')"]].round(1))
    assert f"cost the attacker {low:g} to {high:g} points" in prose("09")
    assert by_method["aequa(schedule='training_time(tolerance=0.3)')"] > 30  # "more than thirty points"
    split = table.query("attack == 'splits in three' and method == \"aequa(schedule='training_time(tolerance=0.3)')\"")
    worst = -100 * split["worst_change"]
    assert f"a single honest one loses {worst.max():.0f} points in one of three runs" in prose("09")
    assert sorted(worst > 30) == [False, False, True]


def test_what_chapter_9_says_of_restored_fractions_stands_in_their_table() -> None:
    table = pd.read_csv(RESULTS / "fractions" / "restored.csv")
    most = 100 * (table["cgs_together"] - table["cgs_restored"]).abs().max()
    assert f"changes the spread by at most {most:.2f} points" in prose("09")


def test_pages_that_state_the_same_result_state_it_with_the_same_numbers() -> None:
    pages = [*(ROOT / "book").glob("*.md"), ROOT / "README.md"]
    found = {
        page.name: re.findall(r"\*\*(Over \d+ seeds of the first chapter[^*]+)\*\*", page.read_text()) for page in pages
    }
    stated = {name: each for name, each in found.items() if each}
    assert len(stated) >= 2
    assert len({sentence for each in stated.values() for sentence in each}) == 1
