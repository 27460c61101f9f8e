"""Write the table of the book's page on networks: parameters and operations of each network at some widths.

usage: python scripts/networks.py [--check]     (--check: only say whether the table is up to date)
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.registry import TABLES, lookup

PAGE = Path(__file__).resolve().parents[1] / "book" / "networks.md"
BEGIN, END = "<!-- table: begin, written by scripts/networks.py -->\n", "<!-- table: end -->\n"
WIDTHS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
TOKENS, IMAGE, COLOR_IMAGE = (56,), (1, 28, 28), (3, 32, 32)
SHAPES = {"MLP": IMAGE, "LeNet": IMAGE, "TextCNN": TOKENS, "Transformer": TOKENS, "TabularMLP": (15,)}
TYPES = {TOKENS: torch.int64, (15,): torch.float32}


def constructor(name: str) -> tuple[Callable[..., nn.Module], Tensor]:
    """A network of the package for its usual input, and one such input."""
    shape = SHAPES.get(name, COLOR_IMAGE)
    return partial(lookup("network", name), shape=shape), torch.zeros(1, *shape, dtype=TYPES.get(shape, torch.uint8))


def short(number: float) -> str:
    """Three digits and a unit."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return f"{number:.0f}"


def rows(title: str, value: Callable[[Callable[..., nn.Module], Tensor, float], float]) -> str:
    """One table: a row for each network, a column for each width."""
    lines = [f"| {title} | " + " | ".join(f"{w:g}" for w in WIDTHS) + " |", "| --- |" + " ---: |" * len(WIDTHS)]
    for name in TABLES["network"]:
        build, x = constructor(name)
        lines.append(f"| `{name}` | " + " | ".join(short(value(build, x, w)) for w in WIDTHS) + " |")
    return "\n".join(lines) + "\n"


def size(build: Callable[..., nn.Module], x: Tensor, width: float) -> int:
    """Number of parameters."""
    with torch.device("meta"):
        return aq.n_parameters(build(width))


def tables() -> str:
    """Both tables."""
    return rows("parameters", size) + "\n" + rows("FLOPs", lambda build, x, width: aq.networks.flops(build, width, x))


def page_parts() -> tuple[str, str, str]:
    """The page before, between and after the marks."""
    before, rest = PAGE.read_text().split(BEGIN)
    between, after = rest.split(END)
    return before, between, after


def main() -> None:
    """Write the tables, or check them."""
    before, between, after = page_parts()
    if "--check" in sys.argv:
        sys.exit(0 if between.startswith(tables()) else f"{PAGE.name} is out of date; run python scripts/networks.py")
    stamp = (
        f"\naequa-lite {version('aequa-lite')}, PyTorch {torch.__version__}, Python {platform.python_version()}; "
        f"{date.today()}. The counts follow from the shapes alone, whatever the seed and the device.\n"
    )
    with atomic_write(PAGE) as half:
        half.write_text(before + BEGIN + tables() + stamp + END + after)


if __name__ == "__main__":
    main()
