"""Print the report of a run: ``python -m aequa_lite runs/quickstart``."""

from __future__ import annotations

import argparse

from .records import Report
from .report import table


def main() -> None:
    """Read the folder's report.json and print it as a table."""
    parser = argparse.ArgumentParser(prog="python -m aequa_lite", description="Print the report of a run.")
    parser.add_argument("folder", help="the folder that holds report.json")
    try:
        print(table(Report.load(parser.parse_args().folder)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
