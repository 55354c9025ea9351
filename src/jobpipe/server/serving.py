"""A server, composed: storage, queue, upkeep, pool and HTTP, started in order and stopped in order.

Start: the app is loaded and the port bound before anything is touched; then the storage, the upkeep, the pool, the
edge.
Stop, at the first signal: nothing new is taken and nothing claimed; what runs gets the grace, while reads and settles
are still served; the rest is released; then the edge, the storage. At the second signal: the rest is released at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from jobpipe.core.errors import StorageBroken, StorageRefused
from jobpipe.core.rules import Said
from jobpipe.http.server import HttpServer, listen
from jobpipe.processes.supervisor.child import NotReady
from jobpipe.processes.supervisor.reaper import reap_orphans
from jobpipe.runtime.clock import Clock
from jobpipe.runtime.garbage import look_seldom, spare_the_start
from jobpipe.runtime.logs import configure
from jobpipe.runtime.loop import loop_factory
from jobpipe.runtime.signals import Signals
from jobpipe.server.parts import Parts
from jobpipe.settings.server import Settings, masked
from jobpipe.work.app import App
from jobpipe.work.errors import AppNotFound
from jobpipe.work.lifespan import LifespanFailed
from jobpipe.work.loading import load_app
from jobpipe.work.threads import lend

log = logging.getLogger("jobpipe.server")

EXIT_OK = 0
EXIT_APP = 3
"""The app does not import."""
EXIT_STORE = 4
"""The store cannot be served."""
EXIT_PORT = 5
"""The address cannot be listened on."""
EXIT_BROKEN = 6
"""The store failed or was taken away while serving, and only a new start may trust it."""

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the GIL from one that waits: a tenth of Python's default. The storage thread waits for it
several times a commit, and a handler's thread that computes would make it wait that long each time."""


