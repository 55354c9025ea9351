"""The other servers of a database: saying that this one is here, and hearing when another did something.

News travel as an empty NOTIFY, at most a few hundred a second however much happens, in a transaction of their own: a
NOTIFY makes commits wait for each other. Because it can be lost (a pooler, a connection that broke), a server that has
company also looks once a second.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import zlib
from collections.abc import Awaitable, Callable

from jobpipe.core.errors import StorageError
from jobpipe.runtime import randomness
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.link import Link, Refused, Unserved
from jobpipe.storage.postgres.migrations import scripts
from jobpipe.storage.postgres.shared import Shared
from jobpipe.storage.postgres.steps import keep_time

log = logging.getLogger("jobpipe.storage")

BEAT_S = 5.0
FORGOTTEN_S = 60.0
"""After so long its name is forgotten, and its share of the counts folded into the rest."""
LEAVE_S = 5.0
"""Taking leave is a courtesy, and takes no longer: without it others wait for `ALIVE_S`."""
POLL_S = 1.0
PAUSE_S = 0.004
"""Between two NOTIFY: what happens in between is told by the second."""
PAYLOAD = 7900
"""Bytes of a NOTIFY, at most (PostgreSQL: 8000)."""

RULES = "r"
"""The news that rules of queues were changed."""
ALL = "!"
"""The news that a server came, or that something is queued that is due since long: look at all."""

Tell = Callable[[bytes | None], None]


class Company:
    """One server among others. `fold` and `tidy` are what is to be done every second, and every few, elsewhere."""

    def __init__(
        self,
        shared: Shared,
        channel: str,
        connect: Callable[[], Awaitable[Link]],
        fold: Callable[[], Awaitable[None]],
        tidy: Callable[[], Awaitable[None]],
    ) -> None:
        self._s = shared
        self._channel = channel
        self._connect = connect
        self._fold = fold
        self._tidy = tidy
        self._link: Link | None = None
        self._using = asyncio.Lock()
        self._tells: list[Tell] = []
        self._bell = asyncio.Event()
        self._news = self._rules = self._old = False
        self._published: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        """Say that this server is here, and begin to listen. Raises StorageError."""
        await self._meet()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep()), loop.create_task(self._notify())]

    async def leave(self) -> None:
        """Take leave: the others need not wait for this server's leases to end."""
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            return
        await asyncio.wait(self._tasks)
        self._tasks = []
        link, self._link = self._link, None
        with contextlib.suppress(StorageError, Refused, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                if link is None or not link.alive:
                    link = await self._connect()
                async with link.transaction():
                    await link.rows(sql.FOLD, self._s.counts.writers)
                    await link.rows(sql.LEAVE, self._s.server)
                    await link.rows(sql.FOLD_GONE)
                    await link.rows(sql.NOTIFY, self._channel, "")
        if link is not None:
            await link.close()

    def listen(self, tell: Tell) -> None:
        """Have `tell(None)` called when others did something, `tell(data)` when they published."""
        self._tells.append(tell)

    def news(self, *, old: bool = False) -> None:
        """Something was committed that others may wait for; `old`: a look may pass over it, as it is due since long."""
        if self._s.others:
            self._news = True
            self._old |= old
            self._bell.set()

    def rules(self) -> None:
        """Rules of queues were changed: the others are to read them before they claim again."""
        self._rules = True
        self.news()

    def publish(self, data: bytes) -> None:
        """Tell the others' listeners, unless it is too long for that."""
        text = base64.b85encode(zlib.compress(data, 1)).decode()
        if self._s.others and self._tasks and len(text) < PAYLOAD:
            self._published = [*self._published[-8:], text]
            self._bell.set()

    async def beat(self, link: Link) -> None:
        """Prolong this server's life, with the writers it has now, and see who else is here."""
        await keep_time(self._s, link)
        counts = self._s.counts
        row = await link.row(
            sql.BEAT,
            self._s.server,
            counts.writers,
            self._s.alive_ms,
            round(FORGOTTEN_S * 1000),
            len(scripts()),
        )
        self._s.others = row["others"]

    # --- inside -------------------------------------------------------------------------------------------------

    async def _meet(self) -> Link:
        link = await self._connect()
        try:
            await link.listen(self._channel, self._heard)
            await self.beat(link)
            if self._s.others:
                await link.rows(sql.NOTIFY, self._channel, ALL)
        except (StorageError, Refused) as error:
            link.cut()
            raise StorageError(str(error)) from error
        self._link = link
        self.look_again()  # what was said while nobody listened
        return link

    def _heard(self, pid: int, payload: str) -> None:
        if self._link is not None and pid == self._link.pid:
            return
        if payload in ("", ALL, RULES):
            if payload:
                self._s.others = max(1, self._s.others)
                self._s.rulebook.stale = True
            if payload == ALL:
                self._s.levels.forget()
            self.look_again()
            return
        try:
            data = zlib.decompress(base64.b85decode(payload))
        except (ValueError, zlib.error):
            log.debug("a notification that is none of ours")
            return
        for tell in self._tells:
            tell(data)

    def look_again(self) -> None:
        """Something may have happened that this server was not told of."""
        self._s.levels.distrust()
        for tell in self._tells:
            tell(None)

    async def _notify(self) -> None:
        while True:
            await self._bell.wait()
            self._bell.clear()
            said, self._published = self._published, []
            if self._news:
                said.append(RULES if self._rules else ALL if self._old else "")
                if self._rules and self._old:
                    said.append(ALL)
                self._news = self._rules = self._old = False
            link = self._link
            with contextlib.suppress(StorageError, Refused):  # the others' poll is the net
                for payload in said:
                    if link is not None and link.alive:
                        async with self._using:
                            await link.rows(sql.NOTIFY, self._channel, payload)
            await asyncio.sleep(PAUSE_S)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        beaten = loop.time()
        while True:
            busy = self._s.others or self._s.counts.written
            await asyncio.sleep(POLL_S if busy else BEAT_S)
            try:
                beat = loop.time() - beaten >= BEAT_S
                async with self._using:
                    link = self._link if self._link is not None and self._link.alive else await self._meet()
                    if beat:
                        beaten = loop.time()
                        await self.beat(link)
                self._s.refusals.served("beat")
                if beat:
                    await self._tidy()
                await self._fold()
                if self._s.others:
                    self.look_again()
            except (StorageError, Refused) as error:
                log.debug("the other servers cannot be reached: %s", error)
                if isinstance(error, Unserved | Refused):
                    self._s.refusals.refused("beat", StorageError(str(error)))
                await asyncio.sleep(POLL_S * randomness.random())
            except Exception:
                log.exception("keeping company failed; trying again")
