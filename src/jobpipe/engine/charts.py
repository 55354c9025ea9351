"""What the dashboard draws, folded out of the minutes: a series of points, and the groups of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from msgspec import Struct

from jobpipe.core.histogram import Histogram
from jobpipe.engine.history import MINUTE_MS, History
from jobpipe.engine.minutes import Failures, Minute

SLICES = 24
MOST_GROUPS = 5000
"""Groups that are held while they are counted: beyond, those that were not seen for the longest time are let go."""


class Point(Struct, frozen=True):
    """A minute: `at` is its beginning in milliseconds, waits and runs are (p50, p95, p99) in seconds, None for none."""

    at: int
    enqueued: int
    done: int
    failed: int
    cancelled: int
    retried: int
    rescued: int
    queued: int
    waits: Sequence[float | None]
    runs: Sequence[float | None]


class ErrorGroup(Struct, frozen=True):
    """Failures of one handler, type and shape of message within a window, which `trend` divides into SLICES.

    Times are milliseconds; `example_id` is the task that failed last.
    """

    group: str
    handler: str
    type: str
    message: str
    count: int
    first_seen: int
    last_seen: int
    example_id: str
    trend: Sequence[int]


async def series(history: History, since: int, until: int) -> AsyncIterator[list[Point]]:
    """The minutes (since the epoch) from `since` to before `until`, some at a time. Raises StorageError."""
    async for minutes in history.minutes(since, until):
        yield [_point(minute) for minute in minutes]


def _point(minute: Minute) -> Point:
    return Point(
        at=minute.minute * MINUTE_MS,
        enqueued=minute.enqueued,
        done=minute.done,
        failed=minute.failed,
        cancelled=minute.cancelled,
        retried=minute.retried,
        rescued=minute.rescued,
        queued=minute.queued,
        waits=_percentiles(minute.waits),
        runs=_percentiles(minute.runs),
    )


def _percentiles(milliseconds: Histogram) -> list[float | None]:
    found = [milliseconds.percentile(share) for share in (0.5, 0.95, 0.99)]
    return [None if value is None else round(value / 1000, 6) for value in found]


async def errors(history: History, since: int, until: int, limit: int) -> list[ErrorGroup]:
    """The groups of errors in the minutes from `since` to before `until`, at most `limit`, the last seen first.

    Raises StorageError.
    """
    tally = _Tally(since, until)
    async for minutes in history.minutes(since, until):
        for minute in minutes:
            tally.add(minute)
    return tally.newest(limit)


class _Tally:
    """Groups of errors, added up minute by minute."""

    def __init__(self, since: int, until: int) -> None:
        self._since = since
        self._length = max(1, until - since)
        self._groups: dict[str, tuple[Failures, list[int]]] = {}

    def add(self, minute: Minute) -> None:
        place = (minute.minute - self._since) * SLICES // self._length
        for group, failures in minute.errors.items():
            known, trend = self._groups.setdefault(group, (failures, [0] * SLICES))
            trend[place] += failures.count
            if known is not failures:
                known.add(failures)
        if len(self._groups) > MOST_GROUPS:
            self._groups = dict(self._sorted()[: MOST_GROUPS // 2])

    def newest(self, limit: int) -> list[ErrorGroup]:
        return [
            ErrorGroup(
                group, known.handler, known.type, known.shape, known.count, known.first, known.last, known.example,
                trend,
            )
            for group, (known, trend) in self._sorted()[:limit]
        ]  # fmt: skip

    def _sorted(self) -> list[tuple[str, tuple[Failures, list[int]]]]:
        return sorted(self._groups.items(), key=lambda item: item[1][0].last, reverse=True)
