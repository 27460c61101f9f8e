"""Draw the pictures of the book that no chapter draws: the package, one round, two times of rewarding, the first screen.

usage: python scripts/draw.py [RUN]     (RUN: a folder with report.json, default runs/quickstart)
"""

from __future__ import annotations

import json
import re
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.plotting.figures import SCALE, asset

BOOK = Path(__file__).resolve().parents[1] / "book"
STATIC = BOOK / "_static"
COLOURS = ("#3b528b", "#365a8c", "#33638d", "#287d8e", "#1f868b", "#1f8f6f", "#3a8a4a", "#44772a")
SHADES = ("#1f4e79", "#3f8f8b", "#9fd3a6")  # dark is wide, light is narrow, as in the figures
FONT = "text{font-family:DejaVu Sans,Verdana,sans-serif;font-size:15px}.t{fill:#222}.s{fill:#555;font-size:13px}"
GAP = 0.005  # accuracy between two levels of the first screen: half a point
WIDE = 800  # pixels of the drawing of the package
STRONG = ("slimmable", "federate", "method")  # the three files to read first


def svg(width: float, height: float, label: str, parts: list[str], style: str = FONT) -> str:
    """An SVG on a white card."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}">'
    card = f'<rect width="{width:.0f}" height="{height:.0f}" rx="10" fill="#fff"/>'
    return f"{head}<style>{style}</style>{card}{''.join(parts)}</svg>\n"


def table_of_parts() -> dict[str, list[str]]:
    """The files of each part, from the table of the architecture page, in reading order."""
    page, found = (BOOK / "architecture.md").read_text(), dict[str, list[str]]()
    table = page[page.index("| part | file |") : page.index("## To change X")]
    for part, files in re.findall(r"^\| ([a-z ]*)\| (`[^|]*\.py`[^|]*)\|", table, re.M):
        title = part.strip() or list(found)[-1]
        found.setdefault(title, []).extend(re.findall(r"`(?:\w+/)*(\w+)\.py`", files))
    return found


def layers() -> str:
    """The parts of the package in reading order: a file imports only from files further up or to its left."""
    parts, y = [], 20.0
    for (title, names), colour in zip(table_of_parts().items(), cycle(COLOURS)):
        x = 132.0
        parts.append(f'<text x="118" y="{y + 21:.0f}" text-anchor="end" class="t">{title}</text>')
        for name in names:
            w, look = 20 + 8.2 * len(name), "b" if name in STRONG else "n"
            if x + w > WIDE:
                x, y = 132.0, y + 36
            parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="{w:.0f}" height="30" rx="6" fill="{colour}"/>')
            parts.append(
                f'<text x="{x + w / 2:.0f}" y="{y + 20:.0f}" text-anchor="middle" class="{look}">{name}</text>'
            )
            x += w + 7
        y += 46
    style = f"{FONT}text{{font-size:14px}}.n{{fill:#fff}}.b{{fill:#fff;font-weight:bold}}"
    return svg(WIDE + 12, y, "The files of the package by part, in reading order", parts, style)


def nested(x: float, y: float, size: float, widths: tuple[float, ...]) -> str:
    """A square tensor with its leading blocks, the widest behind."""
    return "".join(
        f'<rect x="{x}" y="{y}" width="{size * w:.0f}" height="{size * w:.0f}" fill="{SHADES[3 - len(widths) + k]}"'
        ' stroke="#fff" stroke-width="2"/>'
        for k, w in enumerate(widths)
    )


def one_round() -> str:
    """One round: slices are sent, each is trained on its own shard, entries are averaged over those who hold them."""
    widths, parts = (1.0, 0.6, 0.3), [nested(40, 95, 130, (1.0, 0.6, 0.3))]
    parts.append('<text x="105" y="255" text-anchor="middle" class="t">the global model</text>')
    for k, w in enumerate(widths):
        y = 30 + 95 * k
        slices = tuple(v for v in widths if v <= w)
        parts.append(f'<path d="M185 160 C 240 160, 240 {y + 35}, 290 {y + 35} m-9 -5 l9 5 l-9 5" class="a"/>')
        parts.append(nested(300, y, 70, slices))
        parts.append(f'<text x="385" y="{y + 22}" class="t">participant {k}: width {w:g}</text>')
        parts.append(f'<text x="385" y="{y + 44}" class="s">trains this width and a random narrower one</text>')
        parts.append(f'<text x="385" y="{y + 62}" class="s">on its own shard, which stays local</text>')
    parts.append('<path d="M335 305 C 335 345, 105 345, 105 272 m-5 9 l5 -9 l5 9" class="a"/>')
    label = "2. aggregate: each entry, averaged over those who hold it"
    parts.append(f'<text x="350" y="340" class="t">{label}</text><text x="196" y="28" class="t">1. broadcast</text>')
    return svg(800, 365, "One round of training", parts, FONT + ".a{stroke:#555;fill:none;stroke-width:1.6}")


def five_steps() -> str:
    """The method in five steps: train alone, train together, measure the curve, allocate widths, cut the rewards."""
    titles = ("1. Train alone", "2. Train together", "3. Measure", "4. Allocate", "5. Cut")
    notes = (
        ("the accuracy of each", "is its contribution"),
        ("one network that", "works at every width"),
        ("accuracy by width,", "on validation data"),
        ("a width for each, equal", "gains where possible"),
        ("the leading blocks", "are the rewards"),
    )
    parts = []
    for k, (title, lines) in enumerate(zip(titles, notes)):
        x = 16 + 172 * k
        parts.append(f'<text x="{x}" y="32" class="t" font-weight="bold">{title}</text>')
        parts += [f'<text x="{x}" y="{192 + 18 * j}" class="s">{line}</text>' for j, line in enumerate(lines)]
        if k < 4:
            parts.append(f'<path d="M{x + 132} 105 h24 m-8 -5 l8 5 l-8 5" class="a"/>')
    curve = "{0} 155 C {1} 115, {2} 120, {3} 95 S {4} 58, {5} 50"
    for left in (360, 532):  # the curve, measured, then with a width for each
        parts.append(f'<path d="M{left} 155 h118" class="a"/>')
        ends = curve.format(left, left + 10, left + 18, left + 36, left + 74, left + 116)
        parts.append(f'<path d="M{ends}" class="a"/>')
        parts.append(f'<text x="{left + 60}" y="172" text-anchor="middle" class="s">width</text>')
    parts.append(nested(190, 50, 110, (1.0, 0.6, 0.3)))
    for i, (high, shade) in enumerate(zip((30, 62, 95), reversed(SHADES))):  # bars of contributions, then the rewards
        parts.append(f'<rect x="{22 + 38 * i}" y="{155 - high}" width="26" height="{high}" fill="#8c510a"/>')
        parts.append(f'<text x="{35 + 38 * i}" y="172" text-anchor="middle" class="s">{i}</text>')
        x, y = 547 + 40 * i, (119, 75, 54)[i]
        parts.append(f'<circle cx="{x}" cy="{y}" r="7" fill="{shade}"/><path d="M{x} {y + 9} V155" class="d"/>')
        left, side = 704 + (0, 28, 80)[i], 0.6 * (33, 74, 110)[i]
        parts.append(f'<rect x="{left}" y="{158 - side}" width="{side}" height="{side}" fill="{shade}"/>')
    style = FONT + ".a{stroke:#555;fill:none;stroke-width:1.6}.d{stroke:#777;fill:none;stroke-dasharray:3 3}"
    return svg(870, 225, "The method in five steps", parts, style)


def reward_times() -> str:
    """Rewards after training beside rewards while training: the width of each of three participants in each round."""
    times = {
        "rewards after training": [(1.0, 1.0, 1.0, 1.0, w) for w in (0.3, 0.6, 1.0)],
        "rewards while training": [(1.0, 0.4, 0.3, 0.3, 0.3), (1.0, 1.0, 0.7, 0.6, 0.6), (1.0, 1.0, 1.0, 1.0, 1.0)],
    }
    parts = []
    for side, (title, rows) in enumerate(times.items()):
        left = 115 + 335 * side
        parts.append(f'<text x="{left}" y="28" class="t">{title}</text>')
        for t, label in enumerate(("round 1", "2", "3", "4", "reward")):
            x = left + 60 * t + (10 if t == 4 else 0)
            parts.append(f'<text x="{x + 22}" y="54" text-anchor="middle" class="s">{label}</text>')
            parts += [block(x, 64 + 58 * i, row[t]) for i, row in enumerate(rows)]
    parts += [f'<text x="100" y="{91 + 58 * i}" text-anchor="end" class="s">participant {i}</text>' for i in range(3)]
    return svg(780, 245, "Rewards after training and rewards while training", parts)


def block(x: float, y: float, width: float) -> str:
    """A square network and the leading block of one width."""
    shade = SHADES[0 if width > 0.8 else 1 if width > 0.45 else 2]
    full = f'<rect x="{x}" y="{y}" width="44" height="44" fill="#e6e6e6"/>'
    return f'{full}<rect x="{x}" y="{y}" width="{44 * width:.0f}" height="{44 * width:.0f}" fill="{shade}"/>'


def distinct_levels(curve: aq.Curve) -> NDArray[np.intp]:
    """The levels that lie GAP or more apart, from the top: closer ones are far below the noise of the curve.

    Among closer levels the optimum follows coincidences, and a higher contribution may earn a slightly narrower width.
    """
    kept = [len(curve.levels) - 1]
    for k in range(len(curve.levels) - 2, -1, -1):
        if curve.levels[kept[-1]] - curve.levels[k] >= GAP:
            kept.append(k)
    return np.array(kept[::-1])


def landing(found: aq.Report) -> str:
    """The interactive first screen: from a contribution to width and accuracy, on the run's own curve."""
    curve = aq.Curve(found.curve["widths"], found.curve["validation"], samples=found.data["sizes"]["validation"])
    kept = distinct_levels(curve)
    values = {
        "b": [round(float(b), 4) for b in found.contribution],
        "levels": [round(float(a), 6) for a in curve.levels[kept]],
        "widths": [round(float(w), 4) for w in curve.level_widths[kept]],
        "parameters": [aq.n_parameters(aq.MLP(float(w))) for w in curve.level_widths[kept]],
        "weight": round(0.5 / float(np.sqrt(len(found.contribution) - 1)), 3),
        "scale": SCALE,
    }
    page = (Path(__file__).parent / "landing.html").read_text()
    return page.replace("__VALUES__", json.dumps(values)).replace("__SEARCH__", asset("sliders.js"))


def pictures() -> dict[str, str]:
    """The pictures that need no run, by name."""
    return {"layers": layers(), "round": one_round(), "reward_times": reward_times(), "steps": five_steps()}


def main() -> None:
    """Write all pictures; the first screen only for a run."""
    for name, picture in pictures().items():
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
