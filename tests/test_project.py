"""The project's rules: reading order, sizes, words, documentation, notebooks, environments."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import json
import re
import statistics
import subprocess
import sys
import tokenize
import tomllib
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from programs import program

import aequa_lite as aq

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "aequa_lite"
PAGE = (ROOT / "book" / "architecture.md").read_text()
FILES = re.findall(r"`([\w/]+)\.py`", PAGE[PAGE.index("| part | file |") : PAGE.index("## To change X")])
CORE = [each for each in FILES[FILES.index("slimmable") : FILES.index("method") + 1] if each != "allocation/_search"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if re.match(r"\d\d_", path.stem)]
NAMESPACES = ("aggregation", "allocation", "attacks", "baselines", "data", "experiments", "networks", "plotting",
              "rewards", "theory")  # fmt: skip


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(file: str) -> set[str]:
    """The files of the package that a file imports when it is imported itself."""
    found: set[str] = set()
    for node in tree(PACKAGE / f"{file}.py").body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = file.split("/")[: -node.level] if node.level > 1 else file.split("/")[:-1]
            inner = [*base, *(node.module.split(".") if node.module else [])]
            targets = ["/".join(inner), *("/".join([*inner, each.name]) for each in node.names)]
            found |= {each for each in targets if (PACKAGE / f"{each}.py").exists()}
    return found


def test_every_file_stands_in_the_reading_order() -> None:
    every = {str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py")}
    assert {each for each in every if not each.endswith(("__init__", "__main__"))} == set(FILES)
    assert len(set(FILES)) == len(FILES)


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_from_files_above_it(file: str) -> None:
    assert imports(file) <= set(FILES[: FILES.index(file)])


LATE = {("method", "report"), ("method", "rewards")}  # an outcome's report and files, when they are asked for


def test_imports_from_below_are_the_stated_ones() -> None:
    found = set()
    for file in FILES:
        inner = [node for each in tree(PACKAGE / f"{file}.py").body for node in ast.walk(each)
                 if isinstance(each, (ast.FunctionDef, ast.ClassDef)) and isinstance(node, ast.ImportFrom)]  # fmt: skip
        below = set(FILES[FILES.index(file) :])
        for node in inner:
            if node.level:
                base = [*file.split("/")[: -node.level], *(node.module or "").split(".")]
                names = {
                    "/".join(filter(None, [*base, *extra])) for extra in ([], *([each.name] for each in node.names))
                }
                found |= {(file, each) for each in names & below}
    assert found == LATE


def test_the_page_says_how_long_the_core_is() -> None:
    core, bold = (int(each.replace(",", "")) for each in re.findall(r"about\s+([\d,]+)(?= (?:lines|of them))", PAGE))
    three = [f"{PACKAGE}/{each}.py" for each in ("slimmable", "federate", "method")]
    assert core == pytest.approx(sum(code_lines(PACKAGE / f"{each}.py") for each in CORE), abs=75)
    assert bold == pytest.approx(sum(code_lines(Path(each)) for each in three), abs=75)


def test_only_plotting_draws() -> None:
    drawing = re.compile(r"^(import|from) (matplotlib|seaborn)", re.M)
    found = {path.parent.name for path in PACKAGE.rglob("*.py") if drawing.search(path.read_text())}
    assert found == {"plotting"}


def code_lines(path: Path) -> int:
    """Lines of code: no blanks, comments or docstrings."""
    text = path.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docs |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    skip = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docs)


def functions(path: Path) -> list[tuple[str, int]]:
    """Name and code lines of the body of every function of a file, inner ones within their outer one."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            found.append((node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0))
    return found


def test_functions_are_short() -> None:
    sizes = sorted(size for path in PACKAGE.rglob("*.py") for _, size in functions(path))
    assert statistics.median(sizes) <= 7
    assert sizes[int(0.9 * len(sizes))] <= 20


@pytest.mark.parametrize("file", CORE)
def test_core_lines_fit_the_books_page(file: str) -> None:
    text = (PACKAGE / f"{file}.py").read_text()
    assert [line for line in text.splitlines() if len(line) > 76 and "http" not in line] == []


def test_the_top_level_has_at_most_sixty_names() -> None:
    assert len(aq.__all__) <= 60
    names = [alias.asname or alias.name for node in tree(PACKAGE / "__init__.py").body
             if isinstance(node, ast.ImportFrom) and node.module for alias in node.names]  # fmt: skip
    assert sorted(names) == sorted(aq.__all__)


