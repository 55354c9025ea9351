"""The programs that handlers start: those of a run that timed out are ended with it, and do not go on beside its retry.

Which run starts one is known at its start, by the context that its code runs in. Forked pools are not seen here: they
end with the process. Who means a program to outlive its run starts it in a session of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from functools import wraps
from typing import Any

from jobpipe.processes.supervisor import proc
from jobpipe.runtime import tracing


class Programs:
    """What runs of this process started, by the ids of their tasks."""

    def __init__(self) -> None:
        self._started: dict[str, set[int]] = {}

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Learn of all that is started from now on, by `subprocess` or by `loop`. Once in a process."""
        if sys.platform == "win32":
            return
        fork_exec = getattr(subprocess, "_fork_exec", None)
        if fork_exec is not None:
            subprocess._fork_exec = self._noting(fork_exec)  # type: ignore[attr-defined]
        # uvloop starts programs itself; Python's own loop by `subprocess`, where noting one twice does no harm.
        for name in ("subprocess_exec", "subprocess_shell"):
            setattr(loop, name, self._noting_of(getattr(loop, name)))

    def forget(self, task_id: str) -> None:
        """The run ended in its own time: what it left running is meant to run."""
        self._started.pop(task_id, None)

    def end(self, task_id: str) -> None:
        """Kill what this run started and did not end, and what that started in turn."""
        pids = [pid for pid in self._started.pop(task_id, ()) if _is_ours(pid)]
        if not pids:
            return
        below = proc.descendants(pids, proc.every())
        for pid in (*pids, *(one.pid for ones in below.values() for one in ones if _in_our_group(one.pid))):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _note(self, pid: int) -> None:
        run = tracing.running()
        if run is not None:
            self._started.setdefault(run.task_id, set()).add(pid)

    def _noting(self, start: Any) -> Any:
        @wraps(start)
        def started(*args: Any, **more: Any) -> Any:
            pid = start(*args, **more)
            self._note(pid)
            return pid

        return started

    def _noting_of(self, start: Any) -> Any:
        @wraps(start)
        async def started(*args: Any, **more: Any) -> Any:
            # Cancelled in the middle of a start, uvloop would leave the program to itself.
            starting = asyncio.ensure_future(start(*args, **more))
            try:
                transport, protocol = await asyncio.shield(starting)
            except asyncio.CancelledError:
                starting.add_done_callback(_kill)
                raise
            self._note(transport.get_pid())
            return transport, protocol

        return started


def _kill(starting: asyncio.Future[Any]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        with contextlib.suppress(ProcessLookupError):
            starting.result()[0].kill()


def _is_ours(pid: int) -> bool:
    """Whether this still is a living child of this process, in its group."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and _in_our_group(pid)
    except OSError:  # somebody has waited for it: the number may be another's by now
        return False


def _in_our_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == os.getpgrp()
    except OSError:
        return False
