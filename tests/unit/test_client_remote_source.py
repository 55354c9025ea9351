"""A worker's source over HTTP: no task is lost by a cancelled call, an outage, or a loop that is blocked."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from test_client_fakes import DONE, Cut, ScriptedServer, accept, extended, http, leased, problem

from jobpipe.client import remote_source
from jobpipe.client.errors import ConnectionFailed
from jobpipe.client.remote_source import RemoteSource
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.runtime.clock import ManualClock
from jobpipe.work.app import App
from jobpipe.work.executor import Executor
from jobpipe.work.pool import Pool
from jobpipe.work.source import TaskSource

Make = Callable[..., RemoteSource]
EMPTY = {"tasks": []}


def gives(*ids: str, **fields: Any) -> dict[str, Any]:
    return {"tasks": [leased(id, **fields) for id in ids]}


def never(_: Any) -> Any:
    """A long poll without an end."""
    return asyncio.get_running_loop().create_future()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.routes |= {"/lease": never, "/settle": accept, "/extend": extended}
        yield server


@pytest.fixture
async def make(server: ScriptedServer) -> AsyncIterator[Make]:
    made: list[RemoteSource] = []

    def make(**options: Any) -> RemoteSource:
        source = RemoteSource(server.url, "w1", **{"random": lambda: 1.0, **options})
        made.append(source)
        return source

    yield make
    for source in made:
        await source.close()


def test_a_remote_source_is_a_task_source() -> None:
    source: TaskSource = RemoteSource("http://127.0.0.1:1", "w1")
    assert source


# --- claiming ---


async def test_a_claim_is_what_the_server_gave(server: ScriptedServer, make: Make) -> None:
    server.script("/lease", gives("a", alone=True, traceparent="00-x", timeout=2.5, payload={"n": [1]}))
    source = make(queues=("mail", "x"), lease_s=20.0, key="k", headers={"x-a": "b"}, version="1.2")
    (claim,) = await source.claim(5)
    (wish,) = server.bodies("/lease")
    assert (wish["worker_id"], wish["queues"], wish["max"], wish["wait"], wish["lease"], wish["version"]) == (
        "w1", ["mail", "x"], 5, 30.0, 20.0, "1.2",
    )  # fmt: skip
    assert b"authorization: Bearer k\r\n" in server.heads[0]
    assert b"x-a: b\r\n" in server.heads[0]
    assert (claim.lease_id, claim.alone, claim.lease_until) == ("lease-a", True, 1795295340123)
    task = claim.task
    assert (task.id, task.payload, task.timeout, task.traceparent) == ("a", b'{"n":[1]}', 2.5, "00-x")
    assert (task.attempts, task.max_retries, task.created_at) == (1, 3, 1795295340123)


async def test_no_more_is_asked_for_than_the_server_allows(server: ScriptedServer, make: Make) -> None:
    server.script("/lease", gives("a"))
    await make().claim(5000)
    assert server.bodies("/lease")[0]["max"] == 1000


async def test_an_empty_answer_is_asked_again(server: ScriptedServer, make: Make) -> None:
    server.script("/lease", EMPTY, EMPTY, gives("a"))
    assert len(await make().claim(1)) == 1
    assert len(server.requests) == 3
    assert server.connections == 1


async def test_slots_and_release_are_told_to_a_server_that_takes_them_alone(
    server: ScriptedServer, make: Make
) -> None:
    newer = EMPTY | {"features": ["hold", "total", "release"]}
    server.script("/lease", EMPTY, newer, newer, problem(400, "invalid"), EMPTY, gives("a"))
    await make(total=6, release=3).claim(1)
    said = [(body.get("total", "-"), body.get("release", "-")) for body in server.bodies("/lease")]
    # What refuses a poll may be an older server at the same address: it is asked without.
    assert said == [("-", "-"), ("-", "-"), (6, 3), (6, 3), ("-", "-"), ("-", "-")]


async def test_an_outage_is_waited_out_and_told_once(
    server: ScriptedServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broken = http(200, b'{"tasks":[{}]}')
    server.script("/lease", Cut(), problem(500, "internal"), broken, problem(429, "x"), gives("a"))
    assert len(await make().claim(1)) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_refused_key_is_told_once_also_amid_an_outage(
    server: ScriptedServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    refused = [problem(401, "unauthorized"), problem(403, "forbidden"), problem(401, "unauthorized")]
    server.script("/lease", Cut(), problem(500, "internal"), *refused, gives("a"))
    assert len(await make().claim(1)) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO"]


async def test_a_worker_that_asks_too_often_waits_as_long_as_it_is_told(
    server: ScriptedServer, make: Make
) -> None:
    refusal = http(429, b'{"code": "rate_limited", "status": 429}', b"Retry-After: 1")
    server.script("/lease", refusal, gives("a"))
    began = time.monotonic()
    assert len(await make().claim(1)) == 1
    assert time.monotonic() - began >= 1


async def test_a_worker_outlives_the_servers_restart(server: ScriptedServer, make: Make) -> None:
    source = make()
    claiming = asyncio.create_task(source.claim(1))
    await server.until(lambda: server.requests)
    port = server.port
    await server.stop()
    server.script("/lease", gives("a"))
    await server.start(port=port)
    (claim,) = await claiming
    await source.settle([(claim, DONE)])


async def test_a_cancelled_claim_hangs_up_at_once(server: ScriptedServer, make: Make) -> None:
    source = make()
    claiming = asyncio.create_task(source.claim(1))
    await server.until(lambda: server.requests)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    await server.until(lambda: server.hung_up)
    server.script("/lease", gives("a"))
    assert len(await source.claim(1)) == 1


async def test_tasks_on_their_way_to_a_cancelled_claim_are_released(
    server: ScriptedServer, make: Make
) -> None:
    answer = asyncio.get_running_loop().create_future()
    server.script("/lease", answer)
    source = make()
    claiming = asyncio.create_task(source.claim(2))
    await server.until(lambda: server.requests)
    answer.set_result(gives("a", "b"))
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    await source.close()
    (settles,) = server.bodies("/settle")
    assert [(item["id"], item["outcome"]) for item in settles] == [("a", "released"), ("b", "released")]


async def test_a_claim_cancelled_before_it_was_sent_leaves_nothing(
    server: ScriptedServer, make: Make
) -> None:
    source = make()
    claiming = asyncio.create_task(source.claim(1))
    await asyncio.sleep(0)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    await source.close()
    assert server.requests == []


async def test_settles_are_answered_before_the_next_claim_is_sent(server: ScriptedServer, make: Make) -> None:
    source = make()
    server.script("/lease", gives("a"))
    (claim,) = await source.claim(1)
    answer = asyncio.get_running_loop().create_future()
    server.script("/settle", answer)
    server.script("/lease", gives("b"))
    settling = asyncio.ensure_future(source.settle([(claim, DONE)]))
    await server.until(lambda: server.bodies("/settle"))
    claiming = asyncio.create_task(source.claim(1))
    await asyncio.sleep(0)
    answer.set_result([{"id": "a", "accepted": True}])
    await asyncio.gather(settling, claiming)
    assert [path for path, _ in server.requests] == ["/lease", "/settle", "/lease"]


async def test_a_long_poll_does_not_hold_up_settles(server: ScriptedServer, make: Make) -> None:
    source = make()
    server.script("/lease", gives("a"))
    (claim,) = await source.claim(1)
    claiming = asyncio.create_task(source.claim(1))
    await server.until(lambda: len(server.bodies("/lease")) == 2)
    await source.settle([(claim, DONE)])
    claiming.cancel()


# --- leases ---


async def test_leases_are_kept_while_a_handler_blocks_the_loop(server: ScriptedServer) -> None:
    server.script("/lease", gives("a"))
    beaten = threading.Event()

    async def work() -> None:
        source = RemoteSource(server.url, "w1", lease_s=0.3, timeout_of=lambda claim: 9.0)
        (claim,) = await source.claim(1)
        assert beaten.wait(20)
        await source.settle([(claim, DONE)])
        await source.close()

    working = asyncio.create_task(asyncio.to_thread(asyncio.run, work()))
    await server.until(lambda: len(server.bodies("/extend")) == 3)
    beaten.set()
    await working
    assert [path for path, _ in server.requests if path != "/extend"] == ["/lease", "/settle"]
    assert server.bodies("/extend")[0]["leases"] == [{"id": "a", "lease_id": "lease-a", "timeout": 9.0}]


async def test_a_settled_task_is_not_extended(server: ScriptedServer, make: Make) -> None:
    source = make(lease_s=0.15)
    server.script("/lease", gives("a", "b"))
    a, b = await source.claim(2)
    await source.settle([(a, DONE)])
    beats = len(server.bodies("/extend"))
    await server.until(lambda: len(server.bodies("/extend")) == beats + 2)
    assert [one["id"] for one in server.bodies("/extend")[-1]["leases"]] == ["b"]
    await source.settle([(b, DONE)])


@pytest.mark.parametrize(
    ("timeout", "said"),
    [(7.5, 7.5), (float("inf"), 10 * 365.25 * 86400), (None, None), (0.0, None), (float("nan"), None)],
)
async def test_a_handlers_timeout_is_said_as_the_server_takes_it(
    server: ScriptedServer, make: Make, timeout: float | None, said: float | None
) -> None:
    source = make(lease_s=0.15, timeout_of=lambda claim: timeout)
    server.script("/lease", gives("a"))
    await source.claim(1)
    await server.until(lambda: server.bodies("/extend"))
    assert server.bodies("/extend")[0]["leases"][0].get("timeout") == said


async def test_a_wanted_cancel_reaches_the_loop_until_it_is_taken(server: ScriptedServer, make: Make) -> None:
    def cancelling(body: Any) -> Any:
        return [{**one, "cancel_requested": True} for one in extended(body)]

    server.routes["/extend"] = cancelling
    source = make(lease_s=0.15)
    told: list[str] = []
    taken = asyncio.Event()

    def on_cancel(lease_id: str) -> bool:
        told.append(lease_id)
        if len(told) < 2:
            return False
        taken.set()
        return True

    source.on_cancel = on_cancel
    server.script("/lease", gives("a"))
    (claim,) = await source.claim(1)
    await taken.wait()
    beats = len(server.requests)
    await server.until(lambda: len(server.requests) == beats + 2)
    assert told == ["lease-a", "lease-a"]
    await source.settle([(claim, Outcome(Kind.CANCELLED))])
    assert server.bodies("/settle")[0][0]["outcome"] == "cancelled"


async def test_a_run_stopped_for_its_lease_is_released_and_not_called_cancelled(
    server: ScriptedServer, make: Make
) -> None:
    server.routes["/extend"] = lambda body: [{"id": "a", "extended": False, "code": "lease_lost"}]
    source = make(lease_s=0.15)
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    source.on_lost = lost.set_result
    server.script("/lease", gives("a"))
    (claim,) = await source.claim(1)
    assert await lost == "lease-a"
    await source.settle([(claim, Outcome(Kind.CANCELLED))])
    assert server.bodies("/settle")[0][0]["outcome"] == "released"


async def test_a_result_counts_also_when_the_lease_seemed_lost(server: ScriptedServer, make: Make) -> None:
    server.routes["/extend"] = lambda body: Cut()
    source = make(lease_s=0.3)
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    source.on_lost = lost.set_result
    server.script("/lease", gives("a"))
    (claim,) = await source.claim(1)
    await lost
    await source.settle([(claim, DONE)])
    assert server.bodies("/settle")[0][0]["outcome"] == "done"


async def test_leases_of_unknown_age_are_proven_at_once(server: ScriptedServer, make: Make) -> None:
    clock = ManualClock()
    source = make(clock=clock)

    def late(_: Any) -> Any:
        clock.advance(11)
        return gives("a")

    server.script("/lease", late)
    await source.claim(1)
    await server.until(lambda: server.bodies("/extend"))


# --- closing ---


async def test_closing_ends_a_claim_under_way_and_releases_what_was_on_its_way(
    server: ScriptedServer, make: Make
) -> None:
    answer = asyncio.get_running_loop().create_future()
    server.script("/lease", answer)
    source = make()
    claiming = asyncio.create_task(source.claim(1))
    await server.until(lambda: server.requests)
    answer.set_result(gives("a"))
    await source.close()
    assert await claiming == []
    assert [(item["id"], item["outcome"]) for item in server.bodies("/settle")[0]] == [("a", "released")]
    assert await source.claim(1) == []


async def test_closing_ends_the_pause_of_an_outage(server: ScriptedServer, make: Make) -> None:
    source = make(random=lambda: 0.0)
    server.routes["/lease"] = lambda _: EMPTY
    claiming = asyncio.create_task(source.claim(1))
    await server.until(lambda: len(server.requests) == 3)
    await source.close()
    assert await claiming == []


async def test_closing_does_not_wait_for_a_server_that_is_gone(
    server: ScriptedServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_source, "CLOSE_S", 0.05)
    source = make()
    server.script("/lease", gives("a"))
    (claim,) = await source.claim(1)
    await server.stop()
    settling = asyncio.ensure_future(source.settle([(claim, DONE)]))
    await asyncio.sleep(0)
    await source.close()
    with pytest.raises(ConnectionFailed):
        await settling


async def test_closing_before_the_start_and_twice_is_harmless(make: Make) -> None:
    source = make()
    await source.close()
    await source.close()


# --- with a pool ---


async def test_a_pool_works_through_a_remote_source(server: ScriptedServer, make: Make) -> None:
    app = App()

    @app.handler
    async def noop(n: int) -> int:
        return n + 1

    server.script("/lease", gives("a", "b"), EMPTY, gives("c"))
    source = make()
    pool = Pool(source, Executor(app), workers=2)
    source.on_cancel = source.on_lost = pool.cancel
    pool.start()
    await server.until(lambda: sum(map(len, server.bodies("/settle"))) == 3)
    await pool.drain(1)
    await source.close()
    settled = [item for body in server.bodies("/settle") for item in body]
    assert {(item["id"], item["outcome"], item["result"]) for item in settled} == {
        ("a", "done", 2),
        ("b", "done", 2),
        ("c", "done", 2),
    }
