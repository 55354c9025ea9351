"""The database's clock is set while servers work: nobody who is well loses a lease, and what is due does not wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from desk import Desk, new

import postgres
from jobpipe.core.task import Status
from jobpipe.storage import open_storage
from jobpipe.storage.base import Extension
from jobpipe.storage.contract import Storage
from jobpipe.storage.postgres.dbtime import DatabaseTime

HOUR = 3600.0


@pytest.fixture
def clock() -> postgres.DatabaseClock:
    postgres.require()
    return postgres.shared_cluster().clock()


@pytest.fixture
async def desks(clock: postgres.DatabaseClock) -> AsyncIterator[tuple[Desk, Desk]]:
    """Two servers of one database."""
    url = postgres.empty_store()
    stores: list[Storage] = [open_storage(url, capacity=1000, clock=clock) for _ in range(2)]
    for store in stores:
        await store.open()
        await store.lost(1)  # and they have asked for the time
    yield Desk(stores[0], clock), Desk(stores[1], clock)
    for store in stores:
        await store.close()


async def lost(*desks: Desk) -> list[str]:
    return sorted([claim.task.id for desk in desks for claim in await desk.store.lost(10)])


@pytest.mark.parametrize("step", [5.0, 20.0, 29.0, 60.0, HOUR, 24 * HOUR])
async def test_after_a_step_forward_leases_last_as_long_as_their_heartbeats(
    desks: tuple[Desk, Desk], clock: postgres.DatabaseClock, step: float
) -> None:
    one, other = desks
    await one.accept(new("a"), new("b"))
    kept, left = await one.claim(2, lease_s=30.0, local=False)
    clock.advance(8)
    clock.step(step)
    assert await lost(one, other) == []
    for _ in range(4):  # one worker goes on, the other is dead
        clock.advance(9)
        await other.store.extend([Extension(kept.task.id, kept.lease_id, 30.0)])
    clock.advance(20)
    assert await lost(one) == [left.task.id]
    assert one.store.clock_step() == pytest.approx(step, abs=0.1)


async def test_a_step_forward_ends_no_server_that_lives(
    desks: tuple[Desk, Desk], clock: postgres.DatabaseClock
) -> None:
    one, other = desks
    await one.accept(new("a"))
    await one.claim(1)
    clock.step(HOUR)
    assert await lost(other) == []
    await other.store._company.beat(await other.store._questions.link())  # type: ignore[attr-defined]
    (row,) = await postgres.shared_cluster().ask("SELECT count(*) AS n FROM jobpipe.servers", "manual")
    assert row["n"] == 2
    clock.advance(16)  # but one that does not: no beat came of it since
    assert await lost(other) == ["a"]


@pytest.mark.parametrize("step", [20.0, HOUR])
async def test_after_a_step_back_what_is_due_runs_and_what_is_not_waits_as_long_as_before(
    desks: tuple[Desk, Desk], clock: postgres.DatabaseClock, step: float
) -> None:
    one, other = desks
    await one.accept(new("due"), new("soon", run_at=one.now + 10_000), new("late", run_at=one.now + 100_000))
    await one.accept(new("dead", queue="dead"))
    await one.claim(1, queues=["dead"], lease_s=30.0, local=False)
    clock.advance(1)
    clock.step(-step)
    assert await lost(one, other) == []
    assert [claim.task.id for claim in await other.claim(9, lease_s=300.0, local=False)] == ["due"]
    clock.advance(5)
    assert await other.claim(9) == []
    clock.advance(5)
    assert [claim.task.id for claim in await other.claim(9, lease_s=300.0, local=False)] == ["soon"]
    clock.advance(50)
    assert await lost(one) == ["dead"], "its lease is no longer for the step"
    assert await other.claim(9) == []
    clock.advance(41)
    assert [claim.task.id for claim in await one.claim(9)] == ["late"]
    await asyncio.sleep(0.15)  # so old the counts of another server may be
    assert (await one.store.counts())[Status.QUEUED] == 0


def test_slow_answers_and_clocks_that_drift_are_no_steps(clock: postgres.DatabaseClock) -> None:
    time, source = DatabaseTime(clock), random.Random(7)
    now, monotonic = 1_000_000.0, 50.0
    for _ in range(500):
        passed, way, back = source.uniform(0, 60), source.uniform(0, 10), source.uniform(0, 5)
        now += (passed + way) * 1000 * source.uniform(0.9996, 1.0004)
        began = monotonic + passed
        ended = began + way + back
        assert time.measured(began, ended, round(now)) == 0
        now, monotonic = now + back * 1000, ended
    assert time.step_s == 0.0
