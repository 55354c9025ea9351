"""The fast lane over a socket: in order beside the other way, whole at every boundary, and bounded.

That it answers as Starlette's routes do, all other tests of this folder show: they run over both.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from jobpipe.http.fastlane import LONGEST_HEAD, REMEMBERED, FastLane

from .conftest import Server, Start
from .test_api_protocol import HEALTH, HOST, Wire, connect, lease, post, quiet, worker_waits

__all__ = ["quiet"]


@pytest.fixture
def lane() -> str:
    """Only what has one."""
    return "fast"


def get(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (path, HOST)


def lane_of(server: Server) -> FastLane:
    assert server.http is not None
    lane = server.http.config.loaded_app.lane
    assert isinstance(lane, FastLane)
    return lane


async def body_of(wire: Wire, status: int = 200) -> Any:
    """The next answer's JSON."""
    answered, _, body = await wire.answer()
    assert answered == status, body
    return json.loads(body)


async def test_hot_and_other_routes_in_one_segment_are_answered_in_order(server: Server) -> None:
    async with connect(server) as wire:
        wire.send(
            post(b'{"id":"a"}') + HEALTH + post(b'[{"id":"b"},{"id":"a"}]') + get(b"/tasks/b") + get(b"/tasks")
            + post(b"no JSON") + get(b"/task?id=a") + get(b"/task?id=a&id=b") + post(b'{"id":"c"}')
            + lease(0) + post(b"[]", path=b"/settle") + get(b"/tasks/none") + post(b'{"id":"a"}') + get(b"/tasks/c")
        )  # fmt: skip
        assert (await body_of(wire, 202))["id"] == "a"
        assert await body_of(wire) == {"status": "ok"}
        assert [item["status"] for item in await body_of(wire)] == [202, 409]
        assert (await body_of(wire))["id"] == "b"
        assert [task["id"] for task in await body_of(wire)] == ["b", "a"]
        assert (await body_of(wire, 400))["code"] == "invalid_json"
        assert (await body_of(wire))["id"] == "a"
        assert (await body_of(wire, 400))["field"] == "id"
        assert (await body_of(wire, 202))["id"] == "c"
        assert [task["id"] for task in (await body_of(wire))["tasks"]] == ["a"]
        assert await body_of(wire) == []
        assert (await body_of(wire, 404))["code"] == "not_found"
        assert (await body_of(wire, 409))["code"] == "task_exists"
        assert (await body_of(wire))["status"] == "queued"


async def test_a_request_may_be_cut_at_any_byte(start: Start) -> None:
    server = await start(queue_size=10_000)
    data = (
        post(b'{"id":"first","payload":[1]}')
        + get(b"/tasks/first")
        + post(b'{"worker_id":"w"}', path=b"/lease")
    )
    async with connect(server) as wire:
        for cut in range(1, len(data)):
            name = b"%05d" % cut
            cutting = data.replace(b"first", name)
            wire.send(cutting[:cut])
            await asyncio.sleep(0)
            wire.send(cutting[cut:])
            assert (await body_of(wire, 202))["id"] == name.decode()
            assert (await body_of(wire))["id"] == name.decode()
            assert [task["id"] for task in (await body_of(wire))["tasks"]] == [name.decode()]


async def test_a_request_that_drips_is_one_request(server: Server) -> None:
    async with connect(server) as wire:
        for n in range(3):
            for byte in post(b'{"id":"%d"}' % n):
                wire.send(bytes([byte]))
                await wire.writer.drain()
            assert (await body_of(wire, 202))["id"] == str(n)


async def test_a_head_that_was_read_before_means_the_same_again(server: Server) -> None:
    async with connect(server) as wire:
        for n in range(5):
            wire.send(post(b'{"id":"t%d"}' % n))
            assert (await body_of(wire, 202))["id"] == f"t{n}"
    (head,) = lane_of(server).known
    assert head == post(b'{"id":"t1"}').partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    async with connect(server) as other:  # and on every connection
        other.send(post(b'{"id":"t9"}'))
        assert (await body_of(other, 202))["id"] == "t9"
        other.send(post(b'{"id":"t8"}')[:-3])
        await other.writer.drain()
        other.send(b'8"}' + HEALTH)
        assert (await body_of(other, 202))["id"] == "t8"
        assert await body_of(other) == {"status": "ok"}


