"""Fill the tables of the page of promises from results/promises, and from nothing else.

usage: python scripts/campaigns/page.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
PAGE, ROWS = ROOT / "book" / "promises.md", ROOT / "results" / "promises"
PROMISES = {
    "kills": ("A killed federation, of each strategy listed below, goes on to the same bits", "kills"),
    "kills_of_sweeps": ("A killed sweep ends in the same reports and rewards", "kills"),
    "kills_of_fleets": ("A killed fleet over Flower ends in the same report and rewards", "kills"),
    "flips": (
        "A damaged file is refused in one sentence or read as before; "
        "a data set may be read with other values, under another hash",
        "flips",
    ),
    "updates": (
        "A hostile update is left out and named; the others' aggregate is to the bit the one without it",
        "updates",
    ),
    "misuse": ("A wrong argument is refused in one sentence that names it, or is legal for a stated reason", "misuse"),
}


def count(table: pd.DataFrame) -> tuple[int, int]:
    """Tries and failures."""
    failed = table["outcome"].str.startswith("failed")
    return int(table["tries"].sum()), int(table.loc[failed, "tries"].sum())


def tables() -> str:
    """The table of promises, and what each was tried on."""
    lines, rest = ["| promise | tries | failures | command |", "| --- | ---: | ---: | --- |"], []
    for name, (promise, script) in PROMISES.items():
        command = f"python scripts/campaigns/{script}.py {name}"
        if not (ROWS / f"{name}.csv").exists():
            lines.append(f"| {promise} | not tried here | - | `{command}` |")
            continue
        table = pd.read_csv(ROWS / f"{name}.csv", keep_default_na=False)
        tries, failed = count(table)
        lines.append(f"| {promise} | {tries:,} | {failed} | `{command} --seed {table['seed'].iat[0]}` |")
        by = "outcome" if name == "misuse" else "what"
        key = table["outcome"].str.replace(r": .*", "", regex=True) if name == "misuse" else table[by]
        groups = [(str(what), *count(found)) for what, found in table.groupby(key, sort=False)]
        body = "".join(f"| {what} | {t:,} | {f} |\n" for what, t, f in groups)
        stamp = "; ".join(
            f"{column.removeprefix('version_')} {', '.join(sorted(set(map(str, table[column]))))}"
            for column in table if column in ("seed", "device", "date") or column.startswith("version_")
        )  # fmt: skip
        rest.append(f"\n**{promise}.** {stamp}.\n\n| tried on | tries | failures |\n| --- | ---: | ---: |\n{body}")
    return "\n".join(lines) + "\n" + "".join(rest)


def main() -> None:
    """Write the page."""
    text = re.sub(
        r"(<!-- table -->\n).*?(<!-- end -->)", lambda m: m[1] + tables() + m[2], PAGE.read_text(), flags=re.S
    )
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
