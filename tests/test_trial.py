"""One run: what does not fit is refused at once, and all methods share shards, models alone and contributions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aequa_lite as aq
from aequa_lite.tables import _figures

DECLARED = 'rounds: int = 20  # words\nlr: float = 0.1\nmixed: bool = False\nname: str = "a"'


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        ("roundz = 3", "'roundz' is no parameter; the nearest is 'rounds'"),
        ('rounds = "ten"', "rounds is 'ten'; allowed is a value of the kind int"),
        ("rounds = True", "rounds is True"),
        ("mixed = 1", "mixed is 1; allowed is a value of the kind bool"),
        ("name = 3", "name is 3"),
    ],
)
def test_what_is_no_parameter_is_refused(passed: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aq.check_parameters(["", "import sys\nx = 3", DECLARED, "# Parameters\n" + passed])


def test_parameters_are_those_declared_with_the_values_passed() -> None:
    cells = [
        "import sys\nx = 3",
        DECLARED,
        "# Parameters\nlr = 1\nname = 'b'",
        "y = compute(rounds)",
        "%matplotlib inline",
    ]
    assert aq.check_parameters(cells) == {"rounds": 20, "lr": 1, "mixed": False, "name": "b"}


def test_where_no_sources_were_kept_the_annotated_names_are_the_parameters() -> None:
    values = {"rounds": 20, "aq": aq, "__annotations__": {"rounds": int}}
    assert aq.check_parameters(["", "import aequa_lite as aq"], values) == {"rounds": 20}


@pytest.mark.parametrize(
    ("methods", "said"),
    [("aequa, fedavgg", "nearest is 'fedavg'"), ("aequa, aequa", "each method once"), ("aequa,, x", "a list such as")],
)
def test_methods_that_make_no_sense_are_refused(methods: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aq.methods_named(methods)


def test_allocations_go_by_their_words() -> None:
    curve = aq.Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
    brought = [0.4, 0.7]
    assert (
        aq.allocation_named("allocate")(brought, curve).widths.tolist() == aq.allocate(brought, curve).widths.tolist()
    )
    capped = aq.capped(brought, curve, 0.05).widths.tolist()
    assert aq.allocation_named("capped(0.05)")(brought, curve).widths.tolist() == capped
    only = aq.allocate(brought, curve, objective=aq.spread_only(), rational=True).widths.tolist()
    assert aq.allocation_named("spread_only", rational=True)(brought, curve).widths.tolist() == only
    for word, rational in (("proportional", True), ("allocate(3)", False), ("allocatte", False)):
        with pytest.raises(ValueError, match="allocation is"):
            aq.allocation_named(word, rational)


def test_contributions_go_by_their_words(few: aq.Data, recipe: aq.Recipe) -> None:
    shards = aq.by_size(few.train, recipe, (50, 100, 200))
    alone = aq.standalone(aq.MLP, shards, recipe, progress=False)
    found = {word: aq.contribution_named(word)(alone, shards, few) for word in ("alone", "size", "circular")}
    assert np.array_equal(found["alone"], aq.accuracy(alone, few.validation))
    assert np.array_equal(found["circular"], aq.accuracy(alone, few.test))
    assert found["size"][0] == found["alone"].min()
    assert (np.diff(found["size"]) >= 0).all()
    with pytest.raises(ValueError, match="nearest is 'alone'"):
        aq.contribution_named("alon")
    with pytest.raises(ValueError, match="rational is True and contribution 'size'"):
        aq.contribution_named("size", rational=True)


def test_all_methods_are_judged_on_the_same_models_alone(few: aq.Data, recipe: aq.Recipe, tmp_path: Path) -> None:
    shards = aq.homogeneous(few.train, recipe)
    alone = aq.standalone(aq.MLP, shards, recipe, progress=False)
    task = aq.MLP, shards, recipe, few, alone, aq.accuracy(alone, few.validation)
    found = {word: (paid, report) for word, paid, report in aq.compete(
        aq.methods_named("aequa, fedavg"), *task, out=tmp_path, progress=False)}  # fmt: skip
    ours, fedavg = (found[word][1] for word in ("aequa", "fedavg"))
    assert ours.standalone == fedavg.standalone
    assert ours.widths is not None
    assert ours.fairness["pearson_ceiling_interval"] is not None or ours.fairness["pearson_ceiling"] is None
    assert fedavg.widths is None
    assert len(set(fedavg.test_accuracy)) == 1
    assert aq.Report.load(tmp_path / "fedavg").test_accuracy == fedavg.test_accuracy
    assert len(aq.comparison({"aequa": ours, "fedavg": fedavg}).splitlines()) == 3


def test_a_method_that_fails_takes_no_other_with_it(few: aq.Data, recipe: aq.Recipe, tmp_path: Path) -> None:
    def broken(task: aq.Task) -> aq.Entry:
        raise FloatingPointError("all of it is gone")

    shards = aq.homogeneous(few.train, recipe)
    alone = [aq.MLP() for _ in shards]
    methods = {"broken": aq.Method("broken", broken), **aq.methods_named("fedavg")}
    rest = aq.compete(methods, aq.MLP, shards, recipe, few, alone, [0.1] * 3, out=tmp_path, progress=False)
    assert next(rest)[0] == "fedavg"
    with pytest.raises(RuntimeError, match="broken failed, FloatingPointError: all of it is gone"):
        next(rest)
    assert "all of it is gone" in (tmp_path / "broken" / "failed.txt").read_text()
    assert not (tmp_path / "fedavg" / "failed.txt").exists()


def test_data_lies_in_the_folder_of_data_or_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    assert aq.located("sst2", tmp_path) == tmp_path / "sst2"
    assert aq.located("fashion", tmp_path) == "fashion"
    assert aq.located("no-such", tmp_path) == "no-such"


def test_where_units_fade_in_rewards_are_what_the_plan_says_and_steps_are_finer(few: aq.Data, tmp_path: Path) -> None:
    recipe = aq.Recipe(participants=3, rounds=6, local_steps=6, batch=16, grid=10, min_width=0.1, fade=32)
    shards = aq.by_size(few.train, recipe, sizes=(20, 100, 400))
    alone = aq.standalone(aq.MLP, shards, recipe, progress=False)
    task = (aq.MLP, shards, recipe, few, alone, aq.accuracy(alone, few.validation))
    methods = aq.methods_named("aequa", rational=False)
    [(_, paid, found)] = aq.compete(methods, *task, out=tmp_path, progress=False)
    assert any(abs(w * 10 - round(w * 10)) > 1e-3 for w in paid.plan.widths)  # somebody is paid between two widths
    at = np.searchsorted(paid.curve.widths, paid.plan.widths)
    assert paid.curve.accuracy[at].tolist() == aq.accuracy(paid.models, few.validation).tolist()
    assert [found.curve["test"][k] for k in at] == pytest.approx(aq.accuracy(paid.models, few.test), abs=1e-6)
    row = _figures(found)
    assert row["largest_step"] < row["largest_whole_step"]
    assert row["largest_whole_step"] == pytest.approx(_largest_step(paid, task[-1], whole=True), abs=2e-6)
    assert row["largest_step"] == pytest.approx(_largest_step(paid, task[-1], whole=False), abs=2e-6)


def _largest_step(paid: aq.Paid, contribution: np.ndarray, whole: bool) -> float:
    """Of the curve where rewards lie, at whole widths only or at all."""
    kept = [not whole or float(10 * w).is_integer() for w in paid.curve.widths.round(9).tolist()]
    curve = aq.Curve(paid.curve.widths[kept], paid.curve.accuracy[kept], paid.curve.samples)
    return aq.range_report(curve, contribution)["largest_step"]
