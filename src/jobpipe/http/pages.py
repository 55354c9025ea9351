"""The dashboard: its shell at `/`, its scripts and styles under `/static/`. Read once, then answered from memory.

The shell is never kept by a browser; the rest is kept but asked for by its hash each time, so that an upgrade of the
server is an upgrade of every open page at its next load. Browsers get it compressed, a quarter of its bytes.
"""

from __future__ import annotations

import gzip
from functools import cache
from hashlib import sha256
from importlib.resources import files

from msgspec import Struct

from jobpipe.http.answers import Receive, Scope, Send, send_raw
from jobpipe.http.problems import SAFE, Headers, NoSuchPath
from jobpipe.http.routing import RawRoute, path_id

_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"
)
"""No inline script or style, nothing from elsewhere; text can be made into HTML or code nowhere on the page."""

_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_SHELL = "index.html"


class _File(Struct, frozen=True):
    """A file in one coding and the heads of its two answers: whole (200), and unchanged (304)."""

    body: bytes
    headers: Headers
    etag: bytes
    kept: Headers


def routes() -> list[RawRoute]:
    """The routes of this module."""
    return [RawRoute("/", GET=_front_page), RawRoute("/static/{id}", GET=_static)]


@cache
def _files() -> dict[str, tuple[_File, _File]]:
    """What is served under `/static/`, by name, plain and compressed: no path is ever opened, so there is none to
    escape from."""
    folder = files("jobpipe.http") / "static"
    found = [file for file in folder.iterdir() if f".{file.name.rpartition('.')[2]}" in _TYPES]
    return {
        file.name: (_file(file.name, body := file.read_bytes()), _gzipped(file.name, body)) for file in found
    }


def _gzipped(name: str, body: bytes) -> _File:
    file = _file(name, gzip.compress(body, 9, mtime=0))
    coding = (b"content-encoding", b"gzip")
    return _File(file.body, [*file.headers, coding], file.etag, [*file.kept, coding])


def _file(name: str, body: bytes) -> _File:
    etag = b'"%b"' % sha256(body).hexdigest()[:24].encode()
    kept = [
        (b"etag", etag),
        (b"cache-control", b"no-cache"),
        (b"vary", b"accept-encoding"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]
    head = [(b"content-type", _TYPES[f".{name.rpartition('.')[2]}"]), (b"content-length", b"%d" % len(body))]
    return _File(body, [*head, *kept], etag, kept)


@cache
def _shell() -> tuple[bytes, Headers]:
    body = (files("jobpipe.http") / "static" / _SHELL).read_bytes()
    return body, [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"content-security-policy", _POLICY),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"referrer-policy", b"no-referrer"),
        *SAFE,
    ]


async def _front_page(scope: Scope, receive: Receive, send: Send) -> None:
    body, headers = _shell()
    await send_raw(scope, send, 200, headers, body)


async def _static(scope: Scope, receive: Receive, send: Send) -> None:
    found = _files().get(path_id(scope))
    if found is None:
        raise NoSuchPath("nothing is served under this path")
    file = found[_takes_gzip(scope)]
    if file.etag in _known(scope):
        await send_raw(scope, send, 304, file.kept, b"")
    else:
        await send_raw(scope, send, 200, file.headers, file.body)


def _takes_gzip(scope: Scope) -> bool:
    """As browsers and clients say it (RFC 9110, 12.5.3); whoever weighs it by a q gets it plain."""
    given = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    return b"gzip" in [coding.strip().lower() for coding in given.split(b",")]


def _known(scope: Scope) -> list[bytes]:
    """The entity tags that the browser has (RFC 9110, 13.1.2); a weak one matches too."""
    given = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
    return [tag.strip().removeprefix(b"W/") for tag in given.split(b",")]
