"""The figures of the book's page of results, drawn from the rows under results/ and from nothing else."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from published import Claim, Verdict

from aequa_lite._io import write_whole
from aequa_lite.plotting import style
from aequa_lite.plotting.theme import INK

FOLDER = Path(__file__).resolve().parents[1] / "book" / "_static" / "results"
VERDICTS = {"matched": ("#0072b2", "o"), "trend only": ("#b35900", "s"), "not matched": ("#a3195b", "X")}
REACH = 0.16  # ours minus published: further out stands an arrow with the number
Tried = tuple[Claim, str, Verdict]


def forest(tried: Mapping[str, Sequence[Tried]]) -> Figure:
    """Ours minus published for every published figure, the tolerance as a bar behind it."""
    rows: list[Tried | str] = []
    for subject, found in tried.items():
        rows += [subject, *found]
    figure, ax = plt.subplots(figsize=(9.6, 0.6 + 0.215 * len(rows)))
    for y, row in enumerate(rows):
        if isinstance(row, str):
            ax.text(-REACH, y, row, weight="bold", size=9, va="center", color=INK)
            continue
        _forest_row(ax, y, *row)
    ax.axvline(0, color=INK, lw=0.8)
    ticks = {
        y: f"{r[0].claim}{'' if r[1] == 'mini' else f' ({r[1]})'}" for y, r in enumerate(rows) if isinstance(r, tuple)
    }
    ax.set_yticks(list(ticks), list(ticks.values()), size=7.5)
    ax.set(xlim=(-REACH, REACH), ylim=(len(rows) - 0.3, -0.7), xlabel="ours minus published")
    ax.tick_params(axis="y", length=0)
    for word, (colour, shape) in VERDICTS.items():
        ax.scatter([], [], color=colour, marker=shape, label=word)
    ax.add_patch(Rectangle((0, 0), 0, 0, color="#dddddd", label="tolerance"))
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, 1 + 1.1 / len(rows)), ncols=4, fontsize=8.5, frameon=False)
    return figure


def _forest_row(ax: Axes, y: int, claim: Claim, scale: str, found: Verdict) -> None:
    """One published figure: its tolerance, our mean and the standard deviation over our runs."""
    ax.barh(y, 2 * claim.tolerance, left=-claim.tolerance, height=0.72, color="#dddddd", zorder=1)
    colour, shape = VERDICTS[found.word]
    distance = found.mean - claim.value
    place = float(np.clip(distance, -0.93 * REACH, 0.93 * REACH))
    if place != distance:
        shape = "<" if distance < 0 else ">"
        side = 1 if distance < 0 else -1
        words = f"{distance:+.2f}".replace("-", "\u2212")
        ax.text(place + side * 0.006, y, words, size=7.5, va="center", ha="left" if side > 0 else "right", color=colour)
    elif found.spread is not None:
        ax.plot([place - found.spread, place + found.spread], [y, y], color=colour, lw=1.2, zorder=2)
    ax.scatter([place], [y], color=colour, marker=shape, s=26, zorder=3)


def heat(values: pd.DataFrame, informative: pd.DataFrame) -> Figure:
    """Pearson by data set and partition; a cell whose contributions differ too little is hatched and has no colour."""
    figure, ax = plt.subplots(figsize=(9.6, 0.9 + 0.55 * len(values)))
    ax.set(xlim=(0, values.shape[1]), ylim=(len(values), 0))
    scale, norm = mpl.colormaps["crest"], mpl.colors.Normalize(0.84, 1.0)
    for y, x in np.ndindex(values.shape):
        value, place = values.iloc[y, x], (x, y)
        if np.isnan(value):
            ax.text(x + 0.5, y + 0.5, "not run", size=8, ha="center", va="center", color="#555555")
        elif not informative.iloc[y, x]:
            ax.add_patch(Rectangle(place, 1, 1, fc="#f6f6f6", ec="#b0b0b0", hatch="////", lw=0))
            box = {"fc": "white", "ec": "none", "pad": 1.0}
            ax.text(x + 0.5, y + 0.5, f"{value:.2f}", size=8.5, ha="center", va="center", color="#555555", bbox=box)
        else:
            ax.add_patch(Rectangle(place, 1, 1, fc=scale(norm(value)), ec="white", lw=2))
            red, green, blue = (c**2.2 for c in scale(norm(value))[:3])
            luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
            colour = "white" if luminance < 0.18 else "black"  # where both have the same contrast, 4.6
            ax.text(x + 0.5, y + 0.5, f"{value:.3f}", size=8.5, ha="center", va="center", color=colour)
    ax.set_xticks(np.arange(values.shape[1]) + 0.5, values.columns, size=8, rotation=25, ha="right")
    ax.set_yticks(np.arange(len(values)) + 0.5, values.index, size=9)
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    return figure


def pareto(found: pd.DataFrame) -> Figure:
    """Mean accuracy against mean Pearson, a point a method; the front joins those that no other method exceeds in both."""
    figure, ax = plt.subplots(figsize=(8.4, 4.4))
    ordered = found.sort_values("accuracy", ascending=False)
    front = ordered[ordered["pearson"] >= ordered["pearson"].cummax()]
    ax.plot(front["accuracy"], front["pearson"], color="#999999", lw=1.2, ls="--", zorder=1)
    for name, row in found.iterrows():
        face = "#0072b2" if name == "aequa" else INK
        ax.errorbar(
            row["accuracy"],
            row["pearson"],
            row["pearson_error"],
            row["accuracy_error"],
            color="#bbbbbb",
            lw=1,
            zorder=0,
        )
        ax.scatter(row["accuracy"], row["pearson"], s=60, color=face, edgecolor=INK, zorder=3)
    ax.axvline(0, color="#777777", lw=1, ls=":")
    ax.text(0.2, 0, "FedAvg:\none model for all,\nno Pearson", ha="left", va="bottom", size=8.5, color="#555555")
    ax.set(xlabel="best reward, in points above or below FedAvg's", ylabel="Pearson", ylim=(-0.05, 1.08))
    ax.set_xlim(right=5)
    ax.set_xticks([tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= 0])
    label(ax, {str(name): (row["accuracy"], row["pearson"]) for name, row in found.iterrows()})
    return figure


def label(ax: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each name beside its point, at the place where it covers the fewest other names and points."""
    places = [(side, x, y) for y in (6, -15, 18, -27) for side, x in (("left", 7), ("right", -7))]
    middles = ax.transData.transform(list(points.values()))
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in middles]
    for name, point in points.items():
        tried = [
            ax.annotate(name, point, (x, y), textcoords="offset points", ha=side, size=9.5, color=INK)
            for side, x, y in places
        ]
        boxes = [text.get_window_extent() for text in tried]
        covered = [box.count_overlaps(taken) for box in boxes]
        best = int(np.argmin(covered))  # of equals, the first
        taken.append(boxes[best])
        for text in tried[:best] + tried[best + 1 :]:
            text.remove()


