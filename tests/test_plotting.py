"""Every plotting function returns its figure, draws on the axes it is given, and refuses what it cannot draw."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import aequa_lite as aq

CURVE = aq.Curve((0.1, 0.5, 1.0), (0.4, 0.6, 0.8), samples=1000)
B = [0.3, 0.5, 0.7]
PLAN = aq.allocate(B, CURVE)
INTERVALS = aq.allocation.RewardIntervals(((0.4, 0.5),) * 3, ((0.1, 0.2),) * 3, None, (0.0, 0.1))
REPORT = aq.Report(
    config={}, data={"name": "few", "sha256": "0", "sizes": {"train": 100, "validation": 100, "test": 100}},
    partition="", method="aequa", versions={}, device="cpu", seconds=1.0, parameters_sent=9, contribution=(0.3, 0.5, 0.7),
    standalone=(0.3, 0.5, 0.7), widths=(0.1, 0.5, 1.0), parameters=(9, 99, 999), predicted_accuracy=None,
    test_accuracy=(0.4, 0.6, 0.8), curve=None,
    fairness={"pearson": 1.0, "pearson_interval": None, "pearson_noise_interval": None, "pearson_ceiling": None, "mcg": 0.1,
              "cgs": 0.0, "min_gain": 0.1, "worse_off": ()},
)  # fmt: skip


def shards() -> list[aq.Shard]:
    return aq.data.homogeneous(aq.load("fashion-mini").train.take(slice(0, 90)), aq.Config(participants=3))


WITH_AXES: dict[str, Callable[..., Figure]] = {
    "partition": lambda ax: aq.plotting.partition(shards(), ax=ax),
    "prefix": lambda ax: aq.plotting.prefix(aq.MLP, 0.4, "4.weight", ax=ax),
    "curve": lambda ax: aq.plotting.curve(CURVE, PLAN, B, ax=ax),
    "curves": lambda ax: aq.plotting.curves({"one": [CURVE], "other": [CURVE, CURVE]}, ax=ax),
    "rewards": lambda ax: aq.plotting.rewards(REPORT, ax=ax),
    "widths": lambda ax: aq.plotting.widths(REPORT, ax=ax),
    "width_schedule": lambda ax: aq.plotting.width_schedule([[0.2, 0.0], [0.4, 1.0]], ax=ax),
    "water_filling": lambda ax: aq.plotting.water_filling(B, 0.4, 0.8, ax=ax),
    "critical_weight": lambda ax: aq.plotting.critical_weight(B, 0.2, 0.8, ax=ax),
    "rules": lambda ax: aq.plotting.rules({"exact": PLAN}, B, ax=ax),
    "intervals": lambda ax: aq.plotting.intervals(PLAN, INTERVALS, B, ax=ax),
}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No figure is left open."""
    yield
    plt.close("all")


@pytest.mark.parametrize("name", WITH_AXES)
def test_a_figure_is_returned_and_drawn_on_the_axes_that_were_passed(name: str) -> None:
    figure, ax = plt.subplots()
    assert WITH_AXES[name](ax) is figure
    assert ax.has_data() or ax.patches
    assert isinstance(WITH_AXES[name](None), Figure)


def test_every_public_function_is_drawn_here() -> None:
    others = {"Page", "comparison", "curve_range", "save_figure", "sliders", "stepper", "style"}
    assert set(aq.plotting.__all__) == {*WITH_AXES, *others}


