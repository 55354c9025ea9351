"""A task that was enqueued, in the hands of the one who enqueued it: what it is, and what comes of it.

Typed by what its handler returns: `r: int = await handle.result(timeout=30)`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec

from jobpipe.core.errors import Invalid, JobpipeError
from jobpipe.core.task import Status
from jobpipe.work.convert import Read
from jobpipe.work.enqueue import AcceptedTask, Enqueuer
from jobpipe.work.errors import InvalidPayload

R_co = TypeVar("R_co", covariant=True)


class WhyNot(Protocol):
    """Why an attempt did not succeed."""

    @property
    def type(self) -> str: ...
    @property
    def message(self) -> str: ...


class FinishedTask(AcceptedTask, Protocol):
    """A task that came to its end."""

    @property
    def result(self) -> Any: ...
    @property
    def last_error(self) -> WhyNot | None: ...


class TaskFailed(JobpipeError):
    """The task whose result was waited for has failed for good; `task` tells more."""

    code = "task_failed"
    sentence = "task failed"

    def __init__(self, task: FinishedTask) -> None:
        error = task.last_error
        super().__init__(f"task {task.id} failed: {error.type}: {error.message}" if error else None)
        self.task = task


class TaskCancelled(JobpipeError):
    """The task whose result was waited for was cancelled."""

    code = "task_cancelled"
    sentence = "task was cancelled"

    def __init__(self, task: FinishedTask) -> None:
        super().__init__(f"task {task.id} was cancelled")
        self.task = task


class Handle(Generic[R_co]):
    """An enqueued task: its fields as they were when it was accepted, and its result when it comes.

    `timeout` is in seconds, None: for as long as it takes. Raises TaskFailed, TaskCancelled, TimeoutError, NotFound
    (it was deleted), and Invalid for a result that is not of the handler's type.
    """

    if TYPE_CHECKING:
        id: str
        handler: str
        queue: str
        payload: Any
        priority: int
        status: Status
        max_retries: int
        timeout: float | None
        run_at: datetime
        created_at: datetime

    def __init__(self, task: AcceptedTask, enqueuer: Enqueuer, read: Read | None = None) -> None:
        self.task = task
        self._enqueuer = enqueuer
        self._read = read

    def __repr__(self) -> str:
        return f"<Handle of task {self.task.id}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name == "task":
                raise AttributeError(name)
            return getattr(self.task, name)

    async def result(self, timeout: float | None = None) -> R_co:
        """What the handler returned, once the task is done."""
        result: R_co = self._result(await self._enqueuer.wait(self.task.id, timeout))
        return result

    def result_sync(self, timeout: float | None = None) -> R_co:
        """`result` for threads that may block."""
        result: R_co = self._result(self._enqueuer.wait_sync(self.task.id, timeout))
        return result

    def _result(self, task: FinishedTask) -> Any:
        if task.status is Status.FAILED:
            raise TaskFailed(task)
        if task.status is Status.CANCELLED:
            raise TaskCancelled(task)
        if self._read is None:
            return task.result
        try:
            return self._read(msgspec.json.encode(task.result))
        except InvalidPayload as error:
            raise Invalid(f"the result of task {task.id} is not of its handler's type: {error}") from None
