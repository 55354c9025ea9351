"""The workers of a server itself: a pool in its own process, or worker processes that it supervises.

Both look the same to the server: `open` before anything is touched, `start`, `drain`, `close`. Worker processes come
through the server's own HTTP API, over a Unix socket that only this user can reach; a secret tells them from others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from jobpipe.clock import Clock
from jobpipe.core.errors import JobpipeError
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim
from jobpipe.engine.queue import Report, TaskQueue
from jobpipe.enqueuing import LocalEnqueuer
from jobpipe.http.config import WorkerCounts
from jobpipe.http.server import listen
from jobpipe.settings import Settings
from jobpipe.storage.base import LostClaim
from jobpipe.supervisor.child import Exit
from jobpipe.supervisor.memory import default_limit
from jobpipe.supervisor.orders import Orders, shares
from jobpipe.supervisor.supervisor import Supervisor
from jobpipe.wire import Defaults
from jobpipe.work.app import App
from jobpipe.work.executor import Executor
from jobpipe.work.lifespan import Stay
from jobpipe.work.pool import Pool
from jobpipe.work.simulate import simulate_handler

log = logging.getLogger("jobpipe.workers")

SOCKET_PATH_MAX = 100
"""The path of a Unix socket is at most 107 bytes on Linux and 103 on macOS."""
STRAGGLERS_S = 1.0
"""When a dead process's claims are looked for once more: one may have been under way to it."""

_RELEASED = Outcome(Kind.RELEASED)


class OwnWorkers(Protocol):
    """What a server needs of its workers. `sockets` are to be served beside its own, from `open` on."""

    sockets: list[socket.socket]

    async def open(self) -> None:
        """Make sure that the app can run. Raises AppNotFound, LifespanFailed or NotReady with one line for people."""
        ...

    def start(self) -> None:
        """Begin to claim, on the running event loop."""
        ...

    def cancel(self, lease_id: str) -> None:
        """Ask the handler that runs under this lease to stop, if it is one of these workers'."""
        ...

    def rescued(self, claim: LostClaim) -> None:
        """A claim was found lost and settled without its worker."""
        ...

    async def drain(self, seconds: float) -> None:
        """Claim nothing more, finish what runs within `seconds`, release the rest. Safe twice, or never started."""
        ...

    async def close(self) -> None:
        """Drain at once and leave nothing behind. Safe twice, or never opened."""
        ...

    def counts(self) -> WorkerCounts:
        """How many workers there are, and how many of them hold a task."""
        ...


class NoWorkers:
    """A server that only serves tasks to workers elsewhere."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    async def open(self) -> None: ...

    def start(self) -> None: ...

    def cancel(self, lease_id: str) -> None: ...

    def rescued(self, claim: LostClaim) -> None: ...

    async def drain(self, seconds: float) -> None: ...

    async def close(self) -> None: ...

    def counts(self) -> WorkerCounts:
        return WorkerCounts()


class PoolWorkers:
    """A pool in the server's own process: for `simulate`, for embedding and for development."""

    def __init__(self, settings: Settings, app: App, queue: TaskQueue, clock: Clock) -> None:
        self.sockets: list[socket.socket] = []
        simulate = simulate_handler(settings.simulate_min, settings.simulate_max, settings.simulate_failures)
        executor = Executor(
            app, timeout=settings.timeout, max_result=settings.max_body, simulate=simulate, clock=clock
        )
        worker = f"{socket.gethostname()}:{os.getpid()}"
        self._pool = Pool(LocalSource(queue, worker, settings.queues), executor, settings.workers)
        self._app = app
        self._queue = queue
        self._defaults = Defaults("default", settings.max_retries, settings.max_body)
        self._clock = clock
        self._stay: Stay | None = None

    async def open(self) -> None:
        enqueuer = LocalEnqueuer(self._queue, self._defaults, self._clock) if self._app.handlers else None
        # `open` and `close` need not be called by the same asyncio.Task, as a lifespan may require.
        self._stay = Stay(lambda: self._app.running(enqueuer))
        await self._stay.entered()

    def start(self) -> None:
        self._pool.start()

    def cancel(self, lease_id: str) -> None:
        self._pool.cancel(lease_id)

    def rescued(self, claim: LostClaim) -> None:
        """A claim of this pool has no lease that could run out."""

    async def drain(self, seconds: float) -> None:
        await self._pool.drain(seconds)

    async def close(self) -> None:
        await self._pool.drain(0)
        if self._stay is not None:
            await self._stay.left()

    def counts(self) -> WorkerCounts:
        return WorkerCounts(total=self._pool.workers, busy=self._pool.busy, processes=0)


