"""`GET /handlers`: how each handler does; and what was refused, counted and per second."""

from __future__ import annotations

from typing import Any

from .conftest import Server, Start
from .test_api_working import done, lease, settle

Json = dict[str, Any]


def failed(task: Json, message: str = "no") -> Json:
    error = {"type": "E", "message": message}
    return {"id": task["id"], "lease_id": task["lease_id"], "outcome": "failed", "error": error}


async def one(server: Server, name: str) -> Json:
    response = await server.get(f"/handlers/{name}")
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


async def test_nothing_ran_at_first(server: Server) -> None:
    assert (await server.get("/handlers")).json() == []
    assert (await server.get("/handlers/none")).status_code == 404


async def test_a_handler_is_told_by_its_runs_waits_failures_and_queues(server: Server) -> None:
    await server.enqueue([{"handler": "h", "queue": "a"}, {"handler": "h", "queue": "b"}, {"handler": "g"}])
    server.clock.advance(2)
    first, second, third = await lease(server, max=3)
    server.clock.advance(4)
    await settle(server, done(first), failed(second, "it broke"), done(third))
    g, h = (await server.get("/handlers")).json()
    assert (g["handler"], h["handler"]) == ("g", "h")
    assert (h["declared_by"], h["payload"], h["queues"]) == (None, None, ["a", "b"])
    assert h["failures"] == h["recent"] == {"runs": 2, "failed": 1}
    assert h["rates"] == {"finished_per_s": 0.007, "failed_per_s": 0.003}
    assert 1 < h["wait"]["p50"] <= 3
    assert 3 < h["run"]["p99"] <= 6
    assert (len(h["by_hour"]), h["by_hour"][-1]["runs"], h["by_hour"][-1]["failed"]) == (24, 2, 1)
    assert "errors" not in h
    assert [(e["task_id"], e["message"]) for e in (await one(server, "h"))["errors"]] == [
        (second["id"], "it broke")
    ]


async def test_a_run_that_was_given_back_is_none(server: Server) -> None:
    await server.enqueue(handler="h")
    (task,) = await lease(server)
    await settle(server, {"id": task["id"], "lease_id": task["lease_id"], "outcome": "released"})
    assert (await one(server, "h"))["failures"] == {"runs": 0, "failed": 0}


async def test_what_is_lately_is_five_minutes_and_a_day_is_a_day(server: Server) -> None:
    await server.enqueue(handler="h")
    await settle(server, done(*(await lease(server))))
    server.clock.advance(6 * 60)
    h = await one(server, "h")
    assert (h["recent"]["runs"], h["failures"]["runs"]) == (0, 1)
    server.clock.advance(25 * 3600)
    assert (await one(server, "h"))["failures"]["runs"] == 0


async def test_releases_of_the_workers_are_told_apart(server: Server) -> None:
    for release, end in ((3, done), (4, failed)):
        await server.enqueue(handler="h", max_retries=0)
        (task,) = await lease(server, worker_id=f"w{release}", total=1, release=release)
        await settle(server, end(task))
    assert [(r["release"], r["runs"], r["failed"]) for r in (await one(server, "h"))["releases"]] == [
        (4, 1, 1),
        (3, 1, 0),
    ]


async def test_refusals_are_counted_by_queue_and_code_and_per_second(start: Start) -> None:
    server = await start(queue_size=2)
    tasks = [{"id": str(i), "queue": "full"} for i in range(5)]
    assert [item["status"] for item in (await server.post("/enqueue", tasks)).json()] == [202] * 2 + [503] * 3
    assert (await server.post("/enqueue", {"id": "0", "queue": "full"})).status_code == 409
    text = (await server.get("/metrics")).text
    assert 'jobpipe_tasks_refused_total{code="queue_full",queue="full"} 3.0' in text
    assert 'jobpipe_tasks_refused_total{code="task_exists",queue="full"} 1.0' in text
    assert (await server.get("/stats")).json()["rates"]["refused_per_s"] == 3.0
    (queue,) = (await server.get("/queues")).json()
    assert queue["refused_per_s"] == 3.0
    server.clock.advance(61)
    assert "refused_per_s" not in (await server.get("/stats")).json()["rates"]
    assert "refused_per_s" not in (await server.get("/queues")).json()[0]


async def test_handlers_that_apps_told_of_are_listed_before_anything_ran(server: Server) -> None:
    schema = {"type": "object", "properties": {"to": {"type": "string"}}, "x-jobpipe": {"timeout": 5}}
    body = {"app": "shop", "release": 2, "handlers": {"mail.send": schema, "odd": True}}
    assert (await server.post("/declare", body)).json()["taken"]
    told = {one["handler"]: one for one in (await server.get("/handlers")).json()}
    assert {name: (one["declared_by"], one["payload"]) for name, one in told.items()} == {
        "mail.send": ("shop", schema),
        "odd": ("shop", True),
    }
    assert told["mail.send"]["failures"] == {"runs": 0, "failed": 0}
    one = (await server.get("/handlers/mail.send")).json()
    assert (one["payload"], one["errors"], one["releases"]) == (schema, [], [])
    await server.post("/declare", {"app": "shop", "release": 3, "handlers": {}})
    assert (await server.get("/handlers")).json() == []
    assert (await server.get("/handlers/mail.send")).status_code == 404
