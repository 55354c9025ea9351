"""`GET /events`: what readers of live changes are told, what it costs to have them, and how their streams end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from jobpipe.core.errors import StorageError, TooManyReaders
from jobpipe.core.lifecycle import Kind
from jobpipe.engine import feed as feed_
from jobpipe.engine.feed import Feed
from jobpipe.http import events as events_

from .conftest import Server, assert_problem
from .test_api_protocol import connect

Json = dict[str, Any]
Event = tuple[str, str, Json]
"""Its kind, its id, its data."""

PATIENCE_S = 10


class Stream:
    """The events of one answer, as they come."""

    def __init__(self, pieces: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        self.headers = headers
        self.comments: list[str] = []
        self._pieces = pieces
        self._text = ""
        self.last_id: str | None = None

    async def next(self) -> Event:
        """The next event."""
        event = await self.next_or_end()
        assert event is not None, "the stream ended"
        return event

    async def next_or_end(self) -> Event | None:
        """The next event, None when the answer has ended."""
        while True:
            block = await asyncio.wait_for(self._block(), PATIENCE_S)
            if block is None:
                return None
            lines = dict(line.split(": ", 1) for line in block.split("\n"))
            if "" in lines:
                self.comments.append(lines[""])
            elif "data" in lines:
                self.last_id = lines["id"]
                return lines["event"], lines["id"], json.loads(lines["data"])

    async def _block(self) -> str | None:
        while "\n\n" not in self._text:
            piece = await anext(self._pieces, None)
            if piece is None:
                assert not self._text, "cut off within an event"
                return None
            self._text += piece.decode()
        block, _, self._text = self._text.partition("\n\n")
        return block

    async def until(self, is_so: Callable[[Json], bool]) -> list[Json]:
        """The data of the events up to the first that `is_so`."""
        seen: list[Json] = []
        while not (seen and is_so(seen[-1])):
            seen.append((await self.next())[2])
        return seen


@contextlib.asynccontextmanager
async def events(server: Server, last_id: str | None = None) -> AsyncIterator[Stream]:
    """A reader, over whatever lane the server has."""
    headers = {} if last_id is None else {"last-event-id": last_id}
    if server.port is None:
        async with _called(server, headers) as stream:
            yield stream
        return
    async with server.client.stream("GET", "/events", headers=headers) as response:
        assert response.status_code == 200
        yield Stream(aiter(response.aiter_bytes()), dict(response.headers))


@contextlib.asynccontextmanager
async def _called(server: Server, headers: dict[str, str]) -> AsyncIterator[Stream]:
    """The application itself is called: httpx would wait for the end of the answer."""
    app = server.client._transport.app  # type: ignore[attr-defined]
    said: asyncio.Queue[Any] = asyncio.Queue()
    gone = asyncio.Event()
    requests = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if requests:
            return requests.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    raw = [(b"host", b"localhost"), *((name.encode(), value.encode()) for name, value in headers.items())]
    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "path": "/events", "raw_path": b"/events",
        "query_string": b"", "headers": raw, "root_path": "",
    }  # fmt: skip
    calling = asyncio.ensure_future(app(scope, receive, said.put))

    async def pieces() -> AsyncIterator[bytes]:
        while (message := await said.get())["more_body"]:
            yield message["body"]

    start = await asyncio.wait_for(said.get(), PATIENCE_S)
    assert start["status"] == 200
    yield Stream(pieces(), {name.decode(): value.decode() for name, value in start["headers"]})
    gone.set()
    await asyncio.wait_for(calling, PATIENCE_S)


def feed_of(server: Server) -> Feed:
    """The feed, once somebody reads it."""
    (feed,) = [observer for observer in server.queue._observers if isinstance(observer, Feed)]
    return feed


def listening(server: Server) -> bool:
    """Whether a feed hears what the queue does."""
    return any(isinstance(observer, Feed) for observer in server.queue._observers)


def statuses(data: Json) -> dict[str, str]:
    return {task["id"]: task["status"] for task in data["tasks"]}


async def quiet(seconds: float = 0.4) -> None:
    """Longer than a frame may be held back: what was not told by now will not be."""
    await asyncio.sleep(seconds)


async def test_a_fresh_reader_is_told_how_things_stand(server: Server) -> None:
    await server.enqueue([{"id": "a"}, {"id": "b", "delay": 5}])
    async with events(server) as stream:
        kind, id, data = await stream.next()
    assert (kind, data["tasks"], data["dropped"]) == ("reset", [], 0)
    assert data["counts"] == {"queued": 2, "running": 0, "done": 0, "failed": 0, "cancelled": 0}
    assert data["rates"] == (await server.get("/stats")).json()["rates"]
    assert id.count("-") == 1
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-store"
    assert stream.headers["x-content-type-options"] == "nosniff"


async def test_a_task_is_told_at_every_stand_as_it_is_read_elsewhere(server: Server) -> None:
    async with events(server) as stream:
        await stream.next()
        await server.enqueue({"id": "a", "queue": "q", "handler": "h", "priority": 3, "max_retries": 1})
        for step in ("queued", "running", "retried", "running again", "failed"):
            kind, _, data = await stream.next()
            (told,) = data["tasks"]
            task = (await server.get("/tasks/a")).json()
            error = task["last_error"]
            expected = {name: task[name] for name in told if not name.startswith("error_")}
            expected["error_type"] = None if error is None else error["type"]
            expected["error_message"] = None if error is None else error["message"]
            assert told == expected, step
            assert (kind, data["counts"][task["status"]]) == ("delta", 1)
            if step in ("queued", "retried"):
                claim = await server.claim()
            elif step == "running":
                await server.settle(claim, Kind.FAILED, error_type="E", message="m", retry_in=0.0)
            elif step == "running again":
                await server.settle(claim, Kind.FAILED, error_type="E", message="m")


async def test_what_happens_at_once_is_told_once_with_the_last_stand(server: Server) -> None:
    async with events(server) as stream:
        await stream.next()
        await server.enqueue(id="first")
        await stream.next()
        await server.enqueue([{"id": "a"}, {"id": "b"}, {"id": "c"}])
        await server.run_one()
        await server.post("/tasks/b/cancel", {})
        await server.post("/tasks/b/retry", {})
        await server.post("/tasks/c/cancel", {})
        _, _, data = await stream.next()
        assert statuses(data) == {"first": "done", "a": "queued", "b": "queued", "c": "cancelled"}
        assert data["counts"] == {"queued": 2, "running": 0, "done": 1, "failed": 0, "cancelled": 1}
        await server.client.delete("/tasks/c")
        _, _, data = await stream.next()
        assert (statuses(data), data["counts"]["cancelled"]) == ({}, 0)


async def test_nothing_is_told_when_nothing_happens(server: Server) -> None:
    async with events(server) as stream:
        await stream.next()
        before = feed_of(server).newest
        await quiet()
        assert feed_of(server).newest == before
        await server.enqueue(id="a")
        assert statuses((await stream.next())[2]) == {"a": "queued"}


async def test_at_most_four_frames_a_second_are_sent(server: Server) -> None:
    async with events(server) as stream:
        await stream.next()
        first = feed_of(server).newest
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 1.1:
            await server.enqueue({})
            await server.run_one()
        assert 2 <= feed_of(server).newest - first <= 5


async def test_a_burst_is_cut_to_200_tasks_and_the_rest_counted(start: Any) -> None:
    server = await start(queue_size=1000)
    async with events(server) as stream:
        await stream.next()
        await server.enqueue([{}] * 500)
        _, _, data = await stream.next()
    assert (len(data["tasks"]), data["dropped"], data["counts"]["queued"]) == (200, 300, 500)


async def test_rates_come_down_after_the_last_change(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_, "TRAIL_S", 0.01)
    async with events(server) as stream:
        await stream.next()
        await server.enqueue({})
        await stream.until(lambda data: data["rates"]["enqueued_per_s"] > 0)
        server.clock.advance(120)
        (*_, last) = await stream.until(lambda data: data["rates"]["enqueued_per_s"] == 0)
        assert last["tasks"] == []
        shown = feed_of(server).newest
        await quiet()
        assert feed_of(server).newest == shown


# --- going on ---


async def test_who_comes_back_is_told_what_it_missed(server: Server) -> None:
    async with events(server) as other, events(server) as stream:
        await other.next()
        await stream.next()
        await server.enqueue(id="a")
        await stream.next()
        last_id = stream.last_id
        await other.next()
        await server.enqueue(id="b")
        await other.next()
    async with events(server, last_id) as again:
        kind, _, data = await again.next()
        assert (kind, statuses(data)) == ("delta", {"b": "queued"})
        await server.enqueue(id="c")
        assert statuses((await again.next())[2]) == {"c": "queued"}


async def test_the_only_reader_can_come_back_within_a_while(server: Server) -> None:
    async with events(server) as stream:
        await stream.next()
    await server.enqueue(id="a")
    async with events(server, stream.last_id) as again:
        kind, _, data = await again.next()
    assert (kind, statuses(data)) == ("delta", {"a": "queued"})


async def test_after_that_while_it_is_told_anew(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_, "LINGER_S", 0)
    async with events(server) as stream:
        await stream.next()
    while listening(server):
        await asyncio.sleep(0.001)
    await server.enqueue(id="a")
    async with events(server, stream.last_id) as again:
        kind, _, data = await again.next()
    assert (kind, data["counts"]["queued"]) == ("reset", 1)


@pytest.mark.parametrize(
    "last_id", ["", "x", "0-0", "-", "abc-1", "{boot}-", "{boot}-x", "{boot}-9999", "{boot}--1"]
)
async def test_an_id_that_says_nothing_is_answered_by_a_reset(server: Server, last_id: str) -> None:
    async with events(server) as other:
        await other.next()
        boot = feed_of(server).boot
        async with events(server, last_id.replace("{boot}", boot)) as stream:
            assert (await stream.next())[0] == "reset"


async def test_who_falls_behind_is_told_anew_and_holds_no_memory(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_, "GAP_S", 0)
    async with events(server) as quick:
        await quick.next()
        feed = feed_of(server)
        slow = feed.join()
        never = asyncio.get_running_loop().create_future()
        assert [frame.reset for frame in await slow.next(never, 5) or ()] == [True]
        for n in range(feed_.RING + 1):
            await server.enqueue(id=f"t{n}")
            await server.run_one()
            await quick.until(lambda data, n=n: statuses(data).get(f"t{n}") == "done")  # type: ignore[misc]
        assert [frame.reset for frame in await slow.next(never, 5) or ()] == [True]
        assert len(feed._ring) == feed_.RING
        slow.leave()


async def test_all_readers_share_one_text(server: Server) -> None:
    async with events(server) as one, events(server) as two:
        await one.next()
        await two.next()
        await server.enqueue(id="a")
        assert await one.next() == await two.next()
        (frame,) = [frame for frame in feed_of(server)._ring if frame.seq == feed_of(server).newest]
        assert frame.text(lambda _: b"made again") != b"made again"
        assert frame.changes == ()


# --- what it costs, and its bounds ---


async def test_without_readers_nobody_listens_to_the_queue(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_, "LINGER_S", 0)
    assert not listening(server)
    async with events(server) as stream:
        await stream.next()
        assert listening(server)
    while listening(server):
        await asyncio.sleep(0.001)


async def test_readers_over_the_bound_are_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_, "MOST_READERS", 1)
    async with events(server) as stream:
        await stream.next()
        response = await server.get("/events")
        assert_problem(response, 503, "too_many_readers")
        assert response.headers["retry-after"] == "5"
        feed = feed_of(server)
    while feed._readers:
        await asyncio.sleep(0.001)
    async with events(server) as again:
        await again.next()


async def test_a_still_stream_gives_a_sign_of_life(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_, "HEARTBEAT_S", 0.01)
    async with events(server) as stream:
        await stream.next()
        await quiet(0.1)
        await server.enqueue(id="a")
        await stream.next()
    assert len(stream.comments) > 2


async def test_a_store_that_is_away_is_503_and_ends_no_other_stream(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> Any:
        raise StorageError("away")

    monkeypatch.setattr(feed_, "FAILED_PAUSE_S", 0.01)
    async with events(server) as stream:
        await stream.next()
        with monkeypatch.context() as broken:
            broken.setattr(server.queue, "counts", away)
            assert_problem(await server.get("/events"), 503, "storage_down")
            await server.enqueue(id="a")
            await quiet(0.05)
        assert statuses((await stream.next())[2]) == {"a": "queued"}


async def test_head_has_no_body_and_other_methods_are_refused(server: Server) -> None:
    head = await server.client.head("/events")
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "text/event-stream", b"")
    assert not listening(server)
    response = await server.client.post("/events")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD"
    assert_problem(await server.get("/events", origin="http://elsewhere"), 403, "forbidden")


async def test_the_streams_end_when_they_are_ended_and_none_begins_after(server: Server) -> None:
    async with events(server) as stream:
        await stream.next()
        await server.enqueue(id="a")
        await stream.next()
        await server.enqueue(id="b")
        feed = feed_of(server)
        await feed.end()
        await feed.end()
        assert statuses((await stream.next())[2]) == {"b": "queued"}
        assert await stream.next_or_end() is None
    assert_problem(await server.get("/events"), 503, "draining")
    assert not listening(server)


# --- over a socket ---


@pytest.fixture
def live(lane: str) -> None:
    if lane not in ("live", "fast"):
        pytest.skip("needs a connection")


GET = b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.mark.usefixtures("live")
async def test_deadlines_of_requests_cut_no_stream(server: Server) -> None:
    async with events(server) as stream:
        await stream.next()
        await quiet(0.7)  # longer than a head and a body may take here
        await server.enqueue(id="a")
        assert statuses((await stream.next())[2]) == {"a": "queued"}


@pytest.mark.usefixtures("live")
async def test_a_client_that_leaves_is_noticed_and_one_that_only_ended_its_side_is_not(
    server: Server,
) -> None:
    async with connect(server) as wire:
        wire.send(GET)
        await wire.reader.readuntil(b"event: reset")
        wire.send_eof()
        await server.enqueue(id="a")
        await wire.reader.readuntil(b'"id":"a"')
        assert len(feed_of(server)._readers) == 1
    while feed_of(server)._readers:
        await asyncio.sleep(0.001)


@pytest.mark.usefixtures("live")
async def test_a_client_that_does_not_read_is_cut_off(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events_, "STUCK_S", 0.2)
    monkeypatch.setattr(events_, "HEARTBEAT_S", 0.0001)
    monkeypatch.setattr(events_, "_HEARTBEAT", b": " + b"x" * 1_000_000 + b"\n\n")
    async with connect(server) as wire:
        wire.send(GET)
        await wire.reader.readuntil(b"event: reset")
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while feed_of(server)._readers:
            await asyncio.sleep(0.01)
    assert "Exception" not in caplog.text


async def test_one_address_leaves_places_for_others(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_, "MOST_OF_ONE", 2)
    feed = feed_.Feed(server.queue)
    readers = [feed.join(None, "10.0.0.5") for _ in range(2)]
    with pytest.raises(TooManyReaders, match="one address"):
        feed.join(None, "10.0.0.5")
    readers += [feed.join(None, "10.0.0.6")]
    readers.pop(0).leave()
    readers += [feed.join(None, "10.0.0.5")]
    for reader in readers:
        reader.leave()
    await feed.end()
