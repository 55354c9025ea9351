"""The history of the charts: what is counted, when it is kept, and that nothing of it is lost or counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from jobpipe.core.errors import StorageError
from jobpipe.core.lifecycle import Kind, Outcome, Policy
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import Claim, NewTask
from jobpipe.engine.charts import SLICES, ErrorGroup, Point, errors, series
from jobpipe.engine.history import AGAIN_S, KEPT_MINUTES, MINUTE_MS, STEP, History
from jobpipe.engine.minutes import MOST_GROUPS, Minute
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Report
from jobpipe.runtime.clock import ManualClock
from jobpipe.server.parts import Parts
from jobpipe.settings.server import Settings
from jobpipe.storage import open_storage
from jobpipe.storage.base import Summary, TaskFilter
from jobpipe.storage.contract import Storage

START = 1_700_000_040_000
"""The beginning of a minute."""
POLICY = Policy(retry=RetryPolicy(base=1.0, jitter=0.0))


class Store:
    """A storage whose keeping of summaries is counted, and fails when told to."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self.kept: list[Summary] = []
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def keep_summary(self, summary: Summary, forget_before: int) -> None:
        if self.away:
            raise StorageError("away")
        self.kept.append(summary)
        await self._inner.keep_summary(summary, forget_before)


class Bench:
    """A queue on a clock that stands at the beginning of a minute, and the few verbs of these tests."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.store = Store(open_storage("memory:", capacity=10_000, clock=self.clock))
        self.queue = self.another_server()

    def another_server(self) -> TaskQueue:
        return TaskQueue(self.store, policy=POLICY, clock=self.clock, random=lambda: 0.0)  # type: ignore[arg-type]

    @property
    def history(self) -> History:
        return self.queue.history

    @property
    def minute(self) -> int:
        return self.clock.now() // MINUTE_MS

    async def accept(self, *ids: str, **fields: Any) -> None:
        await self.queue.enqueue([NewTask(id=id, handler=fields.get("handler", "h")) for id in ids])

    async def start(self, id: str, **fields: Any) -> Claim:
        await self.accept(id, **fields)
        (claim,) = await self.queue.claim("w", 1)
        return claim

    async def end(self, claim: Claim, kind: Kind = Kind.DONE, **outcome: Any) -> None:
        await self.queue.settle([Report(claim.task.id, claim.lease_id, Outcome(kind, **outcome))])

    async def fail(
        self, id: str, message: str = "no", *, handler: str = "h", type: str = "ValueError"
    ) -> None:
        claim = await self.start(id, handler=handler)
        await self.end(claim, Kind.FAILED, error_type=type, message=message, retryable=False)

    async def turn(self, minutes: int = 1) -> None:
        """Let minutes pass and have what is over kept, as the alarm does."""
        self.clock.advance(60 * minutes)
        await self.history.run_once(self.clock.now())

    async def points(self, back: int = 60, ahead: int = 1) -> list[Point]:
        found = series(self.history, self.minute - back, self.minute + ahead)
        return [point async for points in found for point in points]

    async def errors(self, back: int = 60, limit: int = 100) -> list[ErrorGroup]:
        return await errors(self.history, self.minute - back, self.minute + 1, limit)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.queue.open()
    yield bench
    await bench.queue.close()


# --- what is counted ------------------------------------------------------------------------------------------------


async def test_a_minute_counts_what_entered_what_ended_and_how(bench: Bench) -> None:
    await bench.end(await bench.start("done"))
    await bench.fail("failed")
    await bench.end(await bench.start("retried"), Kind.FAILED, retry_in=600.0)
    await bench.end(await bench.start("slow"), Kind.TIMED_OUT, retry_in=600.0)
    await bench.end(await bench.start("lost"), Kind.LOST)
    (again,) = await bench.queue.claim("w", 1)
    await bench.end(again, Kind.RELEASED)
    await bench.accept("waiting")
    await bench.queue.cancel(["waiting", "lost"])
    (point,) = await bench.points()
    assert (point.at, point.enqueued, point.done, point.failed) == (START, 6, 1, 1)
    assert (point.cancelled, point.retried, point.rescued, point.queued) == (2, 3, 1, 2)


async def test_cancelling_a_running_task_counts_once_when_it_ends(bench: Bench) -> None:
    claim = await bench.start("a")
    await bench.queue.cancel(["a"])
    assert [point.cancelled for point in await bench.points()] == [0]
    await bench.end(claim, Kind.FAILED, message="because it was told to")
    (point,) = await bench.points()
    assert (point.cancelled, point.failed, point.retried) == (1, 0, 0)
    assert await bench.errors() == []


async def test_queueing_again_by_hand_is_a_retry(bench: Bench) -> None:
    await bench.fail("a")
    await bench.queue.retry(["a"])
    (point,) = await bench.points()
    assert (point.enqueued, point.retried, point.queued) == (1, 1, 1)


async def test_waits_count_from_when_a_task_was_due_and_runs_from_their_start(bench: Bench) -> None:
    later = START + 10_000
    await bench.queue.enqueue(
        [NewTask(id="now", handler="h"), NewTask(id="later", handler="h", run_at=later)]
    )
    bench.clock.advance(10.5)
    claims = await bench.queue.claim("w", 2)
    bench.clock.advance(3)
    for claim in claims:
        await bench.end(claim)
    (point,) = await bench.points()
    low, high, _ = point.waits
    assert low is not None
    assert high is not None
    assert 0.2 < low <= 0.5
    assert 10 < high <= 20
    assert all(run is not None and 2 < run <= 5 for run in point.runs)


async def test_where_nothing_began_or_ended_there_is_no_percentile(bench: Bench) -> None:
    await bench.accept("a")
    (point,) = await bench.points()
    assert list(point.waits) == list(point.runs) == [None] * 3


# --- when it is kept ------------------------------------------------------------------------------------------------


async def test_an_idle_server_writes_nothing_and_sets_no_alarm(bench: Bench) -> None:
    alarms: list[float] = []
    bench.history.on_begin = alarms.append
    assert await bench.history.run_once(bench.clock.now()) is None
    await bench.turn(5)
    await bench.history.close()
    assert (bench.store.kept, alarms) == ([], [])


async def test_the_first_event_of_a_minute_sets_the_alarm_for_its_end_and_no_other_does(bench: Bench) -> None:
    alarms: list[float] = []
    bench.history.on_begin = alarms.append
    bench.clock.advance(20)
    await bench.end(await bench.start("a"))
    await bench.accept("b")
    assert alarms == [pytest.approx(40, abs=0.1)]
    left = await bench.history.run_once(bench.clock.now())
    assert left == pytest.approx(40, abs=0.1), "the minute is not over: nothing is kept yet"
    assert bench.store.kept == []


async def test_a_minute_is_written_once_when_it_is_over(bench: Bench) -> None:
    await bench.end(await bench.start("a"))
    await bench.turn()
    await bench.turn()
    assert [summary.minute for summary in bench.store.kept] == [START // MINUTE_MS]
    (point,) = await bench.points()
    assert (point.at, point.done) == (START, 1)


async def test_minutes_without_an_event_are_left_out(bench: Bench) -> None:
    await bench.accept("a")
    await bench.turn(3)
    await bench.accept("b")
    assert [point.at for point in await bench.points()] == [START, START + 3 * MINUTE_MS]


async def test_the_running_minute_is_shown_and_never_counted_twice(bench: Bench) -> None:
    await bench.accept("a")
    assert [point.enqueued for point in await bench.points()] == [1]
    await bench.accept("b")
    assert [point.enqueued for point in await bench.points()] == [2]
    await bench.turn()
    await bench.accept("c")
    assert [point.enqueued for point in await bench.points()] == [2, 1]


async def test_a_minute_that_is_kept_while_somebody_reads_is_neither_missed_nor_counted_twice(
    bench: Bench,
) -> None:
    await bench.accept("a")
    early = bench.history.minutes(bench.minute - STEP - 5, bench.minute + 5)
    first = await anext(early)  # its look into memory is taken; the store is read step by step
    bench.clock.advance(60)
    await bench.history.run_once(bench.clock.now())
    rest = [minute async for minutes in early for minute in minutes]
    assert [minute.enqueued for minute in [*first, *rest]] == [1]


async def test_a_store_that_is_away_loses_no_minute(bench: Bench) -> None:
    bench.store.away = True
    for id in ("a", "b"):
        await bench.accept(id)
        bench.clock.advance(60)
        assert await bench.history.run_once(bench.clock.now()) == AGAIN_S
    assert [point.enqueued for point in await bench.points()] == [1, 1]
    bench.store.away = False
    await bench.history.run_once(bench.clock.now())
    assert [point.enqueued for point in await bench.points()] == [1, 1]
    assert len(bench.store.kept) == 2


async def test_a_store_that_is_away_at_the_end_does_not_hold_the_close(bench: Bench) -> None:
    await bench.accept("a")
    bench.store.away = True
    await bench.history.close()
    await bench.history.close()


async def test_a_restart_within_a_minute_keeps_both_parts_of_it(bench: Bench) -> None:
    await bench.end(await bench.start("a"))
    await bench.history.close()
    bench.queue = bench.another_server()
    await bench.fail("b")
    (point,) = await bench.points()
    assert (point.enqueued, point.done, point.failed) == (2, 1, 1)
    await bench.history.close()
    assert [(point.enqueued, point.done, point.failed) for point in await bench.points()] == [(2, 1, 1)]


async def test_the_minutes_of_several_servers_add_up(bench: Bench) -> None:
    one, two = bench.queue, bench.another_server()
    for queue in (one, two):
        bench.queue = queue
        await bench.fail(f"f{id(queue)}", "user 1 not found")
        await bench.turn(0)
    bench.clock.advance(60)
    await two.history.run_once(bench.clock.now())
    assert [(point.enqueued, point.failed) for point in await bench.points()] == [(1, 1)], "two's own"
    await one.history.run_once(bench.clock.now())
    assert [(point.enqueued, point.failed) for point in await bench.points()] == [(2, 2)]
    assert [group.count for group in await bench.errors()] == [2]


async def test_a_clock_that_is_set_back_overwrites_nothing_that_was_kept(bench: Bench) -> None:
    await bench.accept("a")
    await bench.turn()
    await bench.accept("b")
    bench.clock.jump(-60)
    await bench.accept("c")
    await bench.history.close()
    assert [point.enqueued for point in await bench.points(ahead=2)] == [2, 1]


async def test_minutes_are_kept_for_seven_days(bench: Bench) -> None:
    await bench.accept("a")
    await bench.turn(KEPT_MINUTES)
    assert len(await bench.points(KEPT_MINUTES + 5)) == 1
    await bench.accept("b")
    await bench.turn()
    assert [point.at for point in await bench.points(KEPT_MINUTES + 5)] == [START + KEPT_MINUTES * MINUTE_MS]
    first = START // MINUTE_MS
    await bench.accept("c")
    await bench.turn()
    assert first not in [summary.minute for summary in await bench.store.summaries(0, first + 10)]


async def test_a_summary_of_another_version_is_read_as_far_as_it_is_known(bench: Bench) -> None:
    await bench.store.keep_summary(Summary(bench.minute, "newer", b'{"done":2,"dreamt":[1]}'), 0)
    await bench.store.keep_summary(Summary(bench.minute, "odd", b'{"done":"many"}'), 0)
    await bench.store.keep_summary(Summary(bench.minute - 1, "odd", b"not JSON"), 0)
    (point,) = await bench.points()
    assert (point.done, point.enqueued) == (2, 0)


# --- errors ---------------------------------------------------------------------------------------------------------


async def test_errors_of_one_shape_are_one_group_over_minutes(bench: Bench) -> None:
    await bench.fail("a", "user 1 not found")
    await bench.turn(2)
    seen = bench.clock.now()
    await bench.fail("b", "user 22 not found")
    bench.clock.advance(1)
    await bench.fail("c", "disk full", handler="disk", type="OSError")
    disk, user = await bench.errors()
    assert (disk.handler, disk.type, disk.message, disk.count) == ("disk", "OSError", "disk full", 1)
    assert (user.handler, user.type, user.message, user.count) == ("h", "ValueError", "user <n> not found", 2)
    assert (user.first_seen, user.last_seen, user.example_id) == (START, seen, "b")
    assert len(user.trend) == SLICES
    assert sum(user.trend) == 2
    assert user.trend[-1] == 1


async def test_every_unsuccessful_run_counts_as_an_error_retried_or_not(bench: Bench) -> None:
    await bench.end(await bench.start("a"), Kind.FAILED, error_type="E", message="m", retry_in=0.0)
    (claim,) = await bench.queue.claim("w", 1)
    await bench.end(claim, Kind.FAILED, error_type="E", message="m", retryable=False)
    await bench.end(await bench.start("b"), Kind.RELEASED)
    assert [group.count for group in await bench.errors()] == [2]


async def test_the_group_is_the_one_by_which_its_tasks_are_found(bench: Bench) -> None:
    await bench.fail("a", "user 1 not found")
    await bench.fail("b", "disk full")
    for group in await bench.errors():
        found = await bench.queue.match(TaskFilter(error_group=group.group), 5)
        assert found.ids == [group.example_id]


async def test_a_trend_divides_the_window_into_equal_slices_the_oldest_first(bench: Bench) -> None:
    await bench.fail("a")
    bench.clock.advance(60 * (2 * SLICES - 1))
    await bench.fail("b")
    (group,) = await bench.errors(back=2 * SLICES - 1)
    assert list(group.trend) == [1] + [0] * (SLICES - 2) + [1]


async def test_the_last_seen_come_first_up_to_the_limit(bench: Bench) -> None:
    for letter in "abcde":
        await bench.fail(letter, f"the {letter} is gone")
        bench.clock.advance(1)
    assert [group.example_id for group in await bench.errors(limit=2)] == ["e", "d"]


async def test_a_flood_of_different_errors_is_bounded_and_still_counted_as_failures(bench: Bench) -> None:
    words = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqr"]
    assert len(words) > MOST_GROUPS
    for word in words:
        await bench.fail(word, f"{word} is gone", type="T" * 8000)
    (point,) = await bench.points()
    assert point.failed == len(words)
    assert len(await bench.errors()) == MOST_GROUPS
    await bench.turn()
    assert len(bench.store.kept[0].data) < MOST_GROUPS * 400


def test_what_is_kept_of_a_minute_is_small() -> None:
    assert Minute(1).encoded() == b"{}"


async def test_a_week_of_minutes_is_read_some_at_a_time(bench: Bench) -> None:
    for back in range(0, 3 * STEP, 40):
        await bench.store.keep_summary(Summary(bench.minute - back, "s", b'{"done":1}'), 0)
    steps: list[Sequence[Minute]] = [
        minutes async for minutes in bench.history.minutes(bench.minute - 3 * STEP, bench.minute + 1)
    ]
    assert sum(len(minutes) for minutes in steps) == 9
    assert all(len(minutes) <= STEP for minutes in steps)
    assert len(steps) == 4


async def test_a_server_keeps_a_minute_at_its_turn_and_the_running_one_at_its_stop() -> None:
    clock = ManualClock(START + MINUTE_MS - 20)
    parts = Parts(Settings(store="memory:", pool=False), None, clock)
    await parts.prepare()
    await parts.open()
    parts.start()
    kept: asyncio.Queue[int] = asyncio.Queue()
    keep = parts.queue.history._storage.keep_summary

    async def noted(summary: Summary, forget_before: int) -> None:
        await keep(summary, forget_before)
        kept.put_nowait(summary.minute)

    parts.queue.history._storage.keep_summary = noted  # type: ignore[method-assign]
    await parts.queue.enqueue([NewTask(id="a", handler="h")])
    clock.advance(0.02)
    assert await asyncio.wait_for(kept.get(), 5) == START // MINUTE_MS
    await parts.queue.enqueue([NewTask(id="b", handler="h")])
    await parts.drain(0)
    await parts.close()
    assert kept.get_nowait() == START // MINUTE_MS + 1
