"""Figures of the allocation: its mathematics, several rules, its uncertainty, several methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .._check import accuracies, checked, number, one_each, refusal
from ..allocation import continuous
from ..allocation.exact import Plan, spread_minus_gain, spread_only
from ..allocation.uncertainty import RewardIntervals
from ..metrics import pearson
from .theme import ALONE, BOUND, EDGE, INK, axes, instance, marker, shade

__all__ = ["comparison", "critical_weight", "curve_range", "intervals", "rules", "water_filling"]


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
    b, rewards = accuracies("contribution", contribution), continuous.water_filling(contribution, least, full)
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
def curve_range(contribution: ArrayLike, spans: ArrayLike | None = None) -> Figure:
    r"""Draw what the range of the curve allows: smallest CGS, and Pearson at it, by the span $u - \ell$.

    Args:
        contribution: (n,) accuracies in [0, 1].
        spans: Spans in (0, 1] to try (default: 40 up to 1.3 times the contributions' own range, which is marked).

    Raises:
        ValueError: A contribution is outside [0, 1], or a span outside (0, 1].

    Example:
        >>> [each.get_ylabel() for each in curve_range([0.3, 0.5, 0.7]).axes]
        ['smallest CGS (points)', 'Pearson there']
    """
    b = accuracies("contribution", contribution)
    own = float(np.ptp(b))
    tried = np.linspace(0.02, max(0.04, min(1.3 * own, 1.0)), 40) if spans is None else np.asarray(spans, dtype=float)
    if tried.ndim != 1 or not tried.size or not ((tried > 0) & (tried <= 1)).all():
        raise refusal("spans", "numbers in (0, 1]", spans)
    spread, follows = [], []
    for span in tried:
        least = max(0.0, min(float(b.min()), 1 - span))  # only the span matters, not where it lies
        full = min(1.0, least + span)
        spread.append(100 * continuous.smallest_spread(b, least, full))
        follows.append(pearson(b, continuous.water_filling(b, least, full, spread_only())))
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
    limit, default = continuous.critical_weight(b), 0.5 / float(np.sqrt(max(len(b) - 1, 1)))
    finite = bool(np.isfinite(limit))
    near = [0.999 * limit, 1.001 * limit] if finite else []
    weights = np.unique([*np.linspace(0.01, 2 * limit if finite else 1.0, 60), *near])
    best = [continuous.water_filling(b, least, full, spread_minus_gain(float(w))) for w in weights]
    gains = np.array(best) - b  # (weights, n)
    ax = axes(ax)
    ax.plot(weights, 100 * gains.mean(1), color=INK, lw=1.6, label="mean gain (MCG)")
    ax.plot(weights, 100 * gains.std(1), color=BOUND, lw=1.6, ls="--", label="spread of gains (CGS)")
    for place, label in ((limit, r"$\sqrt{m/(n-m)}$"), (default, "default")):
        if np.isfinite(place):
            ax.axvline(place, color=ALONE, lw=1, ls=":")
            ax.text(place, 1.0, f" {label}", transform=ax.get_xaxis_transform(), size=8.5, color=ALONE, va="top")
    ax.set(
        xlabel="weight of the mean gain", ylabel="points", title="above the critical weight, gain outweighs fairness"
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize="small")
    return ax.figure


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
    if not isinstance(plans, Mapping) or not plans:
        raise refusal("plans", "plans by the names of their rules", plans)
    for name, plan in plans.items():
        one_each(f"plans[{name!r}].widths", instance(f"plans[{name!r}]", plan, Plan).widths, len(b))
    ax = axes(ax, (7.2, 1.3 + 0.42 * len(plans)))
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
    look = {"fontsize": "small", "title_fontsize": "small"}
    ax.legend(title="participant", loc="center left", bbox_to_anchor=(1.0, 0.5), **look)
    return ax.figure


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
    one_each("plan.widths", instance("plan", plan, Plan).widths, len(b))
    one_each("found.rewards", instance("found", found, RewardIntervals).rewards, len(b))
    ax = axes(ax)
    for i, (own, reward, (low, high)) in enumerate(zip(b, plan.predicted_accuracy, found.rewards)):
        ax.errorbar(i, (low + high) / 2, yerr=(high - low) / 2, color=INK, lw=1.5, capsize=7, zorder=2)
        ax.scatter([i], [reward], color=shade(plan.widths[i]), marker=marker(i), s=36, zorder=4, **EDGE)
        ax.plot([i - 0.2, i + 0.2], [own, own], color=ALONE, lw=2.5, zorder=3)
        label = "width {:.2f} to {:.2f}".format(*found.widths[i])
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
    columns = {"full_gain": list(full_gain), "spread": list(spread)}
    for label, values in columns.items():
        one_each(label, [number(label, value) for value in values], len(names), of="names")
    order = np.argsort(np.asarray(spread, dtype=float), kind="stable")[::-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 0.9 + 0.26 * len(order)))
    for row, k in enumerate(order):
        for ax, values in ((left, columns["full_gain"]), (right, columns["spread"])):
            ax.plot([0, 100 * values[k]], [row, row], color="#cccccc", lw=2, zorder=1)
            ax.scatter(100 * values[k], row, color=INK, s=28, zorder=2)
    left.axvline(0, color=ALONE, ls="--", lw=1)
    left.set_yticks(range(len(order)), [names[k] for k in order], size=8.5)
    right.set_yticks(range(len(order)), [])
    left.set(xlabel="full width minus best alone (points)", title="accuracy of the full width")
    right.set(xlabel="spread of the gains, CGS (points)", title="fairness", xlim=(0, None))
    return figure
