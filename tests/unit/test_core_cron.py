"""Cron expressions in time zones, beside a reading that looks at every minute."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from prove.cron_times import cron_times
from prove.proof import Size, Trial

from jobpipe.core.cron import BadCron, Cron

MINUTE = timedelta(minutes=1)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def next_times(expression: str, zone: str, after: str, n: int) -> list[str]:
    return [
        datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).isoformat()
        for at in islice(Cron(expression, zone).times(ms(after)), n)
    ]


def matches(expression: str, wall: datetime) -> bool:
    """Whether a wall-clock minute is one of the expression's, asked of each minute alone."""
    return next(CronSim(expression, wall - timedelta(seconds=1))) == wall


def minute_by_minute(expression: str, zone: str, begin: datetime, minutes: int) -> list[int]:
    """The rules of the documentation, read one real minute after the other."""
    minute, hour = expression.split()[:2]
    fixed = not minute.startswith("*") and not hour.startswith("*")
    tz = ZoneInfo(zone)
    found, seen = [], set()
    walls = [(begin + i * MINUTE).astimezone(tz).replace(tzinfo=None) for i in range(-1, minutes)]
    for i in range(minutes):
        before, wall = walls[i], walls[i + 1]
        passed = [wall]
        if fixed:
            while (gap := passed[0] - MINUTE) > before:
                passed.insert(0, gap)
            passed = [each for each in passed if each not in seen]
            seen.update(passed)
        if any(matches(expression, each.replace(fold=0)) for each in passed):
            found.append(round((begin + i * MINUTE).timestamp() * 1000))
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00+00:00",
            [
                "2026-03-29T03:00:00+02:00",
                "2026-03-30T02:30:00+02:00",
            ],
        ),
        (
            "0,30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00+00:00",
            [
                "2026-03-29T03:00:00+02:00",
                "2026-03-30T02:00:00+02:00",
            ],
        ),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00+00:00",
            [
                "2026-10-25T02:30:00+02:00",
                "2026-10-26T02:30:00+01:00",
            ],
        ),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00+00:00", ["2026-10-26T02:30:00+01:00"]),
        ("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+00:00", ["2026-03-30T02:00:00+02:00"]),
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00+00:00",
            [
                "2026-10-25T02:00:00+02:00",
                "2026-10-25T02:30:00+02:00",
                "2026-10-25T02:00:00+01:00",
                "2026-10-25T02:30:00+01:00",
                "2026-10-26T02:00:00+01:00",
            ],
        ),
        (
            "0 2 * * *",
            "America/New_York",
            "2026-03-07T12:00:00+00:00",
            [
                "2026-03-08T03:00:00-04:00",
                "2026-03-09T02:00:00-04:00",
            ],
        ),
        (
            "15 1 * * *",
            "America/New_York",
            "2026-10-31T12:00:00+00:00",
            [
                "2026-11-01T01:15:00-04:00",
                "2026-11-02T01:15:00-05:00",
            ],
        ),
        (
            "0 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T02:00:00+00:00",
            [
                "2026-10-04T02:30:00+11:00",
                "2026-10-05T02:00:00+11:00",
            ],
        ),
        (
            "*/15 2 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T10:00:00+00:00",
            [
                "2026-04-05T02:00:00+10:30",
                "2026-04-05T02:15:00+10:30",
            ],
        ),
        (
            "*/15 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T13:59:59+00:00",
            [
                "2026-04-05T01:00:00+11:00",
                "2026-04-05T01:15:00+11:00",
                "2026-04-05T01:30:00+11:00",
                "2026-04-05T01:45:00+11:00",
                "2026-04-05T01:30:00+10:30",
                "2026-04-05T01:45:00+10:30",
                "2026-04-06T01:00:00+10:30",
            ],
        ),
        (
            "@daily",
            "America/Santiago",
            "2026-09-05T12:00:00+00:00",
            [
                "2026-09-06T01:00:00-03:00",
                "2026-09-07T00:00:00-03:00",
            ],
        ),
        (
            "0 0 29 2 *",
            "UTC",
            "2026-01-01T00:00:00+00:00",
            ["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"],
        ),
        (
            "@hourly",
            "Europe/Berlin",
            "2026-10-25T00:30:00+00:00",
            [
                "2026-10-25T02:00:00+01:00",
                "2026-10-25T03:00:00+01:00",
            ],
        ),
        ("0 9 * * MON#1", "UTC", "2026-11-30T00:00:00+00:00", ["2026-12-07T09:00:00+00:00"]),
        ("0 9 L * *", "UTC", "2026-11-30T10:00:00+00:00", ["2026-12-31T09:00:00+00:00"]),
    ],
)
def test_a_time_comes_as_documented(expression: str, zone: str, after: str, expected: list[str]) -> None:
    assert next_times(expression, zone, after, len(expected)) == expected


