"""Schedules in the database: kept, and their tasks made through the intake.

Whoever edits or makes holds one advisory lock until its commit, so that of many servers one makes each time, and a
change holds on all when it is answered. Who finds the lock taken makes nothing: the other one is at it, and when it
died the lock is free with its connection.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import astuple

from jobpipe.core.errors import JobpipeError, Upgrading
from jobpipe.core.firing import Schedule
from jobpipe.core.schedule_edits import Edit, Edited, room_for
from jobpipe.core.task import Task
from jobpipe.storage.postgres.intake import OLDER, Intake, beside_older
from jobpipe.storage.postgres.link import Link, arrays
from jobpipe.storage.postgres.shared import Shared
from jobpipe.storage.schedules import (
    BUSY,
    LATE_MS,
    NONE,
    Fired,
    ScheduleCounts,
    conclusions,
    decode,
    plans,
    row_of,
)

_NUMBER = 0x4A6F6250
"""The letters JobP; the other half of the lock's name is the table's, so that each schema has its own."""
_KEY = f"{_NUMBER}, ('jobpipe.schedules'::regclass::oid::bigint & 2147483647)::int"

ALL = "SELECT data FROM jobpipe.schedules ORDER BY name"
NAMED = "SELECT data FROM jobpipe.schedules WHERE name = ANY($1::text[]) ORDER BY name"
COUNT = "SELECT count(*) FROM jobpipe.schedules"
# $1-$4 columns.
KEEP = """
INSERT INTO jobpipe.schedules (name, data, look_at, waits_since)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
    ON CONFLICT (name) DO UPDATE
   SET data = excluded.data, look_at = excluded.look_at, waits_since = excluded.waits_since
"""
DROP = "DELETE FROM jobpipe.schedules WHERE name = ANY($1::text[])"
NOW = "SELECT jobpipe.now_ms()"
DUE = """
SELECT data FROM jobpipe.schedules WHERE look_at <= $1::bigint ORDER BY look_at, name LIMIT $2::bigint
"""
NEXT = "SELECT min(look_at) - jobpipe.now_ms() AS ms FROM jobpipe.schedules WHERE look_at IS NOT NULL"
COUNTS = """
SELECT count(*) AS all, count(*) FILTER (WHERE look_at IS NULL) AS resting,
       count(*) FILTER (WHERE waits_since < jobpipe.now_ms() - $1::bigint) AS late FROM jobpipe.schedules
"""
LOCK = f"SELECT pg_advisory_xact_lock({_KEY})"
TRY_LOCK = f"SELECT pg_try_advisory_xact_lock({_KEY})"
# A server whose machine vanished must not keep the lock for long.
SOON = "SET LOCAL idle_in_transaction_session_timeout = 3000"


class PostgresSchedules:
    """The table of schedules."""

    def __init__(self, shared: Shared, intake: Intake) -> None:
        self._s = shared
        self._intake = intake

    async def read(self, link: Link, names: Sequence[str] | None) -> list[Schedule]:
        """As Schedules.schedules promises."""
        if names is None:
            rows = await link.rows(ALL)
        else:
            rows = await link.rows(NAMED, [name for name in names if "\0" not in name])
        return [decode(row["data"]) for row in rows]

    async def edit(self, link: Link, names: Sequence[str] | None, edit: Edit) -> Edited | JobpipeError:
        """As Schedules.edit_schedules promises."""
        async with link.transaction():
            await link.script(SOON)
            await link.rows(LOCK)
            found = {schedule.name: schedule for schedule in await self.read(link, names)}
            edited = edit(found, await link.value(NOW))
            if isinstance(edited, JobpipeError):
                return edited
            if edited.says and await beside_older(link):
                return Upgrading(OLDER)
            if edited.made and (full := room_for(edited.made, await link.value(COUNT) - len(edited.drop))):
                return full
            if edited.drop:
                await link.rows(DROP, list(edited.drop))
            await self._keep(link, edited.keep)
        self._s.news()
        return edited

    async def _keep(self, link: Link, schedules: Sequence[Schedule]) -> None:
        if schedules:
            await link.rows(KEEP, *arrays([astuple(row_of(schedule)) for schedule in schedules], 4))

    async def fire(self, link: Link, limit: int) -> Fired:
        """As Schedules.fire promises."""
        if not await link.rows(DUE, await link.value(NOW), 1):
            return NONE
        try:
            async with link.transaction():
                await link.script(SOON)
                fired = await self._fire(link, limit) if await link.value(TRY_LOCK) else BUSY
        except BaseException:
            link.cut()  # what memory holds of its counts may not have been written
            raise
        if any(isinstance(answer, Task) for answer in fired.answers):
            self._s.news()
        return fired

    async def _fire(self, link: Link, limit: int) -> Fired:
        now = await link.value(NOW)
        due = [decode(row["data"]) for row in await link.rows(DUE, now, limit)]
        last = [schedule.last_task for schedule in due if schedule.last_task is not None]
        planned = plans(due, await self._intake.statuses(link, last), now)
        answers = await self._intake.within(link, [task for one in planned for task in one.tasks], now)
        after, fired = conclusions(due, planned, answers, now, more=len(due) == limit)
        await self._keep(link, after)
        return fired

    async def next(self, link: Link) -> int | None:
        """As Schedules.next_firing promises."""
        ms = await link.value(NEXT)
        return None if ms is None else max(0, int(ms))

    async def counts(self, link: Link) -> ScheduleCounts:
        """As Schedules.schedule_counts promises."""
        row = await link.row(COUNTS, LATE_MS)
        return ScheduleCounts(row["all"], row["resting"], row["late"])
