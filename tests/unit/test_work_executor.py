"""One claim becomes one outcome, whatever its handler does."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import pydantic
import pytest

from jobpipe.core.lifecycle import HANDLER_MISSING, Kind, Outcome
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import Claim, Status, Task
from jobpipe.core.text import CUT, TEXT_LIMIT, head, tail
from jobpipe.work.app import App
from jobpipe.work.context import Context
from jobpipe.work.errors import Fail, Retry
from jobpipe.work.executor import Executor
from jobpipe.work.run import Run
from running import Watch
from running import run as run_to_outcome


def claim(payload: bytes = b"null", *, handler: str = "h", timeout: float | None = None) -> Claim:
    task = Task(
        seq=1, id="t1", handler=handler, queue="default", payload=payload, priority=0, status=Status.RUNNING,
        attempts=3, failures=2, lost=0, max_retries=3, timeout=timeout, run_at=0, created_at=0,
    )  # fmt: skip
    return Claim(task, "lease-1")


async def outcome_of(function: Callable[..., Any], payload: bytes = b"null", **options: Any) -> Outcome:
    """The outcome of one run of `function` as a handler; `retry` and `timeout` are the handler's own."""
    app = App()
    app.handler("h", retry=options.pop("retry", None), timeout=options.pop("handler_timeout", None))(function)
    timeout = options.pop("task_timeout", None)
    executor = Executor(app, **{"cleanup": 0.01, "random": lambda: 0.5, **options})
    try:
        return await run_to_outcome(executor, claim(payload, timeout=timeout))
    finally:
        executor.close()


def begun(function: Callable[..., Any], **options: Any) -> tuple[Run, Watch]:
    app = App()
    app.handler("h")(function)
    watch = Watch()
    run = Executor(app, **{"cleanup": 0.01, **options}).prepare(claim(), watch)
    run.begin()
    return run, watch


class Stubborn:
    """An async handler that does not end when cancelled, until it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> str:
        self.entered.set()
        while True:
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue
            return "late"


class Blocking:
    """A handler in a thread that ends when it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go = threading.Event(), threading.Event()
        self.context: Context | None = None

    def __call__(self, ctx: Context) -> str:
        self.context = ctx
        self.entered.set()
        assert self.let_go.wait(10)
        return "late"


@pytest.fixture
async def blocking() -> AsyncIterator[Blocking]:
    handler = Blocking()
    yield handler
    handler.let_go.set()


async def entered(handler: Blocking) -> None:
    assert await asyncio.to_thread(handler.entered.wait, 10)


# --- results ---


async def test_what_an_async_handler_returns_is_the_result() -> None:
    async def handler(n: int) -> dict[str, int]:
        return {"twice": 2 * n}

    assert await outcome_of(handler, b'{"n": 2}') == Outcome(Kind.DONE, result=b'{"twice":4}')


async def test_an_ordinary_function_runs_in_a_thread_with_the_context_variables() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")

    def handler() -> list[Any]:
        return [threading.current_thread().daemon, threading.current_thread().name[:7], variable.get()]

    assert await outcome_of(handler) == Outcome(Kind.DONE, result=b'[true,"jobpipe","set"]')


class Struct(msgspec.Struct):
    n: float


@dataclass
class Data:
    at: datetime


class Model(pydantic.BaseModel):
    at: datetime
    url: pydantic.HttpUrl


@pytest.mark.parametrize(
    ("value", "json"),
    [
        (None, b"null"),
        (Struct(1.5), b'{"n":1.5}'),
        (Data(datetime(2026, 1, 2)), b'{"at":"2026-01-02T00:00:00"}'),
        ([Model(at=datetime(2026, 1, 2), url="http://a/b")], b'[{"at":"2026-01-02T00:00:00","url":"http://a/b"}]'),
        ({"t": (1, 2), 1: None}, b'{"t":[1,2],"1":null}'),
        ("\u00e9", '"\u00e9"'.encode()),
    ],
)  # fmt: skip
async def test_results_of_many_types_become_json(value: Any, json: bytes) -> None:
    assert (await outcome_of(lambda: value)).result == json


