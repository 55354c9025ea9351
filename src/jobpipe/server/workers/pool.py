"""Workers in the server's own process: no process to start, and none to save the server from its handlers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from importlib.metadata import version

from jobpipe.binding.enqueuing import LocalEnqueuer
from jobpipe.core.errors import JobpipeError
from jobpipe.core.lifecycle import End
from jobpipe.core.task import Claim
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Heartbeat, Report
from jobpipe.engine.workers import Worker
from jobpipe.runtime import tracing
from jobpipe.runtime.clock import Clock
from jobpipe.settings.server import Settings
from jobpipe.storage.base import LostClaim
from jobpipe.wire import Defaults
from jobpipe.work.app import App
from jobpipe.work.executor import Executor
from jobpipe.work.lifespan import Stay
from jobpipe.work.pool import Pool
from jobpipe.work.simulate import simulate_handler

log = logging.getLogger("jobpipe.workers")


SETTLE_GRACE_S = 0.25
"""How long the last settles may take at a stop: only a store that refuses them takes any time, and it would go on."""


class PoolWorkers:
    """A pool in the server's own process: for `simulate`, for embedding and for development."""

    def __init__(self, settings: Settings, app: App, queue: TaskQueue, clock: Clock) -> None:
        self.sockets: list[socket.socket] = []
        if tracing.asked(settings.otel):
            tracing.start("jobpipe")
        simulate = simulate_handler(settings.simulate_min, settings.simulate_max, settings.simulate_failures)
        executor = Executor(
            app, timeout=settings.timeout, max_result=settings.max_body, simulate=simulate, clock=clock
        )
        self._host = socket.gethostname()
        self._worker = f"{self._host}:{os.getpid()}"
        self._queues = settings.queues
        source = LocalSource(queue, self._worker, settings.queues, settings.workers)
        self._pool = Pool(
            source,
            executor,
            settings.workers,
            settle_grace=SETTLE_GRACE_S,
            claim_now=source.claim_now if queue.writes_local_claims_late else None,
        )
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

    def vouch(self, claim: LostClaim) -> Heartbeat | None:
        """A claim of this pool has no lease that could run out."""
        return None

    async def drain(self, seconds: float) -> None:
        await self._pool.drain(seconds)

    async def close(self) -> None:
        await self._pool.drain(0)
        if self._stay is not None:
            await self._stay.left()

    def owns(self, worker: str) -> bool:
        return worker == self._worker

    def present(self) -> Sequence[Worker]:
        return (
            Worker(
                self._worker,
                last_seen=self._clock.now(),
                total=self._pool.workers,
                busy=self._pool.busy,
                host=self._host,
                pid=os.getpid(),
                version=version("jobpipe"),
                queues=None if self._queues is None else tuple(sorted(self._queues)),
                apart=False,
            ),
        )

    def trouble(self) -> str | None:
        """A pool is as well as its server."""
        return None


class LocalSource:
    """The pool's source in the server's own process: the queue itself."""

    def __init__(
        self, queue: TaskQueue, worker: str, queues: frozenset[str] | None, total: int | None = None
    ) -> None:
        self._queue = queue
        self._total = total
        self._worker = worker
        self._queues = queues
        self._settling = False
        """Whether settles were handed in whose first step, which brings them to the queue, is still to come."""

    async def claim(self, limit: int) -> Sequence[Claim]:
        if self._settling:
            await asyncio.sleep(0)
        return await self._queue.claim(self._worker, limit, queues=self._queues, wait=None)

    async def claim_now(self, limit: int) -> Sequence[Claim]:
        """Claim up to `limit` tasks that are due now; none when none is."""
        if self._settling:
            await asyncio.sleep(0)
        return await self._queue.claim(self._worker, limit, queues=self._queues, wait=0, total=self._total)

    def settle(self, ends: Sequence[End]) -> asyncio.Future[None]:
        self._settling = True
        return asyncio.get_running_loop().create_task(self._settle(ends))

    async def _settle(self, ends: Sequence[End]) -> None:
        self._settling = False
        answers = await self._queue.settle(
            [Report(claim.task.id, claim.lease_id, outcome) for claim, outcome in ends]
        )
        for (claim, outcome), answer in zip(ends, answers, strict=True):
            if isinstance(answer, JobpipeError):
                log.warning("the outcome %s of task %s was refused: %s", outcome.kind, claim.task.id, answer)
