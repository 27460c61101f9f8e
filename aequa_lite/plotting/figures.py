"""The figures of the book: data, network, curve, rewards, and the allocation's mathematics.

Two of them are interactive without a server: the allocation under sliders, and one round step by step; nothing is fetched.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._check import Fraction, accuracies, checked, number, one_each, one_of, refusal
from ..allocation import rules as closed_form
from ..allocation.exact import Plan, allocate, spread_minus_gain, spread_only
from ..allocation.uncertainty import RewardIntervals
from ..data.partition import class_counts
from ..evaluation import Curve
from ..metrics import pearson
from ..report import Report
from ..slimmable import aggregate, template
from ..types import Build, Shard
from .theme import ALONE, BOUND, EDGE, INK, LINES, WIDTH_SCALE, axes, marker, shade

MARKS = 9  # on a line of `curves`: more would hide its dashes
SCALE = [to_hex(shade(k / 20)) for k in range(21)]  # the colours of the widths, for the pages


@checked
def partition(shards: Sequence[Shard], labels: Sequence[str] = (), ax: Axes | None = None) -> Figure:
    """Draw how many samples of each class each participant has: one row for each participant.

    Args:
        shards: One for each participant.
        labels: Names of the classes.
        ax: Axes to draw on.

    Raises:
        ValueError: There are no shards, or not one label for each class.

    Example:
        >>> import aequa_lite as aq
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, aq.Config())
        >>> partition(shards).axes[0].get_xlabel()
        'class'
    """
    counts = class_counts(shards)  # (participants, classes)
    if len(labels):
        one_each("labels", list(labels), counts.shape[1], of="classes")
    ax = axes(ax, (7.2, max(2.2, 0.8 + 0.42 * len(counts))))
    numbers = {"annot": counts if counts.size <= 150 else False, "fmt": "d", "annot_kws": {"size": 8}}
    look = {"cmap": sns.light_palette("#3b6fa0", as_cmap=True), "cbar": False, "linewidths": 1, "linecolor": "white"}
    sns.heatmap(np.sqrt(counts), ax=ax, **numbers, **look)  # areas are compared by eye, so colour by the square root
    ax.set(xlabel="class", ylabel="participant", title="samples of each class; on the right: in total")
    if len(labels):
        ax.set_xticks(np.arange(len(labels)) + 0.5, labels, rotation=35, ha="right", size=8)
    ax.tick_params(length=0, axis="both")
    ax.set_yticks(np.arange(len(counts)) + 0.5, [str(i) for i in range(len(counts))], rotation=0)
    for i, total in enumerate(counts.sum(1)):
        ax.text(counts.shape[1] + 0.15, i + 0.5, f"{total:,}", va="center", size=9, color=INK)
    return ax.figure


@checked
def prefix(build: Build, width: Fraction, name: str, ax: Axes | None = None) -> Figure:
    """Draw one tensor of the full network and, inside it, the leading block of a narrow network.

    Args:
        build: width -> network.
        width: Width of the narrow network, in (0, 1].
        name: Name of the tensor in the network's state.
        ax: Axes to draw on.

    Raises:
        ValueError: `width` is outside (0, 1], or there is no such tensor.

    Example:
        >>> import aequa_lite as aq
        >>> prefix(aq.MLP, 0.4, "4.weight").axes[0].get_xlabel()
        'inputs'
    """
    states = [template(build, w).state_dict() for w in (1.0, width)]
    one_of("name", name, list(states[0]))
    shapes = [tuple(state[name].shape) for state in states]
    (rows, columns), (narrow_rows, narrow_columns) = (_rows_and_columns(shape) for shape in shapes)
    ax = axes(ax, (4.2, 3.2))
    ax.add_patch(Rectangle((0, 0), columns, rows, facecolor=shade(1.0), edgecolor="white"))
    ax.add_patch(Rectangle((0, 0), narrow_columns, narrow_rows, facecolor=shade(width * 0.6), edgecolor="white", lw=2))
    full, narrow = (" x ".join(map(str, shape)) for shape in shapes)
    ax.set_title(f"layer {name}: {full}, of it {narrow} at width {width:g}", size="small")
    ax.set(xlim=(0, columns), ylim=(rows, 0), xlabel="inputs", ylabel="outputs")
    return ax.figure


def _rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """Outputs and inputs of a tensor."""
    return shape[0] if shape else 1, int(np.prod(shape[1:]))


@checked
def curve(found: Curve, plan: Plan, contribution: ArrayLike, ax: Axes | None = None) -> Figure:
    """Draw accuracy by width with its 95% band and its monotone fit, and who gets which width.

    Args:
        found: The curve.
        plan: An allocation on it.
        contribution: (n,) stand-alone accuracies; a line leads from there up to the reward.
        ax: Axes to draw on.

    Raises:
        ValueError: `found` is not a curve, or there is not one contribution for each width of the plan.

    Example:
        >>> import aequa_lite as aq
        >>> found = aq.Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
        >>> curve(found, aq.allocate([0.2, 0.6], found), [0.2, 0.6]).axes[0].get_xlabel()
        'width (logarithmic)'
    """
    alone = one_each("contribution", accuracies("contribution", contribution), len(plan.widths))
    ax = axes(ax)
    margin = 1.96 * found.standard_error
    ax.fill_between(found.widths, found.accuracy - margin, found.accuracy + margin, color="#cccccc", alpha=0.5, lw=0)
    ax.plot(found.widths, found.fitted, color=INK, lw=1, drawstyle="steps-post", zorder=2)
    ax.scatter(found.widths, found.accuracy, c=found.widths, cmap=WIDTH_SCALE, vmin=0, vmax=1, s=9, zorder=3)
    _mark_rewards(ax, plan, alone)
    low, high = (end([float(end(found.accuracy)), *alone.tolist()]) for end in (min, max))
    ax.set(ylim=(max(0.0, low - 0.05), high + 0.07), ylabel="accuracy (validation)")
    ax.set_title("accuracy by width, and who earns which width")
    _width_axis(ax, float(found.widths[0]))
    return ax.figure


def _mark_rewards(ax: Axes, plan: Plan, alone: NDArray[np.float64]) -> None:
    """Mark each participant's reward on the curve, with a line from its stand-alone accuracy."""
    for i, (w, a) in enumerate(zip(plan.widths, plan.predicted_accuracy)):
        ax.scatter([w], [a], color=shade(w), marker=marker(i), s=75, zorder=6, **EDGE)
        ax.plot([w, w], [alone[i], a], color=ALONE, lw=1.5, zorder=4)
        ax.plot([w * 0.95, w * 1.05], [alone[i]] * 2, color=ALONE, lw=2, zorder=5)
    order = np.argsort(plan.widths, kind="stable")
    apart = np.flatnonzero(np.diff(np.log(plan.widths[order])) > 0.05) + 1
    for group in np.split(order, apart):  # who stand too close to each other share a label
        first, last = group.min(), group.max()
        whole = len(group) > 2 and last - first == len(group) - 1
        who = f"{first}\N{EN DASH}{last}" if whole else ", ".join(map(str, sorted(group)))
        place = float(np.median(plan.widths[group])), float(plan.predicted_accuracy[group].max())
        ax.annotate(who, place, xytext=(0, 8), textcoords="offset points", ha="center", size=10, color=INK)
    place = float(plan.widths[0]), float(alone[0])
    ax.annotate("alone", place, xytext=(8, -3), textcoords="offset points", size=8.5, color=ALONE)


