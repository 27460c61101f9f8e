"""Print the built book as one PDF, with a bookmark for each page, and link it from the landing page.

usage: python scripts/pdf.py [HTML]     (HTML: the folder of the built book, default _build/html)

Needs Chromium: AEQUA_CHROMIUM, or chromium or google-chrome on the path. Without one it says so, and the book has no PDF.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter

from aequa_lite._io import atomic_write

ROOT = Path(__file__).resolve().parents[1]
NAME = "aequa-in-the-open.pdf"
SCALE = 0.73  # of the screen's sizes: text of 8.8 points
LONG = 24  # a table of more rows is left to the screen
OPEN = """least => {
  document.querySelectorAll('details').forEach(e => {
    // a folded cell that is only opened is printed blank if the browser has not laid it out yet
    const open = document.createElement('div');
    open.className = e.className;
    if (e.classList.contains('hide')) e.querySelector('summary').remove();
    open.append(...e.childNodes);
    e.replaceWith(open);
  });
  document.querySelectorAll('.toggle-hidden').forEach(e => e.classList.remove('toggle-hidden'));
  document.querySelectorAll('article table').forEach(t => {
    if (t.rows.length <= least) return;
    const note = document.createElement('p'), rows = t.tBodies[0] ? t.tBodies[0].rows.length : t.rows.length;
    note.textContent = `[A table of ${rows} rows stands on the page of the book and in its CSV.]`;
    t.replaceWith(note);
  });
}"""
PLACE = '<span class="pdf-place"></span>'


def chromium() -> str | None:
    """The path of the browser."""
    found = os.environ.get("AEQUA_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    return found if found and Path(found).exists() else None


LEFT_OUT = ("book/api/", "book/changelog", "book/networks", "book/promises", "book/further_results")


def pages(html: Path) -> list[Path]:
    """The pages in the order of the contents; API, changelog, networks, promises and older results are left to the screen."""
    names = re.findall(r"(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text())
    return [html / f"{name}.html" for name in names if not name.startswith(LEFT_OUT)]


def printed(html: Path, browser_path: str) -> PdfWriter:
    """All pages, each printed by the browser in its light theme, with mathematics drawn and solutions open."""
    book = PdfWriter()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(color_scheme="light")
        for path in pages(html):
            page.goto(path.as_uri())
            page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
            page.evaluate(OPEN, LONG)
            paper = {
                "format": "A4",
                "scale": SCALE,
                "margin": dict.fromkeys(("top", "bottom", "left", "right"), "12mm"),
            }
            sheet = PdfReader(io.BytesIO(page.pdf(print_background=True, **paper)))
            book.append(sheet, outline_item=page.title().split(" — ")[0])
        browser.close()
    book.compress_identical_objects()
    return book


def main() -> None:
    """Print, write and link."""
    html = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_build" / "html"
    html = html.resolve()
    where = chromium()
    if where is None:
        print("no Chromium found (AEQUA_CHROMIUM, chromium, google-chrome): the book is built without a PDF")
        return
    book = printed(html, where)
    with atomic_write(html / NAME) as half:
        book.write(str(half))
    landing = html / "book" / "intro.html"
    link = PLACE.replace(
        "></", f'><a href="../{NAME}">The book as one PDF, without the API: {len(book.pages)} sheets.</a></'
    )
    text = landing.read_text(encoding="utf-8").replace(PLACE, link)
    with atomic_write(landing) as half:
        half.write_text(text, encoding="utf-8")
    print(f"{html.name}/{NAME}: {len(book.pages)} sheets, {(html / NAME).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
