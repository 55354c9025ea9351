"""Telling of tasks that came to their end: to those who wait for it, to the rates, to the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Status, Task
from jobpipe.engine.rates import Rate
from jobpipe.engine.waiters import FinishWaiters
from jobpipe.runtime.logs import often

log = logging.getLogger("jobpipe.tasks")

_FAILED = Status.FAILED


class Ends:
    """Who is told of an end. `monotonic` gives seconds and never goes back."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.finished = Rate(monotonic)
        self.failed = Rate(monotonic)
        self.waiters = FinishWaiters()
        self.on_finish: Callable[[], object] = _nothing
        """Called when tasks finished, once a batch: the pruner may have work."""

    def tell(self, ends: Sequence[tuple[Task, Transition | None]]) -> None:
        """Tasks came to their end: each by a transition, or (None) by cancelling it while it was queued."""
        if not ends:
            return
        self.finished.add(len(ends))
        if failed := sum(to is not None and to.status is _FAILED for _, to in ends):
            self.failed.add(failed)
        if self.waiters:
            for task, to in ends:
                if task.id in self.waiters:
                    self.waiters.finished(task if to is None else _final(task, to))
        if log.isEnabledFor(logging.INFO):
            often(log, [_line(task, to) for task, to in ends])
        self.on_finish()


def _final(task: Task, transition: Transition) -> Task:
    """The task as the settle left it."""
    return replace(
        task,
        status=transition.status,
        attempts=transition.attempts,
        failures=transition.failures,
        lost=transition.lost,
        run_at=transition.run_at,
        finished_at=transition.finished_at,
        result=transition.result,
        last_error=transition.error or task.last_error,
    )


def _line(task: Task, to: Transition | None) -> tuple[str, dict[str, object]]:
    """What is said of an end, and its fields. Messages of errors are people's data and stay out of it."""
    fields: dict[str, object] = {"task_id": task.id, "handler": task.handler, "queue": task.queue}
    if to is None:
        return f"task {task.id} cancelled before it ran", fields
    finished = to.finished_at or 0
    took = max(0, finished - (task.started_at or finished)) / 1000
    error = f" ({to.error.type})" if to.error is not None else ""
    return f"task {task.id} {to.status.value}{error} after {took:.3f} s, attempt {to.attempts}", fields


def _nothing() -> None:
    """The alarm that nobody set."""