def _width_axis(ax: Axes, least: float) -> None:
    """Width on a logarithmic axis with plain numbers."""
    ticks = [w for w in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if w >= least * 0.99]
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{w:g}" for w in ticks])
    ax.minorticks_off()
    ax.set(xlabel="width (logarithmic)", xlim=(least * 0.9, 1.1))


@checked
def curves(found: Mapping[str, Sequence[Curve]], ax: Axes | None = None) -> Figure:
    """Draw up to four methods of training as mean accuracy by width, with the standard deviation over their runs.

    Args:
        found: For each method its name and one curve for each seed, all on the same widths.
        ax: Axes to draw on.

    Raises:
        ValueError: There is no method or more than four, or a method has no curve or curves on different widths.

    Example:
        >>> import aequa_lite as aq
        >>> curves({"one": [aq.Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)]}).axes[0].get_xscale()
        'log'
    """
    if not 1 <= len(found) <= len(LINES):
        raise refusal("found", f"curves of one to {len(LINES)} methods by name", found)
    for name, runs in found.items():
        if any(not np.array_equal(c.widths, runs[0].widths) for c in runs):
            raise refusal(f"found[{name!r}]", "curves on the same widths", runs)
    ax = axes(ax)
    for (name, runs), line, ink in zip(found.items(), ("-", "--", ":", "-."), LINES, strict=False):
        grid, values = runs[0].widths, np.stack([c.accuracy for c in runs])  # (runs, widths)
        middle, spread = values.mean(0), values.std(0)
        ax.fill_between(grid, middle - spread, middle + spread, color=ink, alpha=0.15, lw=0)
        ax.plot(grid, middle, color=ink, ls=line, lw=1.4, label=name)
        some = np.unique([np.argmin(abs(np.log(grid / w))) for w in np.geomspace(grid[0], grid[-1], MARKS)])
        ax.scatter(grid[some], middle[some], c=grid[some], cmap=WIDTH_SCALE, vmin=0, vmax=1, s=20, zorder=3)
    _width_axis(ax, float(min(runs[0].widths[0] for runs in found.values())))
    ax.set(ylabel="accuracy", title="accuracy by width")
    ax.legend(loc="lower right", fontsize="small")
    return ax.figure


