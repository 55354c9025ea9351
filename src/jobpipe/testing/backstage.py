"""The queue's side of a test: a TaskQueue over a store in memory, on an event loop in a thread of its own.

There it can be asked from everywhere, by tests with and without asyncio, by handlers in threads, and by a web
application that its test client runs on another loop. All calls wait for their answers, so nothing happens by chance.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from jobpipe.binding.declaring import declare_here
from jobpipe.binding.enqueuing import LocalEnqueuer
from jobpipe.client import Task
from jobpipe.client.batch import read_task
from jobpipe.core.errors import JobpipeError, NotFound
from jobpipe.core.lifecycle import Outcome, Policy
from jobpipe.core.task import Claim, Status
from jobpipe.core.task import Task as StoredTask
from jobpipe.engine import TaskFilter
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Report
from jobpipe.runtime.clock import Clock
from jobpipe.storage import open_storage
from jobpipe.storage.base import ClaimRequest
from jobpipe.wire import Defaults, encode_task
from jobpipe.wire.rules import parse_key_rules, parse_rules
from jobpipe.wire.schedules import parse_schedule
from jobpipe.work.app import App
from jobpipe.work.payload import json_of

T = TypeVar("T")

WORKER = "test"
PAGE = 1000


class Backstage:
    """A queue of its own, from `start` to `stop`; `capacity` bounds each queue, `random` gives the retries' jitter."""

    def __init__(
        self,
        app: App[Any],
        clock: Clock,
        policy: Policy,
        *,
        capacity: int,
        max_retries: int,
        random: Callable[[], float],
    ) -> None:
        self._app = app
        self._clock = clock
        self._policy = policy
        self._capacity = capacity
        self._defaults = Defaults(max_retries=max_retries)
        self._random = random
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="jobpipe-test", daemon=True)

    def start(self, on_cancel: Callable[[str], None]) -> None:
        """Open the queue; `on_cancel(lease_id)` is called when cancelling a running task is asked for."""
        self._thread.start()
        self._call(self._open(on_cancel))

    async def _open(self, on_cancel: Callable[[str], None]) -> None:
        storage = open_storage("memory:", capacity=self._capacity, clock=self._clock)
        self._storage = storage
        self._queue = TaskQueue(storage, policy=self._policy, clock=self._clock, random=self._random)
        await self._queue.open()
        await declare_here(self._queue, self._app, self._defaults, self._clock.now())
        self._queue.listen_to_cancels(lambda _id, lease_id: on_cancel(lease_id))
        self.enqueuer = TestEnqueuer(self._queue, self._defaults, self._clock)

    def stop(self) -> None:
        """Close the queue and end its thread."""
        self._call(self._queue.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- working ---

    def claim(self) -> Claim | None:
        """The next task that is due now."""
        claims = self._call(self._queue.claim(WORKER, 1))
        return claims[0] if claims else None

    def settle(self, claim: Claim, outcome: Outcome) -> None:
        """Write what became of it."""
        report = Report(claim.task.id, claim.lease_id, outcome)
        (answer,) = self._call(self._queue.settle([report]))
        if isinstance(answer, JobpipeError):
            raise answer

    def expire(self) -> None:
        """End waiting tasks that no worker took in time."""
        while self._call(self._queue.expire(PAGE)):
            pass

    def fire(self) -> None:
        """Make the tasks of schedules that are due now."""
        while self._call(self._queue.schedules.fire()).more:
            pass

    def next_time(self, *, schedules: bool) -> int | None:
        """When the next waiting task may start or expires, or with `schedules` one of those comes, in milliseconds;
        None when nothing will happen by itself.
        """
        return self._call(self._next_time(schedules))

    async def _next_time(self, schedules: bool) -> int | None:
        now = self._clock.now()
        due = (await self._storage.claim(ClaimRequest(0, WORKER), now)).next_due
        seconds = await self._queue.schedules.next_firing() if schedules else None
        times = [due, *(task.expires_at for task in await self._stored(TaskFilter(status=Status.QUEUED)))]
        known = [time for time in times if time is not None and time > now]
        return min([*known, *([] if seconds is None else [now + round(seconds * 1000)])], default=None)

    def put_schedule(self, name: str, body: bytes) -> None:
        """Make or change a schedule, as over HTTP. Raises Invalid."""
        said = parse_schedule(name, body, self._defaults, self._clock.now())
        self._call(self._queue.schedules.put(said, None))

    def rule(self, queue: str, key: str | None, rules: dict[str, Any]) -> None:
        """People set rules. Raises Invalid."""
        parse = parse_rules if key is None else parse_key_rules
        self._call(self._queue.flow.say(queue, key, parse(bytes(json_of(rules))), None))

    def resume(self, queue: str) -> None:
        """No pause and no hold any more."""
        self._call(self._queue.flow.resume(queue, None))

    # --- looking and steering ---

    def tasks(self, where: TaskFilter) -> list[Task]:
        """Matching tasks in the order in which they were enqueued."""
        return [_shown(task) for task in reversed(self._call(self._stored(where)))]

    def get(self, id: str) -> Task:
        """The task as it is now. Raises NotFound."""
        (task,) = self._call(self._queue.get([id]))
        if task is None:
            raise NotFound(f"no task has the id '{id}'")
        return _shown(task)

    def cancel(self, id: str) -> Task:
        """As over HTTP. Raises AlreadyFinished, NotFound."""
        (answer,) = self._call(self._queue.cancel([id]))
        if isinstance(answer, JobpipeError):
            raise answer
        return _shown(answer.task)

    def retry(self, id: str) -> Task:
        """As over HTTP. Raises NotRetryable, NotFound."""
        (answer,) = self._call(self._queue.retry([id]))
        if isinstance(answer, JobpipeError):
            raise answer
        return _shown(answer)

    async def _stored(self, where: TaskFilter) -> Sequence[StoredTask]:
        found: list[StoredTask] = []
        before: int | None = None
        while True:
            page = await self._queue.page(where, PAGE, before)
            found += page.tasks
            before = page.next_seq
            if before is None:
                return found

    def _call(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


class TestEnqueuer(LocalEnqueuer):
    """Nothing runs by itself in a test: who waits for a result would wait for ever."""

    async def _wait(self, id: str, timeout: float | None) -> Task:
        try:
            return await super()._wait(id, 0.0)
        except TimeoutError:
            raise RuntimeError(f"task {id} has not run: drain the TestQueue first") from None


def _shown(task: StoredTask) -> Task:
    return read_task(encode_task(task))
