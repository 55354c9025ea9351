"""Finished tasks that are kept for long go by whole partitions: at once from every answer, their ids soon after."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from desk import DONE, FAILED, FAILED_FOR_GOOD, Desk, OpenDesk, expect, ids_of

import postgres
from jobpipe.core.errors import TaskExists
from jobpipe.core.task import Status, Task
from jobpipe.core.unique import Known, Unique, text_of
from jobpipe.storage import open_storage
from jobpipe.storage.contract import Storage
from jobpipe.storage.postgres.partitions import WIDTH_MS
from jobpipe.storage.postgres.pruning import WHOLE_FROM_MS

DATABASE = "partitions"
HOUR = 3600
BATCH = 500


@pytest.fixture
def clock() -> Iterator[postgres.DatabaseClock]:
    """The time of a database of its own, so that its partitions are this test's alone; at a partition's beginning."""
    with postgres.own_database(DATABASE):
        cluster = postgres.shared_cluster()
        cluster.make_manual(DATABASE)
        clock = cluster.clock()
        clock.advance((WIDTH_MS - clock.now() % WIDTH_MS) / 1000)
        yield clock


@pytest.fixture
async def open_desk(clock: postgres.DatabaseClock) -> AsyncIterator[OpenDesk]:
    opened: list[Storage] = []

    async def open_() -> Desk:
        store = open_storage(postgres.shared_cluster().url(DATABASE), clock=clock)
        await store.open()
        opened.append(store)
        return Desk(store, clock)

    yield open_
    for store in opened:
        await store.close()


async def partition(began: int) -> str | None:
    """What is there of the partition that begins at a time: `ended` in its place, `swept` taken out, None when gone."""
    found = await postgres.shared_cluster().ask(
        "SELECT split_part(relname, '_', 1) AS kind FROM pg_class WHERE relkind = 'r' AND relname LIKE $1",
        DATABASE, f"%\\_{began}",
    )  # fmt: skip
    return found[0]["kind"] if found else None


async def rows(table: str) -> int:
    (row,) = await postgres.shared_cluster().ask(f"SELECT count(*) AS n FROM jobpipe.{table}", DATABASE)
    count: int = row["n"]
    return count


async def fill(desk: Desk) -> int:
    """Old tasks of each kind, and hours later some that must stay; when the partition of the old ones begins."""
    began = desk.now
    for n in range(3):
        await desk.finish(f"done-{n}")
    await desk.accept("cancelled")
    await desk.cancel("cancelled")
    claim = await desk.start("troubled")
    await desk.settle(claim, FAILED)
    desk.clock.advance(60)
    await desk.settle(await desk.claim_one(queues=["only-troubled"]), DONE)
    await desk.finish("failed", FAILED_FOR_GOOD)
    desk.clock.advance(WIDTH_MS / 1000)
    await desk.finish("young")
    await desk.accept("waiting")
    desk.clock.advance(WHOLE_FROM_MS / 1000)
    return began


async def prune(desk: Desk) -> int:
    return await desk.store.prune(desk.now - WHOLE_FROM_MS, None, BATCH)


async def prune_all(desk: Desk) -> int:
    """Prune until there is nothing to do; in how many calls."""
    calls = 0
    while await prune(desk):
        calls += 1
        assert calls < 20
    return calls


async def test_a_partition_goes_whole_with_ids_attempts_and_counts(open_desk: OpenDesk) -> None:
    desk, other = await open_desk(), await open_desk()
    began = await fill(desk)
    assert await partition(began) == "ended"
    assert await prune_all(desk) >= 2, "taken out, then swept up"
    assert sorted(ids_of(await desk.listed())) == ["failed", "waiting", "young"]
    assert await desk.store.get(["done-0", "cancelled", "troubled"]) == [None] * 3
    assert await desk.store.attempts("troubled") is None
    assert await partition(began) is None
    assert await partition(began + WIDTH_MS) == "ended"
    assert (await rows("ids"), await rows("attempts")) == (3, 1)
    await desk.assert_counts_are_true()
    assert await other.store.counts() == await desk.store.counts()


async def test_an_id_is_free_as_soon_as_its_partition_is_out_and_who_takes_it_keeps_it(
    open_desk: OpenDesk,
) -> None:
    desk = await open_desk()
    began = await fill(desk)
    assert await prune(desk) == BATCH, "there is more to do soon"
    assert await partition(began) == "swept"
    await desk.assert_counts_are_true()
    assert await desk.store.get(["done-0", "done-1"]) == [None, None]
    (again,) = await desk.accept("done-0")
    await prune_all(desk)
    assert await partition(began) is None
    assert await desk.get("done-0") == again
    (taken,) = await desk.insert("done-0")
    expect(TaskExists, taken)
    (free,) = await desk.insert("done-1")
    expect(Task, free)
    await desk.assert_counts_are_true()


async def test_a_unique_key_of_seconds_goes_with_the_partition_of_its_task(open_desk: OpenDesk) -> None:
    desk = await open_desk()
    rule = text_of(Unique("k", 1e8))
    await desk.finish("a", uniqueness=rule)
    began = desk.now
    desk.clock.advance((WHOLE_FROM_MS + 2 * WIDTH_MS) / 1000)
    await desk.store.prune(began + WIDTH_MS, None, BATCH)
    assert await desk.store.get(["a"]) == [None]
    expect(Task, (await desk.insert("b", uniqueness=rule))[0])
    while await desk.store.prune(began + WIDTH_MS, None, BATCH):
        pass
    assert await rows("unique_keys") == 1
    assert [type(answer) for answer in await desk.insert("c", uniqueness=rule)] == [Known]


async def test_what_one_server_took_out_another_sweeps_up(open_desk: OpenDesk) -> None:
    first = await open_desk()
    began = await fill(first)
    await prune(first)
    await first.store.close()
    second = await open_desk()
    await prune_all(second)
    assert (await partition(began), await rows("ids")) == (None, 3)
    await second.assert_counts_are_true()


async def test_a_partition_stays_until_the_last_of_its_time_is_old_enough(open_desk: OpenDesk) -> None:
    desk = await open_desk()
    began = desk.now
    await desk.finish("first")
    desk.clock.advance((WIDTH_MS + WHOLE_FROM_MS) / 1000 - 0.001)
    assert await prune(desk) == 0
    assert (await desk.get("first")).status is Status.DONE
    assert (await desk.store.next_prunable())[0] == began + WIDTH_MS
    desk.clock.advance(0.001)
    await prune_all(desk)
    assert await desk.store.get(["first"]) == [None]


async def test_somebody_who_reads_for_long_holds_up_neither_the_pruner_nor_the_queue(
    open_desk: OpenDesk,
) -> None:
    desk = await open_desk()
    await fill(desk)
    reader = await asyncpg.connect(postgres.shared_cluster().url(DATABASE))
    try:
        await reader.execute("BEGIN")
        await reader.fetch("SELECT count(*) FROM jobpipe.finished")
        assert await prune(desk) == 0, "nothing could be done now, and that is no error"
        assert (await desk.get("done-0")).status is Status.DONE
        await desk.finish("meanwhile")
        await desk.assert_counts_are_true()
    finally:
        await reader.close()
    await prune_all(desk)
    assert await desk.store.get(["done-0"]) == [None]
    await desk.assert_counts_are_true()


async def test_tasks_kept_for_a_short_time_go_one_by_one_and_leave_the_partitions(
    open_desk: OpenDesk,
) -> None:
    desk = await open_desk()
    began = desk.now
    await desk.finish("a")
    desk.clock.advance(HOUR)
    assert await desk.store.prune(desk.now - HOUR + 1, None, BATCH) == 1
    assert (await partition(began), await rows("ids")) == ("ended", 0)
    await desk.assert_counts_are_true()
