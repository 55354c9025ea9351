"""One run of one claim: from its beginning to exactly one outcome, and to the end of its handler.

The two differ: a handler that outlives its timeout or its release is settled without it, but keeps its worker until
it ends. Everything here happens on the event loop, save the handler itself when it is an ordinary function.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any, Protocol

from jobpipe.core.errors import Draining
from jobpipe.core.lifecycle import HANDLER_MISSING, RELEASED, Kind, Outcome
from jobpipe.core.task import Claim
from jobpipe.runtime import tracing
from jobpipe.work.context import Context
from jobpipe.work.environment import Environment
from jobpipe.work.facts import Stopping
from jobpipe.work.groups import leaf_of
from jobpipe.work.handler import Handler
from jobpipe.work.middleware import around, around_function, start_in
from jobpipe.work.outcomes import hung, raised, returned, timed_out
from jobpipe.work.threads import lent

logger = logging.getLogger(__name__)

_DONE = Kind.DONE
INFINITY = float("inf")

_INTERRUPTED = Outcome(Kind.FAILED)
"""Stands for a handler that said nothing; the interruption that made it so decides the outcome."""


class Observer(Protocol):
    """Who is told of a run: first its outcome, then its end, each exactly once."""

    @property
    def leaving(self) -> bool:
        """Whether the worker stops: a run that cannot enqueue any more is given back then."""
        ...

    def on_outcome(self, run: Run, outcome: Outcome) -> None:
        """The run came to `outcome`; its handler may still be running."""
        ...

    def on_end(self, run: Run) -> None:
        """The run's handler ended: its worker is free."""
        ...

    def on_overstay(self, run: Run) -> bool:
        """The run timed out and its handler did not end in its clean-up time: nothing will end it. At most once.

        True: its process is about to end, and whoever sees that end settles the run, so that its retry does not begin
        beside it. The run has no outcome then.
        """
        ...


RELEASE_CLEANUP_S = 0.25
"""What a handler gets to unwind when its worker leaves: the grace before was its time to finish."""


