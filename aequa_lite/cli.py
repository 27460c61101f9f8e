"""Print the report of a run, ``python -m aequa_lite FOLDER``; check its rewards, ``python -m aequa_lite verify FOLDER``."""

from __future__ import annotations

import argparse
import sys

from .report import Report, table
from .rewards.verification import verify


def main() -> None:
    """Read the folder's report.json and print it as a table; after the word ``verify``, check a folder of rewards."""
    parser = argparse.ArgumentParser(
        prog="python -m aequa_lite", description="Print the report of a run, or check a folder of rewards."
    )
    parser.add_argument("verify", nargs="?", choices=["verify"], help="check the rewards instead")
    parser.add_argument("folder", help="the folder that holds report.json, or the rewards")
    asked = parser.parse_args()
    try:
        if asked.verify is None:
            print(table(Report.load(asked.folder)))
            return
        lines = verify(asked.folder)
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(map(str, lines)))
    sys.exit(int(any(each.fault for each in lines)))


if __name__ == "__main__":
    main()
