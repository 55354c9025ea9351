"""Random schedules around changes of clocks and leap days, beside a reading that goes through every real minute and
knows neither cronsim nor the rules of the engine: fields are sets of numbers here.
"""

from __future__ import annotations

import calendar
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import NamedTuple
from zoneinfo import ZoneInfo

from jobpipe.core.cron import BadCron
from jobpipe.core.schedules import Timing, times_after
from prove.proof import Figure, Trial, none

MINUTE = timedelta(minutes=1)
WINDOW = 4 * 24 * 60
"""Minutes that are read around each beginning."""
BEGINS = (
    ("Europe/Berlin", "2026-03-27T20:00"), ("Europe/Berlin", "2026-10-23T20:00"),
    ("America/New_York", "2026-03-07T00:00"), ("America/New_York", "2026-10-31T00:00"),
    ("Australia/Lord_Howe", "2026-10-02T10:00"), ("Australia/Lord_Howe", "2026-04-03T10:00"),
    ("America/Santiago", "2026-09-04T20:00"), ("Antarctica/Troll", "2026-03-27T20:00"),
    ("Antarctica/Troll", "2026-10-23T20:00"), ("Asia/Tokyo", "2026-03-27T20:00"), ("UTC", "2028-02-27T12:00"),
    ("Asia/Kathmandu", "2027-12-30T03:00"),
)  # fmt: skip


class Field(NamedTuple):
    """A field as it is written, and what it says."""

    text: str
    holds: Callable[[datetime], bool]


class Expression(NamedTuple):
    """Five fields; whether days match is said by the two day fields together."""

    text: str
    fixed: bool
    holds: Callable[[datetime], bool]


def cron_times(trial: Trial) -> Sequence[Figure]:
    """Each schedule's times within its window, by both readings."""
    count = trial.sized(300, 10_000, 30_000)
    source = trial.source()
    windows = [_walls(zone, datetime.fromisoformat(begin).replace(tzinfo=UTC)) for zone, begin in BEGINS]
    found = wrong = 0
    for _ in range(count):
        at = source.randrange(len(BEGINS))
        expression = _expression(source)
        begin = datetime.fromisoformat(BEGINS[at][1]).replace(tzinfo=UTC)
        read = _read(expression, windows[at], begin)
        timing = Timing(cron=expression.text, timezone=BEGINS[at][0])
        start = _ms(begin)
        end = start + WINDOW * 60_000
        made = _made(timing, start, end)
        found += len(read)
        wrong += made != read
    return [
        Figure("random schedules", count),
        Figure("their times", found, at_least=count),
        none("schedules with other times than the minutes say", wrong),
    ]


def _made(timing: Timing, start: int, end: int) -> list[int]:
    """The times in the window; none of an expression that is refused, as the 31st of a month of 30 days is."""
    try:
        return list(takewhile(lambda time: time < end, times_after(timing, start - 1)))
    except BadCron:
        return []


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _walls(zone: str, begin: datetime) -> list[datetime]:
    """What the clocks show in each minute from one before `begin` on."""
    tz = ZoneInfo(zone)
    return [(begin + n * MINUTE).astimezone(tz).replace(tzinfo=None, fold=0) for n in range(-1, WINDOW)]


def _read(expression: Expression, walls: list[datetime], begin: datetime) -> list[int]:
    """Fixed times come once each, those of a gap at its end; others whenever the clocks show them."""
    found: list[int] = []
    seen: set[datetime] = set()
    for n in range(WINDOW):
        before, wall = walls[n], walls[n + 1]
        passed = [wall]
        if expression.fixed:
            passed += _skipped(before, wall)
            passed = [each for each in passed if each not in seen]
            seen.update(passed)
        if any(map(expression.holds, passed)):
            found.append(_ms(begin) + n * 60_000)
    return found


def _skipped(before: datetime, wall: datetime) -> list[datetime]:
    """The minutes of a gap between two that the clocks showed."""
    minutes = round((wall - before) / MINUTE)
    return [before + n * MINUTE for n in range(1, minutes)]


