"""Finish each page: link the package's names and the glossary's terms, and mend what the theme's HTML gets wrong.

Links are set in the text of a page after Sphinx has written it and before it is saved; the rest is mended once all is
built. A code cell's ``aq.allocate`` and a sentence's `` `aq.allocate` `` lead to the API pages; a glossary term is linked
where a page first uses it.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, relpath
from typing import Any

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


def link_terms(body: str, terms: dict[str, str], there: str) -> str:
    """Link the first use of each glossary term in the paragraphs of a page."""
    left = dict(terms)

    def words(text: str) -> str:
        if not left:
            return text
        any_term = re.compile(rf"\b({'|'.join(map(re.escape, left))})(s?)\b")

        def one(m: re.Match[str]) -> str:
            place = left.pop(m[1], None)
            return m[0] if place is None else f'<a class="term-link" href="{there}{place}">{m[0]}</a>'

        return any_term.sub(one, text)

    def paragraph(m: re.Match[str]) -> str:
        parts = re.split(KEPT, m[0])
        # the split yields text, tag, name of the tag, text, ...
        return "".join(words(part) if k % 3 == 0 else part for k, part in enumerate(parts) if k % 3 != 2)

    return PARAGRAPH.sub(paragraph, body)


def glue(body: str) -> str:
    """Keep a formula and the full stop or comma after it on one line; a browser would break between them."""
    return FORMULA.sub(r'<span class="glued">\1\2</span>', body)


def mend(page: str) -> str:
    """Mend the theme's HTML: a script that stands twice, names of buttons, roles of lists, tables that scroll."""
    page = re.sub(r"\s*<script>const THEBE_JS_URL.*?</script>", "", page, flags=re.S)  # Thebe is off
    page = re.sub(r'\s*<script async="async" src="[^"]*sphinx-thebe\.js[^"]*"></script>', "", page)
    page = re.sub(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"', r"\1", page)
    page = page.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    page = re.sub(r'<summary>(?=<span class="toctree-toggle")', '<summary aria-label="Pages of this section">', page)
    page = re.sub(r'(<i class="theme-switch[^>]*?)\s+title="[^"]*"', r'\1 aria-hidden="true"', page)
    page = page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    page = re.sub(r"<table(?![^>]*tabindex)", '<table tabindex="0"', page)  # it scrolls, so keys must reach it
    return page.replace("<pre><span></span>", '<pre tabindex="0"><span></span>')


def scrolling(page: str, there: Path) -> str:
    """Put each large figure of a chapter into a box in which it scrolls on a telephone; ``there``: the page's folder."""

    def boxed(m: re.Match[str]) -> str:
        with (there / m[2]).open("rb") as file:
            wide = int.from_bytes(file.read(20)[16:], "big")  # where a PNG keeps its width
        return f'<div class="wide" tabindex="0">{m[1]}</div>' if wide > LARGE else m[0]

    return re.sub(r'(?<=">\n)(<img alt="[^"]*" src="([^"]*_images/[^"]+\.png)" />)', boxed, page)


def _finish(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Link the body of a page while it is written."""
    if doctree is None or "body" not in context:
        return
    there = relpath(".", dirname(pagename) or ".") + "/"
    body = context["body"]
    if not pagename.startswith(API):
        body = link_names(body, _names(app), there)
        body = body if pagename in UNREAD else link_terms(body, _terms(app), there)
    context["body"] = glue(body)


def _mend_all(app: Any, error: Exception | None) -> None:
    """Mend every page that was written."""
    if error or app.builder.format != "html":
        return
    for path in app.builder.outdir.rglob("*.html"):
        if "_static" not in path.parts:
            page = mend(path.read_text(encoding="utf-8"))
            path.write_text(scrolling(page, path.parent), encoding="utf-8")


def _drop_source_maps(app: Any, error: Exception | None) -> None:
    """Leave out the theme's source maps: megabytes that only its own debuggers would read."""
    if error or app.builder.format != "html":
        return
    for source_map in app.builder.outdir.rglob("*.map"):
        source_map.unlink()
        mapped = source_map.with_suffix("")
        if mapped.exists():
            text = mapped.read_text(encoding="utf-8")
            mapped.write_text(MAP_COMMENT.sub("", text), encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Register all of it with Sphinx."""
    app.connect("html-page-context", _finish)
    app.connect("build-finished", _mend_all)
    app.connect("build-finished", _drop_source_maps)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
