"""Flow as Python programs have it: keys of handlers, what an app says of queues, Snooze and Throttled, TestQueue."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobpipe import App, InvalidPayload, Snooze, Throttled
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.rates import parse_rate
from jobpipe.core.rules import Said
from jobpipe.settings.server import BadSetting
from jobpipe.settings.sources import Sources
from jobpipe.testing import TestQueue
from jobpipe.work.errors import BadHandler
from jobpipe.work.outcomes import raised


def test_a_handler_keys_its_tasks_by_a_parameter_or_a_function() -> None:
    app = App()

    @app.handler(key="tenant")
    def bill(tenant: str, amount: int = 0) -> None: ...

    @app.handler(key=lambda to, **_: to.split("@")[1])
    def send(to: str, subject: str = "") -> None: ...

    with TestQueue(app) as queue:
        bill.enqueue_sync("ann", amount=3)
        send.enqueue_sync(to="ann@example.org")
        send.options(key="mine").enqueue_sync(to="ann@example.org")
        assert [task.key for task in queue.tasks()] == ["ann", "example.org", "mine"]
        with pytest.raises(InvalidPayload, match="no key"):
            send.enqueue_sync(to="nobody")


def test_a_key_that_no_parameter_gives_stops_the_start() -> None:
    with pytest.raises(BadHandler, match="key"):

        @App().handler(key="tennant")
        def bill(tenant: str) -> None: ...


def test_snoozed_and_throttled_runs_are_given_back() -> None:
    def backoff() -> None:
        raise AssertionError("not asked")

    assert raised(Snooze(in_=30), backoff) == Outcome(Kind.RELEASED, retry_in=30)
    assert raised(Throttled(in_=30), backoff) == Outcome(Kind.RELEASED, retry_in=30, hold="key")
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="given back"):
            Snooze(in_=wrong)


async def test_a_throttled_run_costs_nothing_and_holds_its_key_under_the_test_clock() -> None:
    app, ran = App(), []

    @app.handler(key="tenant")
    async def call(tenant: str, n: int) -> None:
        ran.append((tenant, n))
        if len(ran) == 1:
            raise Throttled(in_=60)

    async with TestQueue(app) as queue:
        for n in range(2):
            await call.enqueue("a", n)
            await call.enqueue("b", n)
        began = queue.clock.now()
        await queue.advance(1)
        assert ran == [("a", 0), ("b", 0), ("b", 1)]
        await queue.drain()
        assert sorted(ran[3:]) == [("a", 0), ("a", 1)]
        assert 60_000 <= queue.clock.now() - began < 61_000
        assert {task.attempts for task in queue.tasks()} == {1}


async def test_a_test_queue_obeys_what_the_app_says_under_its_clock() -> None:
    app = App("shop", release=3)
    app.queue("mail", rate="1/s")

    @app.handler(queue="mail")
    async def send() -> None: ...

    async with TestQueue(app) as queue:
        for _ in range(5):
            await send.enqueue()
        began = queue.clock.now()
        assert await queue.drain() == 5
        assert 4_000 <= queue.clock.now() - began <= 4_010
        queue.rule("mail", paused=True)
        await send.enqueue()
        assert await queue.drain() == 0
        queue.resume("mail")
        assert await queue.drain() == 1


def test_an_app_says_of_a_queue_once() -> None:
    app = App()
    app.queue("mail", concurrency=5)
    with pytest.raises(ValueError, match="twice"):
        app.queue("mail", fair=True)


def test_rules_stand_in_tables_of_the_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / "jobpipe.toml").write_text('workers = 2\n[rules.mail]\nconcurrency = 5\nrate = "100/m"\n')
    sources = Sources(tmp_path)
    assert sources._toml() == {"workers": "2"}
    assert sources.rules == {"mail": Said(concurrency=5, rate=parse_rate("100/m"))}


@pytest.mark.parametrize(
    "text",
    [
        "rules = 3",
        "[rules]\nmail = 3",
        "[rules.mail]\nconcurrency = 0",
        "[rules.mail]\npaused = true",
        '[rules.mail]\nrate = "often"',
        '[rules."a b"]\nfair = true',
    ],
)
def test_a_rule_that_cannot_be_stops_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "jobpipe.toml").write_text(text)
    with pytest.raises(BadSetting, match=r"jobpipe\.toml"):
        Sources(tmp_path)._toml()
