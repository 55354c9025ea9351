"""Sees outcomes delivered: to the source with all others of a turn of the event loop, and again while that fails.

One future for all of them is what it costs; only an outcome that has to be tried again gets an asyncio.Task.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence
from functools import partial

from jobpipe.core.errors import StorageError
from jobpipe.core.lifecycle import End, Outcome
from jobpipe.core.retry import RetryPolicy
from jobpipe.runtime import randomness
from jobpipe.work.run import Run
from jobpipe.work.source import TaskSource

logger = logging.getLogger("jobpipe.work.pool")

TRIES = 5
"""Of an outcome that the source refuses although nothing is away."""


class Pauses:
    """How long to wait after a failed call to the source, said in the log."""

    def __init__(self, policy: RetryPolicy, random: Callable[[], float] = randomness.random) -> None:
        self._policy = policy
        self._random = random

    async def after(self, what: str, failures: int, error: Exception) -> None:
        """`what` failed for the time number `failures`: sleep before the next try."""
        delay = self._policy.delay(failures, self._random)
        logger.warning("%s failed, again in %.1f s: %s: %s", what, delay, type(error).__name__, error)
        await asyncio.sleep(delay)


class Deliveries:
    """The outcomes on their way to `source`. `on_delivered` is called when some are there, or given up."""

    def __init__(
        self, source: TaskSource, pauses: Pauses, on_delivered: Callable[[Sequence[Run]], object]
    ) -> None:
        self._source = source
        self._pauses = pauses
        self._on_delivered = on_delivered
        self._gathered: list[tuple[Run, Outcome]] = []
        self._context: contextvars.Context | None = None
        self._under_way: dict[Run, asyncio.Future[None] | None] = {}
        """What answers for each; None while it is gathered."""

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, run: Run) -> bool:
        return run in self._under_way

    def hand_in(self, run: Run, outcome: Outcome, context: contextvars.Context | None) -> None:
        """Deliver the outcome of `run`, without waiting; what follows happens in `context`, not in the handler's."""
        if not self._gathered:
            self._context = context
            asyncio.get_running_loop().call_soon(self.send, context=context)
        self._gathered.append((run, outcome))
        self._under_way[run] = None

    def send(self) -> None:
        """Hand the source what was gathered: at the end of the turn, and before a claim that must come after it."""
        if not self._gathered:
            return
        gathered, self._gathered = self._gathered, []
        settling = self._settle([(run.claim, outcome) for run, outcome in gathered])
        for run, _ in gathered:
            self._under_way[run] = settling
        settling.add_done_callback(partial(self._answered, gathered), context=self._context)

    def give_up(self) -> None:
        """Try no more: what the source was not told, leases and restarts will find."""
        self._gathered.clear()
        for run, settling in list(self._under_way.items()):
            logger.error("the outcome of task %s could not be delivered", run.claim.task.id)
            if settling is not None:
                settling.cancel()

    def _settle(self, ends: Sequence[End]) -> asyncio.Future[None]:
        try:
            return asyncio.ensure_future(self._source.settle(ends))
        except Exception as error:  # noqa: BLE001  # a run must come to its end whatever the source raises
            refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused

    def _answered(self, sent: Sequence[tuple[Run, Outcome]], settling: asyncio.Future[None]) -> None:
        """The source answered for the outcomes, or could not deliver them: then it is asked again, for each alone."""
        error = None if settling.cancelled() else settling.exception()
        if not isinstance(error, Exception):
            self._delivered([run for run, _ in sent])
            return
        for run, outcome in sent:
            again = asyncio.get_running_loop().create_task(self._again((run.claim, outcome), error))
            again.add_done_callback(partial(self._delivered_again, run))
            self._under_way[run] = again

    def _delivered_again(self, run: Run, _: asyncio.Future[None]) -> None:
        self._delivered([run])

    def _delivered(self, runs: Sequence[Run]) -> None:
        for run in runs:
            del self._under_way[run]
        self._on_delivered(runs)

    async def _again(self, end: End, error: Exception) -> None:
        claim, outcome = end
        failures = 0
        while True:
            failures += 1
            if failures == TRIES and not isinstance(error, (StorageError, OSError)):
                # No outage, then: it would be refused for ever. The task's lease is left to run out.
                logger.error("outcome %s of task %s is given up", outcome.kind, claim.task.id, exc_info=error)
                return None
            await self._pauses.after(f"settle of task {claim.task.id}", failures, error)
            try:
                return await self._source.settle([end])
            except Exception as again:  # noqa: BLE001  # the outcome must outlive whatever the source raises
                error = again
