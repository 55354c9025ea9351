"""`GET /metrics`: everything that `exposition` writes, read together on the event loop and written beside it.

The first scrape loads Prometheus' library: a server that nobody scrapes starts without it.
"""

from __future__ import annotations

import asyncio
from functools import partial

from jobpipe.http.answers import Receive, Scope, Send, send_raw
from jobpipe.http.config import Api
from jobpipe.http.problems import SAFE
from jobpipe.http.reading import Reading, read
from jobpipe.http.routing import RawRoute


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module."""
    return [RawRoute("/metrics", GET=partial(_metrics, api))]


async def _metrics(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
    reading = await read(api)
    body, content_type = await asyncio.to_thread(_write, reading, accept)
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", content_type.encode()), *SAFE]
    await send_raw(scope, send, 200, headers, body)


def _write(reading: Reading, accept: str) -> tuple[bytes, str]:
    from jobpipe.http.exposition import write

    return write(reading, accept)
