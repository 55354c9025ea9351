"""Reading a request's body within its limits, and waiting for a client to leave."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from jobpipe.core.errors import Invalid, TooLarge
from jobpipe.http.answers import Message, Receive, Scope
from jobpipe.http.browser import HEAD

T = TypeVar("T")

HALF_CLOSED = "jobpipe.half_closed"
"""Set in an `http.disconnect` when the client only sends nothing more and may still read; told once per request."""

_SPACE = b" \t\r\n"


class ClientGone(Exception):
    """The client left before its request was complete: there is nobody to answer."""


class NotReading(Exception):
    """The client does not read what it asked for: the connection is to be cut off, with what was written to it."""


class BodyTooLarge(TooLarge):
    """The rest of the body is not read, so the connection cannot be used again."""


async def read_body(scope: Scope, receive: Receive, limit: int, array_limit: int | None = None) -> bytes:
    """The whole body, at most `limit` bytes; when it begins like a JSON array, at most `array_limit`.

    Raises BodyTooLarge as early as it can be known, Invalid for a Content-Encoding, ClientGone.
    """
    head = scope[HEAD]
    if head.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Invalid("Content-Encoding is not supported: send the body as it is")
    length = head.get(b"content-length", b"")
    declared = int(length) if length.isdigit() else 0
    most = limit if array_limit is None else max(limit, array_limit)
    if declared > most:
        raise BodyTooLarge(f"a body has at most {most} bytes")
    message = await _next(receive)
    if not message.get("more_body"):
        body: bytes = message.get("body", b"")
        _check(len(body), _limit_of(body, limit, array_limit) or limit)
        return body
    return await _gather(receive, message.get("body", b""), declared, limit, array_limit)


async def _gather(
    receive: Receive, first: bytes, declared: int, limit: int, array_limit: int | None
) -> bytes:
    chunks, size, more = [first], len(first), True
    bound = _limit_of(first, limit, array_limit)
    while True:
        if bound is not None:
            _check(max(size, declared), bound)
        if not more:
            return b"".join(chunks)
        message = await _next(receive)
        chunk, more = message.get("body", b""), message.get("more_body", False)
        chunks.append(chunk)
        size += len(chunk)
        if bound is None:
            bound = _limit_of(chunk, limit, array_limit)
        if bound is None:
            _check(size, limit)  # so much white space is no request


async def _next(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


def _limit_of(start: bytes, limit: int, array_limit: int | None) -> int | None:
    """Which limit holds, None while only white space came."""
    if array_limit is None:
        return limit
    first = start.lstrip(_SPACE)[:1]
    if not first:
        return None
    return array_limit if first == b"[" else limit


def _check(size: int, bound: int) -> None:
    if size > bound:
        raise BodyTooLarge(f"a body has at most {bound} bytes")


async def while_connected(
    receive: Receive, waiting: Coroutine[Any, Any, T], *, both_ways: bool = False
) -> tuple[T | None, bool]:
    """What `waiting` comes to, and whether the client is still there to hear of it.

    When the client leaves before, `waiting` is cancelled and None stands for its answer. One that ended only its own
    side still reads; with `both_ways` it has left.
    """
    answer = asyncio.ensure_future(waiting)
    left = asyncio.ensure_future(_client_left(receive, both_ways))
    try:
        await asyncio.wait((answer, left), return_when=asyncio.FIRST_COMPLETED)
        return (answer.result() if answer.done() else None), not left.done()
    finally:
        answer.cancel()
        left.cancel()
        await asyncio.gather(answer, left, return_exceptions=True)


async def _client_left(receive: Receive, both_ways: bool) -> None:
    while await half_closed(receive) and not both_ways:
        pass


async def half_closed(receive: Receive) -> bool:
    """Wait until the client has closed its side of the connection (True), or left (False)."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bool(message.get(HALF_CLOSED))
