"""The worker's connection: quick in the usual case, and never taking one request's answer for another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from test_client_fakes import Cut, Raw, ScriptedServer, http

from jobpipe.client.address import parse_address
from jobpipe.client.connection import Connection
from jobpipe.client.errors import ConnectionFailed
from jobpipe.client.exchange import Answer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.routes["/x"] = lambda body: {"got": body}
        yield server


@pytest.fixture
async def connection(server: ScriptedServer) -> AsyncIterator[Connection]:
    connection = Connection(parse_address(server.url), {"authorization": "Bearer k"})
    yield connection
    connection.close()


def parts(answer: Answer) -> tuple[int, bytes]:
    return answer.status, answer.body


async def test_many_posts_share_one_connection(server: ScriptedServer, connection: Connection) -> None:
    for n in range(3):
        assert parts(await connection.post("/x", b"%d" % n, 5)) == (200, b'{"got":%d}' % n)
    assert server.connections == 1


async def test_every_request_carries_host_and_headers(server: ScriptedServer, connection: Connection) -> None:
    await connection.post("/x", b"1", 5)
    assert f"host: 127.0.0.1:{server.port}".encode() in server.heads[0]
    assert b"authorization: Bearer k" in server.heads[0]


async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    server = await ScriptedServer().start(socket=str(tmp_path / "s.sock"))
    server.routes["/x"] = lambda body: body
    connection = Connection(parse_address(server.url))
    assert parts(await connection.post("/x", b"[1]", 5)) == (200, b"[1]")
    connection.close()
    await server.stop()


async def test_the_path_of_the_url_stands_before_the_routes(server: ScriptedServer) -> None:
    server.routes["/jobs/x"] = lambda body: body
    connection = Connection(parse_address(f"{server.url}/jobs/"))
    assert (await connection.post("/x", b"1", 5)).status == 200
    connection.close()


async def test_an_error_status_is_an_answer(server: ScriptedServer, connection: Connection) -> None:
    server.script("/x", http(503, b"{}"))
    assert parts(await connection.post("/x", b"1", 5)) == (503, b"{}")
    assert (await connection.post("/x", b"1", 5)).status == 200
    assert server.connections == 1


async def test_a_connection_closed_while_idle_is_opened_again_unseen(
    server: ScriptedServer, connection: Connection
) -> None:
    await connection.post("/x", b"1", 5)
    server.cut_all()
    assert (await connection.post("/x", b"2", 5)).status == 200
    assert server.connections == 2


async def test_a_request_that_meets_the_closing_is_sent_again_once(
    server: ScriptedServer, connection: Connection
) -> None:
    await connection.post("/x", b"1", 5)
    server.script("/x", Cut())
    assert (await connection.post("/x", b"2", 5)).status == 200
    assert server.bodies("/x") == [1, 2, 2]


async def test_a_first_request_without_an_answer_fails(
    server: ScriptedServer, connection: Connection
) -> None:
    server.script("/x", Cut())
    with pytest.raises(ConnectionFailed) as failure:
        await connection.post("/x", b"1", 5)
    assert failure.value.maybe_sent
    assert server.bodies("/x") == [1]


@pytest.mark.parametrize(
    "part",
    [b"HTTP/1.1 200 OK\r\ncontent-le", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1", b"\0\1\r\n\r\n"],
)
async def test_an_answer_cut_short_fails_and_the_next_post_is_well(
    server: ScriptedServer, connection: Connection, part: bytes
) -> None:
    await connection.post("/x", b"1", 5)
    server.script("/x", Cut(part))
    with pytest.raises(ConnectionFailed) as failure:
        await connection.post("/x", b"2", 5)
    assert failure.value.maybe_sent
    assert (await connection.post("/x", b"3", 5)).body == b'{"got":3}'
    assert server.bodies("/x") == [1, 2, 3]


async def test_nobody_listening_means_nothing_was_sent(
    server: ScriptedServer, connection: Connection
) -> None:
    await server.stop()
    with pytest.raises(ConnectionFailed) as failure:
        await connection.post("/x", b"1", 5)
    assert not failure.value.maybe_sent
    assert failure.value.code == "unreachable"


async def test_a_late_answer_is_never_the_next_requests(
    server: ScriptedServer, connection: Connection
) -> None:
    server.script("/x", asyncio.get_running_loop().create_future())
    with pytest.raises(ConnectionFailed, match=r"no answer in 0\.01 s"):
        await connection.post("/x", b"1", 0.01)
    assert (await connection.post("/x", b"2", 5)).body == b'{"got":2}'


async def test_a_cancelled_post_cuts_its_connection(server: ScriptedServer, connection: Connection) -> None:
    server.script("/x", asyncio.get_running_loop().create_future())
    posting = asyncio.create_task(connection.post("/x", b"1", 5))
    await server.until(lambda: server.requests)
    posting.cancel()
    await server.until(lambda: server.hung_up)
    assert (await connection.post("/x", b"2", 5)).body == b'{"got":2}'


async def test_bytes_that_nobody_asked_for_end_the_connection(
    server: ScriptedServer, connection: Connection
) -> None:
    server.script("/x", Raw(http(200, b"1") + http(200, b"2")))
    assert parts(await connection.post("/x", b"1", 5)) == (200, b"1")
    assert (await connection.post("/x", b"3", 5)).body == b'{"got":3}'
    assert server.connections == 2


async def test_pieces_and_interim_answers_are_understood(
    server: ScriptedServer, connection: Connection
) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"
    server.script("/x", Raw(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + chunked))
    assert parts(await connection.post("/x", b"1", 5)) == (200, b"[1,2]")
    assert (await connection.post("/x", b"2", 5)).body == b'{"got":2}'
    assert server.connections == 1


async def test_a_server_that_closes_after_its_answer_is_asked_on_a_new_connection(
    server: ScriptedServer, connection: Connection
) -> None:
    server.script("/x", http(200, b"1", b"connection: close"))
    assert (await connection.post("/x", b"1", 5)).body == b"1"
    assert (await connection.post("/x", b"2", 5)).body == b'{"got":2}'
    assert server.connections == 2


async def test_a_connection_carries_one_request_at_a_time(
    server: ScriptedServer, connection: Connection
) -> None:
    await connection.post("/x", b"0", 5)
    first = asyncio.create_task(connection.post("/x", b"1", 5))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await connection.post("/x", b"2", 5)
    assert (await first).body == b'{"got":1}'


async def test_an_answer_on_its_way_arrives_after_hanging_up(
    server: ScriptedServer, connection: Connection
) -> None:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server.script("/x", lambda _: asyncio.shield(answer))
    posting = asyncio.create_task(connection.post("/x", b"1", 5))
    await server.until(lambda: server.requests)
    answer.set_result(7)
    assert connection.hang_up()
    assert (await posting).body == b"7"
    with pytest.raises(ConnectionFailed, match="closed here"):
        await connection.post("/x", b"2", 5)
    assert server.bodies("/x") == [1]


async def test_hanging_up_ends_a_wait_without_sending_again(
    server: ScriptedServer, connection: Connection
) -> None:
    await connection.post("/x", b"0", 5)
    server.script("/x", asyncio.get_running_loop().create_future())
    posting = asyncio.create_task(connection.post("/x", b"1", 5))
    await server.until(lambda: len(server.requests) == 2)
    assert connection.hang_up()
    with pytest.raises(ConnectionFailed):
        await posting
    assert server.bodies("/x") == [0, 1]


async def test_closing_twice_and_unconnected_is_harmless(connection: Connection) -> None:
    assert not connection.hang_up()
    connection.close()
    connection.close()
    with pytest.raises(ConnectionFailed):
        await connection.post("/x", b"1", 5)


async def test_a_server_that_closes_what_it_accepted_is_a_failure_like_any_other(
    server: ScriptedServer, connection: Connection
) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    await server.stop()
    refusing = await asyncio.start_server(refuse, "127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    for _ in range(20):
        with pytest.raises(ConnectionFailed):
            await connection.post("/x", b"1", 5)
    refusing.close()


@pytest.mark.parametrize(
    "around",
    [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "],
)
async def test_a_server_whose_answer_has_a_head_without_end_is_left(
    server: ScriptedServer, connection: Connection, around: bytes
) -> None:
    server.script("/x", Raw(around + b"a" * 4_000_000))
    with pytest.raises(ConnectionFailed, match="does not end"):
        await connection.post("/x", b"1", 5)
