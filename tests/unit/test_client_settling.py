"""Outcomes are delivered: in order, gathered, again and again until the server answered."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest
from test_client_fakes import DONE, Cut, ScriptedServer, accept, claim, http, problem

from jobpipe.client import settling
from jobpipe.client.address import parse_address
from jobpipe.client.claims import settle_body
from jobpipe.client.connection import Connection
from jobpipe.client.errors import ConnectionFailed
from jobpipe.client.outage import Outage, pause
from jobpipe.client.settling import Settler
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.runtime.clock import ManualClock
from jobpipe.wire.working import SettleItem, parse_settles


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.routes["/settle"] = accept
        yield server


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
async def settler(server: ScriptedServer, pauses: list[float]) -> AsyncIterator[Settler]:
    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    clock = ManualClock()
    settler = Settler(
        Connection(parse_address(server.url)), Outage("the server", clock), lambda: 0.0, sleep=sleep
    )
    yield settler
    settler.close()


def sent(server: ScriptedServer) -> list[list[str]]:
    """The ids in each request."""
    return [[item["id"] for item in body] for body in server.bodies("/settle")]


async def test_a_settle_returns_when_the_server_answered(server: ScriptedServer, settler: Settler) -> None:
    await settler.settle([(claim("a"), DONE)])
    assert server.bodies("/settle") == [[{"id": "a", "lease_id": "lease-a", "outcome": "done", "result": 1}]]


async def test_what_ends_together_goes_together(server: ScriptedServer, settler: Settler) -> None:
    await asyncio.gather(*(settler.settle([(claim(id), DONE)]) for id in "abc"))
    assert sent(server) == [["a", "b", "c"]]


async def test_settles_gather_while_one_is_under_way(server: ScriptedServer, settler: Settler) -> None:
    answer = asyncio.get_running_loop().create_future()
    server.script("/settle", answer)
    first = asyncio.ensure_future(settler.settle([(claim("a"), DONE)]))
    await server.until(lambda: server.requests)
    others = [asyncio.ensure_future(settler.settle([(claim(id), DONE)])) for id in "bcd"]
    await asyncio.sleep(0)
    assert sent(server) == [["a"]]
    answer.set_result(accept([{"id": "a"}]))
    await asyncio.gather(first, *others)
    assert sent(server) == [["a"], ["b", "c", "d"]]


async def test_a_request_is_bounded_in_items_and_bytes(
    server: ScriptedServer, settler: Settler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "MOST_ITEMS", 3)
    monkeypatch.setattr(settling, "MOST_BYTES", 500)
    large = Outcome(Kind.DONE, result=json.dumps("x" * 450).encode())
    outcomes = {"a": DONE, "b": DONE, "c": DONE, "d": DONE, "e": large, "f": large, "g": DONE}
    await asyncio.gather(*(settler.settle([(claim(id), outcome)]) for id, outcome in outcomes.items()))
    assert sent(server) == [["a", "b", "c"], ["d"], ["e"], ["f"], ["g"]]


async def test_an_outcome_is_sent_until_it_is_answered(
    server: ScriptedServer, settler: Settler, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    nonsense = http(200, b"<html>")
    server.script(
        "/settle", Cut(), problem(500, "internal"), problem(503, "storage_down"), nonsense, [], Cut(b"H")
    )
    await settler.settle([(claim("a"), DONE)])
    assert sent(server) == [["a"]] * 7
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_key_that_is_refused_for_now_is_an_outage(server: ScriptedServer, settler: Settler) -> None:
    server.script(
        "/settle", problem(401, "unauthorized"), problem(404, "not_found"), problem(429, "rate_limited")
    )
    await settler.settle([(claim("a"), DONE)])
    assert len(server.requests) == 4


@pytest.mark.parametrize("code", ["lease_lost", "not_found", "invalid", "something_new"])
async def test_a_refused_outcome_is_over_and_its_neighbours_are_not(
    server: ScriptedServer, settler: Settler, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    refused = {"id": None, "accepted": False, "code": code}
    server.script("/settle", lambda body: [refused, *accept(body[1:])])
    await asyncio.gather(settler.settle([(claim("a"), DONE)]), settler.settle([(claim("b"), DONE)]))
    assert sent(server) == [["a", "b"]]
    (record,) = caplog.records
    assert record.levelname == ("INFO" if code in ("lease_lost", "not_found") else "ERROR")
    assert "task a" in record.message


async def test_a_result_too_large_fails_its_task_for_good(server: ScriptedServer, settler: Settler) -> None:
    refused = {"id": "a", "accepted": False, "code": "too_large"}
    server.script("/settle", lambda body: [refused, *accept(body[1:])])
    await asyncio.gather(settler.settle([(claim("a"), DONE)]), settler.settle([(claim("b"), DONE)]))
    assert sent(server) == [["a", "b"], ["a"]]
    (item,) = server.bodies("/settle")[1]
    assert (item["outcome"], item["error"]["type"], item["retryable"]) == (
        "failed",
        "result_too_large",
        False,
    )


async def test_what_is_too_large_even_without_its_result_is_given_up(
    server: ScriptedServer, settler: Settler, caplog: pytest.LogCaptureFixture
) -> None:
    server.routes["/settle"] = lambda body: [{"id": "a", "accepted": False, "code": "too_large"}]
    await settler.settle([(claim("a"), DONE)])
    assert len(server.requests) == 2
    assert "refused: too_large" in caplog.text


@pytest.mark.parametrize(("status", "code"), [(413, "too_large"), (400, "invalid")])
async def test_a_request_refused_whole_is_divided_to_find_the_cause(
    server: ScriptedServer, settler: Settler, status: int, code: str
) -> None:
    def judge(body: list[dict[str, object]]) -> object:
        bad = any(item["id"] == "c" and item["outcome"] == "done" for item in body)
        return problem(status, code) if bad else accept(body)  # type: ignore[arg-type]

    server.routes["/settle"] = judge
    await asyncio.gather(*(settler.settle([(claim(id), DONE)]) for id in "abcd"))
    again = [["c"]] if code == "too_large" else []
    assert sent(server) == [["a", "b", "c", "d"], ["a", "b"], ["c", "d"], ["c"], *again, ["d"]]


async def test_flushing_waits_for_what_was_handed_in_before_alone(
    server: ScriptedServer, settler: Settler
) -> None:
    await settler.flush()
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    server.script("/settle", first, second)
    tasks = [asyncio.ensure_future(settler.settle([(claim("a"), DONE)]))]
    await server.until(lambda: len(server.requests) == 1)
    flushing = asyncio.create_task(settler.flush())
    await asyncio.sleep(0)
    tasks.append(asyncio.ensure_future(settler.settle([(claim("b"), DONE)])))
    await asyncio.sleep(0)
    assert not flushing.done()
    first.set_result(accept([{"id": "a"}]))
    await flushing
    await server.until(lambda: len(server.requests) == 2)
    second.set_result(accept([{"id": "b"}]))
    await asyncio.gather(*tasks)


async def test_a_caller_that_leaves_takes_nothing_back(server: ScriptedServer, settler: Settler) -> None:
    answer = asyncio.get_running_loop().create_future()
    server.script("/settle", answer)
    settling_ = asyncio.ensure_future(settler.settle([(claim("a"), DONE)]))
    await server.until(lambda: server.requests)
    waiting = asyncio.ensure_future(settler.settle([(claim("b"), DONE)]))
    await asyncio.sleep(0)
    settling_.cancel()
    waiting.cancel()
    answer.set_result(accept([{"id": "a"}]))
    await settler.flush()
    assert sent(server) == [["a"], ["b"]]


async def test_closing_tells_those_who_wait(server: ScriptedServer, settler: Settler) -> None:
    server.script("/settle", asyncio.get_running_loop().create_future())
    under_way = asyncio.ensure_future(settler.settle([(claim("a"), DONE)]))
    await server.until(lambda: server.requests)
    waiting = asyncio.ensure_future(settler.settle([(claim("b"), DONE)]))
    flushing = asyncio.create_task(settler.flush())
    await asyncio.sleep(0)
    settler.close()
    for task in (under_way, waiting):
        with pytest.raises(ConnectionFailed):
            await task
    await flushing
    with pytest.raises(ConnectionFailed):
        await settler.settle([(claim("c"), DONE)])


async def test_a_fault_in_the_sender_reaches_those_who_wait_and_ends_nothing(
    server: ScriptedServer,
    settler: Settler,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(settler, "_post", None)
        with pytest.raises(TypeError):
            await settler.settle([(claim("a"), DONE)])
    await settler.settle([(claim("b"), DONE)])
    assert sent(server) == [["b"]]
    assert "could not be delivered" in caplog.text


@pytest.mark.parametrize(
    "outcome",
    [
        DONE,
        Outcome(Kind.DONE, result=b"null"),
        Outcome(Kind.FAILED, error_type="E", message='"\n\\', traceback="t", retryable=False, retry_in=1.5),
        Outcome(Kind.FAILED, error_type="E", retry_in=0.0),
        Outcome(Kind.TIMED_OUT, error_type="timed_out", message="m", retry_in=3.0),
        Outcome(Kind.CANCELLED),
        Outcome(Kind.RELEASED),
    ],
)
def test_an_outcome_is_what_the_server_reads(outcome: Outcome) -> None:
    (item,) = parse_settles(b"[%b]" % settle_body(claim("é"), outcome), 1000)
    assert item == SettleItem("é", "lease-é", outcome)


def test_the_pause_grows_to_its_cap_and_half_of_it_is_chance() -> None:
    assert [pause(n, lambda: 0.0) for n in (1, 2, 7, 50)] == [0.1, 0.2, 5.0, 5.0]
    assert pause(50, lambda: 1.0) == 2.5


def test_several_calls_make_one_outage(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = ManualClock()
    outage = Outage("http://h", clock)
    assert [outage.failed("lease", OSError("gone")) for _ in range(3)] == [1, 2, 3]
    assert outage.failed("settle", OSError("gone")) == 1
    clock.advance(2)
    outage.succeeded("lease")
    outage.succeeded("lease")
    clock.advance(1)
    outage.succeeded("settle")
    assert [record.message for record in caplog.records] == [
        "lease of http://h failed, trying on: gone",
        "http://h answers again, after 3.0 s",
    ]
