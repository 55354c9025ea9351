"""A worker process, composed: app, source, pool, watchdog, and the pipes to its parent.

It lives until it is told to drain, or until it must be replaced: after its last allowed task, after a handler that
would not end, after a signal of somebody else's. A hanging event loop is left behind by `os._exit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib.metadata import version

from jobpipe.binding.declaring import declare_there
from jobpipe.binding.enqueuing import RemoteEnqueuer
from jobpipe.client.address import authorization, parse_addresses
from jobpipe.client.remote_source import RemoteSource
from jobpipe.core.errors import JobpipeError
from jobpipe.core.task import Claim
from jobpipe.processes.supervisor.orders import (
    BEGIN,
    CANCEL,
    CLEANUP_S,
    DRAIN,
    END,
    ERROR,
    EXIT_APP,
    EXIT_REPLACE,
    LATE,
    LEAVE,
    LOST,
    READY,
    Orders,
    order,
    run_word,
)
from jobpipe.processes.worker import last_words
from jobpipe.processes.worker.kin import die_with, go_first
from jobpipe.processes.worker.pipes import Pipes
from jobpipe.processes.worker.programs import Programs
from jobpipe.processes.worker.watchdog import Watchdog
from jobpipe.runtime import streams, tracing
from jobpipe.runtime.clock import Clock, SystemClock
from jobpipe.runtime.garbage import spare_the_start
from jobpipe.runtime.logs import configure
from jobpipe.runtime.loop import loop_factory
from jobpipe.runtime.signals import keep_from_forks
from jobpipe.work.app import App
from jobpipe.work.errors import AppNotFound
from jobpipe.work.executor import Executor
from jobpipe.work.lifespan import LifespanFailed
from jobpipe.work.loading import load_app
from jobpipe.work.pool import Pool, Watcher
from jobpipe.work.run import INFINITY, Run
from jobpipe.work.simulate import simulate_handler
from jobpipe.work.threads import lend

log = logging.getLogger("jobpipe.worker")

LOCAL_HEADER = "x-jobpipe-local"
EARLY_CANCELS = 1000
END_S = 0.05
"""How long ends are gathered for one message: only the parent's view of what is busy waits for them."""
EXIT_S = 5.0
"""How long threads and exit functions of the app may hold the exit."""


EXIT_BROKEN = 1
"""The process lost its own work to a handler."""


def main() -> int:
    """Be a worker process until told otherwise; its exit code."""
    pipes = Pipes()
    orders = pipes.orders()
    die_with(orders.parent)
    go_first()
    configure(orders.log_level, orders.log_format)
    keep_from_forks()
    try:
        app = App() if orders.app is None else load_app(orders.app, orders.app_dir)
        if orders.otel:
            tracing.start("jobpipe-worker")
        spare_the_start()  # how often to look is left to those whose handlers run here
        with asyncio.Runner(loop_factory=loop_factory(orders.loop)) as runner:
            code = runner.run(_work(orders, app, pipes))
    except (AppNotFound, LifespanFailed) as error:
        pipes.send(order(ERROR, *str(error).split()))
        code = EXIT_APP
    except (
        BaseException
    ):  # a handler can cancel or stop what it runs in: a process without its work must not stay
        log.exception("this worker process cannot go on")
        _leave(EXIT_BROKEN)
    _leave_within(EXIT_S, code)
    return code


async def _work(orders: Orders, app: App, pipes: Pipes) -> int:
    return await WorkerProcess(orders, app, pipes).run()


def _leave_within(seconds: float, code: int) -> None:
    """Exit in order, but in any case: what the app left behind must not hold the place of a successor."""
    net = threading.Timer(seconds, _leave, (code,))
    net.daemon = True
    net.start()


def _leave(code: int) -> None:
    """Exit now, whatever still runs."""
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):  # a handler may have put its own in its place
        sys.stdout.flush()
    streams.farewell()
    os._exit(code)


