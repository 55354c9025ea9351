"""What the server answers when it is full, stopping, or broken; and what it says about itself."""

from __future__ import annotations

import logging

import pytest

from jobpipe.core.errors import StorageError, StorageFull
from jobpipe.core.lifecycle import Kind
from jobpipe.engine.workers import Worker

from .conftest import Server, Start, assert_problem


async def test_a_full_queue_is_503_and_nothing_is_stored(start: Start) -> None:
    server = await start(queue_size=2)
    for id in ("a", "b"):
        assert (await server.enqueue(id=id)).status_code == 202
    response = await server.enqueue(id="c")
    assert_problem(response, 503, "queue_full")
    assert response.headers["retry-after"] == "1"
    assert await server.ids() == ["b", "a"]
    assert (await server.enqueue(id="c", queue="other")).status_code == 202


async def test_too_many_queue_names_are_503(server: Server) -> None:
    for n in range(5):
        assert (await server.enqueue(queue=f"q{n}")).status_code == 202
    response = await server.enqueue(queue="one-more")
    assert_problem(response, 503, "too_many_queues")
    assert response.headers["retry-after"] == "1"


async def test_an_id_that_exists_is_409(server: Server) -> None:
    await server.enqueue(id="t1")
    problem = assert_problem(await server.enqueue(id="t1"), 409, "task_exists", "id")
    assert problem["error"] == "task already exists"
    assert problem["title"] == "Conflict"
    assert problem["detail"] == "a task with id 't1' exists (queued)"


async def test_draining_refuses_new_tasks_and_closes(server: Server) -> None:
    await server.enqueue(id="t1")
    server.queue.drain()
    for body in ({}, [{}, {}], b"no JSON"):
        response = await server.enqueue(body)
        assert_problem(response, 503, "draining")
        assert response.headers["retry-after"] == "5"
        assert response.headers["connection"] == "close"
    assert_problem(
        await server.post("/enqueue", b"{}", **{"content-type": "application/x-ndjson"}), 503, "draining"
    )


async def test_while_draining_everything_else_is_served(server: Server) -> None:
    await server.enqueue(id="t1")
    server.queue.drain()
    for path in ("/healthz", "/health", "/livez", "/tasks/t1", "/tasks", "/stats", "/queues"):
        assert (await server.get(path)).status_code == 200
    assert (await server.get("/stats")).json()["status"] == "draining"
    assert_problem(await server.get("/readyz"), 503, "draining")
    assert (await server.client.post("/tasks/t1/cancel")).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [(StorageFull(), 507, "storage_full", None), (StorageError("away"), 503, "storage_down", "1")],
)
async def test_a_storage_that_fails_says_so(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    error: StorageError,
    status: int,
    code: str,
    retry_after: str | None,
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    for verb in ("insert", "check", "page", "get", "cancel"):
        monkeypatch.setattr(server.queue._storage, verb, fail)
    for response in (
        await server.enqueue({}),
        await server.enqueue([{}, {}]),
        await server.get("/tasks"),
        await server.get("/tasks/t1"),
        await server.client.post("/tasks/t1/cancel"),
    ):
        assert_problem(response, status, code)
        assert response.headers.get("retry-after") == retry_after
    assert_problem(await server.get("/readyz"), 503, "storage_down")
    assert (await server.get("/healthz")).status_code == 200


async def test_a_defect_is_a_plain_500_and_logged(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("a secret of the server")

    monkeypatch.setattr(server.queue._storage, "insert", fail)
    with caplog.at_level(logging.ERROR):
        response = await server.enqueue({})
    assert_problem(response, 500, "internal")
    assert "secret" not in response.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("path", ["/healthz", "/health", "/livez", "/readyz"])
async def test_a_server_that_serves_is_healthy(server: Server, path: str) -> None:
    response = await server.get(path)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_stats_tell_how_the_server_does(start: Start) -> None:
    server = await start(
        version="1.2.3",
        store="postgresql://u:***@h/db",
        workers=lambda: [Worker("w:1", 0, total=3, busy=1), Worker("w:2", 0, total=1, busy=0)],
    )
    await server.enqueue([{}, {}, {"max_retries": 0}])
    await server.run_one()
    await server.run_one(Kind.RELEASED)
    server.clock.advance(10)
    assert (await server.get("/stats")).json() == {
        "version": "1.2.3",
        "uptime_s": 10.0,
        "timeout": 3600.0,
        "store": "postgresql://u:***@h/db",
        "status": "ok",
        "counts": {"queued": 2, "running": 0, "done": 1, "failed": 0, "cancelled": 0},
        "waiting": {"scheduled": 0, "retrying": 0},
        "rates": {"enqueued_per_s": 0.3, "finished_per_s": 0.1, "failed_per_s": 0.0},
        "workers": {"total": 4, "busy": 1, "processes": 2},
    }


async def test_queues_tell_what_they_hold(start: Start) -> None:
    server = await start(queue_size=7)
    assert (await server.get("/queues")).json() == []
    await server.enqueue([{"queue": "a"}, {"queue": "a", "delay": 100}, {"queue": "b", "delay": 100}])
    server.clock.advance(2.5)
    nothing = {"running": 0, "done": 0, "failed": 0, "cancelled": 0, "capacity": 7, "paused": False}
    assert (await server.get("/queues")).json() == [
        {"queue": "a", "queued": 2, "oldest_ready_s": 2.5} | nothing,
        {"queue": "b", "queued": 1, "oldest_ready_s": None} | nothing,
    ]


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/tasks", "/stats", "/openapi.json", "/task?id=t1", "/tasks/t1"]
)
async def test_head_is_get_without_its_body(server: Server, path: str) -> None:
    await server.enqueue(id="t1")
    head, get = await server.client.head(path), await server.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.content))


async def test_every_answer_is_safe_from_guessing_and_caching(server: Server) -> None:
    for path in ("/", "/stats", "/tasks/nobody", "/nope"):
        headers = (await server.get(path)).headers
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/enqueue/",
        "/tasks/",
        "//tasks",
        "/tasks/a/b",
        "/tasks//cancel",
        "/%74asks",
        "/tasks/a/cancel/x",
    ],
)
async def test_an_unknown_path_is_404_as_problem_json(server: Server, path: str) -> None:
    url = str(server.client.base_url) + path
    problem = assert_problem(await server.client.get(url), 404, "not_found")
    assert problem["error"] == "not found"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/enqueue", "POST"),
        ("OPTIONS", "/enqueue", "POST"),
        ("POST", "/tasks", "GET, HEAD"),
        ("PUT", "/tasks/t1", "DELETE, GET, HEAD, PATCH"),
        ("PUT", "/tasks/retry", "DELETE, GET, HEAD, PATCH, POST"),
        ("GET", "/tasks/t1/cancel", "POST"),
        ("DELETE", "/stats", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_with_allow(server: Server, method: str, path: str, allow: str) -> None:
    response = await server.client.request(method, path)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allow
