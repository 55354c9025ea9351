"""HTTP itself, byte by byte over a socket: limits, deadlines, and requests that no client library would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from .conftest import QuickProtocol, Server

HOST = b"Host: localhost\r\n"
OK = b'{"status":"ok"}'


@pytest.fixture(params=["live", "fast"])
def lane(request: pytest.FixtureRequest) -> str:
    """Only a live server has a protocol."""
    return str(request.param)


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

    def send_eof(self) -> None:
        """Send nothing more, and go on reading."""
        self.writer.write_eof()

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


@pytest.mark.parametrize("method", [b"BREW", b"get", b"GETX", b"DESCRIBE", b"PURGE"])
@pytest.mark.parametrize("piece", [1000, 3])
@pytest.mark.parametrize("before", [b"", HEALTH, post(b'{"id":"t1"}')])
async def test_any_other_method_is_405_with_allow_or_404(
    server: Server, method: bytes, piece: int, before: bytes
) -> None:
    for path, status, code, allow in (
        (b"/healthz", 405, "method_not_allowed", b"get, head"),
        (b"/tasks/x", 405, "method_not_allowed", b"delete, get, head, patch"),
        (b"/nowhere", 404, "not_found", None),
    ):
        async with connect(server) as wire:
            request = method + b" " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n"
            if piece == 1000:
                wire.send(before + request)
            else:
                wire.send(before)
                await send_in_pieces(wire, request, piece)
            if before:
                assert (await wire.answer())[0] in (200, 202, 409)
            answered, headers, body = await wire.answer()
            assert (answered, json.loads(body)["code"], headers.get(b"allow")) == (status, code, allow)
            if method != b"PURGE":  # llhttp knows that one
                assert headers[b"connection"] == b"close"
                await wire.closed()


async def test_a_foreign_method_is_guarded_and_limited_like_any_other(server: Server) -> None:
    for headers, status, code in (
        (b"Host: evil.example\r\n\r\n", 421, "wrong_host"),
        (HOST + b"Origin: http://evil.example\r\n\r\n", 403, "forbidden"),
        (b"\r\n", 400, "invalid"),
    ):
        async with connect(server) as wire:
            wire.send(b"BREW /tasks HTTP/1.1\r\n" + headers)
            await wire.refusal(status, code)
    async with connect(server) as wire:
        wire.send(b"X" * 17_000)
        await wire.refusal(431, "headers_too_large")
    async with connect(server) as wire:
        wire.send(b"BREW /tas")
        await wire.refusal(408, "invalid")
    async with connect(server) as wire:
        wire.send(b"BREW /tasks HTTP/1.1\r\n" + HOST + b"Bad Header: x\r\n\r\n")
        await wire.refusal(400, "invalid")


async def test_a_foreign_method_may_have_a_body_and_what_follows_it_is_dropped(server: Server) -> None:
    body = b'{"id":"t1"}' * 1000
    async with connect(server) as wire:
        wire.send(post(body).replace(b"POST", b"BREW") + post(b'{"id":"t2"}'))
        await wire.refusal(405, "method_not_allowed")
    async with connect(server) as wire:
        wire.send((b"BREW /enqueue HTTP/1.1\r\n" + HOST + b"\r\n") * 2000)
        await wire.refusal(405, "method_not_allowed")
    assert await server.ids() == []


@pytest.mark.parametrize(
    "coding",
    [b"gzip, chunked", b"gzip\r\nTransfer-Encoding: chunked", b"chunked\r\nTransfer-Encoding: chunked"],
)
@pytest.mark.parametrize("upgrade", [b"", b"Connection: upgrade\r\nUpgrade: foo\r\n"])
async def test_another_transfer_coding_is_refused(server: Server, coding: bytes, upgrade: bytes) -> None:
    async with connect(server) as wire:
        wire.send(b"POST /enqueue HTTP/1.1\r\n" + HOST + upgrade + b"Transfer-Encoding: " + coding)
        wire.send(b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
        problem = await wire.refusal(400, "invalid")
        if b"gzip" in coding:
            assert "Transfer-Encoding" in problem["detail"]
    assert await server.ids() == []


async def test_chunked_may_be_written_in_any_way(server: Server) -> None:
    async with connect(server) as wire:
        for coding in (b"Chunked", b"chunked  ", b"  CHUNKED"):
            wire.send(b"POST /enqueue HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: " + coding)
            wire.send(b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
            assert (await wire.answer())[0] == 202


async def test_the_reason_of_a_status_line_is_the_title_of_its_problem(server: Server) -> None:
    too_large = b"POST /enqueue HTTP/1.1\r\n" + HOST + b"Content-Length: 999999999999\r\n\r\n"
    for data in (too_large, b"broken\r\n\r\n", b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n"):
        async with connect(server) as wire:
            wire.send(data)
            line = await wire.reader.readuntil(b"\r\n")
            title = json.loads((await wire.reader.readuntil(b"}")).partition(b"\r\n\r\n")[2])["title"]
            assert line.split(b" ", 2)[2] == title.encode() + b"\r\n"


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


def head_of(size: int, request_line: bytes, *headers: bytes, colon: bytes = b": ") -> bytes:
    """A head of exactly so many bytes."""
    head = request_line + HOST + b"".join(header + b"\r\n" for header in headers) + b"X" + colon
    return head + b"x" * (size - len(head) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("piece", [20_000, 8192, 5000, 16_383])
@pytest.mark.parametrize("colon", [b":", b": ", b":    "])
@pytest.mark.parametrize("line", [b"GET /healthz HTTP/1.1\r\n", b"\r\nGET   /healthz HTTP/1.1\r\n"])
async def test_a_head_of_exactly_16_kib_is_taken_and_one_byte_more_is_431(
    server: Server, piece: int, colon: bytes, line: bytes
) -> None:
    async with connect(server) as wire:
        size = 16_384 + len(line) - len(line.lstrip())  # empty lines before a request belong to nobody
        wire.send(HEALTH)
        assert (await wire.answer())[0] == 200
        await send_in_pieces(wire, head_of(size, line, b"A:b", b"C:    d", colon=colon), piece)
        assert (await wire.answer())[0] == 200
        await send_in_pieces(wire, head_of(size + 1, line, b"A:b", b"C:    d", colon=colon), piece)
        await wire.refusal(431, "headers_too_large")


@pytest.mark.parametrize("method", [b"OPTIONS", b"POST", b"BREW"])
async def test_the_method_counts_as_what_it_is(server: Server, method: bytes) -> None:
    line = method + b" /tasks/t1 HTTP/1.1\r\n"
    for size, status in ((16_384, 405), (16_385, 431)):
        async with connect(server) as wire:
            await send_in_pieces(wire, head_of(size, line), 5000)
            assert (await wire.answer())[0] == status


async def test_a_head_that_ends_a_read_before_its_body_may_have_the_limit_too(server: Server) -> None:
    body = b'{"payload":"' + b"x" * 50_000 + b'"}'
    async with connect(server) as wire:
        line = b"POST /enqueue HTTP/1.1\r\n"
        wire.send(head_of(16_384, line, b"Content-Length: %d" % len(body)) + body)
        assert (await wire.answer())[0] == 202
        wire.send(HEALTH + head_of(16_384, line, b"Content-Length: %d" % len(body)) + body)
        assert (await wire.answer())[0] == 200
        assert (await wire.answer())[0] == 202


async def send_in_pieces(wire: Wire, data: bytes, size: int) -> None:
    """Send in pieces that arrive one by one."""
    for begin in range(0, len(data), size):
        wire.send(data[begin : begin + size])
        await wire.writer.drain()
        await asyncio.sleep(0.005)


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
            await asyncio.sleep(1.0)  # longer than both deadlines: what is waited for is that nothing happens


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


@pytest.mark.parametrize("path", [b"/enqueue", b"/tasks/cancel", b"/nowhere"])
@pytest.mark.parametrize(
    "around", [b"1\r\n[\r\n0\r\nX: ", b"1\r\n[\r\n0\r\nX", b"1;x=", b'1;x="', b"1\r\n \r\n1;"]
)
async def test_what_is_around_a_body_has_a_bound(server: Server, path: bytes, around: bytes) -> None:
    """Trailers and extensions without end: refused within the bound, and nobody else waits for that."""
    async with connect(server) as wire, connect(server) as honest:
        wire.send(b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (path, HOST, around))
        flood = asyncio.create_task(_drain(wire, b"a" * 12_000_000))
        loop, waits = asyncio.get_running_loop(), []
        while not waits or len(waits) < 5:
            began = loop.time()
            honest.send(b"GET /healthz HTTP/1.1\r\n%b\r\n" % HOST)
            assert (await honest.answer())[0] == 200
            waits.append(loop.time() - began)
        assert max(waits) < 0.5
        status, headers, _ = await wire.answer()
        assert (status, headers[b"connection"]) == (404 if path == b"/nowhere" else 431, b"close")
        await wire.closed()
        flood.cancel()


async def test_trailers_may_come_in_many_small_pieces_and_not_without_end(server: Server) -> None:
    head = b"POST /enqueue HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % HOST
    async with connect(server) as wire:
        wire.send(head + b"2\r\n{}\r\n0\r\n" + b"A: b\r\n" * 1000 + b"\r\n")
        assert (await wire.answer())[0] == 202
        wire.send(head + b"2\r\n{}\r\n0\r\n")
        for _ in range(8):
            wire.send(b"A: b\r\n" * 1000)
            await asyncio.sleep(0)
        await wire.refusal(431, "headers_too_large")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n", 403),
        (b"POST /enqueue HTTP/1.1\r\nHost: evil.example\r\n", 421),
        (b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n", 404),
        (b"PUT /enqueue HTTP/1.1\r\nHost: localhost\r\n", 405),
        (b"POST /enqueue HTTP/1.1\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", 200),
    ],
)
@pytest.mark.parametrize("body", [b"Content-Length: 900000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_who_is_answered_before_the_body_has_come_is_not_heard_on(
    server: Server, head: bytes, status: int, body: bytes
) -> None:
    async with connect(server) as wire:
        wire.send(head + body)
        answered, headers, _ = await wire.answer()
        assert (answered, headers[b"connection"]) == (status, b"close")
        await wire.closed()


async def test_who_is_refused_with_a_whole_body_may_go_on(server: Server) -> None:
    async with connect(server) as wire:
        for _ in range(2):
            wire.send(b"POST /enqueue HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}")
            status, headers, _ = await wire.answer()
            assert (status, b"connection" in headers) == (421, False)


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


@pytest.mark.parametrize(
    ("version", "connection"),
    [(b"1.1", b"Upgrade, close"), (b"1.0", b"Upgrade"), (b"1.0", b"keep-alive, Upgrade")],
)
async def test_an_upgrade_changes_nothing_about_version_and_close(
    server: Server, version: bytes, connection: bytes
) -> None:
    async with connect(server) as wire:
        host = HOST if version == b"1.1" else b""
        wire.send(
            b"GET /healthz HTTP/%b\r\n%bConnection: %b\r\nUpgrade: foo\r\n\r\n" % (version, host, connection)
        )
        status, headers, body = await wire.answer()
        assert (status, headers[b"connection"], body) == (200, b"close", OK)
        await wire.closed()


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
        while "t1" not in server.queue._ends.waiters:
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


async def waiter_for(server: Server, id: str, *, there: bool = True) -> None:
    """Return when somebody waits for the task, or when nobody does any more."""
    while (id in server.queue._ends.waiters) is not there:
        await asyncio.sleep(0.001)


async def worker_waits(server: Server, *, there: bool = True) -> None:
    """Return when a lease request waits, or when none does any more."""
    while bool(server.queue._waiters._line) is not there:
        await asyncio.sleep(0.001)


WAIT = b"GET /tasks/t1?wait=60 HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize("patience", [0.0, 0.3])
async def test_a_half_closed_client_gets_the_task_that_it_waits_for(server: Server, patience: float) -> None:
    """Also when the server had the time to look whether the client is there at all."""
    await server.enqueue(id="t1")
    async with connect(server) as wire:
        wire.send(WAIT)
        wire.send_eof()
        await waiter_for(server, "t1")
        await asyncio.sleep(patience)
        await server.run_one()
        status, headers, body = await wire.answer()
        assert (status, json.loads(body)["status"], headers[b"connection"]) == (200, "done", b"close")
        await wire.closed()


async def test_a_half_closed_client_gets_what_the_task_is_after_the_wait(server: Server) -> None:
    await server.enqueue(id="t1")
    async with connect(server) as wire:
        wire.send(WAIT.replace(b"wait=60", b"wait=0.2"))
        wire.send_eof()
        status, _, body = await wire.answer()
        assert (status, json.loads(body)["status"]) == (200, "queued")
        await wire.closed()


async def test_a_half_closed_client_gets_errors_whole(server: Server) -> None:
    """The answer has begun before it was known what it would be."""
    await server.enqueue(id="t1")
    async with connect(server) as wire:
        wire.send(WAIT)
        wire.send_eof()
        await waiter_for(server, "t1")
        await asyncio.sleep(0.1)
        assert await wire.reader.readexactly(1) == b"H"
        await server.post("/tasks/t1/cancel", b"")
        status, _, body = await wire.answer()
        assert (status, json.loads(body)["status"]) == (200, "cancelled")


@pytest.mark.parametrize("behind", [b"", HEALTH * 3])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_closes_frees_its_waiter_at_once(
    server: Server, behind: bytes, reset: bool
) -> None:
    await server.enqueue(id="t1")
    async with connect(server) as wire:
        wire.send(WAIT + behind)
        await waiter_for(server, "t1")
        if reset:
            wire.writer.transport.abort()
        else:
            wire.writer.close()
        async with asyncio.timeout(5):
            await waiter_for(server, "t1", there=False)


def lease(wait: float) -> bytes:
    return post(b'{"worker_id":"w1","wait":%g}' % wait, path=b"/lease")


@pytest.mark.parametrize("wait", [0, 60])
@pytest.mark.parametrize("behind", [b"", HEALTH])
async def test_a_half_closed_worker_is_told_of_no_tasks_and_gets_none(
    server: Server, wait: float, behind: bytes
) -> None:
    async with connect(server) as wire:
        if wait:
            wire.send(lease(wait) + behind)
            await worker_waits(server)
        else:
            await server.enqueue(id="t1")
            wire.send(lease(wait) + behind)
        wire.send_eof()
        status, _, body = await wire.answer()
        assert (status, json.loads(body)["tasks"]) == (200, [])
        if behind:
            assert (await wire.answer())[2] == OK
        await wire.closed()
        await worker_waits(server, there=False)
    await server.enqueue(id="t2")
    # What was being claimed at that moment is released, and its attempt taken back.
    (claim,) = await server.queue.claim("worker-2", 1, wait=10)
    assert claim.task.attempts == 1


async def test_a_reset_ends_a_lease_behind_which_others_wait(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(lease(60) + HEALTH)
        await worker_waits(server)
        wire.writer.transport.abort()
        async with asyncio.timeout(5):
            await worker_waits(server, there=False)
    await server.enqueue(id="t1")
    (claim,) = await server.queue.claim("worker-2", 1, wait=10)
    assert claim.task.attempts == 1


@pytest.mark.parametrize("rest", [b"GET /hea", post(b'{"id":"half"}')[:-3], b"broken\r\n\r\n", b"BREW / H"])
async def test_what_was_sent_whole_before_an_end_amid_a_request_is_answered(
    server: Server, rest: bytes
) -> None:
    await server.enqueue(id="t1")
    async with connect(server) as wire:
        wire.send(WAIT + HEALTH + rest)
        await waiter_for(server, "t1")
        wire.send_eof()
        await asyncio.sleep(0.02)
        await server.run_one()
        assert (await wire.answer())[0] == 200
        assert (await wire.answer())[2] == OK
        if rest.startswith(b"broken"):
            await wire.refusal(400, "invalid")
        await wire.closed()
    assert await server.ids() == ["t1"]


async def test_a_long_pipeline_is_answered_after_a_half_close(server: Server) -> None:
    async with connect(server) as wire:
        requests = 5000
        sending = asyncio.create_task(_drain(wire, HEALTH * requests + b"GET"))
        for n in range(requests):
            assert (await wire.answer())[2] == OK
            if n == 0:
                await sending
                wire.send_eof()
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


UNREAD = 4
"""Listings of 8 MB: more than the buffers of the kernel ever take."""


@contextlib.asynccontextmanager
async def unread(server: Server, behind: bytes = b"") -> AsyncIterator[Wire]:
    """A connection that asked for much and reads none of it, so that the server has to keep it; then for `behind`."""
    assert server.http is not None
    for n in range(8):
        await server.enqueue(id=str(n), queue="other", payload="x" * 1_000_000)
    async with connect(server) as wire, asyncio.timeout(20):
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        wire.send((b"GET /tasks HTTP/1.1\r\n" + HOST + b"\r\n") * UNREAD)
        while not any(connection.flow.write_paused for connection in server.http.server_state.connections):
            await asyncio.sleep(0.001)
        wire.send(behind)
        await wire.writer.drain()
        yield wire


@pytest.mark.parametrize("header", [b"X: y", b"Expect: nothing"])
async def test_nothing_is_leased_to_a_client_that_has_not_read_the_answer_before(
    server: Server, header: bytes
) -> None:
    body = b'{"worker_id":"w1","queues":["default"]}'
    await server.enqueue(id="t1")
    async with unread(server, post(body, header, path=b"/lease")) as wire:
        assert (await server.get("/tasks/t1")).json()["status"] == "queued"
        wire.writer.transport.abort()
    (claim,) = await server.queue.claim("w2", 1, queues=frozenset({"default"}), wait=10)
    assert (claim.task.id, claim.task.attempts, claim.task.lost) == ("t1", 1, 0)


async def test_what_waits_for_a_reader_is_answered_when_it_reads(server: Server) -> None:
    async with unread(server, lease(0) + post(b'{"id":"last"}') + HEALTH) as wire:
        wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(UNREAD):
            assert len(json.loads((await wire.answer())[2])) == 8
        assert [task["id"] for task in json.loads((await wire.answer())[2])["tasks"]] == ["0"]
        assert (await wire.answer())[0] == 202
        assert (await wire.answer())[2] == OK


@pytest.mark.parametrize("last", [False, True])
async def test_a_client_that_reads_nothing_of_its_answer_is_cut_off(
    server: Server, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    monkeypatch.setattr(QuickProtocol, "UNREAD_S", 0.2)
    assert server.http is not None
    async with unread(server):
        if last:
            server.http.stop()
        while any(connection.flow.write_paused for connection in server.http.server_state.connections):
            await asyncio.sleep(0.01)


async def test_a_client_that_reads_slowly_is_not_cut_off(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QuickProtocol, "UNREAD_S", 0.3)
    async with unread(server) as wire:
        wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
        rest = UNREAD * 8_000_000
        while rest > 0:
            rest -= len(await wire.reader.read(400_000))
            await asyncio.sleep(0.02)


async def test_stopping_waits_for_answers_and_closes_idle_connections(server: Server) -> None:
    assert server.http is not None
    await server.enqueue(id="t1")
    async with connect(server) as idle, connect(server) as waiting:
        idle.send(HEALTH)
        await idle.answer()
        waiting.send(b"GET /tasks/t1?wait=30 HTTP/1.1\r\n" + HOST + b"\r\n")
        while "t1" not in server.queue._ends.waiters:
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
