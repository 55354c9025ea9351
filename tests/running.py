"""Runs of claims without a pool: one run to its outcome, and who is told of runs."""

from __future__ import annotations

import asyncio

from jobpipe.core.lifecycle import Outcome
from jobpipe.core.task import Claim
from jobpipe.work.executor import Executor
from jobpipe.work.run import Run


class Watch:
    """An observer that keeps what it is told: all of it in order, the latest outcome, and whether a run ended."""

    leaving = False

    def __init__(self) -> None:
        self.told: list[Outcome | str] = []
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.ended, self.overstayed, self.changed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def on_outcome(self, run: Run, outcome: Outcome) -> None:
        self.told.append(outcome)
        self.outcome.set_result(outcome)
        self.changed.set()

    def on_end(self, run: Run) -> None:
        self.told.append("end")
        self.ended.set()
        self.changed.set()

    def on_overstay(self, run: Run) -> bool:
        self.overstayed.set()
        return False

    async def told_of(self, count: int) -> list[Outcome | str]:
        """The first that it was told, at least so many."""
        while len(self.told) < count:
            self.changed.clear()
            await self.changed.wait()
        return self.told


async def run(executor: Executor, claim: Claim) -> Outcome:
    """Run one claim to its outcome. Cancelling this call stops the handler as a release does."""
    watch = Watch()
    begun = executor.prepare(claim, watch)
    begun.begin()
    try:
        return await watch.outcome
    except asyncio.CancelledError:
        begun.release()
        raise