class WorkerProcess(Watcher):
    """What runs in a worker process, on its event loop."""

    def __init__(self, orders: Orders, app: App, pipes: Pipes, clock: Clock | None = None) -> None:
        self._orders = orders
        self._app = app
        self._pipes = pipes
        self._clock = clock or SystemClock()
        self._loop = asyncio.get_running_loop()
        self.worker = f"{socket.gethostname()}:{os.getpid()}-{secrets.token_hex(2)}"
        self._servers = parse_addresses(orders.url)
        self._headers = {} if orders.token is None else {LOCAL_HEADER: orders.token}
        self._programs = Programs()
        self._executor = _executor(orders, app, self._programs, self._clock)
        self._source = RemoteSource(
            orders.url,
            self.worker,
            queues=sorted(orders.queues) if orders.queues else ("*",),
            lease_s=orders.lease,
            key=orders.key,
            headers=self._headers,
            timeout_of=self._own_timeout,
            version=version("jobpipe"),
            hears_cancels=orders.token is None,
            total=orders.workers,
            release=app.release,
        )
        self._source.on_cancel = self._source.on_lost = self._cancel
        self._pool = Pool(
            self._source, self._executor, orders.workers, max_tasks=orders.max_tasks, watcher=self,
            claim_now=self._source.claim_now if orders.ahead else None,
        )  # fmt: skip
        self._watchdog = Watchdog(
            self._loop, lambda: self._pool.runs, CLEANUP_S + 0.25, self._on_hang, self._clock
        )
        self._tells_more = orders.named or any(
            handler.timeout is not None for handler in app.handlers.values()
        )
        self._early_cancels: OrderedDict[str, None] = OrderedDict()
        self._ends: list[str] = []
        self._code = 0
        self._drains: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    async def run(self) -> int:
        """Work until drained; the exit code. Raises LifespanFailed when the app's lifespan does not begin or end."""
        self._pipes.listen(self._hear_soon)
        lend(self._loop, self._orders.workers)
        self._programs.watch(self._loop)
        enqueuer = RemoteEnqueuer(self._orders.url, key=self._orders.key)
        async with self._app.running(enqueuer):
            self._pipes.send(order(READY, self.worker))
            declaring = self._declare()
            if sys.platform != "win32":
                self._loop.add_signal_handler(
                    signal.SIGTERM, self._retire, self._orders.grace, "was told to end by a SIGTERM"
                )
            self._watchdog.start()
            self._pool.start()
            await self._ended.wait()
            declaring.cancel()
            _leave_within(self._orders.grace + EXIT_S, self._code)
        self._send_lost()
        await self._source.close()
        await enqueuer.close()
        if self._pool.busy:
            _leave(self._code)  # a handler goes on: the loop's own end would wait for it
        return self._code

    def _declare(self) -> asyncio.Task[None]:
        """Say what the app says of queues and schedules. The server may wait for this process before it listens."""
        named = self._orders.app is not None
        declaring = (
            declare_there(self._orders.url, self._orders.key, self._app) if named else asyncio.sleep(0)
        )
        return self._loop.create_task(declaring)

    def _own_timeout(self, claim: Claim) -> float | None:
        handler = self._executor.find(claim.task.handler)
        return None if handler is None else handler.timeout

    def _hear_soon(self, word: str, rest: str) -> None:
        """Called on the thread that listens."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: this process is leaving already
            self._loop.call_soon_threadsafe(self._hear, word, rest)

    def _hear(self, word: str, rest: str) -> None:
        if word == CANCEL:
            self._cancel(rest)
        elif word == DRAIN:
            self._drain(float(rest))

    def _cancel(self, lease_id: str) -> bool:
        if self._pool.cancel(lease_id):
            return True
        # The word may overtake the claim itself, which comes another way.
        self._early_cancels[lease_id] = None
        if len(self._early_cancels) > EARLY_CANCELS:
            self._early_cancels.popitem(last=False)
        return False

    # --- leaving ---

    def _retire(self, seconds: float, why: str) -> None:
        """Leave of its own accord: another process is to take this one's place."""
        if not self._drains:
            self._code = EXIT_REPLACE
            self._pipes.send(order(LEAVE, *why.split()))
        self._drain(seconds)

    def _drain(self, seconds: float) -> None:
        task = self._loop.create_task(self._drained(seconds))
        self._drains.add(task)

    async def _drained(self, seconds: float) -> None:
        await self._pool.drain(seconds)
        self._send_ends()
        self._ended.set()

    # --- told by the pool ---

    def on_begin(self, lease_ids: Sequence[str]) -> None:
        self._send_ends()
        self._pipes.send(order(BEGIN, *(map(self._word, lease_ids) if self._tells_more else lease_ids)))
        self._watchdog.notice()
        if self._early_cancels:
            for lease_id in lease_ids:
                if lease_id in self._early_cancels:
                    del self._early_cancels[lease_id]
                    self._loop.call_soon(self._pool.cancel, lease_id)

    def _word(self, lease_id: str) -> str:
        """The run for the parent: with the handler's own timeout, and its task where it knows it only from here."""
        claim = self._pool.claim(lease_id)
        handler = self._executor.find(claim.task.handler)
        if not self._orders.named:
            return run_word(lease_id, None if handler is None else handler.timeout, None)
        timeout = None if handler is None else self._executor.timeout_of(claim.task, handler)
        return run_word(lease_id, timeout if timeout != INFINITY else None, claim.task.id)

    def on_settled(self, lease_ids: Sequence[str]) -> None:
        if not self._ends:
            self._loop.call_later(END_S, self._send_ends)
        self._ends += lease_ids

    def _send_ends(self) -> None:
        if self._ends:
            self._pipes.send(order(END, *self._ends))
            self._ends.clear()
        self._send_lost()

    def _send_lost(self) -> None:
        """Have the server count the lines of the log that were lost here: nobody can ask this process."""
        if streams.lost.lines:
            self._pipes.send(order(LOST, streams.lost.lines))
            streams.lost.lines = 0

    def on_spent(self) -> None:
        self._retire(INFINITY, f"ran its {self._orders.max_tasks} tasks (--max-tasks-per-process)")

    def on_overstay(self, run: Run) -> bool:
        task = run.claim.task
        log.error("task %s: handler %s outlived its timeout; replacing its process", task.id, task.handler)
        self._retire(INFINITY, f"holds handler {task.handler}, which outlived its timeout in task {task.id}")
        if run.reported or any(not (other.reported or other.late) for other in self._pool.runs):
            return False  # it is settled at once: nobody knows how long the others will take
        pause = "-" if run.pause is None else run.pause
        self._pipes.send(order(LATE, run.claim.lease_id, run.timeout, pause))
        return True

    # --- told by the watchdog, in its thread ---

    def _on_hang(self, runs: Sequence[Run], guilty: Sequence[Run]) -> None:
        """Say what can be said without the event loop, and leave it."""
        for run in guilty:
            task = run.claim.task
            log.error(
                "task %s: handler %s blocks the event loop; replacing its process", task.id, task.handler
            )
        names = ", ".join(run.claim.task.handler for run in guilty)
        self._pipes.send(order(LEAVE, *f"hung in handler {names}".split()))
        held = [*runs, *self._pool.ahead]
        outcomes = [(run.claim, run.judge_hung(guilty=run in guilty)) for run in held]
        try:
            last_words.tell(self._servers, self._headers | authorization(self._orders.key), outcomes)
        except JobpipeError as error:
            log.error("its outcome could not be delivered: %s", error)
        _leave(EXIT_REPLACE)


def _executor(orders: Orders, app: App, programs: Programs, clock: Clock) -> Executor:
    return Executor(
        app,
        timeout=INFINITY if orders.timeout is None else orders.timeout,
        max_result=orders.max_result,
        cleanup=CLEANUP_S,
        simulate=simulate_handler(*orders.simulate),
        programs=programs,
        ends_with_threads=True,
        clock=clock,
    )
