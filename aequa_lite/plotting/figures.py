"""One figure style and a handful of figures; the only file that imports matplotlib and seaborn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from ..allocation.exact import Plan
from ..data.partition import class_counts
from ..evaluation import Curve
from ..report import Report
from ..slimmable import template
from ..types import Shard
from .theme import ALONE, EDGE, INK, LINES, WIDTH_SCALE, _axes, marker, shade

__all__ = ["curve", "curves", "partition", "prefix", "rewards", "widths"]


def partition(shards: Sequence[Shard], labels: Sequence[str] = (), ax: Axes | None = None) -> Figure:
    """Draw who holds how many samples of each class: one row for each participant, the number in each cell.

    Example:
        >>> import aequa_lite as aq
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, aq.Config())
        >>> partition(shards).axes[0].get_xlabel()
        'class'
    """
    counts = class_counts(shards)  # (participants, classes)
    ax = _axes(ax, (7.2, 0.8 + 0.42 * len(counts)))
    sns.heatmap(
        np.sqrt(counts),  # areas are compared by eye, so colour by the square root
        annot=counts if counts.size <= 150 else False,
        fmt="d",
        cmap=sns.light_palette("#3b6fa0", as_cmap=True),
        cbar=False,
        linewidths=1,
        linecolor="white",
        annot_kws={"size": 8},
        ax=ax,
    )
    ax.set(xlabel="class", ylabel="participant", title="samples of each class; on the right: in all")
    if labels:
        ax.set_xticklabels(labels, rotation=35, ha="right", size=8)
    ax.tick_params(length=0, axis="both")
    ax.set_yticks(np.arange(len(counts)) + 0.5, [str(i) for i in range(len(counts))], rotation=0)
    for i, total in enumerate(counts.sum(1)):
        ax.text(counts.shape[1] + 0.15, i + 0.5, f"{total:,}", va="center", size=9, color=INK)
    return ax.figure


def prefix(build: Callable[[float], nn.Module], width: float, name: str, ax: Axes | None = None) -> Figure:
    """Draw one tensor of the full network and, inside it, the leading block that a narrow network holds.

    Example:
        >>> import aequa_lite as aq
        >>> prefix(aq.MLP, 0.4, "4.weight").axes[0].get_title()
        'layer 4.weight: 200 x 200, of it 80 x 80 at width 0.4'
    """
    full, part = (tuple(template(build, w).state_dict()[name].shape) for w in (1.0, width))
    rows, columns = (full[0], int(np.prod(full[1:]))) if len(full) > 1 else (full[0], 1)
    narrow_rows, narrow_columns = (part[0], int(np.prod(part[1:]))) if len(part) > 1 else (part[0], 1)
    ax = _axes(ax, (4.2, 3.2))
    ax.add_patch(Rectangle((0, 0), columns, rows, facecolor=shade(1.0), edgecolor="white"))
    ax.add_patch(Rectangle((0, 0), narrow_columns, narrow_rows, facecolor=shade(width * 0.6), edgecolor="white", lw=2))
    sizes = (" x ".join(map(str, full)), " x ".join(map(str, part)))
    ax.set_title(f"layer {name}: {sizes[0]}, of it {sizes[1]} at width {width:g}", size="small")
    ax.set(xlim=(0, columns), ylim=(rows, 0), xlabel="inputs", ylabel="outputs")
    ax.set_aspect("auto")
    return ax.figure


def curve(
    curve: Curve,
    plan: Plan | None = None,
    alone: Sequence[float] = (),
    ax: Axes | None = None,
) -> Figure:
    """Draw accuracy by width with its 95% band and its monotone fit; with a plan, who gets which width.

    ``alone``: what each participant reaches alone; a line leads from there up to its reward.

    Example:
        >>> import numpy as np, aequa_lite as aq
        >>> curve = aq.Curve(np.array([0.1, 0.5, 1.0]), np.array([0.3, 0.6, 0.8]), samples=1000)
        >>> curve(curve).axes[0].get_xlabel()
        'width (logarithmic)'
    """
    ax = _axes(ax)
    margin = 1.96 * curve.standard_error
    ax.fill_between(curve.widths, curve.accuracy - margin, curve.accuracy + margin, color="#cccccc", alpha=0.5, lw=0)
    ax.plot(curve.widths, curve.fitted, color=INK, lw=1, drawstyle="steps-post", zorder=2)
    ax.scatter(curve.widths, curve.accuracy, c=curve.widths, cmap=WIDTH_SCALE, vmin=0, vmax=1, s=9, zorder=3)
    if plan is not None:
        _earned(ax, plan, alone)
    low = min([float(curve.accuracy.min()), *map(float, alone)])
    ax.set(ylim=(max(0.0, low - 0.05), float(curve.accuracy.max()) + 0.07), ylabel="accuracy (validation)")
    ax.set_title("accuracy by width" + (", and who earns which width" if plan is not None else ""))
    _width_axis(ax, float(curve.widths[0]))
    return ax.figure


def _earned(ax: Axes, plan: Plan, alone: Sequence[float]) -> None:
    """Mark each participant's reward on the curve, and where it came from."""
    for i, (w, a) in enumerate(zip(plan.widths, plan.predicted_accuracy)):
        ax.scatter([w], [a], color=shade(w), marker=marker(i), s=75, zorder=6, **EDGE)
        if len(alone):
            ax.plot([w, w], [alone[i], a], color=ALONE, lw=1.5, zorder=4)
            ax.plot([w * 0.95, w * 1.05], [alone[i]] * 2, color=ALONE, lw=2, zorder=5)
    for w in sorted(set(plan.widths)):
        who = [str(i) for i in np.flatnonzero(plan.widths == w)]
        top = float(plan.predicted_accuracy[plan.widths == w][0])
        ax.annotate(
            ", ".join(who), (w, top), xytext=(0, 8), textcoords="offset points", ha="center", size=10, color=INK
        )
    if len(alone):
        place = (float(plan.widths[0]), float(alone[0]))
        ax.annotate("alone", place, xytext=(8, -3), textcoords="offset points", size=8.5, color=ALONE)


