"""Which times of a schedule are made, made up for, or missed."""

from __future__ import annotations

import time
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobpipe.core.schedules import (
    COUNTED,
    LATE_MS,
    CatchUp,
    Due,
    Timing,
    due,
    next_time,
    put_off_ms,
    task_id,
    times_after,
)

T = 1_800_000_000_000 - 1_800_000_000_000 % 3_600_000
SECOND, MINUTE = 1000, 60_000
EACH_SECOND, EACH_MINUTE = Timing(every=1), Timing(cron="* * * * *")


def test_what_is_at_most_a_minute_late_is_made() -> None:
    assert due(EACH_SECOND, T, T + 5 * SECOND).times == tuple(T + n * SECOND for n in range(1, 6))
    assert len(due(EACH_SECOND, T, T + LATE_MS).times) == 60


def test_of_older_ones_the_newest_is_made_up_for_only_where_none_is_due() -> None:
    hourly = Timing(cron="0 * * * *")
    now = T + 10 * 3_600_000 + 30 * MINUTE
    assert due(hourly, T, now) == Due((T + 10 * 3_600_000,), 9, T + 10 * 3_600_000)
    assert due(hourly, T, T + 10 * 3_600_000 + SECOND) == Due((T + 10 * 3_600_000,), 9, T + 10 * 3_600_000)


def test_without_catching_up_older_ones_are_missed() -> None:
    hourly = Timing(cron="0 * * * *", catch_up=CatchUp.NONE)
    now = T + 10 * 3_600_000 + 30 * MINUTE
    assert due(hourly, T, now) == Due((), 10, T + 10 * 3_600_000)


def test_nothing_is_due_before_the_next_time_nor_after_a_jump_back() -> None:
    assert due(EACH_MINUTE, T, T + 59 * SECOND) == Due((), 0, T)
    assert due(EACH_MINUTE, T, T - 86_400_000) == Due((), 0, T)


@given(
    st.integers(1, 400), st.lists(st.integers(-200, 400), min_size=1, max_size=40), st.sampled_from(CatchUp)
)
def test_each_time_is_dealt_with_once(every: int, steps: list[int], catch_up: CatchUp) -> None:
    timing = Timing(every=every, catch_up=catch_up)
    position = now = furthest = T
    made: list[int] = []
    missed = 0
    for step in steps:
        now += step * SECOND
        furthest = max(furthest, now)
        answer = due(timing, position, now)
        assert answer.position >= position
        made += answer.times
        missed += answer.missed
        position = answer.position
    passed = [at for at in islice(times_after(timing, T), 20_000) if at <= furthest]
    assert made == sorted(set(made))
    assert set(made) <= set(passed)
    assert len(made) + missed == len(passed)


def test_times_stay_between_start_and_end() -> None:
    timing = Timing(every=10, starts=T + 3 * SECOND, ends=T + 23 * SECOND)
    assert list(times_after(timing, T)) == [T + n * SECOND for n in (3, 13, 23)]
    assert next_time(timing, T + 23 * SECOND) is None
    assert next_time(Timing(every=60), T + 1) == T + MINUTE


@pytest.mark.parametrize("timing", [EACH_SECOND, EACH_MINUTE])
def test_years_of_missed_times_cost_little(timing: Timing) -> None:
    now = T + 5 * 365 * 86_400_000 + 500
    began = time.process_time()
    answer = due(timing, T, now)
    assert time.process_time() - began < 1.0
    assert answer.missed >= COUNTED - 1
    newest = now - LATE_MS - 500 if timing is EACH_SECOND else None
    assert answer.position > now - 2 * MINUTE
    assert newest is None or answer.times[0] >= newest


def test_the_task_of_a_time_is_named_by_it_and_put_off_alike_everywhere() -> None:
    id_ = task_id("nightly", 1_796_002_200_000)
    assert id_ == "nightly@2026-11-30T01:30:00Z"
    assert put_off_ms(id_, 0) == 0
    assert put_off_ms(id_, 30) == put_off_ms(id_, 30) <= 30_000
    assert len({put_off_ms(task_id("n", T + n * MINUTE), 30) for n in range(100)}) > 90
