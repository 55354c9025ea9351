"""How many queued tasks wait for their time, scheduled or to be retried: counted now and then, up to a bound, and only
when somebody asks. The kept counts do not tell them apart, since time alone makes them due.
"""

from __future__ import annotations

from jobpipe.runtime.clock import Clock
from jobpipe.storage.base import Waiting
from jobpipe.storage.contract import Reading

MOST = 10_000
AGAIN_S = 5.0


class WaitCounts:
    """The latest count of a store."""

    def __init__(self, storage: Reading, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._latest: Waiting | None = None
        self._at = 0.0

    async def counts(self) -> Waiting:
        """As of a few seconds ago at most; MOST of both together means at least so many."""
        time = self._clock.monotonic()
        if self._latest is None or time - self._at >= AGAIN_S:
            self._at = time  # before the answer: who asks meanwhile takes the one before, if there is one
            self._latest = await self._storage.waiting(self._clock.now(), MOST)
        return self._latest
