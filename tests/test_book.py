"""The built book: complete, self-contained, and linked. Needs AEQUA_BOOK, the folder of the built HTML."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

BOOK = Path(os.environ["AEQUA_BOOK"]) if "AEQUA_BOOK" in os.environ else None
pytestmark = pytest.mark.skipif(BOOK is None, reason="AEQUA_BOOK does not name a built book; `make strict` sets it")
PAGES = sorted(p for p in BOOK.rglob("*.html") if "_static" not in p.parts) if BOOK else []
SKIPPED = {"genindex.html", "search.html", "py-modindex.html"}
REMOTE = re.compile(
    r"<(?:script|link|img|iframe|source|video)\b[^>]*?\b(?:src|href)=\"(?:https?:)?//[^\"]+\"[^>]*>", re.I
)


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def anchors(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r"\b(?:id|name)=\"([^\"]+)\"", text(path)))


def test_the_book_was_built() -> None:
    assert BOOK is not None
    assert (BOOK / "index.html").exists()
    assert len(PAGES) > 8


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_request_leaves_the_page(page: Path) -> None:
    found = [each for each in REMOTE.findall(text(page)) if 'rel="canonical"' not in each]
    assert not found
    for style in re.findall(r"<style[^>]*>(.*?)</style>", text(page), flags=re.S):
        assert not re.search(r"url\(\s*['\"]?https?:", style)


def test_no_style_sheet_asks_another_host() -> None:
    assert BOOK is not None
    for sheet in BOOK.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?https?:", text(sheet)), sheet.name


def test_mathematics_is_drawn_from_the_book_itself() -> None:
    assert BOOK is not None
    assert (BOOK / "_static" / "mathjax" / "tex-svg.js").stat().st_size > 1_000_000
    assert "mathjax/tex-svg.js" in text(BOOK / "book" / "notation.html")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_local_link_and_anchor_resolves(page: Path) -> None:
    for link in re.findall(r"\b(?:href|src)=\"([^\"]+)\"", text(page)):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or link.startswith("javascript"):
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page.resolve()
        target = target / "index.html" if target.is_dir() else target
        assert target.exists(), link
        if parts.fragment and target.suffix == ".html" and parts.fragment not in ("", "#"):
            assert unquote(parts.fragment) in anchors(target), link


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in SKIPPED], ids=lambda p: p.name)
def test_every_picture_has_words(page: Path) -> None:
    for image in re.findall(r"<img\b[^>]*>", text(page)):
        assert re.search(r"\balt=\"[^\"]*\w[^\"]*\"", image), image


def test_the_book_is_small() -> None:
    assert BOOK is not None
    assert sum(path.stat().st_size for path in BOOK.rglob("*") if path.is_file()) < 25e6
    for page in PAGES:
        bare = re.sub(r"data:image/[^\"]+", "", text(page))
        assert len(bare.encode()) < 1.5e6, page.name
    for page in (BOOK / "book" / "api").glob("*.html"):
        assert page.stat().st_size < 300e3, page.name


def test_the_drawing_of_the_package_shows_every_file() -> None:
    root = Path(__file__).resolve().parents[1]
    drawing = (root / "book" / "_static" / "layers.svg").read_text(encoding="utf-8")
    files = {path.stem for path in (root / "aequa_lite").rglob("*.py")} - {"__init__", "__main__"}
    assert set(re.findall(r'class="[bn]">(\w+)<', drawing)) == files  # python scripts/draw.py draws it anew


def test_no_source_map_is_shipped_or_asked_for() -> None:
    assert BOOK is not None
    for path in BOOK.rglob("_static/**/*"):
        assert path.suffix != ".map", path
        if path.suffix in (".js", ".css"):
            assert "# sourceMappingURL=" not in text(path)[-200:], path


def test_chapters_have_launch_buttons() -> None:
    assert BOOK is not None
    for page in (BOOK / "notebooks").glob("*.html"):
        assert "colab.research.google.com" in text(page)
        assert "mybinder.org" in text(page)


def test_no_path_of_an_authors_machine_stands_in_a_page() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/\w", text(page)), page.name
