"""How a client of threads reaches its servers: the connections that it keeps, and the flows that go over them."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import TypeVar, cast

from jobpipe.client.batch import Outcome, deliver
from jobpipe.client.blocking import BlockingConnection
from jobpipe.client.destination import Destinations
from jobpipe.client.errors import ClientClosed, ConnectionFailed
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Distrust, Flow, Item, Pause, Step, resume
from jobpipe.client.forks import OfOneProcess, renew_after_fork
from jobpipe.client.gathering import Gathering

T = TypeVar("T")


class Transport(OfOneProcess):
    """To be used by any number of threads. `timeout` is seconds for one request."""

    def __init__(self, servers: Destinations, timeout: float) -> None:
        self._servers = servers
        self._timeout = timeout
        self._renew()
        renew_after_fork(self)

    def _renew(self) -> None:
        self._closed = False
        self._idle: list[BlockingConnection] = []
        self._all: weakref.WeakSet[BlockingConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._gathering = Gathering(self.run, self._timeout)

    def forget(self) -> None:
        """Leave every connection to the process that this one was forked from."""
        for connection in list(self._all):
            connection.forget()
        self._renew()

    def close(self) -> None:
        """Close the connections; what is under way fails. Safe twice."""
        self._closed = True
        for connection in list(self._all):
            connection.close()

    def run(self, flow: Flow[T]) -> T:
        """Carry out a flow. Raises what the flow ends by: a JobpipeError, TimeoutError."""
        outcome: object = None
        try:
            while True:
                outcome = self._carry_out(resume(flow, outcome))
        except StopIteration as end:
            return cast("T", end.value)

    def lines(self, path: str, headers: Mapping[str, str], silence: float) -> Iterator[bytes]:
        """As `BlockingConnection.lines`."""
        yield from self._open().lines(path, headers, silence)

    def _carry_out(self, step: Step) -> Answer | Outcome | ConnectionFailed | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        if isinstance(step, Distrust):
            self._drop_idle()
            return None
        if isinstance(step, Item):
            return self._gathering.enqueue(step) if step.trace is None else self.run(deliver([step]))[0]
        try:
            return self._send(step)
        except ConnectionFailed as error:
            return error

    def _send(self, request: Request) -> Answer:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._open()
        answer = connection.send(request, self._timeout + request.wait)
        if not self._closed:
            self._idle.append(connection)
        if self._idle and self._idle[0].is_stale:
            self._drop_idle()
        return answer

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _open(self) -> BlockingConnection:
        if self._closed:
            raise ClientClosed(f"the client of {self._servers} is closed")
        connection = BlockingConnection(self._servers, connect_timeout=self._timeout)
        with self._lock:
            self._all.add(connection)
        return connection
