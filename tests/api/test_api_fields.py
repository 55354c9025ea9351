"""Bad input and its answer: the fields of a task to enqueue."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Server, Start, assert_problem

BAD: list[tuple[str, Any]] = [
    *(("max_retries", value) for value in (-1, 1001, 10**20, True, "1", 1.5, 1.0, [], {})),
    *(("priority", value) for value in (-101, 101, 10**20, False, "1", 0.5)),
    *(("id", value) for value in ("", "x" * 201, "a\nb", "a\0", "\x7f", "\x85", ".", "..", 1, True, ["a"])),
    *(("handler", value) for value in ("", "a b", "x" * 201, "é", "a/b", "a\n", 1)),
    *(("queue", value) for value in ("", "../x", "🎉", "x" * 101, "a:b", "a\n", 1)),
    *(("delay", value) for value in (-1, -0.001, 1e10, "1", True, [1])),
    *(("timeout", value) for value in (0, -1, 0.0, 1e300, "30", True)),
    *(
        ("run_at", value)
        for value in (
            "2030-01-01T00:00:00",
            "2030-01-01",
            "2030-01-01 00:00:00Z",
            "10000-01-01T00:00:00Z",
            "+10000-01-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-12-31T23:59:60Z",
            "2026-12-31T24:00:00Z",
            "2026-12-31T23:60:00Z",
            "2026-12-31T23:00:00+24:00",
            "2026-12-31T23:00:00+01",
            "2026-12-31T23:00:00,5Z",
            "2026-12-31T23:00:00.Z",
            "0000-01-01T00:00:00Z",
            "\uff12026-12-31T23:00:00Z",
            "9999-12-31T23:59:59Z",
            "now",
            "",
            1764000000,
            True,
        )
    ),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=lambda value: repr(value)[:40])
async def test_a_field_that_is_not_allowed_is_400_and_named(server: Server, field: str, value: Any) -> None:
    assert_problem(await server.enqueue(**{field: value}), 400, "invalid", field)
    assert await server.ids() == []


@pytest.mark.parametrize("field", ["max_retries", "priority", "delay", "timeout", "id", "run_at"])
async def test_a_5000_digit_integer_in_an_own_field_is_400(server: Server, field: str) -> None:
    body = b'{"%b": %b}' % (field.encode(), b"9" * 5000)
    assert_problem(await server.enqueue(body), 400, "invalid", field)


@pytest.mark.parametrize("name", ["max_retry", "Payload", "seq", "lease_id", "x\ny", "é", "__proto__", ""])
async def test_an_unknown_field_is_400_and_named(server: Server, name: str) -> None:
    problem = assert_problem(await server.enqueue({"payload": 1, name: 1}), 400, "invalid", name)
    assert name in problem["detail"]


async def test_delay_together_with_run_at_is_400(server: Server) -> None:
    both = {"delay": 0, "run_at": "2030-01-01T00:00:00Z"}
    assert_problem(await server.enqueue(both), 400, "invalid", "delay")
    assert (await server.enqueue({"delay": None, "run_at": "2024-01-01T00:00:00Z"})).status_code == 202
    assert (await server.enqueue({"delay": 1, "run_at": None})).status_code == 202


async def test_an_empty_object_is_a_task(start: Start) -> None:
    server = await start(default_handler="simulate", max_retries=7)
    response = await server.enqueue({})
    task = response.json()
    now = "2023-11-14T22:13:20.000Z"
    assert list(task.items()) == [
        ("id", task["id"]),
        ("handler", "simulate"),
        ("queue", "default"),
        ("payload", None),
        ("priority", 0),
        ("status", "queued"),
        ("attempts", 0),
        ("failures", 0),
        ("lost", 0),
        ("max_retries", 7),
        ("timeout", None),
        ("run_at", now),
        ("created_at", now),
        ("started_at", None),
        ("finished_at", None),
        ("cancel_requested", False),
        ("worker", None),
        ("result", None),
        ("last_error", None),
    ]
    assert response.headers["location"] == f"/tasks/{task['id']}"
    assert task["id"][14] == "7"


async def test_a_null_counts_as_left_out(server: Server) -> None:
    nulls = dict.fromkeys(["id", "max_retries", "handler", "queue", "priority", "run_at", "delay", "timeout"])
    task = (await server.enqueue(nulls)).json()
    assert (task["handler"], task["queue"], task["priority"], task["max_retries"]) == (
        "default",
        "default",
        0,
        3,
    )


async def test_every_field_is_kept(server: Server) -> None:
    fields = {
        "id": "t1",
        "handler": "a.b:c-d_e",
        "queue": "Q.1-x",
        "priority": -100,
        "max_retries": 1000,
        "timeout": 0.5,
    }
    task = (await server.enqueue(fields | {"payload": {"a": 1}, "delay": 1.5})).json()
    assert task | fields == task
    assert task["run_at"] == "2023-11-14T22:13:21.500Z"


@pytest.mark.parametrize(
    "id", ["x", "x" * 200, "😀" * 200, "a/b c?d#e%2F", "...", "retry", '"quoted"\\', "ü\u00a0\u2028"]
)
async def test_an_id_of_any_characters_is_found_under_its_location(server: Server, id: str) -> None:
    response = await server.enqueue(id=id)
    assert response.status_code == 202, response.text
    assert response.headers["location"].isascii()
    assert (await server.get(response.headers["location"])).json()["id"] == id


async def test_the_past_means_now(server: Server) -> None:
    for past in ("2000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "2023-11-14T23:13:19.999+01:00"):
        assert (await server.enqueue(run_at=past)).json()["run_at"] == "2023-11-14T22:13:20.000Z"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2024-02-29T12:00:00Z", "2024-02-29T12:00:00.000Z"),
        ("2024-02-29t12:00:00.1z", "2024-02-29T12:00:00.100Z"),
        ("2024-02-29T12:00:00.123999999999Z", "2024-02-29T12:00:00.123Z"),
        ("2024-02-29T12:00:00-01:30", "2024-02-29T13:30:00.000Z"),
        ("2024-03-01T00:00:00+23:59", "2024-02-29T00:01:00.000Z"),
        ("2024-02-29T12:00:00-00:00", "2024-02-29T12:00:00.000Z"),
    ],
)
async def test_run_at_is_any_rfc_3339_time_with_an_offset(server: Server, text: str, shown: str) -> None:
    assert (await server.enqueue(run_at=text)).json()["run_at"] == shown


async def test_run_at_and_delay_reach_ten_years(server: Server) -> None:
    assert (await server.enqueue(run_at="2033-11-14T00:00:00Z")).status_code == 202
    assert_problem(await server.enqueue(run_at="2033-11-15T00:00:00Z"), 400, "invalid", "run_at")
    assert (await server.enqueue(delay=315_576_000)).status_code == 202
    assert_problem(await server.enqueue(delay=315_576_001), 400, "invalid", "delay")


async def test_output_fields_are_ignored_whatever_they_hold(server: Server) -> None:
    outputs = ["status", "attempts", "failures", "lost", "created_at", "started_at", "finished_at"]
    outputs += ["cancel_requested", "worker", "result", "last_error"]
    for value in (None, True, "x", 10**30, 1.5, [1], {"a": {}}):
        task = (await server.enqueue(dict.fromkeys(outputs, value))).json()
        assert (task["status"], task["attempts"], task["worker"], task["result"]) == ("queued", 0, None, None)


async def test_a_stored_task_can_be_posted_again(server: Server) -> None:
    await server.enqueue(id="t1", payload=[1, 2], priority=3, timeout=9)
    await server.run_one(result=b'"fine"')
    task = (await server.get("/tasks/t1")).json()
    assert task["status"] == "done"
    again = (await server.enqueue(task | {"id": "t2"})).json()
    assert (again["status"], again["payload"], again["priority"], again["result"]) == (
        "queued",
        [1, 2],
        3,
        None,
    )


GOOD_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (GOOD_TRACE, GOOD_TRACE),
        (GOOD_TRACE.upper(), None),
        ("01" + GOOD_TRACE[2:], None),
        (GOOD_TRACE + "-00", None),
        ("00-" + "0" * 32 + GOOD_TRACE[35:], None),
        (GOOD_TRACE[:36] + "0" * 16 + "-01", None),
        ("nonsense", None),
    ],
)
async def test_a_valid_traceparent_is_kept_with_the_task(
    server: Server, header: str, kept: str | None
) -> None:
    for body in ({}, [{}]):
        assert (await server.post("/enqueue", body, traceparent=header)).is_success
        claim = await server.claim()
        assert claim.task.traceparent == kept


async def test_a_key_is_kept_and_left_out_where_there_is_none(server: Server) -> None:
    assert (await server.enqueue({"id": "a", "key": "tenant 7/é"})).json()["key"] == "tenant 7/é"
    assert "key" not in (await server.enqueue({"id": "b", "key": None})).json()
    both = await server.client.post("/enqueue", json=[{"key": "x"}, {}, {"key": "y"}])
    assert [item["task"].get("key") for item in both.json()] == ["x", None, "y"]
    listed = await server.client.get("/tasks", params={"key": "tenant 7/é"})
    assert [task["id"] for task in listed.json()] == ["a"]
    counted = await server.client.post("/tasks/cancel", json={"key": "x", "dry_run": True})
    assert counted.json() == {"matched": 1, "changed": 0}


@pytest.mark.parametrize("key", ["", ".", "..", "a\nb", "k" * 201, 1, True, ["a"], {}])
async def test_what_cannot_be_a_key_is_refused(server: Server, key: object) -> None:
    assert_problem(await server.enqueue({"key": key}), 400, "invalid", field="key")
