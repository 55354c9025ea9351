"""The signals that ask a process to stop, counted: the first asks for an end in order, the second for one at once.

They are meant for this process alone: what it forks (as multiprocessing does) begins without our handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import cache

NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")


class Signals:
    """SIGINT and SIGTERM (Ctrl+C and Ctrl+Break on Windows), counted, and SIGHUP.

    A terminal that closes sends SIGHUP, often twice: that is one stop in order. Under nohup it stays ignored.
    """

    def __init__(self) -> None:
        self._first = asyncio.Event()
        self._second = asyncio.Event()

    async def first(self) -> None:
        """Sleep until a signal came."""
        await self._first.wait()

    async def second(self) -> None:
        """Sleep until another one came."""
        await self._second.wait()

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Count signals instead of dying of them."""
        keep_from_forks()
        undo = [self._catch(getattr(signal, name), self._count) for name in NAMES if hasattr(signal, name)]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            undo.append(self._catch(signal.SIGHUP, self._first.set))
        try:
            yield
        finally:
            for back in undo:
                back()

    def _catch(self, number: signal.Signals, told: Callable[[], object]) -> Callable[[], object]:
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(number, told)
        except NotImplementedError:  # Windows
            before = signal.signal(number, lambda *_: loop.call_soon_threadsafe(told))
            return lambda: signal.signal(number, before)
        return lambda: loop.remove_signal_handler(number)

    def _count(self) -> None:
        (self._second if self._first.is_set() else self._first).set()


@cache
def keep_from_forks() -> None:
    """Have forked children of this process die of these signals as others do, from now on.

    They would else inherit handlers that write to the event loop of their parent: it would take a child's end for its
    own, and the child would not end. A signal that comes in the moment of the fork waits until the child has its own.
    """
    if hasattr(os, "register_at_fork"):
        mask = _Mask()
        os.register_at_fork(before=mask.block, after_in_parent=mask.restore, after_in_child=_forget)
        os.register_at_fork(after_in_child=mask.restore)


class _Mask(threading.local):
    """The signals that the forking thread had blocked before."""

    before: set[signal.Signals | int] | None = None

    def block(self) -> None:
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, _numbers())

    def restore(self) -> None:
        if self.before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.before)


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


def _forget() -> None:
    with contextlib.suppress(ValueError):  # not of the main thread's making
        signal.set_wakeup_fd(-1)
        for number in (*_numbers(), signal.SIGCHLD, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(
                    number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                )