class Endless(list[Any]):
    pass


endless = Endless()
endless.append(endless)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {"a": lambda: 1},
        "\ud800",
        {(1, 2): object()},
        endless,
        {1},
        float("nan"),
        [float("-inf")],
        Struct(float("nan")),
    ],
)
async def test_a_result_that_is_no_json_fails_without_retries(value: Any) -> None:
    outcome = await outcome_of(lambda: value)
    assert (outcome.kind, outcome.error_type, outcome.retryable) == (Kind.FAILED, "invalid_result", False)
    assert outcome.message.startswith("the result cannot be written as JSON: ")
    assert outcome.traceback is None


async def test_a_coroutine_from_an_ordinary_function_is_named_as_the_mistake_it_is() -> None:
    async def inner() -> None: ...

    outcome = await outcome_of(lambda n=0: inner())
    assert (outcome.error_type, outcome.retryable) == ("invalid_result", False)
    assert "declare it `async def`" in outcome.message


async def test_a_result_over_the_limit_fails_without_retries() -> None:
    assert (await outcome_of(lambda: "x" * 8, max_result=10)).kind is Kind.DONE
    outcome = await outcome_of(lambda: "x" * 9, max_result=10)
    assert (outcome.kind, outcome.error_type, outcome.retryable) == (Kind.FAILED, "result_too_large", False)
    assert "11 bytes" in outcome.message
    assert (await outcome_of(lambda: None, max_result=3)).error_type == "result_too_large"


# --- failures ---


async def test_a_task_whose_handler_is_missing_here_is_given_back_for_another_worker() -> None:
    assert await run_to_outcome(Executor(App()), claim(handler="nobody")) == HANDLER_MISSING


@pytest.mark.parametrize("payload", [b"{}", b'{"n": "1"}', b'{"n": "1", "m": 2}'])
async def test_a_payload_that_does_not_fit_fails_without_retries(payload: bytes) -> None:
    async def async_(n: int) -> None: ...
    def sync(n: int) -> None: ...

    for handler in (async_, sync):
        outcome = await outcome_of(handler, payload)
        assert (outcome.kind, outcome.error_type, outcome.retryable) == (
            Kind.FAILED, "invalid_payload", False,
        )  # fmt: skip
        assert "`" in outcome.message
        assert outcome.traceback is None


