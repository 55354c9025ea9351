"""Rules of queues and keys over HTTP: set, shown, taken back, and by whom."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from .conftest import Server, Start, assert_problem


@pytest.fixture(autouse=True)
async def with_rules(server: Server) -> None:
    """A store that keeps no rules says so, and is passed over."""
    response = await server.client.patch("/queues/probe", json={"fair": True})
    if "need the store" in response.text:
        pytest.skip("this engine keeps no rules")
    await server.client.delete("/queues/probe")


async def patch(server: Server, path: str, **rules: Any) -> dict[str, Any]:
    response = await server.client.patch(path, json=rules)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_rules_are_shown_with_who_said_what(server: Server) -> None:
    queue = await patch(server, "/queues/mail", concurrency=3, rate="100/m")
    assert queue["rules"] == {"concurrency": 3, "rate": "100/m"}
    assert queue["set"]["concurrency"] == 3
    assert queue["set"]["changed_by"] is None
    assert queue["declared"] is None
    assert queue["hold_until"] is None
    assert (queue["queued"], queue["paused"]) == (0, False)
    (listed,) = (await server.get("/queues")).json()
    assert listed["rules"] == {"concurrency": 3, "rate": "100/m"}
    assert "set" not in listed
    assert (await patch(server, "/queues/mail", rate=None))["rules"] == {"concurrency": 3}


async def test_a_queue_without_tasks_and_rules_is_404(server: Server) -> None:
    assert_problem(await server.get("/queues/none"), 404, "not_found")
    assert_problem(await server.get("/queues/none/keys"), 404, "not_found")
    await server.enqueue(queue="mail")
    plain = (await server.get("/queues/mail")).json()
    assert "rules" not in plain
    assert (plain["set"], plain["declared"], plain["hold_until"]) == (None, None, None)


async def test_a_queue_is_paused_and_resumed(server: Server) -> None:
    await server.enqueue(id="t1", queue="mail")
    paused = (await server.post("/queues/mail/pause", b"")).json()
    assert paused["paused"] is True
    assert (await server.get("/tasks/t1")).json()["held"] == "paused"
    assert (await server.get("/tasks")).json()[0]["held"] == "paused"
    assert (await server.get("/task?id=t1")).json()["held"] == "paused"
    assert (await server.get("/tasks?fields=id,held")).json() == [{"id": "t1", "held": "paused"}]
    assert (await server.post("/lease", {"worker_id": "w"})).json()["tasks"] == []
    resumed = (await server.post("/queues/mail/resume", b"")).json()
    assert resumed["paused"] is False
    assert "held" not in (await server.get("/tasks/t1")).json()
    assert len((await server.post("/lease", {"worker_id": "w"})).json()["tasks"]) == 1


async def test_a_waiting_worker_gets_what_a_resume_lets_go(server: Server) -> None:
    import asyncio

    await server.enqueue(id="t1", queue="mail")
    await server.post("/queues/mail/pause", b"")
    asked = asyncio.create_task(server.post("/lease", {"worker_id": "w", "wait": 30}))
    await asyncio.sleep(0.05)
    assert not asked.done()
    await server.post("/queues/mail/resume", b"")
    assert [task["id"] for task in (await asyncio.wait_for(asked, 5)).json()["tasks"]] == ["t1"]


async def test_a_waiting_worker_gets_what_another_ones_end_lets_go(server: Server) -> None:
    import asyncio

    await patch(server, "/queues/mail", concurrency=1)
    for id in ("t1", "t2"):
        await server.enqueue(id=id, queue="mail")
    (first,) = (await server.post("/lease", {"worker_id": "a"})).json()["tasks"]
    asked = asyncio.create_task(server.post("/lease", {"worker_id": "b", "wait": 30}))
    await asyncio.sleep(0.05)
    assert not asked.done()
    await server.post("/settle", [{"id": "t1", "lease_id": first["lease_id"], "outcome": "done"}])
    assert [task["id"] for task in (await asyncio.wait_for(asked, 5)).json()["tasks"]] == ["t2"]


async def test_a_key_has_rules_of_its_own(server: Server) -> None:
    await server.enqueue(id="t1", queue="mail", key="a/b")
    used = await patch(server, "/queues/mail/keys/a%2Fb", paused=True, concurrency=2)
    assert used == {
        "key": "a/b", "queued": 1, "running": 0, "rules": {"paused": True, "concurrency": 2}, "hold_until": None,
    }  # fmt: skip
    assert (await server.get("/tasks/t1")).json()["held"] == "key_paused"
    assert [use["key"] for use in (await server.get("/queues/mail/keys")).json()] == ["a/b"]
    assert (await server.client.delete("/queues/mail/keys/a%2Fb")).status_code == 204
    assert "held" not in (await server.get("/tasks/t1")).json()


async def test_one_key_is_told_with_what_people_set_of_it(server: Server) -> None:
    await server.enqueue(queue="mail", key="a/b")
    await patch(server, "/queues/mail", key_concurrency=3)
    plain = (await server.get("/queues/mail/keys/a%2Fb")).json()
    assert (plain["key"], plain["queued"], plain["set"]) == ("a/b", 1, None)
    assert plain["rules"] == {"concurrency": 3}
    await patch(server, "/queues/mail/keys/a%2Fb", concurrency=9)
    told = (await server.get("/queues/mail/keys/a%2Fb")).json()
    assert (told["rules"], told["set"]["concurrency"]) == ({"concurrency": 9}, 9)
    assert set(told["set"]) == {"concurrency", "changed_at", "changed_by"}
    assert (await server.get("/queues/mail/keys/none")).json()["queued"] == 0
    assert_problem(await server.get("/queues/none/keys/a"), 404, "not_found")
    assert_problem(await server.get("/queues/mail/keys/%00"), 400, "invalid", "key")


async def test_the_server_tells_how_many_queues_are_paused(server: Server) -> None:
    assert "paused_queues" not in (await server.get("/stats")).json()
    for queue in ("mail", "media"):
        await patch(server, f"/queues/{queue}", paused=True, concurrency=2)
    assert (await server.get("/stats")).json()["paused_queues"] == 2
    await server.post("/queues/mail/resume", b"")
    assert (await server.get("/stats")).json()["paused_queues"] == 1
    await server.post("/queues/media/resume", b"")
    assert "paused_queues" not in (await server.get("/stats")).json()


async def test_keys_are_paged(server: Server) -> None:
    for key in "abc":
        await server.enqueue(queue="mail", key=key)
    first = await server.get("/queues/mail/keys?limit=2")
    assert [use["key"] for use in first.json()] == ["a", "b"]
    following = first.headers["link"].split(";")[0].strip("<>")
    last = await server.get(following)
    assert [use["key"] for use in last.json()] == ["c"]
    assert "link" not in last.headers


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": 10**6 + 1}, "concurrency"),
        ({"concurrency": "some"}, "concurrency"),
        ({"capacity": 10**9 + 1}, "capacity"),
        ({"rate": "100/x"}, "rate"),
        ({"rate": {"limit": 1, "period": 0}}, "rate"),
        ({"rate": {"limit": 1, "period": 1, "burst": 2}}, "rate"),
        ({"key_rate": "0/s"}, "key_rate"),
        ({"paused": "yes"}, "paused"),
        ({"concurency": 1}, "concurency"),
    ],
)
async def test_what_cannot_be_a_rule_is_400_with_its_field(server: Server, rules: Any, field: str) -> None:
    response = await server.client.patch("/queues/mail", json=rules)
    named = response.json()["field"]
    assert_problem(response, 400, "invalid", named)
    assert named.split(".")[0] == field
    assert_problem(await server.get("/queues/mail"), 404, "not_found")


async def test_names_that_cannot_be_are_refused(server: Server) -> None:
    assert_problem(await server.client.patch("/queues/a%20b", json={"paused": True}), 400, "invalid", "queue")
    assert_problem(
        await server.client.patch("/queues/a/keys/%00", json={"paused": True}), 400, "invalid", "key"
    )
    assert_problem(
        await server.client.patch(f"/queues/a/keys/{'k' * 201}", json={"paused": True}), 400, "invalid", "key"
    )


async def test_all_that_people_set_is_taken_back(server: Server) -> None:
    await server.enqueue(queue="mail", key="a")
    await patch(server, "/queues/mail", paused=True, fair=True)
    await patch(server, "/queues/mail/keys/a", concurrency=1)
    assert (await server.client.delete("/queues/mail")).status_code == 204
    assert (await server.get("/queues/mail")).json()["set"] is None
    assert (await server.get("/queues/mail/keys")).json()[0]["rules"] == {}


async def test_an_app_declares_and_people_stand_over_it(server: Server) -> None:
    body = {
        "app": "shop",
        "release": 2,
        "queues": {"mail": {"concurrency": 5, "rate": "9/s"}},
        "handlers": {"send": {}},
    }
    assert (await server.post("/declare", body)).json() == {"app": "shop", "release": 2, "taken": True}
    queue = await patch(server, "/queues/mail", concurrency="none")
    assert queue["declared"] == {"shop": {"concurrency": 5, "rate": "9/s"}}
    assert queue["rules"] == {"rate": "9/s"}
    assert queue["set"]["concurrency"] == "none"
    assert (await server.post("/declare", {"app": "shop", "release": 1})).json()["taken"] is False
    assert (await server.post("/declare", {"app": "shop", "release": 2})).json()["taken"] is True
    assert (await server.get("/queues/mail")).json()["declared"] is None
    for wrong in ({"paused": True}, {"concurrency": "none"}, {"concurrency": 0}):
        response = await server.post("/declare", {"app": "a", "queues": {"q": wrong}})
        assert response.status_code == 400
        assert response.json()["field"].startswith("queues")


async def test_capacity_is_shown_and_obeyed(server: Server) -> None:
    assert (await patch(server, "/queues/mail", capacity=1))["capacity"] == 1
    assert (await server.enqueue(queue="mail")).status_code == 202
    assert_problem(await server.enqueue(queue="mail"), 503, "queue_full")


async def test_a_settle_holds_the_key_or_the_queue(server: Server) -> None:
    for id, key in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        await server.enqueue(id=id, queue="mail", key=key)
    (leased,) = (await server.post("/lease", {"worker_id": "w"})).json()["tasks"]
    item = {"id": "a1", "lease_id": leased["lease_id"], "outcome": "released", "retry_in": 60, "hold": "key"}
    for wrong in ({**item, "retry_in": None}, {**item, "outcome": "done"}, {**item, "hold": "all"}):
        (answer,) = (await server.post("/settle", [wrong])).json()
        assert answer["code"] == "invalid"
    (answer,) = (await server.post("/settle", [item])).json()
    assert answer["status"] == "queued"
    task = (await server.get("/tasks/a1")).json()
    assert (task["attempts"], task["failures"]) == (0, 0)
    assert (await server.get("/tasks/a2")).json()["held"] == "hold"
    leased = (await server.post("/lease", {"worker_id": "w", "max": 9})).json()
    assert [task["id"] for task in leased["tasks"]] == ["b1"]
    assert set(leased["features"]) >= {"hold", "total", "release"}
    assert (await server.get("/queues/mail/keys")).json()[0]["hold_until"] is not None


async def test_a_worker_is_given_no_more_of_a_limited_queue_than_it_can_begin(server: Server) -> None:
    await patch(server, "/queues/mail", concurrency=50)
    for n in range(6):
        await server.enqueue(id=f"m{n}", queue="mail")
    for n in range(6):
        await server.enqueue(id=f"p{n}", queue="plain")
    ask = {"worker_id": "w", "total": 2, "max": 4}
    assert [task["id"] for task in (await server.post("/lease", ask)).json()["tasks"]] == [
        "m0",
        "m1",
        "p0",
        "p1",
    ]
    assert [task["id"] for task in (await server.post("/lease", ask)).json()["tasks"]] == [
        "p2",
        "p3",
        "p4",
        "p5",
    ]
    assert (await server.post("/lease", ask)).json()["tasks"] == []
    del ask["total"]
    assert len((await server.post("/lease", ask)).json()["tasks"]) == 4


async def test_declare_and_changes_need_their_scopes(start: Start) -> None:
    from jobpipe.core.keys import Key, Scope
    from jobpipe.http.keys import Keyring

    keys = [
        Key(name, frozenset({scope}), sha256(name.encode()).digest())
        for name, scope in (
            ("ann", Scope.ADMIN),
            ("app", Scope.DECLARE),
            ("reader", Scope.READ),
            ("work", Scope.WORK),
        )
    ]
    from jobpipe.runtime.clock import ManualClock

    server = await start(keys=Keyring(keys, None, clock=ManualClock()))

    def by(name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {name}"}

    declared = {"app": "shop", "queues": {"mail": {"concurrency": 5}}}
    assert (await server.client.post("/declare", json=declared, headers=by("work"))).status_code == 403
    assert (await server.client.post("/declare", json=declared, headers=by("app"))).status_code == 200
    assert (await server.client.patch("/queues/mail", json={}, headers=by("reader"))).status_code == 403
    assert (await server.client.post("/queues/mail/pause", headers=by("app"))).status_code == 403
    queue = (await server.client.patch("/queues/mail", json={"fair": True}, headers=by("ann"))).json()
    assert queue["set"]["changed_by"] == "ann"
    assert (await server.client.get("/queues/mail", headers=by("reader"))).status_code == 200


async def test_an_app_declares_its_schedules_too(server: Server) -> None:
    body = {
        "app": "shop",
        "release": 1,
        "schedules": {"nightly": {"cron": "@daily", "task": {"handler": "report"}}},
    }
    assert (await server.post("/declare", body)).status_code == 200
    assert (await server.get("/schedules/nightly")).json()["declared_by"] == "shop"
    assert (await server.post("/declare", {"app": "shop", "release": 1})).status_code == 200
    assert (await server.get("/schedules/nightly")).status_code == 404
    wrong = await server.post(
        "/declare", {"app": "shop", "schedules": {"nightly": {"cron": "never", "task": {}}}}
    )
    assert wrong.json()["field"] == "schedules.nightly.cron"
