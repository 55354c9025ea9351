"""Jobpipe: a durable task queue server with nothing else to install.

    from jobpipe import App

    app = App()

    @app.handler
    async def greet(name: str) -> str:
        return f"hello {name}"

Run it with `jobpipe serve module:app`, and post tasks to `POST /enqueue`, or `await greet.enqueue(name="Ada")`.
"""

from typing import TYPE_CHECKING, Any, Unpack

from jobpipe.core.errors import (
    AlreadyFinished,
    Degraded,
    Draining,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    InvalidJson,
    JobpipeError,
    LeaseLost,
    NotFinished,
    NotFound,
    NotRetryable,
    NotUnique,
    NotWaiting,
    QueueFull,
    RateLimited,
    StorageError,
    StorageFull,
    TaskExists,
    TooLarge,
    TooManyKeys,
    TooManyQueues,
    TooManyReaders,
    TooManySchedules,
    Unauthorized,
    Upgrading,
)
from jobpipe.core.retry import RetryPolicy
from jobpipe.work.app import App
from jobpipe.work.context import Context
from jobpipe.work.enqueue import AcceptedTask, Connecting, Enqueuer, connect_by
from jobpipe.work.errors import Fail, InvalidPayload, Retry, Snooze, Throttled
from jobpipe.work.handle import Handle, TaskCancelled, TaskFailed
from jobpipe.work.middleware import CallNext

if TYPE_CHECKING:
    from jobpipe.client import AsyncClient, Client, ConnectionFailed, NewTask, Retries, ServerError, Task
    from jobpipe.server.embed import Jobpipe

__all__ = [
    "AcceptedTask",
    "AlreadyFinished",
    "App",
    "AsyncClient",
    "CallNext",
    "Client",
    "ConnectionFailed",
    "Context",
    "Degraded",
    "Draining",
    "Fail",
    "Forbidden",
    "Handle",
    "IdempotencyMismatch",
    "Invalid",
    "InvalidJson",
    "InvalidPayload",
    "Jobpipe",
    "JobpipeError",
    "LeaseLost",
    "NewTask",
    "NotFinished",
    "NotFound",
    "NotRetryable",
    "NotUnique",
    "NotWaiting",
    "QueueFull",
    "RateLimited",
    "Retries",
    "Retry",
    "RetryPolicy",
    "ServerError",
    "Snooze",
    "StorageError",
    "StorageFull",
    "Task",
    "TaskCancelled",
    "TaskExists",
    "TaskFailed",
    "Throttled",
    "TooLarge",
    "TooManyKeys",
    "TooManyQueues",
    "TooManyReaders",
    "TooManySchedules",
    "Unauthorized",
    "Upgrading",
]

_LATER = {
    "AsyncClient": "jobpipe.client",
    "Client": "jobpipe.client",
    "ConnectionFailed": "jobpipe.client",
    "Jobpipe": "jobpipe.server.embed",
    "NewTask": "jobpipe.client",
    "Retries": "jobpipe.client",
    "ServerError": "jobpipe.client",
    "Task": "jobpipe.client",
}
"""Names whose modules cost time to import, and are not needed where handlers are declared."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'jobpipe' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)


def _connect(url: str | None, /, **arguments: Unpack[Connecting]) -> Enqueuer:
    from jobpipe.binding.enqueuing import RemoteEnqueuer

    return RemoteEnqueuer(url, **arguments)


connect_by(_connect)
