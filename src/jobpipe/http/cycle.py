"""One request and its answer: uvicorn's, made safe for clients that leave and for those that do not stop sending.

An answer's head waits for the first of its body, so that a small answer is one write and one packet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE as UVICORNS
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from jobpipe.http.bodies import HALF_CLOSED, NotReading
from jobpipe.http.problems import TITLES

STATUS_LINE = UVICORNS | {
    status: b"HTTP/1.1 %d %b\r\n" % (status, title.encode()) for status, title in TITLES.items()
}
"""By status. The reasons are the titles of problems: Python's own still follow an older RFC."""


class Cycle(RequestResponseCycle):
    """As uvicorn's; `linger` closes the connection once the client could read the answer."""

    def __init__(self, *, linger: Callable[[], None], **parts: Any) -> None:
        super().__init__(**parts)
        self._linger = linger
        self._start: Any = None
        self._whole = False
        self._half_closed = False
        self._told = False

    def client_closed(self) -> None:
        """The client sends nothing more. It may be gone, or only half: who listens for it hears of it, and whoever
        answers may do so."""
        self._half_closed = True
        self.message_event.set()

    def client_gone(self) -> None:
        """The connection is lost."""
        self.disconnected = True
        self.message_event.set()

    async def run_asgi(self, app: Any) -> None:
        """uvicorn's own, but begun when the answers before are read, and silent when a server that stops cancels it."""
        try:
            await self.flow.drain()
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self.transport.abort()
            raise
        except NotReading:
            self.transport.abort()
        except Exception:
            self.logger.exception("Exception in ASGI application")
            await self._break_off()
        else:
            if not (self.response_complete or self.disconnected):
                self.logger.error("the application ended without a whole answer")
                await self._break_off()
        finally:
            self.on_response = _later

    async def _break_off(self) -> None:
        if self._start is None:
            await self.send_500_response()
        else:
            self.transport.close()

    async def receive(self) -> Any:
        """The request, then how it ends: of a client that half-closed it is told once, with HALF_CLOSED."""
        if not self._whole:
            message = await super().receive()
            self._whole = not message.get("more_body", False)
            return message
        while True:
            if self._half_closed and not self._told:
                self._told = True
                return {"type": "http.disconnect", HALF_CLOSED: True}
            if self._told:
                self._find_out()
            message = await super().receive()
            if message["type"] == "http.disconnect":
                return message

    def _find_out(self) -> None:
        """Somebody listens on after a half-close: begin the answer, to learn whether the client is still there."""
        if not (self._start or self.response_complete or isinstance(self.transport, _Begun)):
            begun = _Begun(self.transport)
            self.transport = begun  # type: ignore[assignment]
            begun.probe()

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or self.transport.is_closing():
            self.disconnected = True  # uvloop raises when a closed transport is written to
        elif self._start is None and message["type"] == "http.response.start":
            self._start = message
        elif self.response_started or message.get("more_body") or message["type"] != "http.response.body":
            await self._stream(message)
        else:
            self._answer(self._start["status"], self._start["headers"], message.get("body", b""))

    async def _stream(self, message: Any) -> None:
        """An answer in pieces, as uvicorn sends it."""
        if not self.response_started:
            self._refuse_reuse()
            await super().send(self._start)
        if message.get("more_body"):
            await super().send(message)
            return
        # Whether to close is for `_end` to say: uvicorn would not linger.
        keep_alive, self.keep_alive = self.keep_alive, True
        on_response, self.on_response = self.on_response, _later
        await super().send(message)
        self.keep_alive, self.on_response = keep_alive, on_response
        self._end()

    def _answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole answer in one write."""
        self._refuse_reuse()
        parts, told = [STATUS_LINE[status]], False
        for name, value in (*self.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
            if name == b"connection":
                self.keep_alive, told = False, True
        if not (self.keep_alive or told):
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        if self.scope["method"] != "HEAD":
            parts.append(body)
        self.response_started = self.response_complete = True
        self.transport.write(b"".join(parts))
        self.message_event.set()
        self._end()

    def _refuse_reuse(self) -> None:
        if self.more_body or self.waiting_for_100_continue:
            # Who was refused might send on for ever, or never: nobody knows whether the body will follow.
            self.keep_alive = False
            self.waiting_for_100_continue = False

    def _end(self) -> None:
        if self.keep_alive:
            self.on_response()
        elif self.more_body:
            # Closed now, with bytes unread, the kernel would send a reset that can overtake the answer.
            self.on_response()
            self._linger()
        else:
            self.transport.close()
            self.on_response()


class _Begun:
    """A transport on which an answer begins byte by byte.

    A client that closed and one that closed only its own side look the same until something is sent: the kernel of the
    first answers with a reset, which the next write meets. All answers begin with the same bytes, so a client that does
    read sees nothing but an answer in several packets. The probes take 13 s in all; who leaves after that is noticed
    when the answer is written.
    """

    _SAME = b"HTTP/1.1 "
    _FIRST_GAP_S = 0.05

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._sent = 0
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def probe(self) -> None:
        if self._sent == len(self._SAME) or self._transport.is_closing():
            return
        self._transport.write(self._SAME[self._sent : self._sent + 1])
        gap = self._FIRST_GAP_S * 2**self._sent
        self._sent += 1
        self._timer = asyncio.get_running_loop().call_later(gap, self.probe)

    def write(self, data: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.write(data[self._sent :])
        self._sent = 0


def _later() -> None:
    """The end of an answer is told once its connection is decided on."""
