"""`GET /tasks`: filters, pages, and what is refused; and the bulk verbs over the same filters."""

from __future__ import annotations

import re

import httpx2
import pytest

from jobpipe.core.lifecycle import Kind

from .conftest import Server, Start, assert_problem


def ids(response: httpx2.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [task["id"] for task in response.json()]


def next_of(response: httpx2.Response) -> str | None:
    link = response.headers.get("link")
    if link is None:
        return None
    match = re.fullmatch(r'<(/tasks\?[^<> ]+)>; rel="next"', link)
    assert match
    return match[1]


@pytest.fixture
async def mixed(server: Server) -> Server:
    """Five tasks of several kinds, a second apart: e is the newest."""
    for body in (
        {"id": "a", "queue": "q1", "max_retries": 0, "priority": 2},
        {"id": "b", "queue": "q1", "handler": "mail", "priority": 1},
        {"id": "c", "queue": "q2"},
        {"id": "job/é 1", "queue": "q2", "handler": "mail"},
        {"id": "e"},
    ):
        assert (await server.enqueue(body)).status_code == 202
        server.clock.advance(1)
    await server.run_one(Kind.FAILED, error_type="ValueError", message="no")
    await server.run_one()
    return server


async def test_the_newest_come_first(mixed: Server) -> None:
    response = await mixed.get("/tasks")
    assert ids(response) == ["e", "job/é 1", "c", "b", "a"]
    assert next_of(response) is None
    assert response.json()[2] == (await mixed.get("/tasks/c")).json()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status=queued", ["e", "job/é 1", "c"]),
        ("status=failed", ["a"]),
        ("queue=q1", ["b", "a"]),
        ("handler=mail", ["job/é 1", "b"]),
        ("handler=mail&queue=q2", ["job/é 1"]),
        ("error_type=ValueError", ["a"]),
        ("error_type=%25", []),
        ("id_prefix=job%2F%C3%A9+", ["job/é 1"]),
        ("id_prefix=", ["e", "job/é 1", "c", "b", "a"]),
        ("id_prefix=%25", []),
        ("created_after=2023-11-14T22:13:22Z", ["e", "job/é 1"]),
        ("created_before=2023-11-14T22:13:22Z", ["b", "a"]),
        ("created_before=2023-11-14T22:13:22.0001Z", ["c", "b", "a"]),
        ("created_after=2023-11-14T23:13:22.0001%2B01:00", ["e", "job/é 1"]),
        ("created_after=2023-11-14T23:13:22.5+01:00", ["e", "job/é 1"]),
        ("created_after=0001-01-01T00:00:00Z&created_before=9999-12-31T23:59:59Z&status=done", ["b"]),
        ("queue=nobody", []),
    ],
)
async def test_all_filters_must_hold(mixed: Server, query: str, found: list[str]) -> None:
    assert ids(await mixed.get(f"/tasks?{query}")) == found


async def test_pages_follow_their_links(mixed: Server) -> None:
    seen, path = [], "/tasks?limit=2&id_prefix="
    while path is not None:
        page = await mixed.get(path)
        assert len(page.json()) <= 2
        seen += ids(page)
        path = next_of(page)
    assert seen == ["e", "job/é 1", "c", "b", "a"]


async def test_a_link_keeps_the_filters(mixed: Server) -> None:
    first = await mixed.get("/tasks?handler=mail&limit=1&created_after=2023-11-14T22:13:20%2B00:00")
    assert ids(first) == ["job/é 1"]
    second = await mixed.get(next_of(first) or "")
    assert ids(second) == ["b"]


async def test_a_page_has_at_most_8_mib_and_at_least_one_task(start: Start) -> None:
    server = await start(max_body=9 * 1024**2)
    await server.enqueue(id="big", payload="x" * (8 * 1024**2))
    for n in range(9):
        await server.enqueue(id=str(n), payload="x" * (1024**2 - 100))
    first = await server.get("/tasks")
    assert len(first.content) <= 8 * 1024**2
    second = await server.get(next_of(first) or "")
    third = await server.get(next_of(second) or "")
    assert ids(first) + ids(second) + ids(third) == [str(n) for n in reversed(range(9))] + ["big"]
    assert next_of(third) is None


