"""A pool keeps its workers busy, loses no outcome, and stops with a deadline."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from jobpipe.core.errors import StorageError
from jobpipe.core.lifecycle import End, Kind, Outcome
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import Claim, Status, Task
from jobpipe.runtime.clock import ManualClock
from jobpipe.work.app import App
from jobpipe.work.context import Context
from jobpipe.work.executor import Executor
from jobpipe.work.pool import Pool, Running, Watcher
from jobpipe.work.run import Run

SOON = RetryPolicy(base=0.001, jitter=0, cap=0.001)


def claim(
    id: str = "t1", handler: str = "held", *, alone: bool = False, timeout: float | None = None
) -> Claim:
    task = Task(
        seq=1, id=id, handler=handler, queue="default", payload=b"null", priority=0, status=Status.RUNNING,
        attempts=1, failures=0, lost=0, max_retries=3, timeout=timeout, run_at=0, created_at=0,
    )  # fmt: skip
    return Claim(task, f"lease-{id}", alone=alone)


class Source:
    """A source of what the test puts in, that notes what it is told."""

    def __init__(self, *claims: Claim) -> None:
        self.waiting = list(claims)
        self.limits: list[int] = []
        self.calls = 0
        self.most_calls = 0
        self.settled: dict[str, Outcome] = {}
        self.claim_errors: list[Exception] = []
        self.settle_errors: list[Exception] = []
        self.settles = 0
        self.handed_in: list[str] = []
        self.seen_at_claim: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.exhausted = False
        self._changed = asyncio.Condition()

    async def claim(self, limit: int) -> Sequence[Claim]:
        self.calls += 1
        self.most_calls = max(self.most_calls, self.calls)
        self.limits.append(limit)
        self.seen_at_claim.append(len(self.handed_in))
        try:
            await self._tell()
            if self.claim_errors:
                raise self.claim_errors.pop(0)
            await self.until(lambda: bool(self.waiting) or self.exhausted)
            taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
            return taken
        finally:
            self.calls -= 1

    def settle(self, ends: Sequence[End]) -> Awaitable[None]:
        self.handed_in += [claim.task.id for claim, _ in ends]
        return self._settle(ends)

    async def _settle(self, ends: Sequence[End]) -> None:
        await asyncio.gather(*(self.settle_one(claim, outcome) for claim, outcome in ends))

    async def settle_one(self, claim: Claim, outcome: Outcome) -> None:
        self.settles += 1
        await self._tell()
        if self.settle_errors:
            raise self.settle_errors.pop(0)
        await self.open.wait()
        self.settled[claim.task.id] = outcome
        await self._tell()

    async def put(self, *claims: Claim) -> None:
        self.waiting += claims
        await self._tell()

    async def end(self) -> None:
        self.exhausted = True
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, true: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(true)

    async def until_settled(self, *ids: str) -> list[Kind]:
        await self.until(lambda: self.settled.keys() >= set(ids))
        return [self.settled[id].kind for id in ids]


class Bench:
    """Handlers whose runs the test holds and lets go, by task id."""

    def __init__(self) -> None:
        self.app = App()
        self.running: set[str] = set()
        self.most = 0
        self.gates: dict[str, asyncio.Event] = {}
        self.changed = asyncio.Condition()
        self.thread_gate = threading.Event()
        self.thread_entered = threading.Event()
        self.app.handler("held")(self.held)
        self.app.handler("stubborn")(self.stubborn)
        self.app.handler("noop")(self.noop)
        self.app.handler("thread")(self.thread)

    def gate(self, id: str) -> asyncio.Event:
        return self.gates.setdefault(id, asyncio.Event())

    async def noop(self) -> None: ...

    async def held(self, ctx: Context) -> str:
        await self._enter(ctx.id)
        try:
            await self.gate(ctx.id).wait()
        finally:
            self.running.discard(ctx.id)
        return ctx.id

    async def stubborn(self, ctx: Context) -> str:
        await self._enter(ctx.id)
        while True:
            try:
                await self.gate(ctx.id).wait()
            except asyncio.CancelledError:
                continue
            return ctx.id

    def thread(self) -> None:
        self.thread_entered.set()
        assert self.thread_gate.wait(10)

    async def _enter(self, id: str) -> None:
        self.running.add(id)
        self.most = max(self.most, len(self.running))
        async with self.changed:
            self.changed.notify_all()

    async def until_running(self, *ids: str) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.running >= set(ids))


class Rig:
    """A pool over a source with handlers to hold."""

    def __init__(self, *claims: Claim, workers: int = 2, **options: Any) -> None:
        self.source, self.bench = Source(*claims), Bench()
        self.clock = ManualClock()
        self.executor = Executor(self.bench.app, cleanup=options.pop("cleanup", 0.01), clock=self.clock)
        self.pool = Pool(
            self.source, self.executor, workers, **{"backoff": SOON, "settle_grace": 0.01, **options}
        )


@pytest.fixture
async def rigs() -> AsyncIterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(*claims: Claim, **options: Any) -> Rig:
        made.append(Rig(*claims, **options))
        made[-1].pool.start()
        return made[-1]

    yield make
    for rig in made:
        rig.bench.thread_gate.set()
        for id in rig.bench.running:
            rig.bench.gate(id).set()
        rig.source.open.set()
        await rig.pool.drain(0)


Rigs = Callable[..., Rig]


async def turns(count: int = 20) -> None:
    """Let everything that can happen now happen; nothing that waits for time does."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- claiming ---


