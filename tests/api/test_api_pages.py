"""The dashboard's files: served with their types, kept by browsers until they change, and small."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from .conftest import Server, assert_problem

STATIC = {file.name: file.read_bytes() for file in (files("jobpipe.http") / "static").iterdir()}
TYPES = {
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
SERVED = sorted(set(STATIC) - {"index.html"})
LOADED, WRITTEN = 100_000, 240_000
"""Bytes of all scripts and styles together, as a browser loads them and as they stand in the files."""


async def test_the_front_page_is_the_shell_of_the_dashboard(server: Server) -> None:
    response = await server.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.content == STATIC["index.html"]


async def test_every_file_is_served_as_it_is_and_with_its_type(server: Server) -> None:
    for name in SERVED:
        response = await server.get(f"/static/{name}")
        assert (response.status_code, response.content) == (200, STATIC[name])
        assert response.headers["content-type"] == TYPES[name.rpartition(".")[2]]
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_whoever_takes_it_gets_it_compressed_and_under_a_tag_of_its_own(server: Server) -> None:
    for name in SERVED:
        plain = await server.get(f"/static/{name}", **{"accept-encoding": "br, gzip;q=0"})
        packed = await server.get(f"/static/{name}", **{"accept-encoding": "br, GZIP"})
        assert (plain.content, packed.content) == (STATIC[name], STATIC[name])
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["etag"] != plain.headers["etag"]
        assert plain.headers["vary"] == packed.headers["vary"] == "accept-encoding"
        tag = {"if-none-match": packed.headers["etag"], "accept-encoding": "gzip"}
        assert (await server.get(f"/static/{name}", **tag)).status_code == 304


async def test_a_browser_that_has_the_file_is_told_so_and_one_with_an_older_one_gets_the_new(
    server: Server,
) -> None:
    first = await server.get("/static/app.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f'"old", {tag}', f"W/{tag}"):
        again = await server.get("/static/app.js", **{"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await server.get("/static/app.js", **{"if-none-match": '"old"'})).status_code == 200
    head = await server.client.head("/static/app.js", headers={"accept-encoding": "identity"})
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(STATIC["app.js"])


@pytest.mark.parametrize(
    "path", ["nope.js", "index.html", "..%2Fpages.py", "%2e%2e%2fpages.py", "__init__.py", "APP.JS"]
)
async def test_nothing_else_is_served_there(server: Server, path: str) -> None:
    assert_problem(await server.client.get(f"{server.client.base_url}/static/{path}"), 404, "not_found")


async def test_all_scripts_and_styles_together_are_small(server: Server) -> None:
    parts = [name for name in SERVED if name.endswith((".js", ".css"))]
    answers = [await server.get(f"/static/{name}", **{"accept-encoding": "gzip"}) for name in parts]
    assert sum(int(answer.headers["content-length"]) for answer in answers) <= LOADED
    assert sum(len(STATIC[name]) for name in parts) <= WRITTEN


def test_the_shell_fetches_every_script_and_style_at_once() -> None:
    named = re.findall(r'(?:href|src)="static/([^"]+)"', STATIC["index.html"].decode())
    assert sorted(named) == SERVED


def test_no_script_makes_text_into_html_or_code() -> None:
    for name, body in STATIC.items():
        if name.endswith(".js"):
            assert not re.search(
                rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", body
            ), name


def test_every_icon_that_is_named_is_in_the_shell() -> None:
    drawn = set(re.findall(r'<symbol id="i-(\w+)"', STATIC["index.html"].decode()))
    scripts = b"".join(body for name, body in STATIC.items() if name.endswith(".js")).decode()
    assert set(re.findall(r'\bicon\("(\w+)"', scripts)) <= drawn
