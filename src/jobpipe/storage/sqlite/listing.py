"""Pages of tasks, newest first, read in short steps so that no snapshot is held open for long.

A step looks at one window of the order of acceptance; a filter that matches rarely takes many short steps instead of
one long one, and the write-ahead log can be folded in between. Statuses that few tasks have, and ids of which few begin
as asked for, are found by their index, in one step.
"""

from __future__ import annotations

from typing import Any

import apsw

from jobpipe.core.task import Status
from jobpipe.storage import prefixes
from jobpipe.storage.base import Matches, Page, TaskFilter, Waiting
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.rows import NUMBER, decode_json, stored, text

WINDOW = 100_000
_RARE = frozenset({Status.RUNNING, Status.FAILED, Status.CANCELLED})
_END = 1 << 62

Sized = tuple[int, Any]
"""A seq, and its bytes or its id."""


def page(
    db: apsw.Connection, where: TaskFilter, limit: int, before_seq: int | None, max_bytes: int | None
) -> Page:
    """The newest matching tasks before `before_seq`; at most `max_bytes`, but one task. None: without any bytes."""
    found = _search(db, sql.WINDOW, where, limit + 1, before_seq)
    seqs: list[int] = []
    total = 0
    for seq, size in found[:limit]:
        total += size
        if max_bytes is not None and total > max_bytes and seqs:
            break
        seqs.append(seq)
    rows = stored(db, sql.SLIM_BY_SEQ if max_bytes is None else sql.BY_SEQ, text(seqs)) if seqs else []
    # A task deleted between the two reads is missing here; the page is a little shorter, not wrong.
    tasks = sorted((row.task for row in rows), key=lambda task: task.seq, reverse=True)
    return Page(tasks, seqs[-1] if len(seqs) < len(found) else None)


def waiting(db: apsw.Connection, now: int, most: int) -> Waiting:
    """As Reading.waiting promises."""
    return Waiting(*map(int, decode_json(db.execute(sql.NOT_DUE, (now, most)).get)))


def match(db: apsw.Connection, where: TaskFilter, limit: int, before_seq: int | None) -> Matches:
    """The ids of the newest matching tasks before `before_seq`."""
    found = _search(db, sql.WINDOW_IDS, where, limit + 1, before_seq)
    more = found[limit - 1][0] if len(found) > limit else None
    return Matches([id_ for _, id_ in found[:limit]], more)


def _search(
    db: apsw.Connection, statement: str, where: TaskFilter, limit: int, before_seq: int | None
) -> list[Sized]:
    # What an index finds directly needs no windows.
    indexed = where.status in _RARE or any(
        (where.ids is not None, where.error_group, where.key, where.schedule)
    )
    few = not indexed and _few(db, where.id_prefix)
    conditions, arguments = _conditions(where, few)
    statement = statement.format(conditions=conditions)
    window = _END if indexed or few else WINDOW
    found: list[Sized] = []
    top = _newest_below(db, _END if before_seq is None else before_seq)
    while top is not None and len(found) < limit:
        bottom = max(0, top + 1 - window)
        bindings = (top + 1, bottom, *arguments, limit - len(found))
        found += decode_json(db.execute(statement, bindings).get)
        top = _newest_below(db, bottom)
    return found


def _newest_below(db: apsw.Connection, seq: int) -> int | None:
    newest: int | None = db.execute(sql.NEWEST_BELOW, (seq,)).get
    return newest


def _few(db: apsw.Connection, prefix: str | None) -> bool:
    """Whether so few ids begin so that each can be looked up."""
    end = prefixes.after(prefix or "")
    return end is not None and db.execute(sql.MANY_IDS, (prefix, end, prefixes.FEW)).get < prefixes.FEW


def _conditions(where: TaskFilter, few: bool) -> tuple[str, list[Any]]:
    """The SQL of a filter, beginning with AND, and its arguments; `few` ids begin so."""
    parts: list[tuple[str, list[Any]]] = []
    if where.status is not None:
        parts.append((_status_condition(where), [NUMBER[where.status]]))
    if where.ids is not None:
        parts.append(("id IN (SELECT value FROM json_each(?))", [text(where.ids)]))
    if where.id_prefix is not None:
        prefix = where.id_prefix
        parts.append(("substr(id, 1, ?) = ?", [len(prefix), prefix]))
        if few:
            found = "seq IN (SELECT seq FROM tasks WHERE id >= ? AND id < ?)"
            parts.append((found, [prefix, prefixes.after(prefix)]))
    for condition, value in (
        ("queue = ?", where.queue),
        ("handler = ?", where.handler),
        ("last_error->>'type' = ?", where.error_type),
        ("error_group = ?", where.error_group),
        ("created_at > ?", where.created_after),
        ("created_at < ?", where.created_before),
        ("key = ?", where.key),
        ("schedule = ?", where.schedule),
        ("run_at > ?", where.due_after),
        ("(attempts > 0) = ?", where.tried),
    ):
        if value is not None:
            parts.append((condition, [value]))
    return "".join(f" AND {sql_}" for sql_, _ in parts), [value for _, values in parts for value in values]


def _status_condition(where: TaskFilter) -> str:
    if where.error_group is not None or where.key is not None or where.schedule is not None:
        return "+status = ?"  # not by an index: the group's, key's or schedule's own leads to fewer tasks
    return "status IN (1, 3, 4) AND status = ?" if where.status in _RARE else "status = ?"