@checked
def rewards(report: Report, ax: Axes | None = None) -> Figure:
    """Draw each participant's rewarded accuracy against its stand-alone accuracy, with the line of no gain.

    Bars are 95% intervals of a single accuracy on the test split; the colour is the width.

    Args:
        report: Of a run.
        ax: Axes to draw on.

    Raises:
        ValueError: `report` is not a report.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=1, local_steps=1)
        >>> outcome = aq.aequa(aq.MLP, aq.data.homogeneous(data.train, config), config, data, progress=False)
        >>> rewards(outcome.report).axes[0].get_xlabel()
        'accuracy alone (test)'
    """
    own, rewarded = np.array(report.standalone), np.array(report.test_accuracy)
    ax = axes(ax, (4.8, max(3.8, 0.8 + 0.16 * len(own))))
    error = 1.96 * np.sqrt(rewarded * (1 - rewarded) / report.data["sizes"]["test"])
    low, high = min(own.min(), rewarded.min()) - 0.04, max(own.max(), rewarded.max()) + 0.04
    ax.plot([low, high], [low, high], color=ALONE, lw=1, ls="--")
    place = (low + 0.3 * (high - low),) * 2
    ax.annotate("no gain: as good as alone", place, xytext=(8, -10), textcoords="offset points", color=ALONE, size=8.5)
    shares = report.widths or [1.0] * len(own)
    for i in range(len(own)):
        ax.errorbar(own[i], rewarded[i], yerr=error[i], color="#999999", lw=1, zorder=2)
        ax.scatter(own[i], rewarded[i], color=shade(shares[i]), marker=marker(i), s=80, zorder=3, **EDGE)
    heights = _apart(np.sort(rewarded), (high - low) * min(0.05, 1 / len(own)), high)
    for i, height in zip(np.argsort(rewarded, kind="stable"), heights):
        label = f"{i}" if report.widths is None else f"{i}: width {shares[i]:.2f}"
        ax.text(low - 0.02 * (high - low), height, label, ha="right", va="center", size=8.5, color=INK)
        ax.plot([low - 0.01 * (high - low), own[i]], [height, rewarded[i]], color="#bbbbbb", lw=0.6, zorder=1)
    ax.set(xlim=(low - 0.32 * (high - low), high), ylim=(low, high))
    ax.set(xlabel="accuracy alone (test)", ylabel="accuracy of the reward (test)")
    r = report.fairness["pearson"]
    ax.set_title("rewards follow contributions" + ("" if r is None else f": Pearson {r:.3f}"))
    return ax.figure


def _apart(heights: NDArray[np.float64], least: float, top: float) -> NDArray[np.float64]:
    """Rising heights, pushed up until neighbours are this far apart, then down below the top: labels do not overlap."""
    placed, steps = heights.copy(), least * np.arange(len(heights))
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + least)
    return np.minimum(placed, top - steps[::-1] - least / 2)


