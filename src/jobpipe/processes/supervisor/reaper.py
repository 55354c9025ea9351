"""Reaps orphans, as an init does: for a process that the system gives them to.

That is process 1 of a container, and one that asked to be a subreaper (prctl(2)). Children of our own are waited for
by the event loop, and are left to it: an orphan is who stays a zombie for a second and was never started here.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

from jobpipe.processes.supervisor import proc
from jobpipe.processes.supervisor.child import STARTED

PATIENCE_S = 1.0
CHILDLESS_S = 5.0
"""How often to look while there is no child at all, for whose end one could wait."""

_PR_GET_CHILD_SUBREAPER = 37


def reap_orphans() -> None:
    """Reap for as long as this process lives, in a thread, if orphans come to it. Only where no code of users runs,
    whose own children nobody else may wait for."""
    if proc.LINUX and (os.getpid() == 1 or _is_subreaper()):
        threading.Thread(target=_reap, name="jobpipe-reaper", daemon=True).start()


def _is_subreaper() -> bool:
    import ctypes

    answer = ctypes.c_int(0)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def _reap() -> None:
    while True:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            time.sleep(CHILDLESS_S)
            continue
        before = _zombies()
        time.sleep(PATIENCE_S)
        for pid in before & _zombies():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _zombies() -> set[int]:
    me = os.getpid()
    return {one.pid for one in proc.every() if one.parent == me and one.state == "Z"} - STARTED
