"""A handler that wants to enqueue while everything stops is no failure: its run is given back, and no attempt burnt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from jobpipe.core.errors import Draining
from jobpipe.core.lifecycle import End, Kind, Outcome
from jobpipe.core.task import Claim, Status, Task
from jobpipe.work.app import App
from jobpipe.work.executor import Executor
from jobpipe.work.pool import Pool


class Source:
    """One task, and what became of it."""

    def __init__(self, handler: str) -> None:
        task = Task(1, "a", handler, "default", b"{}", 0, Status.RUNNING, 1, 0, 0, 3, None, 0, 0)
        self._claims = [Claim(task, "lease")]
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    async def claim(self, limit: int) -> list[Claim]:
        claims, self._claims = self._claims, []
        return claims

    async def settle(self, ends: Sequence[End]) -> None:
        for _, outcome in ends:
            self.outcome.set_result(outcome)


class Work:
    """Handlers that find out, once let go, that nothing is taken any more."""

    def __init__(self) -> None:
        self.app = App()
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.app.handler("on_the_loop")(self.on_the_loop)
        self.app.handler("in_a_thread")(self.in_a_thread)

    async def on_the_loop(self) -> None:
        self.begun.set()
        await self.go.wait()
        raise Draining

    def in_a_thread(self) -> None:
        self._loop.call_soon_threadsafe(self.begun.set)
        asyncio.run_coroutine_threadsafe(self.go.wait(), self._loop).result(10)
        raise Draining


@pytest.mark.parametrize("handler", ["on_the_loop", "in_a_thread"])
@pytest.mark.parametrize("stops", [True, False], ids=["its worker stops too", "its worker goes on"])
async def test_a_run_that_cannot_enqueue_is_given_back_when_its_worker_stops_too(
    handler: str, stops: bool
) -> None:
    source, work = Source(handler), Work()
    pool = Pool(source, Executor(work.app), 1)
    pool.start()
    await work.begun.wait()
    draining = asyncio.create_task(pool.drain(10)) if stops else None
    await asyncio.sleep(0)
    work.go.set()
    outcome = await source.outcome
    expected = (Kind.RELEASED, None) if stops else (Kind.FAILED, "Draining")
    assert (outcome.kind, outcome.error_type) == expected
    await (draining or pool.drain(10))
