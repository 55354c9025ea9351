"""One suite, three servers: the application called in process, behind a real socket, and with the fast lane before it.

`start` makes a server with its own settings, `server` is one with the usual ones. Both use a real queue in memory.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

import postgres
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Report
from jobpipe.engine.workers import Worker
from jobpipe.http import HttpConfig, HttpServer, create_app, listen
from jobpipe.http.protocol import JobpipeProtocol
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import TaskFilter


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, LoopFactory]:
    """The loop that servers use."""
    if sys.platform == "win32":
        return {"asyncio": asyncio.new_event_loop}
    import uvloop

    return {"uvloop": uvloop.new_event_loop}


class QuickProtocol(JobpipeProtocol):
    """Deadlines that a test can wait for, and that a busy machine meets when it is not to."""

    HEAD_DEADLINE_S = 0.6
    BODY_DEADLINE_S = 0.8
    LINGER_S = 0.5


@dataclass
class Server:
    """A running server and what a test may want of it."""

    client: httpx2.AsyncClient
    queue: TaskQueue
    clock: ManualClock
    config: HttpConfig
    port: int | None
    http: HttpServer | None

    async def enqueue(self, body: object = None, **fields: Any) -> httpx2.Response:
        """POST /enqueue with `body`, or with an object of `fields`."""
        return await self.post("/enqueue", fields if body is None else body)

    async def post(self, path: str, body: object, **headers: str) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=content, headers=headers)

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        return await self.client.get(path, headers=headers)

    async def ids(self) -> list[str]:
        """The ids of all tasks that are stored."""
        return [task.id for task in (await self.queue.page(TaskFilter(), 1000)).tasks]

    async def claim(self) -> Claim:
        """The next due task, claimed."""
        (claim,) = await self.queue.claim("worker-1", 1)
        return claim

    async def settle(self, claim: Claim, kind: Kind = Kind.DONE, **outcome: Any) -> None:
        await self.queue.settle([Report(claim.task.id, claim.lease_id, Outcome(kind, **outcome))])

    async def run_one(self, kind: Kind = Kind.DONE, **outcome: Any) -> None:
        """Claim the next task and settle it."""
        await self.settle(await self.claim(), kind, **outcome)


LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Start = Callable[..., Awaitable[Server]]


@pytest.fixture(params=["in process", "live", "fast", "postgres"])
def lane(request: pytest.FixtureRequest) -> str:
    """How the application is reached: `postgres` is in process, over a store on PostgreSQL."""
    return str(request.param)


@pytest.fixture
async def start(lane: str) -> AsyncIterator[Start]:
    """Make a server; keyword arguments are fields of HttpConfig, and `workers`."""
    async with AsyncExitStack() as stack:

        async def make(*, workers: Callable[[], Sequence[Worker]] = tuple, **settings: Any) -> Server:
            clock, store = _store(lane)
            config = HttpConfig(clock=clock, fast_lane=lane == "fast", **settings)
            queue = TaskQueue(
                open_storage(store, capacity=config.queue_size, max_queues=5, clock=clock), clock=clock
            )
            queue.workers.own = workers
            await queue.open()
            stack.push_async_callback(queue.close)
            app = create_app(queue, config)
            if lane in ("in process", "postgres"):
                transport = httpx2.ASGITransport(app)
                client = httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=20)
                return Server(await stack.enter_async_context(client), queue, clock, config, None, None)
            http = HttpServer(app, grace_s=1, protocol=QuickProtocol)
            port = await _run(stack, http)
            client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20)
            return Server(await stack.enter_async_context(client), queue, clock, config, port, http)

        yield make


def _store(lane: str) -> tuple[ManualClock, str]:
    """A clock, and the URL of an empty store that goes by it."""
    if lane != "postgres":
        return ManualClock(), "memory:"
    url = postgres.empty_store()
    return postgres.shared_cluster().clock(), url


async def _run(stack: AsyncExitStack, http: HttpServer) -> int:
    sockets = listen("127.0.0.1", 0)
    port: int = sockets[0].getsockname()[1]
    serving = asyncio.create_task(http.serve(sockets=sockets))

    async def stop() -> None:
        http.stop()
        await serving

    stack.push_async_callback(stop)
    return port


@pytest.fixture
async def server(start: Start) -> Server:
    """A server with the usual settings."""
    return await start()


def assert_problem(
    response: httpx2.Response, status: int, code: str, field: str | None = None
) -> dict[str, Any]:
    """The response is problem details with this status and code, naming this field; its body."""
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["code"], body.get("field")) == (status, code, field), body
    assert response.headers["content-type"] == "application/problem+json"
    assert body["type"] == "about:blank"
    assert body["status"] == status
    assert body["title"]
    assert body["error"]
    assert "Traceback" not in response.text
    return body
