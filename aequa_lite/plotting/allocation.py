"""The allocation's mathematics and the comparison of ways, drawn. The style is that of ``plots``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..allocation.continuous import critical_weight, smallest_spread, water_filling
from ..allocation.exact import Plan, checked_accuracies, spread_minus_gain, spread_only
from ..allocation.uncertainty import RewardIntervals
from ..metrics import pearson
from .theme import ALONE, EDGE, INK, STOPPED, WIDTH_SCALE, _axes, marker, shade

__all__ = ["held", "intervals", "curve_range", "rules", "threshold", "water", "ways"]


def water(contribution: Any, least: float, full: float, ax: Axes | None = None) -> Figure:
    r"""Draw who is at which bound: everybody is lifted by the same $\tau$ until $u$ stops it, and at least to $\ell$.

    Example:
        >>> water([0.2, 0.5, 0.8], 0.4, 0.85).axes[0].get_xlabel()
        'participant'
    """
    b = checked_accuracies(contribution)
    paid = water_filling(b, least, full)
    ax = _axes(ax)
    ax.axhspan(0, least, color="#eeeeee", lw=0)
    ax.axhspan(full, 1, color="#eeeeee", lw=0)
    for i, (own, reward) in enumerate(zip(b, paid)):
        bound = reward <= least or reward >= full
        ax.plot([i, i], [own, reward], color=STOPPED if bound else INK, lw=2, zorder=2)
        ax.plot([i - 0.18, i + 0.18], [own, own], color=ALONE, lw=3, zorder=3)
        ax.scatter([i], [reward], color=STOPPED if bound else INK, marker=marker(i), s=60, zorder=4)
        ax.annotate(f"{100 * (reward - own):+.1f}", (i, max(own, reward)), xytext=(0, 8), textcoords="offset points",
                    ha="center", size=9, color=INK)  # fmt: skip
    for height, words in ((least, r"least width, $\ell$"), (full, "full width, $u$")):
        ax.axhline(height, color="#777777", lw=1, ls="--")
        ax.text(len(b) - 0.4, height, words, va="center", size=9, color=INK)
    low, high = min(float(b.min()), least), max(float(b.max()), full)
    ax.set(xlim=(-0.5, len(b) - 0.5), ylim=(max(0.0, low - 0.08), min(1.0, high + 0.09)))
    ax.set(xlabel="participant", ylabel="accuracy", xticks=range(len(b)))
    ax.set_title("alone (bar), reward (marker), gain in points; red: at a bound")
    return ax.figure


def curve_range(contribution: Any, spans: Any = None) -> Figure:
    r"""Draw what the range of the curve allows: smallest CGS, and Pearson at it, by the span $u - \ell$.

    ``spans``: the spans to try (default: 40 up to 1.3 times the contributions' own range, which is marked).

    Example:
        >>> [each.get_ylabel() for each in range([0.3, 0.5, 0.7]).axes]
        ['smallest CGS (points)', 'Pearson there']
    """
    b = checked_accuracies(contribution)
    own = float(np.ptp(b))
    spans = np.linspace(0.02, min(1.3 * own, 1.0), 40) if spans is None else np.asarray(spans, dtype=float)
    spread, follows = [], []
    for span in spans:
        least = max(0.0, min(float(b.min()), 1 - span))  # only the span matters, not where it lies
        spread.append(100 * smallest_spread(b, least, least + span))
        follows.append(pearson(b, water_filling(b, least, least + span, spread_only())))
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0))
    for ax, values, words in ((left, spread, "smallest CGS (points)"), (right, follows, "Pearson there")):
        ax.plot(spans, np.array(values, dtype=float), color=INK, lw=1.6)
        ax.axvline(own, color=ALONE, lw=1, ls="--")
        ax.set(xlabel=r"span of the curve, $u - \ell$", ylabel=words)
    left.annotate("range of the\ncontributions", (own, max(spread)), xytext=(-6, 0), textcoords="offset points", ha="right",
                  va="top", size=8.5, color=ALONE)  # fmt: skip
    left.set_title("below their range, gains must differ")
    right.set_title("and rewards follow less")
    return figure


def threshold(contribution: Any, least: float, full: float, ax: Axes | None = None) -> Figure:
    r"""Draw mean and spread of the best plan's gains by the weight $\lambda$ of reading A, with $\sqrt{m/(n-m)}$ and our default.

    Example:
        >>> threshold([0.3, 0.5, 0.7], 0.2, 0.8).axes[0].get_xlabel()
        'weight of the mean gain'
    """
    b = checked_accuracies(contribution)
    limit, default = critical_weight(b), 0.5 / float(np.sqrt(max(len(b) - 1, 1)))
    top = 2 * limit if np.isfinite(limit) else 1.0
    weights = np.unique(
        np.append(np.linspace(0.01, top, 60), [0.999 * limit, 1.001 * limit] if np.isfinite(limit) else [])
    )
    gains = np.array([water_filling(b, least, full, spread_minus_gain(float(w))) - b for w in weights])  # (weights, n)
    ax = _axes(ax)
    ax.plot(weights, 100 * gains.mean(1), color=INK, lw=1.6, label="mean gain (MCG)")
    ax.plot(weights, 100 * gains.std(1), color=STOPPED, lw=1.6, ls="--", label="spread of gains (CGS)")
    for place, words in ((limit, r"$\sqrt{m/(n-m)}$"), (default, "our default")):
        if np.isfinite(place):
            ax.axvline(place, color=ALONE, lw=1, ls=":")
            ax.text(place, 1.0, f" {words}", transform=ax.get_xaxis_transform(), size=8.5, color=ALONE, va="top")
    ax.set(xlabel="weight of the mean gain", ylabel="points", title="beyond the threshold, fairness is sold for gain")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize="small")
    return ax.figure


def rules(plans: Mapping[str, Plan], contribution: Any, ax: Axes | None = None) -> Figure:
    """Draw each participant's gain under several rules: a row for each rule, a marker for each participant.

    The colour is the width. Fair in the sense of equal gains is a row whose markers stand on one spot.

    Example:
        >>> import aequa_lite as aq
        >>> curve = aq.Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> rules({"equal gains": aq.allocate([0.4, 0.6], curve)}, [0.4, 0.6]).axes[0].get_xlabel()
        'gain (points)'
    """
    b = checked_accuracies(contribution)
    ax = _axes(ax, (7.2, 1.3 + 0.42 * len(plans)))
    for row, plan in enumerate(plans.values()):
        gains = 100 * (plan.predicted_accuracy - b)
        ax.plot([gains.min(), gains.max()], [row, row], color="#cccccc", lw=3, zorder=1)
        for i, gain in enumerate(gains):
            ax.scatter([gain], [row], color=shade(plan.widths[i]), marker=marker(i), s=70, zorder=3, **EDGE)
    for i in range(len(b)):
        ax.scatter([], [], color="#888888", marker=marker(i), s=50, label=str(i))
    ax.axvline(0, color=ALONE, lw=1, ls="--")
    ax.set(xlabel="gain (points)", ylim=(len(plans) - 0.5, -0.6), yticks=range(len(plans)))
    ax.set_yticklabels(list(plans))
    ax.tick_params(axis="y", length=0)
    ax.legend(
        title="participant", loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", title_fontsize="small"
    )
    return ax.figure


def intervals(plan: Plan, found: RewardIntervals, contribution: Any, ax: Axes | None = None) -> Figure:
    """Draw each reward with the 95% interval that measurement noise leaves of it, and what was reached alone.

    Example:
        >>> import aequa_lite as aq
        >>> curve = aq.Curve((0.1, 0.5, 1.0), (0.45, 0.7, 0.9), samples=100)
        >>> plan = aq.allocate([0.4, 0.6], curve)
        >>> intervals(plan, aq.allocation.reward_intervals([0.4, 0.6], curve, draws=20), [0.4, 0.6]).axes[0].get_xlabel()
        'participant'
    """
    b = checked_accuracies(contribution)
    ax = _axes(ax)
    for i, (own, paid, (low, high)) in enumerate(zip(b, plan.predicted_accuracy, found.rewards)):
        ax.errorbar(i, (low + high) / 2, yerr=(high - low) / 2, color=INK, lw=1.5, capsize=7, zorder=2)
        ax.scatter([i], [paid], color=shade(plan.widths[i]), marker=marker(i), s=36, zorder=4, **EDGE)
        ax.plot([i - 0.2, i + 0.2], [own, own], color=ALONE, lw=2.5, zorder=3)
        widths = "width {:.2f} to {:.2f}".format(*found.widths[i])
        ax.annotate(widths, (i, high), xytext=(0, 6), textcoords="offset points", ha="center", size=8, color=INK)
    ends = [*b, *(end for pair in found.rewards for end in pair)]
    ax.set(xlim=(-0.5, len(b) - 0.5), ylim=(min(ends) - 0.03, max(ends) + 0.05), xticks=range(len(b)))
    ax.set(xlabel="participant", ylabel="accuracy", title="rewards with 95% intervals; bar: alone")
    return ax.figure


def held(widths: Any, who: int | None = None, otherwise: Any = (), ax: Axes | None = None) -> Figure:
    """Draw the width that each participant holds in each round; a gap is a round in which it is away.

    ``widths``: (rounds, participants), 0 for who is away; ``who``: the one participant that the figure is about, all others
    become thin; ``otherwise``: (rounds,) what that one would have held, dashed.

    Raises:
        ValueError: ``widths`` has no rows of widths, or ``who`` is none of the participants.

    Example:
        >>> held([[0.25, 0.25], [0.15, 1.0]]).axes[0].get_ylabel()
        'width (logarithmic)'

    Source: ours.
    """
    held = np.array(widths, dtype=float)
    if held.ndim != 2 or (who is not None and who not in range(held.shape[1])):
        raise ValueError(
            f"widths has shape {held.shape} and who is {who!r}; allowed are (rounds, participants), and one of these"
        )
    ax = _axes(ax)
    rounds, seen = np.arange(1, len(held) + 1), np.where(held > 0, held, np.nan)
    if len(otherwise):
        ax.plot(rounds, otherwise, color=ALONE, lw=1, ls="--", zorder=2)
    for i, line in enumerate(seen.T):
        said = who in (None, i)
        ax.plot(rounds, line, color="#888888" if said else "#d8d8d8", lw=1, zorder=2 if said else 1)
        if said:  # a marker now and then, else they hide each other
            at = np.unique(np.append(np.arange(i % 3, len(held), 1 if who == i else 3), len(held) - 1))
            style = {"c": line[at], "cmap": WIDTH_SCALE, "vmin": 0, "vmax": 1, "marker": marker(i), "zorder": 3}
            ax.scatter(rounds[at], line[at], s=34, edgecolor="white", lw=0.5, **style)
    ticks = [w for w in (0.03, 0.1, 0.3, 1.0) if w >= 0.9 * np.nanmin(seen)]
    ax.set(yscale="log", xlabel="round", ylabel="width (logarithmic)", ylim=(0.85 * np.nanmin(seen), 1.2))
    ax.set_yticks(ticks, [f"{w:g}" for w in ticks])
    ax.minorticks_off()
    return ax.figure


def ways(names: Sequence[str], top: Sequence[float], spread: Sequence[float]) -> Figure:
    """Draw ways of training side by side: full width minus the best participant alone, and how unequal the gains are.

    ``top``, ``spread``: (ways,) in accuracy; both are drawn in points, the ways with the most equal gains on top.

    Example:
        >>> len(ways(["one", "other"], [0.02, -0.01], [0.01, 0.05]).axes)
        2

    Source: ours.
    """
    order = np.argsort(np.asarray(spread, dtype=float), kind="stable")[::-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 0.9 + 0.26 * len(order)))
    for row, k in enumerate(order):
        for ax, values in ((left, top), (right, spread)):
            ax.plot([0, 100 * values[k]], [row, row], color="#cccccc", lw=2, zorder=1)
            ax.scatter(100 * values[k], row, color=INK, s=28, zorder=2)
    left.axvline(0, color=ALONE, ls="--", lw=1)
    left.set_yticks(range(len(order)), [names[k] for k in order], size=8.5)
    right.set_yticks(range(len(order)), [])
    left.set(xlabel="full width minus best alone (points)", title="the top")
    right.set(xlabel="spread of the gains, CGS (points)", title="the fairness", xlim=(0, None))
    return figure
