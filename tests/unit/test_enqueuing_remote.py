"""Outside of any Jobpipe process, typed enqueueing reaches a real server over HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from jobpipe import App, Jobpipe
from jobpipe.binding.enqueuing import RemoteEnqueuer
from jobpipe.core.errors import Invalid, TaskExists
from jobpipe.http import HttpServer, listen
from jobpipe.server.embed import Settings

app = App()  # of the web application, which runs no handlers


@app.handler(queue="mail", max_retries=9)
async def send(to: str) -> str:
    return to


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """A server on a free port, its URL."""
    sockets: list[socket.socket] = listen("127.0.0.1", 0)
    async with Jobpipe(None, Settings(store="memory:", pool=False)) as jobpipe:
        http = HttpServer(jobpipe.asgi)
        serving = asyncio.create_task(http.serve(sockets=sockets))
        try:
            yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        finally:
            http.stop()
            await serving
            for bound in sockets:
                bound.close()


async def test_the_server_of_the_environment_gets_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as url:
        monkeypatch.setenv("JOBPIPE_URL", url)
        try:
            task = await send.options(id="a/1", delay=60).enqueue(to="ann")
            assert (task.id, task.payload, task.queue, task.max_retries) == ("a/1", {"to": "ann"}, "mail", 9)
            # The delay counts from when the request was read, a moment before the task was accepted.
            assert (task.run_at - task.created_at).total_seconds() == pytest.approx(60, abs=1)
            other = await asyncio.to_thread(send.enqueue_sync, "bob")
            assert (other.payload, other.status) == ({"to": "bob"}, "queued")
            with pytest.raises(TaskExists):
                await send.options(id="a/1").enqueue(to="ann")
            with pytest.raises(Invalid):
                await send.options(priority=1000).enqueue(to="ann")
        finally:
            await app.disconnect()


async def test_an_app_can_be_connected_to_a_server_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPIPE_URL", "http://127.0.0.1:1")
    async with serving() as url:
        app.connect(url)
        try:
            assert (await send.enqueue(to="ann")).handler == "send"
        finally:
            await app.disconnect()


async def test_each_event_loop_has_its_own_connection() -> None:
    async with serving() as url:
        enqueuer = RemoteEnqueuer(url)

        async def elsewhere() -> str:
            task = await enqueuer.enqueue(send.request(["bob"], {}))
            await enqueuer.close()
            return task.id

        here = await enqueuer.enqueue(send.request(["ann"], {}))
        there = await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        again = await enqueuer.enqueue(send.request(["cid"], {}))
        assert len({here.id, there, again.id}) == 3
        await enqueuer.close()
        await enqueuer.close()