CHANGES = [
    ("Europe/Berlin", "2026-03-28T22:00:00+00:00"),
    ("Europe/Berlin", "2026-10-24T22:00:00+00:00"),
    ("America/New_York", "2026-03-08T04:00:00+00:00"),
    ("America/New_York", "2026-11-01T03:00:00+00:00"),
    ("Australia/Lord_Howe", "2026-10-03T13:00:00+00:00"),
    ("Australia/Lord_Howe", "2026-04-04T13:00:00+00:00"),
    ("America/Santiago", "2026-09-06T02:00:00+00:00"),
    ("Antarctica/Troll", "2026-03-28T23:00:00+00:00"),
    ("Antarctica/Troll", "2026-10-24T23:00:00+00:00"),
    ("Pacific/Apia", "2011-12-30T06:00:00+00:00"),
    ("Asia/Tokyo", "2026-03-28T22:00:00+00:00"),
]


def random_expression(source: random.Random) -> str:
    minute = source.choice(["*", "*/7", "*/30", "0", "30", "0,30", "5-55/10", "59", "1"])
    hour = source.choice(["*", "*/2", "0", "1", "2", "3", "0-5", "1,2,3", "23", "22-23"])
    return f"{minute} {hour} * * *"


@pytest.mark.parametrize(("zone", "begin"), CHANGES)
def test_a_change_of_clocks_beside_a_reading_minute_by_minute(zone: str, begin: str) -> None:
    source = random.Random(f"{zone} {begin}")
    start, minutes = datetime.fromisoformat(begin), 8 * 60
    end = ms(begin) + minutes * 60_000
    for expression in {random_expression(source) for _ in range(12)}:
        times = []
        for at in Cron(expression, zone).times(ms(begin) - 1):
            if at >= end:
                break
            times.append(at)
        assert times == minute_by_minute(expression, zone, start, minutes), expression


def test_the_next_time_does_not_depend_on_where_one_looks_from() -> None:
    for zone, begin in CHANGES:
        for expression in ("*/30 * * * *", "30 1,2 * * *", "*/15 2 * * *", "0 0 * * *"):
            cron = Cron(expression, zone)
            times = list(islice(cron.times(ms(begin)), 12))
            assert [next(cron.times(at - 1)) for at in times] == times
            assert [next(cron.times(at)) for at in times[:-1]] == times[1:]


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ("", "UTC"),
        ("* * * *", "UTC"),
        ("0 * * * * *", "UTC"),
        ("60 * * * *", "UTC"),
        ("@reboot", "UTC"),
        ("0 0 30 2 *", "UTC"),
        ("0 0 * * *", "Mars/Base"),
        ("0 0 * * *", ""),
        ("0 0 * * *", "../../etc/passwd"),
        ("0 0 * * *", "Europe"),
        ("0 0 * * *", "Europe/Berlin\0"),
        ("0 0 * * " + "1," * 200 + "1", "UTC"),
    ],
)
def test_what_cannot_be_used_is_refused(expression: str, zone: str) -> None:
    with pytest.raises(BadCron):
        Cron(expression, zone)


def test_one_that_never_comes_again_ends() -> None:
    assert list(Cron("0 0 * 2 MON#5").times(ms("9990-03-01T00:00:00+00:00"))) == []


def test_an_expression_is_read_back() -> None:
    assert "02:30" in Cron("30 2 * * *").in_words()


def test_random_schedules_come_when_an_independent_reading_says(tmp_path: Path) -> None:
    assert [figure for figure in cron_times(Trial(tmp_path, 7, Size.SHORT)) if not figure.holds] == []
