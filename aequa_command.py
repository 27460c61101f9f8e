"""Start the command `aequa`. This file lies outside the package so that Ctrl-C also ends the command quietly while
Python is still importing the package, which takes a few seconds."""

import os
import signal
import sys


def main() -> int:
    """Import the package with Ctrl-C as a plain end of the process, then run the command.

    After Ctrl-C the process ends at once: threads that still train are not waited for, and files are written whole or
    not at all.
    """
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from aequa_lite.cli import INTERRUPTED
    from aequa_lite.cli import main as run

    signal.signal(signal.SIGINT, interrupt)
    status = run()
    if status == INTERRUPTED:
        sys.stdout.flush()
        os._exit(status)
    return status
