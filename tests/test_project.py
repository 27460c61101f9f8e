"""The house rules: imports in one direction, one word per concept, short pieces, every public name documented."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import aequa_lite as aq

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "aequa_lite"
PAGE = (ROOT / "book" / "architecture.md").read_text()
ROOMS = re.findall(
    r"`(\w+)\.py`", PAGE[PAGE.index("| file |") : PAGE.index("## The path")]
)  # the order is written once
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if re.match(r"\d\d_", path.stem)]
BANNED = r"\b(clients?|users?|part(?:y|ies)|utils?|helpers?|managers?|callbacks?|multiplier)\b"
# PyTorch's own module and LEAF's own keys are other people's names
QUOTED = re.compile(r"torch\.utils|\"users?\"|'users?'|\"user_data\"|user_data|third[- ]party")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> set[str]:
    """The rooms that a file imports from."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return found


def test_every_file_is_a_room_of_the_house() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_file_imports_only_from_files_above_it(room: str) -> None:
    allowed = set(ROOMS[: ROOMS.index(room)])
    assert imports(PACKAGE / f"{room}.py") <= allowed


def test_only_the_rooms_of_figures_draw() -> None:
    drawing = {
        p.stem for p in PACKAGE.glob("*.py") if re.search(r"^(import|from) (matplotlib|seaborn)", p.read_text(), re.M)
    }
    assert drawing == {"plots", "interactive"}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda p: p.stem)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 330
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{path.name}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", [*sorted(PACKAGE.glob("*.py")), *NOTEBOOKS], ids=lambda p: p.stem)
def test_there_is_one_word_for_each_concept(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    assert not re.findall(BANNED, QUOTED.sub("", text), flags=re.I)


@pytest.mark.parametrize("name", aq.__all__)
def test_every_public_name_is_documented_with_an_example(name: str) -> None:
    text = getattr(aq, name).__doc__ or ""
    assert text.strip().splitlines()[0].rstrip().endswith((".", ":", "$"))
    assert ">>> " in text


@pytest.mark.parametrize("script", ["scripts/api.py", "scripts/results.py"])
def test_a_page_is_the_one_that_its_script_writes(script: str) -> None:
    subprocess.run([sys.executable, str(ROOT / script), "--check"], check=True)


def test_the_public_names_are_those_that_the_package_imports() -> None:
    names = [alias.asname or alias.name for node in ast.walk(tree(PACKAGE / "__init__.py"))
             if isinstance(node, ast.ImportFrom) and node.level for alias in node.names]  # fmt: skip
    assert sorted(names) == sorted(aq.__all__)


def test_no_randomness_is_global() -> None:
    for path in PACKAGE.glob("*.py"):
        assert not re.search(r"np\.random\.(seed|rand|choice|shuffle|permutation)\b|random\.seed", path.read_text()), (
            path
        )


def test_nothing_is_unpickled() -> None:
    for path in PACKAGE.glob("*.py"):
        assert not re.search(r"\bpickle\.load|torch\.load\(|allow_pickle=True", path.read_text()), path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_executed_short_celled_and_clean(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        tags = cell["metadata"].get("tags", [])
        assert len("".join(cell["source"]).splitlines()) <= 20 or "parameters" in tags
        assert cell["execution_count"] is not None
        assert not any(each["output_type"] == "error" for each in cell["outputs"])
        assert not re.search(r"/(home|root|tmp|Users)/", json.dumps(cell["outputs"]))
        assert set(tags) <= {"parameters", "hide-cell", "remove-cell", "nbval-skip", "nbval-ignore-output"}
        if "nbval-skip" in tags:
            assert "google.colab" in "".join(cell["source"])


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_has_the_form_of_a_chapter(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    assert cells[0]["source"][0].rstrip().endswith("?")  # the title is a question
    for part in (
        "After this chapter you can",
        "It runs",
        "aq.experiments.show_source(",
        "## Break it",
        "**Takeaway",
        "## Exercises",
        "## Recall",
    ):
        assert part in text.replace("\n", " "), part
    assert len(re.findall(r"^\*\*\d\. ", text, flags=re.M)) == 3
    assert any("parameters" in cell["metadata"].get("tags", []) for cell in cells)


def test_every_chapter_is_in_the_contents() -> None:
    contents = (ROOT / "_toc.yml").read_text()
    for path in [*NOTEBOOKS, *(ROOT / "book").glob("*.md")]:
        assert f"{path.parent.name}/{path.stem}" in contents


def test_versions_are_written_once() -> None:
    assert not re.search(r"\d+\.\d+", (ROOT / "environment.yml").read_text().replace("python=3.12", ""))
    assert "-e .[book,test]" in (ROOT / "environment.yml").read_text()


def test_every_environment_fits_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = [ROOT / "environment.yml", ROOT / ".binder" / "environment.yml"]
    written = "".join(path.read_text() for path in [*conda, ROOT / ".binder" / "postBuild", ROOT / "Makefile"])
    asked = ",".join(re.findall(r"\.\[([a-z,]+)\]", written) + re.findall(r"^EXTRAS := (.*)$", written, flags=re.M))
    assert {"book", "test"} <= set(asked.split(",")) <= set(project["optional-dependencies"])
    pythons = re.findall(r"python=([\d.]+)", written)
    pythons += re.findall(r'"(3\.\d+)"', (ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert len(pythons) == 4
    assert all(SpecifierSet(project["requires-python"]).contains(each) for each in pythons)


def test_colab_has_what_the_package_needs_and_gets_the_flower_that_it_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "scripts" / "colab.txt").read_text().splitlines()
    has = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    for each in map(Requirement, project["dependencies"]):  # the notebooks install the package without them
        assert each.specifier.contains(has[each.name]), each
    (flower,) = project["optional-dependencies"]["flower"]
    assert flower in (ROOT / "scripts" / "colab_check.py").read_text()


def test_the_readmes_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    quick = program.replace("seed=0)", "seed=0, rounds=2, local_steps=2)")
    assert quick != program
    exec(quick, {})  # our own README
    assert "smallest gain" in capsys.readouterr().out


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make quickstart" in readme
    assert "make test" in readme
    for path in (".ci/run", ".github/workflows/test.yml"):
        assert "make test" in (ROOT / path).read_text()
