"""When workers count as swift enough to claim ahead of them, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from jobpipe.core.task import Claim
from jobpipe.work.ahead import SWIFT_S, Ahead


class Loop:
    """An event loop's time, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


async def nothing(limit: int) -> Sequence[Claim]:
    return ()


def swift(loop: Loop, workers: int = 4) -> Ahead:
    ahead = Ahead(nothing, workers)
    for _ in range(2):
        loop.now += SWIFT_S / 2
        ahead.ended(workers)
    return ahead


def test_nothing_is_known_of_workers_before_they_were_all_through_a_run_twice(loop: Loop) -> None:
    ahead = Ahead(nothing, 4)
    assert ahead.room == 0
    ahead.ended(4)  # nobody knows when the first runs began
    assert ahead.room == 0
    loop.now += SWIFT_S / 2
    ahead.ended(3)
    assert ahead.room == 0
    ahead.ended(1)
    assert ahead.room == 4


def test_runs_that_take_too_long_end_it(loop: Loop) -> None:
    ahead = swift(loop)
    loop.now += SWIFT_S * 1.5
    ahead.ended(4)
    assert ahead.room == 0


def test_it_must_be_proved_again_and_again(loop: Loop) -> None:
    """Workers that were swift before a quiet hour are not known to be after it."""
    ahead = swift(loop)
    loop.now += SWIFT_S * 1.5
    assert ahead.room == 0


def test_a_stop_holds_until_the_workers_have_proved_swift_again(loop: Loop) -> None:
    ahead = swift(loop)
    ahead.stop()
    assert ahead.room == 0
    ahead.ended(3)
    assert ahead.room == 0
    loop.now += SWIFT_S / 2
    ahead.ended(1)
    assert ahead.room == 4


def test_a_pool_that_cannot_ask_for_what_is_due_now_claims_nothing_ahead(loop: Loop) -> None:
    ahead = Ahead(None, 4)
    ahead.ended(4)
    ahead.ended(4)
    assert ahead.room == 0
