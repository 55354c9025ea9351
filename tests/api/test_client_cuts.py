"""A proxy that cuts requests and answers at each of their points: nothing is lost or made twice, each gets its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Final

import pytest

from jobpipe import AsyncClient, Client, ConnectionFailed, Retries, RetryPolicy, Task

from .conftest import Server, Start

POINTS: Final = ("nothing sent", "half sent", "no answer", "half a head", "half a body", "closed after")
AT_A_TIME: Final = 24
STUBBORN: Final = Retries(count=100, backoff=RetryPolicy(base=0.001, jitter=0.001))
Enqueue = Callable[..., Awaitable[list[Any]]]


@pytest.fixture
def lane() -> str:
    return "live"


@pytest.fixture
async def server(start: Start) -> Server:
    return await start(queue_size=100_000)


class Cutting:
    """Passes requests and answers on, and ends every second exchange at the next of POINTS."""

    def __init__(self, to: int) -> None:
        self.met: Counter[str] = Counter()
        self.serving: set[asyncio.Task[None] | None] = set()
        self._to = to
        self._exchanges = count()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        there, out = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._exchange(reader, writer, there, out):
                    pass
        finally:
            writer.close()
            out.close()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        out: asyncio.StreamWriter,
    ) -> bool:
        request = b"".join(await _message(reader))
        turn = next(self._exchanges)
        point = POINTS[turn // 2 % len(POINTS)] if turn % 2 else ""
        self.met[point] += 1
        if point == "nothing sent":
            return False
        out.write(request[: len(request) // 2] if point == "half sent" else request)
        await out.drain()
        if point == "half sent":
            return False
        head, body = await _message(there)
        if point == "half a head":
            head, body = head[:20], b""
        elif point == "half a body":
            body = body[: len(body) // 2]
        if point != "no answer":
            writer.write(head + body)
            await writer.drain()
        return not point


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head, await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[tuple[Cutting, str]]:
    cutting = Cutting(server.port or 0)
    listening = await asyncio.start_server(cutting.serve, "127.0.0.1", 0, limit=1 << 22)
    yield cutting, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()
    for task in cutting.serving:
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture(params=["coroutines", "threads"])
async def enqueue(request: pytest.FixtureRequest, proxy: tuple[Cutting, str]) -> AsyncIterator[Enqueue]:
    """Enqueue each payload with its options at one moment; the tasks, or errors."""
    if request.param == "coroutines":
        async with AsyncClient(proxy[1], retries=STUBBORN) as client:
            yield lambda payloads, named: asyncio.gather(
                *(client.enqueue("h", n, **named(n)) for n in payloads), return_exceptions=True
            )
        return
    with Client(proxy[1], retries=STUBBORN) as blocking, ThreadPoolExecutor(AT_A_TIME) as pool:

        def one(payload: int, options: dict[str, Any]) -> object:
            try:
                return blocking.enqueue("h", payload, **options)
            except Exception as error:
                return error

        async def threads(payloads: Sequence[int], named: Callable[[int], dict[str, Any]]) -> list[Any]:
            loop = asyncio.get_running_loop()
            return await asyncio.gather(*(loop.run_in_executor(pool, one, n, named(n)) for n in payloads))

        yield threads


async def rounds(cutting: Cutting, size: int) -> AsyncIterator[range]:
    """Payloads, until each point was met twice."""
    for number in range(100):
        if all(cutting.met[point] >= 2 for point in POINTS):
            return
        yield range(number * size, (number + 1) * size)
    raise AssertionError(f"not all points were met: {cutting.met}")


async def stored(server: Server) -> Counter[int]:
    async with AsyncClient(f"http://127.0.0.1:{server.port}") as client:
        return Counter([task.payload async for task in client.list()])


WAYS: Final[dict[str, Callable[[int], dict[str, Any]]]] = {
    "an id of the client's": lambda _: {},
    "a key of the request": lambda n: {"idempotency_key": f"order-{n}"},
    "a key of the task": lambda n: {"unique": f"order-{n}"},
}


@pytest.mark.parametrize("way", WAYS)
async def test_calls_of_one_moment(
    server: Server, proxy: tuple[Cutting, str], enqueue: Enqueue, way: str
) -> None:
    sent = 0
    async for payloads in rounds(proxy[0], AT_A_TIME):
        tasks = await enqueue(payloads, WAYS[way])
        assert [getattr(task, "payload", task) for task in tasks] == list(payloads)
        assert len({task.id for task in tasks}) == len(payloads)
        sent += len(payloads)
    assert await stored(server) == Counter(range(sent))


async def test_ids_of_the_callers(server: Server, proxy: tuple[Cutting, str], enqueue: Enqueue) -> None:
    """They are not sent twice blindly: who has no answer is told that the task may have arrived."""
    answered, unknown = set(), set()
    async for payloads in rounds(proxy[0], AT_A_TIME):
        for payload, outcome in zip(
            payloads, await enqueue(payloads, lambda n: {"id": f"mine-{n}"}), strict=True
        ):
            if isinstance(outcome, Task):
                assert (outcome.id, outcome.payload) == (f"mine-{payload}", payload)
                answered.add(payload)
            else:
                assert isinstance(outcome, ConnectionFailed)
                assert outcome.maybe_sent
                unknown.add(payload)
    found = await stored(server)
    assert set(found.values()) == {1}
    assert answered <= set(found) <= answered | unknown


@pytest.mark.parametrize("kind", [list, iter])
async def test_many_together(server: Server, proxy: tuple[Cutting, str], kind: Any) -> None:
    sent = 0
    async with AsyncClient(proxy[1], retries=STUBBORN) as client:
        async for payloads in rounds(proxy[0], 300):
            told: Any = await client.enqueue_many(kind([{"handler": "h", "payload": n} for n in payloads]))
            if kind is iter:
                assert (told.count, told.refused) == (300, [])
            else:
                assert [task.payload for task in told] == list(payloads)
            sent += 300
    assert await stored(server) == Counter(range(sent))
