"""Values to rows and back: what travels as JSON, and the blobs beside it.

The order of columns here is the order of `json_array` in statements.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apsw
import msgspec
from msgspec import Struct

from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Claim, NewTask, Status, Task, TaskError
from jobpipe.storage.base import Settlement
from jobpipe.storage.sqlite.unwritten import Handed

STATUSES = (Status.QUEUED, Status.RUNNING, Status.DONE, Status.FAILED, Status.CANCELLED)
Shape = tuple[str, int, int, str, int, float | None, str | None]
"""Queue, priority, `run_at`, handler, max_retries, timeout and traceparent of new tasks."""

_QUEUED = Status.QUEUED
_RUNNING_NUMBER = STATUSES.index(Status.RUNNING)
NUMBER = {status: number for number, status in enumerate(STATUSES)}

encode_json = msgspec.json.Encoder().encode
decode_json = msgspec.json.Decoder().decode
decode_error = msgspec.json.Decoder(TaskError).decode


class Stored(Struct, frozen=True, gc=False):
    """A row: the task, and what of its latest claim is kept in it."""

    task: Task
    lease_id: str | None
    settled: Status | None


def text(value: object) -> str:
    """JSON text: SQLite reads JSON from text, and would take bytes for its own binary JSON."""
    return encode_json(value).decode()


def numbered(
    tasks: Sequence[NewTask], first_seq: int, now: int
) -> tuple[list[Task], dict[Shape, list[Task]]]:
    """The tasks as they will be stored, and the same by what many tasks of a batch have in common."""
    accepted: list[Task] = []
    shapes: dict[Shape, list[Task]] = {}
    for seq, new in enumerate(tasks, first_seq):
        run_at = now if new.run_at is None or new.run_at < now else new.run_at
        task = Task(seq, new.id, new.handler, new.queue, new.payload, new.priority, _QUEUED, 0, 0, 0,
                    new.max_retries, new.timeout, run_at, now, traceparent=new.traceparent)  # fmt: skip
        accepted.append(task)
        shape = (new.queue, new.priority, run_at, new.handler, new.max_retries, new.timeout, new.traceparent)
        alike = shapes.get(shape)
        if alike is None:
            shapes[shape] = [task]
        else:
            alike.append(task)
    return accepted, shapes


def inserted(tasks: Sequence[Task]) -> tuple[str, bytes]:
    """The two arguments of INSERT."""
    rows: list[tuple[object, ...]] = []
    at = 1
    for task in tasks:
        size = len(task.payload)
        rows.append(
            (task.seq, task.id, task.handler, task.queue, at, size, task.priority, task.max_retries,
             task.timeout, task.run_at, task.created_at, task.traceparent)
        )  # fmt: skip
        at += size
    return text(rows), b"".join([task.payload for task in tasks])


def inserted_alike(tasks: Sequence[Task], shape: Shape) -> tuple[object, ...]:
    """The arguments of INSERT_ALIKE, for tasks of one shape."""
    rows: list[tuple[int, str, int, int]] = []
    at = 1
    for task in tasks:
        size = len(task.payload)
        rows.append((task.seq, task.id, at, size))
        at += size
    return text(rows), b"".join([task.payload for task in tasks]), tasks[0].created_at, *shape


def settled(settlements: Sequence[tuple[int, Settlement]]) -> tuple[str, bytes]:
    """The two arguments of SETTLE, for (seq, settlement with a transition) pairs."""
    rows: list[tuple[object, ...]] = []
    for seq, settlement, to, at, size in _placed(settlements):
        error = None if to.error is None else text(to.error)
        status = NUMBER[to.status]
        # A rescued claim leaves no lease id behind: its holder's late settle must find that it lost.
        kept = (None, None) if settlement.rescue else (settlement.lease_id, status)
        rows.append(
            (seq, settlement.lease_id, status, to.run_at, to.attempts, to.failures, to.lost, to.finished_at,
             at, size, error, *kept, int(settlement.cancel_requested), to.error_group)
        )  # fmt: skip
    return text(rows), _results(settlements)


def succeeded(settlements: Sequence[tuple[int, Settlement]]) -> tuple[str, bytes]:
    """The two arguments of SETTLE_DONE, for (seq, settlement of a run that succeeded) pairs."""
    rows = [
        (seq, settlement.lease_id, to.finished_at, at, size, int(settlement.cancel_requested))
        for seq, settlement, to, at, size in _placed(settlements)
    ]
    return text(rows), _results(settlements)


def claims_written(handed: Sequence[Handed]) -> str:
    """The argument of CLAIM."""
    return text(
        [
            (
                claim.task.seq,
                claim.task.started_at,
                claim.task.worker,
                claim.lease_id,
                handing.lease_ms,
                handing.boot,
            )
            for claim, handing in handed
        ]
    )


def finished(settlements: Sequence[tuple[int, Settlement]], claims: Sequence[Claim]) -> tuple[str, bytes]:
    """The two arguments of FINISH, for settlements of runs that succeeded and their claims, in the same order."""
    rows = [
        (seq, settlement.lease_id, claim.task.started_at, claim.task.worker, to.finished_at, at, size)
        for (seq, settlement, to, at, size), claim in zip(_placed(settlements), claims, strict=True)
    ]
    return text(rows), _results(settlements)


def _placed(
    settlements: Iterable[tuple[int, Settlement]],
) -> Iterator[tuple[int, Settlement, Transition, int, int | None]]:
    """Each with its transition, and where among all results its own begins (from 1) and how long it is."""
    at = 1
    for seq, settlement in settlements:
        to = settlement.transition
        if to is None:
            raise ValueError("a settlement without a transition writes nothing")
        size = None if to.result is None else len(to.result)
        yield seq, settlement, to, at, size
        at += size or 0


def _results(settlements: Iterable[tuple[int, Settlement]]) -> bytes:
    return b"".join([s.transition.result for _, s in settlements if s.transition and s.transition.result])


def attempted(seq: int, to: Transition, now: int) -> tuple[object, ...]:
    """A row of KEEP_ATTEMPTS: the unsuccessful end of a run, settled at `now`."""
    return seq, to.attempt, to.outcome, now, None if to.error is None else text(to.error)


def stored(db: apsw.Connection, statement: str, keys: str) -> list[Stored]:
    """The rows that BY_SEQ or BY_ID finds for `keys` (a JSON array), in no promised order."""
    answer: list[Stored] = []
    for row in _rows(db, statement, keys):
        lease_id, settled_as = row[21:]
        answer.append(Stored(_task(row), lease_id, None if settled_as is None else STATUSES[settled_as]))
    return answer


def claimed(db: apsw.Connection, statement: str, keys: str, now: int, worker: str) -> dict[int, Task]:
    """The queued tasks that BY_SEQ finds for `keys`, by seq, as they are once `worker` has claimed them at `now`."""
    tasks: dict[int, Task] = {}
    for row in _rows(db, statement, keys):
        row[6] = _RUNNING_NUMBER
        row[7] += 1
        row[14] = now
        row[17] = worker
        tasks[row[0]] = _task(row)
    return tasks


def _rows(db: apsw.Connection, statement: str, keys: str) -> Iterator[list[Any]]:
    """The columns of each row, payload and result in their places."""
    columns: Any
    payloads: Any
    results: Any
    ((columns, payloads, results),) = db.execute(statement, (keys,)).fetchall()
    payload_at = result_at = 0
    for row in decode_json(columns):
        payload_end = payload_at + row[4]
        row[4] = b"" if payloads is None else payloads[payload_at:payload_end]
        payload_at = payload_end
        if row[18] is not None:
            size = row[18]
            row[18] = b"" if results is None else results[result_at : result_at + size]
            result_at += size
        yield row


def _task(row: list[Any]) -> Task:
    columns = row[:21]
    columns[6] = STATUSES[row[6]]
    columns[16] = bool(row[16])
    if row[19] is not None:
        columns[19] = decode_error(row[19])
    return Task(*columns)
