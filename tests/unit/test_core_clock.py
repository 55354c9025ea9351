"""The clock that tests move stands still between moves; the real one never goes back."""

from __future__ import annotations

import time

from jobpipe.runtime.clock import ManualClock, SystemClock


def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(now=5_000, monotonic=7.0)
    assert (clock.now(), clock.monotonic()) == (5_000, 7.0)
    clock.advance(1.5)
    assert (clock.now(), clock.monotonic()) == (6_500, 8.5)


def test_a_jump_moves_the_wall_and_no_time_passes() -> None:
    clock = ManualClock(now=86_400_000, monotonic=7.0)
    clock.jump(-86_400)
    assert (clock.now(), clock.monotonic()) == (0, 7.0)


def test_the_system_clock_gives_wall_milliseconds_and_monotonic_seconds() -> None:
    clock = SystemClock()
    assert abs(clock.now() - time.time() * 1000) < 1000
    before = clock.monotonic()
    assert clock.monotonic() >= before
