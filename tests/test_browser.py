"""The built book in a real browser: silent, self-contained, as wide as a telephone, accessible, and its figures move.

Needs AEQUA_BOOK (the built HTML) and AEQUA_CHROMIUM (a Chromium); axe-core's check also AEQUA_AXE (its axe.min.js).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

BOOK = Path(os.environ.get("AEQUA_BOOK", "")).resolve() if os.environ.get("AEQUA_BOOK") else None
CHROMIUM, AXE = os.environ.get("AEQUA_CHROMIUM", ""), os.environ.get("AEQUA_AXE", "")
pytestmark = [
    pytest.mark.skipif(BOOK is None, reason="AEQUA_BOOK does not name a built book; `make strict` sets it"),
    pytest.mark.skipif(not Path(CHROMIUM).is_file(), reason="AEQUA_CHROMIUM does not name a browser"),
]
PAGES = sorted(p for p in BOOK.rglob("*.html") if "_static" not in p.parts and p.name != "index.html") if BOOK else []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all pages."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(params=["light", "dark"])
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fresh page that records its errors and the requests that leave it."""
    fresh = browser.new_page(color_scheme=request.param, viewport={"width": 1280, "height": 900})
    fresh.set_default_timeout(180_000)  # on a busy machine a page of formulas takes its time
    fresh.errors, fresh.asked = [], []
    fresh.on("console", lambda m: fresh.errors.append(m.text) if m.type == "error" else None)
    fresh.on("pageerror", lambda e: fresh.errors.append(str(e)))
    fresh.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else fresh.asked.append(r.url))
    yield fresh
    fresh.close()


def opened(page: Any, path: Path) -> None:
    """Open a page and wait until its mathematics is drawn."""
    page.goto(path.as_uri())
    page.add_style_tag(content="* { transition: none !important; }")  # colours are read when they stand
    page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")


@pytest.mark.parametrize("path", PAGES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_page_is_silent_whole_narrow_and_accessible(page: Any, path: Path) -> None:
    opened(page, path)
    assert page.evaluate("document.querySelectorAll('span.math, div.math').length > 0") == bool(
        page.evaluate("document.querySelectorAll('mjx-container').length > 0")
    )
    if Path(AXE).is_file():
        page.evaluate(Path(AXE).read_text())
        found = page.evaluate("axe.run(document, {preload: false, resultTypes: ['violations']})")["violations"]
        assert not {v["id"]: v["nodes"][0]["html"][:200] for v in found}
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert not page.errors
    assert not page.asked


def test_the_landing_pages_slider_moves_the_reward(page: Any) -> None:
    assert BOOK is not None
    opened(page, BOOK / "book" / "intro.html")
    summary, slider = page.locator(".aequa-landing [data-out=summary]"), page.locator("#aequa-contribution")
    slider.focus()
    page.keyboard.press("Home")
    assert "It contributed 0.50" in summary.inner_text()
    page.keyboard.press("End")
    assert "It contributed 0.90" in summary.inner_text()
    assert "loses" in summary.inner_text()  # more than the full network attains


def test_the_landing_pages_reward_rises_with_the_contribution_and_nobody_loses_below_the_top(page: Any) -> None:
    assert BOOK is not None
    opened(page, BOOK / "book" / "intro.html")
    found = page.evaluate(
        """() => {
          const slider = document.querySelector('#aequa-contribution'), root = document.querySelector('.aequa-landing');
          const read = name => +root.dataset[name];
          return Array.from({length: 81}, (_, k) => {
            slider.value = 0.5 + 0.005 * k;
            slider.dispatchEvent(new Event('input'));
            return [read('contribution'), read('width'), read('reward'), read('top')];
          });
        }"""
    )
    assert [round(b, 3) for b, *_ in found] == [round(0.5 + 0.005 * k, 3) for k in range(81)]
    for (_, narrow, low, _), (_, wide, high, _) in pairwise(found):
        assert narrow <= wide
        assert low <= high
    assert all(reward >= b - 1e-9 for b, _, reward, top in found if b <= top)
    assert all(reward == top for b, _, reward, top in found if b > top)


def test_the_stepper_goes_through_one_round(page: Any) -> None:
    assert BOOK is not None
    opened(page, BOOK / "notebooks" / "03_federated_training.html")
    box, titles = page.locator("#stepper-round"), ("global model", "broadcast", "train", "aggregate")
    for title in titles:
        assert title in box.locator("section:not([hidden]) b").inner_text()
        if title != titles[-1]:
            box.locator("[data-move='1']").press("Enter")
    assert box.locator("[data-move='1']").is_disabled()


def test_a_code_cells_functions_and_a_pages_terms_are_linked(page: Any) -> None:
    assert BOOK is not None
    opened(page, BOOK / "notebooks" / "01_quickstart.html")
    assert page.locator("pre a.api-link", has_text="allocate").first.get_attribute("href").endswith(".allocate")
    assert "glossary.html#term-" in page.locator("a.term-link").first.get_attribute("href")


WRITTEN = [p for p in PAGES if p.parent.name in ("notebooks", "book")]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: p.stem)
def test_nothing_is_cut_on_a_laptop_and_no_solution_stands_open(page: Any, path: Path) -> None:
    opened(page, path)
    assert page.locator("details[open]").count() == 0
    assert page.locator(".admonition.toggle:not(.toggle-hidden)").count() == 0
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    for button in page.locator(".solution .toggle-button").all():
        button.click()
    assert page.locator(".solution.toggle-hidden").count() == 0
    cut = "all => all.filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
    lines = [max(text.splitlines(), key=len) for text in page.eval_on_selector_all("article pre", cut)]
    assert not lines
    assert not page.eval_on_selector_all("article table", cut)


