"""`GET /events`: live changes as Server-Sent Events (the WHATWG HTML standard, section 9.2).

A stream is one long answer. It ends when the server drains, and is cut off when its client does not read; a client that
comes back names the last event that it got, and is told what it missed, or how things stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from jobpipe.core.errors import Draining, StorageError
from jobpipe.engine.feed import Feed, Frame, Reader
from jobpipe.http.answers import Receive, Scope, Send, send_raw
from jobpipe.http.bodies import NotReading, half_closed
from jobpipe.http.browser import HEAD
from jobpipe.http.config import Api
from jobpipe.http.problems import SAFE, Headers
from jobpipe.http.routing import RawRoute
from jobpipe.http.status import rates_view
from jobpipe.wire import encode_delta

Encode = Callable[[Frame], bytes]

HEARTBEAT_S = 15.0
PROBE_S = 0.05
STUCK_S = 30.0
"""How long a client may leave what was sent to it unread."""

_HEARTBEAT = b": still here\n\n"
_BEGIN = b"retry: 1000\n\n"
_HEADERS: Headers = [
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back until they fill a buffer
    *SAFE,
]


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module."""
    return [RawRoute("/events", GET=partial(_events, api.feed))]


async def _events(feed: Feed, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["method"] == "HEAD":
        await send_raw(scope, send, 200, _HEADERS, b"")
        return
    last_id = scope[HEAD].get(b"last-event-id", b"").decode("latin-1")
    reader = feed.join(last_id, (scope.get("client") or ("",))[0])
    client = _Client(receive)
    try:
        first = await reader.next(client.word, 0)  # a store that is away is a plain 503
        if first is None:
            raise Draining
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await _stream(reader, first, client, send, partial(_encode, feed))
    finally:
        reader.leave()
        await client.close()


async def _stream(
    reader: Reader, first: Sequence[Frame], client: _Client, send: Send, encode: Encode
) -> None:
    text = _BEGIN + _joined(first, encode)
    while client.there():
        await _send(send, text)
        try:
            frames = await reader.next(client.word, client.patience())
        except StorageError:
            break  # the client comes back, and learns why
        if frames is None:
            break
        text = _joined(frames, encode) or _HEARTBEAT
    await _send(send, b"", more=False)


class _Client:
    """Whether the client still reads. `word` ends when it closes its side, or both.

    The two look the same until something is sent: so after a first word signs of life follow each other quickly.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._pause = HEARTBEAT_S
        self.word = asyncio.ensure_future(half_closed(receive))

    def there(self) -> bool:
        """Whether the client may still read."""
        if self.word.done():
            if not self.word.result():
                return False
            self._pause = PROBE_S
            self.word = asyncio.ensure_future(half_closed(self._receive))
        return True

    def patience(self) -> float:
        """How many seconds to be silent now."""
        pause, self._pause = self._pause, min(HEARTBEAT_S, self._pause * 2)
        return pause

    async def close(self) -> None:
        """Listen no more."""
        self.word.cancel()
        await asyncio.gather(self.word, return_exceptions=True)


async def _send(send: Send, text: bytes, *, more: bool = True) -> None:
    try:
        async with asyncio.timeout(STUCK_S):
            await send({"type": "http.response.body", "body": text, "more_body": more})
    except TimeoutError:
        raise NotReading from None


def _joined(frames: Sequence[Frame], encode: Encode) -> bytes:
    return b"".join(frame.text(encode) for frame in frames)


def _encode(feed: Feed, frame: Frame) -> bytes:
    data = encode_delta(frame.counts, rates_view(frame.rates), frame.changes, frame.dropped)
    event = b"reset" if frame.reset else b"delta"
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (feed.name_of(frame).encode(), event, data)
