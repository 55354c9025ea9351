"""Tasks on their way from one store to another, whole: only while no server uses the store, so row by row is fine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import apsw
from msgspec.structs import replace

from jobpipe.core.steering import Standing
from jobpipe.core.task import Attempt, Task
from jobpipe.storage.base import Record
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.rows import attempt_of, decode_json, moved, moved_attempts, task_of, text
from jobpipe.storage.sqlite.state import State


def export(db: apsw.Connection, after_seq: int, limit: int, max_bytes: int) -> list[Record]:
    """As Storage.export promises."""
    found: list[tuple[Task, str | None]] = []
    for row in db.execute(sql.EXPORT, (after_seq, limit)):
        task = task_of(row)
        max_bytes -= len(task.payload) + len(task.result or b"")
        if max_bytes < 0 and found:
            break
        found.append((task, row[-1]))
    attempts: dict[int, list[Attempt]] = defaultdict(list)
    if found:
        for seq, *past in db.execute(sql.EXPORT_ATTEMPTS, (after_seq, found[-1][0].seq)):
            attempts[seq].append(attempt_of(past))
    return [Record(task, group, tuple(attempts[task.seq])) for task, group in found]


def import_(state: State, records: Sequence[Record]) -> list[str]:
    """As Storage.import_ promises, within a transaction."""
    ids = [record.task.id for record in records]
    first: int = state.one(sql.LAST_SEQ) + 1
    taken = {id_ for id_, *_ in decode_json(state.one(sql.TAKEN, (text(ids), first)))}
    rises: Counter[Standing] = Counter()
    for seq, record in enumerate((record for record in records if record.task.id not in taken), first):
        task = record.task
        state.db.execute(sql.IMPORT, moved(record, seq))
        state.db.executemany(sql.IMPORT_ATTEMPT, moved_attempts(record, seq))
        rises[(task.queue, task.priority, task.status)] += 1
        if not task.finished:
            state.due.add(task.queue, task.priority, task.run_at, seq, task.key)
        state.keys.taken_over([replace(task, seq=seq)], state.clock.now())
    state.counts.add_all(rises)
    return [id_ for id_ in ids if id_ in taken]
