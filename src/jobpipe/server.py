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
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

from jobpipe.clock import Clock, SystemClock
from jobpipe.core.errors import JobpipeError, StorageBroken, StorageRefused
from jobpipe.core.lifecycle import Outcome, Policy
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import Claim
from jobpipe.engine.maintenance import Alarm, Pruner, Rescuer
from jobpipe.engine.queue import Report, TaskQueue
from jobpipe.http.app import create_app
from jobpipe.http.config import HttpConfig, WorkerCounts
from jobpipe.http.server import HttpServer, listen
from jobpipe.logs import configure
from jobpipe.settings import Settings, masked
from jobpipe.storage import open_storage
from jobpipe.work.app import App
from jobpipe.work.errors import AppNotFound
from jobpipe.work.executor import Executor
from jobpipe.work.loading import load_app
from jobpipe.work.pool import Pool
from jobpipe.work.simulate import simulate_handler

log = logging.getLogger("jobpipe.server")

EXIT_OK = 0
EXIT_APP = 3
"""The app does not import."""
EXIT_STORE = 4
"""The store cannot be served."""
EXIT_PORT = 5
"""The address cannot be listened on."""
EXIT_BROKEN = 6
"""The store failed while serving, and only a new start may trust it."""

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the GIL from one that waits: a tenth of Python's default. The storage thread waits for it
several times a commit, and a handler's thread that computes would make it wait that long each time."""


