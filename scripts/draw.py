"""Draw the pictures of the book that no chapter draws: rooms, one round, two times to pay, the first screen still and moving.

usage: python scripts/draw.py [RUN]     (RUN: a folder with report.json, default runs/quickstart)
"""

from __future__ import annotations

import json
import re
import sys
from importlib import resources
from pathlib import Path

import numpy as np

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.plotting.interactive import SCALE

BOOK = Path(__file__).resolve().parents[1] / "book"
STATIC = BOOK / "_static"
COLOURS = ("#3b528b", "#365a8c", "#33638d", "#287d8e", "#1f868b", "#1f8f6f", "#3a8a4a", "#44772a")


def floors() -> dict[str, list[str]]:
    """The rooms of each floor, as the table of the architecture page has them."""
    found: dict[str, list[str]] = {}
    for floor, files in re.findall(
        r"^\| ([a-z ]*)\| (`[^|]*\.py`[^|]*)\|", (BOOK / "architecture.md").read_text(), re.M
    ):
        title = floor.strip() or list(found)[-1]
        found.setdefault(title, []).extend(re.findall(r"`(\w+)\.py`", files))
    return found


def rooms() -> str:
    """The rooms as an SVG: a floor for each group, in the order of the imports."""
    parts, house, right = [], floors(), 0.0
    for f, ((title, names), colour) in enumerate(zip(house.items(), COLOURS, strict=True)):
        y, x = 20 + f * 62, 150.0
        parts.append(f'<text x="134" y="{y + 25}" text-anchor="end" class="t">{title}</text>')
        for name in names:
            w = 24 + 8.4 * len(name)
            strong = name in ("slim", "federate", "allocate")
            parts.append(f'<rect x="{x:.0f}" y="{y}" width="{w:.0f}" height="38" rx="6" fill="{colour}"/>')
            parts.append(
                f'<text x="{x + w / 2:.0f}" y="{y + 24}" text-anchor="middle" class="{"b" if strong else "n"}">{name}</text>'
            )
            x += w + 8
            right = max(right, x)
        if f + 1 < len(house):
            parts.append(
                f'<path d="M166 {y + 40} v18 m-5 -6 l5 6 l5 -6" stroke="#555" fill="none" stroke-width="1.5"/>'
            )
    size = f'width="{right + 12:.0f}" height="{62 * len(house) + 16}" rx="10" fill="#fff"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 12:.0f} {62 * len(house) + 16}" role="img" '
        'aria-label="The rooms of the module"><style>text{font-family:DejaVu Sans,Verdana,sans-serif;font-size:14px}'
        f".n{{fill:#fff}}.b{{fill:#fff;font-weight:bold}}.t{{fill:#333}}</style><rect {size}/>"
    )
    return head + "".join(parts) + "</svg>\n"


SHADES = ("#1f4e79", "#3f8f8b", "#9fd3a6")  # dark is wide, light is narrow, as in the figures


def nested(x: float, y: float, size: float, widths: tuple[float, ...]) -> str:
    """A square tensor with its leading blocks, the widest behind."""
    return "".join(
        f'<rect x="{x}" y="{y}" width="{size * w:.0f}" height="{size * w:.0f}" fill="{SHADES[3 - len(widths) + k]}"'
        ' stroke="#fff" stroke-width="2"/>'
        for k, w in enumerate(widths)
    )


def engine() -> str:
    """One round as an SVG: slices go out, each is trained on its own shard, entries are averaged over their holders."""
    widths, parts = (1.0, 0.6, 0.3), [nested(40, 95, 130, (1.0, 0.6, 0.3))]
    parts.append('<text x="105" y="255" text-anchor="middle" class="t">the shared network</text>')
    for k, w in enumerate(widths):
        y = 30 + 95 * k
        slices = tuple(v for v in widths if v <= w)
        parts.append(f'<path d="M185 160 C 240 160, 240 {y + 35}, 290 {y + 35} m-9 -5 l9 5 l-9 5" class="a"/>')
        parts.append(nested(300, y, 70, slices))
        parts.append(f'<text x="385" y="{y + 22}" class="t">participant {k}: width {w:g}</text>')
        parts.append(f'<text x="385" y="{y + 44}" class="s">trains this width and a random narrower one</text>')
        parts.append(f'<text x="385" y="{y + 62}" class="s">on its own shard, which it never shows</text>')
    parts.append('<path d="M335 305 C 335 345, 105 345, 105 272 m-5 9 l5 -9 l5 9" class="a"/>')
    words = "2. merge: each entry, averaged over its holders"
    parts.append(f'<text x="350" y="340" class="t">{words}</text><text x="196" y="28" class="t">1. broadcast</text>')
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 365" role="img" aria-label="One round of training">'
        "<style>text{font-family:DejaVu Sans,Verdana,sans-serif;font-size:15px}.t{fill:#222}.s{fill:#555;font-size:13px}"
        '.a{stroke:#555;fill:none;stroke-width:1.6}</style><rect width="760" height="365" rx="10" fill="#fff"/>'
    )
    return head + "".join(parts) + "</svg>\n"


