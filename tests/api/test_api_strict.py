"""What stands on every answer, and the rules for browsers on every route that the contract names."""

from __future__ import annotations

import asyncio
import json

import pytest

from jobpipe.http.openapi import document

from .conftest import Server, Start, assert_problem

PATHS = json.loads(document("1", 202))["paths"]
ROUTES = [(method.upper(), path) for path, item in PATHS.items() for method in item if method != "parameters"]
ENDLESS = {"/events"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def here(path: str) -> str:
    return path.replace("{id}", "t1")


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[1] not in ENDLESS])
async def test_every_answer_forbids_guessing_its_type_and_keeping_it(
    server: Server, method: str, path: str
) -> None:
    await server.enqueue(id="t1")
    for sent in (b"", b"{}", b"nonsense"):
        response = await server.client.request(method, here(path), content=sent if method == "POST" else None)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert "server" not in response.headers
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/nope", "/tasks/none", "/task"])
async def test_refusals_are_as_strict(server: Server, path: str) -> None:
    for method in METHODS:
        response = await server.client.request(method, path)
        assert response.headers["x-content-type-options"] == "nosniff", method
        assert response.headers["cache-control"] == "no-store", method


@pytest.mark.parametrize(
    "head", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"x" * 20_000 + b"\r\n\r\n"]
)
async def test_what_is_no_request_is_refused_as_strictly(server: Server, head: bytes) -> None:
    if server.port is None:
        pytest.skip("only a real connection carries what is no request")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head)
    answer = (await reader.read()).lower()
    writer.close()
    assert b"\r\nx-content-type-options: nosniff\r\n" in answer
    assert b"\r\ncache-control: no-store\r\n" in answer


async def test_pages_may_load_nothing_from_elsewhere_and_stand_in_no_frame(server: Server) -> None:
    response = await server.get("/")
    policy = {
        name: values
        for name, *values in (part.split() for part in response.headers["content-security-policy"].split(";"))
    }
    assert policy["default-src"] in (["'none'"], ["'self'"])
    assert policy["frame-ancestors"] == ["'none'"]
    assert policy["base-uri"] == ["'none'"]
    assert policy["form-action"] in (["'none'"], ["'self'"])
    assert (policy.pop("require-trusted-types-for"), policy.pop("trusted-types")) == (
        ["'script'"],
        ["'none'"],
    )
    allowed = {value for values in policy.values() for value in values}
    assert allowed <= {"'none'", "'self'", "data:"}, "no inline script, no other site"
    assert "data:" not in policy.get("script-src", []) + policy["default-src"]
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", sorted(PATHS))
async def test_no_method_of_any_route_is_open_to_other_sites(server: Server, path: str) -> None:
    await server.enqueue(id="t1")
    foreign = (
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    )
    for method in METHODS:
        for headers in foreign:
            response = await server.client.request(method, here(path), headers=headers)
            assert response.status_code == 403, (method, headers)
    assert await server.ids() == ["t1"]


@pytest.mark.parametrize("path", sorted(PATHS))
async def test_no_method_of_any_route_answers_to_a_foreign_name(server: Server, path: str) -> None:
    for method in METHODS:
        for host in ("evil.example", "localhost.evil.example:8080"):
            response = await server.client.request(method, here(path), headers={"host": host})
            assert response.status_code == 421, (method, host)


async def test_a_preflight_is_granted_to_nobody(server: Server, start: Start) -> None:
    asks = {"origin": "http://127.0.0.1", "host": "127.0.0.1", "access-control-request-method": "POST"}
    response = await server.client.request("OPTIONS", "/enqueue", headers=asks)
    assert_problem(response, 405, "method_not_allowed")
    assert not [name for name in response.headers if name.startswith("access-control")]