class CannotStart(Exception):
    """The server cannot start; one line for people, and the exit code."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


def run(settings: Settings, app_name: str | None) -> int:
    """Serve until a signal or a broken store ends it; the process's exit code."""
    configure(settings.log_level, settings.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        app = None if app_name is None else _load(app_name)
        with _bound(settings) as sockets, asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(Server(settings, app).serve(sockets))
    except CannotStart as error:
        print(f"jobpipe: error: {error}", file=sys.stderr)  # noqa: T201
        return error.code


class Server:
    """One server with a pool of its own in the same process. `app` None serves the built-in `simulate` alone."""

    def __init__(self, settings: Settings, app: App | None, clock: Clock | None = None) -> None:
        self._settings = settings
        clock = clock or SystemClock()
        self._storage = open_storage(
            settings.store, capacity=settings.queue_size, max_queues=settings.max_queues, clock=clock
        )
        retry = RetryPolicy(settings.retry_base, settings.retry_jitter, settings.retry_cap)
        self.queue = TaskQueue(
            self._storage,
            policy=Policy(retry, settings.max_lost),
            default_timeout=settings.timeout,
            clock=clock,
        )
        rescuer = Rescuer(self.queue, self._storage)
        pruner = Pruner(self._storage, settings.retention, settings.retention_failed)
        self._rescue = Alarm("rescuer", rescuer.run_once, clock)
        self._prune = Alarm("pruner", pruner.run_once, clock)
        self._pool = _pool(settings, self.queue, app, clock) if settings.pool else None
        self._http = HttpServer(create_app(self.queue, _http_config(settings, app, clock), self._workers))
        self._serving: asyncio.Future[None] | None = None

    async def serve(self, sockets: list[socket.socket]) -> int:
        """Start, serve on bound `sockets` until a signal comes, stop. Raises CannotStart."""
        await self._open()
        signals = Signals()
        try:
            with signals.caught():
                await self._start(sockets)
                return await self._until_stopped(signals)
        finally:
            await self._close()

    async def _open(self) -> None:
        try:
            await self.queue.open()
        except StorageRefused as error:
            await self.queue.close()
            raise CannotStart(str(error), EXIT_STORE) from error

    async def _start(self, sockets: list[socket.socket]) -> None:
        self._rescue.start()
        self._prune.start()
        self.queue.on_lease = self._rescue.ring_within
        keep = min(self._settings.retention, self._settings.retention_failed)
        if keep != float("inf"):
            self.queue.on_finish = lambda: self._prune.ring_within(keep + 1.0 if keep else 0.0)
        if self._pool is not None:
            self.queue.listen_to_cancels(self._tell_pool)
            self._pool.start()
        self._serving = asyncio.ensure_future(self._http.serve(sockets=sockets))
        self._banner(sockets[0])

    async def _until_stopped(self, signals: Signals) -> int:
        broken = asyncio.ensure_future(self._storage.wait_broken())
        first = asyncio.ensure_future(signals.first())
        try:
            await asyncio.wait([broken, first], return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                log.critical("%s; stopping, so that a new start reads the file anew", broken.result())
                return EXIT_BROKEN
            await self._drain(signals, broken)
            return EXIT_OK
        finally:
            broken.cancel()
            first.cancel()

    async def _drain(self, signals: Signals, broken: asyncio.Future[StorageBroken]) -> None:
        """Take nothing new, finish what runs within the grace, release the rest. A second signal ends the grace."""
        grace = self._settings.shutdown_grace
        log.info("stopping: nothing new is taken; running tasks get %g s to finish", grace)
        self.queue.drain()
        if self._pool is None:
            return
        draining = asyncio.ensure_future(self._pool.drain(grace))
        second = asyncio.ensure_future(signals.second())
        try:
            ends: list[asyncio.Future[Any]] = [draining, second, broken]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not draining.done():
                log.warning("stopping now: what still runs is released")
                await self._pool.drain(0)
            await draining
        finally:
            second.cancel()

    async def _close(self) -> None:
        """Close all that was opened, in reverse; safe when the start went half way."""
        self._http.stop()
        if self._serving is not None:
            await self._serving
        if self._pool is not None:
            await self._pool.drain(0)
        await self._rescue.stop()
        await self._prune.stop()
        await self.queue.close()
        log.info("stopped")

    def _tell_pool(self, _task_id: str, lease_id: str) -> None:
        if self._pool is not None:
            self._pool.cancel(lease_id)

    def _workers(self) -> WorkerCounts:
        if self._pool is None:
            return WorkerCounts()
        return WorkerCounts(total=self._pool.workers, busy=self._pool.busy, processes=0)

    def _banner(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        settings = self._settings
        workers = f"{settings.workers} workers" if settings.pool else "no workers of its own"
        log.info(
            "jobpipe %s listening on http://%s:%d, store %s, %s, queue size %d",
            version("jobpipe"), shown, port, masked(settings.store), workers, settings.queue_size,
        )  # fmt: skip
        if host not in ("127.0.0.1", "::1"):
            log.warning("listening beyond this machine without keys: whoever reaches the port may use it")


class LocalSource:
    """The pool's source in the server's own process: the queue itself."""

    def __init__(self, queue: TaskQueue, worker: str, queues: frozenset[str] | None) -> None:
        self._queue = queue
        self._worker = worker
        self._queues = queues

    async def claim(self, limit: int) -> Sequence[Claim]:
        return await self._queue.claim(self._worker, limit, queues=self._queues, wait=None)

    async def settle(self, claim: Claim, outcome: Outcome) -> None:
        (answer,) = await self._queue.settle([Report(claim.task.id, claim.lease_id, outcome)])
        if isinstance(answer, JobpipeError):
            log.warning("the outcome %s of task %s was refused: %s", outcome.kind, claim.task.id, answer)


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


def _load(name: str) -> App:
    try:
        return load_app(name)
    except AppNotFound as error:
        raise CannotStart(str(error), EXIT_APP) from error


def _pool(settings: Settings, queue: TaskQueue, app: App | None, clock: Clock) -> Pool:
    simulate = simulate_handler(settings.simulate_min, settings.simulate_max, settings.simulate_failures)
    executor = Executor(
        app or App(), timeout=settings.timeout, max_result=settings.max_body, simulate=simulate, clock=clock
    )
    worker = f"{socket.gethostname()}:{os.getpid()}"
    return Pool(LocalSource(queue, worker, settings.queues), executor, settings.workers)


def _http_config(settings: Settings, app: App | None, clock: Clock) -> HttpConfig:
    return HttpConfig(
        version=version("jobpipe"),
        store=masked(settings.store),
        max_body=settings.max_body,
        max_batch_body=settings.max_batch_body,
        enqueue_status=settings.enqueue_status,
        default_handler="simulate" if settings.pool and app is None else "default",
        max_retries=settings.max_retries,
        allowed_hosts=settings.allowed_hosts,
        queue_size=settings.queue_size,
        clock=clock,
    )


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


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows, PyPy
        return None
    return uvloop.new_event_loop