# words of the project's first version that nobody in the field uses, each with what is said instead
PRIVATE = {
    "answer": "update", "answers": "updates", "drawer": "namespace", "hears": "receives", "heard": "received",
    "brought": "contributed", "doses": "sparsify", "dose": "partial model", "mixing": "shapfed", "recipe": "config",
    "recipes": "configs", "merge": "aggregate", "merged": "aggregated", "merging": "aggregating", "judge": "evaluate",
    "judged": "evaluated", "ledger": "run state", "temptation": "misreport gain",
    "temptations": "misreport gains", "keeper": "honest but curious", "rival": "baseline", "rivals": "baselines",
    "faded": "fractional", "rational": "individually rational", "submodels": "fedsac",
    "said": "stated", "hear": "receive", "hand": "send", "hands": "sends", "drawers": "namespaces", "shop": "namespace",
}  # "word" is no such word: text data has words, and the command line  # fmt: skip
ALLOWED = re.compile(
    r"held-out|[Mm]erge(?:d|_shards|s)? (?:two|shards|accounts|identities)|merged_shards|individually[_ ]rational"
    r"|ration|HeteroFL[^.]*merge|`?git merge`?|by_merge|\"recipe\" in found"
)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_names_and_docstrings_speak_the_fields_language(path: Path) -> None:
    text = ALLOWED.sub("", path.read_text())
    found = set(re.findall(r"[a-z]+", re.sub(r"([A-Z])", r" \1", text).replace("_", " ").lower()))
    assert found & set(PRIVATE) == set()


def public() -> list[tuple[str, str]]:
    """Every public name: of the top level, and of each namespace."""
    found = [("aequa_lite", name) for name in aq.__all__]
    for namespace in NAMESPACES:
        module = importlib.import_module(f"aequa_lite.{namespace}")
        found += [(f"aequa_lite.{namespace}", name) for name in module.__all__]
    return found


