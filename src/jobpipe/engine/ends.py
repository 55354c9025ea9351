"""Telling of tasks that came to their end: to those who wait for it, to the rates, to the log."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec.structs import replace

from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Status, Task
from jobpipe.engine.rates import Rate
from jobpipe.engine.waiters import FinishWaiters

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
    if transition is None:
        _log_line("task %s cancelled before it ran", (task.id,), task)
        return
    finished = transition.finished_at or 0
    took = max(0, finished - (task.started_at or finished)) / 1000
    error = f" ({transition.error.type})" if transition.error is not None else ""
    words = (task.id, transition.status.value, error, took, transition.attempts)
    _log_line("task %s %s%s after %.3f s, attempt %d", words, task)


def _log_line(text: str, words: tuple[object, ...], task: Task) -> None:
    # Without the search for the caller that `log.info` makes, and a path for each record to take apart: a third of a
    # line's cost, thousands of times a second.
    fields = {"task_id": task.id, "handler": task.handler, "queue": task.queue}
    log.handle(log.makeRecord(log.name, logging.INFO, "", 0, text, words, None, extra=fields))


def _nothing() -> None:
    """The alarm that nobody set."""
