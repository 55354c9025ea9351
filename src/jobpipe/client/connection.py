"""A lean keep-alive HTTP/1.1 connection for workers: JSON is posted, a status and a body come back.

One request at a time; connects when it must, and again after a failure. What is posted must bear to be sent twice: when
a kept connection turns out to be closed, the request goes out again on a new one, once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, cast

import httptools

from jobpipe.client.address import Address
from jobpipe.client.errors import ConnectionFailed, seconds_of

CONNECT_S: Final = 5.0
MOST_AROUND: Final = 64 * 1024
"""Bytes of heads, trailers and the like that a server may send without one of a body."""


def _nothing() -> None:
    """Nobody asked."""


class Reply(NamedTuple):
    """What came back. `retry_after` is the header in seconds, 0 where it is missing or a date."""

    status: int
    body: bytes
    retry_after: int = 0


class Connection:
    """Posts to one address, with `headers` on every request; for one event loop, and one request at a time."""

    def __init__(
        self,
        address: Address,
        headers: Mapping[str, str] | None = None,
        *,
        connect_timeout: float = CONNECT_S,
    ) -> None:
        self._address = address
        self._connect_timeout = connect_timeout
        fixed = {"host": address.authority, "content-type": "application/json", **(headers or {})}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in fixed.items()).encode("latin-1")
        self._protocol: _Protocol | None = None
        self._over = False
        self._ssl = ssl.create_default_context() if address.tls else None

    async def post(
        self, path: str, body: bytes, timeout: float, written: Callable[[], None] = _nothing
    ) -> Reply:
        """Post JSON and wait for the answer, `timeout` seconds after connecting at most. Raises ConnectionFailed.

        `written` is called when the request was handed to the socket.
        When it fails or is cancelled under way, the connection is cut, so that no late answer meets the next request.
        """
        request = b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (
            (self._address.prefix + path).encode("ascii"), self._head, len(body), body,
        )  # fmt: skip
        protocol = self._protocol
        if protocol is not None and protocol.usable:
            try:
                return await protocol.exchange(request, timeout, written)
            except ClosedWhileIdle:
                pass
        protocol = await self._connect()
        return await protocol.exchange(request, timeout, written)

    def hang_up(self) -> bool:
        """Say that nothing more will be sent, and go on reading: an answer that is on its way still arrives.

        A server takes this for the end of the connection. False where it cannot be said (TLS, not connected). This
        connection sends nothing after it.
        """
        self._over = True
        return self._protocol is not None and self._protocol.hang_up()

    def close(self) -> None:
        """Cut the connection, for good; a post under way fails. Safe when called twice or never connected."""
        self._over = True
        if self._protocol is not None:
            self._protocol.abort()

    async def _connect(self) -> _Protocol:
        loop, address = asyncio.get_running_loop(), self._address
        self._check_open()
        try:
            async with asyncio.timeout(self._connect_timeout):
                if address.socket is not None:
                    _, protocol = await loop.create_unix_connection(_Protocol, address.socket)
                else:
                    _, protocol = await loop.create_connection(
                        _Protocol, address.host, address.port, ssl=self._ssl
                    )
        except (OSError, TimeoutError) as error:
            raise ConnectionFailed(f"{address}: {error or 'no connection in time'}") from error
        self._protocol = protocol
        if self._over:
            protocol.abort()
            self._check_open()
        return protocol

    def _check_open(self) -> None:
        if self._over:
            raise ConnectionFailed(f"the connection to {self._address} was closed here")


class ClosedWhileIdle(ConnectionFailed):
    """A connection that served before ended without a byte of an answer."""


class _Protocol(asyncio.Protocol):
    """One TCP or Unix connection: at most one exchange under way, and the parser of its answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[Reply] | None = None
        self._body: list[bytes] = []
        self._around = 0
        self._retry_after = 0
        self._served = False
        self._answering = False
        self._last = False

    @property
    def usable(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._last and not self._transport.is_closing()

    async def exchange(self, request: bytes, timeout: float, written: Callable[[], None]) -> Reply:
        """Send, and wait for the answer. Raises ConnectionFailed."""
        if self._waiting is not None:
            raise RuntimeError("a connection carries one request at a time")
        transport = self._transport
        if transport is None or not self.usable:
            raise ConnectionFailed("the connection ended as soon as it stood")
        self._answering = False
        waiting: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting = waiting
        transport.write(request)
        written()
        timer = self._loop.call_later(timeout, self._fail, f"no answer in {timeout:g} s")
        try:
            reply = await waiting
        except BaseException:
            self.abort()
            raise
        finally:
            timer.cancel()
            self._waiting = None
        if self._last:
            self.abort()
        return reply

    def hang_up(self) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing() or not transport.can_write_eof():
            return False
        self._last = True
        transport.write_eof()
        return True

    def abort(self) -> None:
        self._last = True
        if self._transport is not None:
            self._transport.abort()

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._answering = True
        self._around += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")
        else:
            if self._around > MOST_AROUND:
                self._fail("the head of the answer does not end")

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._fail(str(error) if error else "the connection ended before the answer")

    # --- called by the parser ---

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 11 and name.lower() == b"retry-after":
            self._retry_after = seconds_of(value)

    def on_body(self, body: bytes) -> None:
        self._around = 0
        self._body.append(body)

    def on_message_complete(self) -> None:
        status, self._around = self._parser.get_status_code(), 0
        if status < 200:  # an interim answer (RFC 9110, 15.2): the real one follows
            return
        body, self._body = b"".join(self._body), []
        self._last = self._last or not self._parser.should_keep_alive()
        if self._waiting is None or self._waiting.done():
            self.abort()  # nobody asked: what comes next on this connection would be taken for another's answer
            return
        self._served = True
        retry_after, self._retry_after = self._retry_after, 0
        self._waiting.set_result(Reply(status, body, retry_after))

    def _fail(self, reason: str) -> None:
        idle = self._served and not self._answering and self._transport is None
        self.abort()
        if self._waiting is not None and not self._waiting.done():
            kind = ClosedWhileIdle if idle else ConnectionFailed
            self._waiting.set_exception(kind(reason, maybe_sent=True))
