"""Reading and steering single tasks, and waiting for their end."""

from __future__ import annotations

import asyncio

import pytest

from jobpipe.core.lifecycle import Kind

from .conftest import Server, assert_problem


async def test_a_task_is_read_by_its_path_and_by_the_older_query(server: Server) -> None:
    task = (await server.enqueue(id="t 1/é")).json()
    for path in ("/tasks/t%201%2F%C3%A9", "/task?id=t%201%2F%C3%A9", "/task?id=t+1/%C3%A9"):
        response = await server.get(path)
        assert (response.status_code, response.json()) == (200, task)


async def test_an_id_that_nobody_has_is_404(server: Server) -> None:
    for path in ("/tasks/nobody", "/task?id=nobody", "/tasks/%FF", "/tasks/%2e%2e", "/tasks/a%00b"):
        problem = assert_problem(await server.get(path), 404, "not_found")
        assert problem["error"] == "task not found"
    for verb in ("cancel", "retry"):
        assert_problem(await server.client.post(f"/tasks/nobody/{verb}"), 404, "not_found")
    assert_problem(await server.client.delete("/tasks/nobody"), 404, "not_found")


@pytest.mark.parametrize("query", ["", "?", "?id=", "?other=1"])
async def test_the_older_query_without_an_id_is_400(server: Server, query: str) -> None:
    problem = assert_problem(await server.get(f"/task{query}"), 400, "invalid", "id")
    assert problem["error"] == "missing id parameter"


async def test_an_encoded_slash_does_not_end_the_id(server: Server) -> None:
    await server.enqueue(id="x")
    assert_problem(await server.client.post("/tasks/x%2Fcancel"), 405, "method_not_allowed")
    assert (await server.get("/tasks/x")).json()["status"] == "queued"


@pytest.mark.parametrize("name", ["retry", "cancel", "delete"])
async def test_a_task_may_be_called_like_a_bulk_route(server: Server, name: str) -> None:
    await server.enqueue(id=name)
    assert (await server.get(f"/tasks/{name}")).json()["id"] == name
    assert (await server.client.post(f"/tasks/{name}/cancel")).status_code == 200
    assert (await server.client.delete(f"/tasks/{name}")).status_code == 204


async def test_cancelling_a_queued_task_is_done_at_once(server: Server) -> None:
    await server.enqueue(id="t1")
    response = await server.client.post("/tasks/t1/cancel")
    assert (response.status_code, response.json()["status"]) == (200, "cancelled")


async def test_cancelling_a_running_task_is_asked_for(server: Server) -> None:
    await server.enqueue(id="t1")
    claim = await server.claim()
    response = await server.client.post("/tasks/t1/cancel")
    assert (response.status_code, response.json()["status"]) == (202, "running")
    assert response.json()["cancel_requested"] is True
    await server.settle(claim, Kind.CANCELLED)
    assert (await server.get("/tasks/t1")).json()["status"] == "cancelled"


async def test_cancelling_a_finished_task_is_409(server: Server) -> None:
    await server.enqueue(id="t1")
    await server.run_one()
    assert_problem(await server.client.post("/tasks/t1/cancel"), 409, "already_finished")


async def test_a_failed_task_is_queued_again_by_hand(server: Server) -> None:
    await server.enqueue(id="t1", max_retries=0)
    await server.run_one(Kind.FAILED, error_type="ValueError", message="no </script>", traceback="line\r\n")
    task = (await server.get("/tasks/t1")).json()
    assert task["status"] == "failed"
    assert task["last_error"] == {
        "type": "ValueError",
        "message": "no </script>",
        "traceback": "line\r\n",
        "attempt": 1,
        "at": "2023-11-14T22:13:20.000Z",
    }
    again = (await server.client.post("/tasks/t1/retry")).json()
    assert (again["status"], again["attempts"], again["failures"], again["finished_at"]) == (
        "queued",
        0,
        0,
        None,
    )


async def test_retrying_a_queued_task_is_409(server: Server) -> None:
    await server.enqueue(id="t1")
    assert_problem(await server.client.post("/tasks/t1/retry"), 409, "not_retryable")


async def test_only_a_finished_task_is_forgotten(server: Server) -> None:
    await server.enqueue(id="t1")
    assert_problem(await server.client.delete("/tasks/t1"), 409, "not_finished")
    await server.run_one()
    response = await server.client.delete("/tasks/t1")
    assert (response.status_code, response.content) == (204, b"")
    assert_problem(await server.get("/tasks/t1"), 404, "not_found")


async def test_waiting_answers_when_the_task_is_finished(server: Server) -> None:
    await server.enqueue(id="t1")
    waiting = asyncio.ensure_future(server.get("/tasks/t1?wait=30"))
    await waiter_for(server, "t1")
    await server.run_one(result=b"[42]")
    task = (await waiting).json()
    assert (task["status"], task["result"]) == ("done", [42])


async def test_waiting_ends_with_what_the_task_is_then(server: Server) -> None:
    await server.enqueue(id="t1")
    assert (await server.get("/tasks/t1?wait=0.05")).json()["status"] == "queued"
    assert (await server.get("/tasks/t1?wait=0")).json()["status"] == "queued"
    assert_problem(await server.get("/tasks/nobody?wait=60"), 404, "not_found")


async def test_waiting_ends_when_the_server_drains(server: Server) -> None:
    await server.enqueue(id="t1")
    waiting = asyncio.ensure_future(server.get("/tasks/t1?wait=60"))
    await waiter_for(server, "t1")
    server.queue.drain()
    assert (await waiting).json()["status"] == "queued"


@pytest.mark.parametrize(
    "wait", ["-1", "60.1", "61", "1e9", "1e1", "nan", "inf", "x", "", "1_0", "%201", "1&wait=2"]
)
async def test_a_wait_out_of_bounds_is_400(server: Server, wait: str) -> None:
    await server.enqueue(id="t1")
    assert_problem(await server.get(f"/tasks/t1?wait={wait}"), 400, "invalid", "wait")


async def test_a_client_that_leaves_frees_its_waiter(server: Server) -> None:
    if server.port is None:
        pytest.skip("in process there is no connection to close")
    await server.enqueue(id="t1")
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /tasks/t1?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await waiter_for(server, "t1")
    writer.close()
    await waiter_for(server, "t1", there=False)


async def waiter_for(server: Server, id: str, *, there: bool = True) -> None:
    """Return when somebody waits for the task, or when nobody does any more."""
    while (id in server.queue._ends.waiters) is not there:
        await asyncio.sleep(0.001)
