"""What a browser may be made to send, and what the server makes of it while no keys are set."""

from __future__ import annotations

import pytest

from .conftest import Server, Start, assert_problem

METHODS = ["GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD"]
FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:9999"},
    {"origin": "http://localhost.evil.example"},
    {"origin": "file://"},
    {"origin": "chrome-extension://localhost"},
    {"origin": ""},
    {"sec-fetch-site": "same-origin", "origin": "https://evil.example"},
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_request_from_another_site_is_403(
    server: Server, method: str, headers: dict[str, str]
) -> None:
    for path in ("/enqueue", "/tasks", "/", "/healthz", "/nope"):
        response = await server.client.request(method, path, headers={"host": "localhost:8080"} | headers)
        assert response.status_code == 403
        if method != "HEAD":
            assert_problem(response, 403, "forbidden")
    assert await server.ids() == []


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("localhost:8080", {}),
        ("localhost:8080", {"sec-fetch-site": "same-origin", "origin": "http://localhost:8080"}),
        ("localhost:8080", {"sec-fetch-site": "none"}),
        ("LocalHost:8080", {"origin": "http://LOCALHOST:8080"}),
        ("localhost", {"origin": "http://localhost"}),
        ("localhost", {"origin": "http://localhost:80"}),
        ("localhost:443", {"origin": "https://localhost"}),
        ("jobs", {"origin": "https://jobs"}),
        ("127.0.0.1:8080", {"origin": "http://127.0.0.1:8080"}),
        ("[::1]:8080", {"origin": "http://[::1]:8080"}),
    ],
)
async def test_its_own_pages_and_programs_are_served(
    server: Server, host: str, headers: dict[str, str]
) -> None:
    assert (await server.post("/enqueue", {}, host=host, **headers)).status_code == 202


async def test_a_link_to_the_front_page_may_be_followed(server: Server) -> None:
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert (await server.get("/", **visit)).status_code == 200
    assert (await server.get("/?from=mail", **visit)).status_code == 200
    assert_problem(await server.get("/stats", **visit), 403, "forbidden")
    assert_problem(await server.get("/x", **visit), 403, "forbidden")
    assert_problem(await server.post("/", {}, **visit), 403, "forbidden")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.", "a.localhost", "127.0.0.1.nip.io", "1.2.3", "127.1", "0x7f.1",
     "[::1", "[evil]", "::1", "localhost:80800", "localhost:x", "local host", "", "user@localhost", "localhost/", "é"],
)  # fmt: skip
async def test_a_foreign_host_is_421(server: Server, host: str) -> None:
    headers = {b"host": host.encode()}
    for path in ("/", "/healthz", "/enqueue"):
        response = await server.client.get(path, headers=headers)
        assert_problem(response, 421, "wrong_host")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.1.2.3:80", "[::1]", "[fe80::1]:8080", "localhost", "my_box-1:8080", "x:"]
)
async def test_addresses_and_names_without_dots_are_served(server: Server, host: str) -> None:
    assert (await server.get("/healthz", host=host)).status_code == 200


async def test_allowed_hosts_are_served(start: Start) -> None:
    server = await start(allowed_hosts=frozenset({"jobs.example.com"}))
    assert (await server.get("/healthz", host="Jobs.Example.com:8080")).status_code == 200
    assert_problem(await server.get("/healthz", host="example.com"), 421, "wrong_host")
    origin = {"host": "jobs.example.com", "origin": "https://jobs.example.com"}
    assert (await server.post("/enqueue", {}, **origin)).status_code == 202
