"""Times on the wire."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobpipe.wire import format_time, parse_time
from jobpipe.wire.times import read_time

YEAR_1 = -62_135_596_800_000
YEAR_9999_END = 253_402_300_799_999
moments = st.integers(YEAR_1, YEAR_9999_END)


@given(moments)
def test_a_time_written_is_read_as_itself(ms: int) -> None:
    text = json.loads(format_time(ms))
    assert parse_time(text) == read_time(text) == ms
    assert len(text) == 24


@pytest.mark.parametrize(
    "text",
    ["1970-01-01T01:00:00.000+01:00", "1970-01-01T00:00:01Z", "1970-01-01T00:00:00.12345Z",
     "1970-01-01T00:00:00.12+00:00"],
)  # fmt: skip
def test_a_time_in_another_form_is_read_quickly_or_not_but_right(text: str) -> None:
    assert read_time(text) == parse_time(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "1970-13-01T00:00:00.000Z",
        *(f"1970-01-01T00:00:00.{ms}Z" for ms in ("xyz", "+12", "-12", "1_2", " 12")),
    ],
)
def test_what_is_no_time_is_refused_by_the_quick_way_too(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_time(text)


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)), st.integers(-1439, 1439))
def test_offsets_are_taken_off(local: datetime, minutes: int) -> None:
    moment = local.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    exact = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert parse_time(moment.isoformat()) == exact


@pytest.mark.parametrize(
    ("text", "down", "up"),
    [
        ("1970-01-01T00:00:00.0015Z", 1, 2),
        ("1970-01-01T00:00:00.0010000Z", 1, 1),
        ("1970-01-01T00:00:00.999999Z", 999, 1000),
        ("1970-01-01T00:00:00.5Z", 500, 500),
    ],
)
def test_finer_digits_are_cut_off_or_rounded_up(text: str, down: int, up: int) -> None:
    assert (parse_time(text), parse_time(text, up=True)) == (down, up)


def test_remembered_seconds_stay_few() -> None:
    from jobpipe.wire import times

    for second in range(times._REMEMBERED + 10):
        format_time(second * 1000)
    assert len(times._seconds) <= times._REMEMBERED
