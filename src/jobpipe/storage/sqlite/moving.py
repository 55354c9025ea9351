"""Tasks on their way from one store to another, whole: only while no server uses the store, so row by row is fine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import apsw

from jobpipe.core.task import Attempt, Task
from jobpipe.storage.base import Record
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.counts import Standing
from jobpipe.storage.sqlite.rows import NUMBER, STATUSES, decode_error, decode_json, text
from jobpipe.storage.sqlite.state import State


def export(db: apsw.Connection, after_seq: int, limit: int, max_bytes: int) -> list[Record]:
    """As Storage.export promises."""
    rows: list[tuple[Any, ...]] = []
    for row in db.execute(sql.EXPORT, (after_seq, limit)):
        max_bytes -= len(row[4]) + len(row[18] or b"")
        if max_bytes < 0 and rows:
            break
        rows.append(row)
    attempts: dict[int, list[Attempt]] = defaultdict(list)
    if rows:
        for seq, *past, error in db.execute(sql.EXPORT_ATTEMPTS, (after_seq, rows[-1][0])):
            attempts[seq].append(_attempt(*past, None if error is None else decode_error(error)))
    return [Record(_task(row), row[21], tuple(attempts[row[0]])) for row in rows]


def import_(state: State, records: Sequence[Record]) -> list[str]:
    """As Storage.import_ promises, within a transaction."""
    ids = [record.task.id for record in records]
    first: int = state.one(sql.LAST_SEQ) + 1
    taken = {id_ for id_, _ in decode_json(state.one(sql.TAKEN, (text(ids), first)))}
    rises: Counter[Standing] = Counter()
    for seq, record in enumerate((record for record in records if record.task.id not in taken), first):
        task = record.task
        state.db.execute(sql.IMPORT, _columns(record, seq))
        state.db.executemany(sql.IMPORT_ATTEMPT, _attempts(record, seq))
        rises[(task.queue, task.priority, task.status)] += 1
        if not task.finished:
            state.due.add(task.queue, task.priority, task.run_at, seq)
    state.counts.add_all(rises)
    return [id_ for id_ in ids if id_ in taken]


def _attempt(*columns: Any) -> Attempt:
    return Attempt(*columns)


def _task(row: Sequence[Any]) -> Task:
    columns = list(row[:21])
    columns[6] = STATUSES[columns[6]]
    columns[16] = bool(columns[16])
    columns[19] = None if columns[19] is None else decode_error(columns[19])
    return Task(*columns)


def _columns(record: Record, seq: int) -> tuple[Any, ...]:
    task = record.task
    error = None if task.last_error is None else text(task.last_error)
    return (
        seq, task.id, task.handler, task.queue, task.payload, task.priority, NUMBER[task.status], task.attempts,
        task.failures, task.lost, task.max_retries, task.timeout, task.run_at, task.created_at, task.started_at,
        task.finished_at, int(task.cancel_requested), task.worker, task.result, error, task.traceparent,
        record.error_group,
    )  # fmt: skip


def _attempts(record: Record, seq: int) -> list[tuple[Any, ...]]:
    return [
        (seq, n, past.attempt, past.outcome, past.started_at, past.ended_at, past.worker,
         None if past.error is None else text(past.error))
        for n, past in enumerate(record.attempts, 1)
    ]  # fmt: skip