@checked
def widths(report: Report, ax: Axes | None = None) -> Figure:
    """Draw each participant's reward as a bar of its width, with its stand-alone and its rewarded accuracy.

    Args:
        report: Of a run.
        ax: Axes to draw on.

    Raises:
        ValueError: `report` is not a report.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=1, local_steps=1)
        >>> outcome = aq.aequa(aq.MLP, aq.data.homogeneous(data.train, config), config, data, progress=False)
        >>> widths(outcome.report).axes[0].get_xlabel()
        'width of the reward'
    """
    n = len(report.standalone)
    ax = axes(ax, (7.2, 0.9 + 0.5 * n))
    for i, width in enumerate(report.widths or [1.0] * n):
        ax.barh(i, 1, color="#f0f0f0", height=0.62)
        ax.barh(i, width, color=shade(width), height=0.62, **EDGE)
        label = f"{width:.2f} of the width, {report.parameters[i]:,} parameters"
        inside = width > 0.55
        ax.text(width - 0.01 if inside else width + 0.01, i, label, va="center", size=8.5,
                ha="right" if inside else "left", color="white" if inside else INK)  # fmt: skip
        ax.text(1.03, i, f"{report.standalone[i]:.3f}", va="center", size=9, color=ALONE)
        ax.text(1.17, i, f"{report.test_accuracy[i]:.3f}", va="center", size=9, color=INK, weight="bold")
    ax.text(1.03, -0.75, "alone", size=9, color=ALONE)
    ax.text(1.17, -0.75, "reward", size=9, color=INK, weight="bold")
    ax.set(xlim=(0, 1.32), ylim=(n - 0.5, -1), xlabel="width of the reward", ylabel="participant")
    ax.set(xticks=[0, 0.25, 0.5, 0.75, 1.0], yticks=range(n))
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax.figure


@checked
def width_schedule(found: ArrayLike, ax: Axes | None = None) -> Figure:
    """Draw the width of each participant in each round; a gap is a round without it.

    Args:
        found: (rounds, participants) widths; 0 for a participant that is absent.
        ax: Axes to draw on.

    Raises:
        ValueError: `found` is not such a table of widths.

    Example:
        >>> width_schedule([[0.25, 0.25], [0.15, 1.0]]).axes[0].get_ylabel()
        'width (logarithmic)'
    """
    table = np.array(found, dtype=float)
    if table.ndim != 2 or not table.any() or not ((table >= 0) & (table <= 1)).all():
        raise refusal("found", "widths of shape (rounds, participants) in [0, 1], not all 0", found)
    ax = axes(ax)
    seen = np.where(table > 0, table, np.nan)
    for i, line in enumerate(seen.T):
        ax.plot(np.arange(1, len(line) + 1), line, color="#888888", lw=1, zorder=2)
        at = np.unique([*range(i % 3, len(line), 3), len(line) - 1])  # so that markers do not hide each other
        look = {"c": line[at], "cmap": WIDTH_SCALE, "vmin": 0, "vmax": 1, "marker": marker(i), "zorder": 3}
        ax.scatter(at + 1, line[at], s=34, edgecolor="white", lw=0.5, **look)
    least = np.nanmin(seen)
    ladder = (0.03, 0.1, 0.3, 1.0) if least < 0.1 else (0.1, 0.2, 0.3, 0.5, 1.0)
    ticks = [w for w in ladder if w >= 0.9 * least]
    ax.set(yscale="log", xlabel="round", ylabel="width (logarithmic)", ylim=(0.85 * least, 1.2))
    ax.set_yticks(ticks, [f"{w:g}" for w in ticks])
    ax.minorticks_off()
    return ax.figure


