"""The style of all figures: a participant is a marker, a width a colour of one sequential scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from .._check import checked
from .._io import atomic_write

WIDTH_SCALE = sns.color_palette("crest", as_cmap=True)  # width is always on this one sequential scale
MARKERS = "os^Dv<>ph*X"  # a participant is always a marker
INK, ALONE, BOUND = "#333333", "#8c510a", "#d81b60"  # text and lines; stand-alone accuracy; at a bound
CYCLE = ("#0072b2", "#d55e00", "#333333", "#cc79a7")  # categories without a meaning of their own, in this order
LINES = (INK, "#0072b2", ALONE, "#777777")  # methods, each with a dash pattern of its own
EDGE = {"edgecolor": INK, "linewidth": 0.7}  # around a marker, since a narrow width is pale

LOOK = {
    "figure.figsize": (6.4, 3.6),
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


def style() -> None:
    """Set the figure style for this process.

    The face is white: no single text colour reaches a contrast of 4.5 on a white and on a dark page, and wide rewards are
    dark. The book inverts the lightness of its figures on a dark page.

    Example:
        >>> style()
        >>> plt.rcParams["figure.facecolor"]
        'white'
    """
    sns.set_theme(context="notebook", style="ticks", palette=CYCLE, rc=LOOK)


def marker(participant: int) -> str:
    """The marker that stands for a participant in every figure."""
    return MARKERS[participant % len(MARKERS)]


def shade(width: float) -> Any:
    """The colour of a width on the one sequential scale."""
    return WIDTH_SCALE(Normalize(0, 1)(width))


def axes(ax: Axes | None, size: tuple[float, float] = (6.4, 3.6)) -> Axes:
    """The axes that were passed, or new ones."""
    return plt.subplots(figsize=size)[1] if ax is None else ax


@checked
def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure in the format of the path's ending, at 160 dots per inch, whole or not at all.

    Returns:
        The path.

    Raises:
        ValueError: `figure` is not a figure.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> save_figure(plt.figure(), Path(tempfile.mkdtemp()) / "empty.png").name
        'empty.png'
    """
    unstated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # same bytes always
    with atomic_write(path) as half:
        figure.savefig(half, dpi=160, metadata=unstated.get(Path(path).suffix))
    return Path(path)
