"""TestQueue: what a test of handlers asks. The queue itself is in `backstage`, handlers run on the test's own loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar, Unpack

from jobpipe.client import Task
from jobpipe.client.schedules import Timing, schedule_body
from jobpipe.core.lifecycle import Outcome, Policy
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import Claim, Status
from jobpipe.engine import TaskFilter
from jobpipe.runtime.clock import ManualClock, SystemClock
from jobpipe.testing.backstage import Backstage
from jobpipe.work.app import App
from jobpipe.work.enqueue import EnqueueRequest, Options
from jobpipe.work.executor import TIMEOUT_S, Executor
from jobpipe.work.lifespan import Stay
from jobpipe.work.payload import json_of
from jobpipe.work.run import Run

T = TypeVar("T")

UNSET: Any = object()


class TasksFailed(AssertionError):
    """Tasks ended as failed; the message has each with its last error."""


class TestQueue:
    """A queue in memory for the handlers of `app`, from `async with` or `with` to its end.

    Meanwhile all that enqueues through the app enqueues here. `clock` stands still until moved; it starts at the
    current time. `deps` takes the place of the lifespan's value, and the lifespan is left out. `seed` makes the
    jitter of retries the same each time. The rest are settings of a server: delays of retries, defaults of tasks,
    and the capacity of each queue.
    """

    __test__ = False  # or pytest would collect it wherever it is imported

    def __init__(
        self,
        app: App[Any],
        *,
        clock: ManualClock | None = None,
        deps: Any = UNSET,
        seed: int = 0,
        retry: RetryPolicy | None = None,
        max_retries: int = 3,
        timeout: float = TIMEOUT_S,
        queue_size: int = 100_000,
    ) -> None:
        self.clock = clock or ManualClock(now=SystemClock().now())
        chance = random.Random(seed)
        self._app = app
        self._deps = deps
        self._backstage = Backstage(
            app,
            self.clock,
            Policy(retry or RetryPolicy()),
            capacity=queue_size,
            max_retries=max_retries,
            random=chance.random,
        )
        self._executor = Executor(app, timeout=timeout, clock=self.clock, random=chance.random)
        self._running: dict[str, Callable[[], object]] = {}
        self._stay: Stay | None = None
        self._runner: asyncio.Runner | None = None
        self._open = ExitStack()

    # --- life ---

    def __enter__(self) -> TestQueue:
        """For tests without asyncio; then it is `drain_sync` and `advance_sync` that run tasks."""
        self._backstage.start(self._cancel_run)
        self._open.callback(self._backstage.stop)
        self._open.callback(self._executor.close)
        self._open.enter_context(self._app.route.through(self._backstage.enqueuer))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            stay = self._stay
            if self._runner is not None:
                with self._runner as runner:
                    if stay is not None and not stay.over:
                        runner.run(stay.left())
            elif stay is not None and not stay.over:
                # Entered by an async test whose loop rests between its steps, or is the one that runs this.
                if stay.loop.is_running():
                    stay.leave()
                else:
                    stay.loop.run_until_complete(stay.left())

    async def __aenter__(self) -> TestQueue:
        """Enters the app's lifespan as well. Raises LifespanFailed."""
        self.__enter__()
        try:
            await self._stay_entered()
        except BaseException:
            self._open.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if self._stay is not None:
                await self._stay.left()

    # --- running tasks ---

    async def drain(self, *, until: datetime | None = None, limit: int = 10_000) -> int:
        """Run tasks until none is queued, moving the clock to each that is due later; how many runs that were.

        With `until` only what is due by then, also by schedules, and then it is that time; without it a schedule makes
        what is due now, for its times have no end. Raises AssertionError after `limit` runs: a handler that always
        enqueues another task would go on for ever.
        """
        end = None if until is None else round(until.timestamp() * 1000)
        await self._stay_entered()
        runs = 0
        while (claim := self._next(end)) is not None:
            if runs == limit:
                raise AssertionError(f"{limit} tasks ran, and more are queued; say how far to go by `until`")
            runs += 1
            await self._run(claim)
        if end is not None:
            self._move_to(end)
            self._backstage.expire()
        return runs

    async def advance(self, seconds: float = 0.0) -> int:
        """Let `seconds` pass, running each task at its time; 0 runs what is due now. How many runs that were."""
        return await self.drain(until=datetime.fromtimestamp(self.clock.now() / 1000 + seconds).astimezone())

    def drain_sync(self, *, until: datetime | None = None, limit: int = 10_000) -> int:
        """`drain` for tests without asyncio."""
        return self._run_here(self.drain(until=until, limit=limit))

    def advance_sync(self, seconds: float = 0.0) -> int:
        """`advance` for tests without asyncio."""
        return self._run_here(self.advance(seconds))

    # --- looking and steering ---

    def task(self, id: str) -> Task:
        """The task as it is now. Raises NotFound."""
        return self._backstage.get(id)

    def tasks(
        self,
        *,
        status: Status | str | None = None,
        handler: str | None = None,
        queue: str | None = None,
    ) -> list[Task]:
        """Matching tasks, in the order in which they were enqueued."""
        wanted = None if status is None else Status(status)
        return self._backstage.tasks(TaskFilter(status=wanted, handler=handler, queue=queue))

    def raise_failures(self) -> None:
        """Raise TasksFailed when tasks ended as failed."""
        failed = self.tasks(status=Status.FAILED)
        if failed:
            raise TasksFailed("\n".join([f"{len(failed)} failed", *map(_failure, failed)]))

    def enqueue(self, handler: str, payload: Any = None, **options: Unpack[Options]) -> Task:
        """Enqueue a task as another program would over HTTP: by name, its payload not looked into."""
        return self._backstage.enqueuer.enqueue_sync(EnqueueRequest(handler, json_of(payload), **options))

    def put_schedule(self, name: str, task: Mapping[str, Any], **timing: Unpack[Timing]) -> None:
        """Make or change a schedule, as `Client.schedules.put` does; `advance` runs it at its times. Raises Invalid."""
        self._backstage.put_schedule(name, schedule_body(task, timing))

    def cancel(self, id: str) -> Task:
        """Cancel a queued task; ask the handler of a running one to stop. Raises AlreadyFinished, NotFound."""
        return self._backstage.cancel(id)

    def retry(self, id: str) -> Task:
        """Queue a failed or cancelled task again. Raises NotRetryable, NotFound."""
        return self._backstage.retry(id)

    def rule(self, queue: str, *, key: str | None = None, **rules: Any) -> None:
        """Set rules of a queue, or of one key, as people do: `rule("mail", rate="100/m")`, `paused=True`. What the app
        says of its queues holds without. Raises Invalid.
        """
        self._backstage.rule(queue, key, rules)

    def resume(self, queue: str) -> None:
        """End a pause, and a hold."""
        self._backstage.resume(queue)

    # --- inside ---

    def _next(self, end: int | None) -> Claim | None:
        """The next task to run, the clock moved to its time; None when none is due by `end`."""
        while True:
            self._backstage.expire()
            self._backstage.fire()
            claim = self._backstage.claim()
            time = self._backstage.next_time(schedules=end is not None) if claim is None else None
            if time is None or (end is not None and time > end):
                return claim
            self._move_to(time)

    def _move_to(self, time: int) -> None:
        self.clock.advance(max(0, time - self.clock.now()) / 1000)

    async def _run(self, claim: Claim) -> None:
        watch = _Watch(lambda outcome: self._backstage.settle(claim, outcome))
        run = self._executor.prepare(claim, watch)
        loop = asyncio.get_running_loop()
        self._running[claim.lease_id] = lambda: loop.call_soon_threadsafe(run.cancel)
        run.begin()
        try:
            await watch.ended.wait()
        except asyncio.CancelledError:
            run.release()
            raise
        finally:
            del self._running[claim.lease_id]

    def _cancel_run(self, lease_id: str) -> None:
        cancel = self._running.get(lease_id)
        if cancel is not None:
            cancel()

    async def _stay_entered(self) -> None:
        if self._stay is None or self._stay.over:
            self._stay = Stay(self._lifespan)
        elif self._stay.loop is not asyncio.get_running_loop():
            raise RuntimeError("the tasks of one TestQueue run on one event loop")
        await self._stay.entered()

    def _lifespan(self) -> Any:
        return self._app.running() if self._deps is UNSET else self._app.running(deps=self._deps)

    def _run_here(self, call: Coroutine[Any, Any, T]) -> T:
        self._runner = self._runner or asyncio.Runner()
        return self._runner.run(call)


class _Watch:
    """An observer of one run that hands its outcome on at once, and tells when its handler has ended."""

    leaving = False

    def __init__(self, settle: Callable[[Outcome], None]) -> None:
        self._settle = settle
        self.ended = asyncio.Event()

    def on_outcome(self, run: Run, outcome: Outcome) -> None:
        self._settle(outcome)

    def on_end(self, run: Run) -> None:
        self.ended.set()

    def on_overstay(self, run: Run) -> bool:
        return False  # the test waits for the handler as long as the test may take


def _failure(task: Task) -> str:
    error = task.last_error
    if error is None:
        return f"task {task.id} ({task.handler})"
    said = (error.traceback or error.message).rstrip()
    return f"task {task.id} ({task.handler}), attempt {error.attempt}: {error.type}\n{said}"
