"""A figure that moves without a server: the allocation under sliders, in one piece of HTML with nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from .allocate import allocate, checked
from .curve import Curve
from .plots import plot_curve

__all__ = ["Sliders", "sliders"]


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
    figure = plot_curve(curve, allocate(contribution, curve), alone=contribution)
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
    b = checked(contribution)
    name = f"sliders-{name}"  # no heading of the page has this anchor
    values = {
        "name": name,
        "b": [float(v) for v in b],  # every digit, so that the page finds what ``allocate`` finds
        "levels": [float(v) for v in curve.levels],
        "widths": [round(float(v), 4) for v in curve.level_widths],
        "weight": round(0.5 / float(np.sqrt(max(len(b) - 1, 1))), 2),
    }
    folder = files(__package__).joinpath("embedded")
    page, search = (folder.joinpath(f"sliders.{kind}").read_text(encoding="utf-8") for kind in ("html", "js"))
    page = page.replace("__NAME__", escape(name, quote=True)).replace("__VALUES__", json.dumps(values))
    page = page.replace("__SEARCH__", search)
    return Sliders(page + _still(b, curve))
