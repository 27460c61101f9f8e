"""Finish each page: link the package's names and the glossary's terms, and mend what the theme's HTML gets wrong.

Links are set in the text of a page after Sphinx has written it and before it is saved; the rest is mended once all is
built. Where the variable AEQUA_REPOSITORY (or GITHUB_REPOSITORY, in a fork's CI) names another owner/name, all links and
buttons lead there. A code cell's ``aq.allocate`` and a sentence's `` `aq.allocate` `` lead to the API pages; a glossary
term is linked where a page first uses it. A chapter's figure is an output whose cell has ``mystnb.figure.name`` in its metadata;
the italic paragraph below it, which a notebook shows as it is, becomes its caption, and Sphinx numbers it. A cell whose
assertions passed shows a tick.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from html import escape, unescape
from pathlib import Path
from posixpath import dirname, relpath
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx_exercise.nodes import solution_node

DOT, NAME = '<span class="o">.</span>', r'<span class="n">(\w+)</span>'
CODE = re.compile(rf'<span class="n">aq</span>{re.escape(DOT)}{NAME}(?:{re.escape(DOT)}{NAME})?')
PROSE = re.compile(
    r'(?<!reference internal">)<code class="docutils literal notranslate"><span class="pre">'
    r"aq\.(\w+)(?:\.(\w+))?[^<]*</span></code>"
)
PARAGRAPH = re.compile(r"<p>(?:(?!</?p[ >]).)*</p>", re.S)
KEPT = re.compile(r"(<(a|code|span|button|strong)\b.*?</\2>|<[^>]+>)", re.S)  # nothing is linked inside these
FORMULA = re.compile(r'(<span class="math notranslate nohighlight">[^<]*</span>)([-.,;:!?)’”]+)')
MAP_COMMENT = re.compile(r"\n?(?://# sourceMappingURL=\S+|/\*# sourceMappingURL=\S+ ?\*/)\s*$")
TERM_LINK = re.compile(r'<a class="reference internal" href="([^"]*glossary\.html)?#(term-[^"]+)"')
ICON = re.compile(
    r'(?:"([\w-]+)"|([\w$]+)):\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?'
)  # Font Awesome's
OUTPUT = re.compile(r'(<div class="output [^"]*">(?:<div class="[^"]*">)*)<pre>(.*?)</pre>', re.S)
ASSERT = re.compile(r"^\s*assert\b", re.M)
COLUMNS = 84  # characters of an output that fit beside both sidebars of a laptop
HOME = "aequa-lite/aequa-lite"  # owner/name, as in _config.yml
REPOSITORY = os.environ.get("AEQUA_REPOSITORY") or os.environ.get("GITHUB_REPOSITORY")
FETCHED = "fetch(requestUrl)\n      .then((responseData) => responseData.text())"  # in Sphinx's search
TOOLS = '<script src="_static/searchtools.js"></script>'
SIGNATURE = re.compile(r'<dl>\s*((?:<dd> ?<em class="sig-param">.*?</dd>\s*)+)</dl>', re.S)
LARGE = 760  # pixels of a figure's width: more panels than a telephone can show
API = "book/api/"  # its pages are the aims of the links
UNREAD = ("book/glossary", "book/bibliography", "genindex", "search")


def _names(app: Any) -> dict[str, str]:
    """The package's public names, as `load` or `data.by_size`, and where each is documented."""
    found = app.env.get_domain("py").objects
    return {
        name.removeprefix("aequa_lite."): f"{each.docname}.html#{each.node_id}"
        for name, each in found.items()
        if each.objtype in ("class", "function", "exception")
    }


def _terms(app: Any) -> dict[str, str]:
    """The glossary's terms and where each is explained; longer terms first, so that they win."""
    found = app.env.get_domain("std").objects
    terms = {name: f"{doc}.html#{anchor}" for (kind, name), (doc, anchor) in found.items() if kind == "term"}
    return dict(sorted(terms.items(), key=lambda pair: -len(pair[0])))


def _words(definition: Any) -> str:
    """The first paragraph of a definition as plain text, without its citations."""
    paragraph = next(iter(definition.findall(lambda node: node.tagname == "paragraph"))).deepcopy()
    for cited in list(
        paragraph.findall(lambda node: node.get("refdomain") == "cite" if hasattr(node, "get") else False)
    ):
        cited.parent.remove(cited)
    return re.sub(r"\s+([.,:;])", r"\1", " ".join(paragraph.astext().split()))