class Run:
    """A claim on its way: not begun, begun, `reported` (it has its outcome), `ended` (its handler has, too).

    `started` is when it began, in milliseconds since the epoch, None before; `deadline` is when it times out, in
    seconds on the monotonic clock. Any thread may read the public attributes.
    """

    __slots__ = (
        "_asyncio_task",
        "_cancelled",
        "_context",
        "_environment",
        "_handler",
        "_in_thread",
        "_last",
        "_observer",
        "_released",
        "_timed_out",
        "_timer",
        "claim",
        "deadline",
        "ended",
        "reported",
        "started",
        "timeout",
    )

    def __init__(
        self,
        claim: Claim,
        handler: Handler[..., Any] | None,
        timeout: float,
        environment: Environment,
        observer: Observer,
    ) -> None:
        """`handler` is None when the worker has none of that name."""
        self.claim = claim
        self.timeout = timeout
        self.deadline = INFINITY
        self.started: int | None = None
        self.reported = self.ended = False
        self._environment = environment
        self._observer = observer
        self._handler = handler
        self._context: Context | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last: Outcome | None = None
        """What the handler came to, while threads that it began go on past its timeout."""
        self._asyncio_task: asyncio.Task[None] | None = None
        self._timed_out = self._cancelled = self._released = self._in_thread = False

    # --- the way of a run ---

    def begin(self) -> None:
        """Start the handler. Without such a handler the run comes to its end before this returns."""
        environment, handler = self._environment, self._handler
        self.started = environment.clock.now()
        if handler is None:
            self._end(HANDLER_MISSING)
            return
        loop = asyncio.get_running_loop()
        if self.timeout != INFINITY:
            self.deadline = environment.clock.monotonic() + self.timeout
            environment.deadlines.add(self)
        if handler.is_async or environment.around:
            self._asyncio_task = loop.create_task(self._await(handler), context=self._variables())
        else:
            self._start_thread(handler, loop)

    async def _await(self, handler: Handler[..., Any]) -> None:
        try:
            if middleware := self._environment.around:
                value = await around(middleware, self._new_context(), lambda: self._innermost(handler))
            else:
                value = await handler.function(**self._arguments(handler))
            outcome = returned(value, self._environment.max_result)
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its run's outcome
            outcome = self._raised(error)
        self._end(outcome)

    async def _innermost(self, handler: Handler[..., Any]) -> Any:
        """What the last middleware calls: the handler."""
        if handler.is_async:
            return await handler.function(**self._arguments(handler))
        self._in_thread = True
        try:
            called = await start_in(self._environment.threads, lambda: self._function(handler))
        finally:
            self._in_thread = False
            if self.reported and self._asyncio_task is not None:
                self._asyncio_task.cancel()  # the interruption that the thread did not get is the middleware's
        return called()

    def _start_thread(self, handler: Handler[..., Any], loop: asyncio.AbstractEventLoop) -> None:
        variables = self._variables()

        def work() -> Callable[[], None]:
            outcome = variables.run(self._call, handler)
            return lambda: _tell(loop, self._end, outcome)

        self._environment.threads.submit(work)

    def _variables(self) -> contextvars.Context:
        """By which code of the handler, wherever it is, knows its task."""
        task = self.claim.task
        variables = tracing.context_of(tracing.Running(task.id, task.traceparent))
        variables.run(self._environment.app.set_variables)
        return variables

    def _call(self, handler: Handler[..., Any]) -> Outcome:
        try:
            return returned(self._function(handler), self._environment.max_result)
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its run's outcome
            return self._raised(error)

    def _function(self, handler: Handler[..., Any]) -> Any:
        """Call an ordinary function, in its thread."""
        if middleware := self._environment.app.around_functions:
            ctx = self._context or self._new_context()
            return around_function(middleware, ctx, lambda: handler.function(**self._arguments(handler)))
        return handler.function(**self._arguments(handler))

    def _raised(self, error: BaseException) -> Outcome:
        if self._observer.leaving and isinstance(leaf_of(error), Draining):
            return RELEASED  # it wanted to enqueue, and its server takes nothing new: no fault of its own
        return raised(error, self._backoff)

    def _arguments(self, handler: Handler[..., Any]) -> dict[str, Any]:
        binding = handler.binding
        arguments = binding.bind(self.claim.task.payload)
        if binding.contexts:
            arguments.update(dict.fromkeys(binding.contexts, self._context or self._new_context()))
        return arguments

    def _new_context(self) -> Context:
        clock, timeout = self._environment.clock, self.timeout
        limit = None if timeout == INFINITY else timeout
        app = self._environment.app
        self._context = context = Context(self.claim.task, limit, clock.monotonic(), clock, app)
        # A thread may be here while the loop interrupts the run: the flags are read after the context is in place, and
        # the loop sets them before it looks for one, so one of the two sees the other.
        if self._timed_out or self._cancelled or self._released:
            context.stop(self._stopping)
        return context

    def _end(self, outcome: Outcome) -> None:
        """The handler ended, with what it says itself."""
        if self._lingers():
            self._last = outcome
            return
        self._environment.deadlines.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        self._see_to_programs()
        self._report(outcome)
        self.ended = True
        self._observer.on_end(self)

    def _lingers(self) -> bool:
        """Whether it timed out, and a thread that its coroutine waited for goes on."""
        threads = lent(asyncio.get_running_loop()) if self._timed_out and not self.reported else None
        return threads is not None and threads.held_by(self.claim.task.id)

    def _see_to_programs(self) -> None:
        programs = self._environment.programs
        (programs.end if self._timed_out else programs.forget)(self.claim.task.id)

    def _report(self, outcome: Outcome) -> None:
        if not self.reported:
            self.reported = True
            self._observer.on_outcome(self, self._judge(outcome))

    # --- seen from another thread ---

    @property
    def late(self) -> bool:
        """Whether it is past its timeout."""
        return self._timed_out

    @property
    def pause(self) -> float | None:
        """Seconds before its next attempt, None for the server's word."""
        return self._backoff()

    def blocks(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it is this run's handler that the loop executes at the moment."""
        return self._asyncio_task is not None and asyncio.current_task(loop) is self._asyncio_task

    def judge_hung(self, *, guilty: bool) -> Outcome:
        """The outcome of a run whose event loop hangs, `guilty` when its handler is why. Changes nothing."""
        if self._cancelled:
            return Outcome(Kind.CANCELLED)
        if not guilty:
            return RELEASED
        return hung(self._backoff())

    # --- interruptions ---

    def cancel(self) -> None:
        """Somebody cancelled the task: ask the handler to stop. What it still returns counts."""
        self._cancelled = True
        self._interrupt()

    def release(self) -> None:
        """The worker leaves: stop the handler, and give the task back unless it returns within the clean-up time.

        A thread cannot be stopped: its task is given back at once.
        """
        self._released = True
        self._interrupt()
        self._give_up_after(min(self._environment.cleanup, RELEASE_CLEANUP_S))

    def time_out(self) -> None:
        """The run is past its timeout: stop the handler, and after its clean-up time settle without it."""
        self._timed_out = True
        self._interrupt()
        if not self._stoppable:
            self._see_to_programs()  # a thread cannot be stopped, but what it waits for may be
            if not self._environment.ends_with_threads:
                self._give_up()
        self._timer = asyncio.get_running_loop().call_later(self._environment.cleanup, self._overstay)

    def _overstay(self) -> None:
        self._see_to_programs()
        threads = lent(asyncio.get_running_loop())
        lingered = threads is not None and threads.give_up(self.claim.task.id)
        if self._last is None or lingered:
            if self._observer.on_overstay(self):
                self.reported = True
            else:
                self._give_up()
        if self._last is not None:
            self._end(self._last)

    def _interrupt(self) -> None:
        if self._context is not None:
            self._context.stop(self._stopping)
        if self._asyncio_task is not None:
            if self._in_thread:
                return
            # Cancelled before its first step, a coroutine runs none of its lines, so none that would tell its end.
            self._asyncio_task.add_done_callback(self._end_unentered)
            self._asyncio_task.cancel()
        elif self.started is None:
            self._end(_INTERRUPTED)

    @property
    def _stopping(self) -> Stopping:
        if self._cancelled:
            return "cancel"
        return "timeout" if self._timed_out else "shutdown"

    @property
    def _stoppable(self) -> bool:
        return self._asyncio_task is not None and not self._in_thread

    def _end_unentered(self, _: asyncio.Task[None]) -> None:
        if not self.ended and self._last is None:
            self._end(_INTERRUPTED)

    def _give_up_after(self, cleanup: float) -> None:
        """After a release; a run that timed out before keeps its own timer when it is reported."""
        if self.reported:
            return
        self._environment.deadlines.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        if not self._stoppable:
            self._give_up()
        else:
            self._timer = asyncio.get_running_loop().call_later(cleanup, self._give_up)

    def _give_up(self) -> None:
        """Settle without the handler, which does not end."""
        if self.reported:
            return
        task = self.claim.task
        logger.warning(
            "task %s: handler %s did not stop when told; its worker is free when it ends",
            task.id,
            task.handler,
        )
        self._report(_INTERRUPTED)

    def _judge(self, outcome: Outcome) -> Outcome:
        """What the interruptions make of the handler's own outcome.

        A result that came in spite of a cancel or a release counts; after the timeout it came too late.
        """
        if outcome.kind is _DONE and not self._timed_out:
            return outcome
        if self._cancelled:
            return Outcome(Kind.CANCELLED)
        if self._timed_out:
            return timed_out(self.timeout, outcome.traceback, self._backoff())
        if self._released and outcome.kind is not Kind.RELEASED:
            return RELEASED
        return outcome

    def _backoff(self) -> float | None:
        """The handler's own delay before the next attempt; None for the server's."""
        if self._handler is None or self._handler.retry is None:
            return None
        return self._handler.retry.delay(self.claim.task.failures + 1, self._environment.random)


def _tell(loop: asyncio.AbstractEventLoop, end: Callable[[Outcome], None], outcome: Outcome) -> None:
    try:
        loop.call_soon_threadsafe(end, outcome)
    except RuntimeError:
        # The loop is closed: the process leaves, and this run was released when its pool was drained.
        logger.debug("a handler ended after its event loop")
