"""What `jobpipe dev` starts again and again: `jobpipe serve`, which dies with its parent.

`python -P -m jobpipe.cli.reloaded PARENT serve ...`; -P, because a user's `queue.py` must not hide Python's own.
"""

from __future__ import annotations

import sys

from jobpipe.cli import main
from jobpipe.processes.worker.kin import die_with

if __name__ == "__main__":
    # A parent that was killed could not end it, and it would keep the port from the next one.
    die_with(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
