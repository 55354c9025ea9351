"""The worker process: `python -m jobpipe.worker`, with its Orders as the first line on stdin."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # Ctrl+C reaches the whole foreground group; the parent alone decides what it means. First, before anything slow.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from jobpipe.streams import open_closed

    open_closed()
    from jobpipe.worker.process import main

    sys.exit(main())
