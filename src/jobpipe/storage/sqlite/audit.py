"""Kept counts beside the rows that they count: a bounded look while a server works, all of them for people who ask."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import apsw

from jobpipe.core.errors import StorageRefused
from jobpipe.core.task import Status
from jobpipe.storage.base import AUDITED_LEVELS, AUDITED_ROWS, Miscount
from jobpipe.storage.sqlite.connection import open_writer, refuse_foreign_file
from jobpipe.storage.sqlite.lock import FileLock
from jobpipe.storage.sqlite.rows import NUMBER, STATUSES
from jobpipe.storage.sqlite.state import State

_COMPARE = """
SELECT queue, status, priority, sum(counted), sum(there) FROM (
    SELECT queue, status, priority, n AS counted, 0 AS there FROM counts
    UNION ALL SELECT queue, status, priority, 0, count(*) FROM tasks GROUP BY queue, status, priority)
 GROUP BY queue, status, priority HAVING sum(counted) <> sum(there) ORDER BY queue, status, priority
"""
_REPAIR = (
    "DELETE FROM counts",
    "INSERT INTO counts SELECT queue, status, priority, count(*) FROM tasks GROUP BY queue, status, priority",
)
_NEXT = """
SELECT queue, priority FROM tasks WHERE status = 0 AND (queue, priority) > (?, ?) ORDER BY queue, priority LIMIT 1
"""
_AT = "SELECT count(*) FROM (SELECT 1 FROM tasks WHERE status = 0 AND queue = ? AND priority = ? LIMIT ?)"
_RUNNING = """
SELECT queue, priority, count(*) FROM (SELECT queue, priority FROM tasks WHERE status = 1 LIMIT ?)
 GROUP BY queue, priority
"""
_SOME = "SELECT EXISTS (SELECT 1 FROM tasks WHERE status = ? AND status >= 2)"
_FINISHED = (Status.DONE, Status.FAILED, Status.CANCELLED)

Level = tuple[str, int]


def compare(connection: apsw.Connection) -> list[Miscount]:
    """All counts that are not what the rows say; reads every row."""
    return [Miscount(queue, STATUSES[status], priority, counted, there)
            for queue, status, priority, counted, there in connection.execute(_COMPARE)]  # fmt: skip


def repair(path: str) -> list[Miscount]:
    """Make the counts of a store true that no server uses; what was wrong. Raises StorageRefused."""
    refuse_foreign_file(path)
    lock = FileLock(path)
    lock.acquire()
    try:
        with contextlib.closing(open_writer(path)) as connection, connection:
            wrong = compare(connection)
            for statement in _REPAIR if wrong else ():
                connection.execute(statement)
        return wrong
    except apsw.Error as error:
        raise StorageRefused(f"cannot repair {path}: {error}") from error
    finally:
        lock.release()


class Audit:
    """A look at some levels at a time, the next ones at the next call. Lives in the writer's thread."""

    def __init__(self, state: State) -> None:
        self._s = state
        self._after: Level = ("", 0)

    def look(self) -> list[Miscount]:
        """Within a transaction: compare, and put right what cannot be; what it was."""
        levels, self._after = self._levels()
        wrong = [*self._waiting(levels), *self._running(), *self._finished()]
        for one in wrong:
            self._s.counts.add(one.queue, one.status, one.priority or 0, one.there - one.counted)
        if wrong:
            self._s.due.load(self._s.counts.levels())
        return wrong

    def _levels(self) -> tuple[Sequence[Level], Level]:
        """The next levels that rows or counts have, and after which the call that follows begins."""
        at = self._after
        found: list[Level] = []
        while len(found) < AUDITED_LEVELS and (row := self._s.db.execute(_NEXT, at).fetchone()) is not None:
            at = (str(row[0]), int(row[1]))
            found.append(at)
        whole = len(found) < AUDITED_LEVELS
        counted = [one for one in self._s.counts.levels() if one > self._after and (whole or one <= at)]
        return sorted({*found, *counted}), ("", 0) if whole else at

    def _waiting(self, levels: Sequence[Level]) -> list[Miscount]:
        wrong = []
        for queue, priority in levels:
            counted = self._s.counts.at(queue, Status.QUEUED, priority)
            there: int = self._s.one(_AT, (queue, priority, AUDITED_ROWS + 1))
            # More rows than were counted here: how many there are is not known, only that it is more than that.
            if counted != there and (there <= AUDITED_ROWS or counted < there):
                wrong.append(Miscount(queue, Status.QUEUED, priority, counted, there))
        return wrong

    def _running(self) -> list[Miscount]:
        rows = list(self._s.db.execute(_RUNNING, (AUDITED_ROWS + 1,)))
        if sum(n for _, _, n in rows) > AUDITED_ROWS:
            return []
        return self._differing(Status.RUNNING, {(queue, priority): n for queue, priority, n in rows})

    def _finished(self) -> list[Miscount]:
        none: dict[Level, int] = {}
        gone = [status for status in _FINISHED if not self._s.one(_SOME, (NUMBER[status],))]
        return [one for status in gone for one in self._differing(status, none)]

    def _differing(self, status: Status, there: dict[Level, int]) -> list[Miscount]:
        counted: dict[Level, Any] = self._s.counts.of(status)
        return [
            Miscount(level[0], status, level[1], counted.get(level, 0), there.get(level, 0))
            for level in sorted(counted.keys() | there.keys())
            if counted.get(level, 0) != there.get(level, 0)
        ]
