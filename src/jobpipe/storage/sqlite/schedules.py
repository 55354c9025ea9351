"""Schedules in the file: kept, and their tasks made through the intake; all in the transaction that is under way."""

from __future__ import annotations

from collections.abc import Sequence

from jobpipe.core.errors import JobpipeError
from jobpipe.core.firing import Schedule
from jobpipe.core.schedule_edits import Edit, Edited, room_for
from jobpipe.storage.schedules import (
    LATE_MS,
    NONE,
    Fired,
    ScheduleCounts,
    conclusions,
    decode,
    plans,
    row_of,
)
from jobpipe.storage.sqlite.intake import Intake
from jobpipe.storage.sqlite.rows import decode_json, text
from jobpipe.storage.sqlite.state import State

ALL = "SELECT data FROM schedules ORDER BY name"
NAMED = "SELECT data FROM schedules WHERE name IN (SELECT value FROM json_each(?1)) ORDER BY name"
COUNT = "SELECT count(*) FROM schedules"
# ?1 rows as JSON.
KEEP = """
INSERT OR REPLACE INTO schedules (name, data, look_at, waits_since)
SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?1)
"""
DROP = "DELETE FROM schedules WHERE name IN (SELECT value FROM json_each(?1))"
DUE = "SELECT data FROM schedules WHERE look_at <= ?1 ORDER BY look_at, name LIMIT ?2"
NEXT = "SELECT min(look_at) FROM schedules WHERE look_at IS NOT NULL"
COUNTS = """
SELECT json_array(count(*), count(*) FILTER (WHERE look_at IS NULL), count(*) FILTER (WHERE waits_since < ?1))
  FROM schedules
"""


class SqliteSchedules:
    """The table of schedules."""

    def __init__(self, state: State, intake: Intake) -> None:
        self._s = state
        self._intake = intake

    def read(self, names: Sequence[str] | None) -> list[Schedule]:
        """As Schedules.schedules promises."""
        rows = self._s.db.execute(ALL) if names is None else self._s.db.execute(NAMED, (text(list(names)),))
        return [decode(data) for (data,) in rows]

    def edit(self, names: Sequence[str] | None, edit: Edit, now: int) -> Edited | JobpipeError:
        """As Schedules.edit_schedules promises."""
        edited = edit({schedule.name: schedule for schedule in self.read(names)}, now)
        if isinstance(edited, JobpipeError):
            return edited
        if edited.made and (full := room_for(edited.made, self._s.one(COUNT) - len(edited.drop))):
            return full
        self._s.write(DROP, list(edited.drop))
        self._keep(edited.keep)
        return edited

    def _keep(self, schedules: Sequence[Schedule]) -> None:
        self._s.write(KEEP, [row_of(schedule) for schedule in schedules])

    def fire(self, now: int, limit: int) -> Fired:
        """As Schedules.fire promises."""
        due = [decode(data) for (data,) in self._s.db.execute(DUE, (now, limit))]
        if not due:
            return NONE
        last = [schedule.last_task for schedule in due if schedule.last_task is not None]
        planned = plans(due, self._intake.statuses(last), now)
        answers = self._intake.accept([task for one in planned for task in one.tasks], now)
        after, fired = conclusions(due, planned, answers, now, more=len(due) == limit)
        self._keep(after)
        return fired

    def next(self, now: int) -> int | None:
        """As Schedules.next_firing promises."""
        at: int | None = self._s.one(NEXT)
        return None if at is None else max(0, at - now)

    def counts(self, now: int) -> ScheduleCounts:
        """As Schedules.schedule_counts promises."""
        return ScheduleCounts(*decode_json(self._s.one(COUNTS, (now - LATE_MS,))))