def paying() -> str:
    """Paying after training beside paying while training, as an SVG: what each of three participants holds, round by round."""
    ways = {
        "paid after training": [(1.0, 1.0, 1.0, 1.0, w) for w in (0.3, 0.6, 1.0)],
        "paid while training": [(0.4, 0.3, 0.3, 0.3, 0.3), (0.4, 0.5, 0.6, 0.6, 0.6), (0.4, 1.0, 1.0, 1.0, 1.0)],
    }
    parts = []
    for side, (title, rows) in enumerate(ways.items()):
        left = 95 + 335 * side
        parts.append(f'<text x="{left}" y="28" class="t">{title}</text>')
        for t, word in enumerate(("round 1", "2", "3", "4", "reward")):
            x = left + 60 * t + (10 if t == 4 else 0)
            parts.append(f'<text x="{x + 22}" y="54" text-anchor="middle" class="s">{word}</text>')
            for i, row in enumerate(rows):
                y = 64 + 58 * i
                parts.append(f'<rect x="{x}" y="{y}" width="44" height="44" fill="#e6e6e6"/>')
                shade = SHADES[0 if row[t] > 0.8 else 1 if row[t] > 0.45 else 2]
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{44 * row[t]:.0f}" height="{44 * row[t]:.0f}" fill="{shade}"/>'
                )
    for i in range(3):
        parts.append(f'<text x="80" y="{91 + 58 * i}" text-anchor="end" class="s">shop {i}</text>')
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 245" role="img" aria-label="Paid after or while training">'
        "<style>text{font-family:DejaVu Sans,Verdana,sans-serif;font-size:15px}.t{fill:#222}.s{fill:#555;font-size:13px}"
        '</style><rect width="760" height="245" rx="10" fill="#fff"/>'
    )
    return head + "".join(parts) + "</svg>\n"


def landing(found: aq.Report) -> str:
    """The first screen that moves: a contribution in, width and accuracy out, on the run's own curve."""
    curve = aq.Curve(found.curve["widths"], found.curve["validation"], samples=found.data["sizes"]["validation"])
    values = {
        "b": [round(float(b), 4) for b in found.contribution],
        "levels": [round(float(a), 6) for a in curve.levels],
        "widths": [round(float(w), 4) for w in curve.level_widths],
        "parameters": [aq.n_parameters(aq.MLP(float(w))) for w in curve.level_widths],
        "weight": round(0.5 / float(np.sqrt(len(found.contribution) - 1)), 3),
        "scale": SCALE,
    }
    page = (Path(__file__).parent / "landing.html").read_text()
    search = resources.files("aequa_lite").joinpath("embedded", "sliders.js").read_text(encoding="utf-8")
    return page.replace("__VALUES__", json.dumps(values)).replace("__SEARCH__", search)


def main() -> None:
    """Write all pictures; the first screen only where a run has been made."""
    for name, picture in {"rooms": rooms(), "engine": engine(), "paying": paying()}.items():
        with atomic_write(STATIC / f"{name}.svg") as half:
            half.write_text(picture)
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart")
    if not (run / "report.json").exists():
        sys.exit(f"{run} holds no report.json; the first screen is left as it is")
    found = aq.Report.load(run)
    aq.plotting.style()
    aq.plotting.save_figure(aq.plotting.widths(found), STATIC / "first-screen.png")
    with atomic_write(BOOK / "landing.html") as half:
        half.write_text(landing(found))


if __name__ == "__main__":
    main()
