"""Interactive figures without a server: the allocation under sliders, one round step by step; nothing is fetched."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._check import accuracies, checked, number, one_each
from ..allocation.exact import allocate
from ..evaluation import Curve
from ..slimmable import aggregate
from .figures import curve as draw_curve
from .theme import shade

SCALE = [to_hex(shade(k / 20)) for k in range(21)]  # the colours of the widths, for the pages


@checked
@dataclass(frozen=True)
class Page:
    """Hold a piece of HTML that a notebook and the built book show.

    Example:
        >>> Page("<p>hello</p>")._repr_html_()
        '<p>hello</p>'
    """

    html: str

    def __repr__(self) -> str:
        return f"Page({len(self.html):,} characters)"

    def _repr_html_(self) -> str:
        return self.html


def asset(name: str) -> str:
    """The text of a file in the folder of assets."""
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _still(contribution: NDArray[np.float64], curve: Curve) -> str:
    """The same figure as a picture, for a page without scripts."""
    figure = draw_curve(curve, allocate(contribution, curve, individually_rational=True), contribution)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    plt.close(figure)
    label = "Accuracy by width; markers show which width each participant earns at the default weight."
    picture = base64.b64encode(content.getvalue()).decode()
    look = "max-width:100%;height:auto"
    return f'<noscript><img alt="{escape(label)}" src="data:image/png;base64,{picture}" style="{look}"></noscript>'


@checked
def sliders(contribution: ArrayLike, curve: Curve, name: str = "allocation") -> Page:
    r"""Show the allocation under three sliders: trade-off weight, least width, and noise of the contributions.

    The page computes individually rational rewards by the same sweep over $\tau$ as `allocate`, for reading A.

    Args:
        contribution: (n,) accuracies in [0, 1].
        curve: Accuracy by width.
        name: Identifier, unique on the page.

    Raises:
        ValueError: A contribution is outside [0, 1], or `curve` is not a curve.

    Example:
        >>> curve = Curve((0.1, 0.5, 1.0), (0.5, 0.7, 0.9), samples=1000)
        >>> "<script>" in sliders([0.45, 0.65, 0.85], curve).html
        True

    References:
        Our choice.
    """
    b = accuracies("contribution", contribution)
    name = f"sliders-{name}"  # no heading of the page has this anchor
    values = {
        "name": name,
        "b": [float(v) for v in b],  # every digit, so that the page finds what `allocate` finds
        "levels": [float(v) for v in curve.levels],
        "widths": [round(float(v), 4) for v in curve.level_widths],
        "weight": round(0.5 / float(np.sqrt(max(len(b) - 1, 1))), 2),
        "scale": SCALE,
    }
    text = json.dumps(values).replace("<", "\\u003c")  # no name ends the script
    page = asset("sliders.html").replace("__NAME__", escape(name, quote=True)).replace("__VALUES__", text)
    return Page(page.replace("__SEARCH__", asset("sliders.js")) + _still(b, curve))


def _grid(values: Tensor, full: int, label: str) -> str:
    """A square matrix as coloured cells at its place in the full one."""
    cells = ""
    for i, j in np.ndindex(full, full):
        inside = max(i, j) < len(values)
        tone = round(20 * (max(i, j) + 1) / full)
        look = f"background:{SCALE[tone]};color:{'#fff' if tone >= 10 else '#111'}" if inside else "background:#f0f0f0"
        text = f"{float(values[i, j]):g}" if inside else ""
        cells += f'<span style="{look};padding:4px 0;text-align:center">{text}</span>'
    spoken = escape(f"{label}: {'; '.join(' '.join(f'{float(v):g}' for v in row) for row in values)}", quote=True)
    box = f"display:grid;grid-template-columns:repeat({full},2.6em);gap:2px"
    grid = f'<div role="img" aria-label="{spoken}" style="{box}">{cells}</div>'
    return f'<div style="margin:0 18px 8px 0"><div>{escape(label)}</div>{grid}</div>'


@checked
def stepper(
    theta: Tensor, updates: Sequence[tuple[Tensor, float]], names: Sequence[str] = (), name: str = "round"
) -> Page:
    r"""Show one round in four steps: the global model, what is sent, what comes back, the aggregate.

    Buttons lead from step to step; without scripts all four stand one below the other.

    Args:
        theta: A square matrix of the global model.
        updates: For each participant its trained leading block and its aggregation weight.
        names: Of the participants (default: their numbers).
        name: Identifier, unique on the page.

    Raises:
        ValueError: `theta` or a block is not a square matrix, or there is not one name for each update.

    Example:
        >>> import torch
        >>> "4. aggregate" in stepper(torch.zeros(3, 3), [(torch.ones(3, 3), 1.0), (torch.ones(2, 2), 2.0)]).html
        True

    References:
        Our choice.
    """
    _square("theta", theta, len(theta) if isinstance(theta, Tensor) and theta.ndim else 0)
    for i, (block, weight) in enumerate(updates):
        _square(f"updates[{i}]", block, len(theta))
        number(f"updates[{i}] weight", weight, 0, above=True)
    full, who = len(theta), list(names) or [f"participant {i}" for i in range(len(updates))]
    one_each("names", who, len(updates))
    theta_next = aggregate({"w": theta}, [({"w": v}, a) for v, a in updates])["w"]
    sent = [_grid(theta[: len(v), : len(v)], full, f"to {n}") for n, (v, _) in zip(who, updates)]
    back = [_grid(v, full, f"from {n}, weight {a:g}") for n, (v, a) in zip(who, updates)]
    after = _grid(theta_next, full, "global, after the round")
    steps = (
        ("1. the global model", "One matrix of it; an outer cell belongs to wide networks only.", [_grid(theta, full, "global")]),
        ("2. broadcast", "Each participant receives the leading block of its width.", sent),
        ("3. train", "Each trains its block on its own shard and sends it back; the data stays local.", back),
        ("4. aggregate", "Each entry is averaged over those who hold it.", [*back, after]),
    )  # fmt: skip
    panels = ""
    for title, text, grids in steps:
        row = f'<div style="display:flex;flex-wrap:wrap;margin-top:6px">{"".join(grids)}</div>'
        panels += f"<section data-step><b>{title}</b><br>{text}{row}</section>"
    page = asset("stepper.html").replace("__NAME__", escape(f"stepper-{name}", quote=True))
    quoted = json.dumps(f"stepper-{name}").replace("<", "\\u003c")
    return Page(page.replace("__QUOTED__", quoted).replace("__PANELS__", panels))


def _square(name: str, matrix: Tensor, most: int) -> None:
    """Refuse what is not a square matrix of at most so many rows."""
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or not 0 < matrix.shape[0] == matrix.shape[1] <= most:
        found = f"shape {tuple(matrix.shape)}" if isinstance(matrix, Tensor) else type(matrix).__name__
        raise ValueError(f"`{name}` must be a square matrix of 1 to {most or 'more'} rows, got {found}")