def _expression(source: random.Random) -> Expression:
    minute = _numbers(source, 0, 59, lambda at: at.minute)
    hour = _numbers(source, 0, 23, lambda at: at.hour)
    month = _any() if source.random() < 0.7 else _month(source)
    days = source.choice([_any_day, _day_of_month, _day_of_week, _either_day])(source)
    text = f"{minute.text} {hour.text} {days[0].text} {month.text} {days[1].text}"
    fixed = not minute.text.startswith("*") and not hour.text.startswith("*")
    return Expression(
        text, fixed, lambda at: minute.holds(at) and hour.holds(at) and month.holds(at) and days[2](at)
    )


Days = tuple[Field, Field, Callable[[datetime], bool]]


def _any() -> Field:
    return Field("*", lambda _: True)


def _numbers(source: random.Random, low: int, high: int, of: Callable[[datetime], int]) -> Field:
    kind = source.randrange(5)
    a, b = sorted(source.sample(range(low, high + 1), 2))
    step = source.choice([2, 5, 7, 15, 30]) if high == 59 else source.choice([2, 3, 6])
    if kind == 0:
        return _any()
    if kind == 1:
        return Field(f"*/{step}", lambda at: of(at) % step == 0)
    if kind == 2:
        return Field(f"{a},{b}", lambda at: of(at) in (a, b))
    if kind == 3:
        return Field(f"{a}-{b}/{step}", lambda at: a <= of(at) <= b and (of(at) - a) % step == 0)
    one = source.choice([0, 1, 2, 3, 30, high]) if high == 59 else source.choice([0, 1, 2, 3, high])
    return Field(str(one), lambda at: of(at) == one)


def _month(source: random.Random) -> Field:
    first, last = sorted(source.sample(range(1, 13), 2))
    names = [name.upper() for name in calendar.month_abbr]
    a, b = source.choice([(str(first), str(last)), (names[first], names[last])])
    kind = source.randrange(3)
    if kind == 0:
        return Field(f"{a}-{b}", lambda at: first <= at.month <= last)
    if kind == 1:
        return Field(f"{a},{b}", lambda at: at.month in (first, last))
    return Field(a, lambda at: at.month == first)


def _any_day(source: random.Random) -> Days:
    return _any(), _any(), lambda _: True


def _of_month(source: random.Random) -> Field:
    if source.random() < 0.3:
        return Field("L", lambda at: (at + timedelta(days=1)).month != at.month)
    first, last = sorted(source.sample(range(1, 32), 2))
    kind, step = source.randrange(4), source.choice([2, 3, 7])
    if kind == 0:
        return Field(f"{first}-{last}", lambda at: first <= at.day <= last)
    if kind == 1:
        return Field(f"{first}-{last}/{step}", lambda at: at.day in range(first, last + 1, step))
    if kind == 2:
        return Field(f"{first},{last}", lambda at: at.day in (first, last))
    return Field(str(first), lambda at: at.day == first)


def _of_week(source: random.Random) -> Field:
    names = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
    (first, last), nth = sorted(source.sample(range(7), 2)), source.randint(1, 5)
    a, b = source.choice([(str(first), str(last)), (names[first], names[last])])
    kind = source.randrange(4)
    if kind == 0:
        return Field(f"{a}#{nth}", lambda at: _week_day(at) == first and (at.day + 6) // 7 == nth)
    if kind == 1:
        return Field(f"{a}-{b}", lambda at: first <= _week_day(at) <= last)
    if kind == 2:
        return Field(f"{a},{b}", lambda at: _week_day(at) in (first, last))
    return Field("7" if a == "0" else a, lambda at: _week_day(at) == first)


def _week_day(at: datetime) -> int:
    return (at.weekday() + 1) % 7


def _day_of_month(source: random.Random) -> Days:
    day = _of_month(source)
    return day, _any(), day.holds


def _day_of_week(source: random.Random) -> Days:
    day = _of_week(source)
    return _any(), day, day.holds


def _either_day(source: random.Random) -> Days:
    """Where both are said, one is enough."""
    month, week = _of_month(source), _of_week(source)
    return month, week, lambda at: month.holds(at) or week.holds(at)
