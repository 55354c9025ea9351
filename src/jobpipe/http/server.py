"""uvicorn as a part of our server: our protocol, no signals, no ticking, and an end that others decide.

Who composes the server binds the sockets with `listen`, runs `HttpServer.serve(sockets=...)` as an asyncio.Task, and
calls `stop`: then nobody new is accepted, idle connections are closed, and `serve` returns when the last answer is out,
at the latest after the grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
import time
from collections.abc import Generator
from email.utils import formatdate
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from jobpipe.http.protocol import JobpipeProtocol

KEEP_ALIVE_S = 75
BACKLOG = 2048
GRACE_S = 0.5
EVERYWHERE = frozenset({"", "*", "::"})
"""What stands for every address of the machine, IPv4 and IPv6."""
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
NOTICE_S = 0.1
"""How long a request may take to see that it was cut off, or cancelled: it waits for nothing then."""


class _State(ServerState):
    """uvicorn's shared state. The Date header is made when an answer needs it, at most once a second."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._headers = [(b"date", formatdate(now, usegmt=True).encode())]
        return self._headers

    @default_headers.setter
    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """uvicorn sets what it would send; the Date is all there is."""


class HttpServer(uvicorn.Server):
    """Serves `app` until `stop` is called. `grace_s` bounds how long answers that are under way may take after that."""

    def __init__(
        self, app: ASGIApp, *, grace_s: float = GRACE_S, protocol: type[JobpipeProtocol] = JobpipeProtocol
    ) -> None:
        super().__init__(_config(app, protocol))
        self.server_state = _State()
        self._grace_s = grace_s
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin the end; safe when called twice or before `serve`."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        # uvicorn looks ten times a second whether it should exit; that alone is more CPU than an idle server may use.
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """In place of uvicorn's, which looks ten times a second whether all is over, and complains of what is not."""
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        for connection in self._connections():
            connection.shutdown()
        await self._over(self._grace_s)
        for connection in self._connections():
            connection.transport.abort()
        await self._over(NOTICE_S)
        for request in self.server_state.tasks:
            request.cancel()
        await self._over(NOTICE_S)

    async def _over(self, timeout: float) -> None:
        """Wait for the end of all connections and requests, `timeout` seconds at most."""
        lost = [connection.lost() for connection in self._connections()]
        if waiting := [*lost, *self.server_state.tasks]:
            await asyncio.wait(waiting, timeout=timeout)

    def _connections(self) -> list[JobpipeProtocol]:
        return cast("list[JobpipeProtocol]", list(self.server_state.connections))

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # signals belong to the composition of the server


def listen(host: str, port: int) -> list[socket.socket]:
    """Bound sockets for every address of `host`; port 0 takes a free one, the same for all. Raises OSError.

    `*` and `::` are all addresses of this machine, IPv4 and IPv6. What a name is said to have and this machine has not
    (`::1` in /etc/hosts, where IPv6 is off) is left out, unless nothing else is there.
    """
    sought = None if host in EVERYWHERE else host
    found = socket.getaddrinfo(sought, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        chosen = port if port or not sockets else sockets[0].getsockname()[1]
        try:
            sockets.append(_bound(family, (address[0], chosen, *address[2:])))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                _close(sockets)
                raise
            absent = error
    if not sockets and absent is not None:
        raise absent
    return sockets


def _close(sockets: list[socket.socket]) -> None:
    for opened in sockets:
        opened.close()


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setblocking(False)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _config(app: ASGIApp, protocol: type[JobpipeProtocol]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        loop="auto",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