def strips(gains: pd.DataFrame) -> Figure:
    """The gain of every participant, a row for each method and a panel for each partition; coloured by accuracy alone."""
    methods, partitions = list(gains["method"].unique()), list(gains["partition"].unique())
    figure, panels = plt.subplots(1, len(partitions), figsize=(9.6, 0.9 + 0.36 * len(methods)), sharey=True)
    norm = mpl.colors.Normalize(gains["alone"].min(), gains["alone"].max())
    jitter = np.random.default_rng(0)
    for ax, partition in zip(np.atleast_1d(panels), partitions):
        here = gains[gains["partition"] == partition]
        ax.axvline(0, color="#a3195b", lw=1)
        for y, method in enumerate(methods):
            rows = here[here["method"] == method]
            height = y + jitter.uniform(-0.22, 0.22, len(rows))
            ax.scatter(
                100 * rows["gain"], height, c=rows["alone"], cmap="crest", norm=norm, s=22, edgecolor=INK, lw=0.3
            )
        ax.set_title(partition.replace("_", " "), size=10)
        ax.set_xlabel("gain, points")
        ax.grid(axis="y", color="#eeeeee")
        ax.set_axisbelow(True)
    np.atleast_1d(panels)[0].set_yticks(range(len(methods)), methods, size=9)
    np.atleast_1d(panels)[0].set_ylim(len(methods) - 0.5, -0.5)
    bar = figure.colorbar(mpl.cm.ScalarMappable(norm, "crest"), ax=panels, pad=0.015, aspect=30)
    bar.set_label("accuracy alone", size=9)
    return figure


