"""`python -m aequa_lite` is the command `aequa`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
