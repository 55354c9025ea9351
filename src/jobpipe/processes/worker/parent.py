"""`jobpipe worker`, composed: a supervisor whose processes work for a server elsewhere. The app is theirs alone.

Stop: at the first signal they claim nothing more and finish what runs within the grace; at the second they release it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from jobpipe.processes.supervisor.child import NotReady
from jobpipe.processes.supervisor.memory import default_limit
from jobpipe.processes.supervisor.orders import EXIT_APP, Orders, shares
from jobpipe.processes.supervisor.reaper import reap_orphans
from jobpipe.processes.supervisor.supervisor import Supervisor
from jobpipe.processes.worker.care import Care
from jobpipe.runtime.logs import configure
from jobpipe.runtime.loop import loop_factory
from jobpipe.runtime.signals import Signals
from jobpipe.runtime.tracing import asked
from jobpipe.settings.worker import WorkerSettings

log = logging.getLogger("jobpipe.worker")

PATIENCE_S = 7.0
"""After the grace: the handlers' clean-up, and time for the last settles, since the server may be away just then."""


def run(settings: WorkerSettings, app: str) -> int:
    """Work until a signal ends it; the process's exit code."""
    configure(settings.log_level, settings.log_format)
    reap_orphans()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_work(settings, app))
    except NotReady as error:
        print(f"jobpipe: error: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_APP


async def _work(settings: WorkerSettings, app: str) -> int:
    orders = [_orders(settings, app, workers) for workers in shares(settings.workers, settings.process_count)]
    limit = default_limit() if settings.max_rss is None else settings.max_rss
    care = Care(settings)
    supervisor = Supervisor(orders, on_exit=care.give_back, max_rss=limit, patience=PATIENCE_S)
    signals = Signals()
    with signals.caught():
        try:
            if await _proved(supervisor, signals):
                supervisor.start()
                care.start(supervisor)
                log.info("%d workers for %s", settings.workers, settings.servers)
                await signals.first()
            await _drain(supervisor, signals, settings.shutdown_grace)
        finally:
            await supervisor.drain(0)
            care.close()
    log.info("stopped")
    return 0


async def _proved(supervisor: Supervisor, signals: Signals) -> bool:
    """Whether the app loads, in a first process; False also when a signal comes before that is known."""
    proving = asyncio.ensure_future(supervisor.prove())
    first = asyncio.ensure_future(signals.first())
    try:
        await asyncio.wait([proving, first], return_when=asyncio.FIRST_COMPLETED)
        if not proving.done():
            proving.cancel()
            return False
        await proving
        return True
    finally:
        first.cancel()


async def _drain(supervisor: Supervisor, signals: Signals, grace: float) -> None:
    log.info("stopping: running tasks get %g s to finish", grace)
    draining = asyncio.ensure_future(supervisor.drain(grace))
    second = asyncio.ensure_future(signals.second())
    try:
        await asyncio.wait([draining, second], return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            log.warning("stopping now: what still runs is released")
            await supervisor.drain(0)
        await draining
    finally:
        second.cancel()


def _orders(settings: WorkerSettings, app: str, workers: int) -> Orders:
    return Orders(
        app=app,
        url=settings.servers,
        parent=os.getpid(),
        app_dir=settings.app_dir,
        workers=workers,
        queues=settings.queues,
        lease=settings.lease,
        timeout=None if settings.timeout == float("inf") else settings.timeout,
        grace=settings.shutdown_grace,
        max_result=settings.max_body,
        max_tasks=settings.max_tasks_per_process,
        key=settings.key,
        named=True,
        log_level=settings.log_level,
        log_format=settings.log_format,
        otel=asked(settings.otel),
        loop=settings.loop,
    )
