"""One run: what does not fit is refused at once, and all methods share shards, models alone and contributions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aequa_lite as aq
from aequa_lite.experiments.tables import _figures

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
        aq.experiments.check_parameters(["", "import sys\nx = 3", DECLARED, "# Parameters\n" + passed])


def test_parameters_are_those_declared_with_the_values_passed() -> None:
    cells = [
        "import sys\nx = 3",
        DECLARED,
        "# Parameters\nlr = 1\nname = 'b'",
        "y = compute(rounds)",
        "%matplotlib inline",
    ]
    assert aq.experiments.check_parameters(cells) == {"rounds": 20, "lr": 1, "mixed": False, "name": "b"}


def test_where_no_sources_were_kept_the_annotated_names_are_the_parameters() -> None:
    values = {"rounds": 20, "aq": aq, "__annotations__": {"rounds": int}}
    assert aq.experiments.check_parameters(["", "import aequa_lite as aq"], values) == {"rounds": 20}


@pytest.mark.parametrize(
    ("methods", "said"),
    [("aequa, fedavgg", "nearest is 'fedavg'"), ("aequa, aequa", "each method once"), ("aequa,, x", "a list such as")],
)
def test_methods_that_make_no_sense_are_refused(methods: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aq.registry.algorithms(methods)


def test_allocations_go_by_their_words() -> None:
    curve = aq.Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000)
    brought = [0.4, 0.7]
    assert (
        aq.registry.allocation("allocate")(brought, curve).widths.tolist()
        == aq.allocate(brought, curve).widths.tolist()
    )
    capped = aq.allocation.capped(brought, curve, 0.05).widths.tolist()
    assert aq.registry.allocation("capped(0.05)")(brought, curve).widths.tolist() == capped
    only = aq.allocate(
        brought, curve, objective=aq.allocation.spread_only(), individually_rational=True
    ).widths.tolist()
    assert aq.registry.allocation("spread_only", individually_rational=True)(brought, curve).widths.tolist() == only
    for word, individually_rational in (("proportional", True), ("allocate(3)", False), ("allocatte", False)):
        with pytest.raises(ValueError, match="allocation is"):
            aq.registry.allocation(word, individually_rational)


def test_contributions_go_by_their_words(few: aq.Dataset, config: aq.Config) -> None:
    shards = aq.data.by_size(few.train, config, (50, 100, 200))
    alone = aq.standalone(aq.MLP, shards, config, progress=False)
    found = {word: aq.registry.contribution(word)(alone, shards, few) for word in ("alone", "size", "circular")}
    assert np.array_equal(found["alone"], aq.accuracy(alone, few.validation))
    assert np.array_equal(found["circular"], aq.accuracy(alone, few.test))
    assert found["size"][0] == found["alone"].min()
    assert (np.diff(found["size"]) >= 0).all()
    with pytest.raises(ValueError, match="nearest is 'alone'"):
        aq.registry.contribution("alon")
    with pytest.raises(ValueError, match="rational is True and contribution 'size'"):
        aq.registry.contribution("size", individually_rational=True)


def test_all_methods_are_judged_on_the_same_models_alone(few: aq.Dataset, config: aq.Config, tmp_path: Path) -> None:
    shards = aq.data.homogeneous(few.train, config)
    alone = aq.standalone(aq.MLP, shards, config, progress=False)
    task = aq.MLP, shards, config, few, alone, aq.accuracy(alone, few.validation)
    found = {word: (paid, report) for word, paid, report in aq.experiments.compete(
        aq.registry.algorithms("aequa, fedavg"), *task, out=tmp_path, progress=False)}  # fmt: skip
    ours, fedavg = (found[word][1] for word in ("aequa", "fedavg"))
    assert ours.standalone == fedavg.standalone
    assert ours.widths is not None
    assert ours.fairness["pearson_ceiling_interval"] is not None or ours.fairness["pearson_ceiling"] is None
    assert fedavg.widths is None
    assert len(set(fedavg.test_accuracy)) == 1
    assert aq.Report.load(tmp_path / "fedavg").test_accuracy == fedavg.test_accuracy
    assert len(aq.experiments.comparison({"aequa": ours, "fedavg": fedavg}).splitlines()) == 3


def test_a_method_that_fails_takes_no_other_with_it(few: aq.Dataset, config: aq.Config, tmp_path: Path) -> None:
    def broken(task: aq.Problem) -> aq.method.Entry:
        raise FloatingPointError("all of it is gone")

    shards = aq.data.homogeneous(few.train, config)
    alone = [aq.MLP() for _ in shards]
    methods = {"broken": aq.Algorithm("broken", broken), **aq.registry.algorithms("fedavg")}
    rest = aq.experiments.compete(methods, aq.MLP, shards, config, few, alone, [0.1] * 3, out=tmp_path, progress=False)
    assert next(rest)[0] == "fedavg"
    with pytest.raises(RuntimeError, match="broken failed, FloatingPointError: all of it is gone"):
        next(rest)
    assert "all of it is gone" in (tmp_path / "broken" / "failed.txt").read_text()
    assert not (tmp_path / "fedavg" / "failed.txt").exists()


def test_data_lies_in_the_folder_of_data_or_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    assert aq.experiments.located("sst2", tmp_path) == tmp_path / "sst2"
    assert aq.experiments.located("fashion", tmp_path) == "fashion"
    assert aq.experiments.located("no-such", tmp_path) == "no-such"


def test_where_units_fade_in_rewards_are_what_the_plan_says_and_steps_are_finer(
    few: aq.Dataset, tmp_path: Path
) -> None:
    config = aq.Config(participants=3, rounds=6, local_steps=6, batch=16, grid=10, min_width=0.1, fractions=32)
    shards = aq.data.by_size(few.train, config, sizes=(20, 100, 400))
    alone = aq.standalone(aq.MLP, shards, config, progress=False)
    task = (aq.MLP, shards, config, few, alone, aq.accuracy(alone, few.validation))
    methods = aq.registry.algorithms("aequa", individually_rational=False)
    [(_, paid, found)] = aq.experiments.compete(methods, *task, out=tmp_path, progress=False)
    assert any(abs(w * 10 - round(w * 10)) > 1e-3 for w in paid.plan.widths)  # somebody is paid between two widths
    at = np.searchsorted(paid.curve.widths, paid.plan.widths)
    assert paid.curve.accuracy[at].tolist() == aq.accuracy(paid.models, few.validation).tolist()
    assert [found.curve["test"][k] for k in at] == pytest.approx(aq.accuracy(paid.models, few.test), abs=1e-6)
    row = _figures(found)
    assert row["largest_step"] < row["largest_whole_step"]
    assert row["largest_whole_step"] == pytest.approx(_largest_step(paid, task[-1], whole=True), abs=2e-6)
    assert row["largest_step"] == pytest.approx(_largest_step(paid, task[-1], whole=False), abs=2e-6)


def _largest_step(paid: aq.Outcome, contribution: np.ndarray, whole: bool) -> float:
    """Of the curve where rewards lie, at whole widths only or at all."""
    kept = [not whole or float(10 * w).is_integer() for w in paid.curve.widths.round(9).tolist()]
    curve = aq.Curve(paid.curve.widths[kept], paid.curve.accuracy[kept], paid.curve.samples)
    return aq.curve_diagnostics(curve, contribution)["largest_step"]
