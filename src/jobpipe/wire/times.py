"""Times on the wire: RFC 3339 in, `2026-11-21T21:09:00.123Z` out; inside, integer milliseconds since the epoch."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH = date(1970, 1, 1).toordinal()
_MILLIS = tuple(b'%03dZ"' % milli for milli in range(1000))
_LENGTH = len("2026-11-21T21:09:00.123Z")
_REMEMBERED = 10_000
_seconds: dict[int, bytes] = {}
_parsed: dict[str, int] = {}


def parse_time(text: str, *, up: bool = False) -> int:
    """Milliseconds of an RFC 3339 time with an offset; finer digits are cut off, or with `up` rounded up.

    Raises ValueError for anything else: no offset, a leap second, `24:00`, a year of five digits, a day that is not.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time with an offset")
    year, month, day, hour, minute, second = (int(part) for part in match.group(1, 2, 3, 4, 5, 6))
    whole = datetime(year, month, day, hour, minute, second)
    fraction = match[7] or ""
    millis = int((fraction + "000")[:3]) + (1 if up and fraction[3:].strip("0") else 0)
    days = whole.toordinal() - _EPOCH
    seconds = days * 86400 + hour * 3600 + minute * 60 + second - _offset(match)
    return seconds * 1000 + millis


def _offset(match: re.Match[str]) -> int:
    """Seconds east of UTC. Computed in integers: year 1 with an offset overflows a datetime."""
    if match[8] is None:
        return 0
    hours, minutes = int(match[9]), int(match[10])
    if hours > 23 or minutes > 59:
        raise ValueError("no such offset")
    return (hours * 3600 + minutes * 60) * (-1 if match[8] == "-" else 1)


def format_time(ms: int) -> bytes:
    """The time as a JSON string, its quotes included. The part down to the second is remembered."""
    second = ms // 1000
    head = _seconds.get(second)
    if head is None:
        head = _remember(second)
    return head + _MILLIS[ms - second * 1000]


def time_text(ms: int) -> str:
    """The time as text, without quotes."""
    return format_time(ms)[1:-1].decode()


def read_time(text: str) -> int:
    """As `parse_time`, for times that are mostly as `format_time` writes them and mostly of the same few seconds."""
    millis = text[20:23]
    if (
        len(text) != _LENGTH
        or text[19] != "."
        or text[23] != "Z"
        or not (millis.isascii() and millis.isdecimal())
    ):
        return parse_time(text)
    start = _parsed.get(text[:20])
    if start is None:
        if len(_parsed) >= _REMEMBERED:
            _parsed.clear()
        start = _parsed[text[:20]] = parse_time(text[:20] + "000Z")
    return start + int(millis)


def _remember(second: int) -> bytes:
    if len(_seconds) >= _REMEMBERED:
        _seconds.clear()
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    head = _seconds[second] = f'"{moment.replace(tzinfo=None).isoformat(timespec="seconds")}.'.encode()
    return head
