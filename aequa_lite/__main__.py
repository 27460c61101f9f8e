"""`python -m aequa_lite` is the command `aequa`."""

import sys

from aequa_command import main

if __name__ == "__main__":
    sys.exit(main())
