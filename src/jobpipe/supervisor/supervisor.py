"""The supervisor: one keeper per worker process, which starts it again whenever it ends, until the drain.

A death is told (`on_exit`) before the next start, so that its tasks are given back at once. A process that leaves on
purpose is replaced at once; one that keeps dying waits longer each time, and a minute of good life forgives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from jobpipe import randomness
from jobpipe.clock import Clock, SystemClock
from jobpipe.core.retry import RetryPolicy
from jobpipe.supervisor.child import Child, Exit, NotReady
from jobpipe.supervisor.memory import MemoryGuard
from jobpipe.supervisor.orders import EXIT_REPLACE, Orders

log = logging.getLogger("jobpipe.supervisor")

BACKOFF = RetryPolicy(base=0.5, jitter=0.2, cap=10.0)
"""For processes that died before they worked: the cause is likely to stay."""
QUICK = RetryPolicy(base=0.05, jitter=0.05, cap=1.0)
"""For those that died of a task: how often one may do so is limited, and the others should not wait."""
GOOD_LIFE_S = 60.0
PATIENCE_S = 1.5
"""How long after the end of its grace a process may take to leave, before it is killed."""


class Process(Struct, frozen=True):
    """A worker process that is ready: it runs `busy` tasks, and `total` at most."""

    worker: str
    pid: int
    total: int
    busy: int


class Supervisor:
    """Keeps one process for each of `orders`. `on_exit` is awaited with each end of one.

    `max_rss` bytes (0: no limit) is what one may use while it runs something.
    """

    def __init__(
        self,
        orders: Sequence[Orders],
        *,
        on_exit: Callable[[Exit], Awaitable[object]],
        max_rss: int = 0,
        patience: float = PATIENCE_S,
        clock: Clock | None = None,
    ) -> None:
        self._orders = orders
        self._on_exit = on_exit
        self._patience = patience
        self._clock = clock or SystemClock()
        self._children: dict[int, Child] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._memory = MemoryGuard(max_rss, lambda: list(self._children.values()))
        self._watching: asyncio.Task[None] | None = None
        self._draining = asyncio.Event()
        self._end: asyncio.TimerHandle | None = None

    @property
    def processes(self) -> list[Process]:
        """The worker processes that are ready."""
        return [
            Process(child.worker, child.pid, self._orders[slot].workers, len(child.begun))
            for slot, child in self._children.items()
            if child.worker is not None
        ]

    async def prove(self) -> None:
        """Start the first process and wait until it is ready: what it can import the others can. Raises NotReady."""
        child = self._children[0] = await Child.start(self._orders[0], self._memory.notice)
        try:
            await child.ready
        except NotReady:
            await child.ended
            raise

    def start(self) -> None:
        """Start the others and keep them all, on the running event loop."""
        loop = asyncio.get_running_loop()
        self._watching = loop.create_task(self._memory.run(), name="jobpipe-memory")
        self._keepers = [
            loop.create_task(self._keep(i), name=f"jobpipe-keeper-{i}") for i in range(len(self._orders))
        ]

    def cancel(self, lease_id: str) -> None:
        """Tell the process that runs under this lease to stop it; when none is known, tell all: it may just begin."""
        children = list(self._children.values())
        holders = [child for child in children if lease_id in child.begun] or children
        for child in holders:
            child.cancel(lease_id)

    def kill(self, worker: str, why: str) -> None:
        """Kill the process of this worker, if it is one of ours."""
        for child in self._children.values():
            if child.worker == worker:
                child.kill(why)

    async def drain(self, seconds: float) -> None:
        """Let all finish what runs within `seconds` and end; kill who stays. Nothing is started any more.

        Safe before `start`, twice, and at the same time: the earliest deadline holds.
        """
        self._draining.set()
        for child in self._children.values():
            child.drain(seconds)
        self._kill_in(seconds + self._patience)
        if self._keepers:
            await asyncio.wait(self._keepers)
        elif 0 in self._children:
            await self._children.pop(0).ended
        if self._end is not None:
            self._end.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _kill_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if self._end is not None:
            if self._end.when() <= when:
                return
            self._end.cancel()
        self._end = loop.call_at(when, self._kill_all)

    def _kill_all(self) -> None:
        for child in self._children.values():
            log.warning("worker process %d did not end in time: killed", child.pid)
            child.stop()

    # --- keeping one ---

    async def _keep(self, slot: int) -> None:
        deaths = 0
        while not self._draining.is_set():
            born = self._clock.monotonic()
            exit = await self._live(slot)
            if exit is not None and exit.code == EXIT_REPLACE:
                deaths = 0
                continue
            deaths = 1 if self._clock.monotonic() - born >= GOOD_LIFE_S else deaths + 1
            if deaths > 1:
                policy = QUICK if exit is not None and exit.begun else BACKOFF
                await self._pause(policy.delay(deaths - 1, randomness.random))

    async def _live(self, slot: int) -> Exit | None:
        """One life of a process, from start to death; None when it could not be started."""
        try:
            child = self._children.get(slot) or await Child.start(self._orders[slot], self._memory.notice)
        except OSError as error:
            log.error("a worker process could not be started: %s", error)
            return None
        self._children[slot] = child
        if self._draining.is_set():
            child.drain(0)
        await self._watch_start(child)
        exit = await child.ended
        del self._children[slot]
        await self._bury(exit)
        return exit

    async def _watch_start(self, child: Child) -> None:
        try:
            log.info("worker process %d works as %s", child.pid, await child.ready)
        except NotReady as error:
            if not self._draining.is_set():
                log.error("worker process %d is of no use: %s", child.pid, error)

    async def _bury(self, exit: Exit) -> None:
        if exit.code == EXIT_REPLACE:
            log.info("worker process %d makes room for another", exit.pid)
        elif exit.code != 0 and not exit.stopped:
            log.warning("worker process %d %s, with %d runs", exit.pid, exit.how, len(exit.begun))
        try:
            await self._on_exit(exit)
        except Exception:
            # The leases of its tasks run out, so that they come back without this.
            log.exception("the tasks of worker process %d could not be given back at once", exit.pid)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._draining.wait(), seconds)
        except TimeoutError:
            return
