"""What a lean keep-alive connection is, whoever carries out its conversations: its socket, and what is known of it.

It serves one request at a time, connects when it must, and goes on to the next server when one cannot be reached or
takes no more work. `jobpipe.client.connection` is for coroutines, `jobpipe.client.blocking` for threads.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Final, NoReturn

from jobpipe.client.address import Address
from jobpipe.client.destination import Destination, Destinations, destinations
from jobpipe.client.errors import ConnectionFailed
from jobpipe.client.exchange import Answer, Conversation

CONNECT_S: Final = 5.0
KEEP_IDLE_S: Final = 4.0
"""Less than the 5 seconds after which servers close idle connections: a request must not meet the closing."""

READ: Final = 1 << 18


class ClosedWhileIdle(ConnectionFailed):
    """A connection that served before ended without a byte of an answer."""


class Channel:
    """What both kinds share: the socket, what is known of it, and errors as ours."""

    def __init__(
        self,
        to: Address | Destinations,
        headers: Mapping[str, str] | None = None,
        *,
        connect_timeout: float = CONNECT_S,
    ) -> None:
        self._to = to if isinstance(to, Destinations) else destinations([to], headers)
        self._connect_timeout = connect_timeout
        self._destination = self._to.current
        self._socket: socket.socket | None = None
        self._wire = self._destination.wire()
        self._used = 0.0
        self._over = False
        self._busy = False

    def hang_up(self) -> bool:
        """Say that nothing more will be sent, and go on reading: an answer that is on its way still arrives.

        A server takes this for the end of the connection. False where it cannot be said (TLS, not connected). This
        connection sends nothing after it.
        """
        self._over = True
        if self._socket is None or self._destination.address.tls:
            return False
        return self._shut(socket.SHUT_WR)

    def close(self) -> None:
        """Cut the connection, for good; a request under way fails. Safe from any thread, twice, or never connected."""
        self._over = True
        if self._busy:
            self._shut(socket.SHUT_RDWR)  # who waits for its answer closes it
        else:
            self._cut()

    def __del__(self) -> None:
        self._cut()

    def forget(self) -> None:
        """Give up a socket that another process goes on using: nothing is said on it."""
        self._cut()

    def _shut(self, how: int) -> bool:
        if self._socket is None:
            return False
        with contextlib.suppress(OSError):  # it ended by itself meanwhile
            self._socket.shutdown(how)
            return True
        return False

    def _cut(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    @property
    def is_stale(self) -> bool:
        """Whether its server may be about to close it."""
        return time.monotonic() - self._used > KEEP_IDLE_S

    def _is_usable(self) -> bool:
        """Whether the open connection may carry a request: young, of the current server, and nothing has come."""
        sock = self._socket
        if sock is None or self._over or self._destination is not self._to.current:
            return False
        if self.is_stale:
            return False
        sock.settimeout(0)
        try:
            return self._wire.is_quiet(sock.recv(READ))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _begin(self, *, kept: bool) -> None:
        """Prepare for a request; on a new connection unless `kept`. Raises ConnectionFailed after `close`."""
        if self._busy:
            raise RuntimeError("a connection carries one request at a time")
        if not kept:
            self._cut()
            self._check_open()

    def _opened(self, sock: socket.socket, destination: Destination) -> Conversation[None]:
        sock.settimeout(0)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._destination, self._wire = sock, destination, destination.wire()
        return self._wire.open()

    def _check_open(self) -> None:
        if self._over:
            raise ConnectionFailed(f"the connection to {self._to} was closed here")

    def _done(self, answer: Answer) -> Answer:
        self._used = time.monotonic()
        if self._over or not self._wire.reusable:
            self._cut()
        return answer

    def _turned_away(self, answer: Answer) -> bool:
        """Whether another server is to be asked instead: this one is about to stop."""
        if answer.status != 503 or len(self._to) < 2 or b'"draining"' not in answer.body:
            return False
        self._to.failed(self._destination)
        return True

    def _unconnected(self, destination: Destination, error: OSError) -> ConnectionFailed:
        self._cut()
        self._to.failed(destination)
        return ConnectionFailed(f"{destination}: {reason_of(error, 'no connection in time')}")

    def _fail(self, error: OSError, timeout: float) -> NoReturn:
        served, answering = self._wire.served, self._wire.answering
        late = isinstance(error, TimeoutError)
        idle = served and not answering and not late and not self._over
        self._cut()
        if not idle:
            self._to.failed(self._destination)
        kind = ClosedWhileIdle if idle else ConnectionFailed
        reason = f"no answer in {timeout:g} s" if late else reason_of(error, "")
        raise kind(f"{self._destination}: {reason}", maybe_sent=True) from error


def reason_of(error: OSError, otherwise: str) -> str:
    """What went wrong, in the system's words, without its number."""
    if getattr(error, "reason", None) == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS: its address begins with http://, or a proxy is in the way"
    return error.strerror or str(error) or otherwise or type(error).__name__