@checked
def water_filling(contribution: ArrayLike, least: float, full: float, ax: Axes | None = None) -> Figure:
    r"""Draw who is at which bound: everybody gains the same $\tau$ until $u$ stops it, and reaches at least $\ell$.

    Args:
        contribution: (n,) $B_i$, accuracies in [0, 1].
        least: $\ell$, accuracy of the least width.
        full: $u$, accuracy of the full width.
        ax: Axes to draw on.

    Raises:
        ValueError: A contribution is outside [0, 1], or `least` and `full` are not a range.

    Example:
        >>> water_filling([0.2, 0.5, 0.8], 0.4, 0.85).axes[0].get_xlabel()
        'participant'
    """
    b, rewards = accuracies("contribution", contribution), closed_form.water_filling(contribution, least, full)
    ax = axes(ax)
    ax.axhspan(0, least, color="#eeeeee", lw=0)
    ax.axhspan(full, 1, color="#eeeeee", lw=0)
    for i, (own, reward) in enumerate(zip(b, rewards)):
        ink = BOUND if reward <= least or reward >= full else INK
        ax.plot([i, i], [own, reward], color=ink, lw=2, zorder=2)
        ax.plot([i - 0.18, i + 0.18], [own, own], color=ALONE, lw=3, zorder=3)
        ax.scatter([i], [reward], color=ink, marker=marker(i), s=60, zorder=4)
        ax.annotate(f"{100 * (reward - own):+.1f}", (i, max(own, reward)), xytext=(0, 8), textcoords="offset points",
                    ha="center", size=9, color=INK)  # fmt: skip
    for height, label in ((least, r"least width, $\ell$"), (full, "full width, $u$")):
        ax.axhline(height, color="#777777", lw=1, ls="--")
        ax.text(len(b) - 0.4, height, label, va="center", size=9, color=INK)
    low, high = min(float(b.min()), least), max(float(b.max()), full)
    ax.set(xlim=(-0.5, len(b) - 0.5), ylim=(max(0.0, low - 0.08), min(1.0, high + 0.09)))
    ax.set(xlabel="participant", ylabel="accuracy", xticks=range(len(b)))
    ax.set_title("alone (bar), reward (marker), gain in points; red: at a bound")
    return ax.figure


@checked
def curve_range(contribution: ArrayLike) -> Figure:
    r"""Draw what the range of the curve allows: smallest CGS, and Pearson at it, by the span $u - \ell$.

    Spans go up to 1.3 times the contributions' own range, which is marked.

    Args:
        contribution: (n,) accuracies in [0, 1].

    Raises:
        ValueError: A contribution is outside [0, 1].

    Example:
        >>> [each.get_ylabel() for each in curve_range([0.3, 0.5, 0.7]).axes]
        ['smallest CGS (points)', 'Pearson there']
    """
    b = accuracies("contribution", contribution)
    own = float(np.ptp(b))
    tried = np.linspace(0.02, max(0.04, min(1.3 * own, 1.0)), 40)
    spread, follows = [], []
    for span in tried:
        least = max(0.0, min(float(b.min()), 1 - span))  # only the span matters, not where it lies
        full = min(1.0, least + span)
        spread.append(100 * closed_form.smallest_spread(b, least, full))
        follows.append(pearson(b, closed_form.water_filling(b, least, full, spread_only())))
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0))
    for ax, values, label in ((left, spread, "smallest CGS (points)"), (right, follows, "Pearson there")):
        ax.plot(tried, np.array(values, dtype=float), color=INK, lw=1.6)
        ax.axvline(own, color=ALONE, lw=1, ls="--")
        ax.set(xlabel=r"span of the curve, $u - \ell$", ylabel=label)
    left.annotate("range of the\ncontributions", (own, max(spread)), xytext=(-6, 0), textcoords="offset points", ha="right",
                  va="top", size=8.5, color=ALONE)  # fmt: skip
    left.set_title("below their range, gains must differ")
    right.set(title="and rewards follow less", ylim=(0, 1.05))
    return figure


@checked
def critical_weight(contribution: ArrayLike, least: float, full: float, ax: Axes | None = None) -> Figure:
    r"""Draw mean and spread of the best gains by the weight $\lambda$ of reading A, with $\sqrt{m/(n-m)}$ and the default.

    Args:
        contribution: (n,) accuracies in [0, 1].
        least: Accuracy of the least width.
        full: Accuracy of the full width.
        ax: Axes to draw on.

    Raises:
        ValueError: A contribution is outside [0, 1], or `least` and `full` are not a range.

    Example:
        >>> critical_weight([0.3, 0.5, 0.7], 0.2, 0.8).axes[0].get_xlabel()
        'weight of the mean gain'
    """
    b = accuracies("contribution", contribution)
    limit, default = closed_form.critical_weight(b), 0.5 / float(np.sqrt(max(len(b) - 1, 1)))
    finite = bool(np.isfinite(limit))
    near = [0.999 * limit, 1.001 * limit] if finite else []
    weights = np.unique([*np.linspace(0.01, 2 * limit if finite else 1.0, 60), *near])
    best = [closed_form.water_filling(b, least, full, spread_minus_gain(float(w))) for w in weights]
    gains = np.array(best) - b  # (weights, n)
    ax = axes(ax)
    ax.plot(weights, 100 * gains.mean(1), color=INK, lw=1.6, label="mean gain (MCG)")
    ax.plot(weights, 100 * gains.std(1), color=BOUND, lw=1.6, ls="--", label="spread of gains (CGS)")
    for place, label in ((limit, r"$\sqrt{m/(n-m)}$"), (default, "default")):
        if np.isfinite(place):
            ax.axvline(place, color=ALONE, lw=1, ls=":")
            ax.text(place, 1.0, f" {label}", transform=ax.get_xaxis_transform(), size=8.5, color=ALONE, va="top")
    ax.set(xlabel="weight of the mean gain", ylabel="points")
    ax.set_title("above the critical weight, gain outweighs fairness")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize="small")
    return ax.figure


