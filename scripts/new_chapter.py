"""Write the notebook of a new chapter, which runs and has the form that the tests ask for.

usage: python scripts/new_chapter.py NAME TITLE        for instance 12_my_topic "My topic"

It says how many parameters a sub-network has, in every part that a chapter has. Replace one part after the other by your
topic, list the chapter in _toc.yml, and run it: `python scripts/refresh.py notebooks/NAME.ipynb`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
from colab_check import installing_cells
from nbformat import NotebookNode

from aequa_lite._io import atomic_write

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = ("remove-cell", "nbval-skip")


def text(source: str) -> NotebookNode:
    """A cell of prose."""
    return nbformat.v4.new_markdown_cell(source)


def code(source: str, *tags: str, figure: str = "") -> NotebookNode:
    """A cell of code; one that draws a figure names it."""
    metadata = {"mystnb": {"figure": {"name": figure}}} if figure else {"tags": list(tags)} if tags else {}
    return nbformat.v4.new_code_cell(source, metadata=metadata)


def exercise(level: str, title: str, label: str, question: str, answer: str, solution: str) -> list[NotebookNode]:
    """An exercise and its folded solution: a sentence, and a cell that runs."""
    asked = f":::{{exercise}} {level}: {title}\n:label: ex-{label}\n\n{question}\n:::"
    start = f":::{{solution-start}} ex-{label}\n:label: solution-{label}\n:class: dropdown\n:::\n\n{answer}"
    return [text(f"{asked}\n\n{start}"), code(solution), text(":::{solution-end}\n:::")]


def chapter(name: str, title: str) -> list[NotebookNode]:
    """The cells of a chapter."""
    label = re.sub(r"^\d\d_", "", name).replace("_", "-")
    installing, *larger = [code(each, *SKIPPED) for each in installing_cells(name)]
    return [
        text(
            f"# {title}\n\n*How many parameters does a sub-network have?*\n\n"
            "> **After this chapter you can** predict the size of a reward from its width. **You need**\n"
            "> {doc}`01_quickstart`. **It runs** in a few seconds."
        ),
        installing,
        code("seed: int = 0  # source of all randomness\nrounds: int = 2  # rounds of training", "parameters"),
        *larger,
        code("import matplotlib.pyplot as plt\n\nimport aequa_lite as aq\n\naq.plotting.style()", "hide-cell"),
        text(
            "## The smallest example, by hand\n\n"
            "A matrix has 3 x 3 numbers. Two units of each side keep its leading block of 2 x 2 numbers."
        ),
        code("block = aq.prefix((2, 2))"),
        text(
            "## The equation\n\nA layer with $m$ inputs and $n$ outputs has $mn$ weights. At width $w$ both sides keep the\n"
            "share $w$, so $w^2 mn$ weights are left. The live source:"
        ),
        code("aq.experiments.show_source(aq.prefix)"),
        code("assert block == (slice(0, 2), slice(0, 2))", "hide-cell"),
        text(
            f"## The experiment\n\nLook at the middle of {{numref}}`fig-{label}`: does half of the width keep half of the\n"
            "parameters, or a quarter?"
        ),
        code(
            "widths = [k / 20 for k in range(1, 21)]\n"
            "sizes = [aq.n_parameters(aq.MLP(width)) for width in widths]\n"
            "figure, axes = plt.subplots(figsize=(4.6, 3))\naxes.plot(widths, sizes)\n"
            'axes.set(xlabel="width", ylabel="parameters", ylim=0)\nplt.show()',
            figure=f"fig-{label}",
        ),
        text(
            "*Parameters of the MLP by width.*\n\n> **Takeaway.** At half of the width the MLP keeps 45% of its parameters.\n\n"
            "## Break it\n\nThe inputs of the first layer are not slimmed, so less than three quarters are lost:"
        ),
        code("share = aq.n_parameters(aq.MLP(0.5)) / aq.n_parameters(aq.MLP())\nassert 0.44 < share < 0.46"),
        text("## Exercises\n\nDecide before you open a solution."),
        *exercise(
            *("Warm-up", "a tenth of the width", f"{label}-a-tenth", "Does it keep more or less than 8%?"),
            "More, because the inputs are not slimmed.",
            "assert aq.n_parameters(aq.MLP(0.1)) > 0.08 * aq.n_parameters(aq.MLP())",
        ),
        *exercise(
            *("Practice", "another network", f"{label}-lenet", "Does LeNet keep as much at half width?"),
            "Less, because most of its layers shrink on both sides.",
            "assert aq.n_parameters(aq.LeNet(0.5)) < 0.3 * aq.n_parameters(aq.LeNet())",
        ),
        *exercise(
            *("Advanced", "a bound", f"{label}-bound", "Bound the MLP's size at half width from below."),
            "The first layer alone has 784 x 100 weights.",
            "assert aq.n_parameters(aq.MLP(0.5)) > 784 * 100",
        ),
        text("## Recall\n\n1. Which part of a weight matrix does a sub-network contain?"),
    ]


def write(path: Path, title: str) -> None:
    """Write a chapter as a notebook."""
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = nbformat.v4.new_notebook(cells=chapter(path.stem, title), metadata=kernel)
    with atomic_write(path) as half:
        nbformat.write(notebook, half)


def main() -> None:
    """Write the notebook that is asked for; one that exists is kept."""
    if len(sys.argv) != 3 or not re.fullmatch(r"\d\d_[a-z_]+", sys.argv[1]):
        raise SystemExit(__doc__)
    path = ROOT / "notebooks" / f"{sys.argv[1]}.ipynb"
    if path.exists():
        raise SystemExit(f"{path.name} exists already")
    write(path, sys.argv[2])


if __name__ == "__main__":
    main()