REFUSED: dict[str, tuple[str, Callable[[], object]]] = {
    "no shards": ("`shards` must be", lambda: aq.plotting.partition([])),
    "too few labels": ("`labels` must hold one", lambda: aq.plotting.partition(shards(), ["a"])),
    "a width of 0": ("`width` must be", lambda: aq.plotting.prefix(aq.MLP, 0, "4.weight")),
    "an unknown tensor": ("`name` must be one of", lambda: aq.plotting.prefix(aq.MLP, 0.5, "4.weigth")),
    "no curve": ("`found` must be a Curve, got 3", lambda: aq.plotting.curve(3, PLAN, B)),  # type: ignore[arg-type]
    "no plan": ("`plan` must be a Plan, got 3", lambda: aq.plotting.curve(CURVE, 3, B)),  # type: ignore[arg-type]
    "too few contributions": ("`contribution` must hold one", lambda: aq.plotting.curve(CURVE, PLAN, B[:2])),
    "no method": ("`found` must be curves of one to 4 methods", lambda: aq.plotting.curves({})),
    "five methods": ("`found` must be curves of", lambda: aq.plotting.curves({key: [CURVE] for key in "abcde"})),
    "a method without curves": (
        r"`found` must be a mapping, each value a sequence, each part a Curve, at least one, got {'a': \[\]}",
        lambda: aq.plotting.curves({"a": []}),
    ),
    "no report": ("`report` must be a Report", lambda: aq.plotting.rewards({})),  # type: ignore[arg-type]
    "no report of widths": ("`report` must be a Report", lambda: aq.plotting.widths({})),  # type: ignore[arg-type]
    "a list of widths": ("`found` must be widths of shape", lambda: aq.plotting.width_schedule([0.5, 1.0])),
    "widths above 1": ("`found` must be widths of shape", lambda: aq.plotting.width_schedule([[0.5, 1.5]])),
    "NaN widths": ("`found` must be widths of shape", lambda: aq.plotting.width_schedule([[0.5, np.nan]])),
    "an accuracy above 1": ("`contribution` must be", lambda: aq.plotting.water_filling([0.5, 1.5], 0.2, 0.8)),
    "a range upside down": ("`full` must be", lambda: aq.plotting.water_filling(B, 0.8, 0.2)),
    "NaN contributions": ("`contribution` must be", lambda: aq.plotting.curve_range([0.5, np.nan])),
    "no plans": ("`plans` must be plans by", lambda: aq.plotting.rules({}, B)),
    "another plan's contributions": ("must hold one entry", lambda: aq.plotting.rules({"a": PLAN}, B[:2])),
    "other intervals": (
        "`found.rewards` must hold one",
        lambda: aq.plotting.intervals(PLAN, replace(INTERVALS, rewards=((0.1, 0.2),)), B),
    ),
    "no names": ("`names` must be one or more", lambda: aq.plotting.comparison([], [], [])),
    "NaN gains": (
        "`full_gain` must be a sequence, each part a finite number, got ",
        lambda: aq.plotting.comparison(["a"], [np.nan], [0.1]),
    ),
    "too few spreads": ("`spread` must hold one", lambda: aq.plotting.comparison(["a", "b"], [0.1, 0.2], [0.1])),
    "no axes": ("`ax` must be", lambda: aq.plotting.curve(CURVE, PLAN, B, ax=3)),  # type: ignore[arg-type]
    "no figure": ("`figure` must be a Figure", lambda: aq.plotting.save_figure(3, "a.png")),  # type: ignore[arg-type]
    "sliders without a curve": ("`curve` must be a Curve", lambda: aq.plotting.sliders(B, 3)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_drawn_is_refused_with_one_sentence_before_a_figure_is_made(what: str) -> None:
    sentence, draw = REFUSED[what]
    with pytest.raises(ValueError, match=sentence) as error:
        draw()
    assert "\n" not in str(error.value)
    assert not plt.get_fignums()


def test_marks_leave_the_dashes_of_a_line_of_many_widths_visible() -> None:
    dense = aq.Curve(np.linspace(0.02, 1, 400), np.linspace(0.3, 0.9, 400), samples=1000)
    ax = aq.plotting.curves({"one": [dense], "other": [dense]}).axes[0]
    marks = [each.get_offsets() for each in ax.collections if len(each.get_offsets()) > 1]
    assert len(marks) == 2
    assert all(len(each) <= 9 for each in marks)
    assert {line.get_linestyle() for line in ax.lines} == {"-", "--"}


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_figure_is_saved_as_the_same_bytes_every_time(tmp_path: Path, kind: str) -> None:
    contents = []
    for k in range(2):
        aq.plotting.style()
        path: Any = aq.plotting.save_figure(aq.plotting.curve(CURVE, PLAN, B), tmp_path / f"{k}.{kind}")
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0]


def test_all_classes_have_their_labels_and_a_contribution_above_the_curve_is_seen() -> None:
    rng = np.random.default_rng(0)
    samples = aq.Samples(torch.zeros(200, 1), torch.from_numpy(rng.integers(0, 40, 200)), 40)
    figure = aq.plotting.partition([aq.Shard(0, samples, range(200))], [f"class {k}" for k in range(40)])
    assert len(figure.axes[0].get_xticklabels()) == 40
    curve = aq.Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.7), samples=100)
    axes = aq.plotting.curve(curve, aq.allocate([0.95], curve), [0.95]).axes[0]
    assert axes.get_ylim()[1] > 0.95


def test_a_steppers_name_may_hold_any_character() -> None:
    page = aq.plotting.stepper(torch.zeros(2, 2), [(torch.ones(2, 2), 1.0)], name='R&D "x"</script>').html
    (asked,) = re.findall(r"getElementById\((.*?)\),", page)
    (there,) = re.findall(r'id="([^"]*)"', page)
    assert json.loads(asked) == html.unescape(there) == 'stepper-R&D "x"</script>'
    assert page.count("</script>") == 1
