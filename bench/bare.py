"""A bare HTTP server with nothing behind it: the same uvicorn, the same bytes of an answer, no routes and no storage.

With `--protocol` the answer comes from a subclass of uvicorn's protocol, without ASGI: what it reaches is the most that
a server on this stack could reach on this machine. Without it, the answer goes through ASGI as most servers' do.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from jobpipe.core.task import Status, Task
from jobpipe.wire import encode_task

Message = MutableMapping[str, Any]

TASK = Task(
    seq=1,
    id="019a9f1e-6f3c-7c5e-8d4b-3a2f1e0d9c8b",
    handler="noop",
    queue="default",
    payload=b'{"user":1,"email":"ada@example.org"}',
    priority=0,
    status=Status.QUEUED,
    attempts=0,
    failures=0,
    lost=0,
    max_retries=3,
    timeout=None,
    run_at=1_800_000_000_000,
    created_at=1_800_000_000_000,
)
BODY = encode_task(TASK)
HEADERS = [
    (b"content-length", b"%d" % len(BODY)),
    (b"location", b"/tasks/" + TASK.id.encode()),
    (b"content-type", b"application/json"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]


WHOLE = b"HTTP/1.1 202 Accepted\r\n" + b"".join(b"%s: %s\r\n" % header for header in HEADERS) + b"\r\n" + BODY


class Bare(HttpToolsProtocol):
    """Answers each request whole as soon as it has come whole, one at a time for each connection."""

    def on_message_begin(self) -> None:
        """Nothing is remembered of a request."""

    def on_url(self, url: bytes) -> None:
        """All have the same answer."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Nothing is looked at."""

    def on_headers_complete(self) -> None:
        """The body is still to come."""

    def on_body(self, body: bytes) -> None:
        """It is read, and dropped."""

    def on_message_complete(self) -> None:
        """Answer."""
        self.transport.write(WHOLE)


async def answer(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Read the request to its end and answer always the same."""
    while (await receive()).get("more_body"):
        pass
    status = 202 if scope["method"] == "POST" else 200
    await send({"type": "http.response.start", "status": status, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def main() -> None:
    """Serve on the port that the command line names, until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--protocol", action="store_true", help="answer without ASGI")
    arguments = parser.parse_args()
    http = Bare if arguments.protocol else "httptools"
    uvicorn.run(answer, port=arguments.port, http=http, lifespan="off", access_log=False, server_header=False)


if __name__ == "__main__":
    main()