async def test_a_head_is_known_whatever_the_headers_that_change_with_each_request_say(server: Server) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    def sent(key: bytes, trace: str) -> bytes:
        lines = b"Idempotency-Key: %b\r\nAccept: */*\r\nTraceParent: %b\r\n" % (key, trace.encode())
        return post(b'{"payload":1}').replace(HOST, HOST + lines)

    async with connect(server) as wire:
        ids = []
        for key in (b"a", b"b", b"a", b"c" * 200):
            wire.send(sent(key, trace))
            ids.append((await body_of(wire, 202))["id"])
        assert ids[0] == ids[2]
        assert len(set(ids)) == 3
        assert len(lane_of(server).known) == 1
        wire.send(post(b'{"payload":2}').replace(HOST, HOST + b"Accept: */*\r\n"))
        assert (await body_of(wire, 202))["id"] not in ids, "it has none of the keys before it"
        assert len(lane_of(server).known) == 1
        wire.send(sent(b"c" * 201, trace))
        assert (await wire.answer())[0] == 400
        wire.send(sent(b"d", trace.replace("3331", "3332")))
        new = (await body_of(wire, 202))["id"]
        assert len(lane_of(server).known) == 1
    (one,) = await server.queue.get([new])
    assert one is not None
    assert one.traceparent is not None
    assert one.traceparent.startswith("00-0af7651916cd43dd8448eb211c80319c-")


async def test_a_line_that_goes_on_is_no_header_that_changes(server: Server) -> None:
    """Cut out of the head, its rest would belong to the header before it."""
    async with connect(server) as wire:
        wire.send(post(b"{}").replace(HOST, HOST + b"Accept: */*\r\n"))
        assert (await wire.answer())[0] == 202
        wire.send(post(b"{}").replace(HOST, HOST + b"Accept: */*\r\nIdempotency-Key: a\r\n b\r\n"))
        assert (await wire.answer())[0] == 400


async def test_only_whole_and_usual_heads_are_remembered(server: Server) -> None:
    for data, status in (
        (HEALTH, 200),
        (b"\r\n\r\n" + get(b"/tasks/x"), 404),
        (get(b"/tasks/x") + get(b"/tasks/x"), 404),
        (get(b"/tasks/x"), 404),
        (post(b"{}").replace(HOST, HOST + b"X: " + b"x" * LONGEST_HEAD + b"\r\n"), 202),
        (post(b"{}").replace(HOST, HOST + b"Idempotency-Key: \t a\r\n"), 202),
        (post(b"{}").replace(HOST, HOST + b"Idempotency-Key: a\r\nidempotency-key: b\r\n"), 400),
        (post(b"{}").replace(HOST, HOST + b"traceparent: %b\r\n" % (b"x" * 201)), 202),
        (get(b"/tasks/x?wait=0"), 404),
        (get(b"/tasks/x")[:-2] + b"Connection: close\r\n\r\n", 404),
        (post(b"{}").replace(HOST, b"Host: evil.example\r\n"), 421),
    ):
        async with connect(server) as wire:
            wire.send(data)
            assert (await wire.answer())[0] == status
    assert lane_of(server).known == {}


async def test_the_memory_for_heads_is_bounded(server: Server) -> None:
    async with connect(server) as wire:
        for n in range(REMEMBERED + 10):
            wire.send(post(b"[{}]").replace(HOST, HOST + b"X: %d\r\n" % n))
            assert (await wire.answer())[0] == 200
    assert 0 < len(lane_of(server).known) <= REMEMBERED


async def test_a_known_head_is_judged_anew_when_the_server_drains(server: Server) -> None:
    async with connect(server) as wire:
        for n in range(2):
            wire.send(post(b'{"id":"%d"}' % n))
            assert (await wire.answer())[0] == 202
        server.queue.drain()
        wire.send(post(b'{"id":"2"}'))
        await wire.refusal(503, "draining")


