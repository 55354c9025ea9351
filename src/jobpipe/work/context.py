"""What a running handler can know of its task and of the end that is set to it.

A handler gets a Context by annotating a parameter with it, whatever the parameter's name. All of it may be used from
the handler's thread. Stopping is a request here; the executor decides what the run's end means.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from jobpipe.clock import Clock
from jobpipe.core.task import Task

logger = logging.getLogger("jobpipe.task")

# The generic form exists for type checkers only: `logging.LoggerAdapter[...]` is not subscriptable everywhere.
if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


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


class Context:
    """One run of one task, as its handler sees it.

    `id`, `handler`, `queue`, `attempt` (from 1) and `max_retries` are the task's; `timeout` is what this run may
    take in seconds, None without limit.
    """

    __slots__ = ("_cancelled", "_clock", "_log", "_started", "_task", "timeout")

    def __init__(self, task: Task, timeout: float | None, started: float, clock: Clock) -> None:
        """`started` is when the run began, on the monotonic side of `clock`."""
        self._task = task
        self._started = started
        self._clock = clock
        self._cancelled = False
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
        return self._cancelled

    @property
    def log(self) -> TaskLog:
        """A logger that puts the task's id and attempt on each line."""
        if self._log is None:
            self._log = TaskLog(self._task)
        return self._log

    def stop(self) -> None:
        """Make `cancelled` true; for the one who runs the handler."""
        self._cancelled = True
