"""Claiming only what is due now, over HTTP: as safe as any claim, but it waits for nothing and for nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from test_client_fakes import DONE, Cut, ScriptedServer, accept, extended, http, leased, problem
from test_client_remote_source import EMPTY, gives, never
from test_work_pace import hand_moved
from test_work_pool import turns

from jobpipe.client.remote_source import RemoteSource
from jobpipe.runtime.clock import ManualClock
from jobpipe.work.app import App
from jobpipe.work.executor import Executor
from jobpipe.work.pool import Pool

Make = Callable[..., RemoteSource]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.routes |= {"/lease": never, "/settle": accept, "/extend": extended}
        yield server


@pytest.fixture
async def make(server: ScriptedServer) -> AsyncIterator[Make]:
    made: list[RemoteSource] = []

    def make(**options: Any) -> RemoteSource:
        made.append(RemoteSource(server.url, "w1", **{"random": lambda: 1.0, **options}))
        return made[-1]

    yield make
    for source in made:
        await source.close()


def released(server: ScriptedServer) -> list[str]:
    settles = [item for body in server.bodies("/settle") for item in body]
    assert {item["outcome"] for item in settles} <= {"released"}
    return [item["id"] for item in settles]


async def test_the_server_is_asked_for_what_is_due_now_and_then_again_for_what_comes(
    server: ScriptedServer, make: Make
) -> None:
    server.script("/lease", gives("a"), gives("b", "c"), gives("d"))
    source = make()
    await source.claim(2)
    assert [claim.lease_id for claim in await source.claim_now(7)] == ["lease-b", "lease-c"]
    await source.claim(3)
    assert [(wish["max"], wish["wait"]) for wish in server.bodies("/lease")] == [
        (2, 30.0),
        (7, 0.0),
        (3, 30.0),
    ]
    assert server.connections == 1


async def test_nothing_due_is_no_reason_to_ask_again(server: ScriptedServer, make: Make) -> None:
    server.script("/lease", EMPTY)
    assert await make().claim_now(2) == []
    assert len(server.requests) == 1


async def test_no_more_is_asked_for_than_the_server_allows(server: ScriptedServer, make: Make) -> None:
    server.script("/lease", gives("a"))
    await make().claim_now(5000)
    assert server.bodies("/lease")[0]["max"] == 1000


async def test_leases_of_what_was_due_are_kept_until_it_is_settled(
    server: ScriptedServer, make: Make
) -> None:
    source = make(lease_s=0.15)
    server.script("/lease", gives("a", "b"))
    a, _ = await source.claim_now(2)
    await server.until(lambda: server.bodies("/extend"))
    assert [one["id"] for one in server.bodies("/extend")[0]["leases"]] == ["a", "b"]
    await source.settle([(a, DONE)])
    beats = len(server.bodies("/extend"))
    await server.until(lambda: len(server.bodies("/extend")) == beats + 2)
    assert [one["id"] for one in server.bodies("/extend")[-1]["leases"]] == ["b"]


async def test_leases_of_unknown_age_are_proven_at_once(server: ScriptedServer, make: Make) -> None:
    clock = ManualClock()
    source = make(clock=clock)

    def late(_: Any) -> Any:
        clock.advance(11)
        return gives("a")

    server.script("/lease", late)
    await source.claim_now(1)
    await server.until(lambda: server.bodies("/extend"))


async def test_it_waits_for_no_settles_as_a_claim_that_may_wait_does(
    server: ScriptedServer, make: Make
) -> None:
    source = make()
    server.script("/lease", gives("a", "b"), gives("c"), gives("d"))
    answer = asyncio.get_running_loop().create_future()
    server.script("/settle", answer)
    a, b = await source.claim(2)
    settling = [source.settle([(a, DONE)])]
    await server.until(lambda: server.bodies("/settle"))
    settling.append(source.settle([(b, DONE)]))  # goes out when the first is answered for
    assert [claim.task.id for claim in await source.claim_now(1)] == ["c"]
    claiming = asyncio.create_task(source.claim(1))
    await turns()
    assert [path for path, _ in server.requests] == ["/lease", "/settle", "/lease"]
    answer.set_result(accept(server.bodies("/settle")[0]))
    assert [claim.task.id for claim in await claiming] == ["d"]
    await asyncio.gather(*settling)


@pytest.mark.parametrize(
    "answer",
    [problem(503, "draining"), problem(401, "unauthorized"), problem(429, "x"), Cut(), http(200, b"[]")],
)
async def test_a_server_that_gives_none_is_not_waited_for_nor_complained_about(
    server: ScriptedServer, make: Make, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    caplog.set_level(logging.INFO)
    source = make()
    server.script("/lease", answer)
    assert await source.claim_now(1) == []
    assert len(server.requests) == 1
    assert caplog.records == []
    server.script("/lease", gives("a"))
    assert len(await source.claim_now(1)) == 1


async def test_a_server_that_is_away_gives_none(server: ScriptedServer, make: Make) -> None:
    source = make()
    await server.stop()
    assert await source.claim_now(1) == []


async def test_what_is_on_its_way_to_a_cancelled_call_is_released(server: ScriptedServer, make: Make) -> None:
    answer = asyncio.get_running_loop().create_future()
    server.script("/lease", answer)
    source = make()
    claiming = asyncio.create_task(source.claim_now(2))
    await server.until(lambda: server.requests)
    answer.set_result(gives("a", "b"))
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    await server.until(lambda: server.bodies("/settle"))  # at once, not when the source is closed
    assert released(server) == ["a", "b"]


async def test_a_call_cancelled_in_the_moment_of_its_answer_releases_it(
    server: ScriptedServer, make: Make
) -> None:
    """At any step of the event loop, either the caller has the claims or the server has them back."""
    for steps in range(12):
        server.requests.clear()
        answered = asyncio.Event()

        def gave(_: Any, answered: asyncio.Event = answered) -> Any:
            answered.set()
            return gives("a")

        server.script("/lease", gave)
        source = make()
        claiming = asyncio.create_task(source.claim_now(1))
        await answered.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        claiming.cancel()
        (got,) = await asyncio.gather(claiming, return_exceptions=True)
        await source.close()
        assert (isinstance(got, list), released(server)) in ((True, []), (False, ["a"]))


async def test_closing_ends_it_and_releases_what_was_on_its_way(server: ScriptedServer, make: Make) -> None:
    answer = asyncio.get_running_loop().create_future()
    server.script("/lease", answer)
    source = make()
    claiming = asyncio.create_task(source.claim_now(1))
    await server.until(lambda: server.requests)
    answer.set_result(gives("a"))
    await source.close()
    assert await claiming == []
    assert released(server) == ["a"]
    assert await source.claim_now(1) == []
    assert len(server.bodies("/lease")) == 1


async def test_a_pool_claims_ahead_from_a_server_with_a_backlog(
    server: ScriptedServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    backlog, done = [leased(f"t{n}") for n in range(300)], list[str]()

    def lease(wish: Any) -> Any:
        if not backlog and wish["wait"]:
            return never(wish)
        given, backlog[:] = backlog[: wish["max"]], backlog[wish["max"] :]
        return {"tasks": given}

    def settle(body: Any) -> Any:
        done.extend(item["id"] for item in body if item["outcome"] == "done")
        backlog.extend(leased(item["id"]) for item in body if item["outcome"] == "released")
        return told(accept(body))

    async def told(answer: Any) -> Any:
        await server.tell()
        return answer

    server.routes |= {"/lease": lease, "/settle": settle}
    app = App()

    @app.handler
    async def noop(n: int) -> int:
        return n + 1

    source = make()
    pool = Pool(source, Executor(app), workers=3, claim_now=source.claim_now)
    hand_moved(monkeypatch).show(pool._ahead, 4)
    pool.start()
    await server.until(lambda: len(done) == 300)
    await pool.drain(1)
    assert sorted(done) == sorted(f"t{n}" for n in range(300))
    wishes = server.bodies("/lease")
    assert (wishes[0]["max"], wishes[0]["wait"]) == (3 + 4, 0)
    assert max(wish["max"] for wish in wishes if wish["wait"]) <= 3
    assert sum(not wish["wait"] for wish in wishes) > 1
