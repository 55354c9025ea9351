"""The rate of the last minute."""

from __future__ import annotations

import pytest

from jobpipe.engine.rates import Rate
from jobpipe.runtime.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(monotonic=5_000.25)


@pytest.fixture
def rate(clock: ManualClock) -> Rate:
    return Rate(clock.monotonic)


def test_nothing_happened_at_first(rate: Rate) -> None:
    assert rate.per_second() == 0


def test_in_the_first_second_it_is_what_happened(rate: Rate) -> None:
    rate.add(7)
    assert rate.per_second() == 7


def test_before_a_minute_it_is_the_mean_since_the_start(rate: Rate, clock: ManualClock) -> None:
    rate.add(30)
    clock.advance(10)
    assert rate.per_second() == pytest.approx(3)


def test_a_steady_flow_has_its_rate(rate: Rate, clock: ManualClock) -> None:
    for _ in range(300):
        rate.add(5)
        clock.advance(1)
    assert rate.per_second() == pytest.approx(5, rel=0.05)


def test_what_is_older_than_a_minute_is_forgotten(rate: Rate, clock: ManualClock) -> None:
    rate.add(600)
    clock.advance(59)
    assert rate.per_second() == pytest.approx(600 / 59)
    clock.advance(2)
    assert rate.per_second() == 0


@pytest.mark.parametrize("seconds", [60, 61, 120, 10_000_000])
def test_a_long_silence_forgets_everything_at_once(rate: Rate, clock: ManualClock, seconds: float) -> None:
    for _ in range(60):
        rate.add()
        clock.advance(1)
    clock.advance(seconds)
    assert rate.per_second() == 0
    rate.add(60)
    assert rate.per_second() == pytest.approx(1)


def test_a_bucket_is_used_again_for_a_later_minute(rate: Rate, clock: ManualClock) -> None:
    rate.add(60)
    clock.advance(60)
    rate.add(120)
    assert rate.per_second() == pytest.approx(2)