@checked
def rules(plans: Mapping[str, Plan], contribution: ArrayLike, ax: Axes | None = None) -> Figure:
    """Draw each participant's gain under several rules: a row for each rule, a marker for each participant.

    The colour is the width. If gains are equal, all markers of a row coincide.

    Args:
        plans: A plan for each rule, by the rule's name.
        contribution: (n,) accuracies in [0, 1].
        ax: Axes to draw on.

    Raises:
        ValueError: There are no plans, or a plan has not one width for each contribution.

    Example:
        >>> import aequa_lite as aq
        >>> curve = aq.Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> rules({"equal gains": aq.allocate([0.4, 0.6], curve)}, [0.4, 0.6]).axes[0].get_xlabel()
        'gain (points)'
    """
    b = accuracies("contribution", contribution)
    if not plans:
        raise refusal("plans", "plans by the names of their rules", plans)
    for name, plan in plans.items():
        one_each(f"plans[{name!r}].widths", plan.widths, len(b))
    columns = -(-len(b) // 10)  # of the legend
    ax = axes(ax, (7.2, max(1.3 + 0.42 * len(plans), 0.6 + 0.21 * min(len(b), 10))))
    for row, plan in enumerate(plans.values()):
        gains = 100 * (plan.predicted_accuracy - b)
        ax.plot([gains.min(), gains.max()], [row, row], color="#cccccc", lw=3, zorder=1)
        for i, gain in enumerate(gains):
            ax.scatter([gain], [row], color=shade(plan.widths[i]), marker=marker(i), s=70, zorder=3, **EDGE)
    for i in range(len(b)):
        ax.scatter([], [], color="#888888", marker=marker(i), s=50, label=str(i))
    ax.axvline(0, color=ALONE, lw=1, ls="--")
    ax.set(xlabel="gain (points)", ylim=(len(plans) - 0.5, -0.6), yticks=range(len(plans)), yticklabels=list(plans))
    ax.tick_params(axis="y", length=0)
    look = {"fontsize": "small", "title_fontsize": "small"}
    ax.legend(title="participant", loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns, **look)
    return ax.figure


@checked
def intervals(plan: Plan, found: RewardIntervals, contribution: ArrayLike, ax: Axes | None = None) -> Figure:
    """Draw each reward with the 95% interval that measurement noise leaves, and the stand-alone accuracy.

    Args:
        plan: The allocation.
        found: Its intervals, from `reward_intervals`.
        contribution: (n,) accuracies in [0, 1].
        ax: Axes to draw on.

    Raises:
        ValueError: Plan, intervals and contributions do not fit together.

    Example:
        >>> import aequa_lite as aq
        >>> curve = aq.Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> plan = aq.allocate([0.4, 0.6], curve)
        >>> found = aq.allocation.reward_intervals([0.4, 0.6], curve, draws=20)
        >>> intervals(plan, found, [0.4, 0.6]).axes[0].get_xlabel()
        'participant'
    """
    b = accuracies("contribution", contribution)
    one_each("plan.widths", plan.widths, len(b))
    one_each("found.rewards", found.rewards, len(b))
    ax = axes(ax)
    for i, (own, reward, (low, high)) in enumerate(zip(b, plan.predicted_accuracy, found.rewards)):
        ax.errorbar(i, (low + high) / 2, yerr=(high - low) / 2, color=INK, lw=1.5, capsize=7, zorder=2)
        ax.scatter([i], [reward], color=shade(plan.widths[i]), marker=marker(i), s=36, zorder=4, **EDGE)
        ax.plot([i - 0.2, i + 0.2], [own, own], color=ALONE, lw=2.5, zorder=3)
        label = ("width {:.2f} to {:.2f}" if len(b) <= 6 else "{:.2f}\nto {:.2f}").format(*found.widths[i])
        ax.annotate(label, (i, high), xytext=(0, 6), textcoords="offset points", ha="center", size=8, color=INK)
    ends = [*b, *(end for pair in found.rewards for end in pair)]
    ax.set(xlim=(-0.5, len(b) - 0.5), ylim=(min(ends) - 0.03, max(ends) + 0.05), xticks=range(len(b)))
    ax.set(xlabel="participant", ylabel="accuracy", title="rewards with 95% intervals; bar: alone")
    return ax.figure


@checked
def comparison(names: Sequence[str], full_gain: Sequence[float], spread: Sequence[float]) -> Figure:
    """Draw methods side by side: full width minus the best participant alone, and the spread of the gains.

    Args:
        names: (methods,) their names; the most equal gains are drawn on top.
        full_gain: (methods,) accuracy of the full width minus that of the best participant alone.
        spread: (methods,) CGS, on the scale of accuracies; both are drawn in points.

    Raises:
        ValueError: There are no names, or not two finite numbers for each.

    Example:
        >>> len(comparison(["one", "other"], [0.02, -0.01], [0.01, 0.05]).axes)
        2
    """
    if not len(names):
        raise refusal("names", "one or more names", names)
    one_each("full_gain", full_gain, len(names), of="names")
    one_each("spread", spread, len(names), of="names")
    order = np.argsort(np.asarray(spread, dtype=float), kind="stable")[::-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 0.9 + 0.26 * len(order)))
    for row, k in enumerate(order):
        for ax, values in ((left, full_gain), (right, spread)):
            ax.plot([0, 100 * values[k]], [row, row], color="#cccccc", lw=2, zorder=1)
            ax.scatter(100 * values[k], row, color=INK, s=28, zorder=2)
    left.axvline(0, color=ALONE, ls="--", lw=1)
    left.set_yticks(range(len(order)), [names[k] for k in order], size=8.5)
    right.set_yticks(range(len(order)), [])
    left.set(xlabel="full width minus\nbest alone (points)", title="full width")
    right.set(xlabel="spread of the gains,\nCGS (points)", title="fairness", xlim=(0, None))
    return figure


