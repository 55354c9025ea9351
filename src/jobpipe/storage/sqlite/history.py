"""What is kept of the past: unsuccessful attempts beside their tasks, and the summaries of the minutes."""

from __future__ import annotations

from typing import Any

import apsw

from jobpipe.core.task import Attempt
from jobpipe.storage.base import MAX_ATTEMPTS, Summary
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.rows import attempt_of, decode_json


def attempts(db: apsw.Connection, task_id: str) -> list[Attempt] | None:
    """The unsuccessful attempts of a task, oldest first; None for an unknown task."""
    found: str | None = db.execute(sql.ATTEMPTS, (task_id,)).get
    if found is None:
        return None
    return [attempt_of(row) for row in decode_json(found)[-MAX_ATTEMPTS:]]


def keep_summary(db: apsw.Connection, summary: Summary, forget_before: int) -> None:
    """Keep the summary of a minute, and forget older minutes."""
    db.execute(sql.KEEP_SUMMARY, (summary.minute, summary.server, summary.data))
    db.execute(sql.FORGET_SUMMARIES, (forget_before,))


def summaries(db: apsw.Connection, since: int, until: int) -> list[Summary]:
    """The summaries of the minutes from `since` to before `until`."""
    columns: Any
    data: Any
    ((columns, data),) = db.execute(sql.SUMMARIES, (since, until)).fetchall()
    found: list[Summary] = []
    at = 0
    for minute, server, size in decode_json(columns):
        found.append(Summary(minute, server, b"" if data is None else data[at : at + size]))
        at += size
    return found
