"""What the campaigns share: the seed, the tests' helpers, small data, and the rows under results/promises."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.report import device_name, versions

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))  # formats.py
Row = dict[str, object]
FAILED = "failed: "  # an outcome that breaks the promise begins so


def few(every: int = 50) -> aq.Dataset:
    """Real images, very few of them."""
    data = aq.load("fashion-mini", device="cpu")
    parts = [each.take(slice(0, None, every)) for each in (data.train, data.validation, data.test)]
    return aq.Dataset("few", *parts, sha256="0" * 64, labels=data.labels)


def write(name: str, rows: list[Row], seed: int) -> None:
    """Write results/promises/NAME.csv: a row for each group, what and outcome, with tries, seed, versions and date."""
    counts = Counter(tuple(row.items()) for row in rows)
    table = pd.DataFrame([{**dict(items), "tries": count} for items, count in counts.items()])
    table["seed"], table["date"] = seed, time.strftime("%Y-%m-%d")
    table["device"] = device_name(torch.device("cpu"))
    for key, value in versions().items():
        table[f"version_{key}"] = value
    with atomic_write(ROOT / "results" / "promises" / f"{name}.csv") as half:
        table.to_csv(half, index=False)


def main(parts: dict[str, Callable[[np.random.Generator, float], Iterator[Row]]], seed: int) -> None:
    """Run the parts of a campaign from the command line; the exit status says whether a promise was broken."""
    parser = argparse.ArgumentParser(description="Each part fills its table under results/promises.")
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"some of {', '.join(parts)} (default: all)")
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--share", type=float, default=1.0, help="of the tries, for a short campaign")
    parser.add_argument("--no-table", action="store_true", help="print the failures and write nothing")
    asked, broken = parser.parse_args(), 0
    for name in asked.parts:
        rows: list[Row] = []
        for row in parts[name](np.random.default_rng(asked.seed), asked.share):
            rows.append(row)
            if str(row["outcome"]).startswith(FAILED):
                broken += 1
                print(*row.values(), sep=" | ", flush=True)
            if not asked.no_table and len(rows) % 20 == 0:
                write(name, rows, asked.seed)  # what a campaign that is stopped has found is kept
        if not asked.no_table:
            write(name, rows, asked.seed)
        print(f"{name}: {len(rows)} tries", flush=True)
    sys.exit(bool(broken))