BAD = [
    ("limit", "0"), ("limit", "-1"), ("limit", "1001"), ("limit", "1000000000"), ("limit", "x"), ("limit", ""),
    ("limit", "1.5"), ("limit", "+5"), ("limit", "1_0"), ("limit", "%D9%A3"), ("cursor", "x"), ("cursor", ""),
    ("cursor", "AAAAAAAAAAAAAAAA"), ("cursor", "!" * 16), ("status", "waiting"), ("status", ""),
    ("status", "QUEUED"), ("queue", "../x"), ("handler", "a b"), ("created_after", "yesterday"),
    ("created_after", "2023-11-14"), ("created_before", "10000-01-01T00:00:00Z"), ("id_prefix", "a%00"),
    ("error_type", "a%0Ab"), ("id_prefix", "x" * 201), ("nope", "1"), ("Limit", "1"), ("offset", "10"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
async def test_a_parameter_that_is_not_allowed_is_400_and_named(
    server: Server, name: str, value: str
) -> None:
    assert_problem(await server.get(f"/tasks?{name}={value}"), 400, "invalid", name)


@pytest.mark.parametrize("query", ["limit=1&limit=2", "queue=a&queue=a"])
async def test_a_parameter_given_twice_is_400(server: Server, query: str) -> None:
    assert_problem(await server.get(f"/tasks?{query}"), 400, "invalid", query.partition("=")[0])


async def test_a_query_that_is_no_utf8_is_400(server: Server) -> None:
    assert_problem(await server.get("/tasks?id_prefix=%FF"), 400, "invalid")


async def test_a_changed_cursor_is_400(mixed: Server) -> None:
    path = next_of(await mixed.get("/tasks?limit=1")) or ""
    changed = path[:-1] + ("A" if path[-1] != "A" else "B")
    assert_problem(await mixed.get(changed), 400, "invalid", "cursor")


async def test_fields_leave_the_others_out_and_keep_what_they_say(mixed: Server) -> None:
    whole = (await mixed.get("/tasks")).json()
    for wanted in [
        ("id",),
        ("status", "id", "last_error"),
        ("result", "payload"),
        tuple(whole[0]),
        ("key", "id"),
    ]:
        response = await mixed.get("/tasks?fields=" + ",".join(wanted))
        assert response.status_code == 200, response.text
        assert response.json() == [{k: v for k, v in task.items() if k in wanted} for task in whole]
        assert [list(task) for task in response.json()] == [
            [k for k in task if k in wanted] for task in whole
        ]


async def test_a_page_without_payloads_is_whole_however_large_they_are(start: Start) -> None:
    server = await start(max_body=4 * 1024 * 1024)
    for i in range(4):
        await server.enqueue(id=f"big{i}", payload="x" * 3_000_000)
    response = await server.get("/tasks?fields=id,queue&limit=3")
    assert [task["id"] for task in response.json()] == ["big3", "big2", "big1"]
    (link,) = response.headers.get_list("link")
    assert "fields=id%2Cqueue" in link
    assert (await server.get(link[1 : link.index(">")])).json() == [{"id": "big0", "queue": "default"}]


@pytest.mark.parametrize("fields", ["", "id,", "id,nothing", "Id"])
async def test_a_field_that_no_task_has_is_400(server: Server, fields: str) -> None:
    answer = await server.get(f"/tasks?fields={fields}")
    assert (answer.status_code, answer.json()["field"]) == (400, "fields")


async def test_scheduled_and_retrying_tasks_are_asked_for_like_a_status(mixed: Server) -> None:
    await mixed.enqueue({"id": "later", "delay": 60})
    await mixed.enqueue({"id": "again", "priority": 9})
    await mixed.run_one(Kind.FAILED, error_type="ValueError", message="no")
    assert ids(await mixed.get("/tasks?status=scheduled")) == ["later"]
    assert ids(await mixed.get("/tasks?status=retrying")) == ["again"]
    assert ids(await mixed.get("/tasks?status=queued")) == ["again", "later", "e", "job/é 1", "c"]
    cancelled = await mixed.post("/tasks/cancel", {"status": "scheduled"})
    assert cancelled.json() == {"matched": 1, "changed": 1}
    assert ids(await mixed.get("/tasks?status=cancelled")) == ["later"]
    mixed.clock.advance(60)
    assert ids(await mixed.get("/tasks?status=retrying")) == []


# --- the bulk verbs -------------------------------------------------------------------------------------------------


async def test_cancel_all_that_match(mixed: Server) -> None:
    response = await mixed.post("/tasks/cancel", {"queue": "q2"})
    assert response.json() == {"matched": 2, "changed": 2}
    assert ids(await mixed.get("/tasks?status=cancelled")) == ["job/é 1", "c"]


async def test_retry_and_delete_change_only_what_they_may(mixed: Server) -> None:
    everything = {"all": True}
    assert (await mixed.post("/tasks/retry", everything)).json() == {"matched": 5, "changed": 1}
    assert (await mixed.post("/tasks/delete", everything)).json() == {"matched": 5, "changed": 1}
    assert ids(await mixed.get("/tasks")) == ["e", "job/é 1", "c", "a"]


async def test_a_dry_run_only_counts(mixed: Server) -> None:
    body = {"status": "queued", "dry_run": True, "all": None}
    assert (await mixed.post("/tasks/cancel", body)).json() == {"matched": 3, "changed": 0}
    assert ids(await mixed.get("/tasks?status=cancelled")) == []


async def test_ids_and_filters_must_both_hold(mixed: Server) -> None:
    body = {"ids": ["a", "c", "c", "nobody"], "queue": "q2"}
    assert (await mixed.post("/tasks/cancel", body)).json() == {"matched": 1, "changed": 1}
    assert (await mixed.post("/tasks/cancel", {"ids": []})).json() == {"matched": 0, "changed": 0}


async def test_10_000_ids_are_taken_and_10_001_are_not(server: Server) -> None:
    body = {"ids": [f"{n:0200}" for n in range(10_000)]}
    assert (await server.post("/tasks/cancel", body)).json() == {"matched": 0, "changed": 0}
    body["ids"].append("one more")
    assert_problem(await server.post("/tasks/cancel", body), 400, "invalid", "ids")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "all"),
        ({"all": False}, "all"),
        ({"dry_run": True}, "all"),
        ({"queue": None}, "all"),
        ({"all": 1}, "all"),
        ({"all": True, "dry_run": "yes"}, "dry_run"),
        ({"all": True, "limit": 5}, "limit"),
        ({"ids": "a"}, "ids"),
        ({"ids": [1]}, "ids"),
        ({"ids": [""]}, "ids"),
        ({"ids": ["a\n"]}, "ids"),
        ({"status": "waiting"}, "status"),
        ({"queue": "../x"}, "queue"),
        ({"created_after": "2023-11-14T22:13:22"}, "created_after"),
        ([], None),
        ("x", None),
    ],
)
async def test_a_bulk_body_that_is_not_allowed_is_400_and_named(
    server: Server, body: object, field: str | None
) -> None:
    for verb in ("retry", "cancel", "delete"):
        assert_problem(await server.post(f"/tasks/{verb}", body), 400, "invalid", field)


async def test_a_bulk_body_that_is_no_json_is_400(server: Server) -> None:
    for body in (b"", b"{", b'{"all":tru}', b'{"id_prefix":"\xff"}'):
        assert_problem(await server.post("/tasks/cancel", body), 400, "invalid_json")
