"""Sending answers as raw ASGI messages: on the hot routes a Response object would cost as much as the work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from jobpipe.core.errors import JobpipeError
from jobpipe.http.problems import SAFE, Headers, problem_answer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON: Headers = [(b"content-type", b"application/json"), *SAFE]


async def send_json(
    scope: Scope, send: Send, body: bytes, status: int = 200, *more: tuple[bytes, bytes]
) -> None:
    """Answer with JSON bytes."""
    await send_raw(scope, send, status, [(b"content-length", b"%d" % len(body)), *_JSON, *more], body)


async def send_problem(scope: Scope, send: Send, error: JobpipeError, *, close: bool = False) -> None:
    """Answer with the error as problem details."""
    status, headers, body = problem_answer(error, close=close)
    await send_raw(scope, send, status, headers, body)


async def send_raw(scope: Scope, send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Answer; to HEAD with the head alone, `headers` saying the length that GET would have."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
