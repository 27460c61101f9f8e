"""Start the command `aequa`. This file lies outside the package so that Ctrl-C also ends the command quietly while
Python is still importing the package, which takes a few seconds."""

import signal


def main() -> int:
    """Import the package with Ctrl-C as a plain end of the process, then run the command."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from aequa_lite.cli import main as run

    signal.signal(signal.SIGINT, interrupt)
    return run()
