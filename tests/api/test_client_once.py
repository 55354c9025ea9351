"""The clients send again what had no answer: behind a proxy that swallows answers, nothing is made twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from jobpipe import App
from jobpipe.client import AsyncClient, Client, ConnectionFailed

from .conftest import Server

app = App()


@app.handler
async def bill(order: int) -> None: ...


@pytest.fixture
def lane() -> str:
    return "live"


class Swallowing:
    """Passes requests on, and cuts the connection in place of every second answer."""

    def __init__(self, to: int) -> None:
        self._to = to
        self.swallowed = 0
        self.serving: set[asyncio.Task[None] | None] = set()
        self._answers = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        there, out = await asyncio.open_connection("127.0.0.1", self._to)
        asking = asyncio.create_task(_pass_on(reader, out))
        try:
            while answer := await there.read(1 << 16):
                self._answers += 1
                if self._answers % 2:
                    self.swallowed += 1
                    break
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            asking.cancel()
            writer.close()
            out.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[tuple[Swallowing, str]]:
    swallowing = Swallowing(server.port)
    listening = await asyncio.start_server(swallowing.serve, "127.0.0.1", 0)
    yield swallowing, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()
    for task in swallowing.serving:
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


async def stored(server: Server) -> Counter[int]:
    """How often each payload's order is stored."""
    tasks = (await server.get("/tasks?limit=1000")).json()
    return Counter(task["payload"]["order"] for task in tasks)


async def test_a_handler_enqueues_each_call_once(server: Server, proxy: tuple[Swallowing, str]) -> None:
    swallowing, url = proxy
    app.connect(url)
    ids = set()
    for order in range(10):
        ids.add((await bill.enqueue(order=order)).id)
        ids.add((await bill.options(unique=f"order-{order}").enqueue(order=100 + order)).id)
        again = await bill.options(unique=f"order-{order}", expires=60).enqueue(order=200 + order)
        assert again.id in ids
        ids.add((await asyncio.to_thread(bill.enqueue_sync, order=300 + order)).id)
    await app.route.disconnect()
    assert swallowing.swallowed > 20
    counted = await stored(server)
    assert set(counted.values()) == {1}
    assert sorted(counted) == [*range(10), *range(100, 110), *range(300, 310)]
    assert len(ids) == 30


async def test_every_way_of_enqueueing_makes_one(server: Server, proxy: tuple[Swallowing, str]) -> None:
    swallowing, url = proxy
    async with AsyncClient(url) as client:
        for order in range(8):
            named = await client.enqueue("bill", {"order": order}, idempotency_key=f"o{order}")
            assert named.payload == {"order": order}
            replaced = {"key": "k", "on_conflict": "replace"}
            task = await client.enqueue("bill", {"order": 50}, unique=replaced)
            assert task.payload == {"order": 50}
            await client.enqueue(
                "bill", {"order": 60}, unique={"key": f"r{order}", "on_conflict": "reject"}, id=None
            )
        await client.enqueue_many([{"handler": "bill", "payload": {"order": 70 + n}} for n in range(20)])
    assert swallowing.swallowed > 15
    counted = await stored(server)
    assert counted.pop(60) == 8
    assert set(counted.values()) == {1}
    assert len(counted) == 8 + 1 + 20


async def test_many_at_once_and_streamed_are_made_once(server: Server, proxy: tuple[Swallowing, str]) -> None:
    swallowing, url = proxy
    app.connect(url)
    await bill.enqueue_many([{"order": n} for n in range(10)])
    await app.route.disconnect()
    async with AsyncClient(url) as client:
        done = await client.enqueue_many({"handler": "bill", "payload": {"order": n}} for n in range(10, 30))
        await asyncio.gather(*(client.enqueue("bill", {"order": n}) for n in range(30, 45)))
    assert (done.count, done.refusals) == (20, 0)

    def blocking() -> None:
        with Client(url) as client:
            client.enqueue_many([{"handler": "bill", "payload": {"order": n}} for n in range(45, 55)])

    await asyncio.to_thread(blocking)
    assert swallowing.swallowed >= 4
    assert await stored(server) == Counter(range(55))


async def test_a_schedule_whose_answer_was_lost_is_made_once(
    server: Server, proxy: tuple[Swallowing, str]
) -> None:
    swallowing, url = proxy
    async with AsyncClient(url) as client:
        made = await client.schedules.put("s", {"handler": "bill", "payload": {"order": 1}}, every=3600)
        changed = await client.schedules.put("s", {"handler": "bill", "payload": {"order": 2}}, every=3600)
        assert (await client.schedules.pause("s")).paused is True
        assert (await client.schedules.resume("s")).paused is False
        ran = 0
        for _ in range(4):  # what would make a second task is not sent again: the caller is told
            with contextlib.suppress(ConnectionFailed):
                await client.schedules.run("s")
            ran += 1
        assert [one.name for one in await client.schedules.list()] == ["s"]
    assert (made.next_at, changed.task["payload"]) == (changed.next_at, {"order": 2})
    assert swallowing.swallowed > 4
    assert await stored(server) == Counter({2: ran})
