"""A Jobpipe inside your own asyncio program: the queue, its workers and its HTTP API, without a server of its own.

    app = App()
    jobpipe = Jobpipe(app, Settings(store="sqlite:///tasks.db", workers=8))

    async with jobpipe:                    # in the lifespan of a web app, which mounts `jobpipe.asgi`
        await resize.enqueue(path="a.png")

Handlers run in this process: one that blocks the event loop blocks the program. At the end tasks that run get
`shutdown_grace` seconds to finish; the rest is released and runs after the next start.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType

from starlette.types import ASGIApp

from jobpipe.engine.queue import TaskQueue
from jobpipe.runtime.clock import Clock
from jobpipe.server.parts import Parts
from jobpipe.settings.server import Settings
from jobpipe.work.app import App

__all__ = ["Jobpipe", "Settings"]

log = logging.getLogger("jobpipe.embed")


class Jobpipe:
    """A queue and its workers in this process, for as long as the `async with` lasts, once.

    Of `settings` those count that are not about listening. `app` None serves the built-in `simulate` alone;
    `Settings(pool=False)` only serves tasks to workers elsewhere.
    """

    def __init__(
        self, app: App | None = None, settings: Settings | None = None, *, clock: Clock | None = None
    ) -> None:
        self._parts = Parts(settings or Settings(), app, clock)
        self._watch: asyncio.Task[None] | None = None

    @property
    def asgi(self) -> ASGIApp:
        """The HTTP API and dashboard, to be mounted; it answers while the `async with` lasts."""
        return self._parts.asgi

    @property
    def queue(self) -> TaskQueue:
        """The queue itself, for reading and steering tasks without HTTP; it belongs to the event loop of the start."""
        return self._parts.queue

    async def __aenter__(self) -> Jobpipe:
        """Open the store, enter the app's lifespan, start to work. Raises StorageRefused and LifespanFailed."""
        try:
            await self._parts.open()
            await self._parts.prepare()
            self._parts.start()
        except BaseException:
            await self._parts.close()
            raise
        self._watch = asyncio.create_task(self._tell_broken(), name="jobpipe-watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain within the grace, leave the lifespan, close the store."""
        if self._watch is not None:
            self._watch.cancel()
        try:
            await self._parts.drain(self._parts.settings.shutdown_grace)
        finally:
            await self._parts.close()

    async def _tell_broken(self) -> None:
        """A server exits when its store breaks; what an embedding program does is its own to say: `/readyz` tells."""
        log.critical(
            "%s; restart the program, so that it reads the store anew", await self._parts.wait_broken()
        )
