"""Tasks on their way from one store to another, whole, in batches."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from jobpipe.core.task import Attempt, Task
from jobpipe.storage.base import Record
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.counts import Standing, columns
from jobpipe.storage.postgres.link import Link, arrays
from jobpipe.storage.postgres.rows import NUMBER, attempt_of, error_text, searchable, task_of


async def export(link: Link, after_seq: int, limit: int, max_bytes: int) -> list[Record]:
    """As Storage.export promises."""
    seqs: list[int] = []
    for row in await link.rows(sql.EXPORT_SIZES, after_seq, limit):
        max_bytes -= row["size"]
        if max_bytes < 0 and seqs:
            break
        seqs.append(row["seq"])
    attempts: dict[int, list[Attempt]] = defaultdict(list)
    for row in await link.rows(sql.EXPORT_ATTEMPTS, seqs):
        attempts[row["seq"]].append(attempt_of(row))
    found = {row["seq"]: row for row in await link.rows(sql.EXPORT, seqs)}
    return [
        Record(task_of(found[seq]), found[seq]["error_group"], tuple(attempts[seq]))
        for seq in seqs
        if seq in found
    ]


async def write(link: Link, records: Sequence[Record], writer: int) -> dict[str, int]:
    """Store, in one commit, those whose id is free; their places in the order of acceptance."""
    async with link.transaction():
        new = await link.rows(sql.IMPORT_IDS, [record.task.id for record in records], secrets.randbits(63))
        seqs: dict[str, int] = {row["id"]: row["seq"] for row in new}
        chosen = [record for record in records if record.task.id in seqs]
        waiting = [_columns(record, seqs) for record in chosen if not record.task.finished]
        finished = [
            (*_columns(record, seqs), record.task.finished_at, record.task.result)
            for record in chosen
            if record.task.finished
        ]
        past = [row for record in chosen for row in _attempts(record, seqs)]
        for statement, rows, width in (
            (sql.IMPORT_WAITING, waiting, 21), (sql.IMPORT_FINISHED, finished, 23), (sql.IMPORT_ATTEMPTS, past, 8),
        ):  # fmt: skip
            if rows:
                await link.rows(statement, *arrays(rows, width))
        if chosen:
            await link.rows(sql.KEEP_COUNTS, writer, *columns(rises(chosen)))
    return seqs


def rises(records: Sequence[Record]) -> Counter[Standing]:
    """By how much they change the counts."""
    return Counter((record.task.queue, record.task.priority, record.task.status) for record in records)


def _columns(record: Record, seqs: Mapping[str, int]) -> tuple[Any, ...]:
    task: Task = record.task
    error = task.last_error
    return (
        seqs[task.id], task.id, task.handler, task.queue, task.payload, task.priority, NUMBER[task.status],
        task.attempts, task.failures, task.lost, task.max_retries, task.timeout, task.run_at, task.created_at,
        task.started_at, task.cancel_requested, task.worker, error_text(error),
        None if error is None else searchable(error.type), record.error_group, task.traceparent,
    )  # fmt: skip


def _attempts(record: Record, seqs: Mapping[str, int]) -> list[tuple[Any, ...]]:
    return [
        (seqs[record.task.id], n, past.attempt, past.outcome, past.started_at, past.ended_at, past.worker,
         error_text(past.error))
        for n, past in enumerate(record.attempts, 1)
    ]  # fmt: skip