class LocalSource:
    """The pool's source in the server's own process: the queue itself.

    Settles of runs that end in one turn of the event loop go to the queue together.
    """

    def __init__(self, queue: TaskQueue, worker: str, queues: frozenset[str] | None) -> None:
        self._queue = queue
        self._worker = worker
        self._queues = queues
        self._gathered: list[tuple[Report, asyncio.Future[None]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def claim(self, limit: int) -> Sequence[Claim]:
        if self._gathered:
            self._send_gathered()
            await asyncio.sleep(0)  # the settles' first step, which hands them in before this claim
        return await self._queue.claim(self._worker, limit, queues=self._queues, wait=None)

    async def settle(self, claim: Claim, outcome: Outcome) -> None:
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[None] = loop.create_future()
        if not self._gathered:
            loop.call_soon(self._send_gathered)
        self._gathered.append((Report(claim.task.id, claim.lease_id, outcome), settled))
        await settled

    def _send_gathered(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            sending = asyncio.get_running_loop().create_task(self._send(gathered))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    async def _send(self, gathered: Sequence[tuple[Report, asyncio.Future[None]]]) -> None:
        try:
            answers = await self._queue.settle([report for report, _ in gathered])
        except Exception as error:  # noqa: BLE001 - each of those who wait is told, and tries again
            for _, settled in gathered:
                if not settled.done():
                    settled.set_exception(error)
            return
        for (report, settled), answer in zip(gathered, answers, strict=True):
            if isinstance(answer, JobpipeError):
                log.warning(
                    "the outcome %s of task %s was refused: %s", report.outcome.kind, report.id, answer
                )
            if not settled.done():
                settled.set_result(None)


class ProcessWorkers:
    """`processes` worker processes that share the server's workers. `app` None runs the built-in `simulate` alone.

    `token` is the secret by which the edge knows them.
    """

    def __init__(
        self, settings: Settings, app: str | None, processes: int, queue: TaskQueue, token: str
    ) -> None:
        self.sockets: list[socket.socket] = []
        self._settings = settings
        self._app = app
        self._processes = processes
        self._queue = queue
        self._token = token
        self._folder: Path | None = None
        self._supervisor: Supervisor | None = None
        self._stragglers: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        url = self._open_door()
        settings = self._settings
        orders = [self._orders(url, workers) for workers in shares(settings.workers, self._processes)]
        limit = default_limit() if settings.max_rss is None else settings.max_rss
        self._supervisor = Supervisor(orders, on_exit=self._give_back, max_rss=limit)
        await self._supervisor.prove()

    def start(self) -> None:
        if self._supervisor is not None:
            self._supervisor.start()

    def cancel(self, lease_id: str) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel(lease_id)

    def rescued(self, claim: LostClaim) -> None:
        """A process whose lease runs out hangs or is stopped: only a fresh one can go on."""
        if self._supervisor is not None and claim.task.worker is not None and not claim.orphaned:
            why = "gave no sign until a lease ran out, and was killed"
            self._supervisor.kill(claim.task.worker, why)

    async def drain(self, seconds: float) -> None:
        if self._supervisor is not None:
            await self._supervisor.drain(seconds)

    async def close(self) -> None:
        await self.drain(0)
        for straggler in self._stragglers:
            straggler.cancel()
        for bound in self.sockets:
            bound.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def counts(self) -> WorkerCounts:
        if self._supervisor is None:
            return WorkerCounts()
        supervisor = self._supervisor
        return WorkerCounts(self._settings.workers, supervisor.busy, supervisor.processes)

    # --- the processes' way to the server ---

    def _open_door(self) -> str:
        """Bind where the worker processes connect; the URL that they are told."""
        if sys.platform == "win32":
            self.sockets = listen("127.0.0.1", 0)
            return f"http://127.0.0.1:{self.sockets[0].getsockname()[1]}"
        self._folder = Path(_private_folder())
        path = self._folder / "server.sock"
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        door.setblocking(False)
        door.bind(str(path))
        door.listen()
        self.sockets = [door]
        return f"unix:{path}"

    def _orders(self, url: str, workers: int) -> Orders:
        settings = self._settings
        return Orders(
            app=self._app,
            url=url,
            parent=os.getpid(),
            workers=workers,
            queues=settings.queues,
            lease=settings.lease,
            timeout=None if settings.timeout == float("inf") else settings.timeout,
            grace=settings.shutdown_grace,
            max_result=settings.max_body,
            max_tasks=settings.max_tasks_per_process,
            simulate=(settings.simulate_min, settings.simulate_max, settings.simulate_failures),
            token=self._token,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )

    # --- what a process leaves behind ---

    async def _give_back(self, exit: Exit) -> None:
        """Settle what a dead process had claimed: lost if its handler had begun, else (or if we ended it) released."""
        if exit.worker is None:
            return
        lost = Outcome(Kind.LOST, message=f"its worker process {exit.how}")
        begun = frozenset[str]() if exit.stopped else exit.begun
        await self._rescue(
            [
                Report(id, lease_id, lost if lease_id in begun else _RELEASED)
                for id, lease_id in self._queue.claims_of(exit.worker)
            ]
        )
        straggler = asyncio.ensure_future(self._give_back_late(exit.worker))
        self._stragglers.add(straggler)
        straggler.add_done_callback(self._stragglers.discard)

    async def _give_back_late(self, worker: str) -> None:
        await asyncio.sleep(STRAGGLERS_S)
        await self._rescue([Report(id, lease, _RELEASED) for id, lease in self._queue.claims_of(worker)])

    async def _rescue(self, reports: Sequence[Report]) -> None:
        if reports:
            await self._queue.rescue(reports)
            log.info("gave back %d tasks of a worker process that ended", len(reports))


def _private_folder() -> str:
    """A fresh folder that only this user can enter, with a path short enough for a socket in it."""
    folder = tempfile.mkdtemp(prefix="jobpipe-")
    if len(os.fsencode(folder)) + len("/server.sock") <= SOCKET_PATH_MAX:
        return folder
    os.rmdir(folder)
    return tempfile.mkdtemp(prefix="jobpipe-", dir="/tmp")


def own_workers(
    settings: Settings, app: App | str | None, queue: TaskQueue, clock: Clock, token: str
) -> OwnWorkers:
    """The workers that `settings` ask for: worker processes for an app's name, a pool here for an App itself."""
    if not settings.pool:
        return NoWorkers()
    processes = settings.processes
    if processes is None:
        processes = 1 if isinstance(app, str) else 0
    if processes and not isinstance(app, App):
        return ProcessWorkers(settings, app, processes, queue, token)
    return PoolWorkers(settings, app if isinstance(app, App) else App(), queue, clock)


def new_token() -> str:
    """A secret for one server's life."""
    return secrets.token_hex(32)
