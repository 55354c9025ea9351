"""What the field does to handlers: errors in groups, values of other libraries, methods, contexts that may be None."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import logging
import logging.config
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Optional

import msgspec
import numpy as np
import pytest
from test_work_executor import begun, outcome_of

from jobpipe import App, Context, Fail, Retry
from jobpipe.client.values import encoded
from jobpipe.core.errors import Invalid
from jobpipe.core.lifecycle import Kind
from jobpipe.server.embed import Jobpipe, Settings
from jobpipe.testing import TestQueue
from jobpipe.work.errors import AppNotFound, BadHandler, InvalidPayload
from jobpipe.work.loading import load_app

# --- errors in groups ---


def nested(error: Exception, depth: int) -> Exception:
    for _ in range(depth):
        error = ExceptionGroup("unhandled errors in a TaskGroup", [error])
    return error


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 5000])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Fail("account closed"), ("Fail", "account closed", False, None)),
        (Retry("busy", in_=20), ("Retry", "busy", True, 20)),
        (ValueError("why"), ("ValueError", "why", True, None)),
    ],
)
async def test_a_group_with_one_leaf_is_that_leaf(
    error: Exception, expected: tuple[Any, ...], depth: int, in_thread: bool
) -> None:
    whole = nested(error, depth)

    def sync() -> None:
        raise whole

    async def async_() -> None:
        raise whole

    outcome = await outcome_of(sync if in_thread else async_)
    assert (outcome.error_type, outcome.message, outcome.retryable, outcome.retry_in) == expected


async def test_what_a_task_group_raises_is_what_its_task_raised() -> None:
    async def part() -> None:
        raise Fail("account closed")

    async def handler() -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(asyncio.sleep(60))
            async with asyncio.TaskGroup() as inner:
                inner.create_task(part())

    outcome = await outcome_of(handler)
    assert (outcome.error_type, outcome.message, outcome.retryable) == ("Fail", "account closed", False)
    assert "TaskGroup" in (outcome.traceback or "")


async def test_what_except_star_raises_counts_too() -> None:
    def handler() -> None:
        try:
            raise ExceptionGroup("many", [ValueError("a"), ValueError("b")])
        except* ValueError:
            raise Fail("no use")  # noqa: B904 - as people write it

    assert (await outcome_of(handler)).retryable is False


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([ValueError("a"), Fail("no"), Retry(in_=9)], ("Fail", None)),
        ([ValueError("a"), Retry(in_=3), Retry(in_=9)], ("Retry", 9)),
        ([KeyError("a"), ValueError("b")], ("KeyError", None)),
        ([asyncio.CancelledError(), ValueError("b")], ("ValueError", None)),
        ([KeyboardInterrupt("a")], ("KeyboardInterrupt", None)),
        ([ExceptionGroup("deep", [ValueError("a"), ExceptionGroup("er", [Fail("no")])])], ("Fail", None)),
    ],
)
async def test_of_several_leaves_a_fail_counts_then_the_longest_retry_then_the_first(
    errors: list[BaseException], expected: tuple[str, float | None]
) -> None:
    def handler() -> None:
        raise BaseExceptionGroup("many", errors)

    outcome = await outcome_of(handler)
    assert (outcome.error_type, outcome.retry_in) == expected


# --- values ---


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


class Whole(int):
    pass


class Real(float):
    pass


class Colour(enum.Enum):
    RED = 1


class Shade(str, enum.Enum):  # noqa: UP042 - as people write it
    DARK = "dark"


class Point(NamedTuple):
    x: float
    y: Any


class Kept(msgspec.Struct):
    score: Any


VALUES: list[tuple[Any, str]] = [
    (np.float64(1.5), "1.5"),
    (np.float32(0.5), "0.5"),
    (np.int64(3), "3"),
    (np.bool_(True), "true"),
    (np.array([[1, 2], [3, 4]]), "[[1,2],[3,4]]"),
    (np.longdouble(1.5), "1.5"),
    ({"a": [np.float64(2)], np.int64(7): Kept(np.int32(1))}, '{"a":[2.0],"7":{"score":1}}'),
    (Text("t"), '"t"'),
    (Whole(3), "3"),
    (Real(0.5), "0.5"),
    ({Text("k"): 1, Whole(2): 2, Real(0.5): 3, True: 4, None: 5}, '{"k":1,"2":2,"0.5":3,"true":4,"null":5}'),
    ((1, (2, Point(1, 2))), "[1,[2,[1,2]]]"),
    ([Colour.RED, Shade.DARK], '[1,"dark"]'),
    (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
    (Counter("aab"), '{"a":2,"b":1}'),
    (2**70, str(2**70)),
]
REFUSED: list[tuple[Any, str]] = [
    (float("nan"), "no nan"),
    ([float("inf")], "no inf"),
    ({"a": np.float64("nan")}, "no nan"),
    (np.array([1.0, float("nan")]), "no nan"),
    (Kept(float("-inf")), "no -inf"),
    ({1, 2}, "no sets"),
    ({"a": frozenset("x")}, "no sets"),
    ({1: "a", "1": "b"}, "both '1'"),
    ({(1, 2): 3}, "type tuple"),
    (np.datetime64("2026-01-01", "ns"), "make it strings"),
    (object(), "type object"),
    (iter([]), "list_iterator"),
]


@pytest.mark.parametrize(("value", "json"), VALUES, ids=lambda value: type(value).__name__)
async def test_a_value_arrives_as_it_left_wherever_it_leaves_python(value: Any, json: str) -> None:
    assert (await outcome_of(lambda: value)).result == json.encode()
    assert encoded(value, "payload") == json.encode()
    app, seen = App(), list[Any]()

    @app.handler
    def take(value: Any) -> None:
        seen.append(value)

    @app.handler
    async def send(ctx: Context) -> None:
        await ctx.enqueue("take", {"value": value})
        await ctx.enqueue(take, value)

    async with TestQueue(app) as queue:
        await take.enqueue(value)
        queue.enqueue("take", {"value": value})
        await send.enqueue()
        await queue.drain()
        queue.raise_failures()
    assert [msgspec.json.encode(value) for value in seen] == [json.encode()] * 4


@pytest.mark.parametrize(("value", "why"), REFUSED, ids=lambda value: type(value).__name__)
async def test_what_json_cannot_say_is_refused_with_the_reason(value: Any, why: str) -> None:
    outcome = await outcome_of(lambda: value)
    assert (outcome.kind, outcome.error_type, outcome.retryable) == (Kind.FAILED, "invalid_result", False)
    assert why in outcome.message
    with pytest.raises(Invalid, match=why):
        encoded(value, "payload")
    app = App()

    @app.handler
    def take(value: Any) -> None: ...

    with pytest.raises(InvalidPayload, match=why):
        take.request((value,), {})
    with pytest.raises(InvalidPayload, match=why):
        app.request("elsewhere", value)


def test_a_set_may_leave_where_its_reader_makes_it_a_set_again() -> None:
    app, tags = App(), {"a"}

    @app.handler
    def tag(tags: set[str], more: dict[str, frozenset[int]]) -> None: ...

    payload = bytes(tag.request((tags, {"x": frozenset([1])}), {}).payload)
    assert tag.binding.bind(payload) == {"tags": tags, "more": {"x": frozenset([1])}}


class Thing:
    pass


def set_result() -> set[int]: ...  # type: ignore[empty-body]


async def optional_set_result() -> dict[str, frozenset[int]] | None: ...


def thing_result() -> Thing: ...  # type: ignore[empty-body]


def thing_payload(thing: Thing) -> None: ...


def numpy_payload(x: np.float64) -> None: ...


@pytest.mark.parametrize(
    "function", [set_result, optional_set_result, thing_result, thing_payload, numpy_payload]
)
def test_declared_types_that_json_has_not_stop_the_start(function: Callable[..., Any]) -> None:
    app = App()
    app.handler(function)
    with pytest.raises(BadHandler, match="JSON"):
        app.check()


def array_result() -> np.ndarray[Any, Any]: ...  # type: ignore[empty-body]


def any_result() -> Annotated[dict[str, Any], Thing] | tuple[int, ...] | Point | Kept | Colour | object: ...


@pytest.mark.parametrize("function", [array_result, any_result])
def test_declared_types_that_may_become_json_do_not(function: Callable[..., Any]) -> None:
    app = App()
    app.handler(function)
    app.check()


# --- methods, and contexts that may be None ---


class Mailer:
    def send(self, to: str) -> str:
        return f"to {to}"

    async def send_later(self, to: str) -> str:
        return f"later to {to}"

    @classmethod
    def of_class(cls, to: str) -> str:
        return f"{cls.__name__} to {to}"

    @staticmethod
    def static(to: str) -> str:
        return f"static to {to}"


def ported(self, to: str) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize("function", [Mailer.send, Mailer.send_later, ported])
def test_a_method_without_its_object_is_refused_at_the_declaration(function: Any) -> None:
    for declare in (App().handler, App().handler("mail.send")):
        with pytest.raises(BadHandler, match="'self' would be filled from the payload"):
            declare(function)


def test_a_method_declared_in_its_class_is_refused_at_once() -> None:
    app = App()
    with pytest.raises(BadHandler, match="'self'"):

        class Late:
            @app.handler
            def send(self, to: str) -> None: ...

    assert not app.handlers


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (Mailer().send, "to x"),
        (Mailer().send_later, "later to x"),
        (Mailer.of_class, "Mailer to x"),
        (Mailer.static, "static to x"),
        (Mailer.__dict__["static"], "static to x"),
        (functools.partial(Mailer.send, Mailer()), "to x"),
        (functools.partial(Mailer.send_later, Mailer()), "later to x"),
    ],
)
async def test_a_method_of_an_object_is_a_handler(function: Any, result: str) -> None:
    outcome = await outcome_of(function, b'{"to": "x"}')
    assert outcome.result == msgspec.json.encode(result)


def or_none(ctx: Context | None = None) -> bool:
    return ctx is not None


async def optional(ctx: Optional[Context] = None) -> bool:  # noqa: UP045 - as people write it
    return ctx is not None


def annotated(ctx: Annotated[Context, "mine"]) -> bool:
    return ctx is not None


def typed_or_none(ctx: Context[int] | None) -> bool:
    return ctx is not None


@pytest.mark.parametrize("function", [or_none, optional, annotated, typed_or_none])
async def test_a_context_that_may_be_none_is_never_none_in_a_run(function: Any) -> None:
    assert (await outcome_of(function)).result == b"true"


def test_a_parameter_is_not_a_context_or_something_else() -> None:
    def either(ctx: Context | int) -> None: ...

    with pytest.raises(BadHandler, match="not either"):
        _ = App().handler(either).binding


# --- context variables of the lifespan ---

variable = contextvars.ContextVar("variable", default="unset")


def with_lifespan() -> App[Any]:
    @asynccontextmanager
    async def lifespan(_: App[Any]) -> AsyncIterator[None]:
        token = variable.set("set by the lifespan")
        yield
        variable.reset(token)

    app: App[Any] = App(lifespan=lifespan)
    app.handler("sync")(lambda: variable.get())  # noqa: PLW0108 - a method of C has no signature

    @app.handler("async")
    async def handler() -> str:
        return variable.get()

    return app


@pytest.mark.parametrize("middleware", [False, True])
async def test_context_variables_of_the_lifespan_are_there_in_a_test_and_embedded(middleware: bool) -> None:
    app = with_lifespan()
    if middleware:

        @app.middleware
        async def through(ctx: Context, call_next: Any) -> Any:
            assert variable.get() == "set by the lifespan"
            return await call_next()

    async with TestQueue(app) as queue:
        for name in ("sync", "async"):
            queue.enqueue(name, id=name)
        await queue.drain()
        results = [queue.task(name).result for name in ("sync", "async")]
    async with Jobpipe(app, Settings(store="memory:")) as jobpipe:
        for name in ("sync", "async"):
            await app.enqueuer.enqueue(app.request(name, id=name))
            task = await jobpipe.queue.wait_finished(name, 20)
            results.append(msgspec.json.decode(task.result or b"null"))
    assert results == ["set by the lifespan"] * 4
    assert variable.get() == "unset"


# --- why a run stops, and policies by name ---


@pytest.mark.parametrize(
    ("interrupt", "why"), [("cancel", "cancel"), ("time_out", "timeout"), ("release", "shutdown")]
)
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_handler_can_tell_why_it_is_stopped(interrupt: str, why: str, in_thread: bool) -> None:
    seen: list[str | None] = []
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def sync(ctx: Context) -> None:
        seen.append(ctx.stopping)
        loop.call_soon_threadsafe(entered.set)
        while not ctx.cancelled:
            time.sleep(0.001)
        seen.append(ctx.stopping)

    async def async_(ctx: Context) -> None:
        seen.append(ctx.stopping)
        entered.set()
        try:
            await asyncio.sleep(60)
        finally:
            seen.append(ctx.stopping)

    run, watch = begun(sync if in_thread else async_)
    await asyncio.wait_for(entered.wait(), 20)
    getattr(run, interrupt)()
    await watch.told_of(2)
    assert seen == [None, why]


def test_the_patient_policy_spans_minutes_to_a_day() -> None:
    handler = App().handler("mail.send", retry="patient")(lambda: None)
    assert handler.retry is not None
    assert handler.max_retries == 12
    delays = [handler.retry.delay(n, lambda: 0.0) for n in range(1, 13)]
    assert (delays[0], delays[2], max(delays)) == (60, 240, 6 * 3600)
    assert 86_400 <= sum(delays) <= 1.5 * 86_400
    assert App().handler("few", retry="patient", max_retries=3)(lambda: None).max_retries == 3
    with pytest.raises(BadHandler, match="patient"):
        App().handler("h", retry="forever")(lambda: None)  # type: ignore[call-overload]


# --- what an app does to its process ---

SILENCING = """
import logging.config
logging.config.dictConfig({"version": 1})
from jobpipe import App
app = App()
"""


@pytest.fixture
def loggers_restored() -> Iterator[None]:
    known = [x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger)]
    before = [(logger, logger.disabled) for logger in known]
    yield
    for logger, disabled in before:
        logger.disabled = disabled


@pytest.mark.usefixtures("loggers_restored")
async def test_an_app_that_configures_logging_does_not_silence_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "silencing.py").write_text(SILENCING)
    monkeypatch.syspath_prepend(tmp_path)
    load_app("silencing:app")
    assert not any(
        logging.getLogger(name).disabled for name in ("jobpipe.task", "jobpipe.tasks", "jobpipe.work.run")
    )

    @asynccontextmanager
    async def lifespan(_: App[Any]) -> AsyncIterator[None]:
        logging.config.dictConfig({"version": 1})
        assert logging.getLogger("jobpipe.task").disabled
        yield

    async with App(lifespan=lifespan).running():
        assert not logging.getLogger("jobpipe.task").disabled


def test_an_import_error_names_the_users_line_and_not_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import os\n\nos.environ['NOT_THERE_AT_ALL']\n"
    (tmp_path / "lacking.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AppNotFound, match=r"KeyError: 'NOT_THERE_AT_ALL' \(.*lacking\.py:3\)"):
        load_app("lacking:app")
