"""Pages of tasks, newest first, over both tables, read in short steps so that no snapshot is held open for long.

A step looks at one window of the order of acceptance; a filter that matches rarely takes many short steps instead of
one long one. Statuses that few tasks have, ids, their beginning if few begin so, and groups of errors are found by
their index, in one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobpipe.core.task import FINISHED, Status
from jobpipe.storage import prefixes
from jobpipe.storage.base import Matches, Page, TaskFilter, Waiting
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.link import Link, Row
from jobpipe.storage.postgres.rows import NUMBER, searchable, task_of

WINDOW = 100_000
_RARE = frozenset({Status.RUNNING, Status.FAILED, Status.CANCELLED})
_END = 1 << 62


async def page(
    link: Link, where: TaskFilter, limit: int, before_seq: int | None, max_bytes: int | None
) -> Page:
    """The newest matching tasks before `before_seq`; at most `max_bytes`, but one task. None: without any bytes."""
    found = await _search(link, sql.WINDOW, where, limit + 1, before_seq)
    seqs: list[int] = []
    total = 0
    for row in found[:limit]:
        total += row["size"]
        if max_bytes is not None and total > max_bytes and seqs:
            break
        seqs.append(row["seq"])
    # A task that ends between the two reads is in one of the tables in any case; one deleted is missing.
    statement = sql.SLIM_BY_SEQ if max_bytes is None else sql.BY_SEQ
    tasks = [task_of(row) for row in await link.rows(statement, seqs)] if seqs else []
    tasks.sort(key=lambda task: task.seq, reverse=True)
    return Page(tasks, seqs[-1] if len(seqs) < len(found) else None)


async def match(link: Link, where: TaskFilter, limit: int, before_seq: int | None) -> Matches:
    """The ids of the newest matching tasks before `before_seq`."""
    found = await _search(link, sql.WINDOW_IDS, where, limit + 1, before_seq)
    more = found[limit - 1]["seq"] if len(found) > limit else None
    return Matches([row["id"] for row in found[:limit]], more)


async def waiting(link: Link, queues: Sequence[str], priorities: int, most: int) -> Waiting:
    """As Reading.waiting promises, of these queues and the highest of their priorities."""
    found = {row["tried"]: row["n"] for row in await link.rows(sql.NOT_DUE, queues, priorities, most)}
    return Waiting(found.get(False, 0), found.get(True, 0))


async def _search(
    link: Link, statement: str, where: TaskFilter, limit: int, before_seq: int | None
) -> list[Row]:
    # What an index finds directly needs no windows.
    indexed = where.status in _RARE or any(
        (where.ids is not None, where.error_group, where.key, where.schedule)
    )
    few = not indexed and await _few(link, where.id_prefix)
    conditions, arguments = _conditions(where, few)
    hot = "" if where.status not in FINISHED else " AND false"
    cold = "" if where.status is None or where.status in FINISHED else " AND false"
    text = statement.format(hot=conditions + hot, cold=conditions + cold)
    window = _END if indexed or few else WINDOW
    found: list[Row] = []
    top = await link.value(sql.NEWEST_BELOW, _END if before_seq is None else before_seq)
    while top is not None and len(found) < limit:
        bottom = max(0, top + 1 - window)
        found += await link.rows(text, top + 1, bottom, limit - len(found), *arguments)
        top = await link.value(sql.NEWEST_BELOW, bottom)
    return found


async def _few(link: Link, prefix: str | None) -> bool:
    """Whether so few ids begin so that each can be looked up."""
    end = prefixes.after(searchable(prefix or ""))
    return end is not None and bool(
        await link.value(sql.MANY_IDS, searchable(prefix or ""), end, prefixes.FEW) < prefixes.FEW
    )


def _conditions(where: TaskFilter, few: bool) -> tuple[str, list[Any]]:
    """The SQL of a filter, beginning with AND, and its arguments, the first of which is $4; `few` ids begin so."""
    parts: list[tuple[str, Any]] = []
    if where.ids is not None:
        ids = [searchable(id_) for id_ in where.ids]
        taken = "SELECT seq FROM jobpipe.ids WHERE id = ANY({}::text[])"
        parts.append((f"seq = ANY(ARRAY({taken}))", ids))
    if where.id_prefix is not None:
        prefix = searchable(where.id_prefix)
        parts.append(("starts_with(id, {}::text)", prefix))
        if few:
            taken = "SELECT seq FROM jobpipe.ids WHERE id >= ({0}::text[])[1] AND id < ({0}::text[])[2]"
            parts.append((f"seq = ANY(ARRAY({taken}))", [prefix, prefixes.after(prefix)]))
    for condition, value in (
        ("queue = {}::text", where.queue),
        ("handler = {}::text", where.handler),
        ("error_type = {}::text", where.error_type),
        ("error_group = {}::text", where.error_group),
        ("created_at > {}::bigint", where.created_after),
        ("created_at < {}::bigint", where.created_before),
        ("key = {}::text", where.key),
        ("schedule = {}::text", where.schedule),
        ("run_at > {}::bigint", where.due_after),
        ("(attempts > 0) = {}::boolean", where.tried),
    ):
        if value is not None:
            parts.append((condition, searchable(value) if isinstance(value, str) else value))
    # A literal, so that the partial indexes of rare statuses can be used.
    status = "" if where.status is None else f" AND status = {NUMBER[where.status]}"
    text = "".join(f" AND {part.format(f'${i}')}" for i, (part, _) in enumerate(parts, 4))
    return status + text, [value for _, value in parts]
