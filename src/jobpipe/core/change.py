"""A task as live views show it: where it stands, without its data."""

from __future__ import annotations

from msgspec import Struct

from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Status, Task, TaskError

MESSAGE = 100
"""Characters of an error's message: what one line shows."""


class Change(Struct, frozen=True, array_like=True):
    """What became of a task. Times in ms; the error's type and the beginning of its message are of its latest
    unsuccessful attempt."""

    id: str
    status: Status
    queue: str
    handler: str
    priority: int
    attempts: int
    run_at: int
    created_at: int
    started_at: int | None
    finished_at: int | None
    worker: str | None
    error_type: str | None
    error_message: str | None = None


def change_of(task: Task) -> Change:
    """The task as it is."""
    error = task.last_error
    return Change(
        task.id, task.status, task.queue, task.handler, task.priority, task.attempts, task.run_at, task.created_at,
        task.started_at, task.finished_at, task.worker, *_words(error),
    )  # fmt: skip


def change_by(task: Task, transition: Transition) -> Change:
    """The task, which was running, as the settle left it."""
    error = transition.error or task.last_error
    queued = transition.status is Status.QUEUED
    return Change(
        task.id, transition.status, task.queue, task.handler, task.priority, transition.attempts,
        transition.run_at, task.created_at, None if queued else task.started_at, transition.finished_at,
        None if queued else task.worker, *_words(error),
    )  # fmt: skip


def _words(error: TaskError | None) -> tuple[str | None, str | None]:
    if error is None:
        return None, None
    return error.type, error.message[:MESSAGE].partition("\n")[0]
