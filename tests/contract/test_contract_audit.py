"""Kept counts that somebody's own SQL made untrue are found by a bounded look, put right, and serve again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import apsw
import pytest
from desk import DONE, Desk, OpenDesk, codes_of, new

import postgres
from jobpipe.core.task import Status
from jobpipe.storage.base import AUDITED_LEVELS

pytestmark = pytest.mark.usefixtures("writers")

Behind = Callable[[str], Awaitable[None]]


@pytest.fixture
def behind(url: str, writers: list[apsw.Connection]) -> Behind:
    """Runs SQL that the store does not know of."""

    async def run(sql: str) -> None:
        if url.startswith("postgresql:"):
            tables = ("tasks", "counts", "finished")
            for table in tables:
                sql = sql.replace(f" {table}", f" jobpipe.{table}")
            await postgres.shared_cluster().ask(sql, "manual")
        else:
            writers[-1].execute(sql.replace(" finished", " tasks"))

    return run


Told = tuple[str, Status, int, int]
"""Queue and status, how many tasks were counted, how many there are."""


async def audited(desk: Desk) -> list[Told]:
    """What one look found, over all priorities: an engine need not count them apart."""
    sums: dict[tuple[str, Status], tuple[int, int]] = {}
    for one in await desk.store.audit():
        counted, there = sums.get((one.queue, one.status), (0, 0))
        sums[(one.queue, one.status)] = (counted + one.counted, there + one.there)
    return [(*standing, *counts) for standing, counts in sums.items()]


async def test_a_store_that_is_true_is_left_alone(desk: Desk) -> None:
    await desk.accept(new("a"), new("b", priority=3), new("c", queue="other"))
    await desk.finish("d", DONE)
    await desk.claim(1)
    before = await desk.store.counts()
    for _ in range(3):
        assert await desk.store.audit() == []
    assert await desk.store.counts() == before


async def test_a_queue_that_is_full_of_nothing_takes_tasks_again(open_desk: OpenDesk, behind: Behind) -> None:
    desk = await open_desk(capacity=5)
    await desk.accept(*(new(f"t{n}") for n in range(4)))
    await desk.accept(new("p", priority=7))
    await behind("DELETE FROM tasks")
    assert codes_of(await desk.store.insert([new("x")], desk.now)) == ["queue_full"]
    assert await audited(desk) == [("default", Status.QUEUED, 5, 0)]
    assert await desk.store.audit() == []
    await desk.accept(new("x"))
    assert (await desk.store.counts())[Status.QUEUED] == 1
    assert [claim.task.id for claim in await desk.claim(9)] == ["x"]


async def test_tasks_that_nobody_counts_are_found(desk: Desk, behind: Behind) -> None:
    await desk.accept(new("a"), new("b"), new("c", queue="other", priority=2))
    wrong = "DELETE FROM counts WHERE queue = 'other'"
    await behind(wrong)
    if (await desk.store.counts())[Status.QUEUED] == 3:  # memory knows them; a server that starts would not
        return
    assert await audited(desk) == [("other", Status.QUEUED, 0, 1)]
    assert sorted(claim.task.id for claim in await desk.claim(9)) == ["a", "b", "c"]


async def test_running_and_finished_tasks_that_are_gone_are_not_counted_on(
    desk: Desk, behind: Behind
) -> None:
    await desk.finish("d", DONE)
    await desk.accept(new("r"))
    await desk.claim(1)
    await desk.get("r")  # a claim that is answered late is written by then
    await behind("DELETE FROM tasks WHERE status = 1")
    await behind("DELETE FROM finished WHERE status = 2")
    assert await audited(desk) == [("default", Status.RUNNING, 1, 0), ("only-d", Status.DONE, 1, 0)]
    assert await desk.store.counts() == dict.fromkeys(Status, 0)


async def test_a_look_is_bounded_and_the_next_one_goes_on(desk: Desk, behind: Behind) -> None:
    n = AUDITED_LEVELS + 50
    await desk.accept(*(new(f"t{i}", queue=f"q{i:04}", priority=i % 7) for i in range(n)))
    await behind(f"DELETE FROM tasks WHERE queue = 'q{n - 10:04}' OR queue = 'q0003'")
    assert await audited(desk) == [("q0003", Status.QUEUED, 1, 0)]
    assert await audited(desk) == [(f"q{n - 10:04}", Status.QUEUED, 1, 0)]
    assert await audited(desk) == []


async def test_several_priorities_of_a_queue_are_no_miscount(desk: Desk) -> None:
    await desk.accept(*(new(f"t{i}", priority=i % 5) for i in range(50)))
    await desk.claim(20)
    await desk.get("t4")
    for _ in range(3):
        assert await audited(desk) == []
    await desk.assert_counts_are_true()
