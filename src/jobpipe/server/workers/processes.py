"""Worker processes of a server: their way in, what they are told, and what becomes of a dead one's tasks.

They come through the server's own HTTP API by a `Door`; a secret tells them from others. Keeping them is the
supervisor's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from importlib.metadata import version

from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Heartbeat, Report
from jobpipe.engine.workers import Replaced, Worker
from jobpipe.processes.supervisor.child import Exit
from jobpipe.processes.supervisor.left import left_by
from jobpipe.processes.supervisor.memory import default_limit
from jobpipe.processes.supervisor.orders import Orders, shares
from jobpipe.processes.supervisor.supervisor import Supervisor
from jobpipe.runtime.clock import Clock
from jobpipe.runtime.tracing import asked
from jobpipe.server.workers.door import Door
from jobpipe.settings.server import Settings
from jobpipe.storage.base import LostClaim

log = logging.getLogger("jobpipe.workers")

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
        self._door: Door | None = None
        self._supervisor: Supervisor | None = None
        self._stragglers: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        door = self._door = Door()
        self.sockets = door.sockets
        settings = self._settings
        orders = [self._orders(door.url, workers) for workers in shares(settings.workers, self._processes)]
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
        """A process whose lease runs out hangs or is stopped: only a fresh one can go on.

        One that the system says to work, with other runs in time, has lost nothing but this claim.
        """
        if self._supervisor is not None and claim.task.worker is not None and not claim.orphaned:
            child = self._supervisor.child_of(claim.task.worker)
            if child is not None and child.works and claim.lease_id not in child.begun and child.begun:
                return
            why = "gave no sign until a lease ran out, and was killed"
            self._supervisor.kill(claim.task.worker, why)

    def vouch(self, claim: LostClaim) -> Heartbeat | None:
        """A process may hold the GIL in C for longer than a lease, and cannot send anything meanwhile."""
        worker = claim.task.worker
        if self._supervisor is None or worker is None or claim.orphaned:
            return None
        child = self._supervisor.child_of(worker)
        run = None if child is None else child.begun.get(claim.lease_id)
        if child is None or run is None or not child.works:
            return None
        return Heartbeat(claim.task.id, claim.lease_id, self._settings.lease, run.timeout)

    async def drain(self, seconds: float) -> None:
        if self._supervisor is not None:
            await self._supervisor.drain(seconds)

    async def close(self) -> None:
        await self.drain(0)
        for straggler in self._stragglers:
            straggler.cancel()
        if self._door is not None:
            self._door.close()

    def owns(self, worker: str) -> bool:
        return self._supervisor is not None and self._supervisor.knows(worker)

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
                leaving=process.leaving,
                replaced=None
                if process.replaced is None
                else Replaced(process.replaced.reason, process.replaced.at),
            )
            for process in self._supervisor.processes
        ]

    def _orders(self, url: str, workers: int) -> Orders:
        settings = self._settings
        return Orders(
            app=self._app,
            url=url,
            parent=os.getpid(),
            app_dir=settings.app_dir,
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
            loop=settings.loop,
        )

    def trouble(self) -> str | None:
        return None if self._supervisor is None else self._supervisor.trouble

    # --- what a process leaves behind ---

    async def _give_back(self, exit: Exit) -> None:
        """Settle what a dead process had claimed."""
        if exit.worker is None:
            return
        claims = self._queue.claims_of(exit.worker)
        await self._rescue([Report(id, lease_id, left_by(exit, lease_id)) for id, lease_id in claims])
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
