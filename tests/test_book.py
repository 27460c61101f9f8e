"""The built book: complete, self-contained, and linked. Needs AEQUA_BOOK, the folder of the built HTML."""

from __future__ import annotations

import itertools
import json
import os
import re
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from programs import program

BOOK = Path(os.environ["AEQUA_BOOK"]) if "AEQUA_BOOK" in os.environ else None
pytestmark = pytest.mark.skipif(BOOK is None, reason="AEQUA_BOOK does not name a built book; `make strict` sets it")
ROOT = Path(__file__).resolve().parents[1]
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
    drawing = (ROOT / "book" / "_static" / "layers.svg").read_text(encoding="utf-8")
    files = {path.stem for path in (ROOT / "aequa_lite").rglob("*.py")} - {"__init__", "__main__"}
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


def test_icons_weigh_little() -> None:
    assert BOOK is not None
    assert (BOOK / "_static" / "scripts" / "fontawesome.js").stat().st_size < 200e3


def test_every_figure_has_a_caption() -> None:
    for page in PAGES:
        for figure in re.findall(r"<figure\b.*?</figure>", text(page), flags=re.S):
            assert "<figcaption" in figure, page.name
            assert re.search(r"<figcaption.*?\w.*?</figcaption>", figure, flags=re.S), page.name


NOTEBOOKS = [page for page in PAGES if page.parent.name == "notebooks"]
CHAPTERS = [page for page in PAGES if page.parent.name == "notebooks" and page.stem[:2].isdigit()]


def chapter_number(page: Path) -> str:
    """The number that a chapter shows in its title."""
    return re.findall(r'<h1><span class="section-number">(\d+)\. </span>', text(page))[0]


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_has_numbered_exercises_each_with_one_folded_solution(page: Path) -> None:
    head = r'\s*<p class="admonition-title">'
    exercises = re.findall(
        rf'<div class="exercise admonition" id="(ex-[\w-]+)">{head}<span class="caption-number">Exercise ([\d.]+) </span>'
        r" \((?:Warm-up|Practice|Advanced): ",
        text(page),
    )
    solutions = re.findall(
        rf'<div class="solution dropdown admonition" id="solution-[\w-]+">{head}'
        r'Solution to <a class="reference internal" href="#(ex-[\w-]+)">Exercise ([\d.]+)</a>',
        text(page),
    )
    assert len(exercises) >= 3
    assert [number for _, number in exercises] == [f"{chapter_number(page)}.{k + 1}" for k in range(len(exercises))]
    assert solutions == exercises
    assert len(re.findall(r'<div class="(?:[\w -]* )?(?:exercise|solution)[ "]', text(page))) == 2 * len(exercises)


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda p: p.stem)
def test_passed_assertions_show_a_tick(page: Path) -> None:
    cells = json.loads((ROOT / "notebooks" / f"{page.stem}.ipynb").read_text())["cells"]
    counts = [len(re.findall(r"^\s*assert\b", "".join(c["source"]), re.M)) for c in cells if c["cell_type"] == "code"]
    checked = [count for count in counts if count]
    shown = re.findall(r">✓ (\d+) checks? passed(?:: show the code)?<", text(page))
    assert list(map(int, shown)) == checked


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebooks_pictures_all_have_captions(page: Path) -> None:
    pictures = re.findall(r'<img [^>]*src="[^"]*_images/[^"]+"[^>]*>', text(page))
    outputs = [p for p in pictures if re.search(r"_images/[0-9a-f]{64}\.png", p)]
    inside = "".join(re.findall(r"<figure\b.*?</figure>", text(page), flags=re.S))
    assert outputs
    assert all(picture in inside for picture in outputs)
    assert not any(re.search(r'alt="[^"]*_images/', picture) for picture in pictures)


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapters_figures_are_numbered_and_described(page: Path) -> None:
    figures = re.findall(r"<figure\b.*?</figure>", text(page), flags=re.S)
    numbers = [re.findall(r'<span class="caption-number">Fig\. ([\d.]+) </span>', figure) for figure in figures]
    assert numbers == [[f"{chapter_number(page)}.{k + 1}"] for k in range(len(figures))]
    for figure in figures:
        assert re.search(r'<figure[^>]* id="fig-[\w-]+"', figure)
        assert not re.search(r'alt="[^"]*_images/', figure)


def test_results_say_first_what_is_met_then_show_pictures_and_tables_with_their_rows() -> None:
    assert BOOK is not None
    page = text(BOOK / "book" / "results.html")
    pictures = [page.index(f"{name}.svg") for name in ("gains", "pareto", "pearson")]
    first, second = (each.start() for each in itertools.islice(re.finditer("<table", page), 2))
    assert first < pictures[0] < pictures[1] < pictures[2] < second
    met = re.findall(r"<td[^>]*><p>(?:<strong>)?(yes|no|-)(?:</strong>)?</p></td>\s*</tr>", page[first : pictures[0]])
    assert len(met) >= 8
    assert "no" in met  # where an aim is missed the page says so at once
    assert len(re.findall(r'<a class="reference download internal"[^>]*\.csv"', page)) >= 8
    assert "Where we lose" in page


