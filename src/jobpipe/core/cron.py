"""When a cron expression comes in a time zone, also where clocks are put forward or back.

cronsim reads the expression and finds wall-clock times; what a wall-clock time means in a zone is decided here, as
Debian's cron has it: an expression with fixed minutes and hours comes once for each of its times (one in the gap comes
at the gap's end, one in the repeated hour the first time), one whose minute or hour begins with `*` follows real time
(nothing in the gap, both times in the repeated hour). cronsim's own rule skips times where clocks move by half an hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

LONGEST = 200
"""Characters of an expression, at most."""
SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BadCron(ValueError):
    """An expression or a zone that cannot be used; one line for people."""


class Cron:
    """An expression in a zone. Raises BadCron for one that cannot be read."""

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        self._fields = _fields_of(expression)
        self._zone = zone_of(timezone)
        minute, hour = self._fields.split()[:2]
        self._fixed = not minute.startswith("*") and not hour.startswith("*")
        self._sim(datetime(2000, 1, 1))

    def times(self, after: int) -> Iterator[int]:
        """All times after `after`, in order (ms since the epoch); ends when none comes within fifty years."""
        try:
            at = _EPOCH + timedelta(milliseconds=after)
            while True:
                at = self._next_fixed(at) if self._fixed else self._next_real(at)
                yield round((at - _EPOCH).total_seconds()) * 1000
        except (StopIteration, OverflowError, ValueError):  # the calendar's end, too
            return

    def in_words(self) -> str:
        """The expression read back in English."""
        return self._sim(datetime(2000, 1, 1)).explain()

    def _sim(self, wall: datetime) -> CronSim:
        try:
            return CronSim(self._fields, wall)
        except CronSimError as error:
            raise BadCron(f"is no cron expression: {str(error)[:1].lower()}{str(error)[1:]}") from None

    def _wall(self, at: datetime) -> datetime:
        return at.astimezone(self._zone).replace(tzinfo=None, fold=0)

    def _offset(self, at: datetime) -> timedelta:
        return self._wall(at) - at.replace(tzinfo=None)

    def _next_fixed(self, after: datetime) -> datetime:
        """The first instant after `after` of a wall-clock time."""
        for wall in self._sim(self._wall(after)):
            at = self._first(wall) or self._change(
                self._instant(wall, fold=1) - _SECOND, self._instant(wall, fold=0)
            )
            if at > after:
                return at
        raise StopIteration

    def _next_real(self, after: datetime) -> datetime:
        """The first instant after `after` whose wall-clock time is one of the expression's."""
        day_later = after + _DAY
        if self._offset(after) == self._offset(day_later):
            return self._next_undisturbed(after)
        change = self._change(after, day_later)
        at = next(self._sim(self._wall(after))).replace(tzinfo=UTC) - self._offset(after)
        if at < change:
            return at
        wall = self._wall(change)
        if (again := next(self._sim(wall - _SECOND))) - wall < _DAY:
            return again.replace(tzinfo=UTC) - self._offset(change)
        return self._next_real(change + _DAY - _SECOND)

    def _next_undisturbed(self, after: datetime) -> datetime:
        """The same, when clocks do not move for a day: whatever hour comes again later has its first time before."""
        begin = self._wall(after)
        for wall in self._sim(begin):
            soon = wall - begin < _DAY
            at = wall.replace(tzinfo=UTC) - self._offset(after) if soon else self._first(wall)
            if at is not None:
                return at
        raise StopIteration

    def _instant(self, wall: datetime, fold: int) -> datetime:
        return wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC)

    def _first(self, wall: datetime) -> datetime | None:
        """When the clocks show `wall` the first time; None in a gap."""
        at = self._instant(wall, fold=0)
        return at if self._wall(at) == wall else None

    def _change(self, before: datetime, after: datetime) -> datetime:
        """The second in which the clocks move between the two, to the second."""
        offset = self._offset(before)
        low, high = 0, int((after - before).total_seconds()) + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._offset(before + middle * _SECOND) == offset else (low, middle)
        return before.replace(microsecond=0) + high * _SECOND


def stamp(at: int) -> str:
    """A time (ms) as RFC 3339 in UTC, to the second, as names of tasks have it."""
    return (_EPOCH + timedelta(milliseconds=at)).strftime("%Y-%m-%dT%H:%M:%SZ")


def zone_of(name: str) -> ZoneInfo:
    """The IANA time zone. Raises BadCron for an unknown one."""
    try:
        return ZoneInfo(name)
    except (
        OSError,
        ValueError,
        KeyError,
    ):  # ZoneInfoNotFoundError is a KeyError; folders and odd names raise the others
        raise BadCron(f"'{name[:100]}' is no IANA time zone, like Europe/Berlin") from None


def _fields_of(expression: str) -> str:
    if len(expression) > LONGEST:
        raise BadCron(f"an expression has at most {LONGEST} characters")
    fields = SHORTHANDS.get(expression.strip().lower(), expression)
    if len(fields.split()) != 5:
        raise BadCron(f"five fields are needed, or one of {', '.join(SHORTHANDS)}")
    return fields
