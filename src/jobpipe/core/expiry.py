"""Tasks that must not begin too late: one that was not claimed once by its `expires_at` ends as cancelled.

The first claim clears it, and so does a retry by hand.
"""

from __future__ import annotations

from msgspec.structs import replace

from jobpipe.core.shape import error_group
from jobpipe.core.task import Status, Task, TaskError

EXPIRED = "expired"
_MESSAGE = "no worker took it in time"


def expired(task: Task, now: int) -> bool:
    """Whether a queued task must not be claimed any more."""
    return task.expires_at is not None and task.expires_at <= now


def ended_by_expiry(task: Task, now: int) -> tuple[Task, str]:
    """The task as it is once it has expired, and the group of its error (core.shape)."""
    error = TaskError(EXPIRED, _MESSAGE, None, task.attempts, now)
    ended = replace(task, status=Status.CANCELLED, finished_at=now, last_error=error)
    return ended, error_group(task.handler, EXPIRED, _MESSAGE)[0]
