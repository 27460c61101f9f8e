"""Figures for every eye: colours stay apart under each kind of colour blindness, and stand out from their ground.

Colour blindness is simulated by the matrices of Machado, Oliveira and Fernandes (2009) at full severity, in linear RGB; a
distance is CIE 1976 in Lab (about 2.3 is a just noticeable difference), a contrast that of WCAG 2.
"""

from __future__ import annotations

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import aequa_lite as aq
from aequa_lite.plotting import theme

EYES = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
APART, SEEN = 15.0, 3.0  # six just noticeable differences; WCAG's contrast of what is not text
TOGETHER = {  # colours that are used in one figure
    "stand-alone, reward, bound": (theme.INK, theme.ALONE, theme.BOUND),
    "methods of training": theme.LINES,
    "categories": theme.CYCLE,
}
WIDTHS = np.linspace(0, 1, 101)


def linear(colour: object) -> np.ndarray:
    """A colour in linear RGB, (3,)."""
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(colour: object, eye: str) -> np.ndarray:
    """Lightness and the two axes of colour as an eye sees them, (3,)."""
    t = XYZ @ np.clip(np.array(EYES[eye]) @ linear(colour), 0, 1) / XYZ.sum(1)
    f = np.where(t > 216 / 24389, np.cbrt(t), t * 841 / 108 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(a: object, b: object, eye: str) -> float:
    return float(np.linalg.norm(lab(a, eye) - lab(b, eye)))


def contrast(a: object, b: object) -> float:
    low, high = sorted(float(XYZ[1] @ linear(c)) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def test_the_measures_agree_with_known_values() -> None:
    assert contrast("black", "white") == pytest.approx(21)
    assert apart("white", "black", "usual") == pytest.approx(100, abs=0.1)
    assert apart("#ff0000", "#7d7d00", "usual") > 80  # red and olive: far for most, near for some
    assert apart("#ff0000", "#a39500", "deuteranopia") < 30


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("colours", TOGETHER.values(), ids=TOGETHER)
def test_colours_of_one_figure_stay_apart(colours: tuple[str, ...], eye: str) -> None:
    for a, b in combinations(colours, 2):
        assert apart(a, b, eye) >= APART, (a, b)


@pytest.mark.parametrize("colours", TOGETHER.values(), ids=TOGETHER)
def test_every_colour_stands_out_from_the_figures_ground(colours: tuple[str, ...]) -> None:
    for colour in colours:
        assert contrast(colour, "white") >= SEEN, colour


@pytest.mark.parametrize("eye", EYES)
def test_a_wider_reward_is_darker_for_every_eye(eye: str) -> None:
    lightness = np.array([lab(theme.shade(w), eye)[0] for w in WIDTHS])
    assert (np.diff(lightness) < 0).all()
    assert lightness[0] - lightness[-1] > 50


def test_a_pale_marker_has_an_edge_that_stands_out() -> None:
    assert contrast(theme.shade(0.05), "white") < SEEN  # so the edge is needed
    assert contrast(theme.EDGE["edgecolor"], "white") >= SEEN
    curve = aq.Curve(np.array([0.1, 0.5, 1.0]), np.array([0.4, 0.6, 0.8]), samples=1000)
    figure = aq.plotting.curve(curve, aq.allocate([0.3, 0.5, 0.7], curve), [0.3, 0.5, 0.7])
    markers = [each for each in figure.axes[0].collections if len(each.get_sizes()) and each.get_sizes()[0] > 50]
    assert len(markers) == 3
    for each in markers:
        assert contrast(each.get_edgecolor()[0][:3], "white") >= SEEN
    plt.close("all")


def test_the_ground_of_a_figure_stands_out_from_the_dark_page() -> None:
    with plt.rc_context():
        aq.plotting.style()
        assert contrast(plt.rcParams["figure.facecolor"], "#14181e") >= SEEN  # the theme's dark page
        assert tuple(plt.rcParams["axes.prop_cycle"].by_key()["color"]) == tuple(map(to_rgb, theme.CYCLE))


def test_participants_are_told_apart_without_colour() -> None:
    assert len({theme.marker(i) for i in range(10)}) == 10
