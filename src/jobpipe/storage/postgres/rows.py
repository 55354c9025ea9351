"""Values to rows and back; columns.py names what a row holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Attempt, Status, Task, TaskError
from jobpipe.storage.base import Record, Settlement
from jobpipe.storage.postgres import columns
from jobpipe.storage.postgres.link import Row

STATUSES = (Status.QUEUED, Status.RUNNING, Status.DONE, Status.FAILED, Status.CANCELLED)
NUMBER = {status: number for number, status in enumerate(STATUSES)}
_ATTEMPT_ERROR = list(columns.ATTEMPT).index("error")
_STATUS, _ERROR = columns.AT["status"], columns.AT["last_error"]
_encode_json = msgspec.json.Encoder().encode
_decode_error = msgspec.json.Decoder(TaskError).decode


class Stored(Struct, frozen=True):
    """A row: the task, and what of its latest claim is kept in it."""

    task: Task
    lease_id: str | None
    settled: Status | None


def task_of(row: Row) -> Task:
    """The task whose columns the row has."""
    read = list(columns.of_task(row))
    read[_STATUS] = STATUSES[read[_STATUS]]
    if read[_ERROR] is not None:
        read[_ERROR] = _decode_error(read[_ERROR])
    return Task(*read)


def stored(row: Row) -> Stored:
    """A whole row of BY_ID."""
    settled = row["settled"]
    return Stored(task_of(row), row["lease_id"], None if settled is None else STATUSES[settled])


def delay(at: int | None, now: int) -> int:
    """Milliseconds from the caller's now; a moment of the past is now."""
    return 0 if at is None or at < now else at - now


def settled(seq: int, settlement: Settlement, to: Transition, now: int, *, told: bool) -> columns.Settled:
    """A row of SETTLE; `told` in the history, when it was unsuccessful."""
    error = to.error
    return columns.Settled(
        at_seq=seq,
        at_id=settlement.id,
        at_lease=settlement.lease_id,
        at_cancel=settlement.cancel_requested,
        to_status=NUMBER[to.status],
        # Less than nothing: the place that a released task keeps, in the database's own time.
        to_delay=-1 - to.run_at if to.keeps_place else delay(to.run_at, now),
        to_finished=None if to.finished_at is None else to.finished_at - now,
        to_attempts=to.attempts,
        to_failures=to.failures,
        to_lost=to.lost,
        to_result=to.result,
        to_error=error_text(error),
        to_type=None if error is None else searchable(error.type),
        to_group=to.error_group,
        keeps=not settlement.rescue,  # a rescued claim leaves no lease id behind: its holder must find that it lost
        outcome=to.outcome if told and to.is_attempt else None,
        attempt=to.attempt if told and to.is_attempt else None,
    )


def rewritten(task: Task) -> tuple[object, ...]:
    """The arguments of REWRITE."""
    return task.seq, task.payload, task.priority, task.run_at, task.max_retries, task.timeout, task.expires_at


def attempts(rows: Sequence[Row]) -> list[Attempt] | None:
    """The answer to ATTEMPTS: no row for an unknown task, one without an attempt for one without any."""
    if not rows:
        return None
    return [attempt_of(row) for row in rows if row["attempt"] is not None]


def attempt_of(row: Row) -> Attempt:
    """The attempt of a row."""
    read = list(columns.of_attempt(row))
    if read[_ATTEMPT_ERROR] is not None:
        read[_ATTEMPT_ERROR] = _decode_error(read[_ATTEMPT_ERROR])
    return Attempt(*read)


def imported(record: Record, seq: int) -> dict[str, Any]:
    """The columns of a task that comes from another store."""
    task, error = record.task, record.task.last_error
    return {
        **asdict(task),
        "seq": seq,
        "status": NUMBER[task.status],
        "last_error": error_text(error),
        "error_type": None if error is None else searchable(error.type),
        "error_group": record.error_group,
    }


def imported_attempts(record: Record, seq: int) -> list[dict[str, Any]]:
    """The columns of its attempts."""
    return [
        {**asdict(past), "seq": seq, "n": n, "error": error_text(past.error)}
        for n, past in enumerate(record.attempts, 1)
    ]


def error_text(error: TaskError | None) -> str | None:
    """The error as it is stored."""
    return None if error is None else _encode_json(error).decode()


def searchable(text: str) -> str:
    """PostgreSQL's text holds no NUL; where we compare only, a substitute does."""
    return text.replace("\0", "\ufffd")
