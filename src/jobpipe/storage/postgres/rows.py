"""Values to rows and back. The order of columns is that of statements.py, which is that of core.task.Task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from jobpipe.core.lifecycle import Kind, Transition
from jobpipe.core.task import Attempt, NewTask, Status, Task, TaskError
from jobpipe.storage.base import Settlement
from jobpipe.storage.postgres.link import Row

STATUSES = (Status.QUEUED, Status.RUNNING, Status.DONE, Status.FAILED, Status.CANCELLED)
NUMBER = {status: number for number, status in enumerate(STATUSES)}
COLUMNS = 21
"""Of a task; what comes after them in a row is of its claim."""

_QUEUED = Status.QUEUED
_encode_json = msgspec.json.Encoder().encode
_decode_error = msgspec.json.Decoder(TaskError).decode


class Stored(Struct, frozen=True):
    """A row: the task, and what of its latest claim is kept in it."""

    task: Task
    lease_id: str | None
    settled: Status | None


def task_of(row: Row, first: int = 0) -> Task:
    """The task whose columns begin at `first`."""
    columns = list(row.values())[first : first + COLUMNS]
    columns[6] = STATUSES[columns[6]]
    if columns[19] is not None:
        columns[19] = _decode_error(columns[19])
    return Task(*columns)


def stored(row: Row) -> Stored:
    """A whole row of BY_ID."""
    settled = row["settled"]
    return Stored(task_of(row), row["lease_id"], None if settled is None else STATUSES[settled])


def delay(at: int | None, now: int) -> int:
    """Milliseconds from the caller's now; a moment of the past is now."""
    return 0 if at is None or at < now else at - now


def accepted(new: NewTask, seq: int, run_at: int, created_at: int) -> Task:
    """The task as INSERT stored it."""
    return Task(
        seq, new.id, new.handler, new.queue, new.payload, new.priority, _QUEUED, 0, 0, 0, new.max_retries,
        new.timeout, run_at, created_at, traceparent=new.traceparent,
    )  # fmt: skip


def settled(seq: int, settlement: Settlement, to: Transition, now: int) -> tuple[Any, ...]:
    """A row of SETTLE."""
    error = to.error
    finished = None if to.finished_at is None else to.finished_at - now
    unsuccessful = to.kind is not Kind.DONE
    # Less than nothing: the place that a released task keeps, in the database's own time.
    late = -1 - to.run_at if to.kind is Kind.RELEASED else delay(to.run_at, now)
    return (
        seq, settlement.id, settlement.lease_id, settlement.cancel_requested, NUMBER[to.status],
        late, finished, to.attempts, to.failures, to.lost, to.result,
        error_text(error),
        None if error is None else searchable(error.type), to.error_group,
        not settlement.rescue,  # a rescued claim leaves no lease id behind: its holder must find that it lost
        to.outcome if unsuccessful else None, to.attempt if unsuccessful else None,
    )  # fmt: skip


def attempts(rows: Sequence[Row]) -> list[Attempt] | None:
    """The answer to ATTEMPTS: no row for an unknown task, one without an attempt for one without any."""
    if not rows:
        return None
    return [attempt_of(row) for row in rows if row["attempt"] is not None]


def attempt_of(row: Row) -> Attempt:
    """The attempt of a row."""
    return Attempt(
        row["attempt"], row["outcome"], row["started_at"], row["ended_at"], row["worker"],
        None if row["error"] is None else _decode_error(row["error"]),
    )  # fmt: skip


def error_text(error: TaskError | None) -> str | None:
    """The error as it is stored."""
    return None if error is None else _encode_json(error).decode()


def searchable(text: str) -> str:
    """PostgreSQL's text holds no NUL; where we compare only, a substitute does."""
    return text.replace("\0", "\ufffd")