async def test_every_task_is_run_and_settled_once(rigs: Rigs) -> None:
    ids = [f"t{n}" for n in range(50)]
    rig = rigs(*(claim(id, "noop") for id in ids), workers=3)
    assert set(await rig.source.until_settled(*ids)) == {Kind.DONE}
    assert sorted(rig.source.handed_in) == sorted(ids)
    assert rig.source.most_calls == 1


async def test_no_more_tasks_run_than_there_are_workers(rigs: Rigs) -> None:
    rig = rigs(*(claim(f"t{n}") for n in range(4)))
    await rig.bench.until_running("t0", "t1")
    await turns()
    assert (rig.pool.busy, rig.pool.workers, rig.source.limits) == (2, 2, [2])
    rig.bench.gate("t0").set()
    await rig.bench.until_running("t1", "t2")
    for n in range(4):
        rig.bench.gate(f"t{n}").set()
    await rig.source.until_settled("t0", "t1", "t2", "t3")
    assert rig.bench.most == 2


async def test_a_claim_asks_for_the_free_workers_only(rigs: Rigs) -> None:
    rig = rigs(claim("t0"), workers=3)
    await rig.source.until(lambda: len(rig.source.limits) == 2)
    assert rig.source.limits == [3, 2]


async def test_a_settle_is_handed_in_before_the_claim_that_its_worker_makes(rigs: Rigs) -> None:
    rig = rigs(*(claim(f"t{n}", "noop") for n in range(20)), workers=4)
    rig.source.open.clear()
    await rig.source.until(lambda: len(rig.source.handed_in) == 8)
    rig.source.open.set()
    await rig.source.until_settled(*(f"t{n}" for n in range(20)))
    given = 0
    for limit, seen in zip(rig.source.limits, rig.source.seen_at_claim, strict=True):
        assert given - seen + limit <= 4
        given = min(20, given + limit)


async def test_a_worker_is_free_before_its_settle_is_stored(rigs: Rigs) -> None:
    rig = rigs(claim("t0", "noop"), claim("t1"), workers=1)
    rig.source.open.clear()
    await rig.bench.until_running("t1")
    assert rig.source.settled == {}


async def test_workers_wait_while_too_many_settles_do(rigs: Rigs) -> None:
    rig = rigs(*(claim(f"t{n}", "noop") for n in range(20)), workers=2)
    rig.source.open.clear()
    await turns(100)
    assert len(rig.source.handed_in) == 4
    assert rig.pool.busy == 0
    rig.source.open.set()
    await rig.source.until_settled("t19")


async def test_a_source_that_gives_no_more_ends_the_claiming(rigs: Rigs) -> None:
    rig = rigs(claim("t0"))
    await rig.source.end()
    await rig.bench.until_running("t0")
    await turns()
    assert rig.source.calls == 0
    assert len(rig.source.limits) == 2
    rig.bench.gate("t0").set()
    await rig.pool.drain(10)
    assert await rig.source.until_settled("t0") == [Kind.DONE]


async def test_a_source_that_fails_is_asked_again(rigs: Rigs, caplog: pytest.LogCaptureFixture) -> None:
    rig = rigs()
    rig.source.claim_errors = [StorageError("away"), ValueError("bug")]
    await rig.source.put(claim("t0", "noop"))
    assert await rig.source.until_settled("t0") == [Kind.DONE]
    assert [r.getMessage() for r in caplog.records if r.name == "jobpipe.work.pool"] == [
        "claim failed, again in 0.0 s: StorageError: away",
        "claim failed, again in 0.0 s: ValueError: bug",
    ]


