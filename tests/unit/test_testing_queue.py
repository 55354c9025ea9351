"""The queue for tests of handlers keeps what it promises to them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobpipe import App, Context, Fail, Retry, RetryPolicy
from jobpipe.core.errors import NotFound
from jobpipe.core.unique import UniqueRules
from jobpipe.runtime.clock import ManualClock
from jobpipe.testing import TasksFailed, TestQueue
from jobpipe.work.lifespan import LifespanFailed

app = App()
flaky_runs: list[float] = []


@app.handler
async def add(a: int, b: int) -> int:
    return a + b


@app.handler
def double(n: int) -> int:
    return 2 * n


@app.handler(max_retries=3)
async def flaky(ctx: Context, failures: int) -> int:
    if ctx.attempt <= failures:
        raise RuntimeError("not yet")
    return ctx.attempt


@app.handler
async def hopeless(ctx: Context) -> None:
    raise Fail("cannot be done")


@app.handler
async def forever() -> None:
    await forever.options(delay=60).enqueue()


async def test_drain_runs_what_was_enqueued_through_real_json() -> None:
    async with TestQueue(app) as queue:
        task = await add.enqueue(a=1, b=2)
        assert queue.task(task.id).status == "queued"
        assert await queue.drain() == 1
        assert queue.task(task.id).result == 3
        assert queue.task(task.id).status == "done"


def test_it_works_without_asyncio() -> None:
    with TestQueue(app) as queue:
        first, second = add.enqueue_sync(1, 2), double.enqueue_sync(4)
        assert queue.drain_sync() == 2
        assert [queue.task(task.id).result for task in (first, second)] == [3, 8]
        third = double.options(delay=5).enqueue_sync(1)
        assert queue.advance_sync(4) == 0
        assert queue.advance_sync(1) == 1
        assert queue.task(third.id).result == 2


async def test_drain_moves_the_clock_through_retries_and_delays() -> None:
    async with TestQueue(app) as queue:
        task = await flaky.enqueue(failures=2)
        later = await add.options(delay=7200).enqueue(1, 1)
        started = queue.clock.now()
        assert await queue.drain() == 4
        assert (queue.task(task.id).result, queue.task(task.id).failures) == (3, 2)
        assert queue.task(later.id).result == 2
        assert queue.clock.now() == started + 7_200_000


async def test_drain_until_runs_only_what_is_due_by_then() -> None:
    async with TestQueue(app) as queue:
        soon = await add.options(delay=60).enqueue(1, 1)
        late = await add.options(delay=61).enqueue(1, 1)
        until = datetime.fromtimestamp(queue.clock.now() / 1000, UTC) + timedelta(seconds=60)
        assert await queue.drain(until=until) == 1
        assert queue.task(soon.id).status == "done"
        assert queue.task(late.id).status == "queued"
        assert queue.clock.now() == round(until.timestamp() * 1000)


async def test_advance_zero_runs_what_is_due_now_and_moves_nothing() -> None:
    async with TestQueue(app) as queue:
        task = await flaky.enqueue(failures=1)
        now = queue.clock.now()
        assert await queue.advance() == 1
        assert queue.task(task.id).status == "queued"
        assert queue.clock.now() == now
        queue.clock.advance(3600)
        assert await queue.advance() == 1
        assert queue.task(task.id).result == 2


async def test_a_task_that_enqueues_itself_can_be_followed_for_a_day() -> None:
    async with TestQueue(app) as queue:
        await forever.enqueue()
        assert await queue.advance(86_400) == 1441
        with pytest.raises(AssertionError, match="5 tasks ran, and more are queued"):
            await queue.drain(limit=5)


async def test_retries_come_at_the_same_times_in_every_run() -> None:
    async def times(seed: int) -> list[int]:
        seen: list[int] = []
        async with TestQueue(app, clock=ManualClock(), seed=seed) as queue:
            task = await flaky.enqueue(failures=3)
            while not queue.task(task.id).finished:
                await queue.advance()
                seen.append(round(queue.task(task.id).run_at.timestamp() * 1000))
                queue.clock.advance(10)
        return seen

    assert await times(1) == await times(1)
    assert await times(1) != await times(2)


async def test_raise_failures_shows_each_failed_task_with_its_traceback() -> None:
    async with TestQueue(app, retry=RetryPolicy(base=0, jitter=0)) as queue:
        await add.enqueue(1, 2)
        queue.raise_failures()
        bad = await hopeless.enqueue()
        queue.enqueue("add", {"a": "x", "b": 1})
        queue.enqueue("missing", max_retries=0)
        await queue.drain()
        with pytest.raises(TasksFailed) as failed:
            queue.raise_failures()
    said = str(failed.value)
    assert said.startswith("3 failed\n")
    assert f"task {bad.id} (hopeless), attempt 1: Fail" in said
    assert "in hopeless" in said
    assert "invalid_payload" in said
    assert "no handler 'missing'" in said


async def test_tasks_are_listed_in_their_order_and_by_what_they_are() -> None:
    async with TestQueue(app) as queue:
        first = await add.enqueue(1, 2)
        second = await double.options(queue="slow").enqueue(1)
        third = await hopeless.enqueue()
        await queue.drain()
        assert [t.id for t in queue.tasks()] == [first.id, second.id, third.id]
        assert [t.id for t in queue.tasks(status="failed")] == [third.id]
        assert [t.id for t in queue.tasks(queue="slow", handler="double")] == [second.id]
        with pytest.raises(ValueError, match="nonsense"):
            queue.tasks(status="nonsense")
        with pytest.raises(NotFound):
            queue.task("unknown")


async def test_higher_priority_runs_first() -> None:
    app, seen = App(), list[int]()

    @app.handler
    async def note(n: int) -> None:
        seen.append(n)

    async with TestQueue(app) as queue:
        await note.enqueue(1)
        await note.options(priority=5).enqueue(2)
        await queue.drain()
    assert seen == [2, 1]


async def test_tasks_can_be_cancelled_and_retried() -> None:
    async with TestQueue(app) as queue:
        task = await add.enqueue(1, 2)
        assert queue.cancel(task.id).status == "cancelled"
        assert await queue.drain() == 0
        assert queue.retry(task.id).status == "queued"
        await queue.drain()
        assert queue.task(task.id).result == 3


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_running_handler_learns_of_a_cancel(is_async: bool) -> None:
    app = App()

    async def of_the_loop(ctx: Context) -> None:
        queue.cancel(ctx.id)
        await asyncio.Event().wait()

    def of_a_thread(ctx: Context) -> None:
        queue.cancel(ctx.id)
        while not ctx.cancelled:
            pass
        raise RuntimeError("stopped")

    app.handler("h")(of_the_loop if is_async else of_a_thread)
    async with TestQueue(app) as queue:
        task = queue.enqueue("h")
        await queue.drain()
        assert queue.task(task.id).status == "cancelled"


async def test_handlers_run_on_the_loop_of_the_test() -> None:
    app, seen = App(), list[Any]()

    @app.handler
    async def where() -> None:
        seen.append(asyncio.get_running_loop())

    async with TestQueue(app) as queue:
        await where.enqueue()
        await queue.drain()
    assert seen == [asyncio.get_running_loop()]


def _life(seen: list[str]) -> App[str]:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        async with asyncio.TaskGroup():  # belongs to one asyncio.Task, like many things in lifespans
            seen.append("begin")
            yield "real"
            seen.append("end")

    app = App(lifespan=lifespan)

    @app.handler
    async def read(ctx: Context[str]) -> str:
        return ctx.deps

    return app


def test_the_lifespan_surrounds_a_test_without_asyncio_as_well() -> None:
    seen: list[str] = []
    with TestQueue(_life(seen)) as queue:
        task = queue.enqueue("read")
        queue.drain_sync()
        queue.drain_sync()
        assert queue.task(task.id).result == "real"
        assert seen == ["begin"]
    assert seen == ["begin", "end"]


async def test_deps_take_the_place_of_the_lifespan() -> None:
    seen: list[str] = []
    async with TestQueue(_life(seen), deps="fake") as queue:
        task = queue.enqueue("read")
        await queue.drain()
        assert queue.task(task.id).result == "fake"
    assert seen == []


async def test_a_lifespan_that_cannot_begin_fails_the_test_and_leaves_nothing_behind() -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    app, before = App(lifespan=lifespan), set(threading.enumerate())
    with pytest.raises(LifespanFailed, match="no database"):
        async with TestQueue(app):
            pytest.fail("it began")
    assert not _left_behind(before)


async def test_retries_of_a_handlers_own_wish_are_waited_for() -> None:
    app = App()

    @app.handler
    async def later(ctx: Context) -> int:
        if ctx.attempt == 1:
            raise Retry(in_=3600)
        return ctx.attempt

    async with TestQueue(app) as queue:
        task = await later.enqueue()
        assert await queue.advance(3599) == 1
        assert await queue.advance(1) == 1
        assert queue.task(task.id).result == 2


def _left_behind(before: set[threading.Thread]) -> list[str]:
    new = set(threading.enumerate()) - before
    for thread in new:
        thread.join(5)  # one that was told to end may need a moment for it
    return [thread.name for thread in new if thread.is_alive()]


async def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    async with TestQueue(app) as queue:
        await double.enqueue(1)
        await queue.drain()
        assert set(threading.enumerate()) - before
    assert not _left_behind(before)


async def test_afterwards_the_app_leads_where_it_led_before() -> None:
    async with TestQueue(app) as outer:
        with TestQueue(app, deps=None) as inner:
            await add.enqueue(1, 2)
            assert (len(inner.tasks()), len(outer.tasks())) == (1, 0)
        await add.enqueue(1, 2)
        assert len(outer.tasks()) == 1


async def test_the_clock_ends_tasks_that_were_not_begun_in_time() -> None:
    async with TestQueue(app) as queue:
        late = await add.options(delay=5, expires=10).enqueue(a=1, b=1)
        assert await queue.drain() == 1
        assert queue.task(late.id).result == 2
        queue.enqueue("nobody", delay=0)
        never = queue.enqueue("add", {"a": 1, "b": 1}, delay=20, expires=30)
        queue.clock.advance(40)  # as if all workers were away
        assert await queue.drain() >= 0
        error = queue.task(never.id).last_error
        assert (queue.task(never.id).status, error and error.type) == ("cancelled", "expired")


async def test_a_unique_task_is_made_once_until_it_ends() -> None:
    async with TestQueue(app) as queue:
        first = await add.options(unique="k").enqueue(a=1, b=1)
        assert (await add.options(unique="k").enqueue(a=2, b=2)).id == first.id
        await queue.drain()
        assert (await add.options(unique="k").enqueue(a=2, b=2)).id != first.id
        rules: UniqueRules = {"key": "soon", "until": "start", "on_conflict": "replace", "within": 60}
        one = await add.options(unique=rules, delay=5).enqueue(a=1, b=1)
        await queue.advance(3)
        assert (await add.options(unique=rules, delay=5).enqueue(a=3, b=3)).id == one.id
        assert await queue.advance(3) == 0
        assert await queue.advance(3) == 1
        assert queue.task(one.id).result == 6
