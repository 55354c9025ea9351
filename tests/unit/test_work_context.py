"""What a handler can know of its run."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from jobpipe.core.task import Status, Task
from jobpipe.runtime.clock import ManualClock
from jobpipe.work.context import Context


def task(id: str = "t1") -> Task:
    return Task(
        seq=1, id=id, handler="h", queue="q", payload=b"null", priority=0, status=Status.RUNNING,
        attempts=2, failures=1, lost=0, max_retries=5, timeout=None, run_at=0, created_at=0,
    )  # fmt: skip


def context(timeout: float | None = None, clock: ManualClock | None = None, id: str = "t1") -> Context:
    clock = clock or ManualClock()
    return Context(task(id), timeout, clock.monotonic(), clock)


def test_a_context_tells_the_tasks_own_fields() -> None:
    ctx = context()
    assert (ctx.id, ctx.handler, ctx.queue, ctx.attempt, ctx.max_retries) == ("t1", "h", "q", 2, 5)


def test_without_a_timeout_there_is_no_deadline() -> None:
    ctx = context()
    assert (ctx.timeout, ctx.remaining, ctx.deadline) == (None, None, None)


def test_the_remaining_time_goes_down_to_zero_and_the_deadline_stays() -> None:
    clock = ManualClock(now=1_000_000)
    ctx = context(timeout=30, clock=clock)
    clock.advance(10)
    assert ctx.remaining == 20
    assert ctx.deadline == datetime.fromtimestamp(1030, UTC)
    clock.advance(100)
    assert ctx.remaining == 0


def test_a_jump_of_the_wall_clock_takes_no_time_from_the_run() -> None:
    clock = ManualClock()
    ctx = context(timeout=30, clock=clock)
    clock.jump(3600)
    assert ctx.remaining == 30


def test_cancelled_tells_that_the_run_should_stop() -> None:
    ctx = context()
    assert not ctx.cancelled
    ctx.stop("cancel")
    assert ctx.cancelled


def test_each_line_of_the_log_has_the_task_and_the_attempt(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ctx = context(id="50%d")
    ctx.log.info("half of %s", "it", extra={"mine": 1})
    ctx.log.warning("100% sure")
    first, second = caplog.records
    assert first.getMessage() == "task 50%d attempt 2: half of it"
    assert second.getMessage() == "task 50%d attempt 2: 100% sure"
    assert first.__dict__.items() >= {"task_id": "50%d", "attempt": 2, "handler": "h", "mine": 1}.items()
    assert first.funcName == "test_each_line_of_the_log_has_the_task_and_the_attempt"
    assert ctx.log is ctx.log
