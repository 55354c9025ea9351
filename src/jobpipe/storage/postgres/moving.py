"""Tasks on their way from one store to another, whole, in batches."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Sequence

from msgspec.structs import replace

from jobpipe.core.steering import Standing
from jobpipe.core.task import Attempt
from jobpipe.storage.base import Record
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres import unique
from jobpipe.storage.postgres.counts import columns
from jobpipe.storage.postgres.link import Link
from jobpipe.storage.postgres.rows import attempt_of, imported, imported_attempts, task_of


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
        tasks = [imported(record, seqs[record.task.id]) for record in chosen]
        past = [row for record in chosen for row in imported_attempts(record, seqs[record.task.id])]
        for statement, rows, names in (
            (sql.IMPORT_WAITING, [row for row in tasks if row["finished_at"] is None], sql.WAITING),
            (sql.IMPORT_FINISHED, [row for row in tasks if row["finished_at"] is not None], sql.FINISHED),
            (sql.IMPORT_ATTEMPTS, past, sql.ATTEMPTED),
        ):
            if rows:
                await link.rows(statement, *([row[name] for row in rows] for name in names))
        await unique.bring(link, [replace(record.task, seq=seqs[record.task.id]) for record in chosen])
        if chosen:
            await link.rows(sql.KEEP_COUNTS, writer, *columns(rises(chosen)))
    return seqs


def rises(records: Sequence[Record]) -> Counter[Standing]:
    """By how much they change the counts."""
    return Counter((record.task.queue, record.task.priority, record.task.status) for record in records)
