"""The ways of people's code to a queue, for `app.running(...)`: to the queue in this process, or to a server.

`LocalEnqueuer` goes through the same parsing as a request over HTTP, so that both refuse the same. `RemoteEnqueuer` is
for worker processes, with the server they work for, and for code outside of Jobpipe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack

import msgspec

from jobpipe.core.errors import Invalid, JobpipeError, NotFound, QueueFull, TooManyQueues
from jobpipe.core.unique import Known
from jobpipe.runtime.clock import Clock, SystemClock
from jobpipe.runtime.tracing import sending, traceparent
from jobpipe.wire import Defaults, encode_known, encode_task, new_id, parse_object
from jobpipe.work.enqueue import Connecting, EnqueueRequest

if TYPE_CHECKING:
    from jobpipe.client import AsyncClient, Client, Task
    from jobpipe.client.flow import Item
    from jobpipe.engine.queue import TaskQueue

T = TypeVar("T")

PATIENCE_S: Final = 60.0
"""How long a full queue may have no room for a task of many."""

CHUNK: Final = 1000
LOOK_S: Final = 60.0


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
        with sending(request.queue, request.id):
            return self._call("enqueue", self._enqueue(request, traceparent()))

    async def enqueue_many(
        self, requests: Iterable[EnqueueRequest | JobpipeError]
    ) -> list[Task | JobpipeError]:
        """Each as `enqueue`, together, batch by batch. What a full queue refused is sent again until it has room."""
        answers: list[Task | JobpipeError] = []
        requests = iter(requests)
        while chunk := list(islice(requests, CHUNK)):
            answers += await asyncio.gather(*map(self._enqueue_patiently, chunk))
        return answers

    def enqueue_many_sync(
        self, requests: Iterable[EnqueueRequest | JobpipeError]
    ) -> list[Task | JobpipeError]:
        """`enqueue_many` from any thread but the queue's own."""
        return self._call("enqueue_many", self.enqueue_many(requests))

    async def wait(self, id: str, timeout: float | None) -> Task:
        """The task when it is finished."""
        waiting = self._wait(id, timeout)
        if asyncio.get_running_loop() is self._loop:
            return await waiting
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(waiting, self._loop))

    def wait_sync(self, id: str, timeout: float | None) -> Task:
        """`wait` from any thread but the queue's own."""
        return self._call("result", self._wait(id, timeout))

    async def close(self) -> None:
        """Nothing to close: the queue belongs to others."""

    def _call(self, verb: str, call: Coroutine[Any, Any, T]) -> T:
        if _running_loop() is self._loop:
            call.close()
            raise RuntimeError(f"{verb}_sync would block the event loop that it waits for: await {verb}(...)")
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    async def _enqueue_patiently(self, request: EnqueueRequest | JobpipeError) -> Task | JobpipeError:
        end = self._loop.time() + PATIENCE_S
        while not isinstance(request, JobpipeError):
            try:
                return await self.enqueue(request)
            except (QueueFull, TooManyQueues) as error:
                if asyncio.get_running_loop().time() >= end:
                    return error
                await asyncio.sleep(error.retry_after)
            except JobpipeError as error:
                return error
        return request

    async def _wait(self, id: str, timeout: float | None) -> Task:
        end = float("inf") if timeout is None else self._loop.time() + timeout
        while True:
            left = max(0.0, min(LOOK_S, end - self._loop.time()))
            task = await self._queue.wait_finished(id, left)
            if task is None:
                raise NotFound(f"no task has the id '{id}'")
            if task.finished:
                return self._read(encode_task(task))
            if self._loop.time() >= end:
                raise TimeoutError(f"task {id} is {task.status} after {timeout:g} s")
            await asyncio.sleep(0.1)  # a queue that drains answers at once

    async def _enqueue(self, request: EnqueueRequest, trace: str | None) -> Task:
        task = parse_object(_body(request), self._defaults, self._clock.now(), trace)
        (answer,) = await self._queue.enqueue([task])
        if isinstance(answer, JobpipeError):
            raise answer
        return self._read(encode_known(answer) if isinstance(answer, Known) else encode_task(answer))


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

    async def enqueue_many(
        self, requests: Iterable[EnqueueRequest | JobpipeError]
    ) -> list[Task | JobpipeError]:
        """In batches, over connections of the running event loop."""
        with sending(None):
            return await self._async_client().enqueue_items(list(map(_item_or_error, requests)))

    def enqueue_many_sync(
        self, requests: Iterable[EnqueueRequest | JobpipeError]
    ) -> list[Task | JobpipeError]:
        """The same over connections for threads."""
        with sending(None):
            return self._client().enqueue_items(list(map(_item_or_error, requests)))

    async def wait(self, id: str, timeout: float | None) -> Task:
        """The task when it is finished, also over a restart of the server."""
        return await self._async_client().wait(id, timeout)

    def wait_sync(self, id: str, timeout: float | None) -> Task:
        """The same for threads."""
        return self._client().wait(id, timeout)

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


def _item_or_error(request: EnqueueRequest | JobpipeError) -> Item | JobpipeError:
    try:
        return request if isinstance(request, JobpipeError) else _item(request)
    except JobpipeError as error:
        return error


_clock = SystemClock()


def _body(request: EnqueueRequest) -> bytes:
    for field in ("run_at", "expires"):
        at = getattr(request, field)
        if isinstance(at, datetime) and at.utcoffset() is None:
            raise Invalid("a time needs a time zone: datetime.now(UTC), not datetime.now()", field=field)
    return msgspec.json.encode(request)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
