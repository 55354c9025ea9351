"""Schedules: stored rules that make tasks at times, and which of the times that came are made, made up for, or missed.

A schedule's `position` is the time up to which all is dealt with; it only rises, so that a clock that jumps back makes
nothing twice. Whoever deals with times writes the new position and the tasks in one commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from itertools import islice, takewhile

from msgspec import Struct

from jobpipe.core.cron import Cron, stamp

LATE_MS = 60_000
"""A time that is at most so late is made; an older one is missed."""
COUNTED = 10_000
"""Missed times are counted up to here at a time: a cron of each minute that rested for years would take seconds."""

CALENDAR_ENDS = 253_402_300_799_000
"""The last second of the year 9999 (ms): no time beyond can be written down."""


class CatchUp(StrEnum):
    """What becomes of missed times: the newest is made up for, or none."""

    LATEST = "latest"
    NONE = "none"


class Overlap(StrEnum):
    """What becomes of a time while the task before is not finished."""

    ALLOW = "allow"
    SKIP = "skip"


class Timing(Struct, frozen=True):
    """When a schedule comes: `cron` in `timezone`, or `every` so many seconds, counted from `starts`, else the epoch.

    Times before `starts` and after `ends` (ms) do not come. `jitter` (seconds) bounds by how much a task is put off.
    """

    cron: str | None = None
    every: int | None = None
    timezone: str = "UTC"
    starts: int | None = None
    ends: int | None = None
    catch_up: CatchUp = CatchUp.LATEST
    overlap: Overlap = Overlap.ALLOW
    jitter: float = 0.0


class Due(Struct, frozen=True):
    """What to do at a moment: make a task for each of `times`, count `missed`, and move on to `position`."""

    times: tuple[int, ...]
    missed: int
    position: int


def times_after(timing: Timing, after: int) -> Iterator[int]:
    """The times of a schedule after `after`, in order (ms). Raises BadCron for an expression that cannot be read."""
    begin = after if timing.starts is None else max(after, timing.starts - 1)
    if timing.every is None:
        times = _cron(timing.cron or "", timing.timezone).times(begin)
    else:
        times = _steps(timing.every * 1000, timing.starts or 0, begin)
    ends = timing.ends
    return times if ends is None else takewhile(lambda at: at <= ends, times)


def next_time(timing: Timing, after: int) -> int | None:
    """The first time after `after`; None when none comes any more."""
    return next(times_after(timing, after), None)


def due(timing: Timing, position: int, now: int) -> Due:
    """What the times after `position` and up to `now` ask for."""
    late = now - LATE_MS
    missed, newest = _missed(timing, position, late) if position < late - 1 else (0, None)
    times = tuple(takewhile(lambda at: at <= now, times_after(timing, max(position, late - 1))))
    if not times and newest is not None and timing.catch_up is CatchUp.LATEST:
        return Due((newest,), missed - 1, max(position, newest))
    return Due(times, missed, max(position, newest or 0, *times[-1:]))


def in_words(timing: Timing) -> str:
    """When it comes, read back in English, without its zone. Raises BadCron for what cannot be read."""
    if timing.every is None:
        return _cron(timing.cron or "", timing.timezone).in_words()
    size, unit = next((size, unit) for size, unit in _UNITS if timing.every % size == 0)
    count = timing.every // size
    return f"Every {unit}" if count == 1 else f"Every {count} {unit}s"


def task_id(name: str, at: int) -> str:
    """The id of the task that a schedule makes for a time: it names its origin, and only names it."""
    return f"{name}@{stamp(at)}"


def put_off_ms(id: str, jitter: float) -> int:
    """By how much the task with this id is put off: the same on every server."""
    return int.from_bytes(sha256(id.encode()).digest()[:8]) % (round(jitter * 1000) + 1)


_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_cron = lru_cache(1024)(Cron)
"""Most schedules of a store have few expressions, each asked at every time."""


def _steps(step: int, origin: int, after: int) -> Iterator[int]:
    yield from range(origin + ((after - origin) // step + 1) * step, CALENDAR_ENDS + 1, step)


def _missed(timing: Timing, position: int, before: int) -> tuple[int, int | None]:
    """How many times after `position` lie before `before`, counted to COUNTED, and the last of them."""
    old = list(islice(takewhile(lambda at: at < before, times_after(timing, position)), COUNTED))
    if len(old) < COUNTED:
        return len(old), old[-1] if old else None
    back, newest = LATE_MS, old[-1]
    while before - back > old[-1]:
        if near := list(takewhile(lambda at: at < before, times_after(timing, before - back - 1))):
            newest = near[-1]
            break
        back *= 2
    return COUNTED, newest