def _meanings(app: Any) -> dict[str, str]:
    """What each of the glossary's terms means, by its anchor."""
    if not hasattr(app, "aequa_meanings"):
        app.aequa_meanings = {
            anchor: _words(item[-1])
            for item in app.env.get_doctree("book/glossary").findall(
                lambda node: node.tagname == "definition_list_item"
            )
            for term in item.findall(lambda node: node.tagname == "term")
            for anchor in term["ids"]
        }
    return app.aequa_meanings


def with_meanings(body: str, meanings: dict[str, str]) -> str:
    """Give each link to a glossary's term its meaning, which the page shows where it is pointed at."""

    def told(m: re.Match[str]) -> str:
        return f'{m[0]} data-meaning="{escape(meanings[m[2]])}"' if m[2] in meanings else m[0]

    return TERM_LINK.sub(told, body)


def link_names(body: str, names: dict[str, str], there: str) -> str:
    """Link `aq.name` and `aq.namespace.name` to the API pages; `there`: the way to the book's root."""

    def linked(m: re.Match[str]) -> str:
        full, first = f"{m[1]}.{m[2]}", m[1]
        if full not in names and first not in names:
            return m[0]
        part = m[0]
        if full not in names and m[2] and part.startswith("<span"):  # a method: only its class is linked
            part = part[: part.rindex(DOT)]
        return f'<a class="api-link" href="{there}{names.get(full, names.get(first))}">{part}</a>{m[0][len(part) :]}'

    return PROSE.sub(linked, CODE.sub(linked, body))


def link_terms(body: str, terms: dict[str, str], there: str, meanings: dict[str, str]) -> str:
    """Link the first use of each glossary term in the paragraphs of a page."""
    left = {
        name: place for name, place in terms.items() if f'#{place.split("#")[1]}"' not in body
    }  # linked by the author

    def words(text: str) -> str:
        if not left:
            return text
        any_term = re.compile(rf"\b({'|'.join(map(re.escape, left))})(s?)\b")

        def one(m: re.Match[str]) -> str:
            place = left.pop(m[1], None)
            if place is None:
                return m[0]
            meaning = escape(meanings.get(place.split("#")[1], ""))
            return f'<a class="term-link" href="{there}{place}" data-meaning="{meaning}">{m[0]}</a>'

        return any_term.sub(one, text)

    def paragraph(m: re.Match[str]) -> str:
        parts = re.split(KEPT, m[0])
        # the split yields text, tag, name of the tag, text, ...
        return "".join(words(part) if k % 3 == 0 else part for k, part in enumerate(parts) if k % 3 != 2)

    return PARAGRAPH.sub(paragraph, body)


def glue(body: str) -> str:
    """Keep a formula and the full stop or comma after it on one line; a browser would break between them."""
    return FORMULA.sub(r'<span class="glued">\1\2</span>', body)


def fitting(body: str) -> str:
    """Mark outputs that are wider than the page: a table of numbers shrinks, anything else breaks its lines."""

    def marked(m: re.Match[str]) -> str:
        lines = re.sub(r"<[^>]+>", "", m[2]).splitlines()
        if max(map(len, lines), default=0) <= COLUMNS:
            return m[0]
        columns = sum(len(re.findall(r"\S {2,}\S", line)) > 1 for line in lines) > len(lines) / 2
        return f'{m[1]}<pre class="{"shrinks" if columns else "breaks"}">{m[2]}</pre>'

    return OUTPUT.sub(marked, body)


