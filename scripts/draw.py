"""Draw the pictures of the book that no chapter draws: the rooms of the architecture page, and the README's first screen.

usage: python scripts/draw.py [RUN]     (RUN: a folder with report.json, default runs/quickstart)
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import aequa_lite as aq
from aequa_lite.files import whole

BOOK = Path(__file__).resolve().parents[1] / "book"
STATIC = BOOK / "_static"
COLOURS = ("#3b528b", "#33638d", "#287d8e", "#1f968b", "#29af7f", "#44882a")


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
    parts, house = [], floors()
    for f, ((title, names), colour) in enumerate(zip(house.items(), COLOURS, strict=True)):
        y, x = 20 + f * 62, 120
        parts.append(f'<text x="104" y="{y + 25}" text-anchor="end" class="t">{title}</text>')
        for name in names:
            w = 24 + 8.4 * len(name)
            strong = name in ("slim", "federate", "allocate")
            parts.append(f'<rect x="{x}" y="{y}" width="{w:.0f}" height="38" rx="6" fill="{colour}"/>')
            parts.append(
                f'<text x="{x + w / 2:.0f}" y="{y + 24}" text-anchor="middle" class="{"b" if strong else "n"}">{name}</text>'
            )
            x += w + 8
        if f + 1 < len(house):
            parts.append(
                f'<path d="M136 {y + 40} v18 m-5 -6 l5 6 l5 -6" stroke="#555" fill="none" stroke-width="1.5"/>'
            )
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 395" role="img" aria-label="The rooms of the module">'
        "<style>text{font-family:DejaVu Sans,Verdana,sans-serif;font-size:14px}.n{fill:#fff}.b{fill:#fff;font-weight:bold}"
        '.t{fill:#333}</style><rect width="800" height="395" rx="10" fill="#fff"/>'
    )
    return head + "".join(parts) + "</svg>\n"


def main() -> None:
    """Write both pictures."""
    with whole(STATIC / "rooms.svg") as half:
        half.write_text(rooms())
    found = aq.Report.load(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart")
    aq.style()
    aq.save_figure(aq.plot_widths(found), STATIC / "first-screen.png")


if __name__ == "__main__":
    main()
