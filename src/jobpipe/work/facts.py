"""What a run knows of its task and of the end that is set to it: all of a handler's Context but enqueueing.

All of it may be used from the handler's thread. Stopping is a request here; the run decides what its end means.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from jobpipe.core.task import Task
from jobpipe.runtime.clock import Clock

logger = logging.getLogger("jobpipe.task")

# For type checkers only: `logging.LoggerAdapter[...]` is not subscriptable everywhere.
if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

Stopping = Literal["cancel", "timeout", "shutdown"]
"""Why a run should stop: its task was cancelled or given to another, it timed out, or its worker is leaving."""


class TaskLog(_Adapter):
    """A logger that begins each line with the task's id and attempt, and puts both on the record for JSON logs."""

    def __init__(self, task: Task) -> None:
        super().__init__(logger, {})
        self._fields = {"task_id": task.id, "attempt": task.attempts, "handler": task.handler}
        self._prefix = f"task {task.id} attempt {task.attempts}: "

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log `msg % args` with the prefix; the caller stays the place that is named in the record."""
        # An id may hold a percent sign, which logging would take for a placeholder as soon as there are arguments.
        prefix = self._prefix.replace("%", "%%") if args else self._prefix
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **self._fields}
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        line = prefix + str(msg)
        self.logger.log(level, line, *args, **kwargs)


class RunFacts:
    """One run of one task. `timeout` is what it may take in seconds, None without limit."""

    __slots__ = ("_clock", "_log", "_started", "_stopping", "_task", "timeout")

    def __init__(self, task: Task, timeout: float | None, started: float, clock: Clock) -> None:
        """`started` is when the run began, on the monotonic side of `clock`."""
        self._task = task
        self._started = started
        self._clock = clock
        self._stopping: Stopping | None = None
        self._log: TaskLog | None = None
        self.timeout = timeout

    @property
    def id(self) -> str:
        return self._task.id

    @property
    def handler(self) -> str:
        return self._task.handler

    @property
    def queue(self) -> str:
        return self._task.queue

    @property
    def attempt(self) -> int:
        return self._task.attempts

    @property
    def traceparent(self) -> str | None:
        """The trace that the task was enqueued in (W3C Trace Context); tasks enqueued from here go on in it."""
        return self._task.traceparent

    @property
    def schedule(self) -> str | None:
        """The schedule that made the task, if one did."""
        return self._task.schedule

    @property
    def scheduled_for(self) -> datetime | None:
        """The time of its schedule that the task was made for, in UTC; None for a task that no schedule made."""
        at = self._task.scheduled_for
        return None if at is None else datetime.fromtimestamp(at / 1000, UTC)

    @property
    def max_retries(self) -> int:
        return self._task.max_retries

    @property
    def remaining(self) -> float | None:
        """Seconds until this run times out, never below 0; None without a timeout."""
        if self.timeout is None:
            return None
        return max(0.0, self._started + self.timeout - self._clock.monotonic())

    @property
    def deadline(self) -> datetime | None:
        """When this run times out, in UTC by the wall clock as it is now; None without a timeout."""
        remaining = self.remaining
        if remaining is None:
            return None
        return datetime.fromtimestamp(self._clock.now() / 1000, UTC) + timedelta(seconds=remaining)

    @property
    def cancelled(self) -> bool:
        """Whether this run should stop: somebody cancelled the task, it timed out, or its worker is leaving.

        An async handler gets asyncio's CancelledError as well; a handler in a thread has this alone, and should ask
        now and then.
        """
        return self._stopping is not None

    @property
    def stopping(self) -> Stopping | None:
        """Why this run should stop, the first reason that came; None while it should not."""
        return self._stopping

    @property
    def log(self) -> TaskLog:
        """A logger that puts the task's id and attempt on each line."""
        if self._log is None:
            self._log = TaskLog(self._task)
        return self._log

    def stop(self, why: Stopping) -> None:
        """Say that the run should stop; for the one who runs the handler."""
        self._stopping = self._stopping or why
