"""Telling of tasks that came to their end: to those who wait for it, to the rates, to the log."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec.structs import replace

from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Status, Task
from jobpipe.engine.rates import Rate
from jobpipe.engine.waiters import FinishWaiters
from jobpipe.logs import often

log = logging.getLogger("jobpipe.tasks")


class Ends:
    """Who is told of an end. `monotonic` gives seconds and never goes back."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.finished = Rate(monotonic)
        self.failed = Rate(monotonic)
        self.waiters = FinishWaiters()
        self.on_finish: Callable[[], object] = _nothing
        """Called when a task finished: the pruner may have work."""

    def tell(self, task: Task, transition: Transition | None) -> None:
        """A task came to its end: by a transition, or (None) by cancelling it while it was queued."""
        status = task.status if transition is None else transition.status
        self.finished.add()
        if status is Status.FAILED:
            self.failed.add()
        if task.id in self.waiters:
            self.waiters.finished(task if transition is None else _final(task, transition))
        if log.isEnabledFor(logging.INFO):
            _log_end(task, transition)
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


def _log_end(task: Task, transition: Transition | None) -> None:
    """One line per end of a task. Messages of errors are people's data and stay out of it."""
    fields: dict[str, object] = {"task_id": task.id, "handler": task.handler, "queue": task.queue}
    if transition is None:
        often(log, f"task {task.id} cancelled before it ran", fields)
        return
    finished = transition.finished_at or 0
    took = max(0, finished - (task.started_at or finished)) / 1000
    error = f" ({transition.error.type})" if transition.error is not None else ""
    how = f"{transition.status.value}{error} after {took:.3f} s, attempt {transition.attempts}"
    often(log, f"task {task.id} {how}", fields)


def _nothing() -> None:
    """The alarm that nobody set."""