def _lines(m: re.Match[str]) -> str:
    """A signature's parameters as lines; Sphinx makes them a list of definitions without terms."""
    return m[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")


def mend(page: str) -> str:
    """Mend the theme's HTML: a script that stands twice, names of buttons, roles of lists, tables that scroll."""
    page = SIGNATURE.sub(_lines, page)
    page = re.sub(r"\s*<script>const THEBE_JS_URL.*?</script>", "", page, flags=re.S)  # Thebe is off
    page = re.sub(r'\s*<script async="async" src="[^"]*sphinx-thebe\.js[^"]*"></script>', "", page)
    page = re.sub(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"', r"\1", page)
    page = page.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    page = re.sub(r'<summary>(?=<span class="toctree-toggle")', '<summary aria-label="Pages of this section">', page)
    page = re.sub(r'(<i class="theme-switch[^>]*?)\s+title="[^"]*"', r'\1 aria-hidden="true"', page)
    page = page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    page = re.sub(r'<section id="(?:exercise|solution)-content">', "<section>", page)  # once on a page, not six times
    page = re.sub(r"<table(?![^>]*tabindex)", '<table tabindex="0"', page)  # it scrolls, so keys must reach it
    page = re.sub(r"(<th[^>]*>)(?:<p></p>)?</th>", r'\1<span class="visually-hidden">row</span></th>', page)
    page = page.replace(' role="doc-biblioentry"', "")  # which ARIA has withdrawn
    page = page.replace(
        '<div id="pst-primary-sidebar" class=',
        '<div id="pst-primary-sidebar" role="complementary" aria-label="Book" class=',
    )
    page = re.sub(r"<pre(?= class=\"(?:breaks|shrinks))", '<pre tabindex="0"', page)
    return page.replace("<pre><span></span>", '<pre tabindex="0"><span></span>')


def _width(path: Path) -> float:
    """The width of a picture: of a PNG in pixels, of an SVG that of its view."""
    if path.suffix == ".svg":
        box = re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+)', path.read_text(encoding="utf-8")[:2000])
        return float(box[1]) * 4 / 3 if box else 0
    with path.open("rb") as file:
        return int.from_bytes(file.read(20)[16:], "big")


def scrolling(page: str, there: Path) -> str:
    """Put each large figure into a box in which it scrolls on a telephone; ``there``: the page's folder."""

    def boxed(m: re.Match[str]) -> str:
        return f'<div class="wide" tabindex="0">{m[1]}</div>' if _width(there / m[2]) > LARGE else m[0]

    return re.sub(
        r'(?<=">\n)(<img alt="[^"]*" (?:\w+="[^"]*" )*?src="([^"]*_images/[^"]+\.(?:png|svg))" />)', boxed, page
    )


def _finish(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Link the body of a page while it is written."""
    if doctree is None or "body" not in context:
        return
    there = relpath(".", dirname(pagename) or ".") + "/"
    body = context["body"]
    if not pagename.startswith(API):
        body = link_names(body, _names(app), there)
        body = body if pagename in UNREAD else link_terms(body, _terms(app), there, _meanings(app))
    if pagename not in UNREAD:
        body = with_meanings(body, _meanings(app))
    context["body"] = glue(fitting(body))


def _mend_all(app: Any, error: Exception | None) -> None:
    """Mend every page that was written."""
    if error or app.builder.format != "html":
        return
    for path in app.builder.outdir.rglob("*.html"):
        if "_static" not in path.parts:
            page = mend(path.read_text(encoding="utf-8"))
            if REPOSITORY and re.fullmatch(r"[\w.-]+/[\w.-]+", REPOSITORY):
                page = page.replace(HOME, REPOSITORY)
            path.write_text(scrolling(page, path.parent), encoding="utf-8")


def _snippets(app: Any, error: Exception | None) -> None:
    """Let the search show where a page says it, also without a server, from which a page's text cannot be fetched."""
    if error or app.builder.format != "html":
        return
    out = app.builder.outdir
    texts = {}
    for name in app.env.found_docs:
        page = (out / f"{name}.html").read_text(encoding="utf-8")
        article = re.search(r'<article class="bd-article".*?</article>', page, re.S)
        bare = re.sub(r"<(script|style)\b.*?</\1>|<[^>]+>", " ", article[0] if article else "", flags=re.S)
        texts[name] = " ".join(unescape(bare).replace("#", " ").split())
    (out / "_static" / "searchtexts.js").write_text(f"const PAGE_TEXTS = {json.dumps(texts)};\n", encoding="utf-8")
    for path, old, new in (
        (out / "_static" / "searchtools.js", FETCHED, "Promise.resolve(PAGE_TEXTS[docName])"),
        (out / "_static" / "searchtools.js", "text = Search.htmlToText(htmlText, anchor)", "text = htmlText"),
        (out / "search.html", TOOLS, f'<script src="_static/searchtexts.js"></script>\n  {TOOLS}'),
    ):
        text = path.read_text(encoding="utf-8")
        if old not in text and new not in text:
            raise ExtensionError(f"Sphinx's {path.name} has changed: {old!r} is not in it")
        path.write_text(text if new in text else text.replace(old, new), encoding="utf-8")


def _only_used_icons(app: Any, error: Exception | None) -> None:
    """Keep of Font Awesome's script, 1.5 MB, the icons that the pages and the theme's script name."""
    if error or app.builder.format != "html":
        return
    script = app.builder.outdir / "_static" / "scripts" / "fontawesome.js"
    pages = [*app.builder.outdir.rglob("*.html"), *script.parent.glob("pydata-sphinx-theme.js")]
    used = {name for path in pages for name in re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8"))}

    def kept(m: re.Match[str]) -> str:
        names = {m[1] or m[2], *re.findall(r'"([^"]+)"', m[3])}
        return m[0] if names & used else ""

    text = ICON.sub(kept, script.read_text(encoding="utf-8"))
    script.write_text(text.replace(",}", "}"), encoding="utf-8")


def _drop_source_maps(app: Any, error: Exception | None) -> None:
    """Leave out source maps, uncompressed fonts and what else no reader's browser asks for: megabytes."""
    if error or app.builder.format != "html":
        return
    for unused in ("locales", "results"):  # of the theme's build; drawings that pages show from _images
        shutil.rmtree(app.builder.outdir / "_static" / unused, ignore_errors=True)
    for font in app.builder.outdir.rglob("webfonts/*.ttf"):
        font.unlink()  # browsers take the compressed one beside it
    for source_map in app.builder.outdir.rglob("*.map"):
        source_map.unlink()
        mapped = source_map.with_suffix("")
        if mapped.exists():
            text = mapped.read_text(encoding="utf-8")
            mapped.write_text(MAP_COMMENT.sub("", text), encoding="utf-8")


def _small_images(app: Any, error: Exception | None) -> None:
    """Store figures with 256 colours, which is all that they have: a third of the bytes, on the pages and in the PDF."""
    if error or app.builder.format != "html":
        return
    for path in app.builder.outdir.glob("_images/*.png"):
        with Image.open(path) as image:
            opaque = "A" not in image.getbands() or image.getchannel("A").getextrema()[0] == 255
            few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        if opaque:
            few.save(path, optimize=True)


class Captions(SphinxTransform):
    """Make the italic paragraph below the figure of a code cell its caption, and describe the picture by it."""

    default_priority = 200

    def apply(self) -> None:
        """Look at every figure that a cell's output has become."""
        for figure in list(self.document.findall(nodes.figure)):
            cell = figure.parent
            while cell is not None and cell.get("nb_element") != "cell_code":
                cell = cell.parent
            below = cell.next_node(descend=False, siblings=True) if cell is not None else None
            if not isinstance(below, nodes.paragraph) or len(below) != 1 or not isinstance(below[0], nodes.emphasis):
                continue
            caption = nodes.caption("", "", *below[0].children)
            caption.source, caption.line = below.source, below.line
            below.parent.remove(below)
            figure += caption
            for image in figure.findall(nodes.image):
                if not image.get("alt"):
                    image["alt"] = caption.astext()


class Checks(SphinxTransform):
    """Show a tick at a cell whose assertions passed when it was executed: in the line of a folded cell, below another."""

    default_priority = 201

    def apply(self) -> None:
        """Look at every executed code cell without an error."""
        for cell in list(self.document.findall(nodes.container)):
            if cell.get("nb_element") != "cell_code":
                continue
            failed = cell.get("exec_count") is None or any(
                "traceback" in each.get("classes", []) for each in cell.findall(nodes.Element)
            )
            count = len(ASSERT.findall(cell[0].astext()))
            if failed or not count:
                continue
            passed = f"✓ {count} {'check' if count == 1 else 'checks'} passed"
            if cell.get("hide_mode"):
                cell["prompt_show"], cell["prompt_hide"] = f"{passed}: show the code", f"{passed}: hide the code"
            else:
                cell += nodes.paragraph("", passed, classes=["passed"])


class ShortTitles(SphinxPostTransform):
    """Leave a solution's title its exercise's number; the exercise's own title stands directly above it."""

    default_priority = 22  # the titles are made at 21

    def run(self, **kwargs: Any) -> None:
        """Look at every solution."""
        for solution in self.document.findall(solution_node):
            before, link = solution[0]
            link.children = [nodes.Text(link[0].astext().strip())]
            solution[0][0] = nodes.Text(f"{before.astext()} ")


def setup(app: Any) -> dict[str, Any]:
    """Register all of it with Sphinx."""
    app.add_transform(Captions)
    app.add_transform(Checks)
    app.add_post_transform(ShortTitles)
    app.connect("html-page-context", _finish)
    app.connect("build-finished", _mend_all)
    app.connect("build-finished", _snippets)
    app.connect("build-finished", _drop_source_maps)
    app.connect("build-finished", _only_used_icons)
    app.connect("build-finished", _small_images)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
