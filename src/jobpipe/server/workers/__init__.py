"""The workers of a server itself: a pool in its own process, or worker processes that it supervises.

All look the same to the server: `open` before anything is touched, `start`, `drain`, `close`.
"""

from __future__ import annotations

import secrets

from jobpipe.engine.queue import TaskQueue
from jobpipe.runtime.clock import Clock
from jobpipe.runtime.tracing import asked
from jobpipe.server.workers.base import NoWorkers, OwnWorkers
from jobpipe.server.workers.pool import PoolWorkers
from jobpipe.server.workers.processes import ProcessWorkers
from jobpipe.settings.server import Settings
from jobpipe.work.app import App

__all__ = ["OwnWorkers", "new_token", "own_workers"]


def own_workers(
    settings: Settings, app: App | str | None, queue: TaskQueue, clock: Clock, token: str
) -> OwnWorkers:
    """The workers that `settings` ask for: worker processes for an app's name, a pool here for an App itself."""
    if not settings.pool:
        return NoWorkers()
    asked(settings.otel)  # what is missing is told before anything is started
    processes = settings.processes
    if processes is None:
        processes = 1 if isinstance(app, str) else 0
    if processes and not isinstance(app, App):
        return ProcessWorkers(settings, app, processes, queue, clock=clock, token=token)
    return PoolWorkers(settings, app if isinstance(app, App) else App(), queue, clock)


def new_token() -> str:
    """A secret for one server's life."""
    return secrets.token_hex(32)
