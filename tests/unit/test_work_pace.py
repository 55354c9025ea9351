"""How many tasks may wait ahead of the workers: as many as lately ended within a moment, and for a moment only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from test_work_pool import Bench, claim

from jobpipe.core.lifecycle import Outcome
from jobpipe.core.task import Claim
from jobpipe.storage.sqlite import unwritten
from jobpipe.work import ahead
from jobpipe.work.ahead import MOST, Ahead
from jobpipe.work.executor import Executor
from jobpipe.work.run import Run

AHEAD_S, PATIENCE_S, FRESH_S, COOL_S = 1.0, 3.0, 4.0, 20.0
"""In the proportions of the real ones, but whole seconds: sums of them are exact."""


class Loop:
    """What claiming ahead sees of the event loop: a time that is moved by hand, and what is due then is called."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, Callable[..., object], tuple[object, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> None:
        self._timers.append((self.now + delay, callback, args))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self._timers if timer[0] <= self.now]
        self._timers = [timer for timer in self._timers if timer[0] > self.now]
        for _, callback, args in due:
            callback(*args)

    def show(self, ahead: Ahead, most: int) -> None:
        """Let `ahead` see runs end at such a pace that `most` may wait."""
        ahead.ended(0)
        self.advance(AHEAD_S)
        ahead.ended(most)
        assert ahead.most == most


