"""Threads for handlers that are ordinary functions: started on demand, reused when idle, and daemons.

Daemons, because a handler that never ends must not hold the exit of the process; the threads of concurrent.futures are
joined at exit. How many run at a time is for the caller to bound.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], Callable[[], None]]
"""What a thread does. It gives back how to tell of its end, which is called when the thread counts as idle again: else
the next work, sent by the one who was told, would start a thread beside one that is free."""


class Threads:
    """A set of daemon threads that grows to what was needed at once."""

    def __init__(self, name: str = "jobpipe-handler") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._idle = 0
        self._started = 0
        self._closed = False

    def submit(self, work: Work) -> None:
        """Run `work`, which raises nothing, at once in a thread of its own."""
        self._queue.put(work)
        with self._lock:
            if self._idle:
                self._idle -= 1
                return
            self._started += 1
            number = self._started
        threading.Thread(target=self._serve, name=f"{self._name}-{number}", daemon=True).start()

    def close(self) -> None:
        """End the idle threads; one that still works ends after its work. Waits for none."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._queue.put(None)

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            told = work()
            with self._lock:
                closed = self._closed
                self._idle += not closed
            told()
            if closed:
                return
            # An idle thread must not keep alive what the last run held.
            del work, told
