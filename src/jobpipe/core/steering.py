"""What people ask of tasks: cancel, retry by hand, delete. Decided here for every engine of storage, which writes it.

Each id is answered in order; one that comes twice is met the second time as the first left it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from jobpipe.core.errors import JobpipeError, NotFound
from jobpipe.core.lifecycle import FREED, Event, refusal
from jobpipe.core.task import Status, Task

Standing = tuple[str, int, Status]
"""Queue, priority and status of tasks that are counted together."""
Move = tuple[Task, Task | None]
"""A task before and after; None once it is deleted."""

CANCELLED: dict[str, Any] = {"status": Status.CANCELLED}
"""What a cancel writes to a task that waits, with `finished_at`."""
MARKED: dict[str, Any] = {"cancel_requested": True}
"""What it writes to one that runs: its worker is told."""
RETRIED: dict[str, Any] = {
    "status": Status.QUEUED, "attempts": 0, "failures": 0, "lost": 0, "finished_at": None, "result": None, **FREED,
}  # fmt: skip
"""What a retry by hand writes, with `run_at`: the accounting begins anew."""


def steer(
    event: Event, ids: Sequence[str], found: dict[str, Task], now: int
) -> tuple[list[Task | JobpipeError], list[Move]]:
    """The answer to each id of the tasks that were `found`, and what is to be written."""
    answers: list[Task | JobpipeError] = []
    moves: list[Move] = []
    for id_ in ids:
        task = found.get(id_)
        if task is None:
            answers.append(NotFound(f"no task has the id '{id_}'"))
        elif (no := refusal(event, id_, task.status)) is not None:
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


def rises(moves: Iterable[Move]) -> Counter[Standing]:
    """By how much they change the counts."""
    counts: Counter[Standing] = Counter()
    for before, after in moves:
        if after is None or after.status is not before.status:
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
