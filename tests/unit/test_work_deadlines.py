"""Every run is told when its time is up, at that time and once, by one timer for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, Status, Task
from jobpipe.work.app import App
from jobpipe.work.deadlines import Deadlines
from jobpipe.work.executor import Executor
from jobpipe.work.run import Run


class Timer:
    """What `call_at` gives."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop's time, moved by hand; `early` is how much too soon its timers ring."""

    def __init__(self) -> None:
        self.now = 100.0
        self.early = 0.0
        self.made: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        self.made.append(Timer(when, callback))
        return self.made[-1]

    @property
    def armed(self) -> list[float]:
        return [timer.when for timer in self.made if not timer.cancelled]

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [t for t in self.made if not t.cancelled and t.when - self.early <= end]:
            timer = min(due, key=lambda t: t.when)
            self.now = max(self.now, timer.when - self.early)
            self.early = 0.0
            timer.cancelled = True
            timer.callback()
        self.now = end


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


class Bench:
    """Deadlines, and the names and times of those that were told."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.deadlines = Deadlines()
        self.told: list[tuple[str, float]] = []

    def add(self, name: str, timeout: float) -> Timed:
        run = Timed(self, name, timeout)
        self.deadlines.add(run)
        return run


class Timed:
    def __init__(self, bench: Bench, name: str, timeout: float) -> None:
        self.bench = bench
        self.name = name
        self.timeout = timeout

    def time_out(self) -> None:
        self.bench.told.append((self.name, self.bench.loop.now - 100))


@pytest.fixture
def bench(loop: Loop) -> Bench:
    return Bench(loop)


def test_a_run_is_told_at_its_time_not_before_and_once(bench: Bench, loop: Loop) -> None:
    bench.add("a", 2.0)
    loop.advance(1.75)
    assert bench.told == []
    loop.advance(10)
    assert bench.told == [("a", 2.0)]
    assert loop.armed == []


def test_each_is_told_at_its_own_time_whatever_the_lengths(bench: Bench, loop: Loop) -> None:
    bench.add("long", 9.0)
    bench.add("short", 3.0)
    loop.advance(1)
    bench.add("short later", 3.0)
    bench.add("shortest", 1.0)
    loop.advance(20)
    assert bench.told == [("shortest", 2.0), ("short", 3.0), ("short later", 4.0), ("long", 9.0)]


def test_all_of_one_moment_are_told_then_in_the_order_of_their_beginnings(bench: Bench, loop: Loop) -> None:
    for name in "abc":
        bench.add(name, 2.0)
    loop.advance(2)
    assert bench.told == [("a", 2.0), ("b", 2.0), ("c", 2.0)]


def test_one_that_was_removed_is_never_told(bench: Bench, loop: Loop) -> None:
    first, last = bench.add("first", 2.0), bench.add("last", 2.0)
    bench.add("between", 2.0)
    alone = bench.add("alone", 1.0)
    for run in (first, last, alone):
        bench.deadlines.remove(run)
    loop.advance(10)
    assert bench.told == [("between", 2.0)]


def test_removing_one_that_was_told_or_never_added_is_harmless(bench: Bench, loop: Loop) -> None:
    run = bench.add("a", 2.0)
    loop.advance(2)
    bench.deadlines.remove(run)
    bench.deadlines.remove(Timed(bench, "never", float("inf")))
    assert bench.told == [("a", 2.0)]


def test_a_timer_that_finds_nobody_rings_again_for_the_next(bench: Bench, loop: Loop) -> None:
    ended = bench.add("ended", 2.0)
    loop.advance(1)
    bench.add("next", 2.0)
    bench.deadlines.remove(ended)
    loop.advance(1.5)
    assert (bench.told, loop.armed) == ([], [103.0])
    loop.advance(10)
    assert bench.told == [("next", 3.0)]


def test_a_timer_that_found_nobody_left_is_set_again_by_the_next_run(bench: Bench, loop: Loop) -> None:
    bench.deadlines.remove(bench.add("ended", 2.0))
    loop.advance(5)
    bench.add("next", 2.0)
    loop.advance(5)
    assert bench.told == [("next", 7.0)]


def test_a_timer_that_rings_a_little_early_tells_nobody_too_soon(bench: Bench, loop: Loop) -> None:
    """A loop's clock is finer than its timers."""
    loop.early = 0.001
    bench.add("a", 2.0)
    loop.advance(5)
    assert bench.told == [("a", 2.0)]


def test_one_timer_serves_all_and_moves_for_an_earlier_deadline_alone(bench: Bench, loop: Loop) -> None:
    for n in range(64):
        bench.add(f"r{n}", 60.0)
        loop.advance(1 / 64)
    bench.add("later", 90.0)
    assert len(loop.made) == 1
    bench.add("earlier", 5.0)
    assert loop.armed == [106.0]
    loop.advance(5)
    assert bench.told == [("earlier", 6.0)]
    assert loop.armed == [160.0]


def test_one_that_is_told_may_remove_and_add_others(bench: Bench, loop: Loop) -> None:
    class Chained(Timed):
        def time_out(self) -> None:
            super().time_out()
            bench.deadlines.remove(self)
            bench.add("follower", 1.0)

    bench.deadlines.add(Chained(bench, "chained", 2.0))
    loop.advance(10)
    assert bench.told == [("chained", 2.0), ("follower", 3.0)]


def test_nobody_is_told_after_the_close_and_no_timer_stays(bench: Bench, loop: Loop) -> None:
    run = bench.add("a", 2.0)
    bench.deadlines.close()
    bench.deadlines.close()
    bench.deadlines.remove(run)
    assert loop.armed == []
    loop.advance(10)
    assert bench.told == []


# --- through an executor ---


def claim(id: str, timeout: float | None) -> Claim:
    task = Task(
        seq=1, id=id, handler="wait", queue="default", payload=b"null", priority=0, status=Status.RUNNING,
        attempts=1, failures=0, lost=0, max_retries=3, timeout=timeout, run_at=0, created_at=0,
    )  # fmt: skip
    return Claim(task, f"lease-{id}")


class Watch:
    """Notes outcomes in their order, and how many runs ended."""

    leaving = False

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, Kind]] = []
        self.ended = asyncio.Semaphore(0)

    def on_outcome(self, run: Run, outcome: Outcome) -> None:
        self.outcomes.append((run.claim.task.id, outcome.kind))

    def on_end(self, run: Run) -> None:
        self.ended.release()

    def on_overstay(self, run: Run) -> bool:
        raise AssertionError


async def test_an_executors_runs_time_out_each_at_its_own_time() -> None:
    app, watch, gate = App(), Watch(), asyncio.Event()

    @app.handler("wait")
    async def wait() -> None:
        await gate.wait()

    executor = Executor(app, timeout=float("inf"), cleanup=10)
    times = {"long": 60.0, "short": 0.5, "unbounded": None, "shorter": 0.01}
    for run in [executor.prepare(claim(id, timeout), watch) for id, timeout in times.items()]:
        run.begin()
    await watch.ended.acquire()
    await watch.ended.acquire()
    assert watch.outcomes == [("shorter", Kind.TIMED_OUT), ("short", Kind.TIMED_OUT)]
    gate.set()
    await watch.ended.acquire()
    await watch.ended.acquire()
    assert watch.outcomes[2:] == [("long", Kind.DONE), ("unbounded", Kind.DONE)]
    executor.close()
