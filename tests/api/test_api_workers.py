"""`GET /workers`: who works and on what, own workers and those elsewhere."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from jobpipe.engine.signs import KEPT_S, MOST_QUEUES, MOST_REMEMBERED
from jobpipe.engine.workers import Worker
from jobpipe.http.working import LOCAL
from jobpipe.wire import time_text

from .conftest import Server, Start
from .test_api_working import done, lease, settle

Json = dict[str, Any]


async def workers(server: Server) -> list[Json]:
    response = await server.get("/workers")
    assert response.status_code == 200, response.text
    found: list[Json] = response.json()
    return found


async def ids(server: Server) -> list[str]:
    return [worker["worker_id"] for worker in await workers(server)]


async def extend(server: Server, *tasks: Json, worker: str = "w1", **more: Any) -> None:
    leases = [{"id": task["id"], "lease_id": task["lease_id"]} for task in tasks]
    assert (await server.post("/extend", {"worker_id": worker, "leases": leases, **more})).status_code == 200


async def test_nobody_works_at_first(server: Server) -> None:
    assert await workers(server) == []


async def test_a_worker_elsewhere_is_shown_as_it_told_with_what_it_runs(server: Server) -> None:
    await server.enqueue([{"id": "a", "handler": "h"}, {"id": "b", "queue": "q"}, {"id": "c", "queue": "z"}])
    said = {"max": 3, "host": "far", "pid": 7, "version": "1.2"}
    assert len(await lease(server, queues=["q", "default"], **said)) == 2
    now = time_text(server.clock.now())
    assert await workers(server) == [
        {
            "worker_id": "w1",
            "host": "far",
            "pid": 7,
            "version": "1.2",
            "queues": ["default", "q"],
            "busy": 2,
            "total": 3,
            "last_seen": now,
            "state": "active",
            "release": None,
            "tasks": [
                {"id": "a", "handler": "h", "started_at": now},
                {"id": "b", "handler": "default", "started_at": now},
            ],
        }
    ]


async def test_a_worker_that_says_nothing_of_itself_is_shown_too(server: Server) -> None:
    await lease(server)
    (worker,) = await workers(server)
    assert (worker["host"], worker["pid"], worker["version"], worker["queues"]) == (None, None, None, ["*"])
    assert (worker["busy"], worker["total"], worker["tasks"]) == (0, 1, [])


async def test_a_worker_has_as_many_places_as_it_ever_filled_or_asked_for(server: Server) -> None:
    await server.enqueue([{}] * 6)
    await lease(server, max=4)
    await lease(server, max=1)
    (worker,) = await workers(server)
    assert (worker["busy"], worker["total"]) == (5, 5)


@pytest.mark.parametrize("call", ["lease", "extend", "settle"])
async def test_every_call_of_a_worker_is_a_sign_of_life(server: Server, call: str) -> None:
    await server.enqueue([{"id": "a"}, {"id": "b"}])
    first, second = await lease(server, max=2)
    server.clock.advance(20)
    if call == "lease":
        await lease(server)
    elif call == "extend":
        await extend(server, first, second)
    else:
        await settle(server, done(first))
    (worker,) = await workers(server)
    assert worker["last_seen"] == time_text(server.clock.now())


async def test_a_silent_worker_is_forgotten_but_not_while_it_holds_a_task(server: Server) -> None:
    await server.enqueue(id="a")
    (task,) = await lease(server)
    await lease(server, worker_id="idle")
    server.clock.advance(KEPT_S)
    assert await ids(server) == ["idle", "w1"]
    server.clock.advance(1)
    assert await ids(server) == ["w1"]
    await settle(server, done(task))
    assert await ids(server) == ["w1"]  # it has just called
    server.clock.advance(KEPT_S + 1)
    assert await ids(server) == []


async def test_a_worker_with_long_leases_may_be_silent_for_two_of_them(server: Server) -> None:
    await lease(server, lease=300)
    server.clock.advance(600)
    assert await ids(server) == ["w1"]
    server.clock.advance(1)
    assert await ids(server) == []


async def test_a_worker_that_hangs_up_is_gone_at_once(start: Start, lane: str) -> None:
    if lane not in ("live", "fast"):
        pytest.skip("needs a connection that can close")
    server = await start()
    assert server.port is not None
    body = json.dumps({"worker_id": "leaving", "wait": 60}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /lease HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    while await ids(server) != ["leaving"]:
        await asyncio.sleep(0.001)
    writer.close()
    await writer.wait_closed()
    while await ids(server):
        await asyncio.sleep(0.001)


async def test_runs_from_before_a_restart_are_shown_with_their_worker(server: Server) -> None:
    await server.enqueue(id="a", handler="h")
    (task,) = await lease(server)
    server.queue._running.end(task["lease_id"])  # as a server that has just started
    server.queue.workers._signs.known.clear()
    (worker,) = await workers(server)
    assert (worker["worker_id"], worker["busy"], worker["host"]) == ("w1", 1, None)
    assert worker["tasks"] == [{"id": "a", "handler": "h", "started_at": task["started_at"]}]
    await extend(server, task)
    server.clock.advance(5)
    (worker,) = await workers(server)
    assert (worker["worker_id"], worker["busy"]) == ("w1", 1)


async def test_own_workers_are_shown_with_what_they_run_and_only_once(start: Start) -> None:
    own = Worker("own", 5000, total=2, busy=1, host="here", pid=9, version="1", queues=("a",))
    server = await start(workers=lambda: [own], local_token="secret")
    await server.enqueue(id="a")
    header = {LOCAL.decode(): "secret"}
    leased = await server.post("/lease", {"worker_id": "own"}, **header)
    (task,) = leased.json()["tasks"]
    beat = {"worker_id": "own", "leases": [{"id": "a", "lease_id": task["lease_id"]}]}
    await server.post("/extend", beat, **header)
    (worker,) = await workers(server)
    assert (worker["worker_id"], worker["host"], worker["pid"]) == ("own", "here", 9)
    assert (worker["queues"], worker["total"], worker["busy"]) == (["a"], 2, 1)
    assert [run["id"] for run in worker["tasks"]] == ["a"]


async def test_stats_count_workers_elsewhere_too(start: Start) -> None:
    pool = Worker("own", 0, total=2, busy=0, apart=False)
    server = await start(workers=lambda: [pool])
    await server.enqueue(id="a")
    await lease(server, max=3)
    assert (await server.get("/stats")).json()["workers"] == {"total": 5, "busy": 1, "processes": 1}


async def test_names_that_never_come_again_fill_no_memory(server: Server) -> None:
    known = server.queue.workers
    for n in range(MOST_REMEMBERED + 10):
        known.beat(f"w{n}", 30)
    assert len(known._signs.known) == MOST_REMEMBERED
    assert "w9" not in known._signs.known
    server.clock.advance(KEPT_S + 1)
    await lease(server)
    assert list(known._signs.known) == ["w1"]


async def test_of_a_worker_with_many_queues_the_first_are_remembered(server: Server) -> None:
    named = [f"q{i:03}" for i in range(MOST_QUEUES + 5)]
    await lease(server, queues=named)
    (worker,) = await workers(server)
    assert worker["queues"] == named[:MOST_QUEUES]


# --- how many slots, and who is there -------------------------------------------------------------------------------


async def stats(server: Server) -> Json:
    found: Json = (await server.get("/stats")).json()["workers"]
    return found


async def metric(server: Server, name: str) -> float:
    text = (await server.get("/metrics")).text
    (value,) = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(value)


async def test_the_answer_of_a_lease_lists_what_a_worker_may_say_of_itself(server: Server) -> None:
    answer = (await server.post("/lease", {"worker_id": "w1"})).json()
    assert answer["features"] == ["hold", "total", "release"]


async def test_a_worker_has_as_many_slots_as_it_says(server: Server) -> None:
    await server.enqueue([{}] * 8)
    await lease(server, max=6, total=6, release=3)
    await lease(server, max=2, total=6, release=3)  # ahead of its slots
    (worker,) = await workers(server)
    assert (worker["total"], worker["busy"], worker["release"], len(worker["tasks"])) == (6, 6, 3, 8)
    assert await stats(server) == {"total": 6, "busy": 6, "processes": 1}
    await lease(server, worker_id="w2", max=1, total=6)
    assert (await stats(server))["total"] == 12
    await lease(server, max=1, total=2)  # started anew, smaller
    assert (await stats(server))["total"] == 8


@pytest.mark.parametrize(
    ("field", "value"), [("total", 0), ("total", 10**7), ("total", "6"), ("release", -1), ("release", 1.5)]
)
async def test_slots_and_release_that_are_none_are_refused(server: Server, field: str, value: object) -> None:
    answer = await server.post("/lease", {"worker_id": "w1", field: value})
    assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_a_worker_without_a_sign_for_one_lease_is_lost_and_offers_nothing(server: Server) -> None:
    await lease(server, total=6)
    await lease(server, worker_id="w2", total=4, lease=60)
    server.clock.advance(31)
    states = {worker["worker_id"]: (worker["state"], worker["total"]) for worker in await workers(server)}
    assert states == {"w1": ("lost", 0), "w2": ("active", 4)}
    assert await stats(server) == {"total": 4, "busy": 0, "processes": 1}
    assert await metric(server, "jobpipe_workers") == 4
    assert await metric(server, "jobpipe_workers_lost") == 1
    await lease(server, total=6)  # it was only slow
    assert {worker["state"] for worker in await workers(server)} == {"active"}
    assert (await stats(server))["total"] == 10


async def test_a_worker_whose_poll_is_open_is_there(start: Start) -> None:
    server = await start()
    waiting = asyncio.create_task(
        server.post("/lease", {"worker_id": "w1", "wait": 60, "lease": 5, "total": 2})
    )
    while not await workers(server):
        await asyncio.sleep(0.001)
    server.clock.advance(50)
    (worker,) = await workers(server)
    assert (worker["state"], worker["total"]) == ("active", 2)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_worker_that_takes_nothing_new_offers_what_it_still_uses(start: Start, lane: str) -> None:
    if lane not in ("live", "fast"):
        pytest.skip("needs a connection that can close")
    server = await start()
    assert server.port is not None
    await server.enqueue(id="a")
    await lease(server, total=3)
    body = json.dumps({"worker_id": "w1", "wait": 60, "total": 3}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /lease HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    while not server.queue.workers._signs.known["w1"].asking:
        await asyncio.sleep(0.001)
    writer.close()
    await writer.wait_closed()
    while (worker := (await workers(server))[0])["state"] != "stopping":
        await asyncio.sleep(0.001)
    assert (worker["total"], worker["busy"]) == (1, 1)


async def test_an_own_worker_that_freezes_is_lost_too(start: Start) -> None:
    own = Worker("own", 5000, total=2, busy=0)
    server = await start(workers=lambda: [own], local_token="secret")
    await server.post("/lease", {"worker_id": "own", "release": 7}, **{LOCAL.decode(): "secret"})
    (worker,) = await workers(server)
    assert (worker["state"], worker["total"], worker["release"]) == ("active", 2, 7)
    server.clock.advance(31)
    (worker,) = await workers(server)
    assert (worker["state"], worker["total"]) == ("lost", 0)
    assert await stats(server) == {"total": 0, "busy": 0, "processes": 0}


async def test_the_signs_of_an_own_worker_that_is_gone_make_no_worker(start: Start) -> None:
    server = await start(local_token="secret")
    await server.post("/lease", {"worker_id": "own"}, **{LOCAL.decode(): "secret"})
    assert await workers(server) == []
