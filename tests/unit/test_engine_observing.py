"""Observers of the queue hear of all that happens, once per batch, after the commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from jobpipe.core.lifecycle import Kind, Outcome, Transition
from jobpipe.core.task import Claim, NewTask, Status, Task
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Report
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage


class Journal:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, list[str]]] = []

    def accepted(self, tasks: Sequence[Task]) -> None:
        self.lines.append(("accepted", [task.id for task in tasks]))

    def claimed(self, claims: Sequence[Claim]) -> None:
        self.lines.append(("claimed", [claim.task.id for claim in claims]))

    def settled(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        self.lines.append(("settled", [f"{task.id} {transition.status}" for task, transition in ends]))

    def steered(self, tasks: Sequence[Task]) -> None:
        self.lines.append(("steered", [f"{task.id} {task.status}" for task in tasks]))

    def deleted(self, tasks: Sequence[Task]) -> None:
        self.lines.append(("deleted", [task.id for task in tasks]))


@pytest.fixture
async def queue() -> AsyncIterator[TaskQueue]:
    clock = ManualClock()
    queue = TaskQueue(open_storage("memory:", clock=clock), clock=clock)
    await queue.open()
    yield queue
    await queue.close()


async def test_an_observer_hears_each_batch_once(queue: TaskQueue) -> None:
    journal = Journal()
    queue.observe(journal)
    await queue.enqueue(
        [NewTask(id="a", handler="h"), NewTask(id="b", handler="h"), NewTask(id="a", handler="h")]
    )
    await queue.cancel(["b"])
    (claim,) = await queue.claim("w", 5)
    report = Report("a", claim.lease_id, Outcome(Kind.DONE, result=b"1"))
    await queue.settle([report])
    await queue.settle([report])  # the same again changes nothing, and is not told
    await queue.retry(["b"])
    await queue.delete(["a", "b", "c"])
    assert journal.lines == [
        ("accepted", ["a", "b"]),
        ("steered", [f"b {Status.CANCELLED}"]),
        ("claimed", ["a"]),
        ("settled", [f"a {Status.DONE}"]),
        ("steered", [f"b {Status.QUEUED}"]),
        ("deleted", ["a"]),
    ]
