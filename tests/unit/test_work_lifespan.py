"""What an app's lifespan promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from jobpipe import App, Context
from jobpipe.testing import TestQueue
from jobpipe.work.lifespan import LifespanFailed


async def test_what_the_lifespan_yields_is_what_handlers_get_as_deps() -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[list[str]]:
        yield ["the value"]

    app = App(lifespan=lifespan)

    @app.handler
    def read(ctx: Context[list[str]]) -> str:
        return ctx.deps[0]

    async with TestQueue(app) as queue:
        task = await read.enqueue()
        await queue.drain()
        assert queue.task(task.id).result == "the value"


async def test_it_begins_before_the_first_task_and_ends_after_the_last_once() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        seen.append("begin")
        yield
        seen.append("end")

    app = App(lifespan=lifespan)

    @app.handler
    async def work() -> None:
        seen.append("work")

    async with TestQueue(app) as queue:
        for _ in range(2):
            await work.enqueue()
            await queue.drain()
    assert seen == ["begin", "work", "work", "end"]


async def test_an_app_without_lifespan_has_no_deps() -> None:
    app = App()
    async with app.running() as deps:
        assert deps is None
        assert app.deps is None
    assert app.deps is None


async def test_deps_are_there_only_while_the_app_runs() -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[int]:
        yield 7

    app = App(lifespan=lifespan)
    with pytest.raises(RuntimeError, match="not running"):
        _ = app.deps
    async with app.running():
        assert app.deps == 7
    with pytest.raises(RuntimeError, match="not running"):
        _ = app.deps


async def test_a_lifespan_that_cannot_begin_is_one_line_with_the_place() -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        raise ConnectionError("no\ndatabase")
        yield

    with pytest.raises(LifespanFailed) as failed:
        async with App(lifespan=lifespan).running():
            pytest.fail("the app ran")
    line = str(failed.value)
    assert line.startswith("the app's lifespan did not begin: ConnectionError: no database (")
    assert __file__ in line
    assert "\n" not in line


async def test_a_lifespan_that_cannot_end_is_told_after_the_end() -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield
        raise OSError("left open")

    app = App(lifespan=lifespan)
    with pytest.raises(LifespanFailed, match="did not end: OSError: left open"):
        async with app.running():
            pass
    with pytest.raises(RuntimeError, match="not running"):
        _ = app.deps


async def test_a_lifespan_sees_what_ended_the_process_and_does_not_change_it() -> None:
    seen: list[BaseException] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            seen.append(error)
            raise

    app = App(lifespan=lifespan)
    for error in (KeyError("x"), asyncio.CancelledError()):
        with pytest.raises(type(error)) as raised:
            async with app.running():
                raise error
        assert raised.value is error
        assert seen.pop() is error


async def test_an_app_runs_once_at_a_time() -> None:
    app = App()
    async with app.running():
        with pytest.raises(RuntimeError, match="running already"):
            async with app.running():
                pytest.fail("twice")
    async with app.running():
        pass
