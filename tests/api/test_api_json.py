"""Bad input and its answer: bodies that are no JSON, or JSON that is not allowed; and what is kept byte for byte."""

from __future__ import annotations

import pytest

from .conftest import Server, Start, assert_problem

NOT_JSON = {
    "empty": b"",
    "only white space": b" \r\n\t ",
    "truncated": b'{"payload": [1, 2',
    "trailing data": b'{"payload": 1} x',
    "two objects": b"{}{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"payload": 1}'.encode("utf-16"),
    "UTF-16 without mark": '{"payload": 1}'.encode("utf-16-le"),
    "bad UTF-8 in the payload": b'{"payload": "\xff"}',
    "bad UTF-8 in a key": b'{"payload": {"\xc3\x28": 1}}',
    "bad UTF-8 in an own string": b'{"id": "\xff"}',
    "an encoded surrogate": b'{"payload": "\xed\xa0\x80"}',
    "NaN": b'{"payload": NaN}',
    "Infinity": b'{"payload": Infinity}',
    "-Infinity": b'{"payload": [-Infinity]}',
    "NaN in an own field": b'{"priority": NaN}',
    "a lone surrogate in the payload": rb'{"payload": "\ud800"}',
    "a lone surrogate in a key": rb'{"payload": {"\udc00": 1}}',
    "a lone surrogate in an own string": rb'{"id": "\ud800x"}',
    "surrogates in the wrong order": rb'{"payload": "\udc00\ud800"}',
    "a leading zero": b'{"payload": 01}',
    "a number that ends in a dot": b'{"payload": 1.}',
    "a plus sign": b'{"payload": +1}',
    "hex": b'{"payload": 0x10}',
    "a bad escape": rb'{"payload": "\x41"}',
    "a control character in a string": b'{"payload": "a\nb"}',
    "single quotes": b"{'payload': 1}",
    "a trailing comma": b'{"payload": [1,]}',
    "a comment": b'{"payload": 1 /* one */}',
    "no JSON behind an unknown field": b'{"nope": 1, "payload": 01}',
    "an array that does not end": b"[{}",
    "an array with a broken item": b'[{}, {"payload": 01}]',
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_a_body_that_is_no_json_is_400_and_says_so(server: Server, body: bytes) -> None:
    problem = assert_problem(await server.enqueue(body), 400, "invalid_json")
    assert problem["error"] == "invalid JSON"
    assert await server.ids() == []


@pytest.mark.parametrize("body", [b'"text"', b"1", b"null", b"true", b" 1.5 "])
async def test_a_bare_string_number_or_null_is_400(server: Server, body: bytes) -> None:
    assert_problem(await server.enqueue(body), 400, "invalid")


KEPT = {
    "white space inside": b'{ "a" :  [1 ,2]\n}',
    "a 5,000-digit integer": b"9" * 5000,
    "a float beyond double": b"1e999",
    "digits of a float": b"1.10",
    "minus zero": b"-0",
    "an escaped NUL": rb'"\u0000"',
    "an escaped slash": rb'"\/"',
    "escaped surrogate pairs": rb'"\ud83d\ude00"',
    "unescaped emoji": '"😀"'.encode(),
    "equal keys": b'{"a":1,"a":2}',
    "null": b"null",
    "an empty object": b"{}",
    "brackets inside strings": b'"' + b"[" * 500 + b'"',
}


@pytest.mark.parametrize("payload", KEPT.values(), ids=KEPT.keys())
async def test_valid_json_in_the_payload_is_kept_byte_for_byte(server: Server, payload: bytes) -> None:
    answer = await server.enqueue(b'{"id": "t1", "payload": ' + payload + b" }")
    assert answer.status_code == 202, answer.text
    assert b'"payload":' + payload + b',"priority"' in answer.content
    assert b'"payload":' + payload + b',"priority"' in (await server.get("/tasks/t1")).content
    assert b'"payload":' + payload + b',"priority"' in (await server.get("/tasks")).content


def nested(depth: int) -> bytes:
    """JSON that is `depth` levels deep."""
    return (
        b"[" * (depth // 2)
        + b'{"a":' * (depth - depth // 2)
        + b"1"
        + b"}" * (depth - depth // 2)
        + b"]" * (depth // 2)
    )


async def test_a_payload_of_128_levels_is_kept(server: Server) -> None:
    assert (await server.enqueue(b'{"payload":' + nested(128) + b"}")).status_code == 202


@pytest.mark.parametrize("depth", [129, 500, 2_000, 100_000])
async def test_a_payload_deeper_than_128_levels_is_400(server: Server, depth: int) -> None:
    assert_problem(await server.enqueue(b'{"payload":' + nested(depth) + b"}"), 400, "invalid", "payload")


async def test_brackets_in_strings_and_beside_each_other_are_no_depth(server: Server) -> None:
    wide = b"[" + b",".join([b'["[[[\\"[[[",{}]'] * 500) + b"]"
    assert (await server.enqueue(b'{"payload":' + wide + b"}")).status_code == 202


@pytest.mark.parametrize("depth", [129, 100_000])
async def test_an_item_nested_too_deep_is_its_own_400(server: Server, depth: int) -> None:
    items = [b'{"id":"a"}', b'{"id":"b","payload":' + nested(depth) + b"}", b' {"id":"c","payload":",]"}']
    for response in (
        await server.enqueue(b" [" + b",".join(items) + b" ] "),
        await server.client.post(
            "/enqueue", content=b"\n".join(items).replace(b'"a"', b'"d"').replace(b'"c"', b'"e"'),
            headers={"content-type": "application/x-ndjson"},
        ),
    ):  # fmt: skip
        assert [item["status"] for item in response.json()] == [202, 400, 202]
        assert response.json()[1]["field"] == "payload"


async def test_of_equal_keys_the_last_counts(server: Server) -> None:
    body = b'{"id":"x","priority":"high","id":"t1","priority":7,"payload":1,"payload":2}'
    task = (await server.enqueue(body)).json()
    assert (task["id"], task["priority"], task["payload"]) == ("t1", 7, 2)
    assert_problem(await server.enqueue(b'{"priority":7,"priority":"high"}'), 400, "invalid", "priority")


@pytest.mark.parametrize(
    "type_", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_the_content_type_does_not_matter(server: Server, type_: str | None) -> None:
    headers = {} if type_ is None else {"content-type": type_}
    assert (await server.post("/enqueue", {"payload": 1}, **headers)).status_code == 202


async def test_a_compressed_body_is_refused(server: Server) -> None:
    headers = {"content-encoding": "gzip"}
    assert_problem(await server.client.post("/enqueue", content=b"\x1f\x8b", headers=headers), 400, "invalid")


async def test_a_body_over_the_limit_is_413(start: Start) -> None:
    server = await start(max_body=100, max_batch_body=1000)
    assert (await server.enqueue(b'{"payload":"' + b"x" * 86 + b'"}')).status_code == 202
    response = await server.enqueue(b'{"payload":"' + b"x" * 87 + b'"}')
    assert_problem(response, 413, "too_large")
    assert response.headers["connection"] == "close"
    assert_problem(await server.enqueue(b" [" + b"{}," * 340 + b"{}]"), 413, "too_large")
    assert len(await server.ids()) == 1


async def test_a_batch_may_be_longer_than_one_object(start: Start) -> None:
    server = await start(max_body=100, max_batch_body=1000)
    response = await server.enqueue(b"  \n [" + b'{"payload":"x"},' * 20 + b"{}]")
    assert [item["status"] for item in response.json()] == [202] * 21


async def test_an_item_over_the_limit_is_its_own_413(start: Start) -> None:
    server = await start(max_body=100, max_batch_body=1000)
    long = b'{"payload":"' + b"x" * 100 + b'"}'
    response = await server.enqueue(b"[{}," + long + b"," + b'{"nope":1},' + b"{}]")
    assert [item["status"] for item in response.json()] == [202, 413, 400, 202]
    lines = await server.post(
        "/enqueue", b"{}\n" + long + b"\n{}", **{"content-type": "application/x-ndjson"}
    )
    assert [item["status"] for item in lines.json()] == [202, 413, 202]


async def test_a_chunked_body_past_the_limit_is_413(start: Start) -> None:
    server = await start(max_body=100, max_batch_body=1000)

    async def chunks(first: bytes, n: int):  # type: ignore[no-untyped-def]
        yield first
        for _ in range(n):
            yield b" " * 50

    for first, n in ((b'{"payload":1}', 3), (b"", 3), (b"[{}", 25)):
        response = await server.client.post("/enqueue", content=chunks(first, n))
        assert_problem(response, 413, "too_large")
        assert response.headers["connection"] == "close"
    assert (await server.client.post("/enqueue", content=chunks(b'{"payload":1}', 1))).status_code == 202
    assert (await server.client.post("/enqueue", content=chunks(b"[{}]", 10))).status_code == 200
