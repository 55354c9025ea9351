"""TestQueue runs schedules under its own clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from jobpipe import App, Context
from jobpipe.core.errors import Invalid
from jobpipe.runtime.clock import ManualClock
from jobpipe.testing import TestQueue
from jobpipe.work.errors import BadHandler

MIDNIGHT = 1_800_000_000_000 - 1_800_000_000_000 % 86_400_000


async def test_a_day_of_a_schedule_takes_a_moment() -> None:
    app = App()
    seen: list[datetime | None] = []

    @app.handler
    async def report(ctx: Context, n: int) -> None:
        assert n == 1
        assert ctx.schedule == "hourly"
        seen.append(ctx.scheduled_for)

    async with TestQueue(app, clock=ManualClock(now=MIDNIGHT)) as tests:
        tests.put_schedule("hourly", {"handler": "report", "payload": {"n": 1}}, cron="0 * * * *")
        assert await tests.advance(60) == 0
        assert await tests.advance(86_400) == 24
        tests.raise_failures()
        assert len(set(seen)) == 24
        assert seen[0] == datetime.fromtimestamp(MIDNIGHT / 1000 + 3600, UTC)
        assert await tests.drain() == 0  # which has no end to go to
        (first, *_) = tests.tasks(handler="report")
        assert (first.schedule, first.scheduled_for) == ("hourly", seen[0])


async def test_tasks_that_a_run_enqueues_come_between_the_times_of_schedules() -> None:
    app = App()
    ran: list[str] = []

    @app.handler
    async def tick(ctx: Context) -> None:
        ran.append("tick")
        await later.options(delay=90).enqueue()

    @app.handler
    async def later() -> None:
        ran.append("later")

    async with TestQueue(app, clock=ManualClock(now=MIDNIGHT)) as tests:
        tests.put_schedule("s", {"handler": "tick"}, every=60)
        await tests.advance(185)
        assert ran == ["tick", "tick", "later", "tick"]


def test_what_is_not_allowed_is_refused_as_over_http() -> None:
    with TestQueue(App()) as tests, pytest.raises(Invalid) as refused:
        tests.put_schedule("s", {}, cron="0 0 30 2 *")
    assert refused.value.field == "cron"


async def test_what_an_app_declares_runs_at_its_times() -> None:
    app = App()
    ran: list[tuple[str, datetime | None]] = []

    @app.schedule(every=3600, name="hourly", payload={"what": "b"})
    @app.schedule("30 2 * * *", timezone="Europe/Berlin", payload={"what": "a"})
    @app.handler("sub:report", queue="mail", max_retries=0)
    async def report(ctx: Context, what: str) -> None:
        ran.append((what, ctx.scheduled_for))

    async with TestQueue(app, clock=ManualClock(now=MIDNIGHT)) as tests:
        await tests.advance(86_400 - 1)
        tests.raise_failures()
        assert [what for what, _ in ran].count("a") == 1
        assert [what for what, _ in ran].count("b") == 23
        (nightly,) = [task for task in tests.tasks() if task.schedule == "sub-report"]
        assert (nightly.queue, nightly.max_retries, nightly.id[:11]) == ("mail", 0, "sub-report@")


@pytest.mark.parametrize(
    ("cron", "times"),
    [
        ("61 * * * *", {}),
        (None, {}),
        ("* * * * *", {"every": 5}),
        ("* * * * *", {"timezone": "Mars/Base"}),
    ],
)
def test_times_that_cannot_be_stop_the_start(cron: str | None, times: Any) -> None:
    app = App()

    def report() -> None: ...

    with pytest.raises(BadHandler, match="report"):
        app.schedule(cron, **times)(app.handler(report))


def test_a_payload_that_the_handler_would_refuse_and_a_name_given_twice_stop_the_start() -> None:
    app = App()

    @app.schedule("@daily", payload={"n": "x"})
    @app.handler
    def report(n: int) -> None: ...

    with pytest.raises(BadHandler, match="schedule of handler 'report'"):
        app.check()
    with pytest.raises(BadHandler, match="twice"):
        app.schedule("@hourly")(report)
