"""What stands around every run."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

from jobpipe import App, CallNext, Context, Fail
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, Status, Task
from jobpipe.work.errors import BadHandler
from jobpipe.work.executor import Executor
from running import Watch
from running import run as run_to_outcome


def claim(payload: bytes = b"null", handler: str = "h") -> Claim:
    task = Task(
        seq=1, id="t1", handler=handler, queue="default", payload=payload, priority=0, status=Status.RUNNING,
        attempts=1, failures=0, lost=0, max_retries=3, timeout=None, run_at=0, created_at=0,
    )  # fmt: skip
    return Claim(task, "lease-1")


async def outcome_of(app: App, payload: bytes = b"null", **options: Any) -> Outcome:
    executor = Executor(app, **options)
    try:
        return await run_to_outcome(executor, claim(payload))
    finally:
        executor.close()


def handlers() -> list[Callable[..., Any]]:
    async def of_the_loop(n: int) -> int:
        return n + 1

    def of_a_thread(n: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        return n + 1

    return [of_the_loop, of_a_thread]


@pytest.mark.parametrize("handler", handlers())
async def test_the_first_added_is_the_outermost(handler: Callable[..., Any]) -> None:
    app, seen = App(), list[str]()

    @app.middleware
    async def outer(ctx: Context, call_next: CallNext) -> Any:
        seen.append(f"outer before {ctx.id}")
        result = await call_next()
        seen.append(f"outer after {result}")
        return result * 10

    @app.middleware
    async def inner(ctx: Context, call_next: CallNext) -> Any:
        seen.append("inner before")
        result = await call_next()
        seen.append(f"inner after {result}")
        return result + 100

    app.handler("h")(handler)
    assert await outcome_of(app, b"1") == Outcome(Kind.DONE, result=b"1020")
    assert seen == ["outer before t1", "inner before", "inner after 2", "outer after 102"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_what_the_handler_raises_passes_through_and_keeps_its_meaning(is_async: bool) -> None:
    app, seen = App(), list[BaseException]()

    @app.middleware
    async def watch(ctx: Context, call_next: CallNext) -> Any:
        try:
            return await call_next()
        except Exception as error:
            seen.append(error)
            raise

    async def async_() -> None:
        raise Fail("never")

    def sync() -> None:
        raise Fail("never")

    app.handler("h")(async_ if is_async else sync)
    outcome = await outcome_of(app)
    assert (outcome.kind, outcome.error_type, outcome.retryable) == (Kind.FAILED, "Fail", False)
    assert [str(error) for error in seen] == ["never"]


async def test_a_payload_that_does_not_fit_passes_through_too() -> None:
    app, seen = App(), list[str]()

    @app.middleware
    async def watch(ctx: Context, call_next: CallNext) -> Any:
        try:
            return await call_next()
        except Exception as error:
            seen.append(type(error).__name__)
            raise

    app.handler("h")(handlers()[0])
    outcome = await outcome_of(app, b'"x"')
    assert (outcome.error_type, outcome.retryable) == ("invalid_payload", False)
    assert seen == ["InvalidPayload"]


async def test_a_middleware_may_answer_without_the_handler() -> None:
    app = App()

    @app.middleware
    async def cached(ctx: Context, call_next: CallNext) -> Any:
        return "kept"

    @app.handler("h")
    async def handler() -> None:
        pytest.fail("the handler ran")

    assert await outcome_of(app) == Outcome(Kind.DONE, result=b'"kept"')


async def test_the_middleware_and_the_handler_see_the_same_context() -> None:
    app, seen = App(), list[Context]()

    @app.middleware
    async def note(ctx: Context, call_next: CallNext) -> Any:
        seen.append(ctx)
        return await call_next()

    @app.handler("h")
    def handler(ctx: Context) -> None:
        seen.append(ctx)

    await outcome_of(app)
    assert seen[0] is seen[1]


@pytest.mark.parametrize("is_async", [True, False])
async def test_context_variables_of_the_middleware_reach_the_handler(is_async: bool) -> None:
    app = App()
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    @app.middleware
    async def set_it(ctx: Context, call_next: CallNext) -> Any:
        variable.set("from outside")
        return await call_next()

    async def async_() -> str:
        return variable.get()

    def sync() -> str:
        return variable.get()

    app.handler("h")(async_ if is_async else sync)
    assert (await outcome_of(app)).result == b'"from outside"'


async def test_the_timeout_covers_the_middleware() -> None:
    app, seen = App(), list[str]()

    @app.middleware
    async def slow(ctx: Context, call_next: CallNext) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    @app.handler("h", timeout=0.01)
    def handler() -> None:
        pytest.fail("the handler ran")

    assert (await outcome_of(app)).kind is Kind.TIMED_OUT
    assert seen == ["cancelled"]


async def test_a_handler_in_a_thread_is_told_to_stop_and_keeps_its_worker_until_it_ends() -> None:
    app, told, let_go = App(), threading.Event(), threading.Event()
    entered, passed = asyncio.Event(), list[str]()
    loop = asyncio.get_running_loop()

    @app.middleware
    async def around(ctx: Context, call_next: CallNext) -> Any:
        passed.append(await call_next())
        return passed[0]

    @app.handler("h")
    def handler(ctx: Context) -> str:
        loop.call_soon_threadsafe(entered.set)
        assert let_go.wait(10)
        if ctx.cancelled:
            told.set()
        return "in spite of it"

    executor, watch = Executor(app), Watch()
    run = executor.prepare(claim(), watch)
    run.begin()
    await entered.wait()
    run.cancel()
    assert not watch.ended.is_set()
    let_go.set()
    assert await watch.outcome == Outcome(Kind.DONE, result=b'"in spite of it"')
    await watch.ended.wait()
    assert told.is_set()
    assert passed == ["in spite of it"]
    executor.close()


async def test_a_thread_that_outlives_its_timeout_is_settled_at_once_and_its_middleware_cancelled_then() -> (
    None
):
    app, let_go, seen = App(), threading.Event(), list[str]()

    @app.middleware
    async def around(ctx: Context, call_next: CallNext) -> Any:
        await call_next()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    @app.handler("h", timeout=0.01)
    def handler() -> None:
        assert let_go.wait(10)

    executor, watch = Executor(app, cleanup=0.01), Watch()
    executor.prepare(claim(), watch).begin()
    assert (await watch.outcome).kind is Kind.TIMED_OUT
    await watch.overstayed.wait()
    assert not watch.ended.is_set()
    let_go.set()
    await watch.ended.wait()
    assert seen == ["cancelled"]
    executor.close()


def connected(app: App) -> list[Any]:
    """Middleware of both kinds around everything of `app`, and what it saw, in order."""
    seen: list[Any] = []

    @app.middleware
    def connection(ctx: Context, call_next: Callable[[], Any]) -> Any:
        thread = threading.current_thread()
        seen.append(("connect", ctx.id, thread is threading.main_thread()))
        try:
            return call_next() * 10
        finally:
            seen.append("close")
            assert threading.current_thread() is thread

    @app.middleware
    async def outermost(ctx: Context, call_next: CallNext) -> Any:
        seen.append("async")
        return await call_next()

    @app.middleware
    def inner(ctx: Context, call_next: Callable[[], Any]) -> Any:
        seen.append("inner")
        return call_next()

    return seen


async def test_a_def_middleware_stands_around_ordinary_functions_in_their_thread() -> None:
    app = App()
    seen = connected(app)

    @app.handler("h")
    def handler(ctx: Context, n: int) -> int:
        seen.append((n, threading.current_thread() is threading.main_thread()))
        return n + 1

    assert (await outcome_of(app, b'{"n": 1}')).result == b"20"
    assert seen == ["async", ("connect", "t1", False), "inner", (1, False), "close"]


async def test_a_def_middleware_alone_needs_no_task_on_the_loop() -> None:
    app = App()
    threads = []

    @app.middleware
    def around(ctx: Context, call_next: Callable[[], Any]) -> Any:
        threads.append(threading.current_thread())
        return call_next()

    @app.handler("h")
    def handler() -> str:
        threads.append(threading.current_thread())
        return "done"

    assert (await outcome_of(app)).result == b'"done"'
    assert threads[0] is threads[1] is not threading.main_thread()


async def test_a_def_middleware_leaves_coroutines_alone() -> None:
    app = App()
    seen = connected(app)

    @app.handler("h")
    async def handler(n: int) -> int:
        return n + 1

    assert (await outcome_of(app, b'{"n": 1}')).result == b"2"
    assert seen == ["async"]


async def test_what_a_handler_raises_passes_through_a_def_middleware_and_what_that_raises_is_the_outcome() -> (
    None
):
    app = App()
    seen = connected(app)

    @app.handler("h")
    def handler() -> None:
        raise Fail("account closed")

    outcome = await outcome_of(app)
    assert (outcome.kind, outcome.retryable, outcome.message) == (Kind.FAILED, False, "account closed")
    assert seen[-1] == "close"
    app.around_functions.insert(0, lambda ctx, call_next: 1 / 0)
    assert (await outcome_of(app)).error_type == "ZeroDivisionError"


async def test_a_def_middleware_that_gives_a_coroutine_is_told() -> None:
    app = App()

    async def really(ctx: Context, call_next: CallNext) -> None: ...

    def wrapped(ctx: Context, call_next: CallNext) -> Any:
        return really(ctx, call_next)

    app.middleware(wrapped)
    app.handler("h")(lambda: None)
    outcome = await outcome_of(app)
    assert outcome.kind is Kind.FAILED
    assert "make it an `async def`" in (outcome.message or "")


def test_a_middleware_that_yields_is_refused() -> None:
    def yields(ctx: Context, call_next: CallNext) -> Any:
        yield

    class Yields:
        async def __call__(self, ctx: Context, call_next: CallNext) -> Any:
            yield

    for wrong in (yields, Yields()):
        with pytest.raises(BadHandler, match="does not yield"):
            App().middleware(wrong)  # type: ignore[call-overload]


async def test_an_object_whose_call_is_a_coroutine_stands_around_every_run() -> None:
    class Counted:
        n = 0

        async def __call__(self, ctx: Context, call_next: CallNext) -> Any:
            self.n += 1
            return await call_next()

    app, counted = App(), Counted()
    app.middleware(counted)
    app.handler("h")(lambda: 1)
    assert (await outcome_of(app)).result == b"1"
    assert counted.n == 1
