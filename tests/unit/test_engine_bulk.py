"""One verb over all that matches, in slices."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import NewTask, Status
from jobpipe.engine import bulk as bulk_module
from jobpipe.engine.bulk import Action, BulkAnswer, bulk
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Report
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import Matches, TaskFilter

ALL = TaskFilter()


@pytest.fixture
async def queue() -> AsyncIterator[TaskQueue]:
    clock = ManualClock()
    queue = TaskQueue(open_storage("memory:", capacity=10_000, clock=clock), clock=clock)
    await queue.open()
    yield queue
    await queue.close()


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_module, "SLICE", 7)


async def enqueue(queue: TaskQueue, *ids: str) -> None:
    await queue.enqueue([NewTask(id_, "h") for id_ in ids])


async def fail(queue: TaskQueue, n: int, prefix: str = "f") -> None:
    await enqueue(queue, *(f"{prefix}{i}" for i in range(n)))
    outcome = Outcome(Kind.FAILED, retryable=False)
    claims = await queue.claim("w", n)
    await queue.settle([Report(claim.task.id, claim.lease_id, outcome) for claim in claims])


@pytest.mark.parametrize("n", [0, 1, 7, 8, 50])
async def test_all_that_match_are_retried(queue: TaskQueue, n: int) -> None:
    await fail(queue, n)
    await enqueue(queue, "queued")
    answer = await bulk(queue, Action.RETRY, TaskFilter(status=Status.FAILED), dry_run=False)
    assert answer == BulkAnswer(matched=n, changed=n)
    counts = await queue.counts()
    assert (counts[Status.QUEUED], counts[Status.FAILED]) == (n + 1, 0)


async def test_all_that_match_are_cancelled_and_those_that_run_are_told(queue: TaskQueue) -> None:
    await enqueue(queue, *(f"t{i}" for i in range(20)))
    running = await queue.claim("w", 3)
    told: list[str] = []
    queue.listen_to_cancels(lambda id_, lease_id: told.append(lease_id))
    assert await bulk(queue, Action.CANCEL, ALL, dry_run=False) == BulkAnswer(20, 20)
    assert sorted(told) == sorted(claim.lease_id for claim in running)
    assert (await queue.counts())[Status.CANCELLED] == 17


async def test_all_that_match_are_deleted_but_those_that_live(queue: TaskQueue) -> None:
    await fail(queue, 15)
    await enqueue(queue, *(f"t{i}" for i in range(10)))
    await queue.claim("w", 2)
    assert await bulk(queue, Action.DELETE, ALL, dry_run=False) == BulkAnswer(matched=25, changed=15)
    assert sum((await queue.counts()).values()) == 10
    assert await bulk(queue, Action.DELETE, ALL, dry_run=False) == BulkAnswer(matched=10, changed=0)


@pytest.mark.parametrize("action", Action)
async def test_a_dry_run_only_counts(queue: TaskQueue, action: Action) -> None:
    await fail(queue, 9)
    await enqueue(queue, *(f"t{i}" for i in range(9)))
    before = await queue.counts()
    assert await bulk(queue, action, ALL, dry_run=True) == BulkAnswer(matched=18, changed=0)
    assert await queue.counts() == before


async def test_given_ids_are_one_way_to_choose(queue: TaskQueue) -> None:
    await fail(queue, 20)
    where = TaskFilter(ids=("f3", "f3", "f19", "nobody"))
    assert await bulk(queue, Action.RETRY, where, dry_run=False) == BulkAnswer(2, 2)


class Meanwhile:
    """A queue to which tasks are posted while the bulk walks over it."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue
        self._n = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._queue, name)

    async def match(self, where: TaskFilter, limit: int, before_seq: int | None = None) -> Matches:
        found = await self._queue.match(where, limit, before_seq)
        self._n += 1
        await enqueue(self._queue, *(f"late{self._n}-{i}" for i in range(10)))
        return found


async def test_tasks_accepted_after_the_start_are_not_touched(queue: TaskQueue) -> None:
    await enqueue(queue, *(f"t{i}" for i in range(30)))
    answer = await bulk(Meanwhile(queue), Action.CANCEL, ALL, dry_run=False)  # type: ignore[arg-type]
    assert answer == BulkAnswer(30, 30)
    counts = await queue.counts()
    assert counts[Status.CANCELLED] == 30
    assert counts[Status.QUEUED] >= 40


async def test_a_bulk_that_changes_what_it_walks_over_skips_nothing(queue: TaskQueue) -> None:
    await enqueue(queue, *(f"t{i}" for i in range(40)))
    where = TaskFilter(status=Status.QUEUED)
    assert await bulk(queue, Action.CANCEL, where, dry_run=False) == BulkAnswer(40, 40)
    where = TaskFilter(status=Status.CANCELLED)
    assert await bulk(queue, Action.RETRY, where, dry_run=False) == BulkAnswer(40, 40)
    await bulk(queue, Action.CANCEL, ALL, dry_run=False)
    assert await bulk(queue, Action.DELETE, where, dry_run=False) == BulkAnswer(40, 40)
    assert sum((await queue.counts()).values()) == 0
