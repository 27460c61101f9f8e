"""Figures that move without a server: the allocation under sliders, one round step by step; nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_hex
from torch import Tensor

from ..allocation.exact import allocate, checked_accuracies
from ..evaluation import Curve
from ..slimmable import aggregate
from .theme import shade

__all__ = ["Sliders", "sliders", "stepper"]


SCALE = [to_hex(shade(k / 20)) for k in range(21)]  # the scale of the widths, for the pages


@dataclass(frozen=True)
class Sliders:
    """Hold the page's text; a notebook and the built book show it.

    Example:
        >>> Sliders("<p>hello</p>")._repr_html_()
        '<p>hello</p>'
    """

    html: str

    def __repr__(self) -> str:
        return f"Sliders({len(self.html):,} characters)"

    def _repr_html_(self) -> str:
        return self.html


def _still(contribution: np.ndarray, curve: Curve) -> str:
    """The same figure without movement, for a page whose scripts are off."""
    figure = curve(curve, allocate(contribution, curve), alone=contribution)
    blob = io.BytesIO()
    figure.savefig(blob, format="png", dpi=110)
    plt.close(figure)
    words = "Accuracy by width; markers show which width each participant earns at the default weight."
    picture = base64.b64encode(blob.getvalue()).decode()
    look = "max-width:100%;height:auto"
    return f'<noscript><img alt="{escape(words)}" src="data:image/png;base64,{picture}" style="{look}"></noscript>'


def sliders(contribution: Any, curve: Curve, name: str = "allocation") -> Sliders:
    r"""Draw the allocation under three sliders: trade-off weight, least width, and noise of the contributions.

    What each participant gets is computed in the page by the same sweep over $\tau$ as in ``allocate``, reading A.
    ``name``: an identifier that is unique on the page.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.5, 0.7, 0.9), samples=1000)
        >>> "<script>" in sliders([0.45, 0.65, 0.85], curve).html
        True

    Source: ours.
    """
    b = checked_accuracies(contribution)
    name = f"sliders-{name}"  # no heading of the page has this anchor
    values = {
        "name": name,
        "b": [float(v) for v in b],  # every digit, so that the page finds what ``allocate`` finds
        "levels": [float(v) for v in curve.levels],
        "widths": [round(float(v), 4) for v in curve.level_widths],
        "weight": round(0.5 / float(np.sqrt(max(len(b) - 1, 1))), 2),
        "scale": SCALE,
    }
    folder = files(__package__).joinpath("assets")
    page, search = (folder.joinpath(f"sliders.{kind}").read_text(encoding="utf-8") for kind in ("html", "js"))
    page = page.replace("__NAME__", escape(name, quote=True)).replace("__VALUES__", json.dumps(values))
    page = page.replace("__SEARCH__", search)
    return Sliders(page + _still(b, curve))


def _grid(values: Tensor, full: int, words: str) -> str:
    """A square matrix as coloured cells at its place in the full one; ``words`` name it."""
    cells = ""
    for i, j in np.ndindex(full, full):
        held = max(i, j) < len(values)
        tone = round(20 * (max(i, j) + 1) / full)
        shown = f"background:{SCALE[tone]};color:{'#fff' if tone >= 10 else '#111'}" if held else "background:#f0f0f0"
        number = f"{float(values[i, j]):g}" if held else ""
        cells += f'<span style="{shown};padding:4px 0;text-align:center">{number}</span>'
    said = escape(f"{words}: {'; '.join(' '.join(f'{float(v):g}' for v in row) for row in values)}", quote=True)
    box = f"display:grid;grid-template-columns:repeat({full},2.6em);gap:2px"
    grid = f'<div role="img" aria-label="{said}" style="{box}">{cells}</div>'
    return f'<div style="margin:0 18px 8px 0"><div>{escape(words)}</div>{grid}</div>'


def stepper(
    theta: Tensor, answers: Sequence[tuple[Tensor, float]], names: Sequence[str] = (), name: str = "round"
) -> Sliders:
    r"""Show one round in four steps: the shared matrix, what goes out, what comes back, what the merge makes of it.

    ``theta``: a square matrix; ``answers``: for each participant its trained leading block and how much it counts;
    ``names``: of the participants. Buttons lead from step to step; without scripts all four stand one below the other.

    Raises:
        ValueError: if ``theta`` is not a square matrix.

    Example:
        >>> import torch
        >>> "4. merge" in stepper(torch.zeros(3, 3), [(torch.ones(3, 3), 1.0), (torch.ones(2, 2), 2.0)]).html
        True

    Source: ours.
    """
    if theta.ndim != 2 or theta.shape[0] != theta.shape[1]:
        raise ValueError(f"theta has the shape {tuple(theta.shape)}; a square matrix can be shown")
    full, who = len(theta), list(names) or [f"participant {i}" for i in range(len(answers))]
    merged = aggregate({"w": theta}, [({"w": v}, a) for v, a in answers])["w"]
    out = [_grid(theta[: len(v), : len(v)], full, f"to {n}") for n, (v, _) in zip(who, answers)]
    back = [_grid(v, full, f"from {n}, counts {a:g}") for n, (v, a) in zip(who, answers)]
    steps = (
        ("1. the shared network", "One matrix of it; a dark cell belongs to wide networks only.", [_grid(theta, full, "shared")]),
        ("2. broadcast", "Each participant receives the leading block of its width.", out),
        ("3. train", "Each trains its block on its own shard and sends it back; the shard stays at home.", back),
        ("4. merge", "Each entry is averaged over those who hold it.", [*back, _grid(merged, full, "shared, after the round")]),
    )  # fmt: skip
    panels = ""
    for title, words, grids in steps:
        row = f'<div style="display:flex;flex-wrap:wrap;margin-top:6px">{"".join(grids)}</div>'
        panels += f"<section data-step><b>{title}</b><br>{words}{row}</section>"
    page = files(__package__).joinpath("assets", "stepper.html").read_text(encoding="utf-8")
    return Sliders(page.replace("__NAME__", escape(f"stepper-{name}", quote=True)).replace("__PANELS__", panels))