@pytest.mark.parametrize(("module", "name"), public(), ids=lambda each: str(each))
def test_every_public_name_is_documented_with_an_example(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return  # a constant, or a type such as Algorithm
    text = thing.__doc__ or ""
    assert text.strip().splitlines()[0].rstrip().endswith((".", ":", "$"))
    assert ">>> " in text
    assert "Source:" not in text  # References: is the heading


@pytest.mark.parametrize("script", ["scripts/api.py", "scripts/results.py"])
def test_a_page_is_the_one_that_its_script_writes(script: str) -> None:
    subprocess.run([sys.executable, str(ROOT / script), "--check"], check=True)


def test_no_function_of_the_library_takes_a_word_that_selects_code() -> None:
    edge = {"registry", "cli", "experiments/run", "experiments/sweep"}
    words = {"network", "partition", "allocation", "server", "width_sampler", "aggregate", "schedule", "algorithm"}
    for file in set(FILES) - edge:
        if file.startswith("flower/"):  # a run's settings travel as words
            continue
        for node in ast.walk(tree(PACKAGE / f"{file}.py")):
            if isinstance(node, ast.FunctionDef):
                for each in (*node.args.args, *node.args.kwonlyargs):
                    text = each.arg in words and ast.unparse(each.annotation) == "str" if each.annotation else False
                    assert not text or (file, each.arg) in {("report", "partition"), ("method", "partition")}, file


def test_no_randomness_is_global() -> None:
    for path in PACKAGE.rglob("*.py"):
        found = re.search(r"np\.random\.(seed|rand|choice|shuffle|permutation)\b|random\.seed", path.read_text())
        assert not found, path


def test_nothing_is_unpickled() -> None:
    for path in PACKAGE.rglob("*.py"):
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
        assert max(map(len, "".join(cell["source"]).splitlines()), default=0) <= 76
        assert cell["execution_count"] is not None
        assert not any(each["output_type"] == "error" for each in cell["outputs"])
        assert not re.search(r"/(home|root|tmp|Users)/", json.dumps(cell["outputs"]))
        assert set(tags) <= {
            "parameters",
            "hide-cell",
            "hide-input",
            "remove-cell",
            "nbval-skip",
            "nbval-ignore-output",
        }
        if "nbval-skip" in tags:
            assert "google.colab" in "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_figure_has_a_name_and_a_caption_below_it_and_no_number_is_written_by_hand(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    for cell, below in pairwise(cells):
        assert cell["cell_type"] == "code" or not re.search(
            r"\b(Fig\.|[Ff]igure) \d|\b[Ee]xercise \d", "".join(cell["source"])
        )
        if any("image/png" in each.get("data", {}) for each in cell.get("outputs", [])):
            assert re.fullmatch(r"fig-[a-z-]+", cell["metadata"]["mystnb"]["figure"]["name"])
            assert below["cell_type"] == "markdown"
            assert re.match(r"\*\w[^*]+\*(\n\n|$)", "".join(below["source"])), cell["id"]
            assert "hide-cell" not in cell["metadata"].get("tags", []), cell["id"]  # which would hide the figure too


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_most_cells_that_a_page_shows_are_short(path: Path) -> None:
    folded, solution, sizes = {"hide-cell", "hide-input", "remove-cell", "parameters"}, False, []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        for kind in re.findall(r"^:::\{solution-(start|end)\}", text, flags=re.M):
            solution = kind == "start"
        if cell["cell_type"] == "code" and not solution and not folded & set(cell["metadata"].get("tags", [])):
            sizes.append(len(text.splitlines()))
    assert sum(size < 8 for size in sizes) >= 0.6 * len(sizes)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_solution_holds_an_executed_cell(path: Path) -> None:
    inside, ran = None, {}
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code" and inside:
            ran[inside] = ran[inside] or cell["execution_count"] is not None
            assert "hide-cell" not in cell["metadata"].get("tags", []), cell["id"]  # the solution is folded already
        for kind, label in re.findall(r"^:::\{(solution-start|solution-end)\} ?(\S*)$", text, flags=re.M):
            inside = label if kind == "solution-start" else None
            if inside:
                ran[inside] = False
    assert ran
    assert all(ran.values())


def test_every_notebook_installs_alike_and_from_the_projects_address() -> None:
    check, address = (
        program("scripts/colab_check.py"),
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"],
    )
    assert f"url: {address}\n" in (ROOT / "_config.yml").read_text()
    assert check.FIRST.count("://") == check.FIRST.count(address) == 1
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        assert cells[1]["cell_type"] == "code", path.name
        skipped = ["".join(c["source"]) for c in cells if "nbval-skip" in c["metadata"].get("tags", [])]
        assert skipped == check.installing_cells(path.stem), path.name  # python scripts/colab_check.py --cells
        assert "".join(cells[1]["source"]) == check.FIRST, path.name
        for named in re.findall(r"https://(?:raw\.githubusercontent|github)\.com/[\w.-]+/[\w.-]+", path.read_text()):
            assert named.split("/")[3:] == address.split("/")[3:], (path.name, named)


@pytest.mark.parametrize("wheel", ["", "aequa_lite-9.0-py3-none-any.whl"])
def test_the_installing_cell_takes_an_uploaded_wheel_or_the_repository(
    wheel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, commands = program("scripts/colab_check.py"), []
    monkeypatch.chdir(tmp_path)
    shell = SimpleNamespace(system=commands.append)
    exec(check.FIRST, {"get_ipython": lambda: shell})
    assert not commands  # not on Colab
    if wheel:
        (tmp_path / wheel).touch()
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(check.FIRST, {"get_ipython": lambda: shell})
    assert commands == [f"pip -q install --no-deps {wheel or 'git+' + check.ADDRESS}"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_on_colab_a_gpu_means_longer_training(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads(path.read_text())["cells"]
    tags = [cell["metadata"].get("tags", []) for cell in cells]
    parameters = next(i for i, each in enumerate(tags) if "parameters" in each)
    assert "nbval-skip" in tags[parameters + 1]  # right behind them
    given: dict[str, object] = {"sys": sys}
    exec("".join(cells[parameters]["source"]), given)
    small = dict(given)
    exec("".join(cells[parameters + 1]["source"]), given)
    assert given == small  # not on Colab
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    for found in (False, True):
        monkeypatch.setattr("torch.cuda.is_available", lambda found=found: found)
        exec("".join(cells[parameters + 1]["source"]), given)
        changed = {k for k, value in small.items() if k != "__builtins__" and given[k] != value}
        assert bool(changed) is found
    assert changed <= {"rounds", "seeds", "local_steps", "scale"}
    assert all(given[name] > small[name] for name in changed)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_has_the_form_of_a_chapter(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    title = "".join(cells[0]["source"]).splitlines()
    assert title[0].startswith("# ")
    assert any(line.startswith("*") and line.endswith("?*") for line in title)  # the question is the subtitle
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
    exercises = re.findall(r"^:::\{exercise\} (Warm-up|Practice|Advanced): .+\n:label: (ex-[a-z-]+)$", text, flags=re.M)
    assert len(exercises) >= 3
    assert {level for level, _ in exercises} == {"Warm-up", "Practice", "Advanced"}
    assert len(exercises) == len(re.findall(r"^:::\{exercise", text, flags=re.M))
    solutions = re.findall(
        r"^:::\{solution-start\} (ex-[a-z-]+)\n:label: \S+\n:class: dropdown\n:::\n\n\w.+", text, flags=re.M
    )
    assert solutions == [label for _, label in exercises]  # each opens with a sentence
    assert any("parameters" in cell["metadata"].get("tags", []) for cell in cells)


def test_every_chapter_is_in_the_contents() -> None:
    contents = (ROOT / "_toc.yml").read_text()
    for path in [*NOTEBOOKS, *(ROOT / "book").rglob("*.md")]:
        assert str(path.relative_to(ROOT).with_suffix("")) in contents


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
    assert len(pythons) == 5  # conda, binder, the tests, the newest and the oldest versions
    assert all(SpecifierSet(project["requires-python"]).contains(each) for each in pythons)


def test_colab_has_what_the_package_needs_and_gets_the_flower_that_it_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "scripts" / "colab.txt").read_text().splitlines()
    has = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    for each in map(Requirement, project["dependencies"]):  # the notebooks install the package without them
        assert each.specifier.contains(has[each.name]), each
    flower, *_ = project["optional-dependencies"]["flower"]
    assert flower in (ROOT / "scripts" / "colab_check.py").read_text()


def test_the_readmes_program_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    quick = program.replace("seed=0)", "seed=0, rounds=2, local_steps=2)").replace("runs/first", str(tmp_path))
    assert quick != program
    exec(quick, {})  # our own README
    assert "smallest gain" in capsys.readouterr().out


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make quickstart" in readme
    assert "make test" in readme
    for path in (".ci/run", ".github/workflows/test.yml"):
        assert "make test" in (ROOT / path).read_text()
