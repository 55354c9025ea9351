"""A server that asks for keys: what each scope opens, on every route that the contract names, and how it refuses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from jobpipe.core.keys import Key, Scope, digest_of
from jobpipe.http.keys import Keyring
from jobpipe.http.openapi import document
from jobpipe.runtime.clock import ManualClock

from .conftest import Server, Start, assert_problem

LOCAL = "f" * 64
OPEN = {"/", "/healthz", "/health", "/livez", "/readyz"}
SCOPES = {
    "/enqueue": Scope.ENQUEUE,
    "/lease": Scope.WORK,
    "/settle": Scope.WORK,
    "/extend": Scope.WORK,
    "/declare": Scope.DECLARE,
}
ENDLESS = {"/events"}
ROUTES = [
    (method.upper(), path)
    for path, item in json.loads(document("1", 202))["paths"].items()
    for method in item
    if method != "parameters"
]


def keyring() -> Keyring:
    keys = [Key(scope, frozenset({scope}), digest_of(f"key of {scope}".encode())) for scope in Scope]
    slow = Key("slow", frozenset({Scope.READ}), digest_of(b"key of slow"), 0.5)
    return Keyring([*keys, slow], None, clock=ManualClock(), local=LOCAL)


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer key of {name}"}


@pytest.fixture
async def locked(start: Start) -> Server:
    return await start(keys=keyring(), local_token=LOCAL)


def is_open(path: str) -> bool:
    return path in OPEN or path.startswith("/static/")


def needed(method: str, path: str) -> Scope:
    return SCOPES.get(path, Scope.READ if method == "GET" else Scope.ADMIN)


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if not is_open(route[1])])
async def test_a_route_opens_to_its_scope_and_to_admin_alone(locked: Server, method: str, path: str) -> None:
    path = path.replace("{id}", "t1")

    async def status(**headers: str) -> int:
        return (await locked.client.request(method, path, headers=headers)).status_code

    assert await status() == 401
    assert await status(authorization="Bearer nobody's") == 401
    for scope in Scope:
        opens = path == "/keys/self" or scope in (needed(method, path), Scope.ADMIN)
        if not opens:
            assert await status(**bearer(scope)) == 403, scope
        elif path not in ENDLESS:
            assert await status(**bearer(scope)) not in (401, 403, 421), scope


@pytest.mark.parametrize("path", sorted(OPEN))
async def test_health_and_the_front_page_need_no_key(locked: Server, path: str) -> None:
    assert (await locked.get(path)).status_code == 200
    assert (await locked.get(path, authorization="Bearer nobody's")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nope"), ("OPTIONS", "/enqueue"), ("PUT", "/tasks"), ("GET", "/healthz/"),
     ("GET", "/healthz/../tasks"), ("GET", "/%2fhealthz"), ("GET", "/health%7A"), ("POST", "/enqueue?x=/healthz"),
     ("GET", "/Healthz"), ("TRACE", "/tasks"), ("GET", "/static"), ("GET", "/tasks;/healthz")],
)  # fmt: skip
async def test_without_a_key_nothing_is_told_about_other_paths(
    locked: Server, method: str, path: str
) -> None:
    response = await locked.client.request(method, path)
    assert response.status_code == 401
    assert "access-control-allow-origin" not in response.headers


async def test_a_refusal_says_what_is_missing_and_not_who_exists(locked: Server) -> None:
    response = await locked.get("/tasks")
    assert_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    wrong = await locked.get("/tasks", authorization="Bearer read")
    assert "does not know the key" in assert_problem(wrong, 401, "unauthorized")["detail"]
    response = await locked.get("/tasks", **bearer("enqueue"))
    assert "read" in assert_problem(response, 403, "forbidden")["detail"]
    assert "www-authenticate" not in response.headers


@pytest.mark.parametrize("value", ["Bearer é", "Bearer \xff", "Bearer \x80\x81", "Basic eDp5", "", "Bearer"])
async def test_any_bytes_are_an_answer_and_never_an_error(locked: Server, value: str) -> None:
    response = await locked.client.get("/tasks", headers={b"authorization": value.encode("latin-1")})
    assert_problem(response, 401, "unauthorized")


async def test_two_keys_are_none(locked: Server) -> None:
    value = bearer("read")["authorization"].encode()
    response = await locked.client.get("/tasks", headers=[(b"authorization", value)] * 2)
    assert_problem(response, 401, "unauthorized")


async def test_with_keys_neither_the_site_nor_the_host_matters(locked: Server) -> None:
    foreign = {"sec-fetch-site": "cross-site", "origin": "https://app.example", "host": "jobs.example.com"}
    assert (await locked.post("/enqueue", {}, **foreign, **bearer("enqueue"))).status_code == 202
    assert_problem(await locked.post("/enqueue", {}, **foreign), 401, "unauthorized")
    assert (await locked.get("/healthz", **foreign)).status_code == 200


async def test_no_preflight_is_granted(locked: Server) -> None:
    asks = {"origin": "https://app.example", "access-control-request-method": "POST"}
    for more in ({}, bearer("admin")):
        response = await locked.client.request("OPTIONS", "/enqueue", headers=asks | more)
        assert response.status_code in (401, 405)
        assert not [name for name in response.headers if name.startswith("access-control")]


async def test_a_key_that_asks_too_often_is_told_when_to_come_again(locked: Server) -> None:
    assert (await locked.get("/queues", **bearer("slow"))).status_code == 200
    response = await locked.get("/queues", **bearer("slow"))
    assert_problem(response, 429, "rate_limited")
    assert response.headers["retry-after"] == "2"
    assert (await locked.get("/queues", **bearer("read"))).status_code == 200


async def test_a_key_learns_its_name_and_what_it_opens(locked: Server, start: Start) -> None:
    assert (await locked.get("/keys/self", **bearer("enqueue"))).json() == {
        "keys": True,
        "name": "enqueue",
        "scopes": ["enqueue"],
    }
    assert_problem(await locked.get("/keys/self"), 401, "unauthorized")
    free: Any = (await (await start()).get("/keys/self")).json()
    assert free == {"keys": False, "name": None, "scopes": ["admin"]}


async def test_the_servers_own_workers_need_only_their_secret(locked: Server) -> None:
    own = {"authorization": f"Bearer {LOCAL}", "x-jobpipe-local": LOCAL}
    assert (await locked.post("/enqueue", {"id": "t1"}, **own)).status_code == 202
    leased = await locked.post("/lease", {"worker_id": "w"}, **own)
    assert [task["id"] for task in leased.json()["tasks"]] == ["t1"]
    assert_problem(await locked.get("/tasks", **own), 403, "forbidden")
    alone = {"x-jobpipe-local": LOCAL}
    assert_problem(await locked.post("/lease", {"worker_id": "w"}, **alone), 401, "unauthorized")


@pytest.mark.parametrize(("headers", "status"), [({}, 401), (bearer("read"), 403)])
async def test_a_refused_request_is_read_no_further(
    locked: Server, headers: dict[str, str], status: int
) -> None:
    if locked.port is None:  # without a connection there is nothing to end
        return
    reader, writer = await asyncio.open_connection("127.0.0.1", locked.port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"POST /enqueue HTTP/1.1\r\nHost: a\r\n{lines}Content-Length: 900000\r\n\r\n[".encode())
    answer = await reader.read()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in answer.lower()
    writer.close()
