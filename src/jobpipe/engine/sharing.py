"""What the servers of one store tell each other for people who watch: who works where, and what changes.

Workers are announced through the store, every few seconds while they change. Changes are published as they happen, but
only while somebody reads them: a server with readers says so now and then, and the others gather for a while. A store
that only one server can have needs none of this, and nothing here runs.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from jobpipe.core.change import Change
from jobpipe.core.errors import StorageError
from jobpipe.engine.feed import Feed
from jobpipe.engine.gathering import Gathering
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.workers import Announcement
from jobpipe.runtime.clock import Clock
from jobpipe.storage.contract import Peers

log = logging.getLogger("jobpipe.sharing")

LOOK_S = 2.0
"""How often the workers are looked at."""
ANNOUNCE_S = 10.0
"""How often they are announced although nothing changed."""
PUBLISH_GAP_S = 0.5
WANT_S = 10.0
"""How often readers are told of."""
WANTED_S = 25.0
"""How long after that changes are gathered for them."""
MOST_PUBLISHED = 40
"""Changes in one message: what is published may be some kilobytes long."""


class Message(Struct, omit_defaults=True):
    """What one server publishes: that it has readers, or changes for those of others."""

    want: bool = False
    changes: list[Change] = []
    dropped: int = 0


class Sharing(Gathering):
    """One server's part. `feed` is where the changes of others go."""

    def __init__(self, queue: TaskQueue, storage: Peers, feed: Feed, clock: Clock) -> None:
        super().__init__(MOST_PUBLISHED)
        self._queue = queue
        self._storage = storage
        self._feed = feed
        self._clock = clock
        self._wanted_until = 0.0
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._publisher: asyncio.Task[None] | None = None
        self._announced: tuple[float, bytes] = (0.0, b"")

    def start(self) -> None:
        """Begin, once the storage is open; does nothing for a store of one server."""
        if not self._storage.shared:
            return
        self._storage.listen(self._heard)
        self._feed.on_join = self._want
        self._begin(self._announce_all(), "jobpipe-announcer")
        self._begin(self._want_on(), "jobpipe-wants")

    async def stop(self) -> None:
        """End; safe twice or never started."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- who works ---

    async def _announce_all(self) -> None:
        while True:
            try:
                await self._announce()
            except StorageError as error:
                log.debug("the workers here cannot be announced: %s", error)
            await asyncio.sleep(LOOK_S)

    async def _announce(self) -> None:
        workers, now = self._queue.workers.here(), self._clock.monotonic()
        standing = msgspec.json.encode([replace(worker, last_seen=0) for worker in workers])
        if standing != self._announced[1] or now - self._announced[0] >= ANNOUNCE_S:
            server = self._queue.workers.server
            await self._storage.announce(server, msgspec.json.encode(Announcement(server, workers)))
            self._announced = now, standing

    # --- what changes ---

    def changed(self) -> None:
        self._news.set()

    def _want(self) -> None:
        self._storage.publish(msgspec.json.encode(Message(want=True)))

    async def _want_on(self) -> None:
        while True:
            if self._feed.read:
                self._want()
            await asyncio.sleep(WANT_S)

    def _heard(self, data: bytes | None) -> None:
        if data is None:
            self._feed.touch()
            return
        try:
            message = msgspec.json.decode(data, type=Message)
        except ValueError:
            log.debug("another server, of another version, says what is not understood here")
            return
        if message.want:
            self._gather_for_others()
        elif self._feed.read:
            self._feed.gather(message.changes, message.dropped)

    def _gather_for_others(self) -> None:
        self._wanted_until = self._clock.monotonic() + WANTED_S
        if self._publisher is None or self._publisher.done():
            self._queue.observe(self)
            self._publisher = self._begin(self._publish_all(), "jobpipe-publisher")

    async def _publish_all(self) -> None:
        try:
            while (left := self._wanted_until - self._clock.monotonic()) > 0:
                try:
                    await asyncio.wait_for(self._news.wait(), left)
                except TimeoutError:
                    continue
                self._news.clear()
                changes, dropped = self.take()
                self._storage.publish(msgspec.json.encode(Message(changes=changes, dropped=dropped)))
                await asyncio.sleep(PUBLISH_GAP_S)
        finally:
            self._queue.unobserve(self)
            self.forget()
