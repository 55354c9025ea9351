"""The worker process: `python -m jobpipe.processes.worker`, with its Orders as the first line on stdin."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # The parent alone decides what Ctrl+C means, and the end of a terminal. First, before anything slow; a function,
    # since programs that handlers start would inherit that it is ignored.
    signal.signal(signal.SIGINT, lambda *_: None)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    from jobpipe.runtime.streams import open_closed

    open_closed()
    from jobpipe.processes.worker.process import main

    sys.exit(main())
