"""Unique keys, Idempotency-Key, expiry and PATCH over HTTP, by both lanes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import postgres
from jobpipe.core.lifecycle import Kind

from .conftest import Server, Start, assert_problem


async def patch(server: Server, id: str, body: object) -> Any:
    return await server.client.patch(f"/tasks/{id}", json=body)


# --- unique ---


async def test_a_unique_key_answers_with_the_living_task(server: Server) -> None:
    first = await server.enqueue({"id": "a", "unique": "k"})
    assert first.status_code == 202
    assert first.json()["unique"] == {"key": "k", "until": "end", "on_conflict": "return"}
    again = await server.enqueue({"id": "b", "unique": {"key": "k"}})
    assert again.status_code == 200
    assert again.json() == {**first.json(), "deduplicated": True}
    assert again.headers["location"] == "/tasks/a"
    refused = await server.enqueue({"unique": {"key": "k", "on_conflict": "reject"}})
    assert_problem(refused, 409, "not_unique")
    batch = await server.client.post("/enqueue", json=[{"unique": "k"}, {"id": "c", "unique": "l"}])
    assert [(item["status"], item["task"]["id"]) for item in batch.json()] == [(200, "a"), (202, "c")]


async def test_replacing_answers_with_the_changed_task(server: Server) -> None:
    rule = {"key": "k", "until": "start", "on_conflict": "replace", "within": 60}
    await server.enqueue({"id": "a", "unique": rule, "payload": 1, "delay": 5})
    server.clock.advance(1)
    changed = await server.enqueue({"unique": rule, "payload": 2, "delay": 5, "priority": 3})
    assert changed.status_code == 200
    task = changed.json()
    assert (task["id"], task["payload"], task["priority"], task["replaced"]) == ("a", 2, 3, True)
    assert task["unique"] == rule
    stored = (await server.get("/tasks/a")).json()
    assert stored == {name: value for name, value in task.items() if name != "replaced"}


@pytest.mark.parametrize(
    ("unique", "field"),
    [
        ("", "unique"),
        (".", "unique"),
        ("a\nb", "unique"),
        (7, "unique"),
        ({}, "unique.key"),
        ({"key": ".."}, "unique.key"),
        ({"key": "k", "until": 0}, "unique.until"),
        ({"key": "k", "until": "never"}, "unique.until"),
        ({"key": "k", "until": True}, "unique.until"),
        ({"key": "k", "on_conflict": "drop"}, "unique.on_conflict"),
        ({"key": "k", "within": 5}, "unique.within"),
        ({"key": "k", "on_conflict": "replace", "within": -1}, "unique.within"),
    ],
)
async def test_what_cannot_be_unique_is_refused(server: Server, unique: object, field: str) -> None:
    assert_problem(await server.enqueue({"unique": unique}), 400, "invalid", field=field)


async def test_an_unknown_rule_is_refused_and_named(server: Server) -> None:
    answer = await server.enqueue({"unique": {"key": "k", "utnil": "end"}})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert "utnil" in answer.text


async def test_fifty_at_a_time_make_one(server: Server) -> None:
    answers = await asyncio.gather(*(server.enqueue({"unique": "k"}) for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1


# --- Idempotency-Key ---


async def test_a_request_sent_again_is_answered_alike(server: Server) -> None:
    body = b'{"payload": {"n": 1}}'
    first = await server.client.post("/enqueue", content=body, headers={"Idempotency-Key": "order-7"})
    assert (first.status_code, "idempotency-replayed" in first.headers) == (202, False)
    assert first.json()["id"][14] == "8"
    await server.run_one()
    again = await server.client.post("/enqueue", content=body, headers={"Idempotency-Key": "order-7"})
    assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    assert (again.json()["id"], again.json()["status"]) == (first.json()["id"], "done")
    other = await server.client.post("/enqueue", json={}, headers={"Idempotency-Key": "order-7"})
    assert_problem(other, 422, "idempotency_mismatch")
    assert len(await server.ids()) == 1


async def test_so_is_a_batch_whose_refused_items_are_judged_anew(start: Start) -> None:
    server = await start(queue_size=2)
    headers = {"Idempotency-Key": "b1"}
    items = [{"id": "mine"}, {}, {}]
    first = await server.client.post("/enqueue", json=items, headers=headers)
    assert [item["status"] for item in first.json()] == [202, 202, 503]
    assert "idempotency-replayed" not in first.headers
    await server.run_one()
    again = await server.client.post("/enqueue", json=items, headers=headers)
    assert [item["status"] for item in again.json()] == [202, 202, 202]
    ids = [item["task"]["id"] for item in again.json()]
    assert ids[:2] == [item["task"]["id"] for item in first.json()[:2]]
    whole = await server.client.post("/enqueue", json=items, headers=headers)
    assert whole.headers["idempotency-replayed"] == "true"
    assert [item["task"]["id"] for item in whole.json()] == ids
    changed = await server.client.post("/enqueue", json=[{"id": "mine"}, {"payload": 1}, {}], headers=headers)
    assert [item["status"] for item in changed.json()] == [202, 422, 202]


async def test_an_id_of_ones_own_without_the_header_is_409_as_ever(server: Server) -> None:
    await server.client.post("/enqueue", json={"id": "a"}, headers={"Idempotency-Key": "k"})
    assert_problem(await server.enqueue({"id": "a"}), 409, "task_exists", field="id")


@pytest.mark.parametrize("key", ["", "a b", "k" * 201])
async def test_what_cannot_be_an_idempotency_key_is_refused(server: Server, key: str) -> None:
    answer = await server.client.post("/enqueue", json={}, headers={"Idempotency-Key": key})
    assert_problem(answer, 400, "invalid", field="Idempotency-Key")


async def test_lines_may_be_sent_again_too(server: Server) -> None:
    headers = {"Idempotency-Key": "n", "Content-Type": "application/x-ndjson"}
    first = await server.client.post("/enqueue", content=b'{"payload":1}\n{"payload":2}\n', headers=headers)
    again = await server.client.post("/enqueue", content=b'{"payload":1}\n{"payload":2}\n', headers=headers)
    assert [i["task"]["id"] for i in first.json()] == [i["task"]["id"] for i in again.json()]
    assert again.headers["idempotency-replayed"] == "true"


# --- expiry ---


async def test_expires_is_told_and_bounded(server: Server) -> None:
    task = (await server.enqueue({"id": "a", "expires": 60, "delay": 30})).json()
    assert task["expires_at"] > task["run_at"]
    assert_problem(await server.enqueue({"expires": 29.9, "delay": 30}), 400, "invalid", field="expires")
    for expires in (0, -1, "soon", "2020-01-01T00:00:00Z", "2026-01-01T00:00:00", True, 10**10):
        assert_problem(await server.enqueue({"expires": expires}), 400, "invalid", field="expires")


# --- PATCH ---


async def test_a_waiting_task_is_changed(server: Server) -> None:
    await server.enqueue({"id": "a", "delay": 60, "timeout": 5})
    answer = await patch(
        server, "a", {"delay": 0, "priority": 7, "payload": [1], "timeout": None, "expires": 9}
    )
    assert answer.status_code == 200
    task = answer.json()
    assert (task["priority"], task["payload"], task["timeout"]) == (7, [1], None)
    assert task == (await server.get("/tasks/a")).json()
    claim = await server.claim()
    assert claim.task.id == "a"
    assert_problem(await patch(server, "a", {"priority": 1}), 409, "not_waiting")
    await server.settle(claim, Kind.DONE)
    assert_problem(await patch(server, "a", {"priority": 1}), 409, "already_finished")
    assert_problem(await patch(server, "none", {"priority": 1}), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"queue": "x"}, "queue"),
        ({"priority": 101}, "priority"),
        ({"delay": 1, "run_at": "2030-01-01T00:00:00Z"}, "delay"),
        ({"run_at": "soon"}, "run_at"),
        ({"max_retries": True}, "max_retries"),
        ({"expires": 5, "delay": 10}, "run_at"),
    ],
)
async def test_what_cannot_be_changed_is_refused(server: Server, body: object, field: str) -> None:
    await server.enqueue({"id": "a"})
    assert_problem(await patch(server, "a", body), 400, "invalid", field=field)


@pytest.mark.parametrize("lane", ["postgres"])
async def test_beside_a_server_of_an_earlier_version_it_is_told_to_come_again(server: Server) -> None:
    older = "INSERT INTO jobpipe.servers (server, writers, alive_until) VALUES ('old', '{}', jobpipe.now_ms() + 15000)"
    await postgres.shared_cluster().ask(older, "manual")
    for body in ({"unique": "k"}, {"expires": 60}, {"key": "t"}):
        refused = await server.enqueue(body)
        assert_problem(refused, 503, "upgrading")
        assert refused.headers["retry-after"] == "5"
    named = await server.client.post("/enqueue", json={}, headers={"Idempotency-Key": "a"})
    assert_problem(named, 503, "upgrading")
    batch = await server.client.post("/enqueue", json=[{}, {"unique": "k"}])
    assert [item["status"] for item in batch.json()] == [202, 503]