def _width_axis(ax: Axes, least: float) -> None:
    """Width on a logarithmic axis with plain numbers."""
    ticks = [w for w in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if w >= least * 0.99]
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{w:g}" for w in ticks])
    ax.minorticks_off()
    ax.set(xlabel="width (logarithmic)", xlim=(least * 0.9, 1.1))


def curves(curves: Mapping[str, Sequence[Curve]], ax: Axes | None = None) -> Figure:
    """Draw several ways of training as mean accuracy by width with the standard deviation over their runs.

    ``curves``: for each way its name and one curve per seed, all on the same widths.

    Example:
        >>> import numpy as np, aequa_lite as aq
        >>> curve = aq.Curve(np.array([0.1, 0.5, 1.0]), np.array([0.3, 0.6, 0.8]), samples=1000)
        >>> curves({"one way": [curve]}).axes[0].get_xscale()
        'log'
    """
    ax = _axes(ax)
    for (name, runs), line, ink in zip(curves.items(), ("-", "--", ":", "-."), LINES, strict=False):
        widths, values = runs[0].widths, np.stack([c.accuracy for c in runs])  # (runs, widths)
        middle, spread = values.mean(0), values.std(0)
        ax.fill_between(widths, middle - spread, middle + spread, color=ink, alpha=0.15, lw=0)
        ax.plot(widths, middle, color=ink, ls=line, lw=1.4, label=name)
        ax.scatter(widths, middle, c=widths, cmap=WIDTH_SCALE, vmin=0, vmax=1, s=16, zorder=3)
    _width_axis(ax, float(min(runs[0].widths[0] for runs in curves.values())))
    ax.set(ylabel="accuracy", title="accuracy by width")
    ax.legend(loc="lower right", fontsize="small")
    return ax.figure


