"""How the HTTP edge ends: at once when it can, soon when clients are slow, and silently in any case."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jobpipe.http import HttpServer, listen

from .conftest import Server
from .test_api_protocol import HEALTH, HOST, OK, Wire, connect, post, waiter_for

GRACE_S = 0.5


@pytest.fixture(params=["live", "fast"])
def lane(request: pytest.FixtureRequest) -> str:
    """Only a live server has an end."""
    return str(request.param)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Whoever is cut off, the log stays clean."""
    yield
    noise = [record for record in caplog.get_records("call") if record.levelno >= logging.WARNING]
    assert noise == []


class Edge:
    """An HttpServer over any application, and how long it took to stop."""

    def __init__(self, app: Any) -> None:
        self.http = HttpServer(app)
        sockets = listen("127.0.0.1", 0)
        self.port: int = sockets[0].getsockname()[1]
        self.serving = asyncio.ensure_future(self.http.serve(sockets=sockets))

    async def stop(self) -> float:
        begin = time.monotonic()
        self.http.stop()
        await self.serving
        return time.monotonic() - begin


@asynccontextmanager
async def edge_of(app: Any) -> AsyncIterator[tuple[Edge, Wire]]:
    """An edge, and one connection to it."""
    edge = Edge(app)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    try:
        yield edge, Wire(reader, writer)
    finally:
        writer.close()
        await edge.stop()


async def answer(send: Any, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def healthy(scope: Any, receive: Any, send: Any) -> None:
    while (message := await receive())["type"] == "http.request":
        if not message["more_body"]:
            await answer(send, OK)
            return


@pytest.mark.alone
async def test_an_idle_server_stops_at_once() -> None:
    async with edge_of(healthy) as (edge, wire):
        wire.send(HEALTH)
        assert (await wire.answer())[2] == OK
        assert await edge.stop() < 0.05
        await wire.closed()


@pytest.mark.alone
@pytest.mark.parametrize(
    "data", [b"", b"GET /hea", post(b'{"id":"t1"}')[:-3], HEALTH + b"BR", HEALTH + post(b"{}")[:-1]]
)
async def test_a_request_that_has_not_arrived_whole_does_not_hold_the_server(data: bytes) -> None:
    async with edge_of(healthy) as (edge, wire):
        wire.send(data)
        if data.startswith(HEALTH):
            assert (await wire.answer())[2] == OK
        else:
            await asyncio.sleep(0.02)
        assert await edge.stop() < 0.1
        await wire.closed()


async def test_a_body_that_is_read_when_the_server_stops_stores_nothing(server: Server) -> None:
    assert server.http is not None
    async with connect(server) as wire:
        wire.send(post(b'{"id":"t1"}')[:-3])
        while not any(connection.cycle for connection in server.http.server_state.connections):
            await asyncio.sleep(0.001)
        server.http.stop()
        await wire.closed()
    assert await server.ids() == []


@pytest.mark.alone
async def test_a_client_that_does_not_read_is_cut_off_after_the_grace() -> None:
    async def much(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * 50_000_000)

    async with edge_of(much) as (edge, wire):
        wire.send(HEALTH)
        await wire.reader.readexactly(10)
        assert GRACE_S * 0.9 < await edge.stop() < GRACE_S + 0.4


@pytest.mark.alone
async def test_a_stream_that_does_not_end_is_cut_off_after_the_grace() -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            await asyncio.sleep(0)

    async with edge_of(endless) as (edge, wire):
        wire.send(HEALTH)
        await wire.reader.readexactly(10)
        assert await edge.stop() < GRACE_S + 0.4


@pytest.mark.alone
async def test_what_was_asked_whole_is_answered_within_the_grace() -> None:
    go = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await answer(send, OK)

    async with edge_of(slow) as (edge, wire):
        wire.send(HEALTH + HEALTH + b"GET /hea")
        await asyncio.sleep(0.02)
        stopping = asyncio.ensure_future(edge.stop())
        await asyncio.sleep(0.02)
        go.set()
        for _ in range(2):
            assert (await wire.answer())[2] == OK
        await wire.closed()
        assert await stopping < 0.2


async def test_a_request_that_heeds_nothing_is_cancelled_silently() -> None:
    ended = asyncio.Event()

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with edge_of(stubborn) as (edge, wire):
        wire.send(HEALTH)
        await asyncio.sleep(0.02)
        assert await edge.stop() < GRACE_S + 0.4
        assert ended.is_set()
        assert await wire.reader.read() == b""


async def test_a_waiting_task_is_cut_off_with_its_connection(server: Server) -> None:
    """Who composes the server drains first; then this waits for nothing."""
    assert server.http is not None
    await server.enqueue(id="t1")
    async with connect(server) as wire:
        wire.send(b"GET /tasks/t1?wait=60 HTTP/1.1\r\n" + HOST + b"\r\n")
        await waiter_for(server, "t1")
        server.http.stop()
        await wire.closed()
        await waiter_for(server, "t1", there=False)


async def test_an_early_refusal_can_still_be_read_while_the_server_stops(server: Server) -> None:
    assert server.http is not None
    async with connect(server) as wire:
        wire.send(b"POST /enqueue HTTP/1.1\r\n" + HOST + b"Content-Length: 30000000\r\n\r\n")
        for _ in range(20):
            wire.send(b"x" * 65536)
        head = await wire.reader.readuntil(b"\r\n\r\n")
        server.http.stop()
        assert head.startswith(b"HTTP/1.1 413 Content Too Large\r\n")
        assert json.loads(await wire.reader.read())["code"] == "too_large"


async def test_a_fault_of_the_application_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/raises":
            raise ValueError("an error of the application")
        if scope["path"] == "/begins":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    for path in (b"/raises", b"/ends"):
        async with edge_of(broken) as (_, wire):
            wire.send(HEALTH.replace(b"/healthz", path))
            assert (await wire.answer())[0] == 500
    async with edge_of(broken) as (_, wire):
        wire.send(HEALTH.replace(b"/healthz", b"/begins"))
        await wire.closed()
    told = [record.levelname for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == ["ERROR"] * 3
    caplog.clear()