async def test_annotations_that_cannot_be_resolved_fail_the_run_and_not_the_worker() -> None:
    async def handler(n: Missing) -> None: ...  # noqa: F821

    outcome = await outcome_of(handler)
    assert (outcome.error_type, outcome.retryable) == ("BadHandler", True)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("why"), SystemExit("why"), KeyboardInterrupt("why"), asyncio.CancelledError("why"),
        GeneratorExit("why"), StopIteration("why"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("in_thread", [False, True])
async def test_whatever_a_handler_raises_is_a_retryable_failure(
    error: BaseException, in_thread: bool
) -> None:
    def sync() -> None:
        raise error

    async def async_() -> None:
        raise error

    outcome = await outcome_of(sync if in_thread else async_)
    # Python itself turns a StopIteration that leaves a coroutine into a RuntimeError.
    wrapped = isinstance(error, StopIteration) and not in_thread
    assert (outcome.kind, outcome.retryable, outcome.retry_in) == (Kind.FAILED, True, None)
    assert outcome.error_type == ("RuntimeError" if wrapped else type(error).__name__)
    assert outcome.message
    assert outcome.traceback is not None


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_traceback_begins_with_the_handlers_own_frame(in_thread: bool) -> None:
    def sync() -> None:
        raise ValueError("why")

    async def async_() -> None:
        raise ValueError("why")

    lines = ((await outcome_of(sync if in_thread else async_)).traceback or "").splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert __file__ in lines[1]
    assert lines[-1] == "ValueError: why"


async def test_fail_ends_the_task() -> None:
    async def handler() -> None:
        raise Fail("no such customer")

    outcome = await outcome_of(handler, retry=RetryPolicy())
    assert (outcome.error_type, outcome.message, outcome.retryable) == ("Fail", "no such customer", False)


async def test_retry_says_when_itself() -> None:
    def handler() -> None:
        raise Retry("busy", in_=60)

    outcome = await outcome_of(handler, retry=RetryPolicy(base=1))
    assert (outcome.error_type, outcome.message, outcome.retryable) == ("Retry", "busy", True)
    assert outcome.retry_in == 60


async def test_the_handlers_policy_counts_the_coming_retry() -> None:
    def plain() -> None:
        raise ValueError

    def wish() -> None:
        raise Retry

    for handler in (plain, wish):
        # The task has failed twice before: this is its third failure.
        outcome = await outcome_of(handler, retry=RetryPolicy(base=1, jitter=0.1))
        assert outcome.retry_in == pytest.approx(4.05)
    assert (await outcome_of(wish)).retry_in is None


@pytest.mark.parametrize("in_", [-1, float("nan"), float("inf"), 1e12])
def test_a_retry_must_be_a_time_that_can_come(in_: float) -> None:
    with pytest.raises(ValueError, match="seconds away"):
        Retry(in_=in_)


async def test_messages_keep_their_beginning_and_tracebacks_their_end() -> None:
    async def handler() -> None:
        raise ValueError("a" + "\u00e9" * TEXT_LIMIT + "z")

    outcome = await outcome_of(handler)
    assert outcome.message.startswith("a\u00e9")
    assert len(outcome.message.encode()) in (TEXT_LIMIT, TEXT_LIMIT - 1)
    assert outcome.traceback is not None
    assert outcome.traceback.endswith("\u00e9z\n")
    assert len(outcome.traceback.encode()) in (TEXT_LIMIT, TEXT_LIMIT - 1)


def test_texts_are_valid_utf_8_whatever_they_were() -> None:
    assert head("a\ud800b") == tail("a\ud800b") == "a?b"
    assert head("\U0001f600" * TEXT_LIMIT) == "\U0001f600" * (TEXT_LIMIT // 4)
    cut = tail("\U0001f600" * TEXT_LIMIT)
    assert cut == CUT + "\U0001f600" * ((TEXT_LIMIT - len(CUT)) // 4)
    assert head("x" + "\U0001f600" * TEXT_LIMIT) == "x" + "\U0001f600" * (TEXT_LIMIT // 4 - 1)


def test_a_text_cut_at_its_beginning_says_so_once_and_whole_ones_stay() -> None:
    whole = "x" * TEXT_LIMIT
    assert tail(whole) == whole
    cut = tail("y" + whole)
    assert cut.startswith(CUT)
    assert cut.endswith("x")
    assert tail(cut) == cut
    assert len(cut.encode()) == TEXT_LIMIT


async def test_an_exception_that_cannot_describe_itself_breaks_nothing() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async def handler() -> None:
        raise Mute

    outcome = await outcome_of(handler)
    assert outcome.error_type == "Mute"
    assert outcome.message == "<Mute, whose __str__ raised RuntimeError>"
    assert "Mute" in (outcome.traceback or "")


async def test_an_exception_that_breaks_its_own_traceback_breaks_nothing() -> None:
    class Broken(Exception):
        @property
        def __notes__(self) -> Any:
            raise RuntimeError("no notes")

    async def handler() -> None:
        raise Broken("why")

    outcome = await outcome_of(handler)
    assert (outcome.error_type, outcome.message) == ("Broken", "why")
    assert outcome.traceback


# --- timeouts ---


async def test_an_async_handler_is_cancelled_at_its_timeout() -> None:
    cleaned = []

    async def handler(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(ctx.cancelled)

    outcome = await outcome_of(handler, handler_timeout=0.01, cleanup=10, retry=RetryPolicy(base=1, jitter=0))
    assert (outcome.kind, outcome.error_type, outcome.retryable) == (Kind.TIMED_OUT, "timed_out", True)
    assert outcome.message == "timed out after 0.01 s"
    assert outcome.retry_in == 4
    assert "await asyncio.Event().wait()" in (outcome.traceback or "")
    assert cleaned == [True]


async def test_the_tasks_timeout_goes_before_the_handlers_and_that_before_the_servers() -> None:
    def handler(ctx: Context) -> float | None:
        return ctx.timeout

    times = {"timeout": 3.0, "handler_timeout": 2.0, "task_timeout": 1.0}
    assert (await outcome_of(handler, **times)).result == b"1.0"
    del times["task_timeout"]
    assert (await outcome_of(handler, **times)).result == b"2.0"
    del times["handler_timeout"]
    assert (await outcome_of(handler, **times)).result == b"3.0"
    assert (await outcome_of(handler, timeout=float("inf"))).result == b"null"


async def test_a_result_after_the_timeout_came_too_late() -> None:
    async def handler() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "late"
        raise AssertionError

    assert (await outcome_of(handler, timeout=0.01, cleanup=10)).kind is Kind.TIMED_OUT


async def test_a_handler_that_ignores_its_timeout_is_settled_without_and_ends_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler = Stubborn()
    run, watch = begun(handler, timeout=0.01)
    [outcome] = await watch.told_of(1)
    assert (outcome.kind, run.reported, run.ended) == (Kind.TIMED_OUT, True, False)
    assert "handler h did not stop when told" in caplog.text
    handler.let_go.set()
    assert await watch.told_of(2) == [outcome, "end"]
    assert run.ended


async def test_a_thread_is_settled_at_its_timeout_and_ends_later(blocking: Blocking) -> None:
    run, watch = begun(blocking, timeout=0.01, cleanup=10)
    [outcome] = await watch.told_of(1)
    assert (outcome.kind, run.ended) == (Kind.TIMED_OUT, False)
    await entered(blocking)
    assert blocking.context is not None
    assert blocking.context.cancelled
    blocking.let_go.set()
    assert await watch.told_of(2) == [outcome, "end"]


# --- cancelling ---


async def test_a_cancelled_async_handler_gets_asyncios_cancellation() -> None:
    handler = asyncio.Event()
    run, watch = begun(handler.wait)
    await asyncio.sleep(0)
    run.cancel()
    assert await watch.told_of(2) == [Outcome(Kind.CANCELLED), "end"]


async def test_a_run_cancelled_before_its_first_step_ends_too() -> None:
    async def handler() -> None:
        raise AssertionError

    run, watch = begun(handler)
    run.cancel()
    assert await watch.told_of(2) == [Outcome(Kind.CANCELLED), "end"]


async def test_a_cancelled_thread_sees_it_in_its_context(blocking: Blocking) -> None:
    run, watch = begun(blocking)
    await entered(blocking)
    assert blocking.context is not None
    assert not blocking.context.cancelled
    run.cancel()
    assert blocking.context.cancelled
    assert watch.told == []


async def test_a_cancel_that_comes_while_the_payload_is_bound_reaches_the_handler(blocking: Blocking) -> None:
    @dataclass
    class Slow:
        n: int

        def __post_init__(self) -> None:
            blocking.entered.set()
            assert blocking.let_go.wait(10)

    def handler(ctx: Context, slow: Slow) -> bool:
        return ctx.cancelled

    handler.__annotations__["slow"] = Slow
    app, watch = App(), Watch()
    app.handler("h")(handler)
    run = Executor(app).prepare(claim(b'{"n": 1}'), watch)
    run.begin()
    await entered(blocking)
    run.cancel()
    blocking.let_go.set()
    assert (await watch.told_of(2))[0] == Outcome(Kind.DONE, result=b"true")


@pytest.mark.parametrize("error", [ValueError("x"), Fail("x"), Retry("x"), asyncio.CancelledError()])
async def test_any_exception_after_a_cancel_is_cancelled(error: BaseException, blocking: Blocking) -> None:
    def handler(ctx: Context) -> None:
        blocking(ctx)
        raise error

    run, watch = begun(handler)
    run.cancel()
    blocking.let_go.set()
    assert (await watch.told_of(2))[0] == Outcome(Kind.CANCELLED)


async def test_a_result_in_spite_of_a_cancel_counts(blocking: Blocking) -> None:
    run, watch = begun(blocking)
    run.cancel()
    blocking.let_go.set()
    assert (await watch.told_of(2))[0] == Outcome(Kind.DONE, result=b'"late"')


async def test_a_cancelled_handler_that_goes_on_still_times_out_as_cancelled() -> None:
    handler = Stubborn()
    run, watch = begun(handler, timeout=0.05)
    await handler.entered.wait()
    run.cancel()
    assert await watch.told_of(1) == [Outcome(Kind.CANCELLED)]
    handler.let_go.set()
    await watch.told_of(2)


# --- releasing ---


async def test_a_released_async_handler_is_cancelled_and_given_back() -> None:
    run, watch = begun(asyncio.Event().wait)
    await asyncio.sleep(0)
    run.release()
    assert await watch.told_of(2) == [Outcome(Kind.RELEASED), "end"]


async def test_a_released_handler_that_manages_to_return_is_done() -> None:
    async def handler() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "managed"
        raise AssertionError

    run, watch = begun(handler, cleanup=10)
    await asyncio.sleep(0)
    run.release()
    assert (await watch.told_of(2))[0] == Outcome(Kind.DONE, result=b'"managed"')


async def test_a_released_handler_that_goes_on_is_given_back_without_it() -> None:
    handler = Stubborn()
    run, watch = begun(handler, timeout=float("inf"))
    await handler.entered.wait()
    run.release()
    assert await watch.told_of(1) == [Outcome(Kind.RELEASED)]
    run.release()
    handler.let_go.set()
    assert await watch.told_of(2) == [Outcome(Kind.RELEASED), "end"]


async def test_a_released_thread_is_given_back_at_once(blocking: Blocking) -> None:
    run, watch = begun(blocking, cleanup=10)
    run.release()
    assert watch.told == [Outcome(Kind.RELEASED)]
    await entered(blocking)
    assert blocking.context is not None
    assert blocking.context.cancelled


async def test_a_run_that_was_never_begun_is_given_back(blocking: Blocking) -> None:
    watch = Watch()
    Executor(App()).prepare(claim(), watch).release()
    assert watch.told == [Outcome(Kind.RELEASED), "end"]


async def test_cancelling_the_one_who_waits_stops_the_handler() -> None:
    stopped = asyncio.Event()
    started = asyncio.Event()

    async def handler() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    waiting = asyncio.create_task(outcome_of(handler))
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stopped.wait()


# --- the rest ---


async def test_simulate_is_always_there_unless_the_app_has_its_own() -> None:
    app = App()
    own: Callable[[], Coroutine[Any, Any, str]]
    assert Executor(app).find("simulate") is not None

    @app.handler("simulate")
    async def own() -> str:  # type: ignore[no-redef]
        return "own"

    assert (await run_to_outcome(Executor(app), claim(handler="simulate"))).result == b'"own"'


async def test_the_given_simulate_is_run() -> None:
    app = App()
    given = App().handler("simulate")(lambda: "given")
    assert (
        await run_to_outcome(Executor(app, simulate=given), claim(handler="simulate"))
    ).result == b'"given"'


def test_a_thread_that_ends_after_its_event_loop_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "jobpipe.work.run")
    handler = Blocking()
    ended = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            ended.set()

    async def main() -> Run:
        run, _ = begun(handler)
        await entered(handler)
        return run

    run = asyncio.run(main())
    listener = Handler()
    logging.getLogger("jobpipe.work.run").addHandler(listener)
    try:
        handler.let_go.set()
        assert ended.wait(10)
    finally:
        logging.getLogger("jobpipe.work.run").removeHandler(listener)
    assert not run.ended
