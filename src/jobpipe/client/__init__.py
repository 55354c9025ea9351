"""Talking to a Jobpipe server from Python: enqueue, watch and steer tasks, or work on them.

    from jobpipe.client import Client

    with Client() as jobs:
        task = jobs.enqueue("greet", {"name": "Ada"})
        print(jobs.wait(task.id, timeout=30).result)

`RemoteSource`, where a worker process gets its tasks from, is in `jobpipe.client.remote_source`.
"""

from jobpipe.client.api import Client
from jobpipe.client.async_api import AsyncClient
from jobpipe.client.errors import ConnectionFailed, ServerError
from jobpipe.client.flow import Retries
from jobpipe.client.schedules import Schedule
from jobpipe.client.values import (
    Extended,
    Lease,
    NewTask,
    Settle,
    Settled,
    Task,
    TaskError,
)
from jobpipe.wire import BulkView, QueueView, StatsView

__all__ = [
    "AsyncClient",
    "BulkView",
    "Client",
    "ConnectionFailed",
    "Extended",
    "Lease",
    "NewTask",
    "QueueView",
    "Retries",
    "Schedule",
    "ServerError",
    "Settle",
    "Settled",
    "StatsView",
    "Task",
    "TaskError",
]
