"""A pool's outcomes reach any kind of source, and no run sees what another one left in its context."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Sequence

import pytest
from test_work_pool import SOON, Source, claim, turns
from test_work_pool import Rig as HeldRig

from jobpipe.core.errors import StorageError
from jobpipe.core.lifecycle import End, Kind
from jobpipe.core.task import Claim
from jobpipe.work.app import App
from jobpipe.work.executor import Executor
from jobpipe.work.pool import Pool

# --- what one run leaves behind ---

left: contextvars.ContextVar[str] = contextvars.ContextVar("left", default="nothing")


class Seen:
    """Handlers that say what they find in their context, and leave their mark in it."""

    def __init__(self) -> None:
        self.app = App()
        self.found: list[str] = []
        self.app.handler("async")(self.mark)
        self.app.handler("thread")(self.mark_in_thread)

    async def mark(self) -> None:
        self.found.append(left.get())
        left.set("a run's mark")

    def mark_in_thread(self) -> None:
        self.found.append(left.get())
        left.set("a run's mark")


@pytest.mark.parametrize("handler", ["async", "thread"])
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_run_sees_nothing_that_runs_before_it_left_in_their_contexts(
    handler: str, workers: int
) -> None:
    alone = (3, 4, 9)
    ids = [f"t{n}" for n in range(20)]
    source = Source(*(claim(id, handler, alone=n in alone) for n, id in enumerate(ids)))
    seen = Seen()
    pool = Pool(source, Executor(seen.app), workers)
    pool.start()
    assert set(await source.until_settled(*ids)) == {Kind.DONE}
    await pool.drain(1)
    assert seen.found == ["nothing"] * 20


async def test_every_run_sees_what_was_in_the_context_when_the_pool_was_started() -> None:
    """An app's lifespan puts it there: after the pool was made, before it is started."""
    ids = [f"t{n}" for n in range(12)]
    source, seen = Source(*(claim(id, "async", alone=id == "t3") for id in ids)), Seen()
    pool = Pool(source, Executor(seen.app), 2)
    left.set("the lifespan's")
    pool.start()
    assert set(await source.until_settled(*ids)) == {Kind.DONE}
    await pool.drain(1)
    assert seen.found == ["the lifespan's"] * 12


# --- handing outcomes in ---


class Futures:
    """A source that answers for each outcome by a future, which the test resolves; `errors` are raised at once."""

    def __init__(self, *claims: Claim) -> None:
        self.waiting = list(claims)
        self.errors: list[Exception] = []
        self.handed_in: list[str] = []
        self.answers: list[asyncio.Future[None]] = []
        self.changed = asyncio.Event()

    async def claim(self, limit: int) -> Sequence[Claim]:
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken

    def settle(self, ends: Sequence[End]) -> Awaitable[None]:
        self.handed_in += [claim.task.id for claim, _ in ends]
        self.changed.set()
        if self.errors:
            raise self.errors.pop(0)
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]

    async def until_handed_in(self, *ids: str) -> None:
        while self.handed_in != list(ids):
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 5)


class Rig:
    """A pool with one worker over futures."""

    def __init__(self, *ids: str) -> None:
        self.source = Futures(*(claim(id, "async") for id in ids))
        self.pool = Pool(self.source, Executor(Seen().app), 1, backoff=SOON, settle_grace=0.01)
        self.pool.start()

    async def drained(self) -> bool:
        draining = asyncio.create_task(self.pool.drain(60))
        await turns()
        done = draining.done()
        if done:
            await draining
        else:
            await self.pool.drain(0)
        return done


async def test_an_outcome_is_answered_for_by_a_future_and_handed_in_once() -> None:
    rig = Rig("a", "b")
    await rig.source.until_handed_in("a", "b")
    for answer in rig.source.answers:
        answer.set_result(None)
    assert await rig.drained()
    assert rig.source.handed_in == ["a", "b"]


async def test_an_outcome_whose_future_fails_is_handed_in_again() -> None:
    rig = Rig("a")
    await rig.source.until_handed_in("a")
    rig.source.answers[0].set_exception(StorageError("away"))
    await rig.source.until_handed_in("a", "a")
    rig.source.answers[1].set_result(None)
    assert await rig.drained()


async def test_a_source_that_raises_when_it_is_asked_costs_neither_worker_nor_outcome() -> None:
    rig = Rig("a", "b")
    rig.source.errors = [StorageError("away"), ValueError("bug"), ValueError("bug")]
    await rig.source.until_handed_in("a", "b", "a", "b", "a")
    assert rig.pool.busy == 0
    await turns()
    for answer in rig.source.answers:
        answer.set_result(None)
    assert await rig.drained()


async def test_an_outcome_that_the_source_takes_no_answer_for_holds_up_no_drain() -> None:
    rig = Rig("a")
    await rig.source.until_handed_in("a")
    rig.source.answers[0].cancel()
    await turns()
    assert await rig.drained()


async def test_a_source_that_raises_at_one_release_gets_the_others_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [f"t{n}" for n in range(4)]
    rig = HeldRig(*(claim(id) for id in ids), workers=4, settle_grace=5.0)
    rig.pool.start()
    await rig.bench.until_running(*ids)
    delivered, errors = rig.source.settle, [StorageError("away")]

    def settle(ends: Sequence[End]) -> Awaitable[None]:
        if errors:
            raise errors.pop()
        return delivered(ends)

    monkeypatch.setattr(rig.source, "settle", settle)
    await rig.pool.drain(0)
    assert {id: outcome.kind for id, outcome in rig.source.settled.items()} == dict.fromkeys(
        ids, Kind.RELEASED
    )
