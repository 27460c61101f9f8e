"""Sweeps: every case at every combination, finished runs are kept, failed ones stay rows with their reason."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from programs import program

import aequa_lite as aq
from aequa_lite import vectorized
from aequa_lite._parallel import available
from aequa_lite.experiments import sweep as runs
from aequa_lite.experiments import sweep as sweeps
from aequa_lite.experiments import tables
from aequa_lite.experiments.run import folder_name, split_parameters

ROOT = Path(__file__).resolve().parents[1]
verdicts, comparisons = program("scripts/published.py"), program("scripts/comparisons.py")
REPRODUCE = ROOT / "notebooks" / "reproduce.ipynb"

SMALL = """
import aequa_lite as aq
if seed == 2: raise ValueError("two is refused")
data = aq.load("fashion-mini", device="cpu")
few = aq.Dataset("few", data.train, data.validation, data.test.take(slice(0, None, 20)), "0" * 64)
nets = [aq.MLP(0.1), aq.MLP(width)]
shards = [aq.Shard(i, few.train, range(len(few.train))) for i in range(2)]
problem = aq.Problem(aq.MLP, shards, aq.Config(participants=2), few, nets, [0.1, 0.1])
last = aq.Round(0, aq.ServerState({}), (1.0, 1.0), 0.1, 0)
aq.report(aq.Outcome(problem, nets, last)).save(out)
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook of two cells: its parameters, and a report."""
    first = nbformat.v4.new_code_cell(
        "seed: int = 0\nwidth: float = 0.5\nout: str = ''", metadata={"tags": ["parameters"]}
    )
    book = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(SMALL)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "small.ipynb")
    return tmp_path / "small.ipynb"


def written(notebook: Path, **keys: object) -> Path:
    """A sweep file beside the notebook."""
    path = notebook.with_name("small.yml")
    path.write_text(yaml.safe_dump({"notebook": str(notebook), "grid": {"seed": [0]}, **keys}))
    return path


def test_every_case_is_run_at_every_combination(notebook: Path) -> None:
    found = sweeps.read_sweep(written(notebook, cases={"a": None, "b": {"width": 0.2}}, grid={"seed": [0, 1, 2]}))
    every = found.runs()
    assert len(every) == 6
    assert every[1].label == {"case": "b", "seed": 0}
    assert every[1].parameters == {"seed": 0, "width": 0.2}
    assert every[1].methods == ()
    assert len({run.folder(Path("runs")) for run in every}) == 6


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"grid": {"sed": [0]}}, "got 'sed'; the nearest is 'seed'"),
        ({"grid": {"seed": 0}}, "grid seed` must be a list of values, got 0"),
        ({"cases": {"a": {"widt": 1}}}, "got 'widt'; the nearest is 'width'"),
        ({"fixed": {"out": "elsewhere"}}, "got 'out'"),
        ({"shape": 3}, "`key` must be one of .*'shape'"),
        (
            {"cases": {"a": None, "b": {"seed": 0}}, "grid": {"width": [0.2], "seed": [0]}},
            "cases .*'a'.* are the same run",
        ),
    ],
)
def test_what_the_notebook_does_not_know_is_refused(notebook: Path, keys: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sweeps.read_sweep(written(notebook, **keys))


@pytest.mark.filterwarnings("ignore")  # what a kernel and its client warn of is not ours
def test_a_sweep_resumes_and_a_failed_run_stays_a_row(notebook: Path, tmp_path: Path) -> None:
    found = sweeps.read_sweep(written(notebook, grid={"seed": [0, 2]}))
    sweeps.run_sweep(found, root=tmp_path / "runs")
    table = sweeps.gather(found, root=tmp_path / "runs", results=tmp_path / "results")
    assert table["status"][0] == "done"
    assert "two is refused" in table["status"][1]
    kept = found.runs()[0].folder(tmp_path / "runs" / "small") / "report.json"
    before = kept.stat().st_mtime_ns
    sweeps.run_sweep(found, root=tmp_path / "runs")
    assert kept.stat().st_mtime_ns == before
    assert list(pd.read_csv(tmp_path / "results" / "small" / "runs.csv")["seed"]) == [0, 2]
    assert aq.Report.load(kept.parent).config["participants"] == 2
    kept_with_it = tmp_path / "results" / "small" / "sweep.yml"
    assert kept_with_it.read_text() == notebook.with_name("small.yml").read_text()


@pytest.mark.filterwarnings("ignore")
def test_a_table_keeps_what_another_machine_has_run(notebook: Path, tmp_path: Path) -> None:
    there, here, results = tmp_path / "there", tmp_path / "here", tmp_path / "results"
    one = sweeps.read_sweep(written(notebook, grid={"seed": [0]}))
    sweeps.run_sweep(one, root=there)
    first = sweeps.gather(one, root=there, results=results)
    both = sweeps.read_sweep(written(notebook, grid={"seed": [0, 1]}))
    kept = sweeps.finished(both, results)
    sweeps.run_sweep(both, root=here, kept=kept)
    assert [run.missing(here / "small") for run in both.runs()] == [[""], []]  # the first was not repeated
    table = sweeps.gather(both, root=here, results=results)
    assert list(table["status"]) == ["done", "done"]
    assert table["alone_best"][0] == pytest.approx(first["alone_best"][0], rel=1e-5)
    other = sweeps.read_sweep(written(notebook, fixed={"width": 0.3}, grid={"seed": [0, 1]}))
    assert sweeps.finished(other, results) == {}  # other parameters are other runs


@pytest.mark.filterwarnings("ignore")
def test_finished_rows_are_known_by_empty_words_and_by_numbers_of_any_kind(notebook: Path, tmp_path: Path) -> None:
    book = nbformat.read(notebook, as_version=4)
    book.cells[0].source = "seed: int = 0\nwidth: float = 0.5\nword: str = ''\nout: str = ''"
    nbformat.write(book, notebook)
    found = sweeps.read_sweep(written(notebook, grid={"word": ["", "a"], "width": [1, 0.5]}))
    sweeps.run_sweep(found, root=tmp_path / "runs")
    sweeps.gather(found, root=tmp_path / "runs", results=tmp_path / "results")
    kept = sweeps.finished(found, tmp_path / "results")
    assert {digest for digest, _ in kept} == {run.digest for run in found.runs()}


def test_every_field_of_a_config_is_a_parameter_with_a_comment() -> None:
    known = papermill.inspect_notebook(str(REPRODUCE))
    assert set(aq.Config.__dataclass_fields__) <= set(known)
    assert all(each["help"] and each["inferred_type_name"] != "None" for each in known.values())


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yml")), ids=lambda p: p.stem)
def test_every_sweep_asks_for_what_there_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    own = {"scale", "keep", "out"}
    for run in sweeps.read_sweep(path).runs():
        asked = {"methods": ", ".join(run.methods), **run.parameters}
        split_parameters({name: value for name, value in asked.items() if name not in own})


def run_of(seed: int, case: str = "a", **more: object) -> runs.Run:
    return runs.Run({"case": case, "seed": seed}, {"seed": seed, "case": case, **more})


def test_shares_are_balanced_over_cases_and_complete() -> None:
    every = [run_of(seed, case) for seed in range(3) for case in ("slow", "quick", "middling")]
    shares = [runs.share(every, part, 2) for part in range(2)]
    assert sorted(run.digest for each in shares for run in each) == sorted(run.digest for run in every)
    for each in shares:
        counts = [sum(run.label["case"] == case for run in each) for case in ("slow", "quick", "middling")]
        assert max(counts) - min(counts) <= 1
    with pytest.raises(ValueError, match=r"`part` must be a whole number in \[0, 1\], got 2"):
        runs.share(every, 2, 2)


def test_a_list_of_grids_is_their_union_and_conditions_give_way_to_grids(notebook: Path) -> None:
    grid = [{"seed": [0, 1]}, {"seed": [1], "width": [0.2]}]
    when = [{"if": {"seed": [1, 2]}, "set": {"width": 0.7}}]
    found = sweeps.read_sweep(written(notebook, grid=grid, when=when, fixed={"width": 0.3})).runs()
    assert [run.parameters["width"] for run in found] == [0.3, 0.7, 0.2]
    assert [run.label for run in found] == [
        {"seed": 0, "width": 0.3},
        {"seed": 1, "width": 0.7},
        {"seed": 1, "width": 0.2},
    ]


def test_a_method_that_is_added_later_changes_no_folder_and_is_run_alone(tmp_path: Path) -> None:
    both, one = (runs.Run({"seed": 0}, {"seed": 0}, methods) for methods in (("aequa", "fedavg"), ("aequa",)))
    assert both.folder(tmp_path) == one.folder(tmp_path)
    (both.folder(tmp_path) / "aequa").mkdir(parents=True)
    (both.folder(tmp_path) / "aequa" / "report.json").write_text("{}")
    assert both.missing(tmp_path) == ["aequa", "fedavg"]  # the run was killed before its end
    (both.folder(tmp_path) / runs.ENDED).touch()
    assert (one.missing(tmp_path), both.missing(tmp_path)) == ([], ["fedavg"])


def test_a_claimed_run_is_left_to_whoever_claimed_it(notebook: Path, tmp_path: Path) -> None:
    (run,) = sweeps.read_sweep(written(notebook)).runs()
    with sweeps.claimed(run.folder(tmp_path)):
        assert sweeps.run_one(partial(sweeps.in_notebook, notebook), run, tmp_path) is False
    assert not (run.folder(tmp_path) / "run.ipynb").exists()


def little(tmp_path: Path, **keys: object) -> sweeps.Sweep:
    """A sweep of small runs: two seeds of two partitions, two methods."""
    fixed = {
        "participants": 3,
        "rounds": 2,
        "local_steps": 2,
        "batch": 8,
        "grid": 10,
        "keep": False,
        "network": "MLP(hidden=40)",
    }
    about = {"notebook": str(REPRODUCE), "fixed": {"methods": "aequa, fedavg", "device": "cpu", **fixed}}
    about |= {"grid": {"seed": [0, 1], "partition": ["homogeneous", "dirichlet(0.5)"]}, **keys}
    (tmp_path / "little.yml").write_text(yaml.safe_dump(about))
    return sweeps.read_sweep(tmp_path / "little.yml")


def rows(sweep: sweeps.Sweep, root: Path) -> pd.DataFrame:
    """The table of a sweep without its seconds."""
    table = sweeps.gather(sweep, root=root, results=root / "results")
    assert set(table["status"]) == {"done"}
    return table.drop(columns=["seconds", "seconds_alone"])


def test_a_notebook_that_vanished_is_the_reason_of_its_row(tmp_path: Path) -> None:
    run = runs.Run({"seed": 0}, {"seed": 0})
    in_vain = partial(sweeps.in_notebook, tmp_path / "gone.ipynb")
    with ThreadPoolExecutor(1) as pool:  # as a sweep does: a thread that has no event loop yet
        assert pool.submit(sweeps.run_one, in_vain, run, tmp_path).result()
    reason = (run.folder(tmp_path) / "failed.txt").read_text()
    assert reason.startswith("no data: ")
    assert "gone.ipynb" in reason


def test_runs_of_one_shape_share_their_passes_and_give_the_rows_of_each_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, train = [], vectorized._Stack.train
    monkeypatch.setattr(
        vectorized._Stack, "train", lambda self, plan: sizes.append(len(self.shards)) or train(self, plan)
    )
    monkeypatch.setattr(sweeps, "run_pack", partial(sweeps.run_pack, vectorized=True))
    sweep = little(tmp_path)
    sweeps.run_sweep(sweep, root=tmp_path / "packed", pack=3)
    # three runs, then the fourth: trained alone, and two rounds of each method
    assert sizes == [9, 9, 9, 9, 9, 3, 3, 3, 3, 3]
    for run in sweep.runs():
        sweeps.run_pack([run], sweep.defaults, tmp_path / "single" / "little")
    pd.testing.assert_frame_equal(rows(sweep, tmp_path / "packed"), rows(sweep, tmp_path / "single"), rtol=1e-4)
    sweeps.run_sweep(sweep, root=tmp_path / "packed", pack=3)  # what is finished is not repeated
    assert len(sizes) == 10 + 4 * 5


@pytest.mark.filterwarnings("ignore")
def test_packed_runs_leave_what_the_notebook_leaves(tmp_path: Path) -> None:
    sweep = little(tmp_path, grid={"seed": [0]})
    sweeps.run_sweep(sweep, root=tmp_path / "packed", pack=2)
    sweeps.run_sweep(sweep, root=tmp_path / "notebook")
    pd.testing.assert_frame_equal(rows(sweep, tmp_path / "packed"), rows(sweep, tmp_path / "notebook"))
    left, executed = (json.loads((sweep.runs()[0].folder(tmp_path / each / "little") / "run.json").read_text())
                      for each in ("packed", "notebook"))  # fmt: skip
    differ = {"seconds_alone", "out"}
    assert {k: v for k, v in left.items() if k not in differ} == {k: v for k, v in executed.items() if k not in differ}


def test_a_packed_run_that_fails_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    grid = {"seed": [0, 1], "partition": ["homogeneous", "dirichlet(-1)"]}
    sweep = little(tmp_path, grid=grid)
    sweeps.run_sweep(sweep, root=tmp_path, pack=4)
    table = sweeps.gather(sweep, root=tmp_path, results=tmp_path / "results")
    wrong = table["partition"] == "dirichlet(-1)"
    assert wrong.sum() == 4
    assert (table["status"][~wrong] == "done").all()
    assert table["status"][wrong].str.startswith("refused: ").all()


def test_training_that_fails_in_a_pack_fails_for_its_own_run_only() -> None:
    meeting = sweeps.RunGroup(3)

    def many(requests: list[int]) -> list[int]:
        if 2 in requests:
            raise ValueError(f"two of {len(requests)}")
        return [10 * each for each in requests]

    def run(k: int) -> int | str:
        try:
            return meeting.execute(lambda: meeting.ask(many, k) + (meeting.ask(many, k) if k == 1 else 0))
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, (1, 2, 3))) == [20, "two of 1", 30]


def test_only_runs_of_reproduce_are_packed(notebook: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`pack` must be 1 with this notebook"):
        sweeps.run_sweep(sweeps.read_sweep(written(notebook)), root=tmp_path, pack=2)
    with pytest.raises(ValueError, match="`pack` must be a whole number from 1, got 0"):
        sweeps.run_sweep(little(tmp_path), root=tmp_path, pack=0)


def test_a_key_that_stands_twice_is_refused(notebook: Path) -> None:
    path = written(notebook)
    path.write_text(path.read_text() + "grid: {seed: [1]}\n")
    with pytest.raises(ValueError, match="key 'grid' stands twice"):
        sweeps.read_sweep(path)


def test_a_killed_process_leaves_its_runs_to_others(tmp_path: Path) -> None:
    holds = "import sys, time; from pathlib import Path; from aequa_lite.experiments.sweep import claimed\n"
    holds += "with claimed(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", holds, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with sweeps.claimed(tmp_path) as mine:
            assert not mine
        other.kill()
        other.wait()
    with sweeps.claimed(tmp_path) as mine:
        assert mine


def test_runs_side_by_side_compute_with_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("AEQUA_WORKERS", raising=False)
    with sweeps.one_thread_each():
        assert os.environ["OMP_NUM_THREADS"] == os.environ["AEQUA_WORKERS"] == "1"
        assert available() == 1
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "AEQUA_WORKERS" not in os.environ


def test_the_summary_has_mean_spread_and_seeds_of_what_is_done() -> None:
    table = pd.DataFrame(
        {
            "data": ["a", "a", "a", "b"],
            "seed": [0, 1, 2, 0],
            "method": "aequa",
            "status": ["done", "done", "failed: no", "done"],
            "mcg": [0.1, 0.3, None, 0.5],
            "worse_off": [1, 2, None, 0],
        }
    )
    first, second = tables.summary(table, ["data"]).to_dict("records")
    assert (first["seeds"], first["runs"], first["worse_off_sum"]) == ("0 1", 2, 3)
    assert first["mcg_mean"] == pytest.approx(0.2)
    assert first["mcg_sd"] == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert np.isnan(second["mcg_sd"])
    assert tables.about(table, "x")["others"] == {"failed: no": 1}


@pytest.mark.parametrize(
    ("value", "trend", "word"),
    [
        (0.95, {}, "matched"),
        (0.99, {"above": 0.9}, "trend only"),
        (0.99, {"above": 0.95}, "not matched"),
        (0.99, {"above column": "low"}, "trend only"),
        (0.99, {"above column": "high"}, "not matched"),
        (0.99, {}, "not matched"),
    ],
)
def test_a_verdict_follows_from_the_rows(value: float, trend: dict, word: str) -> None:
    table = pd.DataFrame({"pearson": [0.93, 0.95], "low": 0.1, "high": 0.99, "seed": [0, 1], "method": "aequa"})
    table = table.assign(status="done", device="cpu")
    claim = verdicts.Claim("", "", "seen", value, "pearson", {"method": "aequa"}, 0.02, "", trend)
    found = verdicts.check_claim(claim, table)
    assert (found.word, found.seeds, found.runs) == (word, (0, 1), 2)
    assert found.mean == pytest.approx(0.94)
    for nothing in (
        None,
        table[:0],
        table.assign(status="failed"),
        table.drop(columns="method"),
        table.assign(pearson=None),
    ):
        assert verdicts.check_claim(claim, nothing).word == "not tried"


def test_wins_are_counted_over_cells_after_the_seeds_were_averaged() -> None:
    table = pd.DataFrame(
        [("a", 0, "aequa", 0.9), ("a", 1, "aequa", 0.5), ("a", 0, "fedavg", 0.6), ("a", 1, "fedavg", 0.6),
         ("b", 0, "aequa", 0.4), ("b", 0, "fedavg", 0.6), ("c", 0, "aequa", 0.9)],
        columns=["data", "seed", "method", "reward_best"],
    ).assign(status="done")  # fmt: skip
    assert verdicts.wins(table, "aequa") == (1, 2)
    assert verdicts.wins(table, "fedavg") == (1, 2)


def test_published_figures_name_sweeps_and_columns_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for claim in itertools.chain(*verdicts.published(ROOT / "results" / "published.yml").values()):
        for name in claim.sweeps.values():
            found = sweeps.read_sweep(ROOT / "sweeps" / f"{name}.yml").runs()
            if "method" in claim.rows:
                wanted = claim.rows["method"]
                words = {word for run in found for word in run.methods}
                assert words & set([wanted] if isinstance(wanted, str) else wanted), claim.claim
            for column in set(claim.rows) - {"method", "informative"}:
                assert claim.rows[column] in {run.label.get(column) for run in found}, claim.claim


def test_a_claim_with_a_key_too_few_or_too_many_is_refused(tmp_path: Path) -> None:
    entry = {"claim": "c", "source": "s", "mark": "seen", "measure": "m", "rows": {}, "tolerance": 1, "why": "w"}
    for wrong in ({"value": 1}, {"value": 1, "sweeps": {}, "valuu": 1}, {"sweeps": {}}):
        (tmp_path / "p.yml").write_text(yaml.safe_dump({"a": [{**entry, **wrong}]}))
        with pytest.raises(ValueError, match="claim 'c' lacks or has in excess"):
            verdicts.published(tmp_path / "p.yml")


def methods_of(seed: int, *rows: tuple[str, float, float, float]) -> list[dict[str, object]]:
    """Rows of one run: method, best reward, mean reward and CGS."""
    names = ("method", "reward_best", "reward_mean", "cgs")
    return [{"data": "a", "seed": seed, "informative": True, "pearson": 0.98, **dict(zip(names, row))} for row in rows]


def test_ours_is_on_the_front_unless_another_method_is_as_good_in_both_and_better_in_one() -> None:
    ours, plain = ("aequa", 0.8, 0.7, 0.02), ("fedavg", 0.81, 0.81, 0.1)
    table = pd.DataFrame([
        *methods_of(0, ours, plain, ("cffl", 0.793, 0.6, 0.01)),  # a best reward within noise of ours, but less gain
        *methods_of(1, ours, plain, ("cffl", 0.8, 0.7, 0.01)),
        *methods_of(2, ours, plain, ("cffl", 0.8, 0.7, 0.02)),  # the same in both
        *methods_of(3, ours, plain, ("cffl", 0.795, 0.695, 0.01)),  # within noise of ours
        *methods_of(4, ours, plain, ("aequa(lr=1)", 0.9, 0.9, 0.0)),  # another setting of ours is no other method
        *methods_of(5, ours),  # without FedAvg it is not compared
    ])  # fmt: skip
    found = comparisons.of_runs(table).set_index("seed")
    assert found["front"].to_dict() == {0: True, 1: False, 2: True, 3: True, 4: True}
    assert found["lowest_at_gain"].to_dict() == {0: True, 1: False, 2: True, 3: False, 4: True}
    assert found["lowest_at_best"].to_dict() == {0: False, 1: False, 2: True, 3: False, 4: True}
    assert found["difference"].tolist() == pytest.approx([-1.0] * 5)
    assert found["ideal"].isna().all()
    measured = comparisons.of_runs(table.assign(ideal_pearson_ceiling=[0.985] * 9 + [0.995] * 7))
    assert measured["ideal"].tolist() == [True, True, True, False, False]


def test_the_interval_of_paired_differences_is_students() -> None:
    mean, low, high = comparisons.interval(pd.Series([0.0, 1.0, 2.0]))
    assert (mean, high - mean) == pytest.approx((1.0, 4.302653 / np.sqrt(3)), rel=1e-6)
    assert low == pytest.approx(2 * mean - high)
    assert np.isnan(comparisons.interval(pd.Series([1.0]))[1])


@pytest.mark.parametrize(
    ("method", "version", "best", "partition", "label"),
    [("cffl", "0.3.0", 0.505, "", "no gain at the top"), ("cffl", "0.3.0", 0.6, "", ""),
     ("cgsv(0.15)", "0.1.0", 0.6, "", "older code"),
     ("cgsv(0.15)", "0.3.0", 0.6, "", ""), ("iafl", "0.3.0", 0.6, "dirichlet(0.3)", "other draw")],
)  # fmt: skip
def test_a_verdict_names_its_reservation(
    monkeypatch: pytest.MonkeyPatch, method: str, version: str, best: float, partition: str, label: str
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    results = program("scripts/results.py")
    row = {"status": "done", "method": method, "version_aequa-lite": version, "alone_best": 0.5, "reward_best": best}
    monkeypatch.setattr(results, "rows_of", lambda name: pd.DataFrame([row]))
    monkeypatch.setattr(results, "drawn", lambda sweep, case: partition)
    claim = verdicts.Claim("", "", "seen", 0.9, "pearson", {"method": method}, 0.1, "")
    assert results.caveat(claim, "any") == label


@pytest.mark.filterwarnings("ignore")
def test_labels_keep_all_their_digits_and_failed_rows_of_another_machine_stay(notebook: Path, tmp_path: Path) -> None:
    here, results = tmp_path / "runs", tmp_path / "results"
    values = [10**17, 10**17 + 1, 2]
    found = sweeps.read_sweep(written(notebook, grid={"seed": values, "width": [0.51234567891]}))
    only = [run for run in found.runs() if run.label["seed"] in (10**17, 2)]  # seed 2 is refused
    for run in only:
        sweeps.run_one(partial(sweeps.in_notebook, found.notebook), run, here / "small")
    sweeps.gather(found, root=here, results=results)
    again = sweeps.gather(found, root=tmp_path / "elsewhere", results=results)
    assert [status.split(":")[0] for status in again["status"]] == ["done", "not run yet", "refused"]
    assert {digest for digest, _ in sweeps.finished(found, results)} == {found.runs()[0].digest}


@pytest.mark.filterwarnings("ignore")
def test_a_kill_between_two_files_of_a_table_leaves_one_that_is_known(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, results = tmp_path / "runs", tmp_path / "results"
    found = sweeps.read_sweep(written(notebook, grid={"seed": [0, 1]}))
    sweeps.run_one(partial(sweeps.in_notebook, found.notebook), found.runs()[0], here / "small")
    sweeps.gather(found, root=here, results=results)
    sweeps.run_one(partial(sweeps.in_notebook, found.notebook), found.runs()[1], here / "small")
    whole = tables.write_whole
    for most in range(1, 4):  # killed after so many files
        count = iter(range(most))
        monkeypatch.setattr(tables, "write_whole", lambda *own, left=count: (next(left), whole(*own)))
        with pytest.raises(StopIteration):
            sweeps.gather(found, root=here, results=results)
        tables.check_table(results / "small")
    monkeypatch.setattr(tables, "write_whole", whole)
    assert list(sweeps.gather(found, root=here, results=results)["status"]) == ["done", "done"]


def test_a_run_that_starts_again_has_not_ended(notebook: Path, tmp_path: Path) -> None:
    (run,) = sweeps.read_sweep(written(notebook)).runs()
    folder = run.folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / sweeps.ENDED).write_text("")

    def killed(asked: dict) -> None:
        (folder / "report.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweeps.run_one(killed, run, tmp_path)
    assert run.missing(tmp_path) == [""]


def test_a_folder_has_a_name_that_file_systems_take(tmp_path: Path) -> None:
    run = sweeps.Run({"a": "\u4e2d" * 90, "b": "\u6587" * 90}, {})
    run.folder(tmp_path).mkdir()
    long = f"aequa(schedule='training_time(0.02, grid=({', '.join(str(k / 64) for k in range(1, 65))}))')"
    (tmp_path / folder_name(long)).mkdir()
    assert folder_name(long) != folder_name(long.replace("0.02", "0.03"))


def test_a_label_that_is_null_keeps_its_row_in_the_summary() -> None:
    table = pd.DataFrame({"seed": [0, 1] * 2, "width": [None, None, 0.5, 0.5], "status": "done", "pearson": 0.5})
    assert len(tables.summary(table, ["width"])) == 2


def test_minutes_count_each_run_whatever_its_label() -> None:
    run = {"status": "done", "seconds": 60.0, "seconds_alone": 120.0}
    rows = [{"lr": lr, "method": method, **run} for lr in (0.1, 0.2) for method in ("aequa", "fedavg")]
    assert tables.about(pd.DataFrame(rows), "x")["minutes"] == 8.0  # twice alone, four trainings


def test_an_empty_label_is_written_and_read_alike() -> None:
    assert sweeps._plain(None) == sweeps._plain("")
    assert sweeps._plain("None") != sweeps._plain(None)
