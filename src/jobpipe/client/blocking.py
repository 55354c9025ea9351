"""The lean connection of threads."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

from msgspec.structs import replace

from jobpipe.client.channel import READ, Channel, ClosedWhileIdle
from jobpipe.client.destination import Destination
from jobpipe.client.errors import ConnectionFailed, error_of
from jobpipe.client.exchange import Answer, Conversation, Request

T = TypeVar("T")

MAX_LINE: Final = 1 << 22


class BlockingConnection(Channel):
    """For one thread at a time. `close` may come from another."""

    def post(self, path: str, body: bytes, timeout: float) -> Answer:
        """As `Connection.post`."""
        return self.send(Request("POST", path, body, repeatable=True), timeout)

    def send(self, request: Request, timeout: float) -> Answer:
        """As `Connection.send`."""
        for _ in range(len(self._to)):
            kept = not self._busy and self._is_usable()
            try:
                answer = self._exchange(request, timeout, kept)
            except ClosedWhileIdle:
                if not request.repeatable or self._over:
                    raise
                answer = replace(self._exchange(request, timeout, False), resent=True)
            if not self._turned_away(answer):
                break
        return answer

    def lines(self, path: str, headers: Mapping[str, str], silence: float) -> Iterator[bytes]:
        """The lines of an endless answer, without their ends. Raises ConnectionFailed, also when it ends.

        `silence` is how many seconds may pass without a byte. The connection is of no use after it.
        """
        self._begin(kept=False)
        try:
            self._connect(min(silence, self._connect_timeout))
            request = self._destination.written(Request("GET", path, headers=headers))
            status = self._carry_out(self._wire.ask(request), silence)
            if status != 200:
                raise error_of(status, self._carry_out(self._wire.pieces(), silence))
            rest = b""
            while piece := self._carry_out(self._wire.pieces(), silence):
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > MAX_LINE:
                    raise ConnectionError("a line has no end")
                for line in lines:
                    yield line.rstrip(b"\r")
            raise ConnectionError("the stream ended")
        except OSError as error:
            self._fail(error, silence)
        finally:
            self._cut()

    def _exchange(self, request: Request, timeout: float, kept: bool) -> Answer:
        self._begin(kept=kept)
        self._busy = True
        try:
            if not kept:
                self._connect(min(timeout, self._connect_timeout))
            return self._done(
                self._carry_out(self._wire.exchange(self._destination.written(request)), timeout)
            )
        except OSError as error:
            self._fail(error, timeout)
        except BaseException:  # Ctrl+C too: a late answer must not meet the next request
            self._cut()
            raise
        finally:
            self._busy = False

    def _connect(self, timeout: float) -> None:
        failure: ConnectionFailed | None = None
        for _ in range(len(self._to)):
            destination = self._to.current
            try:
                self._carry_out(self._opened(_open(destination, timeout), destination), timeout)
                self._check_open()
            except OSError as error:
                failure = self._unconnected(destination, error)
            else:
                return
        raise failure or ConnectionFailed("no server to connect to")

    def _carry_out(self, conversation: Conversation[T], timeout: float) -> T:
        sock, end = self._socket, time.monotonic() + timeout
        if sock is None:
            raise ConnectionError("the connection was closed")
        sock.settimeout(timeout)
        try:
            step = next(conversation)
            while True:
                if step is None:
                    step = conversation.send(sock.recv(READ))
                    if step is None:
                        sock.settimeout(_left(end))
                    continue
                try:
                    sock.sendall(step)
                except OSError as error:
                    step = conversation.throw(error)
                else:
                    step = next(conversation)
        except StopIteration as stop:
            value: T = stop.value
            return value


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _open(destination: Destination, timeout: float) -> socket.socket:
    path = destination.address.socket
    if path is None:
        return socket.create_connection(destination.place, timeout)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
