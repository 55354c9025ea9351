"""Sending answers as raw ASGI messages: on the hot routes a Response object would cost as much as the work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

from jobpipe.core.errors import JobpipeError
from jobpipe.http.problems import SAFE, Headers, problem_answer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = ((b"content-type", b"application/json"), *SAFE)


class Reply(NamedTuple):
    """An answer, whichever lane sends it. `headers` are the same for many answers, `more` this one's own.

    Content-Length, Date and Connection are added by who sends it.
    """

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = JSON
    more: tuple[tuple[bytes, bytes], ...] = ()


def problem_reply(error: JobpipeError, *, close: bool = False) -> Reply:
    """The error as problem details."""
    status, headers, body = problem_answer(error, close=close)
    return Reply(status, body, tuple(header for header in headers if header[0] != b"content-length"))


async def send_reply(scope: Scope, send: Send, reply: Reply) -> None:
    """Answer."""
    length = (b"content-length", b"%d" % len(reply.body))
    await send_raw(scope, send, reply.status, [length, *reply.headers, *reply.more], reply.body)


async def send_json(
    scope: Scope, send: Send, body: bytes, status: int = 200, *more: tuple[bytes, bytes]
) -> None:
    """Answer with JSON bytes."""
    await send_reply(scope, send, Reply(status, body, more=more))


async def send_problem(scope: Scope, send: Send, error: JobpipeError, *, close: bool = False) -> None:
    """Answer with the error as problem details."""
    status, headers, body = problem_answer(error, close=close)
    await send_raw(scope, send, status, headers, body)


async def send_raw(scope: Scope, send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Answer; to HEAD with the head alone, `headers` saying the length that GET would have."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