async def test_the_other_way_is_open_after_a_known_head(server: Server) -> None:
    """The parser did not see the requests between, and goes on where it was."""
    async with connect(server) as wire:
        for _ in range(3):
            for _ in range(3):
                wire.send(get(b"/tasks/x"))
                assert (await wire.answer())[0] == 404
            wire.send(HEALTH)
            assert await body_of(wire) == {"status": "ok"}
            wire.send(b"PUT /tasks/x HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await wire.answer())[0] == 405
        wire.send(get(b"/tasks/x")[:-2] + b"Connection: close\r\n\r\n")
        status, headers, _ = await wire.answer()
        assert (status, headers[b"connection"]) == (404, b"close")
        await wire.closed()


@pytest.mark.parametrize("behind", [b"", HEALTH, post(b'{"id":"y"}')])
async def test_a_connection_that_closes_in_the_middle_harms_nobody(server: Server, behind: bytes) -> None:
    data = post(b'{"id":"x"}') + behind
    for cut in range(0, len(data), 7):
        async with connect(server) as wire:
            wire.send(data[:cut])
            await wire.writer.drain()
            if cut % 2:
                wire.writer.transport.abort()
    async with connect(server) as wire:
        wire.send(HEALTH)
        assert await body_of(wire) == {"status": "ok"}


async def test_a_huge_pipeline_is_taken_piece_by_piece_and_answered_whole(start: Start) -> None:
    server = await start(queue_size=100_000)
    requests = 20_000
    async with connect(server) as wire:
        assert server.http is not None
        while not server.http.server_state.connections:
            await asyncio.sleep(0.001)
        (connection,) = server.http.server_state.connections
        longest = 0

        async def send_all() -> None:
            for n in range(0, requests, 100):
                wire.send(b"".join(post(b'{"id":"%d"}' % i) for i in range(n, n + 100)))
                await wire.writer.drain()

        sending = asyncio.create_task(send_all())
        for n in range(requests):
            longest = max(longest, len(connection.pipeline))
            assert (await body_of(wire, 202))["id"] == str(n)
        await sending
        assert longest < 300


async def test_a_client_that_does_not_read_its_answers_is_not_served_further(start: Start) -> None:
    server = await start(queue_size=100_000)
    await server.enqueue(id="large", payload="x" * 500_000)
    async with connect(server) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sending = asyncio.create_task(_send(wire, get(b"/tasks/large") * 40 + post(b'{"id":"last"}')))
        assert server.http is not None
        while not any(connection._held for connection in server.http.server_state.connections):
            await asyncio.sleep(0.001)
        assert await server.ids() == ["large"]
        wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(40):
            assert len((await body_of(wire))["payload"]) == 500_000
        assert (await body_of(wire, 202))["id"] == "last"
        await sending


async def _send(wire: Wire, data: bytes) -> None:
    wire.send(data)
    await wire.writer.drain()


@pytest.mark.parametrize("reset", [False, True])
async def test_a_lease_is_not_given_to_a_connection_that_has_closed(server: Server, reset: bool) -> None:
    async with connect(server) as wire:
        wire.send(lease(60))
        await worker_waits(server)
        if reset:
            wire.writer.transport.abort()
        else:
            wire.writer.close()
        async with asyncio.timeout(5):
            await worker_waits(server, there=False)
    await server.enqueue(id="t1")
    (claim,) = await server.queue.claim("worker-2", 1, wait=10)
    assert claim.task.attempts == 1


async def test_many_connections_share_a_commit_and_get_their_own_answers(start: Start) -> None:
    server = await start(queue_size=50)

    async def one(n: int) -> tuple[int, str]:
        async with connect(server) as wire:
            wire.send(post(b'{"id":"t%d"}' % (n // 2)))  # each id twice
            status, _, body = await wire.answer()
            answer = json.loads(body)
            return status, answer.get("id") or answer["code"]

    answers = await asyncio.gather(*(one(n) for n in range(200)))
    accepted = sorted(said for status, said in answers if status == 202)
    assert len(accepted) == 50 == len(set(accepted))
    assert {said for status, said in answers if status == 409} == {"task_exists"}
    assert {said for status, said in answers if status == 503} == {"queue_full"}
