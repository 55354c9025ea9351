"""Worker processes of a server: their way in, what they are told, and what becomes of a dead one's tasks.

They come through the server's own HTTP API, over a Unix socket in a folder that only this user can enter (loopback TCP
on Windows); a secret tells them from others. Keeping them is the supervisor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from jobpipe.clock import Clock
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Report
from jobpipe.engine.workers import Worker
from jobpipe.http.server import listen
from jobpipe.settings import Settings
from jobpipe.storage.base import LostClaim
from jobpipe.supervisor.child import Exit
from jobpipe.supervisor.memory import default_limit
from jobpipe.supervisor.orders import Orders, shares
from jobpipe.supervisor.supervisor import Supervisor
from jobpipe.tracing import asked

log = logging.getLogger("jobpipe.workers")

PREFIX = "jobpipe-"
SOCKET = "server.sock"
SOCKET_PATH_MAX = 100
"""The path of a Unix socket is at most 107 bytes on Linux and 103 on macOS."""
STRAGGLERS_S = 1.0
"""When a dead process's claims are looked for once more: one may have been under way to it."""

_RELEASED = Outcome(Kind.RELEASED)


class ProcessWorkers:
    """`processes` worker processes that share the server's workers. `app` None runs the built-in `simulate` alone.

    `token` is the secret by which the edge knows them.
    """

    def __init__(
        self,
        settings: Settings,
        app: str | None,
        processes: int,
        queue: TaskQueue,
        *,
        clock: Clock,
        token: str,
    ) -> None:
        self.sockets: list[socket.socket] = []
        self._settings = settings
        self._app = app
        self._processes = processes
        self._queue = queue
        self._clock = clock
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

    def present(self) -> Sequence[Worker]:
        if self._supervisor is None:
            return ()
        queues, now = self._settings.queues, self._clock.now()
        return [
            Worker(
                process.worker,
                last_seen=now,
                total=process.total,
                busy=process.busy,
                host=socket.gethostname(),
                pid=process.pid,
                version=version("jobpipe"),
                queues=None if queues is None else tuple(sorted(queues)),
            )
            for process in self._supervisor.processes
        ]

    # --- the processes' way to the server ---

    def _open_door(self) -> str:
        """Bind where the worker processes connect; the URL that they are told."""
        if sys.platform == "win32":
            self.sockets = listen("127.0.0.1", 0)
            return f"http://127.0.0.1:{self.sockets[0].getsockname()[1]}"
        self._folder = Path(_private_folder())
        path = self._folder / SOCKET
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
            ahead=self._queue.writes_local_claims_late,
            simulate=(settings.simulate_min, settings.simulate_max, settings.simulate_failures),
            token=self._token,
            key=self._token,  # where the server asks for keys, its own workers' is this
            log_level=settings.log_level,
            log_format=settings.log_format,
            otel=asked(settings.otel),
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
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes it private
        _sweep(Path(parent))
        folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent)
        if len(os.fsencode(folder)) + len("/" + SOCKET) <= SOCKET_PATH_MAX:
            break
        os.rmdir(folder)
    return folder


def _sweep(parent: Path) -> None:
    """Remove what servers left behind that were killed: theirs is a folder named after a process that is no more.

    Its socket is tried too, since another container may share the folder and have processes that are unknown here.
    """
    for folder in parent.glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdecimal() and folder.stat().st_uid == os.getuid() and not _lives(int(pid)):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
                    if knock.connect_ex(str(folder / SOCKET)):
                        shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