async def test_starting_twice_starts_one_pool(rigs: Rigs) -> None:
    rig = rigs(claim("t0", "noop"))
    rig.pool.start()
    await rig.source.until_settled("t0")
    assert rig.source.most_calls == 1


async def test_what_holds_a_worker_can_be_listed(rigs: Rigs) -> None:
    rig = rigs(claim("t0"), claim("alone", alone=True))
    await rig.bench.until_running("t0")
    assert rig.pool.running == [Running("t0", "held", rig.clock.now()), Running("alone", "held", None)]


# --- running alone ---


async def test_a_task_that_must_run_alone_waits_for_the_others_and_keeps_new_ones_out(rigs: Rigs) -> None:
    rig = rigs(claim("t0"), claim("a1", alone=True), claim("a2", alone=True), workers=4)
    await rig.bench.until_running("t0")
    await rig.source.put(claim("t1"))
    await turns()
    assert rig.bench.running == {"t0"}
    for running, then in (("t0", "a1"), ("a1", "a2"), ("a2", "t1")):
        rig.bench.gate(running).set()
        await rig.bench.until_running(then)
        await turns()
        assert rig.bench.running == {then}
    assert await rig.source.until_settled("t0", "a1", "a2") == [Kind.DONE] * 3
    assert rig.bench.most == 1


async def test_a_task_runs_alone_until_its_outcome_is_delivered(rigs: Rigs) -> None:
    """One that came after it and killed the process would count it out, although it had succeeded."""
    rig = rigs(claim("a1", alone=True), claim("a2", alone=True))
    await rig.bench.until_running("a1")
    rig.source.open.clear()
    await rig.source.put(claim("t1"))
    rig.bench.gate("a1").set()
    await turns()
    assert rig.bench.running == set()
    rig.source.open.set()
    await rig.bench.until_running("a2")
    rig.bench.gate("a2").set()
    await rig.bench.until_running("t1")
    assert await rig.source.until_settled("a1", "a2") == [Kind.DONE] * 2


async def test_a_task_that_waits_to_run_alone_can_be_cancelled(rigs: Rigs) -> None:
    rig = rigs(claim("t0"), claim("a1", alone=True))
    await rig.bench.until_running("t0")
    assert rig.pool.cancel("lease-a1")
    assert await rig.source.until_settled("a1") == [Kind.CANCELLED]
    await rig.source.put(claim("t1"))
    await rig.bench.until_running("t0", "t1")


async def test_a_drain_releases_what_waits_to_run_alone_at_once(rigs: Rigs) -> None:
    rig = rigs(claim("t0"), claim("a1", alone=True))
    await rig.bench.until_running("t0")
    draining = asyncio.create_task(rig.pool.drain(60))
    assert await rig.source.until_settled("a1") == [Kind.RELEASED]
    rig.bench.gate("t0").set()
    await draining
    assert rig.source.settled["t0"].kind is Kind.DONE


# --- cancelling and outliving ---


async def test_a_cancel_reaches_the_run_of_its_lease_alone(rigs: Rigs) -> None:
    rig = rigs(claim("t0"), claim("t1"))
    await rig.bench.until_running("t0", "t1")
    assert rig.pool.cancel("lease-t0")
    assert await rig.source.until_settled("t0") == [Kind.CANCELLED]
    assert rig.bench.running == {"t1"}
    await turns()
    assert not rig.pool.cancel("lease-t0")
    assert not rig.pool.cancel("lease-unknown")


async def test_a_thread_that_outlives_its_timeout_keeps_its_worker(rigs: Rigs) -> None:
    rig = rigs(claim("t0", "thread", timeout=0.01), claim("t1"), workers=1)
    assert await rig.source.until_settled("t0") == [Kind.TIMED_OUT]
    await turns()
    assert (rig.pool.busy, rig.bench.running) == (1, set())
    assert not rig.pool.cancel("lease-t0")
    rig.bench.thread_gate.set()
    await rig.bench.until_running("t1")


async def test_an_async_handler_that_outlives_its_timeout_keeps_its_worker(rigs: Rigs) -> None:
    rig = rigs(claim("t0", "stubborn", timeout=0.01), claim("t1"), workers=1)
    assert await rig.source.until_settled("t0") == [Kind.TIMED_OUT]
    await turns()
    assert (rig.pool.busy, rig.source.limits) == (1, [1])
    rig.bench.gate("t0").set()
    await rig.bench.until_running("t1")


