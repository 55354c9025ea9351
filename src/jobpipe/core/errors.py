"""Every error that a caller of Jobpipe can act on, as one tree with a stable code each.

The same classes serve two purposes: raised, they end a call; returned in a list, they are the answer to one item of a
batch, so that a conflict never fails its neighbours. The HTTP status of a code belongs to `jobpipe.http.problems`.
"""

from __future__ import annotations

import copyreg
from typing import Any, ClassVar


class JobpipeError(Exception):
    """The root of the tree.

    `code` is for programs and never changes; `sentence` is one short sentence for people; `detail` says what was
    wrong this time; `field` names the offending input, where there is one. `retry_after` is how many whole seconds
    later the same may be tried again, as far as that was said; else 0.
    """

    code: ClassVar[str] = "internal"
    sentence: ClassVar[str] = "internal error"
    retry_after: int = 0

    def __init__(self, detail: str | None = None, *, field: str | None = None) -> None:
        super().__init__(detail or self.sentence)
        self.detail = detail
        self.field = field

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or a way to another process, without calling a constructor that takes something else."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class Invalid(JobpipeError):
    """A value that the contract does not allow."""

    code = "invalid"
    sentence = "invalid request"


class InvalidJson(JobpipeError):
    """A body that is not JSON (RFC 8259), or JSON that cannot be kept exactly, or not UTF-8."""

    code = "invalid_json"
    sentence = "invalid JSON"


class TooLarge(JobpipeError):
    """A body, a payload or a result over its limit in bytes."""

    code = "too_large"
    sentence = "too large"


class TaskExists(JobpipeError):
    """The id is taken: by a task of any status that was not deleted or pruned."""

    code = "task_exists"
    sentence = "task already exists"


class NotUnique(JobpipeError):
    """A living task of the handler has the unique key."""

    code = "not_unique"
    sentence = "unique key is taken"


class IdempotencyMismatch(JobpipeError):
    """The Idempotency-Key, or the id, belongs to a request that said something else."""

    code = "idempotency_mismatch"
    sentence = "idempotency key was used for another request"


class NotWaiting(JobpipeError):
    """Only a task that is queued can be changed."""

    code = "not_waiting"
    sentence = "task is not waiting"


class NotFound(JobpipeError):
    """No task has this id."""

    code = "not_found"
    sentence = "task not found"


class TooManySchedules(JobpipeError):
    """A new schedule, while as many as allowed are kept."""

    code = "too_many_schedules"
    sentence = "too many schedules"


class NotFinished(JobpipeError):
    """Only a finished task can be deleted."""

    code = "not_finished"
    sentence = "task is not finished"


class AlreadyFinished(JobpipeError):
    """A finished task cannot be cancelled."""

    code = "already_finished"
    sentence = "task is already finished"


class NotRetryable(JobpipeError):
    """Only a failed or cancelled task can be queued again by hand."""

    code = "not_retryable"
    sentence = "task cannot be retried"


class LeaseLost(JobpipeError):
    """The claim no longer holds: the task was settled, rescued, claimed again, deleted or pruned."""

    code = "lease_lost"
    sentence = "lease lost"


class QueueFull(JobpipeError):
    """The queue holds as many queued tasks as its capacity."""

    code = "queue_full"
    sentence = "queue is full"
    retry_after = 1


class TooManyQueues(JobpipeError):
    """A task with a new queue name, while as many names as allowed hold tasks."""

    code = "too_many_queues"
    sentence = "too many queues"
    retry_after = 1


class TooManyKeys(JobpipeError):
    """A task with a new key, while as many keys of its queue as allowed have waiting tasks."""

    code = "too_many_keys"
    sentence = "too many keys"
    retry_after = 1


class TooManyReaders(JobpipeError):
    """The stream of live changes has as many readers as it may."""

    code = "too_many_readers"
    sentence = "too many readers"
    retry_after = 5


class Draining(JobpipeError):
    """The server is stopping and takes nothing new."""

    code = "draining"
    sentence = "server is shutting down"
    retry_after = 5


class Upgrading(JobpipeError):
    """A server of an earlier version serves the same store, and would not honour what the task asks for."""

    code = "upgrading"
    sentence = "an upgrade is under way"
    retry_after = 5


class Degraded(JobpipeError):
    """The server takes tasks, but it should work on them and has no worker that can."""

    code = "degraded"
    sentence = "no worker can work"
    retry_after = 5


class Unauthorized(JobpipeError):
    """A key is needed, and none was sent that the server knows."""

    code = "unauthorized"
    sentence = "unauthorized"


class Forbidden(JobpipeError):
    """The sender may not do this."""

    code = "forbidden"
    sentence = "forbidden"


class RateLimited(JobpipeError):
    """The key asks more often than it may; in `retry_after` seconds (whole, at least 1) it may again."""

    code = "rate_limited"
    sentence = "too many requests"

    def __init__(self, detail: str | None = None, *, field: str | None = None, retry_after: int = 1) -> None:
        super().__init__(detail, field=field)
        self.retry_after = retry_after


class StorageError(JobpipeError):
    """The storage could not do what was asked; nothing was acknowledged."""

    code = "storage_down"
    sentence = "storage is not available"
    retry_after = 1


class StorageFull(StorageError):
    """No space is left for the commit; it was rolled back."""

    code = "storage_full"
    sentence = "storage is full"
    retry_after = 0


class StorageBroken(StorageError):
    """The storage reported an I/O error: what it holds must be read again from the start, by a new process."""


class StorageRefused(StorageError):
    """The storage cannot be opened as it stands; the message says why, and nothing was touched."""


class StorageInUse(StorageRefused):
    """Another server uses the storage, or did a moment ago."""
