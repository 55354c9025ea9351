"""Values to rows and back: what travels as JSON, and the blobs beside it. columns.py names what a row holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apsw
import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Attempt, Claim, NewTask, Status, Task, TaskError, accepted
from jobpipe.storage.base import Record, Settlement
from jobpipe.storage.sqlite import columns
from jobpipe.storage.sqlite.unwritten import Handed

STATUSES = (Status.QUEUED, Status.RUNNING, Status.DONE, Status.FAILED, Status.CANCELLED)
Shape = tuple[Any, ...]
"""What new tasks have in common: the values of columns.ALIKE, those at the end that are None left out."""

NUMBER = {status: number for number, status in enumerate(STATUSES)}

encode_json = msgspec.json.Encoder().encode
decode_json = msgspec.json.Decoder().decode
decode_error = msgspec.json.Decoder(TaskError).decode

_NOTHING = (None,) * len(columns.ALIKE)
_FIELDS = len(columns.TASK)
_ATTEMPT_ERROR = columns.ATTEMPT.index("error")
_PAYLOAD, _RESULT, _STATUS, _CANCEL, _ERROR, _LEASE_ID, _SETTLED = (
    columns.AT[name]
    for name in ("payload", "result", "status", "cancel_requested", "last_error", "lease_id", "settled")
)


class Stored(Struct, frozen=True, gc=False):
    """A row: the task, and what of its latest claim is kept in it."""

    task: Task
    lease_id: str | None
    settled: Status | None


def text(value: object) -> str:
    """JSON text: SQLite reads JSON from text, and would take bytes for its own binary JSON."""
    return encode_json(value).decode()


def numbered(new: Sequence[NewTask], first_seq: int, now: int) -> list[Task]:
    """The tasks as they will be stored."""
    return [
        accepted(one, seq, now if one.run_at is None or one.run_at < now else one.run_at, now)
        for seq, one in enumerate(new, first_seq)
    ]


def by_shape(tasks: Sequence[Task], plain: bool) -> dict[Shape, list[Task]]:
    """The tasks by what many of a batch have in common."""
    each = columns.alike(tasks, plain)
    if tasks and each.count(each[0]) == len(each):  # most often; to compare takes half as long as to look up
        return {each[0]: list(tasks)}
    shapes: dict[Shape, list[Task]] = {}
    for task, shape in zip(tasks, each, strict=True):
        like = shapes.get(shape)
        if like is None:
            shapes[shape] = [task]
        else:
            like.append(task)
    return shapes


def inserted(tasks: Sequence[Task], plain: bool) -> tuple[str, bytes]:
    """The two arguments of INSERT, or of INSERT_PLAIN."""
    rows: list[tuple[object, ...]] = []
    at = 1
    for task, given in zip(tasks, columns.given(tasks, plain), strict=True):
        size = len(task.payload)
        rows.append((*given, at, size))
        at += size
    return text(rows), b"".join([task.payload for task in tasks])


def inserted_alike(tasks: Sequence[Task], shape: Shape, *, digests: bool) -> tuple[object, ...]:
    """The arguments of INSERT_ALIKE, or with `digests` of INSERT_ALIKE_DIGESTS, for tasks of one shape."""
    rows: list[tuple[object, ...]] = []
    at = 1
    for task in tasks:
        size = len(task.payload)
        rows.append((task.seq, task.id, at, size, task.digest) if digests else (task.seq, task.id, at, size))
        at += size
    return text(rows), b"".join([task.payload for task in tasks]), *shape, *_NOTHING[len(shape) :]


def settled(settlements: Sequence[tuple[int, Settlement]]) -> tuple[str, bytes]:
    """The two arguments of SETTLE, for (seq, settlement with a transition) pairs."""
    rows = []
    for seq, settlement, to, at, size in _placed(settlements):
        status = NUMBER[to.status]
        rows.append(
            columns.Settled(
                seq=seq,
                lease_id=settlement.lease_id,
                status=status,
                run_at=to.run_at,
                attempts=to.attempts,
                failures=to.failures,
                lost=to.lost,
                finished_at=to.finished_at,
                result_at=at,
                result_len=size,
                error=None if to.error is None else text(to.error),
                error_group=to.error_group,
                # The holder of a rescued claim did not settle it: its late settle must find that it lost.
                settled=None if settlement.rescue else status,
                cancel=settlement.cancel_requested,
            )
        )
    return text(rows), _results(settlements)


def succeeded(settlements: Sequence[tuple[int, Settlement]]) -> tuple[str, bytes]:
    """The two arguments of SETTLE_DONE, for (seq, settlement of a run that succeeded) pairs."""
    rows = [
        columns.Succeeded(seq, settlement.lease_id, to.finished_at, at, size, settlement.cancel_requested)
        for seq, settlement, to, at, size in _placed(settlements)
    ]
    return text(rows), _results(settlements)


def claims_written(handed: Sequence[Handed]) -> str:
    """The argument of CLAIM."""
    return text(
        [
            columns.Claimed(
                seq=claim.task.seq,
                started_at=claim.task.started_at,
                worker=claim.task.worker,
                lease_id=claim.lease_id,
                lease_ms=handing.lease_ms,
                boot=handing.boot,
            )
            for claim, handing in handed
        ]
    )


def finished(settlements: Sequence[tuple[int, Settlement]], claims: Sequence[Claim]) -> tuple[str, bytes]:
    """The two arguments of FINISH, for settlements of runs that succeeded and their claims, in the same order."""
    rows = [
        columns.Finished(
            seq, settlement.lease_id, claim.task.started_at, claim.task.worker, to.finished_at, at, size
        )
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


def attempted(seq: int, to: Transition, now: int) -> columns.Attempted:
    """A row of KEEP_ATTEMPTS: the unsuccessful end of a run, settled at `now`."""
    return columns.Attempted(seq, to.attempt, to.outcome, now, None if to.error is None else text(to.error))


def stored(db: apsw.Connection, statement: str, keys: str) -> list[Stored]:
    """The rows that BY_SEQ or BY_ID finds for `keys` (a JSON array), in no promised order."""
    return [
        Stored(task_of(row), row[_LEASE_ID], None if row[_SETTLED] is None else STATUSES[row[_SETTLED]])
        for row in _rows(db, statement, keys)
    ]


def _rows(db: apsw.Connection, statement: str, keys: str) -> Iterator[list[Any]]:
    """The columns of each row, payload and result in their places."""
    read: Any
    payloads: Any
    results: Any
    ((read, payloads, results),) = db.execute(statement, (keys,)).fetchall()
    payload_at = result_at = 0
    for row in decode_json(read):
        payload_end = payload_at + row[_PAYLOAD]
        row[_PAYLOAD] = b"" if payloads is None else payloads[payload_at:payload_end]
        payload_at = payload_end
        if row[_RESULT] is not None:
            size = row[_RESULT]
            row[_RESULT] = b"" if results is None else results[result_at : result_at + size]
            result_at += size
        yield row


def waiting(db: apsw.Connection, statement: str, seqs: Sequence[int]) -> dict[int, Task]:
    """The tasks that WAITING finds for these seqs, by their seqs."""
    read: Any
    payloads: Any
    ((read, payloads),) = db.execute(statement, (text(seqs),)).fetchall()
    tasks: dict[int, Task] = {}
    at = 0
    for row in decode_json(read):
        end = at + row[_PAYLOAD]
        row[_PAYLOAD] = b"" if payloads is None else payloads[at:end]
        at = end
        row[_STATUS], row[_CANCEL] = Status.QUEUED, False
        if row[_ERROR] is not None:
            row[_ERROR] = decode_error(row[_ERROR])
        tasks[row[0]] = Task(*row)
    return tasks


def task_of(row: Sequence[Any]) -> Task:
    """The task of a row that begins with the columns of a task."""
    read = list(row[:_FIELDS])
    read[_STATUS] = STATUSES[read[_STATUS]]
    read[_CANCEL] = bool(read[_CANCEL])
    if read[_ERROR] is not None:
        read[_ERROR] = decode_error(read[_ERROR])
    return Task(*read)


def attempt_of(row: Sequence[Any]) -> Attempt:
    """The attempt of a row with the columns of one."""
    read = list(row)
    if read[_ATTEMPT_ERROR] is not None:
        read[_ATTEMPT_ERROR] = decode_error(read[_ATTEMPT_ERROR])
    return Attempt(*read)


def moved(record: Record, seq: int) -> dict[str, Any]:
    """The arguments of IMPORT, by name."""
    task = record.task
    error = None if task.last_error is None else text(task.last_error)
    return {
        **asdict(task),
        "seq": seq,
        "status": NUMBER[task.status],
        "last_error": error,
        "error_group": record.error_group,
    }


def moved_attempts(record: Record, seq: int) -> list[dict[str, Any]]:
    """The arguments of IMPORT_ATTEMPT, by name."""
    return [
        {
            **asdict(past),
            "task": seq,
            "n": n,
            "error": None if past.error is None else text(past.error),
        }
        for n, past in enumerate(record.attempts, 1)
    ]