def rewards(found: Report, ax: Axes | None = None) -> Figure:
    """Draw each participant's rewarded accuracy against what it reached alone, with the line of no gain.

    Bars are 95% intervals of a single accuracy on the test split; the colour is the width.

    Example:
        >>> import aequa_lite as aq
        >>> data, nets = aq.load("fashion-mini"), [aq.MLP(), aq.MLP(0.5)]
        >>> rewards(aq.report(nets, nets, None, None, data, aq.Config(participants=2))).axes[0].get_xlabel()
        'accuracy alone (test)'
    """
    ax = _axes(ax, (4.8, 3.8))
    own, paid = np.array(found.standalone), np.array(found.test_accuracy)
    error = 1.96 * np.sqrt(paid * (1 - paid) / found.data["sizes"]["test"])
    low, high = min(own.min(), paid.min()) - 0.04, max(own.max(), paid.max()) + 0.04
    ax.plot([low, high], [low, high], color=ALONE, lw=1, ls="--")
    place = (low + 0.3 * (high - low),) * 2
    ax.annotate("no gain: as good as alone", place, xytext=(8, -10), textcoords="offset points", color=ALONE, size=8.5)
    widths = np.ones(len(own)) if found.widths is None else np.array(found.widths)
    for i in range(len(own)):
        ax.errorbar(own[i], paid[i], yerr=error[i], color="#999999", lw=1, zorder=2)
        ax.scatter(own[i], paid[i], color=shade(widths[i]), marker=marker(i), s=80, zorder=3, **EDGE)
    for i, height in zip(np.argsort(paid, kind="stable"), _apart(np.sort(paid), 0.05 * (high - low))):
        label = f"{i}" if found.widths is None else f"{i}: width {widths[i]:.2f}"
        ax.text(own[i] - 0.03 * (high - low), height, label, ha="right", va="center", size=8.5, color=INK)
    ax.set(
        xlim=(low - 0.25 * (high - low), high),
        ylim=(low, high),
        xlabel="accuracy alone (test)",
        ylabel="accuracy of the reward (test)",
    )
    ax.set_title(f"rewards follow contributions{_correlation(found)}")
    return ax.figure


def _apart(heights: np.ndarray, least: float) -> np.ndarray:
    """Rising heights, pushed up until neighbours are at least this far apart: labels that do not overlap."""
    placed = heights.copy()
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + least)
    return placed


def _correlation(found: Report) -> str:
    """The report's Pearson as it stands in a title."""
    r = found.fairness["pearson"]
    return "" if r is None else f": Pearson {r:.3f}"


def widths(found: Report, ax: Axes | None = None) -> Figure:
    """Draw what everyone takes home: a bar as wide as the reward, the accuracy alone and the rewarded one.

    Example:
        >>> import aequa_lite as aq
        >>> data, nets = aq.load("fashion-mini"), [aq.MLP(), aq.MLP(0.5)]
        >>> found = aq.report(nets, nets, None, None, data, aq.Config(participants=2))
        >>> widths(found).axes[0].get_xlabel()
        'width of the reward'
    """
    n = len(found.standalone)
    ax = _axes(ax, (7.2, 0.9 + 0.5 * n))
    for i in range(n):
        width = 1.0 if found.widths is None else found.widths[i]
        ax.barh(i, 1, color="#f0f0f0", height=0.62)
        ax.barh(i, width, color=shade(width), height=0.62, **EDGE)
        said = f"{width:.2f} of the width, {found.parameters[i]:,} parameters"
        inside = width > 0.55
        ax.text(width - 0.01 if inside else width + 0.01, i, said, va="center", size=8.5,
                ha="right" if inside else "left", color="white" if inside else INK)  # fmt: skip
        ax.text(1.03, i, f"{found.standalone[i]:.3f}", va="center", size=9, color=ALONE)
        ax.text(1.17, i, f"{found.test_accuracy[i]:.3f}", va="center", size=9, color=INK, weight="bold")
    ax.text(1.03, -0.75, "alone", size=9, color=ALONE)
    ax.text(1.17, -0.75, "reward", size=9, color=INK, weight="bold")
    ax.set(xlim=(0, 1.32), ylim=(n - 0.5, -1), xlabel="width of the reward", ylabel="participant")
    ax.set_yticks(range(n))
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax.figure