class CannotStart(Exception):
    """The server cannot start; one line for people, and the exit code."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


def run(settings: Settings, app_name: str | None, rules: Mapping[str, Said] | None = None) -> int:
    """Serve until a signal or a broken store ends it; the process's exit code. Raises BadSetting."""
    configure(settings.log_level, settings.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        app = (
            _in_process(app_name, settings.app_dir)
            if app_name is not None and settings.processes == 0
            else app_name
        )
        # The server's own loop is its own affair, unless handlers run on it.
        factory = loop_factory(settings.loop) if isinstance(app, App) else loop_factory()
        with _bound(settings) as sockets, asyncio.Runner(loop_factory=factory) as runner:
            server = Server(settings, app, rules=rules)
            if not isinstance(app, App):
                reap_orphans()
            spare_the_start()
            look_seldom()
            return runner.run(server.serve(sockets))
    except CannotStart as error:
        print(f"jobpipe: error: {error}", file=sys.stderr)  # noqa: T201
        return error.code
    except LifespanFailed as error:
        log.error("%s", error)
        return EXIT_APP


class Server:
    """One server. `app` is an App to run in this process, or the name of one to run in worker processes.

    None serves the built-in `simulate` alone.
    """

    def __init__(
        self,
        settings: Settings,
        app: App | str | None,
        clock: Clock | None = None,
        rules: Mapping[str, Said] | None = None,
    ) -> None:
        self._settings = settings
        self._app = app
        try:
            self._parts = Parts(settings, app, clock, rules)
        except StorageRefused as error:
            raise CannotStart(str(error), EXIT_STORE) from error
        self.queue = self._parts.queue
        self._http = HttpServer(self._parts.asgi)
        self._serving: asyncio.Future[None] | None = None

    async def serve(self, sockets: list[socket.socket]) -> int:
        """Start, serve on bound `sockets` until a signal comes, stop. Raises CannotStart."""
        signals = Signals()
        try:
            with signals.caught():
                if not await self._prove(signals):
                    return EXIT_OK
                await self._open()
                await self._start(sockets)
                return await self._until_stopped(signals)
        finally:
            await self._close()

    async def _prove(self, signals: Signals) -> bool:
        """Have the app loaded where it is going to run; False when a signal came first."""
        # Not in an asyncio.Task of its own: an app's lifespan may insist on ending in the one that began it.
        me = asyncio.current_task()
        first = asyncio.ensure_future(signals.first())
        first.add_done_callback(lambda done: None if done.cancelled() or me is None else me.cancel())
        try:
            await self._parts.prepare()
        except (AppNotFound, LifespanFailed, NotReady) as error:
            raise CannotStart(str(error), EXIT_APP) from error
        except asyncio.CancelledError:
            if me is None or not first.done():
                raise
            me.uncancel()
            return False
        finally:
            first.cancel()
        return True

    async def _open(self) -> None:
        if isinstance(self._app, App):
            lend(asyncio.get_running_loop(), self._settings.workers)
        try:
            await self._parts.open()
        except StorageRefused as error:
            raise CannotStart(str(error), EXIT_STORE) from error

    async def _start(self, sockets: list[socket.socket]) -> None:
        self._parts.start()
        self._serving = asyncio.ensure_future(
            self._http.serve(sockets=[*sockets, *self._parts.workers.sockets])
        )
        self._banner(sockets[0])

    async def _until_stopped(self, signals: Signals) -> int:
        broken = asyncio.ensure_future(self._parts.wait_broken())
        first = asyncio.ensure_future(signals.first())
        try:
            await asyncio.wait([broken, first], return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                log.critical("%s; stopping, so that a new start reads the file anew", broken.result())
                return EXIT_BROKEN
            await self._drain(signals, broken)
            return await self._end()
        finally:
            broken.cancel()
            first.cancel()

    async def _end(self) -> int:
        """The exit code of a stop in order: not 0 when the next start will not find what was acknowledged."""
        try:
            await self._parts.look_at_store()
        except StorageBroken as error:
            log.critical("%s", error)
            return EXIT_BROKEN
        return EXIT_OK

    async def _drain(self, signals: Signals, broken: asyncio.Future[StorageBroken]) -> None:
        """Take nothing new, finish what runs within the grace, release the rest. A second signal ends the grace."""
        grace = self._settings.shutdown_grace
        log.info("stopping: nothing new is taken; running tasks get %g s to finish", grace)
        draining = asyncio.ensure_future(self._parts.drain(grace))
        second = asyncio.ensure_future(signals.second())
        try:
            ends: list[asyncio.Future[Any]] = [draining, second, broken]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not draining.done():
                log.warning("stopping now: what still runs is released")
                await self._parts.drain(0)
            await draining
        finally:
            second.cancel()

    async def _close(self) -> None:
        """Close all that was opened, in reverse; safe when the start went half way."""
        # Workers first: their last settles come through the edge.
        await self._parts.drain(0)
        self._http.stop()
        if self._serving is not None:
            await self._serving
        try:
            await self._parts.close()
        except LifespanFailed as error:
            log.error("%s", error)  # all tasks are settled and the store is closed: the stop itself went well
        if self._serving is not None:
            log.info("stopped")

    def _banner(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        settings = self._settings
        workers = f"{settings.workers} workers" if settings.pool else "no workers of its own"
        log.info(
            "jobpipe %s listening on http://%s:%d, store %s, %s, queue size %d",
            version("jobpipe"), shown, port, masked(settings.store), workers, settings.queue_size,
        )  # fmt: skip
        if isinstance(self._app, App):
            log.warning(
                "--processes 0 runs handlers in the server: one that blocks, leaks or crashes takes it along"
            )
        if host not in ("127.0.0.1", "::1") and not (settings.api_keys or settings.api_keys_file):
            log.warning("listening beyond this machine without keys: whoever reaches the port may use it")


def _in_process(name: str, folder: str) -> App:
    try:
        return load_app(name, folder)
    except AppNotFound as error:
        raise CannotStart(str(error), EXIT_APP) from error


@contextlib.contextmanager
def _bound(settings: Settings) -> Iterator[list[socket.socket]]:
    """The listening sockets, taken before the store is touched, so that a port in use changes nothing."""
    try:
        sockets = listen(settings.host, settings.port)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise CannotStart(f"cannot listen on {where}: {error.strerror}", EXIT_PORT) from error
    try:
        yield sockets
    finally:
        for bound in sockets:
            bound.close()
