"""A Jobpipe inside another program: it starts, works and ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from jobpipe import App, Context, Jobpipe
from jobpipe.core.errors import Draining, StorageRefused
from jobpipe.core.task import Task
from jobpipe.server.embed import Settings
from jobpipe.work.lifespan import LifespanFailed


def app_with(seen: list[str]) -> App[str]:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[str]:
        seen.append("begin")
        yield "deps"
        seen.append("end")

    return App(lifespan=lifespan)


async def finished(jobpipe: Jobpipe, id: str) -> Task:
    task = await jobpipe.queue.wait_finished(id, 30)
    assert task is not None
    return task


async def test_it_works_on_tasks_for_as_long_as_it_lasts() -> None:
    seen: list[str] = []
    app = app_with(seen)

    @app.handler
    async def of_the_loop(ctx: Context[str], n: int) -> str:
        await ctx.enqueue(of_a_thread, n=n)
        return ctx.deps

    @app.handler
    def of_a_thread(ctx: Context, n: int) -> int:
        ctx.enqueue_sync("third", {"n": n}, queue="other", id="third")
        return n

    @app.handler
    def third(n: int) -> int:
        return n

    async with Jobpipe(app, Settings(store="memory:")) as jobpipe:
        task = await of_the_loop.enqueue(n=3)
        assert (await finished(jobpipe, task.id)).result == b'"deps"'
        while (await jobpipe.queue.get(["third"]))[0] is None:
            await asyncio.sleep(0)
        assert (await finished(jobpipe, "third")).result == b"3"
    assert seen == ["begin", "end"]


async def test_threads_of_the_program_may_enqueue() -> None:
    app = App()

    @app.handler
    async def work(n: int) -> int:
        return n

    async with Jobpipe(app, Settings(store="memory:")) as jobpipe:
        task = await asyncio.to_thread(work.enqueue_sync, 5)
        assert (await finished(jobpipe, task.id)).result == b"5"
        with pytest.raises(RuntimeError, match="await enqueue"):
            work.enqueue_sync(5)


async def test_its_api_can_be_mounted() -> None:
    app = App()

    @app.handler
    async def work(n: int) -> int:
        return n

    jobpipe = Jobpipe(app, Settings(store="memory:"))
    program = Starlette(routes=[Mount("/jobs", jobpipe.asgi)])
    async with (
        jobpipe,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(program), base_url="http://localhost") as client,
    ):
        answer = await client.post("/jobs/enqueue", json={"id": "x", "handler": "work", "payload": 3})
        assert (answer.status_code, answer.headers["location"]) == (202, "/jobs/tasks/x")
        answer = await client.get(answer.headers["location"], params={"wait": 30})
        assert answer.json()["result"] == 3
        await client.post("/jobs/enqueue", json={"id": "y", "handler": "work", "payload": 3})
        page = await client.get("/jobs/tasks", params={"limit": 1})
        assert page.links["next"]["url"].startswith("/jobs/tasks?")


async def test_at_its_end_what_runs_is_finished_and_what_waits_is_kept(tmp_path: Path) -> None:
    app, begun, go_on = App(), asyncio.Event(), asyncio.Event()

    @app.handler
    async def slow() -> str:
        begun.set()
        await go_on.wait()
        return "finished"

    settings = Settings(store=f"sqlite:///{tmp_path / 'tasks.db'}", workers=1)
    jobpipe = Jobpipe(app, settings)
    async with jobpipe:
        running, waiting = await slow.enqueue(), await slow.options(delay=3600).enqueue()
        await begun.wait()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    with pytest.raises(Draining):
        await jobpipe.queue.enqueue([])
    async with Jobpipe(app, settings) as again:
        done, kept = await again.queue.get([running.id, waiting.id])
        assert done is not None
        assert kept is not None
        assert (done.result, kept.status, kept.attempts) == (b'"finished"', "queued", 0)


async def test_a_lifespan_that_cannot_begin_leaves_nothing_open(tmp_path: Path) -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    settings = Settings(store=f"sqlite:///{tmp_path / 'tasks.db'}")
    with pytest.raises(LifespanFailed, match="no database"):
        async with Jobpipe(App(lifespan=lifespan), settings):
            pytest.fail("it began")
    async with Jobpipe(App(), settings):  # the file is not held any more
        pass


async def test_a_store_that_is_in_use_is_refused_and_the_lifespan_not_begun(tmp_path: Path) -> None:
    seen: list[str] = []
    settings = Settings(store=f"sqlite:///{tmp_path / 'tasks.db'}")
    async with Jobpipe(App(), settings):
        with pytest.raises(StorageRefused):
            async with Jobpipe(app_with(seen), settings):
                pytest.fail("it began")
    assert seen == []


async def test_the_lifespan_may_enqueue_what_its_start_needs() -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        await app.enqueuer.enqueue(app.request("work", 1, id="first"))
        yield

    app = App(lifespan=lifespan)

    @app.handler
    async def work(n: int) -> int:
        return n

    async with Jobpipe(app, Settings(store="memory:")) as jobpipe:
        assert (await finished(jobpipe, "first")).result == b"1"
