"""Interactive figures compute in the page what the package computes, and are still pictures without scripts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

import aequa_lite as aq
from aequa_lite.plotting.figures import asset

CURVE = aq.Curve(np.linspace(0.02, 1, 12), np.sort(aq.stream(0, "sliders").uniform(0.3, 0.9, 12)), samples=1000)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the page's own search cannot run")
def test_the_page_finds_the_plan_that_allocate_finds() -> None:
    cases, expected = [], []
    for seed in range(200):
        rng = aq.stream(seed, "page")
        n, k = int(rng.integers(1, 8)), int(rng.integers(1, 30))
        b, levels = rng.uniform(0.2, 0.8, n), np.sort(rng.uniform(0.2, 0.9, k))
        if seed % 2:  # coarse numbers, so that ties are common
            b, levels = b.round(1), np.unique(levels.round(2))
        weight = round(float(rng.uniform(0, 1)), 2)
        curve = aq.Curve(np.linspace(0.1, 1, len(levels)) if len(levels) > 1 else [1.0], levels, 1000)
        rational = seed % 3 > 0
        plan = aq.allocate(b, curve, objective=aq.allocation.spread_minus_gain(weight), individually_rational=rational)
        cases.append([b.tolist(), levels.tolist(), weight, rational])
        expected.append((plan.certificate.value, np.searchsorted(levels, plan.predicted_accuracy - 1e-12).tolist()))
    search = asset("sliders.js")
    code = f"{search}\nconsole.log(JSON.stringify({json.dumps(cases)}.map(c => best(...c))));"
    output = subprocess.run(["node", "-"], input=code, capture_output=True, text=True, check=True).stdout
    same = 0
    for (b, levels, weight, _), (value, chosen), found in zip(cases, expected, json.loads(output), strict=True):
        gains = np.array(levels)[found] - b
        assert gains.std() - weight * gains.mean() == pytest.approx(value, abs=1e-9)
        same += found == chosen
    assert same >= 196  # where two plans are equally good to the last digit, either is right


def test_the_page_is_complete_and_fetches_nothing() -> None:
    html = aq.plotting.sliders([0.45, 0.65, 0.85], CURVE, "here").html
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert "__" not in re.sub(r"data:image/[^\"]+", "", html)  # every place is filled
    assert html.count('id="sliders-here"') == 1


def test_without_scripts_a_picture_with_a_description_is_shown() -> None:
    html = aq.plotting.sliders([0.45, 0.65, 0.85], CURVE).html
    still = re.search(r"<noscript>(.*?)</noscript>", html, flags=re.S)
    assert still
    assert re.search(r"<img alt=\"[^\"]{20,}\" src=\"data:image/png;base64,", still[1])
    assert re.search(r"<div id=\"sliders-allocation\"[^>]* hidden", html)  # the empty sliders are not shown then


def test_every_slider_has_a_label() -> None:
    html = aq.plotting.sliders([0.45, 0.65, 0.85], CURVE).html
    assert len(re.findall(r"<label>[a-z][^<]+<b[^>]*></b><br><input", html)) == html.count('type="range"') == 3


def test_the_stepper_shows_the_aggregate() -> None:
    blocks = [torch.ones(3, 3), 4 * torch.ones(2, 2)]
    html = aq.plotting.stepper(torch.zeros(3, 3), list(zip(blocks, (1.0, 2.0)))).html
    assert html.count("<section data-step>") == 4
    assert "to participant 1: 0 0; 0 0" in html  # only the leading block goes out
    assert "global, after the round: 3 3 1; 3 3 1; 1 1 1" in html
    assert "hidden" not in html.split("</div>")[-2]  # without scripts every step is shown
    assert not re.search(r"(src|href)=", html)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"theta": torch.zeros(2, 3)}, r"`theta` must be a square matrix .* got \(2, 3\)"),
        ({"theta": 3}, "`theta` must be a Tensor, got 3"),
        (
            {"updates": [(torch.zeros(4, 4), 1.0)]},
            r"`updates\[0\]` must be a square matrix of 1 to 3 rows, got \(4, 4\)",
        ),
        ({"updates": [(torch.zeros(2, 2), 0.0)]}, r"`updates\[0\] weight` must be a number above 0, got 0.0"),
    ],
)
def test_the_stepper_refuses_what_is_no_round(changes: dict[str, object], sentence: str) -> None:
    round_ = {"theta": torch.zeros(3, 3), "updates": [(torch.ones(2, 2), 1.0)], **changes}
    with pytest.raises(ValueError, match=sentence):
        aq.plotting.stepper(**round_)


def test_a_name_cannot_end_the_script() -> None:
    html = aq.plotting.sliders([0.45, 0.65, 0.85], CURVE, "</script><script>alert(1)</script>").html
    assert "<script>alert" not in html
