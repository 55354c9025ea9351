"""The standard streams of a process that must outlive whoever reads them: a write neither fails nor waits.

What has no room is kept for a while, KEPT bytes at most, and written by a thread as soon as somebody reads; what cannot
be written at all, or no longer kept, is dropped and counted, and said once when something can be written again. So a
log that is full, closed or read by nobody costs its lines and nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobpipe.runtime.outlet import Outlet, outlet_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

KEPT = 1024 * 1024
"""Bytes that wait for a reader, at most."""
LOOK_S = 1.0
"""How long the thread waits for room before it tries all the same."""
FAREWELL_S = 1.0
"""How long the end of the process waits for a reader."""


class Lost:
    """How many lines could not be written: by this process, or by its worker processes as they told."""

    def __init__(self) -> None:
        self.lines = 0


lost = Lost()


def plainly(lines: int) -> str:
    """What is said of lost lines where nobody gave the log a form."""
    return f"jobpipe: {told(lines)}"


def told(lines: int) -> str:
    """What is said of lost lines."""
    return f"{lines} line{'' if lines == 1 else 's'} of the log could not be written"


class Stream(io.RawIOBase):
    """Raw writing to what descriptor `fd` leads to. `say` makes the line about lost ones."""

    def __init__(self, fd: int, outlet: Outlet | None = None) -> None:
        self.say: Callable[[int], str] = plainly
        self._named = fd
        self._outlet = outlet or outlet_of(fd)
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._unsaid = 0
        self._torn = False
        self._begin_anew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        """Also in a forked child: what its parent keeps is the parent's, and no thread came along."""
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._kept.clear()
        self._size = 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._named

    def isatty(self) -> bool:
        return os.isatty(self._named)

    def write(self, data: ReadableBuffer, /) -> int:
        """Takes all of `data`, whatever becomes of it."""
        piece = bytes(data)
        with self._changed:
            rest = piece if self._kept or self._outlet.waits else self._try(piece)
            if rest:
                self._keep(rest)
        return len(piece)

    def drain(self, seconds: float) -> None:
        """Wait until nothing is kept any more, `seconds` at most: for the end of a process."""
        with self._changed:
            self._changed.wait_for(lambda: not self._kept, seconds)

    def _try(self, piece: bytes) -> bytes:
        """Write as much as there is room for; the rest, unless it can never be written."""
        with self._changed:
            unsaid = (
                self._unsaid if len(self._kept) <= 1 else 0
            )  # what was lost is newer than all that is kept
            self._unsaid -= unsaid
        said = f"{self.say(unsaid)}\n".encode() if unsaid else b""
        data = (b"\n" if self._torn else b"") + said + piece
        at = 0
        try:
            while at < len(data):
                at += self._outlet.write(memoryview(data)[at:])
        except BlockingIOError:
            pass
        except (OSError, ValueError):
            with self._changed:
                self._unsaid += unsaid
                self._lose(piece, torn=at > 0)
            return b""
        self._torn = False
        return data[at:]

    def _lose(self, piece: bytes, *, torn: bool) -> None:
        lines = max(1, piece.count(b"\n"))
        lost.lines += lines
        self._unsaid += lines
        self._torn = self._torn or torn

    # --- what waits for a reader ---

    def _keep(self, piece: bytes) -> None:
        if self._size + len(piece) > KEPT or not self._has_thread():
            self._lose(piece, torn=False)
            return
        self._kept.append(piece)
        self._size += len(piece)
        self._changed.notify_all()

    def _has_thread(self) -> bool:
        """Whether there is a thread that writes what is kept; none can be started any more when Python ends."""
        if self._thread is None:
            thread = threading.Thread(target=self._write_kept, name="jobpipe-log", daemon=True)
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._thread = thread
        return self._thread is not None

    def _write_kept(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._kept)
                piece = self._kept[0]
            rest = self._try(piece)
            with self._changed:
                self._size += len(rest) - len(piece)
                if rest:
                    self._kept[0] = rest
                else:
                    self._kept.popleft()
                    self._changed.notify_all()
            if rest:
                self._outlet.wait(LOOK_S)


class _Buffer(io.BufferedWriter):
    def close(self) -> None:
        """A handler that closes `sys.stderr` is not to silence the process."""
        self.flush()


class _Text(io.TextIOWrapper):
    def close(self) -> None:
        self.flush()


_spared: list[Stream] = []
"""The streams of this process that were made to bear everything."""


def open_closed() -> None:
    """Give descriptors 0, 1 and 2 the null device where the caller closed them (`2>&-`).

    Otherwise the next file or socket of ours would be one of them, and get what is printed. First thing in a process.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, fd)  # inherited by children, unlike what `open` gives
            if null != fd:
                os.close(null)
            else:
                os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            stream = open(fd, mode, errors="backslashreplace", closefd=False)  # noqa: SIM115 - for good
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)  # `spare` takes what nobody replaced


def spare(*names: str) -> None:
    """Make `stdout` or `stderr` of this process one whose writes neither fail nor wait; safe when called twice.

    A stream that somebody replaced (a test's capture) stays; so does a console of Windows, which is no plain file.
    """
    for name in names:
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or isinstance(_raw(stream), Stream):
            continue
        if sys.platform == "win32" and stream.isatty():
            continue
        with contextlib.suppress(OSError, ValueError):  # lost before anything was written
            stream.flush()
        raw = Stream(stream.fileno())
        text = _Text(_Buffer(raw), stream.encoding, "backslashreplace", line_buffering=True)
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
        if not _spared:
            atexit.register(farewell)
        _spared.append(raw)


def speak(say: Callable[[int], str]) -> None:
    """From now on lost lines are told of in the log's own form."""
    for stream in _spared:
        stream.say = say


def farewell(seconds: float = FAREWELL_S) -> None:
    """Give readers a moment for what is kept, before the process ends."""
    until = time.monotonic() + seconds
    for stream in _spared:
        stream.drain(max(0.0, until - time.monotonic()))


def _raw(stream: object) -> object:
    return getattr(getattr(stream, "buffer", None), "raw", None)