def hand_moved(monkeypatch: pytest.MonkeyPatch) -> Loop:
    """From now on claiming ahead depends on no real time."""
    loop = Loop()
    monkeypatch.setattr(ahead, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    for name in ("AHEAD_S", "PATIENCE_S", "FRESH_S", "COOL_S"):
        monkeypatch.setattr(ahead, name, globals()[name])
    return loop


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return hand_moved(monkeypatch)


class Server:
    """Gives what the test puts in, and notes how many were asked for."""

    def __init__(self, *claims: Claim) -> None:
        self.claims = claims
        self.asked: list[int] = []

    async def claim_now(self, limit: int) -> Sequence[Claim]:
        self.asked.append(limit)
        return self.claims


def paced(loop: Loop, most: int, server: Server | None = None) -> Ahead:
    """With a pace at which `most` may wait."""
    made = Ahead((server or Server()).claim_now)
    loop.show(made, most)
    return made


# --- measuring ---


def test_no_pace_is_known_before_runs_ended_for_a_while(loop: Loop) -> None:
    ahead = Ahead(Server().claim_now)
    assert (ahead.most, ahead.room) == (0, 0)
    ahead.ended(100)  # nobody knows since when
    assert ahead.most == 0
    loop.advance(AHEAD_S / 2)
    ahead.ended(4)
    assert ahead.most == 0
    loop.advance(AHEAD_S / 2)
    ahead.ended(2)
    assert (ahead.most, ahead.room) == (6, 6)


def test_as_many_may_wait_as_ended_in_so_much_time_lately(loop: Loop) -> None:
    ahead = paced(loop, 6)
    for seconds, ends, most in ((1.0, 50, 50), (1.0, 3, 3), (2.0, 14, 7), (4.0, 11, 2)):
        loop.advance(seconds)
        ahead.ended(ends)
        assert ahead.most == most


def test_a_pace_holds_while_the_next_is_measured(loop: Loop) -> None:
    ahead = paced(loop, 6)
    loop.advance(AHEAD_S * 0.75)
    ahead.ended(1)
    assert ahead.most == 6


def test_runs_that_end_too_seldom_let_none_wait(loop: Loop) -> None:
    ahead = paced(loop, 6)
    loop.advance(AHEAD_S * 2)
    ahead.ended(1)
    assert (ahead.most, ahead.room) == (0, 0)


def test_however_high_the_pace_there_is_a_bound(loop: Loop) -> None:
    ahead = paced(loop, MOST - 1)
    loop.advance(AHEAD_S)
    ahead.ended(MOST * 5)
    assert (ahead.most, ahead.room) == (MOST, MOST)


# --- forgetting ---


def test_a_pace_is_known_for_a_moment_only(loop: Loop) -> None:
    """Workers that were swift before a quiet hour are not known to be after it."""
    ahead = paced(loop, 6)
    loop.advance(FRESH_S)
    assert (ahead.most, ahead.room) == (6, 6)
    loop.advance(0.25)
    assert (ahead.most, ahead.room) == (0, 0)


@pytest.mark.parametrize("late", [1, 100])
def test_a_pause_does_not_count_into_the_pace_nor_does_what_ends_it(loop: Loop, late: int) -> None:
    ahead = paced(loop, 6)
    loop.advance(AHEAD_S / 2)
    ahead.ended(40)
    loop.advance(FRESH_S * 10)
    ahead.ended(late)
    assert ahead.most == 0
    loop.advance(AHEAD_S)
    ahead.ended(5)
    assert ahead.most == 5


def test_a_stop_holds_until_a_pace_is_measured_anew(loop: Loop) -> None:
    ahead = paced(loop, 6)
    loop.advance(AHEAD_S / 2)
    ahead.ended(40)
    ahead.stop()
    assert (ahead.most, ahead.room) == (0, 0)
    loop.advance(AHEAD_S / 2)
    ahead.ended(3)
    assert ahead.most == 0
    loop.advance(AHEAD_S / 2)
    ahead.ended(1)
    assert ahead.most == 4


# --- claiming ---


async def test_a_claim_that_brings_something_lets_the_next_follow(loop: Loop) -> None:
    server = Server(claim("a"), claim("b"))
    ahead = paced(loop, 6, server)
    assert [claim.task.id for claim in await ahead.claim(5)] == ["a", "b"]
    assert (server.asked, ahead.most) == ([5], 6)


async def test_a_claim_that_finds_nothing_stops_it(loop: Loop) -> None:
    ahead = paced(loop, 6)
    assert await ahead.claim(5) == ()
    assert ahead.most == 0


def test_a_pool_that_cannot_ask_for_what_is_due_now_claims_nothing_ahead(loop: Loop) -> None:
    ahead = Ahead(None)
    ahead.ended(0)
    loop.advance(AHEAD_S)
    ahead.ended(6)
    assert (ahead.most, ahead.room) == (0, 0)


# --- waiting ---


class Pool:
    """What a run tells its pool when it is given back."""

    leaving = False

    def __init__(self, ahead: Ahead) -> None:
        self.ahead = ahead
        self.given_back: list[str] = []
        self._executor = Executor(Bench().app)

    def runs(self, *ids: str) -> list[Run]:
        return [self._executor.prepare(claim(id), self) for id in ids]

    def on_outcome(self, run: Run, outcome: Outcome) -> None:
        self.given_back.append(run.claim.task.id)

    def on_end(self, run: Run) -> None:
        self.ahead.drop(run)

    def on_overstay(self, run: Run) -> bool:
        raise AssertionError


@pytest.mark.parametrize(
    ("most", "waiting", "room"),
    [(4, 0, 4), (4, 2, 2), (4, 3, 0), (4, 4, 0), (5, 2, 3), (5, 3, 0), (1, 0, 1), (1, 1, 0), (2, 9, 0)],
)
def test_there_is_room_again_once_half_of_what_may_wait_has_begun(
    loop: Loop, most: int, waiting: int, room: int
) -> None:
    ahead = paced(loop, most)
    ahead.put(Pool(ahead).runs(*(f"t{n}" for n in range(waiting))))
    assert ahead.room == room


def test_what_waits_is_taken_in_the_order_of_its_claim(loop: Loop) -> None:
    ahead = paced(loop, 6)
    pool = Pool(ahead)
    ahead.put(pool.runs("a", "b"))
    ahead.put(pool.runs("c"))
    assert [[run.claim.task.id for run in ahead.take(most)] for most in (-1, 0, 1, 9, 9)] == [
        [],
        [],
        ["a"],
        ["b", "c"],
        [],
    ]


def test_each_waits_for_its_own_time_and_is_then_given_back_which_is_a_stop(loop: Loop) -> None:
    ahead = paced(loop, 6)
    pool = Pool(ahead)
    ahead.put(pool.runs("a", "b"))
    loop.advance(PATIENCE_S / 2)
    ahead.put(pool.runs("c"))
    ahead.take(1)
    assert (pool.given_back, ahead.most) == ([], 6)
    loop.advance(PATIENCE_S / 2)
    assert (pool.given_back, len(ahead), ahead.most) == (["b"], 1, 0)
    loop.advance(PATIENCE_S / 2)
    assert (pool.given_back, len(ahead)) == (["b", "c"], 0)


def test_when_all_that_waited_has_begun_in_time_nothing_stops(loop: Loop) -> None:
    ahead = paced(loop, 6)
    pool = Pool(ahead)
    ahead.put(pool.runs("a", "b"))
    ahead.take(2)
    loop.advance(PATIENCE_S)
    assert (pool.given_back, ahead.most) == ([], 6)


def test_what_waits_is_given_back_before_its_claim_is_stored() -> None:
    assert ahead.PATIENCE_S < unwritten.KEEP_S


def test_what_waits_at_a_steady_pace_begins_before_it_is_given_back() -> None:
    assert ahead.AHEAD_S < ahead.PATIENCE_S
