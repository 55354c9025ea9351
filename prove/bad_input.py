"""Bad input, line by line, over a real server: raw bytes in, the promised status out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prove.proof import Figure, Trial, none
from prove.raw import Closed, Raw
from prove.servers import Server, serving

KIB = 1024
FLAGS = (
    "--no-pool",
    "--queue-size",
    "3",
    "--max-queues",
    "4",
    "--max-body",
    "64KiB",
    "--max-batch-body",
    "4MiB",
)


class Line(NamedTuple):
    """What is sent, and the answer: its status, and whether the connection is closed after it."""

    what: str
    data: bytes
    status: int
    closes: bool = False


def bad_input(trial: Trial) -> Sequence[Figure]:
    """Each line on a connection of its own; then the server is asked whether it is well."""
    wrong: list[str] = []
    lines = [*_json(), *_http(), *_fields(), *_lists(), *_working(), *_browser(), *_state()]
    with serving(trial.folder, *FLAGS) as server:
        for line in lines:
            wrong += _differs(server, line)
        healthy = server.get("/readyz").get("status") == "ok"
    for text in wrong:
        print(text)
    return [
        Figure("lines of the list", len(lines)),
        none("answered otherwise than promised", len(wrong)),
        none("servers harmed", not healthy),
    ]


def _differs(server: Server, line: Line) -> list[str]:
    try:
        with Raw(server.port, 5) as connection:
            connection.send(line.data)
            answer = connection.answer()
            closed = line.closes and not connection.ended()
    except (Closed, OSError) as error:
        return [f"{line.what}: {type(error).__name__}: {error}"]
    problem = answer.status >= 400 and answer.headers.get("content-type") != "application/problem+json"
    if answer.status != line.status or closed or problem or b"Traceback" in answer.body:
        return [f"{line.what}: {answer.status} {answer.body[:200]!r}, promised {line.status}"]
    return []


def post(body: bytes, path: str = "/enqueue", head: str = "") -> bytes:
    """A whole POST."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def get(path: str, head: str = "", method: str = "GET") -> bytes:
    """A whole request without a body."""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n".encode()


def _json() -> Iterator[Line]:
    bad = {
        "empty body": b"", "truncated": b'{"payload": [1', "trailing data": b"{} x", "a bare string": b'"x"',
        "a number": b"1", "null": b"null", "bad UTF-8": b'{"payload": "\xff"}',
        "UTF-16": '{"payload": 1}'.encode("utf-16"), "NaN": b'{"payload": NaN}', "Infinity": b'{"payload": [Infinity]}',
        "a lone surrogate": rb'{"payload": "\ud800"}', "a lone surrogate in a key": rb'{"payload": {"\udc00": 1}}',
        "129 levels": b'{"payload":' + b"[" * 129 + b"]" * 129 + b"}",
        "50,000 levels": b'{"payload":' + b"[" * 25_000 + b"]" * 25_000 + b"}",
        "5,000 digits in an own field": b'{"max_retries": ' + b"9" * 5000 + b"}",
        "an own string with a control character": rb'{"id": "a\u0000b"}',
    }  # fmt: skip
    for what, body in bad.items():
        yield Line(what, post(body), 400)
    good = {
        "128 levels": b"[" * 128 + b"]" * 128, "5,000 digits in the payload": b"9" * 5000, "1e999": b"1e999",
        "an escaped NUL": rb'"\u0000"',
    }  # fmt: skip
    for number, (what, payload) in enumerate(good.items()):
        yield Line(what, post(b'{"queue":"good-%d","payload":%b}' % (number % 2, payload)), 202)


def _http() -> Iterator[Line]:
    head = "POST /enqueue HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    yield Line("a length over the limit", f"{head}Content-Length: 99999999\r\n\r\n".encode(), 413, True)
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    yield Line(
        "chunks past the limit", f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 70, 413, True
    )
    both = f"{head}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()
    yield Line("a length with chunks", both, 400, True)
    yield Line("two lengths", f"{head}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}".encode(), 400, True)
    yield Line("a negative length", f"{head}Content-Length: -1\r\n\r\n".encode(), 400, True)
    yield Line("headers over 16 KiB", get("/healthz", f"X: {'x' * 17 * KIB}\r\n"), 431, True)
    yield Line("no HTTP", b"hello\r\n\r\n", 400, True)
    yield Line("a NUL in the head", b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400, True)
    yield Line("a wrong method", get("/enqueue", method="PUT"), 405)
    yield Line("an unknown path", get("/nowhere"), 404)
    yield Line("a broken escape in the path", get("/tasks/%ff"), 404)
    yield Line("missing id", get("/task"), 400)


