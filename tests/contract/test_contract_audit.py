"""Kept counts that somebody's own SQL made untrue are found by a bounded look, put right, and serve again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import apsw
import pytest
from desk import DONE, Desk, OpenDesk, codes_of, new

import postgres
from jobpipe.core.task import Status
from jobpipe.storage.base import AUDITED_LEVELS, Miscount

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
    assert await desk.store.audit() == [
        Miscount("default", Status.QUEUED, 0, 4, 0),
        Miscount("default", Status.QUEUED, 7, 1, 0),
    ]
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
    assert await desk.store.audit() == [Miscount("other", Status.QUEUED, 2, 0, 1)]
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
    assert await desk.store.audit() == [
        Miscount("default", Status.RUNNING, 0, 1, 0),
        Miscount("only-d", Status.DONE, 0, 1, 0),
    ]
    assert await desk.store.counts() == dict.fromkeys(Status, 0)


async def test_a_look_is_bounded_and_the_next_one_goes_on(desk: Desk, behind: Behind) -> None:
    levels = AUDITED_LEVELS + 50
    await desk.accept(*(new(f"t{n}", priority=n) for n in range(levels)))
    last = f"DELETE FROM tasks WHERE priority = {levels - 10} OR priority = 3"
    await behind(last)
    assert [one.priority for one in await desk.store.audit()] == [3]
    assert [one.priority for one in await desk.store.audit()] == [levels - 10]
    assert await desk.store.audit() == []
