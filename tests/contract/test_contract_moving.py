"""Moving tasks to another store: nothing of them changes but their place in the order of acceptance."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from desk import CANCELLED, DONE, FAILED, FAILED_FOR_GOOD, LOST, RELEASED, Desk, OpenDesk, ids_of, new
from msgspec.structs import replace

from jobpipe.core.task import NewTask, Status, Task
from jobpipe.core.unique import Known, Unique, text_of
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import Record
from jobpipe.storage.contract import Storage

PLENTY = 1 << 40


@pytest.fixture
async def source() -> AsyncIterator[Desk]:
    """A store with tasks in every state but running."""
    clock = ManualClock()
    store = open_storage("memory:", capacity=10**6, clock=clock)
    await store.open()
    desk = Desk(store, clock)
    await desk.finish("done", priority=7, payload=b"[1.10, 1e999]", timeout=2.5, traceparent="00-a")
    await desk.finish("failed", FAILED_FOR_GOOD, payload=b'"\\u0000"')
    await desk.finish("retried", FAILED)
    await desk.finish("released", RELEASED)
    await desk.accept(new("waits", queue="b"), new("later", run_at=clock.now() + 60_000), new("unwanted"))
    await desk.cancel("unwanted")
    yield desk
    await store.close()


async def all_of(store: Storage, limit: int = 1000) -> list[Record]:
    records: list[Record] = []
    while more := await store.export(records[-1].task.seq if records else 0, limit, PLENTY):
        records += more
    return records


def without_seq(records: list[Record]) -> list[Record]:
    return [replace(record, task=replace(record.task, seq=0)) for record in records]


async def test_what_is_imported_is_what_was_exported(source: Desk, desk: Desk) -> None:
    records = await all_of(source.store)
    assert {record.task.status for record in records} == set(Status) - {Status.RUNNING}
    assert await desk.store.import_(records) == []
    assert without_seq(await all_of(desk.store)) == without_seq(records)
    await desk.assert_counts_are_true()


async def test_the_history_of_a_task_comes_with_it(source: Desk, desk: Desk) -> None:
    await desk.store.import_(await all_of(source.store))
    for id_ in ("done", "failed", "retried", "released"):
        assert await desk.store.attempts(id_) == await source.store.attempts(id_)
    assert len(await desk.store.attempts("failed") or ()) == 1


async def test_ids_that_are_taken_are_left_out_and_their_tasks_untouched(source: Desk, desk: Desk) -> None:
    (mine,) = await desk.accept(new("failed", payload=b'"mine"'))
    records = await all_of(source.store)
    assert await desk.store.import_(records) == ["failed"]
    assert await desk.get("failed") == mine
    assert await desk.store.import_(records) == [record.task.id for record in records]
    assert len(await desk.listed()) == len(records)
    await desk.assert_counts_are_true()


async def test_imported_tasks_are_claimed_in_the_order_of_before_and_ids_go_on(
    source: Desk, desk: Desk
) -> None:
    await desk.store.import_(await all_of(source.store))
    await desk.accept("newer")
    source.clock.advance(120)
    desk.clock.advance(120)
    of_before = ids_of(await source.claim(10))
    assert len(of_before) == 4
    assert [id_ for id_ in ids_of(await desk.claim(10)) if id_ != "newer"] == of_before


async def test_an_import_passes_the_bounds_of_a_full_queue(source: Desk, open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=1, max_queues=1)
    assert await desk.store.import_(await all_of(source.store)) == []


async def test_an_export_gives_at_most_so_many_tasks_and_bytes_but_one(open_desk: OpenDesk) -> None:
    desk = await open_desk()
    await desk.accept(*(NewTask(f"t{n}", "h", payload=b"1" * 100) for n in range(5)))
    first = await desk.store.export(0, 2, PLENTY)
    assert [record.task.id for record in first] == ["t0", "t1"]
    assert [record.task.id for record in await desk.store.export(first[-1].task.seq, 9, 250)] == ["t2", "t3"]
    assert len(await desk.store.export(0, 9, 1)) == 1
    assert len(await all_of(desk.store, 2)) == 5


async def test_imported_failures_keep_their_group(source: Desk, desk: Desk) -> None:
    await desk.store.import_(await all_of(source.store))
    groups = {record.task.id: record.error_group for record in await all_of(source.store)}
    assert groups["failed"] is not None
    assert {record.task.id: record.error_group for record in await all_of(desk.store)} == groups


async def test_settled_as_lost_or_cancelled_moves_too(source: Desk, desk: Desk) -> None:
    await source.finish("lost", LOST)
    claim = await source.start("stopped")
    await source.cancel("stopped")
    await source.settle(claim, CANCELLED, task=await source.get("stopped"))
    await source.finish("done-too", DONE)
    await desk.store.import_(await all_of(source.store))
    assert without_seq(await all_of(desk.store)) == without_seq(await all_of(source.store))


async def test_unique_keys_come_along_as_far_as_they_live(source: Desk, desk: Desk) -> None:
    def unique(id: str, until: object) -> NewTask:
        return new(id, queue=id, uniqueness=text_of(Unique(id[0], until)))  # type: ignore[arg-type]

    now = source.now - desk.now  # a store's keys of seconds go by its own clock
    await source.accept(*(unique(f"{name}1", until) for name, until in zip("esldf", _UNTIL, strict=True)))
    for id_, outcome in (("s1", RELEASED), ("d1", DONE), ("f1", DONE)):
        await source.settle(await source.claim_one(queues=[id_]), outcome)
    records = [
        replace(record, task=replace(record.task, created_at=record.task.created_at - now))
        for record in await all_of(source.store)
    ]
    await desk.store.import_(records)
    answers = await desk.insert(
        *(unique(f"{name}2", until) for name, until in zip("esldf", _UNTIL, strict=True))
    )
    # In its end; begun and released, so it may seem not to have begun; for long; ended; for long though ended.
    assert [type(answer) for answer in answers] == [Known, Known, Known, Task, Known]


_UNTIL = ("end", "start", 1e6, "end", 1e6)
