"""Ways to write to what a standard stream leads to, without waiting for a reader where the system knows how.

The descriptor is one of our own: a handler that closes fd 2 or a child that sets O_NONBLOCK on it cannot
reach it.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from functools import partial
from typing import Protocol

PAUSE_S = 0.02
"""Between two tries at a stream that has no room, beside waiting for it: some say that they have when they have not."""


class Outlet(Protocol):
    """What an open stream leads to."""

    waits: bool
    """Whether a write may have to wait for a reader."""

    def write(self, data: bytes | memoryview) -> int:
        """How many bytes were written. Raises BlockingIOError when there is no room, else OSError."""
        ...

    def wait(self, seconds: float) -> None:
        """Sleep until there may be room."""
        ...


class _Outlet:
    def __init__(self, fd: int, mode: int) -> None:
        may_wait = stat.S_ISFIFO(mode) or os.isatty(fd)
        own = _reopened(fd) if may_wait else None
        self.waits = may_wait and own is None
        self._fd = os.dup(fd) if own is None else own
        self.write = partial(os.write, self._fd)

    def wait(self, seconds: float) -> None:
        _wait(self._fd, seconds)


class _SocketOutlet:
    """A socket, as services of systemd have for stdout and stderr; each write says for itself that it must not wait."""

    waits = False

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))

    def write(self, data: bytes | memoryview) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def wait(self, seconds: float) -> None:
        _wait(self._socket.fileno(), seconds)


def outlet_of(fd: int) -> Outlet:
    """The way to what `fd` leads to. Raises OSError when it is not open."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode) and hasattr(socket, "MSG_DONTWAIT"):
        return _SocketOutlet(fd)
    return _Outlet(fd, mode)


def _reopened(fd: int) -> int | None:
    """The same pipe or terminal, opened once more: O_NONBLOCK belongs to an opening, and others share that of `fd`."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, AttributeError):  # no /proc, not our pipe, no reader; or Windows
        return None


def _wait(fd: int, seconds: float) -> None:
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        poll.poll(seconds * 1000)
    time.sleep(PAUSE_S)
