"""One worker process as its parent sees it: from its start to how it ended, with what it had begun by then.

Whoever starts a Child awaits `ready` and then `ended`; nothing here decides what a death means.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from subprocess import PIPE
from typing import cast

from msgspec import Struct

from jobpipe.processes.supervisor import proc
from jobpipe.processes.supervisor.orders import (
    BEGIN,
    CANCEL,
    DRAIN,
    END,
    ERROR,
    LATE,
    LEAVE,
    LOST,
    READY,
    Begun,
    Lines,
    Orders,
    order,
    run_of,
)
from jobpipe.runtime import streams
from jobpipe.runtime.interpreter import python

LAST_WORDS_S = 0.5
"""How long after the exit the pipe is still read. A subprocess of a handler may hold it open for ever."""

COMMAND = python("jobpipe.processes.worker")


STARTED: set[int] = set()
"""The processes that were started here and did not end yet: whoever reaps others leaves these alone."""


class Late(Struct, frozen=True):
    """A run that timed out after so many seconds and held its process; None: the server says when it is tried again."""

    timeout: float
    pause: float | None


class Exit(Struct, frozen=True):
    """How a worker process ended. `worker` is None when it was never ready; `begun` are the open runs by their leases.

    `late` are those of them that had timed out and held the process.
    `code` is negative for a signal; `stopped` says that its parent killed it because the stop took too long; `how` is
    for people and follows "its worker process".
    """

    pid: int
    worker: str | None
    code: int
    begun: Mapping[str, Begun]
    stopped: bool
    how: str
    late: Mapping[str, Late] = {}

    @staticmethod
    def never() -> Exit:
        """Of a process that could not be started."""
        return Exit(-1, None, -1, {}, False, "could not be started")


class Replaced(Struct, frozen=True):
    """Why a process took another's place, to follow "one that", and when, in milliseconds since the epoch."""

    reason: str
    at: int


class NotReady(Exception):
    """The process cannot work; the message is one line that says why."""


class Child(asyncio.SubprocessProtocol):
    """A worker process. `on_busy` is called when it begins a run while it had none; `leaving` ends with why it takes
    nothing new."""

    def __init__(self, on_busy: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        self.worker: str | None = None
        self.begun: dict[str, Begun] = {}
        self.late: dict[str, Late] = {}
        self.replaced: Replaced | None = None
        self.ready: asyncio.Future[str] = loop.create_future()
        self.leaving: asyncio.Future[str] = loop.create_future()
        self.ended: asyncio.Future[Exit] = loop.create_future()
        self._on_busy = on_busy
        self._lines = Lines()
        self._transport: asyncio.SubprocessTransport | None = None
        self._pipe_open = True
        self._code: int | None = None
        self._stopped = False
        self._killed_for: str | None = None
        self._error: str | None = None

    @classmethod
    async def start(cls, orders: Orders, on_busy: Callable[[], object]) -> Child:
        """Start a process, which leads a group of its own, and give it its orders. Raises OSError."""
        loop = asyncio.get_running_loop()
        _, child = await loop.subprocess_exec(
            lambda: cls(on_busy), *COMMAND, stdin=PIPE, stdout=PIPE, stderr=None, start_new_session=True
        )
        child._write(orders.line())
        return child

    @property
    def pid(self) -> int:
        return self._transport.get_pid() if self._transport is not None else -1

    @property
    def works(self) -> bool:
        """Whether the system says that it lives and is not stopped; False where nobody can tell."""
        return proc.works(self.pid)

    # --- to the child ---

    def cancel(self, lease_id: str) -> None:
        """Have it ask the handler under this lease to stop."""
        self._write(order(CANCEL, lease_id))

    def drain(self, seconds: float) -> None:
        """Have it finish what runs within `seconds`, release the rest, and end. One that is not ready ends at once."""
        if self.ready.done():
            self._write(order(DRAIN, seconds))
        else:
            self.stop()

    def stop(self) -> None:
        """End it at once, because its parent stops."""
        self._stopped = True
        self._kill()

    def kill(self, why: str) -> None:
        """End it at once; `why` is told of the tasks that it runs. Does nothing to one that ended."""
        self._killed_for = self._killed_for or why
        self._kill()

    def _kill(self) -> None:
        if self._transport is not None:
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()

    def _write(self, line: bytes) -> None:
        if self._transport is None:
            return
        pipe = cast("asyncio.WriteTransport | None", self._transport.get_pipe_transport(0))
        if pipe is not None and not pipe.is_closing():
            pipe.write(line)

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        STARTED.add(self.pid)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        for word, *rest in self._lines.feed(data):
            self._heard(word, rest)

    def _heard(self, word: str, rest: list[str]) -> None:
        if word == BEGIN:
            self._begins(rest)
        elif word == END:
            for lease_id in rest:
                self.begun.pop(lease_id, None)
        elif word == LOST:
            streams.lost.lines += int(rest[0])
        elif word == LATE:
            self.late[rest[0]] = Late(float(rest[1]), None if rest[2] == "-" else float(rest[2]))
        else:
            self._heard_once(word, rest)

    def _begins(self, runs: list[str]) -> None:
        idle = not self.begun
        self.begun.update(map(run_of, runs))
        if idle:
            self._on_busy()

    def _heard_once(self, word: str, rest: list[str]) -> None:
        if word == LEAVE and not self.leaving.done():
            self.leaving.set_result(" ".join(rest))
        elif word == READY and not self.ready.done():
            self.worker = rest[0]
            self.ready.set_result(rest[0])
        elif word == ERROR:
            self._error = " ".join(rest)
            if not self.ready.done():
                self.ready.set_exception(NotReady(self._error))

    def pipe_connection_lost(self, fd: int, error: Exception | None) -> None:
        if fd == 1:
            self._pipe_open = False
            if self._code is not None:
                self._end()

    def process_exited(self) -> None:
        code = None if self._transport is None else self._transport.get_returncode()
        self._code = -1 if code is None else code
        STARTED.discard(self.pid)
        self._end_group()
        # What it wrote before its death is in the pipe and must be read first: it tells the begun from the others.
        if self._pipe_open:
            asyncio.get_running_loop().call_later(LAST_WORDS_S, self._end)
        else:
            self._end()

    def _end_group(self) -> None:
        """End what it started and left behind; who means to outlive it leaves its group (setsid)."""
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    def _end(self) -> None:
        if self.ended.done() or self._code is None:
            return
        how = self._killed_for or described(self._code) + (f": {self._error}" if self._error else "")
        if not self.ready.done():
            self.ready.set_exception(NotReady(f"the worker process that should load the app {how}"))
            self.ready.exception()  # whoever only waits for the end has not asked for it
        self.ended.set_result(
            Exit(self.pid, self.worker, self._code, dict(self.begun), self._stopped, how, dict(self.late))
        )
        if self._transport is not None:
            self._transport.close()


def described(code: int) -> str:
    """How a process ended, to follow "its worker process"."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"was killed by signal {-code}"
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"was killed by signal {-code} ({name}){hint}"
