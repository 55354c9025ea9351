"""`python -m jobpipe` is the same as the command `jobpipe`."""

from __future__ import annotations

import sys

from jobpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