# --- pages: figures that move ---


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


def _still(contribution: NDArray[np.float64], found: Curve) -> str:
    """The same figure as a picture, for a page without scripts."""
    figure = curve(found, allocate(contribution, found, individually_rational=True), contribution)
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
    weight = round(0.5 / float(np.sqrt(max(len(b) - 1, 1))), 2)
    steps = {"levels": curve.levels.tolist(), "widths": [round(float(w), 4) for w in curve.level_widths]}
    # levels and contributions with every digit, so that the page finds what `allocate` finds
    values = {"name": name, "b": b.tolist(), **steps, "weight": weight, "scale": SCALE}
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
def stepper(theta: Tensor, updates: Sequence[tuple[Tensor, float]], name: str = "round") -> Page:
    r"""Show one round in four steps: the global model, what is sent, what comes back, the aggregate.

    Buttons lead from step to step; without scripts all four stand one below the other.

    Args:
        theta: A square matrix of the global model.
        updates: For each participant its trained leading block and its aggregation weight.
        name: Identifier, unique on the page.

    Raises:
        ValueError: `theta` or a block is not a square matrix, or a weight is not above 0.

    Example:
        >>> import torch
        >>> "4. aggregate" in stepper(torch.zeros(3, 3), [(torch.ones(3, 3), 1.0), (torch.ones(2, 2), 2.0)]).html
        True

    References:
        Our choice.
    """
    full = max(theta.shape, default=0)
    _square("theta", theta, full)
    for i, (block, weight) in enumerate(updates):
        _square(f"updates[{i}]", block, full)
        number(f"updates[{i}] weight", weight, 0, above=True)
    theta_next = aggregate({"w": theta}, [({"w": v}, a) for v, a in updates])["w"]
    sent = [_grid(theta[: len(v), : len(v)], full, f"to participant {i}") for i, (v, _) in enumerate(updates)]
    back = [_grid(v, full, f"from participant {i}, weight {a:g}") for i, (v, a) in enumerate(updates)]
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
    if matrix.ndim != 2 or not 0 < matrix.shape[0] == matrix.shape[1] <= most:
        raise refusal(name, f"a square matrix of 1 to {most} rows", tuple(matrix.shape))