def bars(plain: pd.DataFrame, pfl: pd.DataFrame, flower: pd.DataFrame, workers: pd.DataFrame) -> Figure:
    """Times relative to ours, a panel each for plain loops, other engines, and workers."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(10.4, 3.4), width_ratios=(1.2, 1.2, 0.8), layout="constrained"
    )
    loops = plain[plain["way"] != "aequa_lite"].assign(way=lambda t: t["way"].str.removeprefix("plain loop, "))
    engines = pd.concat([pfl, flower])
    engines = engines[engines["way"] != "aequa_lite"]
    steps = engines["local_steps"].map(lambda k: f"{k} local step{'s' * (k > 1)}")
    engines = engines.assign(way=engines["way"] + ", " + steps)
    for ax, table, title in ((left, loops, "plain loops"), (middle, engines, "other engines")):
        _paired_bars(ax, table)
        ax.axvline(1, color=INK, lw=1)
        ax.set_title(title, size=11)
        ax.set_xlabel("times as long as aequa_lite")
    for (net, runs), colour in zip(workers.groupby("net", sort=False), ("#0072b2", "#d55e00")):
        right.plot(runs["workers"], runs["speedup_median"], color=colour, marker="o", label=net)
    right.set(xticks=sorted(set(workers["workers"])), ylim=(0, None), xlabel="workers", ylabel="speedup")
    right.set_title("workers, two cores", size=11)
    right.legend(fontsize=8.5)
    return figure


def _paired_bars(ax: Axes, table: pd.DataFrame) -> None:
    """Bars of both networks beside each other, with their numbers."""
    wide = table.pivot(index="way", columns="net", values="times_ours_median").reindex(table["way"].unique())
    for k, (net, colour) in enumerate(zip(("MLP", "LeNet"), ("#0072b2", "#d55e00"))):
        if net not in wide:
            continue
        drawn = ax.barh(np.arange(len(wide)) + 0.4 * k - 0.2, wide[net], 0.38, color=colour, label=net)
        ax.bar_label(drawn, ["" if np.isnan(v) else f"{v:.1f}" for v in wide[net]], size=8, padding=2)
    ax.set_yticks(range(len(wide)), wide.index, size=8)
    ax.invert_yaxis()
    ax.margins(x=0.12)


def save(name: str, draw: Callable[[], Figure], rows: Sequence[pd.DataFrame | str]) -> None:
    """Draw a figure where its rows changed; the rows' hash stands in the file."""
    if is_current(name, rows):
        return
    style()
    mpl.rcParams.update({"svg.hashsalt": name, "savefig.bbox": "tight"})
    figure = draw()
    FOLDER.mkdir(exist_ok=True)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Source": mark(rows)})
    # smaller: a hundredth of a point is enough for a position, and nobody reads the indents
    short = re.sub(r"(?<!scale\()\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", drawn.getvalue())
    short = short.replace("DejaVuSans-", "d-")  # the name of each letter; then its place in a word
    short = re.sub(r'transform="translate\(([\d.-]+) 0\)"/>', r'x="\1"/>', short)
    write_whole(FOLDER / f"{name}.svg", re.sub(r"\n +", "\n", short))
    plt.close(figure)


def is_current(name: str, rows: Sequence[pd.DataFrame | str]) -> bool:
    """Whether a figure was drawn from these rows."""
    path = FOLDER / f"{name}.svg"
    return path.exists() and mark(rows) in path.read_text()


def mark(rows: Sequence[pd.DataFrame | str]) -> str:
    """The hash of what a figure is drawn from, this file included."""
    text = [each if isinstance(each, str) else each.to_csv(float_format="%.5g") for each in rows]
    return hashlib.sha256("\n".join([Path(__file__).read_text(), *text]).encode()).hexdigest()
