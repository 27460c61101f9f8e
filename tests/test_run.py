"""One run from its words: what does not fit is refused at once, and all methods share one problem."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial
from inspect import signature
from pathlib import Path

import numpy as np
import pytest

import aequa_lite as aq
from aequa_lite.cli import main
from aequa_lite.experiments import run as runs
from aequa_lite.experiments.tables import _figures
from aequa_lite.method import assess

ROOT = Path(__file__).resolve().parents[1]
DECLARED = 'rounds: int = 20  # rounds\nlr: float = 0.1\nmixed: bool = False\nname: str = "a"'


def parameters(cells: list[str], others: tuple[str, ...] = ()) -> dict:
    """The parameters of a notebook of these cells, and of others that are not run here."""
    values: dict = {}
    for cell in cells:
        exec(cell, values)
    return aq.experiments.check_parameters([*cells, *others], values)


@pytest.mark.parametrize(
    ("passed", "sentence"),
    [
        ("roundz = 3", "got 'roundz'; the nearest is 'rounds'"),
        ("rounds = 3\nlrr = 0.1", "got 'lrr'; the nearest is 'lr'"),
    ],
)
def test_what_is_no_parameter_is_refused(passed: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parameters(["", "import sys\nx = 3", DECLARED, "# Parameters\n" + passed])


def test_parameters_are_those_declared_with_the_values_passed() -> None:
    cells = ["import sys\nx = 3", DECLARED, "# Parameters\nlr = 1\nname = 'b'", "y = rounds + 1"]
    assert parameters(cells, ("%matplotlib inline",)) == {"rounds": 20, "lr": 1, "mixed": False, "name": "b"}


def test_where_no_sources_were_kept_the_annotated_names_are_the_parameters() -> None:
    values = {"rounds": 20, "aq": aq, "__annotations__": {"rounds": int}}
    assert aq.experiments.check_parameters(["", "import aequa_lite as aq"], values) == {"rounds": 20}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"methods": "aequa, fedavgg"}, "nearest is 'fedavg'"),
        ({"methods": "aequa, aequa"}, "different words"),
        ({"methods": "aequa,, x"}, "a list of different words"),
        ({"partition": "dirichlet"}, "given a value for alpha"),
        ({"partition": 3}, "`partition` must be text, got 3"),
        ({"network": "MLPP"}, "nearest is 'MLP'"),
        ({"width_sampler": "full"}, "nearest is"),
        ({"server": "fedavgm(2.0)"}, "`beta` must be"),
        ({"aggregate": "median"}, "nearest is"),
        ({"schedule": "training_time(-1.0)"}, "`allowance` must be"),
        ({"allocation": "proportional"}, "`individually_rational` must be False with 'proportional'"),
        ({"contribution": "shard_size"}, "sizes are no accuracies"),
        ({"individually_rational": 1}, "`individually_rational` must be True or False"),
        ({"rounds": "ten"}, "`rounds` must be a whole number in"),
        ({"rounds": True}, "`rounds` must be a whole number in"),
        ({"network": 3}, "`network` must be text, got 3"),
        ({"roundz": 3}, "nearest is 'rounds'"),
        ({"rounds": 0}, "`rounds` must be a whole number in"),
        ({"validation_weights": True, "contribution_power": 0.0}, "False with contribution_power 0"),
    ],
)
def test_words_that_do_not_fit_are_refused_before_any_work(values: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        runs.split_parameters(values)


def test_allocations_go_by_their_words() -> None:
    curve, contribution = aq.Curve((0.1, 0.5, 1.0), (0.3, 0.6, 0.8), samples=1000), [0.4, 0.7]

    def widths(*args, **options) -> list[float]:
        return aq.registry.allocation(*args, **options)(contribution, curve).widths.tolist()

    assert widths("allocate") == aq.allocate(contribution, curve).widths.tolist()
    assert widths("capped(0.05)") == aq.allocation.capped(contribution, curve, 0.05).widths.tolist()
    only = aq.allocate(contribution, curve, objective=aq.allocation.spread_only(), individually_rational=True)
    assert widths("spread_only", individually_rational=True) == only.widths.tolist()
    for word, rational in (("proportional", True), ("allocate(3)", False), ("allocatte", False)):
        with pytest.raises(ValueError, match="`(allocation|individually_rational)` must be"):
            aq.registry.allocation(word, rational)


def problem_of(few: aq.Dataset, config: aq.Config, sizes: tuple[int, ...] = (50, 100, 200)) -> aq.Problem:
    return assess(aq.MLP, aq.data.by_size(few.train, config, sizes), config, few, progress=False)


def test_contributions_go_by_their_words(few: aq.Dataset, config: aq.Config) -> None:
    problem = problem_of(few, config)
    alone, shards = problem.alone, problem.shards
    words = ("standalone_accuracy", "shard_size", "test_accuracy")
    found = {word: aq.registry.lookup("contribution", word)(alone, shards, few) for word in words}
    assert np.array_equal(found["standalone_accuracy"], aq.accuracy(alone, few.validation))
    assert np.array_equal(found["test_accuracy"], aq.accuracy(alone, few.test))
    assert found["shard_size"][0] == found["standalone_accuracy"].min()
    assert (np.diff(found["shard_size"]) >= 0).all()


def test_all_methods_share_the_models_trained_alone(few: aq.Dataset, config: aq.Config, tmp_path: Path) -> None:
    setup = runs.Setup(methods="aequa, fedavg")
    found = dict(runs.compete(setup, problem_of(few, config), tmp_path, progress=False))
    ours, fedavg = (found[word].report for word in ("aequa", "fedavg"))
    assert ours.standalone == fedavg.standalone
    assert ours.widths is not None
    assert fedavg.widths is None
    assert len(set(fedavg.test_accuracy)) == 1
    assert aq.Report.load(tmp_path / "fedavg").test_accuracy == fedavg.test_accuracy
    assert len(runs.comparison({"aequa": ours, "fedavg": fedavg}).splitlines()) == 3


def test_a_method_that_fails_takes_no_other_with_it(
    few: aq.Dataset, config: aq.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(problem: aq.Problem, *, train: object) -> aq.Outcome:
        raise FloatingPointError("all of it is gone")

    kept = runs.algorithms
    monkeypatch.setattr(runs, "algorithms", lambda setup, problem: {"broken": broken, **kept(setup, problem)})
    rest = runs.compete(runs.Setup(methods="fedavg"), problem_of(few, config), tmp_path, progress=False)
    assert next(rest)[0] == "fedavg"
    with pytest.raises(RuntimeError, match="broken failed, FloatingPointError: all of it is gone"):
        next(rest)
    assert "all of it is gone" in (tmp_path / "broken" / "failed.txt").read_text()
    assert not (tmp_path / "fedavg" / "failed.txt").exists()


def test_data_lies_in_the_folder_of_data_or_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    assert runs.locate("sst2", tmp_path) == tmp_path / "sst2"
    assert runs.locate("fashion", tmp_path) == "fashion"
    assert runs.locate("no-such", tmp_path) == "no-such"


def test_fractional_rewards_are_what_the_plan_says_and_steps_are_finer(few: aq.Dataset, tmp_path: Path) -> None:
    config = aq.Config(participants=3, rounds=6, local_steps=6, batch=16, grid=10, min_width=0.1, fractions=32)
    problem = problem_of(few, config, sizes=(20, 100, 400))
    setup = runs.Setup(individually_rational=False)
    [(_, outcome)] = runs.compete(setup, problem, tmp_path, progress=False)
    plan, curve, found = outcome.plan, outcome.curve, outcome.report
    assert any(abs(w * 10 - round(w * 10)) > 1e-3 for w in plan.widths)  # somebody's width is fractional
    at = np.searchsorted(curve.widths, plan.widths)
    assert curve.accuracy[at].tolist() == aq.accuracy(outcome.models, few.validation).tolist()
    assert [found.curve["test"][k] for k in at] == pytest.approx(aq.accuracy(outcome.models, few.test), abs=1e-6)
    row = _figures(found)
    assert row["largest_step"] < row["largest_whole_step"]
    assert row["largest_whole_step"] == pytest.approx(_largest_step(outcome, whole=True), abs=2e-6)
    assert row["largest_step"] == pytest.approx(_largest_step(outcome, whole=False), abs=2e-6)


def _largest_step(outcome: aq.Outcome, whole: bool) -> float:
    """Of the curve where rewards lie, at whole widths only or at all."""
    all_ = outcome.curve
    kept = [not whole or float(10 * w).is_integer() for w in all_.widths.round(9).tolist()]
    curve = aq.Curve(all_.widths[kept], all_.accuracy[kept], all_.samples)
    return aq.curve_diagnostics(curve, outcome.problem.contribution)["largest_step"]


def test_the_command_line_gives_the_report_of_the_method_to_the_bit(tmp_path: Path) -> None:
    options = {"participants": 3, "rounds": 2, "local_steps": 3, "seed": 4}
    words = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["run", *words, "--partition", "homogeneous", "--out", str(tmp_path / "run")]) == 0
    assert main(["reproduce", *words, "--partition", "homogeneous", "--out", str(tmp_path / "all")]) == 0
    config = aq.Config(**options)
    data = aq.load("fashion-mini", seed=config.seed)
    shards, build = aq.data.homogeneous(data.train, config), aq.for_dataset(aq.MLP, data)
    found = aq.aequa(build, shards, config, data, partition="homogeneous", progress=False).report
    found.save(tmp_path / "library")
    reports = [aq.Report.load(tmp_path / name) for name in ("library", "run", "all/aequa")]
    assert len({repr(replace(each, seconds=0.0)) for each in reports}) == 1


def test_the_command_line_measures_contributions_by_the_word_that_was_asked(tmp_path: Path) -> None:
    short = ["--participants", "2", "--rounds", "1", "--local-steps", "2", "--partition", "power_law"]
    found = []
    for word in ("standalone_accuracy", "test_accuracy"):
        assert main(["run", *short, "--contribution", word, "--out", str(tmp_path / word)]) == 0
        found.append(aq.Report.load(tmp_path / word))
    assert found[0].standalone == found[1].standalone == found[1].contribution  # all three of the test split
    assert found[0].contribution != found[1].contribution


def test_a_training_that_diverges_is_one_sentence_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--participants", "2", "--rounds", "4", "--local-steps", "9", "--lr", "1000"]
    assert main(["run", *short, "--out", str(tmp_path / "run")]) == 1
    found = capsys.readouterr().err
    assert "Traceback" not in found
    assert "aequa run: round 0: every update was refused" in found


def test_there_is_one_set_of_defaults() -> None:
    fleet = pytest.importorskip("aequa_lite.flower.fleet")
    cells = json.loads((ROOT / "notebooks" / "reproduce.ipynb").read_text())["cells"]
    (text,) = ("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    own = {"scale", "keep", "out"}  # of the notebook alone
    written = {k: v for k, v in parameters([text]).items() if k not in own}
    usual = {each.name: each.default for each in (*fields(runs.Setup), *fields(aq.Config))}
    assert written == usual
    partition = signature(fleet.run_fleet).parameters["partition"].default
    assert partition == signature(fleet.Fleet).parameters["partition"].default == runs.Setup().partition
    settings = fleet.Settings()
    assert (settings.network, settings.data, settings.algorithm) == (usual["network"], usual["data"], usual["methods"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "--rounds", "x"], "invalid int value: 'x'"),
        (["run", "--rounds", "0"], "`rounds` must be a whole number"),
        (["run", "--partition", "dirichle"], "the nearest is 'dirichlet'"),
        (["run", "--data", "no-such-set"], "no-such-set"),
        (["show", "nowhere"], "report.json is not a report"),
        (["verify", "nowhere"], "nowhere"),
        (["sweep", "nowhere.yml"], "cannot be read"),
        (["reproduce", "--methods", "aequaa"], "the nearest is 'aequa'"),
        ([], "required"),
        (["nothing"], "invalid choice"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exit_two(words, sentence, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    found = capsys.readouterr().err
    assert sentence in found
    assert "Traceback" not in found
    assert len(found.strip().splitlines()) == 1


def test_a_number_that_papermill_writes_as_a_call_is_one_and_the_others_are_kept() -> None:
    declared = "rounds: int = 20\nseed: int = 0\nlr: float = 0.1"
    passed = "# Parameters\nrounds = 3\nseed = 7\nlr = float('inf')\n"
    assert parameters([declared, passed]) == {"rounds": 3, "seed": 7, "lr": float("inf")}


def test_a_folder_that_cannot_be_written_to_is_refused_before_training(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("aequa_lite.cli.prepare", lambda *_: pytest.fail("work began"))
    for command in ("run", "reproduce"):
        assert main([command, "--out", str(tmp_path / "file")]) == 2


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """A table of three hospitals."""
    rng = np.random.default_rng(0)
    lines = [
        f"{'ABC'[i % 3]},{rng.normal(60, 10):.0f},{rng.integers(1, 4)},note {i},{'yes' if rng.random() < 0.5 else 'no'}"
        for i in range(180)
    ]
    (tmp_path / "patients.csv").write_text("\n".join(["hospital,age,ward,note,ill", *lines]) + "\n")
    return tmp_path / "patients.csv"


TABLE = [
    "--label",
    "ill",
    "--participant",
    "hospital",
    "--network",
    "TabularMLP",
    "--rounds",
    "2",
    "--local-steps",
    "2",
]


def test_a_table_of_hospitals_is_named_from_the_command_to_the_reward(
    patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--data", str(patients), *TABLE, "--partition", "natural", "--participants", "2"]
    assert main([*words, "--drop", "note", "--categorical", "ward", "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    found = aq.Report.load(tmp_path / "run")
    used = found.data["participants"]
    (left,) = {"A", "B", "C"} - set(used)
    assert f"not taking part (2 of 3 do): {left}" in told
    assert "columns: age, ward" in told
    assert found.data["labels"] == ["no", "yes"]
    assert sum(found.data["samples"]) < found.data["sizes"]["train"]
    assert all(line.endswith(name) for line, name in zip(aq.table(found).splitlines()[1:], used))
    encoder, _ = aq.rewards.load_encoder(tmp_path / "run" / "rewards" / "participant-00.safetensors")
    assert encoder.features == ("age", "ward=1", "ward=2", "ward=3")
    assert not list((tmp_path / "run").glob("state*"))  # of a run that ended nothing is left


def test_owners_need_the_natural_partition(patients: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--data", str(patients), *TABLE, "--drop", "note"]) == 2
    assert "`partition` must be 'natural' where `participant` names the owners" in capsys.readouterr().err


def test_a_killed_run_of_the_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "run",
        "--participants",
        "2",
        "--rounds",
        "3",
        "--local-steps",
        "2",
        "--partition",
        "power_law",
        "--validation-weights",
    ]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    rounds, federate = [], aq.method.federate

    def killed(*args, **options):
        for last in federate(*args, **options):
            rounds.append(last.index)
            if rounds == [0, 1]:
                raise KeyboardInterrupt
            yield last

    monkeypatch.setattr(aq.method, "federate", killed)
    assert main([*words, "--out", str(tmp_path / "run")]) == 130
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert rounds == [0, 1, 2]
    reports = [replace(aq.Report.load(tmp_path / name), seconds=0.0) for name in ("whole", "run")]
    assert reports[0] == reports[1]


def test_ctrl_c_does_not_wait_for_whoever_still_trains(tmp_path: Path) -> None:
    """Everybody trains for hours, alone; the test's own limit is a minute."""
    words = ["run", "--participants", "2", "--rounds", "1", "--local-steps", "1000000", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "aequa_lite", *words]
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # it may be ignored where the tests were started
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listening) as running:
        try:
            while not running.stderr.read(1).strip():  # the bar of those who train alone
                pass
            running.send_signal(signal.SIGINT)
            told = running.communicate(timeout=60)[1]
        finally:
            running.kill()
    assert running.returncode == 130
    assert told.endswith("aequa run: stopped; the same command goes on with what is not finished\n")
    assert "Traceback" not in told


def test_every_option_of_the_command_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    about = [
        re.findall(rf"^ +{each.name}: (.+)", str(of.__doc__), re.M)[0].replace("`", "")
        for of in (aq.Config, runs.Setup)
        for each in fields(of)
        if each.name != "methods"
    ]
    for words in about:
        assert len(words) >= 10
        assert words in told


def test_other_files_of_the_output_folder_stay(tmp_path: Path) -> None:
    other = tmp_path / "state_dict.safetensors"
    other.write_bytes(b"mine")
    words = ["--participants", "2", "--rounds", "1", "--local-steps", "1", "--grid", "10", "--partition", "homogeneous"]
    assert main(["run", *words, "--out", str(tmp_path)]) == 0
    assert other.read_bytes() == b"mine"
    assert not (tmp_path / "state.safetensors").exists()