@pytest.mark.parametrize(
    "path",
    [p for p in WRITTEN if p.stem in ("results", "published", "further_results", "paper", "related")],
    ids=lambda p: p.stem,
)
def test_what_a_row_is_about_stays_in_view_on_a_telephone(page: Any, path: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    opened(page, path)
    places = page.eval_on_selector_all(
        "article table",
        """all => all.filter(t => t.offsetParent).map(t => {
             t.scrollLeft = 1e6;
             const cell = t.tBodies[0].rows[0].cells[0].getBoundingClientRect(), box = t.getBoundingClientRect();
             return [cell.left - box.left, cell.width, box.width];
           })""",
    )
    assert places
    assert all(-1 <= left <= 2 and 0 < wide < 0.75 * whole for left, wide, whole in places)


def test_a_table_sorts_filters_and_saves_what_it_shows(page: Any) -> None:
    assert BOOK is not None
    opened(page, BOOK / "book" / "further_results.html")
    table = page.locator("table.sorts", has=page.locator("th", has_text="highest best reward")).first
    names = "t => [...t.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].textContent.trim())"
    column = "t => [...t.tBodies[0].rows].map(r => parseFloat(r.cells[3].textContent))"
    before = table.evaluate(names)
    for rising in (True, False):
        table.locator("th button").nth(3).press("Enter")
        found = table.evaluate(column)
        assert found == sorted(found, reverse=not rising)
    assert sorted(table.evaluate(names)) == sorted(before)
    bar = table.locator("xpath=preceding-sibling::*[1]")
    bar.locator("input").fill("cgsv")
    shown = table.evaluate(names)
    assert shown
    assert all("cgsv" in name for name in shown)
    with page.expect_download() as saved:
        bar.locator("a").click()
    lines = Path(saved.value.path()).read_text().splitlines()
    assert lines[0].startswith('"method","runs"')
    assert len(lines) == 1 + len(shown)


def test_the_search_shows_snippets_without_a_server(page: Any) -> None:
    assert BOOK is not None
    page.goto(f"{(BOOK / 'search.html').as_uri()}?q=allowance")
    page.wait_for_selector("#search-results li p.context")
    found = page.locator("#search-results li p.context").all_inner_texts()
    assert len(found) >= 3
    assert all("allow" in each.lower() for each in found)  # its stem
    assert not page.errors


def test_a_terms_meaning_is_shown_and_hidden(page: Any) -> None:
    assert BOOK is not None
    opened(page, BOOK / "notebooks" / "01_quickstart.html")
    link, note = page.locator("a.term-link").first, page.locator("#term-note")
    assert not note.is_visible()
    link.hover()
    assert note.is_visible()
    assert note.inner_text() == link.get_attribute("data-meaning")
    page.keyboard.press("Escape")
    assert not note.is_visible()
    link.focus()
    assert note.is_visible()


def test_the_primers_round_plays_and_pauses(page: Any) -> None:
    assert BOOK is not None
    page.emulate_media(reduced_motion="no-preference")
    opened(page, BOOK / "book" / "primer.html")
    running = "document.getElementById('aequa-round').getAnimations({subtree: true}).length"
    assert page.evaluate(running) >= 10
    page.locator(".aequa-pause").press("Enter")
    assert page.evaluate(running) == 0
    page.locator(".aequa-pause").press("Enter")
    assert page.evaluate(running) >= 10
    page.emulate_media(reduced_motion="reduce")
    opened(page, BOOK / "book" / "primer.html")
    assert page.evaluate(running) == 0


@pytest.mark.parametrize(
    "path", [p for p in WRITTEN if p.stem in ("intro", "results", "01_quickstart")], ids=lambda p: p.stem
)
def test_a_figure_has_the_ground_of_its_page(page: Any, path: Path) -> None:
    opened(page, path)
    image = pytest.importorskip("PIL.Image")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    expected = [int(each) for each in re.findall(r"\d+", ground)[:3]]
    figures = page.locator("article img, .aequa-landing:not([hidden])").all()
    assert figures
    for figure in figures:
        picture = image.open(io.BytesIO(figure.screenshot())).convert("RGB")
        inside = [picture.getpixel((x, y)) for x in (14, picture.width - 15) for y in (3, picture.height - 4)]
        assert all(abs(a - b) <= 3 for pixel in inside for a, b in zip(pixel, expected, strict=True)), inside


def test_a_figure_of_many_panels_scrolls_on_a_telephone_and_a_formula_keeps_its_full_stop(page: Any) -> None:
    assert BOOK is not None
    page.set_viewport_size({"width": 390, "height": 844})
    opened(page, BOOK / "notebooks" / "07_training_time_allocation.html")
    inside = page.eval_on_selector_all(".wide", "all => all.map(e => [e.scrollWidth, e.clientWidth])")
    assert inside
    assert all(scrolls > shown for scrolls, shown in inside)
    opened(page, BOOK / "book" / "proofs.html")
    lost = "all => all.filter(e => e.getClientRects().length > 1).map(e => e.textContent)"
    assert not page.eval_on_selector_all(".glued", lost)
