"""HTTP itself, byte by byte over a socket: limits, deadlines, and requests that no client library would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from .conftest import Server

HOST = b"Host: localhost\r\n"
OK = b'{"status":"ok"}'


@pytest.fixture
def lane() -> str:
    """Only a live server has a protocol."""
    return "live"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Whatever a client sends, the log stays clean."""
    yield
    noise = [record for record in caplog.get_records("call") if record.levelno >= logging.WARNING]
    assert noise == []


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """The next answer: status, headers, body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get(b"content-length", 0)))
        return int(first.split(b" ")[1]), headers, body

    async def refusal(self, status: int, code: str) -> dict[str, Any]:
        """The next answer is this problem, and the last."""
        answered, headers, body = await self.answer()
        problem: dict[str, Any] = json.loads(body)
        assert (answered, problem["status"], problem["code"]) == (status, status, code), body
        assert headers[b"content-type"] == b"application/problem+json"
        assert headers[b"connection"] == b"close"
        await self.closed()
        return problem

    async def closed(self) -> None:
        """The server has ended the connection, and sent nothing more."""
        assert await self.reader.read() == b""


@contextlib.asynccontextmanager
async def connect(server: Server) -> AsyncIterator[Wire]:
    assert server.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def post(body: bytes, *headers: bytes, path: bytes = b"/enqueue") -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (path, HOST, lines, len(body), body)


HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"no HTTP at all\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /enqueue HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /enqueue HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /enqueue HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        b"POST /enqueue HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /enqueue HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"POST /enqueue HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_what_is_malformed_is_400_as_problem_json(server: Server, data: bytes) -> None:
    async with connect(server) as wire:
        wire.send(data)
        if data.startswith(b"GET /healthz"):
            assert (await wire.answer())[0] == 400
        else:
            await wire.refusal(400, "invalid")
    assert await server.ids() == []


async def test_http_1_0_needs_no_host_and_closes(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        status, headers, body = await wire.answer()
        assert (status, headers[b"connection"], body) == (200, b"close", OK)
        await wire.closed()


async def test_answers_carry_the_date_and_not_the_servers_name(server: Server) -> None:
    response = await server.get("/healthz")
    assert response.headers["date"].endswith(" GMT")
    assert "server" not in response.headers


@pytest.mark.parametrize("ends", [True, False])
async def test_headers_over_16_kib_are_431(server: Server, ends: bool) -> None:
    async with connect(server) as wire:
        wire.send(
            b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 17_000 + (b"\r\n\r\n" if ends else b"")
        )
        await wire.refusal(431, "headers_too_large")


async def test_many_small_headers_and_a_long_path_count_too(server: Server) -> None:
    for data in (
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 3000,
        b"GET /" + b"x" * 17_000,
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"x" * 17_000,
    ):
        async with connect(server) as wire:
            wire.send(data)
            await wire.refusal(431, "headers_too_large")


async def test_headers_below_16_kib_are_taken_also_with_a_large_body(server: Server) -> None:
    async with connect(server) as wire:
        body = b'{"payload":"' + b"x" * 500_000 + b'"}'
        for _ in range(2):
            wire.send(post(body, b"X: " + b"x" * 15_000))
            assert (await wire.answer())[0] == 202


async def test_the_limit_holds_for_each_request_of_a_connection(server: Server) -> None:
    request = b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 10_000 + b"\r\n\r\n"
    async with connect(server) as wire:
        wire.send(request * 5)
        for _ in range(5):
            assert (await wire.answer())[0] == 200
        wire.send(HEALTH + b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 20_000 + b"\r\n\r\n")
        assert (await wire.answer())[0] == 200
        await wire.refusal(431, "headers_too_large")


async def test_a_head_that_comes_slowly_is_cut(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(b"GET /healthz HT")
        problem = await wire.refusal(408, "invalid")
        assert problem["error"] == "request timed out"


async def test_dripping_does_not_move_the_deadline(server: Server) -> None:
    async with connect(server) as wire:

        async def drip() -> None:
            for byte in b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
                wire.send(bytes([byte]))
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        await wire.refusal(408, "invalid")
        dripping.cancel()


@pytest.mark.parametrize("data", [b"", b"\r\n"])
async def test_a_connection_that_says_nothing_is_closed(server: Server, data: bytes) -> None:
    async with connect(server) as wire:
        wire.send(data)
        await wire.closed()


async def test_a_body_that_comes_slowly_is_cut_and_others_are_unharmed(server: Server) -> None:
    async with connect(server) as slow, connect(server) as other:
        slow.send(post(b'{"payload":1}')[:-5])
        for _ in range(3):
            other.send(HEALTH)
            assert (await other.answer())[0] == 200
        await slow.refusal(408, "invalid")
        other.send(HEALTH)
        assert (await other.answer())[0] == 200
    assert await server.ids() == []


async def test_a_request_in_pieces_within_the_deadline_is_served(server: Server) -> None:
    async with connect(server) as wire:
        data = post(b'{"id":"t1"}')
        for begin in range(0, len(data), 10):
            wire.send(data[begin : begin + 10])
            await asyncio.sleep(0)
        assert (await wire.answer())[0] == 202
        wire.send(HEALTH)
        assert (await wire.answer())[0] == 200


async def test_a_keep_alive_connection_outlives_the_deadlines_of_receiving(server: Server) -> None:
    async with connect(server) as wire:
        for _ in range(2):
            wire.send(HEALTH)
            assert (await wire.answer())[0] == 200
            await asyncio.sleep(0.5)  # longer than both deadlines: what is waited for is that nothing happens


async def test_a_declared_length_over_the_limit_is_413_before_reading(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(b"POST /enqueue HTTP/1.1\r\n" + HOST + b"Content-Length: 999999999999\r\n\r\n")
        await wire.refusal(413, "too_large")


async def test_a_client_that_keeps_sending_still_reads_its_413(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(b"POST /enqueue HTTP/1.1\r\n" + HOST + b"Content-Length: 30000000\r\n\r\n")
        for _ in range(50):
            wire.send(b"x" * 65536)
        await wire.refusal(413, "too_large")


async def test_a_chunked_body_past_the_limit_is_413_and_closed(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(b"POST /enqueue HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b'"' + b"x" * 65535 + b"\r\n"
        for _ in range(17):
            wire.send(chunk)
        await wire.refusal(413, "too_large")


async def test_a_chunked_task_is_accepted_and_its_trailers_are_nobodys_headers(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(b"POST /enqueue HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        wire.send(b'5\r\n{"id"\r\n6;x=y\r\n:"t1"}\r\n0\r\nOrigin: http://evil.example\r\n\r\n')
        assert (await wire.answer())[0] == 202
        wire.send(HEALTH)
        assert (await wire.answer())[0] == 200
    assert await server.ids() == ["t1"]


async def test_expect_100_continue_is_answered_before_the_body(server: Server) -> None:
    async with connect(server) as wire:
        head, _, body = post(b'{"id":"t1"}', b"Expect: 100-continue").partition(b"\r\n\r\n")
        wire.send(head + b"\r\n\r\n")
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(body)
        assert (await wire.answer())[0] == 202


async def test_expect_100_continue_is_not_invited_when_refused(server: Server) -> None:
    server.queue.drain()
    async with connect(server) as wire:
        wire.send(b"POST /enqueue HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        await wire.refusal(503, "draining")
    async with connect(server) as wire:
        wire.send(b"POST /nope HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        await wire.refusal(404, "not_found")


async def test_draining_closes_the_connection(server: Server) -> None:
    server.queue.drain()
    async with connect(server) as wire:
        wire.send(post(b"{}"))
        await wire.refusal(503, "draining")


async def test_an_upgrade_to_h2c_is_ignored_and_the_body_kept(server: Server) -> None:
    upgrade = (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    async with connect(server) as wire:
        for pieces in (1, 7):
            data = post(
                b'{"payload":"%d"}' % pieces,
                *upgrade,
                b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
            )
            size = -(-len(data) // pieces)
            for begin in range(0, len(data), size):
                wire.send(data[begin : begin + size])
                await wire.writer.drain()
                await asyncio.sleep(0.005)
            status, _, body = await wire.answer()
            assert (status, json.loads(body)["payload"]) == (202, str(pieces))
        claim = await server.claim()
        assert claim.task.traceparent is not None
        wire.send(HEALTH)
        assert (await wire.answer())[0] == 200


async def test_an_upgrade_to_websocket_is_ignored(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(HEALTH[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n" + HEALTH)
        assert (await wire.answer())[0] == 200
        assert (await wire.answer())[0] == 200


async def test_a_pipeline_is_answered_in_order(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(b"".join(post(b'{"id":"%d"}' % n) for n in range(60)))
        for n in range(60):
            status, _, body = await wire.answer()
            assert (status, json.loads(body)["id"]) == (202, str(n))


async def test_a_pipeline_is_bounded(server: Server) -> None:
    """While the first request waits, the server takes only so many more, and answers all in the end."""
    await server.enqueue(id="t1")
    async with connect(server) as wire:
        wire.send(b"GET /tasks/t1?wait=30 HTTP/1.1\r\n" + HOST + b"\r\n")
        requests = 20_000
        sending = asyncio.create_task(_drain(wire, HEALTH * requests))
        while "t1" not in server.queue._finish:
            await asyncio.sleep(0.001)
        assert server.http is not None
        (connection,) = [c for c in server.http.server_state.connections if c.pipeline]
        await asyncio.sleep(0.1)
        assert 0 < len(connection.pipeline) < 300
        assert connection.flow.read_paused
        await server.run_one()
        assert (await wire.answer())[0] == 200
        for _ in range(requests):
            assert (await wire.answer())[2] == OK
        await sending


async def _drain(wire: Wire, data: bytes) -> None:
    wire.send(data)
    await wire.writer.drain()


async def test_a_pipelined_body_larger_than_a_read_arrives(server: Server) -> None:
    body = b'{"payload":"' + b"x" * 900_000 + b'"}'
    async with connect(server) as wire:
        wire.send((HEALTH + post(body) + HEALTH) * 3)
        for expected in (200, 202, 200) * 3:
            assert (await wire.answer())[0] == expected


async def test_what_was_sent_before_the_broken_request_is_answered(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(post(b'{"id":"a"}') + HEALTH + b"broken\r\n\r\n")
        assert (await wire.answer())[0] == 202
        assert (await wire.answer())[0] == 200
        await wire.refusal(400, "invalid")
    async with connect(server) as wire:
        wire.send(
            HEALTH + b"POST /enqueue HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"
        )
        assert (await wire.answer())[0] == 200
        await wire.refusal(400, "invalid")


async def test_a_half_closed_client_gets_its_answers(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(post(b'{"id":"a"}') + post(b'{"id":"b"}'))
        wire.writer.write_eof()
        assert (await wire.answer())[0] == 202
        assert (await wire.answer())[0] == 202
        await wire.closed()


async def test_a_client_that_leaves_while_its_task_commits_does_no_harm(server: Server) -> None:
    for n in range(20):
        async with connect(server) as wire:
            wire.send(post(b'{"id":"%d"}' % n))
            await wire.writer.drain()
            if n % 2:
                wire.writer.transport.abort()
    async with connect(server) as wire:
        wire.send(post(b'{"id":"unfinished"')[:-3])
        await wire.writer.drain()
    response = await server.get("/healthz")
    assert response.status_code == 200
    assert "unfinished" not in await server.ids()


async def test_a_large_answer_to_a_slow_reader_arrives_whole(server: Server) -> None:
    for n in range(8):
        await server.enqueue(id=str(n), payload="x" * 1_000_000)
    async with connect(server) as wire:
        wire.send(b"GET /tasks HTTP/1.1\r\n" + HOST + b"\r\n" + HEALTH)
        await asyncio.sleep(0.05)
        assert len(json.loads((await wire.answer())[2])) == 8
        assert (await wire.answer())[0] == 200


async def test_stopping_waits_for_answers_and_closes_idle_connections(server: Server) -> None:
    assert server.http is not None
    await server.enqueue(id="t1")
    async with connect(server) as idle, connect(server) as waiting:
        idle.send(HEALTH)
        await idle.answer()
        waiting.send(b"GET /tasks/t1?wait=30 HTTP/1.1\r\n" + HOST + b"\r\n")
        while "t1" not in server.queue._finish:
            await asyncio.sleep(0.001)
        server.http.stop()
        await idle.closed()
        server.queue.drain()
        status, headers, _ = await waiting.answer()
        assert (status, headers[b"connection"]) == (200, b"close")
        await waiting.closed()


async def test_random_bytes_crash_nothing(server: Server) -> None:
    import random

    source = random.Random(7)
    pieces = [
        b"GET ",
        b"POST ",
        b"/enqueue",
        b" HTTP/1.1\r\n",
        HOST,
        b"Content-Length: 5\r\n",
        b"\r\n",
        b"{}",
        b"\0",
    ]
    pieces += [b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\n"]
    for _ in range(100):
        async with connect(server) as wire:
            wire.send(b"".join(source.choices([*pieces, source.randbytes(5)], k=12)))
            wire.writer.write_eof()
            answers = await wire.reader.read()
            assert b" 500 " not in answers
    assert (await server.get("/healthz")).status_code == 200
