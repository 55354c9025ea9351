"""How a client of coroutines reaches its servers: connections for each event loop, which end with it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator
from typing import Final, TypeVar, cast

from jobpipe.client.async_gathering import AsyncGathering
from jobpipe.client.batch import Outcome, deliver
from jobpipe.client.connection import Connection
from jobpipe.client.destination import Destinations
from jobpipe.client.errors import ConnectionFailed
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Distrust, Flow, Item, Pause, Step, resume
from jobpipe.client.forks import OfOneProcess, renew_after_fork

T = TypeVar("T")

MOST_CALLS: Final = 16
MOST_WAITS: Final = 256
"""How many connections carry calls, and calls that the server holds on purpose; more callers wait for their turn."""


class AsyncTransport(OfOneProcess):
    """To be used on any event loop, on each with connections of its own. `timeout` is seconds for one request."""

    def __init__(self, servers: Destinations, timeout: float) -> None:
        self._servers = servers
        self._timeout = timeout
        self._here: _Loops = weakref.WeakKeyDictionary()
        renew_after_fork(self)

    def forget(self) -> None:
        """Leave every connection to the process that this one was forked from, and its event loops too."""
        for here in self._here.values():
            here.forget()
        _inherited.append(self._here)
        self._here = weakref.WeakKeyDictionary()

    async def close(self) -> None:
        """Close the connections of this event loop; those of others end with their loops. Safe twice."""
        here = self._here.pop(asyncio.get_running_loop(), None)
        if here is not None:
            await here.close()

    async def run(self, flow: Flow[T]) -> T:
        """Carry out a flow. Raises what the flow ends by: a JobpipeError, TimeoutError."""
        loop = asyncio.get_running_loop()
        here = self._here.get(loop)
        if here is None:
            self._drop_closed()
            here = self._here[loop] = _OnLoop(self._servers, self._timeout)
            await here.end_with(self._here)
        return await here.run(flow)

    def _drop_closed(self) -> None:
        """Let go of event loops that were closed by somebody who did not let their generators end."""
        for reference in self._here.keyrefs():  # a copy: other threads have loops too
            loop = reference()
            if loop is not None and loop.is_closed() and (left := self._here.pop(loop, None)) is not None:
                left.forget()


class _OnLoop:
    """What belongs to one event loop."""

    def __init__(self, servers: Destinations, timeout: float) -> None:
        self._servers = servers
        self._timeout = timeout
        self._idle: list[Connection] = []
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._calls = asyncio.Semaphore(MOST_CALLS)
        self._waits = asyncio.Semaphore(MOST_WAITS)
        self._gathering = AsyncGathering(self.run, timeout)
        self._guard: AsyncGenerator[None, None] | None = None

    async def end_with(self, loops: _Loops) -> None:
        """Close when the event loop ends: it ends its generators then (asyncio.run and its like do)."""

        async def guard() -> AsyncGenerator[None, None]:
            try:
                yield
            finally:
                loops.pop(asyncio.get_running_loop(), None)
                self._close()

        self._guard = guard()
        await anext(self._guard)

    async def close(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.aclose()

    def forget(self) -> None:
        for connection in list(self._all):
            connection.forget()

    async def run(self, flow: Flow[T]) -> T:
        outcome: object = None
        try:
            while True:
                outcome = await self._carry_out(resume(flow, outcome))
        except StopIteration as end:
            return cast("T", end.value)

    async def _carry_out(self, step: Step) -> Answer | Outcome | ConnectionFailed | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        if isinstance(step, Distrust):
            self._drop_idle()
            return None
        if isinstance(step, Item):
            if step.trace is None:
                return await self._gathering.enqueue(step)
            return (await self.run(deliver([step])))[0]
        try:
            async with self._waits if step.wait else self._calls:
                return await self._send(step)
        except ConnectionFailed as error:
            return error

    async def _send(self, request: Request) -> Answer:
        connection = self._idle.pop() if self._idle else self._open()
        answer = await connection.send(request, self._timeout + request.wait)
        self._idle.append(connection)
        if self._idle[0].is_stale:
            self._drop_idle()
        return answer

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _open(self) -> Connection:
        connection = Connection(self._servers, connect_timeout=self._timeout)
        self._all.add(connection)
        return connection

    def _close(self) -> None:
        self._guard = None
        self._gathering.close()
        self._idle.clear()
        for connection in list(self._all):
            connection.close()


_Loops = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _OnLoop]
_inherited: list[_Loops] = []
"""What a fork brought here of its parent's event loops. Kept: its end would be told to the parent's loops."""
