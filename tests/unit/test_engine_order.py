"""In which order observers hear of what one commit carried; claims of workers elsewhere are part of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from jobpipe.core.lifecycle import Kind, Outcome, Transition
from jobpipe.core.task import Claim, NewTask, Task
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Report
from jobpipe.storage import open_storage


class Journal:
    """An Observer that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def accepted(self, tasks: Sequence[Task]) -> None:
        self.heard += [f"accepted {task.id}" for task in tasks]

    def claimed(self, claims: Sequence[Claim]) -> None:
        self.heard += [f"claimed {claim.task.id}" for claim in claims]

    def settled(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        self.heard += [f"{end.status} {task.id}" for task, end in ends]

    def steered(self, tasks: Sequence[Task]) -> None:
        self.heard += [f"steered {task.id}" for task in tasks]

    def deleted(self, tasks: Sequence[Task]) -> None:
        """Nothing is deleted here."""


@pytest.fixture
async def queue() -> AsyncIterator[TaskQueue]:
    queue = TaskQueue(open_storage("memory:", capacity=100))
    await queue.open()
    yield queue
    await queue.close()


async def test_a_task_is_told_as_accepted_before_it_is_told_as_claimed(queue: TaskQueue) -> None:
    journal = Journal()
    queue.observe(journal)
    _, claims = await asyncio.gather(
        queue.enqueue([NewTask("a", "h")]), queue.claim("w", 1, lease_s=30, local=False)
    )
    assert len(claims) == 1, "one commit was to carry both"
    assert journal.heard == ["accepted a", "claimed a"]


@pytest.mark.parametrize("kind", [Kind.RELEASED, Kind.FAILED])
async def test_a_task_is_told_as_queued_again_before_it_is_told_as_claimed(
    queue: TaskQueue, kind: Kind
) -> None:
    await queue.enqueue([NewTask("a", "h")])
    (claim,) = await queue.claim("w", 1)
    journal = Journal()
    queue.observe(journal)
    report = Report("a", claim.lease_id, Outcome(kind, retry_in=0.0))
    _, claims = await asyncio.gather(queue.settle([report]), queue.claim("w", 1, lease_s=30, local=False))
    assert len(claims) == 1, "one commit was to carry both"
    assert journal.heard == ["queued a", "claimed a"]


async def test_the_next_run_is_told_before_the_end_that_freed_its_worker(queue: TaskQueue) -> None:
    await queue.enqueue([NewTask("a", "h"), NewTask("b", "h")])
    (claim,) = await queue.claim("w", 1)
    journal = Journal()
    queue.observe(journal)
    await asyncio.gather(queue.settle([Report("a", claim.lease_id, Outcome(Kind.DONE))]), queue.claim("w", 1))
    assert journal.heard == ["claimed b", "done a"]
