"""Many tasks in one request: arrays and NDJSON. Each item stands for itself, in order."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from .conftest import Server, Start, assert_problem

NDJSON = {"content-type": "application/x-ndjson"}


def codes(response: httpx2.Response) -> list[Any]:
    """Per item, its status or the code of its problem."""
    assert response.status_code == 200, response.text
    return [item.get("code", item["status"]) for item in response.json()]


async def test_each_item_of_an_array_stands_for_itself(server: Server) -> None:
    await server.enqueue(id="old")
    items = [
        {"id": "a"},
        {"id": "old"},
        {"id": "a"},
        {"max_retry": 1},
        7,
        "x",
        None,
        [],
        {"id": "b", "payload": [1]},
    ]
    response = await server.enqueue(items)
    assert codes(response) == [202, "task_exists", "task_exists", *["invalid"] * 5, 202]
    answers = response.json()
    assert list(answers[0]) == ["status", "task"]
    assert answers[0]["task"] == (await server.get("/tasks/a")).json()
    assert answers[3]["field"] == "max_retry"
    assert answers[3]["type"] == "about:blank"
    assert await server.ids() == ["b", "a", "old"]


async def test_an_array_of_valid_tasks(server: Server) -> None:
    response = await server.enqueue([{"id": str(n)} for n in range(50)])
    assert codes(response) == [202] * 50
    assert [item["task"]["id"] for item in response.json()] == [str(n) for n in range(50)]


@pytest.mark.parametrize("body", [b"[]", b"[ \n]"])
async def test_an_empty_array_is_400(server: Server, body: bytes) -> None:
    assert_problem(await server.enqueue(body), 400, "invalid")


async def test_10_000_items_are_taken_and_10_001_are_not(start: Start) -> None:
    server = await start(queue_size=10_000)
    lines = b"\n".join([b"{}"] * 10_001)
    for body in (b"[" + b",".join([b"{}"] * 10_001) + b"]", b"[" + b",".join([b"0"] * 300_000) + b"]"):
        assert_problem(await server.enqueue(body), 400, "invalid")
    assert_problem(await server.post("/enqueue", lines, **NDJSON), 400, "invalid")
    assert await server.ids() == []
    assert codes(await server.enqueue(b"[" + b",".join([b"{}"] * 10_000) + b"]")) == [202] * 10_000
    assert codes(await server.post("/enqueue", lines[:-3], **NDJSON)) == ["queue_full"] * 10_000


async def test_a_queue_that_fills_up_refuses_only_the_items_beyond(start: Start) -> None:
    server = await start(queue_size=3)
    assert codes(await server.enqueue([{"queue": "a"}] * 5 + [{"queue": "b"}])) == [202] * 3 + [
        "queue_full"
    ] * 2 + [202]


async def test_the_enqueue_status_is_that_of_the_items_too(start: Start) -> None:
    server = await start(enqueue_status=201)
    assert (await server.enqueue({})).status_code == 201
    assert codes(await server.enqueue([{}, {}])) == [201, 201]


async def test_lines_are_tasks(server: Server) -> None:
    body = b'{"id":"a"}\r\n\n  \r\n{"id":"b","payload":"\\n"}\n{"id":"c"}'
    assert codes(await server.post("/enqueue", body, **NDJSON)) == [202, 202, 202]
    assert codes(await server.post("/enqueue", b'{"id":"d"}\n', **NDJSON)) == [202]
    assert await server.ids() == ["d", "c", "b", "a"]


async def test_a_line_that_is_no_json_is_its_own_400(server: Server) -> None:
    body = b'{"id":"a"}\n{"id":\n[{}]\n"x"\n{"id":"\xff"}\n{"payload":01}\n{"nope":1}\n{"id":"b"}\n'
    answers = await server.post("/enqueue", body, **NDJSON)
    broken, wrong = "invalid_json", "invalid"
    assert codes(answers) == [202, broken, wrong, wrong, broken, broken, wrong, 202]
    assert answers.json()[1]["error"] == "invalid JSON"


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n\t\n"])
async def test_no_lines_are_400(server: Server, body: bytes) -> None:
    assert_problem(await server.post("/enqueue", body, **NDJSON), 400, "invalid")


@pytest.mark.parametrize("type_", ["application/x-ndjson; charset=utf-8", "Application/X-NDJSON"])
async def test_the_media_type_is_read_as_media_types_are(server: Server, type_: str) -> None:
    response = await server.post("/enqueue", b"{}\n{}", **{"content-type": type_})
    assert codes(response) == [202, 202]


async def test_a_bad_time_does_not_spoil_its_neighbours(server: Server) -> None:
    assert codes(await server.enqueue([{}, {"run_at": "never"}, {"queue": "../x"}, {}])) == [
        202,
        "invalid",
        "invalid",
        202,
    ]
