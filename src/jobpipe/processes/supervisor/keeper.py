"""Keeps one worker process: starts it, and another whenever it ends or begins to leave, until the drain.

A process that leaves finishes what it runs for as long as that takes, beside its successor, which takes what is new.
A death is told (`on_exit`) before the next start, so that its tasks are given back at once. A process that keeps dying
is waited for longer each time, and a minute of good life forgives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

from jobpipe.core.retry import RetryPolicy
from jobpipe.processes.supervisor.child import Child, Exit, NotReady, Replaced
from jobpipe.processes.supervisor.orders import EXIT_REPLACE, Orders
from jobpipe.runtime import randomness
from jobpipe.runtime.clock import Clock

log = logging.getLogger("jobpipe.supervisor")

BACKOFF = RetryPolicy(base=0.5, jitter=0.2, cap=10.0)
"""For processes that died before they worked: the cause is likely to stay."""
QUICK = RetryPolicy(base=0.05, jitter=0.05, cap=1.0)
"""For those that died of a task: how often one may do so is limited, and the others should not wait."""
GOOD_LIFE_S = 60.0
MOST_OLD = 8
"""How many that leave may still finish beside one that works; then the next successor waits for the end of one."""


class Keeper:
    """The keeper of the process that gets `orders`. `on_exit` is awaited with each end of one, `on_change` is called
    when processes came or went, `on_busy` when one begins to run something."""

    def __init__(
        self,
        orders: Orders,
        *,
        on_exit: Callable[[Exit], Awaitable[object]],
        on_busy: Callable[[], object],
        on_change: Callable[[], object],
        clock: Clock,
    ) -> None:
        self.orders = orders
        self.trouble: str | None = None
        """Why the last one could not be started, or not work; None since one was ready."""
        self._on_exit = on_exit
        self._on_busy = on_busy
        self._on_change = on_change
        self._clock = clock
        self._current: Child | None = None
        self._old: dict[Child, asyncio.Task[None]] = {}
        self._gone = asyncio.Event()
        self._draining = asyncio.Event()

    def __iter__(self) -> Iterator[Child]:
        """All processes that live, the one that takes new work first."""
        if self._current is not None:
            yield self._current
        yield from self._old

    @property
    def able(self) -> bool:
        """Whether there is one that takes new work."""
        child = self._current
        return child is not None and child.worker is not None and not child.leaving.done()

    async def prove(self) -> None:
        """Start the process and wait until it is ready. Raises OSError or NotReady."""
        child = await self._start(None)
        try:
            await child.ready
        except NotReady:
            await child.ended
            raise

    def drain(self, seconds: float) -> None:
        """Have all finish what they run within `seconds` and end; nothing is started any more."""
        self._draining.set()
        for child in self:
            child.drain(seconds)

    async def ended(self) -> None:
        """Return when the process that was only proved has ended."""
        if self._current is not None:
            await self._current.ended

    async def run(self) -> None:
        """Keep one, until the drain."""
        deaths, replaced = 0, None
        while not self._draining.is_set():
            born = self._clock.monotonic()
            reason, exit = await self._live(replaced)
            replaced = Replaced(reason, self._clock.now())
            if exit is None or exit.code == EXIT_REPLACE:
                deaths = 0
                await self._wait_for_room()
                continue
            deaths = 1 if self._clock.monotonic() - born >= GOOD_LIFE_S else deaths + 1
            if deaths > 1:
                policy = QUICK if exit.begun else BACKOFF
                if policy is BACKOFF and self.trouble is None:
                    self.trouble = f"worker processes keep ending: the last one {exit.how}"
                await self._pause(policy.delay(deaths - 1, randomness.random))
        if self._old:
            await asyncio.wait(list(self._old.values()))

    async def _start(self, replaced: Replaced | None) -> Child:
        child = self._current = await Child.start(self.orders, self._on_busy)
        child.replaced = replaced
        self._on_change()
        return child

    async def _live(self, replaced: Replaced | None) -> tuple[str, Exit | None]:
        """The time of one process, until it ends or leaves; why it is over, and how it ended if it did."""
        try:
            child = self._current or await self._start(replaced)
        except OSError as error:
            log.error("a worker process could not be started: %s", error)
            self.trouble = f"a worker process could not be started: {error}"
            return self.trouble, Exit.never()
        if self._draining.is_set():
            child.drain(0)
        await self._watch_start(child)
        await asyncio.wait((child.ended, child.leaving), return_when=asyncio.FIRST_COMPLETED)
        self._current = None
        if child.leaving.done() and not child.ended.done():
            self._see_off(child)
            return child.leaving.result(), None
        exit = child.ended.result()
        await self._bury(child, exit)
        return (child.leaving.result() if child.leaving.done() else exit.how), exit

    async def _watch_start(self, child: Child) -> None:
        try:
            worker = await child.ready
        except NotReady as error:
            if not self._draining.is_set():
                log.error("worker process %d is of no use: %s", child.pid, error)
                self.trouble = str(error)
            return
        why = "" if child.replaced is None else f", in place of one that {child.replaced.reason}"
        log.info("worker process %d works as %s%s", child.pid, worker, why)
        self.trouble = None

    # --- those that leave, and those that ended ---

    def _see_off(self, child: Child) -> None:
        log.info("worker process %d makes room for another: it %s", child.pid, child.leaving.result())
        self._old[child] = asyncio.get_running_loop().create_task(self._until_gone(child))

    async def _until_gone(self, child: Child) -> None:
        exit = await child.ended
        await self._bury(child, exit)
        del self._old[child]
        self._gone.set()

    async def _wait_for_room(self) -> None:
        """A process that leaves has no deadline, so their number must have a bound."""
        while len(self._old) >= MOST_OLD and not self._draining.is_set():
            self.trouble = (
                f"{len(self._old)} processes that leave still run something, and no more may be started"
            )
            log.warning("%s", self.trouble)
            self._gone.clear()
            waits = [asyncio.ensure_future(event.wait()) for event in (self._gone, self._draining)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _bury(self, child: Child, exit: Exit) -> None:
        if exit.code == EXIT_REPLACE:
            log.debug("worker process %d has left", exit.pid)
        elif exit.code != 0 and not exit.stopped:
            log.warning("worker process %d %s, with %d runs", exit.pid, exit.how, len(exit.begun))
        try:
            await self._on_exit(exit)
        except Exception:
            # The leases of its tasks run out, so that they come back without this.
            log.exception("the tasks of worker process %d could not be given back at once", exit.pid)
        self._on_change()

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._draining.wait(), seconds)
        except TimeoutError:
            return
