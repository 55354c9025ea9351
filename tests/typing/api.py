"""What type checkers must make of the API. Read by mypy in `tests/unit/test_typing.py`, and never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, assert_type

from jobpipe import App, Context, Handle, JobpipeError
from jobpipe.work.middleware import CallNext


@dataclass
class Mailer:
    host: str


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[Mailer]:
    yield Mailer("localhost")


app = App(lifespan=lifespan)
assert_type(app, App[Mailer])
assert_type(App(), App[None])


@app.handler
async def resize(ctx: Context[Mailer], path: str, width: int = 100) -> str:
    assert_type(ctx.deps, Mailer)
    assert_type(await ctx.enqueue(plain, 1), Handle[int])
    assert_type(await ctx.enqueue(resize.options(delay=1), "a"), Handle[str])
    assert_type(await ctx.enqueue("other"), Handle[Any])
    await ctx.enqueue(plain.options(delay=1), n=1)
    await ctx.enqueue("other", {"a": 1}, queue="mail")
    ctx.enqueue_sync(resize, path="a", width=1)
    await ctx.enqueue(plain, "1")  # E: call-overload
    await ctx.enqueue(plain, m=1)  # E: call-overload
    await ctx.enqueue("other", {}, qeue="mail")  # E: call-overload
    return ctx.deps.host


@app.handler("other.name", queue="mail", max_retries=5, timeout=3)
def plain(n: int) -> int:
    return n


@app.handler(queue="mail")
def with_bare_context(ctx: Context, n: int) -> None:
    assert_type(ctx.deps, object)


@app.handler
async def anything(payload: Any) -> int:
    return 1


@app.handler
def object_(payload: object) -> int:
    return 1


@app.handler()
def nothing() -> None: ...


async def calls(ctx: Context[Mailer]) -> None:
    assert_type(plain(1), int)
    assert_type(await resize(ctx, "a", width=2), str)
    await resize("a")  # E: arg-type # E: call-arg

    handle = await resize.enqueue(path="a.png", width=200)
    assert_type(handle, Handle[str])
    assert_type(await handle.result(timeout=1), str)
    assert_type(plain.enqueue_sync(1).result_sync(), int)
    _: int = await handle.result()  # E: assignment
    await resize.enqueue("a.png")
    await resize.enqueue(path=1)  # E: call-overload
    await resize.enqueue("a", widht=1)  # E: call-overload
    await resize.enqueue(ctx, "a")  # E: call-overload
    await resize.enqueue()  # E: call-overload
    many = await resize.enqueue_many([resize.call("a"), {"path": "b"}])
    assert_type(many, list[Handle[str] | JobpipeError])
    resize.call(path=1)  # E: arg-type

    assert_type(plain.enqueue_sync(n=1), Handle[int])
    plain.enqueue_sync(n="1")  # E: arg-type
    with_bare_context.enqueue_sync(1)
    with_bare_context.enqueue_sync(n=[])  # E: arg-type
    nothing.enqueue_sync()
    nothing.enqueue_sync(1)  # E: call-arg
    await anything(payload=3)
    await anything.enqueue(payload={"a": 1})
    assert_type(object_(payload=3), int)
    object_.enqueue_sync(payload={"a": 1})

    later = resize.options(delay=60, queue="slow", priority=3)
    await later.enqueue(path="a.png")
    await later.options(id="x").enqueue(path=3)  # E: arg-type
    resize.options(dellay=1)  # E: call-overload


@app.middleware
async def timed(ctx: Context[Mailer], call_next: CallNext) -> Any:
    assert_type(ctx.deps, Mailer)
    return await call_next()


@app.middleware  # E: arg-type
async def of_another_app(ctx: Context[int], call_next: CallNext) -> Any:
    return await call_next()
