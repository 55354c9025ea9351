"""One verb over all tasks that match a filter, in slices, so that a million tasks never hold the storage.

It walks from the newest matching task to the oldest: tasks accepted after the start are not touched. It is not atomic;
repeated, it changes what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

from jobpipe.core.errors import JobpipeError
from jobpipe.engine.queue import TaskQueue
from jobpipe.storage.base import TaskFilter

SLICE = 500


class Action(StrEnum):
    """What to do with each task."""

    RETRY = "retry"
    CANCEL = "cancel"
    DELETE = "delete"


class BulkAnswer(Struct, frozen=True):
    """How many tasks matched the filter, and on how many of them the verb was allowed and done."""

    matched: int
    changed: int


async def bulk(queue: TaskQueue, action: Action, where: TaskFilter, *, dry_run: bool) -> BulkAnswer:
    """Do `action` to all that match `where`; with `dry_run` only count them. Raises StorageError."""
    matched = changed = 0
    before: int | None = None
    while True:
        found = await queue.match(where, SLICE, before)
        matched += len(found.ids)
        if found.ids and not dry_run:
            changed += await _apply(queue, action, found.ids)
        if found.next_seq is None:
            return BulkAnswer(matched, changed)
        before = found.next_seq


async def _apply(queue: TaskQueue, action: Action, ids: list[str]) -> int:
    match action:
        case Action.RETRY:
            return _changed(await queue.retry(ids))
        case Action.CANCEL:
            return _changed(await queue.cancel(ids))
        case Action.DELETE:
            return _changed(await queue.delete(ids))


def _changed(answers: Sequence[object]) -> int:
    return sum(not isinstance(answer, JobpipeError) for answer in answers)