# --- delivering ---


async def test_an_outcome_outlives_a_storage_that_is_away(
    rigs: Rigs, caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs()
    rig.source.settle_errors = [StorageError("away")] * 20
    await rig.source.put(claim("t0", "noop"))
    assert await rig.source.until_settled("t0") == [Kind.DONE]
    assert rig.source.settles == 21
    assert "settle of task t0 failed, again in 0.0 s: StorageError: away" in caplog.text


async def test_an_outcome_that_is_refused_for_no_outage_is_given_up(
    rigs: Rigs, caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(claim("t0", "noop"))
    rig.source.settle_errors = [ValueError("never")] * 5
    await rig.source.until(lambda: not rig.source.settle_errors)
    await rig.source.put(claim("t1", "noop"))
    assert await rig.source.until_settled("t1") == [Kind.DONE]
    assert "outcome done of task t0 is given up" in caplog.text
    await rig.pool.drain(60)
    assert rig.source.settles == 6


# --- draining ---


async def test_a_pool_that_was_never_started_drains_and_starts_no_more() -> None:
    rig = Rig(claim("t0", "noop"))
    await rig.pool.drain(60)
    rig.pool.start()
    await turns()
    assert rig.source.limits == []


async def test_an_idle_pool_drains_at_once_and_twice(rigs: Rigs) -> None:
    rig = rigs()
    await rig.source.until(lambda: rig.source.calls == 1)
    await rig.pool.drain(60)
    assert rig.source.calls == 0
    await rig.pool.drain(60)


async def test_a_drain_right_after_the_start_claims_nothing(rigs: Rigs) -> None:
    rig = rigs(claim("t0"))
    await rig.pool.drain(60)
    assert rig.source.limits == []


async def test_a_drain_waits_for_what_runs_and_claims_no_more(rigs: Rigs) -> None:
    rig = rigs(claim("t0"), workers=2)
    await rig.bench.until_running("t0")
    draining = asyncio.create_task(rig.pool.drain(60))
    await rig.source.put(claim("t1"))
    await turns()
    assert not draining.done()
    rig.bench.gate("t0").set()
    await draining
    assert {id: o.kind for id, o in rig.source.settled.items()} == {"t0": Kind.DONE}


async def test_a_drain_without_a_deadline_waits_as_long_as_it_takes(rigs: Rigs) -> None:
    rig = rigs(claim("t0"))
    await rig.bench.until_running("t0")
    draining = asyncio.create_task(rig.pool.drain(float("inf")))
    await turns()
    rig.bench.gate("t0").set()
    await draining
    assert rig.source.settled["t0"].kind is Kind.DONE


async def test_at_the_deadline_the_rest_is_released(rigs: Rigs) -> None:
    rig = rigs(claim("t0"), claim("t1", "thread"), claim("t2", "stubborn"), workers=3, settle_grace=30)
    await rig.bench.until_running("t0", "t2")
    await rig.pool.drain(0.01)
    assert {id: o.kind for id, o in rig.source.settled.items()} == dict.fromkeys(
        ("t0", "t1", "t2"), Kind.RELEASED
    )
    assert rig.pool.busy == 2


async def test_a_shorter_second_drain_shortens_the_first(rigs: Rigs) -> None:
    rig = rigs(claim("t0"))
    await rig.bench.until_running("t0")
    first = asyncio.create_task(rig.pool.drain(60))
    await turns()
    await rig.pool.drain(0)
    await first
    assert rig.source.settled["t0"].kind is Kind.RELEASED


async def test_a_longer_second_drain_does_not_lengthen_the_first(rigs: Rigs) -> None:
    rig = rigs(claim("t0"))
    await rig.bench.until_running("t0")
    first = asyncio.create_task(rig.pool.drain(0.01))
    await turns()
    await rig.pool.drain(60)
    await first
    assert rig.source.settled["t0"].kind is Kind.RELEASED


async def test_what_a_source_still_gives_to_a_drained_claim_is_released(rigs: Rigs) -> None:
    rig = rigs()

    async def late(limit: int) -> Sequence[Claim]:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return [claim("t0")]
        raise AssertionError

    entered = asyncio.Event()
    rig.source.claim = late  # type: ignore[method-assign]
    await rig.pool.drain(60)

    second = Rig()
    second.source.claim = late  # type: ignore[method-assign]
    second.pool.start()
    await entered.wait()
    await second.pool.drain(60)
    assert second.source.settled["t0"].kind is Kind.RELEASED
    assert second.bench.running == set()


async def test_a_drain_waits_for_the_settles(rigs: Rigs) -> None:
    rig = rigs(claim("t0", "noop"))
    rig.source.open.clear()
    await rig.source.until(lambda: rig.source.handed_in == ["t0"])
    draining = asyncio.create_task(rig.pool.drain(60))
    await turns()
    assert not draining.done()
    rig.source.open.set()
    await draining
    assert rig.source.settled["t0"].kind is Kind.DONE


async def test_a_drain_ends_even_when_the_source_never_answers(
    rigs: Rigs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    rig = rigs(claim("t0", "noop"), claim("t1"))
    rig.source.open.clear()
    await rig.bench.until_running("t1")
    await rig.pool.drain(0)
    assert rig.source.settled == {}
    assert [r.getMessage() for r in caplog.records] == [
        "the outcome of task t0 could not be delivered",
        "the outcome of task t1 could not be delivered",
    ]


# --- what its owner is told ---


class Told(Watcher):
    """Notes what the pool tells, and what was running at that time."""

    def __init__(self) -> None:
        self.words: list[tuple[str, ...]] = []
        self.changed = asyncio.Event()

    def on_begin(self, lease_ids: Sequence[str]) -> None:
        self.note("begin", *lease_ids)

    def on_settled(self, lease_ids: Sequence[str]) -> None:
        for lease_id in lease_ids:
            self.note("settled", lease_id)

    def on_overstay(self, run: Run) -> bool:
        self.note("overstay", run.claim.lease_id)
        return False

    def on_spent(self) -> None:
        self.note("spent")

    def note(self, *words: str) -> None:
        self.words.append(words)
        self.changed.set()

    async def until(self, *words: str) -> None:
        while words not in self.words:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 5)


async def test_a_batch_is_told_before_its_handlers_begin_and_each_settle_after(rigs: Rigs) -> None:
    told = Told()
    rig = rigs(claim("a"), claim("b"), watcher=told)
    await rig.bench.until_running("a", "b")
    assert told.words == [("begin", "lease-a", "lease-b")]
    rig.bench.gate("a").set()
    await told.until("settled", "lease-a")
    assert rig.source.settled["a"].kind is Kind.DONE


async def test_a_task_that_waits_to_run_alone_is_told_when_it_begins(rigs: Rigs) -> None:
    told = Told()
    rig = rigs(claim("a"), claim("alone", alone=True), watcher=told)
    await rig.bench.until_running("a")
    await turns()
    assert told.words == [("begin", "lease-a")]
    rig.bench.gate("a").set()
    await told.until("begin", "lease-alone")


@pytest.mark.parametrize("handler", ["stubborn", "thread"])
async def test_a_handler_that_outlives_its_timeout_is_told_after_its_settle(rigs: Rigs, handler: str) -> None:
    told = Told()
    rig = rigs(claim("over", handler, timeout=0.02), watcher=told)
    await told.until("overstay", "lease-over")
    assert await rig.source.until_settled("over") == [Kind.TIMED_OUT]
    assert rig.pool.busy == 1


async def test_a_thread_that_ends_within_the_clean_up_time_is_no_overstay(rigs: Rigs) -> None:
    told = Told()
    rig = Rig(claim("over", "thread", timeout=0.02), watcher=told, cleanup=0.2)
    rig.pool.start()
    assert await rig.source.until_settled("over") == [Kind.TIMED_OUT]
    rig.bench.thread_gate.set()
    await asyncio.sleep(0.3)  # the clean-up time itself must pass: nothing else shows that nothing is told
    assert ("overstay", "lease-over") not in told.words
    await rig.pool.drain(0)


async def test_no_more_tasks_are_claimed_than_the_pool_may_take(rigs: Rigs) -> None:
    told = Told()
    rig = rigs(*(claim(f"t{n}", "noop") for n in range(9)), workers=4, max_tasks=6, watcher=told)
    await told.until("spent")
    await rig.source.until_settled(*(f"t{n}" for n in range(6)))
    await turns()
    assert [len(rig.source.settled), len(rig.source.waiting)] == [6, 3]
    assert rig.source.limits == [4, 2]
    await rig.pool.drain(float("inf"))
