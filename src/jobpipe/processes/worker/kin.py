"""What ties a process to its parent in the eyes of the system: it dies with it, and is sacrificed before it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from jobpipe.processes.supervisor.orders import EXIT_ORPHANED

_PR_SET_PDEATHSIG = 1
_OOM_SCORE = "500"


def die_with(parent: int) -> None:
    """Have the system kill this process when its parent ends (prctl(2), Linux), also when it is stopped or hangs.

    Elsewhere the end of the pipe from the parent must do.
    """
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have died before the call: then nobody would be told any more.
    if os.getppid() != parent:
        os._exit(EXIT_ORPHANED)


def go_first() -> None:
    """Make the system's out-of-memory killer take this process before the server (proc(5), oom_score_adj)."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_OOM_SCORE)
