"""One request of the fast lane and its answer: what `cycle` is to the requests that Starlette serves.

It has the same members as far as a connection looks at them. A request is begun when its body has come and all before
it are answered; it is answered once, in a later turn of the event loop than the one that parsed it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Protocol

from msgspec import Struct

from jobpipe.core.errors import JobpipeError
from jobpipe.http.answers import Reply, problem_reply
from jobpipe.http.meter import Meter

log = logging.getLogger("jobpipe.http")

Begin = Callable[["FastCycle", bytes], None]
"""Works on a request whose body has come. Raises JobpipeError, or sees to it that the cycle is answered."""


class Hot(Struct):
    """A request of the fast lane, as its head tells it: the wanted headers, and the length of its body in bytes.

    `route` is the template of the route that it is for.
    """

    begin: Begin
    method: str
    url: bytes
    head: dict[bytes, bytes]
    length: int
    refused_at_once: bool
    route: str


class Carrier(Protocol):
    """What a request needs of the connection that it came on."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    tasks: set[asyncio.Task[Any]]

    @property
    def meter(self) -> Meter | None:
        """Counts requests; None when nobody does."""

    def hold(self, cycle: FastCycle) -> bool:
        """Keep a request whose client does not read its answers, and say so; it is begun later."""

    def answer(self, cycle: FastCycle, reply: Reply) -> None:
        """Send its answer."""


class FastCycle:
    """A request on its way. `left` says that the client went away, or at least sends nothing more."""

    __slots__ = (
        "_protocol",
        "_task",
        "began",
        "disconnected",
        "ends_with_client",
        "hot",
        "keep_alive",
        "left",
        "more_body",
        "received",
        "response_complete",
    )

    body: ClassVar[bytes] = b""
    """Nothing waits here to be read by an application."""
    response_started: ClassVar[bool] = False
    message_event: ClassVar[asyncio.Event] = asyncio.Event()
    """uvicorn sets it; nobody waits for it here."""

    def __init__(self, protocol: Carrier, hot: Hot, keep_alive: bool) -> None:
        self._protocol = protocol
        self._task: asyncio.Task[None] | None = None
        self.hot = hot
        self.began = 0.0 if protocol.meter is None else protocol.meter.begin()
        self.keep_alive = keep_alive
        self.received: list[bytes] = []
        self.more_body = True
        self.response_complete = False
        self.disconnected = False
        self.left = False
        self.ends_with_client = False
        """Whether the work is cancelled when the client leaves."""

    def begin(self) -> None:
        """All of it has come, and it is its turn; it waits for a client that has not read the answers before."""
        if self.disconnected or self._protocol.hold(self):
            return
        received = self.received
        self.begin_with(received[0] if len(received) == 1 else b"".join(received))

    def begin_with(self, body: bytes) -> None:
        """The same, for a body that came at once."""
        self.more_body = False
        self.received = []
        try:
            self.hot.begin(self, body)
        except Exception as error:  # noqa: BLE001 - whatever it is, it has its answer
            self._protocol.loop.call_soon(self.fail, error)

    def run(self, answering: Coroutine[Any, Any, Reply]) -> None:
        """Answer with what `answering` comes to."""
        self._task = self._protocol.loop.create_task(self._run(answering))
        self._protocol.tasks.add(self._task)
        self._task.add_done_callback(self._protocol.tasks.discard)

    async def _run(self, answering: Coroutine[Any, Any, Reply]) -> None:
        try:
            reply = await answering
        except asyncio.CancelledError:
            self._protocol.transport.abort()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it has its answer
            self.fail(error)
        else:
            self.send(reply)

    def send(self, reply: Reply) -> None:
        """Answer, if there is anybody left to hear it."""
        self._protocol.answer(self, reply)

    @property
    def gone(self) -> bool:
        """Whether there is nobody who could take tasks with the answer."""
        return self.left or self._protocol.transport.is_closing()

    def fail(self, error: Exception) -> None:
        """Answer with what went wrong; what should not have is logged."""
        if isinstance(error, JobpipeError):
            self.send(problem_reply(error))
            return
        log.error("%s %r failed", self.hot.method, self.hot.url.decode("latin-1"), exc_info=error)
        self.send(problem_reply(JobpipeError(), close=True))

    def client_closed(self) -> None:
        """The client sends nothing more: who waits for tasks is not there to take any."""
        self.left = True
        if self.ends_with_client and self._task is not None:
            self._task.cancel()

    def client_gone(self) -> None:
        """The connection is lost."""
        self.disconnected = True
        self.client_closed()
