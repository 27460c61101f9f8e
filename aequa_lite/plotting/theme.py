"""One figure style and a handful of figures; the only file that imports matplotlib and seaborn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from .._io import atomic_write

__all__ = ["save_figure", "style"]


WIDTH_SCALE = sns.color_palette("crest", as_cmap=True)  # width is always on this one sequential scale


MARKERS = "os^Dv<>ph*X"  # a participant is always a marker


INK, ALONE, STOPPED = "#333333", "#8c510a", "#d81b60"  # all else; what was reached alone; what a bound takes or gives


CYCLE = ("#0072b2", "#d55e00", "#333333", "#cc79a7")  # categories without a meaning of their own, in this order


LINES = (INK, "#0072b2", ALONE, "#777777")  # ways of training, each with a dash of its own


EDGE = {"edgecolor": INK, "linewidth": 0.7}  # around a marker, since a narrow width is pale


def style() -> None:
    """Set the book's figure style for this process: one size, a white face that is legible in dark mode too.

    Example:
        >>> style()
        >>> mpl.rcParams["figure.facecolor"]
        'white'
    """
    sns.set_theme(context="notebook", style="ticks", palette=CYCLE)
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 110,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "font.family": "DejaVu Sans",
            "svg.hashsalt": "aequa-lite",
            "figure.constrained_layout.use": True,
        }
    )


def marker(participant: int) -> str:
    """The marker that stands for a participant in every figure."""
    return MARKERS[participant % len(MARKERS)]


def shade(width: float) -> Any:
    """The colour of a width on the one sequential scale."""
    return WIDTH_SCALE(Normalize(0, 1)(width))


def _axes(ax: Axes | None, size: tuple[float, float] = (6.4, 3.6)) -> Axes:
    """The axes to draw on: those given, or new ones."""
    return plt.subplots(figsize=size)[1] if ax is None else ax


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure as a PNG of 160 dots per inch, whole or not at all.

    Example:
        >>> import tempfile
        >>> save_figure(plt.figure(), Path(tempfile.mkdtemp()) / "empty.png").name
        'empty.png'
    """
    with atomic_write(path) as half:
        figure.savefig(half, dpi=160, metadata={"Software": None})
    return Path(path)