def _fields() -> Iterator[Line]:
    bad: list[tuple[str, object]] = [
        ("nonsense", 1), ("max_retries", True), ("max_retries", "1"), ("max_retries", 1.5), ("max_retries", -1),
        ("max_retries", 10**20), ("priority", 101), ("priority", -101), ("queue", "../x"), ("queue", "\U0001f600"),
        ("queue", "q" * 101), ("queue", ""), ("delay", -1), ("run_at", "2030-01-01T00:00:00"),
        ("run_at", "10000-01-01T00:00:00Z"), ("id", ""), ("id", "i" * 201), ("id", "a\nb"), ("id", "."), ("id", ".."),
        ("handler", "no spaces"), ("handler", ""), ("timeout", 0), ("timeout", -1), ("timeout", "1"), ("id", 1),
    ]  # fmt: skip
    for name, value in bad:
        yield Line(f"{name} {value!r:.30}", post(json.dumps({name: value}).encode()), 400)
    yield Line("delay with run_at", post(b'{"delay": 1, "run_at": "2030-01-01T00:00:00Z"}'), 400)


def _lists() -> Iterator[Line]:
    yield Line("a batch of none", post(b"[]"), 400)
    yield Line("a batch of 10,001", post(b"[" + b",".join([b"{}"] * 10_001) + b"]"), 400)
    yield Line("one bad item of a batch", post(b'[{"queue": "good-0"}, {"priority": 101}]'), 200)
    for query in ("limit=0", "limit=-1", "limit=1000000000", "limit=x", "cursor=broken", "status=odd", "nonsense=1",
                  "created_after=yesterday"):  # fmt: skip
        yield Line(query, get(f"/tasks?{query}"), 400)
    yield Line("bulk without a filter", post(b"{}", "/tasks/cancel"), 400)


def _working() -> Iterator[Line]:
    for wish in (
        {"wait": 10**9},
        {"max": 10**6},
        {"max": 0},
        {"lease": 1},
        {"worker_id": ""},
        {"queues": "x"},
    ):
        body = json.dumps({"worker_id": "w", **wish}).encode()
        yield Line(f"lease {wish}", post(body, "/lease"), 400)
    yield Line("lease without a worker", post(b"{}", "/lease"), 400)
    yield Line("settle no array", post(b"{}", "/settle"), 400)
    yield Line(
        "settle of a lost lease", post(b'[{"id":"x","lease_id":"y","outcome":"done"}]', "/settle"), 200
    )
    yield Line("an unknown outcome", post(b'[{"id":"x","lease_id":"y","outcome":"odd"}]', "/settle"), 200)
    yield Line("extend no object", post(b"[]", "/extend"), 400)


def _browser() -> Iterator[Line]:
    yield Line("a foreign Host", b"GET /stats HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421)
    for head in (
        "Origin: http://evil.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ):
        yield Line(head, post(b"{}", head=f"{head}\r\n"), 403)
        yield Line(f"{head}, reading", get("/tasks", f"{head}\r\n"), 403)


def _state() -> Iterator[Line]:
    full = b'{"queue": "full"}'
    for number in range(3):
        yield Line(f"task {number + 1} of 3", post(full), 202)
    yield Line("a full queue", post(full), 503)
    yield Line("one queue", post(b'{"queue": "last"}'), 202)
    yield Line("too many queues", post(b'{"queue": "one-more"}'), 503)
    yield Line("a task", post(b'{"id": "known", "queue": "last"}'), 202)
    yield Line("an id that exists", post(b'{"id": "known", "queue": "last"}'), 409)
    yield Line("retry of a queued task", post(b"", "/tasks/known/retry"), 409)
    yield Line("delete of a queued task", get("/tasks/known", method="DELETE"), 409)
    yield Line("cancel", post(b"", "/tasks/known/cancel"), 200)
    yield Line("cancel of a finished task", post(b"", "/tasks/known/cancel"), 409)
    yield Line("cancel of no task", post(b"", "/tasks/nobody/cancel"), 404)
