"""Sweeps: every case at every combination, finished runs are kept, failed ones stay rows with their reason."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
import yaml

import aequa_lite as aq
from aequa_lite import sweep as sweeps

SMALL = """
import aequa_lite as aq
if seed == 2: raise ValueError("two is refused")
data = aq.load("fashion-mini", device="cpu")
few = aq.Data("few", data.train, data.validation, data.test.take(slice(0, None, 20)), "0" * 64)
nets = [aq.MLP(0.1), aq.MLP(width)]
aq.report(nets, nets, None, None, few, aq.Recipe(participants=2)).save(out)
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
    runs = found.runs()
    assert len(runs) == 6
    assert runs[1].label == {"case": "b", "seed": 0}
    assert runs[1].parameters == {"seed": 0, "width": 0.2}
    assert runs[1].methods == ()
    assert len({run.folder(Path("runs")) for run in runs}) == 6


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"grid": {"sed": [0]}}, "'sed'.*nearest is.*seed"),
        ({"grid": {"seed": 0}}, "'seed' = 0; allowed is a list"),
        ({"cases": {"a": {"widt": 1}}}, "'widt'.*nearest is.*width"),
        ({"fixed": {"out": "elsewhere"}}, "'out'"),
        ({"shape": 3}, "unknown key 'shape'"),
    ],
)
def test_what_the_notebook_does_not_know_is_refused(notebook: Path, keys: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
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
    assert aq.Report.load(kept.parent).recipe["participants"] == 2


ROOT = Path(__file__).resolve().parents[1]
REPRODUCE = ROOT / "notebooks" / "reproduce.ipynb"


def test_every_field_of_a_recipe_is_a_parameter_with_words() -> None:
    known = papermill.inspect_notebook(str(REPRODUCE))
    assert set(aq.Recipe.__dataclass_fields__) <= set(known)
    assert all(each["help"] and each["inferred_type_name"] != "None" for each in known.values())


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yml")), ids=lambda p: p.stem)
def test_every_sweep_asks_for_what_there_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for run in sweeps.read_sweep(path).runs():
        recipe = {name: v for name, v in run.parameters.items() if name in aq.Recipe.__dataclass_fields__}
        aq.Recipe.from_dict(recipe)
        aq.network_named(run.parameters.get("network", "MLP"))
        aq.partition_named(run.parameters["partition"])
        constants = {name: run.parameters[name] for name in ("draw", "server", "allocation") if name in run.parameters}
        aq.methods_named(", ".join(run.methods), **constants, rational=False)
