"""Whether tasks may enter: ids are taken once, queues are bounded, and so are their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from jobpipe.core.errors import JobpipeError, QueueFull, TaskExists, TooManyQueues
from jobpipe.core.task import NewTask, Status, Task


class Limits(Struct, frozen=True):
    """Queued tasks a queue, and queue names that hold tasks, at most."""

    capacity: int
    max_queues: int


class Counted(Protocol):
    """What is there already."""

    def queued(self, queue: str) -> int:
        """How many tasks of `queue` wait, future ones included."""
        ...

    @property
    def queues(self) -> Mapping[str, int]:
        """All queue names that hold tasks of any status."""
        ...


def fit_surely(tasks: Sequence[NewTask], limits: Limits, counts: Counted) -> bool:
    """Whether all would be accepted if no id were taken: no bound is reached, and no id comes twice."""
    wanted = Counter([new.queue for new in tasks])
    names = sum(queue not in counts.queues for queue in wanted)
    return (
        all(counts.queued(queue) + n <= limits.capacity for queue, n in wanted.items())
        and len(counts.queues) + names <= limits.max_queues
        and len({new.id for new in tasks}) == len(tasks)
    )


def refusals(
    tasks: Sequence[NewTask], taken: Mapping[str, Status], limits: Limits, counts: Counted
) -> list[JobpipeError | None]:
    """Why each is not accepted, decided in order; `taken` are the ids that have a task."""
    known = dict(taken)
    room: dict[str, int] = {}
    answers: list[JobpipeError | None] = []
    for new in tasks:
        no = exists(new.id, known[new.id]) if new.id in known else _no_room(new.queue, room, limits, counts)
        if no is None:
            room[new.queue] -= 1
            known[new.id] = Status.QUEUED
        answers.append(no)
    return answers


def merged(refused: Sequence[JobpipeError | None], accepted: Iterator[Task]) -> list[Task | JobpipeError]:
    """The answers in order: those refused, and between them those that were stored."""
    return [next(accepted) if no is None else no for no in refused]


def exists(task_id: str, status: Status) -> TaskExists:
    """The answer for an id that has a task."""
    return TaskExists(f"a task with id '{task_id}' exists ({status})", field="id")


def _no_room(queue: str, room: dict[str, int], limits: Limits, counts: Counted) -> JobpipeError | None:
    if queue not in room:
        new_names = sum(name not in counts.queues for name in room)
        if queue not in counts.queues and len(counts.queues) + new_names >= limits.max_queues:
            return TooManyQueues(f"{limits.max_queues} queues hold tasks already")
        room[queue] = limits.capacity - counts.queued(queue)
    if room[queue] <= 0:
        return QueueFull(f"queue '{queue}' holds {limits.capacity} waiting tasks")
    return None
