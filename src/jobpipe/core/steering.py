"""What people ask of tasks: cancel, retry by hand, delete. Decided here for every engine of storage, which writes it.

Each id is answered in order; one that comes twice is met the second time as the first left it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from jobpipe.core.errors import JobpipeError, NotFound, NotUnique
from jobpipe.core.lifecycle import FREED, Event, refusal
from jobpipe.core.task import Status, Task
from jobpipe.core.unique import Named, name_of, retry_takes

Standing = tuple[str, int, Status]
"""Queue, priority and status of tasks that are counted together."""
Move = tuple[Task, Task | None]
"""A task before and after; None once it is deleted."""

CANCELLED: dict[str, Any] = {"status": Status.CANCELLED}
"""What a cancel writes to a task that waits, with `finished_at`."""
MARKED: dict[str, Any] = {"cancel_requested": True}
"""What it writes to one that runs: its worker is told."""
RETRIED: dict[str, Any] = {
    "status": Status.QUEUED, "attempts": 0, "failures": 0, "lost": 0, "finished_at": None, "result": None,
    "expires_at": None, **FREED,
}  # fmt: skip
"""What a retry by hand writes, with `run_at`: the accounting begins anew."""


def steer(
    event: Event,
    ids: Sequence[str],
    found: dict[str, Task],
    now: int,
    living: dict[Named, Task] | None = None,
) -> tuple[list[Task | JobpipeError], list[Move]]:
    """The answer to each id of the tasks that were `found`, and what is to be written.

    `living` are those that have one of the unique keys which a retry takes again.
    """
    answers: list[Task | JobpipeError] = []
    moves: list[Move] = []
    for id_ in ids:
        task = found.get(id_)
        if task is None:
            answers.append(NotFound(f"no task has the id '{id_}'"))
        elif (no := refusal(event, id_, task.status) or _key_taken(event, task, now, living)) is not None:
            answers.append(no)
        else:
            after = _after(event, task, now)
            moves.append((task, after))
            answers.append(after or task)
            if after is None:
                del found[id_]
            else:
                found[id_] = after
    return answers, moves


def _key_taken(event: Event, task: Task, now: int, living: dict[Named, Task] | None) -> NotUnique | None:
    """Why the task may not live again; its unique key is its own from then on."""
    name = name_of(task) if event is Event.RETRY and living is not None and retry_takes(task, now) else None
    if name is None or living is None:
        return None
    holder = living.setdefault(name, task)
    return (
        None
        if holder.seq == task.seq
        else NotUnique(f"task '{holder.id}' has the unique key ({holder.status})")
    )


def rises(moves: Iterable[Move]) -> Counter[Standing]:
    """By how much they change the counts."""
    counts: Counter[Standing] = Counter()
    for before, after in moves:
        if after is None or (after.status, after.priority) != (before.status, before.priority):
            counts[before.queue, before.priority, before.status] -= 1
            if after is not None:
                counts[after.queue, after.priority, after.status] += 1
    return counts


def _after(event: Event, task: Task, now: int) -> Task | None:
    if event is Event.DELETE:
        return None
    if event is Event.RETRY:
        return replace(task, **RETRIED, run_at=now)
    if task.status is Status.QUEUED:
        return replace(task, **CANCELLED, finished_at=now)
    return replace(task, **MARKED)
