"""/lease, /settle and /extend: what a worker in any language is promised."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from jobpipe.core.task import Status
from jobpipe.engine.maintenance import Rescuer
from jobpipe.http.working import LOCAL

from .conftest import Server, Start, assert_problem

Json = dict[str, Any]


async def lease(server: Server, **wish: Any) -> list[Json]:
    """The tasks of one lease request."""
    response = await server.post("/lease", {"worker_id": "w1", **wish})
    assert response.status_code == 200, response.text
    tasks: list[Json] = response.json()["tasks"]
    return tasks


async def lease_one(server: Server, id: str = "t1", **fields: Any) -> Json:
    """A task, enqueued and leased."""
    assert (await server.enqueue(id=id, **fields)).status_code == 202
    (task,) = await lease(server)
    return task


async def settle(server: Server, *settles: object) -> list[Json]:
    """The answers to settles."""
    response = await server.post("/settle", list(settles))
    assert response.status_code == 200, response.text
    answers: list[Json] = response.json()
    return answers


def done(task: Json, **more: Any) -> Json:
    return {"id": task["id"], "lease_id": task["lease_id"], "outcome": "done", **more}


async def task_of(server: Server, id: str = "t1") -> Json:
    task: Json = (await server.get(f"/tasks/{id}")).json()
    return task


# --- leasing ---


async def test_a_lease_gives_the_task_with_the_proof_of_its_claim(server: Server) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await server.post("/enqueue", {"id": "t1", "payload": [1]}, traceparent=trace)
    (task,) = await lease(server)
    stored = await task_of(server)
    assert {name: value for name, value in task.items() if name in stored} == stored
    assert (task["status"], task["attempts"], task["worker"]) == ("running", 1, "w1")
    assert task["lease_id"]
    assert task["lease_until"] > task["started_at"]
    assert task["traceparent"] == trace
    assert "alone" not in task


async def test_a_lease_takes_at_most_max_and_only_of_its_queues(server: Server) -> None:
    for n in range(4):
        await server.enqueue(id=f"a{n}", queue="a")
    await server.enqueue(id="b", queue="b")
    assert [task["id"] for task in await lease(server, queues=["a"], max=3)] == ["a0", "a1", "a2"]
    assert [task["id"] for task in await lease(server, queues=["b", "c"], max=1000)] == ["b"]
    assert [task["id"] for task in await lease(server, queues=["*", "zz"], max=1000)] == ["a3"]
    assert await lease(server) == []


async def test_a_waiting_lease_is_answered_as_soon_as_a_task_is_due(server: Server) -> None:
    waiting = asyncio.ensure_future(lease(server, wait=60))
    other = asyncio.ensure_future(lease(server, wait=0.05))
    assert await other == []
    await server.enqueue(id="t1")
    assert [task["id"] for task in await asyncio.wait_for(waiting, 10)] == ["t1"]


async def test_a_drain_answers_waiting_leases_at_once(server: Server) -> None:
    waiting = asyncio.ensure_future(lease(server, wait=60))
    assert await lease(server, wait=0.05) == []  # by then the other one waits too
    server.queue.drain()
    assert await asyncio.wait_for(waiting, 10) == []
    await asyncio.wait_for(lease(server, wait=60), 10)


async def test_a_lease_is_never_given_to_a_connection_that_has_closed(start: Start, lane: str) -> None:
    if lane not in ("live", "fast"):
        pytest.skip("needs a connection that can close")
    server = await start()
    assert server.port is not None
    body = json.dumps({"worker_id": "gone", "wait": 60}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"POST /lease HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert await lease(server, wait=0.1) == []  # the one above has arrived meanwhile
    writer.close()
    await writer.wait_closed()
    assert await lease(server, wait=0.1) == []  # its end too
    await server.enqueue(id="t1")
    (task,) = await lease(server, wait=10)
    assert (task["worker"], task["attempts"]) == ("w1", 1)


async def test_an_answer_has_at_most_8_mib_but_one_task(start: Start) -> None:
    server = await start(max_body=6 * 2**20, max_batch_body=32 * 2**20)
    for id in ("a", "b", "c"):
        assert (await server.enqueue(id=id, payload="x" * (5 * 2**20))).status_code == 202
    assert [task["id"] for task in await lease(server, max=10)] == ["a"]
    left = await server.queue.get(["b", "c"])
    assert [(task.status, task.attempts) for task in left if task] == [(Status.QUEUED, 0)] * 2


async def test_only_who_knows_the_token_works_as_a_part_of_the_server(start: Start) -> None:
    server = await start(local_token="secret")
    for id in ("a", "b"):
        await server.enqueue(id=id)
    body = {"worker_id": "w1"}
    for token in ("wrong", "secret"):
        response = await server.post("/lease", body, **{LOCAL.decode(): token})
        assert len(response.json()["tasks"]) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("worker_id", ""),
        ("worker_id", "x" * 201),
        ("worker_id", "a\nb"),
        ("worker_id", 7),
        ("queues", []),
        ("queues", "a"),
        ("queues", ["../x"]),
        ("max", 0),
        ("max", 1001),
        ("max", 10**6),
        ("max", True),
        ("max", "1"),
        ("wait", -1),
        ("wait", 61),
        ("wait", 10**9),
        ("lease", 4.9),
        ("lease", 3601),
        ("pid", -1),
        ("waite", 5),
    ],
)
async def test_a_lease_request_that_is_not_allowed_is_400(server: Server, field: str, value: object) -> None:
    response = await server.post("/lease", {"worker_id": "w1", field: value})
    body = response.json()
    assert (response.status_code, body["code"]) == (400, "invalid")
    assert body["field"].startswith(field)


async def test_null_counts_as_left_out(server: Server) -> None:
    await server.enqueue(id="t1")
    wish = dict.fromkeys(("queues", "max", "wait", "lease", "host", "pid", "version"))
    assert len(await lease(server, **wish)) == 1


async def test_a_lease_without_a_worker_id_is_400(server: Server) -> None:
    assert (await server.post("/lease", {})).status_code == 400
    assert_problem(await server.post("/lease", b"{"), 400, "invalid_json")


# --- settling ---


async def test_a_settle_is_written_and_its_result_kept_as_it_came(server: Server) -> None:
    task = await lease_one(server)
    body = f'[{{"id":"t1","lease_id":"{task["lease_id"]}","outcome":"done","result":{{"x":1.10}}}}]'
    response = await server.post("/settle", body.encode())
    assert response.json() == [{"id": "t1", "accepted": True, "status": "done"}]
    assert '"result":{"x":1.10}' in (await server.get("/tasks/t1")).text


async def test_the_same_settle_gets_the_same_answer_until_the_task_is_leased_again(server: Server) -> None:
    task = await lease_one(server)
    failed = {**done(task), "outcome": "failed", "error": {"type": "E", "message": "m"}, "retry_in": 0}
    first = await settle(server, failed)
    assert first == [{"id": "t1", "accepted": True, "status": "queued"}]
    assert await settle(server, failed) == first
    (again,) = await lease(server)
    assert await settle(server, failed) == [{"id": "t1", "accepted": False, "code": "lease_lost"}]
    assert await settle(server, done(again)) == [{"id": "t1", "accepted": True, "status": "done"}]


async def test_each_settle_is_answered_in_its_place(server: Server) -> None:
    a, b = await lease_one(server, "a"), await lease_one(server, "b")
    answers = await settle(
        server,
        done(a),
        {"id": "nobody", "lease_id": "x.1.1", "outcome": "done"},
        7,
        {"id": "b", "lease_id": b["lease_id"], "outcome": "exploded"},
        {"id": "b", "lease_id": b["lease_id"], "outcome": "done", "surprise": 1},
        {"id": "b", "lease_id": b["lease_id"], "outcome": "cancelled"},
        done({**b, "lease_id": a["lease_id"]}),
        done(b),
    )
    assert answers == [
        {"id": "a", "accepted": True, "status": "done"},
        {"id": "nobody", "accepted": False, "code": "not_found"},
        {"id": None, "accepted": False, "code": "invalid"},
        {"id": "b", "accepted": False, "code": "invalid"},
        {"id": "b", "accepted": False, "code": "invalid"},
        {"id": "b", "accepted": False, "code": "invalid"},
        {"id": "b", "accepted": False, "code": "lease_lost"},
        {"id": "b", "accepted": True, "status": "done"},
    ]


async def test_a_result_over_the_limit_is_too_large_and_its_lease_stays(start: Start) -> None:
    server = await start(max_body=1000, max_batch_body=10_000)
    task = await lease_one(server)
    assert await settle(server, done(task, result="x" * 2000)) == [
        {"id": "t1", "accepted": False, "code": "too_large"}
    ]
    assert (await task_of(server))["status"] == "running"
    assert (await settle(server, done(task, result="small")))[0]["accepted"] is True


async def test_a_result_nested_too_deep_is_invalid_and_its_lease_stays(server: Server) -> None:
    task = await lease_one(server)
    deep: Any = 1
    for _ in range(129):
        deep = [deep]
    assert (await settle(server, done(task, result=deep)))[0]["code"] == "invalid"
    assert (await settle(server, done(task, result=deep[0])))[0]["accepted"] is True


async def test_texts_of_errors_are_cut_to_8_kib(server: Server) -> None:
    task = await lease_one(server, max_retries=0)
    text = "\x1b[31m</script>\r\n" + "x" * 10**6
    error = {"type": "E" * 10**5, "message": text, "traceback": text + "the end"}
    await settle(server, {**done(task), "outcome": "failed", "error": error})
    stored = (await task_of(server))["last_error"]
    assert [len(stored[name]) for name in ("type", "message", "traceback")] == [8192] * 3
    assert stored["message"].startswith("\x1b[31m</script>")
    assert stored["traceback"].endswith("the end")


@pytest.mark.parametrize(
    ("settled", "status", "accounting"),
    [
        ({"outcome": "failed"}, "queued", (1, 1, 0)),
        ({"outcome": "failed", "retryable": False}, "failed", (1, 1, 0)),
        ({"outcome": "timed_out"}, "queued", (1, 1, 0)),
        ({"outcome": "released"}, "queued", (0, 0, 0)),
        ({"outcome": "done"}, "done", (1, 0, 0)),
    ],
)
async def test_what_each_outcome_makes_of_a_task(
    server: Server, settled: Json, status: str, accounting: tuple[int, int, int]
) -> None:
    leased = await lease_one(server)
    await settle(server, {**done(leased), **settled})
    task = await task_of(server)
    assert task["status"] == status
    assert (task["attempts"], task["failures"], task["lost"]) == accounting


async def test_retry_in_is_obeyed(server: Server) -> None:
    task = await lease_one(server)
    await settle(server, {**done(task), "outcome": "failed", "retry_in": 60})
    assert await lease(server) == []
    server.clock.advance(61)
    assert len(await lease(server)) == 1


@pytest.mark.parametrize("body", [b"{}", b"7", b'"x"', b"null"])
async def test_settles_that_are_no_array_are_400(server: Server, body: bytes) -> None:
    assert_problem(await server.post("/settle", body), 400, "invalid")


async def test_a_settle_that_is_no_json_is_400_whole(server: Server) -> None:
    assert_problem(await server.post("/settle", b"[{"), 400, "invalid_json")


async def test_settles_are_taken_while_draining(server: Server) -> None:
    task = await lease_one(server)
    server.queue.drain()
    assert (await settle(server, done(task)))[0]["accepted"] is True


# --- heartbeats ---


async def extend(server: Server, *leases: Json, **body: Any) -> list[Json]:
    response = await server.post("/extend", {"worker_id": "w1", "leases": [*leases], **body})
    assert response.status_code == 200, response.text
    answers: list[Json] = response.json()
    return answers


def held(task: Json, **more: Any) -> Json:
    return {"id": task["id"], "lease_id": task["lease_id"], **more}


async def test_a_heartbeat_prolongs_its_leases_and_tells_of_a_cancel(server: Server) -> None:
    task = await lease_one(server)
    server.clock.advance(20)
    (answer,) = await extend(server, held(task), lease=60)
    assert (answer["id"], answer["extended"], answer["cancel_requested"]) == ("t1", True, False)
    assert answer["lease_until"] > task["lease_until"]
    assert (await server.post("/tasks/t1/cancel", b"")).status_code == 202
    assert (await extend(server, held(task)))[0]["cancel_requested"] is True
    assert await settle(server, {**done(task), "outcome": "cancelled"}) == [
        {"id": "t1", "accepted": True, "status": "cancelled"}
    ]


async def test_a_lost_lease_is_told_in_its_place(server: Server) -> None:
    task = await lease_one(server)
    answers = await extend(server, held(task, lease_id="x.1.1"), held(task), {"id": "no", "lease_id": "y"})
    assert [answer["extended"] for answer in answers] == [False, True, False]
    assert answers[0] == {"id": "t1", "extended": False, "code": "lease_lost"}


async def test_no_lease_is_extended_past_the_timeout_and_one_lease(server: Server) -> None:
    task = await lease_one(server, timeout=10)
    server.clock.advance(25)
    (answer,) = await extend(server, held(task), lease=30)
    assert answer["extended"] is True
    server.clock.advance(14.9)  # 39.9 s: the timeout of 10 s and one lease of 30 s are nearly over
    assert (await extend(server, held(task), lease=30))[0]["extended"] is True
    server.clock.advance(0.2)
    assert await extend(server, held(task), lease=30) == [
        {"id": "t1", "extended": False, "code": "lease_lost"}
    ]


async def test_the_handlers_own_timeout_bounds_the_lease_too(server: Server) -> None:
    task = await lease_one(server)
    await extend(server, held(task, timeout=1), lease=30)
    server.clock.advance(29)
    await extend(server, held(task, timeout=1), lease=30)
    server.clock.advance(2.1)
    assert (await extend(server, held(task, timeout=1), lease=30))[0]["extended"] is False


async def test_a_run_past_its_timeout_is_settled_as_timed_out_and_one_that_is_silent_as_lost(
    server: Server,
) -> None:
    slow, silent = await lease_one(server, "slow", timeout=5), await lease_one(server, "silent")
    rescuer = Rescuer(server.queue, server.queue._storage)
    server.clock.advance(31)
    await rescuer.run_once(server.clock.now())
    slow_now, silent_now = await task_of(server, "slow"), await task_of(server, "silent")
    assert (slow_now["failures"], slow_now["lost"], slow_now["last_error"]["type"]) == (1, 0, "timed_out")
    assert (silent_now["failures"], silent_now["lost"]) == (0, 1)
    assert silent_now["last_error"]["type"] == "worker_lost"
    assert [answer["code"] for answer in await settle(server, done(slow), done(silent))] == ["lease_lost"] * 2


@pytest.mark.parametrize(
    "body", [{}, {"worker_id": "w1"}, {"worker_id": "w1", "leases": 7}, {"worker_id": "w1", "leases": [{}]}]
)
async def test_a_heartbeat_that_is_not_allowed_is_400(server: Server, body: Json) -> None:
    response = await server.post("/extend", body)
    assert (response.status_code, response.json()["code"]) == (400, "invalid")


@pytest.mark.parametrize("path", ["/lease", "/settle", "/extend"])
async def test_a_wrong_method_is_405(server: Server, path: str) -> None:
    response = await server.get(path)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


async def test_nobody_else_goes_by_the_id_of_the_servers_own_worker(start: Start) -> None:
    server = await start(local_token="secret")
    server.queue.workers.owns = {"mine"}.__contains__
    assert (await server.enqueue(id="t1")).status_code == 202
    for path, body in (("/lease", {"worker_id": "mine"}), ("/extend", {"worker_id": "mine", "leases": []})):
        assert_problem(await server.post(path, body), 403, "forbidden")
    own = await server.post("/lease", {"worker_id": "mine"}, **{LOCAL.decode(): "secret"})
    assert [task["id"] for task in own.json()["tasks"]] == ["t1"]
