"""Enqueueing from code: what a call asks for, what is refused before anything is sent, and which way it goes."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

from jobpipe import App, Context
from jobpipe.core.errors import Invalid, QueueFull, TaskExists
from jobpipe.testing import TestQueue
from jobpipe.work.binding import binding_of
from jobpipe.work.enqueue import EnqueueRequest
from jobpipe.work.errors import BadHandler, InvalidPayload
from jobpipe.work.payload import PayloadForm


class Struct(msgspec.Struct, rename="camel"):
    some_name: int


@dataclasses.dataclass
class Data:
    day: date


class Model(pydantic.BaseModel):
    size: Annotated[int, pydantic.Field(alias="Size", gt=0)]


def nothing() -> None: ...
def number(n: int) -> None: ...
def optional(n: int | None = 3) -> None: ...
def anything(payload: Any) -> None: ...
def several(a: int, b: str = "x", *, c: list[float] | None = None) -> None: ...
def others(a: int, **rest: date) -> None: ...
def struct(s: Struct) -> None: ...
def data(d: Data) -> None: ...
def model(m: Model) -> None: ...
def models(ms: list[Model], d: Data) -> None: ...
def table(t: dict[str, int]) -> None: ...
def maybe(d: Data | None = None) -> None: ...
def with_context(ctx: Context, n: int) -> None: ...
def constrained(n: Annotated[int, pydantic.Field(gt=3)]) -> None: ...


DAY = date(2026, 11, 21)
CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (nothing, (), {}),
    (number, (5,), {}),
    (number, (), {"n": 2**53}),
    (optional, (), {}),
    (optional, (None,), {}),
    (anything, ({"payload": 1},), {}),
    (anything, ({"a": 1},), {}),
    (anything, ([],), {}),
    (anything, (None,), {}),
    (several, (1,), {}),
    (several, (1, "é\x00"), {"c": [0.1]}),
    (others, (1,), {"first": DAY, "second": DAY}),
    (struct, (Struct(1),), {}),
    (data, (Data(DAY),), {}),
    (model, (Model(Size=3),), {}),
    (models, ([Model(Size=3)],), {"d": Data(DAY)}),
    (table, ({"t": 1},), {}),
    (maybe, (), {}),
    (maybe, (Data(DAY),), {}),
    (maybe, (None,), {}),
    (with_context, (4,), {}),
    (constrained, (4,), {}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
def test_a_run_is_called_with_what_was_enqueued(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    binding = binding_of(function)
    payload = PayloadForm(function, binding).pack(args, kwargs)
    called = binding.bind(bytes(payload))
    wanted = {k: v for k, v in _arguments(function, args, kwargs).items() if k in called or v is not None}
    assert called == wanted


def _arguments(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in function.__code__.co_varnames if name != "ctx"]
    return {**dict(zip(names, args, strict=False)), **kwargs}


MISFITS: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
    (nothing, (1,), {}, "too many positional"),
    (number, (), {}, "missing a required argument: 'n'"),
    (number, (), {"m": 1}, "missing a required argument|unexpected keyword"),
    (number, ("5",), {}, r"Expected `int`, got `str` - at `\$.n`"),
    (number, (float("nan"),), {}, "JSON has no nan"),
    (several, (1,), {"d": 1}, "unexpected keyword argument 'd'"),
    (others, (1,), {"first": "no day"}, "Invalid RFC3339"),
    (struct, ({"some_name": 1},), {}, "someName"),
    (model, ({"Size": 0},), {}, "greater than 0"),
    (constrained, (3,), {}, "greater than 3"),
    (anything, (object(),), {}, "no JSON form"),
    (with_context, (), {"ctx": None, "n": 1}, "unexpected keyword argument 'ctx'"),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "why"), MISFITS)
def test_what_a_run_would_refuse_is_refused_at_the_call(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidPayload, match=why):
        PayloadForm(function, binding_of(function)).pack(args, kwargs)


def test_a_none_that_would_become_another_default_is_refused() -> None:
    default = Data(DAY)

    def function(d: Data | None = default) -> None: ...

    form = PayloadForm(function, binding_of(function))
    assert form.pack((), {}) == msgspec.Raw(b"null")
    with pytest.raises(InvalidPayload, match="`d` cannot be None"):
        form.pack((None,), {})


app = App()


@app.handler
async def add(a: int, b: int) -> int:
    return a + b


@app.handler(queue="mail", max_retries=5)
def send(ctx: Context, to: str) -> str:
    return to


def test_calling_a_handler_stays_a_plain_call() -> None:
    assert send(None, "ann") == "ann"  # type: ignore[arg-type]
    assert asyncio.run(add(1, b=2)) == 3


async def test_the_accepted_task_is_answered() -> None:
    async with TestQueue(app):
        task = await add.enqueue(a=1, b=2)
    assert (task.handler, task.payload, task.status, task.queue) == (
        "add",
        {"a": 1, "b": 2},
        "queued",
        "default",
    )
    assert task.max_retries == 3
    assert task.run_at.tzinfo is not None


async def test_a_misfit_names_the_handler_and_nothing_is_sent() -> None:
    async with TestQueue(app) as queue:
        with pytest.raises(InvalidPayload, match=r"handler 'add': .* Expected `int`, got `str` - at `\$.a`"):
            await add.enqueue(a="1", b=2)  # type: ignore[arg-type]
        assert queue.tasks() == []


async def test_a_handlers_own_queue_and_max_retries_are_stamped_unless_options_say_otherwise() -> None:
    async with TestQueue(app):
        task = await send.enqueue("ann")
        assert (task.queue, task.max_retries) == ("mail", 5)
        task = await send.options(queue="slow", max_retries=0).enqueue("ann")
        assert (task.queue, task.max_retries) == ("slow", 0)
        task = await send.options(queue=None, max_retries=None).enqueue("ann")
        assert (task.queue, task.max_retries) == ("mail", 5)


async def test_all_options_reach_the_task() -> None:
    when = datetime.now(UTC) + timedelta(days=1)
    async with TestQueue(app) as queue:
        task = await add.options(id="x", priority=7, timeout=9.5, run_at=when).enqueue(1, 2)
        assert (task.id, task.priority, task.timeout) == ("x", 7, 9.5)
        assert abs(task.run_at - when) < timedelta(milliseconds=1)
        task = await add.options(delay=60).enqueue(1, 2)
        assert (task.run_at - task.created_at).total_seconds() == 60
        assert queue.tasks(status="queued")[0].id == "x"


async def test_options_add_up_and_the_last_word_counts() -> None:
    async with TestQueue(app):
        urgent = add.options(priority=1, queue="a")
        task = await urgent.options(queue="b").enqueue(1, 2)
        assert (task.priority, task.queue) == (1, "b")
        assert (await urgent.enqueue(1, 2)).queue == "a"


async def test_the_queue_refuses_as_it_does_over_http() -> None:
    async with TestQueue(app, queue_size=2):
        await add.options(id="x").enqueue(1, 2)
        with pytest.raises(TaskExists):
            await add.options(id="x").enqueue(1, 2)
        with pytest.raises(Invalid, match="must match"):
            await add.options(queue="no spaces").enqueue(1, 2)
        with pytest.raises(Invalid, match="either delay or run_at"):
            await add.options(delay=1, run_at=datetime.now(UTC)).enqueue(1, 2)
        with pytest.raises(Invalid, match="time zone"):
            await add.options(run_at=datetime(2030, 1, 1)).enqueue(1, 2)
        await add.enqueue(1, 2)
        with pytest.raises(QueueFull):
            await add.enqueue(1, 2)


def test_a_queue_or_retries_that_no_task_can_have_are_refused_at_the_declaration() -> None:
    with pytest.raises(BadHandler, match="its queue must be"):
        App().handler("h", queue="a b")(nothing)
    with pytest.raises(BadHandler, match="its max_retries must be"):
        App().handler("h", max_retries=-1)(nothing)


async def test_handlers_enqueue_through_their_context() -> None:
    app = App()

    @app.handler(queue="mail")
    async def second(n: int) -> int:
        return n

    @app.handler
    async def first(ctx: Context) -> None:
        await ctx.enqueue(second, n=1)
        await ctx.enqueue(second.options(priority=2), 2)
        await ctx.enqueue("second", {"n": 3}, delay=1)
        await ctx.enqueue("somebody.else", payload=[4], queue="elsewhere")

    @app.handler
    def threaded(ctx: Context) -> None:
        ctx.enqueue_sync(second, n=5)
        ctx.enqueue_sync("second", 6)
        second.enqueue_sync(7)

    async with TestQueue(app) as queue:
        await first.enqueue()
        await threaded.enqueue()
        await queue.advance()
        assert {task.payload["n"] for task in queue.tasks(queue="mail") if isinstance(task.payload, dict)} == {
            1, 2, 3, 5, 7,
        }  # fmt: skip
        assert [task.payload for task in queue.tasks(handler="somebody.else")] == [[4]]
        await queue.advance(1)
        assert sorted(t.result for t in queue.tasks(handler="second", status="done")) == [1, 2, 3, 5, 6, 7]


async def test_by_name_a_handler_of_the_app_is_checked_too() -> None:
    async with TestQueue(app):
        with pytest.raises(InvalidPayload, match="handler 'add'"):
            await app.enqueuer.enqueue(app.request("add", {"a": "x"}))
        assert app.request("send", {"to": "ann"}).queue == "mail"
        assert app.request("unknown", [1], priority=3) == EnqueueRequest(
            "unknown", msgspec.Raw(b"[1]"), priority=3
        )


async def test_enqueue_works_from_another_event_loop_and_from_threads() -> None:
    async with TestQueue(app) as queue:
        task = await asyncio.to_thread(lambda: asyncio.run(add.enqueue(1, 2)))
        other = await asyncio.to_thread(add.enqueue_sync, 3, 4)
        assert [t.id for t in queue.tasks()] == [task.id, other.id]


def test_a_handler_of_no_app_cannot_enqueue() -> None:
    from jobpipe.work.handler import Handler

    with pytest.raises(RuntimeError, match="belongs to no app"):
        Handler(number).enqueue_sync(1)


class _Kept:
    """An enqueuer that keeps what it is asked for."""

    def __init__(self) -> None:
        self.requests: list[EnqueueRequest] = []
        self.closed = False

    async def enqueue(self, request: EnqueueRequest) -> Any:
        self.requests.append(request)

    def enqueue_sync(self, request: EnqueueRequest) -> Any:
        self.requests.append(request)

    async def close(self) -> None:
        self.closed = True


async def test_outside_of_a_process_that_runs_it_an_app_is_connected_at_its_first_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[str | None, dict[str, Any]]] = []
    kept = _Kept()

    def connect(url: str | None, **arguments: Any) -> _Kept:
        made.append((url, arguments))
        return kept

    monkeypatch.setattr("jobpipe.work.enqueue._connect", connect)
    app = App()
    handler = app.handler(number)
    assert made == []
    handler.enqueue_sync(1)
    await handler.enqueue(2)
    assert made == [(None, {})]
    assert [bytes(request.payload) for request in kept.requests] == [b'{"n":1}', b'{"n":2}']
    await app.disconnect()
    assert kept.closed
    app.connect("http://elsewhere:1", key="secret", timeout=2, retries=0)
    assert made[1:] == [("http://elsewhere:1", {"key": "secret", "timeout": 2, "retries": 0})]


async def test_the_process_that_runs_the_app_comes_before_any_connection() -> None:
    app, inside = App(), _Kept()
    handler = app.handler(number)
    app.connect("http://127.0.0.1:9")
    async with app.running(inside):  # type: ignore[arg-type]
        await handler.enqueue(1)
    assert len(inside.requests) == 1
    await app.disconnect()


async def test_waiting_for_its_own_event_loop_is_an_error_and_no_deadlock() -> None:
    from jobpipe.binding.enqueuing import LocalEnqueuer
    from jobpipe.engine.queue import TaskQueue
    from jobpipe.storage import open_storage

    queue = TaskQueue(open_storage("memory:"))
    await queue.open()
    try:
        enqueuer = LocalEnqueuer(queue)
        request = EnqueueRequest("h", msgspec.Raw(b"1"))
        with pytest.raises(RuntimeError, match="await enqueue"):
            enqueuer.enqueue_sync(request)
        assert (await enqueuer.enqueue(request)).payload == 1
        task = await asyncio.to_thread(enqueuer.enqueue_sync, request)
        assert task.handler == "h"
    finally:
        await queue.close()
    assert threading.current_thread() is threading.main_thread()