def test_published_figures_are_counted_then_drawn_then_listed() -> None:
    assert BOOK is not None
    page = text(BOOK / "book" / "published.html")
    score = re.search(
        r"We hold (\d+) published figures.*?(\d+) matched.*?(\d+) trend only.*?(\d+) not matched.*?(\d+) withdrawn",
        page,
        re.S,
    )
    assert score
    tried, *parts = map(int, score.groups())
    assert tried == sum(parts)
    assert score.start() < page.index("forest.svg") < page.index("<table")


def test_the_landing_page_has_its_parts() -> None:
    assert BOOK is not None
    page = text(BOOK / "book" / "intro.html")
    for part in (
        "steps.svg",
        "first-screen.png",
        "aequa-landing",
        "four reading paths",
        "How to cite",
        "changelog.html",
    ):
        assert part in page, part
    for link in ("primer", "results", "published", "related", "conclusion", "run", "api/index"):
        assert f'href="{link}.html"' in page, link
    version = re.search(r'__version__ = "([^"]+)"', (ROOT / "aequa_lite" / "__init__.py").read_text())
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), flags=re.M)
    assert cited
    assert f"version = {{{cited[1]}}}" in (ROOT / "book" / "intro.md").read_text()
    assert version is None or version[1] == cited[1]
    seeds = json.loads((ROOT / "results" / "quickstart" / "summary.json").read_text())
    assert f"correlation of {seeds['pearson']['mean']:.3f}" in page


def test_a_terms_meaning_stands_at_its_links() -> None:
    assert BOOK is not None
    glossary = text(BOOK / "book" / "glossary.html")
    for term in ("federated-learning", "FedAvg", "non-IID", "client", "participant", "aggregation", "MCG", "CGS"):
        assert f'id="term-{term}"' in glossary, term
    for page in PAGES:
        for link in re.findall(r'<a class="term-link"[^>]*>', text(page)):
            assert re.search(r'data-meaning="[^"]{20,}"', link), link
    assert "mcmahan2017" not in " ".join(re.findall(r'data-meaning="([^"]*)"', text(BOOK / "book" / "intro.html")))


def test_the_api_starts_with_twelve_names_and_has_types_and_sources() -> None:
    assert BOOK is not None
    page = text(BOOK / "book" / "api" / "index.html")
    assert len(re.findall(r'<dt class="sig sig-object py" id="aequa_lite\.\w+">', page)) == 12
    assert "str | Path" in re.sub(r"<[^>]+>", "", page)
    for number, name in re.findall(r"/blob/main/(aequa_lite/[\w/]+\.py)#L(\d+)-L\d+", page):
        assert (ROOT / number).exists()
        line = (ROOT / number).read_text().splitlines()[int(name) - 1]
        assert re.match(r"\s*(def|class|@|\w+ =)", line), line


def test_related_work_says_what_was_seen() -> None:
    page = (ROOT / "book" / "related.md").read_text()
    newer = page[page.index("## Newer work") : page.index("## Where the building")]
    assert "the abstract only was seen" in newer
    assert len(re.findall(r"arxiv\.org/abs/2[56]\d\d\.\d{5}", newer)) >= 12
    methods = [
        line.split("|")[-2].strip() for line in page.splitlines() if line.startswith("|") and line.count("|") == 6
    ]
    assert {"code", "abstract", "paper"} <= set(methods[2:])


def test_the_address_is_one_variable() -> None:
    home = program("book/_ext/finish.py").HOME
    address = f"https://github.com/{home}"
    assert f"url: {address}\n" in (ROOT / "_config.yml").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"] == address
    assert BOOK is not None
    assert {os.environ.get("AEQUA_REPOSITORY") or os.environ.get("GITHUB_REPOSITORY") or home} >= REPOSITORIES


REPOSITORIES = {
    name
    for page in PAGES
    for name in re.findall(r"(?:mybinder\.org/v2/gh|research\.google\.com/github)/([\w.-]+/[\w.-]+)/", text(page))
}


def test_the_pdf_is_a_book_and_its_solutions_have_ink() -> None:
    assert BOOK is not None
    path = BOOK / "aequa-in-the-open.pdf"
    if not path.exists():
        pytest.skip("the book has no PDF here; scripts/pdf.py prints it")
    pypdf = pytest.importorskip("pypdf")
    reader = pypdf.PdfReader(path)
    assert len(reader.pages) <= 220
    starts = [
        (each.title, reader.get_destination_page_number(each)) for each in reader.outline if not isinstance(each, list)
    ]
    ends = [first for _, first in starts[1:]] + [len(reader.pages)]
    for notebook in (ROOT / "notebooks" / f"{name}.ipynb" for name in ("01_quickstart", "06_post_training_allocation")):
        cells = json.loads(notebook.read_text())["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0].removeprefix("# ")
        first, last = next(
            (first, end) for (name, first), end in zip(starts, ends, strict=True) if name.endswith(title)
        )
        sheets = (
            reader.pages[k].extract_text() for k in range((first + last) // 2, last)
        )  # exercises stand at the end
        printed = re.sub(r"\s+", "", "".join(sheets))
        exercises = next(k for k, cell in enumerate(cells) if "## Exercises" in "".join(cell["source"]))
        solved = [cell for cell in cells[exercises:] if cell["cell_type"] == "code"]
        assert solved, notebook.name
        for cell in solved:
            line = max("".join(cell["source"]).splitlines(), key=len)
            assert re.sub(r"\s+", "", line) in printed, (notebook.name, line)
