"""Heartbeats keep leases for as long as the server is there, and stop runs in time when it is not."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from test_client_fakes import Cut, ScriptedServer, Status_, extended, http, problem

from jobpipe.client import heartbeat as heartbeat_
from jobpipe.client.address import parse_address
from jobpipe.client.blocking import BlockingConnection
from jobpipe.client.heartbeat import Heartbeat
from jobpipe.client.leases import Held, Leases
from jobpipe.client.outage import Outage
from jobpipe.runtime.clock import ManualClock
from jobpipe.wire.working import ExtendLease


class Desk:
    """A heartbeat with everything about it."""

    def __init__(self, url: str, lease_s: float = 30.0) -> None:
        self.clock = ManualClock()
        self.leases = Leases()
        self.cancels: list[str] = []
        self.stops: list[str] = []
        self.heartbeat = Heartbeat(
            BlockingConnection(parse_address(url), {"authorization": "Bearer k"}),
            "w1",
            lease_s,
            self.leases,
            tell_cancel=lambda held: self.cancels.append(held.ref.id),
            tell_stop=lambda held: self.stops.append(held.ref.id),
            outage=Outage(url, self.clock),
            clock=self.clock,
            random=lambda: 0.0,
        )

    def hold(self, id: str, timeout: float | None = None) -> Held:
        held = Held(ExtendLease(id, f"lease-{id}", timeout), self.clock.monotonic())
        self.leases.add([held])
        return held

    async def beat(self) -> float:
        return await asyncio.to_thread(self.heartbeat.beat)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.routes["/extend"] = extended
        yield server


@pytest.fixture
def desk(server: ScriptedServer) -> Desk:
    return Desk(server.url)


def answer(id: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "extended": True, "lease_until": "2026-11-21T21:09:30Z", **fields}


async def test_all_leases_are_extended_in_one_request(server: ScriptedServer, desk: Desk) -> None:
    desk.hold("a")
    desk.hold("b", timeout=90.0)
    assert await desk.beat() == 10.0
    (body,) = server.bodies("/extend")
    assert (body["worker_id"], body["lease"]) == ("w1", 30.0)
    assert [(one["id"], one["lease_id"], one["timeout"]) for one in body["leases"]] == [
        ("a", "lease-a", None),
        ("b", "lease-b", 90.0),
    ]
    assert b"authorization: Bearer k" in server.heads[0].lower().replace(b"bearer", b"Bearer")


async def test_more_leases_than_one_request_takes_go_in_several(
    server: ScriptedServer, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_, "MOST_LEASES", 2)
    for id in "abcde":
        desk.hold(id)
    await desk.beat()
    assert [len(body["leases"]) for body in server.bodies("/extend")] == [2, 2, 1]


async def test_nothing_held_is_nothing_said(server: ScriptedServer, desk: Desk) -> None:
    assert await desk.beat() == 10.0
    assert server.requests == []


async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    server = await ScriptedServer().start(socket=str(tmp_path / "s.sock"))
    server.routes["/extend"] = extended
    desk = Desk(server.url)
    desk.hold("a")
    assert await desk.beat() == 10.0
    await server.stop()


async def test_a_wanted_cancel_is_told_until_the_run_knows(server: ScriptedServer, desk: Desk) -> None:
    server.routes["/extend"] = lambda body: [answer("a", cancel_requested=True)]
    held = desk.hold("a")
    await desk.beat()
    await desk.beat()
    held.told = True
    await desk.beat()
    assert desk.cancels == ["a", "a"]


async def test_a_lost_lease_stops_its_run_once_and_is_not_extended_again(
    server: ScriptedServer, desk: Desk
) -> None:
    desk.hold("a")
    desk.hold("b")
    server.script("/extend", [{"id": "a", "extended": False, "code": "lease_lost"}, answer("b")])
    await desk.beat()
    await desk.beat()
    assert desk.stops == ["a"]
    assert [one["id"] for one in server.bodies("/extend")[1]["leases"]] == ["b"]


async def test_a_lease_that_ended_by_its_own_outcome_stops_nothing(
    server: ScriptedServer, desk: Desk
) -> None:
    desk.hold("a").offered = True
    server.script("/extend", [{"id": "a", "extended": False, "code": "lease_lost"}])
    await desk.beat()
    assert desk.stops == []


async def test_without_word_from_the_server_runs_stop_before_their_leases_end(
    server: ScriptedServer, desk: Desk
) -> None:
    server.routes["/extend"] = lambda body: Cut()
    desk.hold("a")
    desk.clock.advance(23.9)
    assert await desk.beat() == pytest.approx(0.1)
    assert desk.stops == []
    desk.clock.advance(0.1)
    desk.hold("b")
    await desk.beat()
    await desk.beat()
    assert desk.stops == ["a"]


async def test_a_lease_counts_from_the_sending_of_its_extension(server: ScriptedServer, desk: Desk) -> None:
    held = desk.hold("a")
    desk.clock.advance(10)

    def slow(body: Any) -> Any:
        desk.clock.advance(5)
        return extended(body)

    server.script("/extend", slow)
    before = desk.clock.monotonic()
    await desk.beat()
    assert held.confirmed == before


async def test_a_stopped_run_keeps_its_lease_until_its_outcome_is_delivered(
    server: ScriptedServer, desk: Desk
) -> None:
    held = desk.hold("a")
    desk.clock.advance(25)
    server.script("/extend", Cut())
    await desk.beat()
    assert held.stopped
    await desk.beat()
    assert held.confirmed == desk.clock.monotonic()
    assert desk.stops == ["a"]


@pytest.mark.parametrize(
    "bad",
    [Cut(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n["), problem(500, "internal"), http(200, b"<"), []],
)
async def test_a_bad_answer_is_a_missed_heartbeat_and_is_made_up_for_soon(
    server: ScriptedServer, desk: Desk, bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    held = desk.hold("a")
    confirmed = held.confirmed
    desk.clock.advance(1)
    server.script("/extend", bad, bad)
    assert await desk.beat() == pytest.approx(0.1)
    assert await desk.beat() == pytest.approx(0.2)
    assert held.confirmed == confirmed
    assert await desk.beat() == 10.0
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_the_thread_beats_by_itself_and_at_once_when_told(server: ScriptedServer, desk: Desk) -> None:
    desk.hold("a")
    desk.heartbeat.start()
    desk.heartbeat.beat_now()
    await server.until(lambda: len(server.requests) == 1)
    quick = Desk(server.url, lease_s=0.3)
    quick.hold("b")
    quick.heartbeat.start()
    await server.until(lambda: len(server.requests) == 4)
    for one in (desk, quick):
        await asyncio.to_thread(one.heartbeat.stop)
        await asyncio.to_thread(one.heartbeat.stop)
    assert "jobpipe-heartbeat" not in [thread.name for thread in threading.enumerate()]


async def test_stopping_does_not_wait_for_a_server_that_hangs(server: ScriptedServer, desk: Desk) -> None:
    server.script("/extend", asyncio.get_running_loop().create_future())
    desk.hold("a")
    desk.heartbeat.start()
    desk.heartbeat.beat_now()
    await server.until(lambda: server.requests)
    await asyncio.to_thread(desk.heartbeat.stop)
    assert "jobpipe-heartbeat" not in [thread.name for thread in threading.enumerate()]


async def test_a_heartbeat_outlives_its_own_faults(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(server.url, lease_s=0.15)
    desk.hold("a")
    server.script("/extend", lambda body: [answer("a", cancel_requested=True)])
    desk.cancels = None  # type: ignore[assignment]
    desk.heartbeat.start()
    await server.until(lambda: len(server.requests) == 3)
    await asyncio.to_thread(desk.heartbeat.stop)
    assert "a heartbeat failed" in caplog.text


def test_stopping_before_the_start_is_harmless() -> None:
    Desk("http://127.0.0.1:1").heartbeat.stop()


async def test_other_refusals_are_named(
    server: ScriptedServer, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.hold("a")
    server.script("/extend", Status_(401, {"code": "unauthorized", "detail": "no such key"}))
    await desk.beat()
    assert "no such key" in caplog.text
