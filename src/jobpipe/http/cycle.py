"""One request and its answer: uvicorn's, made safe for clients that leave and for those that do not stop sending.

An answer's head waits for the first of its body, so that a small answer is one write and one packet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle


class Cycle(RequestResponseCycle):
    """As uvicorn's; `linger` closes the connection once the client could read the answer."""

    def __init__(self, *, linger: Callable[[], None], **parts: Any) -> None:
        super().__init__(**parts)
        self._linger = linger
        self._start: Any = None
        self._whole = False
        self._left = False

    def client_closed(self) -> None:
        """The client sends nothing more. It may be gone, or only half: who listens for it hears of it, and whoever
        answers may do so."""
        self._left = True
        self.message_event.set()

    async def receive(self) -> Any:
        if self._left and self._whole:
            return {"type": "http.disconnect"}
        message = await super().receive()
        if self._left and self._whole:
            return {"type": "http.disconnect"}
        self._whole = not message.get("more_body", False)
        return message

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
        if self.waiting_for_100_continue:
            self.keep_alive = False  # nobody knows whether the body will follow
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


def _later() -> None:
    """The end of an answer is told once its connection is decided on."""
