"""The book's prose speaks the field's language, and its drawings are those that their script draws."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from programs import program
from test_project import PRIVATE

ROOT = Path(__file__).resolve().parents[1]
PROSE = [*sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "README.md"]
# code says what the code says; a model is handed in, a sum is done by hand, a text is at hand, a term is said of something
NAMES = re.compile(
    r"`[^`]*`|individual(?:ly)? ration\w*|HeteroFL\w*|```.*?```|\b(?:by|at)\s+hand\b|\bhands?\s+in\b|\bSaid of\b", re.S
)


def prose(path: Path) -> str:
    """The sentences of a page or of a notebook's markdown."""
    if path.suffix == ".md":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("path", PROSE, ids=lambda p: p.stem)
def test_prose_has_no_private_words(path: Path) -> None:
    words = set(re.findall(r"[a-z]+", NAMES.sub("", prose(path)).lower().replace("\n", " ")))
    # two accounts registered as one; somebody who said what it had
    accounts = {"merged", "merge", "said"} if path.stem.startswith("09") else set()
    assert words & (set(PRIVATE) - {"rational", "answer", "answers"} - accounts) == set()


def test_no_figure_is_attributed_to_a_text_that_was_not_seen() -> None:
    page = (ROOT / "book" / "paper.md").read_text()
    statuses = [
        line.split("|")[2].strip() for line in page.splitlines() if line.startswith("| ") and line.count("|") == 4
    ]
    told = [each for each in statuses if each not in ("status", "---")]
    assert len(told) > 30
    assert all(re.match(r"seen|from memory|inferred|ours|unknown", each) for each in told)


def test_drawings_are_those_of_their_script() -> None:
    for name, picture in program("scripts/draw.py").pictures().items():
        assert (ROOT / "book" / "_static" / f"{name}.svg").read_text() == picture, name  # python scripts/draw.py
