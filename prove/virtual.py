"""Time and threads that obey: an event loop whose clock jumps to the next timer, and a storage thread without a thread.

What varies from run to run in reality, and here from seed to seed, is when the world outside answers: how long a commit
takes, when its answers arrive, when handlers end. The order of what asyncio has ready is left as it is: first come,
first served is its promise, and the program may rely on it.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

from jobpipe.storage.calls import Call
from jobpipe.storage.sqlite.engine import SqliteStorage
from jobpipe.storage.sqlite.store import Store
from jobpipe.storage.sqlite.unwritten import KEEP_S
from jobpipe.storage.sqlite.writer import Writer

EPOCH_MS = 1_700_000_000_000
LONG_COMMIT_S = 0.2


class Stuck(Exception):
    """Everybody waits, and nothing is going to happen; or the loop turns without time passing."""


class _Nobody:
    """In place of the operating system's selector: nothing arrives but the time."""

    MOST_TURNS = 100_000
    """Turns of the loop without time passing: more is a loop that spins."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None) -> list[Any]:
        """Pass the time until the next timer."""
        self._turns += 1
        if timeout is None:
            raise Stuck("everybody waits, and no timer is set")
        if timeout > 0:
            self._loop.now += timeout
            self._turns = 0
        elif self._turns > self.MOST_TURNS:
            raise Stuck("the loop turns without end")
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop on which an hour takes as long as what happens in it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._selector = _Nobody(self)

    def time(self) -> float:
        """Virtual seconds."""
        return self.now

    def _process_events(self, event_list: object) -> None:
        """Nothing arrives."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


class VirtualClock:
    """The loop's time for the program; the wall clock can be set by `jump`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._jumped_ms = 0

    def now(self) -> int:
        """Wall time in milliseconds since the epoch."""
        return EPOCH_MS + self._jumped_ms + round(self._loop.now * 1000)

    def monotonic(self) -> float:
        """The loop's seconds."""
        return self._loop.now

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self._jumped_ms += round(seconds * 1000)


class SimulatedStorage(SqliteStorage):
    """The SQLite engine in memory, its thread replaced by one that takes random virtual time for each commit."""

    def __init__(self, source: random.Random, clock: VirtualClock, *, capacity: int, max_queues: int) -> None:
        super().__init__(None, capacity=capacity, max_queues=max_queues, clock=clock)
        self._writer = _SimulatedWriter(self._open_store, source)


class _SimulatedWriter(Writer[Store]):
    """Gathers, commits and answers as the thread does, on the loop."""

    def __init__(self, open_store: Callable[[], Store], source: random.Random) -> None:
        super().__init__(open_store)
        self._source = source
        self._gathered: list[Call[Any, Any]] = []
        self._committing = False
        self._posted_until = 0.0
        self._store: Store | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.broken = self._loop.create_future()
        self._thread = threading.current_thread()  # marks the store as open
        self._store = self._open_store()

    async def stop(self) -> None:
        self._thread = None
        if self._store is not None:
            self._store.close()
            self._store = None

    def _hand_over(self) -> None:
        self._gathered += self._handed
        self._handed = []
        self._begin()

    def _begin(self) -> None:
        if self._gathered and not self._committing and self._loop is not None:
            self._committing = True
            calls, self._gathered = self._gathered, []
            self._loop.call_later(self._pause(), self._commit, calls)

    def _commit(self, calls: list[Call[Any, Any]]) -> None:
        if self._store is not None:
            self._serve(self._store, calls)
            if self._store.owes and self._loop is not None:
                self._loop.call_later(KEEP_S, self._pay)
        self._committing = False
        self._begin()

    def _pay(self) -> None:
        """Nothing came for so long: write what is owed."""
        if self._store is not None and self._store.owes and not self._committing and not self._gathered:
            self._write(self._store, [])

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        # In the order in which they are posted, as `call_soon_threadsafe` has them.
        if self._loop is not None:
            self._posted_until = max(self._posted_until, self._loop.time() + self._pause())
            self._loop.call_at(self._posted_until, function, *arguments)

    def _pause(self) -> float:
        """Mostly next to nothing, sometimes long enough for anything to happen meanwhile."""
        return self._source.choice(
            [0.0, 1e-5, self._source.random() * 1e-3, self._source.random() * LONG_COMMIT_S]
        )
