"""Write the measured tables into the book's page of speeds.

usage: python benchmarks/page.py [--check]     (--check: only say whether the page is up to date)

Between `<!-- NAME -->` and `<!-- end -->` stands the table made from results/speed/NAME.csv, one for each machine.
Between `<!-- gpu -->` and `<!-- end -->` stand those of results/gpu, which `make gpu` writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from measure import ROOT, TABLES

from aequa_lite._io import atomic_write

PAGE = ROOT / "book" / "speed.md"
Rows = list[list[str]]


def plain(table: pd.DataFrame) -> Rows:
    """Ways of training together."""
    head = [
        "net",
        "way",
        "s, least",
        "s, median",
        "times ours, by minima",
        "turn by turn, median",
        "largest difference",
    ]
    return [head, *([r.net, r.way, f"{r.seconds_min:.2f}", f"{r.seconds_median:.2f}", f"{r.times_ours_min:.2f}",
                     f"{r.times_ours_median:.2f}", f"{r.difference:.0e}"] for r in table.itertuples())]  # fmt: skip


def overhead(table: pd.DataFrame) -> Rows:
    """The loop and the bare steps."""
    head = ["net", "way", "s, least", "s, median", "times bare steps, by minima", "turn by turn, median"]
    return [head, *([r.net, r.way, f"{r.seconds_min:.3f}", f"{r.seconds_median:.3f}", f"{r.times_bare_min:.3f}",
                     f"{r.times_bare_median:.3f}"] for r in table.itertuples())]  # fmt: skip


def workers(table: pd.DataFrame) -> Rows:
    """Numbers of workers."""
    head = ["net", "workers", "s, least", "s, median", "speedup, by minima", "turn by turn, median", "same bits"]
    return [head, *([r.net, str(r.workers), f"{r.seconds_min:.2f}", f"{r.seconds_median:.2f}", f"{r.speedup_min:.2f}",
                     f"{r.speedup_median:.2f}", "yes" if r.same_bits else "no"] for r in table.itertuples())]  # fmt: skip


def passes(table: pd.DataFrame) -> Rows:
    """One by one and in one pass."""
    head = [
        "net",
        "parameters",
        "participants",
        "way",
        "s, least",
        "s, median",
        "speedup, by minima",
        "turn by turn, median",
    ]
    return [head, *([r.net, f"{r.numbers:,}", str(r.participants), r.way, f"{r.seconds_min:.3f}", f"{r.seconds_median:.3f}",
                     f"{r.speedup_min:.2f}", f"{r.speedup_median:.2f}"] for r in table.itertuples())]  # fmt: skip


def growth(table: pd.DataFrame) -> Rows:
    """Time and memory against what grows."""
    head = ["against", "value", "s a round", "exponent", "peak MB", "of it its own", "exponent"]
    return [head, *([r.axis, f"{r.value:g}", f"{r.seconds:.3f}", f"{r.seconds_slope:.2f}", f"{r.peak_mb:.0f}",
                     f"{r.own_mb:.0f}", f"{r.own_mb_slope:.2f}"] for r in table.itertuples())]  # fmt: skip


def reward(table: pd.DataFrame) -> Rows:
    """What a reward costs to use."""
    head = ["net", "batch", "width", "µs, least", "µs, median", "parameters", "parameters, kB", "activations, kB"]
    return [head, *([r.net, str(r.batch), f"{r.width:g}", f"{r.microseconds_min:.0f}", f"{r.microseconds_median:.0f}",
                     f"{r.parameters:,}", f"{r.parameters_kb:.0f}", f"{r.activations_kb:.0f}"]
                    for r in table.itertuples())]  # fmt: skip


def engines(table: pd.DataFrame) -> Rows:
    """Other engines, round for round."""
    head = ["net", "local steps", "way", "ms a round, least", "median", "times ours, by minima", "turn by turn, median",
            "largest difference"]  # fmt: skip
    return [head, *([r.net, str(r.local_steps), f"{r.way} {r.engine_version}" if r.way != "aequa_lite" else r.way,
                     f"{1e3 * r.seconds_min:.0f}", f"{1e3 * r.seconds_median:.0f}", f"{r.times_ours_min:.2f}",
                     f"{r.times_ours_median:.2f}", f"{r.difference:.0e}"] for r in table.itertuples())]  # fmt: skip


def versions(table: pd.DataFrame) -> Rows:
    """An earlier checkout against today's."""
    head = ["work", "s before, least", "s today, least", "before / today, by minima", "turn by turn, median"]
    return [head, *([r.case, f"{r.before_min:.3f}", f"{r.after_min:.3f}", f"{r.ratio_min:.2f}", f"{r.ratio_median:.2f}"]
                    for r in table.itertuples())]  # fmt: skip


