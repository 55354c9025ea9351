"""Who is woken, in which order, and that no wake is ever lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from jobpipe.core.task import Status, Task
from jobpipe.engine.waiters import ClaimWaiters, FinishWaiters, Waiter
from jobpipe.runtime.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def waiters(clock: ManualClock) -> Iterator[ClaimWaiters]:
    line = ClaimWaiters(clock.now)
    yield line
    line.close()


class Sleeper:
    """A worker that looked, found nothing, and went to sleep."""

    def __init__(self, waiters: ClaimWaiters, *queues: str, next_due: int | None = None) -> None:
        self.waiters = waiters
        self.waiter = waiters.join("w", frozenset(queues) if queues else None)
        self.waiter.look()
        self.sleeping = asyncio.ensure_future(waiters.wait(self.waiter, next_due, None))

    async def asleep(self) -> Sleeper:
        while self.waiter.wake is None and not self.sleeping.done():
            await asyncio.sleep(0)
        return self

    @property
    def woken(self) -> bool:
        """Whether it was woken, at this very moment."""
        return self.sleeping.done() or (self.waiter.wake is not None and self.waiter.wake.done())

    async def go(self) -> None:
        """The worker goes away, woken or not."""
        self.sleeping.cancel()
        await asyncio.wait([self.sleeping])
        self.waiters.leave(self.waiter)


async def crowd(waiters: ClaimWaiters, n: int, *queues: str) -> list[Sleeper]:
    return [await Sleeper(waiters, *queues).asleep() for _ in range(n)]


async def end(sleepers: list[Sleeper]) -> None:
    for sleeper in sleepers:
        await sleeper.go()


def woken(sleepers: list[Sleeper]) -> list[int]:
    return [i for i, sleeper in enumerate(sleepers) if sleeper.woken]


async def test_one_due_task_wakes_the_first_in_line_and_nobody_else(waiters: ClaimWaiters) -> None:
    line = await crowd(waiters, 5)
    waiters.ready("q", 1)
    assert woken(line) == [0]
    waiters.ready("q", 1)
    assert woken(line) == [0, 1]
    await end(line)


async def test_n_due_tasks_wake_the_first_n(waiters: ClaimWaiters) -> None:
    line = await crowd(waiters, 5)
    waiters.ready("q", 3)
    assert woken(line) == [0, 1, 2]
    waiters.ready("q", 100)
    assert woken(line) == [0, 1, 2, 3, 4]
    await end(line)


async def test_only_those_who_take_the_queue_are_woken(waiters: ClaimWaiters) -> None:
    a, b, all_ = [await Sleeper(waiters, *queues).asleep() for queues in (("a",), ("b", "c"), ())]
    waiters.ready("c", 1)
    assert woken([a, b, all_]) == [1]
    waiters.ready("c", 1)
    assert woken([a, b, all_]) == [1, 2]
    waiters.ready("d", 1)
    assert not a.woken
    await end([a, b, all_])


async def test_a_wake_is_true_and_a_timeout_is_false(waiters: ClaimWaiters) -> None:
    (sleeper,) = await crowd(waiters, 1)
    waiters.ready("q", 1)
    assert await sleeper.sleeping is True
    waiter = waiters.join("w", None)
    waiter.look()
    assert await waiters.wait(waiter, None, 0.001) is False
    waiters.leave(waiter)


async def test_a_woken_worker_that_goes_away_passes_its_wake_to_the_next(waiters: ClaimWaiters) -> None:
    line = await crowd(waiters, 3)
    waiters.ready("q", 1)
    await line[0].go()
    assert woken(line[1:]) == [0]
    await line[1].go()
    assert woken(line[2:]) == [0]
    await end(line[2:])


async def test_a_wake_is_passed_only_to_one_who_takes_the_same_queue(waiters: ClaimWaiters) -> None:
    a1, b, a2 = [await Sleeper(waiters, queue).asleep() for queue in "aba"]
    waiters.ready("a", 1)
    await a1.go()
    assert woken([b, a2]) == [1]
    await end([b, a2])


async def test_a_wake_that_is_passed_on_reaches_one_who_can_use_it(waiters: ClaimWaiters) -> None:
    everything, z, x = [await Sleeper(waiters, *queues).asleep() for queues in ((), ("z",), ("x",))]
    waiters.ready("x", 1)
    assert woken([everything, z, x]) == [0]
    await everything.go()
    assert x.woken
    await end([z, x])


async def test_a_worker_that_leaves_unwoken_keeps_the_order_of_the_others(waiters: ClaimWaiters) -> None:
    line = await crowd(waiters, 4)
    waiters.leave(line[1].waiter)
    line[1].sleeping.cancel()
    waiters.ready("q", 2)
    assert woken([line[0], line[2], line[3]]) == [0, 1]
    await end([line[0], line[2], line[3]])


async def test_what_becomes_due_between_the_look_and_the_sleep_is_seen(waiters: ClaimWaiters) -> None:
    waiter = waiters.join("w", None)
    waiter.look()
    waiters.ready("q", 1)
    assert await asyncio.wait_for(waiters.wait(waiter, None, None), 1) is True
    waiters.leave(waiter)


async def test_a_look_that_missed_something_and_found_its_fill_passes_it_on(waiters: ClaimWaiters) -> None:
    waiter = waiters.join("w", None)
    (sleeper,) = await crowd(waiters, 1)
    waiter.look()
    waiters.ready("q", 1)  # it is looking: it may or may not have seen it
    waiters.leave(waiter)
    assert sleeper.woken
    await end([sleeper])


async def test_a_new_look_forgets_what_the_one_before_missed(waiters: ClaimWaiters) -> None:
    waiter = waiters.join("w", None)
    waiter.look()
    waiters.ready("q", 1)
    waiter.look()
    assert await waiters.wait(waiter, None, 0.001) is False
    waiters.leave(waiter)


async def test_passing_on_wakes_one_more(waiters: ClaimWaiters) -> None:
    line = await crowd(waiters, 3, "a")
    waiters.pass_on(frozenset({"b"}))
    assert woken(line) == []
    waiters.pass_on(frozenset({"a", "b"}))
    assert woken(line) == [0]
    waiters.pass_on(None)
    assert woken(line) == [0, 1]
    await end(line)


async def test_waking_all_reaches_also_those_who_look(waiters: ClaimWaiters) -> None:
    line = await crowd(waiters, 3)
    looking = waiters.join("w", None)
    looking.look()
    waiters.wake_all()
    assert woken(line) == [0, 1, 2]
    assert await asyncio.wait_for(waiters.wait(looking, None, None), 1) is True
    waiters.leave(looking)
    await end(line)


# --- the due timer ---


async def test_the_timer_wakes_the_first_in_line_when_a_future_task_is_due(
    waiters: ClaimWaiters, clock: ManualClock
) -> None:
    line = await crowd(waiters, 3)
    waiters.later("q", clock.now() + 5)
    clock.advance(0.005)
    assert await asyncio.wait_for(line[0].sleeping, 1) is True
    await end(line)


async def test_the_timer_takes_what_a_look_said_about_the_tasks_left(
    waiters: ClaimWaiters, clock: ManualClock
) -> None:
    sleeper = await Sleeper(waiters, next_due=clock.now() + 5).asleep()
    clock.advance(0.005)
    assert await asyncio.wait_for(sleeper.sleeping, 1) is True
    await end([sleeper])


async def test_an_earlier_task_moves_the_timer_forward(waiters: ClaimWaiters, clock: ManualClock) -> None:
    sleeper = await Sleeper(waiters, next_due=clock.now() + 3_600_000).asleep()
    waiters.later("q", clock.now() + 5)
    clock.advance(0.005)
    assert await asyncio.wait_for(sleeper.sleeping, 1) is True
    await end([sleeper])


async def test_a_timer_that_comes_too_early_sleeps_again(waiters: ClaimWaiters, clock: ManualClock) -> None:
    sleeper = await Sleeper(waiters, "q", next_due=clock.now() + 2).asleep()
    other = waiters.join("w", frozenset({"other"}))
    other.look()
    assert await waiters.wait(other, None, 0.02) is False  # real time passes, the clock's does not
    waiters.leave(other)
    assert not sleeper.woken
    clock.advance(0.002)
    assert await asyncio.wait_for(sleeper.sleeping, 1) is True
    await end([sleeper])


async def test_a_task_of_the_future_wakes_nobody_who_does_not_take_its_queue(
    waiters: ClaimWaiters, clock: ManualClock
) -> None:
    a, b = [await Sleeper(waiters, queue).asleep() for queue in "ab"]
    waiters.later("b", clock.now() + 5)
    clock.advance(0.005)
    assert await asyncio.wait_for(b.sleeping, 1) is True
    assert not a.woken
    await end([a, b])


async def test_a_task_due_later_that_comes_during_a_look_is_not_slept_over(
    waiters: ClaimWaiters, clock: ManualClock
) -> None:
    waiter = waiters.join("w", None)
    waiter.look()
    waiters.later("q", clock.now() + 5)  # the look, begun before, saw nothing
    clock.advance(0.005)
    assert await asyncio.wait_for(waiters.wait(waiter, None, None), 1) is True
    waiters.leave(waiter)


@pytest.mark.parametrize("ago_ms", [0, 1, 3_600_000])
async def test_what_fell_due_while_the_answer_was_under_way_is_not_slept_over(
    waiters: ClaimWaiters, clock: ManualClock, ago_ms: int
) -> None:
    sleeper = await Sleeper(waiters, next_due=clock.now() - ago_ms).asleep()
    assert await asyncio.wait_for(sleeper.sleeping, 1) is True
    await end([sleeper])


async def test_everybody_whose_task_is_due_is_woken_in_the_end(
    waiters: ClaimWaiters, clock: ManualClock
) -> None:
    line = [await Sleeper(waiters, queue, next_due=clock.now() + 3).asleep() for queue in "abc"]
    clock.advance(0.003)
    await asyncio.wait_for(asyncio.gather(*(sleeper.sleeping for sleeper in line)), 1)
    await end(line)


async def test_the_timer_looks_again_after_a_minute_whatever_the_wall_clock_does(
    waiters: ClaimWaiters, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    delays: list[float] = []
    call_later = loop.call_later

    def noted(delay: float, *rest: object) -> asyncio.TimerHandle:
        delays.append(delay)
        return call_later(delay, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_later", noted)
    sleeper = await Sleeper(waiters, next_due=clock.now() + 10**9).asleep()
    assert delays == [60.0]
    await end([sleeper])


async def test_a_closed_line_has_no_timer_left(waiters: ClaimWaiters, clock: ManualClock) -> None:
    sleeper = await Sleeper(waiters, next_due=clock.now() + 5).asleep()
    waiters.close()
    waiters.close()
    clock.advance(1)
    other = waiters.join("w", frozenset({"other"}))
    other.look()
    assert await waiters.wait(other, None, 0.02) is False
    assert not sleeper.woken
    waiters.leave(other)
    await end([sleeper])


def test_who_covers_whom() -> None:
    everything, a, ab = Waiter("w", None), Waiter("w", frozenset("a")), Waiter("w", frozenset("ab"))
    assert everything.covers(a)
    assert everything.covers(everything)
    assert ab.covers(a)
    assert not a.covers(ab)
    assert not ab.covers(everything)


# --- those who wait for an end ---


def finished(id: str) -> Task:
    return Task(1, id, "h", "q", b"null", 0, Status.DONE, 1, 0, 0, 3, None, 0, 0)


async def test_all_who_wait_for_a_task_are_told_and_nobody_else() -> None:
    waiters = FinishWaiters()
    first, second, other = waiters.join("a"), waiters.join("a"), waiters.join("b")
    waiters.finished(finished("a"))
    assert (await first, await second) == (finished("a"), finished("a"))
    assert not other.done()
    assert "a" not in waiters
    assert "b" in waiters


async def test_leaving_forgets_one_and_keeps_the_others() -> None:
    waiters = FinishWaiters()
    first, second = waiters.join("a"), waiters.join("a")
    waiters.leave("a", first)
    assert "a" in waiters
    waiters.leave("a", second)
    assert "a" not in waiters
    waiters.leave("a", second)
    waiters.finished(finished("a"))
    assert not first.done()


async def test_one_who_went_away_without_leaving_harms_nobody() -> None:
    waiters = FinishWaiters()
    gone, staying = waiters.join("a"), waiters.join("a")
    gone.cancel()
    waiters.finished(finished("a"))
    assert await staying == finished("a")
    waiters.leave("a", gone)


async def test_giving_up_answers_everybody_with_nothing() -> None:
    waiters = FinishWaiters()
    futures = [waiters.join(id_) for id_ in "aab"]
    waiters.give_up()
    assert [await future for future in futures] == [None, None, None]
    waiters.give_up()
