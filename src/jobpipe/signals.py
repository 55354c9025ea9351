"""The signals that ask a process to stop, counted: the first asks for an end in order, the second for one at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator


class Signals:
    """SIGINT and SIGTERM (Ctrl+C and Ctrl+Break on Windows), counted."""

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
        names = ("SIGINT", "SIGTERM", "SIGBREAK")
        undo = [self._catch(getattr(signal, name)) for name in names if hasattr(signal, name)]
        try:
            yield
        finally:
            for back in undo:
                back()

    def _catch(self, number: signal.Signals) -> Callable[[], object]:
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(number, self._count)
        except NotImplementedError:  # Windows
            before = signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._count))
            return lambda: signal.signal(number, before)
        return lambda: loop.remove_signal_handler(number)

    def _count(self) -> None:
        (self._second if self._first.is_set() else self._first).set()
