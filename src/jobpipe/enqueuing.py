"""The ways of people's code to a queue, for `app.running(...)`: to the queue in this process, or to a server.

`LocalEnqueuer` goes through the same parsing as a request over HTTP, so that both refuse the same. `RemoteEnqueuer` is
for worker processes, with the server they work for, and for code outside of Jobpipe.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import msgspec

from jobpipe.clock import Clock, SystemClock
from jobpipe.core.errors import Invalid, JobpipeError
from jobpipe.tracing import sending, traceparent
from jobpipe.wire import Defaults, encode_task, new_id, parse_object
from jobpipe.work.enqueue import Connecting, EnqueueRequest

if TYPE_CHECKING:
    from jobpipe.client import AsyncClient, Client, Task
    from jobpipe.client.flow import Item
    from jobpipe.engine.queue import TaskQueue

T = TypeVar("T")


class LocalEnqueuer:
    """To a TaskQueue in this process; to be made on its event loop. `defaults` are what the server fills in."""

    def __init__(
        self, queue: TaskQueue, defaults: Defaults | None = None, clock: Clock | None = None
    ) -> None:
        from jobpipe.client.batch import read_task

        self._read = read_task
        self._queue = queue
        self._defaults = defaults or Defaults()
        self._clock = clock or SystemClock()
        self._loop = asyncio.get_running_loop()

    async def enqueue(self, request: EnqueueRequest) -> Task:
        """From any event loop, the queue's own included."""
        with sending(request.queue, request.id):
            enqueueing = self._enqueue(request, traceparent())
            if asyncio.get_running_loop() is self._loop:
                return await enqueueing
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(enqueueing, self._loop))

    def enqueue_sync(self, request: EnqueueRequest) -> Task:
        """From any thread but the queue's own, which would wait for itself: RuntimeError."""
        if _running_loop() is self._loop:
            raise RuntimeError(
                "enqueue_sync would block the event loop that it waits for: await enqueue(...)"
            )
        with sending(request.queue, request.id):
            enqueueing = self._enqueue(request, traceparent())
            return asyncio.run_coroutine_threadsafe(enqueueing, self._loop).result()

    async def close(self) -> None:
        """Nothing to close: the queue belongs to others."""

    async def _enqueue(self, request: EnqueueRequest, trace: str | None) -> Task:
        task = parse_object(_body(request), self._defaults, self._clock.now(), trace)
        (answer,) = await self._queue.enqueue([task])
        if isinstance(answer, JobpipeError):
            raise answer
        return self._read(encode_task(answer))


class RemoteEnqueuer:
    """To servers over HTTP, by clients that are made at their first use: one for threads, one for event loops.

    The arguments are those of `jobpipe.client.Client`.
    """

    def __init__(self, url: str | None = None, **arguments: Unpack[Connecting]) -> None:
        self._url = url
        self._arguments = arguments
        self._made: dict[str, Any] = {}

    async def enqueue(self, request: EnqueueRequest) -> Task:
        """Over connections of the running event loop."""
        with sending(request.queue, request.id):
            return await self._async_client().enqueue_item(_item(request))

    def enqueue_sync(self, request: EnqueueRequest) -> Task:
        """Over connections for threads; blocks until the answer is there."""
        with sending(request.queue, request.id):
            return self._client().enqueue_item(_item(request))

    async def close(self) -> None:
        """Close the connections of threads and of the running event loop; others end with their loops."""
        if "sync" in self._made:
            self._client().close()
        if "async" in self._made:
            await self._async_client().close()
        self._made.clear()

    def _client(self) -> Client:
        client: Client | None = self._made.get("sync")
        if client is None:
            from jobpipe.client import Client

            # Without a lock, which a fork could leave locked for ever: who comes second takes the first one's.
            client = self._made.setdefault("sync", Client(self._url, **self._arguments))
        return client

    def _async_client(self) -> AsyncClient:
        client: AsyncClient | None = self._made.get("async")
        if client is None:
            from jobpipe.client import AsyncClient

            client = self._made.setdefault("async", AsyncClient(self._url, **self._arguments))
        return client


def _item(request: EnqueueRequest) -> Item:
    from jobpipe.client.flow import Item

    id = request.id
    if id is None:
        request = msgspec.structs.replace(request, id=new_id(_clock.now()))
    return Item(request.id or "", id is None, _body(request), traceparent())


_clock = SystemClock()


def _body(request: EnqueueRequest) -> bytes:
    if request.run_at is not None and request.run_at.utcoffset() is None:
        raise Invalid("a time needs a time zone: datetime.now(UTC), not datetime.now()", field="run_at")
    return msgspec.json.encode(request)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
