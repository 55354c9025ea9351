"""Schedules over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import postgres
from jobpipe.core import cron, schedules

from .conftest import Server, assert_problem

NIGHTLY = {
    "cron": "30 2 * * *",
    "timezone": "Europe/Berlin",
    "task": {"handler": "report", "payload": {"n": 1.10}, "queue": "mail", "expires": 60},
}


async def put(server: Server, name: str, body: Any) -> Any:
    return await server.client.put(f"/schedules/{name}", json=body)


async def test_a_schedule_is_made_read_changed_and_forgotten(server: Server) -> None:
    made = await put(server, "nightly", NIGHTLY)
    assert made.status_code == 201, made.text
    shown = made.json()
    assert shown == (await server.get("/schedules/nightly")).json()
    assert (await server.get("/schedules")).json() == [shown]
    assert list(shown) == [
        "name", "cron", "every", "timezone", "task", "paused", "catch_up", "overlap", "jitter", "starts", "ends",
        "declared_by", "changed_at", "changed_by", "next_at", "next", "last_at", "last_task", "last_error", "missed",
        "in_words",
    ]  # fmt: skip
    assert shown["task"] == NIGHTLY["task"]
    assert (shown["next_at"], len(shown["next"])) == (shown["next"][0], 5)
    assert shown["next_at"] == "2023-11-15T01:30:00.000Z"
    again = await put(server, "nightly", shown | {"cron": None, "every": 60, "overlap": "skip"})
    assert (again.status_code, again.json()["every"], again.json()["overlap"]) == (200, 60, "skip")
    assert (await server.client.delete("/schedules/nightly")).status_code == 204
    for call in (server.client.get, server.client.delete):
        assert_problem(await call("/schedules/nightly"), 404, "not_found")


async def test_a_schedule_is_read_back_in_words(server: Server) -> None:
    shown = (await put(server, "nightly", NIGHTLY)).json()
    assert shown["in_words"] == "At 02:30 every day"
    for every, words in ((1, "Every second"), (90, "Every 90 seconds"), (300, "Every 5 minutes"),
                         (3600, "Every hour"), (172_800, "Every 2 days")):  # fmt: skip
        answer = await put(server, "nightly", shown | {"cron": None, "every": every})
        assert answer.json()["in_words"] == words


async def test_a_dry_run_says_what_would_be_and_keeps_nothing(server: Server) -> None:
    dry = await server.client.put("/schedules/s?dry_run=true", json=NIGHTLY)
    assert dry.status_code == 200, dry.text
    assert_problem(await server.get("/schedules/s"), 404, "not_found")
    made = (await put(server, "s", NIGHTLY)).json()
    assert dry.json() == made
    changed = NIGHTLY | {"cron": "0 12 * * mon-fri"}
    dry = await server.client.put("/schedules/s?dry_run=true", json=changed)
    assert dry.json()["in_words"] == "At 12:00 on Monday through Friday"
    assert (await server.get("/schedules/s")).json() == made
    assert dry.json()["next"] == (await put(server, "s", changed)).json()["next"]
    refused = await server.client.put("/schedules/s?dry_run=true", json=NIGHTLY | {"cron": "61 * * * *"})
    assert_problem(refused, 400, "invalid", "cron")
    assert_problem(await server.client.put("/schedules/s?dry_run=1", json=NIGHTLY), 400, "invalid", "dry_run")


@pytest.mark.parametrize("lane", ["postgres"])
async def test_beside_a_server_of_an_earlier_version_none_is_said(server: Server) -> None:
    assert (await put(server, "before", NIGHTLY)).status_code == 201
    older = "INSERT INTO jobpipe.servers (server, writers, alive_until) VALUES ('old', '{}', jobpipe.now_ms() + 15000)"
    await postgres.shared_cluster().ask(older, "manual")
    refused = await put(server, "new", NIGHTLY)
    assert_problem(refused, 503, "upgrading")
    assert refused.headers["retry-after"] == "5"
    assert_problem(await put(server, "before", NIGHTLY | {"cron": "@daily"}), 503, "upgrading")
    declared = {"app": "shop", "schedules": {"nightly": {"every": 60, "task": {}}}}
    assert_problem(await server.post("/declare", declared), 503, "upgrading")
    assert [one["name"] for one in (await server.get("/schedules")).json()] == ["before"]
    assert (await server.client.post("/schedules/before/pause")).status_code == 200


async def test_pausing_holds_over_a_change(server: Server) -> None:
    await put(server, "s", NIGHTLY)
    paused = (await server.client.post("/schedules/s/pause")).json()
    assert (paused["paused"], paused["next_at"], paused["next"]) == (True, None, [])
    assert (await put(server, "s", NIGHTLY | {"cron": "@daily"})).json()["paused"] is True
    resumed = (await server.client.post("/schedules/s/resume")).json()
    assert (resumed["paused"], len(resumed["next"])) == (False, 5)
    for verb in ("pause", "resume", "run"):
        assert_problem(await server.client.post(f"/schedules/none/{verb}"), 404, "not_found")


async def test_run_makes_a_task_now_whatever_is_paused(server: Server) -> None:
    await put(server, "s", NIGHTLY | {"paused": True})
    ran = await server.client.post("/schedules/s/run")
    assert ran.status_code == 202
    task = ran.json()
    assert task["id"].startswith("s@run-")
    assert (task["handler"], task["queue"], task["payload"], task["schedule"]) == (
        "report", "mail", {"n": 1.1}, "s",
    )  # fmt: skip
    assert "scheduled_for" in task
    assert "expires_at" in task
    assert (await server.get("/schedules/s")).json()["last_task"] == task["id"]
    assert [one["id"] for one in (await server.get("/tasks?schedule=s")).json()] == [task["id"]]
    bulk = await server.post("/tasks/cancel", {"schedule": "s"})
    assert bulk.json() == {"matched": 1, "changed": 1}


async def test_what_a_schedule_makes_names_its_time(server: Server) -> None:
    await put(server, "s", {"every": 60, "task": {}})
    server.clock.advance(60)
    await server.queue.schedules.fire()
    (task,) = (await server.get("/tasks?schedule=s")).json()
    assert task["id"] == f"s@{task['scheduled_for'][:19]}Z"
    claim = await server.claim()
    assert claim.task.scheduled_for is not None
    posted = await server.enqueue({**task, "id": "again"})
    assert posted.status_code == 202
    assert "schedule" not in posted.json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": None}, "cron"),
        ({"every": 5}, "every"),
        ({"cron": "* * * *"}, "cron"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"cron": "@reboot"}, "cron"),
        ({"cron": ""}, "cron"),
        ({"cron": "1" * 300}, "cron"),
        ({"cron": None, "every": 0}, "every"),
        ({"cron": None, "every": 1.5}, "every"),
        ({"cron": None, "every": True}, "every"),
        ({"cron": None, "every": 10**20}, "every"),
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"jitter": -1}, "jitter"),
        ({"overlap": "never"}, "overlap"),
        ({"catch_up": "all"}, "catch_up"),
        ({"paused": "yes"}, "paused"),
        ({"starts": "2030-01-01"}, "starts"),
        ({"ends": "2001-01-01T00:00:00Z"}, "ends"),
        ({"starts": "2030-01-01T00:00:00Z", "ends": "2029-01-01T00:00:00Z"}, "ends"),
        ({"cron": "0 0 29 2 *", "ends": "2023-12-01T00:00:00Z"}, "cron"),
        ({"task": None}, "task"),
        ({"task": []}, "task"),
        ({"task": {"id": "x"}}, "task.id"),
        ({"task": {"delay": 0}}, "task.delay"),
        ({"task": {"run_at": "2030-01-01T00:00:00Z"}}, "task.run_at"),
        ({"task": {"expires": "2030-01-01T00:00:00Z"}}, "task.expires"),
        ({"task": {"queue": "../x"}}, "task.queue"),
        ({"task": {"priority": 101}}, "task.priority"),
        ({"task": {"max_retry": 1}}, "task.max_retry"),
        ({"corn": "* * * * *"}, "corn"),
    ],
)
async def test_what_is_not_allowed_is_named(server: Server, change: dict[str, Any], field: str) -> None:
    assert_problem(await put(server, "s", NIGHTLY | change), 400, "invalid", field)


async def test_no_task_is_no_schedule(server: Server) -> None:
    body = {name: value for name, value in NIGHTLY.items() if name != "task"}
    assert_problem(await put(server, "s", body), 400, "invalid", "task")
    assert_problem(await server.client.put("/schedules/s", content=b"{"), 400, "invalid_json")
    assert_problem(await put(server, "a%20b", NIGHTLY), 400, "invalid", "name")
    assert_problem(await server.get("/schedules/a%20b"), 404, "not_found")
    assert_problem(await server.client.post("/schedules", json={}), 405, "method_not_allowed")


async def test_one_beyond_the_bound_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobpipe.core.schedule_edits.MAX_SCHEDULES", 1)
    await put(server, "a", NIGHTLY)
    assert_problem(await put(server, "b", NIGHTLY), 409, "too_many_schedules")
    assert (await put(server, "a", {"every": 5, "task": {}})).status_code == 200


async def test_puts_at_the_same_moment_make_one(server: Server) -> None:
    answers = await asyncio.gather(*(put(server, "s", NIGHTLY) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]


async def test_an_app_declares_schedules(server: Server) -> None:
    body = {"app": "shop", "release": 2, "schedules": {"nightly": NIGHTLY, "often": {"every": 5, "task": {}}}}
    assert (await server.post("/declare", body)).json()["taken"] is True
    nightly, often = (await server.get("/schedules")).json()
    assert (nightly["name"], nightly["declared_by"], nightly["changed_at"]) == ("nightly", "shop", None)
    assert (often["name"], often["every"]) == ("often", 5)
    await put(server, "often", {"every": 7, "task": {}})
    again = {"app": "shop", "release": 2, "schedules": {"often": {"every": 6, "task": {}}}}
    assert (await server.post("/declare", again)).status_code == 200
    (often,) = (await server.get("/schedules")).json()
    assert (often["every"], often["declared_by"]) == (7, "shop")
    assert often["changed_at"] is not None
    assert (await server.post("/declare", {"app": "shop", "release": 1})).status_code == 200
    assert len((await server.get("/schedules")).json()) == 1
    wrong = {"app": "shop", "release": 3, "schedules": {"a": NIGHTLY | {"cron": "61 * * * *"}}}
    assert_problem(await server.post("/declare", wrong), 400, "invalid", "schedules.a.cron")
    other = {"app": "other", "schedules": {"often": {"every": 5, "task": {}}}}
    assert_problem(await server.post("/declare", other), 400, "invalid", "schedules.often")


async def test_times_end_with_the_calendar(server: Server) -> None:
    body = {"every": 2, "starts": "9999-12-31T23:59:56Z", "task": {}}
    made = await put(server, "last", body)
    assert made.status_code == 201, made.text
    assert made.json()["next"] == ["9999-12-31T23:59:56.000Z", "9999-12-31T23:59:58.000Z"]
    assert (await server.get("/schedules")).json() == [made.json()]
    daily = await put(server, "last", {"cron": "@daily", "starts": "9999-12-31T00:00:00Z", "task": {}})
    assert daily.json()["next"] == ["9999-12-31T00:00:00.000Z"]


async def test_one_whose_zone_is_not_known_any_more_hides_no_other(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(server, "away", NIGHTLY)
    await put(server, "well", {"every": 60, "task": {}})
    known = cron.zone_of
    monkeypatch.setattr(cron, "zone_of", lambda name: known(name if name == "UTC" else "Gone/Away"))
    schedules._cron.cache_clear()
    try:
        away, well = (await server.get("/schedules")).json()
        assert (away["next"], away["next_at"], away["in_words"], len(well["next"])) == ([], None, "", 5)
        assert (await put(server, "away", NIGHTLY)).status_code == 400
        assert (await server.client.post("/schedules/away/pause")).status_code == 200
        assert (await server.client.delete("/schedules/away")).status_code == 204
    finally:
        monkeypatch.undo()
        schedules._cron.cache_clear()
