"""The supervisor: a keeper for each worker process, and what they have in common: memory, cancels, the drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence

from msgspec import Struct

from jobpipe.processes.supervisor.child import Child, Exit, Replaced
from jobpipe.processes.supervisor.guard import Guard
from jobpipe.processes.supervisor.keeper import Keeper
from jobpipe.processes.supervisor.memory import MemoryGuard
from jobpipe.processes.supervisor.orders import Orders
from jobpipe.runtime.clock import Clock, SystemClock

log = logging.getLogger("jobpipe.supervisor")

PATIENCE_S = 1.5
"""How long after the end of its grace a process may take to leave, before it is killed."""


class Process(Struct, frozen=True):
    """A worker process that is ready: it runs `busy` tasks, and `total` at most.

    `leaving` says why it takes nothing new, `replaced` whose place it took.
    """

    worker: str
    pid: int
    total: int
    busy: int
    leaving: str | None = None
    replaced: Replaced | None = None


class Supervisor:
    """Keeps one process for each of `orders`. `on_exit` is awaited with each end of one.

    `max_rss` bytes (0: no limit) is what one may use while it runs something, with all that it started.
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
        self._patience = patience
        self._guard = Guard()
        self._memory = MemoryGuard(max_rss, lambda: list(self.children()))
        self._keepers = [
            Keeper(
                one, on_exit=on_exit, on_busy=self._memory.notice, on_change=self._tell_guard,
                clock=clock or SystemClock(),
            )
            for one in orders
        ]  # fmt: skip
        self._keeping: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._draining = False
        self._end: asyncio.TimerHandle | None = None

    def children(self) -> Iterator[Child]:
        """All processes that live, also those that leave."""
        return (child for keeper in self._keepers for child in keeper)

    def _tell_guard(self) -> None:
        self._guard.tell(child.pid for child in self.children())

    @property
    def processes(self) -> list[Process]:
        """The worker processes that are ready, and those that leave."""
        return [_process(child, keeper.orders.workers) for keeper in self._keepers for child in keeper
                if child.worker is not None]  # fmt: skip

    @property
    def trouble(self) -> str | None:
        """Why no process can take work; None while one can, or while that is only a matter of its start."""
        if self._draining or any(keeper.able for keeper in self._keepers):
            return None
        return next((keeper.trouble for keeper in self._keepers if keeper.trouble is not None), None)

    def child_of(self, worker: str) -> Child | None:
        """The process of this worker, if it is one of ours."""
        return next((child for child in self.children() if child.worker == worker), None)

    def knows(self, worker: str) -> bool:
        """Whether one of the processes works under this id."""
        return self.child_of(worker) is not None

    async def prove(self) -> None:
        """Start the first process and wait until it is ready: what it can import the others can. Raises NotReady."""
        self._guard.start()
        await self._keepers[0].prove()

    def start(self) -> None:
        """Start the others and keep them all, on the running event loop."""
        loop = asyncio.get_running_loop()
        self._watching = loop.create_task(self._memory.run(), name="jobpipe-memory")
        self._keeping = [
            loop.create_task(keeper.run(), name=f"jobpipe-keeper-{i}")
            for i, keeper in enumerate(self._keepers)
        ]

    def cancel(self, lease_id: str) -> None:
        """Tell the process that runs under this lease to stop it; when none is known, tell all: it may just begin."""
        children = list(self.children())
        holders = [child for child in children if lease_id in child.begun] or children
        for child in holders:
            child.cancel(lease_id)

    def kill(self, worker: str, why: str) -> None:
        """Kill the process of this worker, if it is one of ours."""
        if (child := self.child_of(worker)) is not None:
            child.kill(why)

    async def drain(self, seconds: float) -> None:
        """Let all finish what runs within `seconds` and end; kill who stays. Nothing is started any more.

        Safe before `start`, twice, and at the same time: the earliest deadline holds.
        """
        self._draining = True
        for keeper in self._keepers:
            keeper.drain(seconds)
        self._kill_in(seconds + self._patience)
        if self._keeping:
            await asyncio.wait(self._keeping)
        else:
            await self._keepers[0].ended()
        if self._end is not None:
            self._end.cancel()
        if self._watching is not None:
            self._watching.cancel()
        self._guard.close()

    def _kill_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if self._end is not None:
            if self._end.when() <= when:
                return
            self._end.cancel()
        self._end = loop.call_at(when, self._kill_all)

    def _kill_all(self) -> None:
        for child in self.children():
            log.warning("worker process %d did not end in time: killed", child.pid)
            child.stop()


def _process(child: Child, total: int) -> Process:
    leaving = child.leaving.result() if child.leaving.done() else None
    # What has ended and is not delivered yet holds no worker any more.
    busy = min(total, len(child.begun))
    # One that leaves has no workers to offer.
    return Process(
        child.worker or "", child.pid, total if leaving is None else busy, busy, leaving, child.replaced
    )
