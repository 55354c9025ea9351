"""The lean connection of coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from jobpipe.client.channel import READ, Channel, ClosedWhileIdle
from jobpipe.client.destination import Destination
from jobpipe.client.errors import ConnectionFailed
from jobpipe.client.exchange import Answer, Conversation, Request

T = TypeVar("T")


class Connection(Channel):
    """For one event loop."""

    async def post(
        self, path: str, body: bytes, timeout: float, written: Callable[[], None] | None = None
    ) -> Answer:
        """Post JSON that bears to be sent twice, and wait for the answer, `timeout` seconds after connecting at most.

        Raises ConnectionFailed. `written` is called when the request was handed to the socket.
        """
        return await self.send(Request("POST", path, body, repeatable=True), timeout, written)

    async def send(
        self, request: Request, timeout: float, written: Callable[[], None] | None = None
    ) -> Answer:
        """A request and its answer. Raises ConnectionFailed.

        One that is `repeatable` goes out again, once, when a kept connection turns out to be closed. When it fails or
        is cancelled under way, the connection is cut, so that no late answer meets the next request.
        """
        for _ in range(len(self._to)):
            kept = not self._busy and self._is_usable()
            try:
                answer = await self._exchange(request, timeout, written, kept)
            except ClosedWhileIdle:
                if not request.repeatable or self._over:
                    raise
                answer = replace(await self._exchange(request, timeout, written, False), resent=True)
            if not self._turned_away(answer):
                break
        return answer

    async def _exchange(
        self, request: Request, timeout: float, written: Callable[[], None] | None, kept: bool
    ) -> Answer:
        self._begin(kept=kept)
        self._busy = True
        try:
            if not kept:
                await self._connect(min(timeout, self._connect_timeout))
            async with asyncio.timeout(timeout):
                return self._done(
                    await self._carry_out(self._wire.exchange(self._destination.written(request), written))
                )
        except OSError as error:
            self._fail(error, timeout)
        except BaseException:
            self._cut()
            raise
        finally:
            self._busy = False

    async def _connect(self, timeout: float) -> None:
        failure: ConnectionFailed | None = None
        for _ in range(len(self._to)):
            destination = self._to.current
            try:
                async with asyncio.timeout(timeout):
                    await self._carry_out(self._opened(await _open_async(destination), destination))
                self._check_open()
            except OSError as error:
                failure = self._unconnected(destination, error)
            else:
                return
        raise failure or ConnectionFailed("no server to connect to")

    async def _carry_out(self, conversation: Conversation[T]) -> T:
        loop, sock = asyncio.get_running_loop(), self._socket
        if sock is None:
            raise ConnectionError("the connection was closed")
        try:
            step = next(conversation)
            while True:
                if step is None:
                    step = conversation.send(await loop.sock_recv(sock, READ))
                    continue
                try:
                    await loop.sock_sendall(sock, step)
                except OSError as error:
                    step = conversation.throw(error)
                else:
                    step = next(conversation)
        except StopIteration as end:
            value: T = end.value
            return value


async def _open_async(destination: Destination) -> socket.socket:
    path = destination.address.socket
    if path is not None:
        return await _connected(socket.AF_UNIX, path)
    host, port = destination.place
    failure: OSError = ConnectionError(f"{host} has no address")
    for family, _, _, _, place in await _resolved(host, port):
        try:
            return await _connected(family, place)
        except OSError as error:
            failure = error
    raise failure


async def _resolved(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    with contextlib.suppress(OSError):  # an address as digits needs no thread that looks it up
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _connected(family: int, place: str | tuple[str | int, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock
