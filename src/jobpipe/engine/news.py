"""What other servers of the same store did, brought to those who wait here: workers, callers of `?wait`, running tasks.

The store says only that something happened. Workers look for tasks at once; ids that are waited for and requests to
cancel are read again, all news of the meantime at once. A server that is alone never hears anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from jobpipe.core.errors import StorageError
from jobpipe.engine.waiters import ClaimWaiters, FinishWaiters
from jobpipe.storage.base import Cancelled
from jobpipe.storage.contract import Lookup, Peers

log = logging.getLogger("jobpipe.queue")

PAUSE_S = 0.02
"""Between two readings, however many news come."""
SLICE = 500
"""Ids that are read at a time."""
RESCUE_S = 3.0
"""A server that died tells nobody: while there are others, lost claims are looked for this often."""


class _Store(Lookup, Peers, Protocol):
    """What is asked of a store here."""


class News:
    """`cancelled` is told of all requests to cancel runs of this server, `ring` in how many seconds to rescue."""

    def __init__(
        self,
        storage: _Store,
        workers: ClaimWaiters,
        callers: FinishWaiters,
        *,
        cancelled: Callable[[Sequence[Cancelled]], None],
        ring: Callable[[float], object],
    ) -> None:
        self._storage = storage
        self._workers = workers
        self._callers = callers
        self._cancelled = cancelled
        self._ring = ring
        self._bell = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    def tell(self, data: bytes | None) -> None:
        """As Storage.listen promises; what others publish is for other listeners."""
        if data is not None:
            return
        self._workers.pass_on(None)
        self._ring(RESCUE_S)
        self._bell.set()
        if self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._read(), name="jobpipe-news")

    async def close(self) -> None:
        """End; safe when called twice or when there never were any."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])

    async def _read(self) -> None:
        while True:
            await self._bell.wait()
            self._bell.clear()
            try:
                await self._look()
            except StorageError as error:
                log.debug("news could not be read: %s", error)  # there will be more: the store repeats them
            except Exception:
                log.exception("reading the news failed")
            await asyncio.sleep(PAUSE_S)

    async def _look(self) -> None:
        ids = self._callers.ids()
        for start in range(0, len(ids), SLICE):
            for task in await self._storage.get(ids[start : start + SLICE]):
                if task is not None and task.finished:
                    self._callers.finished(task)
        self._cancelled(await self._storage.cancelling())
