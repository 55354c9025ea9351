"""The past over HTTP: attempts of a task, errors in groups, and the series of minutes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jobpipe.core.errors import StorageError
from jobpipe.core.lifecycle import Kind
from jobpipe.wire import parse_time, time_text

from .conftest import Server, assert_problem

LATER_S = 2.0
"""Long enough for an answer that was shared to be made anew."""


async def fail(server: Server, id: str, message: str = "no", **fields: Any) -> None:
    await server.enqueue(id=id, max_retries=0, **fields)
    await server.run_one(Kind.FAILED, error_type="ValueError", message=message, traceback="at line 1")


async def read(server: Server, path: str) -> Any:
    """What is answered when nothing is shared with an answer of before."""
    server.clock.advance(LATER_S)
    response = await server.get(path)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


# --- attempts -------------------------------------------------------------------------------------------------------


async def test_the_attempts_of_a_task_tell_when_where_and_why_each_ended(server: Server) -> None:
    await server.enqueue(id="a/b", max_retries=1)
    began = time_text(server.clock.now())
    claim = await server.claim()
    server.clock.advance(1.5)
    ended = time_text(server.clock.now())
    await server.settle(claim, Kind.FAILED, error_type="ValueError", message="</script>", traceback="at 1")
    server.clock.advance(10)
    await server.run_one(Kind.RELEASED)
    await server.run_one(Kind.DONE)
    failed, released = (await server.get("/tasks/a%2Fb/attempts")).json()
    assert failed == {
        "attempt": 1,
        "outcome": "failed",
        "started_at": began,
        "ended_at": ended,
        "worker": "worker-1",
        "error": {
            "type": "ValueError",
            "message": "</script>",
            "traceback": "at 1",
            "attempt": 1,
            "at": ended,
        },
    }
    assert (released["attempt"], released["outcome"], released["error"]) == (2, "released", None)


async def test_a_task_without_an_unsuccessful_attempt_has_an_empty_history(server: Server) -> None:
    await server.enqueue(id="a")
    assert (await server.get("/tasks/a/attempts")).json() == []
    await server.run_one()
    assert (await server.get("/tasks/a/attempts")).json() == []


async def test_the_attempts_of_an_unknown_task_are_404(server: Server) -> None:
    assert_problem(await server.get("/tasks/nobody/attempts"), 404, "not_found")


# --- groups of errors -----------------------------------------------------------------------------------------------


async def test_errors_are_grouped_and_their_tasks_found_and_retried_by_the_group(server: Server) -> None:
    await fail(server, "a", "user 1 not found")
    server.clock.advance(1)
    await fail(server, "b", "user 2 not found")
    server.clock.advance(1)
    await fail(server, "c", "disk full")
    disk, user = await read(server, "/errors")
    assert (disk["message"], disk["count"], disk["example_id"]) == ("disk full", 1, "c")
    assert (user["handler"], user["type"], user["message"]) == ("default", "ValueError", "user <n> not found")
    assert (user["count"], user["example_id"], sum(user["trend"]), len(user["trend"])) == (2, "b", 2, 24)
    assert parse_time(user["last_seen"]) - parse_time(user["first_seen"]) == 1000
    listed = (await server.get(f"/tasks?error_group={user['group']}")).json()
    assert [task["id"] for task in listed] == ["b", "a"]
    where = {"error_group": user["group"], "status": "failed"}
    dry = (await server.post("/tasks/retry", {**where, "dry_run": True})).json()
    assert dry == {"matched": 2, "changed": 0}
    assert (await server.post("/tasks/retry", where)).json() == {"matched": 2, "changed": 2}
    assert (await server.get("/tasks/c")).json()["status"] == "failed"
    assert (await server.post("/tasks/retry", where)).json() == {"matched": 0, "changed": 0}


@pytest.mark.parametrize("verb", ["cancel", "delete"])
async def test_a_group_alone_is_enough_of_a_filter_for_every_verb(server: Server, verb: str) -> None:
    await fail(server, "a")
    await server.enqueue(id="b")
    (group,) = await read(server, "/errors")
    answer = (await server.post(f"/tasks/{verb}", {"error_group": group["group"]})).json()
    assert answer == {"matched": 1, "changed": 1 if verb == "delete" else 0}
    assert "b" in await server.ids()


@pytest.mark.parametrize(
    "group", ["", "x", "0" * 15, "0" * 17, "G" * 16, "ABCDEF0123456789", "0" * 15 + "%0a"]
)
async def test_what_is_no_group_is_named(server: Server, group: str) -> None:
    assert_problem(await server.get(f"/tasks?error_group={group}"), 400, "invalid", "error_group")
    body = {"error_group": group.replace("%0a", "\n")}
    assert_problem(await server.post("/tasks/retry", body), 400, "invalid", "error_group")


async def test_errors_outside_the_window_are_not_told(server: Server) -> None:
    await fail(server, "old", "old")
    server.clock.advance(3600)
    await fail(server, "new", "new")
    since = time_text(server.clock.now() - 60_000)
    assert [group["message"] for group in await read(server, f"/errors?since={since}")] == ["new"]
    assert [group["message"] for group in await read(server, "/errors")] == ["new", "old"]
    assert [group["message"] for group in await read(server, "/errors?limit=1")] == ["new"]
    server.clock.advance(25 * 3600)
    assert await read(server, "/errors") == []


# --- series ---------------------------------------------------------------------------------------------------------


async def test_the_series_tells_each_minute_the_running_one_too(server: Server) -> None:
    at = server.clock.now() // 60_000 * 60_000
    await server.enqueue(id="a")
    await server.run_one()
    await server.enqueue(id="b", max_retries=0)
    server.clock.advance(120)
    await fail(server, "c")
    first, second = await read(server, "/series")
    assert first["at"] == time_text(at)
    assert second["at"] == time_text(at + 120_000)
    assert {name: first[name] for name in ("enqueued", "done", "failed", "cancelled", "retried", "rescued")} == {
        "enqueued": 2, "done": 1, "failed": 0, "cancelled": 0, "retried": 0, "rescued": 0,
    }  # fmt: skip
    assert (second["enqueued"], second["failed"], second["queued"]) == (1, 1, 1)
    for name in ("wait", "run"):
        assert all(0 <= first[f"{name}_{share}"] <= 0.001 for share in ("p50", "p95", "p99"))
    # "b" waited for two minutes before it ran in place of "c".
    assert 100 < second["wait_p50"] <= 200


async def test_the_series_is_cut_to_the_span_that_was_asked_for(server: Server) -> None:
    start = server.clock.now() // 60_000 * 60_000
    for n in range(4):
        await server.enqueue(id=f"t{n}")
        server.clock.advance(60)

    async def minutes(query: str) -> list[int]:
        found = await read(server, f"/series?{query}")
        return [(parse_time(point["at"]) - start) // 60_000 for point in found]

    assert await minutes("") == [0, 1, 2, 3]
    assert await minutes(f"since={time_text(start + 60_000)}") == [1, 2, 3]
    assert await minutes(f"since={time_text(start)}&until={time_text(start + 120_000)}") == [0, 1]
    assert await minutes(f"since={time_text(start + 60_000)}&until={time_text(start)}") == []
    assert await minutes("since=0001-01-01T00:00:00Z") == [0, 1, 2, 3]
    assert await minutes("since=9999-12-31T23:59:59Z") == []
    assert await minutes("until=9999-12-31T23:59:59Z") == [0, 1, 2, 3]
    assert await minutes("since=2020-01-01T00:00:00+01:00") == [0, 1, 2, 3]
    server.clock.advance(3600)
    assert await minutes("") == []


async def test_a_server_where_nothing_happened_has_an_empty_past(server: Server) -> None:
    assert await read(server, "/series") == []
    assert await read(server, "/errors") == []


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/series?since=yesterday", "since"),
        ("/series?until=2026-01-01T00:00:00", "until"),
        ("/series?limit=5", "limit"),
        ("/series?since=", "since"),
        ("/errors?until=2026-01-01T00:00:00Z", "until"),
        ("/errors?limit=0", "limit"),
        ("/errors?limit=1001", "limit"),
        ("/errors?since=2026-01-01T00:00:00Z&since=2026-01-01T00:00:00Z", "since"),
        ("/errors?group=1", "group"),
    ],
)
async def test_a_query_that_is_not_understood_is_named(server: Server, path: str, field: str) -> None:
    assert_problem(await server.get(path), 400, "invalid", field)


# --- many who ask ---------------------------------------------------------------------------------------------------


async def test_a_hundred_who_ask_within_a_moment_are_answered_by_one_look(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fail(server, "a")
    looks = 0
    minutes = server.queue.history.minutes

    def counted(since: int, until: int) -> Any:
        nonlocal looks
        looks += 1
        return minutes(since, until)

    monkeypatch.setattr(server.queue.history, "minutes", counted)
    for path in ("/series", "/errors"):
        looks = 0
        server.clock.advance(LATER_S)
        answers = await asyncio.gather(*(server.get(path) for _ in range(50)))
        assert len({answer.content for answer in answers}) == 1
        assert len(answers[0].json()) == 1
        await server.get(path)
        assert looks == 1
        server.clock.advance(LATER_S)
        await server.get(path)
        assert looks == 2


async def test_a_failed_look_is_not_shared_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    await server.enqueue(id="a")

    def fails(since: int, until: int) -> Any:
        raise StorageError("away")

    with monkeypatch.context() as patched:
        patched.setattr(server.queue.history, "minutes", fails)
        assert_problem(await server.get("/series"), 503, "storage_down")
    assert len((await server.get("/series")).json()) == 1


async def test_the_past_is_told_while_draining(server: Server) -> None:
    await fail(server, "a")
    server.queue.drain()
    assert len(await read(server, "/series")) == 1
    assert len(await read(server, "/errors")) == 1
    assert len(await read(server, "/tasks/a/attempts")) == 1
