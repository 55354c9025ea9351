"""counts and queues: kept, not counted, and true all the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from desk import (
    DONE,
    FAILED,
    FAILED_FOR_GOOD,
    LOST,
    RELEASED,
    Desk,
    OpenDesk,
    new,
    settlement,
)

from jobpipe.core.task import Claim, Status

OUTCOMES = [DONE, DONE, FAILED, FAILED_FOR_GOOD, RELEASED, LOST]


async def test_an_empty_store_counts_nothing(desk: Desk) -> None:
    assert await desk.store.counts() == dict.fromkeys(Status, 0)
    assert list(await desk.store.queues(desk.now)) == []


async def test_queues_are_told_by_name_with_every_status(desk: Desk) -> None:
    await desk.accept(new("b1", queue="b"), new("b2", queue="b", priority=9), new("a1", queue="a"))
    await desk.claim(1, queues=["b"])
    a, b = await desk.store.queues(desk.now)
    assert (a.queue, b.queue) == ("a", "b")
    assert a.by_status == dict.fromkeys(Status, 0) | {Status.QUEUED: 1}
    assert b.by_status == dict.fromkeys(Status, 0) | {Status.QUEUED: 1, Status.RUNNING: 1}


async def test_a_queue_without_tasks_is_not_told_any_more(desk: Desk) -> None:
    await desk.finish("a")
    await desk.finish("b")
    await desk.delete("a")
    assert [counts.queue for counts in await desk.store.queues(desk.now)] == ["only-b"]
    await desk.store.prune(desk.now + 1, None, 10)
    assert list(await desk.store.queues(desk.now)) == []


# --- oldest_ready ---


async def oldest(desk: Desk, queue: str = "default") -> int | None:
    (counts,) = [counts for counts in await desk.store.queues(desk.now) if counts.queue == queue]
    return counts.oldest_ready


async def test_the_task_that_is_due_longest_is_told_over_all_priorities(desk: Desk) -> None:
    start = desk.now
    await desk.accept(new("a", run_at=start + 3000), new("b", run_at=start + 1000, priority=-5))
    assert await oldest(desk) is None
    desk.clock.advance(1)
    assert await oldest(desk) == start + 1000
    desk.clock.advance(5)
    assert await oldest(desk) == start + 1000
    await desk.cancel("b")
    assert await oldest(desk) == start + 3000
    await desk.claim()
    assert await oldest(desk) is None


async def test_queues_have_each_their_own_oldest(desk: Desk) -> None:
    start = desk.now
    await desk.accept(new("a", queue="a"))
    desk.clock.advance(1)
    await desk.accept(new("b", queue="b"), new("c", queue="c", run_at=desk.now + 1))
    assert [await oldest(desk, queue) for queue in "abc"] == [start, start + 1000, None]


async def test_asking_for_the_oldest_hides_no_task_from_claims(desk: Desk) -> None:
    await desk.accept("a", new("b", run_at=desk.now + 1000), "c")
    assert await oldest(desk) == desk.now
    assert [claim.task.id for claim in await desk.claim(5)] == ["a", "c"]


# --- after anything at all ---


class Chaos:
    """Random calls over few ids, so that they meet each other all the time."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk = desk
        self.source = random.Random(seed)
        self.claims: list[Claim] = []

    async def step(self) -> None:
        verbs: list[Callable[[], Coroutine[Any, Any, object]]] = [
            self.insert, self.insert, self.claim, self.claim, self.settle, self.settle, self.cancel, self.retry,
            self.delete, self.prune, self.rescue,
        ]  # fmt: skip
        await self.source.choice(verbs)()
        self.desk.clock.advance(self.source.choice([0, 0.001, 1, 3]))

    def ids(self) -> list[str]:
        return [f"t{self.source.randrange(40)}" for _ in range(self.source.randint(1, 5))]

    async def insert(self) -> None:
        await self.desk.insert(
            *(
                new(
                    id_,
                    queue=f"q{self.source.randrange(6)}",
                    priority=self.source.randrange(3),
                    max_retries=self.source.randrange(3),
                    run_at=self.desk.now + self.source.choice([0, 0, 5000]),
                )
                for id_ in self.ids()
            )
        )

    async def claim(self) -> None:
        lease_s = self.source.choice([None, 5.0])
        self.claims += await self.desk.claim(self.source.randint(1, 6), lease_s=lease_s)

    async def settle(self) -> None:
        if not self.claims:
            return
        picked = self.source.choices(self.claims, k=self.source.randint(1, 4))
        tasks = await self.desk.store.get([claim.task.id for claim in picked])
        now = self.desk.now
        await self.desk.write(
            *(
                settlement(claim, self.source.choice(OUTCOMES), now, task=task)
                for claim, task in zip(picked, tasks, strict=True)
                if task is not None and task.status is Status.RUNNING
            )
        )

    async def cancel(self) -> None:
        await self.desk.cancel(*self.ids())

    async def retry(self) -> None:
        await self.desk.retry(*self.ids())

    async def delete(self) -> None:
        await self.desk.delete(*self.ids())

    async def prune(self) -> None:
        now = self.desk.now
        await self.desk.store.prune(now - 20_000, now - 40_000, self.source.randint(1, 5))

    async def rescue(self) -> None:
        lost = await self.desk.store.lost(3)
        await self.desk.write(*(settlement(claim, LOST, self.desk.now, rescue=True) for claim in lost))


@pytest.mark.parametrize("seed", range(3))
async def test_the_kept_counts_are_those_of_a_recount_after_any_sequence_of_calls(
    open_desk: OpenDesk, seed: int
) -> None:
    desk = await open_desk(capacity=8, max_queues=5)
    chaos = Chaos(desk, seed)
    for step in range(250):
        await chaos.step()
        if step % 10 == 0:
            await desk.assert_counts_are_true()
    await desk.assert_counts_are_true()
    for task in await desk.listed():
        run = task.status in (Status.RUNNING, Status.DONE)
        cancelled_run = task.status is Status.CANCELLED and task.started_at is not None
        assert task.attempts == task.failures + task.lost + (run or cancelled_run)


@pytest.mark.parametrize("seed", range(2))
async def test_the_kept_counts_are_true_after_concurrent_calls_too(open_desk: OpenDesk, seed: int) -> None:
    desk = await open_desk(capacity=8, max_queues=5)
    chaos = Chaos(desk, seed)
    for _ in range(25):
        await asyncio.gather(*(chaos.step() for _ in range(12)))
        await desk.assert_counts_are_true()


# --- commits ---


async def test_commits_are_counted_with_the_tasks_that_they_moved(desk: Desk) -> None:
    commits = desk.store.commits()
    assert (commits.tasks.count, commits.seconds.count) == (0, 0)
    await desk.accept(new("a"), new("b"), new("c"))
    assert await desk.claim(5, queues=["elsewhere"]) == []
    first, second = await desk.claim_remote(2)
    await desk.settle(first, DONE)
    assert (commits.tasks.count, commits.tasks.sum) == (3, 6)  # what moved nothing does not count
    assert commits.seconds.count == 3
    assert await desk.settle(second, FAILED) is not None
    assert commits.tasks.sum == 7