LAYOUTS: dict[str, Callable[[pd.DataFrame], Rows]] = {
    "plain": plain, "overhead": overhead, "workers": workers, "passes": passes, "growth": growth, "reward": reward,
    "flower": engines, "pfl": engines, "before_0_1": versions, "before_0_2": versions,
}  # fmt: skip


GPU = ROOT / "results" / "gpu"
GPU_CAPTIONS = {
    "equality": "Weights trained on the GPU against those of the CPU, and the difference that is allowed.",
    "determinism": "The same run twice, without and with `deterministic=True`.",
    "launches": "Kernel launches of a step, and how often the host waits in it.",
    "precision": "The same steps in fewer bits: ms of a step, loss and accuracy.",
    "seeds": "Runs of the quickstart side by side, and how many of them a minute takes.",
    "speed": "ms of a step, and peak memory.",
}


def as_measured(table: pd.DataFrame) -> Rows:
    """All that a table of a GPU holds, except where it was measured."""
    own = table.drop(columns=["device", "cores", "python", "torch", "date"], errors="ignore")
    word = {True: "yes", False: "no"}

    def shown(value: object) -> str:
        if isinstance(value, (bool, np.bool_)):
            return word[bool(value)]
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return [
        [name.replace("_", " ") for name in own],
        *([shown(value) for value in row] for row in own.astype(object).itertuples(index=False)),
    ]


def of_a_gpu(folder: Path) -> str:
    """The Markdown of all tables of a GPU, or that there are none."""
    found = [folder / f"{name}.csv" for name in GPU_CAPTIONS if (folder / f"{name}.csv").exists()]
    if not found:
        return "No GPU was at hand for this page: the default for one rests on counted kernel launches, not on time.\n"
    return "\n".join(f"**{GPU_CAPTIONS[path.stem]}**\n\n{tables_of(path, as_measured)}" for path in found)


def drawn(name: str) -> str:
    """The Markdown of one benchmark's tables."""
    if name == "gpu":
        return of_a_gpu(GPU)
    path = TABLES / f"{name}.csv"
    return tables_of(path, LAYOUTS[name]) if path.exists() else "*Not measured yet.*\n"


def tables_of(path: Path, layout: Callable[[pd.DataFrame], Rows]) -> str:
    """A caption in words and a table for each machine."""
    parts = []
    for (device, cores), mine in pd.read_csv(path).groupby(["device", "cores"], sort=True):
        r = mine.iloc[0]
        head, *rows = layout(mine)
        lines = [f"On {device}, {cores} cores; Python {r.python}, torch {r.torch}; {r.date}:", "",
                 "| " + " | ".join(head) + " |", "|" + " --- |" * len(head),
                 *("| " + " | ".join(row) + " |" for row in rows)]  # fmt: skip
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def filled(text: str) -> str:
    """The page with every table written anew."""
    return re.sub(
        r"(<!-- (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{drawn(found[2])}\n{found[3]}",
        text,
        flags=re.S,
    )


def main() -> None:
    """Write the page, or say whether it is up to date."""
    old = PAGE.read_text()
    new = filled(old)
    if "--check" in sys.argv:
        sys.exit(0 if new == old else f"{PAGE.name} is out of date: python benchmarks/page.py")
    with atomic_write(PAGE) as half:
        half.write_text(new)


if __name__ == "__main__":
    main()
